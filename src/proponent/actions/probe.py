"""Probe a classifier by its labels alone: are its flips holes between the data or faults on it, and who is behind them?

Garcia and others 2021, "Hard-label Manifolds" (arXiv 2103.03325): attacks with few queries that look along the data
give points nearer to it. Only its title could be confirmed; attacks and distances are written from standard formulas.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int

from proponent.actions.hard_label_attacks import ATTACKS, FULL, Attack, HardLabels, Subspace
from proponent.actions.manifolds import ManifoldDistance, manifold_distance, subspace
from proponent.actions.nmtune import Head, fit_head
from proponent.errors import InputError
from proponent.evaluate.intervals import bootstrap, ratio
from proponent.evaluate.report import figure
from proponent.progress import track
from proponent.training.loop import one_thread
from proponent.version import __version__
from proponent.views.comparison import ComparisonReport, FigureTable
from proponent.views.evaluation import Figure, MethodFigures

HEAD_METHODS = ("tracin-last", "grad-cos")
_SHOWN_POINTS, _SHOWN_ROWS = 5, 3
HOLE = 0.5
"""A flip whose change is normal to the data by more than this part is called a hole between the data."""


@dataclass(frozen=True)
class ProbeSettings:
    """How a classifier is probed."""

    budget: int = 500  # labels for one point
    points: int = 40
    seeds: int = 2
    widths: tuple[int, ...] = (8, 16, 32)  # of the subspaces
    method: str = "tracin-last"  # who is behind a flip: products or cosines of gradients at the head
    same_half: bool = False  # measure on the rows that made the subspaces

    def check(self) -> None:
        """Refuse invalid settings."""
        for name in ("budget", "points", "seeds"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}: must be at least 1")
        if not self.widths or min(self.widths) < 1:
            raise InputError("the widths of the subspaces must be at least 1")
        if self.method not in HEAD_METHODS:
            raise InputError(
                f"{self.method}: a flipped point is a vector and has no tokens, so only methods at the head score it: "
                f"choose one of {', '.join(HEAD_METHODS)}"
            )


@dataclass(frozen=True)
class Vectors:
    """Rows as features, with their classes."""

    features: Float[np.ndarray, "n d"]
    labels: Int[np.ndarray, " n"]
    ids: Sequence[str]
    names: Sequence[str]  # of the classes


def probe(rows: Vectors, settings: ProbeSettings = ProbeSettings(), *, quiet: bool = False) -> ComparisonReport:
    """Attack a hard-label head on frozen features along the data, at random and freely, at equal budget.

    Args:
        rows: features of labelled rows; a head is trained on one half, and the manifold is measured on the other.
        settings: budget, points, seeds, widths.
        quiet: no progress on stderr.

    Returns:
        Length and normal part of the changes that flip a label, by variant; the training rows behind some of them.

    Raises:
        InputError: too few rows, one class, a method that needs tokens, a subspace wider than the features.

    Source:
        Garcia and others 2021 (arXiv 2103.03325), as far as known; the parts of a change as in arXiv 2203.13277.
    """
    settings.check()
    if len(np.unique(rows.labels)) < 2:
        raise InputError("all rows have one class: there is nothing to flip to")
    classes = len(np.unique(rows.labels))
    if 2 * classes > len(rows.labels):
        raise InputError(
            f"{len(rows.labels)} rows have {classes} different labels: these are values, not classes, and the probe is "
            "for classifiers: name another column with --label-column"
        )
    if not np.isfinite(rows.features).all():
        raise InputError("some features are not finite: the encoder gave NaN or infinity")
    order = np.random.default_rng(0).permutation(len(rows.labels))
    fitted, measured = np.sort(order[::2]), order[1::2]  # in random order: files are often sorted by class
    with one_thread():
        head = fit_head(rows.features[fitted], rows.labels[fitted], "MLP").eval()
        found = _attacks(rows, settings, hard_labels(head), fitted, measured, quiet)
        behind = _behind(rows, settings, head, fitted, found)
    return _report(rows, settings, found, behind)


def hard_labels(head: Head) -> HardLabels:
    """The labels of a head."""

    def ask(points: Float[np.ndarray, "b d"]) -> Int[np.ndarray, " b"]:
        with torch.inference_mode():
            return head(torch.as_tensor(points, dtype=torch.float32)).argmax(1).numpy()

    return ask


@dataclass(frozen=True)
class _Flip:
    """One attack on one point."""

    origin: int  # row
    attack: Attack
    distance: ManifoldDistance


_Found = dict[tuple[str, str], list[_Flip]]
"""Flips by attack and variant; the same points and starts in the same order."""


def _attacks(
    rows: Vectors,
    settings: ProbeSettings,
    head: HardLabels,
    fitted: Int[np.ndarray, " m"],
    measured: Int[np.ndarray, " k"],
    quiet: bool,
) -> _Found:
    """Attack every point by every variant, from the same start."""
    base = rows.features[fitted]
    said = head(rows.features)
    right = measured[said[measured] == rows.labels[measured]][: settings.points]
    if not len(right):
        raise InputError("the head predicts no held-out row rightly: there is nothing to attack")
    seeds = range(settings.seeds)
    variants: dict[str, list[Subspace]] = {"full space": [FULL for _ in seeds]}
    for width in settings.widths:
        principal = subspace(base, "pca", width)
        variants[f"data, {width} directions"] = [principal for _ in seeds]
        variants[f"random, {width} directions"] = [subspace(base, "random", width, seed) for seed in seeds]
    jobs = [
        (attack, name, seed, int(row)) for attack in ATTACKS for name in variants for seed in seeds for row in right
    ]
    found: _Found = {}
    for attack, name, seed, row in track(jobs, total=len(jobs), label="probing", unit="attacks", quiet=quiet):
        origin = rows.features[row]
        others = fitted[said[fitted] != said[row]]
        if not len(others):
            raise InputError("the head predicts one class for all rows: there is nothing to flip to")
        start = rows.features[others[np.linalg.norm(rows.features[others] - origin, axis=1).argmin()]]
        made = ATTACKS[attack](
            head, origin, start, variants[name][seed], budget=settings.budget, seed=1000 * seed + row
        )
        data = base if settings.same_half else rows.features[measured[measured != row]]  # without the point itself
        distance = manifold_distance(data, origin, made.point)
        found.setdefault((attack, name), []).append(_Flip(row, made, distance))
    return found


def _behind(
    rows: Vectors, settings: ProbeSettings, head: Head, fitted: Int[np.ndarray, " m"], found: _Found
) -> FigureTable:
    """The training rows that push some flipped points to their new label, by gradients at the head's last layer."""
    flips = next(iter(found.values()))[:_SHOWN_POINTS]
    points = np.stack([one.attack.point for one in flips])
    new = hard_labels(head)(points)
    with torch.inference_mode():
        train = _last_layer(head, rows.features[fitted], rows.labels[fitted])
        asked = _last_layer(head, points, new)
    scores = (asked[0] @ train[0].T) * (asked[1] @ train[1].T)
    if settings.method == "grad-cos":
        sizes = [np.linalg.norm(one[0], axis=1) * np.linalg.norm(one[1], axis=1) for one in (asked, train)]
        scores = scores / np.maximum(sizes[0][:, None] * sizes[1][None], 1e-30)
    made: list[MethodFigures] = []
    for flip, label, own in zip(flips, new, scores, strict=True):
        kind = "a hole between the data" if flip.distance.ratio > HOLE else "a fault on the data"
        for at in np.argsort(-own, kind="stable")[:_SHOWN_ROWS]:
            row = int(fitted[at])
            said = f"{rows.ids[flip.origin]} to {rows.names[label]} ({kind})"
            name = f"{said}: {rows.ids[row]}, {rows.names[rows.labels[row]]}"
            made.append(MethodFigures(name, False, (Figure("score", float(own[at])),)))
    return FigureTable(
        f"Training rows behind flips, by {settings.method} at the head", "flip: training row", ("score",), tuple(made)
    )


def _last_layer(
    head: Head, features: Float[np.ndarray, "n d"], labels: Int[np.ndarray, " n"]
) -> tuple[Float[np.ndarray, "n l"], Float[np.ndarray, "n d1"]]:
    """Factors of the loss's gradient by the last layer: error of the outputs, and inputs with a one for the bias."""
    inside = head.features(torch.as_tensor(features, dtype=torch.float32))
    error = torch.softmax(head.linear(inside), 1).detach()
    error[torch.arange(len(labels)), torch.as_tensor(labels)] -= 1.0
    inputs = np.concatenate([inside.detach().double().numpy(), np.ones((len(labels), 1))], 1)
    return error.detach().double().numpy(), inputs


_COLUMNS = ("length", "normal part", "ratio", "to the nearest row", "ratio over the full space's")


def _report(rows: Vectors, settings: ProbeSettings, found: _Found, behind: FigureTable) -> ComparisonReport:
    """The page."""
    seeds = settings.seeds
    tables = {
        attack: tuple(_row(attack, name, flips, found, seeds) for (one, name), flips in found.items() if one == attack)
        for attack in ATTACKS
    }
    first, *rest = ATTACKS
    others = [FigureTable(f"The same by {name}", "variant", _COLUMNS, tables[name]) for name in rest]
    flips = next(iter(found.values()))
    notes = [
        "random subspaces and the full space are controls; all variants start at the same point, with equal budgets"
    ]
    if settings.same_half:
        notes.append("distances are measured on the rows that made the subspaces: small ratios hold by construction")
    return ComparisonReport(
        metric="probe",
        unit="variant",
        title="Flips of a hard-label head",
        said=f"{first}: length of the change that flips the label, its part normal to the held-out data, and the "
        "distance of its end to the nearest row",
        columns=_COLUMNS,
        rows=tables[first],
        others=(*others, behind),
        facts=(
            ("points", f"{len(flips) // settings.seeds} x {settings.seeds} seeds"),
            ("labels asked for a point", f"at most {settings.budget}"),
            ("features", f"{rows.features.shape[1]} of {len(rows.labels):,} rows"),
        ),
        notes=tuple(notes),
        version=__version__,
    )


def _by_point(values: Sequence[float], seeds: int) -> Float[np.ndarray, " p"]:
    """Means over the seeds of each point: attacks on one point are no independent measurements."""
    return np.asarray(values).reshape(seeds, -1).mean(0)


def _row(attack: str, name: str, flips: Sequence[_Flip], found: _Found, seeds: int) -> MethodFigures:
    """Means over points, each a mean over seeds, with the ratio to the full space."""
    known = [one.distance for one in flips]
    values = {
        "length": _by_point([one.length for one in known], seeds),
        "normal part": _by_point([one.normal for one in known], seeds),
        "ratio": _by_point([one.ratio for one in known], seeds),
        "to the nearest row": _by_point([one.nearest for one in known], seeds),
    }
    figures = [figure(what, bootstrap(each)) for what, each in values.items()]
    full = _by_point([one.distance.ratio for one in found[(attack, "full space")]], seeds)
    compared = None if name == "full space" else ratio(values["ratio"], full)
    last = Figure(_COLUMNS[-1], None) if compared is None else figure(_COLUMNS[-1], compared)
    return MethodFigures(name, not name.startswith("data"), (*figures, last))
