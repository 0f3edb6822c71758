"""CSV, TSV, JSON and JSON Lines: read strictly and row by row; errors name the line."""

import csv
import json
import re
import threading
from array import array
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import cast

from proponent.data.columns import ColumnBuilder, as_json
from proponent.data.decoding import read_text, text_lines
from proponent.data.table import RawTable, check_names, short
from proponent.errors import DataError

_ANY_LENGTH = 2**31 - 1
_SPACE = re.compile(r"[ \t\n\r]*")
_field_limit = threading.Lock()


def read_separated(path: Path, delimiter: str, names: Sequence[str] = ()) -> RawTable:
    """Read a CSV or TSV file whose columns are named by its first line, or by the caller."""
    name = str(path)
    header = check_names(name, names) if names else None
    packer = ColumnBuilder(list, header or ())
    lines, blank = array("q"), array("q")
    ragged: list[str] = []
    for line, row in _separated_rows(name, text_lines(path, newline=""), delimiter):
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
    _refuse_ragged(name, len(header), ragged, len(lines) - len(packer), "--header" if names else "the header")
    return packed_table(name, packer, lines, _blank_lines(name, blank, lines))


def _refuse_ragged(name: str, fields: int, ragged: Sequence[str], count: int, names: str) -> None:
    if count:
        more = f" and {count - 3} more lines" if count > 3 else ""
        raise DataError(
            f"{name}: {names} has {fields} fields but {', '.join(ragged)}{more}: put quotes around fields that "
            "contain the separator"
        )


# yield each row with the line it starts on; a blank line is an empty row
def _separated_rows(name: str, lines: Iterator[str], delimiter: str) -> Iterator[tuple[int, list[str]]]:
    start = 1
    with fields_of_any_length():
        reader = csv.reader(lines, delimiter=delimiter, strict=True)
        try:
            for row in reader:
                yield start, row
                start = reader.line_num + 1
        except csv.Error as error:
            raise DataError(_quote_error(name, start, reader.line_num, str(error))) from error


@contextmanager
def fields_of_any_length() -> Generator[None]:
    """Lift the csv module's limit of 131,072 characters; the limit is global, so it is restored afterwards."""
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


# blank lines after the last row are ignored; earlier ones cause a warning
def _blank_lines(name: str, blank: Sequence[int], lines: Sequence[int]) -> tuple[str, ...]:
    inner = [line for line in blank if len(lines) and line < lines[-1]]
    return (f"{name}: {len(inner)} blank lines skipped (first: line {inner[0]})",) if inner else ()


def read_json_lines(path: Path) -> RawTable:
    """Read a file with one JSON object per line."""
    packer = ColumnBuilder(as_json)
    lines, blank = array("q"), array("q")
    # only \n ends a line here: JSON text may hold U+2028 and other characters that end lines elsewhere
    for number, line in enumerate(text_lines(path, newline="\n"), start=1):
        if line.strip():
            packer.add(
                _record(_parse(f"{path}: line {number}", line.removesuffix("\n"), True), f"{path}: line {number}")
            )
            lines.append(number)
        else:
            blank.append(number)
    return packed_table(str(path), packer, lines, _blank_lines(str(path), blank, lines))


def packed_table(
    name: str, packer: ColumnBuilder, lines: Sequence[int] | None = None, warnings: tuple[str, ...] = ()
) -> RawTable:
    """Build a table from packed records."""
    columns = packer.columns()
    return RawTable(name, len(packer), check_names(name, list(columns)), lambda key: columns[key](), lines, warnings)


def read_json(path: Path) -> RawTable:
    """Read a JSON file that is a list of objects."""
    packer = ColumnBuilder(as_json)
    for row, value in enumerate(_elements(path, read_text(path))):
        packer.add(_record(value, f"{path}: row {row}"))
    return packed_table(str(path), packer)


# parse the elements of a list one at a time; anything but a plain list is parsed whole, which reports the error
def _elements(path: Path, text: str) -> Iterator[object]:
    decoder = json.JSONDecoder(object_pairs_hook=_object)
    at, mark, count = _past_space(text, 0), ",", 0
    if text.startswith("[", at) and not text.startswith("]", _past_space(text, at + 1)):
        while mark == ",":
            try:
                value, at = decoder.raw_decode(text, _past_space(text, at + 1))
            except (ValueError, RecursionError):
                break
            yield value
            count += 1
            at = _past_space(text, at)
            mark = text[at : at + 1]
        if mark == "]" and _past_space(text, at + 1) == len(text):
            return
    yield from _whole_list(path, text)[count:]


def _past_space(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    return found.end() if found else at


def _past_comma(text: str, at: int) -> int:
    at = _past_space(text, at)
    return _past_space(text, at + 1) if text[at] == "," else at


def _whole_list(path: Path, text: str) -> list[object]:
    parsed = _parse(str(path), text, False)
    if not isinstance(parsed, list):
        raise DataError(f"{path}: contains {_kind(parsed)}, not a list of objects: for one object per line, use .jsonl")
    return cast("list[object]", parsed)


def _parse(where: str, text: str, one_line: bool) -> object:
    try:
        return json.loads(text, object_pairs_hook=_object)
    except json.JSONDecodeError as error:
        place = f"column {error.colno}" if one_line else f"line {error.lineno} column {error.colno}"
        hint = ": for one object per line, use .jsonl" if error.msg == "Extra data" and not one_line else ""
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
        raise DataError(f'{where} contains {_kind(value)}, not an object such as {{"text": ...}}')
    return cast("dict[str, object]", value)


def _kind(value: object) -> str:
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else "a list"
    if isinstance(value, str):
        return "a text"
    return "null" if value is None else "true or false" if isinstance(value, bool) else "a number"


def raw_records(path: Path) -> Iterator[str]:
    """Yield the objects of a JSON or JSON Lines file exactly as they are written there."""
    if path.name.lower().removesuffix(".gz").endswith(".json"):
        text, decoder = read_text(path), json.JSONDecoder()
        at = _past_space(text, _past_space(text, 0) + 1)
        while text[at] != "]":
            start = at
            _, at = decoder.raw_decode(text, start)
            yield text[start:at]
            at = _past_comma(text, at)
        return
    yield from (line.strip() for line in text_lines(path, newline="\n") if line.strip())


def spliced(record: str, name: str, value: object) -> str:
    """Change or add one value of a JSON object; every other character stays."""
    decoder = json.JSONDecoder()
    opening = _past_space(record, 0)
    at = begin = _past_space(record, opening + 1)
    new = json.dumps(value, ensure_ascii=False)
    while record[at] != "}":
        key, at = decoder.raw_decode(record, at)
        start = _past_space(record, _past_space(record, at) + 1)
        _, at = decoder.raw_decode(record, start)
        if key == name:
            return record[:start] + new + record[at:]
        at = _past_comma(record, at)
    comma = "" if at == begin else ", "
    return f"{record[:at]}{comma}{json.dumps(name, ensure_ascii=False)}: {new}{record[at:]}"
