"""Products of gradients with and without a method's random projection, on a sample.

Gradients are never formed: the product of sum_t g_t a_t^T and sum_u h_u b_u^T is sum_tu (g_t . h_u)(a_t . b_u), and
projected the same with projected factors. Tables over the vocabulary enter both sides exactly, as in an index.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from proponent.gradients.computer import GradientComputer, GradientSpec
from proponent.gradients.layer_hooks import Call
from proponent.gradients.layer_rules import Block, OneHot
from proponent.gradients.layer_selection import StorageRule
from proponent.gradients.layer_vectors import chosen_layers
from proponent.gradients.model_parts import is_tied
from proponent.gradients.projection import Projection
from proponent.method import Gradients
from proponent.method import Projection as ProjectionSpec
from proponent.models import Encoded, Encoder, Run
from proponent.models.placement import host

Calls = Mapping[str, Sequence[Call]]

Side = Tensor | OneHot
"""The left factors of one example: [1 s o]."""


@dataclass(frozen=True)
class SampledProducts:
    """Products of some queries with some rows, over all layers of a method."""

    exact: Float[np.ndarray, "q n"]  # without projection
    projected: Mapping[int, Float[np.ndarray, "q n"]]  # by width
    layers: int  # layers that a projection changes at the smallest width


def sampled_products(
    method: Gradients, run: Run, model: nn.Module, encoder: Encoder, examples: Sequence[tuple[Encoded, int]],
    asked: int, widths: Sequence[int],
) -> SampledProducts:  # fmt: skip
    """Multiply the gradients of the first `asked` examples with those of the others.

    Args:
        method: over layers, with a random projection; preconditioners are left out.
        run: the run.
        model: its loaded checkpoint.
        encoder: collates the examples.
        examples: queries, then rows, each with its class.
        asked: the number of queries.
        widths: projection widths to compare.

    Returns:
        Products, or cosines if the method normalizes.
    """
    kept = chosen_layers(method, run, model)
    choice = chosen_layers(
        method, run, model, rows=False, closed_head=False, tables=StorageRule(apart=True, by_place=True)
    )
    spec = GradientSpec(
        rows=False, outer=False, head=False, path="exact", tied=is_tied(model, decoding=run.task.decodes), choice=choice
    )
    computer = GradientComputer(run, model, method, encoder, spec)
    seed = method.projection.seed if isinstance(method.projection, ProjectionSpec) else 0
    layouts = {width: Projection(choice.blocks, width, seed) for width in widths}
    tables = frozenset(block.name for block in choice.blocks if {block.name, *block.modules} & set(kept.exact))
    scored = tuple(block for block in choice.blocks if not {block.name, *block.modules} & set(kept.spared))
    compared = _Compared(scored, layouts, tables)
    queries = [_calls(computer, one) for one in examples[:asked]]
    rows = (_calls(computer, one) for one in examples[asked:])
    columns = [[compared.products(query, row) for query in queries] for row in rows]  # rows pass one at a time
    found = np.asarray(columns, dtype=np.float64).transpose(2, 1, 0)
    if method.scales_train or method.scales_queries:
        sides = [examples[:asked], examples[asked:]]
        own = [[compared.products(one, one) for one in (_calls(computer, each) for each in side)] for side in sides]
        lengths = [np.sqrt(np.maximum(np.asarray(one, dtype=np.float64), 1e-60)).T for one in own]
        found /= lengths[0][:, :, None] * lengths[1][:, None, :]
    layers = sum(
        block.name not in tables and layouts[widths[0]].shapes[block.name] != (block.o, block.i) for block in scored
    )
    return SampledProducts(found[0], dict(zip(widths, found[1:], strict=True)), layers)


def _calls(computer: GradientComputer, one: tuple[Encoded, int]) -> Calls:
    ((captured, _),) = computer.calls(computer.completed([one[0]]), [one[1]])
    return captured.calls or {}


class _Compared:
    """Exact and projected products of single examples."""

    def __init__(self, blocks: Sequence[Block], layouts: Mapping[int, Projection], tables: frozenset[str]) -> None:
        self.blocks, self.layouts, self.tables = blocks, layouts, tables

    def products(self, mine: Calls, theirs: Calls) -> list[float]:
        """The exact product, then one for each width."""
        total = [0.0] * (1 + len(self.layouts))
        for block in self.blocks:
            pair = mine.get(block.name, ()), theirs.get(block.name, ())
            exact = sum(_product((a.left, a.right), (b.left, b.right)) for a in pair[0] for b in pair[1])
            total[0] += exact
            for at, layout in enumerate(self.layouts.values(), 1):
                if block.name in self.tables or layout.shapes[block.name] == (block.o, block.i):
                    total[at] += exact
                    continue
                sides = [[layout.factors(block, call) for call in calls] for calls in pair]
                total[at] += sum(_product(a, b) for a in sides[0] for b in sides[1])
        return total


def _product(one: tuple[Side, Tensor], other: tuple[Side, Tensor]) -> float:
    """Product of two gradients of a single example each, from their factors."""
    with torch.no_grad():
        return float(host((_across(one[0], other[0]) * (one[1][0] @ other[1][0].T)).double().sum()))


def _across(one: Side, other: Side) -> Tensor:
    """Products of left factors, position by position: [s u]."""
    if isinstance(one, OneHot) and isinstance(other, OneHot):
        return (one.ids[0][:, None] == other.ids[0][None, :]).float()
    if isinstance(one, OneHot):
        assert isinstance(other, Tensor)
        return other[0][:, one.ids[0]].T
    if isinstance(other, OneHot):
        return one[0][:, other.ids[0]]
    return one[0] @ other[0].T
