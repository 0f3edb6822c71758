"""Options that several commands share, and how what was typed becomes what the library takes."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from whence.cli.speech import hint
from whence.errors import InputError
from whence.near import nearest

if TYPE_CHECKING:
    from whence.examples import Columns, Examples

Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no hints.")]
RunFolder = Annotated[
    Path, typer.Argument(metavar="RUN", help="Trainer output folder, model folder or PEFT adapter folder.")
]
Data = Annotated[
    str, typer.Argument(metavar="DATA", help="CSV, TSV, JSON(L), Parquet or Arrow file, saved data set, or hub id.")
]
IndexFolder = Annotated[Path, typer.Argument(metavar="INDEX", help="Folder of an index.")]
Split = Annotated[str | None, typer.Option(help="Split of a data set that has several.")]
Revision = Annotated[str | None, typer.Option(help="Revision of a hub data set.")]
TextColumn = Annotated[str, typer.Option(help="Column of the texts.")]
PairColumn = Annotated[str, typer.Option(help="Column of the second texts of pairs.")]
LabelColumn = Annotated[str, typer.Option(help="Column of the labels.")]
IdColumn = Annotated[str, typer.Option(help="Column of the ids.")]
TargetColumn = Annotated[str, typer.Option(help="Column of the part that counts (language model).")]
AllowEmpty = Annotated[bool, typer.Option("--allow-empty", help="Keep rows with empty texts.")]
MaxLength = Annotated[
    int | None, typer.Option(min=2, help="Most tokens of a text (default: the model's, at most 512).")
]
Tokenizer = Annotated[Path | None, typer.Option(help="Folder of the tokenizer, when it is not in the run.")]
TrustRemoteCode = Annotated[bool, typer.Option("--trust-remote-code", help="Run code that comes with the model.")]


def columns(text: str, pair: str, label: str, identity: str, target: str) -> "Columns":
    """Gather the five column options.

    Args:
        text: --text-column.
        pair: --pair-column.
        label: --label-column.
        identity: --id-column.
        target: --target-column.

    Returns:
        Which column plays which part.
    """
    from whence.examples import Columns

    return Columns(text=text, text_pair=pair, label=label, id=identity, target=target)


def read_data(
    data: str,
    named: "Columns",
    split: str | None = None,
    revision: str | None = None,
    *,
    quiet: bool = False,
    allow_empty: bool = False,
) -> "Examples":
    """Read a data set and say its warnings on stderr.

    Args:
        data: path or hub id.
        named: which column plays which part.
        split: --split.
        revision: --revision.
        quiet: keep the warnings back.
        allow_empty: take empty texts.

    Returns:
        The examples.
    """
    from whence.examples import read

    examples = read(data, columns=named, split=split, revision=revision, allow_empty=allow_empty)
    for line in examples.warnings:
        hint(line, quiet=quiet)
    return examples


def choice(option: str, value: str, known: tuple[str, ...]) -> Any:
    """Take one of a few words.

    Args:
        option: its name, for the message.
        value: what was typed.
        known: the words.

    Returns:
        The value.

    Raises:
        InputError: it is none of them; the message names the nearest.
    """
    if value not in known:
        raise InputError(f"{option} {value!r}{nearest(value, known)}: choose one of {', '.join(known)}")
    return value


def steps(text: str | None) -> tuple[int, ...] | None:
    """Read the steps of checkpoints.

    Args:
        text: numbers with commas, or None.

    Returns:
        The numbers, or None.

    Raises:
        InputError: it is no list of numbers.
    """
    try:
        return None if text is None else tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise InputError(f"--steps {text!r}: give numbers with commas, such as 100,200") from error


def usable(path: Path | None, option: str) -> None:
    """Refuse a file that can not be written before any work is done for it.

    Args:
        path: the file; None is fine.
        option: its name, for the message.

    Raises:
        InputError: its folder does not exist, or it is a folder itself.
    """
    if path is None:
        return
    if path.is_dir():
        raise InputError(f"{option} {path} is a folder: name a file in it")
    if not path.parent.is_dir():
        raise InputError(f"{option} {path}: there is no folder {path.parent}: make it first")
