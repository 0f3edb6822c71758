"""Runs of axolotl, on folders made by hand after its documentation: no run of the library itself is read here."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

import chat
import proponent
from proponent.data import read
from proponent.errors import DataError, RunError
from proponent.models import Run
from proponent.models.counting import rules_of

datasets = pytest.importorskip("datasets")
pytestmark = pytest.mark.filterwarnings("ignore")

SETTINGS = """\
base_model: tiny
datasets:
  - path: rows.jsonl
    type: chat_template
sequence_len: 40
sample_packing: true
flash_attention: true
plugins:
  - axolotl.integrations.liger.LigerPlugin
"""
CARD = """\
---
library_name: transformers
tags:
- axolotl
- generated_from_trainer
---

<details><summary>See axolotl config</summary>

axolotl version: `{version}`
```yaml
{settings}
```

</details><br>
"""


def prepared() -> list[dict[str, Any]]:
    """Ten rows as `axolotl preprocess` keeps them: tokens, labels of the answer, and columns for its own use."""
    own = chat.tokenizer(chat.MARKED)
    rows: list[dict[str, Any]] = []
    for turns in [*chat.DIALOGUES[:4], *chat.DIALOGUES[5:11]]:
        ids = own.apply_chat_template(turns, return_dict=True)["input_ids"]
        prompt = own.apply_chat_template(turns[:-1], add_generation_prompt=True, return_dict=True)["input_ids"]
        labels = [-100] * len(prompt) + ids[len(prompt) :]
        more = {"attention_mask": [1] * len(ids), "length": len(ids), "position_ids": list(range(len(ids)))}
        if len(ids) <= 40:
            rows.append({"input_ids": ids, "labels": labels} | more)
    return rows


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """An output folder with one checkpoint, and beside it last_run_prepared with one data set."""
    own, folder = chat.tokenizer(chat.MARKED), tmp_path / "out"
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=len(own), hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
            num_key_value_heads=2, pad_token_id=own.pad_token_id,
        )
    )  # fmt: skip
    for home in (folder, folder / "checkpoint-2"):
        model.save_pretrained(home)
        own.save_pretrained(home)
    told(folder, SETTINGS)
    datasets.Dataset.from_list(prepared()).save_to_disk(tmp_path / "last_run_prepared" / "0a1b2c")
    return folder


def told(folder: Path, settings: str, version: str = "0.12.2") -> None:
    (folder / "README.md").write_text(CARD.format(version=version, settings=settings), encoding="utf-8")


def test_the_prepared_rows_count_as_their_labels_say(run: Path, tmp_path: Path) -> None:
    index = proponent.build(run, tmp_path / "last_run_prepared" / "0a1b2c", tmp_path / "index", quiet=True)
    plan = index.store.plan
    assert (plan.max_length, plan.reduction) == (40, "sum")
    assert any(
        "axolotl 0.12.2: rows are the tokens and labels that it prepared" in one for one in index.store.manifest.notes
    )
    rows = prepared()
    encoder = Run.from_pretrained(run).encoder(40, counting=plan.counting)
    for row, encoded in zip(rows, encoder.encode(read(rows)), strict=True):
        assert encoded.ids.tolist() == row["input_ids"]
        assert encoded.counted.tolist() == [label >= 0 for label in row["labels"]]
    scores = index.scores([{"messages": chat.DIALOGUES[0]}])
    assert np.isfinite(scores).all()
    assert scores.shape == (1, len(rows))


def test_the_folder_of_prepared_sets_names_those_within(run: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="name a data set in it: '0a1b2c'"):
        proponent.build(run, tmp_path / "last_run_prepared", tmp_path / "index", quiet=True)


@pytest.mark.parametrize("rows", [[{"messages": chat.DIALOGUES[0]}], [{"text": "the river"}]])
def test_rows_that_it_would_render_by_itself_are_refused(run: Path, tmp_path: Path, rows: Any) -> None:
    with pytest.raises(RunError, match=r"README.md says that axolotl trained this run.*last_run_prepared/HASH"):
        proponent.build(run, rows, tmp_path / "index", quiet=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("rl: dpo", "rl: 'dpo'"),
        ("reward_model: true", "reward_model: True"),
        ("label_smoothing_factor: 0.1", r"label_smoothing_factor 0\.1 in .*README\.md"),
        ("plugins: [my.NewLoss]", "the plugin my.NewLoss, which is not known here"),
        ("plugins: axolotl.integrations.kd.KDPlugin", "the plugin axolotl.integrations.kd.KDPlugin"),
        ("flash_attention: false", "sample_packing without flash_attention"),
        ("flash_attention: false\nattn_implementation: eager", "sample_packing without flash_attention"),
        ("pretraining_dataset: [{path: rows}]", "pretraining_dataset"),
    ],
)
def test_another_loss_is_refused_by_name(run: Path, change: str, message: str) -> None:
    name = change.partition(":")[0]
    kept = [block for block in SETTINGS.split("\n") if not block.startswith((f"{name}:", "  - axolotl", "plugins"))]
    told(run, "\n".join([*kept, change]))
    with pytest.raises(RunError, match=message):
        Run.from_pretrained(run)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("a: [", "no YAML"),
        ("- 1\n- 2", "no list of names and values"),
        ("sequence_len: many", "sequence_len is 'many'"),
        ("sequence_len: true", "sequence_len is True"),
        ("a: !!python/object/apply:os.system ['echo no']", "no YAML"),
    ],
)
def test_a_card_that_cannot_be_read_is_refused(run: Path, settings: str, message: str) -> None:
    told(run, settings)
    with pytest.raises(RunError, match=message):
        rules_of(Run.from_pretrained(run), "tokens")


def test_packing_with_an_attention_that_keeps_rows_apart_is_read(run: Path) -> None:
    told(run, "sample_packing: true\nattn_implementation: flex_attention")
    assert rules_of(Run.from_pretrained(run), "tokens").counting is not None


def test_without_a_length_its_default_holds(run: Path) -> None:
    told(run, "base_model: tiny")
    rules = rules_of(Run.from_pretrained(run), "tokens")
    assert rules.max_length == 512
    (run / "README.md").unlink()
    assert "axolotl" not in " ".join(rules_of(Run.from_pretrained(run), "tokens").notes)
