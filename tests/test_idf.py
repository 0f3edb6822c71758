"""Rows by direction times tf-idf: indexes of real runs against dense gradients, summed in the open."""

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import cases
import proponent
import test_two_texts as two_texts
from gradients import some_rows
from oracle import Place
from proponent.gradients.projection import directed
from proponent.method import Direction
from proponent.models import Encoded, MaskedLM, Run
from proponent.preconditioners.idf import document_frequencies, token_weights
from proponent.types import Example
from test_search import answers, ask, assert_equal, assert_shares_sum, build
from test_tasks import truth
from truth import RATES, Row, Truth, classifier_run, lm_run, pair_run, save


def expected(
    truth: Truth,
    queries: Sequence[Row],
    places: tuple[Place, ...] = ("input",),
    *,
    norm: float = 0.0,
    repeats: str = "log",
    power: float = 1.0,
) -> np.ndarray:
    """The formula in 64 bits: every gradient as a whole table, every token of a text a row of it."""
    special = set(truth.tokenizer.all_special_ids)
    texts = [[token for token in truth.text(row).ids if token not in special] for row in truth.training]
    frequency = Counter(token for ids in texts for token in set(ids))
    n, total = len(texts), np.zeros((len(queries), len(texts)))

    def vector(step: int, row: Row) -> np.ndarray:
        counts = Counter(token for token in truth.text(row).ids if token not in special)
        (gradient,) = truth.gradients(step, [row], places)
        made = np.zeros_like(gradient)
        for token, count in counts.items():
            size = np.linalg.norm(gradient[token])
            if size > 0:
                idf = np.log((n + 1) / (frequency[token] + 1)) ** power
                often = 1 + np.log(count) if repeats == "log" else 1.0
                made[token] = idf * often * gradient[token] / size ** (1 - norm)
        return made / (np.linalg.norm(made) or 1.0)

    for step in truth.steps:
        mine = np.stack([vector(step, row).ravel() for row in truth.training])
        theirs = np.stack([vector(step, row).ravel() for row in queries])
        total += RATES[step] * theirs @ mine.T
    return total


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Truth:
    made = classifier_run(tmp_path_factory.mktemp("bert") / "run")
    return Truth(made.folder, made.steps, made.training[:40], made.queries[:6])


def test_a_classifier_is_the_formula(bert: Truth, tmp_path: Path) -> None:
    index = build(bert, tmp_path / "index", "tracin-we-idf")
    assert_equal(ask(index, bert.queries), expected(bert, bert.queries), 1e-6)
    assert_shares_sum(index, bert.queries[:3])


@pytest.mark.parametrize("changes", [{"norm": 0.5}, {"norm": 1.0, "repeats": "once"}, {"power": 2.0}])
def test_other_forms_are_the_formula(bert: Truth, tmp_path: Path, changes: dict[str, Any]) -> None:
    index = build(bert, tmp_path / "index", "tracin-we-idf", **changes)
    assert_equal(ask(index, bert.queries), expected(bert, bert.queries, **changes), 1e-6)


def test_pairs(tmp_path: Path) -> None:
    truth = pair_run(tmp_path / "run")
    index = build(truth, tmp_path / "index", "tracin-we-idf")
    assert_equal(ask(index, truth.queries), expected(truth, truth.queries), 1e-6)


PATHS: dict[str, tuple[Place, ...]] = {"input": ("input",), "output": ("output",), "exact": ("input", "output")}


@pytest.mark.parametrize("path", PATHS)
def test_a_tied_language_model_is_the_formula(tmp_path: Path, path: str) -> None:
    truth = lm_run(tmp_path / "run", "gpt2", tied=True)
    index = build(truth, tmp_path / "index", "tracin-we-idf", path=path)
    assert_equal(ask(index, truth.queries), expected(truth, truth.queries, PATHS[path]), 1e-5)
    assert_shares_sum(index, truth.queries[:2])


def test_an_untied_language_model_is_the_formula(tmp_path: Path) -> None:
    truth = lm_run(tmp_path / "run", "llama", tied=False)
    index = build(truth, tmp_path / "index", "tracin-we-idf")
    assert_equal(ask(index, truth.queries), expected(truth, truth.queries), 1e-5)


@pytest.mark.parametrize(("rows", "tolerance"), [("fp16", 2e-3), ("int8", 2e-2)])
def test_unit_rows_lose_little_in_fewer_bits(bert: Truth, tmp_path: Path, rows: str, tolerance: float) -> None:
    index = build(bert, tmp_path / "index", "tracin-we-idf", rows=rows)
    assert_equal(ask(index, bert.queries), expected(bert, bert.queries), tolerance)


def test_every_score_is_a_cosine_per_checkpoint(bert: Truth, tmp_path: Path) -> None:
    """A training example asked about itself scores the sum of the weights, and nothing scores more."""
    index = build(bert, tmp_path / "index", "tracin-we-idf")
    scores = ask(index, bert.training[:8])
    most = sum(RATES[step] for step in bert.steps)
    assert np.abs(scores).max() <= most * (1 + 1e-6)
    np.testing.assert_allclose(scores[np.arange(8), np.arange(8)], most, rtol=1e-5)


def test_equal_rows_have_no_idf_and_the_index_says_so(bert: Truth, tmp_path: Path) -> None:
    row = bert.training[0]
    rows = [row | {"id": f"r{at}"} for at in range(3)]
    index = proponent.build(bert.folder, rows, tmp_path / "index", "tracin-we-idf", quiet=True)
    assert any("idf would be 0 for all tokens" in note for note in index.store.manifest.notes)
    scores = index.scores([row["text"]], labels=[row["label"]])
    np.testing.assert_allclose(scores, sum(RATES[step] for step in bert.steps), rtol=1e-5)


def test_one_training_row(bert: Truth, tmp_path: Path) -> None:
    index = proponent.build(bert.folder, bert.training[:1], tmp_path / "index", "tracin-we-idf", quiet=True)
    assert np.isfinite(ask(index, bert.queries)).all()
    most = sum(RATES[step] for step in bert.steps)
    np.testing.assert_allclose(ask(index, bert.training[:1]), most, rtol=1e-5)


def test_tokens_that_no_training_text_holds_meet_nothing(bert: Truth, tmp_path: Path) -> None:
    texts = [set(bert.text(row).ids) for row in bert.training]
    row = next(row for row in bert.queries if set(bert.text(row).ids) - set(bert.tokenizer.all_special_ids))
    tokens = set(bert.text(row).ids) - set(bert.tokenizer.all_special_ids)
    apart = [row for row, ids in zip(bert.training, texts, strict=True) if not ids & tokens]
    assert apart
    index = proponent.build(bert.folder, apart, tmp_path / "index", "tracin-we-idf", quiet=True)
    (answer,) = answers(index, [row])
    assert not answer.proponents
    assert not answer.opponents
    assert any("no token of this text occurs in the training set" in note for note in answer.notes)


@given(some_rows())
def test_directed_rows_have_the_norm_of_their_count(rows: Any) -> None:
    made = directed(rows.merged(by_word=True), rows, Direction()).merged(by_word=False)
    counts = Counter(zip(rows.owners.tolist(), rows.ids.tolist(), strict=True))
    plain = np.linalg.norm(rows.merged(by_word=False).rows.astype(np.float64), axis=1)
    for owner, token, row, size in zip(made.owners.tolist(), made.ids.tolist(), made.rows, plain, strict=True):
        if size > 1e-6:
            assert np.linalg.norm(row) == pytest.approx(1 + np.log(counts[owner, token]), rel=1e-3)


@given(st.lists(st.lists(st.integers(0, 5), max_size=6), min_size=1, max_size=5), st.integers(6, 9))
def test_frequencies_count_examples_not_tokens(texts: list[list[int]], size: int) -> None:
    from proponent.gradients.forms import Rows

    ids = np.asarray([token for text in texts for token in text], dtype=np.int64)
    indptr = np.concatenate([[0], np.cumsum([len(text) for text in texts])])
    rows = Rows(indptr, ids, np.zeros_like(ids), np.zeros((len(ids), 2), dtype=np.float32))
    found = document_frequencies(rows, size)
    assert found.tolist() == [sum(token in text for text in texts) for token in range(size)]
    weights = token_weights(found, len(texts))
    assert (weights >= 0).all()
    assert weights.max() > 0


def test_few_checkpoints_are_said(bert: Truth, tmp_path: Path) -> None:
    index = build(bert, tmp_path / "index", "tracin-we-idf", steps=[20])
    assert any(note.startswith("checkpoints used: 1; tracin-we-idf works best") for note in index.store.manifest.notes)


Looked = Callable[[Encoded], Sequence[int]]


def of_targets(
    texts: dict[bool, list[Encoded]], special: set[int], table: Callable[[int, bool, int], np.ndarray], looked: Looked
) -> np.ndarray:
    """The formula in 64 bits where a text's targets are tokens; `looked` are those that stand at its positions."""

    def counts(one: Encoded) -> Counter[int]:
        return Counter(token for token in looked(one) if token not in special)

    def held(one: Encoded) -> set[int]:
        assert one.targets is not None
        return {*counts(one), *(token for token in one.targets.tolist() if token not in special)}

    n = len(texts[False])
    frequency = Counter(token for one in texts[False] for token in held(one))
    total = np.zeros((len(texts[True]), n))
    for step in two_texts.STEPS:
        vectors: dict[bool, np.ndarray] = {}
        for asked, encoded in texts.items():
            made: list[np.ndarray] = []
            for row, one in enumerate(encoded):
                gradient, own = table(step, asked, row).astype(np.float64), counts(one)
                vector = np.zeros_like(gradient)
                for token in held(one):
                    idf, often = np.log((n + 1) / (frequency[token] + 1)), 1 + np.log(max(1, own[token]))
                    vector[token] = idf * often * gradient[token] / (np.linalg.norm(gradient[token]) or 1.0)
                made.append(vector.ravel() / np.linalg.norm(vector))
            vectors[asked] = np.stack(made)
        total += RATES[step] * vectors[True] @ vectors[False].T
    return total


def test_an_encoder_decoder_is_the_formula(tmp_path: Path) -> None:
    """T5: one table for the words of both sides and for the head."""
    folder = two_texts.run_of("t5", tmp_path)
    index = two_texts.build(folder, tmp_path / "index", "tracin-we-idf")
    run = Run.from_pretrained(folder)
    texts = {asked: two_texts.encoded_of(folder, asked) for asked in (False, True)}

    def table(step: int, asked: bool, row: int) -> np.ndarray:
        flat = two_texts.matrix(folder, step, lambda name, _: name == "shared.weight", asked=asked)
        return flat[row].reshape(run.tokenizer.vocab_size, -1)

    def looked(one: Encoded) -> Sequence[int]:
        assert one.targets is not None
        return [*one.ids.tolist(), *one.targets[:-1].tolist()]

    wanted = of_targets(texts, set(run.tokenizer.all_special_ids), table, looked)
    assert_equal(two_texts.scores(index), wanted, 1e-5)


def test_a_masked_language_model_is_the_formula(tmp_path: Path) -> None:
    """BERT, head and words share a table; what is masked counts once, and its mask is special."""
    tokenizer, folder = cases.word_tokenizer(), tmp_path / "run"
    model = cases.make_of(*cases.MASKED["bert"], vocabulary=len(tokenizer), pad=tokenizer.pad_token_id)
    save(folder, model, tokenizer, two_texts.STEPS)
    rows = {False: two_texts.TRAINING, True: two_texts.QUERIES}
    plain = {asked: [{"id": one["id"], "text": one["text"]} for one in some] for asked, some in rows.items()}
    index = proponent.build(folder, plain[False], tmp_path / "index", "tracin-we-idf", batch_size=9, quiet=True)
    run = Run.from_pretrained(folder)
    made = run.encoder(60)
    texts = {asked: made.encode([Example(one["id"], 0, one["text"]) for one in some]) for asked, some in plain.items()}
    models = {one.step: run.load(one) for one in run.checkpoints}

    def table(step: int, asked: bool, row: int) -> np.ndarray:
        return truth(models[step], texts[asked][row], MaskedLM)[1]

    wanted = of_targets(texts, set(tokenizer.all_special_ids), table, lambda one: one.ids.tolist())
    assert_equal(index.scores([one["text"] for one in plain[True]]), wanted, 1e-5)
    assert_shares_sum(index, plain[True][:2])


def test_an_append_says_how_far_frequencies_have_drifted(bert: Truth, tmp_path: Path) -> None:
    folder = tmp_path / "index"
    build(bert, folder, "tracin-we-idf")
    rows = [row | {"id": f"more-{at}"} for at, row in enumerate(bert.queries)]
    index = proponent.build(bert.folder, rows, folder, "tracin-we-idf", append=True, quiet=True)
    (note,) = [one for one in index.store.manifest.notes if "document frequencies are those of the first build" in one]
    assert "idf would differ by" in note
    assert index.store.n == len(bert.training) + len(rows)
    assert np.isfinite(ask(index, bert.queries)).all()
