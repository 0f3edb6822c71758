"""Options of commands that encode texts by a pretrained model."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import typer

from proponent.cli.options import Device, OutputOptions, TrustRemoteCode
from proponent.errors import InputError

if TYPE_CHECKING:
    from proponent.types import Example


@dataclass(frozen=True)
class EncodingOptions:
    """How texts are encoded by a pretrained model."""

    PANEL: ClassVar = "Encoder"

    max_length: Annotated[int, typer.Option(min=2, help="Maximum tokens per text.")] = 128
    trust_remote_code: TrustRemoteCode = False
    device: Device = "auto"

    def features(self, encoder: str | Path, examples: "Sequence[Example]", out: OutputOptions) -> Any:
        """Features of the texts [n h]."""
        from proponent.actions.text_features import text_features

        return text_features(
            encoder,
            examples,
            max_length=self.max_length,
            trust_remote_code=self.trust_remote_code,
            progress=not out.quiet,
            device=self.device,
        )


def encoder_of(run: Path) -> Path:
    """A model folder as it is, or the last checkpoint of a run."""
    from proponent.models import Run

    return run if (run / "config.json").is_file() else Run.from_pretrained(run).checkpoints[-1].path


AllowOverlap = Annotated[bool, typer.Option("--allow-overlap", help="Accept measured texts that are also trained on.")]


def refuse_overlap(trained: "Iterable[Example]", measured: "Mapping[str, Sequence[Example]]") -> None:
    """Refuse measured texts that are also trained on, with their number."""
    from proponent.actions.text_overlap import shared_rows

    known = list(trained)
    for name, some in measured.items():
        shared = shared_rows(some, known)
        if shared:
            raise InputError(
                f"{shared} of {len(some)} texts of {name} are also trained on: remove them, or allow it with "
                "--allow-overlap"
            )
