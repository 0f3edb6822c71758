"""CSV, TSV, JSON and JSON Lines: text files read strictly, with the line of whatever is wrong."""

import codecs
import csv
import io
import json
import threading
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import cast

from whence.errors import DataError
from whence.examples.disk import read_bytes
from whence.examples.table import Table, check_names, short, table_of_records

_OTHER_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_ANY_LENGTH = 2**31 - 1
_field_limit = threading.Lock()


def read_text(path: Path) -> str:
    """Decode a file as UTF-8, with or without a byte order mark.

    Args:
        path: the file, packed with gzip when its name ends in .gz.

    Returns:
        Its text; line ends are as written.

    Raises:
        DataError: it cannot be read, is empty, is not UTF-8, or holds a NUL byte.
    """
    data = read_bytes(path)
    if data.startswith(b"\x1f\x8b"):
        raise DataError(f"{path}: these are gzip bytes: rename the file to {path.name}.gz")
    for mark, encoding in _OTHER_MARKS:
        if data.startswith(mark):
            raise DataError(f"{path}: encoded as {encoding}, not UTF-8: {_convert(path, encoding)}")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        cut = error.reason == "unexpected end of data"
        way = "the file looks cut off" if cut else f"likely latin-1 (windows-1252): {_convert(path, 'windows-1252')}"
        raise DataError(
            f"{path}: not UTF-8 at {_place(data, error.start)} ({short(data[error.start : error.end])}); {way}"
        ) from error
    if (nul := data.find(b"\0")) >= 0:
        wide = data[:1000].count(0) * 4 > len(data[:1000])
        way = _convert(path, "utf-16") if wide else "remove it, or export the file again"
        raise DataError(f"{path}: a NUL byte at {_place(data, nul)}: {way}")
    return text.removeprefix("\ufeff")


def _place(data: bytes, offset: int) -> str:
    return f"byte {offset}, line {data.count(10, 0, offset) + 1}"


def _convert(path: Path, encoding: str) -> str:
    return f"convert it with `iconv -f {encoding} -t utf-8 {path.name}`"


def read_separated(path: Path, delimiter: str) -> Table:
    """Read a CSV or TSV file whose first line names the columns.

    Args:
        path: the file.
        delimiter: what stands between two fields.

    Returns:
        The table; every value is text as written.

    Raises:
        DataError: undecodable bytes, wrong quotes, a row with too many or too few fields, two columns of one name.
    """
    name = str(path)
    rows, lines, blank = _separated_rows(name, read_text(path), delimiter)
    if not rows:
        raise DataError(f"{name}: the file is empty")
    header, body = check_names(name, rows[0]), rows[1:]
    _refuse_ragged(name, len(header), body, lines[1:])
    columns = dict(zip(header, zip(*body, strict=True), strict=True)) if body else {}
    warnings = (f"{name}: {len(blank)} blank lines skipped (first: line {blank[0]})",) if blank else ()
    return Table(name, len(body), header, columns.__getitem__, lines[1:], warnings)


# parse; give the rows, the line each starts on, and the blank lines between rows
def _separated_rows(name: str, text: str, delimiter: str) -> tuple[list[list[str]], list[int], list[int]]:
    rows: list[list[str]] = []
    lines: list[int] = []
    blank: list[int] = []
    start = 1
    with _fields_of_any_length():
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
        try:
            for row in reader:
                if row:
                    rows.append(row)
                    lines.append(start)
                else:
                    blank.append(start)
                start = reader.line_num + 1
        except csv.Error as error:
            raise DataError(_quote_error(name, start, reader.line_num, str(error))) from error
    # blank lines after the last row mean nothing
    return rows, lines, [line for line in blank if lines and line < lines[-1]]


@contextmanager
def _fields_of_any_length() -> Generator[None]:
    """Lift the csv module's limit of 131,072 characters; it is global, so put it back for others."""
    with _field_limit:
        before = csv.field_size_limit(_ANY_LENGTH)
        try:
            yield
        finally:
            csv.field_size_limit(before)


def _quote_error(name: str, start: int, line: int, reason: str) -> str:
    if "unexpected end" in reason:
        return f"{name}: the row that starts on line {start} opens a quote that is never closed: close or double it"
    return f"{name}: wrong quotes on line {line} ({reason}): double every quote inside a quoted field"


def _refuse_ragged(name: str, width: int, rows: Sequence[Sequence[str]], lines: Sequence[int]) -> None:
    wrong = [(line, len(row)) for row, line in zip(rows, lines, strict=True) if len(row) != width]
    if wrong:
        shown = ", ".join(f"line {line} has {found}" for line, found in wrong[:3])
        more = f" and {len(wrong) - 3} more lines" if len(wrong) > 3 else ""
        raise DataError(
            f"{name}: the header has {width} fields but {shown}{more}: put quotes around fields that hold the separator"
        )


def read_json_lines(path: Path) -> Table:
    """Read a file with one JSON object per line.

    Args:
        path: the file.

    Returns:
        The table; a key that a line lacks counts as missing.

    Raises:
        DataError: undecodable bytes, a line that is not JSON, or not an object.
    """
    records: list[dict[str, object]] = []
    lines: list[int] = []
    blank: list[int] = []
    # only \n ends a line here: JSON text may hold U+2028 and others that splitlines() would cut at
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if line.strip():
            records.append(_record(_parse(f"{path}: line {number}", line, True), f"{path}: line {number}"))
            lines.append(number)
        else:
            blank.append(number)
    table = table_of_records(str(path), records, lines=lines)
    inner = [number for number in blank if number < lines[-1]]
    if not inner:
        return table
    warning = f"{path}: {len(inner)} blank lines skipped (first: line {inner[0]})"
    return Table(table.name, table.rows, table.column_names, table.get, lines, (warning,))


def read_json(path: Path) -> Table:
    """Read a JSON file that is a list of objects.

    Args:
        path: the file.

    Returns:
        The table.

    Raises:
        DataError: undecodable bytes, not JSON, or not a list of objects.
    """
    parsed = _parse(str(path), read_text(path), False)
    if not isinstance(parsed, list):
        raise DataError(f"{path}: holds {_kind(parsed)}, not a list of objects: one object per line belongs in .jsonl")
    rows = cast("list[object]", parsed)
    return table_of_records(str(path), [_record(row, f"{path}: row {i}") for i, row in enumerate(rows)])


def _parse(where: str, text: str, one_line: bool) -> object:
    try:
        return json.loads(text, object_pairs_hook=_object)
    except json.JSONDecodeError as error:
        place = f"column {error.colno}" if one_line else f"line {error.lineno} column {error.colno}"
        hint = ": one object per line belongs in .jsonl" if error.msg == "Extra data" and not one_line else ""
        raise DataError(f"{where} is not valid JSON ({error.msg}, {place}){hint}") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where} is not usable JSON ({error})") from error


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    made = dict(pairs)
    if len(made) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the name {short(twice)} appears twice in one object")
    return made


def _record(value: object, where: str) -> dict[str, object]:
    if not isinstance(value, dict):
        raise DataError(f'{where} holds {_kind(value)}, not an object such as {{"text": ...}}')
    return cast("dict[str, object]", value)


def _kind(value: object) -> str:
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else "a list"
    if isinstance(value, str):
        return "a text"
    return "null" if value is None else "true or false" if isinstance(value, bool) else "a number"
