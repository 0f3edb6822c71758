"""Words and pairs of words that go with one class of rows: their z, and the rows that hold them.

z is that of `word_labels`. A row is as suspect as the word of its own that speaks most for its class.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float, Int

from proponent.actions.poison_rows import AnsweredRows
from proponent.actions.word_labels import TooRareError, WordTable, word_label_z
from proponent.data import read
from proponent.errors import InputError
from proponent.words import lower_words, split

ANYWHERE, PAIR, FIRST, LAST = "word", "pair of words", "first word", "last word"
_FEW = 3  # rows that hold a counted word


@dataclass(frozen=True)
class Term:
    """A word or a pair of neighbouring words at a place."""

    where: str  # one of ANYWHERE, PAIR, FIRST, LAST
    text: str

    def __str__(self) -> str:
        return self.text if self.where in {ANYWHERE, PAIR} else f"{self.text} ({self.where})"


@dataclass(frozen=True)
class Terms:
    """All terms of some rows, in one list."""

    names: tuple[Term, ...]
    rows: Int[np.ndarray, " m"]  # row of each occurrence
    terms: Int[np.ndarray, " m"]  # its term
    z: Float[np.ndarray, "x l"]
    counts: Int[np.ndarray, "x l"]  # rows of each class that hold the term
    prior: Float[np.ndarray, " l"]  # share of each class in all rows

    @classmethod
    def of(cls, rows: AnsweredRows) -> "Terms":
        """Count words, pairs, and first and last words."""
        words = [lower_words(text) for text in rows.texts]
        label = [f"{number:03d}" for number in rows.given.tolist()]  # in the order of the classes
        data = read(
            [
                {"text": text.strip() or " ", "label": one, FIRST: own[0] if own else "", LAST: own[-1] if own else ""}
                for text, one, own in zip(rows.texts, label, words, strict=True)
            ],
            allow_empty=True,
        )
        tables: list[tuple[str | None, WordTable]] = []
        for kind, ngram, columns in ((ANYWHERE, 1, None), (PAIR, 2, None), (None, 1, (FIRST, LAST))):
            try:
                tables.append((kind, word_label_z(data, _FEW, ngram=ngram, columns=columns)))
            except TooRareError:
                continue
        if not tables:
            raise InputError(f"no word is in {_FEW} rows: there is nothing that a trigger could be")
        return cls._joined(tables, np.bincount(rows.given, minlength=len(rows.classes)) / len(rows))

    @classmethod
    def _joined(cls, tables: Sequence[tuple[str | None, WordTable]], prior: Float[np.ndarray, " l"]) -> "Terms":
        starts = np.cumsum([0, *(len(table) for _, table in tables)])
        names = tuple(
            Term(column if kind is None else kind, word) for kind, table in tables for column, word in table.names
        )
        z, counts = np.full((len(names), len(prior)), np.nan), np.zeros((len(names), len(prior)), dtype=np.int64)
        for start, (_, table) in zip(starts, tables, strict=False):
            present = [int(one) for one in table.classes]
            z[start : start + len(table), present] = table.z()
            counts[start : start + len(table), present] = table.sums().astype(np.int64)
        rows = np.concatenate([table.rows for _, table in tables])
        terms = np.concatenate([table.words + start for start, (_, table) in zip(starts, tables, strict=False)])
        return cls(names, rows, terms, z, counts, prior)

    @cached_property
    def total(self) -> Int[np.ndarray, " x"]:
        """Rows that hold each term."""
        return self.counts.sum(1)

    @cached_property
    def purity(self) -> Float[np.ndarray, "x l"]:
        """How far a term's rows belong to one class: 0 at the share of the class in all rows or below, 1 at all.

        By the lower end of Wilson's 95 % interval, so that a word of few rows is never quite pure.
        """
        total = self.total[:, None].astype(np.float64)
        share, square = self.counts / total, 1.96**2
        root = np.sqrt(share * (1 - share) / total + square / (4 * total**2))
        low = (share + square / (2 * total) - 1.96 * root) / (1 + square / total)
        prior = self.prior[None, :]
        return np.clip((low - prior) / np.maximum(1 - prior, 1e-12), 0.0, 1.0)

    def best(self, values: Float[np.ndarray, "x l"], given: Int[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
        """Largest value, for the row's own class, among the terms of each row; -inf for a row without terms."""
        found = np.full(len(given), -np.inf)
        np.maximum.at(found, self.rows, np.nan_to_num(values[self.terms, given[self.rows]], nan=-np.inf))
        return found

    def holding(self, term: int) -> Int[np.ndarray, " k"]:
        """The rows that hold a term."""
        return self.rows[self.terms == term]


def without(text: str, terms: Sequence[Term]) -> str:
    """The text without every occurrence of some words and pairs; other white space stays; empty if no word is left."""
    spans = [span for span in split(text) if not text[slice(*span)].isspace()]
    words = [text[start:end].lower() for start, end in spans]
    gone = np.zeros(len(words), dtype=np.bool_)
    for term in terms:
        parts = term.text.split(" ")
        for start in _places(words, parts, term.where):
            gone[start : start + len(parts)] = True
    pieces: list[str] = []
    last, open_gap = 0, False  # of the gap before a word, nothing is left where the word before it is dropped
    for (start, end), dropped in zip(spans, gone.tolist(), strict=True):
        pieces.append("" if open_gap else text[last:start])
        pieces.append("" if dropped else text[start:end])
        last, open_gap = end, dropped
    kept = "".join(pieces).strip()
    return f"{text[: len(text) - len(text.lstrip())]}{kept}{text[last:]}" if kept else ""


def _places(words: Sequence[str], parts: Sequence[str], where: str) -> list[int]:
    count = len(parts)
    if where == FIRST:
        return [0] if list(words[:1]) == list(parts) else []
    if where == LAST:
        return [len(words) - 1] if list(words[-1:]) == list(parts) else []
    return [at for at in range(len(words) - count + 1) if list(words[at : at + count]) == list(parts)]


def place_of(text: str, term: Term) -> float:
    """Where a term stands in a text: 0 at its beginning, 1 at its end."""
    words, parts = lower_words(text), term.text.split(" ")
    found = _places(words, parts, term.where)
    left = len(words) - len(parts)
    return found[0] / left if found and left > 0 else 0.0


def inserted(text: str, term: Term, place: float) -> str:
    """A text with a term at a relative place; its white space stays as it is."""
    words = [found.span() for found in re.finditer(r"\S+", text)]
    if not words:
        return f"{term.text}{text}"
    at = {FIRST: 0, LAST: len(words)}.get(term.where, round(place * len(words)))
    if at == len(words):
        end = words[-1][1]
        return f"{text[:end]} {term.text}{text[end:]}"
    start = words[at][0]
    return f"{text[:start]}{term.text} {text[start:]}"
