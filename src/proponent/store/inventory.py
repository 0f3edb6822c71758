"""Contents and cost of an index as plain data, optionally compared with a forecast."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np

from proponent.errors import InputError
from proponent.foreign_files import MEGABYTE, Door
from proponent.shown_places import as_shown
from proponent.store.reader import Store

DOOR = Door(InputError, "create a forecast with `proponent plan --json`")
MOST_FORECAST = MEGABYTE

KINDS = ("forms", "postings", "examples", "tables")
"""Folders of an index whose bytes are counted separately."""


def inventory(store: Store) -> dict[str, Any]:
    """Describe what an index contains and what it cost."""
    plan, manifest = store.plan, store.manifest
    gradient_rows, tokens = _rows_and_tokens(store)
    seconds = dict(manifest.seconds)
    spent = sum(seconds.values())
    # the times are those of the last change, and only builds and appends record them
    last = manifest.sources[-1].n if manifest.sources else 0
    return {
        "index": as_shown(str(store.folder)),
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
        "checkpoints": [one.shown for one in plan.checkpoints],
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


def _rows_and_tokens(store: Store) -> tuple[int, int]:
    """Stored gradient rows over all checkpoints, and the number of their distinct tokens."""
    rows, tokens = 0, np.zeros(0, dtype=np.int64)
    for at in (one.id for one in store.plan.checkpoints):
        for segment in store.segments:
            postings = segment.postings(at)
            if postings is not None:
                rows, tokens = rows + len(postings), np.union1d(tokens, postings.tokens)
                continue
            for _, arrays in segment.shards(at, ("rows.ids",)):
                ids = arrays.get("rows.ids", tokens[:0])
                rows, tokens = rows + len(ids), np.union1d(tokens, ids)
    return rows, len(tokens)


def bytes_by_kind(folder: Path) -> dict[str, int]:
    """Sum the bytes of an index on disk by kind of file."""
    found: dict[str, int] = dict.fromkeys([*KINDS, "other"], 0)
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            first = path.relative_to(folder).parts[0]
            found[first if first in KINDS else "other"] += path.stat().st_size
    return found


def read_forecast(path: Path) -> dict[str, float]:
    """Read a file from `proponent plan --json`."""
    try:
        content: object = DOOR.read_json(path, most=MOST_FORECAST)
        return forecast_figures(cast("Mapping[str, Any]", content))
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InputError(f"--forecast {path} is not a forecast: create one with `proponent plan --json`") from error


def forecast_figures(content: Mapping[str, Any]) -> dict[str, float]:
    """Label the figures of a forecast."""
    stages = {f"seconds of {one['name']}": float(one["seconds"]) for one in content["stages"]}
    disk = {f"bytes of {kind}": float(size) for kind, size in content["disk"].items()}
    memory = {} if content["peak_rss"] is None else {"peak memory": float(content["peak_rss"])}
    on_device: float | None = content.get("peak_device")
    memory |= {} if on_device is None else {"peak memory of the GPU": float(on_device)}
    return stages | memory | disk


def compare_forecast(predicted: Mapping[str, float], content: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Compare a forecast with the actual cost of an index."""
    real = {f"seconds of {stage}": float(spent) for stage, spent in content["seconds"].items()}
    real |= {} if content["peak_rss"] is None else {"peak memory": float(content["peak_rss"])}
    real |= {f"bytes of {kind}": float(size) for kind, size in content["bytes"].items()}
    both = [(name, predicted.get(name), real.get(name)) for name in dict.fromkeys([*predicted, *real])]
    return [
        {"what": name, "forecast": before, "real": after, "ratio": after / before if before and after else None}
        for name, before, after in both
    ]
