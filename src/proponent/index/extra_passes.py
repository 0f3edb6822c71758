"""Extra passes over the training data: refit, second moments, EK-FAC factors, query gradients."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from proponent.curvature import fitted_head
from proponent.data import Examples
from proponent.errors import InputError, MismatchError
from proponent.gradients.layer_hooks import Call
from proponent.gradients.layer_rules import Block, OneHot
from proponent.index.gradient_computer import GradientComputer
from proponent.index.planning import batches
from proponent.index.queries import check_queries, labels_of, named
from proponent.index.second_moments import CheckpointMoments
from proponent.models import Checkpoint, Encoded, SampledLabels
from proponent.recipe import Recipe

Stream = Callable[[], Iterator[tuple[Sequence[Encoded], Sequence[int]]]]
"""Reads the training set in batches of encoded examples and their classes."""

Bases = Mapping[str, tuple[Float[np.ndarray, "o o"], Float[np.ndarray, "i i"]]]
"""Eigenvectors of both sides of every layer."""


def refitted(work: GradientComputer, stream: Stream, classes: int, penalty: float) -> Float[np.ndarray, "l i"]:
    """Fit the last layer anew on the training set's features."""
    layered = work.layered
    assert layered is not None
    if [block.o for block in layered.choice.blocks] != [classes]:
        raise InputError(f"{work.recipe.name} fits the last layer anew: its layers must be head, without biases")
    name = layered.choice.blocks[0].name
    inputs: list[np.ndarray] = []
    labels: list[int] = []
    for encoded, numbers in stream():
        for captured, _ in work.calls(encoded, numbers):
            assert captured.calls is not None
            (call,) = captured.calls[name]
            assert not isinstance(call.left, OneHot)
            place = call.left.abs().sum(-1).argmax(1)  # a decoder's head reads every position; one of them counts
            inputs.append(call.right[torch.arange(len(place)), place].double().numpy())
        labels += numbers
    return fitted_head(np.concatenate(inputs), np.asarray(labels, dtype=np.int64), classes, penalty).astype(np.float32)


def roots(
    work: GradientComputer, stream: Stream, found: CheckpointMoments, checkpoint: Checkpoint
) -> dict[str, np.ndarray]:
    """What gradients of layers are multiplied with before they are projected: 1 / sqrt(v + epsilon), by layer."""
    assert work.layered is not None
    blocks = work.layered.choice.blocks
    v = _estimated(work, stream) if found.all is None else _recorded(work.model, blocks, found.all(), checkpoint)
    epsilon = np.float32(work.recipe.epsilon)
    return {f"root.{at}": (1.0 / np.sqrt(v[one.name] + epsilon)).astype(np.float32) for at, one in enumerate(blocks)}


def _estimated(work: GradientComputer, stream: Stream) -> dict[str, np.ndarray]:
    """Mean squares of the examples' gradients."""
    assert work.layered is not None
    blocks = work.layered.choice.blocks
    total = {block.name: torch.zeros(block.o, block.i, dtype=torch.float64) for block in blocks}
    seen = 0
    for encoded, labels in stream():
        for captured, count in work.calls(encoded, labels):
            seen += count
            for block in blocks:
                whole = _whole((captured.calls or {}).get(block.name, ()), count)
                if whole is not None:
                    total[block.name] += whole.nan_to_num(0.0, 0.0, 0.0).double().pow(2).sum(0)
    return {name: (value / max(seen, 1)).numpy() for name, value in total.items()}


def _whole(calls: Sequence[Call], count: int) -> Tensor | None:
    parts = [
        (one.left.full() if isinstance(one.left, OneHot) else one.left).transpose(1, 2) @ one.right for one in calls
    ]
    return torch.stack(parts).sum(0).view(count, *parts[0].shape[1:]) if parts else None


def _recorded(
    model: nn.Module, blocks: Sequence[Block], every: dict[str, np.ndarray], checkpoint: Checkpoint
) -> dict[str, np.ndarray]:
    made: dict[str, np.ndarray] = {}
    for block in blocks:
        names = [f"{module}.{block.part}" for module in block.modules]
        held = [every[name] for name in names if name in every]
        if not held:
            raise InputError(
                f"{checkpoint.path} recorded no second moment of {names[0]}: train with "
                'proponent.Recorder(moments="all"), or choose --second-moment estimate'
            )
        turned = type(model.get_submodule(block.modules[0])).__name__ == "Conv1D" and block.part == "weight"
        value = held[0].T if turned else held[0]
        if value.size != block.size:
            raise MismatchError(
                f"the second moments of {names[0]} in {checkpoint.path} are {list(held[0].shape)} and the layer is "
                f"{[block.o, block.i]}: they belong to another model; choose --second-moment estimate"
            )
        made[block.name] = value.reshape(block.o, block.i)
    return made


def factors(work: GradientComputer, stream: Stream) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Means over positions of g g^T and a a^T, projected like the gradients."""
    assert work.layered is not None
    projection, draws = work.layered.projection, sampled_labels_of(work.recipe)
    sums: dict[str, list[Any]] = {}
    for block in projection.blocks:
        o, i = projection.shapes[block.name]
        sums[block.name] = [torch.zeros(o, o).double(), torch.zeros(i, i).double(), 0]
    for encoded, labels in stream():
        for captured, _ in work.calls(encoded, labels, draws):
            for block in projection.blocks:
                for call in (captured.calls or {}).get(block.name, ()):
                    left, right = projection.factors(block, call)
                    lefts, rights = left.flatten(0, 1), right.flatten(0, 1)
                    signal = rights if isinstance(call.left, OneHot) else lefts  # zero at padding
                    counted = (signal != 0).any(-1) & torch.isfinite(signal).all(-1)
                    lefts, rights = lefts[counted].double(), rights[counted].double()
                    held = sums[block.name]
                    held[0] += lefts.T @ lefts
                    held[1] += rights.T @ rights
                    held[2] += len(lefts)
    return {
        name: (cast("Tensor", one[0]).numpy() / max(one[2], 1), cast("Tensor", one[1]).numpy() / max(one[2], 1))
        for name, one in sums.items()
    }


def squares(work: GradientComputer, stream: Stream, bases: Bases) -> dict[str, Float[np.ndarray, "o i"]]:
    """Mean squares of gradients with drawn labels, in the joint eigenbases of their factors."""
    assert work.layered is not None
    projection, draws = work.layered.projection, sampled_labels_of(work.recipe)
    total = {name: np.zeros((len(left), len(right))) for name, (left, right) in bases.items()}
    seen = 0
    for encoded, labels in stream():
        for captured, count in work.calls(encoded, labels, draws):
            v = work.vectors(captured, count)
            v = v[np.isfinite(v).all(1)].astype(np.float64)
            seen += len(v)
            for name, (left, right) in bases.items():
                shaped = v[:, projection.cuts[name]].reshape(len(v), len(left), len(right))
                total[name] += ((left.T @ shaped @ right) ** 2).sum(0)
    return {name: one / max(seen, 1) for name, one in total.items()}


def sampled_labels_of(recipe: Recipe) -> SampledLabels | None:
    """Which labels a Fisher matrix is made of."""
    return SampledLabels(recipe.fisher_seed) if recipe.fisher == "sampled" else None


def query_vectors(
    work: GradientComputer, last: Callable[[], GradientComputer], queries: Examples, size: int
) -> Float[np.ndarray, "q p"]:
    """Take the queries' gradients as an index takes those of its questions."""
    rows = list(queries)
    check_queries(rows)
    encoded = work.encoder.encode(rows)
    labels, _, _ = labels_of(work if all(one.label is not None for one in rows) else last(), rows, encoded, size)
    lengths = np.asarray([one.length for one in encoded])
    order = np.argsort(lengths, kind="stable")
    found: list[tuple[np.ndarray, np.ndarray]] = []
    for start, stop in batches(lengths[order], 0, len(order), size, equal=work.run.equal_lengths):
        own: list[int] = order[start:stop].tolist()
        passed = work([encoded[row] for row in own], [labels[row] for row in own], asked=True)
        if passed.bad.any():
            where = named(rows, own[int(np.flatnonzero(passed.bad)[0])])
            raise InputError(f"{queries.name}: the loss or gradient of {where} is not finite: leave it out of --eval")
        assert passed.gradient.dense is not None
        found.append((order[start:stop], passed.gradient.dense.v))
    kept = np.zeros((len(rows), found[0][1].shape[1]), dtype=np.float32)
    for places, v in found:
        kept[places] = v
    return kept
