"""Cheaper ways to build the same index, with what they cost by a forecast."""

from dataclasses import dataclass

from proponent.cost.forecast import Forecast

_ONCE = {"tokenize", "seal"}
"""Stages of a build that do not grow with its checkpoints."""

_BY_CHECKPOINT = {"forms", "postings", "tables"}
_ROWS = {"forms", "postings"}
SHARE = {"fp32": 1.0, "fp16": 0.5, "int8": 0.25}
"""Bytes of stored rows by their type, in parts of those of 32 bits; scales and numbers of tokens come on top."""


@dataclass(frozen=True)
class Choice:
    """Another way to build an index."""

    name: str
    options: str  # of the command line
    seconds: float
    bytes: int


def choices(predicted: Forecast, rows: str, last: int) -> tuple[Choice, ...]:
    """Cheaper ways than the forecast one, in proportion to it.

    Args:
        predicted: the forecast of the index as asked for.
        rows: its type of stored rows: fp32, fp16 or int8.
        last: step of its last checkpoint.

    Returns:
        The last checkpoint only, rows of 16 bits, and both, as far as they differ from what was asked for.
    """
    found: list[Choice] = []
    one = (f"--steps {last}", "last checkpoint only")
    short = ("--rows fp16", "fp16")
    if predicted.checkpoints > 1:
        found.append(_scaled(predicted, one[1], one[0], 1 / predicted.checkpoints, 1.0))
    if rows == "fp32":
        found.append(_scaled(predicted, short[1], short[0], 1.0, SHARE["fp16"]))
    if len(found) == 2:
        both = f"{one[0]} {short[0]}"
        found.append(_scaled(predicted, "both", both, 1 / predicted.checkpoints, SHARE["fp16"]))
    return tuple(found)


def _scaled(predicted: Forecast, name: str, options: str, checkpoints: float, rows: float) -> Choice:
    seconds = sum(one.seconds * (1.0 if one.name in _ONCE else checkpoints) for one in predicted.stages)
    held = sum(
        size * (checkpoints if kind in _BY_CHECKPOINT else 1.0) * (rows if kind in _ROWS else 1.0)
        for kind, size in predicted.disk.items()
    )
    return Choice(name, options, seconds, int(held))
