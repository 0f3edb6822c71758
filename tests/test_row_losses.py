"""Losses of a language model on rows of a test set, against those that Hugging Face's own models give."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import proponent
import tiny
from proponent.data import read
from proponent.errors import InputError
from proponent.index.held_out import report_losses
from proponent.row_losses import RowLosses

Said = Callable[..., tuple[int, str, str]]
TEXTS = ["the red ship sails", "a", "green ships sail far and far and far", "blue"]


def spoken(index: proponent.Index) -> list[dict[str, Any]]:
    """The first training rows, as users give them."""
    contents = [index.store.example(at).content for at in range(7)]
    return [{"messages": [one.fields() for one in content.messages]} for content in contents]


@pytest.fixture(scope="module")
def talks(tmp_path_factory: pytest.TempPathFactory) -> proponent.Index:
    pytest.importorskip("trl")
    import chat_index

    return proponent.open(chat_index.made(tmp_path_factory.mktemp("chat")))


def expected(index: proponent.Index, ids: list[int], counted: list[bool]) -> float:
    """The loss that the model computes itself, with labels of -100 where nothing counts."""
    run = index.run
    model = run.load(run.checkpoints[-1]).eval()
    labels = [one if wanted else -100 for one, wanted in zip(ids, counted, strict=True)]
    with torch.no_grad():
        return float(model(input_ids=torch.tensor([ids]), labels=torch.tensor([labels])).loss)


def test_losses_of_texts_are_those_of_the_model(lines: tiny.Tiny) -> None:
    index = proponent.open(lines.index)
    found = index.losses(TEXTS)
    for at, text in enumerate(TEXTS):
        whole = index.run.tokenizer(text)["input_ids"]
        ids = whole[: index.store.plan.max_length]
        assert found.tokens[at] == len(ids) - 1
        assert found.truncated[at] == (len(ids) < len(whole))
        if len(ids) > 1:
            np.testing.assert_allclose(found.losses[at], expected(index, ids, [True] * len(ids)), rtol=1e-4)
    assert found.measured.tolist() == [count > 0 for count in found.tokens]
    mean = (np.nan_to_num(found.losses) * found.tokens).sum() / found.tokens.sum()
    assert found.loss == pytest.approx(mean)
    assert found.perplexity == pytest.approx(math.exp(mean))


def test_only_the_tokens_of_a_target_count(lines: tiny.Tiny) -> None:
    index = proponent.open(lines.index)
    whole, part = index.losses(["the red ship sails", {"text": "the red ship", "target": " sails"}]).tokens
    assert 0 < part < whole


@pytest.mark.filterwarnings("ignore")
def test_losses_of_conversations_count_what_training_counted(talks: proponent.Index) -> None:
    rows = spoken(talks)
    found = talks.losses(rows)
    encoder = talks._loaded.encoder
    encoded = encoder.encode([talks.store.example(at) for at in range(len(rows))])
    for at, one in enumerate(encoded):
        assert found.tokens[at] == one.n_counted > 0
        ids, counted = one.ids.tolist(), one.counted.tolist()
        np.testing.assert_allclose(found.losses[at], expected(talks, ids, counted), rtol=1e-4)
    kept = talks.store.features["losses"][-1][: len(rows)]  # sums over the tokens, as this run was trained
    np.testing.assert_allclose(found.losses * found.tokens, kept, rtol=1e-3)


@pytest.mark.filterwarnings("ignore")
def test_rows_may_come_from_a_file(talks: proponent.Index) -> None:
    rows = read(spoken(talks)[:3])
    np.testing.assert_allclose(talks.losses(list(rows)).losses, talks.losses(spoken(talks)[:3]).losses)


def test_an_order_or_a_batch_changes_nothing(lines: tiny.Tiny) -> None:
    index = proponent.open(lines.index)
    found, turned = index.losses(TEXTS), index.losses(TEXTS[::-1])
    np.testing.assert_allclose(found.losses, turned.losses[::-1], rtol=1e-5)
    assert not len(index.losses([]).losses)


def test_a_classifier_has_no_losses_of_tokens(news: tiny.Tiny) -> None:
    with pytest.raises(InputError, match="predicts no tokens"):
        proponent.open(news.index).losses(["some text"])


def test_losses_that_are_not_measured_have_no_mean() -> None:
    none = RowLosses(np.asarray([np.nan]), np.asarray([0]), np.asarray([False]))
    assert (none.loss, none.perplexity) == (None, None)
    large = RowLosses(np.asarray([1e3]), np.asarray([2]), np.asarray([False]))
    assert large.perplexity == math.inf
    for losses, tokens in (([-1.0], [1]), ([1.0], [-1])):
        with pytest.raises(InputError, match="measure them again"):
            RowLosses(np.asarray(losses), np.asarray(tokens), np.zeros(len(tokens), dtype=bool))


@given(st.lists(st.tuples(st.floats(0, 20), st.integers(0, 50)), min_size=1))
def test_the_mean_weighs_rows_by_their_tokens(rows: list[tuple[float, int]]) -> None:
    losses, tokens = (np.asarray(one) for one in zip(*rows, strict=True))
    found = RowLosses(losses.astype(float), tokens, np.zeros(len(rows), dtype=bool))
    each = [loss for loss, count in rows for _ in range(count)]
    assert found.loss is None if not each else found.loss == pytest.approx(np.mean(each))


# ---- explain --test ----


def test_the_command_measures_a_test_set(said: Said, lines: tiny.Tiny, tmp_path: Path) -> None:
    index = proponent.open(lines.index)
    held = index.store.example(0)
    rows = [{"id": "long", "text": "far and " * 40}, {"id": "known", "text": held.parts[0], "target": held.target}]
    rows += [{"id": f"r{at}", "text": text} for at, text in enumerate(TEXTS)]
    path = tmp_path / "held-out.jsonl"
    path.write_text("".join(json.dumps(one) + "\n" for one in rows), encoding="utf-8")
    page = tmp_path / "t.html"
    code, out, err = said("explain", lines.index, "--test", path, "--html", page, "--json", "-q")
    assert (code, err) == (0, "")
    content = json.loads(out)
    queries = [{name: value for name, value in one.items() if value is not None} for one in rows]
    found = index.losses(queries)
    np.testing.assert_allclose([np.nan if one is None else one for one in content["losses"]], found.losses, rtol=1e-5)
    assert content["counts"] == found.tokens.tolist()
    assert content["loss"] == pytest.approx(found.loss)
    assert content["perplexity"] == pytest.approx(found.perplexity)
    assert (content["rows"], content["truncated"], content["trained"]) == (6, int(found.truncated.sum()), 1)
    order = np.argsort(-np.where(found.measured, found.losses, -np.inf), kind="stable")[: found.measured.sum()]
    assert [one["id"] for one in content["worst"]] == [rows[at]["id"] for at in order]
    assert "Rows of the highest loss" in page.read_text(encoding="utf-8")
    code, out, _ = said("explain", lines.index, "--test", path)
    assert code == 0
    for told in ("per token, perplexity", "longer than the model reads", "1 rows stand in the training data"):
        assert told in " ".join(out.split())


def test_rows_without_a_token_that_counts_are_said(lines: tiny.Tiny) -> None:
    rows = list(read([{"text": "a ship sails"}, {"text": ""}], allow_empty=True))
    report = report_losses(proponent.open(lines.index), rows, "held-out.jsonl")
    assert (report.measured, report.losses[1]) == (1, None)
    assert "1 rows have no token that counts" in report.notes[0]
    none = report_losses(proponent.open(lines.index), rows[1:], "held-out.jsonl")
    assert (none.loss, none.perplexity, none.plot) == (None, None, None)
    assert "no token counts" in none.headline
