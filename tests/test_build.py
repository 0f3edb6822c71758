"""Building from real runs: interrupted and resumed, refused, with bad rows; and opening what was built."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import proponent
import runs
import test_answered_tasks as values
from proponent.data import read
from proponent.errors import DataError, DiskFullError, InputError, LabelError, MismatchError, RunError
from proponent.gradients import computer as gradient_computer
from proponent.index import Options, default_method, planning
from proponent.index.build import build as build_index
from proponent.index.build import label_numbers
from proponent.method_table import method_of
from proponent.models import Run
from proponent.models.checkpoints import MOMENTS_FILE
from proponent.models.former import RUN_FILE
from proponent.store import Store, writer
from proponent.types import CheckpointId
from runs import index as build

Copy = Callable[[Path], Path]
ROWS = runs.OTHERS
TEXT = "Retail sales of the bank."


def root(folder: Path) -> str:
    return Store(folder).manifest.merkle_root


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shards of 64 examples would hold all of them: shards of 9 instead."""
    monkeypatch.setattr(planning, "SHARD_ROWS", (9, 9))


@pytest.fixture
def passed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Sizes of the batches that went through a model."""
    sizes: list[int] = []
    call = gradient_computer.GradientComputer.train

    def counted(self: Any, encoded: Any, *arguments: Any, **named: Any) -> Any:
        sizes.append(len(encoded))
        return call(self, encoded, *arguments, **named)

    monkeypatch.setattr(gradient_computer.GradientComputer, "train", counted)
    return sizes


# ---- the same index from every way of building it ----


@pytest.mark.parametrize("method", ["tracin-we", "tracin-we-adam", "tracin-last", "bm25"])
def test_two_builds_give_the_same_bytes(bert_run: Path, tmp_path: Path, method: str) -> None:
    one, two = (build(bert_run, tmp_path / name, method) for name in ("one", "two"))
    assert one.store.manifest.files == two.store.manifest.files
    for name in one.store.manifest.files:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes(), name


def test_shards_change_no_score(bert_run: Path, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    whole = build(bert_run, tmp_path / "whole", steps=[8]).scores([TEXT], ["Business"])
    request.getfixturevalue("small_shards")
    index = build(bert_run, tmp_path / "cut", steps=[8])
    assert len(list((tmp_path / "cut" / "forms" / "step-8").iterdir())) == 5
    # other batches: the model's own sums fall otherwise in the last bits
    np.testing.assert_allclose(index.scores([TEXT], ["Business"]), whole, rtol=1e-4, atol=1e-6 * np.abs(whole).max())


def test_several_parts_of_postings_change_no_score(bert_run: Path, tmp_path: Path) -> None:
    whole = build(bert_run, tmp_path / "whole", steps=[8]).scores([TEXT], ["Business"])
    index = build(bert_run, tmp_path / "parts", steps=[8], segment_rows=9)
    assert len(list((tmp_path / "parts" / "postings" / "step-8").iterdir())) == 5
    np.testing.assert_allclose(index.scores([TEXT], ["Business"]), whole, rtol=1e-4, atol=1e-6 * np.abs(whole).max())


def test_one_row(bert_run: Path, tmp_path: Path) -> None:
    index = build(bert_run, tmp_path / "index", data=ROWS[:1])
    assert len(index) == 1
    assert index.explain(ROWS[0]["text"], label=ROWS[0]["label"], baselines=False).proponents[0].id == "n0"


# ---- interrupted and resumed ----


@pytest.mark.usefixtures("small_shards")
@pytest.mark.parametrize(("place", "interruption"), [(0, KeyboardInterrupt), (7, OSError), (14, KeyboardInterrupt)])
def test_an_interrupted_build_goes_on(
    bert_run: Path, tmp_path: Path, passed: list[int], place: int, interruption: type[BaseException]
) -> None:
    """Fifteen shards (five at each of three steps) are published; the build dies on the way to the next."""
    folder = tmp_path / "index"
    put = writer.Writer.put_shard
    published: list[tuple[CheckpointId, int]] = []

    def stopped(self: writer.Writer, at: CheckpointId, segment: str, shard: int, arrays: Any) -> None:
        if len(published) == place:
            raise interruption("stop")
        put(self, at, segment, shard, arrays)
        published.append((at, shard))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writer.Writer, "put_shard", stopped)
        with pytest.raises(interruption, match="stop"):
            build(bert_run, folder)
    with pytest.raises(InputError, match="is unfinished"):
        proponent.open(folder)
    before = {path: path.stat().st_mtime_ns for path in folder.glob("forms/*/*.safetensors")}
    assert len(before) == place
    passed.clear()
    build(bert_run, folder)
    assert sum(passed) == 3 * len(ROWS) - sum((4 if shard == 4 else 9) for _, shard in published)
    assert {path: path.stat().st_mtime_ns for path in before} == before, "finished shards are not touched"
    whole = tmp_path / "whole"
    build(bert_run, whole)
    assert root(folder) == root(whole)


@pytest.mark.parametrize("place", ["Writer.put_table", "Writer.put_examples", "Writer.seal"])
def test_a_build_that_died_between_its_shards_and_its_seal_goes_on(lm_run: Path, tmp_path: Path, place: str) -> None:
    """The table of the head is there whenever the shards are: without it no question can be answered."""
    folder, columns = tmp_path / "index", proponent.Columns(label="")

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(f"proponent.store.writer.{place}", interrupted)
        with pytest.raises(KeyboardInterrupt):
            build(lm_run, folder, columns=columns)
    index = build(lm_run, folder, columns=columns)
    assert index.explain(ROWS[0]["text"], baselines=False).proponents[0].row == 0
    build(lm_run, tmp_path / "whole", columns=columns)
    assert root(folder) == root(tmp_path / "whole")


def test_a_finished_index_is_left_alone(bert_run: Path, tmp_path: Path, passed: list[int]) -> None:
    build(bert_run, tmp_path / "index")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "index").rglob("*")}
    passed.clear()
    assert len(build(bert_run, tmp_path / "index")) == len(ROWS)
    assert passed == []
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "index").rglob("*")} == before
    next((tmp_path / "index").glob("forms/step-8/*")).unlink()
    build(bert_run, tmp_path / "index")
    assert sum(passed) == len(ROWS), "what was lost is made again"
    assert proponent.open(tmp_path / "index").scores([TEXT]).shape == (1, len(ROWS))


def test_a_full_disk_is_said_and_the_build_goes_on(
    bert_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("proponent.disk.write", full)
        with pytest.raises(DiskFullError, match="no space left"):
            build(bert_run, tmp_path / "index")
    assert build(bert_run, tmp_path / "index").explain(TEXT, baselines=False).proponents


# ---- something else in the folder ----


def test_an_index_of_something_else_is_refused_by_name(bert_run: Path, copied: Copy, tmp_path: Path) -> None:
    folder = tmp_path / "index"
    build(bert_run, folder, max_length=20)

    def refused(said: str, run: Path = bert_run, **changes: Any) -> None:
        with pytest.raises(MismatchError, match=rf"index already contains a different index: its {said}"):
            build(run, folder, **({"max_length": 20} | changes))

    refused("method gradient kind is embedding-rows, not head", method="tracin-last")
    refused(r"method normalize is none, not train", unit_norm=True)
    refused(r"fingerprints data is \w+\.\.\., not \w+\.\.\.", data=[*ROWS[:-1], ROWS[-1] | {"label": "World"}])
    refused("max_length is 20, not 16", max_length=16)
    refused(r"fingerprints weights step 16 is \w+\.\.\., not None", steps=[8, 24])
    changed = copied(bert_run)
    weights = changed / "checkpoint-24" / "model.safetensors"
    arrays = load_file(weights)
    save_file({name: array + 1e-3 for name, array in arrays.items()}, weights, metadata={"format": "pt"})
    refused(r"fingerprints weights step 24 is \w+\.\.\., not \w+\.\.\.", run=changed)
    with pytest.raises(MismatchError, match="is not empty and not an index"):
        build(bert_run, bert_run)


# ---- labels and options ----


def test_labels_that_are_missing_unknown_or_never_seen(bert_run: Path, tmp_path: Path) -> None:
    run = Run.from_pretrained(bert_run)
    with pytest.raises(DataError, match=r"2 rows of .* have no label \(rows 1, 2\): name the column with --label-colu"):
        label_numbers(run, read([ROWS[0], *({"id": str(n), "text": "x", "label": ""} for n in range(2))]))
    with pytest.raises(LabelError, match=r", row 1: unknown label 'sport' \(did you mean 'Sports'\?\)"):
        label_numbers(run, read([ROWS[0], {"id": "x", "text": "x", "label": "sport"}]))
    assert label_numbers(run, read([{"text": "x", "label": label} for label in (2, 0, 1)])) == [2, 0, 1]
    only = build(run, tmp_path / "index", data=[row for row in ROWS if row["label"] != "World"])
    answer = only.explain(TEXT, label="World")  # the model knows it, the data has none
    assert answer.query.label == "World"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"batch_size": 0}, "--batch-size 0"),
        ({"max_bad_rows": 2.0}, "--max-bad-rows 2"),
        ({"max_bad_rows": float("nan")}, "--max-bad-rows nan"),
        ({"steps": ()}, "no checkpoint is chosen"),
        ({"steps": (8, 9)}, r"no checkpoint at step 9 in .*: it has 8, 16, 24"),
        ({"max_length": 99}, "--max-length 99 is more than the 24"),
    ],
)
def test_options_that_cannot_be(bert_run: Path, tmp_path: Path, options: dict[str, Any], said: str) -> None:
    run = Run.from_pretrained(bert_run)
    with pytest.raises(InputError, match=said):
        build_index(run, read(ROWS), tmp_path / "index", method_of("tracin-we"), Options(**options))
    with pytest.raises(DataError, match="has no rows"):
        build_index(run, read(ROWS)[:0], tmp_path / "index", method_of("tracin-we"))
    assert not (tmp_path / "index").exists()


def test_parts_that_a_model_has_no_use_for_are_refused(bert_run: Path, lm_run: Path, tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"tracin-we draws masks \(masked-loss\), and this run is not a masked language"
    ):
        build(bert_run, tmp_path / "index", mask_share=0.5)
    changes = {"layers": "all", "measure": "logit"}
    with pytest.raises(InputError, match=r"tracin-layers uses the logit of a label, and this run has no labels"):
        proponent.build(lm_run, [{"text": "a bank"}], tmp_path / "index", "tracin-layers", quiet=True, set=changes)
    assert not (tmp_path / "index").exists()


def test_a_text_that_is_cut_is_said(bert_run: Path, tmp_path: Path) -> None:
    index = build(bert_run, tmp_path / "index", max_length=8)
    answer = index.explain(f"{TEXT} Coach said after the match.", baselines=False)
    assert answer.query.truncated_at == len(TEXT)
    assert f"the text was truncated at character {len(TEXT)}: the model reads no further" in answer.notes
    assert any("reach the limit of 8 tokens" in note for note in answer.notes)


# ---- second moments ----


def test_second_moments_are_asked_for_before_anything_is_computed(
    bert_run: Path, copied: Copy, tmp_path: Path, passed: list[int]
) -> None:
    folder = copied(bert_run)
    (folder / "checkpoint-16" / MOMENTS_FILE).unlink()
    with pytest.raises(
        InputError, match=r"none for proponent\.Recorder to keep in .*checkpoint-16: .*--second-moment estimate"
    ):
        build(folder, tmp_path / "index", "tracin-we-adam")
    (folder / "checkpoint-16" / "optimizer.pt").unlink()
    with pytest.raises(InputError, match=r"no optimizer\.pt in .*checkpoint-16"):
        build(folder, tmp_path / "index", "tracin-we-adam", second_moment="optimizer")
    assert passed == []


def test_the_optimizers_file_gives_what_was_recorded(bert_run: Path, copied: Copy, tmp_path: Path) -> None:
    recorded = build(bert_run, tmp_path / "recorded", "tracin-we-adam").scores([TEXT], ["World"])
    opened = build(bert_run, tmp_path / "opened", "tracin-we-adam", second_moment="optimizer")
    assert opened.store.plan.checkpoints[0].preconditioner == "Adam's second moment, read from optimizer.pt"
    np.testing.assert_allclose(opened.scores([TEXT], ["World"]), recorded, rtol=1e-5)
    folder = copied(bert_run)
    (folder / "checkpoint-16" / "optimizer.pt").write_bytes(b"none")
    with pytest.raises(InputError, match=r"optimizer\.pt is not the state of an Adam-like optimizer"):
        build(folder, tmp_path / "broken", "tracin-we-adam", second_moment="optimizer")


def test_moments_of_another_parameter_are_refused(bert_run: Path, copied: Copy, tmp_path: Path) -> None:
    folder = copied(bert_run)
    save_file({"embedding": np.ones((7, 16), dtype=np.float32)}, folder / "checkpoint-8" / MOMENTS_FILE)
    with pytest.raises(MismatchError, match=r"have shape \[7, 16\] and its word embedding has shape \[\d+, 16\]"):
        build(folder, tmp_path / "index", "tracin-we-adam")


# ---- opening ----


def test_a_run_that_moved_or_changed(bert_run: Path, copied: Copy, tmp_path: Path) -> None:
    here = copied(bert_run)
    scores = build(here, tmp_path / "index").scores([TEXT], ["World"])
    moved = tmp_path / "moved"
    shutil.move(here, moved)
    with pytest.raises(InputError, match=r"no run at .*if it has moved, give its new folder with --run"):
        proponent.open(tmp_path / "index").explain(TEXT)
    index = proponent.open(tmp_path / "index", run=moved)
    np.testing.assert_array_equal(index.scores([TEXT], ["World"]), scores)
    config = moved / "checkpoint-16" / "config.json"
    before = config.read_text()
    config.write_text(json.dumps(json.loads(before) | {"hidden_act": "relu"}))
    with pytest.raises(MismatchError, match=r"its weights step 16 is \w{12}, not \w{12}: give the right run"):
        proponent.open(tmp_path / "index", run=moved).explain(TEXT)
    config.write_text(before)
    for path in moved.glob("checkpoint-*/tokenizer.json"):
        path.write_text(path.read_text().replace('"lowercase": true', '"lowercase": false'))
    with pytest.raises(MismatchError, match="its tokenizer is"):
        proponent.open(tmp_path / "index", run=moved).explain(TEXT)


def test_checkpoints_that_are_not_used_may_go(bert_run: Path, copied: Copy, tmp_path: Path) -> None:
    here = copied(bert_run)
    build(here, tmp_path / "index", steps=[8, 24])
    shutil.rmtree(here / "checkpoint-16")
    assert proponent.open(tmp_path / "index").explain(TEXT).proponents


OPEN = """
import sys
from pathlib import Path
from proponent.store import Store
from proponent.types import CheckpointId
import proponent.search
store = Store(Path(sys.argv[1]))
search = proponent.search.Search(store)
segment, place = store.locate(0)
assert len(segment.arrays(CheckpointId(0, 8), place)["rows.ids"])
assert "torch" not in sys.modules and "transformers" not in sys.modules
"""


def test_an_index_opens_without_torch(bert_run: Path, tmp_path: Path) -> None:
    build(bert_run, tmp_path / "index")
    done = subprocess.run(
        [sys.executable, "-c", OPEN, str(tmp_path / "index")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_the_default_method_is_the_best_that_the_run_allows(
    bert_run: Path, lm_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    best = proponent.build(bert_run, ROWS, tmp_path / "best", steps=[8])
    assert best.store.plan.method == method_of("tracin-we-idf")
    assert "method tracin-we-idf: the default for a classifier that was trained from scratch" in capsys.readouterr().err
    unknown = Path(shutil.copytree(bert_run, tmp_path / "unknown"))
    (unknown / RUN_FILE).unlink()  # whether its weights were pretrained is not recorded
    second = proponent.build(unknown, ROWS, tmp_path / "second", steps=[8])
    assert second.store.plan.method == method_of("tracin-we-adam", unit_norm=True, name="tracin-we-adam-unit")
    assert "method tracin-we-adam-unit: the default" in capsys.readouterr().err
    bare = Path(shutil.copytree(unknown, tmp_path / "bare"))
    for path in bare.rglob(MOMENTS_FILE):
        path.unlink()
    plain = proponent.build(bare, ROWS, tmp_path / "plain", steps=[8])
    assert plain.store.plan.method == method_of("tracin-we")
    said = capsys.readouterr().err
    assert "there were no second moments of the word embedding for proponent.Recorder to keep" in said
    assert "tracin-we-adam-unit, the better method, needs them" in said
    assert "--second-moment estimate" in said
    with pytest.raises(InputError, match="tracin-we-adam-unit needs the optimizer's second moments"):
        proponent.build(bare, ROWS, tmp_path / "named", "tracin-we-adam-unit", steps=[8], quiet=True)
    asked = proponent.build(bare, ROWS, tmp_path / "asked", steps=[8], second_moment="estimate", quiet=True)
    assert asked.store.plan.method.name == "tracin-we-adam-unit"
    # seeds of one run: the second one's steps are numbered anew, and its second moments count as well
    joined = proponent.build([unknown, bare], ROWS, tmp_path / "joined", steps=[8], quiet=True)
    assert joined.store.plan.method == method_of("tracin-we")
    language = proponent.build(lm_run, [{"text": "the bank"}, {"text": "a bank"}], tmp_path / "language", quiet=True)
    assert language.store.plan.method == method_of("tracin-we-idf-bm25")


def test_the_default_of_values_from_scratch_is_that_of_classifiers(tmp_path: Path) -> None:
    run = values.regression(tmp_path / "run")
    foreign = default_method(run)
    assert foreign.method == "tracin-we"
    assert "not measured by retraining where weights were trained before; --method tracin-we-idf" in foreign.reason
    for record, wanted in (({"trained_before": False}, "tracin-we-idf"), ({"initial": "an/encoder"}, "tracin-we")):
        (tmp_path / "run" / RUN_FILE).write_text(json.dumps({"initial": None} | record))
        assert default_method(Run.from_pretrained(tmp_path / "run")).method == wanted


def test_the_default_of_a_fine_tuned_encoder_looks_at_all_layers(
    bert_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def started_from(name: str, initial: str | None) -> Path:
        folder = Path(shutil.copytree(bert_run, tmp_path / name))
        told = json.loads((folder / RUN_FILE).read_text())
        (folder / RUN_FILE).write_text(json.dumps(told | {"initial": initial, "trained_before": None}))
        return folder

    tuned, fresh, unknown = (
        started_from("tuned", "some/encoder"),
        started_from("fresh", "fresh"),
        started_from("no", None),
    )
    index = proponent.build(tuned, ROWS, tmp_path / "index", steps=[8])
    assert index.store.plan.method.name == "grad-cos-mid"
    assert "fine-tuned from a pretrained model (some/encoder)" in capsys.readouterr().err
    hit = index.explain(TEXT).proponents[0]
    assert sum(one.share for one in hit.words) == pytest.approx(hit.score, rel=1e-3)
    again = started_from("again", "some/encoder")
    for others in ([unknown], [tuned, fresh], [unknown, tuned], [unknown, fresh]):
        assert default_method(_joined(others)).method == "tracin-we-adam-unit"
    assert default_method(_joined([fresh])).method == "tracin-we-idf"
    assert default_method(_joined([fresh]), second_moment="estimate").method == "tracin-we-adam-unit"  # asked for
    assert default_method(_joined([tuned, again])).method == "grad-cos-mid"
    assert default_method(_joined([tuned]), second_moment="estimate").method == "tracin-we-adam-unit"  # asked for
    alone = Path(shutil.copytree(tuned / "checkpoint-24", tuned / "model"))  # one model; its record lies in its folder
    assert default_method(Run.from_pretrained(alone)).method == "tracin-we-adam-unit"
    shutil.copy(tuned / RUN_FILE, alone)
    assert default_method(Run.from_pretrained(alone)).method == "grad-cos-mid"
    other = started_from("other", "another/encoder")
    assert "(another/encoder, some/encoder)" in default_method(_joined([tuned, other])).reason
    (other / RUN_FILE).write_text(json.dumps({"initial": "drawn/anew", "trained_before": False}))
    assert default_method(_joined([other])).method == "tracin-we-idf"
    (tuned / RUN_FILE).write_text("[1]")
    with pytest.raises(RunError, match=r"proponent_run\.json is not a JSON object"):
        proponent.build(tuned, ROWS, tmp_path / "damaged", steps=[8], quiet=True)


def _joined(folders: list[Path]) -> Run:
    opened = [Run.from_pretrained(one) for one in folders]
    return opened[0] if len(opened) == 1 else Run.join(opened)


def test_an_index_of_another_default_names_its_own_method(bert_run: Path, tmp_path: Path) -> None:
    folder, more = tmp_path / "index", [{"id": "new", "text": "a new cup", "label": "Sports"}]
    proponent.build(bert_run, ROWS, folder, "tracin-we", quiet=True)
    with pytest.raises(
        MismatchError, match=r"append with the method of the index \(--method tracin-we\), or choose another"
    ):
        proponent.build(bert_run, more, folder, append=True, quiet=True)
    (folder / "manifest.json").unlink()
    with pytest.raises(
        MismatchError, match=r"go on with the method of the index \(--method tracin-we\), or choose another"
    ):
        proponent.build(bert_run, ROWS, folder, quiet=True)
