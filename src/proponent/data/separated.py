"""CSV and TSV, and their like with another separator: read strictly and row by row; errors name the line."""

import csv
import re
import threading
from array import array
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Literal, get_args

from proponent.data.columns import ColumnBuilder
from proponent.data.decoding import text_lines
from proponent.data.table import RawTable, check_names, packed_table, skipped_lines
from proponent.errors import DataError, InputError

Quotes = Literal["auto", "double", "none"]
"""What a quote at the beginning of a field means: it quotes the field (double), or nothing (none). With auto it quotes,
and a quoted field whose lines look like rows is refused in TSV files and reported in others."""

SEPARATORS = {".csv": ",", ".tsv": "\t"}
"""The separator of each type of file."""

_NAMED = {"comma": ",", "tab": "\t", "\\t": "\t", "semicolon": ";", "pipe": "|", "colon": ":", "space": " "}
_OTHERS = (";", "\t", "|", ",", ":")
_COLON = re.compile(r"\w:\w")
_QUOTED = re.compile(r'"(?:[^"]|"")*"[ ]*([;\t|,:])')
"""A quoted field at the beginning of a line, and the separator behind it."""

_JSON = "the first line looks like JSON: rename the file to .jsonl (one object per line) or .json (one list)"
_ANY_LENGTH = 2**31 - 1
_FIRST = re.compile(r"sep=(.)\r?\n?", re.IGNORECASE)
_field_limit = threading.Lock()


@dataclass(frozen=True)
class Separated:
    """How a CSV or TSV file is written."""

    header: tuple[str, ...] = ()  # names of the columns of a file without a header line
    separator: str = ""  # empty: that of the file's type
    quotes: Quotes = "auto"

    @classmethod
    def of(cls, header: Sequence[str] = (), separator: str = "", quotes: str = "auto") -> "Separated":
        """Check what a user says about a file."""
        mark = _NAMED.get(separator, separator)
        if len(mark) > 1 or mark in {'"', "\r", "\n"}:
            raise InputError(
                f"--separator {separator!r} (separator=): give one character, or one of {', '.join(_NAMED)}"
            )
        if quotes not in get_args(Quotes):
            raise InputError(f"--quotes {quotes!r} (quotes=): choose one of {', '.join(get_args(Quotes))}")
        return cls(tuple(header), mark, quotes)  # type: ignore[arg-type]

    @property
    def plain(self) -> bool:
        """Whether nothing is said about the file."""
        return self == Separated()

    @property
    def stored(self) -> dict[str, str]:
        """What must be known to read the file again, by the names of the options; lists are joined by commas."""
        said = {"header": ",".join(self.header), "separator": self.separator, "quotes": self.quotes}
        return {name: value for name, value in said.items() if value != ("auto" if name == "quotes" else "")}


def read_separated(path: Path, how: Separated, usual: str) -> RawTable:
    """Read a file whose columns are named by its first line, or by the caller."""
    name = str(path)
    header = check_names(name, how.header) if how.header else None
    separator, begin, held = _first_line(name, text_lines(path, newline=""), how.separator, usual)
    packer = ColumnBuilder(list, header or ())
    lines, blank = array("q"), array("q")
    ragged, odd = list[str](), list[str]()
    for line, last, alike, row in _rows(name, held, begin, separator, how.quotes):
        if alike:
            odd.append(f"lines {line} to {last}")
        if not row:
            blank.append(line)
        elif header is None:
            header = check_names(name, row)
            packer = ColumnBuilder(list, header)
        else:
            lines.append(line)
            if len(row) == len(header):
                packer.add(dict(zip(header, row, strict=True)))
            elif len(ragged) < 3:
                ragged.append(f"line {line} has {len(row)}")
    if header is None:
        raise DataError(f"{path}: the file is empty")
    _refuse_ragged(name, header, ragged, len(lines) - len(packer), named=bool(how.header))
    warnings = [*skipped_lines(name, blank, lines), *_odd_quotes(name, odd, separator)]
    return packed_table(name, packer, lines, tuple(warnings), how.stored)


def _first_line(name: str, lines: Iterator[str], asked: str, usual: str) -> tuple[str, int, Iterator[str]]:
    """The separator, the number of the first line that is read, and the lines; spreadsheets may write sep=; first."""
    first = next(lines, "")
    if first.startswith(('{"', "[{", "{'")):
        raise DataError(f"{name}: {_JSON}")
    named = _FIRST.fullmatch(first)
    if named is None:
        return asked or usual, 1, chain([first], lines)
    return asked or named[1], 2, lines


def _refuse_ragged(name: str, header: Sequence[str], ragged: Sequence[str], count: int, *, named: bool) -> None:
    if not count:
        return
    more = f" and {count - 3} more lines" if count > 3 else ""
    way = other_separator(header) if len(header) == 1 and not named else ""
    if not way and not named and header[0].startswith("#"):
        way = "line 1 looks like a comment: remove it"
    fewer = all(int(one.rsplit(" ", 1)[1]) < len(header) for one in ragged)
    usual = (
        "give every row a field for each column (empty ones, too)"
        if fewer
        else 'put double quotes (") around fields that contain the separator'
    )
    raise DataError(
        f"{name}: {'--header' if named else 'the header'} has {len(header)} field{'s' * (len(header) != 1)} but "
        f"{', '.join(ragged)}{more}: {way or usual}"
    )


def other_separator(names: Sequence[str]) -> str:
    """Advice for a table with one column whose name contains a separator; empty where it contains none."""
    name = names[0] if _COLON.search(names[0]) else names[0].replace(":", "")
    mark = next((one for one in _OTHERS if one in name), None)
    return "" if mark is None else _separate("the only name contains", mark)


def _separate(found: str, mark: str) -> str:
    said = next(word for word, one in _NAMED.items() if one == mark)
    return f"is the separator right? {found} a {said}: read the file with --separator {said} (separator={mark!r})"


def _odd_quotes(name: str, odd: Sequence[str], separator: str) -> Iterator[str]:
    """Report quoted fields whose lines look like rows; refuse them in a TSV file, where fields hold no tabs."""
    if not odd:
        return
    found = (
        f"{name}: a quoted field holds line ends and separators, so that its lines look like rows "
        f"({', '.join(odd[:3])}{f' and {len(odd) - 3} more' if len(odd) > 3 else ''})"
    )
    if separator == "\t":
        raise DataError(
            f"{found}: if quotes mean nothing in this file, read it with --quotes none (quotes=); if they quote "
            "fields, with --quotes double"
        )
    yield f"{found}: if quotes mean nothing in this file, read it with --quotes none (quotes=)"


# yield each row with its first and last line, and whether each of several lines looks like a row; a blank line is an
# empty row
def _rows(
    name: str, lines: Iterator[str], begin: int, separator: str, quotes: Quotes
) -> Iterator[tuple[int, int, bool, list[str]]]:
    held: list[str] = []
    number, fields = begin, 0
    only = ""  # the name of the only column, which may hold another separator

    def noted() -> Iterator[str]:
        for line in lines:
            held.append(line)
            yield line

    with fields_of_any_length():
        how = csv.QUOTE_NONE if quotes == "none" else csv.QUOTE_MINIMAL
        reader = csv.reader(noted(), delimiter=separator, strict=True, quoting=how)
        try:
            for row in reader:
                fields = fields or (_count(held[0], separator) if len(held) > 1 else len(row))
                alike = quotes == "auto" and len(held) > 1 < fields and _alike(held, row, fields, separator)
                only = row[0] if number == begin and len(row) == 1 else only
                yield number, number + len(held) - 1, alike, row
                number += len(held)
                held.clear()
        except csv.Error as error:
            mark = _QUOTED.match(held[0]) if number == begin and held else None
            other = _separate("behind the first quoted field is", mark[1]) if mark and mark[1] != separator else ""
            other = other or (other_separator([only]) if only else "")
            raise DataError(_quote_error(name, number, number + len(held) - 1, str(error), other)) from error


def _alike(held: Sequence[str], row: Sequence[str], fields: int, separator: str) -> bool:
    """Whether the lines of a row may be rows themselves, between two quotes that quote nothing."""
    if all(_count(one, separator) == fields for one in held):
        return True
    for place, field in enumerate(row):
        lines = field.splitlines()
        if len(lines) < 2 or separator not in field:
            continue
        if separator == "\t":  # texts of TSV files hold none
            return True
        # what stands before the quotes on the first line, and behind them on the last, completes a row
        if place + _pieces(lines[0], separator) >= fields <= _pieces(lines[-1], separator) + fields - 1 - place:
            return True
    return False


def _pieces(line: str, separator: str) -> int:
    """The fields of a line, but for separators as prose has them: before a blank, at the end, within a number."""
    return 1 + len(re.findall(rf"{re.escape(separator)}(?=\S)(?!(?<=\d.)\d\d\d(?!\d))", line))


def _count(line: str, separator: str) -> int:
    return line.count(separator) + 1


@contextmanager
def fields_of_any_length() -> Generator[None]:
    """Lift the csv module's limit of 131,072 characters; the limit is global, so it is restored afterwards."""
    with _field_limit:
        before = csv.field_size_limit(_ANY_LENGTH)
        try:
            yield
        finally:
            csv.field_size_limit(before)


def _quote_error(name: str, start: int, line: int, reason: str, other: str) -> str:
    if other:
        return f"{name}: wrong quotes on line {line} ({reason}): {other}"
    way = "or read the file with --quotes none (quotes=) if quotes mean nothing in it"
    if "unexpected end" in reason:
        return (
            f"{name}: the row that starts on line {start} opens a quote that is never closed: close or double it, {way}"
        )
    return f"{name}: wrong quotes on line {line} ({reason}): double every quote inside a quoted field, {way}"


def names_like(name: str, names: Sequence[str]) -> str:
    """Advice for columns whose names show that a file is not what its name says; empty where they are plain."""
    other = other_separator(names) if len(names) == 1 else ""
    if other or not name.lower().removesuffix(".gz").endswith(tuple(SEPARATORS)):
        return f"; {other}" if other else ""
    return "; if its first line is a row, name the columns with --header (header=)"
