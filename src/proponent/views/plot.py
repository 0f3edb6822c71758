"""A plot of curves with bands, in drawing coordinates."""

from dataclasses import dataclass
from typing import Annotated

PLOT_WIDTH, PLOT_HEIGHT = 520.0, 240.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 58.0, 12.0, 12.0, 30.0


@dataclass(frozen=True, slots=True)
class Band:
    """One curve with its confidence band."""

    name: Annotated[str, "method, and the side that was deleted"]
    x: Annotated[tuple[float, ...], "places"]
    y: Annotated[tuple[float, ...], "values"]
    low: Annotated[tuple[float, ...], "lower ends of the band"]
    high: Annotated[tuple[float, ...], "upper ends of the band"]


@dataclass(frozen=True, slots=True)
class CurvePath:
    """A curve in drawing coordinates."""

    name: Annotated[str, "name of the curve"]
    line: Annotated[str, "points of the line"]
    area: Annotated[str, "corners of the band"]
    kind: Annotated[int, "number of its look, from 0"]
    end: Annotated[float, "height of its last point"]


@dataclass(frozen=True, slots=True)
class Plot:
    """Curves in one pair of axes."""

    curves: Annotated[tuple[Band, ...], "curves"]
    x_name: Annotated[str, "what the curves run over"]
    y_name: Annotated[str, "what the curves show"]
    note: Annotated[str, "what the bands are"] = ""

    @property
    def span(self) -> tuple[float, float]:
        """Lowest and highest value of the plot, zero included."""
        ends = [value for one in self.curves for value in (*one.low, *one.high, *one.y)]
        low, high = min([0.0, *ends]), max([0.0, *ends])
        return (low, high) if high > low else (low - 1.0, high + 1.0)

    @property
    def drawn(self) -> tuple[CurvePath, ...]:
        """The curves in drawing coordinates."""
        return tuple(self._drawn(one, kind) for kind, one in enumerate(self.curves))

    @property
    def ticks(self) -> tuple[tuple[float, str], ...]:
        """Position and text of the ticks of the vertical axis."""
        low, high = self.span
        return tuple((self._up(value), f"{value:.3g}") for value in sorted({low, 0.0, high}))

    @property
    def places(self) -> tuple[tuple[float, str], ...]:
        """Position and text of the ticks of the horizontal axis."""
        found = sorted({value for one in self.curves for value in one.x})
        return tuple((self._right(value), f"{value:g}") for value in found)

    def _drawn(self, one: Band, kind: int) -> CurvePath:
        points = [(self._right(x), self._up(y)) for x, y in zip(one.x, one.y, strict=True)]
        above = [(self._right(x), self._up(y)) for x, y in zip(one.x, one.high, strict=True)]
        below = [(self._right(x), self._up(y)) for x, y in zip(one.x, one.low, strict=True)]
        return CurvePath(one.name, _points(points), _points(above + below[::-1]), kind % 6, points[-1][1])

    def _right(self, x: float) -> float:
        found = sorted({value for one in self.curves for value in one.x})
        width = PLOT_WIDTH - _LEFT - _RIGHT
        share = found.index(x) / (len(found) - 1) if len(found) > 1 else 0.5
        return round(_LEFT + width * share, 1)

    def _up(self, y: float) -> float:
        low, high = self.span
        return round(_TOP + (PLOT_HEIGHT - _TOP - _BOTTOM) * (high - y) / (high - low), 1)


def _points(points: list[tuple[float, float]]) -> str:
    return " ".join(f"{x},{y}" for x, y in points)
