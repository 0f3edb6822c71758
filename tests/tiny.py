"""Tiny runs trained by proponent itself, with their data as files and an index of each."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import proponent
import runs
from proponent.data import read
from proponent.training.trainer import Training, train

SETTINGS = Training(
    epochs=2,
    checkpoints=2,
    batch_size=8,
    learning_rate=1e-2,
    max_length=24,
    width=16,
    layers=1,
    vocabulary=400,
    quiet=True,
)

NEWS = [
    *runs.rows(56),
    {"id": "twice", "text": "The cup, the CUP and the bank: naïve 日本 prices!", "label": "Sports"},
    {"id": "7", "text": "Retail sales\tslid in August.\nShares — fell", "label": "Business"},
    {"id": "formula", "text": "=SUM(A1) said the minister after the vote", "label": "World"},
    {"id": "long", "text": "the treaty and the army " * 12, "label": "World"},
]

PAIRS = [
    {
        "id": f"p{number}",
        "text": f"the {first} saw a {second}",
        "text_pair": f"a {second if number % 2 else first} and the {first} {number}",
        "label": ("same", "other")[number % 2],
    }
    for number, (first, second) in enumerate(
        (one, other)
        for one in ("cup", "coach", "bank", "army", "vote")
        for other in ("goal", "profit", "border", "team")
    )
]

LINES = [
    {"id": f"l{number}", "text": f"the {word} of the ", "target": f"{other} said {word}"}
    for number, (word, other) in enumerate(
        (one, other)
        for one in ("cup", "coach", "bank", "army", "vote")
        for other in ("goal", "profit", "border", "team")
    )
]


@dataclass(frozen=True)
class Tiny:
    """A run, the file it was trained on, and its index."""

    rows: Sequence[Mapping[str, str]]
    data: Path
    run: Path
    index: Path

    def text(self, row: int) -> str:
        return self.rows[row]["text"]


def write_csv(path: Path, rows: Sequence[Mapping[str, object]]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def made(folder: Path, rows: Sequence[Mapping[str, str]]) -> Tiny:
    data = write_csv(folder / "train.csv", rows)
    train(read(data), folder / "run", SETTINGS)
    proponent.build(folder / "run", data, folder / "tiny.index", quiet=True)
    return Tiny(rows, data, folder / "run", folder / "tiny.index")
