"""A plot of curves, with bands or without, in drawing coordinates."""

from dataclasses import dataclass
from typing import Annotated

from proponent.views.axes import BOTTOM, LEFT, PLOT_HEIGHT, PLOT_WIDTH, RIGHT, TOP, Scale, Tick, points
from proponent.views.text_marks import clip

__all__ = ["PLOT_HEIGHT", "PLOT_WIDTH", "Band", "CurvePath", "Plot"]

LOOKS = 6
"""Strokes that tell curves apart; three more are for what helped, from 6, and three for what hurt, from 9."""

MOST_PLACES = 12
"""Labels of the horizontal axis; of more places, every second, third and so on has one."""


@dataclass(frozen=True, slots=True)
class Band:
    """One curve, perhaps with its confidence band."""

    name: Annotated[str, "what the curve belongs to, such as a method or an example"]
    x: Annotated[tuple[float, ...], "places"]
    y: Annotated[tuple[float, ...], "values"]
    low: Annotated[tuple[float, ...], "lower ends of the band; empty without one"] = ()
    high: Annotated[tuple[float, ...], "upper ends of the band; empty without one"] = ()


@dataclass(frozen=True, slots=True)
class CurvePath:
    """A curve in drawing coordinates."""

    name: Annotated[str, "name of the curve"]
    line: Annotated[str, "points of the line"]
    area: Annotated[str, "corners of the band; empty without one"]
    kind: Annotated[int, "number of its look, from 0"]
    dots: Annotated[tuple[tuple[float, float], ...], "places of its values"]


@dataclass(frozen=True, slots=True)
class Plot:
    """Curves in one pair of axes."""

    curves: Annotated[tuple[Band, ...], "curves"]
    x_name: Annotated[str, "what the curves run over"]
    y_name: Annotated[str, "what the curves show"]
    note: Annotated[str, "what the bands are"] = ""
    x_texts: Annotated[tuple[str, ...], "labels of the places in order, where the numbers are none"] = ()
    shown: Annotated[int, "curves that are drawn, the first ones; the table has all; 0: all are drawn"] = 0
    looks: Annotated[tuple[int, ...], "numbers of the looks of the drawn curves; empty: in order from 0"] = ()
    sum_name: Annotated[str, "what the values of a curve add up to; empty if to nothing"] = ""

    @property
    def title(self) -> str:
        """What the plot shows."""
        return f"{self.y_name}, over {self.x_name}"

    @property
    def description(self) -> str:
        """Where each curve ends."""
        curves = self._chosen
        ends = (f"{clip(one.name, 60)} {one.y[-1]:.3g} at {self._text(one.x[-1])}" for one in curves if one.y)
        return "; ".join(ends)

    @property
    def span(self) -> tuple[float, float]:
        """Lowest and highest value of the plot, zero included."""
        return self._up.low, self._up.high

    @property
    def drawn(self) -> tuple[CurvePath, ...]:
        """The curves in drawing coordinates."""
        return tuple(self._drawn(one, kind) for kind, one in zip(self._looks, self._chosen, strict=True))

    @property
    def ticks(self) -> tuple[Tick, ...]:
        """Ticks of the vertical axis."""
        return self._up.ticks()

    @property
    def places(self) -> tuple[Tick, ...]:
        """Ticks of the horizontal axis."""
        found = self._xs
        step = -(-len(found) // MOST_PLACES) if found else 1
        return tuple(Tick(self._right(x), self._text(x)) for x in found[::step])

    @property
    def heads(self) -> tuple[str, ...]:
        """Heads of the columns of the table: the places."""
        return (*map(self._text, self._xs), *((self.sum_name,) if self.sum_name else ()))

    @property
    def rows(self) -> tuple[tuple[str, tuple[str, ...]], ...]:
        """The same numbers as a table: the name of each curve, and its values."""
        return tuple((one.name, self._cells(one)) for one in self.curves)

    def _cells(self, one: Band) -> tuple[str, ...]:
        places = {x: at for at, x in enumerate(one.x)}
        cells = tuple(_cell(one, places.get(x)) for x in self._xs)
        return (*cells, f"{sum(one.y):.4g}") if self.sum_name else cells

    @property
    def _chosen(self) -> tuple[Band, ...]:
        return self.curves[: self.shown] if self.shown else self.curves

    @property
    def _looks(self) -> tuple[int, ...]:
        return self.looks or tuple(number % LOOKS for number in range(len(self._chosen)))

    @property
    def _xs(self) -> list[float]:
        return sorted({value for one in self.curves for value in one.x})

    @property
    def _up(self) -> Scale:
        return Scale.of([0.0, *(value for one in self._chosen for value in (*one.low, *one.high, *one.y))], BOTTOM, TOP)

    def _text(self, x: float) -> str:
        return self.x_texts[self._xs.index(x)] if self.x_texts else f"{x:g}"

    def _right(self, x: float) -> float:
        found = self._xs
        share = found.index(x) / (len(found) - 1) if len(found) > 1 else 0.5
        return round(LEFT + 10 + (RIGHT - LEFT - 20) * share, 1)

    def _drawn(self, one: Band, kind: int) -> CurvePath:
        up = self._up
        right = [self._right(x) for x in one.x]
        dots = [(x, up.at(y)) for x, y in zip(right, one.y, strict=True)]
        above = [(x, up.at(y)) for x, y in zip(right, one.high, strict=True)] if one.high else []
        below = [(x, up.at(y)) for x, y in zip(right, one.low, strict=True)] if one.low else []
        return CurvePath(one.name, points(dots), points(above + below[::-1]), kind, tuple(dots))


def _cell(one: Band, at: int | None) -> str:
    if at is None:
        return ""
    ends = f" [{one.low[at]:.3g}, {one.high[at]:.3g}]" if one.low and one.high else ""
    return f"{one.y[at]:.4g}{ends}"
