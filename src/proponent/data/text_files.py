"""JSON and JSON Lines: read strictly and row by row; errors name the line."""

import json
import re
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import cast

from proponent.data.columns import ColumnBuilder, as_json
from proponent.data.decoding import read_text, text_lines
from proponent.data.table import RawTable, packed_table, short, skipped_lines
from proponent.errors import DataError

_SPACE = re.compile(r"[ \t\n\r]*")


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
    return packed_table(str(path), packer, lines, skipped_lines(str(path), blank, lines))


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
        raise DataError(f"{path}: contains {_kind(parsed)}, not a list of objects: {_way(parsed)}")
    return cast("list[object]", parsed)


def _way(parsed: object) -> str:
    """How to turn JSON that is no list into rows."""
    fields = cast("dict[str, object]", parsed) if isinstance(parsed, dict) else {}
    inner = next((name for name, value in fields.items() if isinstance(value, list)), None)
    if fields and all(isinstance(value, list | dict) for value in fields.values()) and len(fields) > 1:
        return "its fields look like columns: write rows, as pandas does with to_json(orient='records')"
    if inner is not None:
        return f"it has a list {short(inner)}: write that list alone"
    return "for one object per line, use .jsonl"


def _parse(where: str, text: str, one_line: bool) -> object:
    try:
        return json.loads(text, object_pairs_hook=_object)
    except json.JSONDecodeError as error:
        place = f"column {error.colno}" if one_line else f"line {error.lineno} column {error.colno}"
        hint = ": for one object per line, use .jsonl" if error.msg == "Extra data" and not one_line else ""
        if one_line and where.endswith(": line 1"):
            hint = _first_hint(text)
        raise DataError(f"{where} is not valid JSON ({error.msg}, {place}){hint}") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where} is not usable JSON ({error})") from error


def _first_hint(text: str) -> str:
    """Advice for a first line that is no JSON."""
    if text.strip() in {"{", "["}:
        return ": each line is one object; a file that is one list is .json"
    return "" if text.lstrip().startswith(("{", "[")) else ": a CSV file with a header line is .csv"


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    made = dict(pairs)
    if len(made) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the name {short(twice)} appears twice in one object")
    return made


def _record(value: object, where: str) -> dict[str, object]:
    if not isinstance(value, dict):
        kind = _kind(value)
        hint = ": a file that is one list is .json" if kind == "a list" and "line" in where else ""
        raise DataError(f'{where} contains {kind}, not an object such as {{"text": ...}}{hint}')
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
