"""Mend wrong predictions: fine-tune a copy of the model on the training rows that are most helpful for them.

The debugging loop of FastIF (Guo et al. 2021, arXiv 2012.15781) with the scores of any method. Beside it, at the same
budget: random rows of the same classes, the nearest rows of the right class, and the errors themselves. One half of the
errors chooses the rows, the other half is measured.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import nn

from proponent.actions.text_overlap import shared_rows
from proponent.baselines import Baselines, Texts
from proponent.errors import InputError, MismatchError
from proponent.evaluate.deletion import random_like, top
from proponent.evaluate.intervals import bootstrap, paired
from proponent.evaluate.report import figure, verdict
from proponent.index import Index
from proponent.models import Run
from proponent.models.model_outputs import pooled_states
from proponent.models.saving import save_model
from proponent.progress import track
from proponent.training.loop import InPlace, gradient, one_thread
from proponent.training.rerun import RunProblem
from proponent.training.schedule import Settings, Step, advance
from proponent.types import Example
from proponent.version import __version__
from proponent.views import ActionReport, Evidence, EvidenceRow, MethodFigures

RANDOM, NEAREST, THEMSELVES = "random rows", "nearest rows", "the errors themselves"
CONTROLS = {
    RANDOM: "with the classes of the rows that the method chose",
    NEAREST: "of the anchors' classes, by the mean of the last hidden states",
    THEMSELVES: "the anchors with their right labels, no training rows",
}
_BATCH, _SHOWN = 64, 20


@dataclass(frozen=True)
class MendSettings:
    """Budget of a mending; the defaults are those of FastIF's code."""

    rows: int = 10  # training rows of a step
    steps: int = 10
    anchors: int = 10  # wrong predictions that choose the rows of a step
    learning_rate: float = 1e-4
    seeds: int = 3  # splits of the errors, and draws of anchors

    def check(self) -> None:
        """Refuse invalid settings."""
        for name in ("rows", "steps", "anchors", "seeds"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}: must be at least 1")
        if not (np.isfinite(self.learning_rate) and self.learning_rate > 0):
            raise InputError(f"the learning rate is {self.learning_rate}: must be a number above 0")


def mend(
    index: Index,
    train: Sequence[Example],
    errors: Sequence[Example],
    clean: Sequence[Example] | None = None,
    settings: MendSettings = MendSettings(),
    *,
    save: str | Path | None = None,
    quiet: bool = False,
) -> ActionReport:
    """Fine-tune copies of a classifier on the training rows most helpful for its wrong predictions.

    Args:
        index: an index of the training rows, by any method that scores all of them.
        train: the rows of the index, in its order.
        errors: labelled texts; those that the model predicts wrongly are mended.
        clean: labelled texts on which nothing should be lost; None takes those of `errors` that are predicted rightly.
        settings: rows and anchors of a step, steps, learning rate, seeds.
        save: folder for a copy mended with all errors as anchors; None keeps none.
        quiet: no progress on stderr.

    Returns:
        Share of the held-out errors that are mended and clean accuracy, for the method and for the controls.

    Raises:
        InputError: no classifier, a label is missing, too few wrong predictions or rows.
        MismatchError: `train` is not what the index holds.

    Source:
        Guo et al. 2021, FastIF (arXiv 2012.15781), the fine-tuning loop.
    """
    settings.check()
    refuse_unmendable(index.run, save)
    found = _Mender.of(index, train, errors, clean, settings)
    ways = found.ways()
    right: dict[str, Bool[np.ndarray, "s q"]] = {}
    jobs = [(way, seed) for way in ways for seed in range(settings.seeds)]
    for way, seed in track(jobs, total=len(jobs), label="mending", unit="copies", quiet=quiet):
        predicted = found.predicted(found.fine_tuned(ways[way][seed]))
        right.setdefault(way, np.zeros((settings.seeds, len(predicted)), dtype=np.bool_))[seed] = (
            predicted == found.truth
        )
    if save is not None:
        found.save(Path(save))
    return _report(found, ways, right)


def refuse_unmendable(run: Run, save: str | Path | None) -> None:
    """Refuse models that cannot be mended, and a folder that would be written over."""
    if not run.task.labels or run.task.answers:
        raise InputError(f"the model in {run.path} is not a classifier: only wrong classes can be mended")
    if run.info.adapter:
        raise InputError(
            f"{run.path} is an adapter, which is not mended: merge it into its base (merge_and_unload) and give that"
        )
    if save is not None and Path(save).exists():
        raise InputError(f"{save} exists already and is not replaced: choose another folder for the mended model")


@dataclass(frozen=True)
class _Split:
    """The errors of one seed: which choose in each step, and which are held out."""

    anchors: tuple[Int[np.ndarray, " _a"], ...]  # of each step, as positions among the wrong predictions
    held: Bool[np.ndarray, " w"]


@dataclass(frozen=True)
class _Mender:
    """Model, rows, errors and their splits."""

    index: Index
    problem: RunProblem  # trains on the training rows and then the wrong predictions
    settings: MendSettings
    wrong: Int[np.ndarray, " w"]  # positions among the queries
    clean: Int[np.ndarray, " c"]  # positions among the queries
    truth: Int[np.ndarray, " q"]
    before: Bool[np.ndarray, " q"]  # which queries the model predicts rightly
    splits: tuple[_Split, ...]
    notes: tuple[str, ...]

    @classmethod
    def of(
        cls,
        index: Index,
        train: Sequence[Example],
        errors: Sequence[Example],
        clean: Sequence[Example] | None,
        settings: MendSettings,
    ) -> "_Mender":
        """Predict, and split the wrong predictions."""
        run = index.run
        ids = [str(one) for one in index.store.examples["id"]]
        if ids != [one.id for one in train]:
            raise MismatchError("the training rows are not those of the index: give the file that it was built from")
        if settings.rows > int(index.store.alive.sum()):
            raise InputError(
                f"a step takes {settings.rows} rows, and the index has {int(index.store.alive.sum())}: take fewer "
                "(--step-rows)"
            )
        queries, initial = [*errors, *(clean or ())], str(run.checkpoints[-1].path)
        problem = RunProblem(run, list(train), queries, initial, index.store.plan.max_length)
        model = problem.fresh(0).eval()
        with one_thread():
            truth, outputs = problem.query_labels, problem.outputs(model)
        before = outputs.predicted == truth
        given = np.arange(len(queries)) < len(errors)
        wrong, kept = np.flatnonzero(given & ~before), np.flatnonzero(given & before if clean is None else ~given)
        if len(wrong) < 2:
            raise InputError(
                f"the model predicts {len(wrong)} of {len(errors)} rows wrongly: at least 2 are needed, one to choose "
                "rows and one to measure"
            )
        if not len(kept):
            raise InputError("no row is predicted rightly, so no accuracy can be lost: give a clean data set as well")
        problem = replace(problem, train=[*train, *(queries[at] for at in wrong.tolist())])
        splits = tuple(_split(len(wrong), settings, seed) for seed in range(settings.seeds))
        notes = _notes(len(errors), wrong, clean is None, splits[0], train, queries)
        return cls(index, problem, settings, wrong, kept, truth, before, splits, notes)

    def ways(self) -> dict[str, list[list[Int[np.ndarray, " m"]]]]:
        """Rows of each step of each seed, by every way to choose them; the method is the first."""
        method = self.index.method
        found = {method: self._best(self._summed(self._method_scores))}
        found[RANDOM] = self._random(found[method])
        pooled = self.index.store.features.get("pooled")
        if pooled is not None:
            found[NEAREST] = self._best(self._summed(self._nearest(np.asarray(pooled))))
        first = len(self.problem.train) - len(self.wrong)
        found[THEMSELVES] = [[first + one[: self.settings.rows] for one in split.anchors] for split in self.splits]
        return found

    def _summed(self, scores: Callable[[list[Example]], Float[np.ndarray, "b n"]]) -> Float[np.ndarray, "t n"]:
        """Sum the scores over the anchors of every step of every seed, in blocks of wrong predictions."""
        steps = [one for split in self.splits for one in split.anchors]
        member = np.zeros((len(steps), len(self.wrong)))
        for step, anchors in enumerate(steps):
            member[step, anchors] = 1.0
        total = np.zeros((len(steps), len(self.index.store.alive)))
        for start in range(0, len(self.wrong), _BATCH):
            places: list[int] = self.wrong[start : start + _BATCH].tolist()
            block = [self.problem.queries[at] for at in places]
            total += member[:, start : start + _BATCH] @ np.nan_to_num(scores(block))
        total[:, ~self.index.store.alive] = np.nan
        return total

    def _method_scores(self, block: list[Example]) -> Float[np.ndarray, "b n"]:
        return self.index.scores(block)

    def _nearest(self, pooled: Float[np.ndarray, "n h"]) -> Callable[[list[Example]], Float[np.ndarray, "b n"]]:
        labels = self.index.store.features["labels"]
        pooled = np.where(self.index.store.alive[:, None], pooled, 0.0)
        known = Baselines(Texts([""] * len(pooled), labels, None, pooled))
        run = self.problem.run
        model, encoder = run.load(run.checkpoints[-1]), run.encoder(self.problem.max_length)

        def scores(block: list[Example]) -> Float[np.ndarray, "b n"]:
            with one_thread(), torch.inference_mode():
                states = pooled_states(model, encoder.collate(encoder.encode(block), [-1] * len(block)).inputs)
            numbers = np.asarray([run.label_number(cast("Any", one.label)) for one in block])
            return known.scores("embedding", Texts([""] * len(block), numbers, None, states))

        return scores

    def _best(self, total: Float[np.ndarray, "t n"]) -> list[list[Int[np.ndarray, " m"]]]:
        """Rows with the largest sums, by seed and step."""
        rows = [top(one, self.settings.rows, "helped") for one in total]
        count = self.settings.steps
        return [rows[start : start + count] for start in range(0, len(rows), count)]

    def _random(self, chosen: list[list[Int[np.ndarray, " m"]]]) -> list[list[Int[np.ndarray, " m"]]]:
        """Other rows with the class counts of the chosen ones; from all classes where one has too few."""
        store = self.index.store
        labels, alive = np.where(store.alive, store.features["labels"], -1), np.flatnonzero(store.alive)
        drawn: list[list[Int[np.ndarray, " m"]]] = []
        for seed, steps in enumerate(chosen):
            generator = np.random.default_rng(seed)
            matched = [random_like(one, labels, generator, len(labels)) for one in steps]
            drawn.append(
                [one if len(one) else generator.choice(alive, self.settings.rows, replace=False) for one in matched]
            )
        return drawn

    def fine_tuned(self, steps: Sequence[Int[np.ndarray, " m"]]) -> nn.Module:
        """A copy after one optimizer step on the rows of each step, without dropout."""
        rate = self.settings.learning_rate
        with one_thread():
            model = self.problem.fresh(0).eval()
            optimizer = InPlace(model, Settings(1, self.settings.rows, rate))
            for number, rows in enumerate(steps):
                advance(model, Step(number, rows, np.asarray([rate])), self._gradient, optimizer)
        if not all(bool(torch.isfinite(one).all()) for one in model.parameters()):
            raise InputError("fine-tuning diverged: weights are not finite; lower the learning rate")
        return model

    def _gradient(self, model: nn.Module, step: Step) -> dict[str, torch.Tensor]:
        return gradient(self.problem, model, step.rows)

    def predicted(self, model: nn.Module) -> Int[np.ndarray, " q"]:
        """Classes of all queries."""
        with one_thread():
            return self.problem.outputs(model).predicted

    def save(self, folder: Path) -> None:
        """Write a copy for which all errors chose rows."""
        every = np.random.default_rng(0).permutation(len(self.wrong))
        anchors = tuple(np.sort(one) for one in np.array_split(every, min(self.settings.steps, len(every))))
        asked = replace(self, splits=(_Split(anchors, np.zeros(len(every), dtype=np.bool_)),))
        rows = [top(one, self.settings.rows, "helped") for one in asked._summed(asked._method_scores)]
        save_model(folder, self.fine_tuned(rows), self.problem.run.tokenizer)


def _split(count: int, settings: MendSettings, seed: int) -> _Split:
    """Half of the errors choose, in every step as many as asked for; the other half is held out."""
    generator = np.random.default_rng(seed)
    order = generator.permutation(count)
    choosing = order[: (count + 1) // 2]
    size = min(settings.anchors, len(choosing))
    anchors = tuple(np.sort(generator.choice(choosing, size, replace=False)) for _ in range(settings.steps))
    return _Split(anchors, ~np.isin(np.arange(count), choosing))


def _notes(
    count: int,
    wrong: Int[np.ndarray, " w"],
    own: bool,
    split: _Split,
    train: Sequence[Example],
    queries: Sequence[Example],
) -> tuple[str, ...]:
    """What a reader must know of the data."""
    lines = [
        f"the model predicts {len(wrong)} of {count} rows wrongly; for each seed, {len(wrong) - int(split.held.sum())} "
        f"choose rows and {int(split.held.sum())} are measured"
    ]
    if own:
        lines.append("clean accuracy: of the rows that the model predicts rightly, so it can only fall")
    seen = shared_rows(queries, train)
    if seen:
        lines.append(f"{seen} measured texts are also training rows")
    return tuple(lines)


def _report(
    found: _Mender,
    ways: dict[str, list[list[Int[np.ndarray, " m"]]]],
    right: dict[str, Bool[np.ndarray, "s q"]],
) -> ActionReport:
    """The table: method first, then the controls."""
    held = np.stack([split.held for split in found.splits])
    measured = held.any(0)
    mended = {
        way: (each[:, found.wrong] & held).sum(0)[measured] / held.sum(0)[measured] for way, each in right.items()
    }
    kept = {way: each[:, found.clean].mean(0) for way, each in right.items()}
    before = found.before[found.clean].astype(np.float64)
    method, *controls = right
    best = max(controls, key=lambda way: float(mended[way].mean()))
    judged = verdict(paired(mended[method], mended[best]), best)
    rows = tuple(
        MethodFigures(
            way,
            way != method,
            (
                figure("errors mended", bootstrap(mended[way])),
                figure("clean accuracy", bootstrap(kept[way])),
                figure("change", paired(kept[way], before)),
            ),
            judged if way == method else "",
        )
        for way in right
    )
    settings = found.settings
    return ActionReport(
        metric="mend",
        title="Wrong predictions mended by fine-tuning",
        said=f"A copy of the model takes {settings.steps} steps of AdamW at rate {settings.learning_rate:g}, each on "
        f"{settings.rows} rows that {min(settings.anchors, len(found.splits[0].anchors[0]))} wrong predictions choose; "
        "errors that chose no row are measured.",
        columns=("errors mended", "clean accuracy", "change"),
        rows=rows,
        facts=(
            ("clean accuracy before", f"{before.mean():.3f} of {len(before):,} rows"),
            ("seeds", str(settings.seeds)),
        ),
        notes=(*found.notes, *(f"{name}: {CONTROLS[name]}" for name in controls), *_weak(right, found)),
        version=__version__,
        evidence=(_chosen(found, ways[method]),),
    )


def _weak(right: dict[str, Bool[np.ndarray, "s q"]], found: _Mender) -> tuple[str, ...]:
    """Say it when no copy changed a single prediction."""
    moved = any((each != found.before).any() for each in right.values())
    return () if moved else ("no prediction changed: raise the learning rate or the number of steps",)


def _chosen(found: _Mender, seeds: list[list[Int[np.ndarray, " m"]]]) -> Evidence:
    """The rows that the method chose most often."""
    places, times = np.unique(np.concatenate([one for steps in seeds for one in steps]), return_counts=True)
    order = np.lexsort((places, -times))[:_SHOWN]
    rows = [(found.problem.train[int(places[at])], int(times[at])) for at in order]
    made = tuple(EvidenceRow(one.id, str(one.label), float(count), " ".join(one.parts)) for one, count in rows)
    return Evidence("Training rows that were chosen most often", "steps", made)
