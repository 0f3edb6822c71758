"""How to build an index."""

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, get_args

from proponent.data import Examples
from proponent.errors import InputError
from proponent.index.planning import shard_of
from proponent.store import RowKind

SecondMoment = Literal["recorded", "optimizer", "estimate"]


def _say(line: str) -> None:
    print(line, file=sys.stderr)  # noqa: T201 # a line for people


@dataclass(frozen=True)
class Options:
    """How to build.

    Attributes:
        max_length: most tokens of a text; None for the model's limit, at most 512.
        batch_size: examples per pass.
        max_bad_rows: share of rows that may be skipped for a loss or gradient that is not finite; at least one row
            may, unless the share is 0.
        steps: checkpoints to use, by step; None uses all.
        second_moment: where an optimizer-aware method finds the second moments.
        queries: what a mixed autocorrelation takes the queries' side from; None for the training set's alone.
        rows: how embedding rows are kept: 32-bit floats, or shorter with a scale per row.
        segment_rows: maximum examples per segment.
        append: add the examples to the sealed index.
        shard: "i/N": compute the share i of N of the shards; the last process to end seals.
        repair: check every byte of a sealed index, and recompute damaged parts.
        quiet: no progress on stderr.
        columns: the user's names of the columns, for the record.
        say: takes lines for the user.
    """

    max_length: int | None = None
    batch_size: int = 32
    max_bad_rows: float = 0.01
    steps: tuple[int, ...] | None = None
    second_moment: SecondMoment = "recorded"
    queries: Examples | None = None
    rows: RowKind = "fp32"
    segment_rows: int = 65_536
    append: bool = False
    shard: str | None = None
    repair: bool = False
    quiet: bool = False
    columns: dict[str, str] = field(default_factory=dict[str, str])
    say: Callable[[str], None] = _say

    def check(self) -> None:
        """Refuse what cannot be."""
        if self.batch_size < 1:
            raise InputError(f"--batch-size {self.batch_size}: a batch holds at least one example")
        if self.segment_rows < 1:
            raise InputError(f"--segment-rows {self.segment_rows}: a segment holds at least one example")
        if not 0.0 <= self.max_bad_rows <= 1.0:
            raise InputError(f"--max-bad-rows {self.max_bad_rows}: give a share of the rows, from 0 to 1")
        if self.steps is not None and not self.steps:
            raise InputError("no checkpoint is chosen: name at least one step, or none to use all")
        if self.second_moment not in get_args(SecondMoment):
            sources = ", ".join(get_args(SecondMoment))
            raise InputError(f"second_moment is {self.second_moment!r}: choose one of {sources}")
        shard_of(self.shard)


DEFAULTS = Options()
"""What is done unless the user says otherwise."""
