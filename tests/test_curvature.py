"""Second moments: the product is divided once by the root, and an estimate is the mean of squares."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradients import TOKENS, WIDTH, WORDS, numbers, some_rows, table, unhurried
from preconditioning import Options
from proponent.gradients.forms import Rows
from proponent.gradients.gradient import Gradient
from proponent.index.extra_passes import run_pass
from proponent.method import Adam, Gradients
from proponent.preconditioners.adam import Fitter
from proponent.preconditioners.batches import StoredBatch


def fitter(epsilon: float = 1e-8) -> Fitter:
    spec = Adam(epsilon=epsilon)
    return Fitter(spec, Gradients(preconditioners=(spec,)))


def moment(seed: int) -> np.ndarray:
    return numbers(np.random.default_rng(seed), TOKENS, WIDTH) ** 2


def turned(v: np.ndarray, rows: Rows, epsilon: float = 1e-8) -> Rows:
    """What is done to a query's rows."""
    table = {"inverse_root": (1.0 / np.sqrt(v + np.float32(epsilon))).astype(np.float32)}
    made = fitter(epsilon).apply(Gradient(rows=rows), table, (), None).rows
    assert made is not None
    return made


def estimated(batches: list[Rows], epsilon: float = 1e-8) -> np.ndarray:
    """The inverse root of what is estimated."""

    def stored(rows: Rows) -> StoredBatch:
        n = len(rows)
        return StoredBatch(
            Gradient(rows=rows), np.ones(n, dtype=np.bool_), np.zeros(n, dtype=np.int64), None, (TOKENS, WIDTH)
        )

    one = fitter(epsilon)
    (this,) = one.passes(Options(second_moment="estimate"))
    return run_pass(one, this, lambda _: [stored(rows) for rows in batches], {}, ())["inverse_root"]


@unhurried
@given(some_rows(), some_rows(), st.integers(0, 9))
def test_the_turned_product_is_divided_once_by_the_root(rows: Rows, others: Rows, seed: int) -> None:
    v = moment(seed)
    found = rows.example(0).terms(turned(v, others.example(0), 1e-3), WORDS, WORDS).sum()
    truth = (table(rows, 0) * table(others, 0) / np.sqrt(v.astype(np.float64) + 1e-3)).sum()
    assert found == pytest.approx(truth, rel=1e-5, abs=1e-5)
    swapped = turned(v, rows.example(0), 1e-3).terms(others.example(0), WORDS, WORDS).sum()
    assert swapped == pytest.approx(found, rel=1e-5, abs=1e-5)


@unhurried
@given(some_rows(), st.integers(0, 9))
def test_a_turned_self_product_is_not_negative(rows: Rows, seed: int) -> None:
    one = rows.example(0)
    found = one.terms(turned(moment(seed), one), WORDS, WORDS).sum()
    assert found >= 0
    assert (found > 0) == bool(np.abs(table(rows, 0)).sum() > 1e-6)


def test_a_unit_moment_turns_nothing() -> None:
    v = np.ones((TOKENS, WIDTH), dtype=np.float32)
    rows = Rows(np.asarray([0, 2]), np.asarray([1, 3]), np.asarray([0, 1]), numbers(np.random.default_rng(0), 2, WIDTH))
    np.testing.assert_array_equal(turned(v, rows, 1e-30).rows, rows.rows)
    assert turned(v, rows).rows.dtype == np.float32


@unhurried
@given(st.lists(some_rows(), min_size=1, max_size=4))
def test_the_estimate_is_the_mean_over_examples_of_squared_sums(batches: list[Rows]) -> None:
    squares = [table(batch, position) ** 2 for batch in batches for position in range(len(batch))]
    found = 1.0 / estimated(batches, 1e-3).astype(np.float64) ** 2 - 1e-3
    np.testing.assert_allclose(found, np.mean(squares, axis=0), rtol=1e-4, atol=1e-6)
    assert "estimated" in fitter().source(Options(second_moment="estimate"))


def test_an_estimate_of_nothing_is_finite() -> None:
    nothing = Rows(np.asarray([0]), np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros((0, WIDTH), np.float32))
    assert np.isfinite(estimated([nothing])).all()
