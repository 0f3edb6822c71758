"""The prompt of `proponent explain INDEX` on a terminal: questions one after another, with the model loaded once."""

import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any

from proponent.cli.lines import echo
from proponent.errors import InputError, ProponentError
from proponent.suggest import nearest

if TYPE_CHECKING:
    from proponent.cli.answering import Answers
    from proponent.views import Explanation

MARK = "> "
HELP = (
    "type a text and press Enter; a text that begins with : is typed with ::",
    ":label NAME    explain this class; :label alone: the predicted one",
    ":against NAME  explain the label against this one; alone: against none",
    ":pair TEXT     second text of the pair; alone: none",
    ":target TEXT   completion to explain, of a language model; alone: none",
    ":k N           number of proponents and of opponents",
    ":help          these lines",
    ":quit          leave, as Ctrl-D does",
)
SETTINGS = {"label": "label", "against": "against", "pair": "text_pair", "target": "target", "k": "k"}
"""Commands that change how the next questions are asked, and the arguments that they set."""


def on_terminal() -> bool:
    """Whether somebody types on stdin."""
    return sys.stdin is not None and sys.stdin.isatty()


@dataclass
class Prompt:
    """Questions to one index, and the settings that hold for all of them until they are changed."""

    answers: "Answers"
    how: dict[str, Any]  # arguments of `Answers.explain` besides the text
    show: "Callable[[Explanation], None]"
    say: Callable[[str], None]  # writes a hint
    ended: bool = field(default=False, init=False)

    def run(self, lines: Iterator[str]) -> None:
        """Answer line after line, until the end of input or `:quit`; an error of one line does not end it."""
        for line in lines:
            try:
                self.take(line)
            except ProponentError as error:
                echo(f"proponent: {error}", err=True)
            except KeyboardInterrupt:
                echo("stopped; ask again, or leave with :quit", err=True)
            if self.ended:
                return

    def take(self, line: str) -> None:
        """Follow a command, or answer a question."""
        text = line.strip()
        if not text:
            return
        if text.startswith(":") and not text.startswith("::"):
            self._command(*text[1:].split(maxsplit=1))
            return
        self.show(self.answers.explain(text.removeprefix(":") if text.startswith("::") else line, **self.how))

    def _command(self, name: str = "", value: str | None = None) -> None:
        if name in {"quit", "q", "exit"}:
            self.ended = True
        elif name in {"help", "h", "?"}:
            echo("\n".join(HELP), err=True)
        elif name not in SETTINGS:
            known = [*SETTINGS, "help", "quit"]
            raise InputError(f"unknown command :{name}{nearest(name, known)}: type :help, or :: before such a text")
        elif name == "k":
            if value is None or not value.isdecimal() or len(value) > 9 or int(value) < 1:
                raise InputError(f":k {(value or '')[:20]}: give a whole number of at least 1, such as :k 5")
            self._set("k", int(value))
        else:
            if name in {"label", "against"} and value is not None:
                self.answers.check_label(value)  # an unknown class is refused here, not at every question
            self._set(SETTINGS[name], value)

    def _set(self, name: str, value: object) -> None:
        self.how[name] = value
        said = {"label": "the predicted class"}.get(name, "none") if value is None else str(value)
        self.say(f"{next(key for key, one in SETTINGS.items() if one == name)}: {said}")


def typed(*, prompt_on_stdout: bool) -> Iterator[str]:
    """Lines that are typed, with the mark before each; Ctrl-C drops a line that was begun, Ctrl-D ends."""
    with suppress(ImportError):
        import_module("readline")  # editing and history of the lines, where Python has it
    while True:
        try:
            if not prompt_on_stdout:
                echo_mark()
            yield input(MARK if prompt_on_stdout else "")
        except KeyboardInterrupt:
            echo("", err=True)
        except EOFError:
            echo("", err=True)
            return
        except UnicodeDecodeError as error:
            echo(f"proponent: this line is not UTF-8 at byte {error.start}: type it again", err=True)


def echo_mark() -> None:
    """Write the mark to stderr, so that stdout holds answers alone."""
    sys.stderr.write(MARK)
    sys.stderr.flush()
