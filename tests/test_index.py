"""Asking an index: both ends, labels, pairs, targets, and what is refused."""

import shutil
from pathlib import Path

import numpy as np
import pandas
import pytest
import safetensors.numpy

import proponent
from proponent.errors import InputError, LabelError, MismatchError, RunError
from proponent.index import explanation_builder
from proponent.types import Example
from proponent.views import Explanation
from tiny import NEWS, Tiny, write_csv

ASKED = ["The bank said profit fell after the vote.", "A cup for the coach", "Treaty and army in the capital"]


@pytest.fixture(scope="module")
def index(news: Tiny) -> proponent.Index:
    return proponent.open(news.index)


@pytest.fixture(scope="module")
def scores(index: proponent.Index) -> np.ndarray:
    return index.scores(ASKED)


def same(one: Explanation, other: Explanation) -> None:
    """Equal but for the last bits: batches of other shapes add in another order."""
    for mine, theirs in ((one.proponents, other.proponents), (one.opponents, other.opponents)):
        assert [hit.id for hit in mine] == [hit.id for hit in theirs]
        np.testing.assert_allclose([hit.score for hit in mine], [hit.score for hit in theirs], rtol=1e-4, atol=1e-9)
        assert [len(hit.words) for hit in mine] == [len(hit.words) for hit in theirs]
    assert (one.query.text, one.query.label, one.query.predicted) == (
        other.query.text,
        other.query.label,
        other.query.predicted,
    )


def test_many_at_once_equal_one_by_one(index: proponent.Index):
    queries = [
        Example(str(row), row, text, label)
        for row, (text, label) in enumerate(zip(ASKED, (None, "World", 1), strict=True))
    ]
    together = list(index.explain_many(queries, k=5))
    assert len(together) == 3
    for query, answer in zip(queries, together, strict=True):
        same(answer, index.explain(query.text, label=query.label, k=5))


def test_a_single_question_has_the_scores_of_all_examples(index: proponent.Index, scores: np.ndarray):
    answer = index.explain(ASKED[0], k=3)
    assert answer.score_counts is not None
    assert (answer.score_counts.total, answer.score_counts.left_out) == (len(NEWS), 0)
    assert answer.score_counts.low == pytest.approx(scores[0].min())
    assert answer.score_counts.high == pytest.approx(scores[0].max())
    (alone,) = index.explain_many(ASKED[:1], k=3)
    assert alone.score_counts == answer.score_counts
    filtered = index.explain(ASKED[0], k=3, where={"label": "World"})
    assert filtered.score_counts == answer.score_counts
    assert index.explain_group(ASKED, k=3).score_counts is not None
    assert [one.score_counts for one in index.explain_many(ASKED, k=3)] == [None] * 3, "memory, and pages, stay small"
    assert index.explain(ASKED[0], aggregate="rank").score_counts is None


def test_of_a_large_index_most_examples_are_not_looked_at(
    index: proponent.Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = index.explain(ASKED[0], k=3)
    monkeypatch.setattr(explanation_builder, "MOST_COUNTED", len(NEWS) - 1)
    answer = index.explain(ASKED[0], k=3)
    assert answer.score_counts is None
    same(answer, whole)


def test_no_queries_give_no_answers(index: proponent.Index):
    assert list(index.explain_many([])) == []
    assert index.scores([]).shape == (0, len(NEWS))
    assert index.predict([]) == []


def test_hits_are_the_two_ends_of_the_scores(index: proponent.Index, scores: np.ndarray):
    answer = index.explain(ASKED[0], k=4)
    order = np.argsort(-scores[0], kind="stable")
    assert [hit.row for hit in answer.proponents] == order[:4].tolist()
    assert [hit.row for hit in answer.opponents] == order[::-1][:4].tolist()
    np.testing.assert_allclose([hit.score for hit in answer.proponents], scores[0][order[:4]], rtol=1e-4)
    assert all(hit.score > 0 for hit in answer.proponents)
    assert all(hit.score < 0 for hit in answer.opponents)
    assert [hit.rank for hit in answer.proponents] == [1, 2, 3, 4]


def test_k_larger_than_the_training_set_shows_every_row_once(index: proponent.Index, scores: np.ndarray):
    answer = index.explain(ASKED[0], k=10_000)
    assert len(answer.proponents) == (scores[0] > 0).sum()
    assert len(answer.opponents) == (scores[0] < 0).sum()
    assert not {hit.id for hit in answer.proponents} & {hit.id for hit in answer.opponents}
    assert len(answer.baselines["random"]) == len(NEWS)


def test_a_label_is_the_predicted_one_unless_given(index: proponent.Index, scores: np.ndarray):
    predicted = index.predict(ASKED)
    answer = index.explain(ASKED[0])
    assert answer.query.label == answer.query.predicted == predicted[0]
    assert answer.query.probabilities is not None
    assert max(answer.query.probabilities, key=lambda name: answer.query.probabilities[name]) == predicted[0]  # type: ignore[index]
    np.testing.assert_allclose(index.scores(ASKED, predicted), scores, rtol=1e-5, atol=1e-12)
    other = next(name for name in ("Business", "Sports", "World") if name != predicted[0])
    given = index.explain(ASKED[0], label=other)
    assert (given.query.label, given.query.predicted) == (other, predicted[0])
    assert [hit.score for hit in given.proponents] != [hit.score for hit in answer.proponents]


def test_labels_go_by_name_or_number(index: proponent.Index):
    named = index.scores(ASKED, ["World", "Sports", "Business"])
    for labels in ([2, 1, 0], ["2", "1", "0"], np.array([2, 1, 0]), list(np.array([2, 1, 0])), ["World", 1, "0"]):
        np.testing.assert_array_equal(index.scores(ASKED, labels), named)
    mixed = index.scores(ASKED, ["World", None, "Business"])
    np.testing.assert_allclose(mixed[[0, 2]], named[[0, 2]], rtol=1e-5, atol=1e-12)
    np.testing.assert_allclose(mixed[1], index.scores(ASKED[1:2])[0], rtol=1e-4, atol=1e-9)


def test_against_is_the_difference_of_two_labels(news: Tiny, tmp_path: Path):
    """The gradient of a difference of losses is the difference of their gradients, where queries are not normalized."""
    index = proponent.build(news.run, news.data, tmp_path / "i", "tracin-we-adam-unit", quiet=True)
    contrast = index.scores(ASKED, ["World"] * 3, against="Sports")
    apart = index.scores(ASKED, ["World"] * 3) - index.scores(ASKED, ["Sports"] * 3)
    np.testing.assert_allclose(contrast, apart, rtol=1e-3, atol=1e-7)
    assert index.explain(ASKED[0], label="World", against=1).query.against == "Sports"


def test_shares_sum_to_scores_and_parts_to_the_whole(index: proponent.Index):
    answer = index.explain(ASKED[0], k=20)
    for hit in (*answer.proponents, *answer.opponents):
        total = sum(pair.share for pair in hit.words)
        size = sum(abs(pair.share) for pair in hit.words)
        assert abs(total - hit.score) <= 1e-5 * size
        assert abs(sum(hit.by_checkpoint) - hit.score) <= 1e-5 * size


@pytest.mark.parametrize(
    ("texts", "options", "message"),
    [
        ([""], {}, "the text is empty"),
        (["fine", " \n\t\u3000"], {}, r"the text with id 1 \(row 1\) is empty"),
        (["a\0b"], {}, "NUL"),
        (["half \ud800"], {}, "not UTF-8"),
        (["fine"], {"labels": ["Sport"]}, "did you mean 'Sports'"),
        (["fine"], {"labels": [7]}, "unknown label 7.*Business, Sports, World"),
        (["fine"], {"labels": ["Sports", "World"]}, "1 texts, but 2 labels"),
        (["fine"], {"text_pairs": ["a", "b"]}, "1 texts, but 2 text_pairs"),
        (["fine"], {"targets": ["said"]}, "target"),
        (["fine"], {"labels": ["World"], "against": "World"}, "two different classes"),
        (["fine"], {"against": "Wrld"}, "did you mean 'World'"),
        ([{"txt": "a"}], {}, "field 'txt', did you mean|field 'txt'"),
        ([{"label": "World"}], {}, "no text"),
    ],
)
def test_what_cannot_be_asked(index: proponent.Index, texts: object, options: dict[str, object], message: str):
    with pytest.raises(InputError, match=message):
        index.scores(texts, **options)  # type: ignore[arg-type]


def test_what_cannot_be_predicted(index: proponent.Index, lines: Tiny):
    with pytest.raises(InputError, match="is empty"):
        index.predict(["fine", ""])
    with pytest.raises(InputError, match="2 texts, but 1 text_pairs"):
        index.predict(["fine", "too"], text_pairs=["a"])
    with pytest.raises(InputError, match="language model"):
        proponent.open(lines.index).predict(["the cup"])


def test_k_is_at_least_one(index: proponent.Index):
    with pytest.raises(InputError, match="it must be at least 1"):
        index.explain(ASKED[0], k=0)


def test_a_text_without_a_known_token_says_so(index: proponent.Index):
    answer = index.explain("ẞ☃⌘")
    assert any("no token of this text occurs in the training set" in note for note in answer.notes)
    assert {pair.query_word for hit in answer.proponents for pair in hit.words} <= {"[special]"}
    assert not any("no token" in note for note in index.explain(ASKED[0]).notes)


def test_nothing_but_special_tokens_left_out_gives_an_empty_answer(news: Tiny, tmp_path: Path):
    index = proponent.build(news.run, news.data, tmp_path / "noc", method="tracin-we-noc", quiet=True)
    answer = index.explain("ẞ☃⌘")
    assert answer.proponents == answer.opponents == ()
    assert answer.notes[-1] == "no token of this text occurs in the training set: nothing to show"
    assert "nothing to show" in answer._repr_html_()


def test_a_long_text_says_where_it_was_cut(index: proponent.Index):
    text = "profit " * 40
    answer = index.explain(text)
    assert answer.query.truncated_at is not None
    assert text[: answer.query.truncated_at].split() == ["profit"] * 22
    assert any(f"truncated at character {answer.query.truncated_at}" in note for note in answer.notes)


def test_a_pair_is_marked_in_both_texts(pairs: Tiny):
    first, second = "the coach saw a team", "a cup and the bank"
    answer = proponent.open(pairs.index).explain(first, text_pair=second, k=8)
    assert (answer.query.text, answer.query.text_pair) == (first, second)
    seen: set[str] = set()
    for hit in (*answer.proponents, *answer.opponents):
        row = pairs.rows[hit.row]
        assert (hit.text, hit.text_pair) == (row["text"], row["text_pair"])
        for pair in hit.words:
            for text, word, spans in (
                (first, pair.query_word, pair.query_spans),
                (second, pair.query_word, pair.query_pair_spans),
                (row["text"], pair.train_word, pair.train_spans),
                (row["text_pair"], pair.train_word, pair.train_pair_spans),
            ):
                assert all(text[a:b].casefold() == word.casefold() for a, b in spans or ())
            seen |= {"pair"} if pair.query_pair_spans else set()
            seen |= {"train pair"} if pair.train_pair_spans else set()
    assert seen == {"pair", "train pair"}


def test_a_pair_differs_from_its_parts(pairs: Tiny):
    index = proponent.open(pairs.index)
    alone = index.scores(["the coach saw a team"], ["same"])
    paired = index.scores(["the coach saw a team"], ["same"], text_pairs=["a cup and the bank"])
    assert not np.allclose(alone, paired)


def test_a_target_is_what_counts(lines: Tiny):
    index = proponent.open(lines.index)
    whole = index.explain("the cup of the goal said cup", k=3)
    part = index.explain("the cup of the ", target="goal said cup", k=3)
    assert part.query.target == "goal said cup"
    assert part.query.label is None
    assert part.query.predicted is None
    assert part.query.loss is not None
    assert whole.query.loss is not None
    assert part.query.loss < whole.query.loss  # trained on the targets alone
    assert all(hit.target == lines.rows[hit.row]["target"] for hit in part.proponents)
    with pytest.raises(InputError, match="target of the text is empty"):
        index.explain("the cup", target=" ")


def test_a_language_model_has_no_labels(lines: Tiny):
    index = proponent.open(lines.index)
    with pytest.raises(LabelError, match="language model and has no labels"):
        index.explain("the cup", label="Sports")
    with pytest.raises(InputError, match="compares two classes, and this run is a language model"):
        index.explain("the cup", against="Sports")
    with pytest.raises(InputError, match="second text"):
        index.explain("the cup", text_pair="of the goal")
    with pytest.raises(InputError, match="not finite"):
        index.explain("a")  # one token: nothing is predicted


def test_a_run_that_moved_is_named(news: Tiny, tmp_path: Path, scores: np.ndarray):
    shutil.copytree(news.index, tmp_path / "index")
    plan = tmp_path / "index" / "plan.json"
    assert str(news.run) in plan.read_text()
    moved = Path(shutil.copytree(news.run, tmp_path / "elsewhere" / "run"))
    np.testing.assert_array_equal(proponent.open(tmp_path / "index", run=moved).scores(ASKED), scores)
    with pytest.raises(RunError, match=r"give its new folder with --run"):
        proponent.open(tmp_path / "index", run=tmp_path / "gone").explain(ASKED[0])


@pytest.mark.parametrize("spoiled", ["weights", "tokenizer"])
def test_a_run_that_changed_is_refused(news: Tiny, tmp_path: Path, spoiled: str):
    moved = Path(shutil.copytree(news.run, tmp_path / "run"))
    last = sorted(moved.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))[-1]
    if spoiled == "weights":
        weights = safetensors.numpy.load_file(last / "model.safetensors")
        weights["classifier.bias"] = weights["classifier.bias"] + 1
        safetensors.numpy.save_file(weights, last / "model.safetensors")
    else:
        for path in moved.rglob("tokenizer.json"):
            path.write_text(path.read_text(encoding="utf-8").replace('"lowercase":true', '"lowercase":false'))
            path.write_text(path.read_text(encoding="utf-8").replace('"lowercase": true', '"lowercase": false'))
    with pytest.raises(MismatchError, match=rf"its {spoiled}.* is .*, not .*--run"):
        proponent.open(news.index, run=moved).explain(ASKED[0])


def test_an_answer_prints_tabulates_and_saves(index: proponent.Index, tmp_path: Path):
    answer = index.explain(ASKED[0], k=3)
    assert repr(answer).splitlines()[0].startswith(f"Why {answer.query.label}? (tracin-we-idf, 2 checkpoints of 60")
    frame = answer.to_pandas()
    assert isinstance(frame, pandas.DataFrame)
    assert frame["side"].tolist() == ["helped"] * 3 + ["hurt"] * 3
    assert frame["id"].tolist() == [hit.id for hit in (*answer.proponents, *answer.opponents)]
    answer.save(tmp_path / "why.html")
    assert answer.proponents[0].id in (tmp_path / "why.html").read_text(encoding="utf-8")
    answer.save(tmp_path / "why.json")
    assert "tracin-we" in (tmp_path / "why.json").read_text(encoding="utf-8")
    assert repr(index) == f"Index(tracin-we-idf: 60 examples, 2 checkpoints of {index.store.plan.run})"
    assert (len(index), index.method, index.summary["examples"]) == (60, "tracin-we-idf", 60)


@pytest.mark.parametrize("method", ["bm25", "label", "random", "tracin-last"])
def test_other_methods_answer_too(news: Tiny, tmp_path: Path, method: str):
    index = proponent.build(news.run, news.data, tmp_path / method, method=method, quiet=True)
    answer = index.explain(ASKED[0], label="Business", k=3, baselines=False)
    assert answer.method == method
    assert answer.baselines == {}
    assert answer.embedding_path is None
    assert answer.proponents
    if method == "label":
        assert [hit.score for hit in answer.proponents] == [1.0, 1.0, 1.0]
        assert [hit.row for hit in answer.proponents] == [0, 3, 6]  # ties by row
        assert index.scores(["x y"], ["World"])[0].tolist() == [
            1.0 if row["label"] == "World" else -1.0 for row in NEWS
        ]


def test_build_takes_a_folder_a_run_or_one_in_a_list(news: Tiny, tmp_path: Path):
    run = proponent.Run.from_pretrained(news.run)
    roots = {
        proponent.build(
            given, [dict(row) for row in NEWS[:6]], tmp_path / str(number), quiet=True
        ).store.manifest.merkle_root
        for number, given in enumerate((news.run, str(news.run), [news.run], [run]))
    }
    assert len(roots) <= 2  # the plan keeps the folder as it was given
    with pytest.raises(InputError, match="no run was given"):
        proponent.build([], NEWS[:6], tmp_path / "none", quiet=True)
    with pytest.raises(InputError, match="option path 'sideways'"):
        proponent.build(run, NEWS[:6], tmp_path / "odd", path="sideways", quiet=True)
    with pytest.raises(InputError, match="did you mean 'tracin-we'"):
        proponent.build(run, NEWS[:6], tmp_path / "odd", method="tracinwe", quiet=True)
    assert not (tmp_path / "odd").exists()


def test_empty_rows_are_kept_when_allowed(news: Tiny, tmp_path: Path):
    data = write_csv(tmp_path / "gaps.csv", [*NEWS[:4], {"id": "gap", "text": " ", "label": "World"}])
    with pytest.raises(InputError, match="allow_empty=True"):
        proponent.build(news.run, data, tmp_path / "index", quiet=True)
    assert len(proponent.build(news.run, data, tmp_path / "index", allow_empty=True, quiet=True)) == 5


def test_queries_are_texts_dicts_or_examples_one_or_many(index: proponent.Index) -> None:
    example = proponent.Example("q", 0, "the bank", "World")
    truth = index.scores(["the bank"], ["World"])
    for given in (example, [example], {"text": "the bank", "label": "World"}, [{"text": "the bank", "label": "World"}]):
        np.testing.assert_array_equal(index.scores(given), truth)
        assert index.top(given, k=1)[0].proponent_scores.shape == (1,)
        assert index.predict(given) == index.predict("the bank")
        assert [one.query.label for one in index.explain_many(given, k=1)] == ["World"]
        assert index.explain_group(given, k=1).query.label == "World"
    np.testing.assert_array_equal(index.scores("the bank", "World"), truth)
    assert index.explain({"text": "the bank", "label": "World"}, k=1).query.label == "World"


def test_explain_many_refuses_before_the_first_answer_is_asked_for(index: proponent.Index) -> None:
    with pytest.raises(InputError, match="empty"):
        index.explain_many([" "])
