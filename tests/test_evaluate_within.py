"""LDS within groups, stratified halves and matched random rows, against plain numpy and planted effects."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from planted import planted
from proponent.data import read
from proponent.errors import InputError
from proponent.evaluate import (
    Retrains,
    ceiling,
    lds,
    lds_estimate,
    plan_deletions,
    run_deletions,
    subset_masks,
    within_groups,
)
from proponent.evaluate.deletion import RANDOM
from proponent.evaluate.groups import row_groups
from proponent.evaluate.lds import spearman
from proponent.evaluate.metrics import deletion_page, lds_page
from proponent.types import Example

SIZE, QUERIES = 90, 6
LABELS = np.arange(SIZE) % 3
MASKS = subset_masks(SIZE, 60, seed=2)


def truth(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Effects of rows, with a large part that only the class knows, and what models without noise say."""
    generator = np.random.default_rng(seed)
    effects = generator.standard_normal((QUERIES, SIZE)) + generator.standard_normal((QUERIES, 3))[:, LABELS] * 5
    return effects, MASKS @ effects.T


def test_group_counts_are_regressed_out_as_least_squares_does():
    values = np.random.default_rng(1).standard_normal((60, 4))
    counts = np.stack([MASKS[:, one == LABELS].sum(1) for one in range(3)], axis=1)
    design = np.hstack([np.ones((60, 1)), counts])
    expected = values - design @ np.linalg.lstsq(design, values)[0]
    assert within_groups(values, MASKS, LABELS) == pytest.approx(expected, abs=1e-10)
    effects, outputs = truth()
    sums = MASKS @ effects.T
    parts = [one - design @ np.linalg.lstsq(design, one)[0] for one in (sums, outputs + values[:, :1])]
    assert lds(effects, MASKS, outputs + values[:, :1], LABELS) == pytest.approx(spearman(*parts), abs=1e-9)


@given(st.lists(st.floats(-1e6, 1e6), min_size=3, max_size=3))
def test_a_score_that_knows_only_the_class_says_nothing_within_it(constants: list[float]):
    effects, outputs = truth()
    only = np.tile(np.asarray(constants)[LABELS], (QUERIES, 1))
    assert lds(only, MASKS, outputs, LABELS).tolist() == [0.0] * QUERIES
    noisy = effects + np.random.default_rng(5).standard_normal(effects.shape)
    plain = lds(noisy, MASKS, outputs, LABELS)
    assert lds(noisy + only, MASKS, outputs, LABELS) == pytest.approx(plain, abs=1e-6)


def test_outputs_that_only_class_counts_move_have_no_ceiling_within():
    outputs = MASKS @ np.tile(np.array([1.0, -2.0, 0.5])[LABELS], (QUERIES, 1)).T
    assert lds(truth()[0], MASKS, outputs, LABELS).tolist() == [0.0] * QUERIES
    assert ceiling(np.stack([outputs, outputs])).value == pytest.approx(1.0)
    assert ceiling(np.stack([outputs, outputs]), MASKS, LABELS).value == 0.0


def test_true_effects_reach_the_ceiling_and_a_flipped_sign_its_negative():
    effects, outputs = truth()
    assert ceiling(np.stack([outputs, outputs]), MASKS, LABELS).value == pytest.approx(1.0)
    noisy = outputs + 3 * np.random.default_rng(3).standard_normal((2, *outputs.shape))
    top, found = ceiling(noisy, MASKS, LABELS), lds(effects, MASKS, noisy.mean(0), LABELS)
    assert top.value < ceiling(noisy).value, "class counts are the easy part"
    assert found.mean() >= 0.95 * top.value
    assert lds(-effects, MASKS, noisy.mean(0), LABELS) == pytest.approx(-found)
    estimate = lds_estimate(effects, MASKS, noisy.mean(0), groups=LABELS, draws=200)
    assert estimate.low < found.mean() < estimate.high


def test_halves_can_have_fixed_class_counts():
    labels = np.array([0] * 41 + [1] * 20 + [2])
    masks = subset_masks(62, 30, seed=4, groups=labels)
    assert [np.unique(masks[:, labels == one].sum(1)).tolist() for one in range(3)] == [[20], [10], [1]]
    assert len(np.unique(masks, axis=0)) == 30
    assert (subset_masks(62, 1, seed=4, groups=labels)[0] == masks[0]).all(), "the half that is timed is the first"
    scores = np.random.default_rng(0).standard_normal((2, 62))
    outputs = masks @ scores.T
    assert lds(scores, masks, outputs, labels) == pytest.approx([1.0, 1.0])
    with pytest.raises(InputError, match="61 rows have a group"):
        subset_masks(62, 2, groups=labels[1:])


def test_too_few_subsets_for_many_groups_are_refused_and_noted():
    effects, outputs = truth()
    many = np.arange(SIZE) // 2
    with pytest.raises(InputError, match="too few to correct for the counts of 45 groups: use at least 54"):
        lds(effects, MASKS[:50], outputs[:50], many)
    page = lds_page({"a": effects}, {"r": -effects}, MASKS[:50], outputs[None, :50], groups=many, grouping="source")
    assert [one.name for one in page.rows[0].figures] == ["LDS", "of ceiling"]
    assert any("LDS within source is missing" in note for note in page.notes)
    with pytest.raises(InputError, match="pass masks"):
        ceiling(np.stack([outputs, outputs]), groups=LABELS)


def test_the_page_shows_both_and_judges_within_the_class():
    effects, outputs = truth()
    label = np.where(LABELS[None, :] == 0, 1.0, -1.0) * np.sign(effects[:, :1])
    noisy = outputs + np.random.default_rng(3).standard_normal((2, *outputs.shape))
    page = lds_page({"true": effects}, {"label": label}, MASKS, noisy, groups=LABELS)
    assert page.columns == ("LDS", "of ceiling", "LDS within class", "of ceiling within class")
    rows = {one.method: one for one in page.rows}
    assert [rows["label"].figures[place].value for place in (2, 3)] == [0.0, 0.0]
    assert rows["true"].verdict.startswith("yes (label within class: ")
    assert {"noise ceiling", "noise ceiling within class"} <= dict(page.facts).keys()
    assert "| LDS within class |" in page.markdown()


def test_language_models_are_grouped_by_format_or_length():
    plain = [Example(str(row), row, "x" * (row + 1)) for row in range(8)]
    name, groups = row_groups("auto", plain, None, plain)
    assert (name, np.bincount(groups).tolist()) == ("length quartile", [2, 2, 2, 2])
    mixed = [*plain, Example("8", 8, "x", target="y")]
    name, groups = row_groups("auto", mixed, None, mixed)
    assert (name, groups.tolist()) == ("format", [0] * 8 + [1])
    assert row_groups("auto", plain, np.arange(8) % 2, plain)[0] == "class"
    for sources, wanted in ((["web"] * 8, "length quartile"), (["web", "wiki"] * 4, "source")):
        data = read([{"text": "x" * (row + 1), "source": source} for row, source in enumerate(sources)])
        assert row_groups("auto", [*data], None, data)[0] == wanted
    with pytest.raises(InputError, match="this run predicts no classes"):
        row_groups("class", plain, None, plain)
    with pytest.raises(InputError, match="has no source column"):
        row_groups("source", plain, None, plain)


def test_every_method_side_and_k_has_its_own_random_rows(tmp_path):
    model = planted(queries=5, size=SIZE)
    scores = {"a": model.effects, "b": np.tile(np.where(LABELS == 1, 2.0, 0.0), (5, 1)) + model.effects}
    plan = plan_deletions(scores, [4, 9], [0], LABELS)
    draws = [one for one in plan.deletions if one.method == RANDOM]
    assert len({one.rows.tobytes() for one in draws}) == len(draws) == 5 * 2 * 2 * 2
    assert all((LABELS[one.rows] == 1).all() for one in draws if (one.drawn_for, one.side) == ("b", "helped"))
    again = plan_deletions({"b": scores["b"]}, [9], [0], LABELS)
    assert {one.rows.tobytes() for one in again.deletions} <= {one.rows.tobytes() for one in plan.deletions}
    result = run_deletions(plan, Retrains(model, tmp_path, quiet=True), np.zeros(5, int))
    expected = result.curve("a", "helped").changes.mean(1) - result.matched("a", "helped").changes.mean(1)
    assert result.minus_random("a", "helped") == pytest.approx(expected)
    assert expected.mean() < 0 < result.minus_random("a", "hurt").mean()
    page = deletion_page(result, ["a", "b"], [RANDOM], 5, classes=2)
    assert page.columns[-2:] == ("helped less random rows", "hurt less random rows")
    assert page.rows[0].figures[-2].value == pytest.approx(expected.mean())


def test_a_class_with_too_few_other_rows_has_no_control_and_that_is_said(tmp_path):
    model = planted(queries=2, size=20)
    labels = np.array([0] * 15 + [1] * 5)
    scores = np.tile(np.arange(20.0), (2, 1))  # the four strongest are of class 1, which has one other row
    plan = plan_deletions({"a": scores}, [4], [0], labels)
    assert (plan.unmatched, plan.skipped) == (2, 0)
    result = run_deletions(plan, Retrains(model, tmp_path, quiet=True), np.zeros(2, int))
    assert np.isfinite(result.curve("a", "helped").changes).all(), "the deletion itself is measured"
    page = deletion_page(result, ["a"], [RANDOM], 2, classes=2)
    assert dict(page.facts)["without random rows"] == "2 deletions: a class has too few other rows"
    assert page.rows[0].figures[-2].value is None
