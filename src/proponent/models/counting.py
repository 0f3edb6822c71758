"""Which rules a training of chat data followed: from the Recorder, the saved settings, the user, or TRL's defaults."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

from proponent.errors import InputError, RunError
from proponent.foreign_files import Door
from proponent.models import axolotl
from proponent.models.objective import training_of
from proponent.models.run import Run
from proponent.models.run_files import MOST_TEXT, read_settings
from proponent.models.run_record import run_record
from proponent.models.trainer_notes import JUDGED
from proponent.types import Counting

TRL_LENGTH = 1024
"""TRL's default of max_length."""

_TEMPLATE_DOOR = Door(InputError, "give a file that holds one chat template, or the template itself")

_PACKED = ("", "bfd", "bfd_split")

RowLayout = Literal["text", "messages", "completion", "preference", "judged", "tokens"]


@dataclass(frozen=True)
class Stated:
    """What the user says about the training; None where nothing is said."""

    assistant_only: bool | None = None
    completion_only: bool | None = None
    template: str | None = None

    @classmethod
    def of(cls, assistant_only: bool | None, completion_only: bool | None, template: str | Path | None) -> "Stated":
        """Read the template's file, unless the template itself was given."""
        text = None if template is None else str(template)
        if text is not None and "{" not in text:
            try:
                text = _TEMPLATE_DOOR.read_text(Path(text), most=MOST_TEXT)
            except (OSError, UnicodeDecodeError) as error:
                raise InputError(f"cannot read the chat template {template}: {error}") from error
        return cls(assistant_only, completion_only, text)


NOTHING = Stated()


class RowRules(NamedTuple):
    """How the rows of a data set become tokens."""

    counting: Counting | None  # None for the rules of plain training
    max_length: int
    notes: tuple[str, ...]  # what was assumed


def rules_of(run: Run, layout: RowLayout, asked: int | None = None, stated: Stated = NOTHING) -> RowRules:
    """Find out which tokens the training counted, and how many it read."""
    if not run.task.chats:
        return RowRules(None, run.length(asked), ())
    found = [_recorded(run, one) or _axolotl(one, layout) or _saved(one, run.task.trainer) for one in homes(run)]
    known = _agreed(run, found)
    chat = layout != "text"
    if known is None and not chat and stated == NOTHING:
        return RowRules(None, run.length(asked), ())
    counting, length, source = known or (Counting(trl=True), TRL_LENGTH, "")
    changes = {name: value for name, value in vars(stated).items() if value is not None}
    counting = replace(counting, **changes, source=source or "assumed")
    limit = run.info.max_length if source else run.most_tokens  # trainers do not ask the tokenizer for its limit
    most = min(one for one in (length, limit, 2**20) if one is not None)
    notes = [] if source.startswith("recorder") else _assumed(layout, most, source, changes, asked=asked)
    if counting.packing == "bfd_split":
        notes.append("rows longer than the limit were split when they were packed: only their beginnings are compared")
    least = run.task.least_tokens(run.tokenizer)
    read = most if asked is None else asked if least <= asked <= most else run.length(asked)  # trainers read `most`
    return RowRules(counting, read, tuple(notes))


def _assumed(layout: RowLayout, most: int, source: str, stated: dict[str, Any], *, asked: int | None) -> list[str]:
    """Say what is taken for granted."""
    if source.startswith("axolotl"):
        return [f"{source}: rows are the tokens and labels that it prepared, of at most {most} tokens"]
    parts: list[str] = []
    if layout == "completion" and "completion_only" not in stated:
        parts.append("of prompt and completion the completion counts")
    if layout == "messages" and "assistant_only" not in stated:
        parts.append("of messages all tokens count (--assistant-only)")
    if layout == "preference":
        parts.append("the answers count after their prompt, with an end token")
    if layout in {"text", "completion"}:
        parts.append("an end token follows each text")
    if asked is None:
        parts.append(f"the first {most} tokens are read (--max-length)")
    if not parts:
        return []
    said = ", ".join(parts)
    why = f"{source} says that TRL trained it" if source else "the run does not say how it counted tokens"
    return [f"{why}: as by TRL's defaults, {said}; train with proponent.Recorder() to have it checked"]


class _Known(NamedTuple):
    counting: Counting
    max_length: int | None
    source: str


def homes(run: Run) -> list[Path]:
    """The folders of the joined trainings: the parent of checkpoints, or the folder of a single model."""
    paths = [one.path for one in run.checkpoints]
    return list(dict.fromkeys(one.parent if one.name.startswith("checkpoint-") else one for one in paths))


def _agreed(run: Run, found: Sequence[_Known | None]) -> _Known | None:
    first = found[0]
    if any(one != first for one in found):
        raise RunError(f"the joined runs of {run.path} counted tokens by different rules: index them one by one")
    return first


def fine_tuning_note(folder: Path, trainer: str = "sft") -> dict[str, Any] | None:
    """The Recorder's note on a training by one of TRL's trainers."""
    note: object = (run_record(folder) or {}).get(trainer)
    return cast("dict[str, Any]", note) if isinstance(note, dict) else None


def _recorded(run: Run, folder: Path) -> _Known | None:
    """What the Recorder noted."""
    held = fine_tuning_note(folder, run.task.trainer)
    if held is None:
        return None
    template, own = held.get("template"), getattr(run.tokenizer, "chat_template", None)
    source = f"recorder (TRL {held.get('trl', '')})"
    if run.task.trainer in JUDGED:
        day = str(held.get("date", ""))
        counting = Counting(trl=True, template=None if template == own else template, date=day)
        return _Known(counting, held.get("max_length", TRL_LENGTH), source)
    if held.get("loss_type") not in (None, "nll", "chunked_nll"):
        raise RunError(f"{folder} was trained with the loss {held['loss_type']!r}, which weighs tokens: not supported")
    if held.get("packing", "") not in _PACKED:
        raise RunError(
            f"{folder} packed its rows by {held['packing']!r}, which cuts them anywhere, so that rows read each other: "
            "no row has a gradient of its own; pack by bfd"
        )
    counting = Counting(
        trl=True,
        template=None if template == own else template,
        assistant_only=bool(held.get("assistant_only")),
        completion_only=held.get("completion_only") is not False,
        packing=str(held.get("packing", "")),
        date=str(held.get("date", "")),
    )
    return _Known(counting, held.get("max_length"), source)


def _axolotl(folder: Path, layout: RowLayout) -> _Known | None:
    """What axolotl wrote into the model card of a run; its own templates are not repeated."""
    settings = axolotl.settings_of(folder)
    if settings is None:
        return None
    path = folder / axolotl.CARD
    if layout != "tokens":
        raise RunError(
            f"{path} says that axolotl trained this run, which makes tokens of rows by rules of its own: give the rows "
            "that it prepared (the folder last_run_prepared/HASH) as DATA"
        )
    return _Known(Counting(trl=True), axolotl.longest(settings, path), f"axolotl {settings['version']}")


def _saved(folder: Path, trainer: str) -> _Known | None:
    """What TRL wrote into the model card of a run."""
    said = training_of([folder], trainer)
    return None if said is None or said.settings else _Known(Counting(trl=True), TRL_LENGTH, said.source)


def logged_tokens(run: Run) -> float | None:
    """Tokens of one epoch, as TRL's log has them; None if it does not say."""
    path = run.checkpoints[-1].path / "trainer_state.json"
    history = read_settings(path).get("log_history") if path.is_file() else None
    for entry in reversed(cast("list[Any]", history) if isinstance(history, list) else []):
        epoch, count = entry.get("epoch"), entry.get("num_tokens")
        if isinstance(epoch, int | float) and isinstance(count, int | float) and epoch and float(epoch).is_integer():
            return float(count) / float(epoch)
    return None
