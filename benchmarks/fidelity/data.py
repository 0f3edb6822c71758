"""Data of the fidelity records: read, deduplicated, split with a seed."""

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from proponent import Example

sys.path.append(str(Path(__file__).resolve().parents[1]))

from harness import read_csv as rows


@dataclass(frozen=True)
class Task:
    """A training set with its queries; no query's text stands in the training set."""

    name: str
    train: list[Example]
    queries: list[Example]
    labels: tuple[str, ...]

    @property
    def texts(self) -> list[str]:
        """Texts of the training set, pairs joined."""
        return [" ".join(one.parts) for one in self.train]

    @property
    def query_texts(self) -> list[str]:
        """Texts of the queries."""
        return [" ".join(one.parts) for one in self.queries]

    def numbers(self, examples: list[Example]) -> np.ndarray:
        """Class numbers."""
        return np.asarray([self.labels.index(str(one.label)) for one in examples])


def task(
    name: str,
    train: list[Example],
    queries: list[Example],
    labels: tuple[str, ...],
    sizes: tuple[int, int],
    seed: int = 0,
) -> Task:
    """Drop repeated texts, keep queries out of the training set, and cut both to their sizes, at random."""
    generator, seen = np.random.default_rng(seed), set[tuple[str, ...]]()
    chosen: list[list[Example]] = []
    for wanted, pool in ((sizes[1], queries), (sizes[0], train)):
        kept: list[Example] = []
        for place in generator.permutation(len(pool)).tolist():
            key = tuple(part.strip().lower() for part in pool[place].parts)
            if len(kept) == wanted or key in seen or not all(key):
                continue
            seen.add(key)
            kept.append(pool[place])
        chosen.append([Example(one.id, row, one.text, one.label, one.text_pair) for row, one in enumerate(kept)])
    return Task(name, chosen[1], chosen[0], labels)


def as_rows(examples: list[Example]) -> list[dict[str, str]]:
    """Examples as rows that an index is built from."""
    return [
        {"id": one.id, "text": one.text, "label": str(one.label)}
        | ({} if one.text_pair is None else {"text_pair": one.text_pair})
        for one in examples
    ]


def agnews(folder: Path, sizes: tuple[int, int], *, title: bool = False) -> Task:
    """Descriptions (and titles) of AG News: two files of training rows, queries of the test file."""

    def read(name: str) -> list[Example]:
        return [
            Example(
                one["id"],
                row,
                f"{one['title']} {one['description']}" if title else one["description"],
                one["label_name"],
            )
            for row, one in enumerate(rows(folder / "agnews" / name))
        ]

    train = read("train.csv.gz") + ([] if title else read("train_extra_description_only.csv.gz"))
    return task("agnews", train, read("test.csv.gz"), ("World", "Sports", "Business", "Sci/Tech"), sizes)


def toxic(folder: Path, name: str, sizes: tuple[int, int]) -> Task:
    """Tweets: toxic or not; queries are rows of the same file."""
    pool = [
        Example(one["id"], row, one["text"], ("fine", "toxic")[int(one["toxic"])])
        for row, one in enumerate(rows(folder / name / "train.csv.gz"))
        if name != "toxic_tweeteval" or one["task"] == "offensive"
    ]
    return task(name, pool[2000:], pool[:2000], ("fine", "toxic"), sizes)


def snli(folder: Path, sizes: tuple[int, int]) -> Task:
    """Sentence pairs of SNLI's development and test files; queries are rows of the test file."""
    found = rows(folder / "nli_snli_devtest" / "pairs.csv.gz")
    labels = tuple(sorted({one["label_name"] for one in found}))
    pool = [
        Example(one["id"], row, one["premise"], one["label_name"], one["hypothesis"]) for row, one in enumerate(found)
    ]
    return task("snli", pool[1500:], pool[:1500], labels, sizes)
