"""Word removal: what is taken out of which rows, retrains on edited texts, the page."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

import runs
import tiny
from planted import Planted
from proponent.baselines import tfidf_weights
from proponent.errors import InputError
from proponent.evaluate.word_removal import (
    RANDOM_WORDS,
    RemovalResult,
    drawn,
    frequent_words,
    plan_removals,
    ranked_by_shares,
    ranked_by_tfidf,
    run_removals,
    without_words,
)
from proponent.evaluate.word_removal_page import words_page
from proponent.index.hit_words import DEFINITIONS
from proponent.training.outputs import Outputs
from proponent.training.retraining import Retrainer, RetrainJob, Retrains
from proponent.types import Conversation, Example, Message, Preference
from proponent.views import Hit, WordPair
from proponent.words import words

Said = Callable[..., tuple[int, str, str]]
TEXT = "the bank, the bank fell"


def numbers(example: Example, *wanted: str) -> list[int]:
    named = [one.text for one in words(example.parts)]
    return [named.index(one) for one in wanted]


def test_a_word_is_taken_out_at_every_place_of_every_text() -> None:
    one = Example("1", 0, TEXT, "up", "a bank")
    made = without_words(one, numbers(one, "bank", "fell"))
    assert made.parts == ("the , the  ", "a ")
    assert (made.id, made.label) == ("1", "up")
    prompted = Example("2", 1, "say bank", target="bank fell")
    assert without_words(prompted, numbers(prompted, "bank")).parts == ("say ", " fell")


def test_the_turns_of_a_conversation_keep_their_roles() -> None:
    turns = (Message("user", "what fell"), Message("assistant", "the bank fell"))
    one = Example("3", 2, content=Conversation(turns, prompt=1))
    made = without_words(one, numbers(one, "fell"))
    assert isinstance(made.content, Conversation)
    assert [(turn.role, turn.text) for turn in made.content.turns] == [("user", "what "), ("assistant", "the bank ")]
    assert made.content.prompt == 1


def test_pairs_of_answers_are_refused() -> None:
    one = Example("4", 3, content=Preference("which", "this bank", "that bank"))
    with pytest.raises(InputError, match="the row with id 4 is a Preference"):
        without_words(one, [0])


def test_a_text_keeps_one_word() -> None:
    one = Example("5", 4, "bank fell")
    assert without_words(one, numbers(one, "bank", "fell")).text == " fell"


def test_words_rank_by_what_they_add_to_the_score() -> None:
    one = Example("6", 5, TEXT)
    pairs = [
        ("fell", "x", 0.2),
        ("the", "y", 0.5),
        ("the", "x", -0.4),
        ("bank", "x", -0.3),
        ("[special]", "x", 9.0),
        (",", "x", 1.0),
    ]
    hit = Hit(
        rank=1, id="6", row=5, score=1.0, text=TEXT, label=None, words=tuple(WordPair(q, t, s) for t, q, s in pairs)
    )
    assert ranked_by_shares(one, hit) == numbers(one, "fell", "the"), "marks and negative words are not named"
    assert ranked_by_shares(one, None) == []


def test_tfidf_ranks_shared_words_first() -> None:
    rows = [Example("7", 0, "the zebra bank"), Example("8", 1, "the bank"), Example("9", 2, "the sea")]
    rank = ranked_by_tfidf(rows, [Example("q", 0, "a bank")])
    assert rank(0, 0) == numbers(rows[0], "bank", "zebra", "the")
    weights = tfidf_weights([one.text for one in rows], ["bank the"])[0]
    assert weights["bank"] > weights["the"] > 0
    assert np.sqrt(sum(value**2 for value in weights.values())) == pytest.approx(1.0)
    assert tfidf_weights([""], ["bank"]) == [{}]


def test_random_words_are_words_of_content_first() -> None:
    rows = [Example(str(at), at, f"the of sea{at} lake{at}") for at in range(30)]
    frequent = frequent_words(rows)
    assert frequent == {"the", "of"}
    order = drawn(rows[0], np.random.default_rng(0), frequent)
    named = [one.text for one in words(rows[0].parts)]
    assert {named[at] for at in order[:2]} == {"sea0", "lake0"}
    assert {named[at] for at in order[2:]} == {"the", "of"}


def test_every_definition_takes_out_as_many_words() -> None:
    rows = [Example(str(at), at, f"one two three four five{at}") for at in range(4)]
    rankings = {"many": lambda _query, _row: [5, 4], "few": lambda _query, row: [0] if row == 2 else []}
    plan = plan_removals(rows, [np.asarray([2, 1]), np.asarray([0])], rankings, 2, frozenset())
    assert [(one.name, one.query, one.removed, one.named) for one in plan] == [
        ("many", 0, 4, 4),
        ("few", 0, 4, 1),
        (RANDOM_WORDS, 0, 4, 0),
        ("many", 1, 2, 2),
        ("few", 1, 2, 0),
        (RANDOM_WORDS, 1, 2, 0),
    ]
    edits = dict(plan[0].edits)
    assert list(edits) == [2, 1]
    assert edits[2].text == "one two three  "
    assert dict(plan[4].edits) == dict(plan[5].edits), "a definition without words equals random words"
    with pytest.raises(InputError, match="--words 0"):
        plan_removals(rows, [], rankings, 0, frozenset())


@dataclass
class Letters:
    """A retrainer whose output is the number of letters that it was trained on."""

    texts: dict[int, str]
    trained: list[int] = field(default_factory=list)

    identity = "letters"

    @property
    def size(self) -> int:
        return len(self.texts)

    def __call__(self, rows: np.ndarray, seed: int) -> Outputs:
        self.trained.append(seed)
        total = float(sum(map(str.isalpha, "".join(self.texts[row] for row in rows.tolist()))))
        return Outputs(np.asarray([[total, -total]] * 2), np.asarray([0.0, 0.0]))

    def edited(self, rows: Mapping[int, Example]) -> Retrainer:
        return Letters(self.texts | {row: one.text for row, one in rows.items()}, self.trained)


def test_changes_are_those_of_the_edited_texts_and_are_kept(tmp_path: Path) -> None:
    rows = [Example("0", 0, "ab cde"), Example("1", 1, "f gh")]
    rankings = {"first": lambda _query, _row: [0]}
    plan = plan_removals(rows, [np.asarray([0]), np.asarray([0, 1])], rankings, 1, frozenset(["cde", "gh"]))
    retrainer = Letters({0: "ab cde", 1: "f gh"})
    found = run_removals(plan, Retrains(retrainer, tmp_path, quiet=True), np.asarray([0, 0]), [0, 1])
    assert found.changes["first"].tolist() == [-2.0, -3.0]
    assert found.retrains == len(retrainer.trained)
    count = len(retrainer.trained)
    run_removals(plan, Retrains(retrainer, tmp_path, quiet=True), np.asarray([0, 0]), [0, 1])
    assert len(retrainer.trained) == count, "nothing is trained twice"
    names = {RetrainJob(np.arange(2), 0, one.edits).name for one in plan}
    assert RetrainJob(np.arange(2), 0).name not in names


def test_a_retrainer_of_subsets_is_refused(tmp_path: Path) -> None:
    job = RetrainJob(np.arange(2), 0, ((0, Example("0", 0, "ab")),))
    with pytest.raises(InputError, match="Planted trains on subsets of its rows only"):
        Retrains(Planted(np.zeros((1, 2))), tmp_path, quiet=True).outputs([job])


def test_the_page_sets_definitions_against_the_best_control() -> None:
    changes = {
        "exact": np.asarray([-2.0, -2.2, -1.9, -2.1]),
        "TF-IDF words": np.asarray([-1.0, -1.2, -0.9, -1.1]),
        RANDOM_WORDS: np.asarray([-0.1, 0.1, 0.0, 0.0]),
    }
    result = RemovalResult(
        changes, dict.fromkeys(changes, 3.0), {"exact": 1.0, "TF-IDF words": 1.0, RANDOM_WORDS: 0.0}, float("nan"), 13
    )
    page = words_page(result, "log-odds", [("method", "grad-cos")])
    assert [row.method for row in page.rows] == ["exact", "TF-IDF words", RANDOM_WORDS]
    assert page.rows[0].verdict.startswith("yes (TF-IDF words: 1.000")
    assert page.rows[0].figures[1].value == pytest.approx(-2.05)
    assert page.rows[2].figures[1].value is None
    assert dict(page.facts)["retrain noise"] == "unknown: one seed"


def test_the_command_from_end_to_end(news: tiny.Tiny, tmp_path: Path, said: Said) -> None:
    asked = tiny.write_csv(tmp_path / "queries.csv", runs.rows(6, seed=9))
    line = ["evaluate", news.run, news.data, "--metric", "words", "--queries", asked, "--points", 2, "-k", 3]
    line += ["--words", 1, "--methods", "grad-cos", "--set", "epochs=1", "--cache", tmp_path / "cache", "--json"]
    code, out, err = said(*line, "--out", tmp_path / "page.html", "--out", tmp_path / "page.md")
    assert code == 0, err
    assert "retrains" in err
    page = json.loads(out)
    names = [row["method"] for row in page["rows"]]
    assert names[:3] == list(DEFINITIONS.values())
    assert set(names[3:]) == {"words of the last layer", "TF-IDF words", "random words"}
    assert all(row["figures"][2]["value"] == 1.0 for row in page["rows"]), "as many words under each"
    assert "TF-IDF words" in (tmp_path / "page.md").read_text()
    records = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache" / "retrains").rglob("*.safetensors")}
    code, again, _ = said(*line)
    assert code == 0
    assert json.loads(again)["rows"] == page["rows"]
    assert {path: path.stat().st_mtime_ns for path in records} == records
    code, _, err = said(*line[:-5], "-k", "1,2", "--cache", tmp_path / "cache")
    assert code == 2
    assert "one -k" in err
    code, _, err = said(*line, "--methods", "grad-cos,tracin-we")
    assert code == 2
    assert "--methods names 2" in err
