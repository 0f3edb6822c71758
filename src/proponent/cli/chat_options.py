"""Options about chat data."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

import typer

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
