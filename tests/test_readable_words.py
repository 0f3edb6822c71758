"""Words that people can read: special tokens apart, the best three named, pieces, function words, percentages."""

import io
import math
from dataclasses import replace
from typing import Any

import pytest
from rich.console import Console

from answers import make_answer
from markup import Structure
from proponent.index.word_pieces import WordPieces
from proponent.types import SPECIAL
from proponent.views import Explanation, Hit, WordPair, document
from proponent.views.function_words import is_function_word
from proponent.views.terminal import print_answer
from proponent.words import Word


def with_words(*shares: tuple[str, float]) -> Explanation:
    """An answer whose first proponent has these words."""
    answer = make_answer()
    words = tuple(WordPair(name, name, share) for name, share in shares)
    score = math.fsum(share for _, share in shares)
    return replace(answer, proponents=(replace(answer.proponents[0], words=words, score=score),), opponents=())


def page_text(answer: Explanation) -> str:
    return " ".join(" ".join(Structure(document(answer)).text).split())


def terminal_text(answer: Explanation) -> str:
    stream = io.StringIO()
    print_answer(answer, Console(file=stream, width=200))
    return " ".join(stream.getvalue().split())


def parts(hit: Hit) -> float:
    """What a view shows of a score, summed."""
    shown = math.fsum(one.share for one in hit.shown_words)
    return math.fsum([shown, hit.more_share, hit.whole_share, hit.template_share])


ENCODER = ((SPECIAL, 0.96), ("goal", 0.02), ("striker", 0.0004), ("the", 0.0003), ("a", 0.0001))


def test_special_tokens_stand_apart_and_the_best_three_words_are_named() -> None:
    answer = with_words(*ENCODER)
    (hit,) = answer.proponents
    assert [one.train_word for one in hit.shown_words] == ["goal", "striker", "the"]
    assert hit.whole_share == 0.96
    assert hit.words_size == pytest.approx(0.0208)
    assert parts(hit) == pytest.approx(hit.score)
    for text in (page_text(answer), terminal_text(answer)):
        assert SPECIAL not in text
        assert "whole sentence" in text
        assert "98% of score" in text.replace("of the score", "of score")
        assert "96%" in text  # goal, of all words


def test_the_strongest_mark_is_that_of_a_word() -> None:
    assert with_words(*ENCODER).largest_share == 0.02


def test_percentages_are_of_all_words_whatever_their_signs() -> None:
    answer = with_words(("up", 0.3), ("down", -0.29), ("left", 0.01))
    text = page_text(answer)
    for percent in ("50%", "-48%", "2%"):
        assert percent in text
    assert "1500%" not in text


def test_scores_are_shares_of_their_side_with_the_raw_value_at_hand() -> None:
    answer = make_answer()
    total = sum(hit.score for hit in answer.proponents)
    share = f"helped {100 * answer.proponents[0].score / total:.0f}%"
    assert share in page_text(answer)
    assert 'title="score +0.412"' in document(answer)
    assert "percentages: of the scores of the examples listed on a side" in page_text(answer)
    assert f"helped +0.412 ({100 * answer.proponents[0].score / total:.0f}%)" in terminal_text(answer)


@pytest.mark.parametrize("word", ["the", "The", "isn't", "don’t", "it's", "of", ",", "...", "\n", "can't", "I"])
def test_function_words(word: str) -> None:
    assert is_function_word(word)


@pytest.mark.parametrize("word", ["Sports", "7", "café", "日本", "money", "use", "o'clock"])
def test_words_of_content(word: str) -> None:
    assert not is_function_word(word)


def test_function_words_and_punctuation_are_hidden_and_counted() -> None:
    answer = with_words(("the", 0.5), (",", 0.2), ("goal", 0.1), ("striker", 0.05))
    hidden = answer.without_function_words()
    (hit,) = hidden.proponents
    assert [one.train_word for one in hit.shown_words] == ["goal", "striker"]
    assert (hit.more_words, hit.hidden_words) == (2, 2)
    assert parts(hit) == pytest.approx(hit.score)
    assert hidden.to_dict() == answer.to_dict()
    for text in (page_text(hidden), terminal_text(hidden)):
        assert "function words and punctuation" in text
        assert "hidden" in text
    assert "hidden" not in page_text(answer)
    assert hidden.content_only
    assert not answer.content_only


def test_a_pair_with_one_word_of_content_stays() -> None:
    answer = make_answer()
    pair = WordPair("the", "goal", 0.3)
    hit = replace(answer.proponents[0], words=(pair,), content_only=True)
    assert hit.shown_words == (pair,)


def word(text: str, *starts: int) -> Word:
    return Word(text, (tuple((at, at + len(text)) for at in starts),))


def test_only_the_shared_piece_of_two_words_is_marked() -> None:
    theirs, mine = word("politicians", 0), word("amphibians", 4, 30)
    query = [(0, 0, 7, 11), (0, 7, 11, 99)]
    train = [(0, 3, 10, 12), (0, 10, 14, 99), (0, 29, 36, 12), (0, 36, 40, 99)]  # spaces belong to tokens, too
    left, right, piece = WordPieces(query, train).narrowed(theirs, mine)
    assert (left.spans, right.spans, piece) == ((((7, 11),),), (((10, 14), (36, 40)),), "ians")


@pytest.mark.parametrize(
    ("query", "train"),
    [
        ([(0, 0, 7, 11), (0, 7, 11, 98)], [(0, 4, 10, 12), (0, 10, 14, 99)]),  # no token in common
        ([(0, 0, 11, 99)], [(0, 4, 14, 99)]),  # all tokens in common
        ([], []),  # a method that does not know
    ],
)
def test_words_without_a_shared_piece_are_marked_whole(query: Any, train: Any) -> None:
    theirs, mine = word("politicians", 0), word("amphibians", 4)
    assert WordPieces(query, train).narrowed(theirs, mine) == (theirs, mine, None)


def test_the_same_word_is_marked_whole() -> None:
    theirs, mine = word("Goal", 0), word("goal", 4)
    assert WordPieces([(0, 0, 4, 1)], [(0, 4, 8, 2)]).narrowed(theirs, mine) == (theirs, mine, None)


def test_a_shared_piece_is_named_and_found_by_the_filter() -> None:
    answer = make_answer()
    pair = WordPair("politicians", "amphibians", 0.3, piece="ians")
    shown = replace(answer, proponents=(replace(answer.proponents[0], words=(pair,)),))
    assert "shared piece: ians" in page_text(shown)
    assert "politicians → amphibians (shared piece: ians)" in terminal_text(shown)
    assert shown.proponents[0].shares("IANS")
    assert not shown.proponents[0].shares("ian")
    again = Explanation.from_dict(shown.to_dict())
    assert again.proponents[0].words[0].piece == "ians"


def test_each_side_shows_itself_in_a_notebook() -> None:
    answer = make_answer()
    html: str = answer.proponents._repr_html_()  # type: ignore[attr-defined]
    assert "Helped: 5 training examples" in html
    assert "not proof of cause" in html
    assert "<script" not in html
    assert repr(answer.opponents).startswith("Hurt: ")
    assert all(len(line) <= 100 for line in repr(answer.proponents).splitlines())
    assert answer.proponents == tuple(answer.proponents)


def test_a_notebook_shows_a_heading_and_its_own_table_style() -> None:
    html = make_answer()._repr_html_()
    assert '<h2 class="wh-part">Why Business' in html
    for rule in ("float: none", ".wh-cell.wh-cell .wh-root th, "):
        assert rule in html
