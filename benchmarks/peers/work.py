"""The shared work, prepared once: a model folder, tokenized AG News texts, queries."""

import json
from pathlib import Path

import harness
import numpy as np
import transformers

BATCH = 32
QUERY_BATCHES = 3
LABELS = 4
LONGEST_QUERY = 80
"""Queries are drawn among texts of at most so many tokens (nineteen in twenty are): one long text pads its whole batch,
and the cost of 16 queries would be its cost."""


def prepare(folder: Path, data: Path, texts: int, queries: int) -> Path:
    """Write the work folder."""
    facts = {"texts": texts, "queries": queries, "longest query": LONGEST_QUERY, "encoder": harness.ENCODER}
    sealed = folder / "work.json"
    if sealed.is_file() and json.loads(sealed.read_text(encoding="utf-8")) == facts:
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = harness.fresh_encoder(folder / "model", LABELS)
    rows, drawn = _rows(data, "train", texts), _rows(data, "test", 2 * QUERY_BATCHES * queries)
    asked = [row for row in drawn if _tokens(row, tokenizer) <= LONGEST_QUERY][: QUERY_BATCHES * queries]
    _write(folder, "train", _sorted(rows, tokenizer), BATCH, tokenizer)
    batches = [_sorted(asked[start : start + queries], tokenizer) for start in range(0, len(asked), queries)]
    _write(folder, "queries", [row for batch in batches for row in batch], queries, tokenizer)
    sealed.write_text(json.dumps(facts), encoding="utf-8")
    return folder


def _rows(data: Path, part: str, count: int) -> list[harness.Row]:
    """Draw rows: title and description, label as its number in alphabetical order."""
    rows = sorted(harness.agnews(data, part), key=lambda row: (row["text"], row["label"]))
    return harness.numbered(harness.sample(rows, count), sorted({row["label"] for row in rows}))


def _tokens(row: dict[str, str], tokenizer: transformers.PreTrainedTokenizerBase) -> int:
    return len(tokenizer(row["text"], truncation=True, max_length=512)["input_ids"])


def _sorted(rows: list[dict[str, str]], tokenizer: transformers.PreTrainedTokenizerBase) -> list[dict[str, str]]:
    """By tokens, so that batches hold texts of like length."""
    return sorted(rows, key=lambda row: _tokens(row, tokenizer))


def _write(
    folder: Path, name: str, rows: list[dict[str, str]], size: int, tokenizer: transformers.PreTrainedTokenizerBase
) -> None:
    """Write the rows as they are (JSON Lines) and tokenized, batch by batch (.npz)."""
    harness.write_lines(folder / f"{name}.jsonl", rows)
    arrays: dict[str, np.ndarray] = {}
    for number, start in enumerate(range(0, len(rows), size)):
        part = rows[start : start + size]
        encoded = tokenizer(
            [row["text"] for row in part], truncation=True, max_length=512, padding=True, return_tensors="np"
        )
        arrays[f"ids.{number}"], arrays[f"mask.{number}"] = encoded["input_ids"], encoded["attention_mask"]
        arrays[f"labels.{number}"] = np.asarray([int(row["label"]) for row in part])
    np.savez(folder / f"{name}.npz", **arrays)
