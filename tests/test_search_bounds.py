"""Bounds that let a search leave examples out: never below the true scores, whatever the rows are."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file

from generated import STEPS, Made, asked, make, queries
from proponent.errors import DamagedError
from proponent.search import Search
from proponent.search.join import BlockJoin, by_token, match_tokens
from proponent.search.kernels import numpy_kernel
from proponent.store import Segment, Store
from proponent.store.layout import Layout
from proponent.store.mapped import MappedTensors
from proponent.store.postings import Postings, write_postings

N, COUNT, K = 200, 3, 4


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return make(tmp_path_factory.mktemp("made") / "index", N, segment=64)


def meeting(segment: Segment, store: Store, block: dict[Any, Any]) -> BlockJoin:
    parts = []
    for one in store.plan.checkpoints:
        postings = segment.postings(one.id)
        assert postings is not None
        parts.append(match_tokens(postings, by_token(block[one.id].wide().merged(by_word=False)), one.weight, None))
    return BlockJoin(parts, np.ones(segment.n, dtype=np.bool_), COUNT, numpy_kernel)


def rewritten(path: Path, change: Callable[[dict[str, np.ndarray]], None], n: int) -> Postings:
    """Postings of the same rows in another file, with other arrays."""
    from proponent.store.files import publish_tensors

    arrays = load_file(path)
    change(arrays)
    other = path.with_name("other.safetensors")
    publish_tensors(other, arrays)
    return Postings(MappedTensors(other), n)


def without_totals(arrays: dict[str, np.ndarray]) -> None:
    del arrays["totals"]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.lists(st.floats(0.0, 1.5), min_size=COUNT, max_size=COUNT))
def test_no_score_is_above_its_bound(made: Made, seed: int, shares: list[float]) -> None:
    block = queries(np.random.default_rng(seed), COUNT)
    store = Store(made.folder)
    for segment in store.segments:
        joined = meeting(segment, store, block)
        scores = np.zeros((COUNT, segment.n))
        joined.add_scores(scores)
        scores = np.abs(scores)
        quick = joined.quick_bounds()
        assert quick is not None
        assert (scores <= quick * (1.0 + joined.error)).all()
        bars = np.asarray(shares) * scores.max(1)
        joined.__dict__["stream_cost"] = np.inf  # bounds are computed whatever they cost
        close = joined.bounds(bars)
        assert close is not None
        below = close * (1.0 + joined.error) < scores
        assert (scores[below] < np.broadcast_to(bars[:, None], scores.shape)[below]).all()
        full = joined.bounds(np.zeros(COUNT))
        assert full is not None
        assert (full <= quick * (1.0 + 1e-6)).all(), "bounds by rows are closer than those by whole gradients"
        assert (scores <= full * (1.0 + joined.error)).all()


def test_totals_are_the_norms_of_gradients_and_a_little_more(made: Made) -> None:
    store = Store(made.folder)
    for step in STEPS:
        for segment in store.segments:
            postings = segment.postings(step)
            assert postings is not None
            assert postings.totals is not None
            for place in range(segment.n):
                own = made.rows[step].example(segment.offset + place)
                norms = np.linalg.norm(own.rows.astype(np.float64), axis=1)
                sums = [norms[own.ids == token].sum() for token in np.unique(own.ids)]
                expected = float(np.sqrt(np.square(sums).sum()))
                merged = [own.rows[own.ids == token].astype(np.float64).sum(0) for token in np.unique(own.ids)]
                true = float(np.linalg.norm(np.asarray(merged))) if merged else 0.0
                assert true <= postings.totals[place] <= expected * (1.0 + 1e-5) + 1e-30


def test_postings_without_totals_give_the_same_rankings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As earlier versions wrote them."""
    made = make(tmp_path / "index", N, segment=64)
    block = asked(queries(np.random.default_rng(3), COUNT))
    expected = [one.proponents.tolist() for one in Search(Store(made.folder)).top(block, COUNT, K)]
    monkeypatch.setattr(Postings, "totals", None)
    store = Store(made.folder)
    assert meeting(store.segments[0], store, queries(np.random.default_rng(3), COUNT)).quick_bounds() is None
    assert [one.proponents.tolist() for one in Search(store).top(block, COUNT, K)] == expected
    old = rewritten(Layout(made.folder).postings(STEPS[0], "00000"), without_totals, 64)
    monkeypatch.undo()
    assert old.totals is None


def test_totals_of_another_number_of_examples_are_refused(made: Made) -> None:
    path = Layout(made.folder).postings(STEPS[0], "00000")

    def cut(arrays: dict[str, np.ndarray]) -> None:
        arrays["totals"] = arrays["totals"][:-1]

    with pytest.raises(DamagedError, match="totals are not of 64 examples"):
        rewritten(path, cut, 64)


def test_examples_without_rows_have_bounds_of_nothing(tmp_path: Path) -> None:
    def shards(names: tuple[str, ...]) -> Any:
        arrays = {
            "rows.indptr": np.asarray([0, 0, 0]),
            "rows.ids": np.zeros(0, dtype=np.int64),
            "rows.words": np.zeros(0, dtype=np.int64),
            "rows.rows": np.zeros((0, 4), dtype=np.float32),
        }
        yield np.arange(2), {name: arrays[name] for name in names if name in arrays}

    write_postings(tmp_path / "none.safetensors", 2, shards)
    empty = Postings(MappedTensors(tmp_path / "none.safetensors"), 2)
    assert len(empty) == 0
    assert empty.totals is not None
    assert empty.totals.tolist() == [0.0, 0.0]


def test_a_few_large_gradients_are_found_without_reading_the_others(tmp_path: Path) -> None:
    """Once a threshold is known, whole gradients decide, and rows of the others are not read."""
    made = make(tmp_path / "index", 6_000, segment=1_500, shard=500, seed=5)
    block = asked(queries(np.random.default_rng(6), 1))
    pruned, full = Search(Store(made.folder), threads=1), Search(Store(made.folder), threads=1, prune=False)
    told = [
        [one.proponents.tolist(), one.opponents.tolist()]
        for search in (pruned, full)
        for one in search.top(block, 1, 1)
    ]
    assert told[0] == told[1]
    assert pruned.counter.postings_read < full.counter.postings_read / 4
