"""A histogram of scores: counts in bins of equal width, those of a part among them, and thresholds."""

import math
from dataclasses import dataclass
from typing import Annotated

from proponent.views.axes import BOTTOM, LEFT, RIGHT, TOP, Scale, Tick

BINS = 20
CROWDED = 60
"""How many times larger than the smallest bar the largest may be before the axis of counts becomes logarithmic."""

_LEAST = 0.5
"""Count at the foot of a logarithmic axis: a bar of one example is still seen."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreBin:
    """One bin."""

    low: Annotated[float, "smallest score in it"]
    high: Annotated[float, "the next bin begins here; the last one holds it, too"]
    count: Annotated[int, "examples in it"]
    part: Annotated[int, "those of the part, such as flagged ones"]
    url: Annotated[str, "page of its examples; empty where there is none"] = ""
    linked: Annotated[int, "examples on that page"] = 0


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar in drawing coordinates."""

    of: Annotated[ScoreBin, "the bin"]
    x: Annotated[float, "left edge"]
    width: Annotated[float, "width"]
    y: Annotated[float, "top of all examples"]
    part_y: Annotated[float, "top of the part"]


@dataclass(frozen=True, slots=True)
class Threshold:
    """A line across a histogram."""

    at: Annotated[float, "score"]
    text: Annotated[str, "what it separates"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Histogram:
    """How many examples have which score."""

    title: Annotated[str, "what the scores are"]
    value_name: Annotated[str, "name of a score"]
    part_name: Annotated[str, "what the part is, such as flagged; empty without one"]
    bins: Annotated[tuple[ScoreBin, ...], "bins from low to high, without gaps"]
    left_out: Annotated[int, "examples whose score is not finite"] = 0
    thresholds: Annotated[tuple[Threshold, ...], "lines across it"] = ()

    @property
    def total(self) -> int:
        """Number of examples that are counted."""
        return sum(one.count for one in self.bins)

    @property
    def part(self) -> int:
        """Number of examples of the part."""
        return sum(one.part for one in self.bins)

    @property
    def linked(self) -> bool:
        """Whether bars lead to their examples."""
        return any(one.url for one in self.bins)

    @property
    def description(self) -> str:
        """The largest bin, the part and the thresholds in words."""
        largest = max(self.bins, key=lambda one: one.count)
        lines = [f"most of the {self.total:,} examples, {largest.count:,}, lie {self.range_of(largest)}"]
        if self.part_name:
            lines.append(f"{self.part:,} are {self.part_name}")
        return "; ".join([*lines, *(one.text for one in self.thresholds)])

    @property
    def logarithmic(self) -> bool:
        """Whether the axis of counts is logarithmic, so that small bars are seen beside large ones."""
        heights = [count for one in self.bins for count in (one.count, one.part) if count]
        return bool(heights) and max(heights) > CROWDED * min(heights)

    @property
    def bars(self) -> tuple[Bar, ...]:
        """The bins that hold anything, in drawing coordinates."""
        right, made = self._right, list[Bar]()
        for one in self.bins:
            if one.count:
                x = right.at(one.low)
                made.append(Bar(one, x, round(right.at(one.high) - x, 1), self._top(one.count), self._top(one.part)))
        return tuple(made)

    @property
    def ticks(self) -> tuple[Tick, ...]:
        """Ticks of the axis of counts."""
        top = max((one.count for one in self.bins), default=0)
        if not self.logarithmic:
            return tuple(one for one in Scale(0.0, float(top or 1), BOTTOM, TOP).ticks(4) if float(one.text) % 1 == 0)
        return tuple(Tick(self._top(10**at), f"{10**at:,}") for at in range(len(str(top))))

    @property
    def places(self) -> tuple[Tick, ...]:
        """Ticks of the axis of scores."""
        return self._right.ticks()

    @property
    def lines(self) -> tuple[Tick, ...]:
        """The thresholds in drawing coordinates."""
        return tuple(Tick(self._right.at(one.at), one.text) for one in self.thresholds)

    def range_of(self, one: ScoreBin) -> str:
        """The scores of a bin in words."""
        last = one.high == self.bins[-1].high
        return f"from {one.low:.3g} to {'' if last else 'below '}{one.high:.3g}"

    @property
    def _right(self) -> Scale:
        return Scale(self.bins[0].low, self.bins[-1].high, LEFT, RIGHT)

    def _top(self, count: int) -> float:
        top = max((one.count for one in self.bins), default=0) or 1
        if not self.logarithmic:
            return Scale(0.0, float(top), BOTTOM, TOP).at(float(count))
        return Scale(math.log(_LEAST), math.log(top), BOTTOM, TOP).at(math.log(max(count, _LEAST)))
