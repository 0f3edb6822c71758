"""The code of docs/extending.md, run as it stands there, and what makes it enough."""

import importlib
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import proponent
import runs
from proponent.check import check
from proponent.data import Columns, read
from proponent.errors import InputError, LabelError, RunError
from proponent.labels import Labels
from proponent.models import TASKS, Run, tasks

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "proponent"
PAIRS = [
    {"id": f"p{row}", "text": one["text"], "pair": other["text"], "label": ("follows", "random")[row % 2]}
    for row, (one, other) in enumerate(zip(runs.ROWS[:8], runs.ROWS[8:16], strict=True))
]


def blocks(section: str) -> list[str]:
    """The Python blocks of one section."""
    page = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
    own = next(part for part in re.split(r"^## ", page, flags=re.MULTILINE) if part.startswith(section))
    return re.findall(r"^```python\n(.*?)^```$", own, flags=re.MULTILINE | re.DOTALL)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model with a head that has no row in the table."""
    tokenizer = runs.bert_tokenizer()
    sizes: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.BertConfig(
        vocab_size=len(tokenizer), intermediate_size=16, max_position_embeddings=runs.MAX_LENGTH, **sizes
    )
    torch.manual_seed(0)
    transformers.BertForNextSentencePrediction(config).save_pretrained(tmp_path / "run")
    tokenizer.save_pretrained(tmp_path / "run")
    return tmp_path / "run"


def test_a_task_head_in_two_files(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        RunError, match=r"names BertForNextSentencePrediction; supported: \.\.\.ForSequenceClassification"
    ):
        Run.from_pretrained(folder)
    module, row = blocks("A new task head")
    (tmp_path / "next_sentence.py").write_text(module, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    names = {**vars(tasks), "NextSentence": importlib.import_module("next_sentence").NextSentence}
    exec(row, names)
    assert names["TASKS"][: len(TASKS)] == TASKS
    monkeypatch.setattr(tasks, "TASKS", names["TASKS"])
    run = Run.from_pretrained(folder)
    data = read(PAIRS, columns=Columns(text_pair="pair"))
    assert [one.name for one in check(run, data) if one.passed is False] == []
    index = proponent.build(run, data, tmp_path / "i", "tracin-we", quiet=True)
    assert (index.store.plan.kind, index.store.plan.label_names) == ("next-sentence", ["follows", "random"])
    query = PAIRS[0]["text"]
    answer = index.explain(query, text_pair=PAIRS[3]["pair"], label="random", k=2)
    assert answer.query.predicted in {"follows", "random"}
    best = answer.proponents[0]
    assert sum(pair.share for pair in best.words) == pytest.approx(best.score, rel=1e-4)
    with pytest.raises(InputError, match="has no second text"):
        index.explain(query)


def test_only_the_tasks_know_the_heads_by_name() -> None:
    kinds = re.compile("|".join(f"[\"']{task.kind}[\"']|{task.auto_class}" for task in TASKS))
    elsewhere = [path for path in SOURCE.rglob("*.py") if path.parent != SOURCE / "models" / "tasks"]
    assert [path.name for path in sorted(elsewhere) if kinds.search(path.read_text(encoding="utf-8"))] == [
        "chat_model.py",
        "trainer.py",
    ]


def test_the_logit_of_a_label_is_not_asked_of_a_language_model() -> None:
    logits = torch.zeros(1, 2, 3)
    objective = tasks.TokenLoss(torch.zeros(1, 2, dtype=torch.int64), torch.ones(1, 2, dtype=torch.bool))
    with pytest.raises(InputError, match="measure=logit is for classifiers"):
        objective.logits(logits)


def test_labels_name_and_number_classes() -> None:
    labels, none = Labels(("a", "b")), Labels()
    assert (bool(labels), list(labels), bool(none)) == (True, ["a", "b"], False)
    assert [labels.name(number) for number in (0, 1, 2, -1, None)] == ["a", "b", None, None, None]
    assert (labels.stored("b"), none.stored("b"), labels.number(1), none.name(0)) == (1, -1, 1, None)
    with pytest.raises(LabelError, match="is a language model"):
        none.number("a")
