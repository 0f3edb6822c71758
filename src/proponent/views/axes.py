"""Axes that all plots share: the frame of a drawing, round ticks, and places of values."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Annotated, cast

import xxhash

PLOT_WIDTH, PLOT_HEIGHT = 360.0, 210.0
"""Size of a drawing in its own units: small, so that its letters stay readable on a telephone."""

LEFT, RIGHT, TOP, BOTTOM = 50.0, 350.0, 10.0, 172.0
"""Edges of the part of a drawing inside the axes."""

SMALLEST = 1e-290
"""Difference of two values below which they are drawn as one."""

ROUNDING = 1000
"""Two values that are at most so many floating-point numbers apart are drawn as one."""

STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)
"""Round distances between ticks, times a power of ten."""


@dataclass(frozen=True, slots=True)
class Tick:
    """A labelled place on an axis."""

    place: Annotated[float, "place in the drawing"]
    text: Annotated[str, "its label"]


@dataclass(frozen=True, slots=True)
class Scale:
    """Maps values to places along one axis."""

    low: Annotated[float, "smallest value"]
    high: Annotated[float, "largest value, above the smallest"]
    start: Annotated[float, "place of the smallest value"]
    stop: Annotated[float, "place of the largest value"]

    @classmethod
    def of(cls, values: Iterable[float], start: float, stop: float) -> "Scale":
        """A scale from the smallest to the largest finite value; one wide around a single value."""
        known = [value for value in values if math.isfinite(value)]
        low, high = min(known, default=0.0), max(known, default=0.0)
        rounding = ROUNDING * math.ulp(max(abs(low), abs(high)))
        if not (max(SMALLEST, rounding) < high - low < math.inf):
            half = max(1.0, abs(low)) / 2
            low, high = max(low - half, -1e300), min(high + half, 1e300)
        return cls(low, high, start, stop)

    def at(self, value: float) -> float:
        """Place of a value; one outside of the scale is put at its end."""
        share = min(1.0, max(0.0, (value - self.low) / (self.high - self.low)))
        return round(self.start + (self.stop - self.start) * share, 1)

    def ticks(self, most: int = 5) -> tuple[Tick, ...]:
        """Ticks at round values."""
        return tuple(Tick(self.at(value), f"{value:.6g}") for value in round_values(self.low, self.high, most))


def round_values(low: float, high: float, most: int = 5) -> tuple[float, ...]:
    """At most so many round values within a range, zero among them if it lies inside."""
    rough = (high - low) / max(1, most - 1)
    power = 10.0 ** math.floor(math.log10(rough))
    for step in (factor * scale for scale in (power, 10 * power) for factor in STEPS):
        first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
        if 0 <= last - first < most:
            return tuple(at * step for at in range(first, last + 1))
    return (low, high)


def key(plot: object) -> str:
    """A name for the parts of a drawing, made of its numbers alone: no text of the data stands in an attribute."""
    return f"wh-plot-{xxhash.xxh3_64_hexdigest(repr([*_numbers(plot)]).encode())}"


def _numbers(part: object) -> Iterator[object]:
    """All numbers of a drawing, and where its parts begin."""
    if isinstance(part, tuple):
        yield len(cast("tuple[object, ...]", part))
        for one in cast("tuple[object, ...]", part):
            yield from _numbers(one)
    elif is_dataclass(part):
        yield type(part).__name__
        for one in fields(part):
            yield from _numbers(getattr(part, one.name))
    elif not isinstance(part, str):
        yield part


def points(places: Sequence[tuple[float, float]]) -> str:
    """Corners of a line or an area, as SVG writes them."""
    return " ".join(f"{x:g},{y:g}" for x, y in places)
