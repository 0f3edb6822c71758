"""Per-example gradients by hooks, from one forward and one backward pass over a padded batch.

The embedding is cut from the graph at its output, so with every parameter frozen the backward pass stops there. The
gradient of the summed loss with respect to that output holds each example's own gradient at its own positions:
examples do not affect each other. This holds in evaluation mode for models without batch statistics.

The hook sees the output of the embedding module. Some modules scale the rows they look up; the row gradient is then the
scale times the gradient at the output. A module that does anything else is refused. So is a model that looks up tokens
other than its input, or that changes its vocabulary head's output: the forms would not be its gradient.
"""

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge

from proponent.errors import ProponentError, RunError, first_line
from proponent.gradients.dry_run import Order
from proponent.gradients.forms import Outer, Rows
from proponent.gradients.layer_hooks import Call, LayerHooks, UnbatchedError
from proponent.gradients.layer_rules import Block
from proponent.gradients.model_parts import (
    Lookup,
    classifier_head,
    embedding_scale,
    gives_logits,
    head_bias,
    inner_model,
    lookups,
    vocabulary_head,
)
from proponent.gradients.output_layer import OutputLayer, Tail
from proponent.gradients.token_losses import Shares, losses_in_blocks
from proponent.gradients.vocabulary_head import HeadOuter, VocabularyHead
from proponent.models.placement import beside, host, hosts
from proponent.models.tasks.base import TokenTerms, logits_of

Loss = Callable[[Tensor], Float[Tensor, " n"]]


@dataclass(frozen=True)
class Captured:
    """Result of one pass over a batch."""

    losses: Float[np.ndarray, " n"]  # one per example, in nats
    logits: Tensor  # the model's output; of the first position only if losses were taken in blocks
    rows: Rows | None = None  # embedding gradients, one row per real token position, in order; None if not requested
    outer: Outer | None = None  # gradients of the last linear layer of a classifier; None if not requested
    # the vocabulary head's input at every position [m t d]; of pairs, m is twice n; None if not requested
    inputs: Float[Tensor, "m t d"] | None = None
    # mean over real tokens of the last hidden state [m d]; None if not requested
    pooled: Float[np.ndarray, "m d"] | None = None
    # factors of the gradients of other layers; None if not requested
    calls: Mapping[str, Sequence[Call]] | None = None
    # probabilities of some tokens at each example's counted positions; None if not requested
    shares: Shares | None = None


class _ModelHooks:
    """The tensors that hooks record during one forward pass; every call of a module is collected."""

    def __init__(self) -> None:
        self.looked_up: list[tuple[nn.Module, Tensor]] = []
        self.embedded: list[Tensor] = []
        self.head_inputs: list[Tensor] = []
        self.head_outputs: list[Tensor] = []
        self.hidden: list[Tensor] = []

    def cut_embedding(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        leaf = output.detach().requires_grad_()
        self.looked_up.append((module, inputs[0]))
        self.embedded.append(leaf)
        return leaf

    def cut_head(self, _module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        self.head_inputs.append(beside(inputs[0].detach(), output))
        # A graph that reaches back to the embedding must not be cut here.
        leaf = output if output.requires_grad else output.detach().requires_grad_()
        self.head_outputs.append(leaf)
        return leaf

    def see_head(self, _module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        self.head_inputs.append(beside(inputs[0].detach(), output))

    def see_hidden(self, _module: nn.Module, _inputs: Any, output: Any) -> None:
        self.hidden.append(cast("Tensor", output[0]).detach())


@dataclass(frozen=True)
class _Short:
    """What a pass needs that computes the loss in blocks."""

    output: OutputLayer
    terms: TokenTerms  # the loss by tokens
    wanted: Sequence[Int[np.ndarray, " _"]] | None  # tokens of each example whose probabilities are needed


@dataclass(frozen=True)
class _Side:
    """One text that a model looks up: its only one, or that of the encoder or the decoder."""

    lookup: Lookup  # the module
    ids: Int[Tensor, "n t"]  # tokens, padding included
    mask: Bool[Tensor, "n t"]  # False for padding
    words: Int[np.ndarray, "n t"]  # word of each token


@dataclass(frozen=True)
class Capture:
    """Per-example gradients of one loaded model."""

    model: nn.Module  # evaluation mode, every parameter frozen
    embedding: bool = True  # capture the word embedding's rows
    head: bool = False  # capture the last linear layer: an Outer of a classifier, the input of a vocabulary head
    pooled: bool = False  # also compute the mean of the last hidden state
    blocks: tuple[Block, ...] = ()  # other layers to capture, as factors
    order: Order | None = None  # which calls of these layers concern the target of an encoder-decoder
    output: OutputLayer | None = None  # the output layer of a language model; None to hold all logits

    def __call__(
        self,
        inputs: dict[str, Tensor],
        loss: Loss,
        words: Int[np.ndarray, "n t"],
        decoder: tuple[Bool[Tensor, "n u"], Int[np.ndarray, "n u"]] | None = None,
        terms: TokenTerms | None = None,
        wanted: Sequence[Int[np.ndarray, " _"]] | None = None,
    ) -> Captured:
        """Run one batch forward and backward; a loss by tokens is computed in blocks where the model allows."""
        if self.output is not None and terms is not None and self._cuts(self.output):
            found = self._pass(inputs, loss, words, decoder, _Short(self.output, terms, wanted))
            if found is not None:
                return found
        found = self._pass(inputs, loss, words, decoder, None)
        assert found is not None
        return found

    def _pass(
        self,
        inputs: dict[str, Tensor],
        loss: Loss,
        words: Int[np.ndarray, "n t"],
        decoder: tuple[Bool[Tensor, "n u"], Int[np.ndarray, "n u"]] | None,
        short: _Short | None,
    ) -> Captured | None:
        """One forward and backward pass; None if it cannot be made with few logits."""
        taps = _ModelHooks()
        n, t = words.shape
        u = None if decoder is None else decoder[1].shape[1]
        layers = LayerHooks(self.model, self.blocks, n, t, u, self.order)
        vocabulary = vocabulary_head(self.model) if self.head else None
        mask = inputs["attention_mask"].bool()
        sides = self._sides(inputs, words, decoder) if self.embedding else []
        with torch.enable_grad(), self._hooks(taps, layers, sides, short, (n, u or t)):
            logits = self._logits(inputs, short)
            ends = None if short is None or logits is None else short.output.read(logits)
            if logits is None or (short is not None and ends is None):
                return None
            shares = None
            if short is None or ends is None:
                losses = loss(logits)
            else:
                losses, shares = losses_in_blocks(
                    ends.hidden, short.output, ends.tail.columns, short.terms, short.wanted
                )
                taps.head_inputs = [ends.hidden.detach()]
            read = self._read(taps, sides)
            if self.head:
                self._check_head(taps, logits, vocabulary, None if ends is None else ends.tail)
            edges = layers.edges
            taken = self._backward(
                losses.sum(), [*edges, *taps.embedded, *taps.head_outputs], headed=bool(taps.head_outputs)
            )
        calls = layers.calls(taken[: len(edges)]) if self.blocks else None
        grads = self._zeros(taken[len(edges) :], taps)
        return Captured(
            losses=host(losses).astype(np.float64),
            logits=logits.detach(),
            rows=_rows(grads[: len(taps.embedded)], sides, read) if self.embedding else None,
            outer=_outer(taps.head_inputs[0], grads[-1], mask, words) if taps.head_outputs else None,
            inputs=None if vocabulary is None else taps.head_inputs[0],
            pooled=_pooled(taps.hidden[-1], mask) if self.pooled else None,
            calls=calls,
            shares=shares,
        )

    def _cuts(self, output: OutputLayer) -> bool:
        """Whether the output layer may be shown a part: not if gradients of it, or of layers in it, come from hooks."""
        names = {name for block in self.blocks for name in block.modules}
        inside = [] if output.module is None else [*output.module.modules()]
        return output.cuts and not any(self.model.get_submodule(name) is one for name in names for one in inside)

    def _logits(self, inputs: dict[str, Tensor], short: _Short | None) -> Tensor | None:
        """The model's output; None if it fails on few logits."""
        try:
            return logits_of(self.model(**inputs))
        except Exception as error:
            if isinstance(error, torch.OutOfMemoryError | UnbatchedError | ProponentError):
                raise
            if short is None:
                n, t = inputs["input_ids"].shape
                raise RunError(
                    f"{type(self.model).__name__} fails on {n} texts of {t} tokens ({first_line(error)}): check that "
                    "transformers itself runs this model on such texts"
                ) from error
            short.output.refuse()  # any other fault shows itself again when the pass is made whole
            return None

    @contextmanager
    def _hooks(
        self,
        taps: _ModelHooks,
        layers: LayerHooks,
        sides: Sequence[_Side],
        short: _Short | None,
        shape: tuple[int, int],
    ) -> Generator[None]:
        modules = dict.fromkeys(one.lookup.module for one in sides)
        handles: list[Any] = [one.register_forward_hook(taps.cut_embedding) for one in modules]
        if short is not None:
            handles.append(short.output.shorten(*shape))
        elif self.head:
            vocabulary = vocabulary_head(self.model)
            handles.append(
                classifier_head(self.model).register_forward_hook(taps.cut_head)
                if vocabulary is None
                else vocabulary.register_forward_hook(taps.see_head)
            )
        if self.pooled:
            handles += [one.register_forward_hook(taps.see_hidden) for one in _bodies(self.model)]
        handles += layers.hook()
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _backward(self, total: Tensor, leaves: Sequence[Tensor | GradientEdge], *, headed: bool) -> list[Tensor | None]:
        """Gradients of the leaves, a classifier's head last; None for a call that does not affect the loss."""
        if not leaves:
            return []
        # torch annotates plain tensors, but gives None for a leaf without a path to the loss.
        sources = cast("Sequence[Tensor]", leaves)  # these may also be edges of the graph
        grads = cast("tuple[Tensor | None, ...]", torch.autograd.grad(total, sources, allow_unused=True))
        if all(grad is None for grad in grads) or (headed and grads[-1] is None):
            raise RunError(
                f"the loss of {type(self.model).__name__} does not depend on the captured layer: no gradient can be "
                "computed there"
            )
        return list(grads)

    def _zeros(self, grads: Sequence[Tensor | None], taps: _ModelHooks) -> list[Tensor]:
        """Replace missing gradients by zeros: the loss does not depend on those embedding calls."""
        leaves = taps.embedded + taps.head_outputs
        return [torch.zeros_like(leaf) if grad is None else grad for leaf, grad in zip(leaves, grads, strict=True)]

    def _sides(
        self,
        inputs: dict[str, Tensor],
        words: Int[np.ndarray, "n t"],
        decoder: tuple[Bool[Tensor, "n u"], Int[np.ndarray, "n u"]] | None,
    ) -> list[_Side]:
        """The texts that the model looks up, each with its module."""
        found = lookups(self.model, decoding=decoder is not None)
        sides = [_Side(found[0], inputs["input_ids"], inputs["attention_mask"].bool(), words)]
        if decoder is not None:
            ids, (mask_of, words_of) = inputs["decoder_input_ids"], decoder
            # The start token is often the padding token, whose row is never trained if the table has a padding index.
            blank = found[1].module.padding_idx
            sides.append(_Side(found[1], ids, mask_of if blank is None else mask_of & (ids != blank), words_of))
        return sides

    def _read(self, taps: _ModelHooks, sides: Sequence[_Side]) -> list[int]:
        """The side that each embedding call looked up."""
        name = type(self.model).__name__
        if sides and not taps.embedded:
            raise RunError(f"{name} never called its input embedding: proponent cannot capture its gradient")
        read: list[int] = []
        for module, ids in taps.looked_up:
            own = [at for at, one in enumerate(sides) if one.lookup.module is module]
            fits = (at for at in own if torch.equal(sides[at].ids, beside(ids, sides[at].ids)))
            read.append(next(fits, -1))
        if -1 in read or set(read) != set(range(len(sides))):
            raise RunError(
                f"{name} embeds other tokens than its input (it shifts, truncates or pads the input): proponent "
                "cannot assign gradients to tokens"
            )
        return read

    def _check_head(
        self, taps: _ModelHooks, logits: Tensor, vocabulary: nn.Linear | None, tail: Tail | None = None
    ) -> None:
        """Require one call of the head; a vocabulary head must return the logits, which determine its gradient."""
        name = type(self.model).__name__
        if len(taps.head_inputs) != 1:
            raise RunError(
                f"{name} called its last linear layer {len(taps.head_inputs)} times: proponent supports only one call"
            )
        if vocabulary is None:
            given = taps.head_outputs[0].detach()
            wanted = beside(logits.detach(), given)
            pooled_later = given.dim() > wanted.dim()
            gap = (given - (wanted[:, None] if pooled_later else wanted)).nan_to_num().abs().amax(-1)
            if float((gap.amin(1) if pooled_later else gap).max()) > 1e-4:
                raise RunError(
                    f"the last linear layer of {name} does not compute the logits: proponent cannot capture its "
                    "gradient"
                )
            return
        if tail is not None:
            whole = tail.plain and tail.columns == len(vocabulary.weight)
        else:
            whole = gives_logits(self.model, vocabulary, taps.head_inputs[0], logits)
        if not whole:
            raise RunError(
                f"{name} scales, caps or cuts the output of its vocabulary head: proponent cannot compute the "
                "gradient of that head; use path 'input'"
            )


def head_outer(
    inputs: Float[Tensor, "n t d"],
    target: Int[Tensor, "n t"],
    weight: Float[Tensor, "n t"],
    words: Int[np.ndarray, "n t"],
) -> HeadOuter:
    """Store a vocabulary head's gradient in factors, at the positions with weight in the loss."""
    target, weight = beside(target, inputs), beside(weight, inputs)
    there = weight.nan_to_num() != 0
    kept, a, targets, weights = hosts([there, inputs[there], target[there], weight[there].float()])
    return HeadOuter(_indptr(kept), words[kept], a, targets, weights)


def head_table(model: nn.Module) -> VocabularyHead:
    """Copy the vocabulary head's table."""
    head = vocabulary_head(model)
    if head is None:
        raise RunError(f"{type(model).__name__} has no linear vocabulary head: use path 'input'")
    bias = head_bias(model, head)
    return VocabularyHead(host(head.weight).copy(), None if bias is None else host(bias).copy())


def _rows(grads: list[Tensor], sides: Sequence[_Side], read: Sequence[int]) -> Rows:
    """Rows of every side; within an example, the sides follow one another."""
    totals: list[Tensor] = []
    home = sides[0].ids
    for at, one in enumerate(sides):
        own = [grad for grad, side in zip(grads, read, strict=True) if side == at]
        total = beside(torch.stack(own).sum(0) if len(own) > 1 else own[0], home)
        scale = embedding_scale(one.lookup.module)
        totals.append(total if scale == 1.0 else total * scale)
    if len(sides) == 1:
        mask, ids, words, total = sides[0].mask, sides[0].ids, sides[0].words, totals[0]
    else:
        mask = torch.cat([one.mask for one in sides], 1)
        ids = torch.cat([one.ids + one.lookup.first for one in sides], 1)
        words, total = np.concatenate([one.words for one in sides], axis=1), torch.cat(totals, 1)
    kept, tokens, rows = hosts([mask, ids[mask], total[mask]])
    return Rows(_indptr(kept), tokens, words[kept], rows)


def _outer(
    a: Float[Tensor, "*n i"], g: Float[Tensor, "*n o"], mask: Bool[Tensor, "n t"], words: Int[np.ndarray, "n t"]
) -> Outer:
    if a.dim() == 2:  # one pooled vector per example: it belongs to no single word
        return Outer(np.arange(len(a) + 1), np.full(len(a), -1), *hosts([a, g]))
    there = beside(mask, g) & (g != 0).any(-1)
    kept, left, right = hosts([there, a[there], g[there]])
    return Outer(_indptr(kept), words[kept], left, right)


def _indptr(kept: Bool[np.ndarray, "n t"]) -> Int[np.ndarray, " m"]:
    return np.concatenate([[0], np.cumsum(kept.sum(1))])


def _pooled(hidden: Float[Tensor, "n u d"], mask: Bool[Tensor, "n t"]) -> Float[np.ndarray, "n d"]:
    if hidden.shape[1] != mask.shape[1]:  # a model that shortens its texts (Funnel): its positions are no tokens
        return host(hidden.mean(1))
    weight = beside(mask, hidden).float()[:, :, None]
    return host((hidden * weight).sum(1) / weight.sum(1).clamp(min=1))


def _bodies(model: nn.Module) -> list[nn.Module]:
    """Modules whose output is the last hidden state of the text, the outermost last; for an encoder-decoder, one."""
    inner = inner_model(model)
    if getattr(inner.config, "is_encoder_decoder", False) and vocabulary_head(inner) is not None:
        return [cast("nn.Module", inner.get_encoder())]
    body = cast("nn.Module", inner.base_model)  # some heads call a model inside it (OPT's decoder)
    return [*(one for one in body.children() if hasattr(one, "config")), body]
