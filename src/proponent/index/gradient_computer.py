"""One loaded checkpoint at work: encoded examples in, kept gradients out. Building and asking share it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import cast

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from proponent.errors import InputError
from proponent.gradients.capture import Capture, Captured, head_outer, head_table
from proponent.gradients.forms import Dense
from proponent.gradients.gradient import Gradient
from proponent.gradients.layer_hooks import UnbatchedError
from proponent.gradients.layer_selection import Choice
from proponent.gradients.model_parts import classifier_head, is_tied, word_tables
from proponent.gradients.projection import compress, directions
from proponent.gradients.vocabulary_head import HeadOuter
from proponent.index.layer_vectors import LayerVectors, chosen_layers, slices_by_length, token_words, with_layers_named
from proponent.models import Encoded, Encoder, Run, SampledLabels
from proponent.recipe import Recipe


@dataclass(frozen=True)
class GradientSpec:
    """Which gradients a recipe asks of this kind of model.

    Attributes:
        rows: the embedding's rows (the input path).
        outer: the last layer of a classifier.
        head: the vocabulary head.
        path: the embedding path to report.
        tied: whether the head shares the embedding's table.
        choice: other layers; None for none.
    """

    rows: bool
    outer: bool
    head: bool
    path: str
    tied: bool
    choice: Choice | None = None

    @property
    def by_token(self) -> bool:
        """Whether the index is searched by token: rows of the word embedding are all that is kept."""
        return self.rows and not self.head and not (self.choice is not None and self.choice.blocks)


@dataclass(frozen=True)
class GradientBatch:
    """What one batch gave.

    Attributes:
        gradient: kept forms.
        losses: [n] in nats.
        probabilities: [n l] of a classifier; None for a language model.
        pooled: [n d] mean last hidden state; None when not asked for.
        bad: examples whose loss or gradient is not finite; their forms are empty.
    """

    gradient: Gradient
    losses: Float[np.ndarray, " n"]
    probabilities: Float[np.ndarray, "n l"] | None
    pooled: Float[np.ndarray, "n d"] | None
    bad: Bool[np.ndarray, " n"]


def gradient_spec(recipe: Recipe, run: Run, model: nn.Module, *, retaken: bool = False) -> GradientSpec:
    """Decide which gradients to take."""
    if recipe.layer == "none" or (recipe.solver != "none" and not retaken):
        return GradientSpec(rows=False, outer=False, head=False, path="exact", tied=False)
    lm, decoding = not run.task.labels, run.task.decodes
    tied = is_tied(model, decoding=decoding)
    if recipe.layer == "layers":
        choice = chosen_layers(recipe, run, model)
        return GradientSpec(rows=choice.rows, outer=False, head=False, path="exact", tied=tied, choice=choice)
    if recipe.layer == "head":
        if _needs_rows(recipe) or recipe.preconditioner != "none":
            raise InputError(
                f"{recipe.name} is about the last layer: top, drop_special, synonym_threshold, unit_norm and "
                "preconditioner are for the word embedding"
            )
        return GradientSpec(rows=False, outer=not lm, head=lm, path="output" if lm else "exact", tied=tied)
    if not tied:
        if recipe.path == "output":
            raise InputError(
                "path 'output' needs a head that shares the embedding's table, and this model's does not: "
                "use tracin-last for the head"
            )
        return GradientSpec(rows=True, outer=False, head=False, path="exact", tied=False)
    if recipe.path != "input" and len(word_tables(model, decoding=decoding)) > 1:
        raise InputError(
            "encoder and decoder of this model have a table each, and the head shares the decoder's: choose --path "
            "input (the head's part is then left out; tracin-last gives it)"
        )
    head = recipe.path in {"exact", "output"}
    if head and _needs_rows(recipe):
        raise InputError(
            f"{recipe.name} works on the rows of the embedding alone, and this model's head shares its table: "
            "choose --path input (the head's part is then left out, and the answer says so)"
        )
    return GradientSpec(rows=recipe.path != "output", outer=False, head=head, path=recipe.path, tied=True)


def _needs_rows(recipe: Recipe) -> bool:
    """Whether the recipe chooses, matches or scales by rows of the embedding."""
    return recipe.normed or recipe.top is not None or recipe.drop_special or recipe.synonym_threshold is not None


class GradientComputer:
    """One checkpoint, ready to give gradients.

    Args:
        run: the run.
        model: the loaded checkpoint.
        recipe: the method.
        encoder: the run's encoder.
        pooled: also give mean hidden states.
        retaken: see `wanted`.
    """

    def __init__(
        self,
        run: Run,
        model: nn.Module,
        recipe: Recipe,
        encoder: Encoder,
        *,
        pooled: bool = False,
        retaken: bool = False,
    ) -> None:
        self.run, self.model, self.recipe, self.encoder = run, model, with_layers_named(recipe, run, model), encoder
        self.spec = gradient_spec(recipe, run, model, retaken=retaken)
        choice = self.spec.choice
        self.layered = None if choice is None else LayerVectors(choice, self.recipe)
        self._capture = Capture(
            model,
            embedding=self.spec.rows,
            head=self.spec.outer or self.spec.head,
            pooled=pooled,
            blocks=() if choice is None else choice.blocks,
            order=None if choice is None else choice.order,
        )
        self._singly = False
        self.roots: dict[str, Tensor] | None = None
        self._special = np.asarray(sorted(set(run.tokenizer.all_special_ids)), dtype=np.int64)

    @property
    def needs_table(self) -> bool:
        """Whether the checkpoint's table changes what is taken."""
        recipe = self.recipe
        fitted = recipe.refit is not None or recipe.preconditioner != "none" or recipe.basis != "random"
        return self.layered is not None and fitted

    def prepare(self, table: Mapping[str, np.ndarray], *, basis: bool = True) -> None:
        """Put in place what was fitted before any gradient: a refitted last layer, second moments, directions."""
        if self.recipe.refit is not None:
            head = classifier_head(self.model)
            with torch.no_grad():
                head.weight.copy_(torch.as_tensor(table["refit"]))
                if cast("Tensor | None", head.bias) is not None:
                    head.bias.zero_()
        if self.layered is None:
            return
        blocks = self.layered.choice.blocks
        if self.recipe.preconditioner != "none":
            self.roots = {block.name: torch.as_tensor(table[f"root.{at}"]) for at, block in enumerate(blocks)}
        if basis and self.recipe.basis == "leading":
            self.layered.projection.turn(directions(blocks, table))

    def __call__(
        self,
        encoded: Sequence[Encoded],
        labels: Sequence[int],
        against: Sequence[int] | None = None,
        *,
        asked: bool = False,
    ) -> GradientBatch:
        """Take the gradients of one batch."""
        if self.layered is None or len(encoded) < 2:
            return self._batch(encoded, labels, against, asked)
        cuts = self._cuts(encoded)
        if len(cuts) < 2:
            try:
                return self._batch(encoded, labels, against, asked)
            except UnbatchedError:
                self._singly = True
                cuts = self._cuts(encoded)
        parts = [
            self._batch(encoded[cut], labels[cut], None if against is None else list(against)[cut], asked)
            for cut in cuts
        ]
        return _joined(parts)

    def _cuts(self, encoded: Sequence[Encoded]) -> list[slice]:
        """Batches that hooks can see through."""
        if self._singly:
            return [slice(place, place + 1) for place in range(len(encoded))]
        return slices_by_length(encoded)

    def words(
        self, encoded: Encoded, label: int, width: int, against: int | None = None, *, asked: bool = False
    ) -> Float[np.ndarray, "w p"]:
        """Split the gradient of the layers of one example by its words."""
        assert self.layered is not None
        captured, _ = self._captured([encoded], [label], None if against is None else [against], asked)
        assert captured.calls is not None
        return self.layered.projection.by_word(captured.calls, token_words(encoded), width, self.roots)

    def calls(
        self, encoded: Sequence[Encoded], labels: Sequence[int], draws: SampledLabels | None = None
    ) -> Iterator[tuple[Captured, int]]:
        """Capture layers of a batch, in parts where they must be."""

        def parts() -> list[tuple[Captured, int]]:
            cuts = self._cuts(encoded)
            made = [self._captured(encoded[cut], labels[cut], None, False, draws)[0] for cut in cuts]
            return [(captured, cut.stop - cut.start) for captured, cut in zip(made, cuts, strict=True)]

        try:
            found = parts()
        except UnbatchedError:
            self._singly = True
            found = parts()
        yield from found

    def vectors(self, captured: Captured, count: int) -> Float[np.ndarray, "n p"]:
        """Lay what was captured out as vectors."""
        assert self.layered is not None
        assert captured.calls is not None
        return self.layered.projection.vectors(captured.calls, count, self.roots)

    def _batch(
        self, encoded: Sequence[Encoded], labels: Sequence[int], against: Sequence[int] | None, asked: bool
    ) -> GradientBatch:
        return self._passed(*self._captured(encoded, labels, against, asked))

    def _captured(
        self,
        encoded: Sequence[Encoded],
        labels: Sequence[int],
        against: Sequence[int] | None,
        asked: bool,
        draws: SampledLabels | None = None,
    ) -> tuple[Captured, HeadOuter | None]:
        batch = self.encoder.collate(encoded, labels)
        objective, decoder = self.run.task.objective(batch, self.recipe.loss, against), batch.decoder
        read = None if decoder is None else (decoder.mask, decoder.words)
        losses = objective.logits if asked and self.recipe.measure == "logit" else objective.losses
        losses = losses if draws is None else draws.losses(batch, objective)
        captured = self._capture(batch.inputs, losses, batch.words, read)
        if captured.inputs is None or objective.predictions is None:
            return captured, None
        return captured, head_outer(captured.inputs, *objective.predictions, batch.predicted_words)

    def losses(
        self, encoded: Sequence[Encoded], labels: Sequence[int], against: Sequence[int] | None = None
    ) -> Float[Tensor, " n"]:
        """Take losses without hooks, their graph and all."""
        batch = self.encoder.collate(encoded, labels)
        logits = cast("Tensor", self.model(**batch.inputs).logits)
        return self.run.task.objective(batch, self.recipe.loss, against).losses(logits)

    def probabilities(self, encoded: Sequence[Encoded]) -> Float[np.ndarray, "n l"] | None:
        """Predict without gradients."""
        if not self.run.task.labels:
            return None
        batch = self.encoder.collate(encoded, [0] * len(encoded))
        with torch.inference_mode():
            return self._predicted(self.model(**batch.inputs).logits)

    def _predicted(self, logits: Tensor) -> Float[np.ndarray, "n l"] | None:
        found = self.run.task.probabilities(logits)
        return None if found is None else found.numpy()

    def tables(self) -> dict[str, np.ndarray]:
        """Copy the tables that products at this checkpoint need."""
        kept: dict[str, np.ndarray] = {}
        if self.spec.head:
            head = head_table(self.model)
            kept["head"] = head.weight
            if head.bias is not None:
                kept["head_bias"] = head.bias
        if self.recipe.synonym_threshold is not None:
            tables = word_tables(self.model, decoding=self.run.task.decodes)
            kept["embedding"] = torch.cat(tables).detach().float().numpy().copy()
        return kept

    def _dense(self, captured: Captured) -> Dense | None:
        if self.layered is None or not self.layered.choice.blocks:
            return None
        return Dense.of(self.vectors(captured, len(captured.losses)))

    def _passed(self, captured: Captured, head: HeadOuter | None) -> GradientBatch:
        whole = Gradient(captured.rows, captured.outer, head, self._dense(captured))
        bad = ~(np.isfinite(captured.losses) & whole.finite(len(captured.losses)))
        kept = whole.without(bad)
        if kept.rows is not None:
            kept = replace(kept, rows=compress(kept.rows, self.recipe, self._special))
        return GradientBatch(kept, captured.losses, self._predicted(captured.logits), captured.pooled, bad)


def _joined(parts: Sequence[GradientBatch]) -> GradientBatch:
    """Lay batches one after another."""
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
