"""Advice on the problems that `verify` reports."""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from proponent.errors import DamagedError
from proponent.store.layout import PLAN, Layout
from proponent.store.manifest import FORMAT, Manifest, Plan, read_json
from proponent.store.verify import Verdict

STRAYS_SHOWN = 10


def verdict_fields(index: Path, verdict: Verdict, remedy: str | None) -> dict[str, Any]:
    """A verdict as plain data."""
    return {
        "index": str(index),
        "finished": verdict.sealed,
        "whole": not verdict.damage,
        "files": verdict.files,
        "bytes": verdict.size,
        "seconds": verdict.seconds,
        "damage": [{"file": one.file, "problem": one.problem, "ranges": joined(one.ranges)} for one in verdict.damage],
        "strays": list(verdict.strays),
        "to_mend": remedy,
    }


def joined(ranges: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Byte ranges, with adjacent ones joined."""
    found: list[tuple[int, int]] = []
    for begin, end in ranges:
        if found and found[-1][1] == begin:
            found[-1] = (found[-1][0], end)
        else:
            found.append((begin, end))
    return found


def stray_lines(index: Path, verdict: Verdict) -> list[str]:
    """Describe files that are not part of the index, except those of an unfinished change."""
    changes = [name for name in verdict.strays if name.startswith("plans/") and name.endswith(".json")]
    if changes:
        kind = "append" if changes[0].startswith("plans/append-") else "merge"
        return [f"{index}: a change was started but not finished ({changes[0]}): run the command of that {kind} again"]
    more = len(verdict.strays) - STRAYS_SHOWN
    lines = [f"{index}: {name} is not part of the index" for name in verdict.strays[:STRAYS_SHOWN]]
    return lines + ([f"{index}: {more} more files are not part of the index"] if more > 0 else [])


def remedy_of(index: Path, verdict: Verdict) -> str:
    """Advise how to repair a damaged index."""
    layout = Layout(index)
    if not verdict.sealed:
        return "remove these files, and run the same `proponent index` command again"
    try:
        plan, manifest = read_json(layout.plan, Plan), read_json(layout.manifest, Manifest)
    except DamagedError:
        return "restore the files from a copy, or build the index again"
    if manifest.generation > 1 or PLAN in {one.file for one in verdict.damage}:
        return f"restore the files from a copy: only a first build of format {FORMAT} can be computed again"
    words = ["proponent", "index", plan.run, plan.source.data, "--out", str(index), "--method", plan.method.name]
    return f"{shlex.join([*words, '--repair'])} (and the other options of the first build)"
