"""The words of a hit: exact terms against autograd, terms of the embedding, changes when a word is masked."""

from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import proponent
import runs
import tiny
from cases import CASES, collate, encoded
from proponent.errors import InputError
from proponent.gradients.capture import Capture
from proponent.gradients.factor_terms import factor_terms
from proponent.gradients.layer_hooks import TokenWords
from proponent.gradients.layer_rules import OneHot
from proponent.gradients.layer_selection import choose
from proponent.gradients.model_parts import classifier_head, input_embedding, vocabulary_head
from proponent.index.hit_words import DEFINITIONS, masked
from proponent.models import CausalLM, Classification
from proponent.types import SPECIAL
from proponent.views import Explanation


def gradient(model: Any, one: Any, label: int, *, lm: bool) -> dict[str, torch.Tensor]:
    """Autograd's gradient of every parameter."""
    inputs = {"input_ids": torch.tensor(one.ids)[None], "attention_mask": torch.ones(1, len(one.ids)).long()}
    parameters = {name: each for name, each in model.named_parameters() if each.is_floating_point()}
    for each in parameters.values():
        each.requires_grad_()
    with torch.enable_grad():
        batch = collate([one], [label])
        loss = (CausalLM() if lm else Classification()).objective(batch).losses(model(**inputs).logits).sum()
        found = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
    model.requires_grad_(False)
    return {name: each for name, each in zip(parameters, found, strict=True) if each is not None}


@pytest.mark.parametrize("name", ["bert-classifier", "gpt2-classifier", "gpt2-lm-tied", "llama-lm-untied"])
def test_terms_of_tokens_sum_to_the_product_of_autograd_in_64_bits(name: str) -> None:
    model, lm = CASES[name].make().double(), "-lm-" in name
    mine, theirs = encoded(3, (7,), lm=lm)[0], encoded(4, (5,), lm=lm)[0]
    head = vocabulary_head(model) or classifier_head(model)
    choice = choose(model, ("all",), head=head, word=input_embedding(model), biases=True, rows=False)

    def calls(one: Any, label: int) -> Any:
        batch = collate([one], [label])
        task = (CausalLM() if lm else Classification()).objective(batch)
        made = Capture(model, embedding=False, blocks=choice.blocks)(batch.inputs, task.losses, batch.words)
        return made.calls, TokenWords(np.arange(len(one.ids)))

    sides = calls(mine, 1), calls(theirs, 2)
    terms = factor_terms(choice.blocks, *sides, (len(mine.ids), len(theirs.ids)))
    ours, others = gradient(model, mine, 1, lm=lm), gradient(model, theirs, 2, lm=lm)
    names = {
        f"{module}.{'bias' if block.part == 'bias' else 'weight'}"
        for block in choice.blocks
        for module in block.modules
    }
    product = sum(float((ours[key] * others[key]).sum()) for key in names if key in ours)
    size = float(
        np.prod(
            [np.sqrt(sum(float((each[key] ** 2).sum()) for key in names if key in each)) for each in (ours, others)]
        )
    )
    assert abs(terms.sum() - product) <= 1e-6 * size
    assert np.count_nonzero(terms[:-1, :-1]) > 0, "tokens have terms of their own"
    by_token = [formed(side, len(one.ids)) for side, one in zip(sides, (mine, theirs), strict=True)]
    exact = sum(np.einsum("toi,soi->ts", by_token[0][key], by_token[1][key]) for key in by_token[0])
    np.testing.assert_allclose(terms, exact, atol=1e-9 * size)


def formed(side: tuple[Any, TokenWords], tokens: int) -> dict[str, np.ndarray]:
    """The part of each layer's gradient that belongs to each token, as whole matrices; other positions last."""
    found: dict[str, np.ndarray] = {}
    for name, some in side[0].items():
        for call in some:
            hot = isinstance(call.left, OneHot)
            left = torch.eye(call.left.size).double()[call.left.ids[0]] if hot else call.left[0]
            each = torch.einsum("so,si->soi", left, call.right[0]).numpy()
            total = found.setdefault(name, np.zeros((tokens + 1, *each.shape[1:])))
            np.add.at(total, side[1].of(call), each)
    return found


@pytest.fixture(scope="module")
def tuned(news: tiny.Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tuned") / "index"
    runs.index(news.run, folder, "grad-cos", data=[*runs.OTHERS[:11], masked_row()])
    return folder


WORD = runs.OTHERS[0]["text"].rstrip(".").split()[2]


def masked_row() -> dict[str, Any]:
    """The first row with one word replaced by the mask token."""
    first = runs.OTHERS[0]
    return {**first, "id": "masked", "text": first["text"].replace(WORD, "[MASK]")}


def asked(folder: Path, words: Any = None, **how: Any) -> Explanation:
    query = runs.OTHERS[20]
    return proponent.open(folder, words=words).explain(
        query["text"], label=query["label"], k=12, baselines=False, **how
    )


def shares(answer: Explanation, which: str) -> dict[str, dict[str, float]]:
    """Shares of each hit by the word of one side."""
    found: dict[str, dict[str, float]] = {}
    for hit in (*answer.proponents, *answer.opponents):
        found[hit.id] = defaultdict(float)
        for pair in hit.words:
            found[hit.id][getattr(pair, which)] += pair.share
    return found


@pytest.mark.parametrize("by", DEFINITIONS)
def test_shares_of_words_sum_to_the_score(tuned: Path, by: Any) -> None:
    answer, plain = asked(tuned, by), asked(tuned)
    assert answer.words_are == DEFINITIONS[by]
    assert [hit.id for hit in answer.proponents] == [hit.id for hit in plain.proponents]
    for hit, other in zip((*answer.proponents, *answer.opponents), (*plain.proponents, *plain.opponents), strict=True):
        assert sum(pair.share for pair in hit.words) == pytest.approx(hit.score, abs=1e-6 * answer.largest_score)
        assert hit.score == pytest.approx(other.score, abs=1e-5 * answer.largest_score)
        assert len(hit.by_checkpoint) == len(answer.checkpoints)
        assert {pair.train_word for pair in hit.words} > {SPECIAL}, "real words are named"


def test_the_share_of_a_masked_word_is_the_change_of_the_score(tuned: Path) -> None:
    answer = asked(tuned, "masked")
    scores = {hit.id: hit.score for hit in (*answer.proponents, *answer.opponents)}
    first = runs.OTHERS[0]["id"]
    change = scores[first] - scores["masked"]
    assert abs(change) > 1e-3 * answer.largest_score
    assert shares(answer, "train_word")[first][WORD] == pytest.approx(change, abs=1e-5 * answer.largest_score)


def test_a_word_of_the_query_is_masked_too(tuned: Path) -> None:
    query, first = runs.OTHERS[20], runs.OTHERS[0]["id"]
    word = query["text"].rstrip(".").split()[1]
    index = proponent.open(tuned, words="masked")
    texts = [query["text"], query["text"].replace(word, "[MASK]")]
    place = [row["id"] for row in runs.OTHERS].index(first)
    whole, without = index.scores(texts, [query["label"]] * 2)[:, place]
    found = shares(asked(tuned, "masked"), "query_word")[first][word]
    assert found == pytest.approx(whole - without, abs=1e-5 * asked(tuned).largest_score)


def test_terms_of_the_embedding_are_the_terms_of_tracin_we(news: tiny.Tiny, tmp_path: Path) -> None:
    runs.index(news.run, tmp_path / "index", "tracin-we", data=runs.OTHERS[:12])
    exact, other = (shares(asked(tmp_path / "index", by), "train_word") for by in ("terms", "embedding"))
    for row, words in exact.items():
        assert other[row] == pytest.approx(words, abs=1e-6)


def test_many_queries_share_their_masked_rows(tuned: Path) -> None:
    index = proponent.open(tuned, words="masked")
    queries = [{"text": row["text"], "label": row["label"]} for row in runs.OTHERS[20:38]]
    together = list(index.explain_many(queries, k=2, baselines=False))
    for at in (0, 15, 16, 17):  # the last two are in the second block
        (alone,) = index.explain_many([queries[at]], k=2, baselines=False)
        for one, other in zip(alone.proponents, together[at].proponents, strict=True):
            mine, theirs = ({pair.names: pair.share for pair in hit.words} for hit in (one, other))
            assert mine == pytest.approx(theirs, abs=1e-5 * abs(one.score) + 1e-12)


def test_a_text_without_a_mask_token_loses_the_word() -> None:
    one = encoded(1, (6,))[0]
    words, texts = masked(one, int(one.words.max()) + 1, None)
    assert len(texts) == len(words) + 1
    assert texts[0] is one
    for word, text in zip(words.tolist(), texts[1:], strict=True):
        assert text.ids.tolist() == one.ids[one.words != word].tolist()
        assert word not in text.words


def test_groups_have_exact_terms(tuned: Path) -> None:
    queries = [{"text": row["text"], "label": row["label"]} for row in runs.OTHERS[20:22]]
    answer = proponent.open(tuned, words="masked").explain_group(queries, k=2, baselines=False)
    assert answer.words_are == DEFINITIONS["terms"]


def test_word_overlap_is_named_beside_the_definition(lm_run: Path, tmp_path: Path) -> None:
    texts = [{"id": row["id"], "text": row["text"]} for row in runs.OTHERS[:6]]
    runs.index(lm_run, tmp_path / "index", "grad-cos-bm25", data=texts)
    for by in ("terms", "embedding"):
        answer = proponent.open(tmp_path / "index", words=by).explain(runs.OTHERS[20]["text"], k=3, baselines=False)
        assert answer.words_are == f"{DEFINITIONS[by]} and word overlap"
        for hit in (*answer.proponents, *answer.opponents):
            assert sum(pair.share for pair in hit.words) == pytest.approx(hit.score, abs=1e-6 * answer.largest_score)


def test_definitions_that_do_not_exist_are_refused(news: tiny.Tiny, tuned: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"words='mask'.*masked"):
        proponent.open(tuned, words="mask")
    runs.index(news.run, tmp_path / "bm25", "bm25", data=runs.OTHERS[:6])
    with pytest.raises(InputError, match="words=masked: this method has only one kind of words, or none"):
        proponent.open(tmp_path / "bm25", words="masked")


def test_the_words_of_a_language_model_are_not_masked(lm_run: Path, tmp_path: Path) -> None:
    texts = [{"id": row["id"], "text": row["text"]} for row in runs.OTHERS[:6]]
    runs.index(lm_run, tmp_path / "index", "grad-cos", data=texts)
    with pytest.raises(InputError, match="a causal-lm model answers with words"):
        proponent.open(tmp_path / "index", words="masked")
    exact = proponent.open(tmp_path / "index").explain(runs.OTHERS[20]["text"], k=3, baselines=False)
    assert exact.words_are == DEFINITIONS["terms"]
    for hit in exact.proponents:
        assert sum(pair.share for pair in hit.words) == pytest.approx(hit.score, abs=1e-6)
    other = proponent.open(tmp_path / "index", words="embedding").explain(runs.OTHERS[20]["text"], k=3, baselines=False)
    assert other.words_are == DEFINITIONS["embedding"]
