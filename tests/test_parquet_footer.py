"""The footer of a Parquet file is read as pyarrow reads it, and no footer ends the process."""

import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proponent.data import read
from proponent.data.parquet_footer import MOST_FOOTER, Chunk, columns, footer_place
from proponent.data.thrift_compact import BINARY, I32, I64, Many, Struct, parsed
from proponent.errors import DataError


def footer(path: Path) -> bytes:
    data = path.read_bytes()
    at, length = footer_place(data[-8:], len(data))
    return data[at : at + length]


def theirs(path: Path) -> list[list[Chunk]]:
    """What pyarrow says of the columns."""
    found = parquet.ParquetFile(path).metadata
    groups = [found.row_group(one) for one in range(found.num_row_groups)]
    return [[_theirs(group.column(one)) for one in range(group.num_columns)] for group in groups]


def _theirs(one: Any) -> Chunk:
    first = one.dictionary_page_offset
    begin = first if first is not None and 0 < first < one.data_page_offset else one.data_page_offset
    nulls = one.statistics.null_count if one.statistics is not None and one.statistics.has_null_count else None
    return Chunk(one.path_in_schema, one.physical_type, one.num_values, begin, one.total_compressed_size, nulls)


TABLES = {
    "flat": pa.table({"text": ["a", None, "ü" * 40] * 50, "label": [1, 2, 3] * 50, "score": [0.5, None, 1.0] * 50}),
    "nested": pa.table({"m": [[{"role": "user", "content": "x"}], [], None] * 20, "a.b": [True, False, None] * 20}),
    "no rows": pa.table({"text": pa.array([], pa.string())}),
    "no columns": pa.table({}),
}


@pytest.mark.parametrize("version", ["1.0", "2.0"])
@pytest.mark.parametrize("how", [{}, {"compression": "zstd", "use_dictionary": False}, {"write_statistics": False}])
@pytest.mark.parametrize("name", TABLES)
def test_columns_are_those_that_pyarrow_names(tmp_path: Path, name: str, how: dict[str, Any], version: Any) -> None:
    path = tmp_path / "a.parquet"
    parquet.write_table(TABLES[name], path, row_group_size=40, data_page_version=version, **how)
    assert [list(one) for one in columns(footer(path))] == theirs(path)


@given(
    st.lists(st.one_of(st.none(), st.text(max_size=30)), max_size=40),
    st.integers(1, 15),
    st.dictionaries(st.text(max_size=5), st.text(max_size=20), max_size=3),
)
@settings(max_examples=30)
def test_any_texts_groups_and_notes(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str | None], rows: int, notes: dict[str, str]
) -> None:
    path = tmp_path_factory.mktemp("parquet") / "a.parquet"
    table = pa.table({"text": pa.array(texts, pa.string())}).replace_schema_metadata(notes)
    parquet.write_table(table, path, row_group_size=rows)
    assert [list(one) for one in columns(footer(path))] == theirs(path)


READS = """
import random, sys
from pathlib import Path
from proponent.data import read
from proponent.errors import ProponentError

path, whole = Path(sys.argv[1]), Path(sys.argv[1]).read_bytes()
length = int.from_bytes(whole[-8:-4], "little")
counts = [0, 0]
begin = len(whole) - 8 - length
for at in range(begin, begin + min(length, 400)):  # the schema and the columns; further on are notes
    made = bytearray(whole)
    made[at] = (made[at] + random.Random(at).choice((1, -1, 16))) % 256
    path.write_bytes(made)
    try:
        list(read(path))
        counts[0] += 1
    except ProponentError:
        counts[1] += 1
print(*counts)
"""


@pytest.mark.parametrize("name", ["flat", "nested"])
def test_no_footer_ends_the_process(tmp_path: Path, name: str) -> None:
    path = tmp_path / "a.parquet"
    table = pa.table({"text": ["a", "b", "ü" * 40] * 20, "label": ["x", "y", "x"] * 20})
    if name == "nested":
        table = table.drop_columns("label").append_column("m", TABLES["nested"]["m"])
    parquet.write_table(table, path, row_group_size=30)
    done = subprocess.run([sys.executable, "-c", READS, str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-500:]
    as_before, refused = map(int, done.stdout.split())
    assert as_before > 20
    assert refused > 100


def test_a_field_that_occurs_twice_or_has_another_kind_is_refused() -> None:
    wanted = Struct({2: I32})
    assert parsed(bytes([0x25, 6, 0]), 0, wanted) == (3, {2: 3})
    with pytest.raises(ValueError, match="twice"):
        parsed(bytes([0x25, 6, 0x05, 4, 8, 0]), 0, wanted)  # field 2 again, by its number
    with pytest.raises(ValueError, match="another kind"):
        parsed(bytes([0x26, 6, 0]), 0, wanted)
    with pytest.raises(ValueError, match="nested too deeply"):
        parsed(bytes([0x1C] * 40), 0, Struct({}))
    with pytest.raises(ValueError, match="no writer makes"):
        parsed(bytes([0x25, 6, 0x10, 0]), 0, wanted)  # others take every byte of kind 0 for the end
    with pytest.raises(ValueError, match="64 bits"):
        parsed(bytes([0x26, *[0xFF] * 9, 0x7F, 0]), 0, Struct({2: I64}))
    with pytest.raises(ValueError, match="32 bits"):
        parsed(bytes([0x25, *[0xFF] * 5, 0x01, 0]), 0, wanted)
    with pytest.raises(ValueError, match="too many parts"):
        parsed(bytes([0x19, 0x38, 0, 0, 0, 0]), 0, Struct({1: Many(BINARY, 2)}))
    with pytest.raises(ValueError, match="without what it needs"):
        parsed(bytes([0]), 0, Struct({2: I32}, frozenset({2})))
    with pytest.raises(ValueError, match="unknown kind"):
        parsed(bytes([0x19, 0x20, 0, 0, 0]), 0, Struct({}))  # a list of parts of kind 0
    with pytest.raises(ValueError, match="longer than its file"):
        parsed(bytes([0x19, 0xF8, 0xFF, 0xFF, 0x7F, 0]), 0, Struct({1: Many(BINARY, 9)}))


@pytest.mark.parametrize(
    ("tail", "said"),
    [
        (b"\x05\x00\x00\x00PARE", "no footer"),
        (b"\x00\x00\x00\x00PAR1", "no footer"),
        (b"\xff\xff\xff\x7fPAR1", "no footer"),
        (b"PAR1", "no footer"),
    ],
)
def test_a_tail_that_is_no_tail(tail: bytes, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        footer_place(tail, 1000)


def test_a_footer_that_is_too_large_says_what_to_do() -> None:
    length = MOST_FOOTER + 1
    with pytest.raises(ValueError, match="write larger row groups"):
        footer_place(length.to_bytes(4, "little") + b"PAR1", 2 * length)


def test_skipped_values_of_every_kind(tmp_path: Path) -> None:
    """Maps, sets, truth values and doubles are stepped over."""
    several = bytes([
        0x11, 0x12, 0x13, 7, 0x17, *[0] * 8, 0x18, 2, 65, 66, 0x1B, 1, 0x85, 1, 65, 8, 0x1A, 0x21, 1, 2, 0x1C, 0,
        0x15, 6, 0,
    ])  # fmt: skip
    assert parsed(several, 0, Struct({9: I32})) == (len(several), {9: 3})
    for cut in range(len(several)):
        with pytest.raises((IndexError, ValueError)):
            parsed(several[:cut], 0, Struct({9: I64 if cut % 2 else I32}))
    chance = random.Random(0)
    for _ in range(300):  # any bytes: an answer or one of the two errors
        try:
            parsed(chance.randbytes(60), 0, Struct({1: Many(Struct({1: I64}), 9), 2: BINARY}))
        except (ValueError, IndexError):
            continue


def test_a_file_of_many_groups_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    parquet.write_table(pa.table({"text": [f"t{one}" for one in range(500)]}), path, row_group_size=1)
    assert [one.text for one in read(path)][::100] == ["t0", "t100", "t200", "t300", "t400"]


def test_a_dictionary_that_only_others_see_is_refused(tmp_path: Path) -> None:
    """Its offset has 65 bits, of which some readers keep 64."""
    path = tmp_path / "a.parquet"
    texts = pa.array(["x" * 3000, "y"]).take(pa.array([0, 1] * 2000))
    parquet.write_table(pa.table({"text": texts}), path, compression="zstd")
    found = parquet.ParquetFile(path).metadata.row_group(0).column(0)
    data = path.read_bytes()
    at, length = footer_place(data[-8:], len(data))
    coded = bytes([2 * found.dictionary_page_offset])
    assert data[at : at + length].count(b"\x26" + coded) >= 1  # field 11 after field 9
    place = data.index(b"\x26" + coded, at) + 1
    longer = bytes([coded[0] | 128, *[128] * 8, 4])
    made = data[:place] + longer + data[place + 1 : -8] + (length + len(longer) - 1).to_bytes(4, "little") + b"PAR1"
    with pytest.raises(ValueError, match="64 bits"):
        columns(made[at:-8])
    path.write_bytes(made)
    with pytest.raises(DataError, match="not a readable Parquet file"):
        read(path)
