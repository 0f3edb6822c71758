"""The numbers of a model's configuration, which must be plausible before a model is made from them."""

import math
import re
from pathlib import Path
from typing import Any, cast

from proponent.errors import RunError
from proponent.models.run_files import read_settings

MOST_LABELS = 1_000_000
MOST_LAYERS = 4096
MOST_TOKENS = 2**31 - 1
LARGEST = 1e38
"""Magnitude of any other number: more is no number of 32 bits."""

MOST_ROWS = 2**26
"""Maximum rows, columns or positions of one table."""

_LAYERS = re.compile(r"((n|num)_(\w+_)?(layers?|blocks|experts|stages))|((en|de)coder_layers)|layers|depth")
_ROWS = re.compile(
    r"\w*_size|max_position_embeddings|n_(positions|ctx|embd|inner)|d_(model|ff|kv|inner)|dim|hidden_dim"
)


def check_numbers(path: Path) -> dict[str, Any]:
    """Read a configuration, and refuse numbers that no model has before anything is created from it."""
    settings = read_settings(path)
    parts: list[tuple[str, object]] = [*settings.items()]
    while parts:
        name, value = parts.pop()
        if isinstance(value, dict):
            parts += cast("dict[str, object]", value).items()
        elif isinstance(value, list):
            parts += [(name, one) for one in cast("list[object]", value)]
        elif isinstance(value, float) and math.isinf(value) and name.endswith("_limit"):
            continue  # no limit
        elif isinstance(value, int | float) and not _least(name) <= value <= _most(name):
            way = "less" if value < _least(name) else "more"
            limit = _least(name) if value < _least(name) else _most(name)
            raise RunError(
                f"{path} has the value {str(value)[:40]} for {name}, {way} than any model has ({limit:,.0f}): the "
                "configuration is damaged; copy it again"
            )
    return settings


def _least(name: str) -> float:
    return -float(MOST_TOKENS) if name.endswith("_token_id") else -1.0 if _most(name) < LARGEST else -LARGEST


def _most(name: str) -> float:
    if name in {"num_labels", "_num_labels"}:
        return float(MOST_LABELS)
    if name.endswith("_token_id"):
        return float(MOST_TOKENS)
    if _LAYERS.fullmatch(name):
        return float(MOST_LAYERS)
    return float(MOST_ROWS) if _ROWS.fullmatch(name) else LARGEST
