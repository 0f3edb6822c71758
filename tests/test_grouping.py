"""Groups of queries and the rules that join scores, in an index, against plain loops over its own scores."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import proponent
import tiny as tiny_runs
from proponent.cli.application import main
from proponent.errors import InputError
from proponent.index.grouping import Aggregate
from proponent.index.query_input import queries_of
from proponent.search import aggregate
from proponent.types import Example
from test_search import build
from truth import Truth, classifier_run, lm_run

Folder = Callable[[str], Path]


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    return lambda name: tmp_path_factory.mktemp(name) / name


@pytest.fixture(scope="module")
def bert(fresh: Folder) -> Truth:
    whole = classifier_run(fresh("bert"), 24, 5)
    return Truth(whole.folder, whole.steps[:2], whole.training, whole.queries)


@pytest.fixture(scope="module")
def layered(bert: Truth, fresh: Folder) -> proponent.Index:
    return build(bert, fresh("layers"), "tracin-layers", layers="attention,head", steps=bert.steps)


def asked(truth: Truth) -> list[Example]:
    return queries_of(truth.queries)


def ran(words: list[str]) -> Any:
    with pytest.raises(SystemExit) as stopped:
        main(words)
    return stopped.value.code or 0


def single(index: proponent.Index, queries: list[Example], **changes: Any) -> np.ndarray:
    return np.stack([index.group_scores([one], **changes) for one in queries])


METHODS: list[tuple[str, dict[str, Any]]] = [
    ("tracin-we", {}),
    ("tracin-we-syn", {}),
    ("tracin-we-adam", {"unit_norm": True}),
    ("tracin-last", {}),
    ("grad-cos", {"steps": (5,)}),
    ("ekfac", {"project": 4}),
    ("tfidf-label", {}),
]


@pytest.mark.parametrize(("method", "changes"), METHODS)
def test_a_group_has_the_mean_of_its_scores(bert: Truth, fresh: Folder, method: str, changes: dict[str, Any]) -> None:
    index, queries = build(bert, fresh("index"), method, **changes), asked(bert)
    truth = index.scores([one.text for one in queries], [one.label for one in queries]).mean(0)
    np.testing.assert_allclose(index.group_scores(queries), truth, rtol=1e-5, atol=1e-9)
    answer = index.explain_group(queries, k=6)
    hits = [*answer.proponents, *answer.opponents]
    assert [hit.score for hit in hits] == pytest.approx([truth[hit.row] for hit in hits], rel=1e-4)
    assert [hit.row for hit in answer.proponents] == np.argsort(-truth, kind="stable")[
        : len(answer.proponents)
    ].tolist()
    assert [one.text for one in answer.group or ()] == [one.text for one in queries]
    told = method in {"tracin-we-syn", "tfidf-label"}
    assert any("is not split by word" in note for note in answer.notes) == told
    for hit in hits:
        assert bool(hit.words) != told
        if hit.words:
            assert sum(pair.share for pair in hit.words) == pytest.approx(hit.score, rel=1e-4, abs=1e-9)
            assert len({(pair.query_word, pair.train_word) for pair in hit.words}) == len(hit.words)
    for hit in answer.baselines["tfidf-label"]:
        assert np.isfinite(hit.score)


def test_a_group_of_a_language_model_and_of_a_shared_table(fresh: Folder) -> None:
    gpt2 = lm_run(fresh("gpt2"), "gpt2", tied=True, steps=(20,), n=12, q=3)
    index, queries = build(gpt2, fresh("index"), "tracin-we"), asked(gpt2)
    truth = np.mean([index.group_scores([one]) for one in queries], axis=0)
    answer = index.explain_group(queries, k=12)
    hits = [*answer.proponents, *answer.opponents]
    assert [hit.score for hit in hits] == pytest.approx([truth[hit.row] for hit in hits], rel=1e-4)
    assert all(sum(pair.share for pair in hit.words) == pytest.approx(hit.score) for hit in hits)
    with pytest.raises(InputError, match="language model"):
        index.explain_group(queries, aggregate=Aggregate(correct=True))


@pytest.mark.parametrize("how", ["rank", "vote"])
@pytest.mark.parametrize("over", [("layers",), ("checkpoints",), ("layers", "checkpoints")])
def test_rank_and_vote_are_those_of_a_loop(
    bert: Truth, layered: proponent.Index, fresh: Folder, how: Any, over: Any
) -> None:
    queries, names = asked(bert), [block.name for block in layered.store.plan.blocks]
    parts = np.stack(  # layer, checkpoint, query, example
        [
            [
                build(bert, fresh("part"), "tracin-layers", layers=name, steps=(step,)).scores(
                    [one.text for one in queries], [one.label for one in queries]
                )
                for step in bert.steps
            ]
            for name in names[:: 4 if len(names) > 8 else 1]
        ]
    )
    index = build(bert, fresh("index"), "tracin-layers", layers=names[:: 4 if len(names) > 8 else 1], steps=bert.steps)
    if "layers" not in over:
        parts = parts.sum(0, keepdims=True)
    if "checkpoints" not in over:
        parts = parts.sum(1, keepdims=True)
    truth = aggregate(parts.reshape(-1, *parts.shape[2:]), how, k=0.3)
    found = index.group_scores(queries, aggregate=Aggregate(how, over, 0.3))
    ties = np.isclose(found, truth, rtol=1e-9)  # two scores that agree to 1e-7 may change places
    assert ties.mean() > 0.9
    np.testing.assert_allclose(found, truth, atol=1.0 if how == "rank" else 4.0)


def test_answers_of_rank_and_vote_have_no_words_and_say_so(bert: Truth, layered: proponent.Index) -> None:
    queries, n = asked(bert), len(layered)
    ranks, votes = (layered.group_scores(queries, aggregate=one) for one in ("rank", "vote"))
    assert ranks.mean() == pytest.approx((n - 1) / 2)
    answer = layered.explain_group(queries, aggregate="rank", k=3)
    assert [hit.score for hit in answer.proponents] == pytest.approx(np.sort(ranks - (n - 1) / 2)[::-1][:3])
    assert not answer.proponents[0].words
    assert any("ranks are not split by word" in note for note in answer.notes)
    answer = layered.explain_group(queries, aggregate="vote", k=3)
    assert not answer.proponents
    assert [hit.score for hit in answer.opponents] == pytest.approx(np.sort(votes)[:3])
    assert any("find only examples that hurt" in note for note in answer.notes)
    (alone,) = layered.explain_many(queries[:1], aggregate="rank", k=3)
    assert alone.group is None
    assert alone.proponents[0].score == pytest.approx(
        np.sort(single(layered, queries[:1], aggregate="rank")[0])[-1] - 11.5
    )


def test_only_correct_queries_count(bert: Truth, layered: proponent.Index) -> None:
    queries = asked(bert)
    predicted = layered.predict([one.text for one in queries])
    right = [one for one, name in zip(queries, predicted, strict=True) if one.label == name]
    wrong = [one for one, name in zip(queries, predicted, strict=True) if one.label != name]
    assert right
    assert wrong
    rule = Aggregate(correct=True)
    np.testing.assert_allclose(
        layered.group_scores(queries, aggregate=rule), layered.group_scores(right), rtol=1e-6, atol=1e-9
    )
    answer = layered.explain_group(queries, aggregate=rule)
    assert [one.text for one in answer.group or ()] == [one.text for one in right]
    assert any(f"{len(right)} of {len(queries)} queries are used" in note for note in answer.notes)
    with pytest.raises(InputError, match="predicts none of them correctly"):
        layered.explain_group(wrong, aggregate=rule)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"aggregate": "vote", "k": 99.0}, "k is 99"),
        ({"aggregate": "vote", "k": 0.0}, "k is 0"),
    ],
)
def test_what_cannot_be_joined_is_refused(
    bert: Truth, layered: proponent.Index, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        layered.group_scores(
            asked(bert),
            aggregate=Aggregate(change.pop("aggregate", "mean"), **change),
        )
    with pytest.raises(InputError, match="no query was given"):
        layered.explain_group([])


def test_deleted_rows_are_not_ranked(bert: Truth, fresh: Folder) -> None:
    from proponent.store import delete

    folder = fresh("index")
    build(bert, folder, "tracin-we")
    delete(folder, np.asarray([3, 7]))
    index = proponent.open(folder)
    scores = index.group_scores(asked(bert), aggregate="rank")
    assert np.flatnonzero(np.isnan(scores)).tolist() == [3, 7]
    assert np.nanmean(scores) == pytest.approx((len(index) - 1) / 2)


def test_the_command_line_asks_a_group(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny = tiny_runs.made(tmp_path, tiny_runs.NEWS)
    file = tiny_runs.write_csv(
        tmp_path / "queries.csv", [{"text": row["text"], "label": row["label"]} for row in tiny_runs.NEWS[:4]]
    )
    how = ["explain", str(tiny.index), "--queries", str(file), "--group", "--json", "-q"]
    assert ran([*how, "--html", str(tmp_path / "group.html")]) == 0
    content = json.loads(capsys.readouterr().out)
    assert len(content["group"]) == 4
    assert proponent.Explanation.from_dict(content).group is not None
    assert "explained as one group" in (tmp_path / "group.html").read_text()
    assert ran([*how, "--aggregate", "vote", "--over", "layers,checkpoints", "--vote-k", "5"]) == 0
    assert json.loads(capsys.readouterr().out)["proponents"] == []
    assert ran(["explain", str(tiny.index), "a text", "--group"]) == 2
    assert "--group needs --queries FILE" in capsys.readouterr().err
    assert ran([*how, "--aggregate", "rnak"]) == 2
    assert "rank" in capsys.readouterr().err
