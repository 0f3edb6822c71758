"""Small to large: does a comparison of training sets by small models hold for a large one?

Khaddaj, Engstrom and Madry 2025, "Small-to-Large Generalization: Training Data Influences Models Consistently Across
Scale" (arXiv 2505.16260). Every model is trained on every training set, with equal numbers of tokens.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from jaxtyping import Float

from proponent.actions.corpus_sets import Sets
from proponent.errors import InputError, MismatchError
from proponent.evaluate.intervals import LEAST_SETS, fisher, mean_fisher
from proponent.evaluate.left_out import LeftOutSettings, correlations
from proponent.evaluate.report import figure
from proponent.evaluate.scales import shuffled, without_axis
from proponent.models import Encoded, Run
from proponent.models.counting import NOTHING, Stated
from proponent.models.run_record import FRESH
from proponent.training.retraining import RetrainJob
from proponent.types import Example
from proponent.version import __version__
from proponent.views.comparison import ComparisonReport, FigureTable
from proponent.views.evaluation import Figure, MethodFigures
from proponent.views.plot import Band, Plot

LARGE = "the large model"
OTHER_SEED, SHUFFLED = "the large model, other seeds", "shuffled training sets, 95 % of |r| below"
_OTHER_SEEDS = 500
Losses = Float[np.ndarray, "s m t"]


@dataclass(frozen=True)
class ScaleSettings:
    """How models are compared."""

    trainings: LeftOutSettings  # cache, seeds, initial weights, workers
    tokens: int | None = None  # of each training set; None: as many as the smallest set has
    alike: tuple[str, ...] = ()  # training sets from one source, which are compared apart as well
    max_length: int | None = None
    stated: Stated = NOTHING  # which tokens of chat data counted, where no Recorder noted it


def compare_scales(
    large: Run,
    small: Mapping[str, Run],
    sets: Mapping[str, Sequence[Example]],
    tests: Mapping[str, Sequence[Example]],
    settings: ScaleSettings,
    *,
    quiet: bool = False,
) -> ComparisonReport:
    """Train small models and a large one on every training set, and correlate their losses on each test set.

    Args:
        large: a run of the large model: its architecture, initial weights and settings are used, not its weights.
        small: runs of smaller models, by name.
        sets: the training sets, by name.
        tests: the test sets, by name.
        settings: seeds, tokens, cache.
        quiet: no progress on stderr.

    Returns:
        Correlations over training sets for each test set, with intervals, beside other seeds of the large model and
        shuffled sets; the losses themselves.

    Raises:
        InputError: fewer than four training sets, unknown names of similar sets, no small model.
        MismatchError: classifiers with other classes.

    Source:
        Khaddaj, Engstrom and Madry 2025 (arXiv 2505.16260), section 3.
    """
    _refuse(large, small, sets, settings)
    largest = Sets.read(large, sets, tests, None, settings.max_length, settings.stated)
    kept = _equal_tokens(largest, settings.tokens)
    chosen = {
        name: [rows[at] for at in places] for (name, rows), places in zip(largest.rows.items(), kept, strict=True)
    }
    losses: dict[str, Losses] = {}
    notes = list(largest.notes)
    for name, run in {**small, LARGE: large}.items():
        read = Sets.read(run, chosen, tests, None, settings.max_length, settings.stated)
        notes += [one for one in read.notes if one not in notes]
        losses[name] = _losses(read, run, settings, name, quiet)
    return _report(small, large, losses, largest, kept, settings, notes)


def _refuse(
    large: Run, small: Mapping[str, Run], sets: Mapping[str, Sequence[Example]], settings: ScaleSettings
) -> None:
    if not small:
        raise InputError("give at least one small model (--small)")
    if settings.trainings.initial not in (None, FRESH):
        raise InputError(f"--initial {settings.trainings.initial}: weights belong to one model; only {FRESH} fits all")
    if LARGE in small:
        raise InputError(f"a small model has the name {LARGE!r}: give it another one")
    if len(sets) < LEAST_SETS:
        raise InputError(
            f"{len(sets)} training sets: at least {LEAST_SETS} are needed, for a correlation over fewer says nothing"
        )
    unknown = [name for name in settings.alike if name not in sets]
    if unknown:
        raise InputError(f"--alike {unknown[0]}: no training set has this name; they are {', '.join(sets)}")
    if 0 < len(set(settings.alike)) < LEAST_SETS:
        raise InputError(f"--alike: at least {LEAST_SETS} sets from one source are needed")
    for name, run in small.items():
        if run.label_names != large.label_names or run.task.kind != large.task.kind:
            raise MismatchError(
                f"{name} and the large model predict different things: give models of one task and of the same classes"
            )


def _equal_tokens(read: Sets, tokens: int | None) -> list[list[int]]:
    """Rows of each set, drawn in random order until as many tokens are reached in each."""
    lengths = [np.asarray([_length(one) for one in texts.encoded]) for texts in read.corpora]
    most = min(int(one.sum()) for one in lengths)
    if tokens is not None and tokens > most:
        raise InputError(f"--tokens {tokens}: the smallest training set has {most}")
    wanted = most if tokens is None else tokens
    kept: list[list[int]] = []
    for number, own in enumerate(lengths):
        order = np.random.default_rng(number).permutation(len(own))
        count = int(np.searchsorted(np.cumsum(own[order]), wanted)) + 1
        kept.append(sorted(order[:count].tolist()))
    return kept


def _length(one: Encoded) -> int:
    """Tokens of a row, those of an encoder-decoder's target as well."""
    return len(one.ids) + (0 if one.targets is None else len(one.targets))


def _losses(read: Sets, run: Run, settings: ScaleSettings, name: str, quiet: bool) -> Losses:
    """Losses on the tests after training on each set with each seed."""
    seeds = settings.trainings.seeds
    edges: list[int] = np.cumsum([0, *map(len, read.rows.values())]).tolist()
    parts = [np.arange(*pair) for pair in pairwise(edges)]
    first = 0 if name == LARGE else _OTHER_SEEDS  # a small model must not see the rows in the large one's order
    jobs = [RetrainJob(part, first + seed) for seed in range(seeds) for part in parts]
    found = read.trainings(run, settings.trainings).losses(jobs, f"training {name}", quiet=quiet)
    return found.reshape(seeds, len(parts), found.shape[1])


def _report(
    small: Mapping[str, Run],
    large: Run,
    losses: dict[str, Losses],
    read: Sets,
    kept: list[list[int]],
    settings: ScaleSettings,
    notes: list[str],
) -> ComparisonReport:
    """The page."""
    names, tests = [one.name for one in read.corpora], [one.name for one in read.tests]
    truth, columns = losses[LARGE], (*tests, "mean")
    sizes = {name: _size(run) for name, run in {**small, LARGE: large}.items()}
    means = {name: losses[name].mean(0) for name in small}
    rows = [_correlated(name, correlations(one, truth.mean(0)), len(names), tests) for name, one in means.items()]
    controls = [] if len(truth) < 2 else [_ceiling(truth, tests)]
    first = next(iter(means.values()))
    *each, whole = shuffled(first, truth.mean(0)).tolist()
    controls.append(MethodFigures(SHUFFLED, True, (*_figures(tests, np.asarray(each)), Figure("mean", whole))))
    axis = "Correlation without the main axis, along which the sets differ on all tests alike"
    fits = _each(means, tests, lambda one: correlations(one, truth.mean(0)) ** 2)
    others = [FigureTable("R squared of a linear fit", "model", columns, fits)]
    if len(tests) > 1:  # the main axis of one test set is all there is of it
        rest = _each(means, tests, lambda one: correlations(*without_axis(one, truth.mean(0))))
        others.append(FigureTable(axis, "model", columns, rest))
    if settings.alike:
        own = [names.index(name) for name in dict.fromkeys(settings.alike)]
        alike = tuple(
            _correlated(name, correlations(one[own], truth.mean(0)[own]), len(own), tests)
            for name, one in means.items()
        )
        others.append(FigureTable(f"Correlation over the {len(own)} sets from one source", "model", columns, alike))
    others += [
        FigureTable(
            f"Losses of {name}",
            "training set",
            tuple(tests),
            tuple(MethodFigures(row, False, _figures(tests, one.mean(0)[at])) for at, row in enumerate(names)),
        )
        for name, one in losses.items()
    ]
    return ComparisonReport(
        metric="transfer",
        unit="model",
        title="Small models in place of a large one",
        said="Correlation over training sets of a small model's loss with the large model's, for each test set; every "
        "model is trained on every set",
        columns=columns,
        rows=(*rows, *controls),
        others=tuple(others),
        plots=tuple(_plot(test, at, losses) for at, test in enumerate(tests)),
        facts=(
            ("training sets", str(len(names))),
            ("seeds", str(len(truth))),
            *((name, f"{size:,} parameters") for name, size in sizes.items()),
            ("rows of each set", ", ".join(f"{name} {len(one):,}" for name, one in zip(names, kept, strict=True))),
        ),
        notes=(*notes, *_trend(sizes, means, truth), *_ceiling_note(truth)),
        version=__version__,
    )


def _correlated(name: str, values: Float[np.ndarray, " t"], sets: int, tests: Sequence[str]) -> MethodFigures:
    found = [figure(test, fisher(float(one), sets)) for test, one in zip(tests, values, strict=True)]
    return MethodFigures(name, False, (*found, figure("mean", mean_fisher(values, sets))))


def _ceiling(truth: Losses, tests: Sequence[str]) -> MethodFigures:
    """Correlation of one half of the seeds with the other; means over all seeds, as of small models, can exceed it."""
    half = len(truth) // 2
    values = correlations(truth[:half].mean(0), truth[half:].mean(0))
    return MethodFigures(OTHER_SEED, True, _correlated("", values, truth.shape[1], tests).figures)


def _figures(tests: Sequence[str], values: Float[np.ndarray, " t"]) -> tuple[Figure, ...]:
    return tuple(Figure(test, float(one)) for test, one in zip(tests, values, strict=True))


def _plain(tests: Sequence[str], values: Float[np.ndarray, " t"]) -> tuple[Figure, ...]:
    return (*_figures(tests, values), Figure("mean", float(values.mean())))


def _each(
    means: Mapping[str, Float[np.ndarray, "m t"]],
    tests: Sequence[str],
    measure: Callable[[Float[np.ndarray, "m t"]], Float[np.ndarray, " t"]],
) -> tuple[MethodFigures, ...]:
    return tuple(MethodFigures(name, False, _plain(tests, measure(one))) for name, one in means.items())


def _size(run: Run) -> int:
    return sum(one.numel() for one in run.load(run.checkpoints[-1]).parameters())


def _trend(sizes: Mapping[str, int], means: Mapping[str, Float[np.ndarray, "m t"]], truth: Losses) -> list[str]:
    """Say it when larger small models do not agree more."""
    if len(means) < 2:
        return []
    order = sorted(means, key=lambda name: sizes[name])
    values = [float(correlations(means[name], truth.mean(0)).mean()) for name in order]
    return (
        []
        if values[0] < values[-1]
        else ["no size trend seen: the smallest model agrees at least as well as the largest of the small ones"]
    )


def _ceiling_note(truth: Losses) -> list[str]:
    return (
        []
        if len(truth) > 1
        else ["one seed: how far the large model agrees with itself is not known; give --seeds 2 or more"]
    )


def _plot(test: str, at: int, losses: Mapping[str, Losses]) -> Plot:
    """Standardised losses of all models, training sets in the order of the large one."""
    order = np.argsort(losses[LARGE].mean(0)[:, at], kind="stable")
    places = tuple(float(place + 1) for place in range(len(order)))
    bands: list[Band] = []
    for name, one in losses.items():
        centre, spread = one.mean(0)[:, at].mean(), max(float(one.mean(0)[:, at].std()), 1e-12)
        values = (one[:, order, at] - centre) / spread
        ends = (tuple(values.mean(0).tolist()), tuple(values.min(0).tolist()), tuple(values.max(0).tolist()))
        bands.append(Band(name, places, *ends))
    return Plot(
        tuple(bands),
        "training sets, best for the large model first",
        f"standardised loss on {test}",
        "bands span the seeds",
    )
