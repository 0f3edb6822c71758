"""Commands that ask: an index about an output or about labels, a run about itself."""

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from proponent.cli import options, replay
from proponent.cli.options import Data, IndexFolder, Json, Quiet
from proponent.cli.output import hint, show
from proponent.errors import InputError

if TYPE_CHECKING:
    from proponent.data import Columns
    from proponent.types import Example
    from proponent.views import Explanation


def explain(
    index: IndexFolder,
    text: Annotated[str | None, typer.Argument(metavar="[TEXT]", help="The text; - reads stdin.")] = None,
    label: Annotated[
        str | None, typer.Option(help="Class to explain, by name or number (default: the predicted one).")
    ] = None,
    against: options.Against = None,
    pair: Annotated[str | None, typer.Option(help="Second text of a pair.")] = None,
    target: Annotated[str | None, typer.Option(help="The part that counts, after the prompt (language model).")] = None,
    k: options.Hits = 10,
    queries: options.Queries = None,
    group: options.Group = False,
    aggregate: options.Join = "mean",
    over: options.Over = "layers",
    vote_k: options.VoteK = 0.2,
    only_correct: options.Correct = False,
    html: Annotated[Path | None, typer.Option(help="Also write one self-contained page.")] = None,
    run: options.MovedRun = None,
    method: Annotated[str | None, typer.Option(help="replay: INDEX is then a RUN, recorded for replay.")] = None,
    data: Annotated[str | None, typer.Option(help="What the run was trained on (replay).")] = None,
    baselines: options.Beside = True,
    filters: options.Filters = None,
    ids_file: options.IdsFile = None,
    partial: options.Partial = False,
    allow_missing: options.AllowMissing = False,
    kernel: Annotated[str, typer.Option(help="Takes the products: numpy or numba.")] = "numpy",
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
    """Say which training examples, and which words in them, helped or hurt an output."""
    if (text is None) == (queries is None):
        raise InputError("give either a TEXT or --queries FILE")
    if (group and queries is None) or (only_correct and not group):
        raise InputError("--group is about several queries, and --only-correct about a group: --queries FILE --group")
    options.usable(html, "--html")
    named = options.columns(text_column, pair_column, label_column, id_column, target_column)
    given = {"--label": label, "--pair": pair, "--target": target}
    asked = _one(text or "", given) if queries is None else _many(queries, given, named, split, quiet=quiet)
    if replay.wanted(method, data, {"--against": against, "--group": group, "--where": filters, "--run": run}):
        found = replay.answers(
            index, data or "", asked, named, split, k,
            baselines=baselines, trust_remote_code=trust_remote_code, quiet=quiet,
        )  # fmt: skip
    else:
        how: dict[str, Any] = {"against": against, "k": k, "baselines": baselines, "group": group}
        how["aggregate"] = options.aggregation(aggregate, over, vote_k, only_correct)
        opening = {"run": run, "trust_remote_code": trust_remote_code, "partial": partial}
        opening |= {"allow_missing": allow_missing, "kernel": options.choice("--kernel", kernel, ("numpy", "numba"))}
        found = _indexed(index, asked, opening, filters, options.ids_in(ids_file), how)
    _show(found, html, as_json=as_json, quiet=quiet)


def _indexed(
    index: Path,
    asked: "Sequence[Example]",
    opening: dict[str, Any],
    filters: list[str] | None,
    ids: list[str] | None,
    how: dict[str, Any],
) -> "Iterable[Explanation]":
    from proponent.api import open as open_index

    opened = open_index(index, **opening)
    how["where"] = options.where(filters, ids, opened.store.plan.label_names)
    group = how.pop("group")
    return [opened.explain_group(asked, **how)] if group else opened.explain_many(asked, **how)


def _show(found: "Iterable[Explanation]", html: Path | None, *, as_json: bool, quiet: bool) -> None:
    from proponent.views import Explanation, document
    from proponent.views.page import write
    from proponent.views.terminal import print_answer

    answers: list[Explanation] = []
    for answer in found:
        show(as_json, answer.to_dict, lambda shown=answer: print_answer(shown, Console()))
        answers.append(answer)
    if html is not None:
        write(html, document(*answers))
        hint(f"the page: {html}", quiet=quiet)


def labels(
    index: IndexFolder,
    out: Annotated[Path, typer.Option(help="CSV file in the columns of cleanlab's Datalab.")],
    ranking: Annotated[
        str, typer.Option(help="mean-probability, mean-loss, last-loss, influence or self-influence.")
    ] = "mean-probability",
    limit: Annotated[int, typer.Option(min=0, help="Suspects to print.")] = 20,
    allow_missing: options.AllowMissing = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Rank suspected label errors and suggest fixes."""
    options.usable(out, "--out")
    from proponent.actions.label_errors import RANKINGS, label_errors, write_label_csv
    from proponent.store import Store
    from proponent.views.terminal import print_labels

    store = Store(index, allow_missing=allow_missing)
    report = label_errors(store, options.choice("--ranking", ranking, tuple(RANKINGS)))
    if store.coverage < 1:
        hint(f"INCOMPLETE: shards are missing; {store.coverage:.0%} of the training examples are ranked", quiet=quiet)
    guarded = write_label_csv(report, out)
    show(as_json, report.to_dict, lambda: print_labels(report, Console(), limit))
    hint(f"{out}: {report.n_examples} rows, {report.flagged} flagged", quiet=quiet)
    if guarded:
        hint(f"{out}: {guarded} cells begin like a formula and got a leading ' for spreadsheets", quiet=quiet)


def check(
    run: options.RunFolder,
    data: Data,
    max_length: options.MaxLength = None,
    tokenizer: options.Tokenizer = None,
    trust_remote_code: options.TrustRemoteCode = False,
    split: options.Split = None,
    revision: options.Revision = None,
    text_column: options.TextColumn = "text",
    pair_column: options.PairColumn = "text_pair",
    label_column: options.LabelColumn = "label",
    id_column: options.IdColumn = "id",
    target_column: options.TargetColumn = "target",
    allow_empty: options.AllowEmpty = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Check the capture against autograd, invariances, signs and coverage on your own run and data."""
    from proponent.check import check as run_checks
    from proponent.models import Run
    from proponent.views.tables import print_table

    named = options.columns(text_column, pair_column, label_column, id_column, target_column)
    examples = options.read_data(data, named, split, revision, quiet=quiet, allow_empty=allow_empty)
    opened = Run.from_pretrained(run, tokenizer=tokenizer, trust_remote_code=trust_remote_code)
    findings = run_checks(opened, examples, max_length=max_length)
    words = {True: "passed", False: "FAILED", None: "-"}
    rows = [(words[one.passed], one.name, one.description) for one in findings]
    content = [{"name": one.name, "passed": one.passed, "value": one.value, "bound": one.bound} for one in findings]
    show(
        as_json,
        lambda: {"findings": content},
        lambda: print_table(Console(), f"check of {run}", ("", "what", "found"), rows),
    )
    failed = [one.name for one in findings if one.passed is False]
    if failed:
        raise InputError(f"{len(failed)} check(s) failed ({failed[0]}): scores from this model cannot be trusted")


def methods(as_json: Json = False) -> None:
    """List the methods with their papers, costs and needs."""
    from proponent.method_table import METHODS
    from proponent.views.tables import print_table

    content = [
        {"method": name, "summary": one.summary, "cost": one.cost, "needs": one.needs, "paper": one.paper}
        for name, one in METHODS.items()
    ]
    rows = [(one["method"], one["summary"], one["cost"], one["needs"]) for one in content]
    papers = {paper: [one["method"] for one in content if one["paper"] == paper] for paper in _papers(content)}
    notes = [f"{', '.join(named)}: {paper}" for paper, named in papers.items()]
    columns = ("method", "what it measures", "cost per checkpoint", "needs")
    show(as_json, lambda: {"methods": content}, lambda: print_table(Console(), "methods", columns, rows, notes))


def _papers(content: list[dict[str, str]]) -> list[str]:
    return [paper for paper in dict.fromkeys(one["paper"] for one in content) if paper != "baseline"]


def _stdin() -> str:
    """All of stdin, as the text that was meant: without the line end that `echo` adds."""
    try:
        return sys.stdin.buffer.read().decode("utf-8").removesuffix("\n")
    except UnicodeDecodeError as error:
        raise InputError(
            f"stdin is not UTF-8 at byte {error.start}: convert the text, for example with iconv"
        ) from error


def _one(text: str, given: dict[str, str | None]) -> "Sequence[Example]":
    from proponent.types import Example

    return [Example("query", 0, _stdin() if text == "-" else text, *given.values())]


def _many(
    file: str, given: dict[str, str | None], named: "Columns", split: str | None, *, quiet: bool
) -> "Sequence[Example]":
    _only_in_file(given)
    return options.read_data(file, named, split, quiet=quiet)


def _only_in_file(given: dict[str, str | None]) -> None:
    for option, value in given.items():
        if value is not None:
            raise InputError(f"{option} belongs to one TEXT; with --queries give a column of the file instead")
