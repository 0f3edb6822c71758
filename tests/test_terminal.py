"""Answers in a terminal: width, signs without colour, hostile texts."""

import io
import re
from dataclasses import replace

import pytest
from rich.console import Console

from answers import make_answer, make_labels, make_pair_answer, make_story, make_text_answer
from proponent.views.explanation import Explanation
from proponent.views.tables import print_table
from proponent.views.terminal import print_answer, print_labels, print_story
from proponent.views.text_marks import columns

HOSTILE = "[bold red]x[/] \x1b[2J\x07\x08 \x9b31m :smile: \u202ehidden [link=file:///x]y[/link] 日本語 \r end"


def printed(draw: object, page: object, width: int = 80, *, color: bool = False, **options: object) -> str:
    stream = io.StringIO()
    console = Console(file=stream, width=width, force_terminal=color, color_system="256" if color else None)
    draw(page, console, **options)  # type: ignore[operator]
    return stream.getvalue()


@pytest.mark.parametrize("width", [80, 100, 150, 220])
@pytest.mark.parametrize("answer", [make_answer(), make_pair_answer(), make_text_answer()])
def test_lines_fit_the_terminal(answer: Explanation, width: int) -> None:
    assert all(columns(line) <= width for line in printed(print_answer, answer, width).splitlines())


def test_signs_and_numbers_need_no_colour() -> None:
    shown = printed(print_answer, make_answer())
    assert re.search(r"helped \+0\.412 \(\d+%\)  Business", shown)
    assert re.search(r"hurt -0\.305 \(\d+%\)  World", shown)
    assert "retail[+0.094] sales[+0.131]" in shown
    assert "slid[-0.144]" in shown
    assert "2 more pairs of words: +0.007" in " ".join(shown.split())
    assert "2 of 5  first: " in shown
    assert "not proof of cause" in " ".join(shown.split())


def test_marks_of_both_signs_are_underlined() -> None:
    shown = printed(print_answer, make_answer(), color=True)
    assert "\x1b[1;4;34mretail" in shown
    assert "\x1b[3;4;38;5;208mslid" in shown


def test_a_wide_terminal_sets_the_sides_beside_one_another() -> None:
    def together(width: int) -> bool:
        return any(
            "helped +0.412" in x and "hurt -0.305" in x for x in printed(print_answer, make_answer(), width).split("\n")
        )

    assert together(140)
    assert not together(139)


def test_hostile_texts_neither_style_nor_steer() -> None:
    answer = make_pair_answer()
    hit = replace(
        answer.proponents[0], id=HOSTILE, text=HOSTILE, text_pair=HOSTILE, label=HOSTILE, predicted=HOSTILE + "!"
    )
    pair = replace(hit.words[0], query_word=HOSTILE, train_word=HOSTILE)
    query = replace(answer.query, text=HOSTILE, label=HOSTILE, against=HOSTILE, target=HOSTILE, text_pair=HOSTILE)
    bad = replace(
        answer, query=query, proponents=(replace(hit, words=(pair,)),), notes=(HOSTILE,), caveat=HOSTILE,
        method=HOSTILE,
        checkpoints=(replace(answer.checkpoints[0], rule=HOSTILE),), baselines={HOSTILE: answer.baselines["bm25"]},
    )  # fmt: skip
    story = replace(make_story(), title=HOSTILE, lead=(HOSTILE,), facts=((HOSTILE, HOSTILE),), answer=bad)
    shown = printed(print_story, story, 200)
    assert set(shown) & {*map(chr, range(32)), *map(chr, range(0x7F, 0xA0)), "\u202e"} == {"\n"}
    assert "[bold red]x[/]" in shown
    assert "⟨U+001B⟩[2J⟨U+0007⟩" in shown
    assert ":smile:" in shown


def test_long_texts_say_what_is_left_out() -> None:
    answer = make_answer()
    long = replace(answer, query=replace(answer.query, text="word " * 400))
    assert "1,400 more characters" in printed(print_answer, long)


def test_labels_say_how_many_are_left_out() -> None:
    report = make_labels()
    assert "showing the 1 most suspect of 7,600" in printed(print_labels, report, limit=1)
    everything = printed(print_labels, report, limit=None)
    assert "showing the 3 most suspect of 7,600" in everything
    assert "showing" not in printed(print_labels, replace(report, n_examples=3), limit=None)
    assert "likely wrong" in everything
    assert "2 flagged of 7,600" in everything


def test_the_story_holds_everything() -> None:
    shown = " ".join(printed(print_story, make_story(), 120).split())
    for part in ("380 labels", "accuracy: 88.4%", "Why Business and not World?", "71%", "Suspected label errors"):
        assert part in shown


def test_an_answer_without_hits_says_so() -> None:
    shown = printed(print_answer, replace(make_answer(), proponents=(), opponents=(), baselines={}))
    assert "no training example helped" in shown
    assert "no training example hurt" in shown


def test_names_of_columns_cannot_steer_the_terminal() -> None:
    stream = io.StringIO()
    print_table(Console(file=stream, width=80), "title", ("a\x1b[31mb", "\x1b]0;x\x07"), [("1", "2")])
    assert "\x1b" not in stream.getvalue()
    assert "\x07" not in stream.getvalue()
