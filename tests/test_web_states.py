"""Every state is a URL and every URL of ours is that state."""

from typing import Any
from urllib.parse import parse_qsl

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proponent.errors import InputError
from proponent.web.states import HOW, MOST_VALUES, SIZES, SORTS, Asking, Browsing, Looking, State

texts = st.text(st.characters(exclude_categories=("Cs",)), max_size=40)
names = texts.filter(bool)
many = st.lists(names, max_size=4, unique=True).map(tuple)
scores = st.none() | st.integers(-1000, 1000).map(lambda one: one / 100)
sorts = st.lists(st.sampled_from([*SORTS, *(f"-{one}" for one in SORTS)]), max_size=3, unique=True).map(tuple)

# states are made inside of the test: the checks of their types draw random numbers, which a strategy must not
asking = st.fixed_dictionaries({
    "index": many, "text": texts, "pair": texts, "target": texts, "label": texts, "against": texts,
    "k": st.integers(1, 50), "word": texts, "by": st.sampled_from(["label", "source"]), "beside": many,
    "only_label": many, "only_source": many,
}).map(lambda one: (Asking, one))  # fmt: skip
browsing = st.fixed_dictionaries({
    "index": texts, "q": texts, "how": st.sampled_from(HOW), "label": many, "predicted": many, "source": many,
    "flag": st.sampled_from(["", "yes", "no"]),
    "decided": st.lists(st.sampled_from(["keep", "fix", "drop", "none"]), unique=True).map(tuple),
    "low": scores, "high": scores, "sort": sorts, "page": st.integers(1, 10**6), "size": st.sampled_from(SIZES),
}).map(lambda one: (Browsing, one))  # fmt: skip
looking = st.fixed_dictionaries({"index": texts, "id": texts}).map(lambda one: (Looking, one))


def again(state: State) -> State:
    url = state.url("/x")
    return type(state).read(parse_qsl(url.partition("?")[2], keep_blank_values=True))


@given(asking | browsing | looking)
def test_a_state_comes_back_from_its_url(made: tuple[Any, dict[str, Any]]) -> None:
    state = made[0](**made[1])
    assert again(state) == state
    assert again(state).url("/x") == state.url("/x")
    assert state.url("/x").isascii()


def test_the_default_state_has_no_query() -> None:
    assert Asking().url("/ask") == "/ask"
    assert Browsing().url("/table") == "/table"


@pytest.mark.parametrize(
    ("kind", "pair", "told"),
    [(Browsing, ("page", "0"), "page is 0"), (Browsing, ("page", "x"), "whole number"), (Browsing, ("page",
    "²"), "whole"),
     (Browsing, ("page", "-1"), "page is -1"), (Browsing, ("page", "9" * 30), "whole number"),
     (Browsing, ("size", "37"), "one of 25"), (Browsing, ("how", "magic"), "one of substring"),
     (Browsing, ("flag", "maybe"), "one of yes"), (Browsing, ("sort", "beauty"), "one of row"),
     (Browsing, ("sort", "--row"), "one of row"), (Browsing, ("low", "nan"), "must be a number"),
     (Browsing, ("high", "inf"), "must be a number"), (Browsing, ("low", "1e999"), "must be a number"),
     (Browsing, ("decided", "perhaps"), "one of keep"), (Asking, ("k", "0"), "between 1 and 50"),
     (Asking, ("k", "51"), "between 1 and 50"), (Asking, ("k", "1.5"), "whole number"),
     (Asking, ("by", "colour"), "one of label"), (Asking, ("text", "a" * 8001), "at most 8,000"),
     (Asking, ("label", "a" * 4001), "at most 4,000"), (Looking, ("id", "a" * 4001), "at most 4,000")],
)  # fmt: skip
def test_an_impossible_value_is_named(kind: type[State], pair: tuple[str, str], told: str) -> None:
    with pytest.raises(InputError, match=told):
        kind.read([pair])


def test_too_many_values_are_refused() -> None:
    with pytest.raises(InputError, match="more than 64"):
        Browsing.read([("label", str(one)) for one in range(MOST_VALUES + 1)])
    with pytest.raises(InputError, match="at most three"):
        Browsing.read([("sort", one) for one in ("row", "id", "loss", "score")])
    with pytest.raises(InputError, match="at most 4"):
        Asking.read([("in", str(one)) for one in range(5)])


def test_unknown_names_are_ignored_and_the_last_of_one_counts() -> None:
    assert Browsing.read([("x", "y"), ("q", "a"), ("q", "b")]) == Browsing(q="b")
