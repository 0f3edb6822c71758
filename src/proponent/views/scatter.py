"""A map of many examples: a sample of marks by kind, and cells that count all of them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from jaxtyping import Bool, Float, Int

from proponent.views.axes import Scale
from proponent.views.text_marks import clip

WIDTH, HEIGHT = 360.0, 280.0
LEFT, RIGHT, TOP, BOTTOM = 14.0, 350.0, 8.0, 256.0
"""Size of a map, and the edges of its inside."""

MOST_MARKS = 2_000
"""Marks of a map; of more examples, a sample that is the same every time."""

MOST_POINTS = 500
"""Marks of a map up to which each leads to its example: every link weighs about 130 bytes of its page."""

MOST_KINDS = 8
"""Kinds with a colour and a shape of their own; the smaller ones share one."""

COLUMNS, ROWS = 12, 9
"""Cells of a map."""

SEED = 20_261_130
"""Of the sample of marks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MarkKind:
    """Examples of one kind, with one look."""

    name: Annotated[str, "name of the kind"]
    look: Annotated[int, "number of its shape and colour, from 0"]
    count: Annotated[int, "examples of the kind that have a place"]
    marks: Annotated[tuple[tuple[float, float], ...], "places of the drawn ones"]

    @property
    def path(self) -> str:
        """All marks as one path."""
        shape = SHAPES[self.look]
        return "".join(f"M{x:g} {y:g}{shape}" for x, y in self.marks)

    @property
    def sample(self) -> str:
        """The path of one mark, for the legend."""
        return f"M6 6{SHAPES[self.look]}"


SHAPES = (
    "h0",
    "m-2-2h4v4h-4z",
    "m0-2.6l2.6 4.6h-5.2z",
    "m0 2.6l2.6-4.6h-5.2z",
    "m0-3l3 3-3 3-3-3z",
    "m-2.5-2.5l5 5m0-5l-5 5",
    "m-3 0h6m-3-3v6",
    "m-3-1h6v2h-6z",
    "h0",
    *("m0-3l3 5.2h-6z",) * 2,
    *("m0 3l3-5.2h-6z",) * 2,
)
"""Dot, square, triangles, diamond, two crosses, bar; a small dot for smaller kinds; triangles for influence."""

REST = 8
"""The look of all smaller kinds."""

INFLUENCE = (9, 10, 11, 12, REST)
"""Looks of the kinds by influence."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MapCell:
    """A part of a map, and all examples in it."""

    column: Annotated[int, "from the left, from 0"]
    row: Annotated[int, "from the top, from 0"]
    x: Annotated[float, "left edge"]
    y: Annotated[float, "upper edge"]
    count: Annotated[int, "examples in it"]
    most: Annotated[str, "its most frequent kind"]
    most_count: Annotated[int, "examples of that kind"]
    url: Annotated[str, "page of its examples; empty where there is none"] = ""

    @property
    def name(self) -> str:
        """Where it lies."""
        return f"column {self.column + 1}, row {self.row + 1}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Highlight:
    """A single example that stands out."""

    x: Annotated[float, "place from the left"]
    y: Annotated[float, "place from the top"]
    side: Annotated[str, '"up" for helped, "down" for hurt, "one" for a chosen example']
    name: Annotated[str, "what it is"]
    url: Annotated[str, "its page; empty where there is none"] = ""


@dataclass(frozen=True, slots=True)
class MapPoint:
    """A mark that leads to its example."""

    x: Annotated[float, "place from the left"]
    y: Annotated[float, "place from the top"]
    name: Annotated[str, "id of the example"]
    url: Annotated[str, "its page"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scatter:
    """A map of examples."""

    title: Annotated[str, "what is drawn"]
    x_name: Annotated[str, "name of the horizontal axis"]
    y_name: Annotated[str, "name of the vertical axis"]
    kind_name: Annotated[str, "what the kinds are, such as given label; empty for a single one"]
    kinds: Annotated[tuple[MarkKind, ...], "kinds with marks, the most frequent first"]
    cells: Annotated[tuple[MapCell, ...], "cells that hold anything, by row and column"]
    highlights: Annotated[tuple[Highlight, ...], "examples that stand out"] = ()
    points: Annotated[tuple[MapPoint, ...], "marks that lead to their examples; none if there are too many"] = ()
    left_out: Annotated[int, "examples without a place"] = 0

    @property
    def total(self) -> int:
        """Examples that have a place."""
        return sum(one.count for one in self.cells)

    @property
    def drawn(self) -> int:
        """Marks of the map."""
        return sum(len(one.marks) for one in self.kinds)

    @property
    def drawn_words(self) -> str:
        """How many examples are drawn, in words."""
        if self.drawn == self.total:
            return f"all {self.total:,} examples are drawn"
        return f"{self.drawn:,} of {self.total:,} examples are drawn, a sample; the cells count all of them"

    @property
    def linked(self) -> bool:
        """Whether cells lead to their examples."""
        return any(one.url for one in self.cells)

    @property
    def leads(self) -> str:
        """Where a click leads, in words; empty where nothing is linked."""
        if self.points:
            return "Follow a point to its example, or a cell to its examples"
        return f"Follow a cell to its examples; of up to {MOST_POINTS} drawn examples each is a link" * self.linked

    @property
    def cell_size(self) -> tuple[float, float]:
        """Width and height of a cell."""
        return (RIGHT - LEFT) / COLUMNS, round((BOTTOM - TOP) / ROWS, 2)

    @property
    def description(self) -> str:
        """Kinds, marks and the fullest cell in words."""
        kinds = ", ".join(f"{clip(one.name, 40)} {one.count:,}" for one in self.kinds)
        fullest = max(self.cells, key=lambda one: one.count, default=None)
        if fullest is None:
            return f"{kinds}; no example has a place"
        return f"{kinds}; {self.drawn_words}; the fullest cell, {fullest.name}, holds {fullest.count:,}"


@dataclass(frozen=True)
class Kinds:
    """The kind of every example.

    Attributes:
        title: what the kinds are.
        codes: number of each example's kind.
        names: names of the kinds.
        looks: their looks, in an order that is theirs; empty: the most frequent kind comes first.
    """

    title: str
    codes: Int[np.ndarray, " n"]
    names: tuple[str, ...]
    looks: tuple[int, ...] = ()


def influence_kinds(values: Float[np.ndarray, " n"], known: Bool[np.ndarray, " n"]) -> Kinds:
    """Kinds by influence: helped or hurt by the other examples, above and below the median of the magnitudes."""
    size = np.abs(np.where(np.isfinite(values), values, 0.0))
    half = float(np.median(size[known])) if known.any() else 0.0
    codes = np.where(values >= 0, 1, 2) + np.where(size > half, np.where(values >= 0, -1, 1), 0)
    codes = np.where(np.isfinite(values), codes, 4)
    bound = f"{half:.2g}"
    return Kinds(
        "influence of all other examples",
        codes.astype(np.int64),
        (
            f"helped, above {bound}",
            f"helped, up to {bound}",
            f"hurt, down to -{bound}",
            f"hurt, below -{bound}",
            "not finite",
        ),
        looks=INFLUENCE,
    )


def plain_kinds(n: int) -> Kinds:
    """One kind for all examples."""
    return Kinds("", np.zeros(n, dtype=np.int64), ("training examples",))


def scatter(
    places: Float[np.ndarray, "n 2"],
    kinds: Kinds,
    *,
    title: str,
    x_name: str,
    y_name: str,
    chosen: Sequence[tuple[int, str, str, str]] = (),
    cell_url: Callable[[int, int], str] | None = None,
    pages: Callable[[Int[np.ndarray, " m"]], Sequence[tuple[str, str]]] | None = None,
) -> Scatter:
    """Draw a map.

    Args:
        places: of all examples, as values of the two axes; NaN for an example without a place.
        kinds: what tells the examples apart.
        title: what is drawn.
        x_name: name of the horizontal axis.
        y_name: name of the vertical axis.
        chosen: examples that stand out, which are always drawn: number, side, name and URL.
        cell_url: page of the examples of a cell.
        pages: ids and pages of some examples, by number; asked for only if few enough are drawn.

    Returns:
        The map. Cells count all examples; at most `MOST_MARKS` examples have a mark, and if these are no more than
        `MOST_POINTS`, each leads to its page.
    """
    known = np.flatnonzero(np.isfinite(places).all(1))
    right, up = frame_of(places)
    order = np.random.default_rng(SEED).permutation(known)
    lit = np.asarray([at for at, *_ in chosen], dtype=np.int64)
    lit = lit[np.isfinite(places[lit]).all(1)] if len(lit) else lit
    sample = np.sort(np.concatenate([lit, order[~np.isin(order, lit)][: max(0, MOST_MARKS - len(lit))]]))
    names, codes = _few(kinds, known)
    counts = np.bincount(codes[known], minlength=len(names))

    def at(examples: Int[np.ndarray, " m"]) -> tuple[tuple[float, float], ...]:
        return tuple((right.at(float(a)), up.at(float(b))) for a, b in places[examples].tolist())

    return Scatter(
        title=title,
        x_name=x_name,
        y_name=y_name,
        kind_name=kinds.title,
        kinds=tuple(
            MarkKind(name=name, look=look, count=int(counts[number]), marks=at(sample[codes[sample] == number]))
            for number, (name, look) in enumerate(names)
            if counts[number]
        ),
        cells=_cells(places, codes, known, [name for name, _ in names], cell_url),
        highlights=tuple(
            Highlight(x=right.at(float(places[at, 0])), y=up.at(float(places[at, 1])), side=side, name=name, url=url)
            for at, side, name, url in chosen
            if np.isfinite(places[at]).all()
        ),
        points=tuple(MapPoint(x, y, name, url) for (x, y), (name, url) in zip(at(sample), pages(sample), strict=True))
        if pages is not None and len(sample) <= MOST_POINTS
        else (),
        left_out=len(places) - len(known),
    )


def frame_of(places: Float[np.ndarray, "n 2"]) -> tuple[Scale, Scale]:
    """Scales of the two axes."""
    known = places[np.isfinite(places).all(1)].astype(np.float64)
    ends = [(float(one.min()), float(one.max())) if len(one) else (0.0, 0.0) for one in known.T]
    return Scale.of(ends[0], LEFT, RIGHT), Scale.of(ends[1], BOTTOM, TOP)


def cells_of(places: Float[np.ndarray, "n 2"]) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " n"]]:
    """Column and row of the cell of each example; -1 for one without a place."""
    right, up = frame_of(places)
    found: list[np.ndarray] = []
    for scale, many, at in ((right, COLUMNS, 0), (up, ROWS, 1)):
        share = (places[:, at].astype(np.float64) - scale.low) / (scale.high - scale.low)
        number = np.clip(np.floor(np.nan_to_num(share) * many), 0, many - 1).astype(np.int64)
        found.append(np.where(np.isfinite(places).all(1), number if at == 0 else many - 1 - number, -1))
    return found[0], found[1]


def _cells(
    places: np.ndarray,
    codes: np.ndarray,
    known: np.ndarray,
    names: Sequence[str],
    url: Callable[[int, int], str] | None,
) -> tuple[MapCell, ...]:
    columns, rows = cells_of(places)
    numbers = rows[known] * COLUMNS + columns[known]
    table = np.zeros((ROWS * COLUMNS, len(names)), dtype=np.int64)
    np.add.at(table, (numbers, codes[known]), 1)
    wide, high = (RIGHT - LEFT) / COLUMNS, (BOTTOM - TOP) / ROWS
    made: list[MapCell] = []
    for number in np.flatnonzero(table.sum(1)).tolist():
        row, column = divmod(number, COLUMNS)
        most = int(table[number].argmax())
        made.append(
            MapCell(
                column=column,
                row=row,
                x=round(LEFT + wide * column, 1),
                y=round(TOP + high * row, 1),
                count=int(table[number].sum()),
                most=names[most],
                most_count=int(table[number, most]),
                url="" if url is None else url(column, row),
            )
        )
    return tuple(made)


def _few(kinds: Kinds, known: np.ndarray) -> tuple[list[tuple[str, int]], np.ndarray]:
    """Names and looks of the most frequent kinds and of the rest, and each example's number among them."""
    counts = np.bincount(kinds.codes[known], minlength=len(kinds.names))
    order = np.arange(len(counts)) if kinds.looks else np.argsort(-counts, kind="stable")
    present = [at for at in order.tolist() if counts[at]]
    kept, rest = (present, []) if len(present) <= MOST_KINDS else (present[: MOST_KINDS - 1], present[MOST_KINDS - 1 :])
    numbers = np.full(len(counts), len(kept), dtype=np.int64)
    numbers[kept] = np.arange(len(kept))
    looks = [kinds.looks[at] if kinds.looks else look for look, at in enumerate(kept)]
    names = [(kinds.names[at] or "without a value", look) for at, look in zip(kept, looks, strict=True)]
    names += [(f"{len(rest):,} others", REST)] if rest else []
    return names or [("none", 0)], numbers[kinds.codes]
