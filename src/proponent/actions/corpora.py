"""Influence of whole corpora on test sets, by unlearning: UnTrac and UnTrac-Inv beside products of gradients.

Isonuma and Titov 2024, "Unlearning Traces the Influential Training Data of Language Models" (arXiv 2401.15241).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from proponent.actions.corpus_sets import Sets
from proponent.dynamics.untrac import (
    Ascent,
    AscentSettings,
    TextSet,
    Unlearner,
    common_steps,
    set_products,
)
from proponent.errors import InputError, MismatchError
from proponent.evaluate.intervals import bootstrap
from proponent.evaluate.left_out import LeftOut, LeftOutSettings, agreement, leave_out
from proponent.evaluate.report import figure
from proponent.index import Index
from proponent.models import Run
from proponent.models.counting import NOTHING, Stated
from proponent.progress import track
from proponent.training.loop import one_thread
from proponent.training.precision import refuse_half
from proponent.types import Example
from proponent.version import __version__
from proponent.views.comparison import ComparisonReport, FigureTable
from proponent.views.evaluation import Figure, MethodFigures
from proponent.views.plot import Band, Plot

UNTRAC, INVERSE, DOT, COSINE = "UnTrac", "UnTrac-Inv", "GradDot", "GradCos"
Scores = Float[np.ndarray, "c t"]


@dataclass(frozen=True)
class UnlearnSettings:
    """How sets are unlearned; the defaults are those of the paper, and curves of ten points."""

    steps: int | None = None  # steps of UnTrac; None: one pass over the smallest corpus
    optimizer: str = "adam"
    learning_rate: float = 5e-5
    batch_size: int = 1
    inverse_steps: int = 5  # steps of UnTrac-Inv, each on a whole test set
    inverse_rate: float | None = None  # learning rate of UnTrac-Inv; None: the same
    points: int = 10  # of the curves
    limit: float = 2.0  # an ascent ends when the unlearned set's loss exceeds this many times its first one
    rows: int | None = None  # rows drawn of each corpus; None takes all
    seeds: int = 1  # orders of the rows

    def check(self) -> None:
        """Refuse invalid settings."""
        for name in ("points", "seeds", "rows"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"{name} is {value}: must be at least 1")
        self.inverse.check()
        self.plain(1).check()

    def plain(self, smallest: int) -> AscentSettings:
        """Settings of UnTrac."""
        steps = self.steps if self.steps is not None else -(-smallest // max(1, self.batch_size))
        every = max(1, -(-steps // self.points))
        return AscentSettings(steps, self.optimizer, self.learning_rate, self.batch_size, every, self.limit)

    @property
    def inverse(self) -> AscentSettings:
        """Settings of UnTrac-Inv."""
        rate = self.learning_rate if self.inverse_rate is None else self.inverse_rate
        every = max(1, -(-self.inverse_steps // self.points))
        return AscentSettings(self.inverse_steps, self.optimizer, rate, None, every, self.limit)


def unlearn(
    run: Run,
    corpora: Mapping[str, Sequence[Example]],
    tests: Mapping[str, Sequence[Example]],
    settings: UnlearnSettings = UnlearnSettings(),
    *,
    index: Index | None = None,
    truth: LeftOutSettings | None = None,
    max_length: int | None = None,
    stated: Stated = NOTHING,
    quiet: bool = False,
) -> ComparisonReport:
    """Measure how much each corpus helped on each test set, by unlearning.

    Args:
        run: a trained causal language model, encoder-decoder or classifier; adapters are unlearned in what they
            trained.
        corpora: the training rows, by name of the corpus.
        tests: the rows of each test set, by its name.
        settings: optimizer, learning rate, steps, limit.
        index: an index of the training rows; its mean scores stand beside.
        truth: also train without each corpus, and compare.
        max_length: most tokens that are read of a row; None takes what the training read.
        stated: which tokens of chat data counted, and the template, where no Recorder noted it.
        quiet: no progress on stderr.

    Returns:
        Scores of corpora and tests; above 0 the corpus helped. Losses are means over tokens.

    Raises:
        InputError: no rows, a corpus without a common token with a test set, an ascent that diverges at once.
        MismatchError: the index lacks rows of a corpus.

    Source:
        Isonuma and Titov 2024 (arXiv 2401.15241), equations 2 to 5.
    """
    settings.check()
    refuse_half(run, "unlearning")
    with one_thread():
        found = Sets.read(run, corpora, tests, settings.rows, max_length, stated)
        trainings = None if truth is None else found.trainings(run, truth)
        if trainings is not None:
            trainings.initial  # noqa: B018 # unknown initial weights are refused before the work
        known = None if index is None else _index_scores(index, found)
        unlearner = Unlearner(run.load(run.checkpoints[-1]), found.encoder, run.task)
        plain, inverse = _ascents(unlearner, found, settings, quiet)
        scores = {UNTRAC: _scores(plain), INVERSE: np.swapaxes(_scores(inverse), 1, 2)}
        dots, cosines = set_products(unlearner, found.corpora, found.tests)
        scores |= {DOT: dots[None], COSINE: cosines[None]}
        if index is not None and known is not None:
            scores[f"{index.method}, mean score"] = known[None]
        sizes = list(map(len, found.corpora))
        left = None if trainings is None else leave_out(trainings, sizes, quiet=quiet)
    return _report(found, settings, scores, plain, inverse, left)


def _ascents(
    unlearner: Unlearner, found: Sets, settings: UnlearnSettings, quiet: bool
) -> tuple[list[list[Ascent]], list[list[Ascent]]]:
    """Unlearn every corpus and every test set with every seed, from the same weights."""
    plain, inverse = settings.plain(min(map(len, found.corpora))), settings.inverse
    jobs = [(one, found.tests, plain, seed) for seed in range(settings.seeds) for one in found.corpora]
    jobs += [(one, found.corpora, inverse, 0) for one in found.tests]  # whole batches have no order
    total = sum(own.steps for _, _, own, _ in jobs)
    meter = track(range(total), total=total, label="unlearning", unit="steps", quiet=quiet)
    ascents = [unlearner.ascend(one, watched, own, seed, lambda: next(meter, None)) for one, watched, own, seed in jobs]
    for _ in meter:  # steps that were not taken
        pass
    size, first = len(found.corpora), settings.seeds * len(found.corpora)
    return [ascents[start : start + size] for start in range(0, first, size)], [ascents[first:]]


def _scores(ascents: list[list[Ascent]]) -> Float[np.ndarray, "s u m"]:
    """Changes of the watched losses, after as many steps for all."""
    steps = common_steps([one for seed in ascents for one in seed])
    return np.asarray([[one.change(steps) for one in seed] for seed in ascents])


def _index_scores(index: Index, found: Sets) -> Scores:
    """Mean score of the rows of each corpus for the rows of each test set."""
    held = (index.store.examples[name] for name in ("text", "text_pair", "target"))
    labels = index.store.features["labels"].tolist()
    places = {texts: place for place, texts in enumerate(zip(*held, labels, strict=True))}
    rows: list[list[int]] = []
    for name, examples in found.rows.items():
        numbers = next(one.labels for one in found.corpora if one.name == name)
        keys = [(one.text, one.text_pair, one.target, own) for one, own in zip(examples, numbers, strict=True)]
        lost = sum(one not in places for one in keys)
        if lost:
            raise MismatchError(f"the index lacks {lost} of {len(examples)} rows of {name}: build it from all corpora")
        rows.append([places[one] for one in keys])
    columns = [index.scores(list(examples)).mean(0) for examples in found.asked.values()]
    unknown = sum(int(np.isnan(columns[0][own]).sum()) for own in rows)
    if unknown:
        raise MismatchError(
            f"the index has no score for {unknown} rows of the corpora (deleted, or skipped): build it anew"
        )
    return np.asarray([[column[own].mean() for column in columns] for own in rows])


def _report(
    found: Sets,
    settings: UnlearnSettings,
    scores: dict[str, Float[np.ndarray, "s c t"]],
    plain: list[list[Ascent]],
    inverse: list[list[Ascent]],
    left: LeftOut | None,
) -> ComparisonReport:
    """The page."""
    names, tests = [one.name for one in found.corpora], [one.name for one in found.tests]
    own, other = settings.plain(min(map(len, found.corpora))), settings.inverse
    steps = [common_steps([one for seed in part for one in seed]) for part in (plain, inverse)]
    others = [
        _table(f"{name}: {_MEANING.get(name, 'of an index')}", names, tests, values)
        for name, values in scores.items()
        if name != UNTRAC
    ]
    facts = [
        ("UnTrac", _said(own, f"batches of {own.batch_size}", steps[0])),
        ("UnTrac-Inv", _said(other, "whole test sets", steps[1])),
    ]
    facts += [
        (name, f"{len(one):,} rows") for name, one in zip((*names, *tests), (*found.corpora, *found.tests), strict=True)
    ]
    notes = [*found.notes, *_stops(plain, found.corpora), *_stops(inverse, found.tests)]
    if left is not None:
        others += [
            _table("Without the corpus, trained again: change of the loss", names, tests, left.truth),
            _agreements(scores, left),
        ]
        facts.append(("truth", f"{len(names) + 1} trainings of {left.steps} steps, seeds: {len(left.truth)}"))
        notes += [*left.notes, *_ceiling(left)]
    return ComparisonReport(
        metric="unlearn",
        unit="corpus",
        title="Influence of corpora on test sets",
        said="UnTrac: change of the loss on each test set (nats per token) after gradient ascent on the corpus; a "
        "corpus with a value above 0 helped",
        columns=tuple(tests),
        rows=_rows(names, tests, scores[UNTRAC]),
        others=tuple(others),
        plots=tuple(_plot(test, at, plain, names) for at, test in enumerate(tests)),
        facts=tuple(facts),
        notes=tuple(notes),
        version=__version__,
    )


def _said(settings: AscentSettings, batches: str, steps: int) -> str:
    way = f"{settings.optimizer}, rate {settings.learning_rate:g}, {batches}"
    return f"{way}, read after {steps} of {settings.steps} steps"


_MEANING = {
    INVERSE: "change of the corpus's loss after ascent on the test set",
    DOT: "product of the mean gradients",
    COSINE: "cosine of the mean gradients",
}


def _table(title: str, names: Sequence[str], tests: Sequence[str], values: Float[np.ndarray, "s c t"]) -> FigureTable:
    return FigureTable(title, "corpus", tuple(tests), _rows(names, tests, values))


def _rows(names: Sequence[str], tests: Sequence[str], values: Float[np.ndarray, "s c t"]) -> tuple[MethodFigures, ...]:
    """Means over seeds with their intervals."""
    return tuple(
        MethodFigures(name, False, tuple(_figure(test, values[:, row, column]) for column, test in enumerate(tests)))
        for row, name in enumerate(names)
    )


def _figure(name: str, values: Float[np.ndarray, " s"]) -> Figure:
    return figure(name, bootstrap(values))


def _agreements(scores: dict[str, Float[np.ndarray, "s c t"]], left: LeftOut) -> FigureTable:
    """How far every method agrees with the truth."""
    columns, truth = ("Pearson", "Spearman", "first corpus among the truth's first two"), left.truth.mean(0)
    found = {name: agreement(values.mean(0), truth) for name, values in scores.items()}
    rows = tuple(
        MethodFigures(
            name, name in (DOT, COSINE), tuple(figure(what, one) for what, one in zip(columns, each, strict=True))
        )
        for name, each in found.items()
    )
    return FigureTable("Agreement with training again over corpora, mean over test sets", "method", columns, rows)


def _ceiling(left: LeftOut) -> list[str]:
    found = left.ceiling
    if found is None:
        return ["the truth has one seed: its own noise is not known"]
    return [
        f"the two halves of the truth's seeds correlate by {found.mean():.2f}, which bounds how far a method can agree "
        "with the mean over all seeds: by the root of 2 r / (1 + r)"
    ]


def _stops(ascents: list[list[Ascent]], sets: Sequence[TextSet]) -> list[str]:
    """Which ascents left the linear region."""
    return [
        f"the ascent on {texts.name} ended after {one.steps[-1]} steps: {one.stopped}; all are read before that"
        for seed in ascents
        for texts, one in zip(sets, seed, strict=True)
        if one.stopped
    ]


def _plot(test: str, at: int, ascents: list[list[Ascent]], names: Sequence[str]) -> Plot:
    """Loss of one test set over the steps, one curve per corpus."""
    bands: list[Band] = []
    for row, name in enumerate(names):
        own = [seed[row] for seed in ascents]
        count = min(len(one.steps) for one in own)
        values = np.asarray([one.losses[:count, at] - one.losses[0, at] for one in own])
        low, high = tuple(values.min(0).tolist()), tuple(values.max(0).tolist())
        steps = tuple(own[0].steps[:count].astype(float).tolist())
        bands.append(Band(name, steps, tuple(values.mean(0).tolist()), low, high))
    note = "bands span the seeds" if len(ascents) > 1 else ""
    return Plot(tuple(bands), "steps of ascent on each corpus", f"change of the loss on {test}", note)
