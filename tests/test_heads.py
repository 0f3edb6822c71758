"""Scans of a vocabulary head: the queries' factors in blocks of memory give what their whole tables give."""

import tracemalloc
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from gradients import numbers
from proponent.gradients.forms import Rows
from proponent.gradients.gradient import Gradient
from proponent.gradients.vocabulary_head import HeadOuter, LastOuter, VocabularyHead
from proponent.search import vocabulary_heads
from proponent.search.kernels import kernel_of
from proponent.store import Segment
from proponent.types import CheckpointId

VOCABULARY, WIDTH = 200, 16


class Kept(Segment):
    """A segment of one shard, in memory."""

    def __init__(self, gradient: Gradient) -> None:
        self.n, self._arrays = len(gradient), gradient.pack()

    def shards(
        self, at: CheckpointId, names: tuple[str, ...] | None = None
    ) -> Iterator[tuple[np.ndarray, dict[str, np.ndarray]]]:
        assert at
        wanted = self._arrays if names is None else [name for name in names if name in self._arrays]
        yield np.arange(self.n), {name: self._arrays[name] for name in wanted}


def made(random: np.random.Generator, count: int, each: int) -> Gradient:
    """Examples with as many rows as positions; the last one has neither."""
    indptr = np.minimum(np.arange(count + 1), count - 1) * each
    size = int(indptr[-1])
    words = np.zeros(size, dtype=np.int64)
    ids, target = (random.integers(0, VOCABULARY, size) for _ in range(2))
    rows = Rows(indptr, ids, words, numbers(random, size, WIDTH))
    head = HeadOuter(indptr, words, numbers(random, size, WIDTH), target, numbers(random, size, 1)[:, 0])
    return Gradient(rows, None, head, None)


def test_memory_does_not_grow_with_a_shard_times_the_queries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vocabulary_heads, "BLOCK_BYTES", 2**18)
    random = np.random.default_rng(0)
    kept, queries = made(random, 401, 10), made(random, 65, 15)
    head = VocabularyHead(numbers(random, VOCABULARY, WIDTH), None)
    segment, kernel = Kept(kept), kernel_of(None)
    tracemalloc.start()
    found = vocabulary_heads.scan_head(segment, CheckpointId(0, 1), head, queries, kernel)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 * 2**20  # 4,000 rows by 960 positions in one piece: 15 MB, and several such pieces
    monkeypatch.setattr(vocabulary_heads, "_few_positions", lambda *_: False)
    truth = vocabulary_heads.scan_head(segment, CheckpointId(0, 1), head, queries, kernel)
    np.testing.assert_allclose(found, truth, rtol=1e-5, atol=1e-5 * np.abs(truth).max())
    assert not found[-1].any()
    assert not found[:, -1].any()


def test_a_kept_factor_is_that_of_the_gradient_that_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(5)
    table, other = (made(random, 4, 3).head for _ in range(2))
    assert table is not None
    assert other is not None
    head, kept = VocabularyHead(numbers(random, VOCABULARY, WIDTH)), LastOuter()
    computed: list[int] = []
    plain = HeadOuter.outer
    monkeypatch.setattr(HeadOuter, "outer", lambda self, head: computed.append(1) or plain(self, head))
    one_word = replace(table.example(1), words=table.example(1).words + 7)
    for form in (table.example(0), table.example(1), one_word, table.example(1), other.example(1), table.example(3)):
        found, wanted = kept.of(form, head), plain(form, head)
        for name in ("indptr", "words", "a", "g"):
            np.testing.assert_array_equal(getattr(found, name), getattr(wanted, name))
    assert len(computed) == 4, "the same example is computed once, whatever its words are called"
    small = LastOuter(1)
    for _ in range(2):
        small.of(table.example(0), head)
    assert len(computed) == 6, "a large factor is not held"
