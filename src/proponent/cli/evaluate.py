"""The command that asks whether scores are true."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from proponent.cli import options
from proponent.cli.options import Data, Json, Quiet
from proponent.cli.output import hint, show
from proponent.errors import InputError
from proponent.suggest import nearest

if TYPE_CHECKING:
    from proponent.data import Examples
    from proponent.evaluate.experiment import EvaluationRequest
    from proponent.views.evaluation import EvaluationReport

_METRICS = ("deletion", "lds", "ndr", "mislabel", "facts", "tailpatch", "cancellation")


Methods = Annotated[str, typer.Option(help="Names with commas; +unit-norm after a name is its variant.")]
Budget = Annotated[float | None, typer.Option(metavar="MINUTES", help="Time for retraining; decides the sizes.")]
Queries = Annotated[str | None, typer.Option(metavar="FILE", help="Without it some rows of DATA are held out.")]
Points = Annotated[int, typer.Option(min=1, help="Most queries.")]
Ks = Annotated[str, typer.Option("-k", "--k", help="Rows that a deletion deletes: 10,30,100.")]
Seeds = Annotated[int | None, typer.Option(min=1, help="Retrains of each subset (2) or deletion (3).")]
Subsets = Annotated[int | None, typer.Option(min=1, help="Random halves of an LDS.")]
Runs = Annotated[int, typer.Option(min=1, help="Seeded runs whose scores are summed.")]
Workers = Annotated[int, typer.Option(min=1, help="Processes that train.")]
Noise = Annotated[float, typer.Option(min=0.01, max=0.5, help="Share of labels that ndr replaces.")]
Truth = Annotated[str | None, typer.Option(help="Column of the true labels, for mislabel.")]
Gold = Annotated[str, typer.Option(help="Column of QUERIES with ids, for facts.")]
Initial = Annotated[str | None, typer.Option(help="Weights before training: a model, or fresh.")]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="epochs, batch_size, learning_rate ... if other."),
]
Cache = Annotated[Path, typer.Option(help="Folder of everything that is trained; resumes.")]
Files = Annotated[
    list[Path] | None, typer.Option("--out", metavar="FILE", help="Also write .html, .md or .json; may be repeated.")
]


def evaluate(
    run: options.RunFolder,
    data: Data,
    metric: Annotated[str, typer.Option(help="deletion, lds, ndr, mislabel, facts, tailpatch or cancellation.")],
    methods: Methods = "tracin-we,tracin-we-adam+unit-norm,tracin-last",
    budget: Budget = None,
    queries: Queries = None,
    points: Points = 40,
    k: Ks = "10,30,100",
    seeds: Seeds = None,
    subsets: Subsets = None,
    runs: Runs = 1,
    workers: Workers = 1,
    noise: Noise = 0.2,
    truth_column: Truth = None,
    gold_column: Gold = "gold",
    initial: Initial = None,
    settings: Settings = None,
    cache: Cache = Path("proponent-evaluation"),
    out: Files = None,
    max_length: options.MaxLength = None,
    seed: int = 0,
    tokenizer: options.Tokenizer = None,
    trust_remote_code: options.TrustRemoteCode = False,
    split: options.Split = None,
    text_column: options.TextColumn = "text",
    pair_column: options.PairColumn = "text_pair",
    label_column: options.LabelColumn = "label",
    id_column: options.IdColumn = "id",
    target_column: options.TargetColumn = "target",
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Measure methods side by side, with controls and intervals, by training again where the metric needs it."""
    chosen = options.choice("--metric", metric, _METRICS)
    for path in out or ():
        options.usable(path, "--out")
    named = options.columns(text_column, pair_column, label_column, id_column, target_column)
    sizes: dict[str, Any] = {"budget": budget, "points": points, "ks": _numbers(k), "seeds": seeds, "subsets": subsets}
    sizes |= {"runs": runs, "workers": workers, "max_length": max_length, "seed": seed, "quiet": quiet}
    sizes |= {"methods": tuple(one.strip() for one in methods.split(",") if one.strip()), "initial": initial}
    examples = options.read_data(data, named, split, quiet=quiet)
    asked = None if queries is None else options.read_data(queries, named, quiet=quiet)
    request = prepared(run, tokenizer, trust_remote_code, examples, asked, cache, changes_of(settings), sizes)
    page = _measured(chosen, request, examples, asked, noise, truth_column, gold_column)
    for path in out or ():
        write_page(page, path)
    show(as_json, page.to_dict, lambda: print_page(page))


def prepared(
    run: Path,
    tokenizer: Path | None,
    trust_remote_code: bool,
    examples: "Examples",
    asked: "Examples | None",
    cache: Path,
    changes: dict[str, Any],
    sizes: dict[str, Any],
) -> "EvaluationRequest":
    """Open the run and gather a request."""
    from proponent.evaluate.experiment import EvaluationRequest
    from proponent.models import Run

    opened = Run.from_pretrained(run, tokenizer=tokenizer, trust_remote_code=trust_remote_code)
    queries = None if asked is None else list(asked)
    quiet = bool(sizes["quiet"])
    return EvaluationRequest(
        opened, list(examples), queries, cache, changes=changes, say=lambda line: hint(line, quiet=quiet), **sizes
    )


def changes_of(given: Sequence[str] | None) -> dict[str, Any]:
    """Read hyper-parameters that the user knows better than the run's record."""
    from dataclasses import fields

    from proponent.training.schedule import Settings as Known

    known = {one.name: one.type for one in fields(Known) if one.name not in {"keep_places", "betas"}}
    found: dict[str, Any] = {}
    for text in given or ():
        name, _, value = text.partition("=")
        name = name.strip().replace("-", "_")
        if name not in known:
            raise InputError(f"--set {text!r}{nearest(name, known)}: give NAME=VALUE with one of {', '.join(known)}")
        words = name in {"optimizer", "schedule"}
        try:
            found[name] = value if words else int(value) if name in {"epochs", "batch_size", "warmup"} else float(value)
        except ValueError as error:
            raise InputError(f"--set {text!r}: {value!r} is no number") from error
    return found


def write_page(page: "EvaluationReport", path: Path) -> None:
    """Write a page as Markdown, HTML or JSON, by the end of the file's name."""
    from proponent.views.page import write

    if path.suffix.lower() == ".md":
        write(path, page.markdown())
    else:
        page.save(path)


def _measured(
    metric: str,
    request: "EvaluationRequest",
    examples: "Examples",
    asked: "Examples | None",
    noise: float,
    truth_column: str | None,
    gold_column: str,
) -> "EvaluationReport":
    from dataclasses import replace

    from proponent.evaluate import metrics
    from proponent.evaluate.cancellation import measure_cancellation
    from proponent.evaluate.experiment import Experiment, with_noise
    from proponent.evaluate.label_noise import wrong_labels

    if metric == "cancellation":
        return measure_cancellation(request)
    if metric == "facts":
        gold = _gold(asked, gold_column)
        return metrics.measure_facts(Experiment(replace(request, points=len(gold))), gold)
    if metric == "mislabel":
        truth = _truth(examples, truth_column)
        subject = Experiment(request)
        return metrics.measure_noise(subject, wrong_labels(subject.problem.train, truth), planted=False)
    if metric == "ndr":
        subject, wrong = with_noise(request, noise)
        return metrics.measure_noise(subject, wrong, planted=True)
    measures = {
        "deletion": metrics.measure_deletion,
        "lds": metrics.measure_lds,
        "tailpatch": metrics.measure_tail_patch,
    }
    return measures[metric](Experiment(request))


def _gold(asked: "Examples | None", column: str) -> list[list[str]]:
    if asked is None or column not in asked.column_names:
        raise InputError(
            f"fact tracing needs --queries with a column {column!r} of the ids of the rows that state each fact "
            "(several with spaces); --gold-column names another"
        )
    gold = [str(value).split() for value in asked.column(column)]
    empty = next((row for row, ids in enumerate(gold) if not ids), None)
    if empty is not None:
        raise InputError(f"query {empty} has no gold id in {column!r}: drop it or name rows")
    return gold


def _truth(examples: "Examples", column: str | None) -> dict[str, str]:
    """The true label of each row, by its id; rows without one count as right."""
    if column is None or column not in examples.column_names:
        raise InputError("mislabel needs --truth-column, the column of DATA with the true labels (empty where unknown)")
    return {
        one.id: str(value)
        for one, value in zip(examples, examples.column(column), strict=True)
        if value is not None and str(value) != ""
    }


def _numbers(text: str) -> tuple[int, ...]:
    try:
        return tuple(sorted({int(one) for one in text.split(",")}))
    except ValueError as error:
        raise InputError(f"--k {text!r}: give numbers with commas, such as 10,30,100") from error


def print_page(page: "EvaluationReport") -> None:
    """Print a page in the terminal."""
    from proponent.views.evaluation import VERDICT
    from proponent.views.tables import print_table

    rows: Sequence[Sequence[str]] = [
        (
            f"{one.method}{' (control)' if one.control else ''}",
            *(figure.text for figure in one.figures),
            *([one.verdict] if page.has_verdicts else []),
        )
        for one in page.rows
    ]
    told = [f"{name}: {value}" for name, value in page.facts]
    columns = (page.row_name, *page.columns, *([VERDICT] if page.has_verdicts else []))
    print_table(Console(), page.title, columns, rows, [page.said, *told, *page.notes])
