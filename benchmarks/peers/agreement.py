"""Do two peers say the same? Scores against proponent's: exactly, where the quantity is the same, else by rank."""

from pathlib import Path
from typing import Any

import numpy as np


def compare(variants: dict[str, dict[str, Any]], folder: Path) -> None:
    """Add `agreement` to every record whose scores lie beside it."""
    reference = _scores(folder, "proponent")
    for name, record in variants.items():
        found = _scores(folder, name)
        if found is None or reference is None or name == "proponent" or found.shape != reference.shape:
            continue
        record["agreement"] = {"Spearman, mean over the queries": float(np.mean(_rank_correlations(found, reference)))}
        if record.get("quantity") == "embedding":
            largest = np.abs(reference).max(1, keepdims=True)
            difference = float((np.abs(found - reference) / largest).max())
            record["agreement"]["largest difference over the query's largest score"] = difference


def _scores(folder: Path, name: str) -> np.ndarray | None:
    path = folder / f"{name}.end-to-end.npy"
    return np.load(path).astype(np.float64) if path.is_file() else None


def _rank_correlations(one: np.ndarray, other: np.ndarray) -> list[float]:
    ranks = [scores.argsort(1).argsort(1) for scores in (one, other)]
    return [float(np.corrcoef(first, second)[0, 1]) for first, second in zip(*ranks, strict=True)]
