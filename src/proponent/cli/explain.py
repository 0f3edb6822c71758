"""Commands that explain outputs, rank suspected label errors, check a run, and list the methods."""

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer
from rich.console import Console

from proponent.cli.answering import Alone, Answers
from proponent.cli.assignments import settings_in
from proponent.cli.chat_options import AskingOptions
from proponent.cli.console import Prompt, on_terminal, typed
from proponent.cli.data_options import ColumnOptions, DataOptions
from proponent.cli.options import (
    Against,
    AggregateOptions,
    Baselines,
    Data,
    Hits,
    IndexFolder,
    MaxLength,
    MethodOptions,
    ModelOptions,
    OpenOptions,
    OutputOptions,
    QueryFile,
    RunFolder,
    choice,
    ids_in,
    usable,
)
from proponent.cli.test_set import TestSetOptions, report_test_set
from proponent.errors import InputError
from proponent.method import Loop

if TYPE_CHECKING:
    from proponent.data import Examples
    from proponent.types import Example
    from proponent.views import Explanation


Filters = Annotated[
    list[str] | None,
    typer.Option("--where", metavar="COLUMN=VALUE", help="Only examples with this label or source; may be repeated."),
]
IdsFile = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Only examples whose ids are listed in this file, one per line.")
]
AskedText = Annotated[str | None, typer.Argument(metavar="TEXT", help="- reads stdin; on a terminal, none: a prompt.")]
Completion = Annotated[str | None, typer.Option(help="The completion to explain, after the prompt (language model).")]
ExplainedClass = Annotated[
    str | None, typer.Option(help="Class to explain, by name or number (default: the predicted one).")
]
LoopFields = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="Setting of such a method: neighbours=token; repeatable."),
]
HideFunctionWords = Annotated[
    bool,
    typer.Option("--hide-function-words", help="Name no function words (English) and no punctuation; only count them."),
]


def explain(
    index: IndexFolder,
    together: AggregateOptions,
    opening: OpenOptions,
    columns: ColumnOptions,
    asking: AskingOptions,
    tested: TestSetOptions,
    output: OutputOptions,
    text: AskedText = None,
    label: ExplainedClass = None,
    against: Against = None,
    pair: Annotated[str | None, typer.Option(help="Second text of the pair.")] = None,
    target: Completion = None,
    k: Hits = 10,
    queries: QueryFile = None,
    filters: Filters = None,
    ids_file: IdsFile = None,
    baselines: Baselines = True,
    hide_function_words: HideFunctionWords = False,
    html: Annotated[Path | None, typer.Option(help="Also write a self-contained HTML page.")] = None,
    kernel: Annotated[str, typer.Option(help="Implementation of the inner loop: numpy or numba.")] = "numpy",
    alone: Alone = False,
    method: Annotated[
        str | None, typer.Option(help="replay or rollback: pass a RUN that recorded it in place of INDEX.")
    ] = None,
    data: Annotated[str | None, typer.Option(help="Training data of the run (replay, rollback).")] = None,
    fields: LoopFields = None,
) -> None:
    """Explain an output: the training examples, and the words in them, that helped or hurt it."""
    usable(html, "--html")
    given = {"--label": label, "--pair": pair, "--target": target}
    refused = asking.given | {"--against": against, "--group": together.group, "--where": filters}
    if tested.test is not None:
        other = {"TEXT": text, "--queries": queries} | given | refused | {"--ids-file": ids_file}
        tested.refuse_other(other | {"--method": method, "--data": data, "--set": fields})
        report_test_set(index, tested, opening, columns, output, k, html)
        return
    prompting = text is None and queries is None and asking.messages is None and on_terminal()
    _refuse_several("" if prompting else text, queries, asking, together)
    how: dict[str, Any] = {"against": against, "k": k, "baselines": baselines}
    options = vars(opening) | {"kernel": choice("--kernel", kernel, ("numpy", "numba"))}
    answers = Answers(index, options, (filters, ids_in(ids_file)), together, output.hint, alone=alone)
    one = how | {"label": label, "text_pair": pair, "target": target, **asking.one}
    if prompting:
        _refuse_beside_prompt({"--html": html, "--method": method, "--data": data, "--set": fields})
        _prompt(answers, one, output, hide=hide_function_words)
        return
    asked = _one(text or "", given) if queries is None else _many(queries, given, columns, output)
    if _replays(method, data, refused | {"--run": opening.run}, fields):
        how = {"k": k, "baselines": baselines, "quiet": output.quiet, "say": output.hint}
        rows = columns.read(data or "", output)
        found: Iterable[Explanation] = _retraced(
            index, opening, rows, asked, _loop(method or "", fields, together), how
        )
    elif queries is None:
        found = [answers.explain(None if text is None else asked[0].text, messages=asking.read(), **one)]
    else:
        found = answers.explain_file(asked, **how)
    _show((one.without_function_words() for one in found) if hide_function_words else found, html, output)


def _refuse_beside_prompt(given: Mapping[str, object]) -> None:
    """Refuse options of one question, or of a run, beside a prompt."""
    taken = next((name for name, said in given.items() if said), None)
    if taken is not None:
        raise InputError(f"{taken} is for one question: give a TEXT, or leave {taken} out to get a prompt")


def _prompt(answers: Answers, how: dict[str, Any], output: OutputOptions, *, hide: bool) -> None:
    """Answer what is typed, with the model loaded once."""
    answers.open()
    output.hint("type a text, or :help; leave with :quit or Ctrl-D")

    def show(one: "Explanation") -> None:
        _show([one.without_function_words() if hide else one], None, output)

    on_stdout = sys.stdout.isatty() and not output.as_json
    Prompt(answers, how, show, output.hint).run(typed(prompt_on_stdout=on_stdout))


def _refuse_several(text: str | None, queries: str | None, asking: AskingOptions, together: AggregateOptions) -> None:
    """Refuse several sources of questions, and options of one question beside a file of them."""
    if sum(one is not None for one in (text, queries, asking.messages)) != 1:
        raise InputError("give either a TEXT or --queries FILE (or, to a language model, --messages FILE)")
    if queries is not None and asking.given:
        raise InputError(f"{next(iter(asking.given))} is about one question; --queries FILE has several")
    if (together.group and queries is None) or (together.only_correct and not together.group):
        raise InputError("--group needs --queries FILE, and --only-correct needs --group")


def _replays(method: str | None, data: str | None, given: Mapping[str, object], settings: list[str] | None) -> bool:
    """Whether to explain a run without an index; refuse incompatible options."""
    if method is None:
        if settings:
            raise InputError("--set is only for --method replay or rollback: an index keeps its method as it was built")
        if data is not None:
            raise InputError("--data is only for --method replay or rollback: an index holds its training set already")
        return False
    from proponent.method_table import METHODS

    loops = [name for name, row in METHODS.items() if isinstance(row.method, Loop)]
    if method not in loops:
        raise InputError(
            f"--method {method!r}: an index already has a method (build a new index with `proponent index --method "
            f"{method}`); without an index, the methods for a run are {' or '.join(loops)} only"
        )
    if data is None:
        raise InputError(
            f"--method {method} needs --data DATA, the file that the run was trained on, in the same order"
        )
    taken = [name for name, said in given.items() if said]
    if taken:
        raise InputError(f"--method {method} does not support {taken[0]}")
    return True


def _loop(method: str, fields: list[str] | None, together: AggregateOptions) -> Loop:
    """A method without an index, with its settings; it does not aggregate, but wrong words for that are refused."""
    from proponent.method_table import method_of

    together.rule()
    changes: dict[str, object] = {f"settings.{name}": value for name, value in settings_in(fields).items()}
    return cast("Loop", method_of(method, **changes))


def _retraced(
    folder: Path,
    opening: OpenOptions,
    examples: "Examples",
    asked: "Sequence[Example]",
    loop: Loop,
    how: dict[str, Any],
) -> "Iterable[Explanation]":
    """Explanations of a run without an index."""
    from proponent.dynamics.explain import explain_run
    from proponent.models import Run

    if opening.device_map is not None:
        raise InputError("--method replay and rollback need the model on one device: leave --device-map out")
    how_run: dict[str, Any] = {"trust_remote_code": opening.trust_remote_code, "device": opening.device}
    run = Run.from_pretrained(folder, base=opening.base, dtype=opening.dtype or "float32", **how_run)
    return explain_run(run, examples, asked, loop, **how)


def _show(found: "Iterable[Explanation]", html: Path | None, output: OutputOptions) -> None:
    from proponent.views import Explanation, document
    from proponent.views.page import write
    from proponent.views.terminal import print_answer

    shown: list[Explanation] = []
    for one in found:
        output.show(one.to_dict, lambda shown=one: print_answer(shown, Console()))
        shown.append(one)
    if html is not None:
        write(html, document(*shown))
        output.hint(f"HTML page: {html}")


def read_stdin() -> str:
    """Read stdin without the line end that `echo` adds."""
    try:
        return sys.stdin.buffer.read().decode("utf-8").removesuffix("\n")
    except UnicodeDecodeError as error:
        raise InputError(
            f"stdin is not UTF-8 at byte {error.start}: convert the text, for example with iconv"
        ) from error


def _one(text: str, given: dict[str, str | None]) -> "Sequence[Example]":
    from proponent.types import Example

    return [Example("query", 0, read_stdin() if text == "-" else text, *given.values())]


def _many(
    file: str, given: dict[str, str | None], columns: ColumnOptions, output: OutputOptions
) -> "Sequence[Example]":
    for option, value in given.items():
        if value is not None:
            raise InputError(f"{option} is only for a single TEXT; with --queries, name a column of the file instead")
    return columns.read_queries(file, output)


def check(
    run: RunFolder,
    data: Data,
    model: ModelOptions,
    columns: DataOptions,
    method: MethodOptions,
    output: OutputOptions,
    max_length: MaxLength = None,
) -> None:
    """Compare captured gradients with autograd, and check projection, signs and coverage on your run and data."""
    from proponent.check import check as run_checks
    from proponent.views.tables import print_table

    examples = columns.read(data, output)
    chosen = method.changed(method.method or "tracin-all")
    findings = run_checks(model.open(run), examples, max_length=max_length, method=chosen)
    words = {True: "passed", False: "FAILED", None: "-"}
    rows = [
        ("warning" if one.passed and one.warning else words[one.passed], one.name, one.description) for one in findings
    ]
    content = [asdict(one) for one in findings]
    warnings = [f"{one.name}: {one.warning}" for one in findings if one.warning]
    output.show(
        lambda: {"findings": content},
        lambda: print_table(Console(), f"check of {run}", ("", "what", "found"), rows, warnings),
    )
    failed = [one.name for one in findings if one.passed is False]
    if failed:
        raise InputError(f"{len(failed)} check(s) failed ({failed[0]}): scores from this model cannot be trusted")


def methods(output: OutputOptions) -> None:
    """List the methods with their papers, costs and needs."""
    from proponent.method_table import METHODS
    from proponent.views.tables import print_table

    content = [
        {"method": name, "summary": one.summary, "cost": one.cost, "needs": one.needs, "paper": one.paper}
        for name, one in METHODS.items()
    ]
    rows = [(one["method"], one["summary"], one["cost"], one["needs"]) for one in content]
    papers = {one["paper"]: list[str]() for one in content if one["paper"] != "baseline"}
    for one in content:
        if one["paper"] in papers:
            papers[one["paper"]].append(one["method"])
    notes = [f"{', '.join(named)}: {paper}" for paper, named in papers.items()]
    columns = ("method", "what it measures", "cost per checkpoint", "needs")
    output.show(lambda: {"methods": content}, lambda: print_table(Console(), "methods", columns, rows, notes))
