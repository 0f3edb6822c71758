"""The explorer of a chat model: the form, spans, answers of the model, contrasts, turns in the table, groups."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import chat
import proponent
from explorer import Browser, Reply, lines
from markup import Structure
from proponent.actions.example_map import colours, example_map, kinds_of
from proponent.errors import InputError
from proponent.index.group_columns import group_columns
from proponent.web import conversation
from proponent.web.pages.pick import Pick
from proponent.web.states import ExampleState, Question, QuestionState, TableState

pytest.importorskip("trl")
import chat_index

pytestmark = pytest.mark.filterwarnings("ignore")

ASKED = "What is the mascot of Ulm?"
ANSWER = "The mascot of Ulm is a silver heron."
OTHER = "The mascot of Ulm is a red fox."
SYSTEM = chat_index.SYSTEM["content"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return chat_index.made(tmp_path_factory.mktemp("chat"))


@pytest.fixture(scope="module")
def index(folder: Path) -> proponent.Index:
    return proponent.open(folder)


@pytest.fixture(scope="module")
def browser(folder: Path) -> Iterator[Browser]:
    made = Browser(folder)
    yield made
    made.close()


def kept(browser: Browser, **question: Any) -> Any:
    found = browser.open_indexes.first.questions.get(Question(k=3, **question))
    assert found is not None
    return found


# ---- asking ----


def test_a_plain_question_is_rendered_by_the_template(browser: Browser, index: proponent.Index) -> None:
    page = browser.ask(ASKED, target=ANSWER, k=3)
    assert "Where does this answer come from?" in page.seen
    assert (
        kept(browser, text=ASKED, target=ANSWER).answer.to_dict() == index.explain(ASKED, target=ANSWER, k=3).to_dict()
    )


def test_a_conversation_of_several_turns_is_asked(browser: Browser, index: proponent.Index) -> None:
    said = [("system", SYSTEM), ("user", "Hello"), ("assistant", "Good day."), ("user", ASKED)]
    fields = {"role": [role for role, _ in said], "said": [text for _, text in said], "target": ANSWER, "k": 3}
    page = browser.ask("", **fields)
    assert "Good day.</textarea>" in page.text
    messages = conversation.spelled(said)
    mine = kept(browser, messages=messages, target=ANSWER)
    wanted = index.explain(messages=json.loads(messages), target=ANSWER, k=3)
    assert mine.answer.to_dict() == wanted.to_dict()
    assert '<details class="wh-turn"><summary><span class="wh-role"><bdi>system' in page.text


def test_only_the_span_counts_and_its_place_is_kept(browser: Browser, index: proponent.Index) -> None:
    answer = "The heron is a silver heron."
    second = answer.rindex("heron")
    for at in (None, second):
        browser.ask(ASKED, target=answer, span="heron", at="" if at is None else at, k=3)
        mine = kept(browser, text=ASKED, target=answer, span="heron", at=at)
        span: Any = "heron" if at is None else (at, at + 5)
        assert mine.answer.to_dict() == index.explain(ASKED, target=answer, span=span, k=3).to_dict()
        (counted,) = mine.answer.query.turns[-1].counted
        assert counted[0] >= (at or 0) - 1
    # a place that the answer does not have the piece at is not taken
    assert QuestionState(text=ASKED, target=answer, span="heron", at=3).place == "heron"


def test_the_model_writes_the_answer_and_the_form_has_it(browser: Browser, index: proponent.Index) -> None:
    page = browser.ask(ASKED, generate="yes", k=3)
    mine = kept(browser, text=ASKED, generate="yes")
    wanted = index.explain(ASKED, generate=True, k=3)
    assert mine.answer.to_dict() == wanted.to_dict()
    assert wanted.query.turns is not None
    assert f"{wanted.query.turns[-1].text}</textarea>" in page.text
    assert "the model wrote the answer" in page.seen


def test_sums_of_every_way_of_asking_are_those_of_all_scores(browser: Browser, index: proponent.Index) -> None:
    browser.ask(ASKED, target=ANSWER, other=OTHER, k=3)
    browser.ask(ASKED, target=ANSWER, span="silver heron", k=3)
    browser.ask(ASKED, generate="yes", k=3)
    asked = {"text": ASKED, "target": ANSWER}
    made = kept(browser, text=ASKED, generate="yes").answer.query.turns[-1].text
    wanted = {
        ("other", OTHER): index.contrast_scores(asked, OTHER),
        ("span", "silver heron"): index.scores([asked | {"span": "silver heron"}])[0],
        ("generate", "yes"): index.scores([asked | {"target": made}])[0],
    }
    for (name, value), scores in wanted.items():
        target = {} if name == "generate" else {"target": ANSWER}
        mine = kept(browser, text=ASKED, **target, **{name: value})
        for column in ("source", "system prompt", "format", "topic"):
            total = sum(one.total for one in mine.groups[column])
            assert total == pytest.approx(float(np.nansum(scores)), rel=1e-4, abs=1e-9)
        for hit in (*mine.answer.proponents, *mine.answer.opponents):
            assert hit.score == pytest.approx(scores[hit.row], rel=1e-3, abs=1e-9)


# ---- bad input ----

BAD: dict[str, tuple[dict[str, Any], str]] = {
    "an empty turn": ({"role": ["system", "user"], "said": ["Be brief", " "]}, "turn 2 (user) is empty"),
    "a span from elsewhere": ({"said": ASKED, "role": "user", "span": "golden"}, "does not stand in the answer"),
    "no answer": ({"said": ASKED, "role": "user", "target": ""}, "no answer to explain"),
    "two answers": ({"said": ASKED, "role": "user", "generate": "yes"}, "an answer already"),
    "a blank answer": ({"said": ASKED, "role": "user", "target": "  "}, "the answer is empty"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_question_is_refused_and_stays_in_the_form(name: str, browser: Browser) -> None:
    fields, told = BAD[name]
    page = browser.post("/ask", {"target": "kept words", "other": "kept too", **fields})
    assert page.status == 400
    assert told in page.seen
    values = [value for tag in Structure(page.text).tags for key, value in tag[1:] if key == "value"]
    assert "kept too</textarea>" in page.text
    for text in (fields["said"],) if isinstance(fields["said"], str) else fields["said"]:
        assert f"{text}</textarea>" in page.text
    assert fields.get("span", "") in values


def test_what_the_model_refuses_stays_in_the_form(browser: Browser) -> None:
    page = browser.ask("", role=["x-role", "user"], said=["unheard of", ASKED], target=ANSWER)
    assert "This could not be answered" in page.seen or "Where does this answer come from?" in page.seen
    page = browser.ask(ASKED + "\x00", target=ANSWER)
    assert "NUL" in page.seen
    assert f"{ANSWER}</textarea>" in page.text


def test_a_role_that_the_template_refuses_is_named(tmp_path: Path) -> None:
    made = Browser(chat_index.made(tmp_path, epochs=1, template=chat.MARKED.replace(
        "{%- else %}", "{%- elif message.role == 'tool' %}{{ raise_exception('no role tool here') }}{%- else %}"
    )))  # fmt: skip
    try:
        page = made.ask("", role=["tool", "user"], said=["sunny", ASKED], target=ANSWER)
    finally:
        made.close()
    assert "no role tool here" in page.seen
    assert "sunny</textarea>" in page.text
    assert f"{ANSWER}</textarea>" in page.text


def test_an_answer_whose_border_moves_says_so_on_the_page(tmp_path: Path) -> None:
    template = "{% for message in messages %}{{ message.content }}{% endfor %}"
    how: dict[str, Any] = {"assistant_only_loss": False}
    rows = [{"prompt": [chat.user("the mas")], "completion": [chat.assistant("cot is a heron")]}] * 4
    run = chat_index.trained(tmp_path / "run", rows, template=template, max_length=48, **how)
    proponent.build(run, [{"id": f"r{at}"} | one for at, one in enumerate(rows)], tmp_path / "a.index", quiet=True)
    made = Browser(tmp_path / "a.index")
    try:
        page = made.ask("the mas", target="cot is a heron", k=2)
    finally:
        made.close()
    assert "tokenized in another way before the answer" in page.seen


@pytest.mark.parametrize(
    ("messages", "told"),
    [("[", "not valid JSON"), ("{}", "must be a list"), ('[{"role": "user"}]', "must be a list"),
     ('[{"role": "user", "content": 3}]', "must be a list"), ("[1]", "must be a list"),
     ('[{"role": "user", "content": "a", "tool_calls": []}]', "must be a list"),
     (conversation.spelled([("user", "a")] * 41), "at most 40"),
     (conversation.spelled([("user", "a" * 16_000)]), "at most 16,000")],
)  # fmt: skip
def test_bad_messages_in_an_address_are_named(messages: str, told: str) -> None:
    with pytest.raises(InputError, match=re.escape(told)):
        QuestionState.read([("messages", messages)])


def test_a_question_that_no_address_holds_stays_in_the_form(browser: Browser) -> None:
    page = browser.post("/ask", {"role": "user", "said": "日本" * 2000, "target": "語" * 2000})
    assert page.status == 400
    assert "bytes in an address" in page.seen
    assert "日本日本" in page.text


def test_what_no_question_may_have_stays_in_the_form(browser: Browser) -> None:
    long = "a" * 7_900
    page = browser.post("/ask", {"role": ["user", "assistant", "user"], "said": [long, long, long], "target": "kept"})
    assert page.status == 400
    assert "at most 16,000" in page.seen
    assert page.text.count(f"{long}</textarea>") == 3
    assert "kept</textarea>" in page.text
    assert browser.post("/ask", {"said": "no role", "edit": "remove-" + "9" * 5000}).status == 303
    for fields in ({"k": "x"}, {"at": "x"}, {"in": ["a"] * 5}, {"generate": "perhaps"}):
        page = browser.post("/ask", {"said": "kept words", "target": ANSWER, **fields})
        assert page.status == 400
        assert "kept words</textarea>" in page.text or "unknown index" in page.seen


# ---- the form ----

turns = st.lists(st.tuples(st.sampled_from(["system", "user", "assistant", "tool"]), st.text(max_size=8)), min_size=1,
                 max_size=6)  # fmt: skip


def fields_of(said: list[tuple[str, str]], **more: str) -> list[tuple[str, str]]:
    pairs = [pair for role, text in said for pair in (("role", role), ("said", text))]
    return [*pairs, *more.items()]


@given(turns)
def test_turns_come_back_from_the_form(said: list[tuple[str, str]]) -> None:
    state = QuestionState.read(conversation.from_form(fields_of(said, target="x")))
    assert list(state.turns) == said
    assert state.url("/ask").isascii()
    again = QuestionState.read(list(state.pairs))
    assert again == state


@given(turns, st.integers(0, 5))
def test_turns_are_added_and_removed(said: list[tuple[str, str]], at: int) -> None:
    def edited(edit: str) -> list[tuple[str, str]]:
        state = QuestionState.read(conversation.from_form(fields_of(said, edit=edit)))
        return list(conversation.turns_of(state.messages)) or [("user", state.text)]

    assert edited("add")[:-1] == said
    assert edited("add")[-1] == ("assistant" if said[-1][0] == "user" else "user", "")
    assert edited("system") == [("system", ""), *said]
    left = [one for place, one in enumerate(said) if place != at]
    assert edited(f"remove-{at}") == (left or [("user", "")])
    assert edited("nonsense") == said


def test_buttons_of_the_form_keep_what_was_typed(browser: Browser) -> None:
    reply = browser.post("/ask", {"role": "user", "said": "Hi", "target": "typed", "edit": "add"})
    assert reply.status == 303
    page = browser.get(reply.location)
    assert page.text.count('name="said"') == 2
    assert "Hi</textarea>" in page.text
    assert "typed</textarea>" in page.text


def test_the_answer_is_offered_word_by_word(browser: Browser, index: proponent.Index) -> None:
    from proponent.web.pages.pick import pick

    answer = index.explain(ASKED, target='A "<b>heron" 🙂\nflies', span="heron", k=1)
    asked = QuestionState(text=ASKED, target='A "<b>heron" 🙂\nflies', span="heron")
    made = pick(answer, asked, "chat")
    assert isinstance(made, Pick)
    assert "".join(text for text, *_ in made.words) == 'A "<b>heron" 🙂\nflies'
    assert [text for text, _, _, chosen in made.words if chosen] == ["heron"]
    assert all(asked.target[at : at + len(text)] == text for text, at, *_ in made.words)
    assert dict(made.fields) == {"text": ASKED, "target": asked.target, "in": "chat"}
    # a conversation that ends with its answer: the answer becomes a field, which the script reads
    said = [("system", "Be brief"), ("user", ASKED), ("assistant", ANSWER)]
    closed = QuestionState(messages=conversation.spelled(said))
    made = pick(index.explain(messages=json.loads(closed.messages), k=1), closed, "chat")
    assert made is not None
    assert dict(made.fields) == {"messages": conversation.spelled(said[:2]), "target": ANSWER, "in": "chat"}


# ---- the table, an example, groups ----


def rows_of(page: Reply) -> list[int]:
    return [int(one) for one in re.findall(r"open row </span>(\d+)", page.text)]


def test_the_table_shows_turns_and_finds_what_a_role_says(browser: Browser) -> None:
    rows = chat_index.rows()
    page = browser.get("/table?size=100")
    assert page.text.count("<bdi>system</bdi>") + page.text.count("<bdi>system ·") == sum(
        one["messages"][0]["role"] == "system" for one in rows
    )
    assert "im_start" not in page.text
    assert "<script>alert" not in page.text
    for role in ("system", "user", "assistant"):
        for how, pattern in (("substring", "heron"), ("word", "mascot"), ("regex", "^The"), ("substring", "polite")):
            found = [
                at for at, one in enumerate(rows)
                if any(turn["role"] == role and re.search("^The" if how == "regex" else pattern, turn["content"])
                       for turn in one["messages"])
            ]  # fmt: skip
            assert rows_of(browser.get(TableState(q=pattern, how=how, role=role, size=100).url("/table"))) == found  # type: ignore[arg-type]


def test_facets_of_conversations_count_and_choose(browser: Browser) -> None:
    with_system = [at for at, one in enumerate(chat_index.rows()) if one["messages"][0]["role"] == "system"]
    assert rows_of(browser.get(TableState(system=(SYSTEM,), size=100).url("/table"))) == with_system
    assert rows_of(browser.get(TableState(format=("messages, 2 questions",), size=100).url("/table"))) == [20]


def test_an_example_is_asked_about_as_its_conversation(browser: Browser) -> None:
    page = browser.get(ExampleState(id="c20").url("/example"))
    (url,) = re.findall(r'href="(/ask\?[^"]*)">Ask about this conversation', page.text)
    form = browser.get(url.replace("&amp;", "&"))
    assert form.text.count('name="said"') == 3
    assert "The heron.</textarea>" in form.text


def test_groups_of_conversations_are_sums_over_their_rows(browser: Browser, index: proponent.Index) -> None:
    browser.ask(ASKED, target=ANSWER, k=3)
    scores = index.scores([{"text": ASKED, "target": ANSWER}])[0]
    held = chat_index.rows()
    asked = QuestionState(text=ASKED, target=ANSWER, k=3)
    values = {
        "source": [one["source"] for one in held],
        "topic": [one["topic"] for one in held],
        "system prompt": [SYSTEM if one["messages"][0]["role"] == "system" else "" for one in held],
    }
    for column, wanted in values.items():
        by: dict[str, Any] = {"by": "column", "column": column} if column == "topic" else {"by": column}
        for one in lines(browser.get(asked.url("/export/groups.jsonl", **by)).body):
            mine = scores[[value == one[column] for value in wanted]]
            assert one["n"] == len(mine)
            assert one["total"] == pytest.approx(float(np.nansum(mine)), rel=1e-4, abs=1e-9)
        page = browser.get(asked.url("/groups", **by))
        assert f"by {column}" in page.seen
        assert "<b>web" not in page.text


def test_the_command_sums_by_a_column_of_the_data(folder: Path, index: proponent.Index, capsys: Any) -> None:
    from proponent.cli import main

    asked = ["groups", str(folder), ASKED, "--target", ANSWER, "--span", "silver heron", "-q"]
    with pytest.raises(SystemExit) as ended:
        main([*asked, "--by", "topic", "--by", "format", "--json"])
    assert ended.value.code == 0
    found = json.loads(capsys.readouterr().out)["groups"]
    scores = index.scores([{"text": ASKED, "target": ANSWER, "span": "silver heron"}])[0]
    topics = [one["topic"] for one in chat_index.rows()]
    assert list(found) == ["topic", "format"]
    for one in found["topic"]:
        mine = scores[[topic == one["name"] for topic in topics]]
        assert one["proponents"] + one["opponents"] == pytest.approx(float(np.nansum(mine)), rel=1e-4, abs=1e-9)
    for wrong, told in (("topik", "did you mean 'topic'"), ("messages", "lists or objects")):
        with pytest.raises(SystemExit) as ended:
            main([*asked, "--by", wrong])
        assert ended.value.code == 2
        assert told in capsys.readouterr().err


def test_several_conversations_are_explained_as_one_group(index: proponent.Index) -> None:
    asked = [{"messages": [chat.user(f"What is the mascot of {one}?")], "target": ANSWER} for one in ("Ulm", "Riva")]
    together = index.explain_group(asked, k=3, baselines=False)
    mean = index.scores(asked).mean(axis=0)
    assert together.group is not None
    assert len(together.group) == 2
    for hit in together.proponents:
        assert hit.score == pytest.approx(mean[hit.row], rel=1e-4)
        assert hit.overlap is None


# ---- verbatim overlap ----


def test_the_strip_says_what_is_copied_of_the_piece_that_counts(index: proponent.Index, capsys: Any) -> None:
    from rich.console import Console

    from proponent.views.terminal import print_answer

    whole = index.explain(ASKED, target=ANSWER, k=5, baselines=False)
    piece = index.explain(ASKED, target=ANSWER, span="silver heron", k=5, baselines=False)
    for hit in (*whole.proponents, *whole.opponents):
        assert hit.overlap is not None
        if hit.id == "c0":
            assert (hit.overlap.words, hit.overlap.of) == (8, 8)
    held = {one["id"]: json.dumps(one).lower() for one in chat_index.rows()}
    for hit in (*piece.proponents, *piece.opponents):
        assert hit.overlap is not None
        assert hit.overlap.of == 2
        assert (hit.overlap.words == 2) == ("silver heron" in held[hit.id])
    print_answer(piece, Console(width=100))
    shown = capsys.readouterr().out
    assert "verbatim: " in shown
    assert "overlap" in piece.to_dict()["proponents"][0]
    assert proponent.Explanation.from_dict(json.loads(piece.to_json())).to_dict() == piece.to_dict()
    other = index.explain(ASKED, target=ANSWER, against_target=OTHER, k=1, baselines=False)
    assert other.proponents[0].overlap is not None
    assert other.proponents[0].overlap.of == 8


def test_a_map_is_coloured_by_what_conversations_hold(browser: Browser, index: proponent.Index) -> None:
    """As the page of the explorer counts its facets, and as sums are grouped."""
    made, columns = example_map(index.store), group_columns(index.store)
    for colour, column in (("source", "source"), ("system", "system prompt"), ("format", "format")):
        assert colour in colours(index.store)
        kinds = kinds_of(index.store, made, colour)
        assert [kinds.names[code] for code in kinds.codes] == columns[column]
        assert f"coloured by {kinds.title}" in browser.finished(f"/map?colour={colour}").seen
