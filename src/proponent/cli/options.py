"""Options that several commands share, and how what was typed becomes what the library takes."""

import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from proponent.cli.output import hint
from proponent.errors import InputError
from proponent.suggest import nearest

if TYPE_CHECKING:
    from proponent.data import Columns, Examples
    from proponent.index.grouping import Aggregate
    from proponent.method import Term
    from proponent.models import Run
    from proponent.search import Where

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
SourceColumn = Annotated[str, typer.Option(help="Column that says where a row comes from, for --where source=...")]
AllowEmpty = Annotated[bool, typer.Option("--allow-empty", help="Keep rows with empty texts.")]
MaxLength = Annotated[
    int | None, typer.Option(min=2, help="Most tokens of a text (default: the model's, at most 512).")
]
Tokenizer = Annotated[Path | None, typer.Option(help="Folder of the tokenizer, when it is not in the run.")]
TrustRemoteCode = Annotated[bool, typer.Option("--trust-remote-code", help="Run code that comes with the model.")]

# what is built
Method = Annotated[
    str | None,
    typer.Option(
        help="A name of `proponent methods`, or a method file of `proponent tune`; by default what measures best of "
        "what the run allows: grad-cos for a classifier fine-tuned from a pretrained model, tracin-we-adam-unit for "
        "another one with recorded second moments, else tracin-we."
    ),
]
EmbeddingPath = Annotated[str | None, typer.Option(help="Tied embeddings: exact, input or output.")]
UnitNorm = Annotated[bool | None, typer.Option("--unit-norm", help="Scale training gradients to norm 1.")]
Weights = Annotated[str | None, typer.Option(help="Checkpoints weigh by learning-rate or equal.")]
Loss = Annotated[str | None, typer.Option(help="Language model: mean or sum over the counted tokens.")]
Top = Annotated[int | None, typer.Option(min=1, help="Tokens kept per example.")]
TopBy = Annotated[str | None, typer.Option(help="Count distinct tokens (token) or places (position).")]
Layers = Annotated[
    str | None, typer.Option(help="Layers to score, as groups or patterns over names: attention,head,*.layer.3.*")
]
Project = Annotated[str | None, typer.Option(help="Width that sides of layers are projected to: number, auto, none.")]
Fields = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="FIELD=VALUE", help="Any other field of the method: damping=0.01; repeatable."),
]
SecondMoment = Annotated[str, typer.Option(help="recorded, optimizer (opens optimizer.pt) or estimate.")]
Mixed = Annotated[
    str | None, typer.Option("--eval", metavar="FILE", help="trackstar: queries whose autocorrelation is mixed in.")
]
Steps = Annotated[str | None, typer.Option(help="Checkpoints to use, by step: 100,200.")]
BatchSize = Annotated[int, typer.Option(min=1)]
MaxBadRows = Annotated[float, typer.Option(min=0.0, max=1.0, help="Share of rows that may be left out.")]
Rows = Annotated[str, typer.Option(help="How gradient rows are kept: fp32, fp16 or int8.")]
SegmentRows = Annotated[int, typer.Option(min=1, help="Examples of a segment at most.")]

# what is asked
Filters = Annotated[
    list[str] | None,
    typer.Option("--where", metavar="COLUMN=VALUE", help="Only examples with this label or source; may be repeated."),
]
IdsFile = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Only examples whose ids stand in this file, one per line.")
]
Against = Annotated[str | None, typer.Option(help="Why the label rather than this one.")]
Hits = Annotated[int, typer.Option("-k", min=1, help="Hits on each side.")]
Queries = Annotated[str | None, typer.Option(metavar="FILE", help="A file of queries, in the columns of a data set.")]
MovedRun = Annotated[Path | None, typer.Option(help="Folder of the run, when it has moved.")]
Beside = Annotated[bool, typer.Option("--baselines/--no-baselines", help="Rank by the baselines too.")]
Partial = Annotated[bool, typer.Option("--partial", help="Ask an unfinished index too.")]
Group = Annotated[bool, typer.Option("--group", help="The queries of the file are one question, with one ranking.")]
Join = Annotated[str, typer.Option(help="How queries (--group) and layers are joined: mean, rank or vote.")]
Over = Annotated[str, typer.Option(help="What votes besides the queries: layers, checkpoints, or both.")]
VoteK = Annotated[float, typer.Option(help="Lowest places that vote: a share up to 1, or a number of examples.")]
Correct = Annotated[bool, typer.Option("--only-correct", help="Of a group, only what the model predicts counts.")]
AllowMissing = Annotated[bool, typer.Option("--allow-missing", help="Go on without shards that are missing.")]


def columns(text: str, pair: str, label: str, identity: str, target: str, source: str = "") -> "Columns":
    """Gather the column options."""
    from proponent.data import Columns

    return Columns(text=text, text_pair=pair, label=label, id=identity, target=target, source=source)


def read_data(
    data: str,
    named: "Columns",
    split: str | None = None,
    revision: str | None = None,
    *,
    quiet: bool = False,
    allow_empty: bool = False,
) -> "Examples":
    """Read a data set and say its warnings on stderr."""
    from proponent.data import read

    examples = read(data, columns=named, split=split, revision=revision, allow_empty=allow_empty)
    for line in examples.warnings:
        hint(line, quiet=quiet)
    return examples


def method_of(
    method: str,
    path: str | None,
    unit_norm: bool | None,
    weights: str | None,
    loss: str | None,
    top: int | None,
    top_by: str | None,
    layers: str | None = None,
    project: str | None = None,
    fields: list[str] | None = None,
) -> "Term":
    """Find a method and change what the options change."""
    from proponent.method_table import stored_method
    from proponent.method_words import NAMED_NONE

    changes = {"path": path, "unit_norm": unit_norm, "weights": weights, "loss": loss, "top": top, "top_by": top_by}
    given: dict[str, object] = {name: value for name, value in changes.items() if value is not None}
    given |= {} if layers is None else {"layers": layers}
    given |= {} if project is None else {"project": _plain(project)}
    for one in fields or ():
        name, equals, value = one.partition("=")
        if not equals or not name.strip():
            raise InputError(f"--set {one!r}: give FIELD=VALUE, such as damping=0.01")
        field = name.strip().replace("-", "_")
        given[field] = "none" if value.strip().lower() == "none" and field in NAMED_NONE else _plain(value)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", FutureWarning)
        found = stored_method(method, **given)
    for one in caught:
        hint(str(one.message), quiet=False)
    return found


def _plain(text: str) -> object:
    """A number, true, false or none as such; anything else as text."""
    try:
        return json.loads({"none": "null"}.get(text.strip().lower(), text.strip().lower()))
    except ValueError:
        return text.strip()


def settled(method: str | None, run: "Run", chosen: str | None, second_moment: str, *, quiet: bool) -> str:
    """Find the method, which is the default one unless it is named."""
    if method is not None:
        return method
    from proponent.index import default_method

    found = default_method(run, steps(chosen), second_moment)
    hint(found.reason, quiet=quiet)
    return found.method


def building(
    max_length: int | None,
    batch_size: int,
    max_bad_rows: float,
    chosen: str | None,
    second_moment: str,
    rows: str,
    segment_rows: int,
) -> dict[str, Any]:
    """Gather the options of a build that a forecast takes too."""
    return {
        "max_length": max_length,
        "batch_size": batch_size,
        "max_bad_rows": max_bad_rows,
        "steps": steps(chosen),
        "second_moment": choice("--second-moment", second_moment, ("recorded", "optimizer", "estimate")),
        "rows": choice("--rows", rows, ("fp32", "fp16", "int8")),
        "segment_rows": segment_rows,
    }


def choice(option: str, value: str, known: tuple[str, ...]) -> Any:
    """Take one of a few words."""
    if value not in known:
        raise InputError(f"{option} {value!r}{nearest(value, known)}: choose one of {', '.join(known)}")
    return value


def steps(text: str | None) -> tuple[int, ...] | None:
    """Read the steps of checkpoints."""
    try:
        return None if text is None else tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise InputError(f"--steps {text!r}: give numbers with commas, such as 100,200") from error


def usable(path: Path | None, option: str) -> None:
    """Refuse a file that cannot be written before any work is done for it."""
    if path is None:
        return
    if path.is_dir():
        raise InputError(f"{option} {path} is a folder: name a file in it")
    if not path.parent.is_dir():
        raise InputError(f"{option} {path}: there is no folder {path.parent}: make it first")


def where(filters: Sequence[str] | None, ids: Sequence[str] | None, names: Sequence[str] | None) -> "Where":
    """Read filters: several values of one column are alternatives, several columns must all fit."""
    from proponent.search import Where

    values: dict[str, list[str]] = {}
    for text in filters or ():
        column, _, value = text.partition("=")
        if column not in {"label", "source"} or not value:
            raise InputError(
                f"--where {text!r}: give label=VALUE or source=VALUE, such as label={(names or ['web'])[0]}"
            )
        values.setdefault(column, []).append(value)
    labels = values.get("label")
    return Where(None if labels is None else [_class(one, names or ()) for one in labels], values.get("source"), ids)


def _class(label: str, names: Sequence[str]) -> str:
    """The name of a class that was given by number; where the names are numbers, a number is a name."""
    numbered = all(name.isdecimal() for name in names)
    by_number = label not in names and not numbered and label.isdecimal() and int(label) < len(names)
    return names[int(label)] if by_number else label


def ids_in(path: Path | None) -> list[str] | None:
    """Read a file of ids."""
    if path is None:
        return None
    try:
        lines = path.read_bytes().decode("utf-8-sig").split("\n")
    except OSError as error:
        raise InputError(f"--ids-file {path}: {error.strerror}: give a file with one id per line") from error
    except UnicodeDecodeError as error:
        raise InputError(f"--ids-file {path} is not UTF-8 at byte {error.start}: convert it with iconv") from error
    ids = [line.removesuffix("\r") for line in lines if line.strip()]
    if not ids:
        raise InputError(f"--ids-file {path} holds no id: give one per line")
    return ids


def aggregation(how: str, over: str, k: float, correct: bool) -> "Aggregate":
    """Read how scores are joined."""
    from proponent.index.grouping import Aggregate

    rule = choice("--aggregate", how, ("mean", "rank", "vote"))
    axes = [choice("--over", one.strip(), ("layers", "checkpoints")) for one in over.split(",")]
    return Aggregate(rule, tuple(dict.fromkeys(axes)), k, correct)
