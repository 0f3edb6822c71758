"""The command line: argument parsing only; each command calls public functions and prints what they return.

Results go to stdout, progress and hints to stderr. Heavy imports happen inside the commands, so that --help is light.
"""

import errno
import json
import sys
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import click
import typer
from rich.console import Console

from whence.errors import InputError, WhenceError

if TYPE_CHECKING:
    from whence.examples import Columns, Examples

app = typer.Typer(
    name="whence",
    help="Whence does this output come? Which training examples, and which words in them, pushed a model to an output.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")]
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
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no hints.")]


@app.callback(invoke_without_command=True)
def root(
    ctx: typer.Context,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    """Whence does this output come?"""
    ctx.obj = debug
    if version:
        from whence import __version__

        print(f"whence {__version__}")
        raise typer.Exit
    if ctx.invoked_subcommand is None:
        raise click.UsageError("no command given: `whence --help` lists them")


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for data, run, index and page.")] = Path("whence-demo"),
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Run the whole job on text that every Python has: train, index, explain, find planted label errors."""
    from whence.demo import demo as run_demo
    from whence.views.terminal import print_story

    story = run_demo(out, quiet=quiet, say=(lambda _: None) if quiet else _hint)
    _show(as_json, story.to_dict, lambda: print_story(story, Console()))
    _hint(
        f"the page: {out / 'story.html'}; ask the index yourself: whence explain {out / 'index.whence'} 'a text of yours'"
    )


@app.command()
def train(
    data: Data,
    out: Annotated[Path, typer.Option(help="Folder of the run; new or empty.")],
    model: Annotated[
        str | None, typer.Option(help="Pretrained model to fine-tune; without it a small one from scratch.")
    ] = None,
    epochs: Annotated[int, typer.Option(min=1)] = 3,
    batch_size: Annotated[int, typer.Option(min=1)] = 32,
    learning_rate: Annotated[float | None, typer.Option(help="Default: 1e-3 from scratch, 5e-5 pretrained.")] = None,
    max_length: Annotated[int, typer.Option(min=2)] = 128,
    seed: int = 0,
    split: Split = None,
    revision: Revision = None,
    text_column: TextColumn = "text",
    pair_column: PairColumn = "text_pair",
    label_column: LabelColumn = "label",
    id_column: IdColumn = "id",
    target_column: TargetColumn = "target",
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Fine-tune with the Hugging Face Trainer and the Recorder: a classifier, or without labels a language model."""
    from whence.training import Training
    from whence.training import train as run_training

    columns = _columns(text_column, pair_column, label_column, id_column, target_column)
    settings = Training(model, epochs, batch_size, learning_rate, max_length, seed, quiet=quiet or as_json)
    run = run_training(_read(data, columns, split, revision, quiet=quiet), out, settings)
    steps = [one.step for one in run.checkpoints]
    _show(
        as_json,
        lambda: {"run": str(out), "checkpoints": steps},
        lambda: print(f"{out}: checkpoints at steps {', '.join(map(str, steps))}"),
    )


@app.command()
def index(
    run: RunFolder,
    data: Data,
    out: Annotated[Path, typer.Option(help="Folder of the index; an unfinished one is resumed.")],
    method: Annotated[str, typer.Option(help="A name of `whence methods`.")] = "tracin-we",
    path: Annotated[str | None, typer.Option(help="Tied embeddings: exact, input or output.")] = None,
    unit_norm: Annotated[bool, typer.Option("--unit-norm", help="Scale training gradients to norm 1.")] = False,
    weights: Annotated[str | None, typer.Option(help="Checkpoints weigh by learning-rate or equal.")] = None,
    loss: Annotated[str | None, typer.Option(help="Language model: mean or sum over the counted tokens.")] = None,
    top: Annotated[int | None, typer.Option(min=1, help="Tokens kept per example.")] = None,
    top_by: Annotated[str | None, typer.Option(help="Count distinct tokens (token) or places (position).")] = None,
    second_moment: Annotated[
        str, typer.Option(help="recorded, optimizer (opens optimizer.pt) or estimate.")
    ] = "recorded",
    steps: Annotated[str | None, typer.Option(help="Checkpoints to use, by step: 100,200.")] = None,
    max_length: MaxLength = None,
    batch_size: Annotated[int, typer.Option(min=1)] = 32,
    max_bad_rows: Annotated[float, typer.Option(min=0.0, max=1.0, help="Share of rows that may be left out.")] = 0.01,
    tokenizer: Tokenizer = None,
    trust_remote_code: TrustRemoteCode = False,
    split: Split = None,
    revision: Revision = None,
    text_column: TextColumn = "text",
    pair_column: PairColumn = "text_pair",
    label_column: LabelColumn = "label",
    id_column: IdColumn = "id",
    target_column: TargetColumn = "target",
    allow_empty: AllowEmpty = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Build the index of a training set under a method, or go on with an unfinished one."""
    from whence.attribution import build
    from whence.methods import recipe_of
    from whence.model import Run

    changes: dict[str, Any] = {"path": path, "weights": weights, "loss": loss, "top": top, "top_by": top_by}
    changes = {name: value for name, value in changes.items() if value is not None} | (
        {"unit_norm": True} if unit_norm else {}
    )
    recipe = _usable(lambda: recipe_of(method, **changes))
    columns = _columns(text_column, pair_column, label_column, id_column, target_column)
    examples = _read(data, columns, split, revision, quiet=quiet, allow_empty=allow_empty)
    opened = Run.from_pretrained(run, tokenizer=tokenizer, trust_remote_code=trust_remote_code)
    built = build(
        opened,
        examples,
        out,
        recipe,
        columns=columns,
        max_length=max_length,
        batch_size=batch_size,
        max_bad_rows=max_bad_rows,
        steps=_steps(steps),
        second_moment=_choice("--second-moment", second_moment, ("recorded", "optimizer", "estimate")),
        quiet=quiet,
    )
    for note in built.store.manifest.notes:
        _hint(note, quiet=quiet)
    _show(as_json, lambda: built.summary, lambda: print(f"{out}: {built!r}"))


@app.command()
def explain(
    index: IndexFolder,
    text: Annotated[str | None, typer.Argument(metavar="[TEXT]", help="The text; - reads stdin.")] = None,
    label: Annotated[
        str | None, typer.Option(help="Class to explain, by name or number (default: the predicted one).")
    ] = None,
    against: Annotated[str | None, typer.Option(help="Why the label rather than this one.")] = None,
    pair: Annotated[str | None, typer.Option(help="Second text of a pair.")] = None,
    target: Annotated[str | None, typer.Option(help="The part that counts, after the prompt (language model).")] = None,
    k: Annotated[int, typer.Option("-k", min=1, help="Hits on each side.")] = 10,
    queries: Annotated[str | None, typer.Option(help="A file of queries, in the columns of a data set.")] = None,
    html: Annotated[Path | None, typer.Option(help="Also write one self-contained page.")] = None,
    run: Annotated[Path | None, typer.Option(help="Folder of the run, when it has moved.")] = None,
    baselines: Annotated[bool, typer.Option(help="Rank by the baselines too.")] = True,
    as_json: Json = False,
) -> None:
    """Say which training examples, and which words in them, helped or hurt an output."""
    from whence.attribution import open as open_index
    from whence.examples import read
    from whence.types import Example
    from whence.views import document
    from whence.views.terminal import print_answer

    if (text is None) == (queries is None):
        raise click.UsageError("give either a TEXT or --queries FILE")
    single = text if text != "-" else sys.stdin.read()
    asked: Iterable[Example] = (
        [Example("query", 0, single or "", label, pair, target)] if queries is None else read(queries)
    )
    opened = open_index(index, run=run)
    answers = []
    for answer in opened.explain_many(list(asked), against=against, k=k, baselines=baselines):
        _show(as_json, answer.to_dict, lambda shown=answer: print_answer(shown, Console()))
        answers.append(answer)
    if html is not None:
        html.write_text(document(*answers), encoding="utf-8")
        _hint(f"the page: {html}")


@app.command()
def labels(
    index: IndexFolder,
    out: Annotated[Path, typer.Option(help="CSV file in the columns of cleanlab's Datalab.")],
    ranking: Annotated[str, typer.Option(help="mean-loss, last-loss, influence or self-influence.")] = "mean-loss",
    limit: Annotated[int, typer.Option(min=0, help="Suspects to print.")] = 20,
    as_json: Json = False,
) -> None:
    """Rank suspected label errors and suggest fixes."""
    from whence.actions import RANKINGS, label_errors, write_label_csv
    from whence.store import Store
    from whence.views.terminal import print_labels

    report = label_errors(Store(index), _choice("--ranking", ranking, tuple(RANKINGS)))
    guarded = write_label_csv(report, out)
    _show(as_json, report.to_dict, lambda: print_labels(report, Console(), limit))
    _hint(
        f"{out}: {report.n_examples} rows, {report.flagged} flagged"
        + (f"; {guarded} cells got a leading ' for spreadsheets" if guarded else "")
    )


@app.command()
def check(
    run: RunFolder,
    data: Data,
    max_length: MaxLength = None,
    tokenizer: Tokenizer = None,
    trust_remote_code: TrustRemoteCode = False,
    split: Split = None,
    revision: Revision = None,
    text_column: TextColumn = "text",
    pair_column: PairColumn = "text_pair",
    label_column: LabelColumn = "label",
    id_column: IdColumn = "id",
    target_column: TargetColumn = "target",
    as_json: Json = False,
) -> None:
    """Check the capture against autograd, invariances, signs and coverage on your own run and data."""
    from whence.doctor import check as run_checks
    from whence.model import Run
    from whence.views.tables import print_table

    columns = _columns(text_column, pair_column, label_column, id_column, target_column)
    examples = _read(data, columns, split, revision)
    findings = run_checks(
        Run.from_pretrained(run, tokenizer=tokenizer, trust_remote_code=trust_remote_code),
        examples,
        max_length=max_length,
    )
    words = {True: "passed", False: "FAILED", None: ""}
    rows = [(one.name, one.value, one.bound, words[one.passed]) for one in findings]
    content = [{"name": one.name, "passed": one.passed, "value": one.value, "bound": one.bound} for one in findings]
    _show(
        as_json,
        lambda: {"findings": content},
        lambda: print_table(Console(), f"check of {run}", ("what", "found", "bound", ""), rows),
    )
    failed = [one.name for one in findings if one.passed is False]
    if failed:
        raise InputError(f"{len(failed)} check(s) failed ({failed[0]}): scores from this model cannot be trusted")


@app.command()
def methods(as_json: Json = False) -> None:
    """List the methods with their papers, costs and needs."""
    from whence.methods import METHODS
    from whence.views.tables import print_table

    content = [
        {"method": name, "summary": one.summary, "cost": one.cost, "needs": one.needs, "paper": one.paper}
        for name, one in METHODS.items()
    ]
    rows = [(one["method"], one["summary"], one["cost"], one["needs"]) for one in content]
    columns = ("method", "what it measures", "cost per checkpoint", "needs")
    _show(as_json, lambda: {"methods": content}, lambda: print_table(Console(), "methods", columns, rows))
    for paper in dict.fromkeys(one["paper"] for one in content):
        _hint("", quiet=as_json or paper == "baseline")
        _hint(
            f"{paper}: {', '.join(one['method'] for one in content if one['paper'] == paper)}",
            quiet=as_json or paper == "baseline",
        )


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and leave with its exit code.

    Args:
        arguments: words of the command line; None takes the process's own.
    """
    words = sys.argv[1:] if arguments is None else arguments
    try:
        code = app(words, standalone_mode=False)
    except click.exceptions.Exit as leaving:
        code = leaving.exit_code
    except (KeyboardInterrupt, click.Abort):
        code = _fail("stopped; what is finished is kept: the same command resumes", 130)
    except click.ClickException as error:
        code = _fail(error.format_message(), 2)
    except WhenceError as error:
        code = _fail(str(error), error.exit_code, debug="--debug" in words)
    except OSError as error:
        full = error.errno in {errno.ENOSPC, errno.EDQUOT}
        code = _fail(
            "no space left on the disk: free some; the same command resumes" if full else str(error),
            74 if full else 2,
            debug="--debug" in words,
        )
    except Exception as error:  # the last door: one line for people, the traceback on demand
        code = _fail(
            f"unexpected {type(error).__name__}: {error} (run with --debug to see where; please report it)",
            1,
            debug="--debug" in words,
        )
    sys.exit(code if isinstance(code, int) else 0)


def _fail(message: str, code: int, *, debug: bool = False) -> int:
    if debug:
        traceback.print_exc()
    print("whence: " + " ".join(message.split()), file=sys.stderr)
    return code


def _hint(message: str, *, quiet: bool = False) -> None:
    if not quiet:
        print(message, file=sys.stderr)


def _show(as_json: bool, content: Callable[[], Any], draw: Callable[[], object]) -> None:
    if as_json:
        print(json.dumps(content(), ensure_ascii=False, allow_nan=False))
    else:
        draw()


def _columns(text: str, pair: str, label: str, identity: str, target: str) -> "Columns":
    from whence.examples import Columns

    return Columns(text=text, text_pair=pair, label=label, id=identity, target=target)


def _read(
    data: str,
    columns: "Columns",
    split: str | None,
    revision: str | None,
    *,
    quiet: bool = False,
    allow_empty: bool = False,
) -> "Examples":
    from whence.examples import read

    examples = read(data, columns=columns, split=split, revision=revision, allow_empty=allow_empty)
    for line in examples.warnings:
        _hint(line, quiet=quiet)
    return examples


def _choice(option: str, value: str, known: tuple[str, ...]) -> Any:
    from whence.near import nearest

    if value not in known:
        raise click.UsageError(f"{option} {value!r}{nearest(value, known)}: choose one of {', '.join(known)}")
    return value


def _steps(text: str | None) -> tuple[int, ...] | None:
    try:
        return None if text is None else tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise click.UsageError(f"--steps {text!r}: give numbers with commas, such as 100,200") from error


def _usable(make: Callable[[], Any]) -> Any:
    from pydantic import ValidationError

    try:
        return make()
    except ValidationError as error:
        first = error.errors()[0]
        raise InputError(f"option {'.'.join(map(str, first['loc']))}: {first['msg']}") from error


if __name__ == "__main__":
    main()
