"""The slow truth, to be read in one go: one example at a time, autograd on whole matrices, plain sums.

Nothing here uses the library's forms, capture, search or store.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

Place = Literal["input", "output"]


@dataclass(frozen=True)
class Text:
    """One example as plain numbers.

    Attributes:
        ids: token ids, without padding.
        label: class number (classification).
        against: class number whose loss is subtracted.
        counted: positions whose token is predicted (language model); None counts all but the first.
        types: segment of each token.
    """

    ids: Sequence[int]
    label: int | None = None
    against: int | None = None
    counted: Sequence[bool] | None = None
    types: Sequence[int] | None = None


def loss(logits: Tensor, text: Text, reduction: str = "mean") -> Tensor:
    """Loss of one example from its logits: [1 l] or [1 t v]."""
    if text.label is not None:
        value = -functional.log_softmax(logits[0], -1)[text.label]
        return value if text.against is None else value + functional.log_softmax(logits[0], -1)[text.against]
    counted = [True] * len(text.ids) if text.counted is None else text.counted
    places = [place for place in range(1, len(text.ids)) if counted[place]]
    each = torch.stack([-functional.log_softmax(logits[0, place - 1], -1)[text.ids[place]] for place in places])
    return each.mean() if reduction == "mean" else each.sum()


def weight_names(model: Any) -> dict[Place, str]:
    """Names of the embedding's weight and of the head's, also where the two are one tensor."""
    modules: dict[Place, Any] = {"input": model.get_input_embeddings(), "output": model.get_output_embeddings()}
    return {
        place: f"{name}.weight"
        for place, wanted in modules.items()
        for name, one in model.named_modules()
        if one is wanted
    }


def table_gradient(
    model: Any, text: Text, places: tuple[Place, ...] = ("input",), reduction: str = "mean"
) -> np.ndarray:
    """Gradient of one example's loss with respect to the table [v d], where it is used at the given places only."""
    names = weight_names(model)
    table = model.get_parameter(names[places[0]]).detach().clone().requires_grad_()
    inputs = {
        "input_ids": torch.tensor([list(text.ids)]),
        "attention_mask": torch.ones(1, len(text.ids), dtype=torch.int64),
    }
    if text.types is not None:
        inputs["token_type_ids"] = torch.tensor([list(text.types)])
    with torch.enable_grad():
        swapped = {names[place]: table for place in places}
        output = torch.func.functional_call(model, swapped, (), inputs, tie_weights=False)
        (gradient,) = torch.autograd.grad(loss(output.logits, text, reduction), table)
    return gradient.double().numpy()


def layer_gradient(model: Any, text: Text, name: str) -> np.ndarray:
    """Gradient of one example's loss with respect to any one weight."""
    weight = model.get_parameter(name).detach().clone().requires_grad_()
    inputs = {
        "input_ids": torch.tensor([list(text.ids)]),
        "attention_mask": torch.ones(1, len(text.ids), dtype=torch.int64),
    }
    if text.types is not None:
        inputs["token_type_ids"] = torch.tensor([list(text.types)])
    with torch.enable_grad():
        output = torch.func.functional_call(model, {name: weight}, (), inputs, tie_weights=False)
        (gradient,) = torch.autograd.grad(loss(output.logits, text), weight)
    return gradient.double().numpy()


@dataclass(frozen=True)
class Settings:
    """What a TracIn score over embedding rows may do besides summing.

    Attributes:
        top: keep this many tokens of largest gradient norm on both sides.
        dropped: token ids that are left out.
        threshold: let different tokens meet whose embeddings have a cosine above it, matched one to one.
        unit: scale the training side to norm 1 at each checkpoint.
    """

    top: int | None = None
    dropped: tuple[int, ...] = ()
    threshold: float | None = None
    unit: bool = False


def tracin(
    checkpoints: Sequence[tuple[float, Sequence[np.ndarray], Sequence[np.ndarray], np.ndarray | None, np.ndarray]],
    settings: Settings = Settings(),
) -> np.ndarray:
    """TracIn over dense gradients: for every checkpoint, every query, every example, one product.

    Each checkpoint is (weight, gradients of the training set, gradients of the queries, v or None, embedding table);
    v is what the product is divided by the root of. Returns [q n].
    """
    total = 0.0
    for weight, training, queries, v, table in checkpoints:
        part = np.zeros((len(queries), len(training)))
        for row, query in enumerate(queries):
            for column, example in enumerate(training):
                mine, theirs = shrink(example, settings), shrink(query, settings)
                root = 1.0 if v is None else np.sqrt(v)
                norm = np.linalg.norm(mine / root) if settings.unit else 1.0
                if settings.threshold is None:
                    part[row, column] = (mine * theirs / root).sum() / norm
                else:
                    part[row, column] = meet(mine, theirs, table, settings.threshold)
        total = total + weight * part
    return np.asarray(total)


def shrink(gradient: np.ndarray, settings: Settings) -> np.ndarray:
    """Drop tokens, then keep those of largest norm."""
    kept = gradient.copy()
    kept[list(settings.dropped)] = 0.0
    if settings.top is not None:
        order = np.argsort(-np.linalg.norm(kept, axis=1), kind="stable")
        kept[order[settings.top :]] = 0.0
    return kept


def meet(mine: np.ndarray, theirs: np.ndarray, table: np.ndarray, threshold: float) -> float:
    """Best one-to-one matching of the tokens present, by trying all of them; product over the matched pairs."""
    left, right = (np.flatnonzero(np.abs(one).sum(1)).tolist() for one in (mine, theirs))
    unit = table / np.linalg.norm(table, axis=1, keepdims=True)
    allowed = {(i, j): unit[i] @ unit[j] for i in left for j in right if unit[i] @ unit[j] > threshold or i == j}
    pairs = max(matchings(tuple(allowed)), key=lambda chosen: sum(allowed[pair] for pair in chosen))
    return float(sum(mine[i] @ theirs[j] for i, j in pairs))


def matchings(pairs: tuple[tuple[int, int], ...]) -> list[tuple[tuple[int, int], ...]]:
    """Every set of pairs in which nobody is matched twice."""
    if not pairs:
        return [()]
    (i, j), rest = pairs[0], pairs[1:]
    free = tuple(pair for pair in rest if pair[0] != i and pair[1] != j)
    return matchings(rest) + [((i, j), *one) for one in matchings(free)]
