"""The words of a hit: three definitions of the part of a score that belongs to a word of either text.

Each splits the score of one training example at one checkpoint into word x word terms that sum to it. The last row and
column hold what belongs to no word: special tokens, pooled positions, and whatever a definition leaves over.
"""

from dataclasses import replace
from typing import Literal, NamedTuple, cast

import numpy as np
from jaxtyping import Float, Int

from proponent.errors import InputError
from proponent.gradients.computer import GradientComputer
from proponent.gradients.factor_terms import Calls, factor_terms
from proponent.gradients.forms import Terms
from proponent.gradients.gradient import Gradient
from proponent.gradients.layer_vectors import token_words
from proponent.gradients.products import products
from proponent.index.loading import LoadedRun
from proponent.index.queries import QueryBatch
from proponent.method import Gradients, similarity_of
from proponent.models import Encoded
from proponent.preconditioners.query_preconditioner import QueryPreconditioner
from proponent.search import Search
from proponent.suggest import nearest
from proponent.types import CheckpointId, Example
from proponent.words import words_of

WordsBy = Literal["terms", "embedding", "masked"]
"""A definition of the words of an answer."""

DEFINITIONS: dict[WordsBy, str] = {
    "terms": "exact terms of the scored layers",
    "embedding": "word-embedding terms",
    "masked": "change when masked",
}
"""What each definition is called in an answer."""

_BATCH = 32
_TOGETHER = 16
"""Queries whose masked texts are kept together, so that a training example is masked once for all of them."""


class _Hit(NamedTuple):
    """A training example that is split."""

    place: int  # in data order
    example: Example
    widths: tuple[int, int]  # words of the example and of the query


class _Masked(NamedTuple):
    """Some queries as they are, and with each of their words masked, one query after another."""

    words: tuple[Int[np.ndarray, " k"], ...]  # the masked words of each; the text itself comes before them
    cuts: tuple[slice, ...]  # the gradients of each
    gradient: Gradient  # of all, as the search multiplies them


class HitWords:
    """Splits scores of an index by words."""

    def __init__(
        self, method: Gradients, search: Search, loaded: LoadedRun, preconditioner: QueryPreconditioner
    ) -> None:
        self.method, self.search, self.store = method, search, search.store
        self._loaded, self._preconditioner = loaded, preconditioner
        self._asked: tuple[QueryBatch, int] | None = None  # the query whose parts are kept while its hits are built
        self._vectors: dict[CheckpointId, Float[np.ndarray, "w p"]] = {}
        self._calls: dict[CheckpointId, Calls] = {}
        self._rows: dict[CheckpointId, Gradient] = {}
        self._block: tuple[QueryBatch, int] | None = None  # the queries that share the passes over masked rows
        self._masked: dict[CheckpointId, _Masked] = {}
        self._tables: dict[tuple[CheckpointId, int], tuple[Int[np.ndarray, " k"], Float[np.ndarray, "r m"]]] = {}

    def terms(self, by: WordsBy, queries: QueryBatch, row: int, place: int) -> list[Terms]:
        """Return the word x word terms at each checkpoint."""
        if self._asked is None or self._asked[0] is not queries or self._asked[1] != row:
            self._asked = (queries, row)
            for kept in (self._vectors, self._calls, self._rows):
                kept.clear()
        example = self.store.example(place)
        hit = _Hit(place, example, (len(words_of(example)), len(queries.words(row))))
        split = {"terms": self._exact, "embedding": self._by_embedding, "masked": self._by_masking}[by]
        return [split(queries, row, step, hit) for step in queries.gradients]

    def checked(self, by: str) -> WordsBy:
        """Refuse a definition that is unknown, or that does not exist for this index."""
        found = cast("WordsBy", by)
        if by not in DEFINITIONS:
            raise InputError(f"words={by!r}{nearest(by, DEFINITIONS)}: give {', '.join(DEFINITIONS)}")
        task, what = self._loaded.run.task, f"words={by} ({DEFINITIONS[found]})"
        if found == "embedding" and task.pairing is not None:
            raise InputError(f"{what}: not defined for pairs of answers; take words=terms")
        if found == "masked" and not self._answers_texts:
            raise InputError(
                f"{what}: a {task.kind} model answers with words or about each word, so no word can be masked and the "
                "answer compared; take words=terms"
            )
        if found != "terms" and similarity_of(self.method) is not None:
            raise InputError(f"{what}: not defined for {self.method.name}, which matches similar tokens")
        return found

    def used(self, by: WordsBy, queries: QueryBatch) -> WordsBy:
        """The definition for these queries: several that are explained together have exact terms."""
        return by if queries.encoded else "terms"

    @property
    def _answers_texts(self) -> bool:
        """Whether the model reads a text and answers with a class or a number."""
        task = self._loaded.run.task
        return not (task.predicts_tokens or task.decodes or task.answers_by_token or task.pairing is not None)

    def _exact(self, queries: QueryBatch, row: int, step: CheckpointId, hit: _Hit) -> Terms:
        """Terms of every token of one text with every token of the other, over all layers of the score."""
        gradient = queries.gradients[step].example(row)
        terms = np.zeros((hit.widths[0] + 1, hit.widths[1] + 1))
        if gradient.dense is not None:
            terms += self.search.weighed(step, hit.place) * self._of_layers(queries, row, step, hit)
            if gradient.rows is None and gradient.head is None:
                return terms
        return terms + self.search.terms(step, hit.place, replace(gradient, dense=None), hit.widths)

    def _of_layers(self, queries: QueryBatch, row: int, step: CheckpointId, hit: _Hit) -> Terms:
        """The same of the layers that are stored as vectors, which keep no words: from the texts."""
        computer, encoded = self._loaded.at(step), self._encoded(hit)
        calls = computer.train_calls(encoded, self._label(hit))
        assert computer.layers is not None
        if not queries.encoded or self.method.preconditioners or computer.elementwise is not None:
            mine = computer.layers.by_word(calls, encoded, hit.widths[0], computer.elementwise).astype(np.float64)
            return mine @ self._query_vectors(queries, row, step, computer).T
        if step not in self._calls:
            self._calls[step] = computer.query_calls(queries.encoded[row], queries.labels[row], queries.against)
        projection, asked = computer.layers.projection, token_words(queries.encoded[row])
        sides = (calls, token_words(encoded)), (self._calls[step], asked)
        found = factor_terms(projection.blocks, *sides, hit.widths, projection.factors)
        return found * queries.factors[step][row]

    def _query_vectors(
        self, queries: QueryBatch, row: int, step: CheckpointId, computer: GradientComputer
    ) -> Float[np.ndarray, "w p"]:
        """A query's preconditioned vectors by word."""
        if step not in self._vectors:
            split = queries.split(row, step, computer)
            self._vectors[step] = self._preconditioner.vectors(step, split).astype(np.float64)
        return self._vectors[step]

    def _by_embedding(self, queries: QueryBatch, row: int, step: CheckpointId, hit: _Hit) -> Terms:
        """Terms of the word embedding's rows, which meet where both texts have a token; the rest of the score apart."""
        computer = self._loaded.embedding(step)
        if step not in self._rows:
            against = None if queries.against is None else [queries.against]
            self._rows[step] = computer.query([queries.encoded[row]], [queries.labels[row]], against).gradient
        mine, theirs = computer.train([self._encoded(hit)], [self._label(hit)]).gradient.rows, self._rows[step].rows
        assert mine is not None
        assert theirs is not None
        factor = self.search.weighed(step, hit.place) * float(queries.factors[step][row])
        terms = mine.terms(theirs, *hit.widths) * factor
        whole = self.search.terms(step, hit.place, queries.gradients[step].example(row), hit.widths)
        terms[-1, -1] += whole.sum() - terms.sum()
        return terms

    def _by_masking(self, queries: QueryBatch, row: int, step: CheckpointId, hit: _Hit) -> Terms:
        """Terms of what masking a word takes off the gradients; the sum of a row is the change of the score."""
        first = row - row % _TOGETHER
        if self._block is None or self._block[0] is not queries or self._block[1] != first:
            self._block = (queries, first)
            self._masked.clear()
            self._tables.clear()
        if step not in self._masked:
            self._masked[step] = self._masked_queries(queries, first, step)
        if (step, hit.place) not in self._tables:
            self._tables[step, hit.place] = self._masked_products(step, hit)
        (words, table), asked, at = self._tables[step, hit.place], self._masked[step], row - first
        own = _taken_off(words, hit.widths[0]) @ table[:, asked.cuts[at]]
        return own @ _taken_off(asked.words[at], hit.widths[1]).T

    def _masked_products(self, step: CheckpointId, hit: _Hit) -> tuple[Int[np.ndarray, " k"], Float[np.ndarray, "r m"]]:
        """Products of an example, as it is and with each word masked, with those of the queries; and its words."""
        computer, label = self._loaded.at(step), self._label(hit)
        words, texts = masked(self._encoded(hit), _maskable(hit.example, hit.widths[0]), self._mask)
        cuts = [texts[at : at + _BATCH] for at in range(0, len(texts), _BATCH)]
        own = Gradient.stack([computer.train(some, [label] * len(some)).gradient for some in cuts])
        table = products(own, self._masked[step].gradient) * self.search.weighed(step, hit.place)
        if self.method.scales_train:
            norms = self._preconditioner.norms(step, own)
            table *= np.divide(norms[0], norms, out=np.zeros_like(norms), where=norms > 0)[:, None]
        return words, table

    def _masked_queries(self, queries: QueryBatch, first: int, step: CheckpointId) -> _Masked:
        """The queries of a block, each with its words masked."""
        computer, names = self._loaded.at(step), list[Int[np.ndarray, " k"]]()
        cuts, parts, start = list[slice](), list[Gradient](), 0
        for row in range(first, min(first + _TOGETHER, len(queries.encoded))):
            count = _maskable(queries.queries[row], len(queries.words(row)))
            words, texts = masked(queries.encoded[row], count, self._mask)
            for at in range(0, len(texts), _BATCH):
                some = texts[at : at + _BATCH]
                against = None if queries.against is None else [queries.against] * len(some)
                parts.append(computer.query(some, [queries.labels[row]] * len(some), against).gradient)
            names.append(words)
            cuts.append(slice(start, start + len(texts)))
            start += len(texts)
        return _Masked(tuple(names), tuple(cuts), self._preconditioner.query(step, Gradient.stack(parts))[0])

    @property
    def _mask(self) -> int | None:
        """The token that replaces a masked word; None if the tokenizer has none, so that words are deleted."""
        found = getattr(self._loaded.run.tokenizer, "mask_token_id", None)
        return None if found is None else int(found)

    def _encoded(self, hit: _Hit) -> Encoded:
        return self._loaded.encoder.encode([hit.example])[0]

    def _label(self, hit: _Hit) -> int:
        return self.store.plan.labels.stored(hit.example.label)


def masked(encoded: Encoded, words: int, mask: int | None) -> tuple[Int[np.ndarray, " k"], list[Encoded]]:
    """A text, and the text with each of its first `words` words masked everywhere; without a mask token, deleted.

    Args:
        encoded: the text.
        words: number of words that may be masked, such as all but the markup of a chat template.
        mask: the token that replaces the tokens of a word; None to delete them.

    Returns:
        The masked words in order, and one text more than those: the text itself comes first. A word that the model
        does not read is not among them.
    """
    own = encoded.words
    present = np.unique(own[(own >= 0) & (own < words)])
    texts = [encoded]
    for word in present.tolist():
        there = own == word
        if mask is not None:
            texts.append(replace(encoded, ids=np.where(there, mask, encoded.ids)))
            continue
        types = None if encoded.type_ids is None else encoded.type_ids[~there]
        counted = encoded.counted[~there] if len(encoded.counted) == len(there) else encoded.counted
        kept = replace(encoded, ids=encoded.ids[~there], type_ids=types, words=own[~there], counted=counted)
        texts.append(kept if len(kept.ids) else encoded)  # a text of one word has nothing left
    return present, texts


def _maskable(example: Example, words: int) -> int:
    """The words of a text without the markup of a chat template, which is the last one."""
    return words - (example.turns is not None)


def _taken_off(words: Int[np.ndarray, " k"], width: int) -> Float[np.ndarray, "w r"]:
    """From [the text, the text without each word] to [what each word takes off, the rest]."""
    count = len(words)
    made = np.zeros((width + 1, count + 1))
    made[words, 0], made[words, np.arange(1, count + 1)] = 1.0, -1.0
    made[width] = 1.0
    made[width, 0] = 1.0 - count
    return made
