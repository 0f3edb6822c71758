"""Where rows come from: an optional column, no part of an example and none of the fingerprint."""

import math

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from proponent.data import Columns, read
from proponent.errors import DataError
from proponent.types import Example


def rows(sources, name="source"):
    return [{"id": i, "text": f"t{i}", name: source} for i, source in enumerate(sources)]


def test_sources_are_read_when_they_are_there():
    examples = read(rows(["web", "books", None, "", "web"]))
    assert examples.sources == ["web", "books", None, None, "web"]
    assert examples[::-2].sources == ["web", None, "web"]
    assert examples.subset([1]).sources == ["books"]
    assert examples.column("source") == ["web", "books", None, "", "web"]
    assert examples.warnings == ()
    assert examples[0] == Example("0", 0, "t0")


def test_without_the_column_there_are_no_sources():
    assert read(["a", "b"]).sources == [None, None]
    assert read([Example("x", 0, "t")]).sources == [None]


def test_sources_do_not_alter_the_fingerprint():
    plain = read([{"id": i, "text": f"t{i}"} for i in range(3)])
    assert read(rows(["a", "b", "c"])).fingerprint == plain.fingerprint
    assert read(rows(["a", "b", "c"], "origin"), columns=Columns(source="origin")).fingerprint == plain.fingerprint


def test_sources_by_name():
    given = rows(["a", "b"], "corpus")
    assert read(given).sources == [None, None]
    assert read(given, columns=Columns(source="corpus")).sources == ["a", "b"]
    with pytest.raises(DataError, match=r"no column 'corpsu'.*choose a column with --source-column.*'corpus'"):
        read(given, columns=Columns(source="corpsu"))


def test_an_empty_name_leaves_sources_out():
    examples = read(rows(["a", "b"]), columns=Columns(source=""))
    assert examples.sources == [None, None]
    assert examples.column("source") == ["a", "b"]


def test_a_column_plays_one_part():
    examples = read(rows(["a", "b"]), columns=Columns(label="source"))
    assert (examples.labels, examples.sources) == (["a", "b"], [None, None])
    with pytest.raises(DataError, match="selected by both --text-column and --source-column"):
        read([{"x": "a"}], columns=Columns(text="x", source="x"))


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([7, 7.0, "7", None], ["7", "7", "7", None]),
        ([np.int64(3), math.nan, " "], ["3", None, None]),
        ([pd.NA, "a"], [None, "a"]),
        (["a\u2028b", "🎉"], ["a\u2028b", "🎉"]),
    ],
)
def test_sources_become_text(given, expected):
    assert read(rows(given)).sources == expected


@pytest.mark.parametrize("cell", [["a"], {"name": "web"}, 0.5, True, b"a", "a\0b", "\ud800"])
def test_what_is_no_source(cell):
    examples = read(rows(["a", cell]))
    assert examples.sources == [None, None]
    (warning,) = examples.warnings
    assert "column 'source', row 1 holds" in warning
    assert warning.endswith("the sources of its rows are ignored")
    with pytest.raises(DataError, match=r"column 'origin', row 1 holds"):
        read(rows(["a", cell], "origin"), columns=Columns(source="origin"))


def test_sources_of_every_kind_of_file(tmp_path):
    many = [["web", "books", ""][i % 3] for i in range(3000)]
    table = pa.table({"text": ["t"] * 3000, "id": [str(i) for i in range(3000)], "source": many})
    pa.parquet.write_table(table, tmp_path / "x.parquet")
    (tmp_path / "x.csv").write_text("source,text\n" + "".join(f"{source},t\n" for source in many))
    for source in (tmp_path / "x.parquet", tmp_path / "x.csv", table, table.to_pandas()):
        assert read(source).sources == [source or None for source in many]
