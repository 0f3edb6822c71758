"""Answers as JSON: their size, the ids and sources in them, and filters given as dicts."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import proponent
import runs
from proponent.errors import InputError
from proponent.search import Where
from proponent.views import Explanation
from proponent.views.hit import SAVED_WORDS, WordPair


@pytest.fixture(scope="module")
def index(lm_run: Path, tmp_path_factory: pytest.TempPathFactory) -> proponent.Index:
    rows = [{"id": row["id"], "text": row["text"], "source": "xy"[at % 2]} for at, row in enumerate(runs.ROWS[:6])]
    return proponent.build(lm_run, rows, tmp_path_factory.mktemp("answers") / "index", quiet=True)


def test_query_id_and_source_of_a_hit(index: proponent.Index) -> None:
    answer = index.explain({"id": "my-question", "text": runs.TEXTS[1]}, k=2, baselines=False)
    content = json.loads(answer.to_json())
    assert content["query"]["id"] == "my-question"
    assert content["proponents"][0]["source"] == "y"


@pytest.mark.parametrize(
    "where", [{"source": "y"}, {"sources": ["y"]}, {"ids": ["n1", "n3", "n5"]}, Where(sources=["y"])]
)
def test_filters_as_dicts(index: proponent.Index, where: Any) -> None:
    answer = index.explain(runs.TEXTS[1], k=6, baselines=False, where=where)
    assert {hit.source for hit in (*answer.proponents, *answer.opponents)} == {"y"}
    with pytest.raises(InputError, match=r"where is .*: give proponent\.Where"):
        index.explain(runs.TEXTS[1], where={"colour": "y"})


def test_words_in_json_are_bounded_and_sum_to_the_score(index: proponent.Index, tmp_path: Path) -> None:
    answer = index.explain(runs.TEXTS[0], k=1, baselines=False)
    pairs = tuple(WordPair(f"q{at}", f"w{at}", (-1) ** at * 1.0 / (at + 1)) for at in range(3000))
    score = sum(pair.share for pair in pairs)
    answer = replace(answer, proponents=(replace(answer.proponents[0], words=pairs, score=score),))
    content = answer.to_dict()
    (hit,) = content["proponents"]
    assert [word["train_word"] for word in hit["words"]] == [f"w{at}" for at in range(SAVED_WORDS)]
    assert hit["words_left_out"] == 3000 - SAVED_WORDS
    assert sum(word["share"] for word in hit["words"]) + hit["share_left_out"] == pytest.approx(score)
    assert len(answer.to_json()) < 20_000
    answer.save(tmp_path / "why.json")
    again = Explanation.from_dict(json.loads((tmp_path / "why.json").read_text()))
    assert (again.proponents[0].more_words, again.proponents[0].more_share) == (
        answer.proponents[0].more_words,
        pytest.approx(answer.proponents[0].more_share),
    )
    assert again.to_dict() == content
    assert len(answer.to_dict(whole=True)["proponents"][0]["words"]) == 3000
