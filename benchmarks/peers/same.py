"""Shared by the peers' scripts for the agreement: the work on disk, one model per checkpoint, one file of scores."""

import argparse
import json
import logging
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import transformers
from contract import Logits as Logits
from torch import nn
from torch.utils.data import Dataset


class Given:
    """Tokenized texts and checkpoints, as `benchmarks/agreement.py` wrote them.

    Attributes:
        rates: learning rate by folder of a checkpoint, in order.
        train: ids [n t], mask [n t], labels [n].
        queries: the same of the queries.
    """

    def __init__(self, folder: Path) -> None:
        said = json.loads((folder / "work.json").read_text(encoding="utf-8"))
        self.folder = folder
        self.rates: dict[str, float] = said["rates"]
        self.plain: str = said["plain"]
        with np.load(folder / "texts.npz") as file:
            self.train, self.queries = (
                tuple(torch.from_numpy(file[f"{name}.{part}"]) for part in ("ids", "mask", "labels"))
                for name in ("train", "queries")
            )

    def model(self, name: str) -> nn.Module:
        """Load a checkpoint, dropout off, attention without fused kernels."""
        kind = transformers.AutoModelForSequenceClassification
        return kind.from_pretrained(self.folder / name, attn_implementation="eager").eval()


class Rows(Dataset):
    """Texts as (ids, mask, label)."""

    def __init__(self, parts: tuple[torch.Tensor, ...]) -> None:
        self.parts = parts

    def __len__(self) -> int:
        return len(self.parts[0])

    def __getitem__(self, place: int) -> tuple[torch.Tensor, ...]:
        return tuple(part[place] for part in self.parts)


def main(scores: Callable[[Given, Path], dict[str, np.ndarray]]) -> None:
    """Compute a peer's scores and write them."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    logging.disable(logging.WARNING)
    transformers.utils.logging.set_verbosity_error()
    scratch = options.out.with_suffix(".scratch")
    scratch.mkdir(parents=True, exist_ok=True)
    np.savez(options.out, **scores(Given(options.work), scratch))
    sys.stdout.flush()
