"""The published rules on a matrix made by hand, signs included; transforms; what is refused."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proponent.actions import poison_rules
from proponent.actions.poison_rules import RULES, TooFewRowsError, detect
from proponent.actions.poison_transforms import TRANSFORMS, Transform, transformed
from proponent.errors import InputError

PLAIN = np.array([
    [2.0, -1.0, 1.0, 0.5],
    [1.0, -2.0, 2.0, 0.5],
    [3.0, -1.0, 0.0, -0.5],
    [2.0, -2.0, 1.0, 1.5],
    [1.0, -3.0, 2.0, -0.5],
    [3.0, -3.0, 0.0, 1.5],
])  # fmt: skip
"""Scores of 4 rows for 6 queries; I = 2, -2, 1, 0.5."""

INVERTED = np.array([
    [[-2.0, -1.0, 1.0, -0.5]] * 6,
    [[-1.0, -3.0, 0.0, -0.5]] * 6,
])  # fmt: skip
"""The same for two transforms; I' = -2, -1, 1, -.5 and -1, -3, 0, -.5; their mean -1.5, -2, .5, -.5."""


def test_the_rules_of_signs_by_hand():
    same = detect(PLAIN, INVERTED, "same-sign")
    assert same.flagged.tolist() == [False, True, True, False]
    np.testing.assert_allclose(same.strength, [2, 2, 1, 0.5])
    np.testing.assert_allclose(same.change, [3.5, 0, 0.5, 1.0])
    np.testing.assert_allclose(same.suspicion, [-1.5, 2, 0.5, -0.5])
    code = detect(PLAIN, INVERTED, "code-v1")
    assert code.flagged.tolist() == [True, False, False, True]
    np.testing.assert_allclose(code.suspicion, [1.5, -2, -0.5, 0.5])


def test_a_measure_of_logits_flips_the_sign_and_one_of_losses_does_not():
    assert detect(PLAIN, INVERTED, "code-v1", logit=True).flagged.tolist() == [False, False, False, False]
    flipped = detect(-PLAIN, -INVERTED, "code-v1", logit=True)
    np.testing.assert_array_equal(flipped.suspicion, detect(PLAIN, INVERTED, "code-v1").suspicion)
    same = [detect(PLAIN, INVERTED, "same-sign", logit=one).flagged.tolist() for one in (False, True)]
    assert same[0] == same[1]  # equal signs stay equal


def test_votes_of_two_kinds_by_hand(monkeypatch):
    monkeypatch.setattr(poison_rules, "VOTES", 1)
    found = detect(PLAIN, INVERTED, "vote", ["lexicon", "semantic"])
    # changes relative to |I|: 2, .5, 0, 2 (the third row is named) and 1.5, .5, 1, 2 (the second row is named)
    assert found.votes.tolist() == [0, 1, 1, 0]
    assert found.flagged.tolist() == [False, True, True, False]  # one of two kinds is half
    together = detect(PLAIN, INVERTED, "vote", ["lexicon", "lexicon"])
    assert together.votes.tolist() == [0, 0, 1, 0] or together.votes.tolist() == [0, 1, 0, 0]  # .5 and .5: a tie
    np.testing.assert_allclose(found.change, [3.5, 1.0, 0.5, 1.0])


def test_the_ensemble_by_hand():
    found = detect(PLAIN, INVERTED, "ensemble", share=0.25)
    relative = np.array([[2, 0.5, 0, 2], [1.5, 0.5, 1, 2]]) / np.array([1, 1, 1, 1])
    variance = relative.var(0)
    cosine = np.mean([
        [PLAIN[:, row] @ other[:, row] / max(np.linalg.norm(PLAIN[:, row]) * np.linalg.norm(other[:, row]), 1e-8)
         for row in range(4)]
        for other in INVERTED
    ], axis=0)  # fmt: skip
    consistency, small = cosine / (1 + variance), 1 / (1 + relative.mean(0))
    expected = (
        0.3 * (consistency - consistency.mean()) / consistency.std()
        + 0.4 * (small - small.mean()) / small.std()
        + 0.3 * (1 - (variance - variance.min()) / np.ptp(variance))
    )
    np.testing.assert_allclose(found.suspicion, expected, rtol=1e-6)
    assert found.flagged.sum() == 1
    assert found.flagged[expected.argmax()]


def test_a_query_that_a_transform_left_as_it_is_does_not_count():
    used = np.array([[True] * 6, [True, False, False, False, False, False]])
    spoiled = INVERTED.copy()
    spoiled[1, 1:] = 99.0
    found = detect(PLAIN, spoiled, "same-sign", used=used)
    before, after = (PLAIN.mean(0) + PLAIN[0]) / 2, (INVERTED[0, 0] + INVERTED[1, 0]) / 2
    assert found.flagged.tolist() == (before * after > 0).tolist()


@given(st.integers(0, 10_000))
def test_rules_do_not_depend_on_the_order_of_rows(seed: int):
    draw = np.random.default_rng(seed)
    scores, inverted = draw.normal(size=(5, 30)), draw.normal(size=(3, 5, 30))
    order = draw.permutation(30)
    for rule in RULES:
        found, moved = detect(scores, inverted, rule), detect(scores[:, order], inverted[:, :, order], rule)
        np.testing.assert_allclose(found.suspicion[order], moved.suspicion, atol=1e-12)
        np.testing.assert_array_equal(found.flagged[order], moved.flagged)


def test_what_no_rule_can_judge_is_refused():
    with pytest.raises(TooFewRowsError, match="each kind of transform names 20 rows, and there are 4"):
        detect(PLAIN, INVERTED, "vote")
    with pytest.raises(InputError, match="a transform changed no query"):
        detect(PLAIN, INVERTED[:0], "same-sign")
    with pytest.raises(InputError, match="finite numbers"):
        detect(np.where(PLAIN == 3, np.nan, PLAIN), INVERTED, "same-sign")
    with pytest.raises(InputError, match="those of 1 transforms"):
        detect(PLAIN, INVERTED, "same-sign", ["lexicon"])


def test_spread_rows_have_no_figure_and_no_flag():
    wide = detect(PLAIN, INVERTED, "same-sign").spread(np.array([0, 2, 3, 5]), 7)
    assert wide.flagged.tolist() == [False, False, True, True, False, False, False]
    assert np.isnan(wide.strength[[1, 4, 6]]).all()


# Transforms.


def test_every_shipped_transform_changes_a_plain_text():
    kept, notes = transformed(["the film is good and funny", "it is a great story"])
    assert [one.name for one in kept] == list(TRANSFORMS)
    assert notes == []
    assert {one.kind for one in kept} == {"lexicon", "semantic", "structural"}
    assert kept[0].texts[0] == "the film is bad and dull"
    assert kept[1].texts[0] == "the film is not good and funny"


def test_a_transform_that_changes_nothing_is_named_and_left_out():
    own = {"same": Transform("mine", str), "upper": Transform("mine", str.upper)}
    kept, notes = transformed(["abc", "DEF"], own)
    assert [one.name for one in kept] == ["upper"]
    assert kept[0].changed == (True, False)
    assert notes == [
        "the transform 'same' changed none of 2 queries: it is left out",
        "the transform 'upper' left 1 of 2 queries as they are: left out for it",
    ]


def test_a_transform_must_return_a_text():
    with pytest.raises(InputError, match="the transform 'blank' made ' ' of a text"):
        transformed(["abc"], {"blank": Transform("mine", lambda _: " ")})
    with pytest.raises(InputError, match="no transform is given: choose some of opposites"):
        transformed(["abc"], {})
