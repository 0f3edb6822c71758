"""Weights of unlabelled rows while the encoder is trained: word replacement, influence, comparison, command."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import runs
import tiny
from proponent.actions.consistency_weights import (
    EncoderSettings,
    WordReplacement,
    _Model,
    _plain,
    compare_trained,
)
from proponent.actions.text_features import LabelledTexts
from proponent.actions.unlabelled_weights import HIGHEST, OURS, TUNED, Rows
from proponent.errors import InputError
from proponent.types import Example

FAST = EncoderSettings(
    steps=12, batch_size=3, warm_up=2, every=1, learning_rate=3e-3, head_rate=3e-2, validation=12, max_length=24
)


def texts(rows: list[dict[str, str]]) -> LabelledTexts:
    examples = [Example(row["id"], at, row["text"], row["label"]) for at, row in enumerate(rows)]
    return LabelledTexts(examples, np.asarray([runs.LABELS.index(row["label"]) for row in rows]))


WORDS = ("the", "of", "cup", "army", "vote", "goal", "said")


@given(st.lists(st.sampled_from(WORDS), max_size=12), st.integers(0, 99))
def test_words_are_replaced_by_known_words_and_none_is_lost(words: list[str], seed: int):
    found = WordReplacement.of(["the cup of", "the army said", "the vote of the goal"], 0.5)
    changed = found.changed(" ".join(words), np.random.default_rng(seed)).split()
    assert len(changed) == len(words)
    assert {word for word, old in zip(changed, words, strict=True) if word != old} <= set(found.words)


def test_frequent_words_are_replaced_and_rare_ones_stay():
    found = WordReplacement.of([f"the of name{at}" for at in range(50)], 0.6)
    draw = np.random.default_rng(0)
    kept = np.mean([[word == old for word, old in zip(found.changed("the of name3 name4", draw).split(),
                     ("the", "of", "name3", "name4"), strict=True)] for _ in range(300)], axis=0)  # fmt: skip
    assert (kept[2:] == 1).all()
    assert (kept[:2] < 0.8).all()
    assert found.changed("", draw) == ""
    with pytest.raises(InputError, match="no word that could be replaced"):
        WordReplacement.of(["", " "], 0.3)


def test_the_influence_is_that_of_autograd_with_a_dense_hessian(encoder_folder: Path):
    """The slow way: the Hessian of the head's whole loss, and the gradient of each row's consistency loss."""
    some = texts(runs.rows(20))
    model = _Model.of(encoder_folder, 3, FAST, False)
    torch.nn.init.normal_(model._head.weight, generator=torch.Generator().manual_seed(0))
    draw = np.random.default_rng(0)
    known, held = some.take(np.arange(6)), some.take(np.arange(12, 20))
    moved, targets, weights = draw.normal(size=(5, 16)), draw.dirichlet(np.ones(3), 5), draw.random(5) * 2
    states = _plain(model._states(known.examples))
    found = model._influence(Rows(states, known.labels), moved, targets, weights, held)

    flat = torch.as_tensor(np.concatenate([_plain(model._head.weight).T, _plain(model._head.bias)[None]]).ravel())

    def logits(vector: torch.Tensor, features: np.ndarray) -> torch.Tensor:
        wide = torch.as_tensor(np.concatenate([features, np.ones((len(features), 1))], axis=1))
        return wide @ vector.reshape(17, 3)

    def each(vector: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(logits(vector, moved), torch.as_tensor(targets), reduction="none")

    def total(vector: torch.Tensor) -> torch.Tensor:
        own = torch.nn.functional.cross_entropy(logits(vector, states), torch.as_tensor(known.labels))
        ridge = (FAST.ridge + FAST.damping) / 2 * vector.square().sum()
        return own + (torch.as_tensor(weights) * each(vector)).mean() + ridge

    def asked(vector: torch.Tensor) -> torch.Tensor:
        features = _plain(model._states(held.examples))
        return torch.nn.functional.cross_entropy(logits(vector, features), torch.as_tensor(held.labels))

    hessian = torch.autograd.functional.hessian(total, flat)
    slope = torch.autograd.functional.jacobian(asked, flat)
    wanted = torch.autograd.functional.jacobian(each, flat) @ torch.linalg.solve(hessian, slope)
    np.testing.assert_allclose(found, wanted.numpy(), rtol=1e-4, atol=1e-7)


def test_the_encoder_learns_and_is_compared_with_controls(encoder_folder: Path):
    rows = runs.rows(60)
    known, held, test = texts(rows[:9]), texts(rows[9:24]), texts(rows[24:36])
    free = texts(rows[36:]).examples
    found = compare_trained(encoder_folder, known, free, held, test, FAST, scalars=(0.3,), quiet=True)
    assert list(found.right) == [
        OURS, TUNED, "all weights 1", "no unlabelled rows", "one tuned weight, validation rows added"
    ]  # fmt: skip
    assert all(one.shape == (12,) for one in found.right.values())
    assert ((found.weights >= 0) & (found.weights <= HIGHEST)).all()
    assert (found.weights != 1).any()
    assert found.tuned[0] in {0.0, 0.3, 1.0}
    again = compare_trained(encoder_folder, known, free, held, test, FAST, scalars=(0.3,), quiet=True)
    np.testing.assert_array_equal(found.weights, again.weights)
    model = _Model.of(encoder_folder, 3, replace(FAST, steps=40), False)
    before = [one.detach().clone() for one in model._encoder.model.parameters()]
    model.train(held, free, held, 0.0, True)
    assert (model.predict(held.examples) == held.labels).mean() > 0.6
    assert any(not torch.equal(old, new) for old, new in zip(before, model._encoder.model.parameters(), strict=True))


def test_a_ridge_keeps_the_head_small(encoder_folder: Path):
    rows, sizes = texts(runs.rows(36)), list[float]()
    for ridge in (0.0, 10.0):
        model = _Model.of(encoder_folder, 3, replace(FAST, steps=30, ridge=ridge), False)
        model.train(rows, rows.examples, rows, 0.0, True)
        sizes.append(float(model._head.weight.detach().norm()))
    assert sizes[1] < 0.5 * sizes[0]


def test_rows_that_were_not_drawn_keep_their_weight(encoder_folder: Path):
    rows = texts(runs.rows(60))
    model = _Model.of(encoder_folder, 3, replace(FAST, steps=3, ratio=1), False)
    model.train(rows.take(np.arange(9)), rows.examples[9:], rows, None, True)
    assert 0 < (model.weights != 1).sum() <= 3


def test_invalid_settings_are_refused(encoder_folder: Path):
    some = texts(runs.rows(9))
    for change, said in (
        ({"replaced": 1.0}, "share of replaced words is 1: must be above 0 and below 1"),
        ({"ratio": 0}, "ratio is 0: must be at least 1"),
    ):
        with pytest.raises(InputError, match=said):
            compare_trained(encoder_folder, some, some.examples, some, some, replace(FAST, **change), quiet=True)
    with pytest.raises(InputError, match="the data set is empty"):
        compare_trained(encoder_folder, some, [], some, some, FAST, quiet=True)
    wild = replace(FAST, learning_rate=1e30, steps=6, warm_up=99)
    with pytest.raises(InputError, match="training the encoder diverged"):
        compare_trained(encoder_folder, some, some.examples, some, some, wild, quiet=True)


def test_the_command(encoder_folder: Path, tmp_path: Path, said):
    some = runs.rows(60)
    files = [
        tiny.write_csv(tmp_path / f"{name}.csv", some[start:end])
        for name, start, end in (("known", 0, 12), ("validation", 12, 24), ("test", 24, 36))
    ]
    free = tiny.write_csv(tmp_path / "free.csv", [{"id": row["id"], "text": row["text"]} for row in some[36:]])
    words = ("weigh", encoder_folder, files[0], free, files[1], "--test", files[2], "--train-encoder", "--quiet")
    code, out, err = said(*words, "--steps", 6, "--json", "--out", tmp_path / "weighted.csv")
    assert code == 0, err
    page = json.loads(out)
    assert page["rows"][0]["method"] == OURS
    assert "when words are replaced" in page["said"]
    with (tmp_path / "weighted.csv").open(encoding="utf-8", newline="") as file:
        assert len({one["weight"] for one in csv.DictReader(file)}) > 1
    code, _, err = said(*words, "--index", tmp_path)
    assert code == 2
    assert "--index holds scores of fixed gradients, which --train-encoder changes" in err
