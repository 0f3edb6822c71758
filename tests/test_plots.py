"""Plots: their numbers against slow counts, places inside the drawing, tables that say what is drawn, escaping."""

import math
import re
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import proponent
import tiny
from answers import make_answer, make_counted_answer, make_labels
from markup import Structure
from proponent.actions.example_map import _summed, example_map, influence, report, spaces
from proponent.errors import DataError, InputError
from proponent.gradients.forms import Rows
from proponent.gradients.gradient import Gradient
from proponent.store import Store
from proponent.views import Explanation
from proponent.views.axes import BOTTOM, PLOT_HEIGHT, PLOT_WIDTH, TOP, Scale, key, round_values
from proponent.views.distribution import MOST_CLASSES, Distribution
from proponent.views.example_map import MapReport
from proponent.views.histogram import BINS
from proponent.views.page import Limits, document, environment, fragment
from proponent.views.plot import Band, Plot
from proponent.views.scatter import (
    COLUMNS,
    HEIGHT,
    INFLUENCE,
    MOST_KINDS,
    MOST_MARKS,
    REST,
    ROWS,
    WIDTH,
    Kinds,
    cells_of,
    influence_kinds,
    plain_kinds,
    scatter,
)
from proponent.views.score_counts import count_scores, flagged_scores, histogram

numbers = st.floats(-1e6, 1e6, allow_nan=False)
HOSTILE = '</svg><script>alert(1)</script>"><img src=x onerror=alert(1)>'


# Axes.


@given(st.lists(numbers, min_size=1, max_size=8), st.integers(2, 8))
def test_ticks_are_round_few_and_inside(values: list[float], most: int) -> None:
    scale = Scale.of(values, BOTTOM, TOP)
    ticks = scale.ticks(most)
    assert len(ticks) <= max(2, most)
    assert all(TOP <= one.place <= BOTTOM for one in ticks)
    places = [one.place for one in ticks]
    assert places == sorted(places, reverse=True)
    for value in values:
        share = (value - scale.low) / (scale.high - scale.low)
        assert scale.at(value) == pytest.approx(BOTTOM + (TOP - BOTTOM) * share, abs=0.06)


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.0, 1.0, (0.0, 0.25, 0.5, 0.75, 1.0)),
        (0.0, 97.0, (0.0, 20.0, 40.0, 60.0, 80.0)),
        (-3.0, 5.0, (-2.0, 0.0, 2.0, 4.0)),
    ],
)
def test_round_values(low: float, high: float, expected: tuple[float, ...]) -> None:
    assert round_values(low, high) == pytest.approx(expected)


def test_odd_ranges_have_a_scale() -> None:
    for values in ([], [3.0], [3.0, 3.0], [math.nan], [math.inf, 1.0], [0.0, 5e-324], [-1e308, 1e308]):
        scale = Scale.of(values, BOTTOM, TOP)
        assert scale.high > scale.low
        assert all(math.isfinite(one.place) for one in scale.ticks())


# Histograms.


@given(st.lists(numbers | st.sampled_from([math.nan, -math.inf, 0.0]), min_size=1, max_size=60))
def test_counted_scores_are_the_same_histogram(values: list[float]) -> None:
    """What is stored (bounds and counts) gives the bins again, to the last bit."""
    kept = count_scores(np.asarray(values))
    plot = histogram(values, title="t", value_name="v")
    if plot is None:
        assert kept is None
        return
    assert kept is not None
    assert kept.plot([]).bins == plot.bins
    assert (kept.total, kept.left_out) == (plot.total, plot.left_out)
    finite = [one for one in values if math.isfinite(one)]
    for score in finite:
        (own,) = [one for one in plot.bins if one.low <= score < one.high or score == one.high == plot.bins[-1].high]
        beyond = [one for one in finite if one >= own.low] if score > 0 else [
            one for one in finite if one < own.high or own == plot.bins[-1]]  # fmt: skip
        assert kept.beyond(score) == len(beyond)


def test_the_lines_of_an_answer_are_its_last_listed_scores() -> None:
    answer = make_counted_answer()
    plot = answer.by_score
    assert plot is not None
    assert [one.at for one in plot.thresholds] == [answer.proponents[-1].score, answer.opponents[-1].score]
    helped, hurt = (one.text for one in plot.thresholds)
    assert helped == "the last example that helped has 0.041: 778 of 7,598 are in the bar at this line or right of it"
    assert "the last example that hurt has -0." in hurt
    assert "or left of it" in hurt
    assert "most of the 7,598 examples, 6,200, lie from -0.09 to below" in plot.description
    html, bare = document(answer), document(make_answer())
    assert html.count("Scores of all training examples for this question") == 3
    assert "Scores of all training examples" not in bare
    assert "2 without a finite score are not drawn" in html
    assert '<th scope="row">from -0.45 to below -0.36</th><td>3</td>' in html
    assert plot.thresholds[0].text in answer.notebook()
    assert replace(answer, proponents=(), opponents=()).by_score.thresholds == ()  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "change",
    [{"low": math.nan}, {"low": 2.0}, {"high": math.inf}, {"low": -1e308}, {"low": 0.45}, {"counts": ()},
     {"counts": (1, -1)}, {"left_out": -1}, {"counts": (1,) * 1001}, {"counts": (2**60,)}, {"counts": "12"},
     {"counts": (1.5,)}, {"low": "x"}],
)  # fmt: skip
def test_stored_counts_that_cannot_be_drawn_are_refused(change: dict[str, object]) -> None:
    content = make_counted_answer().to_dict()
    content["score_counts"] |= change
    with pytest.raises(DataError, match="not a saved answer: score_counts"):
        Explanation.from_dict(content)


@given(st.lists(st.tuples(numbers | st.sampled_from([math.nan, math.inf]), st.booleans()), min_size=1, max_size=60))
def test_bins_count_every_score_once(rows: list[tuple[float, bool]]) -> None:
    plot = histogram([one for one, _ in rows], [one for _, one in rows], title="t", value_name="v", part_name="p")
    finite = [(one, flag) for one, flag in rows if math.isfinite(one)]
    if not finite:
        assert plot is None
        return
    assert plot is not None
    assert plot.left_out == len(rows) - len(finite)
    for at, one in enumerate(plot.bins):
        last = at == BINS - 1
        inside = [flag for value, flag in finite if one.low <= value < one.high or (last and value == one.high)]
        assert (one.count, one.part) == (len(inside), sum(inside))
    assert (plot.total, plot.part) == (len(finite), sum(flag for _, flag in finite))
    for bar in plot.bars:
        assert 0 <= bar.x <= bar.x + bar.width <= PLOT_WIDTH
        assert TOP <= bar.y <= bar.part_y <= BOTTOM


@pytest.mark.parametrize(
    "values",
    [
        [0.3, 0.1 + 0.2],
        [0.5, 0.5 + 2e-16, 0.5 + 4e-16],
        [1e20, 1e20 + 16384],
        [-1e299, 1e299],
        [5e-324, 0.0],
        [2.0] * 5,
    ],
)
def test_scores_that_differ_by_rounding_or_by_everything_are_counted(values: list[float]) -> None:
    plot = histogram(values, title="t", value_name="v")
    assert plot is not None
    assert sum(one.count for one in plot.bins) == len(values)
    assert all(math.isfinite(one.place) for one in (*plot.ticks, *plot.places))


def test_scores_beyond_any_axis_are_left_out() -> None:
    plot = histogram([-1e308, 1e308, 1.0], title="t", value_name="v")
    assert plot is not None
    assert (sum(one.count for one in plot.bins), plot.left_out) == (1, 2)


def test_heights_are_those_of_the_counts() -> None:
    plot = histogram([0.01] * 8 + [0.99] * 2, title="t", value_name="v", between=(0.0, 1.0))
    assert plot is not None
    assert not plot.logarithmic
    assert [round((BOTTOM - one.y) / (BOTTOM - TOP), 2) for one in plot.bars] == [1.0, 0.25]
    many = histogram([0.01] * 900 + [0.99], title="t", value_name="v", between=(0.0, 1.0))
    assert many is not None
    assert many.logarithmic
    tall, small = (BOTTOM - one.y for one in many.bars)
    assert small / tall == pytest.approx(math.log(2) / math.log(1800), abs=0.01)
    assert [one.text for one in many.ticks] == ["1", "10", "100"]


def test_the_threshold_is_the_last_flagged_score() -> None:
    scores, flags = [0.1, 0.4, 0.35, 0.9], [True, False, True, False]
    plot = flagged_scores(scores, flags, "label score", low=True)
    assert plot is not None
    assert [(one.at, one.text) for one in plot.thresholds] == [(0.35, "no example above 0.35 is flagged")]
    other = flagged_scores(scores, flags, "suspicion", low=False)
    assert other is not None
    assert other.thresholds[0].at == 0.1
    none = flagged_scores(scores, [False] * 4, "label score", low=True)
    assert none is not None
    assert none.thresholds == ()
    assert flagged_scores([], [], "label score", low=True) is None


def test_many_scores_cost_little() -> None:
    scores = np.random.default_rng(0).random(100_000)
    flagged_scores(scores[:10], scores[:10] < 0.1, "x", low=True)
    began = time.process_time()
    plot = flagged_scores(scores, scores < 0.1, "label score", low=True)
    assert plot is not None
    _ = plot.bars, plot.ticks, plot.lines, plot.description
    assert time.process_time() - began < 0.25  # 10 ms without type checks


def cells(html: str, section: str) -> list[list[str]]:
    """The table that goes with a plot, as texts."""
    table = html.partition(section)[2].partition("<table")[2].partition("</table>")[0]
    return [
        [" ".join("".join(Structure(cell).text).split()) for cell in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row)]
        for row in table.split("<tr>")[1:]
    ]


def test_the_table_of_a_histogram_says_what_is_drawn() -> None:
    page = make_labels()
    plot = page.scores
    assert plot is not None
    html = str(fragment(page))
    rows = cells(html, "The numbers of this plot")
    assert rows[0] == ["label score", "examples", "flagged"]
    assert rows[1:] == [[plot.range_of(one), str(one.count), str(one.part)] for one in plot.bins]
    assert html.count('class="wh-part-of" x="') == sum(one.part > 0 for one in plot.bins) + 1  # and the legend
    assert f'aria-labelledby="{key(plot)}-t {key(plot)}-d"' in html
    assert f'<title id="{key(plot)}-t">' in html


# Classes.


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)), max_size=200))
def test_classes_count_everything(rows: list[tuple[int, int]]) -> None:
    found = Distribution.counted((str(one) for one, _ in rows), (str(one) for _, one in rows))
    given_counts, predicted = Counter(str(one) for one, _ in rows), Counter(str(one) for _, one in rows)
    assert len(found.rows) == min(MOST_CLASSES, len({*given_counts, *predicted}))
    for one in found.rows:
        assert (one.given, one.predicted) == (given_counts[one.name], predicted[one.name])
    assert sum(one.given for one in found.rows) + found.more_given == len(rows)
    assert sum(one.predicted or 0 for one in found.rows) + found.more_predicted == len(rows)
    assert [one.given for one in found.rows] == sorted((one.given for one in found.rows), reverse=True)


def test_without_predictions_there_is_one_bar() -> None:
    found = Distribution.counted(["a", "b", "a"], ["a", None, "a"])
    assert [(one.name, one.given, one.predicted) for one in found.rows] == [("a", 2, None), ("b", 1, None)]
    assert not found.judged


# Curves, and influence by checkpoint.


def test_curves_and_their_table() -> None:
    one, two = Band("a", (1.0, 10.0), (-1.0, 3.0)), Band("b", (10.0,), (2.0,), (1.0,), (4.0,))
    plot = Plot((one, two), "x", "y", x_texts=("first", "second"), shown=1, sum_name="sum")
    assert [path.name for path in plot.drawn] == ["a"]
    assert plot.span == (-1.0, 3.0)
    assert plot.heads == ("first", "second", "sum")
    assert plot.rows == (("a", ("-1", "3", "2")), ("b", ("", "2 [1, 4]", "2")))
    assert [tick.text for tick in plot.places] == ["first", "second"]


def test_an_answer_shows_its_parts_by_checkpoint() -> None:
    answer = make_answer()
    plot = answer.by_checkpoint
    assert plot is not None
    hits = {f"{word} {hit.rank}": hit for word, side in (("helped", answer.proponents), ("hurt", answer.opponents))
            for hit in side}  # fmt: skip
    assert len(plot.curves) == len(hits)
    assert len(plot.drawn) == 6
    for curve in plot.curves:
        assert curve.y == hits[curve.name.partition(":")[0]].by_checkpoint
    html = str(fragment(answer))
    rows = cells(html, "Influence by checkpoint")
    assert rows[0][1:] == ["200", "400", "600", "score"]
    assert len(rows) == 1 + len(hits)
    for cut in (replace(answer, checkpoints=answer.checkpoints[:1]), replace(answer, proponents=(), opponents=())):
        assert cut.by_checkpoint is None
        assert "Influence by checkpoint" not in str(fragment(cut))


@pytest.mark.parametrize("parts", [(1.7e308,) * 3, (math.inf, -math.inf, 0.0), (math.nan,) * 3, (5e-324,) * 3])
def test_parts_of_any_size_are_drawn(parts: tuple[float, ...]) -> None:
    answer = make_answer()
    hits = tuple(replace(hit, by_checkpoint=parts) for hit in answer.proponents)
    assert "Influence by checkpoint" in document(replace(answer, proponents=hits))


@pytest.mark.parametrize("method", ["tracin-we", "tracin-we-topk", "grad-cos"])
def test_parts_are_the_scores_of_indexes_of_one_checkpoint(news: tiny.Tiny, tmp_path: Path, method: str) -> None:
    """An index of one checkpoint knows no other: its scores are what this checkpoint adds to the sum."""
    asked = ["The bank said shares fell"]
    index = proponent.build(news.run, news.data, tmp_path / "all.index", method, quiet=True)
    answer = index.explain(asked[0], k=5)
    label, plot = answer.query.label, answer.by_checkpoint
    assert label is not None
    assert plot is not None
    weights, alone = [one.weight for one in index.store.plan.checkpoints], list[np.ndarray]()
    for one, weight in zip(index.store.plan.checkpoints, weights, strict=True):
        folder = tmp_path / f"{one.id.step}.index"
        single = proponent.build(news.run, news.data, folder, method, steps=[one.id.step], quiet=True)
        assert len(single.store.plan.checkpoints) == 1
        alone.append(single.scores(asked, [label])[0] * weight / single.store.plan.checkpoints[0].weight)
    assert len(alone) == 2
    ids, size = index.store.examples["id"], float(np.abs(alone).max())
    curves = {one.name.partition(":")[0]: one.y for one in plot.curves}
    for word, side in (("helped", answer.proponents), ("hurt", answer.opponents)):
        for hit in side:
            parts = curves[f"{word} {hit.rank}"]
            expected = [float(one[ids.index(hit.id)]) for one in alone]
            assert parts == pytest.approx(expected, rel=1e-4, abs=1e-6 * size)
            assert math.fsum(parts) == pytest.approx(hit.score, rel=1e-5, abs=1e-12 * size)


# Maps.


def places(n: int, seed: int = 0) -> np.ndarray:
    found = np.random.default_rng(seed).normal(size=(n, 2)).astype(np.float32)
    found[::7] = np.nan
    return found


def test_a_map_draws_a_sample_and_counts_everything() -> None:
    n = 5_000
    where, codes = places(n), np.arange(n) % 11
    lit = [(int(at), "one", f"example {at}", "") for at in (1, 2, 4_999, 0)]
    plot = scatter(where, Kinds("label", codes, tuple("abcdefghijk")), title="t", x_name="x", y_name="y", chosen=lit)
    known = np.isfinite(where).all(1)
    assert (plot.total, plot.left_out, plot.drawn) == (int(known.sum()), int((~known).sum()), MOST_MARKS)
    assert "2,000 of 4,285 examples are drawn" in plot.drawn_words
    assert sum(one.count for one in plot.kinds) == plot.total
    assert len(plot.kinds) == MOST_KINDS
    assert (plot.kinds[-1].name, plot.kinds[-1].look) == ("4 others", REST)
    assert len({one.look for one in plot.kinds}) == MOST_KINDS
    assert [one.name for one in plot.highlights] == [f"example {at}" for at in (1, 2, 4_999) if known[at]]
    drawn = {mark for one in plot.kinds for mark in one.marks}
    assert {(one.x, one.y) for one in plot.highlights} <= drawn, "those that stand out have a mark, too"
    assert all(0 <= x <= WIDTH and 0 <= y <= HEIGHT for x, y in drawn)
    again = scatter(where, Kinds("label", codes, tuple("abcdefghijk")), title="t", x_name="x", y_name="y", chosen=lit)
    assert again == plot
    columns, rows = cells_of(where)
    for cell in plot.cells:
        inside = (columns == cell.column) & (rows == cell.row)
        counts = Counter("abcdefghijk"[code] for code in codes[inside])
        assert cell.count == inside.sum()
        if cell.most != "4 others":
            assert cell.most_count == counts[cell.most]
    assert (columns[~known] == -1).all()
    assert columns.max() == COLUMNS - 1
    assert rows.max() == ROWS - 1


def test_a_map_without_any_place_says_so() -> None:
    plot = scatter(np.full((3, 2), np.nan), plain_kinds(3), title="t", x_name="x", y_name="y")
    assert plot.description.endswith("no example has a place")


def test_cells_are_where_their_marks_are() -> None:
    where = np.asarray([[0.0, 0.0], [1.0, 1.0], [0.5, 0.2]])
    plot = scatter(where, Kinds("", np.zeros(3, dtype=np.int64), ("all",)), title="t", x_name="x", y_name="y")
    wide, high = plot.cell_size
    for x, y in plot.kinds[0].marks:
        assert any(
            one.x - 0.1 <= x <= one.x + wide + 0.1 and one.y - 0.1 <= y <= one.y + high + 0.1 for one in plot.cells
        )
    columns, rows = cells_of(where)
    assert (columns.tolist(), rows.tolist()) == ([0, COLUMNS - 1, COLUMNS // 2], [ROWS - 1, 0, ROWS - 1 - 1])


def test_influence_is_told_by_sign_and_size() -> None:
    values = np.asarray([5.0, 1.0, -1.0, -5.0, math.nan, 0.0])
    kinds = influence_kinds(values, np.ones(6, dtype=np.bool_))
    assert [kinds.names[code].partition(",")[0] for code in kinds.codes] == [
        "helped", "helped", "hurt", "hurt", "not finite", "helped",
    ]  # fmt: skip
    assert kinds.looks == INFLUENCE
    assert len(set(kinds.codes[:4].tolist())) == 4


def test_a_map_is_the_principal_components_of_its_vectors(news: tiny.Tiny) -> None:
    store = Store(news.index)
    for space in spaces(store):
        made = example_map(store, space)
        vectors = {"hidden": lambda: store.features["pooled"], "probabilities": lambda: store.features[
            "mean_probabilities"], "gradients": lambda: slow_gradients(store)}[space]().astype(np.float64)  # fmt: skip
        centred = vectors - vectors.mean(0)
        _, sizes, right = np.linalg.svd(centred, full_matrices=False)
        for at in range(2):
            axis = right[at] * np.sign(right[at][np.abs(right[at]).argmax()])
            assert made.places[:, at] == pytest.approx(centred @ axis, rel=1e-3, abs=1e-3 * sizes[0])
            assert made.shares[at] == pytest.approx(sizes[at] ** 2 / (sizes**2).sum(), rel=1e-6)
        assert made.width == vectors.shape[1]
        assert made.known.all()
    assert set(spaces(store)) == {"hidden", "gradients", "probabilities"}


def slow_gradients(store: Store) -> np.ndarray:
    last = store.plan.checkpoints[-1].id
    scale, found = store.scale(last), [np.zeros(0)] * store.n
    for examples, arrays in store.shards(last):
        gradient = Gradient.unpack(arrays)
        for at, place in enumerate(examples.tolist()):
            one = gradient.example(at).rows
            assert one is not None
            found[place] = sum((row.astype(np.float64) for row in one.rows), np.zeros(one.rows.shape[1])) * scale[place]
    return np.stack(found)


def test_rows_are_summed_by_example_also_without_any() -> None:
    rows = Rows(
        np.asarray([0, 2, 2, 3]), np.zeros(3, dtype=np.int64), np.zeros(3, dtype=np.int64), np.eye(3, dtype=np.float32)
    )
    assert _summed(Gradient(rows=rows)).tolist() == [[1, 1, 0], [0, 0, 0], [0, 0, 1]]


def test_maps_of_language_models_and_refusals(lines: tiny.Tiny) -> None:
    store = Store(lines.index)
    page = report(store)
    assert isinstance(page, MapReport)
    assert page.plot.total == len(lines.rows)
    assert [one.name for one in page.plot.kinds] == ["training examples"]
    assert any("the marks have one colour: the influence" in note for note in page.notes)
    with pytest.raises(InputError, match="colour the map by something else"):
        influence(store)
    with pytest.raises(InputError, match="no map of probabilities"):
        example_map(store, "probabilities")


def test_pages_and_notebooks_draw_the_same_map(news: tiny.Tiny) -> None:
    page = report(Store(news.index))
    html, cell = document(page), page.notebook()
    for kind in page.plot.kinds:
        assert kind.path in html
        assert kind.path in cell
        assert f"{kind.count}</span>" in html
    assert "<script" not in html
    assert "wh-hit" not in re.sub(r"<style>.*?</style>", "", html, flags=re.DOTALL), "a saved page has no table to link"
    assert "Map of the training examples: all 60 examples are drawn" in repr(page)
    assert page.to_json()


# Escaping.


def test_hostile_names_stay_texts() -> None:
    band = Band(HOSTILE, (1.0, 2.0), (1.0, 2.0))
    codes = np.arange(4) % 2
    lit = [(0, "up", HOSTILE, ""), (1, "one", HOSTILE, "/example?id=%22")]
    drawn = scatter(
        np.random.default_rng(0).random((4, 2)), Kinds(HOSTILE, codes, (HOSTILE, "b" + HOSTILE)),
        title=HOSTILE, x_name=HOSTILE, y_name=HOSTILE, chosen=lit,
        cell_url=lambda column, row: f"/table?area={column}+{row}",
        pages=lambda examples: [(HOSTILE, f"/example?id={at}%22") for at in examples],
    )  # fmt: skip
    scores = histogram([1.0, 2.0], [True, False], title=HOSTILE, value_name=HOSTILE, part_name=HOSTILE)
    source = (
        '{% from "plots.html.j2" import classes, counted, mapped, plotted with context %}'
        "{{ plotted(curves) }}{{ counted(scores) }}{{ classes(labels) }}{{ mapped(drawn) }}"
    )
    html = render(
        source,
        curves=Plot((band,), HOSTILE, HOSTILE, HOSTILE, (HOSTILE, "b")),
        scores=scores,
        labels=Distribution.of({HOSTILE: 2}, {HOSTILE: 1}),
        drawn=drawn,
    )
    tags = {tag for tag, *_ in Structure(html).tags}
    assert not tags & {"script", "img"}
    assert "onerror" not in {name for _, *attributes in Structure(html).tags for name, _ in attributes}
    assert html.count("<svg") == html.count("</svg>")


def render(source: str, **context: object) -> str:
    return environment().from_string(source).render(**context, limits=Limits(), answer_links=None)


def test_names_of_parts_differ_between_plots() -> None:
    one = Plot((Band("a", (1.0,), (1.0,)),), "x", "y")
    assert key(one) == key(replace(one))
    assert key(one) == key(replace(one, x_name="z")), "no text of the data stands in an attribute"
    assert key(one) != key(replace(one, curves=(Band("a", (1.0,), (2.0,)),)))
    assert key(one) != key(replace(one, curves=one.curves * 2))
    assert re.fullmatch(r"wh-plot-[0-9a-f]{16}", key(one))
    assert PLOT_HEIGHT < PLOT_WIDTH
