"""Second moments: the product is divided once by the root, and an estimate is the mean of squares."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradients import TOKENS, WIDTH, WORDS, numbers, some_rows, table, unhurried
from proponent.curvature import MeanSquares, SecondMoment
from proponent.gradients.forms import Rows


def moment(seed: int, epsilon: float = 1e-8) -> SecondMoment:
    return SecondMoment(numbers(np.random.default_rng(seed), TOKENS, WIDTH) ** 2, epsilon, "made up")


def turned(moment: SecondMoment, rows: Rows) -> Rows:
    """What a search does to a query's rows."""
    return rows.times(moment.inverse_root[rows.ids])


@unhurried
@given(some_rows(), some_rows(), st.integers(0, 9))
def test_the_turned_product_is_divided_once_by_the_root(rows: Rows, others: Rows, seed: int) -> None:
    turn = moment(seed, 1e-3)
    found = rows.example(0).terms(turned(turn, others.example(0)), WORDS, WORDS).sum()
    truth = (table(rows, 0) * table(others, 0) / np.sqrt(turn.v.astype(np.float64) + 1e-3)).sum()
    assert found == pytest.approx(truth, rel=1e-5, abs=1e-5)
    swapped = turned(turn, rows.example(0)).terms(others.example(0), WORDS, WORDS).sum()
    assert swapped == pytest.approx(found, rel=1e-5, abs=1e-5)


@unhurried
@given(some_rows(), st.integers(0, 9))
def test_a_turned_self_product_is_not_negative(rows: Rows, seed: int) -> None:
    one = rows.example(0)
    found = one.terms(turned(moment(seed), one), WORDS, WORDS).sum()
    assert found >= 0
    assert (found > 0) == bool(np.abs(table(rows, 0)).sum() > 1e-6)


def test_a_unit_moment_turns_nothing() -> None:
    turn = SecondMoment(np.ones((TOKENS, WIDTH), dtype=np.float32), 0.0, "made up")
    rows = Rows(np.asarray([0, 2]), np.asarray([1, 3]), np.asarray([0, 1]), numbers(np.random.default_rng(0), 2, WIDTH))
    np.testing.assert_array_equal(turned(turn, rows).rows, rows.rows)
    assert turn.inverse_root.dtype == np.float32


@unhurried
@given(st.lists(some_rows(), min_size=1, max_size=4))
def test_the_estimate_is_the_mean_over_examples_of_squared_sums(batches: list[Rows]) -> None:
    sums = MeanSquares(TOKENS, WIDTH)
    for batch in batches:
        sums.add(batch)
    squares = [table(batch, position) ** 2 for batch in batches for position in range(len(batch))]
    fitted = sums.fitted(1e-8)
    np.testing.assert_allclose(fitted.v, np.mean(squares, axis=0), rtol=1e-4, atol=1e-6)
    assert "estimated" in fitted.source


def test_an_estimate_of_nothing_is_finite() -> None:
    assert np.isfinite(MeanSquares(TOKENS, WIDTH).fitted(1e-8).inverse_root).all()
