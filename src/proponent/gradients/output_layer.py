"""The layer that makes a language model's logits, and what the model does with its output.

Losses of tokens need the layer's input and a way from there to the logits. A forward pass gives both: the layer is
shown the first position of every text only, and the model's own logits there are compared with the layer's output
under a bias, a scale, a cap, or fewer columns. A model that does anything else with its output is not cut.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from proponent.gradients.model_parts import inner_model, nearly
from proponent.models.placement import beside

_CAPS = re.compile(r"soft_?cap")
"""Names of settings that cap logits, in all models of transformers that have one."""


@dataclass(frozen=True)
class Tail:
    """What a model does with the output of its last layer: bias, columns, scale and cap, in this order."""

    columns: int
    bias: Float[Tensor, " v"] | None = None
    scale: float = 1.0
    cap: float | None = None

    def __call__(self, output: Float[Tensor, "*n v"]) -> Float[Tensor, "*n v"]:
        """Make logits."""
        made = output if self.bias is None else output + self.bias
        made = made[..., : self.columns]
        made = made if self.scale == 1.0 else made * self.scale
        return made if self.cap is None else self.cap * torch.tanh(made / self.cap)

    @property
    def plain(self) -> bool:
        """Whether the layer's output is all there is, but for a bias."""
        return self.scale == 1.0 and self.cap is None

    def gives(self, output: Float[Tensor, "n v"], logits: Float[Tensor, "n v"]) -> bool:
        """Whether these are the logits of a model."""
        made = self(output)
        return made.shape == logits.shape and nearly(made, logits)


class Ends(NamedTuple):
    """Where a pass that was cut goes on."""

    hidden: Float[Tensor, "n u d"]  # the layer's input at all positions, with its graph
    tail: Tail


class OutputLayer:
    """The output layer of one model; how its logits follow is found at the first pass and checked at every pass."""

    def __init__(self, model: nn.Module) -> None:
        found = cast("Any", model).get_output_embeddings()
        self.module: nn.Module | None = found if isinstance(found, nn.Module) else None
        self._model = model
        self._tail: Tail | None = None
        self._cut = self.module is not None
        self._hidden: list[Tensor] = []

    @property
    def notes(self) -> list[str]:
        """What a user should know of this model's memory."""
        if self._cut:
            return []
        name = type(inner_model(self._model)).__name__
        return [
            f"{name} does more with its last layer's output than add a bias, scale or cap it: the logits of all "
            "positions of a text are held at once, which takes more memory and time"
        ]

    @property
    def cuts(self) -> bool:
        """Whether a pass may be cut, as far as is known."""
        return self._cut

    def shorten(self, n: int, u: int) -> Any:
        """Show the layer only the first position of every text during one pass; returns the hook's handle."""
        self._hidden = []
        assert self.module is not None

        def shorten(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...] | None:
            if not inputs or not isinstance(inputs[0], Tensor) or inputs[0].shape[:-1] != (n, u):
                return None
            own = next(module.parameters(), inputs[0])
            hidden = beside(inputs[0], own)  # the layer before it may be on another device
            self._hidden.append(hidden)
            return hidden[:, :1].contiguous(), *inputs[1:]  # one product, not one for each text

        return self.module.register_forward_pre_hook(shorten)

    def refuse(self) -> None:
        """Cut no more passes of this model."""
        self._cut = False

    def read(self, logits: Tensor) -> Ends | None:
        """The layer's input during the last pass and the way to the logits; None if the pass must be made whole."""
        if len(self._hidden) != 1 or logits.dim() != 3 or logits.shape[1] != 1:
            self._cut = False
            return None
        (hidden,) = self._hidden
        with torch.no_grad():
            output = cast("Tensor", cast("Any", self.module)(hidden[:, 0]))
            known = beside(logits[:, 0].detach(), output)
            finite = output.isfinite().all(1) & known.isfinite().all(1)
            output, known = output[finite], known[finite]
            if self._tail is None and len(output):
                self._tail = next((one for one in self._tails(output, known) if one.gives(output, known)), None)
            if self._tail is None or (len(output) and not self._tail.gives(output, known)):
                self._cut = not len(output)
                return None
        return Ends(hidden, self._tail)

    def __call__(self, hidden: Float[Tensor, "m d"]) -> Float[Tensor, "m v"]:
        """Make logits."""
        assert self._tail is not None
        return self._tail(cast("Any", self.module)(hidden))

    def _tails(self, output: Float[Tensor, "n v"], logits: Float[Tensor, "n v"]) -> Iterator[Tail]:
        """Everything that the model may do, simplest first; a scale is that of the logits themselves."""
        inner = inner_model(self._model)
        stored = cast("Tensor | None", getattr(inner, "final_logits_bias", None))
        bias = None if stored is None or not bool(stored.any()) else beside(stored[0], output)
        plain = Tail(logits.shape[-1], bias)
        yield plain
        settings = cast("dict[str, Any]", inner.config.to_dict())
        caps = [
            one for name, one in settings.items() if _CAPS.search(name) and isinstance(one, float | int) and one > 0
        ]
        yield from (replace(plain, cap=float(one)) for one in dict.fromkeys(caps))
        made = plain(output).double()
        squares = float((made * made).sum())
        if squares and made.shape == logits.shape:
            yield replace(plain, scale=float((made * logits.double()).sum()) / squares)
