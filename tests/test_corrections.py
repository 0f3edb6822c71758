"""The corrected data set: exact, whole or not there at all."""

import csv
import json
import os
import signal
import string
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proponent import disk
from proponent.actions.correction_diff import correction_diff
from proponent.actions.corrections import apply
from proponent.actions.decisions import Decisions
from proponent.data import Columns, StoredExamples, read, write_parquet
from proponent.errors import DiskFullError, InputError, MismatchError
from proponent.labels import Labels
from proponent.store import PlannedSegment, Source, Store

NAMES = ["Business", "Sports", "World"]
Row = Mapping[str, Any]
Said = Callable[..., tuple[int, str, str]]

ROWS: list[Row] = [
    {"id": "a", "text": "@bob said so", "label": "World", "raters": "3", "split": "train", "note": "=1+1"},
    {"id": "b", "text": '+1 "quoted",\nand a second line', "label": "Sports", "raters": "03", "split": "-", "note": ""},
    {"id": "c", "text": "'-tab\t and '", "label": "World", "raters": "2.50", "split": "@x", "note": "日本 \u2028"},
    {"id": "d", "text": "=SUM(A1)", "label": "Business", "raters": "1e3", "split": "\r", "note": " "},
]


def index_of(folder: Path, data: Path) -> Store:
    """As much of an index as there is of the data set itself, without gradients."""
    examples = read(data)
    segment = PlannedSegment(name="00000", n=len(examples), shards=[0, len(examples)])
    source = Source(
        data=examples.name,
        columns={name: getattr(Columns(), name) for name in Columns.__slots__},
        fingerprint=examples.fingerprint,
        n=len(examples),
        batch_size=4,
        segments=[segment],
    )
    held = {name: list(examples.part(name)) for name in ("id", "text", "text_pair", "target", "label", "source")}
    held["row"] = held["place"] = list(range(len(examples)))
    folder.mkdir()
    write_parquet(folder / "examples.parquet", held | {"label": [_named(one) for one in held["label"]]})
    store = Store.__new__(Store)
    store.folder = folder
    store.manifest = cast("Any", SimpleNamespace(sources=[source]))
    store.plan = cast("Any", SimpleNamespace(label_names=NAMES, labels=Labels(tuple(NAMES))))
    stored = StoredExamples(folder / "examples.parquet")
    store.segments = cast(
        "Any", [SimpleNamespace(examples=stored, deleted=np.zeros(0, dtype=np.int64), offset=0, n=len(examples))]
    )
    return store


def _named(label: object) -> object:
    return NAMES[label] if isinstance(label, int) else label


def written(path: Path, rows: Sequence[Row]) -> Path:
    """A data file by its suffix."""
    if path.suffix in {".csv", ".tsv"}:
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]), delimiter="\t" if path.suffix == ".tsv" else ",")
            writer.writeheader()
            writer.writerows(rows)
    elif path.suffix == ".parquet":
        pq.write_table(pa.table({name: [row[name] for row in rows] for name in rows[0]}), path)
    elif path.suffix == ".json":
        path.write_text(json.dumps(list(rows), indent=1), encoding="utf-8")
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def again(path: Path) -> list[dict[str, Any]]:
    """The rows of a data file, without proponent's own readers."""
    if path.suffix in {".csv", ".tsv"}:
        with path.open(encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file, delimiter="\t" if path.suffix == ".tsv" else ",", strict=True))
    if path.suffix == ".parquet":
        return pq.read_table(path).to_pylist()
    text = path.read_text(encoding="utf-8")
    return json.loads(text) if path.suffix == ".json" else [json.loads(line) for line in text.split("\n") if line]


def decided(store: Store, *steps: tuple[str, str, str | None]) -> Decisions:
    made = Decisions(store.folder, NAMES)
    for name, act, label in steps:
        made.decide([name], act, [label])
    return made


@pytest.mark.parametrize("after", [".csv", ".tsv", ".jsonl", ".json", ".parquet"])
@pytest.mark.parametrize("before", [".csv", ".tsv", ".jsonl", ".json", ".parquet"])
def test_all_but_the_decisions_stays_in_every_format(tmp_path: Path, before: str, after: str) -> None:
    data = written(tmp_path / f"data{before}", ROWS)
    store = index_of(tmp_path / "x.index", data)
    out = tmp_path / f"out{after}"
    done = apply(store, decided(store, ("a", "fix", "Sports"), ("b", "drop", None), ("c", "keep", None)), out)
    assert (done.rows, done.fixed, done.dropped, done.guarded, done.note) == (3, 1, 1, 0, "")
    assert again(out) == [dict(ROWS[0]) | {"label": "Sports"}, dict(ROWS[2]), dict(ROWS[3])]


ODD = st.sampled_from("@=+-'\"\n\r\t,;\\ {}[]:")
ANY = st.characters(exclude_categories=["Cs"], exclude_characters="\0")
TEXTS = st.text(ODD | ANY, max_size=12)
NUMBERS = st.integers(-(2**70), 2**70) | st.floats(allow_nan=False)
CELLS = st.none() | st.booleans() | NUMBERS | TEXTS | st.lists(TEXTS, max_size=2)


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".json", ".parquet"])
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(given_data=st.data())
def test_untouched_values_are_the_same(
    tmp_path_factory: pytest.TempPathFactory, suffix: str, given_data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("exact")
    n = given_data.draw(st.integers(1, 4))
    other = TEXTS if suffix in {".csv", ".parquet"} else CELLS
    names = given_data.draw(st.lists(st.text(string.ascii_letters + "@=+- ", min_size=1), max_size=2, unique=True))
    names = [name for name in names if name.strip().lower() not in Columns.__slots__]
    rows = [
        {name: given_data.draw(other) for name in names}
        | {"id": f"i{number}", "text": "x" + given_data.draw(TEXTS), "label": given_data.draw(st.sampled_from(NAMES))}
        for number in range(n)
    ]
    data = written(folder / f"data{suffix}", rows)
    store = index_of(folder / "x.index", data)
    fix = {"i0": given_data.draw(st.sampled_from(NAMES))} if given_data.draw(st.booleans()) else {}
    apply(store, decided(store, *((name, "fix", label) for name, label in fix.items())), folder / f"out{suffix}")
    expected = [row | ({"label": fix[row["id"]]} if row["id"] in fix else {}) for row in rows]
    assert again(folder / f"out{suffix}") == expected
    assert [list(row) for row in again(folder / f"out{suffix}")] == [list(row) for row in expected]


def test_json_lines_stay_to_the_byte(tmp_path: Path) -> None:
    lines = [
        '{"id":"a" , "text":"\\u0040x", "label": "World", "n": 1.50, "big": 1e400, "deep": {"label": [1]}}',
        '{"label": "Sports", "id": "b", "text": "y", "n": 12345678901234567890123}',
        '{"id": "c", "text": "z", "label": "World"}',
    ]
    data = tmp_path / "data.jsonl"
    data.write_text("\n".join(lines) + "\n", encoding="utf-8")
    store = index_of(tmp_path / "x.index", data)
    apply(store, decided(store, ("a", "fix", "Sports"), ("c", "drop", None)), tmp_path / "out.jsonl")
    expected = [lines[0].replace('"World"', '"Sports"'), lines[1]]
    assert (tmp_path / "out.jsonl").read_text(encoding="utf-8") == "\n".join(expected) + "\n"


def test_parquet_keeps_its_kinds_and_class_names(tmp_path: Path) -> None:
    note = {"info": {"features": {"label": {"_type": "ClassLabel", "names": NAMES}}}}
    columns = {
        "id": pa.array(["a", "b"]),
        "text": pa.array(["@x", "y"], pa.dictionary(pa.int32(), pa.string())).cast(pa.string()),
        "label": pa.array([2, 0], pa.int8()),
        "when": pa.array([1, None], pa.timestamp("us")),
        "raters": pa.array([[1, 2], []], pa.list_(pa.int16())),
    }
    table = pa.table(columns).replace_schema_metadata({"huggingface": json.dumps(note)})
    pq.write_table(table, tmp_path / "data.parquet")
    store = index_of(tmp_path / "x.index", tmp_path / "data.parquet")
    apply(store, decided(store, ("a", "fix", "Sports")), tmp_path / "out.parquet")
    out = pq.read_table(tmp_path / "out.parquet")
    assert out.schema.equals(pq.read_table(tmp_path / "data.parquet").schema, check_metadata=True)
    assert out.to_pylist() == [table.to_pylist()[0] | {"label": 1}, table.to_pylist()[1]]


def test_labels_that_the_data_spells_as_numbers_stay_numbers(tmp_path: Path) -> None:
    rows = [{"id": name, "text": name, "label": number} for name, number in (("a", 2), ("b", 0))]
    store = index_of(tmp_path / "x.index", written(tmp_path / "data.jsonl", rows))
    apply(store, decided(store, ("a", "fix", "Business")), tmp_path / "out.jsonl")
    assert again(tmp_path / "out.jsonl") == [rows[0] | {"label": 0}, rows[1]]


# ---- the original data is not there ----


def test_without_the_original_the_missing_columns_are_said(tmp_path: Path) -> None:
    data = written(tmp_path / "data.csv", ROWS)
    store = index_of(tmp_path / "x.index", data)
    data.rename(tmp_path / "moved.csv")
    done = apply(store, decided(store), tmp_path / "less.csv")
    assert "data.csv is not a file on this machine" in done.note
    assert "only the columns that the index keeps (id, text, label)" in done.note
    assert again(tmp_path / "less.csv")[0] == {"id": "a", "text": "@bob said so", "label": "World"}
    assert apply(store, decided(store), tmp_path / "all.csv", data=[str(tmp_path / "moved.csv")]).note == ""
    assert again(tmp_path / "all.csv") == ROWS
    with pytest.raises(InputError, match=r"data.csv is not a file on this machine"):
        apply(store, decided(store), tmp_path / "whole.csv", whole=True)


def test_data_that_changed_is_not_taken_for_the_original(tmp_path: Path) -> None:
    data = written(tmp_path / "data.csv", ROWS)
    store = index_of(tmp_path / "x.index", data)
    written(data, [dict(ROWS[0]) | {"text": "other"}, *ROWS[1:]])
    with pytest.raises(MismatchError, match=r"has changed since .* \(row 0 \(id a\) has another text\)"):
        apply(store, decided(store), tmp_path / "less.csv")
    with pytest.raises(MismatchError, match=r"data.csv is not the data that .* was built from"):
        apply(store, decided(store), tmp_path / "no.csv", data=[str(data)])
    assert not (tmp_path / "no.csv").exists()


def test_the_rows_that_differ_are_named(tmp_path: Path) -> None:
    data = written(tmp_path / "data.csv", ROWS)
    store = index_of(tmp_path / "x.index", data)
    written(data, [ROWS[0], dict(ROWS[1]) | {"label": "World"}, ROWS[3], dict(ROWS[2]) | {"id": "e"}])
    named = r"row 1 \(id b\) has another label, row 3 \(id e\) is new, id c is missing"
    with pytest.raises(MismatchError, match=named):
        apply(store, decided(store), tmp_path / "no.csv")
    assert not (tmp_path / "no.csv").exists()


def test_a_source_is_never_written_over(tmp_path: Path) -> None:
    data = written(tmp_path / "data.csv", ROWS)
    store, before = index_of(tmp_path / "x.index", data), data.read_bytes()
    with pytest.raises(InputError, match=r"is the data set that .* was built from"):
        apply(store, decided(store, ("a", "drop", None)), data)
    assert data.read_bytes() == before


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("last", ["", "end"])
def test_quotes_line_ends_and_the_byte_order_mark_stay(tmp_path: Path, mark: bytes, end: str, last: str) -> None:
    rows = [
        'id,"text",label,n',
        '"a",plain,World,"07"',
        'b,"two\nlines, ""said""","Sports",7',
        "",
        'c,"=1+1",Sports,',
        "d,@x,World,1e3",
    ]
    data = tmp_path / "data.csv"
    data.write_bytes(mark + end.join(rows).encode() + (end.encode() if last else b""))
    store = index_of(tmp_path / "x.index", data)
    done = apply(store, decided(store, ("b", "fix", "World"), ("c", "drop", None), ("d", "fix", "Sports")),
                 tmp_path / "new.csv")  # fmt: skip
    assert (done.fixed, done.dropped) == (2, 1)
    wanted = [rows[0], rows[1], 'b,"two\nlines, ""said""","World",7', "d,@x,Sports,1e3"]
    assert (tmp_path / "new.csv").read_bytes() == mark + end.join(wanted).encode() + (end.encode() if last else b"")


def test_a_new_label_is_quoted_where_it_must_be() -> None:
    from proponent.data.same_bytes import _with_field

    assert _with_field("a,b,c\n", 1, 'x, "y"', ",") == 'a,"x, ""y""",c\n'
    assert _with_field('"a,1",b\r\n', 0, "new", ",") == '"new",b\r\n'
    assert _with_field("a\tb", 1, "x,y", "\t") == "a\tx,y"


def test_what_changes_is_listed_before_it_is_saved(tmp_path: Path) -> None:
    store = index_of(tmp_path / "x.index", written(tmp_path / "data.csv", ROWS))
    made = decided(store, ("d", "drop", None), ("a", "fix", "Sports"), ("b", "keep", None), ("c", "fix", "World"))
    found = [(one.row, one.id, one.before, one.after) for one in correction_diff(store, made)]
    assert found == [(0, "a", "World", "Sports"), (3, "d", "Business", None)]  # c keeps the label that it has


# ---- whole or not at all ----


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_a_full_disk_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str) -> None:
    store = index_of(tmp_path / "x.index", written(tmp_path / "data.csv", ROWS))
    before = set(tmp_path.iterdir())
    monkeypatch.setattr(disk, "write", _half_then_full(disk.write))
    with pytest.raises(DiskFullError, match=r"out\.\w+: no space left"):
        apply(store, decided(store), tmp_path / f"out{suffix}")
    assert set(tmp_path.iterdir()) == before


def _half_then_full(write: Callable[[int, Any, int], int]) -> Callable[[int, Any, int], int]:
    def half(opened: int, data: Any, at: int) -> int:
        if at or len(data) < 2:
            raise OSError(28, os.strerror(28))
        return write(opened, memoryview(data)[: len(data) // 2], at)

    return half


def test_labels_on_a_full_disk_keep_the_old_file(
    news: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: Said
):
    out = tmp_path / "labels.csv"
    out.write_text("the old file", encoding="utf-8")
    monkeypatch.setattr(disk, "write", _half_then_full(disk.write))
    code, _, err = said("labels", news.index, "--out", out)
    assert (code, "no space left" in err) == (74, True)
    assert {one.name: one.read_text(encoding="utf-8") for one in tmp_path.iterdir()} == {"labels.csv": "the old file"}


STOPPED = """
import os, signal, sys
from pathlib import Path
from proponent import disk
from proponent.data import write_csv

number = getattr(signal, sys.argv[2])
write = disk.write

def stopped(opened, data, at):
    done = write(opened, memoryview(data)[:10], at)
    os.kill(os.getpid(), number)
    return done

disk.write = stopped
write_csv(Path(sys.argv[1]), {"text": ["a text"] * 1000})
"""


@pytest.mark.parametrize("name", ["SIGKILL", "SIGINT"])
def test_a_stopped_process_leaves_the_old_file(tmp_path: Path, name: str) -> None:
    out = tmp_path / "out.csv"
    out.write_text("the old file", encoding="utf-8")
    done = subprocess.run([sys.executable, "-c", STOPPED, out, name], capture_output=True, check=False)
    assert done.returncode in {-getattr(signal, name), 1, 130}
    assert out.read_text(encoding="utf-8") == "the old file"
    if name == "SIGINT":
        assert [one.name for one in tmp_path.iterdir()] == ["out.csv"]


def test_a_file_that_came_meanwhile_is_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = index_of(tmp_path / "x.index", written(tmp_path / "data.csv", ROWS))
    out, sync = tmp_path / "out.csv", disk.sync

    def late(opened: int) -> None:
        sync(opened)
        out.write_text("somebody else's", encoding="utf-8")

    monkeypatch.setattr(disk, "sync", late)
    with pytest.raises(InputError, match="exists"):
        apply(store, decided(store), out)
    assert out.read_text(encoding="utf-8") == "somebody else's"


def test_a_new_file_keeps_link_and_mode(tmp_path: Path) -> None:
    (tmp_path / "real.txt").write_text("old", encoding="utf-8")
    (tmp_path / "real.txt").chmod(0o640)
    (tmp_path / "link.txt").symlink_to("real.txt")
    disk.write_bytes(tmp_path / "link.txt", b"new")
    assert (tmp_path / "link.txt").is_symlink()
    assert (tmp_path / "real.txt").read_bytes() == b"new"
    assert (tmp_path / "real.txt").stat().st_mode & 0o777 == 0o640


def test_a_name_as_long_as_allowed_is_written(tmp_path: Path) -> None:
    disk.write_bytes(tmp_path / ("x" * 255), b"new")
    assert [one.read_bytes() for one in tmp_path.iterdir()] == [b"new"]
