"""The index on disk without any model: frozen plan, shards, postings, seal, and what damages it."""

import errno
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from whence.errors import DamagedError, DiskFullError, InputError, MismatchError
from whence.recipe import Recipe
from whence.store import FORMAT, Plan, PlannedCheckpoint, SkippedRow, Store, Writer, files, writer

N, WIDTH, STEP = 11, 4, 7
SHARDS = [0, 4, 8, 11]
ORDER = np.random.default_rng(3).permutation(N)


def plan(**changes: Any) -> Plan:
    fields: dict[str, Any] = {
        "format": FORMAT,
        "whence": "0",
        "recipe": Recipe(name="tracin-we"),
        "embedding_path": "exact",
        "tied": False,
        "run": "runs/news",
        "tokenizer": None,
        "kind": "classification",
        "label_names": ["a", "b"],
        "max_length": 32,
        "batch_size": 4,
        "trust_remote_code": False,
        "fingerprints": {"data": "d" * 64, "tokenizer": "t" * 64, f"weights step {STEP}": "w" * 64},
        "checkpoints": [PlannedCheckpoint(step=STEP, learning_rate=0.1, rule="recorded", weight=0.1)],
        "word_rules": "1",
        "data": "train.csv",
        "columns": {"text": "text"},
        "n": N,
        "shards": SHARDS,
    }
    return Plan(**(fields | changes))


def forms(count: int, seed: int) -> dict[str, np.ndarray]:
    """Made-up embedding gradients; the second of them, and the last, hold no row at all."""
    generator = np.random.default_rng(seed)
    counts = generator.integers(1, 5, count)
    counts[[1, -1]] = 0
    total = int(counts.sum())
    return {
        "rows.indptr": np.concatenate([[0], np.cumsum(counts)]),
        "rows.ids": generator.integers(0, 6, total),
        "rows.words": np.arange(total) % 3,
        "rows.rows": generator.normal(size=(total, WIDTH)).astype(np.float32),
        "meta.losses": generator.random(count),
    }


SHARD_ARRAYS = [forms(stop - start, start) for start, stop in pairwise(SHARDS)]


def fill(made: Writer) -> None:
    for shard, arrays in enumerate(SHARD_ARRAYS):
        if not made.has_shard(STEP, shard):
            made.put_shard(STEP, shard, arrays)
    made.put_table(STEP, {"inverse_root": np.ones((6, WIDTH), dtype=np.float32)})
    made.put_postings(STEP, ORDER)
    columns = {"id": [str(row) for row in range(N)], "text": ["x"] * N, "text_pair": [None] * N}
    made.put_examples(columns, {"order": ORDER, "losses": np.zeros((1, N))})


@pytest.fixture
def sealed(tmp_path: Path) -> Path:
    made = Writer(tmp_path / "index", plan())
    fill(made)
    made.seal([SkippedRow(id="1", row=1, cause="loss is not finite at step 7")], ["a note"], {"gradients": 1.5})
    return tmp_path / "index"


# ---- round trip ----


def test_what_is_written_is_read_back(sealed: Path) -> None:
    store = Store(sealed)
    assert store.plan == plan()
    assert [one.id for one in store.manifest.skipped] == ["1"]
    assert (store.manifest.notes, store.manifest.seconds) == (["a note"], {"gradients": 1.5})
    np.testing.assert_array_equal(store.order[store.places], np.arange(N))
    assert store.examples["text_pair"] == [None] * N
    for (examples, arrays), (start, stop), expected in zip(
        store.shards(STEP), pairwise(SHARDS), SHARD_ARRAYS, strict=True
    ):
        np.testing.assert_array_equal(examples, ORDER[start:stop])
        assert {name: array.tolist() for name, array in arrays.items()} == {
            name: array.tolist() for name, array in expected.items()
        }
    assert store.table(STEP)["inverse_root"].shape == (6, WIDTH)


def test_one_example_is_read_without_its_shard(sealed: Path) -> None:
    store = Store(sealed)
    for place in range(N):
        shard = int(np.searchsorted(SHARDS, place, side="right")) - 1
        arrays, position = SHARD_ARRAYS[shard], place - SHARDS[shard]
        cut = slice(*arrays["rows.indptr"][position : position + 2])
        found = store.example_arrays(STEP, int(ORDER[place]))
        assert sorted(found) == ["rows.ids", "rows.indptr", "rows.rows", "rows.words"]
        assert found["rows.indptr"].tolist() == [0, cut.stop - cut.start]
        np.testing.assert_array_equal(found["rows.rows"], arrays["rows.rows"][cut])
        np.testing.assert_array_equal(found["rows.ids"], arrays["rows.ids"][cut])


def oracle(token: int) -> tuple[list[int], list[list[float]]]:
    """A token's postings, by a plain loop over every row of every shard."""
    found: list[tuple[int, int, list[float]]] = []
    for start, arrays in zip(SHARDS[:-1], SHARD_ARRAYS, strict=True):
        for position in range(len(arrays["rows.indptr"]) - 1):
            for row in range(arrays["rows.indptr"][position], arrays["rows.indptr"][position + 1]):
                if arrays["rows.ids"][row] == token:
                    owner = int(ORDER[start + position])
                    found.append((owner, int(arrays["rows.words"][row]), arrays["rows.rows"][row].tolist()))
    found.sort(key=lambda one: one[:2])
    return [owner for owner, _, _ in found], [rows for _, _, rows in found]


@pytest.mark.parametrize("part_bytes", [2**20, 5 * WIDTH * 4, 1])
def test_postings_are_the_shards_sorted_by_token(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part_bytes: int
) -> None:
    monkeypatch.setattr(writer, "PART_BYTES", part_bytes)
    made = Writer(tmp_path / "index", plan())
    fill(made)
    made.seal([], [], {})
    parts = len(list((tmp_path / "index" / "postings" / f"step-{STEP}").iterdir()))
    assert (parts == 1) == (part_bytes == 2**20)
    assert part_bytes != 1 or parts == 6, "no part is smaller than one token"
    postings = Store(tmp_path / "index").postings(STEP)
    assert postings.tokens == sorted({int(token) for arrays in SHARD_ARRAYS for token in arrays["rows.ids"]})
    for token in postings.tokens:
        block = postings.lookup(token)
        assert block is not None
        owners, rows = oracle(token)
        assert block[0].tolist() == owners
        assert block[1].tolist() == rows
    assert postings.lookup(99) is None


def test_fewer_parts_leave_none_of_an_earlier_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Writer(tmp_path / "index", plan())
    monkeypatch.setattr(writer, "PART_BYTES", 1)
    fill(made)
    monkeypatch.undo()
    again = Writer(tmp_path / "index", plan())
    fill(again)
    again.seal([], [], {})
    fresh = Writer(tmp_path / "fresh", plan())
    fill(fresh)
    fresh.seal([], [], {})
    assert Store(tmp_path / "index").manifest.merkle_root == Store(tmp_path / "fresh").manifest.merkle_root


def test_an_index_where_no_example_has_a_row(tmp_path: Path) -> None:
    made = Writer(tmp_path / "index", plan(n=2, shards=[0, 2]))
    empty = {name: array[:0] for name, array in SHARD_ARRAYS[0].items()} | {"rows.indptr": np.zeros(3, dtype=np.int64)}
    made.put_shard(STEP, 0, empty)
    made.put_postings(STEP, np.arange(2))
    made.put_examples({"id": ["0", "1"]}, {"order": np.arange(2)})
    made.seal([], [], {})
    store = Store(tmp_path / "index")
    assert store.postings(STEP).tokens == []
    assert store.example_arrays(STEP, 1)["rows.rows"].shape == (0, WIDTH)


# ---- the plan is frozen ----


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"recipe": Recipe(name="tracin-we", top=10)}, "its recipe top is None, not 10"),
        ({"fingerprints": plan().fingerprints | {"data": "e" * 64}}, "its fingerprints data is d+..., not e+..."),
        ({"fingerprints": plan().fingerprints | {"tokenizer": "u"}}, "its fingerprints tokenizer is t+..., not u"),
        ({"fingerprints": plan().fingerprints | {f"weights step {STEP}": "x"}}, "weights step 7 is w+..., not x"),
        ({"max_length": 64}, "its max_length is 32, not 64"),
        ({"batch_size": 8}, "its batch_size is 4, not 8"),
        ({"n": 12}, "its n is 11, not 12"),
        (
            {"checkpoints": [plan().checkpoints[0].model_copy(update={"weight": 1.0})]},
            "its checkpoints 1 weight is 0.1, not 1.0",
        ),
        ({"checkpoints": plan().checkpoints * 2}, "its checkpoints is "),
        ({"label_names": ["a", "c"]}, "its label_names 2 is b, not c"),
    ],
)
def test_another_plan_is_refused_by_the_field_that_differs(sealed: Path, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(MismatchError, match=f"index already holds an index of something else: .*{said}") as caught:
        Writer(sealed, plan(**changes))
    assert "choose another --out, or delete that folder" in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_names_may_change(sealed: Path) -> None:
    renamed = plan(run="elsewhere", data="copy.csv", columns={"text": "t"}, whence="9", tokenizer="tok")
    assert Writer(sealed, renamed).finished is not None


def test_a_folder_that_holds_other_things_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(MismatchError, match=r"is not empty and not an index \(it holds thesis.tex\)"):
        Writer(tmp_path, plan())
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
    with pytest.raises(MismatchError, match="is a file"):
        Writer(tmp_path / "thesis.tex", plan())


# ---- leftovers, seals ----


def test_leftovers_of_a_killed_build_are_removed(tmp_path: Path) -> None:
    folder = tmp_path / "index"
    folder.mkdir()
    (folder / "plan.json.tmp").write_text("{")  # killed while the plan was written
    made = Writer(folder, plan())
    made.put_shard(STEP, 0, SHARD_ARRAYS[0])
    stray = folder / "forms" / f"step-{STEP}" / "shard-00001.safetensors.tmp"
    stray.write_bytes(b"half")
    again = Writer(folder, plan())
    assert [again.has_shard(STEP, shard) for shard in range(3)] == [True, False, False]
    assert not list(folder.rglob("*.tmp"))


def test_unfinished_and_missing_indexes_are_refused(sealed: Path) -> None:
    assert Writer(sealed, plan()).finished is not None
    (sealed / "manifest.json").unlink()
    assert Writer(sealed, plan()).finished is None
    with pytest.raises(InputError, match=r"is unfinished: run the same `whence index` command again, it resumes"):
        Store(sealed)
    with pytest.raises(InputError, match=r"no index at .*nowhere: build one"):
        Store(sealed / "nowhere")


def test_a_seal_over_files_that_are_gone_is_broken(sealed: Path) -> None:
    gone = sealed / "forms" / f"step-{STEP}" / "shard-00001.safetensors"
    gone.unlink()
    with pytest.raises(DamagedError, match=r"shard-00001.safetensors is missing"):
        Store(sealed)
    again = Writer(sealed, plan())
    assert again.finished is None
    with pytest.raises(InputError, match="is unfinished"):
        Store(sealed)


def replace_in(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("manifest.json", '"a note"', '"another"'),
        ("manifest.json", '"skipped":[', '"skipped":[{"cause":"","id":"9","row":9},'),
        ("manifest.json", '"merkle_root":"', '"merkle_root":"0'),
        ("plan.json", '"label_names":["a","b"]', '"label_names":["b","a"]'),
        ("plan.json", '"learning_rate":0.1', '"learning_rate":0.2'),
    ],
)
def test_a_changed_seal_or_plan_is_refused(sealed: Path, name: str, old: str, new: str) -> None:
    replace_in(sealed / name, old, new)
    with pytest.raises(DamagedError, match=rf"{name} is not what was written"):
        Store(sealed)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"notes"', '"remarks"'),
        ('"gradients":1.5', '"gradients":NaN'),
        ('"gradients":1.5', '"gradients":"long"'),
        ('"a note"', '"\\ud800"'),
        ("{", "["),
        ("{", "{" * 100_000),
        ('"format":1', '"format":"1"'),
    ],
)
def test_a_manifest_that_is_none(sealed: Path, old: str, new: str) -> None:
    replace_in(sealed / "manifest.json", old, new)
    with pytest.raises(DamagedError, match=r"manifest\.json"):
        Store(sealed)


@pytest.mark.parametrize("name", ["plan.json", "manifest.json"])
def test_a_newer_format_is_refused(sealed: Path, name: str) -> None:
    replace_in(sealed / name, f'"format":{FORMAT}', f'"format":{FORMAT + 1}')
    with pytest.raises(MismatchError, match=rf"has format {FORMAT + 1}, newer than the {FORMAT} .*upgrade whence"):
        Store(sealed)


# ---- full disks, damaged files ----


def full_on(call: int) -> Callable[[int], None]:
    """An fsync that finds the disk full the n-th time."""
    calls = iter(range(10_000))

    def fsync(_: int) -> None:
        if next(calls) == call:
            raise OSError(errno.ENOSPC, "No space left on device")

    return fsync


def build(folder: Path) -> None:
    made = Writer(folder, plan())
    fill(made)
    made.seal([SkippedRow(id="1", row=1, cause="loss is not finite at step 7")], ["a note"], {})


def syncs(folder: Path) -> int:
    """How often a whole build makes sure of the disk."""
    count = 0

    def fsync(_: int) -> None:
        nonlocal count
        count += 1

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        build(folder)
    return count


def test_a_full_disk_at_any_place_is_said_and_resumed(
    sealed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    total = syncs(tmp_path / "whole")
    assert total > 20
    for call in range(total):
        folder = tmp_path / f"full-{call}"
        monkeypatch.setattr(os, "fsync", full_on(call))
        with pytest.raises(DiskFullError, match=re.escape(str(folder))):
            build(folder)
        monkeypatch.undo()
        assert not list(folder.rglob("*.tmp")), "what was begun gives its space back"
        build(folder)
        assert Store(folder).manifest.merkle_root == Store(sealed).manifest.merkle_root
    assert DiskFullError.exit_code == 74


def test_other_failures_of_the_disk_are_not_called_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(OSError, match="Input/output error"):
        files.publish_text(tmp_path / "a" / "b.json", "{}")


def test_ctrl_c_while_writing_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files.publish_text(tmp_path / "plan.json", "old")

    def interrupted(_: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        files.publish_text(tmp_path / "plan.json", "new")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("plan.json", "old")]


# ---- no torch ----

LIGHT = """
import sys
from pathlib import Path
import whence.store, whence.search, whence.baselines
store = whence.store.Store(Path(sys.argv[1]))
whence.search.Search(store)
assert store.postings(7).lookup(store.postings(7).tokens[0]) is not None
heavy = sorted({"torch", "transformers", "datasets", "pandas"} & set(sys.modules))
assert not heavy, heavy
"""


def test_an_index_is_read_without_torch(sealed: Path) -> None:
    done = subprocess.run([sys.executable, "-c", LIGHT, str(sealed)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_plan_is_plain_json_in_one_form(sealed: Path) -> None:
    text = (sealed / "plan.json").read_text()
    assert text == json.dumps(json.loads(text), sort_keys=True, separators=(",", ":"), ensure_ascii=False) + "\n"
