"""Arrow files that polars writes: messages without marks before them, and texts as views."""

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from proponent.data import read
from proponent.data.rewriting import Part, write_parts
from proponent.errors import DataError

pl: Any = pytest.importorskip("polars")

ROWS = {
    "id": ["r1", "r2", "r3"],
    "text": ["a text of more than twelve letters", "short", "another text of more than twelve letters"],
    "label": ["x", "y", "x"],
}


@pytest.mark.parametrize("compression", ["uncompressed", "zstd", "lz4"])
@pytest.mark.parametrize("oldest", [True, False], ids=["oldest", "newest"])
@pytest.mark.parametrize("how", ["write_ipc", "write_ipc_stream"])
def test_files_of_polars_are_read(tmp_path: Path, how: str, oldest: bool, compression: str) -> None:
    frame = pl.DataFrame(ROWS).with_columns(pl.col("label").cast(pl.Categorical), other=pl.Series([["a"], [], None]))
    level = {"compat_level": pl.CompatLevel.oldest()} if oldest else {}
    getattr(frame, how)(tmp_path / "a.arrow", compression=compression, **level)
    examples = read(tmp_path / "a.arrow")
    assert examples.ids == ROWS["id"]
    assert examples.texts == ROWS["text"]
    assert examples.labels == ROWS["label"]
    assert list(examples.column("other")) == [["a"], [], None]


def test_empty_and_missing_texts_of_polars(tmp_path: Path) -> None:
    frame = pl.DataFrame({"text": ["a" * 20, "", "b"], "text_pair": ["c" * 30, None, None]})
    frame.slice(0, 3).write_ipc(tmp_path / "a.arrow")
    examples = read(tmp_path / "a.arrow", allow_empty=True)
    assert examples.texts == ["a" * 20, "", "b"]
    assert [one.text_pair for one in examples] == ["c" * 30, None, None]


def test_columns_of_views_keep_their_place_in_a_parquet_file(tmp_path: Path) -> None:
    pl.DataFrame(ROWS | {"n": [1, 2, 3]}).write_ipc(tmp_path / "a.arrow")
    examples = read(tmp_path / "a.arrow")
    write_parts(tmp_path / "b.parquet", [Part(examples, [2, 0], "label", {2: "z"})], ".parquet", guard=False)
    written = read(tmp_path / "b.parquet")
    assert written.texts == [ROWS["text"][2], ROWS["text"][0]]
    assert written.labels == ["z", "x"]
    assert written.column("n") == [3, 1]


def views(lengths: list[int], data: bytes) -> Any:
    packed = b"".join(struct.pack("<i4sii", length, data[:4], 0, 0) for length in lengths)
    return pa.Array.from_buffers(pa.string_view(), len(lengths), [None, pa.py_buffer(packed), pa.py_buffer(data)])


@pytest.mark.parametrize("make", [pa.ipc.new_file, pa.ipc.new_stream])
@pytest.mark.parametrize("wrap", ["plain", "list", "struct", "dictionary"])
def test_views_that_share_a_long_text_are_not_unfolded(tmp_path: Path, make: Any, wrap: str) -> None:
    column = views([2**20] * 4096, b"x" * 2**20)
    if wrap == "list":
        column = pa.ListArray.from_arrays(pa.array(range(4097), pa.int32()), column)
    elif wrap == "struct":
        column = pa.StructArray.from_arrays([column], ["a"])
    elif wrap == "dictionary":
        column = pa.DictionaryArray.from_arrays(pa.array(np.arange(4096)), column)
    table = pa.table({"text": column, "label": ["x"] * 4096})
    with make(str(tmp_path / "a.arrow"), table.schema) as writer:
        writer.write_table(table)
    with pytest.raises(DataError, match="unfolds to more than"):
        read(tmp_path / "a.arrow").column("text")


def test_views_outside_of_their_text_are_refused(tmp_path: Path) -> None:
    table = pa.table({"text": views([2**20, 5000], b"x" * 100)})
    with pa.ipc.new_stream(str(tmp_path / "a.arrow"), table.schema) as writer:
        writer.write_table(table)
    with pytest.raises(DataError, match="column 'text' contains bytes that are not valid string_view"):
        read(tmp_path / "a.arrow")


# ---- the footer of a file ----


def in_parts(path: Path) -> tuple[bytes, list[bytes]]:
    """A file with one long batch and three short ones, and their places as its footer states them."""
    with pa.ipc.new_file(str(path), pa.schema([("text", pa.string())])) as writer:
        for text in ("x" * 10_000, "a", "b", "c"):
            writer.write_table(pa.table({"text": [text]}))
    data = path.read_bytes()
    size = struct.unpack("<i", data[-10:-6])[0]
    footer = data[-10 - size : -10]
    places = sorted(
        found
        for at in range(0, len(footer) - 23, 4)
        if 0 < (found := struct.unpack_from("<qi4xq", footer, at))[0] < len(data)
        and 0 < found[1] < 1000
        and 0 < found[2] < 20_000
        and data[found[0] : found[0] + 4] == b"\xff" * 4
    )
    assert len(places) == 4
    return data, [struct.pack("<qi4xq", *one) for one in places]


def test_batches_that_a_footer_names_twice_are_refused(tmp_path: Path) -> None:
    data, places = in_parts(tmp_path / "a.arrow")
    assert [len(text) for text in read(tmp_path / "a.arrow").texts] == [10_000, 1, 1, 1]
    for one in places[1:]:
        data = data.replace(one, places[0])
    (tmp_path / "a.arrow").write_bytes(data)
    with pytest.raises(DataError, match="parts outside of the file, or one in another"):
        read(tmp_path / "a.arrow")


@pytest.mark.parametrize("change", [(8, 0, 0), (-8, 0, 0), (0, 8, 0), (0, -8, 0), (2**40, 0, 0), (0, 0, -(2**40))])
def test_a_footer_that_states_other_places_is_refused(tmp_path: Path, change: tuple[int, int, int]) -> None:
    data, places = in_parts(tmp_path / "a.arrow")
    stated = struct.unpack("<qi4xq", places[1])
    wrong = struct.pack("<qi4xq", *(one + more for one, more in zip(stated, change, strict=True)))
    (tmp_path / "a.arrow").write_bytes(data.replace(places[1], wrong))
    with pytest.raises(DataError, match="not a readable Arrow file"):
        read(tmp_path / "a.arrow")


def test_a_file_without_its_end_is_refused(tmp_path: Path) -> None:
    data, _ = in_parts(tmp_path / "a.arrow")
    (tmp_path / "a.arrow").write_bytes(data[:-20])
    with pytest.raises(DataError, match="no footer at its end: the file may be cut off"):
        read(tmp_path / "a.arrow")
