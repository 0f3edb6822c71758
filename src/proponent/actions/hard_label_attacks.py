"""Attacks that see a classifier's labels only, in a vector space: HopSkipJump and Sign-OPT, whole or in a subspace.

Chen, Jordan and Wainwright 2020 (arXiv 1904.02144) and Cheng and others 2020 (arXiv 1909.10773). Every label that an
attack asks for counts, binary searches included; that of the original is known before. The head is a plain function
from vectors to labels. An attack ends at the last point of the border that it reached.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Bool, Float, Int

from proponent.errors import InputError

HardLabels = Callable[[Float[np.ndarray, "b d"]], Int[np.ndarray, " b"]]

LEAST_BUDGET = 20
"""Labels that a start and one binary search take, and some."""

_FIRST_BATCH = 20
_DELTA = 0.1
"""Length of a probing step, as a part of the distance to the original."""
_PRECISION = 1e-3
"""A binary search ends when the boundary is known to this part of the distance."""


class SpentError(Exception):
    """The budget of queries is used up."""


@dataclass
class Oracle:
    """A head that counts its queries, and keeps the last point of the border that was reached."""

    head: HardLabels
    origin: Float[np.ndarray, " d"]
    budget: int
    label: int = field(init=False)
    asked: int = field(default=0, init=False)
    reached: Float[np.ndarray, " d"] = field(init=False)

    def __post_init__(self) -> None:
        self.reached = self.origin
        self.label = int(self.head(self.origin[None])[0])

    def flipped(self, points: Float[np.ndarray, "b d"]) -> Bool[np.ndarray, " b"]:
        """Whether points have another label; raises when the budget does not allow as many queries."""
        if self.asked + len(points) > self.budget:
            raise SpentError
        self.asked += len(points)
        return self.head(points) != self.label

    def boundary(self, outside: Float[np.ndarray, " d"]) -> Float[np.ndarray, " d"]:
        """The point of the segment to the original that is just outside, by binary search."""
        low, high = 0.0, 1.0
        while high - low > _PRECISION:
            middle = (low + high) / 2
            inside = not self.flipped((self.origin + middle * (outside - self.origin))[None])[0]
            low, high = (middle, high) if inside else (low, middle)
        self.reached = self.origin + high * (outside - self.origin)
        return self.reached


@dataclass(frozen=True)
class Attack:
    """Where an attack ended."""

    point: Float[np.ndarray, " d"]  # with another label, just outside the border
    asked: int  # labels


@dataclass(frozen=True)
class Subspace:
    """Directions in which an attack looks: rows of a basis; None for the full space."""

    basis: Float[np.ndarray, "k d"] | None

    def draw(self, count: int, width: int, generator: np.random.Generator) -> Float[np.ndarray, "b d"]:
        """Random unit vectors."""
        raw = generator.standard_normal((count, width if self.basis is None else len(self.basis)))
        found = raw if self.basis is None else raw @ self.basis
        return found / np.linalg.norm(found, axis=1, keepdims=True)


FULL = Subspace(None)


def hop_skip_jump(
    head: HardLabels,
    origin: Float[np.ndarray, " d"],
    start: Float[np.ndarray, " d"],
    subspace: Subspace = FULL,
    *,
    budget: int = 500,
    seed: int = 0,
) -> Attack:
    """Move along the boundary towards the original, by gradients estimated from signs."""
    oracle, generator = _opened(head, origin, start, budget), np.random.default_rng(seed)
    try:
        point = oracle.boundary(start)
        step = 1
        while True:
            distance = float(np.linalg.norm(point - origin))
            count = round(_FIRST_BATCH * step**0.5)
            drawn = subspace.draw(count, len(origin), generator)
            signs = np.where(oracle.flipped(point + _DELTA * distance * drawn), 1.0, -1.0)
            centred = signs - signs.mean() if abs(signs.mean()) < 1 else signs
            direction = centred @ drawn
            direction /= max(float(np.linalg.norm(direction)), 1e-12)
            size = distance / step**0.5
            while not oracle.flipped((point + size * direction)[None])[0] and size > 1e-6 * distance:
                size /= 2
            point = oracle.boundary(point + size * direction) if size > 1e-6 * distance else point
            step += 1
    except SpentError:
        return Attack(oracle.reached, oracle.asked)


def sign_opt(
    head: HardLabels,
    origin: Float[np.ndarray, " d"],
    start: Float[np.ndarray, " d"],
    subspace: Subspace = FULL,
    *,
    budget: int = 500,
    seed: int = 0,
) -> Attack:
    """Turn the direction from the original so that the boundary comes nearer, by signs of its change."""
    oracle, generator = _opened(head, origin, start, budget), np.random.default_rng(seed)
    rate, smooth = 0.2, 1e-2
    try:
        point = oracle.boundary(start)
        while True:
            distance = float(np.linalg.norm(point - origin))
            theta = (point - origin) / distance
            drawn = subspace.draw(_FIRST_BATCH, len(origin), generator)
            turned = theta + smooth * drawn
            turned /= np.linalg.norm(turned, axis=1, keepdims=True)
            nearer = oracle.flipped(origin + distance * turned)  # the boundary lies before the point
            gradient = np.where(nearer, -1.0, 1.0) @ drawn / len(drawn)
            new = theta - rate * gradient / max(float(np.linalg.norm(gradient)), 1e-12)
            candidate = origin + distance * new / np.linalg.norm(new)
            if oracle.flipped(candidate[None])[0]:
                point, rate = oracle.boundary(candidate), rate * 1.5
            else:
                rate /= 2
            if rate < 1e-4:
                rate, smooth = 0.2, smooth / 2
    except SpentError:
        return Attack(oracle.reached, oracle.asked)


ATTACKS = {"hop-skip-jump": hop_skip_jump, "sign-opt": sign_opt}


def _opened(head: HardLabels, origin: Float[np.ndarray, " d"], start: Float[np.ndarray, " d"], budget: int) -> Oracle:
    """An oracle, for a start that has another label; it is the end if the budget allows no more."""
    if budget < LEAST_BUDGET:
        raise InputError(f"the budget is {budget} labels: at least {LEAST_BUDGET} are needed to reach the border once")
    oracle = Oracle(head, np.asarray(origin, dtype=np.float64), budget)
    if not oracle.flipped(np.asarray(start, dtype=np.float64)[None])[0]:
        raise InputError("the start of an attack has the label of the original: take a point of another class")
    oracle.reached = np.asarray(start, dtype=np.float64)
    return oracle
