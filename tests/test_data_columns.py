"""Large inputs cost little more than their bytes, and nothing of what they hold changes on the way."""

import hashlib
import io
import json
import math
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proponent.data import Columns, decoding, labels_and_ids, read
from proponent.data.columns import (
    Column,
    ColumnBuilder,
    as_json,
    change_texts,
    choose,
    joined,
    named,
    numbers,
    pack_texts,
    select,
)
from proponent.data.decoding import text_blocks, text_lines
from proponent.errors import DataError
from test_data import KINDS, ROWS

datasets = pytest.importorskip("datasets")


def many(n=2500):
    """More rows than one block holds, with every part, missing cells and characters of several bytes."""
    return [
        {
            "id": i * 7,
            "text": f"text {i} é🎉" + " \n" * (i % 3),
            "label": [None, "a", "ü"][i % 3],
            "text_pair": ["p", " ", None, "q\r\n"][i % 4],
            "target": ["t", None, ""][i % 3],
        }
        for i in range(n)
    ]


# ---- the fingerprint: these values were there before columns were packed, and indexes on disk hold them

PINNED = {
    "rows": "777fa59feffbefe842edea7ca3783ca5830440e9f0f9890e46b2a6c6262b547f",
    "many": "5e6169d01c959e8b3108471637a35ae00eb7955d210a50b1c59d4e6763f2a3f0",
    "reversed": "2ddb730acdd5b4071c8ca901fb0609d4c33c17e7504432c9deb33e08678079e3",
    "every third": "320cb9ec0ffaccf623d649b9a9829986bde9c96336711fc588be1aed410e1a77",
    "chosen": "ab2fd9b758614857eedd8a920483d2a825c5ec5163a6f74d370a668b4caa45a9",
    "texts": "f1b6c7c8c94712f80d2e4f3f37cc4ace463724684341133111279033dfe5fd40",
    "numbers": "81bbf4ccd4bcf3a60adb60ac6b1716a62b80d67ee366da116c9b6e492e928bdd",
    "empty": "48644cc94ced739b0ad0fd304b3be18608d2156689af161e00182895532d142a",
}
MADE = {
    "rows": lambda: read(ROWS),
    "many": lambda: read(many()),
    "reversed": lambda: read(many())[::-1],
    "every third": lambda: read(many())[5:2400:3],
    "chosen": lambda: read(many()).subset(np.arange(0, 2500, 7)[::-1]),
    "texts": lambda: read([f"text {i}" for i in range(1500)]),
    "numbers": lambda: read([{"text": "t", "label": label} for label in (0, -3, True, 2.0, None)]),
    "empty": lambda: read([{"text": None, "id": 1.0}, {"text": " ", "id": 2}], allow_empty=True),
}


@pytest.mark.parametrize("name", PINNED)
def test_fingerprints_are_those_of_old_indexes(name):
    assert MADE[name]().fingerprint == PINNED[name]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_the_pinned_fingerprint(kind, tmp_path):
    assert read(KINDS[kind](tmp_path)).fingerprint == PINNED["rows"]


def slow_fingerprint(examples):
    digest = hashlib.sha256(b"whence examples 1\n")
    for one in examples:
        for value in (one.id, one.text, one.text_pair, one.target, one.label):
            data = b"" if value is None else str(value).encode()
            digest.update(b"-" if value is None else str(len(data)).encode() + b":" + data)
    return digest.hexdigest()


def large_kinds(folder):
    """The same rows, more than a block, in every kind of file that is read piece by piece."""
    rows = [{**row, "id": str(row["id"])} for row in many()]
    frame = pd.DataFrame(rows)
    table = pa.table({key: [row[key] for row in rows] for key in rows[0]})
    lines = "\n".join(json.dumps(row) for row in rows)
    (folder / "x.jsonl").write_text(lines)
    (folder / "x.json").write_text(json.dumps(rows))
    pa.parquet.write_table(table, folder / "x.parquet", row_group_size=700)
    with pa.ipc.new_stream(folder / "x.arrow", table.schema) as writer:
        writer.write_table(table, max_chunksize=300)
    dataset = datasets.Dataset(table)
    return {
        **{suffix: folder / f"x.{suffix}" for suffix in ("jsonl", "json", "parquet", "arrow")},
        "dataset": dataset,
        "dataset in another order": dataset.select(range(2500)[::-1]).select(range(2500)[::-1]),
        "iterable": dataset.to_iterable_dataset(),
        "pandas": frame,
        "pandas objects": frame.astype(object),
        "polars": pl.DataFrame(rows),
    }


def test_every_kind_of_large_input_gives_the_same_examples(tmp_path):
    expected = list(read(many()))
    for kind, source in large_kinds(tmp_path).items():
        examples = read(source)
        assert list(examples) == expected, kind
        assert [examples[i] for i in (0, 1023, 1024, 2499, -1)] == [expected[i] for i in (0, 1023, 1024, 2499, -1)]
        assert examples.fingerprint == PINNED["many"] == slow_fingerprint(examples), kind
        assert len(examples.warnings) == len(read(many()).warnings), kind


def test_rows_of_a_dataset_come_in_the_order_that_was_chosen():
    order = np.random.default_rng(0).permutation(9000)
    dataset = datasets.Dataset.from_dict({"text": [f"t{i}" for i in range(9000)], "id": list(range(9000))})
    examples = read(dataset.select(order))
    assert examples.ids == [str(i) for i in order]
    assert examples.texts == [f"t{i}" for i in order]
    assert examples.column("id") == order.tolist()


def test_slices_of_slices_and_subsets_compose():
    examples, rows = read(many()), list(range(2500))
    for cut in (slice(None, None, -1), slice(10, 2000, 3), slice(2400, None), slice(3, 3), slice(-5, -90, -2)):
        assert [one.row for one in examples[cut]] == rows[cut]
        assert [one.row for one in examples[cut][1:40:2]] == rows[cut][1:40:2]
        chosen = [place for place in (3, 0, 7) if place < len(rows[cut])]
        some = examples[cut].subset(chosen)
        assert [one.row for one in some] == [rows[cut][place] for place in chosen]
        assert some.texts == [examples[one.row].text for one in some]
        assert some.column("id") == [one.row * 7 for one in some]
        assert slow_fingerprint(some) == some.fingerprint


def test_parts_without_python_objects():
    examples = read(many())
    for name, values in {"id": examples.ids, "text": examples.texts, "label": examples.labels}.items():
        part = examples.part(name)
        assert len(part) == 2500
        assert list(part) == values
        assert (part[-1], part[1020:1030]) == (values[-1], values[1020:1030])
        assert list(examples[::2].part(name)) == values[::2]
    assert list(examples[:3].part("source")) == [None, None, None]
    with pytest.raises(KeyError, match="unknown part 'row'"):
        examples.part("row")
    assert pa.array(read(pa.table({"text": ["a", "b"]})).part("text")).to_pylist() == ["a", "b"]


# ---- views are like the lists that they stand for

VALUES = st.lists(st.one_of(st.none(), st.text(st.characters(exclude_categories=["Cs"]))), max_size=12)


def as_arrow(texts):
    return Column(pack_texts(texts))


@settings(max_examples=80, deadline=None)
@given(VALUES, VALUES, st.data())
def test_views_are_like_lists(first, second, data):
    whole = first + second
    packed = [as_arrow(first), as_arrow(second)]
    rows = data.draw(st.lists(st.integers(0, len(whole) - 1), max_size=9)) if whole else []
    some, at = [whole[row] for row in rows], np.array(rows, dtype=np.int64)
    views = {
        "joined": (joined(packed), whole),
        "pieces": (joined([first, as_arrow(second)]), whole),
        "decoded": (as_json(whole), whole),
        "decoded pieces": (joined([as_json(first), as_json(second)]), whole),
        "chosen": (select(joined(packed), at), some),
        "chosen of a list": (select(whole, at), some),
        "odd": (select(joined(packed), range(len(whole))[1::2]), whole[1::2]),
        "chosen twice": (
            select(select(joined(packed), at), range(len(rows))[::-1]),
            some[::-1],
        ),
        "in Arrow": (Column(select(as_arrow(whole), range(len(whole))[::-2]).arrow), whole[::-2]),
    }
    cut = slice(
        *data.draw(st.tuples(*[st.one_of(st.none(), st.integers(-14, 14))] * 2, st.sampled_from([None, 2, -1])))
    )
    for name, (view, expected) in views.items():
        assert len(view) == len(expected), name
        assert list(view) == expected, name
        assert view[cut] == expected[cut], name
        assert [view[place] for place in range(-len(expected), len(expected))] == expected * 2, name
        for outside in (len(expected), -len(expected) - 1):
            with pytest.raises(IndexError):
                view[outside]


@given(st.integers(-9, 9), st.sampled_from([1, 2, -1, -3]), st.integers(0, 9), st.data())
def test_rows_are_chosen_of_chosen_rows(start, step, count, data):
    rows = range(start, start + step * count, step)
    cut = slice(*data.draw(st.tuples(*[st.one_of(st.none(), st.integers(-9, 9))] * 2, st.sampled_from([1, 2, -1]))))
    chosen = range(count)[cut]
    for mine in (rows, np.asarray(rows, dtype=np.int64)):
        for theirs in (chosen, np.asarray(chosen, dtype=np.int64)):
            assert list(choose(mine, theirs)) == list(rows)[cut]


def test_text_that_stays_as_it_is_shares_its_memory():
    column = as_arrow(["a" * 100] * 4000)
    addresses = {chunk.buffers()[2].address for chunk in column.arrow.chunks}
    assert change_texts(column, lambda _, block: block) is column.arrow
    changed = change_texts(column, lambda start, block: block if start != 1024 else [None, *block[1:]])
    assert [text for text in changed.to_pylist() if text is not None] == ["a" * 100] * 3999
    assert [chunk.buffers()[2].address in addresses for chunk in changed.chunks] == [True, False, True]


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(), st.text()),
    lambda inner: st.one_of(st.lists(inner, max_size=2), st.dictionaries(st.text(max_size=2), inner, max_size=2)),
    max_leaves=4,
)


def same(left, right):
    """Equal with equal kinds throughout; NaN equals NaN, and -0.0 is not 0.0."""
    return repr(left) == repr(right)


@settings(max_examples=120, deadline=None)
@given(st.lists(st.dictionaries(st.sampled_from("abc"), JSON, max_size=3), max_size=8))
def test_records_come_back_as_they_were(records):
    packer = ColumnBuilder(as_json)
    for record in records:
        packer.add(record)
    columns = packer.columns()
    assert list(columns) == list(dict.fromkeys(key for record in records for key in record))
    for key, get in columns.items():
        assert same(list(get()), [record.get(key) for record in records])


def test_a_column_may_change_its_kind_between_blocks():
    cells = ["a"] * 1500 + [None] * 1500 + [1] * 1500 + [True, 2.5, "z", [1], None] * 300
    packer = ColumnBuilder(as_json)
    for row, cell in enumerate(cells):
        packer.add({"x": cell, "y": "t"} | ({"late": row} if row > 4000 else {}))
    columns = packer.columns()
    assert same(list(columns["x"]()), cells)
    assert isinstance(columns["y"](), Column)
    assert list(columns["late"]()) == [None] * 4001 + list(range(4001, 6000))


def test_keys_without_end_are_kept_row_by_row(tmp_path):
    (tmp_path / "x.jsonl").write_text("".join(json.dumps({"text": "t", f"key {i}": i}) + "\n" for i in range(3000)))
    examples = read(tmp_path / "x.jsonl")
    assert len(examples.column_names) == 3001
    assert examples.column_names[-1] == "key 2999"
    for key in (0, 254, 255, 256, 2999):
        assert examples.column(f"key {key}") == [i if i == key else None for i in range(3000)]


# ---- files in pieces: where a piece ends changes nothing

HARD = 'id,text\r\n1,é\r2,"a\n\r\nb"\n\n3,🎉\u2028\x85,\r\r\n4,x'


@pytest.mark.parametrize("size", [1, 2, 3, 5, 8, 1000])
def test_where_a_block_ends_changes_no_line(size, tmp_path, monkeypatch):
    path = tmp_path / "x.csv"
    for text in (HARD, HARD + "\r", HARD + "\r\n", "\ufeff" + HARD, "\r", "\n", "a", "a\r\r\rb\r\n\n"):
        if not text.strip():
            continue
        path.write_bytes(text.encode())
        monkeypatch.setattr(decoding, "BLOCK_BYTES", size)
        assert "".join(text_blocks(path)) == text.removeprefix("\ufeff")
        for newline in ("", "\n"):
            whole = list(io.StringIO(text.removeprefix("\ufeff"), newline=newline))
            assert list(text_lines(path, newline=newline)) == whole


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
@pytest.mark.parametrize(
    ("data", "parts"),
    [
        ("text\na\ncafé\n".encode("latin-1"), ["byte 10, line 3", r"b'\xe9'", "windows-1252"]),
        ("text\na\ncafé".encode()[:-1], ["byte 10, line 3", "truncated"]),
        ("text\n🎉\ncafé🎉".encode()[:-1], ["byte 15, line 3", "truncated"]),
        (b"text\nabcdefgh\na\0b\n", ["NUL byte at byte 15, line 3", "remove it"]),
        (b" \n \n  \n", ["is empty"]),
    ],
)
def test_where_a_block_ends_changes_no_message(size, data, parts, tmp_path, monkeypatch):
    (tmp_path / "x.csv").write_bytes(data)
    monkeypatch.setattr(decoding, "BLOCK_BYTES", size)
    with pytest.raises(DataError) as caught:
        read(tmp_path / "x.csv")
    assert all(part in str(caught.value) for part in parts), str(caught.value)


def test_rows_of_a_long_csv_keep_their_lines(tmp_path):
    rows = "".join(f'{i},"line\nline {i}"\n' for i in range(3000))
    (tmp_path / "x.csv").write_text("id,text\n" + rows + "5,again\n")
    with pytest.raises(DataError, match=r"repeats '5' in row 5 \(line 12\), row 3000 \(line 6002\)"):
        read(tmp_path / "x.csv")
    (tmp_path / "x.csv").write_text("id,text\n" + rows + "x\n" * 5)
    with pytest.raises(DataError, match="line 6002 has 1, line 6003 has 1, line 6004 has 1 and 2 more lines"):
        read(tmp_path / "x.csv")
    (tmp_path / "x.csv").write_text("id,text\n" + rows + "7000,\n")
    with pytest.raises(DataError, match=r"row 3000 \(line 6002\)"):
        read(tmp_path / "x.csv")


@pytest.mark.parametrize(
    "text",
    [
        '[{"text": "a"},]',
        '[{"text": "a"} {"text": "b"}]',
        '[{"text": "a"}',
        '[{"text": "a"}] x',
        "[",
        '[{"text": NULL}]',
    ],
)
def test_a_broken_list_says_what_the_parser_says(text, tmp_path):
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(json.JSONDecodeError) as wrong:
        json.loads(text)
    with pytest.raises(DataError) as caught:
        read(tmp_path / "x.json")
    assert f"({wrong.value.msg}, line {wrong.value.lineno} column {wrong.value.colno})" in str(caught.value)


def test_values_of_json_keep_their_kind(tmp_path):
    cells = [1, True, 1.0, -0.0, "1", None, [1, {"a": "\ud800"}], 2**80, math.nan, "\ud83c"]
    rows = [{"text": "t", "x": cell, "n": i} for i, cell in enumerate(cells)]
    (tmp_path / "x.json").write_text("\n [ " + " , \n".join(map(json.dumps, rows)) + "\t]\n")
    (tmp_path / "x.jsonl").write_text("\n".join(map(json.dumps, rows)))
    for name in ("x.json", "x.jsonl"):
        assert same(read(tmp_path / name).column("x"), cells)
        assert same(read(tmp_path / name).column("n"), list(range(10)))


# ---- ids


def test_ids_whose_hashes_collide_are_compared_as_text(monkeypatch):
    monkeypatch.setattr(labels_and_ids, "hash", lambda _: 7, raising=False)
    rows = [{"id": f"id {i}", "text": "t"} for i in range(2000)]
    assert read(rows).ids == [row["id"] for row in rows]
    with pytest.raises(DataError, match="repeats 'id 3' in row 3, row 2000: make them unique"):
        read([*rows, {"id": "id 3", "text": "t"}])


def test_an_id_that_comes_again_much_later_is_found():
    rows = [{"id": i, "text": "t"} for i in range(5000)] + [{"id": "17", "text": "t"}, {"id": 4242.0, "text": "t"}]
    with pytest.raises(
        DataError, match=r"repeats '17' in row 17, row 5000; '4242' in row 4242, row 5001: make them unique"
    ):
        read(rows)


# ---- Arrow memory that others filled


def broken_text():
    """A text column whose bytes are not UTF-8."""
    offsets = pa.py_buffer(np.array([0, 1, 3], dtype=np.int32))
    return pa.Array.from_buffers(pa.string(), 2, [None, offsets, pa.py_buffer(b"a\xff\xfe")])


def test_arrow_text_that_is_not_utf8_is_refused(tmp_path):
    table = pa.table({"text": broken_text()})
    pa.parquet.write_table(table, tmp_path / "x.parquet")
    with pa.ipc.new_file(tmp_path / "x.arrow", table.schema) as writer:
        writer.write_table(table)
    for source in (table, tmp_path / "x.parquet", tmp_path / "x.arrow"):
        with pytest.raises(DataError, match="column 'text' contains bytes that are not valid string") as caught:
            read(source)
        assert "\n" not in str(caught.value)


def test_only_columns_with_a_part_are_read_from_parquet(tmp_path):
    table = pa.table({"text": ["a"] * 10, "other": [str(i) * 300 for i in range(10)]})
    path = tmp_path / "x.parquet"
    pa.parquet.write_table(table, path, compression="none", use_dictionary=False, write_page_checksum=True)
    data = bytearray(path.read_bytes())
    data[data.index(b"5" * 300) + 100] ^= 1
    path.write_bytes(data)
    examples = read(path)
    assert examples.texts == ["a"] * 10
    with pytest.raises(DataError, match="not a readable Parquet file"):
        examples.column("other")


def test_a_parquet_file_may_be_replaced_while_it_is_in_use(tmp_path):
    pa.parquet.write_table(pa.table({"text": ["a"], "other": ["old"]}), tmp_path / "x.parquet")
    examples = read(tmp_path / "x.parquet")
    pa.parquet.write_table(pa.table({"text": ["b"], "other": ["new"]}), tmp_path / "y.parquet")
    (tmp_path / "y.parquet").replace(tmp_path / "x.parquet")
    assert examples.column("other") == ["old"]


def test_columns_with_dots_in_their_names(tmp_path):
    columns = {"a.b": ["x", "y"], "a": [{"b": 1, "c": "q"}, None], "c": pa.array(["u", "v"]).dictionary_encode()}
    pa.parquet.write_table(pa.table(columns), tmp_path / "x.parquet")
    examples = read(tmp_path / "x.parquet", columns=Columns(text="a.b", label="c"))
    assert (examples.texts, examples.labels) == (["x", "y"], ["u", "v"])
    assert examples.column("a") == [{"b": 1, "c": "q"}, None]


# ---- memory and time

MEASURED = """
import sys
from proponent.data import read
import numpy, pyarrow.parquet, pyarrow.ipc
if sys.argv[1].endswith("saved"):
    import datasets
def high():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")) * 1024
before = high()
examples = read(sys.argv[1])
assert examples.fingerprint
print(high() - before, *[name for name in ("pandas",) if name in sys.modules and "datasets" not in sys.modules])
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from /proc")
@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet", "arrow", "saved"])
def test_reading_takes_little_more_memory_than_the_text(kind, tmp_path):
    n, words = 100_000, [f"word{i * 7919 % 997}" for i in range(997)]
    texts = [" ".join(words[(i * 31 + k) % 997] for k in range(60)) for i in range(n)]
    size = sum(map(len, texts))
    assert 40e6 < size < 50e6
    path, table = tmp_path / f"x.{kind}", pa.table({"text": texts, "id": [f"id {i}" for i in range(n)]})
    if kind == "csv":
        path.write_text("text,id\n" + "".join(f"{text},id {i}\n" for i, text in enumerate(texts)))
    elif kind == "jsonl":
        path.write_text("".join(f'{{"text": "{text}", "id": "id {i}"}}\n' for i, text in enumerate(texts)))
    elif kind == "parquet":
        pa.parquet.write_table(table, path)
    elif kind == "arrow":
        with pa.ipc.new_file(path, table.schema) as writer:
            writer.write_table(table, max_chunksize=1000)
    else:
        datasets.Dataset(table).save_to_disk(str(path))
    done = subprocess.run([sys.executable, "-c", MEASURED, path], capture_output=True, text=True, check=True)
    grown, *imported = done.stdout.split()
    # blocks on their way, decoders and first imports are at most 40 MB, whatever n is
    assert int(grown) < 1.3 * size + 40e6
    assert imported == []


def test_one_example_costs_the_same_in_a_large_collection():
    def seconds(n):
        examples = read(pa.table({"text": ["some text"] * n, "id": [f"id {i}" for i in range(n)]}))[::-1]
        took = []
        for _ in range(5):
            start = time.process_time()
            for place in range(0, n, n // 200):
                assert examples[place].row == n - 1 - place
                assert len(examples[place:]) == n - place
            took.append(time.process_time() - start)
        return min(took)

    # a linear cost would be 50 times as much
    assert seconds(100_000) < 8 * seconds(2000)


def test_files_of_several_kinds_stay_in_arrow_memory(tmp_path):
    (tmp_path / "a.csv").write_text("text,other\na,1\n")
    (tmp_path / "b.jsonl").write_text('{"text": "b", "late": [1]}\n')
    pa.parquet.write_table(pa.table({"text": ["c"]}), tmp_path / "c.parquet")
    examples = read([str(tmp_path / name) for name in ("a.csv", "b.jsonl", "c.parquet")])
    assert examples.texts == ["a", "b", "c"]
    assert isinstance(examples.as_read("text"), Column)
    assert isinstance(examples.as_read("other"), Column)
    assert (examples.column("other"), examples.column("late")) == (["1", None, None], [None, [1], None])


def test_rows_of_views_are_selected_one_by_one() -> None:
    texts = ["a", "b", None, "d"]
    views = [pa.array(texts, pa.string_view()), pa.array([[one] for one in texts], pa.list_(pa.string_view()))]
    for number, view in enumerate(views):
        column = Column(view, np.asarray([3, 2, 0]))
        assert list(column) == ([["d"], [None], ["a"]] if number else ["d", None, "a"])


@given(st.lists(st.tuples(st.integers(-1, 2), st.booleans(), st.floats(allow_nan=False))))
def test_names_and_numbers_in_arrow_memory_are_those_of_lists(rows: list[tuple[int, bool, float]]) -> None:
    codes = np.asarray([one for one, _, _ in rows], dtype=np.int64)
    names = ["x", "", "é"]
    assert list(named(codes, names)) == [None if one < 0 else names[one] for one, _, _ in rows]
    assert list(numbers(np.asarray([one for _, one, _ in rows], dtype=np.bool_))) == [one for _, one, _ in rows]
    assert list(numbers(np.asarray([one for *_, one in rows], dtype=np.float64))) == [one for *_, one in rows]
