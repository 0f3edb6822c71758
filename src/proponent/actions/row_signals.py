"""What makes a training row of a language model suspect: each signal gives every row a strength in [0, 1] and evidence.

A signal sees texts, losses and scores that an index stores; it needs no model. Strengths of figures that have no scale
of their own (losses, influence) follow from robust z-scores among rows of similar length.
"""

import re
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float, Int

from proponent.actions.near_duplicates import Bags, NearPairs, Sets, near_pairs, same_questions, similarity
from proponent.actions.row_texts import RowTexts

CONTRADICTING = 0.5
"""Answers that share less than this part of their words differ much."""

SENTENCE = re.compile(r"[.!?](?=\s)")
"""The end of a sentence that another one follows."""

WINDOW = 100
"""Losses are compared with those of this many rows of similar length, at least."""


@dataclass(frozen=True)
class Evidence:
    """What a signal found in one row."""

    says: str  # in words
    other: int | None = None  # number of the other row that it is about
    words: tuple[str, ...] = ()


@dataclass(frozen=True)
class Signal:
    """One signal over n rows."""

    strength: Float[np.ndarray, " n"]  # 0: nothing; 1: as suspect as it can be
    evidence: dict[int, Evidence] = field(default_factory=dict[int, Evidence])
    values: Float[np.ndarray, " n"] | None = None  # the figure itself, where there is one; high is suspect


@dataclass(frozen=True)
class Words:
    """The words of all rows."""

    prompts: Bags
    answers: Bags
    alike: NearPairs  # prompts that ask the same

    @classmethod
    def of(cls, texts: RowTexts) -> "Words":
        """Split the texts of all rows, and find prompts that ask the same."""
        prompts = Bags.of([text if asked else "" for text, asked in zip(texts.prompts, texts.asked, strict=True)])
        return cls(prompts, Bags.of(texts.answers), same_questions(prompts))

    @property
    def usable(self) -> Bool[np.ndarray, " n"]:
        """Rows with words in prompt and answer."""
        return (self.prompts.lengths > 0) & (self.answers.lengths > 0)

    @cached_property
    def spoken(self) -> Sets:
        """The words of each answer, by the numbers of the prompts' words; later numbers for words of no prompt."""
        known = {word: number for number, word in enumerate(self.prompts.vocabulary)}
        numbers = [known.setdefault(word, len(known)) for word in self.answers.vocabulary]
        own = self.answers.distinct
        moved = np.asarray(numbers, dtype=np.int64)[own.numbers]
        return Sets.of(
            np.repeat(np.arange(len(self.answers)), np.diff(own.indptr)), moved, len(self.answers), len(known)
        )

    @cached_property
    def weights(self) -> Float[np.ndarray, " v"]:
        """The weight of each number of `spoken`: by rarity among prompts; of words of no prompt, as of one prompt."""
        known = self.prompts.weights
        return np.concatenate([known, np.full(self.spoken.count - len(known), np.log1p(len(self.prompts)))])


def duplicates(words: Words) -> tuple[Signal, int]:
    """Rows whose whole text an earlier row has already; also the number of rows in crowded groups."""
    whole = words.prompts.followed_by(words.answers)
    pairs = near_pairs(whole)
    strength, evidence = np.zeros(len(whole)), dict[int, Evidence]()
    groups = pairs.groups(len(whole))
    for first, second, alike in zip(
        pairs.first.tolist(), pairs.second.tolist(), pairs.similarity.tolist(), strict=True
    ):
        if alike > strength[second]:
            strength[second] = alike
            kept = int(groups[second])
            exact = "the same text as" if alike == 1.0 else f"nearly the same text ({alike:.0%}) as"
            evidence[second] = Evidence(f"{exact} an earlier row", first if first == kept or alike < 1.0 else kept)
    return Signal(strength, evidence), pairs.crowded


def contradictions(words: Words) -> Signal:
    """Rows that answer otherwise than rows with nearly the same prompt."""
    pairs = words.alike
    alike, _ = similarity(words.answers.distinct, pairs.first, pairs.second, words.answers.weights)
    both = (words.answers.lengths[pairs.first] > 0) & (words.answers.lengths[pairs.second] > 0)
    differing = np.where(both & (alike < CONTRADICTING), 1.0 - alike, 0.0) * pairs.similarity
    strength, evidence = np.zeros(len(words.prompts)), dict[int, Evidence]()
    for at in np.flatnonzero(differing > 0).tolist():
        first, second = int(pairs.first[at]), int(pairs.second[at])
        for row, other in ((first, second), (second, first)):
            if differing[at] > strength[row]:
                strength[row] = differing[at]
                said = f"another answer ({alike[at]:.0%} of the words shared) to nearly the same prompt"
                evidence[row] = Evidence(said, other)
    return Signal(strength, evidence)


def faults(texts: RowTexts, words: Words, cut: Bool[np.ndarray, " n"], untrained: Bool[np.ndarray, " n"]) -> Signal:
    """Faults that one row shows alone; `cut`: not read to its end; `untrained`: no token of it counts."""
    n, asked = len(texts.answers), texts.asked
    alike, _ = _answer_in_prompt(words)
    strength, evidence = np.zeros(n), dict[int, Evidence]()
    found = (
        (np.asarray([not one.strip() for one in texts.answers], dtype=np.bool_), 1.0, "the answer is empty"),
        (~asked & (2 * asked.sum() > n), 1.0, "no answer, and most rows have one"),
        (asked & (words.answers.lengths > 0) & (alike > 0.999), 0.9, "the answer repeats the prompt"),
        (
            np.asarray(
                [
                    other is not None and other.strip() == answer.strip()
                    for other, answer in zip(texts.rejected, texts.answers, strict=True)
                ],
                dtype=np.bool_,
            ),
            1.0,
            "the chosen answer is the rejected one",
        ),
        (untrained, 0.8, "not trained on: no token of it counts, or its loss is not finite"),
        (cut, 0.2, "the end was cut off: the row is longer than the model reads"),
        (
            np.asarray([_unfinished(one) for one in texts.answers], dtype=np.bool_),
            0.5,
            "the answer stops within a sentence",
        ),
    )
    for rows, weight, said in found:
        for row in np.flatnonzero(rows & (strength < weight)).tolist():
            strength[row], evidence[row] = weight, Evidence(said)
    return Signal(strength, evidence)


def _answer_in_prompt(words: Words) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """Similarity of each row's answer with its own prompt."""
    every = np.arange(len(words.prompts))
    return similarity(words.spoken, every, every, words.weights, words.prompts.distinct)


def _unfinished(answer: str) -> bool:
    """Whether a text of several sentences breaks off."""
    last = (answer.split() or [""])[-1]
    broken = (last[-1:].isalnum() or last[-1:] in ",;:-") and last[:1] not in "#@"
    return broken and len(SENTENCE.findall(answer)) >= 2 and "\n" not in answer[-200:]


def unusual(values: Float[np.ndarray, " n"], sizes: Int[np.ndarray, " n"], says: str) -> Signal:
    """Rows whose figure is high among rows of similar size; NaN for rows without one."""
    scores = robust_scores(values, sizes)
    strength = np.clip(np.nan_to_num((scores - 2.0) / 4.0), 0.0, 1.0)
    evidence = {
        row: Evidence(f"{says} {values[row]:.3g}, {scores[row]:.1f} deviations above rows of similar length")
        for row in np.flatnonzero(strength > 0).tolist()
    }
    return Signal(strength, evidence, scores)


def robust_scores(values: Float[np.ndarray, " n"], sizes: Int[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """Distance from the median of rows of similar size, in normal deviations (1.4826 median absolute deviations)."""
    scores = np.full(len(values), np.nan)
    known = np.flatnonzero(np.isfinite(values))
    order = known[np.argsort(sizes[known], kind="stable")]
    for part in np.array_split(order, max(1, len(order) // WINDOW)):
        middle = np.median(values[part]) if len(part) else 0.0
        spread = 1.4826 * float(np.median(np.abs(values[part] - middle))) if len(part) else 0.0
        scores[part] = (values[part] - middle) / spread if spread > 0 else 0.0
    return scores
