"""A planted knowledge base: relations link clusters of entities."""

from pathlib import Path

import numpy as np

HEADER = ("head", "relation", "tail")


def triples(
    entities: int = 12, clusters: int = 3, relations: int = 2, count: int = 40, seed: int = 0
) -> list[list[str]]:
    """Distinct facts: relation r links cluster c to cluster c + r + 1."""
    generator = np.random.default_rng(seed)
    size, found = entities // clusters, dict[tuple[str, ...], None]()
    while len(found) < count:
        relation, head = int(generator.integers(relations)), int(generator.integers(entities))
        tail = ((head // size + relation + 1) % clusters) * size + int(generator.integers(size))
        found[(f"e{head}", f"r{relation}", f"e{tail}")] = None
    return [list(one) for one in found]


def write(path: Path, rows: list[list[str]], *, header: bool = False) -> Path:
    """Write a TSV file."""
    lines = [list(HEADER), *rows] if header else rows
    path.write_text("".join("\t".join(one) + "\n" for one in lines), encoding="utf-8")
    return path
