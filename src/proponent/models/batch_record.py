"""What a language model's training fed at each step: hashes of its rows, and the number of tokens that counted.

    proponent_rows.safetensors   rows [r]: the prepared training set; seen [m], ends [t], counted [t]: the steps

`seen` lists the rows in the order in which training read them; step t read those from `ends[t - 1]` to `ends[t]`, and
divided their summed loss by `counted[t]`. A row is known by the hash of its tokens and labels.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import xxhash
from jaxtyping import Int, UInt64

from proponent.errors import RunError
from proponent.tensors import read_tensors, write_tensors

ROWS_FILE = "proponent_rows.safetensors"
MOST_ROWS = 200_000
"""Rows of a prepared training set that are hashed before training begins."""


def row_hash(ids: Int[np.ndarray, " t"], labels: Int[np.ndarray, " t"]) -> int:
    """Hash a row; the label of the first token, which nothing predicts, does not matter."""
    fixed = labels.astype("<i8").copy()
    fixed[:1] = -100
    return xxhash.xxh3_64_intdigest(ids.astype("<i8").tobytes() + fixed.tobytes())


@dataclass(frozen=True)
class BatchRecord:
    """What a training fed."""

    rows: UInt64[np.ndarray, " r"]  # the prepared training set; empty if it was not recorded
    seen: UInt64[np.ndarray, " m"]  # rows in the order in which they were read
    ends: Int[np.ndarray, " t"]  # places in `seen` where each step ended
    counted: Int[np.ndarray, " t"]  # tokens that counted at each step

    @property
    def known(self) -> set[int]:
        """The hashes of all rows."""
        return set(self.rows.tolist()) | set(self.seen.tolist())


def read_batch_record(folder: Path) -> BatchRecord | None:
    """Read the record of a training; None if there is none."""
    path = folder / ROWS_FILE
    if not path.is_file():
        return None
    try:
        held = read_tensors(path)
        return BatchRecord(*(held[name] for name in ("rows", "seen", "ends", "counted")))
    except Exception as error:  # the safetensors reader may raise anything
        raise RunError(f"cannot read {path}: {error}: the record is damaged; remove it to go without") from error


class BatchRecorder:
    """Records the batches of a language model as it is trained."""

    def __init__(self, model: Any, dataset: Any, most: int | None = None) -> None:
        """Without a model, note only the rows: judged answers, of which `most` tokens are read."""
        rows = _prepared(dataset) if model is not None else _judged(dataset, most)
        self._rows = np.asarray(list(rows), dtype=np.uint64)
        self._seen: list[int] = []
        self._ends: list[int] = []
        self._counted: list[int] = []
        self._now = 0
        inner: Any = getattr(model, "module", model)
        self._hook: Any = None if inner is None else inner.register_forward_pre_hook(self._see, with_kwargs=True)

    def _see(self, module: torch.nn.Module, _inputs: Any, named: dict[str, Any]) -> None:
        ids, labels = named.get("input_ids"), named.get("labels")
        if not module.training or ids is None or labels is None or labels.shape != ids.shape:
            return
        for own, counts in _documents(ids, labels, named.get("attention_mask"), named.get("position_ids")):
            self._seen.append(row_hash(own, counts))
            self._now += int((counts[1:] != -100).sum())

    def end_step(self) -> None:
        """End an optimizer's step."""
        if self._hook is None:
            return
        self._ends.append(len(self._seen))
        self._counted.append(self._now)
        self._now = 0

    def write(self, folder: Path) -> None:
        """Write what is known so far."""
        if len(self._rows) or self._seen:
            seen = np.asarray(self._seen[: self._ends[-1] if self._ends else 0], dtype=np.uint64)
            ends, counted = (np.asarray(one, dtype=np.int64) for one in (self._ends, self._counted))
            write_tensors(folder / ROWS_FILE, {"rows": self._rows, "seen": seen, "ends": ends, "counted": counted})

    def close(self) -> None:
        """Stop watching the model."""
        if self._hook is not None:
            self._hook.remove()


def _documents(ids: Any, labels: Any, mask: Any, positions: Any) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The rows of a batch: without padding, or between the places where positions begin anew."""
    tokens, counts = (one.detach().cpu().numpy().astype(np.int64) for one in (ids, labels))
    if mask is None and positions is not None:
        starts = np.flatnonzero(positions.detach().cpu().numpy().reshape(-1) == 0).tolist()
        ends = [*starts[1:], tokens.size]
        yield from ((tokens.reshape(-1)[a:b], counts.reshape(-1)[a:b]) for a, b in zip(starts, ends, strict=True))
        return
    real = np.ones_like(tokens) if mask is None else mask.detach().cpu().numpy()
    for own, row, kept in zip(tokens, counts, real.astype(np.bool_), strict=True):
        yield own[kept], row[kept]


def _judged(dataset: Any, most: int | None) -> Iterator[int]:
    """Hashes of the answers of each row, one or both of a pair, behind the prompt where they stand apart from it."""
    sized = hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__") and 0 < len(dataset) <= MOST_ROWS
    held: set[str] = {*dataset[0]} if sized and isinstance(dataset[0], dict) else set()
    pair = "chosen_ids", "rejected_ids"
    names = pair if held.issuperset(pair) else ("completion_ids",)
    if not held.issuperset(names):
        return
    for at in range(len(dataset)):
        row = cast("dict[str, Any]", dataset[at])
        prompt: list[int] = list(row.get("prompt_ids", ()))
        for name in names:
            ids = np.asarray([*prompt, *row[name]], dtype=np.int64)[:most]
            labels = np.where(np.arange(len(ids)) < len(prompt), -100, ids)
            yield row_hash(ids, labels)


def _prepared(dataset: Any) -> Iterator[int]:
    """Hashes of the rows of a tokenized training set; packed rows one by one."""
    sized = hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__") and 0 < len(dataset) <= MOST_ROWS
    if not sized or not isinstance(dataset[0], dict) or "input_ids" not in dataset[0]:
        return
    for at in range(len(dataset)):
        row = cast("dict[str, Any]", dataset[at])
        ids = np.asarray(row["input_ids"], dtype=np.int64)
        labels = np.asarray(row.get("labels", ids), dtype=np.int64)
        if labels.shape != ids.shape:
            return
        lengths = cast("Sequence[int] | None", row.get("seq_lengths"))
        if lengths is None:
            kept = np.asarray(row.get("attention_mask", np.ones(len(ids))), dtype=np.bool_)
            yield row_hash(ids[kept], labels[kept])
            continue
        ends = np.cumsum(lengths)
        for start, end in zip((0, *ends[:-1]), ends, strict=True):
            yield row_hash(ids[start:end], labels[start:end])
