"""Indexes of made-up gradients, written without any model: few tokens, ties and empty examples included."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from proponent.gradients.forms import Rows
from proponent.gradients.gradient import Gradient
from proponent.method import Gradients
from proponent.store import FORMAT, Plan, PlannedCheckpoint, PlannedSegment, PlannedTerm, Source, Writer
from proponent.types import CheckpointId

STEPS = CheckpointId(0, 3), CheckpointId(0, 9)
WIDTH, VOCABULARY = 64, 40
LABELS = ["a", "b", "c"]


def gradients(generator: np.random.Generator, count: int) -> Rows:
    """Rows of some examples: norms over many orders of magnitude; some examples are empty, some are copies."""
    counts = generator.integers(0, 9, count)
    total = int(counts.sum())
    owners = np.repeat(np.arange(count), counts)
    ids = generator.integers(0, VOCABULARY, total) ** 2 // VOCABULARY  # the low ids are common
    words = generator.integers(-1, 4, total)
    order = np.lexsort((words, ids, owners))
    scale = np.exp(generator.normal(0, 2, count))[owners]
    rows = (generator.standard_normal((total, WIDTH)) * scale[:, None]).astype(np.float32)
    made = Rows(np.concatenate([[0], np.cumsum(counts)]), ids[order], words[order], rows).merged(by_word=True)
    return _with_copies(made, generator)


def _with_copies(rows: Rows, generator: np.random.Generator) -> Rows:
    """Put the rows of some examples in the place of others': exact ties."""
    sources = np.arange(len(rows))
    for place in generator.choice(len(rows), len(rows) // 5, replace=False):
        sources[place] = generator.integers(0, len(rows))
    parts = [rows.example(int(source)) for source in sources]
    indptr = np.concatenate([[0], np.cumsum([len(one.ids) for one in parts])])
    joined = {name: np.concatenate([getattr(one, name) for one in parts]) for name in ("ids", "words", "rows")}
    return Rows(indptr, **joined)


@dataclass(frozen=True)
class Made:
    """An index and what it was made of.

    Attributes:
        folder: the index.
        rows: gradients in data order, by step.
        weights: of the checkpoints.
        skipped: examples without a gradient.
    """

    folder: Path
    rows: dict[CheckpointId, Rows]
    weights: dict[CheckpointId, float]
    skipped: np.ndarray

    def oracle(self, queries: dict[CheckpointId, Rows]) -> np.ndarray:
        """Scores by a plain loop in 64 bits: [q n], NaN for skipped examples."""
        count, n = len(next(iter(queries.values()))), len(next(iter(self.rows.values())))
        total = np.zeros((count, n))
        for step, rows in self.rows.items():
            for column in range(count):
                query = queries[step].example(column)
                for place in range(n):
                    own = rows.example(place)
                    same = own.ids[:, None] == query.ids[None, :]
                    products = own.rows.astype(np.float64) @ query.rows.astype(np.float64).T
                    total[column, place] += self.weights[step] * float(products[same].sum())
        total[:, self.skipped] = np.nan
        return total


def queries(generator: np.random.Generator, count: int) -> dict[CheckpointId, Rows]:
    """Gradients of some queries at every step."""
    return {step: gradients(generator, count) for step in STEPS}


def asked(rows: dict[CheckpointId, Rows]) -> dict[CheckpointId, Gradient]:
    """As the search takes them."""
    return {step: Gradient(rows=own) for step, own in rows.items()}


def make(folder: Path, n: int, *, seed: int = 0, segment: int = 10**6, shard: int = 7, **changes: Any) -> Made:
    """Write an index of n examples."""
    generator = np.random.default_rng(seed)
    rows = {step: gradients(generator, n) for step in STEPS}
    skipped = generator.random(n) < 0.05
    rows = {step: own.without(skipped) for step, own in rows.items()}
    segments = [
        PlannedSegment(name=f"{at:05d}", n=min(segment, n - start), shards=_bounds(min(segment, n - start), shard))
        for at, start in enumerate(range(0, n, segment))
    ]
    source = Source(data="made up", columns={}, fingerprint="f" * 64, n=n, batch_size=4, segments=segments)
    checkpoints = [
        PlannedCheckpoint(id=at, learning_rate=0.1 * at.step, rule="r", weight=0.1 * at.step) for at in STEPS
    ]
    fields: dict[str, Any] = {
        "format": FORMAT,
        "proponent": "0",
        "method": Gradients(name="tracin-we"),
        "run": "runs/none",
        "tokenizer": None,
        "kind": "classification",
        "label_names": LABELS,
        "max_length": 8,
        "trust_remote_code": False,
        "fingerprints": {},
        "terms": [PlannedTerm(embedding_path="exact", tied=False, checkpoints=checkpoints)],
        "word_rules": "1",
        "source": source,
    }
    plan = Plan(**(fields | changes))
    writer = Writer(folder, plan)
    begin = 0
    labels = generator.integers(0, len(LABELS), n)
    for one in segments:
        order = generator.permutation(one.n)
        _segment(writer, one, order, rows, begin, skipped, labels)
        begin += one.n
    writer.seal([], [], {})
    writer.close()
    return Made(folder, rows, {one.id: one.weight for one in plan.checkpoints}, skipped)


def _bounds(n: int, shard: int) -> list[int]:
    return [*range(0, n, shard), n]


def _segment(
    writer: Writer,
    one: PlannedSegment,
    order: np.ndarray,
    rows: dict[CheckpointId, Rows],
    begin: int,
    skipped: np.ndarray,
    labels: np.ndarray,
) -> None:
    places = np.empty(one.n, dtype=np.int32)
    places[order] = np.arange(one.n, dtype=np.int32)
    numbers = begin + np.arange(one.n)
    columns = {
        "id": [f"e{number}" for number in numbers],
        "row": numbers,
        "text": [f"text {number}" for number in numbers],
        "text_pair": [None] * one.n,
        "target": [None] * one.n,
        "label": [LABELS[int(label)] for label in labels[numbers]],
        "source": ["even" if number % 2 == 0 else "odd" for number in numbers],
        "place": places,
    }
    writer.put_examples(one.name, columns)
    for step, own in rows.items():
        for shard, (start, stop) in enumerate(zip(one.shards[:-1], one.shards[1:], strict=True)):
            examples = begin + order[start:stop]
            parts = [own.example(int(example)) for example in examples]
            arrays = Gradient.stack([Gradient(rows=part) for part in parts]).pack() if parts else {}
            arrays |= {"meta.losses": np.ones(len(examples)), "meta.bad": skipped[examples]}
            arrays |= {"meta.probabilities": np.full((len(examples), len(LABELS)), 1 / 3, dtype=np.float32)}
            writer.put_shard(step, one.name, shard, arrays)
    features = writer.gather(one, order, labels[numbers].tolist())
    writer.finish(one, order, features, postings=True)
