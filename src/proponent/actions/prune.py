"""The report of pruning: figures of every way at equal effort, reliability, size and speed, and the plan."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from proponent.actions.channel_pruning import (
    DEFAULTS,
    FULL,
    INFLUENCE,
    NORM,
    ONE_BATCH,
    RANDOM,
    Pruned,
    Pruner,
    PruneSettings,
    shared_channels,
)
from proponent.errors import InputError
from proponent.evaluate.intervals import Estimate, bootstrap
from proponent.evaluate.report import figure, verdict
from proponent.models import Run
from proponent.models.counting import NOTHING, Stated
from proponent.training.loop import one_thread
from proponent.types import Example
from proponent.version import __version__
from proponent.views.comparison import ComparisonReport, FigureTable
from proponent.views.evaluation import Figure, MethodFigures
from proponent.views.plot import Band, Plot

_SHOWN = 20
CONTROLS = {
    NORM: "norm of the weights that write and read a channel",
    ONE_BATCH: "the same influence on one batch in place of many",
    RANDOM: "channels drawn at random",
    FULL: "nothing removed",
}


def prune(
    run: Run,
    train: Sequence[Example],
    test: Sequence[Example],
    settings: PruneSettings = DEFAULTS,
    *,
    save: str | Path | None = None,
    max_length: int | None = None,
    between: tuple[Example, str] | None = None,
    stated: Stated = NOTHING,
    quiet: bool = False,
) -> ComparisonReport:
    """Prune copies of a model by the influence of its channels, fine-tune them, and compare with controls.

    Args:
        run: a trained classifier or language model; its last checkpoint is pruned, and stays as it is.
        train: rows on which influence is measured and copies are fine-tuned.
        test: other rows, on which copies are measured.
        settings: share, kind and order of channels, rounds, steps.
        save: folder for the copy of the first seed; None keeps none.
        max_length: most tokens of a row; None takes what the training read.
        between: a query and the id of a training row: also list the channels through which the row acts on it.
        stated: which tokens of chat data counted, and the template, where no Recorder noted it.
        quiet: no progress on stderr.

    Returns:
        Accuracy (minus the loss of a language model) by way, reliability of the order, sizes, times.

    Raises:
        InputError: an architecture whose channels are not known, a layer that would keep none, an existing folder, an
            unknown id.

    Source:
        Lai, Xiang and Shen 2021 (arXiv 2112.02521), formulas derived; see `channel_influence`.
    """
    if save is not None and Path(save).exists():
        raise InputError(f"{save} exists already and is not replaced: choose another folder for the pruned model")
    if save is not None and not os.access(Path(save).absolute().parent, os.W_OK):
        raise InputError(f"{save} cannot be written: its parent is no folder that allows it")
    pruner = Pruner.of(run, train, test, settings, max_length, stated)
    row = None if between is None else _row(train, between[1])
    found = pruner.run_all(quiet=quiet)
    whole = Pruned.whole(run, settings.kind)
    with one_thread():
        overlap = pruner.influence(whole, 0).overlap(settings.share)
        before, times = pruner.figure(whole), pruner.seconds([whole, found[INFLUENCE][0]])
        shared = None if between is None or row is None else _between(pruner, whole, between[0], row)
    sizes = None
    if save is not None:
        pruner.save(found[INFLUENCE][0], Path(save))
        sizes = sum(path.stat().st_size for path in Path(save).rglob("*") if path.is_file())
    return _report(pruner, found, whole, (before, overlap, times, sizes), shared)


def _row(train: Sequence[Example], name: str) -> int:
    found = next((at for at, one in enumerate(train) if one.id == name), None)
    if found is None:
        raise InputError(f"no training row has the id {name!r}")
    return found


def _between(pruner: Pruner, whole: Pruned, query: Example, row: int) -> FigureTable:
    """The channels through which a training row acts on a query."""
    pair = replace(pruner.problem, train=[query, pruner.problem.train[row]])
    products = shared_channels(whole.model.eval(), whole.sites, pair, 0, 1)
    total = sum(float(np.abs(one).sum()) for one in products) or 1.0
    flat = [
        (site.name, channel, float(value))
        for site, one in zip(whole.sites, products, strict=True)
        for channel, value in enumerate(one)
    ]
    flat.sort(key=lambda one: -abs(one[2]))
    rows = tuple(
        MethodFigures(
            f"{name}, channel {channel}", False, (Figure("product", value), Figure("share", abs(value) / total))
        )
        for name, channel, value in flat[:_SHOWN]
    )
    title = f"Channels through which the row {pruner.problem.train[row].id} acts on the query: products of derivatives"
    return FigureTable(title, "channel", ("product", "share"), rows)


def _report(
    pruner: Pruner,
    found: dict[str, list[Pruned]],
    whole: Pruned,
    measured: tuple[float, float | None, list[float], int | None],
    shared: FigureTable | None,
) -> ComparisonReport:
    """The page."""
    before, settings, name = measured[0], pruner.settings, "accuracy" if pruner.run.task.labels else "minus the loss"
    last = {way: np.asarray([one.points[-1] for one in models]) for way, models in found.items()}
    judged = _judged(last)
    rows = tuple(
        MethodFigures(
            way,
            way != INFLUENCE,
            (
                figure(name, bootstrap(values)),
                Figure(
                    "of the model before", float(values.mean()) / before if pruner.run.task.labels and before else None
                ),
            ),
            judged if way == INFLUENCE else "",
        )
        for way, values in last.items()
    )
    first = found[INFLUENCE][0]
    facts, notes = _facts(pruner, first, whole, measured, name)
    return ComparisonReport(
        metric="prune",
        unit="channels kept by",
        title=f"Pruned by {settings.share:.0%}",
        said=f"{name} of pruned and fine-tuned copies on the test rows; means over seeds",
        columns=(name, "of the model before"),
        rows=rows,
        others=(*(() if shared is None else (shared,)), _plan(first)),
        plots=(_plot(found, name),),
        facts=tuple(facts),
        notes=tuple(notes),
        version=__version__,
    )


def _facts(
    pruner: Pruner,
    first: Pruned,
    whole: Pruned,
    measured: tuple[float, float | None, list[float], int | None],
    name: str,
) -> tuple[list[tuple[str, str]], list[str]]:
    """What was done, how reliable it is, sizes and times."""
    (before, overlap, (slow, fast), size), settings = measured, pruner.settings
    channels, (rows, trained) = whole.sites[0].count, (len(pruner.problem.train), pruner.trained_queries)
    facts = [
        (f"{name} before", f"{before:.3f} on {len(pruner.problem.queries):,} rows"),
        (
            "removed",
            f"{channels - len(first.kept[0])} of the {channels} {settings.kind} channels of each layer, in "
            f"{settings.rounds} rounds of {settings.steps} steps",
        ),
        ("influence", f"order {settings.order}, mean over {settings.batches} batches of {settings.batch_size}"),
        (
            "reliability",
            "-" if overlap is None else f"two halves of the batches agree on {overlap:.0%} of the channels to keep",
        ),
        ("parameters", f"{_count(whole):,}, pruned {_count(first):,}"),
        ("seconds for the test rows", f"{slow:.3g}, pruned {fast:.3g}"),
    ]
    facts += [] if size is None else [("pruned folder", f"{size / 2**20:.1f} MB")]
    notes = [f"{way}: {said}, fine-tuned as long" for way, said in CONTROLS.items()]
    if rows < settings.batches * settings.batch_size:
        notes.append(
            f"the batches of influence repeat the {rows:,} training rows, so the two halves share rows and agree "
            "more than batches of other rows would"
        )
    if trained:
        notes.append(f"{trained:,} of the {len(pruner.problem.queries):,} test rows are also trained on")
    if first.gates is not None:
        notes.append(
            f"the configuration cannot say that there are fewer {settings.kind}: they are masked, and the model is NOT "
            "smaller"
        )
    return facts, notes


def _judged(last: Mapping[str, np.ndarray]) -> str:
    """The difference to the mean of the best pruned control, with the interval of their standard errors."""
    name = max((NORM, ONE_BATCH, RANDOM), key=lambda way: float(last[way].mean()))
    ours, theirs = last[INFLUENCE], last[name]
    gap = float(ours.mean() - theirs.mean())
    if len(ours) < 2 or len(theirs) < 2:
        return verdict(Estimate(gap, -np.inf, np.inf, len(ours)), name)
    error = 2 * float(np.sqrt(ours.var(ddof=1) / len(ours) + theirs.var(ddof=1) / len(theirs)))
    return verdict(Estimate(gap, gap - error, gap + error, len(ours)), name)


def _count(pruned: Pruned) -> int:
    return sum(one.numel() for one in pruned.model.parameters())


def _plan(pruned: Pruned) -> FigureTable:
    """How many channels each layer keeps."""
    rows = tuple(
        MethodFigures(site.name, False, (Figure("kept", float(len(own))),))
        for site, own in zip(pruned.sites, pruned.kept, strict=True)
    )
    return FigureTable("Channels that the copy of the first seed keeps", "layer", ("kept",), rows)


def _plot(found: dict[str, list[Pruned]], name: str) -> Plot:
    bands: list[Band] = []
    for way, models in found.items():
        values = np.asarray([one.points for one in models])
        places = tuple(float(at + 1) for at in range(values.shape[1]))
        bands.append(
            Band(
                way,
                places,
                tuple(values.mean(0).tolist()),
                tuple(values.min(0).tolist()),
                tuple(values.max(0).tolist()),
            )
        )
    return Plot(tuple(bands), "rounds", name, "bands span the seeds")
