"""Screens about an index itself: what it holds, how far its build is, and what is wrong with it."""

import time
from pathlib import Path

from proponent.actions.decisions import ACTS
from proponent.errors import DamagedError, InputError, MismatchError, ProponentError
from proponent.store import watch
from proponent.views.frames import Link
from proponent.views.screens import AboutScreen, BuildScreen, ProblemScreen
from proponent.web.open_indexes import OpenIndex
from proponent.web.states import ExampleState, TableState


def about_screen(shown: OpenIndex) -> AboutScreen:
    """Tell what an index holds."""
    store, plan = shown.store, shown.plan
    current = shown.decisions.current
    looking = ExampleState(index=shown.name)
    counts = [(act, sum(one.act == act for one in current.values())) for act in ACTS if act != "clear"]
    facts = [
        ("method", plan.method.name),
        ("training examples", f"{store.counts.examples:,}"),
        ("classes", ", ".join(plan.label_names) if plan.label_names else "none: a language model"),
        ("data", Path(plan.source.data).name),
        ("run", str(shown.run_folder) + ("" if shown.run_folder.exists() else " (not there)")),
        ("most tokens read of a text", f"{plan.max_length:,}"),
        ("rows without a finite gradient", f"{store.counts.skipped:,}"),
        ("deleted", f"{store.counts.deleted:,}"),
        ("folder", str(shown.folder)),
        ("Merkle root", store.manifest.merkle_root[:16] or "not sealed yet"),
    ]
    kinds = (("csv", "CSV"), ("jsonl", "JSON Lines"), ("parquet", "Parquet"))
    files = [Link(f"mended data set ({text})", looking.url(f"/export/mended.{kind}")) for kind, text in kinds]
    files.append(Link("decisions (JSON Lines)", looking.url("/export/decisions.jsonl")))
    return AboutScreen(
        index=shown.name,
        facts=tuple(facts),
        checkpoints=tuple((one.step, one.learning_rate, one.rule) for one in plan.checkpoints),
        notes=tuple(store.manifest.notes),
        decisions=tuple(counts),
        exports=tuple(files),
        command=f"proponent apply {shown.folder} --out mended.csv",
    )


def build_screen(shown: OpenIndex) -> BuildScreen:
    """Tell how far the build of an index is."""
    now = watch(shown.folder, time.time())
    try:
        store = shown.store
        skipped = f"{int(sum(segment.features('skipped').sum() for segment in store.segments)):,}"
        table = TableState(index=shown.name).url("/table")
    except ProponentError:
        skipped, table = "not known yet", ""
    return BuildScreen(
        index=shown.name,
        method=now.method,
        data=now.data,
        n=now.n,
        share=now.share,
        steps=tuple((one.step, one.done) for one in now.steps),
        rate=f"{now.rate:,.0f} examples a second" if now.rate else "not known yet",
        left=_left(now.seconds_left, now.share),
        idle="none yet" if now.idle is None else f"{_duration(now.idle)} ago",
        free=f"{now.free_bytes / 2**30:,.1f} GiB",
        skipped=skipped,
        table=table,
    )


def problem_screen(error: Exception, status: int, links: tuple[Link, ...]) -> ProblemScreen:
    """Tell what is wrong."""
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
    return "not known yet" if seconds is None else f"about {_duration(seconds)}"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
