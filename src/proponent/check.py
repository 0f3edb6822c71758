"""Check a run: captured gradients against autograd, on the user's own model and data."""

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from proponent.data import Examples
from proponent.dynamics.loops import Query
from proponent.dynamics.replay import replayed
from proponent.errors import InputError, MismatchError, RunError
from proponent.evaluate.kept_order import GOOD, WORST, kept_order
from proponent.gradients.capture import head_table
from proponent.gradients.computer import GradientComputer, GradientSpec
from proponent.gradients.gradient import Gradient
from proponent.gradients.layer_rules import Block
from proponent.gradients.model_parts import input_embedding, table_shape, word_tables
from proponent.index.build import label_numbers
from proponent.index.row_check import tell_batches
from proponent.method import Gradients, Layers, Method, Term
from proponent.method_table import METHODS
from proponent.models import Encoded, Run
from proponent.models.counting import rules_of
from proponent.models.former import recorded
from proponent.models.placement import host
from proponent.models.tasks.base import logits_of
from proponent.models.training_trace import FOLDER as REPLAY_FOLDER
from proponent.training.precision import in_32_bits

PROBES = 4
"""Number of examples that are checked: full gradients of the embedding are dense."""


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check."""

    name: str  # what was checked
    passed: bool | None  # True, False, or None for a plain fact
    value: str  # the measured figure, in words
    bound: str = ""  # the limit it is compared with; empty for a plain fact
    warning: str = ""  # what to do about a figure that is within its limit and still bad

    @property
    def description(self) -> str:
        """The figure and its limit."""
        return f"{self.value} ({self.bound})" if self.bound else self.value


def check(
    run: Run, examples: Examples, *, max_length: int | None = None, method: Term | None = None
) -> tuple[Finding, ...]:
    """Check a run and its data; of a method over layers (default: tracin-all) also what its projection does."""
    return _Check(run, examples, max_length).findings(max_length, method or METHODS["tracin-all"].method)


class _Check:
    def __init__(self, run: Run, examples: Examples, max_length: int | None) -> None:
        self._dtype, run = run.placement.dtype, in_32_bits(run).named(examples.label_names)
        self.run, self.examples = run, examples
        self.labels = label_numbers(run, examples)
        rules = rules_of(run, examples.layout, max_length)
        self.encoder = run.encoder(rules.max_length, counting=rules.counting)
        tell_batches(run, self.encoder, examples, examples.name)
        self.lengths = self.encoder.lengths(examples)
        self.model = run.load(run.checkpoints[-1])
        self._refused = ""  # why methods of the word embedding cannot be used
        try:
            self.work = GradientComputer(run, self.model, Gradients(name="check"), self.encoder)
        except RunError as error:
            self._refused, self.work = str(error), self._of_layers()
        self.probes, self.probe_labels = self._choose()

    def findings(self, max_length: int | None, method: Method) -> tuple[Finding, ...]:
        """Run every check."""
        if self._refused:
            lacking = Finding("methods of the word embedding", None, self._refused)
            return (*self._facts(), lacking, *self._layers(), *self._coverage()[:1])
        truth = [self._truth(row) for row in range(len(self.probes))]
        alone = [self._dense(self._take([one], [label]), 0) for one, label in self._pairs()]
        worst = max(self._error(found, wanted) for found, wanted in zip(alone, truth, strict=True))
        return (
            *self._facts(),
            _bounded("captured gradient against autograd", worst, 1e-5),
            *self._invariances(alone),
            self._sign_test(),
            self._self_influence(alone),
            *self._layers(),
            *self._coverage(),
            *self._projection(method),
            *self._replay(max_length),
        )

    def _replay(self, max_length: int | None) -> list[Finding]:
        """For a run recorded for replay: whether the replay reaches the saved weights and training is smooth."""
        if not recorded(self.run.path, REPLAY_FOLDER).is_dir():
            return []
        asked = Query(self.examples[0], self.labels[0])
        try:
            found = replayed(self.run, self.examples, [asked], max_length=max_length)
        except (RunError, MismatchError) as error:
            return [Finding("replay of the training", None, str(error))]
        word = "smooth" if found.smoothness.smooth else "NOT smooth, so replay cannot rank"
        return [Finding("replay of the training", None, f"{word}: {found.description()}")]

    def _layers(self) -> list[Finding]:
        """Compare gradients of every supported layer, biases included, with autograd on one text."""
        work = self._of_layers()
        assert work.layers is not None
        blocks, cuts = work.layers.choice.blocks, work.layers.projection.cuts
        dense = work.train([self.probes[0]], [self.probe_labels[0]]).gradient.dense
        assert dense is not None
        weights = [_parameter(self.model, block) for block in blocks]
        with _differentiable(weights):
            truth = torch.autograd.grad(self._loss(self.model, 0), weights, allow_unused=True)
        off = total = 0.0
        for block, grad in zip(blocks, cast("tuple[Tensor | None, ...]", truth), strict=True):
            found = dense.v[0, cuts[block.name]].reshape(block.o, block.i)
            wanted = np.zeros_like(found) if grad is None else host(grad)
            wanted = wanted.T if _points_the_other_way(self.model, block) else wanted
            off += float(((found - wanted.reshape(found.shape)) ** 2).sum())
            total += float((wanted**2).sum())
        return [
            _bounded("captured gradients of all other layers against autograd", (off / max(total, 1e-60)) ** 0.5, 1e-5),
            Finding("parameters covered by methods of layers", None, work.layers.choice.description()),
        ]

    def _projection(self, method: Method) -> list[Finding]:
        """Compare rankings with those of gradients that are not projected."""
        if not isinstance(method, Gradients) or not isinstance(method.gradient, Layers):
            return []
        name = f"order kept by the projection of {method.name}"
        found = kept_order(self.run, self.model, self.encoder, self.examples, self.labels, self.lengths, method)
        if isinstance(found, str):
            return [Finding(name, None, found)]
        bound = f"at least {WORST:g}, {GOOD:g} is good"
        return [Finding(name, found.mean >= WORST, found.description, bound, found.warning)]

    def _of_layers(self) -> GradientComputer:
        every = Gradients(name="check", gradient=Layers(names=("all",), biases=True))
        spec = GradientSpec.of_layers(every, self.run, self.model, closed_head=False)
        return GradientComputer(self.run, self.model, every, self.encoder, spec)

    def _invariances(self, alone: Sequence[Float[np.ndarray, "v d"]]) -> list[Finding]:
        names = ("batch of several against one by one", "extra padding")
        if self.run.equal_lengths:
            return [
                Finding(name, None, "not checked: this model does not support padding and gets none") for name in names
            ]
        errors = (self._batched(alone), self._padded(alone))
        return [_bounded(name, error, 1e-5) for name, error in zip(names, errors, strict=True)]

    def _choose(self) -> tuple[list[Encoded], list[int]]:
        """Choose short examples (dense gradients are large), and the longest of a small sample for padding."""
        order = np.argsort(self.lengths, kind="stable")
        usable = [int(row) for row in order if self.lengths[row] > 1][: PROBES * 8]
        picked = sorted({usable[int(place)] for place in np.linspace(0, len(usable) - 1, PROBES)}) if usable else []
        encoded = self.work.completed(self.encoder.encode([self.examples[row] for row in picked]))
        kept = [
            (one, self.labels[row])
            for one, row in zip(encoded, picked, strict=True)
            if not self.work.train([one], [self.labels[row]]).bad.any()
        ]
        if not kept:
            raise InputError(
                f"none of the {len(picked)} examples tried has a finite loss: check that this is the data of the run"
            )
        return [one for one, _ in kept], [label for _, label in kept]

    def _pairs(self) -> list[tuple[Encoded, int]]:
        return list(zip(self.probes, self.probe_labels, strict=True))

    def _take(self, encoded: Sequence[Encoded], labels: Sequence[int]) -> Gradient:
        return self.work.train(encoded, labels).gradient

    def _dense(self, gradient: Gradient, row: int) -> Float[np.ndarray, "v d"]:
        one = gradient.example(row)
        dense = np.zeros(table_shape(self.model, decoding=self.run.task.decodes), dtype=np.float64)
        if one.rows is not None:
            np.add.at(dense, one.rows.ids, one.rows.rows)
        if one.head is not None:
            dense += one.head.outer(head_table(self.model)).dense()
        return dense

    def _loss(self, model: nn.Module, row: int) -> Tensor:
        batch = self.encoder.collate([self.probes[row]], [self.probe_labels[row]])
        logits = logits_of(cast("Any", model)(**batch.inputs))
        return self.run.task.objective(batch).losses(logits).sum()

    def _tables(self, model: nn.Module) -> list[Tensor]:
        """The word embedding table; for an encoder-decoder both tables if they differ."""
        return word_tables(model, decoding=self.run.task.decodes)

    def _truth(self, row: int) -> Float[np.ndarray, "v d"]:
        """Autograd's gradient of the whole table (the row of the padding token is zero there by construction)."""
        tables = self._tables(self.model)
        with _differentiable(tables):
            return host(torch.cat(torch.autograd.grad(self._loss(self.model, row), tables))).astype(np.float64)

    def _error(self, found: Float[np.ndarray, "v d"], truth: Float[np.ndarray, "v d"]) -> float:
        """Relative error over all rows except padding, which autograd leaves at zero."""
        blank = input_embedding(self.model).padding_idx
        off = found - truth
        if blank is not None and not truth[blank].any():
            off[blank] = 0.0
        return float(np.linalg.norm(off)) / max(float(np.linalg.norm(truth)), 1e-30)

    def _batched(self, alone: Sequence[Float[np.ndarray, "v d"]]) -> float:
        together = self._take(self.probes, self.probe_labels)
        return max(self._error(self._dense(together, row), one) for row, one in enumerate(alone))

    def _padded(self, alone: Sequence[Float[np.ndarray, "v d"]]) -> float:
        """Pad a probe to the longest text of the data by putting the two into one batch."""
        longest = int(self.lengths.argmax())
        other = self.encoder.encode([self.examples[longest]])
        together = self._take([self.probes[0], *other], [self.probe_labels[0], self.labels[longest]])
        return self._error(self._dense(together, 0), alone[0])

    def _sign_test(self) -> Finding:
        """In float64, or in float32 with a longer step if a layer of the model has no float64."""
        name = "sign test: product of captured gradients against finite difference of the loss"
        try:
            return _bounded(name, self._signs(torch.float64, 1e-4), 1e-2)
        except (RuntimeError, TypeError):  # the second on a device without float64
            return _bounded(
                f"{name} (in float32: the model does not run in float64)", self._signs(torch.float32, 3e-3), 1e-2
            )

    def _signs(self, dtype: torch.dtype, length: float) -> float:
        """Move the table along one example's gradient and measure the other examples' losses."""
        model = self.run.load(self.run.checkpoints[-1]).to(dtype)
        tables = self._tables(model)
        directions = [self._dense(self._take([one], [label]), 0) for one, label in self._pairs()]
        worst = 0.0
        for mine in directions:
            step = length / max(float(np.linalg.norm(mine)), 1e-12)
            move = torch.tensor_split((torch.tensor(mine) * step).to(tables[0].device, dtype), (len(tables[0]),))
            for row, theirs in enumerate(directions):
                slope = (self._at(model, tables, move, 1.0, row) - self._at(model, tables, move, -1.0, row)) / (
                    2 * step
                )
                scale = float(np.linalg.norm(mine) * np.linalg.norm(theirs))
                worst = max(worst, abs(slope - float((mine * theirs).sum())) / max(scale, 1e-12))
        return worst

    def _at(self, model: nn.Module, tables: Sequence[Tensor], moves: Sequence[Tensor], sign: float, row: int) -> float:
        pairs = list(zip(tables, moves, strict=False))
        with torch.no_grad():
            for table, move in pairs:
                table += sign * move
            loss = float(self._loss(model, row))
            for table, move in pairs:
                table -= sign * move
        return loss

    def _self_influence(self, alone: Sequence[Float[np.ndarray, "v d"]]) -> Finding:
        smallest = min(float((one * one).sum()) for one in alone)
        return Finding("score of an example on itself", smallest > 0, f"smallest {smallest:.3g}", "above 0")

    def _facts(self) -> list[Finding]:
        run, last = self.run, self.run.checkpoints[-1]
        tied = "shared with the head: the exact gradient adds both paths"
        recorded = sum(one.moments is not None for one in run.checkpoints)
        count = len(run.checkpoints)
        facts = (
            ("model", f"{run.info.architecture}, {count} checkpoint(s), last at {last.id}"),
            ("learning rate", f"{last.learning_rate:.3g}; {last.rule}"),
            ("embedding", tied if self.work.spec.tied else "not shared with a head"),
            ("second moments", f"recorded at {recorded} of {count} checkpoints"),
            *(("note", note) for note in run.notes),
            *([] if self._dtype == "float32" else [("precision", f"checked in 32 bits instead of {self._dtype}")]),
        )
        return [Finding(name, None, value) for name, value in facts]

    def _coverage(self) -> list[Finding]:
        limit = self.encoder.max_length
        cut = self.encoder.at_limit(self.examples, self.lengths)
        table = sum(one.numel() for one in self._tables(self.model))
        total = sum(parameter.numel() for parameter in self.model.parameters())
        return [
            Finding("texts that reach the token limit", None, f"{cut} of {len(self.lengths)} (limit {limit} tokens)"),
            Finding(
                "parameters covered by embedding methods",
                None,
                f"{table / total:.1%} ({table:,} of {total:,}); skipped: every other layer",
            ),
        ]


@contextmanager
def _differentiable(weights: Sequence[Tensor]) -> Generator[None]:
    for weight in weights:
        weight.requires_grad = True
    try:
        yield
    finally:
        for weight in weights:
            weight.requires_grad = False


def _points_the_other_way(model: nn.Module, block: Block) -> bool:
    """Whether a weight is stored as [i o], as in the linear layers of GPT-2."""
    return block.part == "weight" and type(model.get_submodule(block.modules[0])).__name__ == "Conv1D"


def _parameter(model: nn.Module, block: Block) -> Tensor:
    return cast("Tensor", getattr(model.get_submodule(block.modules[0]), block.part))


def _bounded(name: str, error: float, bound: float) -> Finding:
    return Finding(name, error <= bound, f"relative error {error:.2g}", f"at most {bound:g}")
