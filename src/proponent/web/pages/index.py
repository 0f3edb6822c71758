"""Pages of an index itself: its contents, the progress of its build, an action on it, errors."""

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from proponent.actions import action
from proponent.actions.decisions import ACTS
from proponent.errors import DamagedError, InputError, MismatchError, ProponentError
from proponent.store import watch
from proponent.views import CAVEAT, Page
from proponent.views.frames import Link, Screen, help_text
from proponent.views.page import Limits
from proponent.web.layout import FILES, action_links, file_links, step_words
from proponent.web.open_indexes import OpenIndex
from proponent.web.states import ExampleState, TableState


@dataclass(frozen=True, slots=True, kw_only=True)
class AboutScreen(Screen):
    """What an index holds, and how to read scores."""

    template: ClassVar[str] = "explorer/about.html.j2"

    index: str = field(metadata=help_text("name of the index"))
    facts: tuple[tuple[str, str], ...] = field(metadata=help_text("name and value"))
    checkpoints: tuple[tuple[str, float, str], ...] = field(metadata=help_text("step, learning rate, rule"))
    notes: tuple[str, ...] = field(metadata=help_text("what every answer repeats"))
    decisions: tuple[tuple[str, int], ...] = field(metadata=help_text("decision and how many examples"))
    actions: tuple[Link, ...] = field(metadata=help_text("actions that this index allows"))
    exports: tuple[Link, ...] = field(metadata=help_text("the corrected data set, and the decisions"))
    command: str = field(metadata=help_text("the command that writes the corrected data set"))
    caveat: str = field(default=CAVEAT, metadata=help_text("what a score is not"))


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildScreen(Screen):
    """An index that is being built."""

    template: ClassVar[str] = "explorer/build.html.j2"

    index: str = field(metadata=help_text("name of the index"))
    method: str = field(metadata=help_text("name of the method"))
    data: str = field(metadata=help_text("name of the data set"))
    n: int = field(metadata=help_text("training examples"))
    share: float = field(metadata=help_text("part of the gradients that is finished, 0 to 1"))
    steps: tuple[tuple[str, int], ...] = field(metadata=help_text("checkpoint and finished examples"))
    rate: str = field(metadata=help_text("examples per second, in words"))
    left: str = field(metadata=help_text("time left, in words"))
    idle: str = field(metadata=help_text("time since the last finished shard, in words"))
    free: str = field(metadata=help_text("space left on the disk, in words"))
    skipped: str = field(metadata=help_text("rows without a finite gradient so far, in words"))
    table: str = field(
        default="", metadata=help_text("URL of the table of what is there; empty before the first shard")
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ActionScreen(Screen):
    """The report of an action."""

    template: ClassVar[str] = "explorer/action.html.j2"
    limits: ClassVar[Limits] = Limits(rows=200)

    title: str = field(metadata=help_text("title of the action"))
    report: Page = field(metadata=help_text("the page that it made"))
    exports: tuple[Link, ...] = field(metadata=help_text("files of the whole report"))


@dataclass(frozen=True, slots=True, kw_only=True)
class ProblemScreen(Screen):
    """An error page: what is wrong and how to fix it."""

    template: ClassVar[str] = "explorer/problem.html.j2"

    title: str = field(metadata=help_text("what it is about"))
    description: str = field(metadata=help_text("what is wrong and how to fix it"))
    status: int = field(metadata=help_text("of the answer"))
    links: tuple[Link, ...] = field(default=(), metadata=help_text("where to go from here"))


def about_screen(shown: OpenIndex) -> AboutScreen:
    """Show the contents of an index."""
    store, plan = shown.store, shown.plan
    current = shown.decisions.current
    looking = ExampleState(index=shown.name)
    counts = [(act, sum(one.act == act for one in current.values())) for act in ACTS if act != "clear"]
    facts = [
        ("method", plan.method.name),
        ("training examples", f"{store.counts.examples:,}"),
        ("classes", ", ".join(plan.label_names) if plan.label_names else "none (language model)"),
        ("data", Path(plan.source.data).name),
        ("run", str(shown.run_folder) + ("" if shown.run_folder.exists() else " (missing)")),
        ("maximum tokens per text", f"{plan.max_length:,}"),
        ("rows without a finite gradient", f"{store.counts.skipped:,}"),
        ("deleted", f"{store.counts.deleted:,}"),
        ("folder", str(shown.folder)),
        ("Merkle root", store.manifest.merkle_root[:16] or "not sealed yet"),
    ]
    kinds = ("csv", "jsonl", "parquet")
    files = [Link(f"corrected data set ({FILES[kind]})", looking.url(f"/export/corrected.{kind}")) for kind in kinds]
    files.append(Link("decisions (JSON Lines)", looking.url("/export/decisions.jsonl")))
    return AboutScreen(
        index=shown.name,
        facts=tuple(facts),
        checkpoints=tuple((step_words(one.id), one.learning_rate, one.rule) for one in plan.checkpoints),
        notes=tuple(store.manifest.notes),
        decisions=tuple(counts),
        actions=action_links(shown),
        exports=tuple(files),
        command=f"proponent apply {shown.folder} --out corrected.csv",
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
        index=shown.name,
        method=now.method,
        data=now.data,
        n=now.n,
        share=now.share,
        steps=tuple((step_words(one.id), one.done) for one in now.steps),
        rate=f"{now.rate:,.0f} examples a second" if now.rate else "unknown yet",
        left=_left(now.seconds_left, now.share),
        idle="none yet" if now.idle is None else f"{_duration(now.idle)} ago",
        free=f"{now.free_bytes / 2**30:,.1f} GiB",
        skipped=skipped,
        table=table,
    )


def action_screen(shown: OpenIndex, name: str) -> ActionScreen:
    """Carry an action out and show its report."""
    chosen = action(name)
    files = file_links(ExampleState(index=shown.name, id=name), "action", ("html", "json"))
    return ActionScreen(title=chosen.title, report=chosen.report(shown.store), exports=files)


def problem_screen(error: Exception, status: int, links: tuple[Link, ...]) -> ProblemScreen:
    """Show an error."""
    titles = {
        DamagedError: "This index is damaged",
        MismatchError: "These parts do not belong together",
        InputError: "This cannot be shown",
    }
    title = next((title for kind, title in titles.items() if isinstance(error, kind)), "Something went wrong")
    return ProblemScreen(title=title, description=str(error), status=status, links=links)


def _left(seconds: float | None, share: float) -> str:
    if share >= 1:
        return "sorting the postings"
    return "unknown yet" if seconds is None else f"about {_duration(seconds)}"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
