"""Hooks on, forms out: per-example gradients from one forward and one backward pass over a padded batch.

The embedding is cut from the graph at its output, so with every parameter frozen the backward pass stops there. The
gradient of the summed loss with respect to that output holds each example's own gradient at its own positions: no
example sees another. This holds in evaluation mode for models without batch statistics.

The hook sees the output of the embedding module. Some modules scale what they look up; the row gradient is then the
scale times the gradient at the output, and a module that does anything but look up and scale is refused.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from whence.errors import RunError
from whence.forms import Head, HeadOuter, Outer, Rows

Loss = Callable[[Tensor], Float[Tensor, "n"]]


@dataclass(frozen=True)
class Captured:
    """What one pass over a batch left behind.

    Attributes:
        losses: one per example, in nats.
        logits: the model's output.
        rows: embedding gradients, one row per real token position, in order; None when not asked for.
        outer: gradients of the last linear layer of a classifier; None when not asked for.
        inputs: the vocabulary head's input at every position [n t d]; None when not asked for.
        pooled: mean over real tokens of the last hidden state [n d]; None when not asked for.
    """

    losses: Float[np.ndarray, "n"]
    logits: Tensor
    rows: Rows | None = None
    outer: Outer | None = None
    inputs: Float[Tensor, "n t d"] | None = None
    pooled: Float[np.ndarray, "n d"] | None = None


class _Taps:
    """The tensors that hooks saw during one forward pass; every call of a module is collected."""

    def __init__(self) -> None:
        self.embedded: list[Tensor] = []
        self.head_inputs: list[Tensor] = []
        self.head_outputs: list[Tensor] = []
        self.hidden: list[Tensor] = []

    def cut_embedding(self, _module: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
        leaf = output.detach().requires_grad_()
        self.embedded.append(leaf)
        return leaf

    def see_head(self, _module: nn.Module, inputs: tuple[Tensor, ...], _output: Tensor) -> None:
        self.head_inputs.append(inputs[0].detach())

    def cut_head(self, _module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        self.head_inputs.append(inputs[0].detach())
        leaf = output.detach().requires_grad_()
        self.head_outputs.append(leaf)
        return leaf

    def see_hidden(self, _module: nn.Module, _inputs: Any, output: Any) -> None:
        state = output[0] if isinstance(output, tuple) else output.last_hidden_state
        self.hidden.append(cast("Tensor", state).detach())


@dataclass(frozen=True)
class Capture:
    """Per-example gradients of one loaded model.

    Attributes:
        model: evaluation mode, every parameter frozen.
        embedding: capture the word embedding's rows.
        head: capture the last linear layer: an Outer of a classifier, the input of a vocabulary head.
        pooled: also keep the mean of the last hidden state.
    """

    model: nn.Module
    embedding: bool = True
    head: bool = False
    pooled: bool = False

    def __call__(self, inputs: dict[str, Tensor], loss: Loss, words: Int[np.ndarray, "n t"]) -> Captured:
        """Run one batch forward and backward.

        Args:
            inputs: what the model's forward takes; "input_ids" [n t] and "attention_mask" [n t] among them.
            loss: logits to one loss per example.
            words: word of each token, -1 for special tokens.

        Returns:
            What was asked for.

        Raises:
            RunError: the model's embedding is never called, or does more than look up and scale.
        """
        taps = _Taps()
        scale = embedding_scale(input_embedding(self.model)) if self.embedding else 1.0
        mask = inputs["attention_mask"].bool()
        with torch.enable_grad(), self._hooks(taps):
            logits = cast("Any", self.model(**inputs)).logits
            losses = loss(logits)
            finite = torch.where(torch.isfinite(losses), losses, torch.zeros_like(losses))
            leaves = taps.embedded + taps.head_outputs
            grads = torch.autograd.grad(finite.sum(), leaves, allow_unused=True) if leaves else ()
        return Captured(
            losses=losses.detach().double().numpy(),
            logits=logits.detach(),
            rows=self._rows(taps, grads[: len(taps.embedded)], inputs, mask, words, scale) if self.embedding else None,
            outer=_outer(taps, grads[len(taps.embedded) :], mask, words) if taps.head_outputs else None,
            inputs=taps.head_inputs[0] if self.head and not taps.head_outputs else None,
            pooled=_pooled(taps.hidden[0], mask) if self.pooled else None,
        )

    @contextmanager
    def _hooks(self, taps: _Taps) -> Iterator[None]:
        handles: list[Any] = []
        if self.embedding:
            handles.append(input_embedding(self.model).register_forward_hook(taps.cut_embedding))
        if self.head:
            vocabulary = vocabulary_head(self.model)
            handles.append(
                classifier_head(self.model).register_forward_hook(taps.cut_head)
                if vocabulary is None
                else vocabulary.register_forward_hook(taps.see_head)
            )
        if self.pooled:
            handles.append(cast("nn.Module", _inner(self.model).base_model).register_forward_hook(taps.see_hidden))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _rows(
        self,
        taps: _Taps,
        grads: tuple[Tensor | None, ...],
        inputs: dict[str, Tensor],
        mask: Bool[Tensor, "n t"],
        words: Int[np.ndarray, "n t"],
        scale: float,
    ) -> Rows:
        if not taps.embedded:
            raise RunError(
                f"{type(self.model).__name__} never called its input embedding: whence cannot capture its gradient"
            )
        total = sum((grad for grad in grads if grad is not None), start=torch.zeros_like(taps.embedded[0]))
        total = total if scale == 1.0 else total * scale
        indptr = np.concatenate([[0], np.cumsum(mask.sum(1).numpy())])
        kept = mask.numpy()
        return Rows(indptr, inputs["input_ids"].numpy()[kept], words[kept], total[mask].float().numpy())


def head_outer(
    inputs: Float[Tensor, "n t d"],
    target: Int[Tensor, "n t"],
    weight: Float[Tensor, "n t"],
    words: Int[np.ndarray, "n t"],
) -> HeadOuter:
    """Keep a vocabulary head's gradient in factors, at the positions that weigh in the loss.

    Args:
        inputs: the head's input.
        target: the token that each position predicts.
        weight: what each position weighs in the loss.
        words: word of each token; a position stands for the word of the token that it predicts.

    Returns:
        The form of the batch.
    """
    counts = weight.nan_to_num() != 0
    indptr = np.concatenate([[0], np.cumsum(counts.sum(1).numpy())])
    predicted = np.concatenate([words[:, 1:], np.full_like(words[:, :1], -1)], axis=1)
    kept = counts.numpy()
    return HeadOuter(
        indptr, predicted[kept], inputs[counts].float().numpy(), target.numpy()[kept], weight[counts].float().numpy()
    )


def input_embedding(model: nn.Module) -> nn.Embedding:
    """Find the word embedding.

    Args:
        model: a Hugging Face model.

    Returns:
        The module.

    Raises:
        RunError: the model has none, or one that is not a lookup table.
    """
    found = cast("Any", model).get_input_embeddings()
    if not isinstance(found, nn.Embedding):
        raise RunError(
            f"the input embedding of {type(model).__name__} is a {type(found).__name__}, not a lookup table: whence needs token embeddings"
        )
    return found


def vocabulary_head(model: nn.Module) -> nn.Linear | None:
    """Find the vocabulary head of a language model.

    Args:
        model: a Hugging Face model.

    Returns:
        The linear layer, or None for a classifier.
    """
    found = cast("Any", model).get_output_embeddings()
    return found if isinstance(found, nn.Linear) else None


def is_tied(model: nn.Module) -> bool:
    """Say whether the vocabulary head and the word embedding share one table.

    Args:
        model: a Hugging Face model.

    Returns:
        True when they are the same memory.
    """
    head = vocabulary_head(model)
    return head is not None and head.weight.data_ptr() == input_embedding(model).weight.data_ptr()


def head_table(model: nn.Module) -> Head:
    """Copy the vocabulary head's table.

    Args:
        model: a language model.

    Returns:
        Weight and bias in float32.

    Raises:
        RunError: the model has no linear vocabulary head.
    """
    head = vocabulary_head(model)
    if head is None:
        raise RunError(f"{type(model).__name__} has no linear vocabulary head: use path 'input'")
    bias = cast("Tensor | None", head.bias)
    return Head(
        head.weight.detach().float().numpy().copy(), None if bias is None else bias.detach().float().numpy().copy()
    )


def classifier_head(model: nn.Module) -> nn.Linear:
    """Find the last linear layer of a classifier: the one whose outputs are the logits.

    Args:
        model: a Hugging Face classifier.

    Returns:
        The layer.

    Raises:
        RunError: no linear layer has as many outputs as there are labels.
    """
    labels = int(cast("Any", model).config.num_labels)
    found = [module for module in model.modules() if isinstance(module, nn.Linear) and module.out_features == labels]
    if not found:
        raise RunError(
            f"{type(model).__name__} has no linear layer with {labels} outputs: its last layer cannot be captured"
        )
    return found[-1]


def embedding_scale(module: nn.Embedding) -> float:
    """Measure what the embedding module multiplies its rows with.

    Args:
        module: the word embedding.

    Returns:
        The factor; 1.0 for a plain lookup.

    Raises:
        RunError: the module does anything but look up and scale.
    """
    with torch.no_grad():
        probe = torch.unique(torch.linspace(0, module.num_embeddings - 1, 64).long())
        if module.padding_idx is not None:
            probe = probe[probe != module.padding_idx]
        table = module.weight[probe].float()
        output = cast("Tensor", module(probe)).float()
        scale = float((output * table).sum() / (table * table).sum())
        if not torch.allclose(output, scale * table, rtol=1e-3, atol=1e-5 * float(table.abs().max()) * abs(scale)):
            raise RunError(
                f"the input embedding {type(module).__name__} does more than look up and scale: whence cannot take its gradient exactly"
            )
        return 1.0 if abs(scale - 1.0) < 1e-6 else scale


def _outer(
    taps: _Taps, grads: tuple[Tensor | None, ...], mask: Bool[Tensor, "n t"], words: Int[np.ndarray, "n t"]
) -> Outer:
    a, g = taps.head_inputs[0], cast("Tensor", grads[0])
    if a.dim() == 2:  # one pooled vector per example: it belongs to no single word
        return Outer(np.arange(len(a) + 1), np.full(len(a), -1), a.float().numpy(), g.float().numpy())
    counts = mask & (g != 0).any(-1)
    indptr = np.concatenate([[0], np.cumsum(counts.sum(1).numpy())])
    return Outer(indptr, words[counts.numpy()], a[counts].float().numpy(), g[counts].float().numpy())


def _pooled(hidden: Float[Tensor, "n t d"], mask: Bool[Tensor, "n t"]) -> Float[np.ndarray, "n d"]:
    weight = mask.float()[:, :, None]
    return ((hidden * weight).sum(1) / weight.sum(1).clamp(min=1)).float().numpy()


def _inner(model: nn.Module) -> Any:
    """The Hugging Face model inside a PEFT wrapper, or the model itself."""
    wrapped = getattr(model, "get_base_model", None)
    return wrapped() if wrapped is not None else model
