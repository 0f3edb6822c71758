"""Whole columns: searched, counted, compared; against the slow way."""

import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import proponent.data.whole
from proponent.data import ExampleColumns, StoredExamples, WordSets, parquet_bytes, spans
from proponent.errors import InputError

TEXTS = ["Alpha beta", "beta", "ALPHABET soup", "", "naïve Größe 日本 語", "a.b (c", "tab\tand\nline",
         "gamma_beta beta-x",
         "alphabeta", "x" * 5000 + " beta"]  # fmt: skip


def whole(folder: Path, texts: list[str], pairs: list[str | None] | None = None, parts: int = 1) -> ExampleColumns:
    made: list[StoredExamples] = []
    cuts = np.linspace(0, len(texts), parts + 1).astype(int)
    for number in range(parts):
        rows = range(cuts[number], cuts[number + 1])
        path = folder / f"{number}.parquet"
        path.write_bytes(
            parquet_bytes(
                {
                    "id": [f"i{row}" for row in rows],
                    "row": np.asarray(list(rows), dtype=np.int64),
                    "place": np.asarray(list(rows), dtype=np.int64),
                    "text": [texts[row] for row in rows],
                    "text_pair": [None if pairs is None else pairs[row] for row in rows],
                    "label": [("b", "a", None)[row % 3] for row in rows],
                }
            )
        )
        made.append(StoredExamples(path))
    return ExampleColumns(made)


@pytest.mark.parametrize("parts", [1, 3])
@pytest.mark.parametrize(
    ("how", "pattern", "slow"),
    [
        ("substring", "BETA", lambda text: "beta" in text.lower()),
        ("substring", "größe", lambda text: "größe" in text.lower()),
        ("substring", ".b (", lambda text: ".b (" in text),
        ("substring", "語", lambda text: "語" in text),
        ("word", "beta", lambda text: "beta" in re.split(r"[^\w]+", text.lower())),
        ("word", "日本", lambda text: "日本" in text.split()),
        ("regex", "^b", lambda text: text.lower().startswith("b")),
        ("regex", r"alpha\s?beta", lambda text: re.search(r"alpha\s?beta", text.lower()) is not None),
    ],
)
def test_a_search_finds_what_the_slow_way_finds(
    tmp_path: Path, parts: int, how: str, pattern: str, slow: object
) -> None:
    found = whole(tmp_path, TEXTS, parts=parts).find(how, pattern, 10.0)  # type: ignore[arg-type]
    assert found.places.tolist() == [slow(text) for text in TEXTS]  # type: ignore[operator]
    assert found.searched == len(TEXTS)


def test_the_second_text_is_searched_too(tmp_path: Path) -> None:
    made = whole(tmp_path, ["a", "b", "c"], [None, "needle", ""])
    assert made.find("substring", "needle", 1.0).places.tolist() == [False, True, False]


@pytest.mark.parametrize("pattern", ["(", "a{2,1}", "(?=a)", r"(a)\1", "(?<!x)a", "[", "*", "a**" * 200])
def test_what_is_no_linear_expression_is_refused(tmp_path: Path, pattern: str) -> None:
    with pytest.raises(InputError, match=r"invalid regular expression|the limit is 500"):
        whole(tmp_path, TEXTS).find("regex", pattern, 1.0)


CATASTROPHES = ["(a+)+$", "(a|a)*$", "(a|aa)+$", "(.*a){20}", "^(([a-z])+.)+[A-Z]([a-z])+$", "(x+x+)+y",
                "([a-zA-Z]+)*$",
                "(a*)*b", "(a?){60}a{60}", r"(\w+\s?)+$", "((a*)*)*b", ".*.*.*.*.*=.*", "(?i)(a+){10}c",
                r"(\d+)*x"]  # fmt: skip


@pytest.mark.parametrize("pattern", CATASTROPHES)
def test_an_expression_that_explodes_elsewhere_is_linear_here(tmp_path: Path, pattern: str) -> None:
    texts = ["a" * 20_000 + "!", "x" * 20_000, "aA" * 10_000]
    made = whole(tmp_path, texts)
    try:
        found = made.find("regex", pattern, 20.0)
    except InputError:
        return  # too large for the engine, and it says so
    assert found.searched == 3
    spans(texts, "regex", pattern)


def test_a_search_stops_when_its_time_is_up(tmp_path: Path) -> None:
    made = whole(tmp_path, ["some text"] * 20_000)
    found = made.find("substring", "text", 0.0)
    assert found.searched < 20_000
    assert found.places[: found.searched].all()
    assert not found.places[found.searched :].any()


@given(st.lists(st.text("ab .é日\n", max_size=12), min_size=1, max_size=4), st.text("ab.é日", min_size=1, max_size=3))
def test_spans_of_a_substring_are_its_places(texts: list[str], pattern: str) -> None:
    expected = [
        tuple((one.start(), one.end()) for one in re.finditer(re.escape(pattern), text, re.I)) for text in texts
    ]
    assert spans(texts, "substring", pattern) == expected


@given(st.lists(st.text("ab _-é", max_size=12), min_size=1, max_size=4), st.text("ab", min_size=1, max_size=2))
def test_spans_of_a_word_are_whole_words(texts: list[str], pattern: str) -> None:
    for text, found in zip(texts, spans(texts, "word", pattern), strict=True):
        expected = [(m.start(), m.end()) for m in re.finditer(r"\w+", text) if m.group().lower() == pattern]
        assert list(found) == expected


def test_codes_name_their_values_in_order_and_nothing_last(tmp_path: Path) -> None:
    codes, values = whole(tmp_path, TEXTS[:5], parts=2).coded("label")
    assert values == ["a", "b", None]
    assert [values[code] for code in codes] == ["b", "a", None, "b", "a"]


def test_an_empty_column_has_one_value(tmp_path: Path) -> None:
    made = whole(tmp_path, TEXTS)
    assert made.coded("source")[1] == [None]
    assert not made.has("source")


@given(
    st.lists(st.lists(st.sampled_from("abcdefg"), max_size=8).map(" ".join), min_size=2, max_size=12),
    st.integers(1, 13),
)
def test_likeness_is_that_of_sets_of_words(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str], block: int
) -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(proponent.data.whole, "BLOCK", block)
        made = WordSets(whole(tmp_path_factory.mktemp("w"), texts))
        sets = [set(text.split()) for text in texts]
        for place, mine in enumerate(sets):
            expected = [len(mine & other) / max(1, len(mine | other)) for other in sets]
            np.testing.assert_allclose(made.similarity(place), expected)
