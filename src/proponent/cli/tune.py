"""The command that selects layers, method and aggregation for a model."""

from pathlib import Path
from typing import Annotated

import typer

from proponent.cli.evaluate import requested
from proponent.cli.options import (
    ColumnOptions,
    Data,
    ModelOptions,
    OutputOptions,
    QueryFile,
    RetrainOptions,
    RunFolder,
    choice,
    listed,
    usable,
)
from proponent.errors import InputError


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
    count: Annotated[str, typer.Option(help="Which queries count: correct (correctly predicted) or all.")] = "correct",
    queries: QueryFile = None,
    points: Annotated[int, typer.Option(min=1, help="Maximum number of queries.")] = 100,
    pages: Annotated[
        list[Path] | None, typer.Option("--report", metavar="FILE", help="Also write .html, .md or .json; repeatable.")
    ] = None,
) -> None:
    """Select layers, method and aggregation: train once on data with planted label noise and compare."""
    if out.suffix.lower() != ".json":
        raise InputError(f"--out {out}: a method file is written as JSON: name a file that ends in .json")
    for path in (out, *(pages or ())):
        usable(path, "--out" if path is out else "--report")
    which = choice("--count", count, ("correct", "all"))
    request = requested(run, data, queries, retraining, model, columns, output, {"points": points})
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
    output.hint(f"the method: {out}; proponent index RUN DATA --out INDEX --method {out}")
