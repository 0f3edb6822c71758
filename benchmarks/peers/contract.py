"""Shared by the scripts of all peers: the prepared work, the floor, the measurement. Needs only torch and transformers.

A script builds a `Peer` (two callables) from the work folder and calls `main`. Every repetition times, one after
another in one process and on one thread,

    floor        forward + backward of the loss to every parameter: all training batches and the first 16 queries
    end to end   scores [16 n] of the first 16 queries, from the loaded model and the tokenized texts
    further      scores of 16 other queries, with whatever the peer stored of the training set

so that each figure is a ratio to a floor measured seconds before, under the same load. Results are written after
every step: a peer that is stopped at its time limit keeps its results so far.
"""

import argparse
import logging
import os
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from torch.utils.data import Dataset

sys.path.append(str(Path(__file__).resolve().parents[1]))

from harness import folder_bytes as folder_bytes
from harness import peak_mb, write_json

WORD_TABLE = "bert.embeddings.word_embeddings"
HEAD = "classifier"


@dataclass(frozen=True)
class Batch:
    """Texts of like length, padded to the longest.

    Attributes:
        ids: [b t] token ids.
        mask: [b t] 1 on tokens, 0 on padding.
        labels: [b] class numbers.
    """

    ids: torch.Tensor
    mask: torch.Tensor
    labels: torch.Tensor

    @property
    def inputs(self) -> dict[str, torch.Tensor]:
        """As the model takes them, labels included."""
        return {"input_ids": self.ids, "attention_mask": self.mask, "labels": self.labels}


class Work:
    """The shared work: one model, the training batches sorted by length, three batches of queries.

    Args:
        folder: what `work.prepare` wrote.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.train = self._batches("train")
        self.queries = self._batches("queries")

    @property
    def texts(self) -> int:
        """How many training texts."""
        return sum(len(batch.labels) for batch in self.train)

    def model(self) -> torch.nn.Module:
        """Load the model: fp32, dropout off."""
        transformers.utils.logging.set_verbosity_error()
        return transformers.AutoModelForSequenceClassification.from_pretrained(self.folder / "model").eval()

    @cached_property
    def floor(self) -> Callable[[], None]:
        """The plain pass over the training batches and the first queries."""
        model = self.model().requires_grad_()

        def run_pass() -> None:
            for batch in [*self.train, self.queries[0]]:
                model.zero_grad(set_to_none=True)
                model(**batch.inputs).loss.backward()
            model.zero_grad(set_to_none=True)

        return run_pass

    def _batches(self, name: str) -> list[Batch]:
        with np.load(self.folder / f"{name}.npz") as file:
            return [
                Batch(*(torch.from_numpy(file[f"{part}.{number}"]) for part in ("ids", "mask", "labels")))
                for number in range(len(file.files) // 3)
            ]


class Rows(Dataset[Any]):
    """Batches as a map-style data set.

    Each row keeps its batch's padding, so that a loader without a collate function, reading in order with the same
    batch size, makes the same batches again.

    Args:
        batches: the batches.
        form: what a row is: "inputs", a dict as the model takes it, or "tuple", (ids, mask, label).
    """

    def __init__(self, batches: list[Batch], form: str = "inputs") -> None:
        self._rows = [(batch, row) for batch in batches for row in range(len(batch.labels))]
        self._form = form

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, place: int) -> Any:
        batch, row = self._rows[place]
        found = {name: value[row] for name, value in batch.inputs.items()}
        return found if self._form == "inputs" else tuple(found.values())


@dataclass
class Peer:
    """One peer in one way of use.

    Attributes:
        quantity: what its scores are: "embedding" is the product of the loss gradients of the word embeddings, summed
            losses, weight 1; anything else is compared by rank only.
        end_to_end: scores [16 n] of the first queries.
        further: scores [16 n] of the queries of this number; None where the peer keeps nothing and the call would be
            end to end again.
        kept_bytes: bytes that the peer keeps of the training set for further queries.
        notes: what a reader must know.
        parts: seconds of parts that the peer can tell apart, filled while it runs.
    """

    quantity: str
    end_to_end: Callable[[], np.ndarray]
    further: Callable[[int], np.ndarray] | None
    kept_bytes: Callable[[], int] = lambda: 0
    notes: list[str] = field(default_factory=list[str])
    parts: dict[str, list[float]] = field(default_factory=dict[str, list[float]])


class Logits(torch.nn.Module):
    """A model that takes tensors in their order and gives logits."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Logits [b l]."""
        return self.model(input_ids=ids, attention_mask=mask).logits


def freeze_all_but(model: torch.nn.Module, layers: tuple[str, ...]) -> torch.nn.Module:
    """Freeze every parameter outside some layers, so that a peer's backward pass computes nothing that it won't use."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith(layers))
    return model


def for_vmap(model: torch.nn.Module) -> torch.nn.Module:
    """Make the model's attention one that `torch.func.vmap` takes: the fused one and its checks of the mask are not."""
    model.set_attn_implementation("eager")
    return model


def added_mask(mask: torch.Tensor) -> torch.Tensor:
    """[b t] mask to the [b 1 1 t] that is added to attention scores; the model takes it as it is, without checks."""
    return (1.0 - mask[:, None, None, :].float()) * torch.finfo(torch.float32).min


def main(build: Callable[[Work, str, Path], Peer], packages: tuple[str, ...]) -> None:
    """Run one peer in one variant and write its record and its scores."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--variant", required=True)
    parser.add_argument("--out", type=Path, required=True, help="record; the scores go beside it")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--seconds", type=float, default=300.0, help="CPU seconds: no repetition starts that would end later"
    )
    parser.add_argument("--further-only", action="store_true", help="for peers that keep nothing")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    logging.disable(logging.WARNING)
    work = Work(options.work)
    scratch = options.out.with_suffix(".scratch")
    scratch.mkdir(parents=True, exist_ok=True)
    record: dict[str, Any] = {
        "variant": options.variant,
        "texts": work.texts,
        "versions": {name: _version(name) for name in ("torch", "transformers", "numpy", *packages)},
        "python": platform.python_version(),
        "rounds": [],
    }
    measure(work, build(work, options.variant, scratch), record, options)


def measure(work: Work, peer: Peer, record: dict[str, Any], options: argparse.Namespace) -> None:
    """Repeat floor, end to end, further; write the record after every step."""
    record |= {"quantity": peer.quantity, "notes": peer.notes}
    warm(work)
    began = time.process_time()
    for number in range(options.repeats):
        started = time.process_time()
        steps: dict[str, Callable[[], np.ndarray | None]] = {"floor": work.floor}
        if not options.further_only:
            steps["end to end"] = peer.end_to_end
        if peer.further is not None:
            further, batch = peer.further, 1 + number % (len(work.queries) - 1)
            steps["further"] = lambda further=further, batch=batch: further(batch)
        record["rounds"].append({})
        for name, step in steps.items():
            record |= {"doing": name, "since": time.process_time()}
            write_json(options.out, record)
            scores, record["rounds"][-1][name] = timed(step)
            if scores is not None and number == 0:
                np.save(options.out.with_name(f"{options.out.stem}.{name.replace(' ', '-')}.npy"), scores)
            record["parts"] = peer.parts
            record["peak RSS MB"] = peak_mb()
            record.setdefault("peak RSS MB of the floor alone", record["peak RSS MB"])
            record["kept bytes per text"] = peer.kept_bytes() / work.texts
            write_json(options.out, record)
        now = time.process_time()
        if now - began + 1.2 * (now - started) > options.seconds:
            break


def warm(work: Work) -> None:
    """One batch, the longest: the first pass of a process pays for its allocations."""
    model = work.model()
    model(**work.train[-1].inputs).loss.backward()


def timed(step: Callable[[], np.ndarray | None]) -> tuple[np.ndarray | None, dict[str, float]]:
    """Result, wall seconds and CPU seconds of one call."""
    wall, cpu = time.perf_counter(), time.process_time()
    found = step()
    return found, {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}


def _version(name: str) -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


if os.environ.get("OMP_NUM_THREADS") != "1":
    sys.exit("set OMP_NUM_THREADS=1: every figure of this benchmark is for one thread")
