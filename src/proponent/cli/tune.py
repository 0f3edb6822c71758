"""The command that picks layers, method and aggregation for a model."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from proponent.cli import options
from proponent.cli.evaluate import Cache, Initial, Noise, Points, Queries, Settings, changes_of, prepared, write_page
from proponent.cli.options import Data, Json, Quiet
from proponent.cli.output import hint, show
from proponent.errors import InputError

if TYPE_CHECKING:
    from proponent.views.evaluation import EvaluationReport

Methods = Annotated[str, typer.Option(help="Methods to try, with commas.")]
Groups = Annotated[str, typer.Option("--layers", help="Groups (or patterns) of layers to try, with commas.")]


def tune(
    run: options.RunFolder,
    data: Data,
    out: Annotated[Path, typer.Option(help="Method file that `proponent index --method FILE` takes.")] = Path(
        "tuned.json"
    ),
    methods: Methods = "tracin-we,tracin-we-topk,tracin-we-adam+unit-norm,tracin-layers,grad-cos,datainf",
    groups: Groups = "embeddings,quarter-1,quarter-2,quarter-3,quarter-4,attention,mlp,head,all",
    noise: Noise = 0.2,
    count: Annotated[str, typer.Option(help="Queries that count: correct (predicted correctly) or all.")] = "correct",
    queries: Queries = None,
    points: Points = 100,
    initial: Initial = None,
    settings: Settings = None,
    cache: Cache = Path("proponent-evaluation"),
    pages: Annotated[
        list[Path] | None, typer.Option("--report", metavar="FILE", help="Also write .html, .md or .json.")
    ] = None,
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
    """Pick layers, method and aggregation for a model: plant label noise in a copy, train once, see what finds it."""
    if out.suffix.lower() != ".json":
        raise InputError(f"--out {out}: a method is written as JSON: name a file that ends in .json")
    for path in (out, *(pages or ())):
        options.usable(path, "--out" if path is out else "--report")
    which = options.choice("--count", count, ("correct", "all"))
    named = options.columns(text_column, pair_column, label_column, id_column, target_column)
    sizes: dict[str, Any] = {"points": points, "max_length": max_length, "seed": seed, "quiet": quiet}
    examples = options.read_data(data, named, split, quiet=quiet)
    asked = None if queries is None else options.read_data(queries, named, quiet=quiet)
    sizes["initial"] = initial
    request = prepared(run, tokenizer, trust_remote_code, examples, asked, cache, changes_of(settings), sizes)
    from proponent.evaluate.experiment import with_noise
    from proponent.evaluate.tuning import tune as run_tuning
    from proponent.method import METHOD
    from proponent.method_files import write_method

    subject, wrong = with_noise(request, noise)
    found = run_tuning(subject, wrong, _listed(methods), _listed(groups), correct_only=which == "correct")
    write_method(out, found.method, found.description)
    for path in pages or ():
        write_page(found.page, path)
    content = {
        "method_file": str(out),
        "method": METHOD.dump_python(found.method, mode="json"),
        "tuned": found.description,
    }
    show(as_json, lambda: found.page.to_dict() | content, lambda: _print(found.page))
    hint(f"the method: {out}; proponent index RUN DATA --out INDEX --method {out}", quiet=quiet)


def _print(page: "EvaluationReport") -> None:
    """One line per method: the rules beside each other, the interval of the best; the page has all intervals."""
    from proponent.views.tables import print_table

    rows: list[tuple[str, ...]] = []
    for one in page.rows:
        rules = one.figures[:-1]
        best = max(rules, key=lambda figure: figure.value or 0.0)
        values = [f"{figure.value or 0.0:.3f}" for figure in rules]
        name = f"{one.method}{' (control)' if one.control else ''}"
        rows.append(
            (
                name,
                *values,
                best.text.partition(" ")[2],
                one.figures[-1].text.partition(" ")[0],
                one.verdict.partition(" (")[0],
            )
        )
    columns = ("method", "mean", "rank", "vote", "of the best", "NDR@30%", "beats control?")
    told = [f"{name}: {value}" for name, value in page.facts]
    told.append("the intervals of every rule and of the gaps to the best control: --json, or --report FILE")
    print_table(Console(), page.title, columns, rows, [page.said, *told, *page.notes])


def _listed(text: str) -> tuple[str, ...]:
    return tuple(one.strip() for one in text.split(",") if one.strip())
