"""Pages of an index itself: its contents, the progress of its build, its actions, errors."""

import time
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, ClassVar

from proponent.actions import ACTIONS, action
from proponent.actions.correction_diff import Change, correction_diff
from proponent.actions.decisions import ACTS
from proponent.errors import DamagedError, InputError, MismatchError, ProponentError
from proponent.store import watch
from proponent.views import Page, RowReport
from proponent.views.frames import AnswerLinks, Link, Screen
from proponent.views.page import Limits
from proponent.web.layout import FILES, file_links, step_words
from proponent.web.open_indexes import OpenIndex
from proponent.web.states import ExampleState, TableState

MOST_CHANGES = 500
"""Changed rows on one page; the page counts the others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AboutScreen(Screen):
    """The contents of an index, and how to read scores."""

    template: ClassVar[str] = "explorer/about.html.j2"

    facts: Annotated[tuple[tuple[str, str], ...], "name and value"]
    checkpoints: Annotated[tuple[tuple[str, float, str], ...], "step, learning rate, rule"]
    notes: Annotated[tuple[str, ...], "what every answer repeats"]
    decisions: Annotated[tuple[tuple[str, int], ...], "decision and how many examples"]
    actions: Annotated[tuple[Link, ...], "actions that this index allows"]
    command: Annotated[str, "the command that writes the corrected data set"]
    changes: Annotated[Link, "what the decisions change, row by row"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangesScreen(Screen):
    """What the decisions change in the data set, row by row."""

    template: ClassVar[str] = "explorer/changes.html.j2"

    changes: Annotated[tuple[tuple[Change, str], ...], "changed rows, and the page of each; at most `MOST_CHANGES`"]
    fixed: Annotated[int, "labels that change"]
    dropped: Annotated[int, "rows that are left out"]
    data: Annotated[str, "name of the data set"]
    rows: Annotated[int, "its rows"]


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildScreen(Screen):
    """An index during its build."""

    template: ClassVar[str] = "explorer/build.html.j2"

    n: Annotated[int, "training examples"]
    share: Annotated[float, "part of the gradients that is finished, 0 to 1"]
    steps: Annotated[tuple[tuple[str, int], ...], "checkpoint and finished examples"]
    facts: Annotated[tuple[tuple[str, str], ...], "name and value: method, rate, time left, space on the disk"]
    table: Annotated[str, "URL of the table of what is there; empty before the first shard"] = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ActionScreen(Screen):
    """The report of an action."""

    template: ClassVar[str] = "explorer/action.html.j2"
    limits: ClassVar[Limits] = Limits(rows=200)

    report: Annotated[Page, "the page that it made"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ProblemScreen(Screen):
    """An error page: the problem and its fix."""

    template: ClassVar[str] = "explorer/problem.html.j2"

    description: Annotated[str, "what is wrong and how to fix it"]
    links: Annotated[tuple[Link, ...], "where to go from here"] = ()


def about_screen(shown: OpenIndex) -> AboutScreen | BuildScreen:
    """Show the contents of an index, or the progress of its build."""
    if shown.building:
        return build_screen(shown)
    store, plan = shown.store, shown.plan
    counts = Counter(one.act for one in shown.decisions.current.values())
    looking = ExampleState(index=shown.name)
    files = [*corrected_files(shown), Link("decisions (JSON Lines)", looking.url("/export/decisions.jsonl"))]
    return AboutScreen(
        title=f"Index {shown.name}",
        index=shown.name,
        facts=(
            ("method", plan.method.name),
            ("training examples", f"{store.counts.examples:,}"),
            ("classes", ", ".join(plan.label_names) if plan.label_names else "none (language model)"),
            ("data", Path(plan.source.data).name),
            ("run", str(shown.run_folder) + ("" if shown.run_folder.exists() else " (missing)")),
            ("maximum tokens per text", f"{plan.max_length:,}"),
            ("rows without a finite gradient", f"{store.counts.skipped:,}"),
            ("deleted", f"{store.counts.deleted:,}"),
            ("folder", str(shown.folder)),
            ("Merkle root", store.manifest.merkle_root[:16] or "not finished yet"),
        ),
        checkpoints=tuple((step_words(one.id), one.learning_rate, one.rule) for one in plan.checkpoints),
        notes=tuple(store.manifest.notes),
        decisions=tuple((act, counts[act]) for act in ACTS if act != "clear"),
        actions=tuple(
            Link(one.title, replace(looking, id=one.name).url("/action"))
            for one in ACTIONS.values()
            if not one.missing(plan)
        ),
        exports=tuple(files),
        command=f"proponent apply {shown.folder} --diff --out corrected.{corrected_kind(shown)}",
        changes=Link("Show what changes, row by row", looking.url("/changes")),
    )


def corrected_kind(shown: OpenIndex) -> str:
    """The format of the data that the index was built from; CSV where it is no file of ours."""
    sources = shown.store.manifest.sources
    name = sources[0].data.lower().removesuffix(".gz") if sources else ""
    return next((kind for kind in ("tsv", "jsonl", "json", "parquet") if name.endswith(f".{kind}")), "csv")


def corrected_files(shown: OpenIndex) -> list[Link]:
    """Links to the corrected data set: first in the format of the data."""
    own = corrected_kind(shown)
    kinds = dict.fromkeys((own, "csv", "jsonl", "parquet"))
    url = ExampleState(index=shown.name).url
    return [Link(f"corrected data set ({FILES[kind]})", url(f"/export/corrected.{kind}")) for kind in kinds]


def changes_screen(shown: OpenIndex) -> ChangesScreen:
    """Show what the corrected data set changes, before it is saved."""
    changes = correction_diff(shown.store, shown.decisions)
    return ChangesScreen(
        title="What the corrected data set changes",
        index=shown.name,
        changes=tuple(
            (one, ExampleState(index=shown.name, id=one.id).url("/example")) for one in changes[:MOST_CHANGES]
        ),
        fixed=sum(not one.dropped for one in changes),
        dropped=sum(one.dropped for one in changes),
        data=Path(shown.plan.source.data).name,
        rows=shown.store.counts.examples,
        exports=tuple(corrected_files(shown)),
    )


def build_screen(shown: OpenIndex) -> BuildScreen:
    """Show the progress of a build."""
    now = watch(shown.folder, time.time())
    try:
        store = shown.store
        skipped = f"{int(sum(segment.features('skipped').sum() for segment in store.segments)):,}"
        table = TableState(index=shown.name).url("/table")
    except ProponentError:
        skipped, table = "unknown yet", ""
    return BuildScreen(
        title=f"{shown.name} is being built",
        refresh=2.0,
        index=shown.name,
        n=now.n,
        share=now.share,
        steps=tuple((step_words(one.id), one.done) for one in now.steps),
        facts=(
            ("method", now.method),
            ("training examples", f"{now.n:,}"),
            ("rate", f"{now.rate:,.0f} examples a second" if now.rate else "unknown yet"),
            ("time left", _left(now.seconds_left, now.share)),
            ("last shard", "none yet" if now.idle is None else f"{_duration(now.idle)} ago"),
            ("disk left", f"{now.free_bytes / 2**30:,.1f} GiB"),
            ("without a finite gradient", skipped),
        ),
        table=table,
    )


def action_screen(shown: OpenIndex, state: ExampleState) -> ActionScreen:
    """Run an action and show its report."""
    chosen = action(state.id)
    files = file_links(replace(state, index=shown.name), "action", ("html", "json"))
    report = shown.report(state.id)
    linked = isinstance(report, RowReport)  # the other rows that its reasons name
    links = AnswerLinks(index=shown.name, state=(), token="", back="", names=(), decided={}) if linked else None
    return ActionScreen(title=chosen.title, report=report, exports=files, answer_links=links)


def problem_screen(error: Exception, links: tuple[Link, ...]) -> ProblemScreen:
    """Show an error."""
    titles = {
        DamagedError: "This index is damaged",
        MismatchError: "These parts do not belong together",
        InputError: "This cannot be shown",
    }
    title = next((title for kind, title in titles.items() if isinstance(error, kind)), "Something went wrong")
    return ProblemScreen(title=title, description=str(error), links=links)


def _left(seconds: float | None, share: float) -> str:
    if share >= 1:
        return "sorting the postings"
    return "unknown yet" if seconds is None else f"about {_duration(seconds)}"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
