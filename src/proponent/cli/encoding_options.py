"""Options of commands that encode texts by a pretrained model."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import typer

from proponent.cli.options import OutputOptions, TrustRemoteCode

if TYPE_CHECKING:
    from proponent.types import Example


@dataclass(frozen=True)
class EncodingOptions:
    """How texts are encoded by a pretrained model."""

    PANEL: ClassVar = "Encoder"

    max_length: Annotated[int, typer.Option(min=2, help="Maximum tokens per text.")] = 128
    trust_remote_code: TrustRemoteCode = False

    def features(self, encoder: str | Path, examples: "Sequence[Example]", out: OutputOptions) -> Any:
        """Features of the texts [n h]."""
        from proponent.actions.text_features import text_features

        return text_features(
            encoder,
            examples,
            max_length=self.max_length,
            trust_remote_code=self.trust_remote_code,
            progress=not out.quiet,
        )
