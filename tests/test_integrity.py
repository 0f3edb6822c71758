"""What an index refuses to answer from: changed bytes, and code that the user did not allow."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import proponent
from proponent.errors import DamagedError, InputError, LabelError, MismatchError
from proponent.models import Run
from proponent.models.checkpoints import MOMENTS_FILE, RECORD_FILE
from proponent.models.recorder import Recorder
from proponent.tensors import read_tensors, write_tensors
from tiny import NEWS, Tiny


@pytest.fixture
def copy(news: Tiny, tmp_path: Path) -> Path:
    shutil.copytree(news.index, tmp_path / "copy.index")
    return tmp_path / "copy.index"


@pytest.mark.parametrize("kind", ["forms", "postings", "examples/seg-00000.safetensors", "examples/seg-00000.parquet"])
def test_a_changed_byte_never_becomes_an_answer(copy: Path, news: Tiny, kind: str):
    path = next(path for path in sorted(copy.rglob("*")) if path.is_file() and kind in path.as_posix())
    damaged = bytearray(path.read_bytes())
    damaged[-len(damaged) // 4] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(DamagedError, match=path.name):
        proponent.open(copy, run=news.run).explain("the bank cut its rates", baselines=False)


def test_an_untouched_copy_answers(copy: Path, news: Tiny):
    assert proponent.open(copy, run=news.run).explain("the bank cut its rates", baselines=False).proponents


def test_an_index_never_allows_remote_code_by_itself(copy: Path, news: Tiny, monkeypatch: pytest.MonkeyPatch):
    asked: list[bool] = []
    real = Run.from_pretrained
    monkeypatch.setattr(
        Run,
        "from_pretrained",
        lambda *a, trust_remote_code=False, **k: (asked.append(trust_remote_code), real(*a, **k))[1],
    )
    index = proponent.open(copy, run=news.run)
    index.store.plan = index.store.plan.model_copy(update={"trust_remote_code": True})
    with pytest.raises(InputError, match="--trust-remote-code"):
        index.explain("the bank")
    assert asked == []
    allowed = proponent.open(copy, run=news.run, trust_remote_code=True)
    assert allowed.explain("the bank", baselines=False)
    assert asked == [True]


def test_a_truth_value_is_no_class(news: Tiny):
    with pytest.raises(LabelError, match="True is a bool: give a name or a whole number"):
        proponent.open(news.index, run=news.run).explain("the bank", label=True)


def test_other_second_moments_are_another_index(news: Tiny, tmp_path: Path):
    shutil.copytree(news.run, tmp_path / "run")
    proponent.build(tmp_path / "run", NEWS, tmp_path / "adam", "tracin-we-adam", quiet=True)
    path = max((tmp_path / "run").glob(f"*/{MOMENTS_FILE}"))
    write_tensors(path, {name: 2 * array for name, array in read_tensors(path).items()})
    with pytest.raises(MismatchError, match="moments step"):
        proponent.build(tmp_path / "run", NEWS, tmp_path / "adam", "tracin-we-adam", quiet=True)


@pytest.mark.parametrize("method", ["tracin-we-syn", "tracin-we-adam"])
def test_lost_tables_are_made_again(news: Tiny, tmp_path: Path, method: str):
    whole = proponent.build(news.run, NEWS, tmp_path / "index", method, quiet=True)
    before = whole.explain("the bank cut its rates", baselines=False)
    shutil.rmtree(tmp_path / "index" / "tables")
    again = proponent.build(news.run, NEWS, tmp_path / "index", method, quiet=True)
    assert again.store.manifest.merkle_root == whole.store.manifest.merkle_root
    assert again.explain("the bank cut its rates", baselines=False).to_dict() == before.to_dict()


def test_a_baseline_does_not_compare_two_labels(news: Tiny, tmp_path: Path):
    index = proponent.build(news.run, NEWS, tmp_path / "index", "label", quiet=True)
    with pytest.raises(InputError, match="label does not compare two labels"):
        index.explain(NEWS[0]["text"], label="Sports", against="World")


def test_the_note_on_kept_tokens_is_true(news: Tiny, tmp_path: Path):
    index = proponent.build(news.run, NEWS, tmp_path / "index", "tracin-we-topk", top=1, quiet=True)
    notes = [note for row in NEWS[:6] for note in index.explain(row["text"], baselines=False).notes]
    assert not [note for note in notes if note.startswith("no token of this text")]


def test_the_recorded_rate_is_that_of_the_embedding(tmp_path: Path):
    model = torch.nn.Module()
    model.table, model.rest = torch.nn.Embedding(5, 2), torch.nn.Linear(2, 2)
    model.get_input_embeddings = lambda: model.table  # type: ignore[assignment]
    groups = [{"params": list(model.rest.parameters()), "lr": 0.5}, {"params": [model.table.weight], "lr": 0.25}]
    optimizer = torch.optim.AdamW(groups)
    (tmp_path / "checkpoint-1").mkdir()
    recorder = Recorder("none")
    state = SimpleNamespace(global_step=1, is_world_process_zero=True)
    arguments = SimpleNamespace(output_dir=str(tmp_path), seed=0)
    recorder.on_optimizer_step(arguments, state, None, model=model, optimizer=optimizer)
    recorder.on_save(arguments, state, None, model=model, optimizer=optimizer)
    record = json.loads((tmp_path / "checkpoint-1" / RECORD_FILE).read_text())
    assert (record["learning_rate"], record["learning_rates"]) == (0.25, [0.5, 0.25])
