"""CSV for spreadsheets: nothing that a program could take for a formula is left at the start of a cell."""

import csv
import io

import pytest

from proponent.data import write_csv

SIGNS = "=+-@＝＋－＠﹢﹣﹦﹫"
BEFORE = [
    "",
    " ",
    "  ",
    "\u00a0",
    "\u3000",
    "\ufeff",
    "\u200b",
    "\t",
    "\n",
    "\r",
    "\r\n",
    "\x0b",
    "\x0c",
    " \n ",
    "\ufeff ",
]
PLAIN = [
    "",
    "a=1",
    "text",
    "-5",
    "+1.5e3",
    " -5",
    "5",
    "'=x",
    "日本",
    " text",
    "\u00a0text",
    "－"[:0],
    "a\n=1",
    'say "x"',
]


def written(cells: list[str]) -> tuple[list[str], int]:
    out = io.StringIO()
    guarded = write_csv(out, {"text": cells}, guard=True)
    rows = list(csv.reader(io.StringIO(out.getvalue(), newline="")))
    return [row[0] if row else "" for row in rows[1:]], guarded


@pytest.mark.parametrize("before", BEFORE)
def test_every_sign_after_everything_that_programs_ignore_is_guarded(before: str) -> None:
    cells = [f"{before}{sign}SUM(A1)" for sign in SIGNS]
    assert written(cells) == ([f"'{one}" for one in cells], len(cells))


@pytest.mark.parametrize("control", list("\t\r\n\0\x0b\x0c"))
def test_a_cell_that_begins_with_a_control_is_guarded(control: str) -> None:
    assert written([f"{control}x"]) == ([f"'{control}x"], 1)


def test_other_cells_and_numbers_stay_as_they_are() -> None:
    assert written(PLAIN) == (PLAIN, 0)


def test_without_a_guard_nothing_changes() -> None:
    out = io.StringIO()
    assert write_csv(out, {"=a": ["=1", "\n=1"]}, guard=False) == 0
    assert list(csv.reader(io.StringIO(out.getvalue(), newline=""))) == [["=a"], ["=1"], ["\n=1"]]
