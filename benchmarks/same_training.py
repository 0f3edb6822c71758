"""Compare the training of two checkouts: hashes of weights, outputs, written runs, replays and tail-patches.

python benchmarks/same_scores.py runs FOLDER                 # tiny runs: BERT, tied GPT-2, T5, LoRA on BERT
python benchmarks/same_training.py record FOLDER             # two more, recorded for replay
PYTHONPATH=OLD/src python benchmarks/same_training.py hash FOLDER > old.json
PYTHONPATH=NEW/src python benchmarks/same_training.py hash FOLDER > new.json
diff old.json new.json

The compared parts are those that train: loop, written runs, replay engine and tail-patches, each called directly.
"""

import argparse
import hashlib
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import harness
import numpy as np
import torch
from same_scores import rows

from proponent import Example, Run
from proponent.dynamics.loops import Query
from proponent.dynamics.replay_engine import Replay
from proponent.evaluate.tail_patch import tail_patch
from proponent.models.checkpoints import MOMENTS_FILE, RECORD_FILE
from proponent.tensors import read_tensors
from proponent.training.loop import TrainingLoop
from proponent.training.rerun import FRESH, RunProblem, write_run
from proponent.training.schedule import Settings

SETTINGS = {
    "adamw": Settings(2, 6, 1e-2, weight_decay=0.1, schedule="linear", warmup=3, clip=0.5),
    "plain": Settings(2, 6, 1e-2),
    "sgd": Settings(2, 6, 3e-2, "sgd", 0.9, weight_decay=0.01, schedule="linear", clip=1.0),
    "places": Settings(2, 3, 1e-2, schedule="linear", keep_places=True),
}
RECORDED = ("classifier", "causal")
DELETED = (3, 4, 5, 6, 11, 17)


def examples(count: int, seed: int, run: str) -> list[Example]:
    """Made-up news, with the columns that a kind of run reads."""
    labelled = run in {"bert", "lora", "classifier"}
    return [
        Example(
            row["id"],
            at,
            row["text"],
            row["label"] if labelled else None,
            target=row["label"].lower() if run == "t5" else None,
        )
        for at, row in enumerate(rows(count, seed))
    ]


def record(folder: Path) -> None:
    """Train a classifier and a language model, recorded for replay."""
    for name in RECORDED:
        columns = ("id", "text", "label") if name == "classifier" else ("id", "text")
        data = [{column: row[column] for column in columns} for row in rows(30, 0)]
        harness.trained(
            data, folder / name, epochs=2, batch_size=8, width=16, layers=1, vocabulary=200, replay=True,
            adam_epsilon=1e-3, max_length=24,
        )  # fmt: skip


def digest(arrays: Any) -> str:
    """Hash arrays by name, shape and bytes."""
    made = hashlib.sha256()
    for name, one in sorted(dict(arrays).items()):
        value = np.ascontiguousarray(one.detach().numpy() if isinstance(one, torch.Tensor) else one)
        made.update(f"{name} {value.dtype} {value.shape}".encode() + value.tobytes())
    return made.hexdigest()[:24]


def loops(folder: Path, runs: list[str]) -> Iterator[tuple[str, str]]:
    """Every setting on every run, whole and with rows deleted, with two seeds."""
    for run in runs:
        opened = Run.from_pretrained(folder / run)
        problem = RunProblem(opened, examples(20, 1, run), examples(4, 2, run), FRESH, 24)
        for name, settings in SETTINGS.items():
            loop = TrainingLoop(problem, settings)
            yield f"{run} {name} identity", hashlib.sha256(loop.identity.encode()).hexdigest()[:24]
            for deleted in ((), DELETED):
                kept = np.setdiff1d(np.arange(20), deleted)
                for seed in (0, 7):
                    model = loop.fit(kept, seed)
                    outputs = loop(kept, seed)
                    yield (
                        f"{run} {name} without {len(deleted)} seed {seed}",
                        digest({**model.state_dict(), "odds": outputs.log_odds, "loss": outputs.loss}),
                    )
        yield from patches(run, TrainingLoop(problem, SETTINGS["adamw"]))


def patches(run: str, loop: TrainingLoop) -> Iterator[tuple[str, str]]:
    """A written run, and tail patches from its last checkpoint with and without its moments."""
    with tempfile.TemporaryDirectory() as place:
        written = write_run(loop, Path(place) / "run", 5)
        for at in written.checkpoints:
            for path in sorted(at.path.glob("*.safetensors")):
                yield f"{run} written {at.step} {path.name}", digest(read_tensors(path))
            yield (
                f"{run} written {at.step} record",
                digest({"record": np.frombuffer((at.path / RECORD_FILE).read_bytes(), np.uint8)}),
            )
        moments = read_tensors(written.checkpoints[-1].path / MOMENTS_FILE)
        problem: Any = loop.problem
        model = written.load(written.checkpoints[-1])
        for name, given in (("plain", None), ("moments", moments)):
            found = tail_patch(problem, model, [[0, 1], [2, 1], [3, 4], [5, 0]], np.zeros(4, np.int64), 1e-3, given)
            yield f"{run} tail patch {name}", digest({"found": found})


def replays(folder: Path, runs: list[str]) -> Iterator[tuple[str, str]]:
    """Ends of replayed trainings and derivatives, in 32 and 64 bits."""
    for name in runs:
        run = Run.from_pretrained(folder / name)
        texts = examples(30, 0, name)
        labels = [run.label_number(one.label) if one.label is not None else -1 for one in texts]
        for double in (False, True):
            one = Replay(run, texts, labels, double=double, quiet=True, max_length=24)
            query = Query(texts[3], labels[3])
            weights = np.linspace(0.0, 2.0, len(one))
            found = one.derivative([query, Query(texts[4], labels[4])])
            yield f"{name} {double} end", digest({"end": one.train()})
            yield f"{name} {double} weighed", digest({"end": one.train(weights, {(2, 1): 1.5, (7, 0): 0.0})})
            yield f"{name} {double} deviation", f"{one.deviation():.17g}"
            yield (
                f"{name} {double} derivative",
                digest({"scores": found.scores, "tokens": found.tokens, "losses": found.losses}),
            )


def main() -> None:
    """Read the arguments."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("record", "hash"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--runs", nargs="+", default=["bert", "gpt2", "t5", "classifier", "causal"])
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.what == "record":
        record(args.folder)
        return
    recorded = [run for run in args.runs if run in RECORDED]
    others = [run for run in args.runs if run not in RECORDED]
    found = {**dict(loops(args.folder, others)), **dict(replays(args.folder, recorded))}
    json.dump(found, sys.stdout, indent=1)


if __name__ == "__main__":
    main()
