"""One weight for each unlabelled row, by its influence on the validation loss, learned while a head is trained.

Ren, Yeh and Schwing 2020 (arXiv 2007.01293), on a frozen encoder: the head is linear, so gradients and Hessian have
closed forms, and the Hessian is never built. Axes: m rows, d features with a constant, l classes.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib import import_module
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from proponent.errors import InputError
from proponent.evaluate.intervals import bootstrap, paired
from proponent.evaluate.report import figure, report, verdict
from proponent.progress import track
from proponent.views import EvaluationReport, MethodFigures

_linalg: Any = import_module("scipy.sparse.linalg")  # scipy has no types

HIGHEST = 2.0
"""Largest weight."""

SCALARS = (0.0, 0.1, 0.3, 1.0, 3.0)
"""Weights that all rows share, of which the best on the validation set is the control."""

Gradient = Float[np.ndarray, "d l"]


@dataclass(frozen=True)
class Rows:
    """Features and classes; those of unlabelled rows are guesses."""

    features: Float[np.ndarray, "m h"]
    labels: Int[np.ndarray, " m"]

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, places: Int[np.ndarray, " b"]) -> "Rows":
        """Some of the rows."""
        return Rows(self.features[places], self.labels[places])


@dataclass(frozen=True)
class WeighSettings:
    """Hyper-parameters of the head and of its weights."""

    steps: int = 600
    batch_size: int = 64  # labelled rows of a step
    ratio: int = 7  # unlabelled, and validation rows for each labelled one in a batch
    learning_rate: float = 0.03
    momentum: float = 0.9
    ridge: float = 5e-4  # times half the squared norm of the head
    warm_up: int = 100  # steps before the weights change
    every: int = 5  # steps between two changes of the weights
    alpha: float = 0.05  # step of Adam on the weights
    damping: float = 1.0  # added to the Hessian
    seed: int = 0

    def check(self) -> None:
        """Refuse invalid settings."""
        refuse_small(self, "steps", "batch_size", "ratio", "every")


def refuse_small(settings: object, *names: str) -> None:
    """Refuse counts below 1."""
    for name in names:
        if getattr(settings, name) < 1:
            raise InputError(f"{name} is {getattr(settings, name)}: must be at least 1")


Scores = Callable[[Int[np.ndarray, " v"], Int[np.ndarray, " u"]], Float[np.ndarray, " u"]]
"""Positions of validation rows and of unlabelled rows to their summed scores; above 0, more weight lowers the loss."""


def influence_weights(
    labelled: Rows,
    unlabelled: Rows,
    validation: Rows,
    settings: WeighSettings = WeighSettings(),
    scores: Scores | None = None,
) -> Float[np.ndarray, " u"]:
    """Learn one weight for each unlabelled row.

    Args:
        labelled: rows whose loss always counts once.
        unlabelled: rows with guessed classes; the weights are theirs.
        validation: rows whose loss the weights should lower.
        settings: of the inner and the outer loop.
        scores: scores of an index in place of the head's influence.

    Returns:
        Weights from 0 to 2; a row that no step drew keeps 1.

    Raises:
        InputError: features that are not finite, or a training that diverges.

    Source:
        Ren, Yeh and Schwing 2020 (arXiv 2007.01293), Algorithm 1, with the head's Hessian.
    """
    return _trained(labelled, unlabelled, validation, settings, scores)[1]


def head_of(
    labelled: Rows, unlabelled: Rows, weights: Float[np.ndarray, " u"], settings: WeighSettings = WeighSettings()
) -> Gradient:
    """Train the head with given weights."""
    return _trained(labelled, unlabelled, None, settings, None, weights)[0]


def predicted(head: Gradient, features: Float[np.ndarray, "m h"]) -> Int[np.ndarray, " m"]:
    """Classes of some rows."""
    return (_wide(features) @ head).argmax(1)


def gradients(
    head: Gradient, rows: Rows, targets: Float[np.ndarray, "m l"] | None = None
) -> tuple[Float[np.ndarray, "m d"], Float[np.ndarray, "m l"]]:
    """The two sides of each row's gradient by the head, features and error (against class or target probabilities)."""
    wide = _wide(rows.features)
    errors = _softmax(wide @ head)
    if targets is not None:
        return wide, errors - targets
    errors[np.arange(len(rows)), rows.labels] -= 1
    return wide, errors


def solved(
    head: Gradient,
    labelled: Rows,
    unlabelled: Rows,
    weights: Float[np.ndarray, " u"],
    validation: Rows,
    ridge: float,
) -> Gradient:
    """Inverse Hessian of the weighted loss times the gradient of the validation loss, by conjugate gradients."""
    sides = [
        (_wide(one.features), own / len(one))
        for one, own in ((labelled, np.ones(len(labelled))), (unlabelled, weights))
    ]
    chances = [_softmax(wide @ head) for wide, _ in sides]
    wide, errors = gradients(head, validation)
    target = (wide.T @ errors / len(validation)).ravel()

    def product(flat: Float[np.ndarray, " p"]) -> Float[np.ndarray, " p"]:
        vector = flat.reshape(head.shape)
        total = ridge * vector
        for (features, own), chance in zip(sides, chances, strict=True):
            moved = features @ vector
            change = chance * (moved - (chance * moved).sum(1, keepdims=True))
            total = total + features.T @ (own[:, None] * change)
        return total.ravel()

    size = len(target)
    made, failed = _linalg.cg(
        _linalg.LinearOperator((size, size), matvec=product, dtype=np.float64), target, rtol=1e-8, maxiter=10 * size
    )
    if failed or not np.isfinite(made).all():
        raise InputError("the solve with the head's Hessian did not converge: raise the damping")
    return np.asarray(made).reshape(head.shape)


def _trained(
    labelled: Rows,
    unlabelled: Rows,
    validation: Rows | None,
    settings: WeighSettings,
    scores: Scores | None,
    weights: Float[np.ndarray, " u"] | None = None,
) -> tuple[Gradient, Float[np.ndarray, " u"]]:
    """Head and weights after all steps; without validation rows the weights stay."""
    settings.check()
    _check(labelled, unlabelled, validation)
    generator = np.random.default_rng(settings.seed)
    classes = 1 + max(int(one.labels.max(initial=0)) for one in (labelled, unlabelled, validation or labelled))
    head = np.zeros((labelled.features.shape[1] + 1, classes))
    speed, outer = np.zeros_like(head), RowAdam(len(unlabelled))
    made = np.ones(len(unlabelled)) if weights is None else weights
    for step in range(settings.steps):
        places = drawn(generator, len(unlabelled), settings.batch_size * settings.ratio)
        known, guessed = labelled.take(drawn(generator, len(labelled), settings.batch_size)), unlabelled.take(places)
        slope = settings.ridge * head
        for rows, own in ((known, np.ones(len(known))), (guessed, made[places])):
            wide, errors = gradients(head, rows)
            slope = slope + wide.T @ (own[:, None] * errors) / max(len(rows), 1)
        speed = settings.momentum * speed + slope
        with np.errstate(over="ignore", invalid="ignore"):
            head = head - settings.learning_rate * speed
        if not np.isfinite(head).all():
            raise InputError("training the head diverged: lower the learning rate")
        if validation is None or step < settings.warm_up or step % settings.every:
            continue
        asked = drawn(generator, len(validation), settings.batch_size * settings.ratio)
        if scores is None:
            ridge = settings.ridge + settings.damping
            direction = solved(head, known, guessed, made[places], validation.take(asked), ridge)
            wide, errors = gradients(head, guessed)
            helped = ((wide @ direction) * errors).sum(1)
        else:
            helped = scores(asked, places)
        made[places] = np.clip(made[places] + settings.alpha * outer.step(places, helped), 0.0, HIGHEST)
    return head, made


class RowAdam:
    """Moments of each weight's gradient, changed only when its row is drawn."""

    def __init__(self, count: int) -> None:
        self._first, self._second, self._count = np.zeros(count), np.zeros(count), np.zeros(count)

    def step(self, places: Int[np.ndarray, " u"], slope: Float[np.ndarray, " u"]) -> Float[np.ndarray, " u"]:
        """Steps of the drawn rows, of size about 1."""
        self._count[places] += 1
        self._first[places] = 0.9 * self._first[places] + 0.1 * slope
        self._second[places] = 0.999 * self._second[places] + 0.001 * slope**2
        first = self._first[places] / (1 - 0.9 ** self._count[places])
        second = self._second[places] / (1 - 0.999 ** self._count[places])
        return first / (np.sqrt(second) + 1e-8)


def drawn(generator: np.random.Generator, count: int, size: int) -> Int[np.ndarray, " b"]:
    """Positions of a batch, in order."""
    return np.sort(generator.choice(count, min(size, count), replace=False))


def _wide(features: Float[np.ndarray, "m h"]) -> Float[np.ndarray, "m d"]:
    return np.concatenate([features, np.ones((len(features), 1))], axis=1)


def _softmax(logits: Float[np.ndarray, "m l"]) -> Float[np.ndarray, "m l"]:
    shifted = np.exp(logits - logits.max(1, keepdims=True))
    return shifted / shifted.sum(1, keepdims=True)


def _check(labelled: Rows, unlabelled: Rows, validation: Rows | None) -> None:
    for name, rows in (("labelled", labelled), ("unlabelled", unlabelled), ("validation", validation)):
        if rows is None:
            continue
        if not len(rows):
            raise InputError(f"there are no {name} rows")
        bad = np.flatnonzero(~np.isfinite(rows.features).all(1))
        if len(bad):
            raise InputError(f"the features of {len(bad)} {name} rows are not finite, the first is row {bad[0]}")


OURS, TUNED = "one weight per row", "one tuned weight"
"""Names of the head with learned weights, and of the strongest plain control."""


@dataclass(frozen=True)
class Comparison:
    """Heads with learned weights and with controls, over all seeds."""

    right: dict[str, Float[np.ndarray, " n"]]  # for each head, the share of the seeds that predict a test row rightly
    weights: Float[np.ndarray, " u"]  # mean over the seeds
    tuned: tuple[float, ...]  # the tuned weight of each seed


def compare(
    labelled: Rows,
    unlabelled: Rows,
    validation: Rows,
    test: Rows,
    settings: WeighSettings = WeighSettings(),
    *,
    scores: Scores | None = None,
    seeds: int = 5,
    quiet: bool = False,
) -> Comparison:
    """Learn weights, and train heads with them and with controls; arguments as of `weigh`."""
    if seeds < 1:
        raise InputError(f"seeds is {seeds}: must be at least 1")
    right: dict[str, Float[np.ndarray, " n"]] = {}
    total, best = np.zeros(len(unlabelled)), list[float]()
    for seed in track(range(seeds), total=seeds, label="weighing", unit="seeds", quiet=quiet):
        own = replace(settings, seed=seed)
        made = influence_weights(labelled, unlabelled, validation, own, scores)
        total += made / seeds
        one = np.ones(len(unlabelled))
        heads = {scalar: head_of(labelled, unlabelled, scalar * one, own) for scalar in SCALARS}
        tuned = max(SCALARS, key=lambda at: _accuracy(heads[at], validation).mean())
        best.append(tuned)
        both = Rows(
            np.concatenate([labelled.features, validation.features]),
            np.concatenate([labelled.labels, validation.labels]),
        )
        ways = {
            OURS: head_of(labelled, unlabelled, made, own),
            TUNED: heads[tuned],
            "all weights 1": heads[1.0],
            "no unlabelled rows": heads[0.0],
            "one tuned weight, validation rows added": head_of(both, unlabelled, tuned * one, own),
        }
        for name, head in ways.items():
            right[name] = right.get(name, 0) + _accuracy(head, test) / seeds
    return Comparison(right, total, tuple(best))


def weigh(
    labelled: Rows,
    unlabelled: Rows,
    validation: Rows,
    test: Rows,
    settings: WeighSettings = WeighSettings(),
    *,
    scores: Scores | None = None,
    seeds: int = 5,
    quiet: bool = False,
) -> tuple[EvaluationReport, Float[np.ndarray, " u"]]:
    """Learn weights, and compare a head trained with them with controls.

    Args:
        labelled: see `influence_weights`.
        unlabelled: see `influence_weights`.
        validation: see `influence_weights`; one control trains on it.
        test: rows on which all heads are measured.
        settings: see `influence_weights`.
        scores: see `influence_weights`.
        seeds: trainings; the weights are the mean over them.
        quiet: no progress on stderr.

    Returns:
        Accuracies with intervals over the test rows, and the weights.

    Raises:
        InputError: see `influence_weights`.
    """
    found = compare(labelled, unlabelled, validation, test, settings, scores=scores, seeds=seeds, quiet=quiet)
    said = f"Accuracy of a linear head on {len(test):,} test rows, mean of {seeds} seeds."
    return weights_page(found, said), found.weights


def _accuracy(head: Gradient, rows: Rows) -> Float[np.ndarray, " m"]:
    return (predicted(head, rows.features) == rows.labels).astype(np.float64)


def weights_page(found: Comparison, said: str) -> EvaluationReport:
    """Table of the accuracies: the learned weights first, then the controls."""
    right, weights = found.right, found.weights
    ours, *controls = right
    strongest = max(controls, key=lambda name: float(right[name].mean()))
    judged = verdict(paired(right[ours], right[strongest]), strongest)
    rows = [
        MethodFigures(name, name != ours, (figure("accuracy", bootstrap(each)),), judged if name == ours else "")
        for name, each in right.items()
    ]
    bounds = int(((weights <= 0) | (weights >= HIGHEST)).sum())
    notes = (
        [f"all {len(weights)} weights lie at a bound: lower alpha or the number of steps"]
        if bounds == len(weights)
        else []
    )
    return report(
        "weigh",
        "Weights of unlabelled rows",
        said,
        ("accuracy",),
        rows,
        facts=(
            ("weights", f"{weights.min():.2f} to {weights.max():.2f}, mean {weights.mean():.2f}, {bounds} at a bound"),
            ("tuned weights", ", ".join(f"{one:g}" for one in found.tuned)),
        ),
        notes=notes,
    )
