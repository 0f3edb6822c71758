"""Every state is a URL and every URL of ours is that state."""

from typing import Any, get_args
from urllib.parse import parse_qsl

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proponent.data import How
from proponent.errors import InputError
from proponent.web.states import (
    MOST_VALUES,
    SIZES,
    SORTS,
    ErrorsState,
    ExampleState,
    MapState,
    PageState,
    PredictedState,
    QuestionState,
    TableState,
)

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
}).map(lambda one: (QuestionState, one))  # fmt: skip
browsing = st.fixed_dictionaries({
    "index": texts, "q": texts, "how": st.sampled_from(get_args(How)), "label": many, "predicted": many, "source": many,
    "flag": st.sampled_from(["", "yes", "no"]),
    "decided": st.lists(st.sampled_from(["keep", "fix", "drop", "none"]), unique=True).map(tuple),
    "area": st.sampled_from(["", "hidden 3 4", "gradients 0 11"]),
    "low": scores, "high": scores, "sort": sorts, "page": st.integers(1, 10**6), "size": st.sampled_from(SIZES),
}).map(lambda one: (TableState, one))  # fmt: skip
predicting = st.fixed_dictionaries({
    "index": texts, "set": texts, "given": many, "predicted": many, "page": st.integers(1, 10**7),
    "only": st.sampled_from(["", "wrong", "right", "unjudged", "trained"]),
    "sort": st.sampled_from(["", "sure", "unsure"]), "size": st.sampled_from(SIZES),
}).map(lambda one: (PredictedState, one))  # fmt: skip
erring = st.fixed_dictionaries({"index": texts, "set": texts}).map(lambda one: (ErrorsState, one))
mapping = st.fixed_dictionaries({
    "index": many, "text": texts, "label": texts, "k": st.integers(1, 50), "id": texts,
    "space": st.sampled_from(["", "hidden", "gradients", "probabilities"]),
    "colour": st.sampled_from(["", "label", "influence", "plain"]),
}).map(lambda one: (MapState, one))  # fmt: skip
looking = st.fixed_dictionaries({"index": texts, "id": texts}).map(lambda one: (ExampleState, one))


def again(state: PageState) -> PageState:
    url = state.url("/x")
    return type(state).read(parse_qsl(url.partition("?")[2], keep_blank_values=True))


@given(asking | browsing | looking | mapping | predicting | erring)
def test_a_state_comes_back_from_its_url(made: tuple[Any, dict[str, Any]]) -> None:
    state = made[0](**made[1])
    assert again(state) == state
    assert again(state).url("/x") == state.url("/x")
    assert state.url("/x").isascii()


def test_the_default_state_has_no_query() -> None:
    assert QuestionState().url("/ask") == "/ask"
    assert TableState().url("/table") == "/table"


@pytest.mark.parametrize(
    ("kind", "pair", "told"),
    [(TableState, ("page", "0"), "page is 0"), (TableState, ("page", "x"), "whole number"), (TableState, ("page",
    "²"), "whole"),
     (TableState, ("page", "-1"), "page is -1"), (TableState, ("page", "9" * 30), "whole number"),
     (TableState, ("size", "37"), "one of 25"), (TableState, ("size", "500"), "one of 25"),
     (TableState, ("how", "magic"), "one of substring"),
     (TableState, ("flag", "maybe"), "one of yes"), (TableState, ("sort", "beauty"), "one of row"),
     (TableState, ("sort", "--row"), "one of row"), (TableState, ("low", "nan"), "must be a number"),
     (TableState, ("high", "inf"), "must be a number"), (TableState, ("low", "1e999"), "must be a number"),
     (TableState, ("decided", "perhaps"), "one of keep"), (QuestionState, ("k", "0"), "between 1 and 50"),
     (QuestionState, ("k", "51"), "between 1 and 50"), (QuestionState, ("k", "1.5"), "whole number"),
     (QuestionState, ("by", "colour"), "one of label"), (QuestionState, ("text", "a" * 8001), "at most 8,000"),
     (QuestionState, ("label", "a" * 4001), "at most 4,000"), (ExampleState, ("id", "a" * 4001), "at most 4,000")],
)  # fmt: skip
def test_an_impossible_value_is_named(kind: type[PageState], pair: tuple[str, str], told: str) -> None:
    with pytest.raises(InputError, match=told):
        kind.read([pair])


def test_too_many_values_are_refused() -> None:
    with pytest.raises(InputError, match="more than 64"):
        TableState.read([("label", str(one)) for one in range(MOST_VALUES + 1)])
    with pytest.raises(InputError, match="at most three"):
        TableState.read([("sort", one) for one in ("row", "id", "loss", "score")])
    with pytest.raises(InputError, match="at most 4"):
        QuestionState.read([("in", str(one)) for one in range(5)])


def test_unknown_names_are_ignored_and_the_last_of_one_counts() -> None:
    assert TableState.read([("x", "y"), ("q", "a"), ("q", "b")]) == TableState(q="b")
