"""`proponent explain` while `proponent serve` runs: the same answers, and no word to anybody else."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import proponent
from explorer import Browser
from proponent import local_sockets
from proponent.cli.answering import Answers
from proponent.cli.console import Prompt
from proponent.cli.options import AggregateOptions
from proponent.errors import DamagedError, InputError, LabelError
from proponent.index.grouping import Aggregate
from proponent.local_sockets import LineError, Lines, connect, find, is_private, listen
from proponent.web import model_process, model_worker, running, terminal_questions
from proponent.web.jobs import ExplainJob
from proponent.web.model_worker import ModelWorker
from proponent.web.running import NotAnsweredError, RunningExplorer, facts, stamp_of
from proponent.web.terminal_questions import TerminalQuestions
from tiny import NEWS, Tiny

Said = Callable[..., tuple[int, str, str]]
QUERY = "The bank said retail sales fell."
ANSWERED = "answered by the running `proponent serve` of this index; --alone loads the model here\n"
OPTIONS: dict[str, Any] = {"device": "auto"}

pytestmark = pytest.mark.skipif(not local_sockets.available(), reason="no sockets that name their user")


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A short folder: names of sockets have about a hundred bytes."""
    with tempfile.TemporaryDirectory(prefix="p") as name:
        monkeypatch.setenv("XDG_STATE_HOME", name)
        yield Path(name)


@pytest.fixture
def sockets(home: Path) -> Path:
    folder = home / "proponent" / "sockets"
    folder.mkdir(parents=True)
    folder.chmod(0o700)
    return folder


@pytest.fixture
def index(news: Tiny, tmp_path: Path) -> Path:
    return Path(shutil.copytree(news.index, tmp_path / "news.index"))


def serving(*indexes: Path) -> Iterator[Browser]:
    browser = Browser(*indexes)
    made = TerminalQuestions(browser.open_indexes, browser.explorer.asker)
    made.start()
    yield browser
    made.close()
    browser.close()


@pytest.fixture
def server(index: Path) -> Iterator[Browser]:
    """An explorer in this process that takes questions of terminals."""
    yield from serving(index)


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Texts that this process explains itself."""
    asked: list[str] = []
    real = proponent.Index.explain

    def explain(self: proponent.Index, text: Any = None, **how: Any) -> proponent.Explanation:
        asked.append(text)
        return real(self, text, **how)

    monkeypatch.setattr(proponent.Index, "explain", explain)
    return asked


# The same answers.


@pytest.mark.parametrize(
    "words",
    [
        (QUERY, "--json"),
        (QUERY,),
        (NEWS[56]["text"], "--json", "--label", "World", "--against", "Sports", "-k", 3),
        (QUERY, "--json", "--where", "label=Sports", "--no-baselines"),
        (QUERY, "--json", "--where", "label=1", "-k", 2),
        (QUERY, "--hide-function-words"),
        (QUERY, "--pair", "second", "--json"),
        ("  ", "--json"),
        (QUERY, "--label", "Wrold"),
        (QUERY, "--where", "label=Wrold"),
        (QUERY, "--where", "sauce=a"),
        (QUERY, "--generate"),
    ],
)
def test_the_answer_is_that_of_this_process(
    said: Said, server: Browser, index: Path, alone: list[str], words: tuple[object, ...]
) -> None:
    code, out, err = said("explain", index, *words)
    assert alone == []
    expected = said("explain", index, *words, "--alone")
    assert (code, out) == expected[:2]
    assert err.removeprefix(ANSWERED) == expected[2]
    assert err.startswith(ANSWERED) == (code == 0)
    assert not index.with_name("news.index.asked").exists(), "nothing is stored"


def test_the_page_is_that_of_this_process(said: Said, server: Browser, index: Path, tmp_path: Path) -> None:
    ids = tmp_path / "ids"
    ids.write_text("n1\nn3\ntwice\n")
    pages: list[bytes] = []
    for more in ((), ("--alone",)):
        code, _, err = said("explain", index, QUERY, "--html", tmp_path / "a.html", "--ids-file", ids, *more)
        assert code == 0
        assert (ANSWERED in err) == (not more)
        pages.append((tmp_path / "a.html").read_bytes())
    assert pages[0] == pages[1]
    assert "answered by" not in said("explain", index, QUERY, "-q")[2]


@pytest.mark.parametrize(
    "words",
    [
        ("the bank of the ", "--target", "team said bank", "--span", "team"),
        ("the bank of the ",),
        ("the bank of the ", "--target", "team said bank", "--against-target", "goal said cup"),
        ("the bank of the ", "--target", "team", "--span", "nowhere"),
    ],
)
def test_a_language_model_answers_the_same(said: Said, lines: Tiny, alone: list[str], words: tuple[str, ...]) -> None:
    for _ in serving(lines.index):
        code, out, err = said("explain", lines.index, *words, "--json")
        assert alone == []
        expected = said("explain", lines.index, *words, "--json", "--alone")
        assert (code, out, err.removeprefix(ANSWERED)) == expected


def test_messages_are_sent_as_they_are(
    monkeypatch: pytest.MonkeyPatch, said: Said, index: Path, tmp_path: Path
) -> None:
    sent: list[dict[str, Any]] = []

    def explain(_: RunningExplorer, question: dict[str, Any]) -> dict[str, Any]:
        sent.append(question)
        raise InputError("enough")

    monkeypatch.setattr(RunningExplorer, "explain", explain)
    monkeypatch.setattr(RunningExplorer, "names", lambda _: None)
    held = [{"role": "user", "content": "\ud83d\ude00 Who?"}, {"role": "assistant", "content": "Nobody."}]
    (tmp_path / "m.json").write_text(json.dumps(held))
    assert said("explain", index, "--messages", tmp_path / "m.json")[0] == 2
    assert sent[0]["messages"] == json.loads(json.dumps(held))
    assert sent[0]["text"] is None
    assert sent[0]["where"] == {"ids": None}


def test_an_answer_comes_back_whole(news: Tiny) -> None:
    why = proponent.open(news.index).explain(QUERY, against="Sports")
    sent = json.loads(json.dumps({"answer": why.to_dict(whole=True)}))
    back = proponent.Explanation.from_dict(sent["answer"])
    assert back.to_dict() == why.to_dict()
    assert list(json.dumps(back.to_dict())) == list(json.dumps(why.to_dict())), "in the same order"
    assert (back.proponents, back.opponents, back.query) == (why.proponents, why.opponents, why.query)
    assert AggregateOptions().rule() == Aggregate.of("mean"), "the rule that is not sent"


# The prompt.


def prompt(index: Path, lines: Iterator[str]) -> tuple[list[Any], list[str]]:
    shown, said = list[Any](), list[str]()
    opening = {**running.OPTIONS, "kernel": "numpy", "words": None, "partial": False}
    answers = Answers(index, opening, (None, None), AggregateOptions(), said.append, alone=False)
    answers.open()
    how: dict[str, Any] = {"against": None, "k": 2, "baselines": False, "label": None}
    Prompt(answers, how, lambda one: shown.append(one.to_dict()), said.append).run(lines)
    return shown, said


def test_the_prompt_asks_it_and_goes_on_without_it(
    index: Path, alone: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    opened = proponent.open(index)
    expected = [opened.explain(QUERY, k=2, baselines=False), opened.explain(QUERY, k=2, baselines=False, label="World")]
    alone.clear()

    server = serving(index)
    next(server)

    def lines() -> Iterator[str]:
        yield from (QUERY, ":label Wrold", ":label World", QUERY)
        assert alone == []
        next(server, None)  # it ends
        yield QUERY

    shown, said = prompt(index, lines())
    assert shown == [expected[0].to_dict(), expected[1].to_dict(), expected[1].to_dict()]
    assert alone == [QUERY]
    assert said == [ANSWERED[:-1], "label: World"], "once; of an explorer that ended nothing is said"
    assert "unknown label 'Wrold' (did you mean 'World'?)" in capsys.readouterr().err


# Where it would answer otherwise, it is not asked.


@pytest.mark.parametrize(
    ("words", "said_why"),
    [
        (("--device", "cpu"), "the running `proponent serve` has another --device: the model is loaded here"),
        (("--dtype", "float32"), "another --dtype"),
        (("--allow-missing",), "another --allow-missing"),
        (("--trust-remote-code",), "another --trust-remote-code"),
        (("--partial",), ""),
        (("--aggregate", "rank"), ""),
        (("--words", "embedding"), ""),
    ],
)
def test_other_options_load_the_model_here(
    said: Said, server: Browser, index: Path, alone: list[str], words: tuple[str, ...], said_why: str
) -> None:
    _, _, err = said("explain", index, QUERY, "--json", *words)
    assert ANSWERED not in err
    assert said_why in err
    assert "running" in err or not said_why
    assert server.explorer.asker._jobs == {}


def test_files_of_questions_share_passes_here(said: Said, server: Browser, index: Path, tmp_path: Path) -> None:
    (tmp_path / "q.csv").write_text(f"text\n{QUERY}\n")
    code, out, err = said("explain", index, "--queries", tmp_path / "q.csv", "--json")
    assert (code, out.count("\n")) == (0, 1)
    assert "running" not in err


def hello(index: Path, change: dict[str, Any]) -> dict[str, Any]:
    with connect(next(find(index)), 5.0) as connection:
        talk = Lines(connection)
        talk.send({"hello": facts(OPTIONS, stamp_of(index)) | change}, 5.0)
        return talk.receive(20.0)


def test_every_difference_is_named_and_refused(server: Browser, index: Path) -> None:
    known = facts(OPTIONS, stamp_of(index))
    assert hello(index, {}) == {"ready": True}
    assert {"version of the program", "contents of the index", "--run", "--base", "OMP_NUM_THREADS"} < known.keys()
    for name in known:
        assert hello(index, {name: "other"}) == {"refused": f"the running `proponent serve` has another {name}"}
    assert "version" in hello(index, {"new": 1})["refused"]
    with connect(next(find(index)), 5.0) as connection:
        Lines(connection).send({"hello": ["nothing"]}, 5.0)
        assert "version" in Lines(connection).receive(20.0)["refused"]


def test_paths_are_compared_wherever_they_are_typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "run").mkdir()
    monkeypatch.chdir(tmp_path)
    stamp = (1, 2, 3)
    assert facts({"run": Path("run")}, stamp) == facts({"run": str(tmp_path / "run")}, stamp)
    assert facts({"run": Path("run")}, stamp) != facts({}, stamp)


def test_an_index_that_changes_meanwhile_is_read_here(
    said: Said, server: Browser, index: Path, alone: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = server.explorer.asker.explain

    def explain(*what: Any) -> Any:
        job = real(*what)
        os.utime(index / "manifest.json")
        return job

    monkeypatch.setattr(server.explorer.asker, "explain", explain)
    code, _, err = said("explain", index, QUERY, "--json")
    assert (code, alone) == (0, [QUERY])
    assert "the index changed while the running `proponent serve` answered: the model is loaded here" in err
    monkeypatch.setattr(server.explorer.asker, "explain", real)
    assert ANSWERED in said("explain", index, QUERY, "--json")[2], "the explorer has opened it again"


def test_an_appended_index_is_answered_as_it_is_now(said: Said, index: Path, news: Tiny, tmp_path: Path) -> None:
    for _ in serving(index):
        before = said("explain", index, QUERY, "--json")[1]
        (tmp_path / "more.csv").write_text(f'id,text,label\nmore,"{QUERY}",Sports\n')
        code, _, err = said("index", news.run, tmp_path / "more.csv", "--out", index, "--append", "-q")
        assert code == 0, err
        after = said("explain", index, QUERY, "--json")
        assert ANSWERED in after[2]
        assert after[:2] == said("explain", index, QUERY, "--json", "--alone")[:2]
        assert after[1] != before
        assert '"more"' in after[1]


def test_a_run_that_changed_is_refused_as_alone(
    said: Said, index: Path, news: Tiny, copied: Callable[[Path], Path], alone: list[str]
) -> None:
    run = copied(news.run)
    browser = Browser(index, run=str(run), device="auto")
    made = TerminalQuestions(browser.open_indexes, browser.explorer.asker)
    made.start()
    words = ("explain", index, QUERY, "--json", "--run", run)
    assert said(*words)[::2] == (0, ANSWERED)
    for path in run.glob("checkpoint-*/model.safetensors"):
        content = bytearray(path.read_bytes())
        content[-4:] = b"\0\0\0\0"
        path.write_bytes(content)
    code, out, err = said(*words)
    assert (code, out, alone) == (3, "", [])
    assert (code, out, err) == said(*words, "--alone")
    made.close()
    browser.close()


@pytest.mark.parametrize(
    "changed",
    [
        "run/seed-1/checkpoint-10/model.safetensors",
        "run/seed-1/checkpoint-10/chat_template.jinja",
        "run/vocab.txt",
        "tokenizer/tokenizer.model",
        "reference/model.safetensors",
        "joined/modeling_own.py",
    ],
)
def test_every_file_of_a_run_is_watched(tmp_path: Path, changed: str) -> None:
    checkpoint = tmp_path / "run" / "seed-1" / "checkpoint-10"
    for folder in (checkpoint, *(tmp_path / name for name in ("tokenizer", "reference", "joined"))):
        folder.mkdir(parents=True)
    run = SimpleNamespace(
        path=tmp_path / "run",
        checkpoints=(SimpleNamespace(path=checkpoint),),
        later=(),
        joined=(tmp_path / "joined",),
        tokenizer_folder=tmp_path / "run",
        named_tokenizer=str(tmp_path / "tokenizer"),
        info=SimpleNamespace(adapter=False, base=None),
        task=SimpleNamespace(reference=str(tmp_path / "reference")),
    )
    index = SimpleNamespace(run=run)
    before = model_process._run_files(index)
    (tmp_path / "note.jsonl").write_text("beside the run, as decisions are")
    assert model_process._run_files(index) == before
    run.checkpoints = (SimpleNamespace(path=run.path), *run.checkpoints)  # a model folder is its own checkpoint
    assert model_process._run_files(index) == before
    (tmp_path / changed).write_text("one")
    after = model_process._run_files(index)
    assert after != before
    (tmp_path / changed).write_text("another")
    assert model_process._run_files(index) != after


def test_an_unfinished_index_is_opened_here(index: Path, server: Browser) -> None:
    (index / "manifest.json").unlink()
    with pytest.raises(NotAnsweredError, match=r"^$"):
        RunningExplorer(index, OPTIONS).check_label("World")


# It does not answer.


def test_a_busy_explorer_is_left_alone(
    said: Said, server: Browser, index: Path, alone: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_worker, "WAITING", 0)
    code, _, err = said("explain", index, QUERY, "--json")
    assert (code, alone) == (0, [QUERY])
    assert "the running `proponent serve` is busy: 0 questions are already waiting" in err


def test_a_model_process_that_ends_is_said_once(
    said: Said, server: Browser, index: Path, alone: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = ModelWorker((sys.executable, "-c", "input()"))
    monkeypatch.setattr(server.explorer.asker, "_started", broken._started)
    monkeypatch.setattr(server.explorer.asker, "_end", broken._end)
    code, _, err = said("explain", index, QUERY, "--json")
    assert (code, alone) == (0, [QUERY])
    assert "did not answer (the model process ended (exit code 0)" in err
    assert err.count("the model is loaded here") == 1


def test_an_unexpected_error_is_met_here(server: Browser, index: Path) -> None:
    with pytest.raises(NotAnsweredError, match="unexpected TypeError"):
        RunningExplorer(index, OPTIONS).explain({"text": QUERY, "nonsense": 1, "where": {}})
    with pytest.raises(NotAnsweredError, match="no question"):
        RunningExplorer(index, OPTIONS)._ask({"question": "text"})


def test_errors_keep_their_kind(server: Browser, index: Path) -> None:
    asker = RunningExplorer(index, OPTIONS)
    with pytest.raises(LabelError, match="unknown label"):
        asker.check_label("nothing")
    assert running._kind("DamagedError") is DamagedError
    assert running._kind("os") is running._kind(None) is running._kind("first_line") is InputError


def test_a_question_that_nobody_waits_for_any_more_is_dropped(
    server: Browser, index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(terminal_questions, "BEAT_SECONDS", 0.05)
    asker = server.explorer.asker
    monkeypatch.setattr(asker, "_run", lambda: None)  # nothing is answered
    with connect(next(find(index)), 5.0) as connection:
        talk = Lines(connection)
        talk.send({"hello": facts(OPTIONS, stamp_of(index))}, 5.0)
        talk.receive(20.0)
        talk.send({"question": {"text": QUERY}}, 5.0)
        assert talk.receive(20.0) == {"alive": True}
        (job,) = asker._jobs.values()
        assert job.state == "waiting"
    assert asker.wait(job, 20.0)
    assert (job.state, job.error) == ("failed", "the question was cancelled")


def test_an_answer_that_nobody_waits_for_is_not_kept(server: Browser) -> None:
    asker = server.explorer.asker
    job = ExplainJob("1", {}, server.open_indexes.get("").source)
    job.state = "running"
    asker.withdraw(job)
    assert job.state == "running"
    assert job.take({"answer": "large"})
    assert job.reply == {}


def test_a_connection_that_cannot_be_taken_is_no_busy_loop(server: Browser, monkeypatch: pytest.MonkeyPatch) -> None:
    made, paused = TerminalQuestions(server.open_indexes, server.explorer.asker), list[float]()

    class Full(socket.socket):
        def accept(self) -> tuple[socket.socket, Any]:
            raise OSError("too many open files")

    def pause(seconds: float) -> None:
        paused.append(seconds)
        made._closed = len(paused) == 3

    monkeypatch.setattr(terminal_questions.time, "sleep", pause)
    with Full() as full:
        made._accept(full, "")
    assert paused == [terminal_questions.PAUSE_SECONDS] * 3


def test_a_few_connections_at_a_time(server: Browser, index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = next(find(index))
    held = [connect(path, 5.0) for _ in range(terminal_questions.MOST_CONNECTIONS)]
    with connect(path, 5.0) as one_more:
        one_more.settimeout(20.0)
        assert one_more.recv(10) == b""
    for one in held:
        one.close()
    end = time.monotonic() + 20
    while time.monotonic() < end:
        try:
            assert hello(index, {}) == {"ready": True}
            return
        except OSError:
            time.sleep(0.05)
    pytest.fail("places are not given back")


@pytest.mark.parametrize("sent", [b"no JSON\n", b"[1]\n", b"[" * 100_000 + b"\n", b"x" * 5_000_000])
def test_what_is_no_question_ends_the_connection(server: Browser, index: Path, sent: bytes) -> None:
    with connect(next(find(index)), 5.0) as connection:
        connection.settimeout(20.0)
        try:
            connection.sendall(sent)
            assert connection.recv(10) == b""
        except (BrokenPipeError, ConnectionResetError):
            pass
    assert hello(index, {}) == {"ready": True}


# Somebody else is there.


class Impostor:
    """Listens where an explorer did, and keeps all that it gets."""

    def __init__(self, folder: Path, index: Path, *replies: bytes) -> None:
        self.got = b""
        self._bound = socket.socket(socket.AF_UNIX)
        self._bound.bind(str(folder / f"{local_sockets.name_of(index)}-1.sock"))
        self._bound.listen(4)
        self._replies, self._threads = replies, list[threading.Thread]()
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        while True:
            try:
                connection, _ = self._bound.accept()
            except OSError:
                return
            with connection:
                for reply in self._replies:
                    self.got += connection.recv(65_536)
                    connection.sendall(reply)
                if not self._replies:
                    while part := connection.recv(65_536):
                        self.got += part

    def close(self) -> None:
        self._bound.close()


@pytest.mark.parametrize(
    "replies",
    [
        (),
        (b"nonsense\n",),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n",),
        (b'{"refused": "no"}\n',),
        (b"",),
        (b"[1]\n",),
        (b"x" * 1000,),
    ],
)
def test_one_that_does_not_speak_this_language_learns_nothing(
    said: Said,
    sockets: Path,
    index: Path,
    alone: list[str],
    monkeypatch: pytest.MonkeyPatch,
    replies: tuple[bytes, ...],
) -> None:
    monkeypatch.setattr(running, "HELLO_SECONDS", 0.3)
    other = Impostor(sockets, index, *replies)
    code, _, err = said("explain", index, QUERY, "--json")
    other.close()
    assert (code, alone) == (0, [QUERY])
    assert err.count("the model is loaded here") == 1
    (line,) = other.got.splitlines()
    assert json.loads(line).keys() == {"hello"}, "neither the question nor a secret"
    assert b"bank" not in other.got


@pytest.mark.parametrize(
    "last", [b"", b'{"alive": true}\n', b'{"alive": true}\nnonsense\n', b'{"answer"', b'{"refused": "I end"}\n']
)
def test_one_that_ends_or_hangs_in_the_middle_is_given_up(
    said: Said, sockets: Path, index: Path, alone: list[str], monkeypatch: pytest.MonkeyPatch, last: bytes
) -> None:
    monkeypatch.setattr(running, "SILENT_SECONDS", 0.5)
    monkeypatch.setattr(RunningExplorer, "names", lambda _: None)
    other = Impostor(sockets, index, b'{"ready": true}\n', last)
    code, _, err = said("explain", index, QUERY, "--json")
    other.close()
    assert (code, alone) == (0, [QUERY])
    assert err.count("the model is loaded here") == 1


def test_a_second_explorer_is_asked_where_the_first_one_differs(
    said: Said, sockets: Path, index: Path, alone: list[str]
) -> None:
    other = Impostor(sockets, index, b'{"refused": "the running `proponent serve` has another --device"}\n')
    for _ in serving(index):
        code, _, err = said("explain", index, QUERY, "--json")
    other.close()
    assert (code, alone, err) == (0, [], ANSWERED)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can start a process of another user")
def test_a_process_of_another_user_gets_nothing(said: Said, sockets: Path, index: Path, alone: list[str]) -> None:
    """The kernel says who listens; the folder is private, so that only its owner could have let the other one in."""
    bound = socket.socket(socket.AF_UNIX)
    bound.bind(str(sockets / f"{local_sockets.name_of(index)}-1.sock"))
    os.seteuid(65534)
    try:
        bound.listen(4)  # the kernel keeps the user of this moment
    finally:
        os.seteuid(0)
    got: list[bytes] = []

    def listens() -> None:
        connection, _ = bound.accept()
        with connection:
            connection.settimeout(60.0)
            got.append(connection.recv(1000))

    other = threading.Thread(target=listens, daemon=True)
    other.start()
    code, _, err = said("explain", index, QUERY, "--json")
    other.join(60.0)
    bound.close()
    assert (code, alone, got) == (0, [QUERY], [b""])
    assert "belongs to another user" in err


def test_the_explorer_answers_no_other_user(server: Browser, index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(terminal_questions, "is_own", lambda _: False)
    with pytest.raises((ConnectionError, LineError)):
        hello(index, {})


@pytest.mark.parametrize("mode", [0o777, 0o755, 0o750, 0o701])
def test_a_folder_that_others_can_enter_is_not_used(
    said: Said, sockets: Path, index: Path, mode: int, capsys: pytest.CaptureFixture[str]
) -> None:
    other = Impostor(sockets, index, b"{}\n")
    sockets.chmod(mode)
    assert list(find(index)) == []
    with pytest.raises(OSError, match="is not private: chmod 700 it"):
        listen(index)
    for browser in serving(index):
        assert browser.get("/").status == 200, "pages do without"
    assert "cannot use this explorer, and loads the model itself" in capsys.readouterr().err
    other.close()
    assert other.got == b""


def test_a_link_or_a_folder_of_others_is_not_used(
    home: Path, index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "theirs").mkdir(mode=0o700)
    (home / "proponent").mkdir()
    (home / "proponent" / "sockets").symlink_to(tmp_path / "theirs")
    assert not is_private(home / "proponent" / "sockets")
    with pytest.raises(OSError, match="not private"):
        listen(index)
    assert list((tmp_path / "theirs").iterdir()) == []
    assert is_private(tmp_path / "theirs")
    real = os.getuid()
    monkeypatch.setattr(os, "getuid", lambda: real + 1)
    assert not is_private(tmp_path / "theirs")
    assert not is_private(tmp_path / "nowhere")


def test_the_folder_of_the_session_comes_first(home: Path, index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with tempfile.TemporaryDirectory(prefix="r") as name:
        monkeypatch.setenv("XDG_RUNTIME_DIR", name)
        made = listen(index)
        assert made is not None
        assert made[1].parent == Path(name) / "proponent" / "sockets"
        assert is_private(made[1].parent)
        assert made[1].stat().st_mode & 0o777 == 0o600
        assert list(find(index)) == [made[1]]
        made[0].close()
        (Path(name) / "proponent" / "sockets").chmod(0o755)
        second = listen(index)
        assert second is not None
        assert second[1].is_relative_to(home), "where that one is not private"
        assert list(find(index)) == [second[1]]
        second[0].close()
    monkeypatch.setenv("XDG_RUNTIME_DIR", "relative")
    assert local_sockets.folders() == [home / "proponent" / "sockets"]
    monkeypatch.setenv("XDG_STATE_HOME", "/" + "long" * 30)
    with pytest.raises(OSError, match="too long for a socket"):
        listen(index)


# What is left over.


def test_a_socket_of_a_process_that_was_killed_is_passed_over_and_removed(
    sockets: Path, index: Path, tmp_path: Path
) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    name = local_sockets.name_of(index)
    left = sockets / f"{name}-{ended.pid}.sock"
    bound = socket.socket(socket.AF_UNIX)
    bound.bind(str(left))
    bound.close()
    (sockets / f"{name}-x.sock").write_text("a file")
    (sockets / "note.txt").write_text("of the user")
    elsewhere = f"{'0' * 8}-{name.partition('-')[2]}-{ended.pid}.sock"  # of a machine that shares the home
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(sockets / elsewhere))
    with pytest.raises(NotAnsweredError, match=r"^$"):
        RunningExplorer(index, OPTIONS).check_label("World")
    alive = socket.socket(socket.AF_UNIX)
    alive.bind(str(sockets / f"{name}-{ended.pid + 1_000_000_000}.sock"))
    alive.listen(1)
    made = listen(tmp_path / "another.index")
    assert made is not None
    assert not left.exists()
    kept = {one.name for one in sockets.iterdir()}
    assert kept == {f"{name}-x.sock", "note.txt", elsewhere, f"{name}-{ended.pid + 1_000_000_000}.sock", made[1].name}
    for one in (alive, made[0]):
        one.close()


def test_an_explorer_removes_only_its_own_socket(index: Path) -> None:
    browser = Browser(index)
    made = TerminalQuestions(browser.open_indexes, browser.explorer.asker)
    made.start()
    (path,) = find(index)
    made.close()
    assert not path.exists()
    made = TerminalQuestions(browser.open_indexes, browser.explorer.asker)
    made.start()
    path.unlink()
    path.write_text("of somebody else")
    made.close()
    assert path.read_text() == "of somebody else"


def test_systems_without_such_sockets_do_without(index: Path, monkeypatch: pytest.MonkeyPatch, sockets: Path) -> None:
    monkeypatch.setattr(local_sockets, "_PEER", None)
    other = Impostor(sockets, index, b"{}\n")
    assert listen(index) is None
    assert list(find(index)) == []
    for _ in serving(index):
        with pytest.raises(NotAnsweredError, match=r"^$"):
            RunningExplorer(index, OPTIONS).check_label("World")
    other.close()


def test_lines_have_a_limit_in_bytes_and_seconds() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        with pytest.raises(LineError, match="allowed"):
            Lines(ours, 10).send({"a": "long line"}, 1.0)
        theirs.sendall(b'{"a": 1}\n{"b": 2}\n{"c"')
        talk = Lines(ours, 100)
        assert [talk.receive(5.0), talk.receive(5.0)] == [{"a": 1}, {"b": 2}]
        with pytest.raises(LineError, match=r"no answer within 0\.1 seconds"):
            talk.receive(0.1)
        theirs.sendall(b"x" * 200)
        with pytest.raises(LineError, match="more than 100 bytes"):
            talk.receive(5.0)


# Real processes.


def test_explain_and_serve_as_commands(index: Path, home: Path) -> None:
    words = [sys.executable, "-m", "proponent.cli", "serve", str(index), "--port", "0", "--quiet"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            assert server.stdout.readline().startswith("http://127.0.0.1:")
            assert len(list(find(index))) == 1
            script = (
                "import sys\nfrom proponent.cli import main\n"
                f"try: main(['explain', {str(index)!r}, {QUERY!r}, '--json'])\n"
                "except SystemExit as end: print(end.code, *[one for one in ('torch', 'transformers', 'numpy', "
                "'pyarrow', 'scipy', 'sklearn', 'starlette', 'uvicorn') if one in sys.modules], file=sys.stderr)"
            )
            done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
            assert done.stderr == f"{ANSWERED}0\n"
        finally:
            server.send_signal(signal.SIGTERM)  # also after a failure: the end of the block waits for it
    assert list((home / "proponent" / "sockets").iterdir()) == []
    answer = json.loads(done.stdout)
    alone = proponent.open(index).explain(QUERY).to_dict()
    assert answer == json.loads(json.dumps(alone))
