"""Indexes of generated examples, written without a model: for benchmarks of search, pages and checks."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from proponent import Gradients
from proponent.store import (
    FORMAT,
    Plan,
    PlannedCheckpoint,
    PlannedSegment,
    PlannedTerm,
    RowKind,
    Source,
    Writer,
)
from proponent.types import CheckpointId

SEGMENT = 65_536


def write_index(
    folder: Path,
    n: int,
    columns: Callable[[int, int], dict[str, Any]],
    shard: Callable[[int, int, int], dict[str, np.ndarray]],
    *,
    shard_rows: int,
    steps: Sequence[CheckpointId],
    labels: list[str] | None = None,
    rows: RowKind = "fp32",
    segment_rows: int = SEGMENT,
) -> None:
    """Write an index of n examples; `columns` takes a segment and its size, `shard` a segment, a shard and its size."""
    segments = []
    for start in range(0, n, segment_rows):
        held = min(segment_rows, n - start)
        segments.append(PlannedSegment(name=f"{len(segments):05d}", n=held, shards=[*range(0, held, shard_rows), held]))
    checkpoints = [PlannedCheckpoint(id=one, learning_rate=1.0, rule="benchmark", weight=1.0) for one in steps]
    plan = Plan(
        format=FORMAT,
        proponent="benchmark",
        method=Gradients(name="tracin-we"),
        rows=rows,
        terms=[PlannedTerm(embedding_path="exact", tied=False, checkpoints=checkpoints)],
        run="none",
        tokenizer=None,
        kind="causal-lm" if labels is None else "classification",
        label_names=labels,
        max_length=64,
        trust_remote_code=False,
        fingerprints={},
        word_rules="none",
        source=Source(data=f"{n} generated", columns={}, fingerprint="0" * 64, n=n, batch_size=32, segments=segments),
    )
    writer = Writer(folder, plan)
    for number, segment in enumerate(segments):
        order = np.arange(segment.n)
        made = {"row": order + number * segment_rows, "place": order.astype(np.int32)} | columns(number, segment.n)
        writer.put_examples(segment.name, made)
        for at, (start, stop) in enumerate(zip(segment.shards[:-1], segment.shards[1:], strict=True)):
            arrays = shard(number, at, stop - start)
            for step in steps:
                writer.put_shard(step, segment.name, at, arrays)
        numbers = [-1] * segment.n if labels is None else [labels.index(one) for one in made["label"]]
        writer.finish(segment, order, writer.gather(segment, order, numbers), postings=True)
    writer.seal([], [], {})
    writer.close()
