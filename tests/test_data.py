"""Every kind of input gives the same rows; every bad input says what is wrong and where."""

import csv
import gzip
import io
import json
import math
import subprocess
import sys
import tempfile
import time
from collections import UserList
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proponent.data import Columns, Examples, StoredExamples, read, write_csv, write_parquet
from proponent.errors import DamagedError, DataError, DiskFullError, MissingExtraError
from proponent.types import Example, Pair, Prompted, Text

datasets = pytest.importorskip("datasets")

SHARED = Path(__file__).parents[1].parent / "shared" / "data"

ROWS = [
    {"id": "a", "text": "plain", "label": "pos", "text_pair": "second", "source": "x"},
    {"id": "b", "text": 'a "quote", a comma\nand a line\r\nand more', "label": "neg", "text_pair": "p", "source": "y"},
    {"id": "c", "text": "ünïcode 🎉 \u2028 tab\there", "label": "pos", "text_pair": "q", "source": "x"},
]


def columns_of(rows):
    return {key: [row[key] for row in rows] for key in rows[0]}


def as_csv(path, rows, delimiter=","):
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)
    return path


def as_jsonl(path, rows):
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8", newline="")
    return path


def as_json(path, rows):
    path.write_text(json.dumps(rows), encoding="utf-8")
    return path


def as_parquet(path, rows):
    pyarrow.parquet.write_table(pa.table(columns_of(rows)), path)
    return path


def as_arrow(path, rows, opener=pyarrow.ipc.new_file):
    table = pa.table(columns_of(rows))
    with opener(path, table.schema) as writer:
        writer.write_table(table)
    return path


def packed(path):
    target = path.with_name(path.name + ".gz")
    target.write_bytes(gzip.compress(path.read_bytes()))
    path.unlink()
    return target


def as_saved(path, rows):
    datasets.Dataset.from_list(rows).save_to_disk(str(path))
    return path


def as_saved_dict(path, rows):
    datasets.DatasetDict(train=datasets.Dataset.from_list(rows)).save_to_disk(str(path))
    return path


KINDS = {
    "csv": lambda d: as_csv(d / "x.csv", ROWS),
    "CSV": lambda d: as_csv(d / "x.CSV", ROWS),
    "str path": lambda d: str(as_csv(d / "x.csv", ROWS)),
    "csv.gz": lambda d: packed(as_csv(d / "x.csv", ROWS)),
    "tsv": lambda d: as_csv(d / "x.tsv", ROWS, "\t"),
    "tsv.gz": lambda d: packed(as_csv(d / "x.tsv", ROWS, "\t")),
    "jsonl": lambda d: as_jsonl(d / "x.jsonl", ROWS),
    "ndjson": lambda d: as_jsonl(d / "x.ndjson", ROWS),
    "jsonl.gz": lambda d: packed(as_jsonl(d / "x.jsonl", ROWS)),
    "json": lambda d: as_json(d / "x.json", ROWS),
    "json.gz": lambda d: packed(as_json(d / "x.json", ROWS)),
    "parquet": lambda d: as_parquet(d / "x.parquet", ROWS),
    "parquet.gz": lambda d: packed(as_parquet(d / "x.parquet", ROWS)),
    "arrow file": lambda d: as_arrow(d / "x.arrow", ROWS),
    "arrow stream": lambda d: as_arrow(d / "x.arrow", ROWS, pyarrow.ipc.new_stream),
    "saved dataset": lambda d: as_saved(d / "x", ROWS),
    "saved dict": lambda d: as_saved_dict(d / "x", ROWS),
    "dataset": lambda _: datasets.Dataset.from_list(ROWS),
    "dataset chosen": lambda _: datasets.Dataset.from_list(ROWS[::-1]).select([2, 1, 0]),
    "dataset formatted": lambda _: datasets.Dataset.from_list(ROWS).with_format("numpy"),
    "dict of one": lambda _: datasets.DatasetDict(test=datasets.Dataset.from_list(ROWS)),
    "iterable": lambda _: datasets.Dataset.from_list(ROWS).to_iterable_dataset(),
    "pandas": lambda _: pd.DataFrame(ROWS, index=[7, 7, 9]),
    "pandas category": lambda _: pd.DataFrame(ROWS).astype({"label": "category"}),
    "polars": lambda _: pl.DataFrame(ROWS),
    "arrow": lambda _: pa.table(columns_of(ROWS)),
    "list": lambda _: ROWS,
    "tuple": lambda _: tuple(ROWS),
    "examples": lambda _: [Example(row["id"], 5, row["text"], row["label"], row["text_pair"]) for row in ROWS],
    "Examples": lambda _: read(ROWS),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_gives_the_same_rows_and_fingerprint(kind, tmp_path):
    examples = read(KINDS[kind](tmp_path))
    assert list(examples) == [
        Example(row["id"], i, row["text"], row["label"], row["text_pair"]) for i, row in enumerate(ROWS)
    ]
    assert examples.fingerprint == read(ROWS).fingerprint
    assert examples.warnings == ()
    assert examples.label_names is None


def test_fingerprint_is_stable():
    # a change of this value breaks every index on disk: bump the prefix and the index format together
    assert read(ROWS).fingerprint == read(ROWS).fingerprint
    assert len(read(ROWS).fingerprint) == 64
    assert read(["one text"]).fingerprint == ("5638f44c794f328b4e11827d6618b1d38895da4c900e534e75c08a393684b375")


def changed(**cells):
    rows = [dict(row) for row in ROWS]
    rows[1].update(cells)
    return rows


@pytest.mark.parametrize(
    "rows",
    [
        changed(text=ROWS[1]["text"] + "."),
        changed(text=ROWS[1]["text"].replace("\r", "")),
        changed(label="pos"),
        changed(label=None),
        changed(id="B"),
        changed(text_pair="P"),
        changed(text_pair=None),
        ROWS[:2],
        [ROWS[1], ROWS[0], ROWS[2]],
        [{**row, "target": "t"} for row in ROWS],
        [{key: row[key] for key in ("id", "text", "label")} for row in ROWS],
    ],
)
def test_any_change_of_content_alters_the_fingerprint(rows):
    assert read(rows).fingerprint != read(ROWS).fingerprint


def test_other_columns_and_their_order_do_not_alter_the_fingerprint():
    rows = [{"extra": 1, **dict(reversed(row.items()))} for row in ROWS]
    assert read(rows).fingerprint == read(ROWS).fingerprint


def test_characters_that_move_between_fields_alter_the_fingerprint():
    def made(text, pair):
        return read([{"id": "i", "text": text, "text_pair": pair}]).fingerprint

    assert len({made("ab", "c"), made("a", "bc"), made("abc", None), made("a1:b", "c"), made("a-", "c")}) == 5
    assert read([{"id": "i", "text": "a", "text_pair": "b"}]).fingerprint != (
        read([{"id": "i", "text": "a", "target": "b"}]).fingerprint
    )


TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1).filter(str.strip)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(TEXTS, st.integers(-3, 99), TEXTS), min_size=1, max_size=6))
def test_round_trip_of_any_texts(cells):
    texts, labels, pairs = (list(column) for column in zip(*cells, strict=True))
    columns = {"text": texts, "label": labels, "text_pair": pairs}
    rows = [dict(zip(columns, row, strict=True)) for row in cells]
    with tempfile.TemporaryDirectory() as folder:
        write_csv(Path(folder) / "x.csv", columns, guard=False)
        write_parquet(Path(folder) / "x.parquet", columns)
        as_jsonl(Path(folder) / "x.jsonl", rows)
        made = [read(Path(folder) / f"x.{suffix}") for suffix in ("csv", "parquet", "jsonl")]
    for examples in made:
        assert examples.texts == texts
        assert [example.text_pair for example in examples] == pairs
        assert [str(label) for label in examples.labels] == [str(label) for label in labels]
        assert examples.fingerprint == read(rows).fingerprint


# ---- the collection


def test_indexing_slicing_and_subsets_keep_ids_and_rows():
    examples = read(ROWS)
    assert len(examples) == 3
    assert examples[-1] == examples[2]
    assert isinstance(examples[1:], Examples)
    assert [example.row for example in examples[::-1]] == [2, 1, 0]
    some = examples.subset([2, 0])
    assert (some.ids, [e.row for e in some], some[0].text) == (["c", "a"], [2, 0], ROWS[2]["text"])
    assert some.subset(np.array([1])).ids == ["a"]
    assert some.labels == ["pos", "pos"]
    assert some.column("source") == ["x", "x"]
    assert some.column_names == ("id", "text", "label", "text_pair", "source")
    assert some.fingerprint == read([ROWS[2], ROWS[0]]).fingerprint
    with pytest.raises(IndexError, match="no row 3"):
        examples.subset([3])
    with pytest.raises(IndexError, match="no row -1"):
        examples.subset([-1])
    with pytest.raises(IndexError):
        examples[3]
    with pytest.raises(KeyError, match="no column 'nope'"):
        examples.column("nope")


def test_examples_are_returned_as_they_are():
    examples = read(ROWS)
    assert read(examples) is examples


def test_a_list_of_texts():
    examples = read(["one", "two"], columns=Columns(text="body"))
    assert [(e.id, e.text, e.label) for e in examples] == [("0", "one", None), ("1", "two", None)]
    assert examples.name == "list of 2 texts"
    assert examples.warnings == ("list of 2 texts: no id column: row numbers are used as ids",)


def test_columns_by_name_and_the_parts_they_free():
    rows = [{"title": "t", "target": "sports", "key": 7, "text": "unused"}]
    columns = Columns(text="title", label="target", id="key")
    (example,) = read(rows, columns=columns)
    assert example == Example("7", 0, "t", "sports")


def test_an_empty_column_name_leaves_the_part_out():
    (example,) = read([{"text": "t", "id": "x", "target": "y"}], columns=Columns(id="", target=""))
    assert example == Example("0", 0, "t")


def test_a_target_column_is_announced():
    examples = read([{"id": "a", "text": "2+2=", "target": "4"}, {"id": "b", "text": "all of it", "target": " "}])
    assert [example.target for example in examples] == ["4", None]
    assert any("'target' is used as the completion" in line for line in examples.warnings)
    assert any("1 rows have no target (row 1)" in line for line in examples.warnings)


# ---- labels


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([0, 1], [0, 1]),
        (["0", "1"], ["0", "1"]),
        ([True, False], [1, 0]),
        ([np.True_, np.int64(3)], [1, 3]),
        ([1.0, 2.0], [1, 2]),
        ([1, None], [1, None]),
        ([math.nan, 2.0], [None, 2]),
        ([np.float32("nan"), np.float32(2)], [None, 2]),
        (["a", ""], ["a", None]),
        ([pd.NA, "a"], [None, "a"]),
    ],
)
def test_labels_keep_their_kind(given, expected):
    labels = read([{"text": "t", "label": label} for label in given]).labels
    assert labels == expected
    assert [type(label) for label in labels] == [type(label) for label in expected]


def test_missing_labels_are_announced_in_every_kind(tmp_path):
    (tmp_path / "x.csv").write_text("id,text,label\na,t,\nb,u,1\n")
    frame = pd.DataFrame({"id": ["a", "b"], "text": ["t", "u"], "label": [None, 1]})
    sources = [tmp_path / "x.csv", frame, pl.DataFrame(frame.to_dict("list"), strict=False), pa.table(frame)]
    for source in sources:
        examples = read(source)
        assert examples.labels[0] is None
        assert examples.fingerprint == read(frame).fingerprint
        assert any("1 of 2 rows have no label (row 0" in line for line in examples.warnings)


def labelled(labels, names=("neg", "pos")):
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=list(names))})
    return datasets.Dataset.from_dict({"text": [f"t{i}" for i in labels], "label": labels}, features=features)


def test_class_labels_become_names(tmp_path):
    source = labelled([1, 0, -1])
    pyarrow.parquet.write_table(source.with_format("arrow")[:], tmp_path / "x.parquet")
    for kind in (source, source.to_iterable_dataset(), tmp_path / "x.parquet"):
        examples = read(kind)
        assert examples.labels == ["pos", "neg", None]
        assert examples.label_names == ("neg", "pos")
        assert examples[:1].label_names == ("neg", "pos")
        assert examples.column("label") == [1, 0, -1]
    assert read(source.rename_column("label", "y"), columns=Columns(label="y")).labels == ["pos", "neg", None]


def test_a_class_label_out_of_range(tmp_path):
    table = labelled([1, 0]).with_format("arrow")[:]
    bad = table.set_column(1, "label", pa.array([1, 9])).replace_schema_metadata(table.schema.metadata)
    with pytest.raises(DataError, match=r"row 1 has label 9.*neg, pos"):
        read(bad)


# ---- ids


def test_values_and_lists_are_labels_of_tasks_that_read_them():
    assert read([{"text": "a", "label": 0.5}, {"text": "b", "label": 1}]).labels == [0.5, 1.0]
    assert read([{"text": "a", "label": ["x", "y"]}]).labels == ['["x", "y"]']
    rows = read([{"tokens": ["Ada", "sang"], "ner_tags": [1, 0]}])
    assert (rows[0].text, rows[0].label) == ("Ada sang", "[1, 0]")


@pytest.mark.parametrize("ids", [[10, 11], ["10", "11"], [10.0, 11.0], np.array([10, 11])])
def test_ids_become_text(ids):
    assert read([{"id": id_, "text": "t"} for id_ in ids]).ids == ["10", "11"]


# ---- bad tables, given as lists


@pytest.mark.parametrize(
    ("rows", "parts"),
    [
        ([], ["empty list"]),
        ([{"txt": "a", "y": 1}], ["no column 'text'", "'txt', 'y'", "--text-column", "did you mean 'txt'?"]),
        ([{"Text": "a"}], ["did you mean 'Text'?"]),
        ([{"a;b;c": "a"}], ["is the separator right?"]),
        (
            [{"text": "a"}, {"text": ""}, {"text": " \n"}, {"text": None}],
            ["3 of 4 rows", "row 1, row 2, row 3", "--allow"],
        ),
        ([{"text": ""} for _ in range(9)], ["9 of 9 rows", "row 4 and 4 more"]),
        ([{"text": "a"}, {"text": 5}], ["column 'text' must contain text", "row 1 holds 5 (int)", "--text-column"]),
        ([{"text": b"a"}], ["row 0 holds b'a' (bytes)"]),
        ([{"text": ["a"]}], ["row 0 holds ['a'] (list)"]),
        ([{"text": "a", "text_pair": 1.5}], ["column 'text_pair'", "1.5 (float)", "--pair-column"]),
        ([{"text": "a", "target": 1}], ["column 'target'", "1 (int)", "--label-column"]),
        ([{"text": "a"}, {"text": "b\ud800c"}], ["row 1", "unpaired surrogate", r"'b\ud800c'"]),
        ([{"text": "a"}, {"text": "b\0c"}], ["row 1", "NUL", r"'b\x00c'"]),
        ([{"text": "a", "label": "x\0"}], ["column 'label'", "NUL"]),
        ([{"text": "a", "id": "\udcff"}], ["column 'id'", "surrogate"]),
        ([{"text": "a", "label": math.inf}], ["holds inf"]),
        (
            [{"text": "a", "label": 3}, {"text": "b", "label": "x"}],
            ["mixes numbers and names", "row 0 holds 3", "row 1 holds 'x'"],
        ),
        ([{"text": "a", "id": "i"}, {"text": "b", "id": "i"}], ["unique", "'i' in row 0, row 1", "--id-column ''"]),
        ([{"text": "a", "id": 1}, {"text": "b", "id": "1"}], ["repeats '1'"]),
        ([{"text": "a", "id": str(i // 2)} for i in range(12)], ["'2' in row 4, row 5; and 3 more ids"]),
        ([{"text": "a", "id": "x"}, {"text": "b"}], ["row 1 is empty", "--id-column ''"]),
        ([{"text": "a", "id": True}], ["holds True (bool)"]),
        ([{"text": "a", "id": 1.5}], ["holds 1.5 (float)"]),
        ([{"text": "a", 3: "b"}], ["column name 3 is not text"]),
        (["a", {"text": "b"}], ["list of 2 texts: row 1 holds {'text': 'b'}"]),
        ([1, 2], ["list of int"]),
        ({"text": ["a"]}, ["(dict)", "a list of dicts"]),
        (None, ["None", "pass a path"]),
        (pd.DataFrame([["a", "b"]], columns=["text", "text"]), ["two columns are named 'text'"]),
        (pd.DataFrame({"text": []}), ["header but no rows"]),
        (pl.DataFrame({"text": [1]}), ["row 0 holds 1 (int)"]),
        (pa.table({"text": pa.array([], pa.string())}), ["header but no rows"]),
        (pa.table([["a"], ["b"]], ["text", "text"]), ["two columns are named 'text'"]),
    ],
)
def test_bad_rows(rows, parts):
    with pytest.raises(DataError) as caught:
        read(rows)
    for part in parts:
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("columns", "parts"),
    [
        (Columns(label="lable"), ["no column 'lable'", "--label-column", "did you mean 'label'?"]),
        (Columns(id="key"), ["no column 'key'", "--id-column"]),
        (Columns(text_pair="p"), ["no column 'p'", "--pair-column"]),
        (Columns(text="body"), ["no column 'body'", "--text-column"]),
        (Columns(label="text"), ["no column 'text'"]),
        (Columns(text="label", id="label"), ["'label' is selected by both --text-column and --id-column"]),
    ],
)
def test_columns_asked_for_must_be_there(columns, parts):
    with pytest.raises(DataError) as caught:
        read([{"text": "a", "label": "x"}], columns=columns)
    for part in parts:
        assert part in str(caught.value).replace("it has 'text', 'label'", "")


def test_allow_empty_warns():
    examples = read([{"text": None}, {"text": " "}, {"text": "a"}], allow_empty=True)
    assert examples.texts == ["", " ", "a"]
    assert any("2 of 3 rows have an empty text (row 0, row 1)" in line for line in examples.warnings)


# ---- bad files


@pytest.mark.parametrize(
    ("name", "data", "parts"),
    [
        ("x.csv", b"", ["x.csv", "is empty"]),
        ("x.csv", b" \n\n", ["is empty"]),
        ("x.csv", b"\xef\xbb\xbf\n", ["is empty"]),
        ("x.csv", b"text,label\n", ["a header but no rows"]),
        ("x.csv", b"text,label,text\na,b,c\n", ["two columns are named 'text'"]),
        ("x.csv", b"text,label\na,b\nc\nd,e,f\n\n", ["header has 2 fields", "line 3 has 1, line 4 has 3", "quotes"]),
        ("x.csv", b'text,label\n"a\nb",c\nd\n', ["line 4 has 1"]),
        ("x.csv", b"text,label\n" + b"a\n" * 5, ["line 2 has 1, line 3 has 1, line 4 has 1 and 2 more lines"]),
        ("x.csv", b'text,label\na,b\n"c\nd,e\n', ["starts on line 3", "never closed"]),
        ("x.csv", b'text,label\na,b\n"c" d,e\n', ["wrong quotes on line 3", "double every quote"]),
        ("x.csv", "text\na\ncafé\n".encode("latin-1"), ["byte 10, line 3", r"b'\xe9'", "windows-1252", "iconv"]),
        ("x.csv", "text\na\ncafé".encode()[:-1], ["byte 10, line 3", "truncated"]),
        ("x.csv", "text\na\n".encode("utf-16"), ["encoded as utf-16", "iconv -f utf-16 -t utf-8 x.csv"]),
        ("x.csv", "text\na\n".encode("utf-16-le"), ["NUL byte at byte 1, line 1", "utf-16"]),
        ("x.csv", b"text\nabcdefgh\na\0b\n", ["NUL byte at byte 15, line 3"]),
        ("x.csv", gzip.compress(b"text\na\n", mtime=0), ["gzip", "ends in .gz"]),
        ("x.csv.gz", b"text\na\n", ["not compressed with gzip", "rename it to x.csv"]),
        ("x.csv.gz", gzip.compress(b"text\na\n" * 99, mtime=0)[:-9], ["incomplete or damaged gzip file"]),
        ("x.csv.gz", gzip.compress(b"", mtime=0), ["is empty"]),
        ("x.csv", b"text,id\na,1\nb,1\n", ["'1' in row 0 (line 2), row 1 (line 3)"]),
        ("x.csv", b'text,id\n"a\nb",1\n,2\n', ["row 1 (line 4)", "empty text"]),
        ("x.csv", b"text;label\na;b\n", ["'text;label'", "separator"]),
        ("x.jsonl", b"", ["is empty"]),
        ("x.jsonl", b'{"text": "a"}\n{"text": \n', ["line 2 is not valid JSON", "column 10"]),
        ("x.jsonl", b'{"text": "a"}\n\n[1]\n', ["line 3 contains a list, not an object"]),
        ("x.jsonl", b'"a"\n', ["line 1 contains a text"]),
        ("x.jsonl", b"null\n", ["line 1 contains null"]),
        ("x.jsonl", b"true\n", ["line 1 contains true or false"]),
        ("x.jsonl", b'{"text": "a"}\n{"text": "b", "text": "c"}\n', ["line 2", "'text' appears twice"]),
        ("x.jsonl", b'{"text": "a"}\n{"text": "\\ud800"}\n', ["row 1 (line 2)", "surrogate"]),
        ("x.jsonl", b'{"text": "a"}\n{"text": "\\u0000"}\n', ["row 1 (line 2)", "NUL"]),
        ("x.jsonl", b'{"text": 5}\n', ["row 0 (line 1) holds 5 (int)"]),
        ("x.jsonl", b'{"text": "a"}\n{"txt": "b"}\n', ["1 of 2 rows", "row 1 (line 2)"]),
        ("x.jsonl", b'{"text": "a", "label": ' + b"[" * 100_000 + b"\n", ["line 1", "JSON"]),
        ("x.jsonl", '{"text": "é"}\n'.encode("latin-1"), ["byte 10, line 1"]),
        ("x.json", b"[]", ["no rows"]),
        ("x.json", b'{"text": "a"}', ["contains an object, not a list", ".jsonl"]),
        ("x.json", b'{"text": "a"}\n{"text": "b"}', ["not valid JSON", "line 2 column 1", ".jsonl"]),
        ("x.json", b'[{"text": "a"}, 3]', ["row 1 contains a number"]),
        ("x.parquet", b"PAR1 not really", ["not a readable Parquet file"]),
        ("x.parquet", b"", ["is empty"]),
        ("x.arrow", b"nothing of the kind", ["not a readable Arrow file"]),
        ("x.arrow", b"ARROW1nothing of the kind", ["not a readable Arrow file"]),
        ("x.xlsx", b"PK", ["unknown file type '.xlsx'", ".csv, .tsv, .jsonl", ".gz"]),
        ("x", b"a", ["unknown file type ''"]),
    ],
)
def test_bad_files(name, data, parts, tmp_path):
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(DataError) as caught:
        read(path)
    for part in [str(path), *parts]:
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_byte_order_mark_is_accepted(tmp_path):
    for name, data in (("x.csv", "text\na\n"), ("x.jsonl", '{"text": "a"}'), ("x.json", '[{"text": "a"}]')):
        (tmp_path / name).write_bytes(data.encode("utf-8-sig"))
        assert read(tmp_path / name).texts == ["a"]


def test_very_long_fields_and_the_csv_limit_put_back(tmp_path):
    (tmp_path / "x.csv").write_text("text\n" + "word " * 100_000 + "\n")
    before = csv.field_size_limit(1000)
    try:
        assert len(read(tmp_path / "x.csv").texts[0]) == 500_000
        assert csv.field_size_limit() == 1000
    finally:
        csv.field_size_limit(before)


def test_blank_lines_are_skipped_aloud(tmp_path):
    (tmp_path / "x.csv").write_text("\ntext,id\na,1\n\nb,2\n\n")
    (tmp_path / "x.jsonl").write_text('{"text": "a", "id": 1}\r\n\r\n{"text": "b", "id": 2}\r\n\r\n')
    for name, warning in (("x.csv", "2 blank lines skipped (first: line 1)"), ("x.jsonl", "1 blank lines skipped")):
        examples = read(tmp_path / name)
        assert examples.texts == ["a", "b"]
        assert [line for line in examples.warnings if warning in line]


def test_line_ends_of_every_system(tmp_path):
    for end in (b"\n", b"\r\n", b"\r"):
        (tmp_path / "x.csv").write_bytes(end.join([b"text,id", b"a,1", b"b,2"]))
        assert read(tmp_path / "x.csv").texts == ["a", "b"]


def test_file_not_found(tmp_path):
    (tmp_path / "train.csv").write_text("text\na\n")
    for source, parts in {
        str(tmp_path / "trian.csv"): ["trian.csv", "no such file", "did you mean 'train.csv'?"],
        str(tmp_path / "nowhere" / "x.csv"): ["there is no folder", "nowhere"],
        "Retail sales slid": ["no such file", "a list of texts"],
        "long " * 1000: ["no such file"],
        "nowhere/train.csv": ["there is no folder 'nowhere'"],
    }.items():
        with pytest.raises(DataError) as caught:
            read(source)
        assert all(part in str(caught.value) for part in parts), str(caught.value)


def test_a_folder_that_is_no_saved_data_set(tmp_path):
    with pytest.raises(DataError, match=r"save_to_disk: supported files:"):
        read(tmp_path)
    (tmp_path / "train.csv").write_text("text\na\n")
    with pytest.raises(DataError, match=r"not a data set from save_to_disk: name one of its files: 'train.csv'"):
        read(tmp_path)
    (tmp_path / "state.json").write_text("{}")
    (tmp_path / "dataset_info.json").write_text("{}")
    with pytest.raises(DataError, match="datasets cannot load it"):
        read(tmp_path)


# ---- splits, revisions, the hub


def test_splits_must_be_chosen():
    both = datasets.DatasetDict(train=datasets.Dataset.from_list(ROWS), test=datasets.Dataset.from_list(ROWS[:1]))
    assert len(read(both, split="test")) == 1
    assert read(both, split="test").name == "datasets.DatasetDict [test]"
    with pytest.raises(DataError, match=r"choose one of its splits 'train', 'test' with --split"):
        read(both)
    with pytest.raises(DataError, match=r"no split 'dev'; it has 'train', 'test'"):
        read(both, split="dev")
    streams = datasets.IterableDatasetDict({name: part.to_iterable_dataset() for name, part in both.items()})
    assert len(read(streams, split="train")) == 3
    with pytest.raises(DataError, match="it contains only the split"):
        read(datasets.Dataset.from_list(ROWS), split="dev")
    with pytest.raises(DataError, match="leave out --revision main"):
        read(both, split="train", revision="main")


def test_splits_have_no_meaning_for_a_file(tmp_path):
    path = as_csv(tmp_path / "x.csv", ROWS)
    for source in (path, ROWS, read(ROWS)):
        with pytest.raises(DataError, match="leave out --split train"):
            read(source, split="train")
        with pytest.raises(DataError, match="leave out --revision v1"):
            read(source, revision="v1")


def test_a_hub_id_is_loaded(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    calls = []

    def load_dataset(name, *, split, revision):
        calls.append((name, split, revision))
        made = datasets.Dataset.from_list(ROWS)
        return made if split else datasets.DatasetDict(train=made, test=made)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    examples = read("owner/news", split="train[:3]", revision="v1")
    assert examples.fingerprint == read(ROWS).fingerprint
    assert examples.name == "owner/news [train[:3]]"
    assert calls == [("owner/news", "train[:3]", "v1")]
    with pytest.raises(DataError, match="owner/news: choose one of its splits"):
        read("owner/news")
    (tmp_path / "owner").mkdir()
    with pytest.raises(DataError, match="no such file"):
        read("owner/news")


def test_what_the_hub_refuses_is_said(monkeypatch):
    def load_dataset(name, *, split, revision):
        raise ConnectionError("Couldn't reach it\nmore lines")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(DataError) as caught:
        read("owner/news", split="dev", revision="v9")
    for part in (
        "owner/news: no such local path",
        "split 'dev'",
        "revision 'v9'",
        "ConnectionError",
        "Couldn't reach it",
    ):
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)


def test_without_the_datasets_package(monkeypatch, tmp_path):
    saved = as_saved(tmp_path / "saved", ROWS)
    monkeypatch.setitem(sys.modules, "datasets", None)
    for source in ("owner/news", saved):
        with pytest.raises(MissingExtraError, match=r"pip install 'proponent\[data\]'"):
            read(source)
    assert len(read(ROWS)) == 3


def test_optional_packages_are_not_imported():
    code = (
        "import sys; from proponent.data import read; read([{'text': 'a'}]).fingerprint; "
        "print([m for m in ('torch', 'transformers', 'datasets', 'pandas', 'polars') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


# ---- what proponent writes


COLUMNS = {
    "id": ["a", "b", "c"],
    "loss": np.array([0.5, 1.5, np.nan]),
    "hash": np.array([1, 2, 2**64 - 1], dtype=np.uint64),
    "flag": np.array([True, False, True]),
    "half": np.array([1, 2, 3], dtype=np.float16),
    "probabilities": np.arange(6, dtype=np.float32).reshape(3, 2),
    "label": ["x", None, "y"],
    "count": [1, None, 3],
    "words": np.array(["u", "v", "w"]),
}


def test_parquet_round_trip(tmp_path):
    write_parquet(tmp_path / "x.parquet", COLUMNS)
    found = pyarrow.parquet.read_table(tmp_path / "x.parquet")
    assert found.column_names == list(COLUMNS)
    for name in ("loss", "hash", "flag", "half"):
        np.testing.assert_array_equal(found[name].to_numpy(), COLUMNS[name], strict=True)
    flat = found["probabilities"].combine_chunks().flatten().to_numpy()
    np.testing.assert_array_equal(flat.reshape(3, 2), COLUMNS["probabilities"], strict=True)
    for name in ("id", "label", "count"):
        assert found[name].to_pylist() == COLUMNS[name]
    assert found["words"].to_pylist() == ["u", "v", "w"]
    write_parquet(tmp_path / "y.parquet", {"p": np.zeros((0, 3)), "t": []})
    for number, values in enumerate(([None] * 5000 + ["a"], ["a"] * 5000 + [None] * 5000, [None] * 5000, [])):
        for kind in (list, UserList):  # the second is packed in blocks, the first of which may know no kind
            write_parquet(tmp_path / f"{kind.__name__}{number}.parquet", {"t": kind(values)})
        made = [(tmp_path / f"{kind.__name__}{number}.parquet").read_bytes() for kind in (list, UserList)]
        assert made[0] == made[1]
    empty = pyarrow.parquet.read_table(tmp_path / "y.parquet")
    assert (len(empty), empty.schema.field("p").type.list_size) == (0, 3)


def test_equal_columns_give_equal_bytes(tmp_path):
    for name in ("x", "y"):
        write_parquet(tmp_path / name, COLUMNS)
    assert (tmp_path / "x").read_bytes() == (tmp_path / "y").read_bytes()


def test_damaged_parquet_is_found(tmp_path):
    def whole(path):
        stored = StoredExamples(path)
        return [stored.column(name) for name in stored.names]

    path = tmp_path / "x.parquet"
    write_parquet(path, {"id": [f"row {i}" for i in range(500)], "loss": np.arange(500) / 7})
    good = path.read_bytes()
    for offset in (500, 1000, 2000, len(good) - 5):
        path.write_bytes(good[:offset] + bytes([good[offset] ^ 8]) + good[offset + 1 :])
        with pytest.raises(DamagedError, match=r"x\.parquet: damaged"):
            whole(path)
    for data in (good[:-20], good[: len(good) // 2], b""):
        path.write_bytes(data)
        with pytest.raises(DamagedError, match=r"x\.parquet: damaged"):
            whole(path)
    path.unlink()
    with pytest.raises(DamagedError, match=r"x\.parquet: damaged or missing"):
        StoredExamples(path)


def test_columns_that_cannot_be_written(tmp_path):
    path = tmp_path / "x.parquet"
    for column in ([1, "a"], [2**70], ["\ud800"], np.zeros((1, 1, 1))):
        with pytest.raises(DataError, match="column 'c' cannot be written"):
            write_parquet(path, {"c": column})
    with pytest.raises(DataError, match="different lengths"):
        write_parquet(path, {"a": [1], "b": [1, 2]})
    with pytest.raises(DataError, match="different lengths"):
        write_csv(path, {"a": [1], "b": [1, 2]})
    assert not path.exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_disk_is_named():
    with pytest.raises(DiskFullError, match="/dev/full: no space left"):
        write_parquet("/dev/full", COLUMNS)
    with pytest.raises(DiskFullError, match="/dev/full: no space left"):
        write_csv("/dev/full", {"a": ["x"]})


def test_csv_cells_never_become_formulas():
    harmful = ["=1+1", "+1+cmd", "-2+3", "@SUM(A1)", "\tx", "\rx", "\0x", "-inf", " =1"]
    harmless = ["a=b", "-1.5", "+3e4", "'x", "", "x\ry", "1=2"]
    file = io.StringIO(newline="")
    count = write_csv(
        file, {"=text": harmful + harmless, "n": np.arange(16) - 4.5, "m": [-1, None, True, [1, "=x"]] * 4}
    )
    rows = list(csv.reader(io.StringIO(file.getvalue(), newline="")))
    assert rows[0] == ["'=text", "n", "m"]
    assert [row[0] for row in rows[1:]] == ["'" + text for text in harmful] + harmless
    assert [row[1] for row in rows[1:3]] == ["-4.5", "-3.5"]
    assert [row[2] for row in rows[1:5]] == ["-1", "", "True", '[1, "=x"]']
    assert count == len(harmful) + 1


def test_write_csv_to_a_path_reads_back(tmp_path):
    assert write_csv(tmp_path / "x.csv", {key: [row[key] for row in ROWS] for key in ROWS[0]}) == 0
    assert read(tmp_path / "x.csv").fingerprint == read(ROWS).fingerprint


# ---- real data and speed


def test_real_news():
    path = SHARED / "agnews" / "train.csv.gz"
    if not path.exists():
        pytest.skip(f"{path.name} of agnews is not here")
    with pytest.raises(DataError, match="no column 'text'; it has 'id', 'label', 'label_name', 'title', 'description'"):
        read(path)
    examples = read(path, columns=Columns(text="title", text_pair="description", label="label_name"))
    assert len(examples) == 14_946
    assert examples[0].text == "Explosion Rocks Baghdad Neighborhood"
    assert set(examples.labels) == {"World", "Sports", "Business", "Sci/Tech"}
    assert examples.warnings == ()


def test_hashing_is_fast():
    examples = read([f"a text of some words, number {i}, that is as long as a headline" for i in range(20_000)])
    start = time.process_time()
    assert examples.fingerprint
    # the goal is 100,000 rows/s; a busy machine and type checks in tests get five times as long
    assert time.process_time() - start < 1.0


# ---- what an example holds


def test_an_example_holds_one_kind_of_content():
    rows = [{"text": "a"}, {"text": "b", "text_pair": "c"}, {"text": "d", "target": "e"}]
    rows.append({"text": "f", "text_pair": "g", "target": "h"})
    examples = list(read(rows))
    assert [one.content for one in examples] == [Text("a"), Pair("b", "c"), Prompted("d", "e"), Prompted("f", "h", "g")]
    assert [one.parts for one in examples] == [("a",), ("b", "c"), ("d", "e"), ("f", "g")]
    fields = [(one.text, one.text_pair, one.target) for one in examples]
    assert fields == [("a", None, None), ("b", "c", None), ("d", None, "e"), ("f", "g", "h")]
    assert list(read(examples)) == examples


def test_an_example_is_made_of_a_content_or_of_texts():
    assert Example("q", 0, Pair("b", "c"), 1) == Example("q", 0, "b", 1, "c")
    assert replace(Example("q", 0, "d", "x", target="e"), label="y") == Example("q", 0, Prompted("d", "e"), "y")


def test_the_number_of_a_class_has_at_most_64_bits():
    largest = 2**63 - 1
    assert read([{"text": "t", "label": largest}, {"text": "t", "label": -largest - 1}]).labels == [
        largest,
        -largest - 1,
    ]
    for label in (2**63, 1e300, -(2**63) - 1):
        with pytest.raises(DataError, match=r"'label', row 1 holds .*: class numbers are limited to 64 bits"):
            read([{"text": "t", "label": 1}, {"text": "t", "label": label}])


def test_a_header_of_very_many_columns_is_refused_at_once(tmp_path: Path) -> None:
    path = tmp_path / "wide.csv"
    path.write_text(",".join(f"c{one}" for one in range(300_000)) + "\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"300,000 columns, and at most 10,000 are read: is the separator right"):
        read(path)


def test_a_role_that_is_no_text_names_its_row(tmp_path: Path) -> None:
    rows = [
        {"messages": [{"role": role, "content": "a"}, {"role": "assistant", "content": "b"}]}
        for role in ("user", "\ud800")
    ]
    path = tmp_path / "chat.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    with pytest.raises(DataError, match=r"row 1 \(line 2\) holds an unpaired surrogate"):
        read(path)
    path.write_text(
        json.dumps({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "\0"}]})
    )
    with pytest.raises(DataError, match=r"row 0 \(line 1\) holds a NUL"):
        read(path)
