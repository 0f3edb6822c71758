"""Figures against hand-computed cases, closed forms and simulations."""

from dataclasses import replace
from fractions import Fraction
from math import lgamma
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from planted import Ridge, planted
from proponent.errors import InputError
from proponent.evaluate import (
    Estimate,
    Outputs,
    RetrainJob,
    Retrains,
    auc_ndr,
    average_precision,
    bootstrap,
    ceiling,
    flipped,
    lds,
    lds_estimate,
    ndr,
    plan_deletions,
    precision_at,
    ratio,
    recalls,
    reciprocal_ranks,
    roc_auc,
    run_deletions,
    subset_masks,
)
from proponent.evaluate.cancellation import Cancellation, grouped
from proponent.evaluate.controls import best_control, refuse_clashes, with_controls
from proponent.evaluate.deletion import RANDOM, Curve, DeletionResult, random_like, smallest_flip, top
from proponent.evaluate.intervals import student
from proponent.evaluate.lds import ranks, spearman
from proponent.evaluate.measure import _name_of
from proponent.evaluate.metrics import brittleness, deletion_page
from proponent.evaluate.ranking import bootstrap_rows, first_gold

# ten rows; value 3 is shared by a sought row (2) and two others (3, 4)
VALUES = np.array([5.0, 4.0, 3.0, 3.0, 3.0, 2.0, 2.0, 1.0, 1.0, 0.0])
SOUGHT = np.array([1, 0, 1, 0, 0, 1, 0, 0, 0, 0], dtype=bool)


def test_roc_auc_of_ten_rows_with_ties():
    # against the 7 others: row 0 beats 7; row 2 beats 4 and ties 2; row 5 beats 3 and ties 1
    assert roc_auc(VALUES, SOUGHT) == pytest.approx((7 + 5 + 3.5) / 21)
    sklearn = pytest.importorskip("sklearn.metrics")
    assert roc_auc(VALUES, SOUGHT) == pytest.approx(sklearn.roc_auc_score(SOUGHT, VALUES))
    assert average_precision(VALUES, SOUGHT) == pytest.approx(sklearn.average_precision_score(SOUGHT, VALUES))


def test_average_precision_of_ten_rows_with_ties():
    # recall 1/3 at precision 1/1, 1/3 more at 2 of 5, the last at 3 of 7
    assert average_precision(VALUES, SOUGHT) == pytest.approx((1 + 2 / 5 + 3 / 7) / 3)


def test_precision_shares_out_what_is_tied():
    assert precision_at(VALUES, SOUGHT, 1) == 1.0
    assert precision_at(VALUES, SOUGHT, 3) == pytest.approx((1 + 1 / 3) / 3)  # one of the three tied rows
    assert precision_at(VALUES, SOUGHT, 5) == pytest.approx(2 / 5)
    with pytest.raises(InputError, match="k is 11"):
        precision_at(VALUES, SOUGHT, 11)


def test_noise_detection_of_ten_rows_with_ties():
    scores = -VALUES  # low = suspicious
    assert ndr(scores, SOUGHT, 0.1) == pytest.approx(1 / 3)
    assert ndr(scores, SOUGHT, 0.3) == pytest.approx((1 + 1 / 3) / 3)
    assert ndr(scores, SOUGHT, 0.39) == ndr(scores, SOUGHT, 0.3), "whole rows, rounded down"
    # trapezoids of found rows over rows: 0..1: .5; 1..2: 1; 2..5: 1.5 each; 5..7: 2.5 each; 7..10: 3 each
    area = (0.5 + 1 + 3 * 1.5 + 2 * 2.5 + 3 * 3) / 3
    assert auc_ndr(scores, SOUGHT) == pytest.approx(area / (10 - 1.5))


def test_noise_detection_has_its_ends():
    noisy = np.arange(1000) < 200
    assert auc_ndr(np.arange(1000.0), noisy) == pytest.approx(1.0)
    assert auc_ndr(-np.arange(1000.0), noisy) < 0.12
    generator = np.random.default_rng(0)
    found = [auc_ndr(generator.standard_normal(1000), noisy) for _ in range(60)]
    assert np.mean(found) == pytest.approx(500 / 900, abs=0.01)
    assert auc_ndr(np.zeros(1000), noisy) == pytest.approx(500 / 900), "all tied is chance"


def test_tracing_of_ten_rows_with_ties():
    assert first_gold(VALUES, [1]) == 2
    assert first_gold(VALUES, [2]) == 2 + 4 / 2, "one gold of three tied rows: the middle of them"
    assert first_gold(VALUES, [3, 4, 9]) == 2 + 4 / 3
    scores, gold = np.stack([VALUES, VALUES]), [[2], [0, 9]]
    assert reciprocal_ranks(scores, gold).tolist() == [1 / 4, 1.0]
    assert recalls(scores, gold, 3) == pytest.approx([1 / 3, 1 / 2])
    assert recalls(scores, [[0, 1, 5, 6], [9]], 2) == pytest.approx([1.0, 0.0]), "never more than k can be found"
    with pytest.raises(InputError, match="without a gold passage"):
        first_gold(VALUES, [])


def test_rankings_refuse_what_has_no_answer():
    with pytest.raises(InputError, match="both rows to find and other rows"):
        roc_auc(VALUES, np.zeros(10, dtype=bool))
    with pytest.raises(InputError, match="leave skipped rows out"):
        roc_auc(np.where(SOUGHT, np.nan, VALUES), SOUGHT)


def test_rows_are_resampled_by_side():
    low, high = bootstrap_rows(roc_auc, VALUES, SOUGHT)
    assert low < roc_auc(VALUES, SOUGHT) < high <= 1.0


def test_ranks_share_ties_as_scipy_does():
    stats = pytest.importorskip("scipy.stats")
    generator = np.random.default_rng(0)
    first, second = generator.integers(0, 6, (30, 4)).astype(float), generator.standard_normal((30, 4))
    assert ranks(first) == pytest.approx(np.apply_along_axis(stats.rankdata, 0, first))
    expected = [stats.spearmanr(first[:, one], second[:, one]).statistic for one in range(4)]
    assert spearman(first, second) == pytest.approx(expected)
    assert spearman(np.ones((5, 1)), np.arange(5.0)[:, None]).tolist() == [0.0]


def halves(model, count: int = 80, runs: int = 1):
    masks = subset_masks(model.size, count, seed=3)
    found = [[model(np.flatnonzero(one), 100 * run).of(np.zeros(12, int)) for one in masks] for run in range(runs)]
    return masks, np.asarray(found)


def shuffled(scores: np.ndarray, seed: int) -> np.ndarray:
    """What a broken harness would still reward."""
    return np.random.default_rng(seed).permuted(scores, axis=1)


def test_true_effects_reach_the_ceiling_and_shuffled_ones_nothing():
    model = planted(noise=0.3, size=120)
    masks, outputs = halves(model, 120, runs=2)
    top_of = ceiling(outputs)
    mean = outputs.mean(0)
    assert lds(model.effects, masks, mean).mean() >= 0.95 * top_of.value
    shuffled = [np.random.default_rng(seed).permuted(model.effects, axis=1) for seed in range(40)]
    found = np.stack([lds(one, masks, mean).mean() for one in shuffled])
    assert abs(found.mean()) < 2 * found.std(ddof=1) / np.sqrt(40)
    assert lds(-model.effects, masks, mean) == pytest.approx(-lds(model.effects, masks, mean), abs=1e-12)


def test_the_sign_flips_exactly():
    model = planted()
    masks, outputs = halves(model)
    assert (lds(-model.effects, masks, outputs[0]) == -lds(model.effects, masks, outputs[0])).all()


def test_a_known_reliability_is_recovered():
    generator = np.random.default_rng(5)
    for reliability in (0.145, 0.5, 0.8):
        signal = generator.standard_normal((400, 60)) * np.sqrt(reliability)
        noisy = signal + generator.standard_normal((3, 400, 60)) * np.sqrt(1 - reliability)
        found = ceiling(noisy)
        # a rank correlation of normals is 6/pi asin(rho/2), a little below rho
        expected = 6 / np.pi * np.arcsin(reliability / 2)
        assert found.reliability == pytest.approx(expected, abs=0.03)
        assert found.value == pytest.approx(np.sqrt(3 * reliability / (1 + 2 * reliability)), abs=0.03)
        assert spearman(signal, noisy.mean(0)).mean() == pytest.approx(found.value, abs=0.03)


def test_a_ceiling_needs_two_runs_and_lds_needs_subsets():
    with pytest.raises(InputError, match="two retrains"):
        ceiling(np.zeros((1, 10, 3)))
    with pytest.raises(InputError, match="4 subsets are too few"):
        lds(np.zeros((3, 5)), np.ones((4, 5), dtype=bool), np.zeros((4, 3)))
    with pytest.raises(InputError, match="have inconsistent shapes"):
        lds(np.zeros((3, 5)), np.ones((9, 6), dtype=bool), np.zeros((9, 3)))


def test_the_interval_of_lds_takes_subsets_in():
    model = planted(noise=1.0)
    masks, outputs = halves(model, 40)
    found = lds_estimate(model.effects, masks, outputs[0])
    over_queries = bootstrap(lds(model.effects, masks, outputs[0]))
    assert found.low < found.value < found.high
    assert found.high - found.low > over_queries.high - over_queries.low


def test_the_bootstrap_covers_the_truth():
    generator = np.random.default_rng(11)
    hits = {20: 0, 60: 0}
    for _ in range(500):
        for points in hits:
            one = bootstrap(generator.exponential(1.0, points), draws=300, seed=int(generator.integers(2**31)))
            hits[points] += one.low <= 1.0 <= one.high
    assert all(0.90 <= count / 500 <= 0.98 for count in hits.values()), hits


def test_one_point_says_nothing():
    assert bootstrap(np.array([3.0])) == Estimate(3.0, -np.inf, np.inf, 1)
    with pytest.raises(InputError, match="at least one test point"):
        bootstrap(np.array([]))
    assert student(19) == pytest.approx(2.093, abs=0.005)
    assert student(3) == pytest.approx(3.182, rel=0.01)


def test_students_quantile_is_exact():
    # closed forms for 1 and 2 degrees of freedom, and the area under the density for more
    assert student(1) == pytest.approx(np.tan(np.pi * 0.475), rel=1e-12)
    assert student(2) == pytest.approx(0.95 / np.sqrt(2 * 0.975 * 0.025), rel=1e-12)
    for freedom in (3, 4, 5, 9, 19, 59, 400):
        constant = np.exp(lgamma((freedom + 1) / 2) - lgamma(freedom / 2)) / np.sqrt(freedom * np.pi)
        t = np.linspace(0.0, student(freedom), 20_001)
        density = constant * (1 + t**2 / freedom) ** (-(freedom + 1) / 2)
        area = (density[0] + density[-1] + 4 * density[1:-1:2].sum() + 2 * density[2:-1:2].sum()) * t[1] / 3
        assert area == pytest.approx(0.475, abs=1e-11), freedom


def slow_ranks(values: list[float]) -> list[float]:
    """Rank of each value: those below it, and the middle of those equal to it."""
    return [sum(other < one for other in values) + (values.count(one) + 1) / 2 for one in values]


def slow_spearman(ours: list[float], theirs: list[float]) -> float:
    first, second = slow_ranks(ours), slow_ranks(theirs)
    middle = (len(ours) + 1) / 2
    above = sum((one - middle) * (other - middle) for one, other in zip(first, second, strict=True))
    below = sum((one - middle) ** 2 for one in first) * sum((other - middle) ** 2 for other in second)
    return above / below**0.5 if below else 0.0


def slow_auc(suspicion: list[float], wrong: list[bool]) -> Fraction:
    """Over all pairs of a wrong and a right row: 1 where the wrong one is more suspicious, 1/2 where they tie."""
    bad = [value for value, one in zip(suspicion, wrong, strict=True) if one]
    good = [value for value, one in zip(suspicion, wrong, strict=True) if not one]
    wins = sum(Fraction(1) if one > other else Fraction(one == other, 2) for one in bad for other in good)
    return Fraction(wins) / (len(bad) * len(good))


def test_statistics_equal_slow_ones_on_300_cases_with_ties():
    generator = np.random.default_rng(7)
    for _ in range(300):
        size, distinct = int(generator.integers(8, 40)), int(generator.integers(1, 12))
        ours, theirs = generator.integers(0, distinct, (2, size)).astype(float)
        wrong = np.arange(size) < generator.integers(1, size)
        generator.shuffle(wrong)
        assert ranks(ours[:, None])[:, 0].tolist() == slow_ranks(ours.tolist())
        expected = slow_spearman(ours.tolist(), theirs.tolist())
        assert spearman(ours[:, None], theirs[:, None])[0] == pytest.approx(expected, abs=1e-15)
        assert roc_auc(ours, wrong) == float(slow_auc(ours.tolist(), wrong.tolist()))


def test_outputs_that_are_no_numbers_are_refused():
    outputs = np.zeros((9, 3))
    outputs[4, 1] = np.nan
    with pytest.raises(InputError, match="outputs are not finite"):
        lds(np.zeros((3, 5)), np.ones((9, 5), dtype=bool), outputs)


def test_a_ratio_of_means():
    ours, theirs = np.array([2.0, 4.0, 6.0]), np.array([1.0, 2.0, 3.0])
    assert ratio(ours, theirs).value == 2.0
    assert ratio(ours, theirs).low == pytest.approx(2.0)


def test_deletion_of_a_linear_regression_is_the_closed_form(tmp_path):
    generator = np.random.default_rng(2)
    x = generator.standard_normal((40, 5))
    model = Ridge(
        x, x @ generator.standard_normal(5) + generator.standard_normal(40), generator.standard_normal((4, 5))
    )
    inverse = np.linalg.inv(x.T @ x + model.ridge * np.eye(5))
    weights = inverse @ x.T @ model.y
    residual, leverage = model.y - x @ weights, np.einsum("ni,ij,nj->n", x, inverse, x)
    # leaving row i out moves the prediction by -(x' A^-1 x_i) r_i / (1 - h_i)
    effects = (model.queries @ inverse @ x.T) * residual / (1 - leverage)
    plan = plan_deletions({"exact": effects}, [1], [0], None)
    result = run_deletions(plan, Retrains(model, tmp_path, quiet=True), np.zeros(4, int))
    for side in ("helped", "hurt"):
        chosen = [top(effects[query], 1, side)[0] for query in range(4)]
        assert result.curve("exact", side).changes[:, 0] == pytest.approx(-effects[range(4), chosen], abs=1e-6)
    assert result.curve("exact", "helped").auc().value < 0 < result.curve("exact", "hurt").auc().value


def test_a_plan_is_settled_before_anything_is_trained(tmp_path):
    model = planted(queries=3, size=30)
    labels = np.arange(30) % 3
    plan = plan_deletions({"a": model.effects, "b": -model.effects}, [2, 5], [0, 1], labels)
    assert len(plan.deletions) == 3 * 2 * (2 * 2 * 2), "queries x k x (methods x sides x the deletion and its control)"
    again = plan_deletions({"a": model.effects, "b": -model.effects}, [2, 5], [0, 1], labels)
    assert all((one.rows == other.rows).all() for one, other in zip(plan.deletions, again.deletions, strict=True))
    for guided, control in zip(plan.deletions[::2], plan.deletions[1::2], strict=True):
        assert (control.method, control.drawn_for) == (RANDOM, guided.method)
        assert (control.side, control.query, control.k) == (guided.side, guided.query, guided.k)
        assert sorted(labels[control.rows]) == sorted(labels[guided.rows]), "the same class counts"
        assert not set(control.rows) & set(guided.rows)
    result = run_deletions(plan, Retrains(model, tmp_path, quiet=True), np.zeros(3, int))
    a, b = (result.curve(name, "helped").changes for name in "ab")
    assert (a == result.curve("b", "hurt").changes).all()
    assert a == pytest.approx(-np.sort(model.effects)[:, ::-1].cumsum(1)[:, [1, 4]])
    assert (b > 0).all()
    assert result.retrains == len({job.name for job in plan.jobs})
    assert result.noise == 0.0


def test_fewer_rows_than_k_is_refused():
    with pytest.raises(InputError, match="30 rows have a score, fewer than k = 31"):
        plan_deletions({"a": np.zeros((1, 30))}, [31], [0], None)


def test_a_vanishing_class_is_skipped_and_counted(tmp_path):
    model = planted(queries=2, size=20)
    labels = np.array([0] * 18 + [1] * 2)
    scores = np.zeros((2, 20))
    scores[0, 18:] = 1.0  # deleting the top two of query 0 leaves no row of class 1
    plan = plan_deletions({"a": scores}, [1, 2], [0], labels)
    assert plan.skipped == 2, "of the method, and of the control with the same classes"
    result = run_deletions(plan, Retrains(model, tmp_path, quiet=True), "predicted")
    curve = result.curve("a", "helped")
    assert np.isnan(curve.changes).tolist() == [[False, True], [False, False]]
    assert curve.by_query.shape == (1,), "a query with a skipped deletion has no area"
    assert np.isfinite(curve.at(2).value)
    assert result.skipped == 2


def test_brittleness_is_the_smallest_k_that_flips(tmp_path):
    effects = np.full((2, 12), 0.1)
    effects[0, 0], effects[0, 1:] = 1.0, -0.05  # one row carries the prediction of query 0
    from planted import Planted

    model = Planted(effects)
    plan = plan_deletions({"a": effects}, [1, 2, 5], [0], None)
    retrains = Retrains(model, tmp_path, quiet=True)
    flips = flipped(plan, retrains, "a")
    assert smallest_flip(flips) == [1, None]
    assert flips[1].tolist() == [1.0, 0.0]
    curve = run_deletions(plan, retrains, "predicted").curve("a", "helped")
    share, smallest = brittleness(curve)
    assert (share.name, share.value) == ("flipped at k = 5", 0.5)
    assert smallest.value is None, "half of the predictions never flip"
    assert brittleness(replace(curve, changes=curve.changes[:1], flips=curve.flips[:1]))[1].value == 1.0


def test_names_of_controls_are_taken():
    scores = planted(queries=2, size=20).effects
    with pytest.raises(InputError, match="'random' is the name of the control"):
        plan_deletions({"random": scores}, [1], [0], None)
    with pytest.raises(InputError, match="bm25 is the name of a control"):
        with_controls({"a": scores, "bm25": scores}, {"bm25": scores})
    with pytest.raises(InputError, match="names a twice"):
        refuse_clashes(["a", "b", "a"])
    with pytest.raises(InputError, match="loss: it is a control"):
        refuse_clashes(["a", "loss"])


def test_methods_are_compared_over_the_queries_that_both_have():
    flips = np.zeros((4, 1))
    ours = Curve("a", "helped", (1,), np.array([[-3.0], [np.nan], [-2.0], [-2.5]]), flips)
    random = Curve(RANDOM, "helped", (1,), np.array([[-1.0], [-9.0], [np.nan], [-0.5]]), flips, "a")
    result = DeletionResult((ours, replace(ours, side="hurt"), random, replace(random, side="hurt")), 0.1, 9, 2)
    page = deletion_page(result, ["a"], [RANDOM], 4, classes=2)
    assert page.rows[0].verdict.split()[2] == "2.000", "the mean of 3 - 1 and 2.5 - 0.5"


@given(st.integers(0, 2**31), st.integers(1, 20))
def test_random_controls_never_take_a_row_twice(seed: int, k: int):
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 3, 40)
    chosen = generator.choice(40, k, replace=False)
    drawn = random_like(chosen, labels, generator, 40)
    wanted = np.bincount(labels[chosen], minlength=3)
    if (2 * wanted > np.bincount(labels, minlength=3)).any():
        assert len(drawn) == 0, "a class has too few other rows"
        return
    assert len(set(drawn.tolist())) == k
    assert sorted(labels[drawn]) == sorted(labels[chosen])
    assert not set(drawn.tolist()) & set(chosen.tolist())


def test_cancellation_is_one_when_all_agree_and_grows_when_they_do_not():
    generator = np.random.default_rng(0)
    agreeing, opposed = Cancellation(), Cancellation()
    agreeing.add(np.abs(generator.standard_normal((20, 7))))
    assert agreeing.l1 == pytest.approx(1.0)
    assert agreeing.per_parameter == pytest.approx(np.ones(7))
    pairs = generator.standard_normal((10, 7))
    opposed.add(pairs)
    opposed.add(-pairs * (1 - 1e-9))
    assert opposed.l1 > 1e6
    parts = {"a": agreeing, "b": opposed}
    mass = sum(one.absolute.sum() for one in parts.values())
    assert grouped(parts) == pytest.approx(mass / sum(np.abs(one.signed).sum() for one in parts.values()))
    assert agreeing.norm(0.1, np.ones(7)) == pytest.approx(0.1 * agreeing.norms / np.sqrt(7))
    assert agreeing.l2 > agreeing.l1


def test_outputs_turn_logits_into_log_odds():
    logits = np.array([[2.0, -1.0, 0.5], [40.0, 0.0, 0.0]])
    found = Outputs.of_logits(logits, np.array([0, 1]))
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    assert found.probabilities == pytest.approx(p)
    assert found.loss == pytest.approx(-np.log(p[[0, 1], [0, 1]]))
    assert found.of(np.array([0, 1])) == pytest.approx([np.log(p[0, 0] / (1 - p[0, 0])), -40.0], abs=0.8)
    assert found.of(np.array([0, 1]), "loss") == pytest.approx(-found.loss)
    assert found.of(np.array([0, 1]), "probability") == pytest.approx(p[[0, 1], [0, 1]])
    lm = Outputs.of_losses(np.array([0.5, 3.0]))
    assert lm.of(np.array([7, 7]), "loss") == pytest.approx([-0.5, -3.0])


def test_the_best_control_is_found_among_controls():
    assert best_control({"ours": 0.9, "bm25": 0.2, "label": 0.4}, {"bm25": 1, "label": 1, "random": 1}) == "label"
    assert best_control({"ours": 0.9}, {}) is None


def test_a_job_names_its_subset():
    assert RetrainJob(np.array([0, 1, 2]), 0).name != RetrainJob(np.array([0, 1, 3]), 0).name
    assert RetrainJob.without([2], 4, 5).rows.tolist() == [0, 1, 3]


def test_initial_weights_are_named_without_the_place_of_their_folder(tmp_path: Path) -> None:
    folder = tmp_path / "package" / "model"
    assert _name_of(str(folder)) == "package/model"
    assert _name_of("org/model") == "org/model"
