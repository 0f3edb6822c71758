"""Heads on frozen features: linear probe, MLP, and NMTune, which repairs features of noisy pre-training.

Chen et al. 2024 (arXiv 2309.17002). The formula of the paper and that of the authors' code differ: both are here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from proponent.actions.spectrum import spectrum
from proponent.errors import InputError
from proponent.evaluate.intervals import bootstrap, paired
from proponent.evaluate.report import figure, report, verdict
from proponent.progress import track
from proponent.training.descent import descend
from proponent.training.loop import one_thread
from proponent.views import EvaluationReport, Figure, MethodFigures

Form = Literal["paper", "code"]
Kind = Literal["linear probe", "linear probe, first directions", "MLP", "MLP, shuffled labels", "NMTune"]
KINDS: dict[Kind, str] = {
    "NMTune": "MLP with the losses of NMTune",
    "linear probe": "a linear layer",
    "linear probe, first directions": "a linear layer on the principal directions with 90 % of the variance",
    "MLP": "the same layers as NMTune, cross entropy only",
    "MLP, shuffled labels": "the same on labels in another order",
}
"""Heads, in words; all but the first are controls."""


@dataclass(frozen=True)
class Weights:
    """Weights of the losses beside cross entropy."""

    mse: float
    covariance: float
    singular: float
    top: int  # singular values whose share is rewarded

    def __str__(self) -> str:
        largest = "largest" if self.top == 1 else f"{self.top} largest"
        return f"mse {self.mse:g}, covariance {self.covariance:g}, singular values {self.singular:g} ({largest})"


WEIGHTS: dict[Form, Weights] = {"paper": Weights(0.01, 0.01, 0.01, 1), "code": Weights(1.0, 0.04, 0.001, 5)}


@dataclass(frozen=True)
class HeadSettings:
    """Hyper-parameters of a head, as in the authors' code."""

    epochs: int = 30
    batch_size: int = 64
    learning_rate: float = 1e-3
    probe_rate: float = 1e-2  # of a linear probe
    weight_decay: float = 1e-4

    def check(self, rows: int, kind: Kind, form: Form) -> None:
        """Refuse batches that are too small for the losses of NMTune."""
        least = least_rows(kind, form)
        if min(rows, self.batch_size) < least:
            given = f"batches of {min(rows, self.batch_size)} rows"
            if kind != "NMTune":
                raise InputError(f"{given}: the batch norm of the {kind} needs at least {least}")
            raise InputError(
                f"{given}: NMTune in the form {form!r} takes the {least} largest singular values of a batch: give at "
                f"least {least} rows, or another form"
            )


def least_rows(kind: Kind, form: Form) -> int:
    """Rows that a batch needs: NMTune takes singular values of it, batch norm a variance."""
    if kind == "NMTune":
        return max(2, WEIGHTS[form].top)
    return 1 if kind.startswith("linear") else 2


class Head(nn.Module):
    """A residual MLP with a scale per feature, and a linear layer on it; or the linear layer alone."""

    def __init__(self, width: int, labels: int, *, linear: bool) -> None:
        super().__init__()
        self.mlp = (
            None
            if linear
            else nn.Sequential(
                nn.Linear(width, 4 * width), nn.BatchNorm1d(4 * width), nn.ReLU(), nn.Linear(4 * width, width)
            )
        )
        self.scale = None if linear else nn.Parameter(torch.ones(width))
        self.linear = nn.Linear(width, labels)

    def features(self, given: Float[Tensor, "b d"]) -> Float[Tensor, "b d"]:
        """The features that the linear layer reads."""
        return given if self.mlp is None or self.scale is None else self.scale * self.mlp(given) + given

    def forward(self, given: Float[Tensor, "b d"]) -> Float[Tensor, "b l"]:
        """Logits."""
        return cast("Tensor", self.linear(self.features(given)))


def regulariser(made: Float[Tensor, "b d"], given: Float[Tensor, "b d"], form: Form) -> Float[Tensor, ""]:
    """The three losses of NMTune on a batch of features, weighted."""
    weights, width = WEIGHTS[form], given.shape[1]
    gaps = nn.functional.normalize(made, dim=1) - nn.functional.normalize(given, dim=1)
    mse = gaps.square().sum(1).mean() if form == "paper" else gaps.square().mean()
    centred = made - made.mean(0)
    covariance = centred.T @ centred / (len(made) - 1)
    off = covariance.square().sum() - covariance.diagonal().square().sum()
    values: Tensor = cast("Any", torch.linalg).svdvals(made)
    singular = -(values[: weights.top] / values.sum()).mean()
    return weights.mse * mse + weights.covariance * off / width + weights.singular * singular


def fit_head(
    features: Float[np.ndarray, "n d"],
    labels: Int[np.ndarray, " n"],
    kind: Kind = "NMTune",
    *,
    form: Form = "paper",
    settings: HeadSettings = HeadSettings(),
    seed: int = 0,
) -> Head:
    """Train a head on frozen features.

    Args:
        features: one row per example.
        labels: class numbers from 0.
        kind: "NMTune", "MLP" or "linear probe".
        form: the losses of NMTune as in the paper (one weight of .01) or as in the authors' code (1, .04, .001, and the
            mean share of the five largest singular values).
        settings: epochs, batch size, rates, weight decay.
        seed: of initial weights and order.

    Returns:
        The head, in evaluation mode.

    Raises:
        InputError: one class, fewer than two rows, numbers that are not finite, or a training that diverges.

    Source:
        Chen et al. 2024 (arXiv 2309.17002), NMTune.
    """
    if len(features) < 2 or len(np.unique(labels)) < 2:
        raise InputError("a head needs at least two rows and two classes")
    if not np.isfinite(features).all():
        raise InputError("the features are not finite: an overflow in the encoder")
    if form not in WEIGHTS:
        raise InputError(f"form is {form!r}: give one of {', '.join(WEIGHTS)}")
    if kind not in KINDS:
        raise InputError(f"unknown head {kind!r}: give one of {', '.join(KINDS)}")
    settings.check(len(features), kind, form)
    linear, generator = kind.startswith("linear"), np.random.default_rng(seed)
    with one_thread(), cast("Any", torch).random.fork_rng(devices=[]):
        cast("Any", torch).default_generator.manual_seed(seed)
        head = Head(features.shape[1], int(labels.max()) + 1, linear=linear)
        rate = settings.probe_rate if linear else settings.learning_rate
        optimizer = torch.optim.AdamW(head.parameters(), lr=rate, weight_decay=settings.weight_decay)
        given, wanted = torch.as_tensor(features, dtype=torch.float32), torch.as_tensor(labels)
        orders = (generator.permutation(len(features)) for _ in range(settings.epochs))
        batches = [rows for order in orders for rows in _batches(order, settings.batch_size, least_rows(kind, form))]

        def loss_of(rows: Int[np.ndarray, " b"]) -> Float[Tensor, ""]:
            made = head.features(given[rows])
            loss = nn.functional.cross_entropy(head.linear(made), wanted[rows])
            return loss + regulariser(made, given[rows], form) if kind == "NMTune" else loss

        descend(optimizer, map(loss_of, batches), f"training the {kind}", cosine=len(batches))
    return head.eval()


def _batches(order: Int[np.ndarray, " n"], size: int, least: int) -> list[Int[np.ndarray, " _b"]]:
    """Batches of an epoch; a last one of too few rows joins the one before."""
    made = [order[start : start + size] for start in range(0, len(order), size)]
    if len(made) > 1 and len(made[-1]) < least:
        made[-2:] = [np.concatenate(made[-2:])]
    return made


def predict(head: Head, features: Float[np.ndarray, "n d"]) -> Int[np.ndarray, " n"]:
    """Classes of some features."""
    with one_thread(), torch.inference_mode():
        return cast("Tensor", head(torch.as_tensor(features, dtype=torch.float32))).argmax(1).numpy()


@dataclass(frozen=True)
class Labelled:
    """Features of a data set with their classes."""

    features: Float[np.ndarray, "n d"]
    labels: Int[np.ndarray, " n"]


Right = dict[tuple[str, Kind], dict[str, Float[np.ndarray, " n"]]]
"""For each encoder and head, and each test set, the share of the seeds that predict a row rightly."""


def head_accuracies(
    encoders: Mapping[str, tuple[Labelled, Mapping[str, Labelled]]],
    *,
    kinds: Sequence[Kind] = tuple(KINDS),
    form: Form = "paper",
    settings: HeadSettings = HeadSettings(),
    seeds: int = 3,
    quiet: bool = False,
) -> Right:
    """Train some heads on each encoder's features; arguments as of `head_report`."""
    jobs: list[tuple[str, Kind]] = [(name, kind) for name in encoders for kind in kinds]
    right: Right = {}
    for name, kind in track(jobs, total=len(jobs), label="training heads", unit="heads", quiet=quiet):
        train, tests = encoders[name]
        right[name, kind] = _accuracies(kind, train, tests, form, settings, seeds)
    return right


def capped(width: int, settings: HeadSettings) -> tuple[str, ...]:
    """Say it when the batches are smaller than the features are wide."""
    if settings.batch_size > width:
        return ()
    return (
        f"batches of {settings.batch_size} rows of {width} features: the rows cap the rank of a batch, so NMTune sees "
        "its singular values and covariances only in part",
    )


def head_report(
    encoders: Mapping[str, tuple[Labelled, Mapping[str, Labelled]]],
    *,
    form: Form = "paper",
    settings: HeadSettings = HeadSettings(),
    seeds: int = 3,
    quiet: bool = False,
) -> EvaluationReport:
    """Train all heads on each encoder's features and compare their accuracies.

    Args:
        encoders: for each encoder by name, its features of the training set, and of the test sets by name, which are
            the same for all.
        form: see `fit_head`.
        settings: see `fit_head`.
        seeds: trainings of each head.
        quiet: no progress on stderr.

    Returns:
        One row for each encoder and head: accuracy on each test set with intervals over rows, SVE and LSVR.

    Raises:
        InputError: see `fit_head`.
    """
    rows: list[MethodFigures] = []
    right = head_accuracies(encoders, form=form, settings=settings, seeds=seeds, quiet=quiet)
    for name, (train, tests) in encoders.items():
        shape = spectrum(train.features)
        for kind in KINDS:
            each = right[name, kind]
            figures = [figure(test, bootstrap(each[test])) for test in tests]
            figures += [Figure("SVE", shape.sve), Figure("LSVR", shape.lsvr)]
            ours = _pooled(each)
            judged = verdict(paired(ours, _pooled(right[name, "MLP"])), "MLP") if kind == "NMTune" else ""
            label = f"{name}: {kind}" if len(encoders) > 1 else kind
            rows.append(MethodFigures(label, kind != "NMTune", tuple(figures), judged))
    first, tests = next(iter(encoders.values()))
    return report(
        "nmtune",
        "Heads on frozen features",
        f"Accuracy of heads that are trained on {len(first.labels):,} rows of frozen features, mean of {seeds} seeds; "
        "the verdict is over all test rows.",
        (*tests, "SVE", "LSVR"),
        rows,
        facts=(("form of NMTune", f"{form}: {WEIGHTS[form]}"), ("centring of SVE and LSVR", "none")),
        notes=(
            *(f"{kind}: {said}" for kind, said in KINDS.items()),
            *capped(first.features.shape[1], settings),
        ),
    )


def _pooled(each: Mapping[str, Float[np.ndarray, " n"]]) -> Float[np.ndarray, " m"]:
    return np.concatenate(list(each.values()))


def _accuracies(
    kind: Kind, train: Labelled, tests: Mapping[str, Labelled], form: Form, settings: HeadSettings, seeds: int
) -> dict[str, Float[np.ndarray, " n"]]:
    """Share of the seeds whose head predicts each row rightly."""
    basis = _directions(train.features) if kind == "linear probe, first directions" else None
    found = {name: np.zeros(len(one.labels)) for name, one in tests.items()}
    for seed in range(seeds):
        labels = train.labels
        if kind == "MLP, shuffled labels":
            labels = np.random.default_rng(seed).permutation(labels)
        head = fit_head(_projected(train.features, basis), labels, kind, form=form, settings=settings, seed=seed)
        for name, one in tests.items():
            found[name] += (predict(head, _projected(one.features, basis)) == one.labels) / seeds
    return found


def _directions(features: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "d r"]:
    """Principal directions with 90 % of the variance."""
    _, values, directions = np.linalg.svd(features - features.mean(0), full_matrices=False)
    shares = np.cumsum(values**2) / (values**2).sum()
    return directions[: int(np.searchsorted(shares, 0.9)) + 1].T


def _projected(features: Float[np.ndarray, "n d"], basis: Float[np.ndarray, "d r"] | None) -> Float[np.ndarray, "n r"]:
    return features if basis is None else features @ basis
