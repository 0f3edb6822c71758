"""Work on many suspects: where they are, notes, one decision for all that is selected, nearest examples."""

import json
import re
import shutil
import string
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qsl, urlencode

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tiny
from explorer import Browser, Reply, lines
from proponent.actions import label_errors
from proponent.actions.decisions import LONGEST_NOTE, Decisions
from proponent.actions.label_errors import LabelVerdicts
from proponent.errors import DataError, InputError
from proponent.web import bulk
from proponent.web.pages import suspect_matrix
from proponent.web.states import TableState
from proponent.web.table import ExampleTable

SUSPECTS = "/table?flag=yes"


@pytest.fixture
def browser(news: tiny.Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Browser]:
    """An explorer in which every fourth label is flagged, and the next class suggested."""
    real = label_errors.judge

    def judge(store: object) -> LabelVerdicts:
        found = real(store)  # pyright: ignore[reportArgumentType]
        places = np.arange(len(found.given))
        flagged = (places % 4 == 1) & (places > 4)
        better = (found.given + 1) % 3
        predicted = np.where(flagged, np.where(places % 8 == 1, (found.given + 2) % 3, better), found.given)
        return LabelVerdicts(
            found.given, predicted, found.confidence, found.quality, flagged, np.where(flagged, better, -1)
        )

    monkeypatch.setattr("proponent.web.table.judge", judge)
    shutil.copytree(news.index, tmp_path / "news.index")
    made = Browser(tmp_path / "news.index")
    yield made
    made.close()


def form(page: Reply, act: str, **more: str) -> dict[str, str]:
    """The form that decides about all, as a person would send it."""
    (content,) = re.findall(r'action="/selected".*?</form>', page.text, re.DOTALL)
    fields = dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)"', content))
    return (
        {name: value.replace("&amp;", "&") for name, value in fields.items() if name != "token"} | {"act": act} | more
    )


def test_the_matrix_counts_suspects_and_leads_to_them(browser: Browser) -> None:
    table = browser.open_indexes.first.table
    judged, names = table.judged, table.names
    assert judged is not None
    assert names is not None
    expected = Counter(
        (names[judged.given[at]], names[judged.likeliest[at]]) for at in np.flatnonzero(judged.flagged & table.alive)
    )
    page = browser.get(SUSPECTS)
    cells = re.findall(r'<td class="wh-num[^"]*"><a href="([^"]+)"[^>]*>.*?</span>([\d,]+)</a>', page.text)
    assert sum(int(count) for _, count in cells) == expected.total() > 3
    for url, count in cells:
        state = TableState.read(parse_qsl(url.partition("?")[2].replace("&amp;", "&")))
        assert int(count) == expected[state.label[0], state.predicted[0]]
        there = browser.get(url.replace("&amp;", "&"))
        assert f"of {count} selected" in there.seen
        assert 'class="wh-num wh-here"' in there.text, "the chosen cell is marked, and all others still have counts"
    assert "Where the suspects are" not in browser.get("/table").seen


def test_with_many_classes_the_largest_cells_are_listed(browser: Browser, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suspect_matrix, "MOST_CLASSES", 2)
    page = browser.get(SUSPECTS)
    counts = [int(one) for one in re.findall(r'<td class="wh-num"><a href="/table[^"]*">(\d+)</a>', page.text)]
    assert counts == sorted(counts, reverse=True)
    assert sum(counts) == int(browser.open_indexes.first.table.judged.flagged.sum())  # pyright: ignore[reportOptionalMemberAccess]


def test_all_selected_are_fixed_by_one_step_and_one_undo_takes_it_back(browser: Browser) -> None:
    shown = browser.open_indexes.first
    judged, names = shown.table.judged, shown.table.names
    assert judged is not None
    assert names is not None
    page = browser.get(SUSPECTS)
    many = int(judged.flagged.sum())
    assert f"Fix {many} to the suggested label" in page.seen
    told = Counter(names[at] for at in judged.suggested[judged.flagged])
    assert all(f"{count} {name}" in page.seen.partition("Suggested:")[2] for name, count in told.items())
    assert browser.post("/selected", form(page, "fix", note=" seen by two ")).location == SUSPECTS
    made = shown.decisions.current
    assert {shown.table.whole.numbers[one.id]: one.label for one in made.values()} == {
        int(at): names[judged.suggested[at]] for at in np.flatnonzero(judged.flagged)
    }
    assert {one.note for one in made.values()} == {"seen by two"}
    assert shown.decisions.steps == 1
    assert "seen by two" in browser.get(SUSPECTS).seen
    assert f"{many} of them have a decision, which this replaces" in browser.get(SUSPECTS).seen
    assert "of them have" not in browser.get(f"{SUSPECTS}&decided=none").seen
    browser.undo(SUSPECTS)
    assert shown.decisions.current == {}


@pytest.mark.parametrize("act", ["keep", "drop"])
def test_all_that_a_search_finds_are_kept_or_dropped(browser: Browser, act: str) -> None:
    shown = browser.open_indexes.first
    for url in ("/table?q=bank", "/table?q=b.nk&how=regex"):
        page = browser.get(url)
        found = shown.table.select(TableState.read(parse_qsl(url.partition("?")[2])), {}).places
        assert 0 < len(found) < len(shown.table)
        assert browser.post("/selected", form(page, act)).status == 303
        current = shown.decisions.current
        assert {shown.table.whole.numbers[one] for one in current} == set(found.tolist())
        assert {one.act for one in current.values()} == {act}


def test_a_selection_that_changed_is_refused(browser: Browser, monkeypatch: pytest.MonkeyPatch) -> None:
    url = "/table?flag=yes&decided=none"
    page, shown = browser.get(url), browser.open_indexes.first
    one = str(shown.table.whole.values("id", shown.table.select(TableState(flag="yes"), {}).places[:1])[0])
    browser.post("/decide", {"id": one, "act": "keep"})
    refused = browser.post("/selected", form(page, "drop"))
    assert (refused.status, "things have changed since they were shown" in refused.seen) == (400, True)
    for wrong in ({"list": "flag=no"}, {"list": ""}, {"list": "flag=maybe"}, {"seal": "x"}, {"act": "explode"}):
        fields = form(browser.get(url), "drop") | wrong
        assert browser.post("/selected", fields).status == 400, wrong
    fixing = form(browser.get("/table?flag=no&q=bank"), "fix")
    refused = browser.post("/selected", fixing)
    assert (refused.status, "no example of this selection has a suggested label" in refused.seen) == (400, True)
    monkeypatch.setattr(bulk, "MOST_AT_ONCE", 2)
    assert "Decide about all" not in browser.get(url).seen
    assert list(shown.decisions.current) == [one]


def test_others_in_equal_number_newer_decisions_and_a_second_click_change_nothing(browser: Browser) -> None:
    shown = browser.open_indexes.first
    for name in ("n0", "n1"):
        browser.post("/decide", {"id": name, "act": "keep"})
    kept = browser.get("/table?decided=keep")
    browser.post("/decide", {"id": "n0", "act": "clear"})
    browser.post("/decide", {"id": "n2", "act": "keep"})
    assert browser.post("/selected", form(kept, "drop")).status == 400, "as many, but others"
    assert {name: one.act for name, one in shown.decisions.current.items()} == {"n1": "keep", "n2": "keep"}
    flagged = browser.get(SUSPECTS)
    browser.post("/decide", {"id": "n5", "act": "keep", "note": "checked with the author"})
    assert browser.post("/selected", form(flagged, "drop")).status == 400, "a newer decision is not replaced unseen"
    again = form(browser.get(SUSPECTS), "drop")
    assert browser.post("/selected", again).status == 303
    steps = shown.decisions.steps
    assert browser.post("/selected", again).status == 400, "a second click"
    assert shown.decisions.steps == steps
    assert shown.decisions.current["n5"].note == "checked with the author", "an empty note leaves those that there are"


def test_the_form_decides_about_the_rows_that_bounds_of_many_digits_show(browser: Browser) -> None:
    shown = browser.open_indexes.first
    judged = shown.table.judged
    assert judged is not None
    quality = np.sort(judged.quality)
    low, high = (float(quality[at] + quality[at + 1]) / 2 for at in (3, 9))
    url = f"/table?{urlencode({'low': repr(low), 'high': repr(high)})}"
    page = browser.get(url)
    assert f'value="{low!r}"' in page.text
    assert browser.post("/selected", form(page, "keep")).status == 303
    decided = [shown.table.whole.numbers[one] for one in shown.decisions.current]
    assert sorted(judged.quality[decided]) == quality[4:10].tolist()


@given(st.floats(0, 1))
def test_a_bound_comes_back_from_its_address(low: float) -> None:
    state = TableState(low=low)
    assert TableState.read(parse_qsl(state.url("").removeprefix("?"))) == state


def test_the_whole_table_is_never_decided_at_once(browser: Browser) -> None:
    shown = browser.open_indexes.first
    assert "Decide about all" not in browser.get("/table").seen
    fields = {"list": "", "seal": "", "act": "drop"}
    assert browser.post("/selected", fields).status == 400
    assert shown.decisions.current == {}


def test_a_language_model_has_no_labels_to_fix(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    lines_index: tiny.Tiny = request.getfixturevalue("lines")
    shutil.copytree(lines_index.index, tmp_path / "lm.index")
    made = Browser(tmp_path / "lm.index")
    word = str(made.open_indexes.first.table.whole.column("text")[0]).split()[0]
    page = made.get(f"/table?{urlencode({'q': word})}")
    if "Decide about all" in page.seen:
        assert "suggested label" not in page.seen
        assert made.post("/selected", form(page, "fix")).status == 400
        assert made.post("/selected", form(page, "drop")).status == 303
    made.close()


# ---- notes ----


def test_a_note_stays_with_its_decision(browser: Browser) -> None:
    shown, hostile = browser.open_indexes.first, "=1+1 <b>said</b> by \u202e the owner"
    browser.post("/decide", {"id": "n3", "act": "drop", "note": hostile})
    page = browser.get("/example?id=n3")
    assert "<b>said</b>" not in page.text
    assert "Save note" in page.seen
    browser.post("/decide", {"id": "n3", "act": "note", "note": "again"})
    assert (shown.decisions.current["n3"].act, shown.decisions.current["n3"].note) == ("drop", "again")
    browser.post("/decide", {"id": "n3", "act": "note", "note": hostile})
    nothing = browser.post("/decide", {"id": "n4", "act": "note", "note": "why"})
    assert (nothing.status, "decide first" in nothing.seen) == (400, True)
    browser.post("/decide", {"id": "n3", "act": "keep"})  # from the table, which has no field for notes
    assert (shown.decisions.current["n3"].act, shown.decisions.current["n3"].note) == ("keep", hostile)
    (row,) = [one for one in lines(browser.get("/export/table.jsonl").body) if one["id"] == "n3"]
    assert row["note"] == hostile
    assert f"'{hostile}" in browser.get("/export/table.csv").text
    (decided,) = lines(browser.get("/export/decisions.jsonl").body)
    assert decided["note"] == hostile
    browser.post("/decide", {"id": "n3", "act": "keep", "note": ""})
    assert shown.decisions.current["n3"].note == ""
    assert "note" not in lines(browser.get("/export/table.jsonl").body)[0]
    long = browser.post("/decide", {"id": "n3", "act": "keep", "note": "x" * (LONGEST_NOTE + 1)})
    assert (long.status, "shorten it to 1,000" in long.seen) == (400, True)


def test_logs_without_notes_are_read_and_odd_notes_refused(tmp_path: Path) -> None:
    made = Decisions(tmp_path / "x.index", ["a", "b"])
    made.decide(["n0"], "drop")
    made.decide(["n1"], "fix", ["a"], "why")
    first, second = map(json.loads, made.path.read_text().splitlines())
    assert "note" not in first
    assert second["note"] == "why", "once for all examples of a step"
    assert [one.note for one in Decisions(tmp_path / "x.index", ["a", "b"]).current.values()] == ["", "why"]
    made.decide(["n0", "n1"], "drop", note="both \ud800")
    made.decide(["n0"], "keep")
    read = Decisions(tmp_path / "x.index", ["a", "b"]).current
    assert {name: (one.act, one.note) for name, one in read.items()} == {
        "n0": ("keep", "both \\ud800"), "n1": ("drop", "both \\ud800")}  # fmt: skip
    made.decide(["n0"], "clear")
    made.decide(["n0"], "drop")
    assert made.current["n0"].note == "", "a note goes with its decision"
    made.annotate("n1", "")
    assert (made.current["n1"].act, made.current["n1"].note) == ("drop", "")
    with made.path.open("a") as file:
        file.write(json.dumps({"step": [{"id": "n2", "act": "drop"}], "when": "", "data": "", "note": None}) + "\n")
    assert Decisions(tmp_path / "x.index", ["a", "b"]).current["n2"].note == ""
    with pytest.raises(InputError, match="the note has 1,001 characters"):
        made.decide(["n0"], "drop", note="x" * 1001)
    with made.path.open("a") as file:
        file.write(json.dumps({"step": [{"id": "n2", "act": "drop"}], "when": "", "data": "", "note": 5}) + "\n")
    with pytest.raises(DataError, match="its note is no text"):
        _ = Decisions(tmp_path / "x.index", ["a", "b"]).current


# ---- the nearest ----


def test_the_nearest_examples_have_their_labels(browser: Browser) -> None:
    shown = browser.open_indexes.first
    table: ExampleTable = shown.table
    bare = [{word.strip(string.punctuation) for word in one.lower().split()} for one in table.store.examples["text"]]
    texts = [words - {""} for words in bare]
    labels, ids = (table.whole.column(name).to_pylist() for name in ("label", "id"))
    for place in range(0, len(table), 7):
        alike = [len(texts[place] & other) / len(texts[place] | other) for other in texts]
        alike[place] = 0.0
        found = shown.near_duplicates.nearest(place)
        assert len(found) >= min(5, sum(one > 0 for one in alike))
        assert [one for _, one in found] == pytest.approx(sorted(alike, reverse=True)[: len(found)])
        page = browser.get(f"/example?{urlencode({'id': ids[place]})}")
        other = sum(labels[one] != labels[place] for one, _ in found)
        assert page.text.count("</strong>, another label") == other
        assert ("another label" in page.seen) == bool(other)
