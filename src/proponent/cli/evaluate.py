"""Commands that retrain: validate scores, and select layers, method and aggregation for a model."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from proponent.cli.data_options import ColumnOptions
from proponent.cli.options import (
    Data,
    ModelOptions,
    OutputOptions,
    PageFiles,
    QueryFile,
    RetrainOptions,
    RunFolder,
    choice,
    listed,
    numbers,
    usable,
)
from proponent.errors import InputError

if TYPE_CHECKING:
    from proponent.evaluate.experiment import EvaluationRequest

ArrayFile = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Write scores, halves and outputs of an LDS as safetensors (a bank)."),
]
BankFile = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Measure an LDS against the halves of a bank, and train none again."),
]

_METRICS = ("deletion", "lds", "ndr", "mislabel", "facts", "tailpatch", "words", "cancellation")


def evaluate(
    run: RunFolder,
    data: Data,
    metric: Annotated[str, typer.Option(help="deletion, lds, ndr, mislabel, facts, tailpatch, words or cancellation.")],
    retraining: RetrainOptions,
    model: ModelOptions,
    columns: ColumnOptions,
    output: OutputOptions,
    methods: Annotated[
        str, typer.Option(help="Comma-separated method names; NAME+unit-norm selects the normalized variant.")
    ] = "tracin-we,tracin-we-adam+unit-norm,tracin-last",
    queries: QueryFile = None,
    points: Annotated[int, typer.Option(min=1, help="Maximum number of queries.")] = 40,
    budget: Annotated[
        float | None,
        typer.Option(metavar="MINUTES", help="Time budget for retraining; determines sample sizes."),
    ] = None,
    k: Annotated[str, typer.Option("-k", "--k", help="Numbers of training rows to delete.")] = "10,30,100",
    words: Annotated[int, typer.Option(min=1, help="Words to take out of each row, for words.")] = 3,
    helped_only: Annotated[
        bool, typer.Option("--helped-only", help="Delete only rows that helped: half of the retrains.")
    ] = False,
    seeds: Annotated[
        int | None, typer.Option(min=1, help="Retrains per subset (default 2) or deletion (default 3).")
    ] = None,
    subsets: Annotated[int | None, typer.Option(min=1, help="Number of random half subsets for LDS.")] = None,
    interval: Annotated[
        float | None,
        typer.Option(
            metavar="WIDTH", help="Largest half-width of an LDS's 95 % interval; refused if halves are too few."
        ),
    ] = None,
    groups: Annotated[
        str, typer.Option(help="Groups for LDS within groups: auto, class, source, format or length.")
    ] = "auto",
    stratified: Annotated[bool, typer.Option("--stratified", help="Fix the group counts of the LDS halves.")] = False,
    runs: Annotated[int, typer.Option(min=1, help="Number of seeded runs whose scores are summed.")] = 1,
    workers: Annotated[int, typer.Option(min=1, help="Number of training processes.")] = 1,
    truth_column: Annotated[str | None, typer.Option(help="Column of DATA with the true labels, for mislabel.")] = None,
    gold_column: Annotated[
        str, typer.Option(help="Column of the query file with the ids of the gold passages, for facts.")
    ] = "gold",
    arrays: ArrayFile = None,
    bank: BankFile = None,
    out: PageFiles = None,
) -> None:
    """Compare methods with controls and confidence intervals, retraining where the metric requires it."""
    chosen = choice("--metric", metric, _METRICS)
    _check_files(chosen, out, arrays, bank)
    sizes: dict[str, Any] = {"methods": listed(methods), "budget": budget, "points": points, "seeds": seeds}
    sizes |= {"ks": tuple(sorted(set(numbers("--k", k, "10,30,100")))), "subsets": subsets, "interval": interval}
    sizes |= {"words": words, "runs": runs, "workers": workers, "groups": groups, "stratified": stratified}
    sizes |= {"arrays": arrays, "bank": bank, "sides": ("helped",) if helped_only else ("helped", "hurt")}
    request = _requested(run, data, queries, retraining, model, columns, output, sizes)
    from proponent.evaluate.measure import measure
    from proponent.views.evaluation import print_report

    page = measure(chosen, request, retraining.noise, truth_column, gold_column)
    for path in out or ():
        page.save(path)
    output.show(page.to_dict, lambda: print_report(page))


def _check_files(metric: str, pages: list[Path] | None, arrays: Path | None, bank: Path | None) -> None:
    """Refuse files that cannot be written or read, before any work is done."""
    if bank is not None and not bank.is_file():
        raise InputError(f"--bank {bank}: there is no such file; `evaluate --metric lds --arrays FILE` writes one")
    if bank is not None and metric != "lds":
        raise InputError(f"--bank {bank}: only --metric lds has halves and their outputs")
    for path in pages or ():
        usable(path, "--out")
    usable(arrays, "--arrays")
    if arrays is not None and metric != "lds":
        raise InputError(f"--arrays {arrays}: only --metric lds has halves and their outputs")


def _requested(
    run: Path,
    data: str,
    queries: str | None,
    retraining: RetrainOptions,
    model: ModelOptions,
    columns: ColumnOptions,
    output: OutputOptions,
    sizes: dict[str, Any],
) -> "EvaluationRequest":
    """Read run and data, and build the evaluation request."""
    examples = columns.read(data, output)
    asked = None if queries is None else columns.read_queries(queries, output)
    from proponent.evaluate.experiment import EvaluationRequest
    from proponent.evaluate.measure import read_changes

    changes = read_changes(retraining.settings or ())
    return EvaluationRequest(
        model.open(run),
        examples,
        asked,
        retraining.cache,
        changes=changes,
        initial=retraining.initial,
        max_length=retraining.max_length,
        seed=retraining.seed,
        quiet=output.quiet,
        say=output.hint,
        **sizes,
    )


def tune(
    run: RunFolder,
    data: Data,
    retraining: RetrainOptions,
    model: ModelOptions,
    columns: ColumnOptions,
    output: OutputOptions,
    out: Annotated[Path, typer.Option(help="Method file to write, for `proponent index --method FILE`.")] = Path(
        "tuned.json"
    ),
    methods: Annotated[
        str, typer.Option(help="Comma-separated methods to try.")
    ] = "tracin-we,tracin-we-topk,tracin-we-adam+unit-norm,tracin-layers,grad-cos,datainf",
    groups: Annotated[
        str, typer.Option("--layers", help="Comma-separated layer groups or patterns to try.")
    ] = "embeddings,quarter-1,quarter-2,quarter-3,quarter-4,attention,mlp,head,all",
    count: Annotated[
        str, typer.Option(help="Queries to use: correct (only correctly predicted queries) or all.")
    ] = "correct",
    queries: QueryFile = None,
    points: Annotated[int, typer.Option(min=1, help="Maximum number of queries.")] = 100,
    pages: Annotated[
        list[Path] | None, typer.Option("--report", metavar="FILE", help="Also write .html, .md or .json; repeatable.")
    ] = None,
) -> None:
    """Select layers, method and aggregation: train once on data with planted label noise and compare."""
    if out.suffix.lower() != ".json":
        raise InputError(f"--out {out}: a method file is a JSON file: give a name that ends in .json")
    for path in (out, *(pages or ())):
        usable(path, "--out" if path is out else "--report")
    which = choice("--count", count, ("correct", "all"))
    request = _requested(run, data, queries, retraining, model, columns, output, {"points": points})
    from proponent.evaluate.experiment import with_noise
    from proponent.evaluate.tuning import tune as run_tuning
    from proponent.method import METHOD
    from proponent.method_files import write_method
    from proponent.views.evaluation import print_tuning

    subject, wrong = with_noise(request, retraining.noise)
    found = run_tuning(subject, wrong, listed(methods), listed(groups), correct_only=which == "correct")
    write_method(out, found.method, found.description)
    for path in pages or ():
        found.page.save(path)
    content = {
        "method_file": str(out),
        "method": METHOD.dump_python(found.method, mode="json"),
        "tuned": found.description,
    }
    output.show(lambda: found.page.to_dict() | content, lambda: print_tuning(found.page))
    output.hint(f"method file: {out}; to use it: proponent index RUN DATA --out INDEX --method {out}")
