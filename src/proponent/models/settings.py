"""JSON files of a training run: read as objects, with plausible numbers."""

import json
import re
from pathlib import Path
from typing import Any, cast

from proponent.errors import RunError

MOST_LABELS = 1_000_000
MOST_LAYERS = 4096
MOST_ROWS = 2**26
"""Maximum rows, columns or positions of one table."""

_LAYERS = re.compile(r"((n|num)_(\w+_)?(layers?|blocks|experts|stages))|((en|de)coder_layers)|layers|depth")
_ROWS = re.compile(
    r"\w*_size|max_position_embeddings|n_(positions|ctx|embd|inner)|d_(model|ff|kv|inner)|dim|hidden_dim"
)


def read_settings(path: Path) -> dict[str, Any]:
    """Read a JSON object from a training run."""
    try:
        loaded = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise RunError(f"cannot read {path}: {error}: the run folder is damaged or incompletely copied") from error
    if not isinstance(loaded, dict):
        raise RunError(f"{path} is not a JSON object")
    return cast("dict[str, Any]", loaded)


def check_numbers(path: Path) -> dict[str, Any]:
    """Read a configuration, and refuse sizes that no model has before anything is created from it."""
    settings = read_settings(path)
    parts: list[dict[str, Any]] = [settings]
    while parts:
        for name, value in parts.pop().items():
            if isinstance(value, dict):
                parts.append(cast("dict[str, Any]", value))
            elif isinstance(value, int | float) and not value <= _most(name):
                raise RunError(
                    f"{path} has the value {value} for {name}, more than any model has ({_most(name):,.0f}): the "
                    "configuration is damaged; copy it again"
                )
    return settings


def _most(name: str) -> float:
    if name in {"num_labels", "_num_labels"}:
        return float(MOST_LABELS)
    if _LAYERS.fullmatch(name):
        return float(MOST_LAYERS)
    return float(MOST_ROWS) if _ROWS.fullmatch(name) else float("inf")
