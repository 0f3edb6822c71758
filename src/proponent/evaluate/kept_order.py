"""Whether a method's random projection keeps the order of its scores, measured on a sample of short texts."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from torch import nn

from proponent.evaluate.lds import spearman
from proponent.gradients.layer_vectors import settled
from proponent.gradients.projection_order import sampled_products
from proponent.method import Gradients, Layers, Method
from proponent.models import Encoder, Run
from proponent.types import Example

SAMPLE, ASKED, LEAST = 40, 8, 20
"""Texts that are compared, those of them that are queries, and the minimum."""

GOOD, WORST = 0.95, 0.8
"""Rank correlations with exact scores: below the first a projection is warned about, below the second it fails."""


@dataclass(frozen=True, slots=True)
class KeptOrder:
    """Rankings of a sample with a projection, compared with exact ones."""

    width: int  # the method's width
    correlations: Float[np.ndarray, " q"]  # rank correlation with exact scores, by query
    wider: dict[int, float]  # the mean correlation at larger widths
    rows: int  # ranked texts
    layers: int  # layers that the projection changes
    curved: bool  # whether a preconditioner follows, which is left out here

    @property
    def mean(self) -> float:
        """The mean correlation."""
        return float(self.correlations.mean())

    @property
    def description(self) -> str:
        """The figures in words."""
        return (
            f"width {self.width}: rank correlation {self.mean:.3f} with exact scores (lowest of "
            f"{len(self.correlations)} queries {float(self.correlations.min()):.3f}, {self.rows} rows, {self.layers} "
            "layers projected)"
        ) + (", before the preconditioner" if self.curved else "")

    @property
    def warning(self) -> str:
        """What is wrong and the way out; empty if the order is kept."""
        if self.mean >= GOOD:
            return ""
        better = next((f"--project {p} ({one:.2f} here)" for p, one in self.wider.items() if one >= GOOD), "")
        way = " or ".join(filter(None, (better, "--project none, which stores gradients in full")))
        return (
            f"the projection to {self.width} reorders the scores: take {way}, or a method that projects nothing "
            "(tracin-last)"
        )


def kept_order(
    run: Run,
    model: nn.Module,
    encoder: Encoder,
    examples: Sequence[Example],
    labels: Sequence[int],
    lengths: Int[np.ndarray, " n"],
    method: Method,
) -> KeptOrder | str:
    """Compare rankings with and without a method's projection; or say why there is nothing to compare."""
    if not isinstance(method, Gradients) or not isinstance(method.gradient, Layers):
        return "this method projects nothing"
    ready = settled(method, run, model)
    assert isinstance(ready, Gradients)
    spec = ready.projection
    if spec is None:
        return "nothing is projected: gradients of this model are stored in full"
    if spec.basis != "random" or spec.width == "auto":
        return "not checked: only random projections are"
    order = [int(row) for row in np.argsort(lengths, kind="stable") if lengths[row] > 1]
    near = order[: max(SAMPLE, len(order) // 2)]  # short texts: the factors of all layers are held
    picked = sorted({near[int(place)] for place in np.linspace(0, len(near) - 1, SAMPLE)}) if near else []
    if len(picked) < LEAST:
        return f"not checked: {len(picked)} texts are too few to rank (at least {LEAST})"
    asked = picked[:: len(picked) // ASKED][:ASKED]
    rows = [*asked, *(row for row in picked if row not in asked)]
    pairs = list(zip(encoder.encode([examples[row] for row in rows]), [labels[row] for row in rows], strict=True))
    widths = [spec.width * factor for factor in (1, 2, 4, 8)]
    found = sampled_products(ready, run, model, encoder, pairs, len(asked), widths)
    usable = np.isfinite(found.exact).all(0)
    each = {p: spearman(found.exact[:, usable].T, one[:, usable].T) for p, one in found.projected.items()}
    wider = {p: float(each[p].mean()) for p in widths[1:]}
    return KeptOrder(
        spec.width, each[spec.width], wider, int(usable.sum()), found.layers, curved=bool(ready.preconditioners)
    )
