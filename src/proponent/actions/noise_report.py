"""Noise in pre-training: the spectrum of the features and the accuracy of every head, by the level of the noise.

Chen et al. 2024 (arXiv 2309.17002) find that noise raises SVE and LSVR, that it hurts out of domain, and that NMTune
repairs part of it. The page says of each claim whether it holds on the encoders at hand.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from proponent.actions.nmtune import WEIGHTS, Form, HeadSettings, Kind, Labelled, Right, capped, head_accuracies
from proponent.actions.spectrum import spectrum
from proponent.errors import InputError
from proponent.evaluate import Estimate, bootstrap, paired, spearman
from proponent.evaluate.report import figure, report, verdict
from proponent.views import EvaluationReport, Figure, MethodFigures
from proponent.views.evaluation import Band

COMPARED: tuple[Kind, ...] = ("NMTune", "MLP", "linear probe", "linear probe, first directions")
"""Heads of the report."""

_SETTINGS = HeadSettings()

Level = tuple[Labelled, Mapping[str, Labelled]]
"""Features of the training set, and of the test sets by name, of one encoder."""


@dataclass(frozen=True)
class NoiseClaims:
    """What the papers claim, measured."""

    sve: float  # rank correlation of the level and SVE; 0 if SVE is constant
    lsvr: float
    fall: Estimate  # linear probe, out of domain: most noise minus least
    repair: Estimate  # NMTune minus MLP, out of domain, over all levels
    kept: Estimate  # the same in domain
    signs: int  # levels at which NMTune beats the MLP out of domain


Sides = dict[tuple[float, Kind, str], Float[np.ndarray, " m"]]
"""For each level, head and side, the share of the seeds that predict each row of its test sets rightly."""

IN, OUT = "in domain", "out of domain"


def pooled_sides(right: Right, levels: Sequence[float], inside: Sequence[str]) -> Sides:
    """Pool the test sets in domain and those out of domain; the encoders of `right` are named by `level_name`."""
    made: Sides = {}
    for level in levels:
        for kind in COMPARED:
            each = right[level_name(level), kind]
            for side in (IN, OUT):
                made[level, kind, side] = np.concatenate(
                    [one for name, one in each.items() if (name in inside) == (side == IN)]
                )
    return made


def noise_claims(numbers: Mapping[float, tuple[float, float]], sides: Sides) -> NoiseClaims:
    """Measure the claims from SVE and LSVR of each level, and the heads."""
    noise = sorted(numbers)
    order = np.repeat(np.asarray(noise)[:, None], 2, axis=1)
    sve, lsvr = spearman(order, np.asarray([numbers[level] for level in noise])).tolist()
    gains = {side: [sides[level, "NMTune", side] - sides[level, "MLP", side] for level in noise] for side in (IN, OUT)}
    return NoiseClaims(
        sve,
        lsvr,
        paired(sides[noise[-1], "linear probe", OUT], sides[noise[0], "linear probe", OUT]),
        bootstrap(np.mean(gains[OUT], axis=0)),
        bootstrap(np.mean(gains[IN], axis=0)),
        sum(float(one.mean()) > 0 for one in gains[OUT]),
    )


def noise_report(
    levels: Mapping[float, Level],
    inside: Sequence[str],
    *,
    form: Form = "paper",
    settings: HeadSettings = _SETTINGS,
    seeds: int = 3,
    quiet: bool = False,
) -> EvaluationReport:
    """Compare encoders that were pre-trained with more and more noise.

    Args:
        levels: for each share of noise in the pre-training labels, the features of that encoder: of the training set
            and of the test sets, which are the same for all levels.
        inside: names of the test sets in domain; the others are out of domain.
        form: see `nmtune.fit_head`.
        settings: see `nmtune.fit_head`.
        seeds: trainings of each head.
        quiet: no progress on stderr.

    Returns:
        One row for each level and head: accuracy in and out of domain with intervals over rows, SVE and LSVR; a curve
        for each head; the claims of the papers with their figures.

    Raises:
        InputError: fewer than two levels, no test set in domain or none out of domain, or see `nmtune.fit_head`.
    """
    first, tests = next(iter(levels.values()))
    _check(levels, inside, tests)
    noise = sorted(levels)
    named = {level_name(level): levels[level] for level in noise}
    right = head_accuracies(named, kinds=COMPARED, form=form, settings=settings, seeds=seeds, quiet=quiet)
    sides = pooled_sides(right, noise, inside)
    shapes = {level: spectrum(levels[level][0].features) for level in noise}
    rows: list[MethodFigures] = []
    for level, shape in shapes.items():
        for kind in COMPARED:
            figures = [figure(side, bootstrap(sides[level, kind, side])) for side in (IN, OUT)]
            figures += [Figure("SVE", shape.sve), Figure("LSVR", shape.lsvr)]
            gap = paired(sides[level, kind, OUT], sides[level, "MLP", OUT])
            judged = verdict(gap, f"MLP, {OUT}") if kind == "NMTune" else ""
            rows.append(MethodFigures(f"{level_name(level)}: {kind}", kind != "NMTune", tuple(figures), judged))
    outside = ", ".join(name for name in tests if name not in inside)
    return report(
        "noise",
        "Noise in the labels of pre-training",
        f"Accuracy of heads on {len(first.labels):,} rows of frozen features, mean of {seeds} seeds; in domain: "
        f"{', '.join(inside)}; out of domain: {outside}.",
        (IN, OUT, "SVE", "LSVR"),
        rows,
        facts=(
            *_said(noise_claims({level: (one.sve, one.lsvr) for level, one in shapes.items()}, sides), len(levels)),
            ("form of NMTune", f"{form}: {WEIGHTS[form]}"),
            ("centring of SVE and LSVR", "none"),
        ),
        notes=capped(first.features.shape[1], settings),
        curves=[_curve(kind, noise, sides) for kind in COMPARED],
        x_name="noise in pre-training, %",
        y_name=f"accuracy {OUT}",
    )


def level_name(level: float) -> str:
    """A level of noise in words."""
    return f"{100 * level:g}% noise"


def _curve(kind: Kind, noise: Sequence[float], sides: Sides) -> Band:
    found = [bootstrap(sides[level, kind, OUT]) for level in noise]
    low, high = tuple(one.low for one in found), tuple(one.high for one in found)
    return Band(kind, tuple(100 * level for level in noise), tuple(one.value for one in found), low, high)


def _said(claims: NoiseClaims, levels: int) -> list[tuple[str, str]]:
    """The claims, each with its figure."""
    return [
        ("rank correlation of noise with SVE and LSVR", f"{claims.sve:.2f} and {claims.lsvr:.2f}"),
        ("linear probe out of domain, most noise minus least", str(claims.fall)),
        ("NMTune minus MLP, out of domain", f"{claims.repair}; above 0 at {claims.signs} of {levels} levels"),
        ("NMTune minus MLP, in domain", str(claims.kept)),
    ]


def _check(levels: Mapping[float, Level], inside: Sequence[str], tests: Mapping[str, Labelled]) -> None:
    if len(levels) < 2:
        raise InputError("a report of noise needs at least two encoders, of different levels of noise")
    for level in levels:
        if not 0 <= level <= 1:
            raise InputError(f"a level of noise is {level:g}: must be from 0 to 1")
    lacking = [name for name in inside if name not in tests]
    if lacking or not inside or len(inside) == len(tests):
        raise InputError(
            f"test sets are {', '.join(tests)}, in domain {', '.join(inside) or 'none'}: name at least one in domain "
            "and leave at least one out of domain"
        )
