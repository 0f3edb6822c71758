"""Options about chat data."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, cast

import typer

from proponent.errors import InputError
from proponent.foreign_files import parse_json

if TYPE_CHECKING:
    from proponent.models.counting import Stated


@dataclass(frozen=True)
class CountingOptions:
    """Which tokens of chat data the training counted, where its Recorder did not note it."""

    PANEL: ClassVar = "Chat data"

    assistant_only: Annotated[
        bool | None,
        typer.Option("--assistant-only/--all-turns", help="Whether only the assistant's turns count in conversations."),
    ] = None
    completion_only: Annotated[
        bool | None,
        typer.Option("--completion-only/--whole", help="Whether only the completion counts after a prompt."),
    ] = None
    chat_template: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Chat template of the training, if not the tokenizer's.")
    ] = None

    def stated(self) -> "Stated":
        """What the options say about the training."""
        from proponent.models.counting import Stated

        return Stated.of(self.assistant_only, self.completion_only, self.chat_template)


@dataclass(frozen=True)
class AskingOptions:
    """How a language model is asked."""

    PANEL: ClassVar = "Language models"

    messages: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="A conversation in JSON, in place of TEXT: [{role, content}, ...], or a row: {prompt, completion}, or "
            "the pair {prompt, chosen, rejected}; - reads stdin.",
        ),
    ] = None
    span: Annotated[str | None, typer.Option(help="A piece of the answer: only its tokens count.")] = None
    generate: Annotated[bool, typer.Option("--generate", help="Let the model write the answer.")] = False
    against_target: Annotated[str | None, typer.Option(help="Explain the answer against this one.")] = None

    @property
    def given(self) -> dict[str, object]:
        """The options that are set, by name."""
        named = {
            "--messages": self.messages,
            "--span": self.span,
            "--generate": self.generate,
            "--against-target": self.against_target,
        }
        return {name: value for name, value in named.items() if value}

    @property
    def one(self) -> dict[str, Any]:
        """Arguments of one question, besides the messages."""
        return {"span": self.span, "generate": self.generate, "against_target": self.against_target}

    def read(self) -> list[Any] | dict[str, Any] | None:
        """Read the conversation: a list of messages, a row with messages or a completion, or a pair of answers."""
        if self.messages is None:
            return None
        try:
            raw = sys.stdin.buffer.read() if str(self.messages) == "-" else self.messages.read_bytes()
            held: object = parse_json(raw)
        except OSError as error:
            raise InputError(f"--messages {self.messages}: {error.strerror or error}") from error
        except ValueError as error:
            raise InputError(f"--messages {self.messages} is not valid JSON ({error})") from error
        row = cast("dict[str, Any]", held) if isinstance(held, dict) else {}
        if {"chosen", "rejected"} <= {*row} or {"prompt", "completion"} <= {*row}:
            return row
        found: object = cast("dict[str, Any]", held).get("messages") if isinstance(held, dict) else held
        if not isinstance(found, list):
            raise InputError(f'--messages {self.messages}: give a list of {{"role": ..., "content": ...}}')
        return cast("list[Any]", found)
