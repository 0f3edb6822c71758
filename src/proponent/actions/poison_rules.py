"""The published detector of poisoned instructions, as rules on scores of plain and of transformed queries.

J. Li, Detecting Instruction Fine-tuning Attack with Influence Function (arXiv 2504.09026). I(z) is the mean score of
the row z over queries, I'(z) the same with transformed queries and their labels kept. Text and code of the paper
disagree on the rule of signs, so both are here. Source: the formulas of paper and code; no line of it is copied.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Int

from proponent.errors import InputError

Rule = Literal["same-sign", "code-v1", "vote", "ensemble"]
RULES: dict[Rule, str] = {
    "same-sign": "I and I' have the same sign (text): poison does not follow an inversion",
    "code-v1": "I > 0 and I' < 0 (first version of the code)",
    "vote": "at least half of the kinds of transforms name the row among those whose influence changes least",
    "ensemble": "the share of rows with the largest sum of consistency, small change and low variance over kinds",
}
"""The rules, in words."""

VOTES = 20
"""Rows that each kind of transform names."""

_TINY = 1e-8


class TooFewRowsError(InputError):
    """Fewer rows than a vote names."""


@dataclass(frozen=True)
class Detection:
    """What a rule says of n rows."""

    flagged: Bool[np.ndarray, " n"]
    suspicion: Float[np.ndarray, " n"]  # high is suspect; ranks the rows for AUROC and the like
    strength: Float[np.ndarray, " n"]  # |I|
    change: Float[np.ndarray, " n"]  # |I - I'|, mean over the transforms
    votes: Int[np.ndarray, " n"]  # kinds of transforms that name the row; 0 by the other rules

    def spread(self, places: Int[np.ndarray, " n"], size: int) -> "Detection":
        """The same for more rows, of which only those at some places were judged; the others have NaN, and no flag."""

        def wide(values: np.ndarray, fill: object) -> np.ndarray:
            made = np.full(size, fill, dtype=values.dtype)
            made[places] = values
            return made

        suspicion, strength, change = (wide(one, np.nan) for one in (self.suspicion, self.strength, self.change))
        return Detection(wide(self.flagged, fill=False), suspicion, strength, change, wide(self.votes, 0))


def detect(
    scores: Float[np.ndarray, "q n"],
    inverted: Float[np.ndarray, "t q n"],
    rule: Rule,
    kinds: Sequence[str] | None = None,
    *,
    used: Bool[np.ndarray, "t q"] | None = None,
    logit: bool = False,
    share: float = 0.1,
) -> Detection:
    """Flag training rows whose influence on queries does not follow transforms of the queries.

    Args:
        scores: scores of n rows for q queries; positive helped.
        inverted: the same for each of t transforms of the queries.
        rule: one of `RULES`.
        kinds: kind of each transform; None puts each in a kind of its own.
        used: which queries each transform changed; the others are left out for it. None uses all.
        logit: the scores measure an output that grows as the loss falls, in the sign of influence on the loss: flipped.
        share: largest share of rows that the ensemble flags.

    Returns:
        Flags and their evidence.

    Raises:
        InputError: an unknown rule, shapes that do not match, numbers that are not finite, or no transform.
        TooFewRowsError: fewer rows than a vote names.

    Source:
        arXiv 2504.09026, text and code.
    """
    if rule not in RULES:
        raise InputError(f"the rule {rule!r} is not known: choose one of {', '.join(RULES)}")
    scores, inverted = (-scores, -inverted) if logit else (scores, inverted)
    kinds = [str(at) for at in range(len(inverted))] if kinds is None else list(kinds)
    used = np.ones(inverted.shape[:2], dtype=np.bool_) if used is None else used
    _check(scores, inverted, kinds, used)
    before = np.asarray([scores[one].mean(0) for one in used])
    after = np.asarray([other[one].mean(0) for other, one in zip(inverted, used, strict=True)])
    if rule in {"same-sign", "code-v1"}:
        return _by_sign(before.mean(0), after.mean(0), rule)
    each = np.abs(before - after) / (np.abs(before) + _TINY)
    relative = np.asarray([each[[at for at, one in enumerate(kinds) if one == kind]].mean(0) for kind in _known(kinds)])
    strength, change = np.abs(before).mean(0), np.abs(before - after).mean(0)
    if rule == "vote":
        return _by_vote(relative, strength, change)
    pairs = [(scores[one], other[one]) for other, one in zip(inverted, used, strict=True)]
    return _ensemble(pairs, relative, strength, change, share)


def _known(kinds: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(kinds))


def _check(
    scores: Float[np.ndarray, "q n"],
    inverted: Float[np.ndarray, "t q n"],
    kinds: Sequence[str],
    used: Bool[np.ndarray, "t q"],
) -> None:
    if not len(inverted) or not used.any(1).all():
        raise InputError("a transform changed no query, so nothing can be compared: leave it out")
    if scores.ndim != 2 or inverted.shape[1:] != scores.shape or len(kinds) != len(inverted):
        raise InputError(
            f"the scores are {scores.shape}, those of {len(kinds)} transforms {inverted.shape}: every transform needs "
            "the scores of the same queries and rows"
        )
    if not (np.isfinite(scores).all() and np.isfinite(inverted).all()):
        raise InputError("scores must be finite numbers: leave out rows and queries that have none")


def _by_sign(plain: Float[np.ndarray, " n"], other: Float[np.ndarray, " n"], rule: Rule) -> Detection:
    if rule == "same-sign":
        flagged, suspicion = plain * other > 0, np.sign(plain * other) * np.minimum(np.abs(plain), np.abs(other))
    else:
        flagged, suspicion = (plain > 0) & (other < 0), np.minimum(plain, -other)
    return Detection(flagged, suspicion, np.abs(plain), np.abs(plain - other), np.zeros(len(plain), dtype=np.int64))


def _by_vote(
    relative: Float[np.ndarray, "k n"], strength: Float[np.ndarray, " n"], change: Float[np.ndarray, " n"]
) -> Detection:
    if len(strength) < VOTES:
        raise TooFewRowsError(
            f"each kind of transform names {VOTES} rows, and there are {len(strength)}: give more rows"
        )
    votes = np.zeros(len(strength), dtype=np.int64)
    for one in relative:
        votes[np.argsort(one, kind="stable")[:VOTES]] += 1
    suspicion = votes + 1.0 / (2.0 + relative.mean(0))  # equal votes: the smaller change first
    return Detection(votes >= -(-len(relative) // 2), suspicion, strength, change, votes)


def _ensemble(
    pairs: Sequence[tuple[Float[np.ndarray, "_m n"], Float[np.ndarray, "_m n"]]],
    relative: Float[np.ndarray, "k n"],
    strength: Float[np.ndarray, " n"],
    change: Float[np.ndarray, " n"],
    share: float,
) -> Detection:
    """The weighted sum of the code; `relative` has one line for each kind."""
    variance = relative.var(0)
    consistency = np.mean([_cosine(one, other) for one, other in pairs], axis=0) / (1.0 + variance)
    spread = (variance - variance.min()) / max(float(np.ptp(variance)), _TINY)
    suspicion = 0.3 * _standard(consistency) + 0.4 * _standard(1.0 / (1.0 + relative.mean(0))) + 0.3 * (1.0 - spread)
    flagged = np.zeros(len(strength), dtype=np.bool_)
    flagged[np.argsort(-suspicion, kind="stable")[: int(share * len(strength))]] = True
    return Detection(flagged, suspicion, strength, change, np.zeros(len(strength), dtype=np.int64))


def _cosine(one: Float[np.ndarray, "m n"], other: Float[np.ndarray, "m n"]) -> Float[np.ndarray, " n"]:
    norms = np.linalg.norm(one, axis=0) * np.linalg.norm(other, axis=0)
    return np.einsum("qn,qn->n", one, other) / np.maximum(norms, _TINY)


def _standard(values: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    spread = float(values.std())
    return (values - values.mean()) / spread if spread > 0 else np.zeros(len(values))
