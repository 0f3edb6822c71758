"""A method as a file, in JSON or TOML, as `proponent tune` writes it and `--method FILE` reads it.

    {"method": "grad-cos", "layers": ["attention"]}          a method of the table, some of its fields changed
    {"kind": "gradients", "gradient": {"kind": "head"}}      or a custom method; missing fields have their defaults
    {"name": "mine", "layer": "head", ...}                   or one flat record, as written by version 0.1

The keys "proponent" and "tuned" record the origin of a file and are not read; "whence", the library's former name, is
such a key in older files.
"""

import json
import os
import sys
import tomllib
from pathlib import Path
from typing import Any, cast

from proponent.disk import write_bytes
from proponent.errors import InputError
from proponent.method import METHOD, Method
from proponent.method_fields import FIELDS, no_field
from proponent.method_flat import is_flat
from proponent.method_words import FLAT_DEFAULTS
from proponent.plain_text import one_line
from proponent.suggest import nearest
from proponent.version import __version__

SUFFIXES = (".json", ".toml")
FORMER = "whence"
ORIGIN = frozenset({"proponent", "tuned", FORMER})
"""Keys that record the origin of a file, including the library's former name."""


def names_a_file(method: str) -> bool:
    """Whether a string means a file rather than a name of the table."""
    return method.lower().endswith(SUFFIXES) or os.sep in method or "/" in method


def read_fields(path: Path) -> dict[str, Any]:
    """Read the fields of a method file; `proponent.method_table` interprets them."""
    if path.suffix.lower() not in SUFFIXES:
        raise InputError(f"method {path}: a method file ends in .json or .toml; `proponent methods` lists the names")
    try:
        text = path.read_text(encoding="utf-8")
        found: Any = json.loads(text) if path.suffix.lower() == ".json" else tomllib.loads(text)
    except OSError as error:
        raise InputError(
            f"cannot read the method file {path}: {error.strerror}: make one with "
            f"`proponent tune RUN DATA --out {path}`"
        ) from error
    except (ValueError, RecursionError) as error:  # invalid UTF-8, JSON or TOML, or nesting that is too deep
        kind = path.suffix[1:].upper()
        raise InputError(f"the method file {path} is not valid {kind}: {error}: fix it or write it again") from error
    if not isinstance(found, dict):
        raise InputError(f"the method file {path} contains no table of fields: give FIELD: VALUE pairs")
    if FORMER in found:
        said = one_line(f"{path} was written under the library's former name, {FORMER}: it can be read")
        print(said, file=sys.stderr)  # noqa: T201 # a line for people
    fields = {str(name): value for name, value in cast("dict[Any, Any]", found).items() if name not in ORIGIN}
    _check(path, fields)
    return fields


def _check(path: Path, fields: dict[str, Any]) -> None:
    """Check that a file names its method, and that flat fields are known."""
    if "method" in fields and not isinstance(fields["method"], str):
        raise InputError(f'the method file {path} names no method: set "method" to a name from `proponent methods`')
    if "method" in fields and "kind" in fields:
        raise InputError(
            f'the method file {path} has both "method" and "kind": leave "kind" out to change a named method, or '
            'leave "method" out to define your own method'
        )
    if not is_flat(fields):
        return
    unknown = next((name for name in fields if name not in FLAT_DEFAULTS), None)
    if unknown in FIELDS:
        raise InputError(
            f'the method file {path} has a field {unknown!r} and has no "kind": add "kind": "gradients" (or retaken, '
            'baseline, loop, sum), or "method", a name of `proponent methods`'
        )
    if unknown is not None:
        raise InputError(no_field(f"the method file {path}", unknown, FLAT_DEFAULTS))
    if not isinstance(fields.get("name"), str):
        raise InputError(
            f'the method file {path} names no method: give "method", a name of `proponent methods`, or "kind", such as '
            f'"gradients"{nearest(next(iter(fields), ""), ("method", "kind"))}'
        )


def write_method(path: Path, method: Method, tuned: dict[str, Any] | None = None) -> None:
    """Write a method with all of its fields, so that its meaning does not change with the table."""
    content: dict[str, Any] = {"proponent": __version__, **METHOD.dump_python(method, mode="json")}
    if tuned is not None:
        content["tuned"] = tuned
    write_bytes(path, (json.dumps(content, indent=1) + "\n").encode())
