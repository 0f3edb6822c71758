"""The probe by hard labels: attacks at equal budget, distances to the data, rows behind flips, and what is refused."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional

from proponent.actions.hard_label_attacks import ATTACKS, FULL, Attack, Oracle, Subspace, hop_skip_jump, sign_opt
from proponent.actions.manifolds import ManifoldDistance, manifold_distance, subspace
from proponent.actions.nmtune import fit_head
from proponent.actions.probe import ProbeSettings, Vectors, _Flip, _last_layer, _row, probe
from proponent.errors import InputError

PLANE = 4


def plane(count: int = 240, width: int = 24, seed: int = 7) -> Vectors:
    """Two classes on a noisy plane in a wider space, divided by a curved border."""
    generator = np.random.default_rng(seed)
    basis = np.linalg.qr(generator.standard_normal((width, PLANE)))[0].T
    inside = generator.standard_normal((count, PLANE))
    labels = (inside[:, 0] + 0.5 * inside[:, 1] ** 2 > 0.4).astype(np.int64)
    features = inside @ basis + 0.02 * generator.standard_normal((count, width))
    return Vectors(features.astype(np.float64), labels, [f"r{at}" for at in range(count)], ["no", "yes"])


class Counting:
    """A linear head that counts its queries."""

    def __init__(self, width: int) -> None:
        self.normal, self.asked = np.random.default_rng(5).standard_normal(width), 0
        self.normal /= np.linalg.norm(self.normal)

    def __call__(self, points: np.ndarray) -> np.ndarray:
        self.asked += len(points)
        return (points @ self.normal > 1.0).astype(np.int64)


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_linear_heads_border_is_found_and_every_query_is_counted(attack: str) -> None:
    head = Counting(8)
    origin, start = np.zeros(8), 6 * head.normal + 3 * np.eye(8)[0]
    found = ATTACKS[attack](head, origin, start, budget=2000, seed=1)
    assert found.point is not None
    assert head.asked == found.asked + 1  # the label of the original is asked once, beside the budget
    assert found.asked <= 2000
    assert np.linalg.norm(found.point) == pytest.approx(1.0, rel=0.05)
    again = ATTACKS[attack](Counting(8), origin, start, budget=2000, seed=1)
    assert np.array_equal(again.point, found.point)
    other = ATTACKS[attack](Counting(8), origin, start, budget=2000, seed=2)
    assert not np.array_equal(other.point, found.point)
    small = ATTACKS[attack](Counting(8), origin, start, budget=30, seed=1)
    assert small.asked <= 30
    assert small.point is not None
    assert Counting(8)(small.point[None])[0] == 1


def test_an_attack_in_a_subspace_moves_within_it() -> None:
    head = Counting(8)
    first = Subspace(np.eye(8)[:3])
    drawn = first.draw(50, 8, np.random.default_rng(0))
    assert not drawn[:, 3:].any()
    np.testing.assert_allclose(np.linalg.norm(drawn, axis=1), 1.0)
    start = np.zeros(8)
    start[:3] = head.normal[:3] * 40
    for attack in (hop_skip_jump, sign_opt):
        found = attack(head, np.zeros(8), start, first, budget=800)
        assert found.point is not None
        np.testing.assert_allclose(found.point[3:], 0.0, atol=1e-9)
    with pytest.raises(InputError, match="the start of an attack has the label of the original"):
        hop_skip_jump(head, np.zeros(8), np.zeros(8))
    with pytest.raises(InputError, match="the budget is 19 labels: at least 20"):
        sign_opt(head, np.zeros(8), start, budget=19)


def test_the_border_of_a_segment() -> None:
    head = Counting(4)
    oracle = Oracle(head, np.zeros(4), 100)
    found = oracle.boundary(3 * head.normal)
    assert 1.0 < found @ head.normal < 1.01
    assert oracle.asked == 10


def test_a_change_is_split_into_a_part_along_the_data_and_a_normal_part() -> None:
    generator = np.random.default_rng(0)
    data = np.zeros((60, 5))
    data[:, :2] = generator.standard_normal((60, 2))
    found = manifold_distance(data, np.zeros(5), np.asarray([0.3, 0.4, 0.0, 1.2, 0.0]))
    assert found.length == pytest.approx(1.3)
    assert found.normal == pytest.approx(1.2)
    assert found.ratio == pytest.approx(1.2 / 1.3)
    assert found.nearest == pytest.approx(np.linalg.norm(data - np.asarray([0.3, 0.4, 0.0, 1.2, 0.0]), axis=1).min())
    with pytest.raises(InputError, match="20 rows are too few for a local plane"):
        manifold_distance(data[:20], np.zeros(5), np.ones(5))


def test_subspaces_are_orthonormal_and_principal() -> None:
    rows = plane()
    made = subspace(rows.features, "pca", PLANE).basis
    np.testing.assert_allclose(made @ made.T, np.eye(PLANE), atol=1e-9)
    centred = rows.features - rows.features.mean(0)
    assert np.linalg.norm(centred @ made.T) ** 2 > 0.98 * np.linalg.norm(centred) ** 2
    drawn = subspace(rows.features, "random", PLANE, seed=1).basis
    np.testing.assert_allclose(drawn @ drawn.T, np.eye(PLANE), atol=1e-9)
    assert subspace(rows.features, "full", 3) is FULL
    with pytest.raises(InputError, match="a subspace of 25 directions: must be from 1 to 24"):
        subspace(rows.features, "pca", 25)


def test_the_data_keep_a_flip_near_and_random_directions_do_not() -> None:
    settings = ProbeSettings(budget=300, points=12, seeds=1, widths=(PLANE,))
    page = probe(plane(), settings, quiet=True)
    rows = {one.method: {figure.name: figure.value for figure in one.figures} for one in page.rows}
    data, drawn, full = rows["data, 4 directions"], rows["random, 4 directions"], rows["full space"]
    assert data["ratio"] <= 0.5 * full["ratio"]
    assert drawn["ratio"] >= 0.9 * full["ratio"]
    assert data["ratio over the full space's"] == pytest.approx(data["ratio"] / full["ratio"])
    assert [one.control for one in page.rows] == [True, False, True]
    assert [one.title for one in page.others] == [
        "The same by sign-opt", "Training rows behind flips, by tracin-last at the head",
    ]  # fmt: skip
    assert not any("by construction" in note for note in page.notes)
    again = probe(plane(), replace(settings, same_half=True), quiet=True)
    assert any("by construction" in note for note in again.notes)


def test_points_are_of_any_class_and_are_not_measured_against_themselves(monkeypatch) -> None:
    rows = plane()
    order = np.argsort(rows.labels, kind="stable")  # as files are that are sorted by class

    def watched(data: np.ndarray, origin: np.ndarray, point: np.ndarray) -> ManifoldDistance:
        assert not (data == origin).all(1).any()
        return manifold_distance(data, origin, point)

    monkeypatch.setattr("proponent.actions.probe.manifold_distance", watched)
    page = probe(
        Vectors(rows.features[order], rows.labels[order], rows.ids, rows.names),
        ProbeSettings(budget=40, points=5, seeds=1, widths=(2,)),
        quiet=True,
    )
    flips = {one.method.partition(":")[0] for one in page.others[-1].rows}
    assert {flip.split()[2] for flip in flips} == {"no", "yes"}


def test_two_attacks_on_a_point_are_one_measurement() -> None:
    generator = np.random.default_rng(0)
    distances = [ManifoldDistance(*generator.uniform(1, 2, 3)) for _ in range(6)]
    flips = [_Flip(at, Attack(np.zeros(2), 1), one) for at, one in enumerate(distances)]
    once = _row("a", "full space", flips, {("a", "full space"): flips}, 1)
    assert _row("a", "full space", flips * 2, {("a", "full space"): flips * 2}, 2) == once


def test_rows_behind_a_flip_are_products_of_gradients_at_the_last_layer() -> None:
    rows = plane(60)
    head = fit_head(rows.features, rows.labels, "MLP").eval()
    error, inside = (one[:3] for one in _last_layer(head, rows.features, rows.labels))
    for at in range(3):
        head.zero_grad()
        given = torch.as_tensor(rows.features[at : at + 1], dtype=torch.float32)
        functional.cross_entropy(head(given), torch.as_tensor(rows.labels[at : at + 1])).backward()
        own = torch.cat([head.linear.weight.grad, head.linear.bias.grad[:, None]], 1)
        np.testing.assert_allclose(np.outer(error[at], inside[at]), own.numpy(), atol=1e-6)


def test_bad_input_is_refused() -> None:
    rows, settings = plane(80), ProbeSettings(budget=50, points=2, seeds=1, widths=(2,))

    def refused(match: str, rows: Vectors = rows, **changes: object) -> None:
        with pytest.raises(InputError, match=match):
            probe(rows, replace(settings, **changes), quiet=True)

    refused("a flipped point is a vector and has no tokens, so only methods at the head", method="tracin-we")
    refused("budget is 0", budget=0)
    refused("the widths of the subspaces", widths=())
    refused("a subspace of 99 directions", widths=(99,))
    refused("all rows have one class", replace(rows, labels=np.zeros(80, dtype=np.int64)))
    refused("80 rows have 80 different labels: these are values", replace(rows, labels=np.arange(80)))
    spoiled = rows.features.copy()
    spoiled[3, 1] = np.nan
    refused("some features are not finite", replace(rows, features=spoiled))
    few = slice(0, 30)
    small = Vectors(rows.features[few], rows.labels[few], rows.ids[few], rows.names)
    refused("too few for a local plane", small)


def test_the_command_probes(news, said, tmp_path) -> None:
    words = ("--budget", 60, "--points", 2, "--seeds", 1, "--widths", "2,4")
    code, out, err = said("probe", news.run, news.data, *words, "--json", "--out", tmp_path / "page.html")
    assert code == 0, err
    found = json.loads(out)
    assert [one["method"] for one in found["rows"]] == [
        "full space", "data, 2 directions", "random, 2 directions", "data, 4 directions", "random, 4 directions",
    ]  # fmt: skip
    assert "Training rows behind flips" in (tmp_path / "page.html").read_text()
    code, _, err = said("probe", news.run, news.data, "--method", "tracin-we")
    assert code == 2
    assert "has no tokens" in err
