"""Options for building an index."""

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from numbers import Real
from types import UnionType
from typing import Literal, cast, get_args

from proponent.data import Examples
from proponent.errors import InputError
from proponent.index.planning import shard_of
from proponent.models.counting import NOTHING, Stated
from proponent.plain_text import one_line
from proponent.shown_places import as_shown
from proponent.store import RowKind

SecondMoment = Literal["recorded", "optimizer", "estimate"]

_TAKEN: dict[str, tuple[type | UnionType, str]] = {
    "max_length": (int | None, "a whole number, or None"),
    "batch_size": (int, "a whole number"),
    "segment_rows": (int, "a whole number"),
    "max_bad_rows": (int | float, "a share of the rows, from 0 to 1"),
    "shard": (str | None, "a text i/N, such as '0/4'"),
}
"""Option values that Python callers may give with any type."""


def _say(line: str) -> None:
    print(one_line(as_shown(line)), file=sys.stderr)  # noqa: T201 # a line for people


@dataclass(frozen=True)
class Options:
    """Options for building an index."""

    max_length: int | None = None  # maximum tokens per text; None for the model's limit, at most 512
    batch_size: int = 32  # examples per pass
    # maximum share of rows skipped because their loss or gradient is not finite; at least one row may be skipped,
    # unless the share is 0
    max_bad_rows: float = 0.01
    steps: tuple[int, ...] | None = None  # checkpoints to use, by step; None uses all
    second_moment: SecondMoment = "recorded"  # source of the second moments for an optimizer-aware method
    # source of the query side of a mixed autocorrelation; None uses the training side alone
    queries: Examples | None = None
    rows: RowKind = "fp32"  # storage of embedding rows: 32-bit floats, or shorter numbers with a scale per row
    segment_rows: int = 65_536  # maximum examples per segment
    append: bool = False  # add the examples to a sealed index
    shard: str | None = None  # "i/N": compute share i of N of the shards; the last process to finish seals
    repair: bool = False  # check every byte of a sealed index, and recompute damaged parts
    quiet: bool = False  # no progress on stderr
    stated: Stated = NOTHING  # what the user says about the training's way of counting tokens
    columns: dict[str, str] = field(default_factory=dict[str, str])  # the user's column names, for the record
    say: Callable[[str], None] = _say  # receives lines for the user

    def check(self) -> None:
        """Refuse invalid options."""
        for name, (taken, wanted) in _TAKEN.items():
            value = getattr(self, name)
            if not isinstance(value, taken) or isinstance(value, bool):
                raise InputError(f"{name} is {value!r}: give {wanted}")
        for name, choices in (("second_moment", get_args(SecondMoment)), ("rows", get_args(RowKind))):
            value = getattr(self, name)
            if value not in choices:
                raise InputError(f"{name} is {value!r}: choose one of {', '.join(choices)}")
        for step in self.steps or ():
            if not isinstance(cast("object", step), Real):
                raise InputError(f"steps contains {step!r}: a step must be a whole number")
        if self.batch_size < 1:
            raise InputError(f"--batch-size {self.batch_size}: it must be at least 1")
        if self.segment_rows < 1:
            raise InputError(f"--segment-rows {self.segment_rows}: it must be at least 1")
        if not 0.0 <= self.max_bad_rows <= 1.0:
            raise InputError(f"--max-bad-rows {self.max_bad_rows}: give a share of the rows, from 0 to 1")
        if self.steps is not None and not self.steps:
            raise InputError("no checkpoint is chosen: name at least one step, or none to use all")
        shard_of(self.shard)


DEFAULTS = Options()
"""The default options."""
