"""Gradients at one loaded checkpoint: encoded examples in, gradients out, for the training set and for queries."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from proponent.gradients.capture import Capture, Captured, head_outer, head_table
from proponent.gradients.factor_terms import Calls
from proponent.gradients.forms import Dense, Rows
from proponent.gradients.gradient import Gradient
from proponent.gradients.head_rows import head_rows, own_tokens, shares_of
from proponent.gradients.layer_hooks import UnbatchedError
from proponent.gradients.layer_selection import Choice
from proponent.gradients.layer_vectors import LayerVectors, chosen_layers, settled, slices_by_length
from proponent.gradients.model_parts import is_tied, shares_head, table_shape, word_tables
from proponent.gradients.output_layer import OutputLayer
from proponent.gradients.pairs import joined_pairs, slices_by_kind
from proponent.gradients.pass_losses import LOGIT, LOSS, PassLoss, softened
from proponent.gradients.pass_size import SMALL, PassSize, fewer
from proponent.gradients.projection import compress
from proponent.gradients.reference import Reference, reference_of
from proponent.gradients.vocabulary_head import HeadOuter
from proponent.method import EmbeddingRows, Gradients, Layers, Logit, Loss, Reduction, Retaken, Term, similarity_of
from proponent.models import Encoded, Encoder, Run, SampledLabels
from proponent.models.batch import Batch
from proponent.models.placement import beside, host
from proponent.models.tasks.base import Objective, logits_of
from proponent.types import Example

Part = TypeVar("Part")


@dataclass(frozen=True)
class GradientSpec:
    """The gradients that a method needs from this kind of model."""

    rows: bool  # the embedding's rows (the input path)
    outer: bool  # the last layer of a classifier
    head: bool  # the vocabulary head
    path: str  # the embedding path to report
    tied: bool  # whether the head shares the embedding's table
    choice: Choice | None = None  # other layers; None for none
    pooled: bool = False  # also the mean last hidden state
    folded: bool = False  # whether the head's part of a shared table is computed as rows of the text's own tokens

    @classmethod
    def of_index(cls, method: Term, run: Run, model: nn.Module, **how: Any) -> "GradientSpec":
        """The gradients that the method's index stores; `how` is that of `chosen_layers`."""
        if not isinstance(method, Gradients):
            return NO_GRADIENTS
        if isinstance(method.gradient, Layers):
            return cls.of_layers(method, run, model, **how)
        shares = is_tied if isinstance(method.gradient, EmbeddingRows) else shares_head
        lm, tied = run.task.predicts_tokens, shares(model, decoding=run.task.decodes)
        if not isinstance(method.gradient, EmbeddingRows):
            return cls(rows=False, outer=not lm, head=lm, path="output" if lm else "exact", tied=tied)
        path = method.gradient.path if tied else "exact"
        head = tied and path in {"exact", "output"}
        folded = head and method.gradient.direction is not None
        rows = path != "output" or folded
        return cls(rows=rows, outer=False, head=head and not folded, path=path, tied=tied, folded=folded)

    @classmethod
    def of_layers(cls, method: Gradients | Retaken, run: Run, model: nn.Module, **how: Any) -> "GradientSpec":
        """The layers that a method names, even if its index stores no gradients."""
        choice = chosen_layers(method, run, model, **how)
        tied = shares_head(model, decoding=run.task.decodes)
        path = "output" if choice.placed else "exact"
        return cls(rows=choice.rows, outer=False, head=choice.head, path=path, tied=tied, choice=choice)

    @property
    def by_token(self) -> bool:
        """Whether the index is searched by token: it stores rows of the word embedding only."""
        return self.rows and not self.head and not (self.choice is not None and self.choice.blocks)


NO_GRADIENTS = GradientSpec(rows=False, outer=False, head=False, path="exact", tied=False)
"""The model runs forward only."""


class AnsweredQuery(NamedTuple):
    """A question of a task with answers, and its answers in words."""

    encoded: Encoded
    label: str  # the answer that is explained
    predicted: str
    probabilities: Mapping[str, float] | None


@dataclass(frozen=True)
class GradientBatch:
    """Gradients and outputs of one batch."""

    gradient: Gradient  # stored forms
    losses: Float[np.ndarray, " n"]  # [n] in nats
    probabilities: Float[np.ndarray, "n l"] | None  # [n l] of a classifier; None for a language model
    pooled: Float[np.ndarray, "n d"] | None  # [n d] mean last hidden state; None if not requested
    bad: Bool[np.ndarray, " n"]  # examples whose loss or gradient is not finite; their forms are empty


class GradientComputer:
    """Computes gradients at one checkpoint; without a spec, those that an index of the method stores."""

    def __init__(
        self, run: Run, model: nn.Module, method: Term, encoder: Encoder, spec: GradientSpec | None = None
    ) -> None:
        self.run, self.model, self.encoder = run, model, encoder
        self.method = settled(method, run, model) if spec is None else method
        self.spec = spec or GradientSpec.of_index(self.method, run, model)
        self.table = table_shape(model, decoding=run.task.decodes)
        choice = self.spec.choice
        self.layers = LayerVectors.of(choice, self.method)
        objective = self.method.objective
        self._reduction: Reduction = "mean" if isinstance(objective, Logit) else objective.reduction
        self._temperature = objective.temperature if isinstance(objective, Loss) else 1.0
        self._capture = Capture(
            model,
            embedding=self.spec.rows,
            head=self.spec.outer or self.spec.head or self.spec.folded,
            pooled=self.spec.pooled,
            blocks=() if choice is None else choice.blocks,
            order=None if choice is None else choice.order,
            output=OutputLayer(model) if run.task.predicts_tokens else None,
        )
        self._singly = False
        self._fewer: int | None = None  # examples of a pass, once memory ran out
        self._size: PassSize | None = None
        self._reference: Reference | None = None
        self.elementwise: dict[str, Tensor] | None = None
        self._special = np.asarray(sorted(set(run.tokenizer.all_special_ids)), dtype=np.int64)

    def train(self, encoded: Sequence[Encoded], labels: Sequence[int]) -> GradientBatch:
        """Gradients of training examples."""
        return self._gradients(encoded, labels, None, LOSS)

    def query(
        self, encoded: Sequence[Encoded], labels: Sequence[int], against: Sequence[int] | None = None
    ) -> GradientBatch:
        """Gradients of queries: of their loss, their logit, or their contrast with other labels."""
        return self._gradients(encoded, labels, against, self._query_loss)

    def train_calls(self, encoded: Encoded, label: int) -> Calls:
        """The factors of a training example's layer gradient."""
        return self._called(self._captured([encoded], [label], None, LOSS)[0])

    def query_calls(self, encoded: Encoded, label: int, against: int | None = None) -> Calls:
        """The factors of a query's layer gradient."""
        other = None if against is None else [against]
        return self._called(self._captured([encoded], [label], other, self._query_loss)[0])

    def calls(
        self, encoded: Sequence[Encoded], labels: Sequence[int], draws: SampledLabels | None = None
    ) -> Iterator[tuple[Captured, int]]:
        """Capture layers of a batch, in parts where necessary."""
        loss = LOSS if draws is None else PassLoss(draws.losses, draws.terms)

        def take(cut: slice) -> tuple[Captured, int]:
            return self._captured(encoded[cut], labels[cut], None, loss)[0], cut.stop - cut.start

        yield from self._in_parts(take, encoded)

    def vectors(self, captured: Captured, count: int) -> Float[np.ndarray, "n p"]:
        """Lay captured factors out as vectors."""
        assert self.layers is not None
        assert captured.calls is not None
        return self.layers.projection.vectors(captured.calls, count, self.elementwise)

    @property
    def _query_loss(self) -> PassLoss:
        return LOGIT if isinstance(self.method.objective, Logit) else LOSS

    def _gradients(
        self, encoded: Sequence[Encoded], labels: Sequence[int], against: Sequence[int] | None, loss: PassLoss
    ) -> GradientBatch:
        def take(cut: slice) -> GradientBatch:
            others = None if against is None else against[cut]
            return self._batch(*self._captured(encoded[cut], labels[cut], others, loss))

        parts = self._in_parts(take, encoded)
        return parts[0] if len(parts) == 1 else joined(parts)

    def _in_parts(self, take: Callable[[slice], Part], encoded: Sequence[Encoded]) -> list[Part]:
        """Process a batch in parts that hooks can handle; example by example if a layer's calls have no batch axis."""
        while True:
            try:
                return [take(cut) for cut in self._cuts(encoded)]
            except UnbatchedError:
                if self._singly:
                    raise
                self._singly = True
            except torch.OutOfMemoryError as error:
                self._fewer = fewer(self._fewer or len(encoded), encoded, error)
            torch.cuda.empty_cache()  # outside of the handlers, which keep the tensors of the failed pass alive

    def parts(self, encoded: Sequence[Encoded]) -> list[slice]:
        """Split a batch into parts that fit into memory."""
        lengths = [one.length for one in encoded]
        if len(encoded) < 2 or len(encoded) * max(lengths) <= SMALL:
            return [slice(0, len(encoded))]
        if self._size is None:
            by_token = self.run.task.answers_by_token
            self._size = PassSize.measure(self.model, encoded[0], self._keeps, by_token=by_token)
        return self._size.parts(lengths)

    def _cuts(self, encoded: Sequence[Encoded]) -> list[slice]:
        """Split a batch into parts that fit into memory, and these into parts that hooks can handle."""
        kinds = [slice(0, len(encoded))] if self.run.task.pairing is None else slices_by_kind(encoded)
        parts = [
            slice(kind.start + one.start, kind.start + one.stop) for kind in kinds for one in self.parts(encoded[kind])
        ]
        cuts = [cut for part in parts for cut in self._hooked(encoded[part], part.start)]
        most = self._fewer
        if most is None:
            return cuts
        return [slice(at, min(at + most, cut.stop)) for cut in cuts for at in range(cut.start, cut.stop, most)]

    def _hooked(self, encoded: Sequence[Encoded], start: int) -> list[slice]:
        if self.layers is None or len(encoded) < 2:
            cuts = [slice(0, len(encoded))]
        elif self._singly:
            cuts = [slice(place, place + 1) for place in range(len(encoded))]
        else:
            cuts = slices_by_length(encoded)
        return [slice(start + cut.start, start + cut.stop) for cut in cuts]

    def _keeps(self, encoded: Encoded) -> int:
        """Run one example; return the bytes that a pass keeps of it apart from the graph."""
        captured, _ = self._captured([encoded], [0], None, LOSS)
        logits = captured.logits
        whole = 3 * logits.nbytes if logits.dim() == 3 and logits.shape[1] > 1 else 0
        calls = [call for some in (captured.calls or {}).values() for call in some]
        sides = [side for call in calls for side in (call.left, call.right) if isinstance(side, Tensor)]
        return whole + sum(side.nbytes for side in sides)

    @staticmethod
    def _called(captured: Captured) -> Calls:
        assert captured.calls is not None
        return captured.calls

    def _captured(
        self, encoded: Sequence[Encoded], labels: Sequence[int], against: Sequence[int] | None, loss: PassLoss
    ) -> tuple[Captured, HeadOuter | Rows | None]:
        encoded = self.completed(encoded)
        batch = self.encoder.collate(encoded, labels)
        objective, decoder = self.run.task.objective(batch, self._reduction, against), batch.decoder
        read = None if decoder is None else (decoder.mask, decoder.words)
        terms, whole = loss.terms(batch, objective), softened(loss.whole(batch, objective), self._temperature)
        wanted = own_tokens(batch, objective) if self.spec.folded else None
        captured = self._capture(batch.inputs, whole, batch.words, read, terms, wanted)
        if self._temperature != 1:
            captured = replace(captured, losses=host(objective.losses(captured.logits)))  # an index stores the loss
        head = self._head(captured, objective, batch, wanted)
        return (joined_pairs(captured), None if head is None else head.joined(2)) if batch.paired else (captured, head)

    def _head(
        self, captured: Captured, objective: Objective, batch: Batch, wanted: Sequence[Int[np.ndarray, " _"]] | None
    ) -> HeadOuter | Rows | None:
        """The gradient of the vocabulary head, if it was asked for, one for each row of the batch."""
        found = objective.weighed(captured.losses)
        if captured.inputs is None or found is None:
            return None
        target, weight = found
        head = head_outer(captured.inputs, target, weight, batch.predicted_words)
        if not self.spec.folded:
            return head
        assert captured.rows is not None
        assert wanted is not None
        shares = captured.shares
        if shares is None:
            shares = shares_of(captured.logits, beside(weight.nan_to_num() != 0, captured.logits), wanted)
        return head_rows(head, shares, wanted, captured.rows)

    def completed(self, encoded: Sequence[Encoded]) -> Sequence[Encoded]:
        """Examples with what the loss reads of a reference model."""
        if not self.run.task.refers:
            return encoded
        self._reference = self._reference or reference_of(self.run, self.model, self.encoder)
        return self._reference.completed(encoded)

    def losses(
        self, encoded: Sequence[Encoded], labels: Sequence[int], against: Sequence[int] | None = None
    ) -> Float[Tensor, " n"]:
        """Compute losses with their graph, without hooks."""
        batch = self.encoder.collate(self.completed(encoded), labels)
        logits = logits_of(self.model(**batch.inputs))
        losses = self.run.task.objective(batch, self._reduction, against).losses
        return softened(losses, self._temperature)(logits)

    def probabilities(self, encoded: Sequence[Encoded]) -> Float[np.ndarray, "n l"] | None:
        """Predict without gradients."""
        if not self.run.task.labels:
            return None
        batch = self.encoder.collate(encoded, [0] * len(encoded))
        with torch.inference_mode():
            return self._predicted(self.model(**batch.inputs).logits)

    def answered(self, examples: Sequence[Example], encoded: Sequence[Encoded], size: int) -> list[AnsweredQuery]:
        """Questions of a task with answers, with the model's own answer where they give none; none of other tasks."""
        task, found = self.run.task, list[AnsweredQuery]()
        if not task.answers:
            return found
        size = 1 if self.run.equal_lengths else size
        for start in range(0, len(encoded), size):
            some = encoded[start : start + size]
            with torch.inference_mode():
                logits = logits_of(self.model(**self.encoder.collate(some, [-1] * len(some)).inputs))
            for example, one, own in zip(examples[start : start + size], some, logits, strict=True):
                assert one.answer is not None
                predicted = task.predicted(own, one)
                answer = task.completed(one.answer, predicted)
                words = task.spoken(example, answer, one), task.spoken(example, predicted, one)
                found.append(AnsweredQuery(replace(one, answer=answer), *words, task.chances(own)))
        return found

    def _predicted(self, logits: Tensor) -> Float[np.ndarray, "n l"] | None:
        found = self.run.task.probabilities(logits)
        return None if found is None else host(found)

    @property
    def notes(self) -> list[str]:
        """What the passes so far showed of the model's memory."""
        output, most = self._capture.output, self._fewer
        short = (
            [] if most is None else [f"memory of the device ran out: passes were made smaller, of {most} texts at most"]
        )
        return short if output is None else [*short, *output.notes]

    def tables(self) -> dict[str, np.ndarray]:
        """Copy the tables that products at this checkpoint need."""
        kept: dict[str, np.ndarray] = {}
        if self.spec.head:
            kept |= head_table(self.model).pack()
        if similarity_of(self.method) is not None:
            tables = word_tables(self.model, decoding=self.run.task.decodes)
            kept["embedding"] = host(torch.cat([beside(one, tables[0]) for one in tables])).copy()
        return kept

    def _dense(self, captured: Captured) -> Dense | None:
        if self.layers is None or not self.layers.choice.blocks:
            return None
        return Dense.of(self.vectors(captured, len(captured.losses)))

    def _batch(self, captured: Captured, head: HeadOuter | Rows | None) -> GradientBatch:
        folded, head = (head, None) if isinstance(head, Rows) else (None, head)
        whole = Gradient(captured.rows, captured.outer, head, self._dense(captured))
        bad = ~(np.isfinite(captured.losses) & whole.finite(len(captured.losses)))
        if folded is not None:
            bad |= ~folded.finite()
        kept = whole.without(bad)
        if kept.rows is not None:
            chosen = getattr(self.method, "gradient", None)
            rows = chosen if isinstance(chosen, EmbeddingRows) else EmbeddingRows()  # with layers, all rows are stored
            taken = kept.rows.times(np.zeros((1, 1), np.float32)) if self.spec.path == "output" else kept.rows
            folded = None if folded is None else folded.without(bad)
            kept = replace(kept, rows=compress(taken, rows, self._special, folded))
        return GradientBatch(kept, captured.losses, self._predicted(captured.logits), captured.pooled, bad)


def joined(parts: Sequence[GradientBatch]) -> GradientBatch:
    """Concatenate batches."""
    return GradientBatch(
        Gradient.stack([one.gradient for one in parts]),
        np.concatenate([one.losses for one in parts]),
        _chained([one.probabilities for one in parts]),
        _chained([one.pooled for one in parts]),
        np.concatenate([one.bad for one in parts]),
    )


def _chained(parts: Sequence[np.ndarray | None]) -> np.ndarray | None:
    held = [one for one in parts if one is not None]
    return np.concatenate(held) if held else None
