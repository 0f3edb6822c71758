"""Word overlap that is added to scores of gradients: its parts, words, filters, groups and comparisons."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import proponent
import runs

FACTOR = 0.5
LINES = [{"id": row["id"], "text": row["text"]} for row in runs.OTHERS]
ASKED = {"lm": "After the match the coach of the team said", "classifier": "The bank said profit of the market"}


@pytest.fixture(scope="module")
def indexes(bert_run: Path, lm_run: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    home = tmp_path_factory.mktemp("overlap")
    made: dict[str, dict[str, Any]] = {}
    for kind, run, data in (("lm", lm_run, LINES), ("classifier", bert_run, runs.OTHERS)):
        made[kind] = {
            name: runs.index(run, home / f"{kind}-{name}", name, data) for name in ("grad-cos-bm25", "grad-cos", "bm25")
        }
    return made


def asked(kind: str) -> dict[str, Any]:
    return {"text": ASKED[kind]} | ({} if kind == "lm" else {"label": "Business"})


@pytest.mark.parametrize("kind", ["lm", "classifier"])
def test_scores_are_both_sides_in_standard_deviations(indexes: dict[str, dict[str, Any]], kind: str) -> None:
    found, gradients, words = (index.scores([asked(kind)])[0] for index in indexes[kind].values())
    if kind == "classifier":
        words = words * np.asarray([1.0 if row["label"] == "Business" else -1.0 for row in runs.OTHERS])
    assert found == pytest.approx(gradients / gradients.std() + FACTOR * words / words.std(), rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("kind", ["lm", "classifier"])
def test_words_sum_to_the_score(indexes: dict[str, dict[str, Any]], kind: str) -> None:
    index = indexes[kind]["grad-cos-bm25"]
    said = index.explain(**asked(kind), k=8)
    scores = index.scores([asked(kind)])[0]
    assert [hit.row for hit in said.proponents] == np.argsort(-scores, kind="stable")[:8].tolist()
    for hit in (*said.proponents, *said.opponents):
        assert hit.score == pytest.approx(scores[hit.row], rel=1e-5, abs=1e-6)
        assert sum(pair.share for pair in hit.words) == pytest.approx(hit.score, rel=1e-6, abs=1e-9)
        assert len(hit.by_checkpoint) == len(said.checkpoints)
    assert any("0.5 x word overlap (BM25)" in note for note in said.notes)
    best = said.proponents[0]
    plain = indexes[kind]["grad-cos"].explain(**asked(kind), k=40)
    same = next(hit for hit in (*plain.proponents, *plain.opponents) if hit.id == best.id)
    shared = {pair.query_word.lower() for pair in best.words} & {pair.train_word.lower() for pair in best.words}
    assert shared, "the first example shares a word"
    assert len(best.words) >= len(same.words)


def test_a_filter_leaves_scores_as_they_are(indexes: dict[str, dict[str, Any]]) -> None:
    index = indexes["classifier"]["grad-cos-bm25"]
    scores = index.scores([asked("classifier")])[0]
    (found,) = index.top([asked("classifier")], k=4, where={"labels": ["Sports"]})
    for places, values in ((found.proponents, found.proponent_scores), (found.opponents, found.opponent_scores)):
        assert values == pytest.approx(scores[places], rel=1e-6)
        assert all(runs.OTHERS[place]["label"] == "Sports" for place in places)


def test_a_comparison_is_of_gradients_alone(indexes: dict[str, dict[str, Any]]) -> None:
    query = asked("classifier") | {"against": "World"}
    both, plain = (indexes["classifier"][name].explain(**query, k=5) for name in ("grad-cos-bm25", "grad-cos"))
    assert [hit.id for hit in both.proponents] == [hit.id for hit in plain.proponents]
    assert [hit.score for hit in both.proponents] == pytest.approx([hit.score for hit in plain.proponents], rel=1e-6)
    assert any("left out of a comparison" in note for note in both.notes)
    answer = {"text": "The coach", "target": " said"}
    two = indexes["lm"]["grad-cos-bm25"].explain(**answer, against_target=" of", k=5)
    one = indexes["lm"]["grad-cos"].explain(**answer, against_target=" of", k=5)
    assert [hit.id for hit in two.proponents] == [hit.id for hit in one.proponents]


def test_a_group_has_the_mean_score(indexes: dict[str, dict[str, Any]]) -> None:
    index = indexes["lm"]["grad-cos-bm25"]
    texts = [ASKED["lm"], "the treaty after the vote"]
    wanted = index.scores(texts).mean(0)
    assert index.group_scores(texts) == pytest.approx(wanted, rel=1e-5, abs=1e-6)
    said = index.explain_group(texts, k=3)
    assert [hit.row for hit in said.proponents] == np.argsort(-wanted, kind="stable")[:3].tolist()


def test_a_query_without_a_known_word_is_ranked_by_gradients(indexes: dict[str, dict[str, Any]]) -> None:
    found, gradients = (indexes["lm"][name].scores(["zzz qqq"])[0] for name in ("grad-cos-bm25", "grad-cos"))
    assert found == pytest.approx(gradients / gradients.std(), rel=1e-5)


def test_the_factor_is_a_field(lm_run: Path, indexes: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    heavy = runs.index(lm_run, tmp_path / "heavy", "grad-cos-bm25", LINES, factor=1000.0)
    words = indexes["lm"]["bm25"].scores([ASKED["lm"]])[0]
    assert np.argmax(heavy.scores([ASKED["lm"]])[0]) == np.argmax(words)
    with pytest.raises(proponent.ProponentError, match="factor"):
        runs.index(lm_run, tmp_path / "none", "grad-cos-bm25", LINES, factor=0.0)
