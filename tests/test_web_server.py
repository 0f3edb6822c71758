"""The explorer as a server: slow work and readers, stopped processes, answers of others, folders it cannot write to."""

import asyncio
import errno
import json
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import tiny
from explorer import Browser
from proponent import disk
from proponent.data import ExampleColumns, parquet_bytes, spans, spans_in_time, whole
from proponent.data.stored import StoredExamples
from proponent.errors import InputError
from proponent.store import Store
from proponent.web import downloads, model_worker, seals
from proponent.web import questions as web_questions
from proponent.web.model_process import BEAT
from proponent.web.pages.table import Marker
from proponent.web.questions import Questions
from proponent.web.slots import BusyError, Slots
from proponent.web.states import Question, QuestionState, TableState
from proponent.web.turns import InTurn

ASKED = Question("The bank said shares fell", k=4)
FOUND = QuestionState.of(ASKED).url("/ask")


@pytest.fixture
def index(news: tiny.Tiny, tmp_path: Path) -> Path:
    """The index under another name, so that files beside it are those of one test."""
    link = tmp_path / "mine.index"
    link.symlink_to(news.index)
    return link


@pytest.fixture(scope="module")
def content(news: tiny.Tiny) -> dict[str, Any]:
    """What the process with the model would send."""
    import proponent

    answer = proponent.open(news.index).explain(ASKED.text, k=4)
    groups = [{"name": one, "n": 3, "proponents": 1.0, "opponents": -0.5} for one in ("Business", "World")]
    return {"answer": answer.to_dict(whole=True), "n_examples": answer.n_examples, "groups": {"label": groups}}


def questions_of(folder: Path) -> Questions:
    return Questions(folder, Store(folder).manifest.merkle_root)


def until(true: Callable[[], bool], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


# ---- undo ----


def test_a_double_click_on_undo_takes_one_decision_back(index: Path) -> None:
    made = Browser(index)
    for name in ("n0", "n1"):
        made.post("/decide", {"id": name, "act": "drop"})
    step, _ = made.open_indexes.first.decisions.last_step
    replies: list[int] = []
    clicks = [threading.Thread(target=lambda: replies.append(made.undo("/table", step).status)) for _ in range(2)]
    for one in clicks:
        one.start()
    for one in clicks:
        one.join()
    assert replies == [303, 303]
    assert set(made.open_indexes.first.decisions.current) == {"n0"}
    made.post("/decide", {"id": "n2", "act": "drop"})
    first = made.open_indexes.first.decisions
    assert made.undo("/table", 1).status == 400, "the step before the last one"
    assert made.post("/undo", {"back": "/table"}).status == 400
    assert set(first.current) == {"n0", "n2"}


# ---- searches ----


def texts(folder: Path, count: int, size: int) -> ExampleColumns:
    places = list(range(count))
    rows = {
        "id": list(map(str, places)),
        "row": places,
        "place": places,
        "text": ["text " + "bcdf" * (size // 4)] * count,
    }
    (folder / "x.parquet").write_bytes(parquet_bytes(rows))
    return ExampleColumns([StoredExamples(folder / "x.parquet")])


def test_a_slow_expression_stops_at_its_time_whatever_the_texts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table, asked = texts(tmp_path, 3000, 2000), list[int]()
    monkeypatch.setattr(whole, "_match", lambda column, *_: asked.append(len(column)) or slow(column))

    def slow(column: Any) -> Any:
        import pyarrow

        time.sleep(0.15)
        return pyarrow.chunked_array([pyarrow.array([False] * len(column))])

    began = time.monotonic()
    found = table.find("regex", "(?:[bcdf].{0,30}){20}0", seconds=1.0)
    assert time.monotonic() - began < 3.0
    assert found.searched == sum(asked) < 3000
    assert max(asked) * 2000 <= 2 * whole.FIRST_BYTES, "blocks are small while they are slow"


def test_a_quick_search_takes_large_blocks_and_finds_all(tmp_path: Path) -> None:
    table = texts(tmp_path, 3000, 2000)
    found = table.find("regex", "^text .*f$", seconds=60.0)
    assert (found.searched, int(found.places.sum())) == (3000, 3000)


def test_marks_end_at_their_time_and_the_page_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    some = ["ab" * 500] * 100
    assert spans_in_time(some, "regex", "a", 60.0) == spans(some, "regex", "a")
    assert spans_in_time(some, "regex", "a", -1.0) == []
    marker = Marker(TableState(q="a", how="regex"), seconds=-1.0)
    assert marker.marks(some) == [()] * 100
    assert marker.warnings == ("What was found is not marked in 100 texts of this page: the expression is slow.",)
    assert Marker(TableState(q="a", how="regex")).warnings == ()


def test_one_search_by_expression_at_a_time_and_two_wait(index: Path) -> None:
    made = Browser(index)
    table = made.open_indexes.first.table
    working, go_on, outcomes = threading.Event(), threading.Event(), list[str]()

    def search(number: int) -> None:
        try:
            with table.searching(TableState(q=f"a{number}", how="regex")):
                working.set()
                go_on.wait(20)
            outcomes.append("done")
        except BusyError:
            outcomes.append("busy")

    threads = [threading.Thread(target=search, args=(one,)) for one in range(8)]
    for one in threads:
        one.start()
    working.wait(20)
    until(lambda: len(outcomes) == 5)
    assert outcomes == ["busy"] * 5
    refused = made.get("/table?q=x&how=regex")
    assert (refused.status, "try again" in refused.seen) == (503, True)
    assert made.get("/export/table.csv?q=x&how=regex").status == 503
    assert made.get("/table?q=a").status == made.get("/table").status == made.get("/about").status == 200
    go_on.set()
    for one in threads:
        one.join()
    assert sorted(outcomes) == ["busy"] * 5 + ["done"] * 3
    assert "try again" not in made.get("/table?q=x&how=regex").seen


def test_decisions_are_taken_in_their_order_however_many_wait(index: Path) -> None:
    made, acts = Browser(index), ["drop", "keep", "drop", "keep", "drop", "keep"]
    assert isinstance(made.guard.application, InTurn)
    writes = made.guard.application._writes
    assert asyncio.run(writes.take())
    threads = [threading.Thread(target=made.post, args=("/decide", {"id": "n1", "act": act})) for act in acts]
    for number, one in enumerate(threads, 1):
        one.start()
        until(lambda number=number: len(writes._waiting) == number)
    writes.give_back()
    for one in threads:
        one.join()
    written = made.open_indexes.first.decisions.path.read_text().splitlines()
    assert [json.loads(line)["step"][0]["act"] for line in written] == acts


def test_an_unknown_file_of_the_explorer_is_no_page(index: Path) -> None:
    reply = Browser(index).get("/static/nope.js")
    assert (reply.status, reply.text) == (404, "there is no such file\n")


def test_a_slot_that_never_frees_is_given_up() -> None:
    slots = Slots("busy", seconds=0.05)
    with slots(), pytest.raises(BusyError, match="busy: try again"):
        slots.take()
    with slots():
        pass


# ---- files ----


def test_files_that_nobody_reads_are_on_the_disk_and_only_a_few(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, held = Browser(index), list[downloads.Download]()
    monkeypatch.setattr(downloads, "SENDING", Slots("other files are still being sent", running=3, waiting=0))
    for _ in range(3):
        held.append(downloads.Download(downloads.filled(b"x" * 1000), "x.csv"))
    reply = made.get("/export/table.csv")
    assert (reply.status, "other files are still being sent" in reply.seen) == (503, True)
    held.pop().close()
    assert made.get("/export/table.csv").status == 200
    assert made.get("/export/table.csv").status == 200, "a file that was sent is gone"
    assert made.get("/export/table.csv", method="HEAD").body == b""
    for one in held:
        one.close()


def test_a_file_that_cannot_be_made_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: Path) -> None:
        raise InputError("no")

    monkeypatch.setattr(downloads, "SENDING", Slots("full", running=1, waiting=0))
    for _ in range(3):
        with pytest.raises(InputError, match="no"):
            downloads.Download(fail, "x.csv")
    downloads.Download(downloads.filled(b""), "x.csv").close()


# ---- the process with the model ----

SAYS = "import sys, json, time, os, signal\nfor line in sys.stdin:\n"


def worker(monkeypatch: pytest.MonkeyPatch, body: str, **seconds: float) -> model_worker.ModelWorker:
    import sys

    for name, value in seconds.items():
        monkeypatch.setattr(model_worker, name, value)
    return model_worker.ModelWorker((sys.executable, "-u", "-c", SAYS + body))


def ask(asker: model_worker.ModelWorker, text: str) -> model_worker.QuestionJob:
    source = model_worker.IndexSource(Path("x"), "root", {})
    return asker.ask(Question(text), source, lambda *_: None)


ALIVE = '  print(json.dumps({"stage": "x"}))\n'
WELL = '  print(json.dumps({"answer": {}}))\n'


def test_a_stopped_process_is_ended_and_the_next_question_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    body = '  "first" in line and os.kill(os.getpid(), signal.SIGSTOP)\n' + WELL
    asker = worker(monkeypatch, body, SILENT_SECONDS=1.0)
    first, second = ask(asker, "first"), ask(asker, "second")
    until(lambda: second.state == "done")
    assert first.state == "failed"
    assert "no sign of life" in first.error
    asker.close()


def test_a_question_has_a_longest_time(monkeypatch: pytest.MonkeyPatch) -> None:
    body = '  while "first" in line:\n    print(json.dumps({"alive": True})); time.sleep(.05)\n' + WELL
    asker = worker(monkeypatch, body, LIMIT_SECONDS=1.0)
    first, second = ask(asker, "first"), ask(asker, "second")
    until(lambda: second.state == "done")
    assert "took longer than" in first.error
    asker.close()


def test_questions_are_cancelled_under_way_and_in_the_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    asker = worker(monkeypatch, ALIVE + '  time.sleep(0 if "third" in line else 600)\n' + WELL)
    first, second, third = ask(asker, "first"), ask(asker, "second"), ask(asker, "third")
    until(lambda: first.stage == "x")
    asker.cancel(second.id)
    asker.cancel("unknown")
    asker.cancel(first.id)
    until(lambda: third.state == "done")
    assert [one.error for one in (first, second)] == ["the question was cancelled"] * 2
    asker.cancel(third.id)
    assert third.state == "done"
    asker.close()


def test_an_idle_process_that_is_stopped_does_not_block_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    asker = worker(monkeypatch, WELL, END_SECONDS=0.2)
    job = ask(asker, "x")
    until(lambda: job.state == "done")
    process = asker._process
    assert process is not None
    os.kill(process.pid, signal.SIGSTOP)
    assert asker._end() == -signal.SIGKILL


def test_the_page_of_a_question_cancels_it(index: Path) -> None:
    made = Browser(index)
    made.explorer.asker._command = ("sleep", "600")
    job = made.post("/ask", {"text": "x"}).location
    page = made.get(job)
    assert 'action="/cancel"' in page.text
    identity = job.rpartition("=")[2]
    assert made.post("/cancel", {"id": identity}).location == f"/job?id={identity}"
    until(lambda: "the question was cancelled" in made.get(job).seen)
    made.close()


def test_the_process_shows_that_it_is_alive() -> None:
    assert 3 * BEAT < model_worker.SILENT_SECONDS


# ---- answers ----


def test_an_answer_is_shown_where_it_cannot_be_kept(
    index: Path, content: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Browser(index)
    questions = made.open_indexes.first.questions
    for number in (errno.EROFS, errno.EACCES, errno.ENOSPC):

        def fail(_folder: Path, number: int = number) -> None:
            raise OSError(number, os.strerror(number), str(index))

        with monkeypatch.context() as patch:
            patch.setattr(disk, "make_one_folder", fail)
            kept = questions.put(ASKED, content)
            assert kept.unkept
        page = made.get(FOUND)
        assert page.status == 200
        assert "This answer is not kept" in page.seen
        assert "Helped" in page.seen
    questions.put(ASKED, content)
    assert "not kept" not in made.get(FOUND).seen


def test_a_full_list_of_questions_is_said_and_the_answer_shown(
    index: Path, content: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Browser(index)
    monkeypatch.setattr(web_questions, "MOST_LIST", 100)
    kept = made.open_indexes.first.questions.put(ASKED, content)
    assert "is full: of a log at most 100 bytes are read: move it away" in kept.unkept
    page = made.get(FOUND)
    assert page.status == 200
    assert "Helped" in page.seen


def test_a_decision_that_cannot_be_written_gets_a_page(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Browser(index)
    made.get("/table")

    def fail(*_: Any) -> int:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(disk, "write", fail)
    reply = made.post("/decide", {"id": "n0", "act": "drop"})
    assert reply.status == 400
    assert "cannot be written (Read-only file system); choose an existing folder that you can write to" in reply.seen


def test_another_error_of_the_system_gets_a_page_too(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Browser(index)

    def fail(*_: Any) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO), "plan.json")

    monkeypatch.setattr("proponent.web.app.table_screen", fail)
    made.explorer = type(made.explorer)(made.open_indexes, made.token)
    made.guard.application = made.explorer.application
    reply = made.get("/table")
    assert reply.status == 400
    assert "plan.json cannot be read or written: Input/output error" in reply.seen


def forge(questions: Questions, change: Callable[[dict[str, Any]], None]) -> None:
    path = questions.folder / f"{questions.identity(ASKED)}.json"
    held = json.loads(path.read_bytes())
    change(held)
    path.write_text(json.dumps(held), encoding="utf-8")


CHANGES: dict[str, Callable[[dict[str, Any]], object]] = {
    "a changed score": lambda held: held["answer"]["proponents"][0].update(score=99.0),
    "a changed sum": lambda held: held["groups"]["label"][0].update(proponents=99.0),
    "without a seal": lambda held: held.pop("seal"),
    "a wrong seal": lambda held: held.update(seal="0" * 64),
    "a seal that is no text": lambda held: held.update(seal=3),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_forged_answer_is_not_shown_as_the_indexs_own(index: Path, content: dict[str, Any], change: str) -> None:
    questions_of(index).put(ASKED, content)
    made = Browser(index)
    for url in (FOUND, FOUND.replace("/ask", "/groups"), FOUND.replace("/ask", "/compare")):
        assert "came with the folder" not in made.get(url).seen
    forge(questions_of(index), CHANGES[change])
    made = Browser(index)
    for url in (FOUND, FOUND.replace("/ask", "/groups"), FOUND.replace("/ask", "/compare")):
        assert "This answer came with the folder of the index" in made.get(url).seen, url
    asked: list[Question] = []
    made.explorer.asker.ask = lambda question, *_: (
        asked.append(question)
        or model_worker.QuestionJob(  # type: ignore
            "1", question, *_
        )
    )
    assert made.post("/ask", dict(QuestionState.of(ASKED).pairs)).location.startswith("/job")
    assert asked == [ASKED], "it is computed again"


def test_an_answer_of_another_user_or_index_is_told_apart(
    index: Path, content: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(seals, "own_key", lambda: b"another user")
        questions_of(index).put(ASKED, content)
    made = Browser(index)
    assert "This answer came with the folder" in made.get(FOUND).seen
    assert "came with the folder, not computed by you" in made.get("/asked").seen
    questions_of(index).put(ASKED, content)
    assert "came with the folder" not in Browser(index).get(FOUND).seen
    assert "came with the folder" not in Browser(index).get("/asked").seen
    assert not seals.is_own(seals.sealed({"a": 1.5}, "root"), "other root")
    assert seals.is_own(json.loads(json.dumps(seals.sealed({"a": 1.5, "é": None}, "root"))), "root")


def test_the_key_is_private_and_a_foreign_one_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    path = tmp_path / "proponent" / "answers.key"
    first = seals.own_key.__wrapped__()
    assert (len(first), path.stat().st_mode & 0o777) == (32, 0o600)
    assert seals.own_key.__wrapped__() == first
    path.chmod(0o644)
    assert seals.own_key.__wrapped__() != first
    assert "is not private" in capfd.readouterr().err
    path.unlink()
    path.symlink_to(tmp_path / "elsewhere")
    assert len(seals.own_key.__wrapped__()) == 32
    monkeypatch.setenv("XDG_STATE_HOME", "/proc/none")
    assert len(seals.own_key.__wrapped__()) == 32


# ---- groups ----


def test_many_groups_have_pages_and_linear_cost(index: Path, content: dict[str, Any]) -> None:
    shown: dict[int, float] = {}
    for count in (2_000, 16_000):
        sums = [{"name": f"s{one}", "n": 1, "proponents": float(one), "opponents": 0.0} for one in range(count)]
        question = Question(f"text of {count}", k=4)
        questions_of(index).put(question, content | {"groups": {"source": sums}})
        made, url = Browser(index), QuestionState.of(question).url("/groups", by="source")
        made.get(url)
        began = time.process_time()
        page = made.get(url)
        shown[count] = time.process_time() - began
        assert page.text.count('class="wh-half"') == 400
        assert f"1 to 200 of {count:,}" in page.seen
        assert f"s{count - 1}" in page.seen
        assert len(page.body) < 400_000
        last = made.get(f"{url}&page={count // 200}")
        assert f"{count - 199:,} to {count:,} of {count:,}" in last.seen
        assert 'rel="prev"' in last.text
        assert 'rel="next"' not in last.text
        assert len(made.get(url.replace("/groups", "/export/groups.jsonl")).body.splitlines()) == count
    assert shown[16_000] < 20 * shown[2_000] + 0.5


# ---- two versions ----


def test_a_line_of_a_newer_version_is_named_as_such(index: Path) -> None:
    made = Browser(index)
    log = made.open_indexes.first.decisions.path
    log.write_text('{"step": [{"id": "n0", "act": "move", "to": "x"}], "when": "x"}\n', encoding="utf-8")
    before = log.read_bytes()
    reply = made.get("/table")
    assert "if a newer version of proponent wrote it, use that version" in reply.seen
    assert log.read_bytes() == before


def test_times_of_records_do_not_order_them(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that jumps back changes no decision."""
    made = Browser(index).open_indexes.first.decisions
    for act, when in (("drop", "2030-01-01T00:00:00+00:00"), ("keep", "1999-01-01T00:00:00+00:00")):
        monkeypatch.setattr("proponent.actions.decisions._now", lambda when=when: when)
        made.decide(["n0"], act)
    assert made.current["n0"].act == "keep"
    os.utime(made.path, (0, 0))
    assert made.current["n0"].act == "keep"
    made.undo()
    assert made.current["n0"].act == "drop"
