"""What an index holds and what it cost, also beside its forecast: as plain data, and as tables."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from rich.console import Console

from proponent.errors import InputError
from proponent.types import RUN_STEPS, step_name
from proponent.views.tables import print_table

if TYPE_CHECKING:
    from proponent.store import Store

KINDS = ("forms", "postings", "examples", "tables")
"""Folders of an index whose bytes are told apart."""


def contents(store: "Store") -> dict[str, Any]:
    """Gather what an index holds and what it cost."""
    plan, manifest = store.plan, store.manifest
    gradient_rows, tokens = _rows_and_tokens(store)
    seconds = dict(manifest.seconds)
    spent = sum(seconds.values())
    last = manifest.sources[-1].n  # the times are those of the last change, and only builds and appends have any
    return {
        "index": str(store.folder),
        "finished": store.sealed,
        "coverage": store.coverage,
        "format": manifest.format,
        "generation": manifest.generation,
        "method": plan.method.name,
        "embedding_path": plan.embedding_path,
        "run": plan.run,
        "max_length": plan.max_length,
        "sources": [{"data": one.data, "rows": one.n, "fingerprint": one.fingerprint} for one in manifest.sources],
        **store.counts._asdict(),
        "segments": len(store.segments),
        "checkpoints": [
            {
                "step": one.step % RUN_STEPS,
                "run": one.step // RUN_STEPS,
                "learning_rate": one.learning_rate,
                "rule": one.rule,
            }
            for one in plan.checkpoints
        ],
        "rows": plan.rows,
        "gradient_rows": gradient_rows,
        "tokens": tokens,
        "bytes": bytes_by_kind(store.folder),
        "seconds": seconds,
        "examples_per_second": last / spent if spent else None,
        "peak_rss": manifest.peak_rss or None,
        "merkle_root": manifest.merkle_root or None,
        "notes": list(manifest.notes),
    }


def _rows_and_tokens(store: "Store") -> tuple[int, int]:
    """Gradient rows that are kept over all checkpoints, and how many tokens they are of."""
    import numpy as np

    rows, tokens = 0, np.zeros(0, dtype=np.int64)
    for step in (one.step for one in store.plan.checkpoints):
        for segment in store.segments:
            postings = segment.postings(step)
            if postings is not None:
                rows, tokens = rows + len(postings), np.union1d(tokens, postings.tokens)
                continue
            for _, arrays in segment.shards(step, ("rows.ids",)):
                ids = arrays.get("rows.ids", tokens[:0])
                rows, tokens = rows + len(ids), np.union1d(tokens, ids)
    return rows, len(tokens)


def bytes_by_kind(folder: Path) -> dict[str, int]:
    """Add up the bytes of an index on the disk."""
    found: dict[str, int] = dict.fromkeys([*KINDS, "other"], 0)
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            first = path.relative_to(folder).parts[0]
            found[first if first in KINDS else "other"] += path.stat().st_size
    return found


def print_contents(content: Mapping[str, Any], beside: Sequence[Mapping[str, Any]]) -> None:
    """Print what an index holds and what it cost."""
    sources = [f"{one['data']}: {one['rows']:,} rows, {one['fingerprint'][:12]}" for one in content["sources"]]
    rate, peak = content["examples_per_second"], content["peak_rss"]
    rows = [
        ("method", content["method"]),
        ("run", content["run"]),
        *[("source", line) for line in sources],
        ("examples", f"{content['examples']:,}"),
        ("deleted", f"{content['deleted']:,}"),
        ("skipped", f"{content['skipped']:,}" + (" (no finite loss or gradient)" if content["skipped"] else "")),
        ("segments", f"{content['segments']:,}"),
        ("checkpoints", ", ".join(step_name(one["run"] * RUN_STEPS + one["step"]) for one in content["checkpoints"])),
        (
            "gradient rows",
            f"{content['gradient_rows']:,} of {content['tokens']:,} distinct tokens, kept as {content['rows']}",
        ),
        *[(f"bytes of {kind}", spelled_bytes(size)) for kind, size in content["bytes"].items()],
        *[(f"seconds of {stage}", f"{spent:.2f}") for stage, spent in content["seconds"].items()],
        ("examples per second", "-" if rate is None else f"{rate:,.1f}"),
        ("peak memory", "-" if peak is None else spelled_bytes(peak)),
        ("generation", str(content["generation"])),
        ("root", content["merkle_root"] or "-"),
    ]
    title = content["index"]
    if not content["finished"]:
        title += f": unfinished; {content['coverage']:.0%} of the examples are in it"
    print_table(Console(), title, ("what", "is"), rows, content["notes"])
    if beside:
        shown = [
            (one["what"], spelled(one["what"], one["forecast"]), spelled(one["what"], one["real"]), _ratio(one))
            for one in beside
        ]
        print_table(Console(), "forecast and truth", ("what", "forecast", "real", "ratio"), shown)


def read_forecast(path: Path) -> dict[str, float]:
    """Read what `proponent plan --json` said."""
    try:
        content: object = json.loads(path.read_text(encoding="utf-8"))
        return figures(cast("Mapping[str, Any]", content))
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InputError(f"--forecast {path} is no forecast: make one with `proponent plan --json`") from error


def figures(content: Mapping[str, Any]) -> dict[str, float]:
    """Name the figures of a forecast."""
    stages = {f"seconds of {one['name']}": float(one["seconds"]) for one in content["stages"]}
    disk = {f"bytes of {kind}": float(size) for kind, size in content["disk"].items()}
    memory = {} if content["peak_rss"] is None else {"peak memory": float(content["peak_rss"])}
    return stages | memory | disk


def compared(foreseen: Mapping[str, float], content: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Set a forecast beside the truth."""
    real = {f"seconds of {stage}": float(spent) for stage, spent in content["seconds"].items()}
    real |= {} if content["peak_rss"] is None else {"peak memory": float(content["peak_rss"])}
    real |= {f"bytes of {kind}": float(size) for kind, size in content["bytes"].items()}
    both = [(name, foreseen.get(name), real.get(name)) for name in dict.fromkeys([*foreseen, *real])]
    return [
        {"what": name, "forecast": before, "real": after, "ratio": after / before if before and after else None}
        for name, before, after in both
    ]


def spelled(name: str, value: float | int | None) -> str:
    """Spell a figure for people."""
    if value is None:
        return "-"
    return f"{value:,.2f}" if name.startswith("seconds") else spelled_bytes(value)


def _ratio(one: Mapping[str, Any]) -> str:
    return "-" if one["ratio"] is None else f"{one['ratio']:.2f}"


def spelled_bytes(count: float | int) -> str:
    """Spell bytes for people."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(count) < 1024:
            return f"{count:,.0f} {unit}" if unit == "B" else f"{count:,.1f} {unit}"
        count /= 1024
    return f"{count:,.1f} TiB"
