"""Weights of unlabelled rows: closed forms against autograd and dense solves, planted faults, controls."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import runs
import tiny
from proponent.actions.unlabelled_weights import (
    HIGHEST,
    Rows,
    WeighSettings,
    compare,
    gradients,
    influence_weights,
    predicted,
    solved,
    weigh,
)
from proponent.errors import InputError


def rows(seed: int, count: int, classes: int = 3, width: int = 5, spread: float = 1.0) -> Rows:
    """Classes around fixed centres."""
    draw = np.random.default_rng(seed)
    labels = draw.integers(classes, size=count)
    centres = np.random.default_rng(99).normal(size=(classes, width)) * 1.5
    return Rows(centres[labels] + spread * draw.normal(size=(count, width)), labels)


def spoiled(good: Rows, share: float, seed: int) -> tuple[Rows, np.ndarray]:
    """A share of the rows gets the next class: systematically wrong."""
    bad = np.random.default_rng(seed).random(len(good)) < share
    return Rows(good.features, np.where(bad, (good.labels + 1) % 3, good.labels)), bad


def losses(head: torch.Tensor, some: Rows) -> torch.Tensor:
    wide = torch.as_tensor(np.concatenate([some.features, np.ones((len(some), 1))], axis=1))
    return torch.nn.functional.cross_entropy(wide @ head, torch.as_tensor(some.labels), reduction="none")


def inner(head: torch.Tensor, known: Rows, guessed: Rows, weights: torch.Tensor, ridge: float) -> torch.Tensor:
    own = losses(head, known).mean() + (weights * losses(head, guessed)).mean()
    return own + ridge / 2 * head.square().sum()


def test_the_gradient_of_a_row_is_that_of_autograd():
    some, head = rows(0, 4), np.random.default_rng(1).normal(size=(6, 3))
    wide, errors = gradients(head, some)
    for at in range(4):
        variable = torch.tensor(head, requires_grad=True)
        losses(variable, some)[at].backward()
        np.testing.assert_allclose(np.outer(wide[at], errors[at]), variable.grad.numpy(), atol=1e-12)


def test_the_solve_is_that_with_the_dense_hessian():
    known, guessed, asked = rows(0, 9), rows(1, 20), rows(2, 7)
    head, weights = np.random.default_rng(3).normal(size=(6, 3)) * 0.3, np.random.default_rng(4).random(20) * 2
    found = solved(head, known, guessed, weights, asked, 0.1)
    flat = torch.tensor(head.ravel(), requires_grad=True)

    def total(vector: torch.Tensor) -> torch.Tensor:
        return inner(vector.reshape(6, 3), known, guessed, torch.as_tensor(weights), 0.1)

    hessian = torch.autograd.functional.hessian(total, flat)
    (slope,) = torch.autograd.grad(losses(flat.reshape(6, 3), asked).mean(), flat)
    np.testing.assert_allclose(found.ravel(), torch.linalg.solve(hessian, slope).numpy(), rtol=1e-5, atol=1e-8)


def test_the_influence_is_the_derivative_of_the_validation_loss():
    known, guessed, asked = rows(0, 9), rows(1, 20), rows(2, 30)

    def validation_loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
        head = torch.zeros((6, 3), dtype=torch.float64, requires_grad=True)
        optimizer = torch.optim.LBFGS([head], max_iter=500, tolerance_grad=1e-12, tolerance_change=1e-16)

        def step() -> torch.Tensor:
            optimizer.zero_grad()
            loss = inner(head, known, guessed, torch.as_tensor(weights), 0.1)
            loss.backward()
            return loss

        optimizer.step(step)
        return float(losses(head.detach(), asked).mean()), head.detach().numpy()

    weights = np.ones(20)
    _, head = validation_loss(weights)
    direction = solved(head, known, guessed, weights, asked, 0.1)
    wide, errors = gradients(head, guessed)
    predicted_slopes = -((wide @ direction) * errors).sum(1) / 20
    for at in range(0, 20, 5):
        moved = [validation_loss(weights + sign * 1e-3 * (np.arange(20) == at))[0] for sign in (1, -1)]
        assert predicted_slopes[at] == pytest.approx((moved[0] - moved[1]) / 2e-3, rel=0.05)


FAST = WeighSettings(steps=300, warm_up=50)


def test_wrong_guesses_get_small_weights_and_the_head_gets_better():
    labelled, validation, test = rows(0, 30), rows(1, 60), rows(2, 400)
    guessed, bad = spoiled(rows(3, 600), 0.4, 4)
    page, weights = weigh(labelled, guessed, validation, test, FAST, seeds=2, quiet=True)
    assert weights[bad].mean() < 0.8 * weights[~bad].mean()
    assert ((weights >= 0) & (weights <= HIGHEST)).all()
    ours, *controls = page.rows
    assert not ours.control
    assert [one.method for one in controls] == [
        "one tuned weight", "all weights 1", "no unlabelled rows", "one tuned weight, validation rows added"
    ]  # fmt: skip
    assert ours.figures[0].value > controls[1].figures[0].value + 0.02
    assert "at a bound" in dict(page.facts)["weights"]


def test_right_guesses_lose_nothing():
    labelled, validation, test = rows(0, 30), rows(1, 60), rows(2, 400)
    page, weights = weigh(labelled, rows(3, 600), validation, test, FAST, seeds=2, quiet=True)
    values = {one.method: one.figures[0].value for one in page.rows}
    assert values["one weight per row"] > values["all weights 1"] - 0.01
    assert 0.6 < weights.mean() < 1.6


def test_rows_that_no_step_drew_keep_their_weight():
    settings = replace(FAST, steps=60, batch_size=2, ratio=1)
    weights = influence_weights(rows(0, 9), rows(1, 500), rows(2, 20), settings)
    assert 0 < (weights != 1).sum() <= 4
    assert (influence_weights(rows(0, 9), rows(1, 500), rows(2, 20), replace(FAST, steps=10)) == 1).all()


def test_scores_of_an_index_take_the_place_of_the_head():
    seen: list[tuple[int, int]] = []

    def scores(asked: np.ndarray, places: np.ndarray) -> np.ndarray:
        seen.append((len(asked), len(places)))
        return np.where(places % 2 == 0, 1.0, -1.0)

    weights = influence_weights(rows(0, 9), rows(1, 50), rows(2, 20), FAST, scores)
    assert seen[0] == (20, 50)
    np.testing.assert_array_equal(weights, np.where(np.arange(50) % 2 == 0, HIGHEST, 0.0))
    page, _ = weigh(rows(0, 9), rows(1, 50), rows(2, 20), rows(3, 20), FAST, scores=scores, seeds=1, quiet=True)
    assert page.notes == ("all 50 weights lie at a bound: lower alpha or the number of steps",)


def test_what_cannot_be_weighed_is_refused():
    some = rows(0, 9)
    bad = Rows(some.features * np.where(np.arange(9) == 4, np.nan, 1.0)[:, None], some.labels)
    with pytest.raises(InputError, match="features of 1 unlabelled rows are not finite, the first is row 4"):
        influence_weights(some, bad, some)
    with pytest.raises(InputError, match="no validation rows"):
        influence_weights(some, some, some.take(np.zeros(0, dtype=np.int64)))
    with pytest.raises(InputError, match="diverged: lower the learning rate"):
        influence_weights(some, some, some, replace(FAST, learning_rate=1e300, warm_up=10**6))
    assert predicted(np.eye(6)[:, :3], np.eye(5)).tolist() == [0, 1, 2, 0, 0]


def test_invalid_settings_are_refused():
    known, guessed = rows(0, 9), rows(1, 9)
    for name in ("steps", "batch_size", "ratio", "every"):
        with pytest.raises(InputError, match=f"{name} is 0: must be at least 1"):
            influence_weights(known, guessed, known, replace(FAST, **{name: 0}))
    with pytest.raises(InputError, match="seeds is 0: must be at least 1"):
        compare(known, guessed, known, known, FAST, seeds=0)


def test_the_command(encoder_folder: Path, tmp_path: Path, said):
    some = runs.rows(60)
    files = [
        tiny.write_csv(tmp_path / f"{name}.csv", some[start:end])
        for name, start, end in (("known", 0, 12), ("guessed", 12, 36), ("validation", 36, 48), ("test", 48, 60))
    ]
    words = ("weigh", encoder_folder, *files[:3], "--test", files[3], "--steps", 40, "--seeds", 1, "--quiet")
    code, out, err = said(*words, "--out", tmp_path / "weighted.csv", "--json")
    assert code == 0, err
    assert json.loads(out)["rows"][0]["method"] == "one weight per row"
    with (tmp_path / "weighted.csv").open(encoding="utf-8", newline="") as file:
        written = list(csv.DictReader(file))
    assert [one["text"] for one in written] == [one["text"] for one in some[12:36]]
    assert {0 <= float(one["weight"]) <= HIGHEST for one in written} == {True}
    code, _, err = said(*words, "--out", tmp_path / "weighted.csv")
    assert code == 2
    assert "weighted.csv exists already and is not replaced" in err
    code, _, err = said(*words, "--out", tmp_path / "other.csv", "--weight-name", "text")
    assert code == 2
    assert "has a column 'text' already: give the new one another name with --weight-name" in err
    code, _, err = said(*words, "--out", tmp_path / "other.xyz")
    assert code == 2
    assert "ends in .xyz: choose .csv" in err
    code, _, err = said("weigh", encoder_folder, *files[:2], files[1], "--test", files[3])
    assert code == 2
    assert "24 of 24 texts of VALIDATION are also trained on" in err
    shared = ("weigh", encoder_folder, *files[:2], files[1], "--test", files[3], "--allow-overlap", "--quiet")
    code, _, err = said(*shared, "--steps", 20, "--seeds", 1)
    assert code == 0, err
    bare = tiny.write_csv(tmp_path / "bare.csv", [{"id": "b1", "text": "no label here"}])
    code, _, err = said("weigh", encoder_folder, files[0], bare, files[2], "--test", files[3])
    assert code == 2
    assert "UNLABELLED: the row with id b1 has no label: give a guess of a weak model" in err


def test_the_command_takes_scores_of_an_index(news: tiny.Tiny, tmp_path: Path, said):
    fresh = [
        {"id": f"v{at}", "text": f"{one['text']} again", "label": one["label"]} for at, one in enumerate(news.rows)
    ]
    known, validation, test = (tiny.write_csv(tmp_path / f"{at}.csv", fresh[at : at + 20]) for at in (0, 20, 40))
    words = (news.run, known, news.data, validation, "--test", test, "--index", news.index)
    code, out, err = said("weigh", *words, "--steps", 40, "--seeds", 1, "--json", "--quiet")
    assert code == 0, err
    assert "at a bound" in json.loads(out)["facts"][0][1]
    words = (news.run, known, validation, news.data, "--test", test, "--index", news.index)
    code, _, err = said("weigh", *words)
    assert code == 3
    assert "does not hold the rows of UNLABELLED" in err
