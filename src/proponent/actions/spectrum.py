"""Singular values of features: how many directions they use, and how strong the first one is.

Chen et al. 2024 (arXiv 2309.17002): noise in the labels of pre-training raises both numbers. They say nothing about
noise in the labels of the data set at hand, which is found by scores of its rows (`proponent labels`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float

from proponent.errors import InputError
from proponent.evaluate.report import report
from proponent.views import EvaluationReport, Figure, MethodFigures

Centre = Literal["none", "columns"]
CENTRES: dict[Centre, str] = {
    "none": "features as they are: the first direction is mostly their mean",
    "columns": "the mean of each feature is subtracted",
}
"""Rules of centring, in words."""


@dataclass(frozen=True)
class Spectrum:
    """Singular values of features, and the two numbers made of them."""

    values: Float[np.ndarray, " r"]  # largest first
    rows: int
    width: int
    centre: Centre

    @property
    def sve(self) -> float:
        """Singular value entropy, in nats: 0 for one direction, log(r) for r equal ones."""
        shares = self.values / self.values.sum()
        shares = shares[shares > 0]
        return float(-(shares * np.log(shares)).sum()) + 0.0

    @property
    def lsvr(self) -> float:
        """Largest singular value ratio: minus the log of the share of the largest one."""
        return float(-np.log(self.values[0] / self.values.sum())) + 0.0

    @property
    def notes(self) -> tuple[str, ...]:
        """What limits the figures."""
        if self.rows > self.width:
            return ()
        return (f"{self.rows} rows of {self.width} features: the rank is capped by the rows, so use more of them",)


def spectrum(features: Float[np.ndarray, "m d"], centre: Centre = "none") -> Spectrum:
    """Compute the singular values of features, or of gradients.

    Args:
        features: one row per example; compare figures only at equal numbers of rows.
        centre: "none", or "columns" to subtract the mean of each feature.

    Returns:
        The spectrum, with SVE and LSVR in nats.

    Raises:
        InputError: no rows, numbers that are not finite, or features that are all equal to the subtracted mean.

    Source:
        Chen et al. 2024, Understanding and Mitigating the Label Noise in Pre-training on Downstream Tasks
        (arXiv 2309.17002): SVE and LSVR.
    """
    if centre not in CENTRES:
        raise InputError(f"centre is {centre!r}: give one of {', '.join(CENTRES)}")
    wide = np.asarray(features, dtype=np.float64)
    if not len(wide):
        raise InputError("there are no features: the data set is empty")
    bad = np.flatnonzero(~np.isfinite(wide).all(axis=1))
    if len(bad):
        raise InputError(
            f"the features of {len(bad)} rows are not finite, the first is row {bad[0]}: an overflow in the encoder; "
            "leave these rows out, or encode in float32"
        )
    wide = wide - wide.mean(0) if centre == "columns" else wide
    values = np.linalg.svd(wide, compute_uv=False)
    if not values[0] > 0:
        raise InputError("all features are equal after centring: there is no direction to measure")
    return Spectrum(values, len(wide), wide.shape[1], centre)


def spectrum_report(spectra: Sequence[tuple[str, Spectrum]]) -> EvaluationReport:
    """Table of encoders; they are compared at equal numbers of rows."""
    centre = spectra[0][1].centre
    rows = [
        MethodFigures(name, False, (Figure("SVE", one.sve), Figure("LSVR", one.lsvr), Figure("rank", _rank(one))))
        for name, one in spectra
    ]
    notes = dict.fromkeys(note for _, one in spectra for note in one.notes)
    return report(
        "spectrum",
        "Singular values of features",
        "SVE is the entropy of the singular values' shares, LSVR minus the log of the largest share, both in nats: "
        "noise in the labels of pre-training raises both.",
        ("SVE", "LSVR", "rank"),
        rows,
        facts=(("rows", f"{spectra[0][1].rows:,}"), ("centring", f"{centre}: {CENTRES[centre]}")),
        notes=(*notes, "noise in the labels of this data set is another question: proponent labels"),
    )


def _rank(one: Spectrum) -> float:
    """Singular values above rounding."""
    return float((one.values > one.values[0] * max(one.rows, one.width) * np.finfo(np.float64).eps).sum())
