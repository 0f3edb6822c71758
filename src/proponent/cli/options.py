"""Option groups that several commands share, and their conversion to library arguments."""

import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import typer

from proponent.cli.assignments import plain, settings_in
from proponent.cli.lines import echo, echo_json
from proponent.errors import InputError
from proponent.suggest import nearest

if TYPE_CHECKING:
    from proponent.index.grouping import Aggregate
    from proponent.method import Term
    from proponent.models import Run

RunFolder = Annotated[
    Path, typer.Argument(metavar="RUN", help="Trainer output folder, model folder or PEFT adapter folder.")
]
Data = Annotated[
    str, typer.Argument(metavar="DATA", help="CSV, TSV, JSON(L), Parquet or Arrow file, saved data set, or hub id.")
]


def index_folder(place: str) -> Path:
    """The folder of an index; of one in a bucket, that of its files here."""
    from proponent.buckets import url_of

    if url_of(place) is None:
        return Path(place)
    from proponent.store import local

    return local(place)


IndexFolder = Annotated[
    Path, typer.Argument(metavar="INDEX", parser=index_folder, help="Folder of an index, or its s3://, gs://, az://.")
]
MaxLength = Annotated[
    int | None, typer.Option(min=2, help="Maximum tokens per text (default: the model's limit, at most 512).")
]
QueryFile = Annotated[
    str | None, typer.Option(metavar="FILE", help="A file of queries, with the columns of a data set.")
]
TestFile = Annotated[
    str | None,
    typer.Option(
        "--test",
        metavar="FILE",
        help="A test set: predictions and what is behind the errors; of a language model, losses.",
    ),
]
TrustRemoteCode = Annotated[bool, typer.Option("--trust-remote-code", help="Allow custom code shipped with the model.")]
BaseModel = Annotated[str | None, typer.Option("--base", help="Base model of an adapter, if it has moved.")]
Device = Annotated[str, typer.Option(help="Where the model runs: auto (a GPU, if any), cpu, cuda, cuda:N, mps.")]
Dtype = Annotated[str, typer.Option(help="Precision of the model: float32, bfloat16 or float16.")]
DeviceMap = Annotated[
    str | None,
    typer.Option(
        metavar="RULE|FILE",
        help="Split the model over several GPUs, in place of --device: auto, balanced, balanced_low_0, sequential, or "
        "a JSON file of modules and devices.",
    ),
]
MaxMemory = Annotated[
    str | None, typer.Option(metavar="SIZE", help="Most weights per GPU with a rule of --device-map, such as 20GiB.")
]
Hits = Annotated[int, typer.Option("-k", min=1, help="Number of proponents and of opponents.")]
Against = Annotated[str | None, typer.Option(help="Explain the label against this one.")]
Baselines = Annotated[bool, typer.Option("--baselines/--no-baselines", help="Also rank by the baselines.")]
PageFiles = Annotated[
    list[Path] | None, typer.Option("--out", metavar="FILE", help="Also write .html, .md or .json; repeatable.")
]
AllowMissing = Annotated[bool, typer.Option("--allow-missing", help="Continue although shards are missing.")]


@dataclass(frozen=True)
class OutputOptions:
    """How results are written."""

    PANEL: ClassVar = "Output"

    as_json: Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")] = False
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no hints.")] = False

    def hint(self, message: str) -> None:
        """Write a line to stderr that is not a result."""
        if not self.quiet:
            echo(message, err=True)

    def show(self, content: Callable[[], Any], draw: Callable[[], object]) -> None:
        """Write a result to stdout: one line of JSON, or readable text."""
        if not self.as_json:
            draw()
            return
        unicode = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
        echo_json(content(), ascii_only=not unicode)


@dataclass(frozen=True)
class ModelOptions:
    """How a run is opened."""

    PANEL: ClassVar = "Model"

    tokenizer: Annotated[Path | None, typer.Option(help="Tokenizer folder, if the run has none.")] = None
    base: BaseModel = None
    trust_remote_code: TrustRemoteCode = False
    device: Device = "auto"
    dtype: Dtype = "float32"

    def open(self, run: Path) -> "Run":
        """Open the run."""
        from proponent.models import Run

        return Run.from_pretrained(run, **vars(self))


@dataclass(frozen=True)
class SplitOptions(ModelOptions):
    """How a run is opened by commands that may split its model over several devices."""

    device_map: DeviceMap = None
    max_memory: MaxMemory = None


@dataclass(frozen=True)
class IndexOptions:
    """How an index is opened."""

    PANEL: ClassVar = "Index and model"

    run: Annotated[Path | None, typer.Option(help="Folder of the run, if it has moved.")] = None
    base: BaseModel = None
    allow_missing: AllowMissing = False
    trust_remote_code: TrustRemoteCode = False
    device: Device = "auto"
    dtype: Annotated[
        str | None, typer.Option(help="Precision of the model: float32, bfloat16, float16. Default: the index's.")
    ] = None
    device_map: DeviceMap = None
    max_memory: MaxMemory = None


@dataclass(frozen=True)
class OpenOptions(IndexOptions):
    """How an index is opened for explanations."""

    partial: Annotated[bool, typer.Option("--partial", help="Allow an unfinished index.")] = False
    words: Annotated[str | None, typer.Option(help="Words of an answer: terms, embedding or masked.")] = None


@dataclass(frozen=True)
class BuildOptions:
    """How an index is built, independent of the method."""

    PANEL: ClassVar = "Build"

    second_moment: Annotated[
        str, typer.Option(help="Second moments: recorded, optimizer (opens optimizer.pt) or estimate.")
    ] = "recorded"
    steps: Annotated[str | None, typer.Option(help="Checkpoints to use, by step: 100,200.")] = None
    max_length: MaxLength = None
    batch_size: Annotated[
        int | None,
        typer.Option(min=1, help="Texts per pass (default: that of the index, else 32 on the CPU, 256 on a GPU)."),
    ] = None
    max_bad_rows: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Maximum share of rows that may be skipped.")
    ] = 0.01
    rows: Annotated[str, typer.Option(help="Storage type of gradient rows: fp32, fp16 or int8.")] = "fp32"
    segment_rows: Annotated[int, typer.Option(min=1, help="Maximum examples per segment.")] = 65_536

    @property
    def chosen_steps(self) -> tuple[int, ...] | None:
        """The steps of the checkpoints to use; None for all."""
        return None if self.steps is None else numbers("--steps", self.steps, "100,200")

    def settings(self) -> dict[str, Any]:
        """Keyword arguments for a build or a forecast."""
        choice("--second-moment", self.second_moment, ("recorded", "optimizer", "estimate"))
        choice("--rows", self.rows, ("fp32", "fp16", "int8"))
        return vars(self) | {"steps": self.chosen_steps}


@dataclass(frozen=True)
class MethodOptions:
    """A method and its fields."""

    PANEL: ClassVar = "Method"

    method: Annotated[
        str | None,
        typer.Option(
            help="A name from `proponent methods`, or a method file of `proponent tune`. Default: grad-cos-mid for a "
            "classifier fine-tuned from a pretrained model, tracin-we-idf for a model of classes or other answers "
            "that was trained from scratch, tracin-we-adam-unit for another classifier with recorded second moments, "
            "grad-cos-bm25 for an adapter of a language model, tracin-we-idf-bm25 for another one, otherwise tracin-we."
        ),
    ] = None
    path: Annotated[str | None, typer.Option(help="Tied embeddings: exact, input or output.")] = None
    unit_norm: Annotated[bool | None, typer.Option("--unit-norm", help="Normalize training gradients.")] = None
    weights: Annotated[str | None, typer.Option(help="Checkpoint weights: learning-rate or equal.")] = None
    loss: Annotated[str | None, typer.Option(help="Language model: mean or sum over the counted tokens.")] = None
    top: Annotated[int | None, typer.Option(min=1, help="Number of tokens kept per example.")] = None
    top_by: Annotated[str | None, typer.Option(help="Count distinct tokens (token) or positions (position).")] = None
    layers: Annotated[
        str | None, typer.Option(help="Layers to score, as groups or name patterns: attention,head,*.layer.3.*")
    ] = None
    project: Annotated[
        str | None, typer.Option(help="Projected width per side of a layer: a number, auto or none.")
    ] = None
    fields: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="FIELD=VALUE", help="Set any field: damping=0.01; may be repeated."),
    ] = None

    def named(self, run: "Run", build: BuildOptions, out: OutputOptions) -> str:
        """The method's name: the one given, or the default for this run."""
        if self.method is not None:
            return self.method
        from proponent.index import default_method

        found = default_method(run, build.chosen_steps, build.second_moment)
        out.hint(found.reason)
        return found.method

    def changed(self, method: str) -> "Term":
        """A method with the fields that the options change."""
        from proponent.method_table import stored_method
        from proponent.method_words import NAMED_NONE

        names = ("path", "unit_norm", "weights", "loss", "top", "top_by", "layers", "project")
        given: dict[str, object] = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        if self.project is not None:
            given["project"] = plain(self.project)
        for field, value in settings_in(self.fields).items():
            given[field] = "none" if value is None and field in NAMED_NONE else value
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", FutureWarning)
            found = stored_method(method, **given)
        for one in caught:
            echo(str(one.message), err=True)
        return found


@dataclass(frozen=True)
class AggregateOptions:
    """How queries, layers and checkpoints are combined."""

    PANEL: ClassVar = "Groups of queries"

    group: Annotated[
        bool, typer.Option("--group", help="Treat the queries of the file as one group with one ranking.")
    ] = False
    aggregate: Annotated[
        str, typer.Option(help="How to aggregate queries (--group) and layers: mean, rank or vote.")
    ] = "mean"
    over: Annotated[str, typer.Option(help="What votes in addition to the queries: layers, checkpoints, or both.")] = (
        "layers"
    )
    vote_k: Annotated[float, typer.Option(help="Lowest ranks that vote: a share up to 1, or a number of examples.")] = (
        0.2
    )
    only_correct: Annotated[
        bool, typer.Option("--only-correct", help="In a group, count only correctly predicted queries.")
    ] = False

    def rule(self) -> "Aggregate":
        """The aggregation rule."""
        from proponent.index.grouping import Aggregate

        rule = choice("--aggregate", self.aggregate, ("mean", "rank", "vote"))
        axes = [choice("--over", one.strip(), ("layers", "checkpoints")) for one in self.over.split(",")]
        return Aggregate(rule, tuple(dict.fromkeys(axes)), self.vote_k, self.only_correct)


@dataclass(frozen=True)
class RetrainOptions:
    """How an evaluation retrains."""

    PANEL: ClassVar = "Retraining"

    noise: Annotated[float, typer.Option(min=0.01, max=0.5, help="Share of labels that ndr corrupts.")] = 0.2
    initial: Annotated[str | None, typer.Option(help="Initial weights: a model, or fresh.")] = None
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="NAME=VALUE", help="Override a training setting: epochs, batch_size, learning_rate, ..."
        ),
    ] = None
    cache: Annotated[Path, typer.Option(help="Cache folder for retrained models; rerunning resumes.")] = Path(
        "proponent-evaluation"
    )
    max_length: MaxLength = None
    seed: Annotated[int, typer.Option(help="Seed of held-out rows, subsets and controls.")] = 0


def numbers(option: str, text: str, example: str) -> tuple[int, ...]:
    """Parse comma-separated whole numbers."""
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise InputError(f"{option} {text!r}: give numbers separated by commas, such as {example}") from error


def listed(text: str) -> tuple[str, ...]:
    """Parse comma-separated names."""
    return tuple(one.strip() for one in text.split(",") if one.strip())


def choice(option: str, value: str, known: tuple[str, ...]) -> Any:
    """Accept one word of a fixed set."""
    if value not in known:
        raise InputError(f"{option} {value!r}{nearest(value, known)}: choose one of {', '.join(known)}")
    return value


def usable(path: Path | None, option: str) -> None:
    """Refuse a file that cannot be written, before any work is done."""
    if path is None:
        return
    if path.is_dir():
        raise InputError(f"{option} {path} is a folder: give the name of a file")
    if not path.parent.is_dir():
        raise InputError(f"{option} {path}: there is no folder {path.parent}: create it first")


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
        raise InputError(f"--ids-file {path} contains no id: give one id per line")
    return ids


def filters_of(texts: Sequence[str] | None, names: Sequence[str] | None) -> dict[str, list[str]]:
    """Parse --where: several values of one column are alternatives; classes may be given by number."""
    values: dict[str, list[str]] = {}
    for text in texts or ():
        column, _, value = text.partition("=")
        if column not in {"label", "source"} or not value:
            raise InputError(
                f"--where {text!r}: give label=VALUE or source=VALUE, such as label={(names or ['web'])[0]}"
            )
        values.setdefault(f"{column}s", []).append(_class(value, names or ()) if column == "label" else value)
    return values


def _class(label: str, names: Sequence[str]) -> str:
    """The name of a class given by number; where class names are numbers, a number is a name."""
    numbered = all(name.isdecimal() for name in names)
    by_number = label not in names and not numbered and label.isdecimal() and int(label) < len(names)
    return names[int(label)] if by_number else label
