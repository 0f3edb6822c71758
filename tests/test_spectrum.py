"""Singular values of features, and heads on frozen features."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import runs
import tiny
from proponent.actions.nmtune import (
    KINDS,
    WEIGHTS,
    Form,
    HeadSettings,
    Kind,
    Labelled,
    _batches,
    fit_head,
    head_report,
    least_rows,
    predict,
    regulariser,
)
from proponent.actions.spectrum import spectrum
from proponent.actions.text_features import Encoder, class_numbers, text_features
from proponent.errors import InputError, RunError
from proponent.models.model_outputs import pooled_states
from proponent.types import Example, Preference

FAST = HeadSettings(epochs=15, batch_size=16)


def planted(seed: int, count: int = 90, width: int = 6) -> tuple[np.ndarray, np.ndarray]:
    """Three classes that lie apart along three features."""
    draw = np.random.default_rng(seed)
    labels = np.arange(count) % 3
    return draw.normal(size=(count, width)) * 0.3 + 2 * np.eye(width)[labels], labels


def test_the_two_numbers_of_known_spectra():
    assert spectrum(np.eye(5)).sve == pytest.approx(np.log(5))
    assert spectrum(np.eye(5)).lsvr == pytest.approx(np.log(5))
    one = spectrum(np.outer(np.arange(1.0, 8), np.ones(3)))
    assert (one.sve, one.lsvr) == (pytest.approx(0, abs=1e-9), pytest.approx(0, abs=1e-9))


@given(st.integers(2, 9), st.integers(2, 6), st.integers(0, 2**16), st.floats(0.01, 100))
def test_scale_and_rotation_change_nothing(rows: int, width: int, seed: int, factor: float):
    draw = np.random.default_rng(seed)
    features = draw.normal(size=(rows, width))
    turned = features @ np.linalg.qr(draw.normal(size=(width, width)))[0] * factor
    for centre in ("none", "columns"):
        ours, theirs = spectrum(features, centre), spectrum(turned, centre)
        assert ours.sve == pytest.approx(theirs.sve, abs=1e-6)
        assert ours.lsvr == pytest.approx(theirs.lsvr, abs=1e-6)
        assert -1e-12 <= ours.lsvr <= ours.sve + 1e-9 <= np.log(min(rows, width)) + 2e-9


def test_few_rows_are_said_and_bad_features_refused():
    assert "the rank is capped by the rows" in spectrum(np.eye(3)).notes[0]
    assert not spectrum(np.random.default_rng(0).normal(size=(9, 3))).notes
    with pytest.raises(InputError, match="features of 1 rows are not finite, the first is row 1"):
        spectrum(np.asarray([[1.0, 2], [np.nan, 1]]))
    with pytest.raises(InputError, match="equal after centring"):
        spectrum(np.ones((4, 2)), "columns")
    with pytest.raises(InputError, match="the data set is empty"):
        spectrum(np.zeros((0, 2)))


@pytest.mark.parametrize("form", WEIGHTS)
def test_the_losses_follow_their_formulas(form):
    draw = np.random.default_rng(0)
    given, made = draw.normal(size=(12, 4)), draw.normal(size=(12, 4))
    unit = [each / np.linalg.norm(each, axis=1, keepdims=True) for each in (made, given)]
    squares = ((unit[0] - unit[1]) ** 2).sum(1).mean() / (1 if form == "paper" else 4)
    covariance = np.cov(made.T)
    off = sum(covariance[i, j] ** 2 for i in range(4) for j in range(4) if i != j) / 4
    values = np.linalg.svd(made, compute_uv=False)
    share = values[0] / values.sum() if form == "paper" else (values / values.sum())[:5].mean()
    weights = (0.01, 0.01, 0.01) if form == "paper" else (1.0, 0.04, 0.001)
    wanted = np.dot(weights, (squares, off, -share))
    found = regulariser(torch.as_tensor(made), torch.as_tensor(given), form)
    assert float(found) == pytest.approx(wanted)


def test_losses_that_vanish():
    given = torch.as_tensor(np.random.default_rng(0).normal(size=(40, 3)))
    white = given - given.mean(0)
    white = torch.linalg.qr(white)[0]  # decorrelated columns
    only = float(regulariser(3 * white, 5 * white, "paper"))
    values = torch.linalg.svdvals(white)
    assert only == pytest.approx(-0.01 * float(values[0] / values.sum()), abs=1e-9)


@pytest.mark.parametrize("kind", [one for one in KINDS if "shuffled" not in one])
def test_heads_learn_what_is_planted(kind):
    features, labels = planted(0)
    head = fit_head(features, labels, kind, settings=FAST)
    others, theirs = planted(1)
    assert (predict(head, others) == theirs).mean() > 0.9
    again = fit_head(features, labels, kind, settings=FAST)
    np.testing.assert_array_equal(predict(head, others), predict(again, others))


def test_the_report_has_every_head_and_control():
    train, tests = Labelled(*planted(0)), {"own": Labelled(*planted(1)), "other": Labelled(*planted(2))}
    page = head_report({"clean": (train, tests), "noisy": (train, tests)}, settings=FAST, seeds=2, quiet=True)
    names = [one.method for one in page.rows]
    assert set(names) == {f"{encoder}: {kind}" for encoder in ("clean", "noisy") for kind in KINDS}
    shuffled = next(one for one in page.rows if one.method == "clean: MLP, shuffled labels")
    assert shuffled.figures[0].value < 0.7
    ours = next(one for one in page.rows if one.method == "clean: NMTune")
    right = [predict(fit_head(*planted(0), settings=FAST, seed=seed), planted(1)[0]) for seed in (0, 1)]
    assert ours.figures[0].value == pytest.approx(np.mean([one == planted(1)[1] for one in right]))
    assert "(MLP:" in ours.verdict
    assert not ours.control


@pytest.mark.parametrize(
    ("kind", "form", "least"), [("MLP", "paper", 2), ("NMTune", "paper", 2), ("NMTune", "code", 5)]
)
def test_a_last_batch_of_few_rows_joins_the_one_before(kind: Kind, form: Form, least: int):
    assert least_rows(kind, form) == least
    for last in range(least):
        batches = _batches(np.arange(32 + last), 16, least)
        assert [len(one) for one in batches] == [16, 16 + last]
        assert np.concatenate(batches).tolist() == list(range(32 + last))
    assert [len(one) for one in _batches(np.arange(32 + least), 16, least)] == [16, 16, least]
    with pytest.raises(InputError, match=f"batches of 1 rows: .*{kind}.*{least}"):
        HeadSettings(batch_size=1).check(40, kind, form)


def test_a_head_needs_rows_and_classes():
    features, labels = planted(0, 33)
    fit_head(features, labels, settings=FAST)
    with pytest.raises(InputError, match="two classes"):
        fit_head(features, labels * 0, settings=FAST)
    with pytest.raises(InputError, match="not finite"):
        fit_head(features * np.inf, labels, settings=FAST)
    rows = [Example("1", 0, "x", "a"), Example("2", 1, "x", "c")]
    with pytest.raises(InputError, match=r"held\.csv has the class 'c', which the training set lacks"):
        class_numbers(rows, ["a", "b"], "held.csv")
    with pytest.raises(InputError, match=r"held\.csv: the row with id 3 has no label: name its column"):
        class_numbers([Example("3", 0, "x")], ["a", "b"], "held.csv")


def test_features_are_means_over_real_tokens(encoder_folder: Path):
    examples = [Example("1", 0, "the cup"), Example("2", 1, "the army and the treaty and the vote")]
    found = text_features(encoder_folder, examples)
    tokenizer = runs.bert_tokenizer()
    from transformers import AutoModel

    model = AutoModel.from_pretrained(encoder_folder).eval()
    for one, ours in zip(examples, found, strict=True):
        with torch.inference_mode():
            hidden = model(**tokenizer(one.text, return_tensors="pt")).last_hidden_state[0]
        np.testing.assert_allclose(ours, hidden.mean(0).numpy(), atol=1e-5)
    mixed = [Example("1", 0, "the cup"), Example("2", 1, "the cup", text_pair="the army")]
    np.testing.assert_allclose(text_features(encoder_folder, mixed)[0], found[0], atol=1e-5)
    reader = Encoder.load(encoder_folder)
    with torch.inference_mode():
        together = pooled_states(reader.model, reader.inputs(mixed))  # one batch of a text and a pair
    np.testing.assert_allclose(together, text_features(encoder_folder, mixed), atol=1e-5)
    chat = Example("3", 2, content=Preference("a", "b", "c"))
    with pytest.raises(InputError, match="the row with id 3 is a conversation or has more than two texts"):
        text_features(encoder_folder, [*examples, chat])
    long = [Example("1", 0, "the cup and the army " * 400)]
    assert text_features(encoder_folder, long, max_length=10**6).shape == (1, found.shape[1])  # the model's own limit
    with pytest.raises(RunError, match="cannot load an encoder from"):
        text_features(encoder_folder / "none", examples)


def test_a_tokenizer_without_a_pad_token_pads_with_another(tmp_path: Path):
    tokenizer = runs.gpt2_tokenizer()
    runs.gpt2(tokenizer).save_pretrained(tmp_path / "gpt2")
    tokenizer.pad_token = None
    tokenizer.save_pretrained(tmp_path / "gpt2")
    examples = [Example("1", 0, "the cup"), Example("2", 1, "the army and the treaty and the vote")]
    together = text_features(tmp_path / "gpt2", examples)
    for one, ours in zip(examples, together, strict=True):
        np.testing.assert_allclose(ours, text_features(tmp_path / "gpt2", [one])[0], atol=1e-5)


def test_the_commands(encoder_folder: Path, tmp_path: Path, said):
    data = tiny.write_csv(tmp_path / "train.csv", runs.rows(24))
    test = tiny.write_csv(tmp_path / "held.csv", runs.rows(30)[24:])
    code, out, err = said("spectrum", data, encoder_folder, "--centre", "columns", "--json", "--quiet")
    assert code == 0, err
    assert [one["name"] for one in json.loads(out)["rows"][0]["figures"]] == ["SVE", "LSVR", "rank"]
    words = ("nmtune", data, encoder_folder, "--test", test, "--epochs", 2, "--seeds", 1, "--json", "--quiet")
    code, out, err = said(*words, "--out", tmp_path / "page.html", "--form", "code")
    assert code == 0, err
    assert {one["method"] for one in json.loads(out)["rows"]} == set(KINDS)
    assert "code: mse 1, covariance 0.04, singular values 0.001 (5 largest)" in (tmp_path / "page.html").read_text()
    (tmp_path / "more").mkdir()
    twin = tiny.write_csv(tmp_path / "more" / "held.csv", runs.rows(30)[24:])
    code, out, err = said(*words, "--test", twin)
    assert code == 0, err
    assert json.loads(out)["columns"][:2] == [str(test), str(twin)]
    code, _, err = said(*words, "--form", "both")
    assert code == 2
    assert "paper, code" in err
