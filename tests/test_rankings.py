"""Rankings are exact: whatever computes them, in whatever pieces, gives the same list to the last bit."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from generated import Made, asked, make, queries
from proponent.errors import InputError, LabelError
from proponent.search import Search, Where
from proponent.search.kernels import kernel_of, numpy_kernel
from proponent.search.ranking import BothEnds
from proponent.store import Store, delete, merge
from proponent.types import CheckpointId

N, COUNT, K = 300, 5, 7

Block = dict[CheckpointId, Any]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return make(tmp_path_factory.mktemp("made") / "index", N, segment=64)


@pytest.fixture(scope="module")
def block() -> Block:
    return queries(np.random.default_rng(77), COUNT)


@pytest.fixture(scope="module")
def truth(made: Made, block: Block) -> np.ndarray:
    return made.oracle(block)


def ends_of(scores: np.ndarray, k: int) -> tuple[list[int], list[int]]:
    """Both ends by sorting everything; ties to the first in the data."""
    valid = np.flatnonzero(np.isfinite(scores))
    helped = [int(one) for one in valid[np.lexsort((valid, -scores[valid]))] if scores[one] > 0][:k]
    hurt = [int(one) for one in valid[np.lexsort((valid, scores[valid]))] if scores[one] < 0][:k]
    return helped, hurt


def told(search: Search, block: Block, k: int = K, **options: Any) -> list[tuple[list[Any], ...]]:
    found = search.top(asked(block), len(next(iter(block.values()))), k, **options)
    return [
        (one.proponents.tolist(), one.proponent_scores.tolist(), one.opponents.tolist(), one.opponent_scores.tolist())
        for one in found
    ]


def test_the_ends_are_those_of_the_oracle(made: Made, block: Block, truth: np.ndarray) -> None:
    for row, (helped, scores, hurt, _) in enumerate(told(Search(Store(made.folder)), block)):
        assert (helped, hurt) == ends_of(truth[row], K)
        np.testing.assert_allclose(scores, truth[row, helped], rtol=1e-12)


@pytest.mark.parametrize("prune", [True, False])
@pytest.mark.parametrize("kernel", ["numpy", "numba"])
@pytest.mark.parametrize("threads", [1, 4])
def test_nothing_changes_a_bit(made: Made, block: Block, prune: bool, kernel: Any, threads: int) -> None:
    expected = told(Search(Store(made.folder), threads=1), block)
    search = Search(Store(made.folder), kernel=kernel, threads=threads, prune=prune)
    assert told(search, block) == expected
    single = [told(search, {step: own.example(row) for step, own in block.items()})[0] for row in range(COUNT)]
    assert single == expected


@pytest.mark.parametrize(("segment", "n"), [(1, 48), (13, N), (10**6, N)])
def test_segments_change_no_bit(made: Made, block: Block, tmp_path: Path, segment: int, n: int) -> None:
    whole = made if n == N else make(tmp_path / "whole", n, segment=64)
    other = make(tmp_path / "index", n, segment=segment)
    assert told(Search(Store(other.folder)), block) == told(Search(Store(whole.folder)), block)


def test_copies_stand_in_data_order(made: Made, block: Block, truth: np.ndarray) -> None:
    ties = 0
    for row, (helped, scores, *_) in enumerate(told(Search(Store(made.folder)), block, k=N)):
        for one, two, first, second in zip(helped, helped[1:], scores, scores[1:], strict=False):
            ties += first == second
            assert first > second or one < two
        assert helped == ends_of(truth[row], N)[0]
    assert ties > 10, "the made-up data holds copies"


def test_scores_are_those_of_the_oracle(made: Made, block: Block, truth: np.ndarray) -> None:
    for kernel in ("numpy", "numba"):
        found = Search(Store(made.folder), kernel=kernel).scores(asked(block), COUNT)
        np.testing.assert_array_equal(np.isnan(found), np.isnan(truth))
        np.testing.assert_allclose(found, truth, rtol=0, atol=1e-6 * np.nanmax(np.abs(truth)))


def test_pruning_reads_less_and_says_so(tmp_path: Path) -> None:
    made = make(tmp_path / "index", 4000, segment=1000, shard=500, seed=5)
    block = queries(np.random.default_rng(6), 1)
    pruned, full = Search(Store(made.folder), threads=1), Search(Store(made.folder), threads=1, prune=False)
    assert told(pruned, block, k=3) == told(full, block, k=3)
    assert full.counter.postings_skipped == 0
    assert pruned.counter.postings_read < full.counter.postings_read / 2
    assert pruned.counter.postings_read + pruned.counter.postings_skipped >= full.counter.postings_read


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_ends_keep_what_a_sort_would_give(data: st.DataObject) -> None:
    """Any order of arrival, any pieces, any errors within their bounds."""
    scores = np.asarray(data.draw(st.lists(st.integers(-6, 6), min_size=1, max_size=40)), dtype=np.float64)
    k = data.draw(st.integers(1, 8))
    errors = np.asarray(
        data.draw(st.lists(st.sampled_from([0.0, 0.5, 3.0]), min_size=len(scores), max_size=len(scores)))
    )
    shift = np.asarray(data.draw(st.lists(st.floats(-1, 1), min_size=len(scores), max_size=len(scores))))
    seen = scores + shift * errors
    order = np.asarray(data.draw(st.permutations(range(len(scores)))))
    ends = BothEnds(k)
    cut = data.draw(st.integers(0, len(scores)))
    for part in (order[:cut], order[cut:]):
        ends.add(part, seen[part], errors[part])
    ranking = ends.ranking(lambda example: float(scores[example]))
    assert (ranking.proponents.tolist(), ranking.opponents.tolist()) == ends_of(scores, k)


@settings(max_examples=1000, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_numba_adds_up_as_numpy_does(seed: int) -> None:
    generator = np.random.default_rng(seed)
    rows, width, count, n = (int(generator.integers(low, high)) for low, high in ((0, 60), (1, 40), (1, 6), (1, 30)))
    owners = np.sort(generator.integers(0, n, rows)).astype(np.int32)
    kind = generator.choice(["fp32", "fp16", "int8"])
    kept = generator.standard_normal((rows, width)).astype(np.float32)
    scale = None if kind == "fp32" else generator.random(rows).astype(np.float32)
    kept = {"fp32": kept, "fp16": kept.astype(np.float16), "int8": (kept * 40).clip(-127, 127).astype(np.int8)}[kind]
    asked_rows = generator.standard_normal((count, width)).astype(np.float32)
    columns = generator.permutation(count + 1)[:count].astype(np.int64)
    one, two = np.zeros((count + 1, n)), np.zeros((count + 1, n))
    numpy_kernel(one, owners, kept, scale, asked_rows, columns)
    kernel_of("numba")(two, owners, kept, scale, asked_rows, columns)
    norms = np.linalg.norm(kept.astype(np.float64), axis=1) * (1.0 if scale is None else scale)
    unit = float(norms.sum() * np.linalg.norm(asked_rows, axis=1).max())  # what rounding is measured against
    np.testing.assert_allclose(two, one, rtol=0, atol=1e-6 * unit)


def test_filters_are_inside_the_search(made: Made, block: Block, truth: np.ndarray) -> None:
    store = Store(made.folder)
    labels, sources, ids = (np.asarray(store.examples[name]) for name in ("label", "source", "id"))
    wanted = [f"e{number}" for number in range(0, N, 3)]
    cases = {
        Where(labels=("a",)): labels == "a",
        Where(sources=("odd",)): sources == "odd",
        Where(ids=tuple(wanted)): np.isin(ids, wanted),
        Where(labels=("a", "c"), sources=("even",)): np.isin(labels, ["a", "c"]) & (sources == "even"),
    }
    for where, allowed in cases.items():
        where.check(store)
        for row, (helped, _, hurt, _) in enumerate(told(Search(store), block, where=where)):
            assert (helped, hurt) == ends_of(np.where(allowed, truth[row], np.nan), K), where


@pytest.mark.parametrize(
    ("where", "error", "message"),
    [
        (Where(labels=("d",)), LabelError, r"unknown class 'd'"),
        (Where(sources=("web",)), InputError, r"no training example .* has the source 'web'"),
        (Where(ids=("e1", "x")), InputError, r"no training example .* has the id 'x'"),
    ],
)
def test_a_filter_that_finds_nothing_is_refused(made: Made, where: Where, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        where.check(Store(made.folder))


def test_deleted_examples_are_no_hits_and_merging_changes_nothing(
    block: Block, tmp_path: Path, truth: np.ndarray
) -> None:
    made = make(tmp_path / "index", N, segment=64)
    gone = np.asarray(sorted({one for scores in truth for one in ends_of(scores, 2)[0]}))
    delete(made.folder, gone)
    left = truth.copy()
    left[:, gone] = np.nan
    before = told(Search(Store(made.folder)), block)
    for row, (helped, _, hurt, _) in enumerate(before):
        assert (helped, hurt) == ends_of(left[row], K)
    merge(made.folder)
    store = Store(made.folder)
    assert len(store.segments) == 1
    numbers = np.delete(np.arange(N), gone)
    after = told(Search(store), block)
    assert [(numbers[helped].tolist(), scores) for helped, scores, *_ in after] == [
        (helped, scores) for helped, scores, *_ in before
    ]


@pytest.mark.parametrize(("kind", "error"), [("fp16", 2e-3), ("int8", 3e-2)])
def test_shorter_rows_are_searched_exactly_as_they_are_kept(
    made: Made, block: Block, truth: np.ndarray, tmp_path: Path, kind: Any, error: float
) -> None:
    other = make(tmp_path / "index", N, segment=64, rows=kind)
    for name in ("numpy", "numba"):
        search = Search(Store(other.folder), kernel=name)
        scores = search.scores(asked(block), COUNT)
        assert 0 < np.nanmax(np.abs(scores - truth)) < error * np.nanmax(np.abs(truth))
        assert told(search, block) == told(Search(Store(other.folder), prune=False), block)
