"""Differentiate a training run: forward through the recorded steps, then backward through each of them.

Training maps one state to the next, step by step, and every example's loss has a weight of 1. Reverse mode propagates
the derivative of a query's loss by the state back through the steps; each step adds its own part of the derivative by
the weights (Ilyas and Engstrom 2025, MAGIC). Every k-th state is stored, k near the root of the number of steps, and
the states between are recomputed: memory grows with the root of the number of steps.
"""

import math
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal, TypeVar, cast

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from proponent.dynamics.derivative import Derivative, Smoothness
from proponent.dynamics.loops import Query
from proponent.dynamics.optimizer import OptimizerState, optimizer_of
from proponent.errors import InputError, MismatchError, RunError
from proponent.gradients.model_parts import input_embedding
from proponent.models import Batch, Run, digest, read_training_trace
from proponent.models.example_weights import refuse_missing_weights
from proponent.models.placement import device_of, host
from proponent.progress import track
from proponent.training.precision import refuse_half
from proponent.training.schedule import Step, advance, drawing, recorded
from proponent.types import Example

T = TypeVar("T")

Curvature = Literal["exact", "fisher", "none"]
"""How a derivative passes the later steps: the Hessian of each batch, its empirical Fisher matrix, or not at all."""

TOLERANCE = 1e-3
"""Largest deviation of the replayed weights from the saved ones, relative to how far training moved them."""


@dataclass(frozen=True)
class Variables:
    """One step's variables."""

    state: OptimizerState
    parameters: Float[Tensor, " p"]  # a leaf
    weight: Float[Tensor, " b"]  # of each example, 1
    factors: Float[Tensor, "b t"]  # of each token's embedding output, 1

    @classmethod
    def of(cls, state: OptimizerState, rows: int, longest: int) -> "Variables":
        """Create the leaves of one step."""
        parameters = state.parameters.detach().requires_grad_()
        ones = torch.ones(rows, longest, dtype=parameters.dtype, device=parameters.device)
        return cls(state, parameters, ones[:, 0].clone().requires_grad_(), ones.requires_grad_())


class ScoreSums:
    """Scores of examples and tokens, summed over the steps."""

    def __init__(self, queries: int, lengths: Sequence[int]) -> None:
        self.indptr: Int[np.ndarray, " n1"] = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
        self.scores: Float[np.ndarray, "q n"] = np.zeros((queries, len(lengths)))
        self.tokens: Float[np.ndarray, "q m"] = np.zeros((queries, int(self.indptr[-1])))

    def add(
        self, query: int, rows: Int[np.ndarray, " b"], weight: Float[Tensor, " b"], factors: Float[Tensor, "b t"]
    ) -> None:
        """Add the part of one step."""
        np.subtract.at(self.scores[query], rows, host(weight).astype(np.float64))
        values = host(factors).astype(np.float64)
        for place, row in enumerate(rows):
            begin, end = int(self.indptr[row]), int(self.indptr[row + 1])
            self.tokens[query, begin:end] -= values[place, : end - begin]


class Replay:
    """A recorded training that can be replayed and differentiated."""

    def __init__(
        self,
        run: Run,
        examples: Sequence[Example],  # in training order
        labels: Sequence[int],  # -1 for a language model
        *,
        max_length: int | None = None,
        double: bool = False,  # compute in 64 bits; the run did not, so its saved weights are not reached exactly
        every: int | None = None,  # store every n-th state; None: the root of the number of steps
        quiet: bool = False,
    ) -> None:
        if not run.task.replays:
            raise RunError(
                f"{run.path} cannot be replayed: it is a {run.task.kind} model, and replay supports only classifiers "
                "and causal language models"
            )
        self.run, self._trace = run, read_training_trace(run.path)
        self.steps = recorded(self._trace)
        self._dtype = torch.float64 if double else torch.float32
        self._quiet = quiet
        self._check_rows(examples)
        refuse_half(run, "a replay")
        self._model = run.load(run.checkpoints[-1]).to(self._dtype)
        self._model.train()
        self._device = device_of(self._model)
        self._refuse_random_states()
        self._flatten()
        self._encoder = run.encoder(run.length(max_length))
        self._encoded = self._encoder.encode(list(examples))
        self._labels = list(labels)
        weights = [one.weight for one in examples]
        refuse_missing_weights(run, "the training set", weighted=any(one != 1 for one in weights))
        self._weights = torch.tensor(weights, dtype=self._dtype, device=self._device)
        self._every = every or max(1, math.isqrt(len(self.steps)))
        self._kept: list[OptimizerState] = []

    def __len__(self) -> int:
        return len(self._encoded)

    @property
    def first(self) -> OptimizerState:
        """The state before the first step."""
        arrays = self._trace.initial()
        flat = torch.cat([torch.as_tensor(arrays[name]).reshape(-1) for name in self._sizes])
        flat = flat.to(self._device, self._dtype)
        return OptimizerState(flat, torch.zeros_like(flat), torch.zeros_like(flat))

    @property
    def kept(self) -> int:
        """States stored by the last forward pass."""
        return len(self._kept)

    def train(
        self,
        weights: Float[np.ndarray, " n"] | None = None,
        factors: Mapping[tuple[int, int], float] | None = None,
    ) -> Float[Tensor, " p"]:
        """Train again, with the recorded initial weights, order, learning rates and random states."""
        weight = None if weights is None else torch.as_tensor(weights, dtype=self._dtype, device=self._device)
        state = self.first
        for step in self._track(self.steps, "replaying"):
            state = self._advance(state, step, weight, factors or {})
        return state.parameters

    def deviation(self) -> float:
        """Replay and compare with the last saved checkpoint."""
        end = self._forward().parameters
        saved = torch.cat([self._saved[name].reshape(-1) for name in self._sizes])
        found = float((end - saved).abs().max() / (saved - self.first.parameters).abs().max())
        if not found <= TOLERANCE:
            raise MismatchError(
                f"the replay of {self.run.path} ends {found:.1e} away from its last checkpoint, above the tolerance "
                f"of {TOLERANCE:g}: check that the data, their order and --max-length are those of the training, and "
                "that the training ended at its last checkpoint; otherwise rounding errors grew too large during "
                "training: train with a larger --adam-epsilon or a smaller --learning-rate"
            )
        return found

    def losses(self, parameters: Float[Tensor, " p"], queries: Sequence[Query]) -> Float[np.ndarray, " q"]:
        """Losses of some queries."""
        with torch.no_grad(), self._evaluating():
            return host(self._query_losses(parameters, queries)).astype(np.float64)

    def derivative(self, queries: Sequence[Query], curvature: Curvature = "exact") -> Derivative:
        """Differentiate queries' losses through the whole training."""
        if not queries:
            raise InputError("replay needs a text to explain: give at least one")
        end = self._forward()
        losses, cotangents = self._begin(end, queries)
        sums = ScoreSums(len(queries), [len(one.ids) for one in self._encoded])
        for step, state in self._track(self._backwards(), "differentiating"):
            leaves = Variables.of(state, len(step.rows), step.width)
            with drawing(step, self._device):
                gradient = self._gradient(leaves.parameters, step, leaves.weight, leaves.factors)
            for query in range(len(queries)):
                cotangents[query] = self._pull(step, leaves, gradient, cotangents[query], sums, query, curvature)
        words = np.concatenate([one.words for one in self._encoded])
        return Derivative(sums.scores, sums.tokens, sums.indptr, words, losses)

    def smoothness(
        self, query: Query, derivative: Derivative, rows: Sequence[int], *, number: int = 0, step: float = 1e-2
    ) -> Smoothness:
        """Change the weights of some examples, train again, and compare with the derivative."""
        seen: list[float] = []
        for row in rows:
            found: list[float] = []
            for sign in (1.0, -1.0):
                weights = np.ones(len(self))
                weights[row] += sign * step
                found.append(float(self.losses(self.train(weights), [query])[0]))
            seen.append((found[0] - found[1]) / (2 * step))
        predicted = -derivative.scores[number, list(rows)]
        return Smoothness(tuple(rows), step, predicted, np.asarray(seen))

    def _check_rows(self, examples: Sequence[Example]) -> None:
        most = int(self._trace.order.max()) + 1
        if most > len(examples):
            raise MismatchError(
                f"the record of {self.run.path} refers to row {most - 1}, but the data has {len(examples)} rows: give "
                "the data that the run was trained on, in the same order"
            )

    def _refuse_random_states(self) -> None:
        """Refuse recorded random states on another device: they are those of the CPU's generator."""
        if self._device.type != "cpu" and self._trace.random is not None:
            raise RunError(
                f"{self.run.path} was trained with dropout, whose recorded random states drive the generator of the "
                f"CPU only, and the model is on {self._device}: replay it with --device cpu (device=)"
            )

    def _flatten(self) -> None:
        """Find the position of every trained parameter in the flat vector."""
        named = dict(self._model.named_parameters())
        names = [name for name in named if any(name in group.names for group in self._trace.groups)]
        known = {name for group in self._trace.groups for name in group.names}
        if known - set(names):
            lost = sorted(known - set(names))[0]
            raise RunError(f"{self.run.path} cannot be replayed: its record contains {lost}, which its model lacks")
        self._sizes = {name: named[name].numel() for name in names}
        self._shapes = {name: named[name].shape for name in names}
        self._saved = {name: named[name].detach().clone() for name in names}
        self._optimizer = optimizer_of(self._trace, self._sizes, self._dtype, self._device)

    def _parameters(self, flat: Float[Tensor, " p"]) -> dict[str, Tensor]:
        parts = cast("tuple[Tensor, ...]", cast("Any", flat).split(list(self._sizes.values())))
        return {name: part.view(self._shapes[name]) for name, part in zip(self._sizes, parts, strict=True)}

    def _forward(self) -> OptimizerState:
        """Run the whole training and store every n-th state."""
        state, self._kept = self.first, []
        for step in self._track(self.steps, "replaying"):
            if step.number % self._every == 0:
                self._kept.append(state)
            state = self._advance(state, step)
        return state

    def _backwards(self) -> Generator[tuple[Step, OptimizerState]]:
        """Yield every step with the state before it, the last step first."""
        for place in range(len(self._kept) - 1, -1, -1):
            steps = self.steps[place * self._every : (place + 1) * self._every]
            states = [self._kept[place]]
            for step in steps[:-1]:
                states.append(self._advance(states[-1], step))
            yield from zip(reversed(steps), reversed(states), strict=True)

    def _advance(
        self,
        state: OptimizerState,
        step: Step,
        weights: Tensor | None = None,
        factors: Mapping[tuple[int, int], float] = MappingProxyType({}),
    ) -> OptimizerState:
        weight = None if weights is None else weights[self._on_device(step.rows)]
        shape = (len(step.rows), step.width)
        given = torch.ones(shape, dtype=self._dtype, device=self._device) if factors else None
        for (row, place), factor in factors.items():
            for where in np.nonzero(step.rows == row)[0].tolist():
                cast("Tensor", given)[where, place] = factor

        def gradient(state: OptimizerState, step: Step) -> Float[Tensor, " p"]:
            parameters = state.parameters.detach().requires_grad_()
            return self._gradient(parameters, step, weight, given, create=False)

        return advance(state, step, gradient, self._optimizer, self._device)

    def _gradient(
        self,
        flat: Float[Tensor, " p"],
        step: Step,
        weight: Float[Tensor, " b"] | None,
        factors: Float[Tensor, "b t"] | None,
        *,
        create: bool = True,
    ) -> Float[Tensor, " p"]:
        """Gradient of one batch's loss; differentiable itself if `create` is set."""
        with self._weighing(factors), torch.enable_grad():
            losses, divisor = self._losses(self._parameters(flat), step)
            total = (losses if weight is None else losses * weight).sum() / divisor
            return torch.autograd.grad(total, flat, create_graph=create)[0]

    def _losses(self, parameters: dict[str, Tensor], step: Step) -> tuple[Float[Tensor, " b"], float]:
        """Weighted losses as the Trainer sums them, and the divisor of the sum: examples, or counted tokens."""
        batch = self._batch(step)
        logits = self._logits(parameters, batch.inputs)
        objective = self.run.task.objective(batch, "sum")
        return objective.losses(logits) * self._weights[self._on_device(step.rows)], objective.count

    def _on_device(self, rows: Int[np.ndarray, " b"]) -> Int[Tensor, " b"]:
        return torch.as_tensor(rows, device=self._device)

    def _batch(self, step: Step) -> Batch:
        rows: list[int] = step.rows.tolist()
        batch = self._encoder.collate(
            [self._encoded[row] for row in rows], [self._labels[row] for row in rows], step.width
        )
        if digest(batch.ids) != step.digest:
            raise MismatchError(
                f"step {step.number + 1} of {self.run.path} used other tokens than its rows {rows[:5]} have now: give "
                "the data that the run was trained on, in the same order, with the same --max-length"
            )
        return batch

    def _logits(self, parameters: dict[str, Tensor], inputs: dict[str, Tensor]) -> Tensor:
        # Attention without fused kernels, which have no second derivative.
        with sdpa_kernel(SDPBackend.MATH):
            return cast("Any", torch.func).functional_call(self._model, parameters, kwargs=inputs).logits

    def _query_losses(self, flat: Float[Tensor, " p"], queries: Sequence[Query]) -> Float[Tensor, " q"]:
        parameters = self._parameters(flat)
        losses: list[Tensor] = []
        for query, encoded in zip(queries, self._encoder.encode([one.example for one in queries]), strict=True):
            batch = self._encoder.collate([encoded], [query.label])
            logits = self._logits(parameters, batch.inputs)
            losses.append(self.run.task.objective(batch).losses(logits)[0])
        return torch.stack(losses)

    def _begin(
        self, end: OptimizerState, queries: Sequence[Query]
    ) -> tuple[Float[np.ndarray, " q"], list[OptimizerState]]:
        """Losses at the end of training, and their derivatives by the last state."""
        losses: list[float] = []
        cotangents: list[OptimizerState] = []
        for query in queries:
            flat = end.parameters.detach().requires_grad_()
            with torch.enable_grad(), self._evaluating():
                loss = self._query_losses(flat, [query])[0]
                grad = torch.autograd.grad(loss, flat)[0]
            losses.append(float(loss.detach()))
            cotangents.append(OptimizerState(grad, torch.zeros_like(grad), torch.zeros_like(grad)))
        return np.asarray(losses), cotangents

    def _pull(
        self,
        step: Step,
        leaves: Variables,
        gradient: Tensor,
        cotangent: OptimizerState,
        sums: ScoreSums,
        query: int,
        curvature: Curvature,
    ) -> OptimizerState:
        """Propagate one query's derivative back over one step, and add the step's part of the scores."""
        before = [part.detach().requires_grad_() for part in leaves.state.parts]
        given = gradient.detach().requires_grad_()
        with torch.enable_grad():
            after = self._optimizer.apply(OptimizerState(*before), given, step)
            pulled = torch.autograd.grad(
                list(after.parts), [*before, given], list(cotangent.parts), allow_unused=True, materialize_grads=True
            )
            wanted = [leaves.weight, leaves.factors, *([leaves.parameters] if curvature == "exact" else [])]
            through = torch.autograd.grad(gradient, wanted, pulled[3], retain_graph=True)
        sums.add(query, step.rows, through[0], through[1])
        if curvature == "none":
            return OptimizerState(*pulled[:3])
        passed = through[2] if curvature == "exact" else self._fisher_product(step, leaves, through[0])
        return OptimizerState(pulled[0] + passed, pulled[1], pulled[2])

    def _fisher_product(self, step: Step, leaves: Variables, products: Float[Tensor, " b"]) -> Float[Tensor, " p"]:
        """Multiply a vector by the batch's empirical Fisher matrix, given its products with each example's gradient."""
        # The products are those with g_z / B, an example's part of the batch's gradient; the sum over g_z has no 1 / B.
        flat = leaves.parameters.detach().requires_grad_()
        with torch.enable_grad(), drawing(step, self._device):
            losses, _ = self._losses(self._parameters(flat), step)
            return torch.autograd.grad((losses * products).sum(), flat)[0]

    @contextmanager
    def _weighing(self, factors: Float[Tensor, "b t"] | None) -> Generator[None]:
        """Multiply the output of the embedding by a factor for each token."""
        if factors is None:
            yield
            return

        def weigh(_module: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
            return output * factors[:, :, None]

        handle = input_embedding(self._model).register_forward_hook(weigh)
        try:
            yield
        finally:
            handle.remove()

    @contextmanager
    def _evaluating(self) -> Generator[None]:
        self._model.eval()
        try:
            yield
        finally:
            self._model.train()

    def _track(self, items: Iterable[T], label: str) -> Iterable[T]:
        return track(items, total=len(self.steps), label=label, unit="steps", quiet=self._quiet)
