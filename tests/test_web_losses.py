"""Test sets of language models in the explorer: losses, their rows and files, and what bad files get."""

import csv
import io
import json
import re
import shutil
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import proponent
import tiny
from explorer import Browser, Reply
from proponent.data import Columns, read
from proponent.errors import InputError
from proponent.types import Conversation, Message, Prompted
from proponent.web import measured_sets
from proponent.web.measured_sets import LossTask, MeasuredTestSet
from proponent.web.pages.losses import question_of, refused
from proponent.web.states import Question
from proponent.web.test_sets import OpenTestSet

pytestmark = pytest.mark.filterwarnings("ignore")


def held_out(index: proponent.Index) -> list[dict[str, Any]]:
    """Rows of prompts and targets: one training row, one that is too long, one without a token that counts."""
    known = index.store.example(0)
    rows: list[dict[str, Any]] = [{"text": known.parts[0], "target": known.target}]
    rows += [
        {"text": index.store.example(at % index.store.n).parts[0], "target": f" ships {at}"} for at in range(1, 30)
    ]
    rows += [{"text": "far and " * 40, "target": " far"}, {"text": "a <b>ship</b>", "target": " |red|"}]
    return [{"id": f"t{at}"} | one for at, one in enumerate(rows)]


def as_lines(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(one) + "\n" for one in rows).encode()


@pytest.fixture(scope="module")
def index(lines: tiny.Tiny, tmp_path_factory: pytest.TempPathFactory) -> proponent.Index:
    return proponent.open(shutil.copytree(lines.index, tmp_path_factory.mktemp("measured") / "lines.index"))


@pytest.fixture(scope="module")
def browser(index: proponent.Index) -> Iterator[Browser]:
    made = Browser(index.store.folder)
    yield made
    made.close()


@pytest.fixture(scope="module")
def url(browser: Browser, index: proponent.Index) -> str:
    """The page of a test set that the process with the model has measured."""
    assert "Measure a test set" in browser.get("/").seen
    reply = browser.upload(as_lines(held_out(index)), "held-out.jsonl")
    assert reply.status == 303
    assert "1–32 of 32" in browser.finished(reply.location).seen
    return reply.location


def shown_rows(page: Reply) -> list[int]:
    """Rows of the test set on a page, in order."""
    return [int(one) for one in re.findall(r'class="wh-c-row wh-num">(\d+)<', page.text)]


def test_the_losses_are_those_of_the_library(browser: Browser, url: str, index: proponent.Index) -> None:
    found = index.losses(held_out(index))
    order = np.argsort(-np.where(found.measured, found.losses, np.nan), kind="stable").tolist()
    page = browser.get(url)
    assert shown_rows(page) == order
    assert f"loss per token {found.loss:.3f}" in page.seen
    assert f"perplexity {found.perplexity:,.4g}" in page.seen
    assert f"longer than the model reads {int(found.truncated.sum())}" in page.seen
    assert "1 of the 32 rows stand in the training data" in page.seen
    assert shown_rows(browser.get(f"{url}&sort=file")) == list(range(32))
    assert (
        shown_rows(browser.get(f"{url}&sort=low"))[: int(found.measured.sum())]
        == order[::-1][-int(found.measured.sum()) :]
    )
    assert shown_rows(browser.get(f"{url}&only=trained")) == [0]
    assert sorted(shown_rows(browser.get(f"{url}&only=truncated"))) == np.flatnonzero(found.truncated).tolist()
    home = browser.get("/")
    assert f"{found.loss:.3f} loss per token" in home.seen


def test_a_bar_leads_to_exactly_its_rows(browser: Browser, url: str, index: proponent.Index) -> None:
    found, seen = index.losses(held_out(index)), 0
    bars = re.findall(r'<a href="(/test\?[^"]+)" tabindex="-1" aria-label="(\d+) ', browser.get(url).text)
    for address, count in bars:
        rows = shown_rows(browser.get(address.replace("&amp;", "&")))
        assert len(rows) == int(count)
        seen += len(rows)
    assert seen == found.measured.sum()


def test_a_click_asks_which_examples_are_behind_a_row(browser: Browser, url: str, index: proponent.Index) -> None:
    identity = re.search(r"set=(\w+)", url)
    assert identity is not None
    reply = browser.post("/why", {"set": identity[1], "row": "3"})
    assert reply.status == 303
    row = held_out(index)[3]
    page = browser.finished(reply.location)
    answer = browser.open_indexes.first.questions.get(Question(text=row["text"], target=row["target"]))
    assert answer is not None, page.seen
    expected = index.explain(row["text"], target=row["target"], k=10)
    assert [one.id for one in answer.answer.proponents] == [one.id for one in expected.proponents]
    for bad in ("99", "-1", "x", ""):
        assert browser.post("/why", {"set": identity[1], "row": bad}).status == 400


def test_files_hold_the_rows_that_the_page_selects(browser: Browser, url: str, index: proponent.Index) -> None:
    found = index.losses(held_out(index))
    asked = url.partition("?")[2]
    lines = [json.loads(one) for one in browser.get(f"/export/predictions.jsonl?{asked}&sort=file").text.splitlines()]
    assert [one["id"] for one in lines] == [f"t{at}" for at in range(32)]
    np.testing.assert_allclose([np.nan if one["loss"] is None else one["loss"] for one in lines],
                               np.where(found.measured, found.losses, np.nan), rtol=1e-5)  # fmt: skip
    assert [one["tokens"] for one in lines] == found.tokens.tolist()
    assert [one["target"] for one in lines] == [one["target"] for one in held_out(index)]
    assert [one["in_training_data"] for one in lines] == [at == 0 for at in range(32)]
    few = csv.DictReader(io.StringIO(browser.get(f"/export/predictions.csv?{asked}&only=trained").text))
    assert [one["row"] for one in few] == ["0"]


def test_a_restart_measures_nothing_again(browser: Browser, url: str, index: proponent.Index) -> None:
    one = OpenTestSet(read(held_out(index), columns=Columns(label="")))
    again = Browser(index.store.folder)
    measured = MeasuredTestSet(again.open_indexes.first, one)
    assert measured.test_set.id in url
    assert measured.losses is not None
    np.testing.assert_allclose(measured.losses.losses, index.losses(held_out(index)).losses, rtol=1e-5)
    again.close()


def test_what_was_stored_for_other_rows_is_not_read(browser: Browser, url: str, index: proponent.Index) -> None:
    one = OpenTestSet(read(held_out(index)[:5], columns=Columns(label="")))
    measured = MeasuredTestSet(browser.open_indexes.first, one)
    assert measured.losses is None
    for losses, tokens in ((1, 1), (5, 4), (4, 5)):
        with pytest.raises(ValueError, match="other rows"):
            measured._read({"losses": [1.0] * losses, "tokens": [1] * tokens, "truncated": []})


@pytest.mark.parametrize(
    ("name", "wrong"),
    [("truncated", [99]), ("truncated", [-1]), ("truncated", ["x"]), ("truncated", None), ("truncated", [[0]] * 2),
     ("tokens", [[1], [2], [3], [4]]), ("tokens", [2**62] * 4), ("tokens", [1.5] * 4), ("tokens", [True] * 4),
     ("losses", [1e308] * 4), ("losses", [-1.0] * 4), ("losses", [[1.0]] * 4), ("losses", "1111"),
     ("losses", [float("inf")] * 4)],
)  # fmt: skip
def test_a_stored_file_with_other_numbers_is_measured_again(
    browser: Browser, url: str, index: proponent.Index, name: str, wrong: Any
) -> None:
    one = OpenTestSet(read(held_out(index)[5:9], columns=Columns(label="")))
    measured = MeasuredTestSet(browser.open_indexes.first, one)
    measured.stored.put({"losses": [1.0] * 4, "tokens": [1] * 4, "truncated": []})
    content = json.loads(measured.stored.path.read_text())
    measured.stored.path.write_text(json.dumps(content | {name: wrong}))
    again = MeasuredTestSet(browser.open_indexes.first, one)
    assert again.losses is None
    measured.stored.path.unlink()


def test_blocks_are_small_and_whole(browser: Browser, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measured_sets, "BLOCK_CHARACTERS", 500)
    rows = [{"id": f"r{at}", "text": "word " * (1 + at % 90)} for at in range(1, 200)]
    task = LossTask(MeasuredTestSet(browser.open_indexes.first, OpenTestSet(read(rows))))
    start, sent = 0, list[str]()
    while start < task.total:
        asked, count = task.request(start)
        block = asked["measure"]
        assert len(block) == count <= measured_sets.BLOCK_ROWS
        assert count == 1 or sum(len(one["text"]) for one in block) <= 500
        task.take(start, {"losses": [1.0] * count, "tokens": [2] * count, "truncated": [0]})
        sent += [one["id"] for one in block]
        start += count
    assert sent == [one["id"] for one in rows]
    task.finish(1.0)
    found = task.measured.losses
    assert found is not None
    assert (found.loss, len(found.losses)) == (1.0, 199)


@pytest.mark.parametrize(
    ("rows", "told"),
    [([{"chosen": "a", "rejected": "b", "prompt": "c"}], "its rows are preference"),
     ([{"input_ids": [1, 2, 3]}], "its rows are tokens"),
     ([{"body": "x"}], "column")],
)  # fmt: skip
def test_rows_of_another_kind_are_refused(browser: Browser, rows: list[dict[str, Any]], told: str) -> None:
    reply = browser.upload(as_lines(rows), "other.jsonl")
    assert reply.status == 400
    assert told in reply.seen


def test_pages_about_classes_say_what_a_language_model_has(browser: Browser) -> None:
    reply = browser.get("/errors")
    assert (reply.status, "predicts no classes" in reply.seen) == (200, True)
    assert browser.get("/export/errors.csv").status == 400


def test_a_classifier_refuses_conversations(news: tiny.Tiny) -> None:
    made = Browser(news.index)
    rows = [{"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]}]
    reply = made.upload(as_lines(rows), "chat.jsonl")
    assert reply.status == 400
    made.close()


def conversation(*turns: tuple[str, str | None], **more: Any) -> proponent.Example:
    return proponent.Example("x", 0, content=Conversation(tuple(Message(*one) for one in turns), **more))


@pytest.mark.parametrize(
    ("row", "told"),
    [(conversation(("user", "hi"), ("assistant", "ho")), ""),
     (conversation(("system", "s"), ("user", "hi"), ("assistant", "ho")), ""),
     (conversation(("user", "hi")), "does not end with an answer"),
     (conversation(("assistant", "ho")), "does not end with an answer"),
     (conversation(("user", "hi"), ("assistant", "ho"), tools=[{"name": "t"}]), "has tools"),
     (conversation(("user", "hi"), ("assistant", None)), "without a text"),
     (conversation(("user", "h" * 16_001), ("assistant", "ho")), "too long"),
     (conversation(*[("user", "hi"), ("assistant", "ho")] * 21), "too long"),
     (proponent.Example("x", 0, content=Prompted("a", "b" * 8_001)), "too long"),
     (proponent.Example("x", 0, "a text", target="a target"), "")],
)  # fmt: skip
def test_what_no_form_can_hold_is_said(row: proponent.Example, told: str) -> None:
    assert told in refused(row, chat=False)
    assert bool(told) == bool(refused(row, chat=False))
    assert bool(refused(row, chat=True)) == (bool(told) or not isinstance(row.content, Conversation))


def test_conversations_are_measured_and_asked_about(tmp_path_factory: pytest.TempPathFactory) -> None:
    pytest.importorskip("trl")
    import chat_index

    folder = chat_index.made(tmp_path_factory.mktemp("chat"))
    made, index = Browser(folder), proponent.open(folder)
    rows = [{"messages": one["messages"]} for one in chat_index.rows()[:6]]
    rows.append({"messages": [*rows[0]["messages"][:-1], {"role": "assistant", "content": "Nobody knows."}]})
    page = made.finished(made.upload(as_lines(rows), "chat.jsonl").location)
    found = index.losses(rows)
    assert f"loss per token {found.loss:.3f}" in page.seen
    assert "6 of the 7 rows stand in the training data" in page.seen
    assert "Nobody knows." in page.seen
    one = OpenTestSet(read(rows, columns=Columns(label="")))
    asked = question_of(one, 6, chat=True)
    assert (asked.answer, asked.turns[-1][1]) == ("Nobody knows.", rows[0]["messages"][-2]["content"])
    with pytest.raises(InputError, match="no row 7"):
        question_of(one, 7, chat=True)
    text = made.finished(made.upload(as_lines([{"text": "What is the mascot of Ulm?"}]), "text.jsonl").location)
    assert "this index is asked in conversations" in text.seen
    assert 'action="/why"' not in text.text
    made.close()


def test_each_index_shows_the_test_sets_that_it_reads(news: tiny.Tiny, lines: tiny.Tiny) -> None:
    made = Browser(news.index, lines.index)
    rows = [{"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]}]
    one = OpenTestSet(read(rows), "chat.jsonl")
    made.explorer.test_sets.add(one)
    first, second = made.open_indexes.shown
    for path in ("/", f"/?in={first}", f"/test?in={first}", f"/errors?in={first}", f"/?in={second}"):
        assert made.get(path).status == 200, path
    page = made.get(f"/test?in={first}&set={one.id}")
    assert (page.status, "its rows are messages" in page.seen) == (200, True)
    assert 'action="/upload"' in page.text
    assert "chat.jsonl" not in made.get(f"/test?in={first}").seen
    assert made.get(f"/export/predictions.csv?in={first}").status == 400
    made.close()
