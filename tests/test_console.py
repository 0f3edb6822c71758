"""The prompt of `proponent explain INDEX`: what is typed, what it answers, what ends it and what does not."""

import io
import json
import os
import pty
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import proponent
from proponent.cli import console
from proponent.cli.console import Prompt, on_terminal, typed
from proponent.errors import InputError
from proponent.index.loading import LoadedRun
from tiny import NEWS, Tiny

Said = Callable[..., tuple[int, str, str]]
QUERY = "The bank said retail sales fell."


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, said: Said) -> Callable[..., tuple[int, list[dict[str, Any]], str]]:
    """Type lines at the prompt; give exit code, answers and stderr."""

    def run(index: Path, lines: list[str], *words: object) -> tuple[int, list[dict[str, Any]], str]:
        left = iter(lines)

        def type_next(mark: str = "") -> str:
            assert mark == ""  # stdout is for answers alone
            line = next(left, None)
            if line is None:
                raise EOFError
            if line == "^C":
                raise KeyboardInterrupt
            return line

        monkeypatch.setattr("proponent.cli.explain.on_terminal", lambda: True)
        monkeypatch.setattr("builtins.input", type_next)
        code, out, err = said("explain", index, "--json", *words)
        return code, [json.loads(line) for line in out.splitlines()], err

    return run


def test_several_questions_are_answered_with_the_model_loaded_once(
    asked: Callable[..., Any], news: Tiny, monkeypatch: pytest.MonkeyPatch
):
    opened: list[int] = []
    real = LoadedRun.__init__

    def counted(self: LoadedRun, *args: Any, **how: Any) -> None:
        opened.append(1)
        real(self, *args, **how)

    monkeypatch.setattr(LoadedRun, "__init__", counted)
    texts = [QUERY, NEWS[1]["text"], QUERY]
    code, answers, err = asked(news.index, texts)
    assert code == 0
    assert len(opened) == 1
    index = proponent.open(news.index)
    for text, answer in zip(texts, answers, strict=True):
        alone = json.loads(json.dumps(index.explain(text).to_dict()))
        assert answer["proponents"] == alone["proponents"]
        assert answer["opponents"] == alone["opponents"]
    assert "type a text, or :help; leave with :quit or Ctrl-D" in err


def test_settings_hold_until_they_are_changed(asked: Callable[..., Any], news: Tiny):
    lines = [":label World", QUERY, ":k 2", ":against Sports", QUERY, ":label", ":against", QUERY, ":quit", QUERY]
    code, answers, err = asked(news.index, lines)
    assert code == 0
    index = proponent.open(news.index)
    wanted = [
        index.explain(QUERY, label="World"),
        index.explain(QUERY, label="World", against="Sports", k=2),
        index.explain(QUERY, k=2),
    ]
    assert [one["proponents"] for one in answers] == [
        json.loads(json.dumps(one.to_dict()))["proponents"] for one in wanted
    ]
    assert [len(one["proponents"]) <= 2 for one in answers[1:]] == [True, True]
    for said in ("label: World", "k: 2", "against: Sports", "label: the predicted class", "against: none"):
        assert said in err.splitlines()[0] or any(line.endswith(said) for line in err.splitlines())


def test_options_are_where_the_settings_begin(asked: Callable[..., Any], news: Tiny):
    _, answers, err = asked(news.index, [QUERY], "--label", "World", "-k", 1, "--where", "label=Sports", "-q")
    alone = proponent.open(news.index).explain(QUERY, label="World", k=1, where={"label": "Sports"})
    assert answers[0]["proponents"] == json.loads(json.dumps(alone.to_dict()))["proponents"]
    assert "type a text" not in err


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (":label Wrold", "unknown label 'Wrold' (did you mean 'World'?)"),
        (":against nothing", "unknown label 'nothing'"),
        (":k many", ":k many: give a whole number of at least 1"),
        (":k", ":k : give a whole number"),
        (":k 0", ":k 0: give a whole number"),
        (":lable World", "unknown command :lable (did you mean 'label'?): type :help"),
        (":", "unknown command :"),
        (":pair second", "pair"),
        (":target answer", "target"),
    ],
)
def test_an_error_does_not_end_it(asked: Callable[..., Any], news: Tiny, line: str, message: str):
    code, answers, err = asked(news.index, [line, QUERY, ":pair", ":target", QUERY])
    assert code == 0
    assert message in err
    assert answers[-1]["query"] == proponent.open(news.index).explain(QUERY).to_dict()["query"]


def test_a_broken_question_does_not_end_it(asked: Callable[..., Any], news: Tiny, monkeypatch: pytest.MonkeyPatch):
    real = proponent.Index.explain

    def explain(self: proponent.Index, text: str, **how: Any) -> proponent.Explanation:
        if text == "break":
            raise InputError("this text is broken")
        if text == "stop":
            raise KeyboardInterrupt
        return real(self, text, **how)

    monkeypatch.setattr(proponent.Index, "explain", explain)
    code, answers, err = asked(news.index, ["break", "stop", "", "   ", "^C", QUERY])
    assert (code, len(answers)) == (0, 1)
    assert "proponent: this text is broken" in err
    assert "stopped; ask again" in err


def test_a_text_that_begins_with_a_colon(asked: Callable[..., Any], news: Tiny):
    _, answers, _ = asked(news.index, ["::the bank", ":help"])
    assert answers[0]["query"]["text"] == ":the bank"


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]):
    prompt = Prompt(None, {}, lambda _: None, lambda _: None)  # type: ignore[arg-type]
    prompt.run(iter([":help"]))
    err = capsys.readouterr().err
    assert all(f":{name}" in err for name in (*console.SETTINGS, "help", "quit"))
    for name in ("quit", "q", "exit"):
        ending = Prompt(None, {}, lambda _: None, lambda _: None)  # type: ignore[arg-type]
        ending.run(iter([f":{name}", "never asked"]))
        assert ending.ended


def test_options_of_one_question_are_refused(asked: Callable[..., Any], news: Tiny, tmp_path: Path):
    for words in (("--html", tmp_path / "a.html"), ("--set", "a=b"), ("--method", "replay"), ("--data", "x.csv")):
        code, answers, err = asked(news.index, [QUERY], *words)
        assert (code, answers) == (2, [])
        assert f"{words[0]} is for one question: give a TEXT" in err


def test_without_a_terminal_the_error_stays(said: Said, news: Tiny, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO(QUERY))
    assert not on_terminal()
    code, out, err = said("explain", news.index)
    assert (code, out) == (2, "")
    assert "give either a TEXT or --queries FILE" in err
    monkeypatch.setattr(sys, "stdin", None)
    assert not on_terminal()


def test_lines_are_typed_until_the_end(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    events: Iterator[Any] = iter(
        ["one", KeyboardInterrupt(), UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"), "two", EOFError()]
    )

    def next_event(mark: str = "") -> str:
        event = next(events)
        if isinstance(event, BaseException):
            raise event
        return f"{mark}{event}"

    monkeypatch.setattr("builtins.input", next_event)
    assert list(typed(prompt_on_stdout=True)) == ["> one", "> two"]
    assert "this line is not UTF-8 at byte 0: type it again" in capsys.readouterr().err


def test_a_real_terminal_gets_a_prompt(news: Tiny):
    """The other end of a pseudo-terminal types a command and the end of input."""
    master, slave = pty.openpty()
    words = [sys.executable, "-m", "proponent.cli", "explain", str(news.index)]
    with subprocess.Popen(words, stdin=slave, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        os.close(slave)
        os.write(master, b":label World\n:nonsense\n\x04")
        out, err = process.communicate(timeout=300)
    os.close(master)
    assert process.returncode == 0, err
    assert out == b""
    assert b"label: World" in err
    assert b"unknown command :nonsense" in err


def test_a_question_loads_neither_scikit_learn_nor_the_trainer(news: Tiny):
    code = (
        "import sys\nfrom proponent.cli import main\n"
        f"try: main(['explain', {str(news.index)!r}, {QUERY!r}, '--json', '-q'])\n"
        "except SystemExit as end: print(end.code, *[one for one in "
        "('sklearn', 'scipy.stats', 'datasets', 'pandas', 'peft', 'transformers.trainer', 'proponent.evaluate') "
        "if one in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "0"
    assert "tfidf-label" in json.loads(done.stdout)["baselines"]
