"""proponent: build an index from raw texts (tokenization, loading, checksums and disk included), then search it."""

import json
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
from contract import Peer, Work, folder_bytes, main

import proponent


def build(work: Work, variant: str, scratch: Path) -> Peer:  # noqa: ARG001 # one variant only
    """One index; the search is timed alone too, inside the index."""
    out, opened = scratch / "train.index", dict[str, Any]()
    lines = (work.folder / "queries.jsonl").read_text(encoding="utf-8").splitlines()
    asked = [json.loads(line) for line in lines]
    size = len(work.queries[0].labels)
    peer = Peer("embedding", lambda: np.empty(0), None, lambda: folder_bytes(out))

    def scores(number: int) -> np.ndarray:
        rows = asked[number * size : (number + 1) * size]
        found = opened["index"].scores([row["text"] for row in rows], [row["label"] for row in rows])
        return found / opened["rate"]

    def end_to_end() -> np.ndarray:
        shutil.rmtree(out, ignore_errors=True)
        index = proponent.build(work.folder / "model", work.folder / "train.jsonl", out, quiet=True)
        (checkpoint,) = index.summary["checkpoints"]
        opened.update(index=index, rate=checkpoint["learning_rate"])
        _time_join(index, peer.parts)
        return scores(0)

    peer.end_to_end, peer.further = end_to_end, scores
    peer.notes.append(
        "the only one that starts from raw texts and a model folder, and that leaves an index on disk; "
        "its scores carry the learning rate, divided out here"
    )
    return peer


def _time_join(index: Any, parts: dict[str, list[float]]) -> None:
    """Time the search without the queries' own gradients."""
    scorer = index._scorer
    inner = scorer.scores

    def scores(*arguments: Any, **named: Any) -> Any:
        began = time.perf_counter()
        found = inner(*arguments, **named)
        parts.setdefault("join", []).append(time.perf_counter() - began)
        return found

    scorer.scores = scores


if __name__ == "__main__":
    main(build, ("proponent",))
