"""Prune a model by the influence of its channels, in rounds with fine-tuning, beside controls at equal effort.

Lai, Xiang and Shen 2021, "Inf-CP" (arXiv 2112.02521). Channels are really removed where the configuration can say so;
else they are masked, and the model is not called smaller.
"""

import json
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import nn

from proponent.actions.channel_influence import ORDERS, ChannelInfluence, Order, channel_influence
from proponent.actions.text_overlap import shared_rows
from proponent.disk import write_bytes
from proponent.errors import InputError
from proponent.evaluate.chat import as_questions, layout_of
from proponent.gradients.channel_gates import Gates
from proponent.models import Run
from proponent.models.counting import NOTHING, Stated, rules_of
from proponent.models.placement import host
from proponent.models.prunable import (
    FEED_FORWARD,
    HEADS,
    Site,
    can_shrink,
    norms,
    shrunk,
    sites_of,
    smaller_configuration,
)
from proponent.models.saving import save_model
from proponent.progress import track
from proponent.training.loop import InPlace, gradient, one_thread
from proponent.training.precision import refuse_half
from proponent.training.rerun import RunProblem
from proponent.training.schedule import Settings, Step, advance
from proponent.types import Example

INFLUENCE, NORM, ONE_BATCH, RANDOM, FULL = (
    "channel influence",
    "weight norm",
    "influence on one batch",
    "random channels",
    "the full model, fine-tuned as long",
)
MASK_FILE = "pruning.json"


@dataclass(frozen=True)
class PruneSettings:
    """What is removed, and how the rest is fine-tuned."""

    share: float = 0.5  # of the channels of every layer
    kind: str = FEED_FORWARD
    order: Order = "first"
    batches: int = 30  # over which influence is a mean
    batch_size: int = 16
    rounds: int = 3
    steps: int = 100  # of fine-tuning after each round
    learning_rate: float = 1e-4
    seeds: int = 3
    draws: int = 5  # of random channels

    def check(self) -> None:
        """Refuse invalid settings."""
        if not 0 < self.share < 1:
            raise InputError(f"the share to prune is {self.share}: must be between 0 and 1")
        if self.kind not in (FEED_FORWARD, HEADS):
            raise InputError(f"unknown kind of channels {self.kind!r}: choose {FEED_FORWARD} or {HEADS}")
        if self.order not in ORDERS:
            raise InputError(f"unknown order {self.order!r}: choose one of {', '.join(ORDERS)}")
        for name in ("batches", "batch_size", "rounds", "steps", "seeds", "draws"):
            least = 0 if name == "steps" else 1
            if getattr(self, name) < least:
                raise InputError(f"{name} is {getattr(self, name)}: must be at least {least}")
        if not (np.isfinite(self.learning_rate) and self.learning_rate > 0):
            raise InputError(f"the learning rate is {self.learning_rate}: must be a number above 0")


DEFAULTS = PruneSettings()


@dataclass
class Pruned:
    """A model in pruning: smaller, or with masks."""

    model: nn.Module
    sites: list[Site]
    kept: list[Int[np.ndarray, " k"]]  # channels of the full model that stay, by layer
    gates: Gates | None  # masks, where the configuration cannot say that there are fewer
    points: list[float] = field(default_factory=list[float])  # the figure after each round

    @classmethod
    def whole(cls, run: Run, kind: str) -> "Pruned":
        """The trained model."""
        model = run.load(run.checkpoints[-1]).requires_grad_(requires_grad=True)
        sites = sites_of(model, kind)
        gates = None if can_shrink(model, kind) else Gates.open(sites)
        return cls(model, sites, [np.arange(one.count) for one in sites], gates)

    def keep(self, values: Sequence[Float[np.ndarray, " c"]], count: int) -> None:
        """Keep the channels with the largest values, as many in every layer; values are of the present channels."""
        if self.gates is not None:
            for at, (one, own) in enumerate(zip(values, self.kept, strict=True)):
                self.kept[at] = np.sort(own[np.argsort(-one[own], kind="stable")[:count]])
                self.gates.values[at] = torch.zeros(len(one)).index_fill_(0, torch.as_tensor(self.kept[at]), 1.0)
            return
        chosen = [np.sort(np.argsort(-one, kind="stable")[:count]) for one in values]
        self.model = shrunk(self.model, self.sites, chosen)
        self.kept = [own[one] for own, one in zip(self.kept, chosen, strict=True)]
        self.sites = sites_of(self.model, self.sites[0].kind)

    def masked(self) -> Any:
        """A context in which the masks hold."""
        return nullcontext() if self.gates is None else self.gates.on(self.model)


Ranking = Callable[[Pruned, int], Sequence[Float[np.ndarray, " c"]]]
"""Values of the channels of a model, by round; the smallest are removed."""


@dataclass(frozen=True)
class Pruner:
    """Model, rows and settings."""

    run: Run
    problem: RunProblem
    settings: PruneSettings

    @classmethod
    def of(
        cls,
        run: Run,
        train: Sequence[Example],
        test: Sequence[Example],
        settings: PruneSettings,
        max_length: int | None,
        stated: Stated = NOTHING,
    ) -> "Pruner":
        """Read the rows, and refuse what cannot be pruned."""
        settings.check()
        refuse_half(run, "fine-tuning between the rounds of pruning")
        if run.info.adapter:
            raise InputError(f"{run.path} is an adapter: merge it into its base (merge_and_unload) and prune that")
        if run.task.predicts == "pairs" or run.task.answers:
            raise InputError(f"a {run.task.kind} model is not pruned: only classifiers and language models are")
        if not len(train) or not len(test):
            raise InputError("pruning needs training rows and test rows")
        rules = rules_of(run, layout_of(train), max_length, stated)
        asked = list(test) if rules.counting is None else as_questions(test, train)
        start = str(run.checkpoints[-1].path)
        problem = RunProblem(run, list(train), asked, start, rules.max_length, rules.counting)
        found = cls(run, problem, settings)
        found._refuse_counts()
        if not run.task.labels:
            problem.refuse_cut_rows()
        return found

    def _refuse_counts(self) -> None:
        """Refuse numbers of channels that no layer or no configuration can have."""
        model, settings = self.run.load(self.run.checkpoints[-1]), self.settings
        if not all(bool(torch.isfinite(one).all()) for one in model.parameters()):
            raise InputError("some weights of the run are not finite: its training diverged, and nothing is pruned")
        for site in sites_of(model, settings.kind):
            left, said = self.count(site.count, settings.rounds), f"{site.name} has {site.count} {settings.kind}"
            if left < 1:
                raise InputError(f"{said} channels and would keep none: prune a smaller share")
            if left == site.count:
                raise InputError(f"{said} channels and would lose none: prune a larger share")
            if can_shrink(model, settings.kind):
                for number in range(settings.rounds):
                    smaller_configuration(model, site, self.count(site.count, number + 1))

    @property
    def trained_queries(self) -> int:
        """Test rows that are also trained on."""
        return shared_rows(self.problem.queries, self.problem.train)

    def count(self, channels: int, rounds: int) -> int:
        """Channels of a layer that stay after so many rounds."""
        return round((1 - self.settings.share * rounds / self.settings.rounds) * channels)

    def batches(self, seed: int, count: int | None = None) -> list[Int[np.ndarray, " b"]]:
        """Batches of training rows, drawn without repetition as long as there are rows."""
        generator, size = np.random.default_rng(seed), self.settings.batch_size
        wanted = (self.settings.batches if count is None else count) * size
        order = np.concatenate(
            [generator.permutation(len(self.problem.train)) for _ in range(-(-wanted // len(self.problem.train)))]
        )
        return [np.sort(order[start : start + size]) for start in range(0, wanted, size)]

    def influence(self, pruned: Pruned, seed: int, count: int | None = None) -> ChannelInfluence:
        """Influence of the present channels."""
        batches = self.batches(seed, count)
        with pruned.masked():
            return channel_influence(pruned.model.eval(), pruned.sites, self.problem, batches, self.settings.order)

    def ranking(self, way: str, seed: int) -> Ranking:
        """Values of channels by one of the ways."""
        if way == NORM:
            return lambda pruned, _: norms(pruned.model, pruned.sites)
        if way == RANDOM:
            return lambda pruned, number: _drawn(pruned.sites, seed, number)
        count = 1 if way == ONE_BATCH else None
        return lambda pruned, number: self.influence(pruned, 1000 * seed + number, count).values

    def prune(self, way: str, seed: int) -> Pruned:
        """Prune in rounds: rank, remove, fine-tune."""
        found = Pruned.whole(self.run, self.settings.kind)
        channels = found.sites[0].count
        for number in range(self.settings.rounds):
            if way != FULL:
                found.keep(self.ranking(way, seed)(found, number), self.count(channels, number + 1))
            self.fine_tune(found, 7919 * seed + number)
            found.points.append(self.figure(found))
        return found

    def fine_tune(self, pruned: Pruned, seed: int) -> None:
        """Some steps of AdamW on training rows, without dropout."""
        settings = self.settings
        if not settings.steps:
            return
        optimizer = InPlace(pruned.model.eval(), Settings(1, settings.batch_size, settings.learning_rate))
        rates = np.asarray([settings.learning_rate])
        with pruned.masked():
            for number, rows in enumerate(self.batches(seed, settings.steps)):
                advance(pruned.model, Step(number, rows, rates), self._gradient, optimizer)
        if not all(bool(torch.isfinite(one).all()) for one in pruned.model.parameters()):
            raise InputError("fine-tuning diverged: weights are not finite; lower the learning rate")

    def figure(self, pruned: Pruned) -> float:
        """Accuracy on the test rows; of a language model, minus the mean loss."""
        with pruned.masked():
            outputs = self.problem.outputs(pruned.model.eval())
        if self.run.task.labels:
            return float((outputs.predicted == self.problem.query_labels).mean())
        return -float(outputs.loss.mean())

    def seconds(self, models: Sequence[Pruned]) -> list[float]:
        """Median time of a pass over the test rows, models in turn."""
        times = np.zeros((5, len(models)))
        for row in times:
            for at, one in enumerate(models):
                began = time.perf_counter()
                self.figure(one)
                row[at] = time.perf_counter() - began
        return np.median(times, axis=0).tolist()

    def _gradient(self, model: nn.Module, step: Step) -> dict[str, torch.Tensor]:
        return gradient(self.problem, model, step.rows)

    def run_all(self, *, quiet: bool = False) -> dict[str, list[Pruned]]:
        """Prune by every way with every seed; of random channels, as many draws as asked for."""
        jobs = [(way, seed) for way in (INFLUENCE, NORM, ONE_BATCH, FULL) for seed in range(self.settings.seeds)]
        jobs += [(RANDOM, seed) for seed in range(max(self.settings.draws, self.settings.seeds))]
        found: dict[str, list[Pruned]] = {}
        with one_thread():
            for way, seed in track(jobs, total=len(jobs), label="pruning", unit="models", quiet=quiet):
                one = self.prune(way, seed)
                if (way, seed) != (INFLUENCE, 0):
                    one.model = nn.Identity()  # only the first copy is saved; the others would fill the memory
                found.setdefault(way, []).append(one)
        return found

    def save(self, pruned: Pruned, folder: Path) -> None:
        """Write a folder for plain `from_pretrained`: smaller, or whole with its masks beside it."""
        plan = {site.name: own.tolist() for site, own in zip(pruned.sites, pruned.kept, strict=True)}
        said = {"version": 1, "kind": self.settings.kind, "masked": pruned.gates is not None, "kept": plan}
        mask = (json.dumps(said) + "\n").encode()
        save_model(folder, pruned.model, self.run.tokenizer, further=lambda home: write_bytes(home / MASK_FILE, mask))


def _drawn(sites: Sequence[Site], seed: int, number: int) -> list[Float[np.ndarray, " c"]]:
    generator = np.random.default_rng((seed, number))
    return [generator.random(one.count) for one in sites]


def shared_channels(
    model: nn.Module, sites: Sequence[Site], problem: RunProblem, first: int, second: int
) -> list[Float[np.ndarray, " c"]]:
    """Through which channels one row of the problem acts on another: products of their derivatives by each gate."""
    made: list[list[np.ndarray]] = []
    for row in (first, second):
        gates = Gates.open(sites)
        with gates.on(model):
            loss = problem.losses(model, np.asarray([row])).sum()
            made.append([host(one).astype(np.float64) for one in gates.gradients(loss)])
    return [one * other for one, other in zip(*made, strict=True)]
