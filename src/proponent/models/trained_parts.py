"""Which parameters a training moved, kept with a model; all are frozen here."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, cast

from torch import nn


@dataclass(frozen=True)
class Trained:
    """The parameters that a training moved; all others were frozen."""

    names: frozenset[str]
    embedding: bool  # whether the word embedding is among them
    description: str
    adapter: bool = False  # whether they are an adapter's

    def notes(self, path: str | None) -> list[str]:
        """Lines for an index; `path` is that of the word embedding's gradient, if the index holds it."""
        said = [f"this run is an adapter: {self.description}" if self.adapter else self.description]
        if path is not None and not self.embedding:
            who, layers = ("the adapter", "lora") if self.adapter else ("the training", "all")
            said.append(
                f"{who} did not train the word embedding: the gradient at its output stands for it, and --method "
                f"tracin-layers --layers {layers} scores what was trained"
            )
        return said


def trained_of(model: nn.Module) -> Trained | None:
    """What a training moved; None if nothing was frozen, as far as is known."""
    return getattr(model, "trained_parts", None)


def note_trained(model: nn.Module, trained: Trained) -> None:
    """Keep with a model which of its parameters were trained, since all are frozen here."""
    object.__setattr__(model, "trained_parts", trained)


def free_trained(model: nn.Module, trained: Trained | None) -> nn.Module:
    """Let the trained parameters of a model have gradients again, and no others."""
    for names, parameter in every_parameter(model):
        parameter.requires_grad = trained is None or any(name in trained.names for name in names)
    return model


def trained_names(model: Any, optimizer: Any) -> list[str] | None:
    """Names of the parameters that an optimizer moves; None for all of them, and for adapters, whose files say it."""
    inner = getattr(model, "module", model)
    if hasattr(inner, "peft_config"):
        return None
    held = {id(one) for group in getattr(optimizer, "param_groups", ()) for one in group["params"]}
    named = [(name.replace("_orig_mod.", ""), one) for name, one in inner.named_parameters()]
    known = any(id(one) in held for _, one in named)  # optimizers of sharded models hold other tensors
    names = [name for name, one in named if one.requires_grad and (id(one) in held or not known)]
    return None if len(names) == len(named) else names


def word_table(model: Any) -> nn.Parameter | None:
    """The table of a model's word embedding; None for a module that does not name one."""
    try:
        found = model.get_input_embeddings()
    except (AttributeError, NotImplementedError):  # a module of the user's own
        return None
    weight = getattr(found, "weight", None)
    return weight if isinstance(weight, nn.Parameter) else None


def every_parameter(model: nn.Module) -> Iterable[tuple[list[str], nn.Parameter]]:
    """Every parameter with all its names."""
    found: dict[int, tuple[list[str], nn.Parameter]] = {}
    for name, one in cast("Iterable[tuple[str, nn.Parameter]]", model.named_parameters(remove_duplicate=False)):
        found.setdefault(id(one), ([], one))[0].append(name)
    return found.values()
