"""Texts cut into marked segments, invisible characters, numbers in words."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proponent.views.text_marks import clip, columns, percent, pieces, plain, score_in_words, segments, signed, step

BIDI = [0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A)]
ZERO_WIDTH = [0x00AD, 0x180E, 0x200B, 0x200C, 0x200D, 0x2060, 0x2063, 0xFEFF]
SELECTORS = [*range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0)]
CONTROLS = [code for code in (*range(0x20), *range(0x7F, 0xA0)) if code not in {0x09, 0x0A}]
INVISIBLE = [*BIDI, *ZERO_WIDTH, *SELECTORS, *CONTROLS, 0xD800, 0x2028, 0xE0041, 0x3164]

spans = st.lists(st.tuples(st.integers(-5, 40), st.integers(-5, 40), st.sampled_from([-0.5, 0.25, 1.0])), max_size=8)


def original(shown: str) -> str:
    return re.sub(r"⟨U\+([0-9A-F]+)⟩", lambda match: chr(int(match[1], 16)), shown)


def test_the_lists_have_the_promised_length() -> None:
    assert (len(BIDI), len(SELECTORS)) == (12, 256)
    assert len(ZERO_WIDTH) >= 7


@pytest.mark.parametrize("code", INVISIBLE)
def test_an_invisible_character_is_shown_with_its_number(code: int) -> None:
    before, ghost, after = pieces(f"a{chr(code)}b")
    assert (before.text, before.name, after.text) == ("a", "", "b")
    assert ghost.text == f"⟨U+{code:04X}⟩"
    assert ghost.name.startswith(f"U+{code:04X} ")


@pytest.mark.parametrize("text", ["tab\tline\nend", "naïve", "日本語", "שלום", "😀", "a\u00a0b", "\u0600\u0661"])
def test_visible_text_is_left_alone(text: str) -> None:
    assert [piece.text for piece in pieces(text)] == [text]


def test_a_windows_line_end_is_a_line_end_but_a_lone_return_is_shown() -> None:
    assert "".join(piece.text for piece in pieces("a\r\nb\rc")) == "a\nb⟨U+000D⟩c"


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=30).filter(lambda text: "\r\n" not in text and "⟨" not in text), spans)
def test_segments_show_the_whole_text_whatever_the_marks(text: str, marks: list[tuple[int, int, float]]) -> None:
    cut = segments(text, marks)
    assert original("".join(piece.text for segment in cut for piece in segment.pieces)) == text


@settings(max_examples=200, deadline=None)
@given(spans)
def test_every_character_carries_the_sum_of_its_marks(marks: list[tuple[int, int, float]]) -> None:
    text = "abcdefghijklmnopqrstuvwxyz"
    shares = [segment.share for segment in segments(text, marks) for piece in segment.pieces for _ in piece.text]
    for at, share in enumerate(shares):
        covering = [mark[2] for mark in marks if mark[0] <= at < mark[1]]
        assert share == (sum(covering) if covering else None)


def test_a_repeated_word_is_first_once() -> None:
    cut = segments("tax and Tax", [(0, 3, 0.5), (8, 11, 0.5)])
    assert [(segment.share, segment.first) for segment in cut] == [(0.5, True), (None, True), (0.5, False)]


def test_two_words_of_one_share_are_both_first() -> None:
    assert all(segment.first for segment in segments("tax cut", [(0, 3, 0.5), (4, 7, 0.5)]))


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.3124, "+0.312"), (-0.07, "-0.070"), (0.00912, "+0.0091"), (3.121e-7, "+3.12e-07"), (0.0, "0"), (-0.0, "0"),
     (12.34, "+12.3"), (1042.2, "+1,042"), (-2e6, "-2.00e+06"), (0.00012, "+0.00012")],
)  # fmt: skip
def test_a_number_shows_its_sign(value: float, shown: str) -> None:
    assert signed(value) == shown


def test_the_sign_is_said_in_words() -> None:
    assert [score_in_words(value) for value in (0.5, -0.5, 0.0)] == ["helped +0.500", "hurt -0.500", "no effect 0"]


def test_percent() -> None:
    shown = [percent(*pair) for pair in ((0.39, 1.0), (-0.1, 2.0), (0.001, 1.0), (-0.001, 1.0), (1.0, 0.0))]
    assert shown == ["39%", "-5%", "<1%", "-<1%", "-"]


def test_steps_run_from_0_to_10() -> None:
    assert [step(share, 1.0) for share in (0.0, 1e-9, 0.5, -1.0)] == [0, 1, 5, 10]
    assert step(0.5, 0.0) == 0


@given(st.text(max_size=60), st.integers(2, 30))
def test_clip_keeps_to_the_columns(text: str, width: int) -> None:
    assert columns(clip(text, width)) <= width


def test_plain_is_one_line() -> None:
    assert plain("a\n\tb\x1b[31m  c") == "a b⟨U+001B⟩[31m c"
