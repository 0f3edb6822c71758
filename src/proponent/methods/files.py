"""A method as a file: a recipe in JSON or TOML, as `proponent tune` writes it and `--method FILE` takes it.

    {"method": "grad-cos", "layers": ["attention"]}       a method of the table, some of its fields changed
    {"name": "mine", "layer": "head", ...}                 or a recipe of one's own; what is not said has its default

The keys "proponent" and "tuned" tell where a file comes from and are not read; "whence", the library's former name, is
one of them in older files.
"""

import json
import os
import sys
import tomllib
from pathlib import Path
from typing import Any, cast

from proponent.disk import write_bytes
from proponent.errors import InputError
from proponent.recipe import Recipe
from proponent.suggest import nearest
from proponent.version import __version__

KINDS = (".json", ".toml")
FORMER = "whence"
TOLD = frozenset({"proponent", "tuned", FORMER})
"""Keys that tell where a file comes from, the library's former name among them."""


def names_a_file(method: str) -> bool:
    """Say whether somebody means a file and not a name of the table."""
    return method.lower().endswith(KINDS) or os.sep in method or "/" in method


def read_fields(path: Path) -> dict[str, Any]:
    """Read the fields of a recipe."""
    if path.suffix.lower() not in KINDS:
        raise InputError(f"method {path}: a recipe file ends in .json or .toml; `proponent methods` lists the names")
    try:
        text = path.read_text(encoding="utf-8")
        found: Any = json.loads(text) if path.suffix.lower() == ".json" else tomllib.loads(text)
    except OSError as error:
        raise InputError(
            f"cannot read the recipe file {path}: {error.strerror}: make one with "
            f"`proponent tune RUN DATA --out {path}`"
        ) from error
    except (ValueError, RecursionError) as error:  # no UTF-8, no JSON, no TOML, or nested without end
        kind = path.suffix[1:].upper()
        raise InputError(f"the recipe file {path} is no {kind}: {error}: mend it or write it again") from error
    if not isinstance(found, dict):
        raise InputError(f"the recipe file {path} holds no table of fields: give FIELD: VALUE pairs")
    if FORMER in found:
        print(f"{path} was written under the library's former name, {FORMER}: read as it is", file=sys.stderr)  # noqa: T201 # a line for people
    fields = {str(name): value for name, value in cast("dict[Any, Any]", found).items() if name not in TOLD}
    known = {"method", *Recipe.model_fields}
    unknown = next((name for name in fields if name not in known), None)
    if unknown is not None:
        raise InputError(
            f"the recipe file {path} has a field {unknown!r} that no recipe has{nearest(unknown, known)}; "
            f"fields: {', '.join(sorted(known))}"
        )
    if not isinstance(fields.get("method", fields.get("name")), str):
        raise InputError(
            f'the recipe file {path} names no method: give "method", a name of `proponent methods`, or "name"'
        )
    return fields


def write_recipe(path: Path, recipe: Recipe, tuned: dict[str, Any] | None = None) -> None:
    """Write a recipe with all of its fields, so that it means the same whatever the table says later."""
    content: dict[str, Any] = {"proponent": __version__, **recipe.model_dump(mode="json")}
    if tuned is not None:
        content["tuned"] = tuned
    write_bytes(path, (json.dumps(content, indent=1) + "\n").encode())
