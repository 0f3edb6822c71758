"""The screens: what they show, that it is what the index says, and what they do with bad input."""

import csv
import io
import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import get_type_hints
from urllib.parse import urlencode

import numpy as np
import pandas
import polars
import pyarrow.parquet
import pytest
from jinja2 import nodes

import proponent
import tiny
from explorer import Browser, Reply, lines
from markup import Structure
from proponent.actions.correction_diff import Change
from proponent.actions.decisions import Decision
from proponent.data import columns
from proponent.store import Store, delete, watch
from proponent.store.inventory import inventory
from proponent.views import Explanation, counted_scores, frames, histogram, scatter, text_marks, turns
from proponent.views.frames import Screen
from proponent.views.page import TEMPLATES, environment
from proponent.web import bulk, downloads, layout, questions, table_columns
from proponent.web.pages import (
    ask,
    comparison,
    confusion,
    errors,
    example,
    example_map,
    groups,
    home,
    losses,
    pick,
    predictions,
    test_set_frame,
)
from proponent.web.pages import index as index_pages
from proponent.web.pages import table as table_pages
from proponent.web.questions import Questions
from proponent.web.states import ExampleState, Question, QuestionState, TableState
from proponent.web.table_columns import columns_of


@pytest.fixture(scope="module")
def browser(news: tiny.Tiny, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    folder = tmp_path_factory.mktemp("pages") / "news.index"
    shutil.copytree(news.index, folder)
    made = Browser(folder)
    yield made
    made.close()


@pytest.fixture(scope="module")
def answered(browser: Browser) -> Reply:
    """The page of an answer that the process with the model gave."""
    return browser.ask("The bank said shares fell", k=4)


def table(page: Reply) -> list[int]:
    """Rows that the table shows, in order."""
    return [int(one) for one in re.findall(r"open row </span>(\d+)", page.text)]


# Asking.


def test_a_new_text_is_answered_as_the_library_answers(browser: Browser, answered: Reply, news: tiny.Tiny) -> None:
    expected = proponent.open(news.index).explain("The bank said shares fell", k=4)
    assert answered.status == 200
    kept = browser.open_indexes.first.questions.get(Question("The bank said shares fell", k=4))
    assert kept is not None
    assert kept.answer.to_dict() == expected.to_dict()
    assert kept.answer.n_examples == expected.n_examples
    for hit in (*expected.proponents, *expected.opponents):
        assert f"row {hit.row}" in answered.seen
    for told in (expected.headline, "not proof of cause", "Method tracin-we", "learning rate", "same sign at"):
        assert told in answered.seen


def test_the_address_of_an_answer_shows_it_again_and_elsewhere(browser: Browser, answered: Reply) -> None:
    again = browser.get("/ask?text=The+bank+said+shares+fell&k=4")
    other = Browser(browser.open_indexes.first.folder)
    elsewhere = other.get("/ask?text=The+bank+said+shares+fell&k=4")
    bare = [re.sub(r'value="[^"]{32}"', "", one.text) for one in (again, elsewhere)]
    assert bare[0] == bare[1]
    assert "Helped" in again.seen


def test_looking_at_a_question_does_not_ask_it(browser: Browser) -> None:
    page = browser.get("/ask?text=never+asked")
    assert "has no answer to this question yet" in page.seen
    assert browser.open_indexes.first.questions.get(Question("never asked")) is None


def test_a_word_leaves_the_hits_that_share_it(browser: Browser, answered: Reply) -> None:
    kept = browser.open_indexes.first.questions.get(Question("The bank said shares fell", k=4))
    assert kept is not None
    hits = (*kept.answer.proponents, *kept.answer.opponents)
    sharing = [hit for hit in hits if any(pair.train_word.lower() == "bank" for pair in hit.words)]
    page = browser.get("/ask?text=The+bank+said+shares+fell&k=4&word=bank")
    assert f"{len(sharing)} of {len(hits)} examples share" in page.seen
    assert page.text.count("wh-score") < answered.text.count("wh-score")


def test_marks_say_their_share_and_lead_to_a_filter(answered: Reply) -> None:
    marks = re.findall(r'<a class="wh-go" href="(/ask\?[^"]*word=[^"]*)"><mark class="wh-[ho]\d+">', answered.text)
    assert len(marks) > 5
    found = [one for one in Structure(answered.text).marks if one]
    assert all(re.search(r"(helped \+|hurt -|no effect 0)", one) for one in found)


@pytest.mark.parametrize(
    ("fields", "told"),
    [({"text": "   "}, "no text to explain"), ({"text": "a", "label": "Busines"}, "did you mean"),
     ({"text": "a" * 8001}, "at most 8,000"), ({"text": "a", "k": "0"}, "between 1 and 50"),
     ({"text": "a", "label": "World", "against": "World"}, "two classes"),
     ({"text": "a", "in": "nowhere"}, "unknown index")],
)  # fmt: skip
def test_an_impossible_question_is_answered_in_words(browser: Browser, fields: dict[str, str], told: str) -> None:
    page = browser.post("/ask", fields)
    assert page.status == 400
    assert told in page.seen


def test_a_question_that_fails_on_the_way_says_why_and_the_next_one_works(browser: Browser) -> None:
    page = browser.ask("a\x00b")
    assert "NUL" in page.seen
    assert "Helped" in browser.ask("The bank said shares fell again").seen


def test_without_the_model_what_is_kept_works_and_the_rest_says_what_is_missing(
    browser: Browser, answered: Reply, tmp_path: Path
) -> None:
    folder = shutil.copytree(browser.open_indexes.first.folder, tmp_path / "news.index")
    shutil.copytree(browser.open_indexes.first.questions.folder, tmp_path / "news.index.asked")
    gone = Browser(Path(folder), run=str(tmp_path / "nowhere"))
    assert "Helped" in gone.get("/ask?text=The+bank+said+shares+fell&k=4").seen
    assert "New texts cannot be asked" in gone.get("/ask").seen
    assert "--run" in gone.get("/ask").seen
    page = gone.ask("something new")
    assert "no run at" in page.seen
    assert gone.get("/table").status == 200
    gone.close()


def test_nine_questions_may_wait_and_the_tenth_is_told(news: tiny.Tiny, tmp_path: Path) -> None:
    link = tmp_path / "waiting.index"
    link.symlink_to(news.index)
    made = Browser(link)
    made.explorer.asker._command = ("sleep", "60")
    replies = [made.post("/ask", {"text": f"text {number}"}) for number in range(12)]
    assert [one.status for one in replies][:8] == [303] * 8
    assert replies[-1].status == 400
    assert "questions are already waiting" in replies[-1].seen
    same = made.post("/ask", {"text": "text 0"})
    assert same.location == replies[0].location
    assert "before this one" in made.get(replies[7].location).seen
    made.close()


def test_a_process_that_dies_is_told_and_replaced(news: tiny.Tiny, tmp_path: Path) -> None:
    link = tmp_path / "dying.index"
    link.symlink_to(news.index)
    made = Browser(link)
    made.explorer.asker._command = ("false",)
    page = made.ask("some text")
    assert "the model process ended" in page.seen
    made.close()


SOURCES = ("wire", "forum <b>x</b>", "letters & more")


@pytest.fixture(scope="module")
def sourced(news: tiny.Tiny, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """An index whose examples have sources, one of them hostile."""
    folder = tmp_path_factory.mktemp("sourced")
    rows = [{**row, "source": SOURCES[at // 3 % 3]} for at, row in enumerate(news.rows)]
    data = tiny.write_csv(folder / "train.csv", rows)
    proponent.build(news.run, data, folder / "sourced.index", quiet=True)
    made = Browser(folder / "sourced.index")
    yield made
    made.close()


def test_only_the_chosen_labels_and_sources_are_found_as_the_library_finds_them(sourced: Browser) -> None:
    text, label, source = "The bank said shares fell", sourced.open_indexes.first.plan.label_names[0], SOURCES[1]
    index = proponent.open(sourced.open_indexes.first.folder)
    whole = sourced.ask(text, k=50)
    page = sourced.ask(text, k=50, only_label=[label], only_source=[source])
    expected = index.explain(text, k=50, where=proponent.Where([label], [source]))
    found = (*expected.proponents, *expected.opponents)
    kept = sourced.open_indexes.first.questions.get(Question(text, k=50, only_label=(label,), only_source=(source,)))
    assert kept is not None
    assert kept.answer.to_dict() == expected.to_dict()
    assert 0 < len(found) < len(whole.text.split("wh-score"))
    assert {index.store.examples["source"][hit.row] for hit in found} == {source}
    assert {hit.label for hit in found} == {label}
    assert f"filtered: only training examples with label {label} and source {source}" in page.seen
    assert "<b>" not in page.text
    chosen = re.findall(r'name="(only_\w+)" value="([^"]*)" checked', page.text)
    assert chosen == [("only_label", label), ("only_source", "forum &lt;b&gt;x&lt;/b&gt;")]
    assert sourced.open_indexes.first.questions.get(Question(text, k=50)) is not None  # the two are kept apart
    assert f"only label {label} and source {source}" in sourced.get("/asked").seen


def test_a_filter_stays_in_every_address_of_its_answer_and_its_order_does_not_count(sourced: Browser) -> None:
    names = sourced.open_indexes.first.plan.label_names
    page = sourced.ask("Shares fell", k=3, only_label=names[:2])
    asked = sourced.post("/ask", {"text": "Shares fell", "k": 3, "only_label": names[1::-1]})
    assert "/job" not in asked.location
    exports = re.findall(r'href="(/export/answer[^"]*)"', page.text)
    assert len(exports) > 3
    links = [*exports, *re.findall(r'href="(/(?:groups|ask)\?[^"]*(?:word|text)=[^"]*)"', page.text)]
    assert all(one.count("only_label=") == 2 for one in links if "Shares" in one)
    first = json.loads(sourced.get(next(one for one in exports if ".json?" in one).replace("&amp;", "&")).body)
    assert {hit["label"] for hit in (*first["proponents"], *first["opponents"])} <= set(names[:2])
    sums = sourced.get("/groups?" + asked.location.partition("?")[2])
    assert "including those that the filters of the answer exclude" in sums.seen
    compared = sourced.get("/compare?" + asked.location.partition("?")[2])
    assert f"Only training examples with label {names[0]} label {names[1]}" in compared.seen


@pytest.mark.parametrize(
    ("field", "value", "told"),
    [("only_label", "Busines", "unknown class 'Busines'"), ("only_source", "<i>nowhere", "has the source '<i>nowhere'"),
     ("only_source", "Wire", "has the source 'Wire'"), ("only_label", "a" * 4001, "at most 4,000"),
     ("only_source", [str(one) for one in range(65)], "more than 64 times")],
)  # fmt: skip
def test_an_unknown_filter_is_answered_in_words(sourced: Browser, field: str, value: object, told: str) -> None:
    query = urlencode({"text": "a", field: value}, doseq=True)
    for page in (sourced.get(f"/ask?{query}"), sourced.get(f"/compare?{query}"), sourced.get(f"/groups?{query}"),
                 sourced.post("/ask", {"text": "a", field: value})):  # fmt: skip
        assert page.status == 400
        assert told in page.seen
        assert "<i>" not in page.text


def test_a_question_without_a_filter_keeps_the_name_it_had(browser: Browser) -> None:
    assert "only" not in json.dumps(Question("a", k=3).plain)
    filtered = Question("a", only_source=("web",))
    assert Question(**json.loads(json.dumps(filtered.plain))) == filtered


def test_an_answer_stored_under_former_keys_is_read(browser: Browser, answered: Reply, tmp_path: Path) -> None:
    now = browser.open_indexes.first.questions
    name = now.identity(Question("The bank said shares fell", k=4))
    content = json.loads((now.folder / f"{name}.json").read_bytes())
    former = {"proponents": "helped", "opponents": "hurt", "proponent": "whence"}

    def renamed(some: dict[str, object]) -> dict[str, object]:
        return {former.get(key, key): value for key, value in some.items()}

    content["answer"] = renamed(content["answer"])
    content["groups"] = {column: [renamed(one) for one in some] for column, some in content["groups"].items()}
    assert "helped" in content["answer"]
    assert "hurt" in content["groups"]["label"][0]
    old = Questions(tmp_path / browser.open_indexes.first.folder.name, now._root)
    shutil.copytree(now.folder, old.folder)
    (old.folder / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
    mine, kept = (
        now.get(Question("The bank said shares fell", k=4)),
        old.get(Question("The bank said shares fell", k=4)),
    )
    assert mine is not None
    assert kept is not None
    assert (kept.answer.proponents, kept.groups) == (mine.answer.proponents, mine.groups)
    assert any("former name" in note for note in kept.answer.notes)


# The table.


def test_the_table_is_what_the_index_holds(browser: Browser, news: tiny.Tiny) -> None:
    page = browser.get("/table?size=100")
    assert table(page) == list(range(len(news.rows)))
    assert f"of {len(news.rows)}" in page.seen


def slow(state: TableState, store: Store) -> list[int]:
    """The rows of a state, the slow way."""
    columns, means = store.examples, store.features["mean_probabilities"]
    names = store.plan.label_names or []
    flagged = {
        one.row: one for one in __import__("proponent.actions.label_errors", fromlist=["x"]).label_errors(store).rows
    }
    found = []
    for row in range(store.n):
        text, label = columns["text"][row], columns["label"][row]
        predicted = names[int(means[row].argmax())]
        score = float(means[row, names.index(label)])
        hit = {
            "substring": lambda text=text: state.q.lower() in text.lower(),
            "word": lambda text=text: state.q.lower() in re.findall(r"\w+", text.lower()),
            "regex": lambda text=text: re.search(state.q, text, re.IGNORECASE) is not None,
        }[state.how]
        wanted = (
            (not state.q or hit())
            and (not state.label or label in state.label)
            and (not state.predicted or predicted in state.predicted)
            and (not state.flag or flagged[row].is_label_issue == (state.flag == "yes"))
            and (state.low is None or score >= state.low)
            and (state.high is None or score <= state.high)
        )
        if wanted:
            keys = {"row": row, "score": score, "label": label, "predicted": predicted, "length": len(text),
                    "loss": float(store.features["losses"][-1, row])}  # fmt: skip
            found.append((row, keys))
    for key in reversed(state.sort):
        found.sort(key=lambda one: one[1][key.removeprefix("-")], reverse=key.startswith("-"))
        if key.startswith("-"):  # equal ones stay in data order
            found.sort(key=lambda one: one[1][key[1:]], reverse=True)
    return [row for row, _ in found]


def random_states(count: int, store: Store) -> list[TableState]:
    generator = np.random.default_rng(0)
    names = store.plan.label_names or []
    made = []
    for _ in range(count):
        pick = generator.random(8)
        word = str(generator.choice(["bank", "the", "cup", "said", "a", "vote", "é", "("]))
        how = str(generator.choice(["substring", "word", "regex"]))
        made.append(
            TableState(
                q=(re.escape(word) + "." if how == "regex" else word) if pick[0] < 0.5 else "",
                how=how,
                label=tuple(sorted(generator.choice(names, 2, replace=False))) if pick[1] < 0.3 else (),
                predicted=(str(generator.choice(names)),) if pick[2] < 0.3 else (),
                flag=str(generator.choice(["yes", "no"])) if pick[3] < 0.3 else "",
                low=0.2 if pick[4] < 0.2 else None,
                high=0.8 if pick[5] < 0.2 else None,
                sort=tuple(
                    ("-" if generator.random() < 0.5 else "") + str(one)
                    for one in generator.choice(["score", "label", "predicted", "length", "loss", "row"], 2, False)
                )
                if pick[6] < 0.7
                else (),
                size=100,
            )
        )
    return made


def test_a_hundred_random_filters_show_and_export_what_the_slow_way_finds(browser: Browser) -> None:
    store = browser.open_indexes.first.store
    shown = 0
    for state in random_states(110, store):
        expected = slow(replace(state, how=state.how), store)
        page = browser.get(state.url("/table"))
        assert table(page) == expected, state
        shown += len(expected)
        exported = lines(browser.get(state.url("/export/table.jsonl")).body)
        assert [one["row"] for one in exported] == expected
        for one in exported:
            assert one["text"] == store.row(one["row"])["text"]
            assert one["given_label"] == store.row(one["row"])["label"]
    assert shown > 300


def test_facets_count_what_following_them_shows(browser: Browser) -> None:
    page = browser.get("/table?q=the")
    links = re.findall(r'<a href="(/table\?[^"]*)" class=""><span class="wh-name"><bdi>[^<]*</bdi></span> '
                       r'<span class="wh-count">([\d,]+)</span>', page.text)  # fmt: skip
    assert len(links) >= 8
    for url, count in links:
        followed = browser.get(url.replace("&amp;", "&") + "&size=200")
        assert len(table(followed)) == int(count)


def test_pages_cut_the_table_and_the_last_page_is_the_last(browser: Browser, news: tiny.Tiny) -> None:
    rows = [row for number in (1, 2, 3) for row in table(browser.get(f"/table?size=25&page={number}"))]
    assert rows == list(range(len(news.rows)))
    assert table(browser.get("/table?size=25&page=99")) == rows[50:]


def test_what_is_found_is_marked(browser: Browser) -> None:
    page = browser.get("/table?q=sum(&how=substring")
    assert '<mark class="wh-found">SUM(</mark>' in page.text


def test_a_bad_expression_and_an_empty_choice_say_so(browser: Browser) -> None:
    assert "invalid regular expression" in browser.get("/table?q=(&how=regex").seen
    assert "No examples match these filters" in browser.get("/table?q=zzzzzz").seen


# One example.


def test_an_example_shows_what_it_did_to_what_was_asked(browser: Browser, answered: Reply) -> None:
    kept = browser.open_indexes.first.questions.get(Question("The bank said shares fell", k=4))
    assert kept is not None
    best = kept.answer.proponents[0]
    page = browser.get(ExampleState(id=best.id).url("/example"))
    assert "The bank said shares fell" in page.seen
    assert "rank 1" in page.seen
    assert "loss by checkpoint" in page.seen
    assert "mean probability over the checkpoints" in page.seen


def test_near_duplicates_are_found(browser: Browser) -> None:
    store = browser.open_indexes.first.store
    texts = [set(re.findall(r"\w+", text.lower())) for text in store.examples["text"]]
    for place in range(0, store.n, 7):
        expected = {
            other
            for other in range(store.n)
            if other != place and len(texts[place] & texts[other]) / len(texts[place] | texts[other]) >= 0.5
        }
        assert {one for one, _ in browser.open_indexes.first.near_duplicates.of(place)} <= expected
        assert len(browser.open_indexes.first.near_duplicates.of(place)) == min(10, len(expected))


def test_an_unknown_example_says_so(browser: Browser) -> None:
    page = browser.get("/example?id=none")
    assert page.status == 400
    assert "no training example has the id" in page.seen


# Deciding.


def test_decisions_show_everywhere_and_undo_takes_them_back(browser: Browser, answered: Reply) -> None:
    back = "/table?size=100"
    assert browser.post("/decide", {"id": "n0", "act": "drop", "back": back}).location == back
    assert browser.post("/decide", {"id": "n1", "act": "fix", "label": "World", "back": back}).status == 303
    page = browser.get(back)
    assert "dropped" in page.seen
    assert "fixed to World" in page.seen
    assert "Undo : fix to World: n1" in page.seen
    assert table(browser.get("/table?decided=drop")) == [0]
    assert "dropped" in browser.get("/example?id=n0").seen
    corrected = lines(browser.get("/export/corrected.jsonl").body)
    assert [one["id"] for one in corrected][:1] == ["n1"]
    assert corrected[0]["label"] == "World"
    decided = lines(browser.get("/export/decisions.jsonl").body)
    assert {one["id"]: one["act"] for one in decided}["n0"] == "drop"
    for _ in range(2):
        assert browser.undo(back).location == back
    assert "dropped" not in browser.get(back).seen
    assert browser.post("/decide", {"id": "nobody", "act": "drop"}).status == 400
    assert browser.post("/decide", {"id": "n0", "act": "explode"}).status == 400
    assert browser.post("/decide", {"id": "n0", "act": "fix", "label": "Mars"}).status == 400


# Comparing and summing.


def test_rankings_stand_side_by_side_with_their_change(browser: Browser, answered: Reply) -> None:
    page = browser.get("/compare?text=The+bank+said+shares+fell&k=4&beside=bm25&beside=random")
    kept = browser.open_indexes.first.questions.get(Question("The bank said shares fell", k=4))
    assert kept is not None
    leading = {hit.id: hit.rank for hit in kept.answer.proponents}
    for name in ("bm25", "random"):
        shared = sum(hit.id in leading for hit in kept.answer.baselines[name])
        assert f"{shared} of {len(leading)} are in the first ranking too" in page.seen
    changes = re.findall(r'<span class="wh-change wh-(\w+)">', page.text)
    assert len(changes) == 8
    assert set(changes) <= {"new", "up", "down", "same"}
    shared = [hit.id in leading for hit in kept.answer.baselines["tfidf-label"]]
    page = browser.get("/compare?text=The+bank+said+shares+fell&k=4&beside=tfidf-label")
    assert page.text.count(" wh-shared") == sum(shared)
    assert shared[0]  # the first hit is marked as the others are


def test_two_indexes_are_asked_and_compared(news: tiny.Tiny, tmp_path: Path) -> None:
    other = tmp_path / "last.index"
    proponent.build(news.run, news.data, other, method="tracin-last", quiet=True)
    link = tmp_path / "we.index"
    link.symlink_to(news.index)
    made = Browser(link, other)
    reply = made.post("/ask", {"text": "The bank said", "in": ["we", "last"], "k": 3})
    assert reply.location.startswith("/compare?")
    for _ in range(600):
        page = made.get(reply.location)
        if 'http-equiv="refresh"' not in page.text:
            break
        __import__("time").sleep(0.2)
    assert "tracin-we" in page.seen
    assert "tracin-last" in page.seen
    assert page.text.count('class="wh-column"') == 2
    assert "in the first ranking too" in page.seen
    made.close()


def test_sums_are_those_of_all_scores(browser: Browser, answered: Reply, news: tiny.Tiny) -> None:
    scores = proponent.open(news.index).scores(["The bank said shares fell"])[0]
    labels = [row["label"] for row in news.rows]
    exported = lines(browser.get("/export/groups.jsonl?text=The+bank+said+shares+fell&k=4").body)
    assert {one["label"] for one in exported} == set(labels)
    for one in exported:
        mine = scores[[label == one["label"] for label in labels]]
        assert one["n"] == len(mine)
        assert one["total"] == pytest.approx(mine.sum(), rel=1e-4, abs=1e-9)
        assert one["proponents"] == pytest.approx(mine[mine > 0].sum(), rel=1e-4, abs=1e-9)
        assert "not proof of cause" in one["caveat"]
    page = browser.get("/groups?text=The+bank+said+shares+fell&k=4")
    assert all(label in page.seen for label in set(labels))


# Exports.


def test_files_of_the_table_open_elsewhere_and_hold_the_same(browser: Browser, tmp_path: Path) -> None:
    store = browser.open_indexes.first.store
    state = "?sort=-score"
    expected = lines(browser.get(f"/export/table.jsonl{state}").body)
    (tmp_path / "t.parquet").write_bytes(browser.get(f"/export/table.parquet{state}").body)
    for frame in (pandas.read_parquet(tmp_path / "t.parquet"), polars.read_parquet(tmp_path / "t.parquet")):
        assert list(frame["text"]) == [one["text"] for one in expected]
        assert list(frame["label_score"]) == [one["label_score"] for one in expected]
    assert pyarrow.parquet.read_table(tmp_path / "t.parquet").num_rows == store.n
    read = list(csv.DictReader(io.StringIO(browser.get(f"/export/table.csv{state}").text, newline="")))
    for one, other in zip(read, expected, strict=True):
        assert one["text"] == ("'" if other["text"].startswith("=") else "") + other["text"]
        assert float(one["loss"]) == other["loss"]


@pytest.mark.parametrize("sort", [(), ("-loss",), ("label", "-length"), ("predicted", "source", "-id")])
def test_columns_of_the_table_are_those_of_its_rows(browser: Browser, sort: tuple[str, ...]) -> None:
    shown = browser.open_indexes.first
    table, names = shown.table, {"given_label": "label", "label_score": "quality", "decision": "decided"}
    names |= {"predicted_label": "predicted", "suggested_label": "suggested", "is_label_issue": "flagged"}
    ids = table.whole.column("id").to_pylist()
    decisions = {ids[3]: Decision(ids[3], "drop", None, ""), ids[5]: Decision(ids[5], "fix", table.names[0], "")}
    places = table.select(TableState(sort=sort), decisions).places
    columns, rows = columns_of(table, places, decisions), table_pages.rows_of(shown, places, decisions)
    assert len(rows) == len(table)
    for name, column in columns.items():
        assert list(column) == [getattr(row, names.get(name, name)) for row in rows], name
    ranks = [table._ranked(key.removeprefix("-")) * (-1 if key.startswith("-") else 1) for key in sort]
    assert places.tolist() == sorted(range(len(table)), key=lambda place: [rank[place] for rank in ranks])


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet", "cleanlab"])
def test_files_that_are_made_and_sent_in_parts_are_the_same(
    browser: Browser, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    url = f"/export/table.{kind}?sort=-loss"
    whole = browser.get(url)
    monkeypatch.setattr(columns, "BLOCK", 7)
    monkeypatch.setattr(table_columns, "BLOCK", 9)
    monkeypatch.setattr(downloads, "PART", 100)
    parts = browser.get(url)
    assert len(whole.body) > 1000
    assert parts.body == whole.body
    assert int(parts.headers["content-length"]) == len(parts.body)


def test_the_cleanlab_file_has_its_columns(browser: Browser) -> None:
    frame = pandas.read_csv(io.BytesIO(browser.get("/export/table.cleanlab").body))
    assert list(frame.columns)[:4] == ["is_label_issue", "label_score", "given_label", "predicted_label"]
    assert frame["is_label_issue"].dtype == bool
    assert list(frame["row"]) == sorted(frame["row"])


def test_files_of_an_answer_are_the_answer(browser: Browser, answered: Reply) -> None:
    url = "?text=The+bank+said+shares+fell&k=4"
    kept = browser.open_indexes.first.questions.get(Question("The bank said shares fell", k=4))
    assert kept is not None
    assert json.loads(browser.get(f"/export/answer.json{url}").body) == kept.answer.to_dict()
    (pair,) = lines(browser.get(f"/export/answer.pair{url}").body)
    assert pair["proponents"] == [hit.text for hit in kept.answer.proponents]
    assert pair["opponent_scores"] == [hit.score for hit in kept.answer.opponents]
    assert pair["inputs_plaintext"] == "The bank said shares fell"
    rows = lines(browser.get(f"/export/answer.jsonl{url}").body)
    assert [one["score"] for one in rows] == [hit.score for hit in (*kept.answer.proponents, *kept.answer.opponents)]
    assert all("not proof of cause" in one["caveat"] for one in rows)
    page = browser.get(f"/export/answer.html{url}")
    assert "default-src &#39;none&#39;" in page.text
    assert "attachment" in page.headers["content-disposition"]
    assert len(lines(browser.get("/export/answers.pair").body)) >= 1
    assert "Answers" in browser.get("/export/answers.html").text


@pytest.mark.parametrize(
    "url", ["/export/table.exe", "/export/secrets.csv", "/export/", "/export/table", "/static/x.css"]
)
def test_other_files_are_not_there(browser: Browser, url: str) -> None:
    assert browser.get(url).status == 404


# Indexes that are not whole.


def unsealed(index: Path, folder: Path) -> Path:
    """An index whose build was stopped: no manifest, notes beside the files, some shards missing."""
    manifest = json.loads((index / "manifest.json").read_bytes())
    shutil.copytree(index, folder)
    (folder / "manifest.json").unlink()
    for name, sums in manifest["files"].items():
        path = folder / name
        path.with_name(path.name + ".done").write_text(json.dumps(sums), encoding="utf-8")
    return folder


def test_a_build_under_way_shows_how_far_it_is(news: tiny.Tiny, tmp_path: Path) -> None:
    folder = unsealed(news.index, tmp_path / "half.index")
    steps = [one.id.step for one in Store(news.index).plan.checkpoints]
    shards = sorted((folder / "forms" / f"step-{steps[-1]}").glob("*.safetensors*"))
    for path in shards:
        path.unlink()
    now = watch(folder, 2e9)
    assert now.share == pytest.approx(1 - 1 / len(steps))
    page = Browser(folder).get("/ask")
    assert "is being built" in page.seen
    assert f"{now.share:.0%}" in page.seen
    assert 'http-equiv="refresh"' in page.text
    assert "disk left" in page.seen


def test_a_build_that_is_almost_done_can_be_looked_at(news: tiny.Tiny, tmp_path: Path) -> None:
    folder = unsealed(news.index, tmp_path / "most.index")
    page = Browser(folder).get("/table")
    assert "PARTIAL" in page.seen
    assert page.status == 200


def test_an_index_that_changes_is_opened_anew(news: tiny.Tiny, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(news.index, tmp_path / "changing.index"))
    made = Browser(folder)
    assert len(table(made.get("/table?size=100"))) == len(news.rows)
    proponent.store.delete(folder, np.asarray([0, 1]))
    assert len(table(made.get("/table?size=100"))) == len(news.rows) - 2


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda folder: (folder / "manifest.json").write_text("{}", encoding="utf-8"), "manifest.json"),
        (lambda folder: (folder / "plan.json").write_bytes(b"\x00" * 40), "plan.json"),
        (lambda folder: next((folder / "examples").glob("*.parquet")).unlink(), "is missing"),
        (lambda folder: _newer(folder / "manifest.json"), "newer"),
    ],
)
def test_a_damaged_index_or_one_of_another_version_gets_a_page(
    news: tiny.Tiny, tmp_path: Path, spoil: object, told: str
) -> None:
    folder = Path(shutil.copytree(news.index, tmp_path / "bad.index"))
    spoil(folder)  # type: ignore[operator]
    made = Browser(folder)
    for url in ("/ask", "/table", "/example?id=n0", "/about", "/asked", "/compare", "/groups", "/export/table.csv"):
        page = made.get(url)
        assert page.status in {400, 500}, url
        assert told in page.seen
        assert "Traceback" not in page.text


def _newer(path: Path) -> None:
    content = json.loads(path.read_bytes())
    path.write_text(json.dumps(content | {"format": 99}), encoding="utf-8")


def test_flipped_bytes_in_what_a_page_reads_are_told(news: tiny.Tiny, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(news.index, tmp_path / "flipped.index"))
    path = next((folder / "examples").glob("*.parquet"))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))
    page = Browser(folder).get("/table")
    assert page.status == 500
    assert "differs from what was written" in page.seen or "damaged" in page.seen


def test_broken_files_beside_the_index_do_not_stop_the_pages(news: tiny.Tiny, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(news.index, tmp_path / "mine.index"))
    asked = tmp_path / "mine.index.asked"
    asked.mkdir()
    (asked / "questions.jsonl").write_text('{"id": 3}\nnonsense\n[]\n', encoding="utf-8")
    name = Questions(folder, Store(folder).manifest.merkle_root).identity(Question("x"))
    (asked / f"{name}.json").write_text('{"question": 3}', encoding="utf-8")
    made = Browser(folder)
    assert made.get("/asked").status == 200
    assert made.get("/ask?text=x").status == 200
    (tmp_path / "mine.index.decisions.jsonl").write_text("nonsense\n{}\n", encoding="utf-8")
    page = made.get("/table")
    assert "invalid decision" in page.seen


def test_language_models_and_pairs_have_their_pages(lines: tiny.Tiny, pairs: tiny.Tiny, tmp_path: Path) -> None:
    for one, asked in ((lines, {"text": "the cup of the", "target": "goal said"}),
                       (pairs, {"text": "the cup saw", "pair": "a goal and"})):  # fmt: skip
        link = tmp_path / f"{one.index.parent.name}.index"
        link.symlink_to(one.index)
        made = Browser(link)
        for url in ("/ask", "/table?q=cup", f"/example?id={one.rows[0]['id']}", "/about", "/compare", "/groups"):
            assert made.get(url).status == 200, url
        page = made.ask(**asked)
        assert "Helped" in page.seen
        assert made.get("/export/table.csv").status == 200
        made.close()


# Templates of the explorer.

EXPLORER = sorted((TEMPLATES / "explorer").glob("*.j2"))


@pytest.mark.parametrize("path", EXPLORER, ids=lambda path: path.name)
def test_templates_link_only_what_states_and_doors_make(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    made = r"\{\{ (?:[a-z]+\.)*(?:url|ask|clear|earlier|later|groups|answer|again|table|style|back)\b[^}]*\}\}"
    door = r"\{\{ page\.answer_links\.\w+\([^)]*\) \}\}"
    allowed = rf"/[a-z]*|#view|data:,|{made}|{door}|\{{\{{ script \}}\}}|\{{\{{ action \}}\}}"
    for name, value in re.findall(r'\b(href|src|action|hx-get|hx-post|formaction)="([^"]*)"', source):
        assert re.fullmatch(allowed, value), (path.name, name, value)
    bare = re.sub(r"\{%.*?%\}|\{#.*?#\}", "", re.sub(r"\{\{.*?\}\}", "X", source, flags=re.S), flags=re.S)
    for tag in re.findall(r"<[a-z][^>]*>", re.sub(r'"[^"]*"|\'[^\']*\'', '""', bare)):
        assert not re.search(r"""[\w-]+=(?!")|\s(?:on\w+|style)=""", tag), (path.name, tag)
    assert not re.search(r"\|\s*safe|Markup|autoescape|innerHTML", source.replace('hx-swap="innerHTML', ""))


MODULES = (
    layout, ask, bulk, comparison, confusion, errors, example, example_map, groups, home, index_pages, losses,
    pick, predictions, questions, table_pages, test_set_frame, counted_scores, histogram, scatter,
)  # fmt: skip
CONTEXTS = [
    kind
    for module in MODULES
    for kind in vars(module).values()
    if isinstance(kind, type) and is_dataclass(kind) and kind.__module__ == module.__name__
]


def test_every_field_of_a_screen_has_a_help_text() -> None:
    screens = [questions.GroupScores, *(kind for kind in CONTEXTS if hasattr(kind, "__slots__"))]
    assert sum(issubclass(kind, Screen) for kind in screens) == 18
    hints = {kind: get_type_hints(kind, include_extras=True) for kind in screens}
    assert [(kind, one.name) for kind in screens for one in fields(kind)
            if not any(getattr(hints[kind][one.name], "__metadata__", ()))] == []  # fmt: skip


@pytest.mark.parametrize("path", EXPLORER, ids=lambda path: path.name)
def test_a_template_reads_what_the_contexts_have(path: Path) -> None:
    kinds = [*CONTEXTS, Change, questions.GroupScores, frames.AnswerLinks, frames.Link, Explanation, QuestionState,
             TableState, text_marks.Piece, text_marks.TextSegment, turns.TurnView]  # fmt: skip
    known = {name for kind in kinds for name in (*dir(kind), *(one.name for one in fields(kind)))}
    read = {node.attr for node in environment().parse(path.read_text(encoding="utf-8")).find_all(nodes.Getattr)}
    assert read - known <= {"index", "index0", "first", "last", "split"}


@pytest.mark.parametrize("path", EXPLORER, ids=lambda path: path.name)
def test_templates_of_the_explorer_parse(path: Path) -> None:
    environment().parse(path.read_text(encoding="utf-8"))


def test_every_face_counts_the_examples_that_may_be_found(news: tiny.Tiny, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(news.index, tmp_path / "news.index"))
    delete(folder, np.asarray([0, 3]))
    left, index, made = len(news.rows) - 2, proponent.open(folder), Browser(folder)
    assert (len(index), index.summary["examples"], index.summary["deleted"]) == (left, left, 2)
    assert f"{left} examples" in repr(index)
    assert index.scores(["The bank said"]).shape == (1, left + 2)
    answer = index.explain("The bank said", k=1)
    assert answer.n_examples == left
    assert answer.score_counts is not None
    assert (answer.score_counts.total, answer.score_counts.left_out) == (left, 2)
    held = inventory(index.store)
    assert (held["examples"], held["deleted"], held["skipped"]) == (left, 2, 0)
    assert f"training examples {left} " in made.get("/about").seen
    assert "deleted 2 " in made.get("/about").seen
    assert f"The {left} training examples are ranked" in made.get("/ask").seen
    made.close()


def test_what_the_corrected_data_set_changes_is_shown_before_it_is_saved(news: tiny.Tiny, tmp_path: Path) -> None:
    made = Browser(Path(shutil.copytree(news.index, tmp_path / "mine.index")))
    assert "Nothing yet" in made.get("/changes").seen
    first, second = news.rows[0], news.rows[1]
    other = next(one for one in ("World", "Sports", "Business") if one != first["label"])
    made.post("/decide", {"id": first["id"], "act": "fix", "label": other, "back": "/table"})
    made.post("/decide", {"id": second["id"], "act": "drop", "back": "/table"})
    page = made.get("/changes")
    assert "1 label fixed, 1 row left out" in page.seen
    assert f"<ins><bdi>{other}</bdi></ins>" in page.text
    assert "left out" in page.seen
    assert "/changes" in made.get("/about").text
    following = made.post("/decide", {"id": second["id"], "act": "keep", "back": "/table", "next": "/example?id=x"})
    assert following.location == "/example?id=x"
    outside = made.post("/decide", {"id": second["id"], "act": "keep", "back": "/table", "next": "//evil.example/"})
    assert outside.location == "/table"
    made.close()


def test_an_index_shows_itself_in_a_notebook(news: tiny.Tiny) -> None:
    index = proponent.open(news.index)
    html = index._repr_html_()
    for part in ("Index ", "training examples", "checkpoints", f"{len(index):,}"):
        assert part in html
    assert index.predict("The bank said shares fell") == index.predict(["The bank said shares fell"])
