"""The retraining engine compared with a plain loop: one process, two processes, and many stacked CNNs, interleaved.

    python benchmarks/fidelity/engine_speed.py [--repeats 3] [--models 16]

The stacked form trains all models at once with batched weights (bmm over unfolded windows); its losses are compared
with the single module before any timing. Needs an idle machine: ratios of processes are meaningless under other
load. The plain loop is the library's own, called without its engine.
"""

import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np
import torch
from convolution import CnnProblem, TextCnn
from record import arguments, keep
from torch import Tensor
from torch.nn import functional

from proponent.engine import engine_of
from proponent.evaluate import RetrainJob, Retrains
from proponent.training.loop import TrainingLoop, one_thread
from proponent.training.schedule import Settings, id_hashes


def problem(rows: int) -> CnnProblem:
    """Made-up texts of the shape of record A."""
    generator = np.random.default_rng(0)
    ids, labels = generator.integers(0, 16_000, (rows + 60, 64)), generator.integers(0, 4, rows + 60)
    hashes = id_hashes([str(row) for row in range(rows)])
    return CnnProblem(ids[:rows], labels[:rows], ids[rows:], labels[rows:], hashes, 16_000, 4, "made up", 64)


def stacked(models: list[TextCnn]) -> dict[str, Tensor]:
    """The weights of several models as one, convolutions as matrices over windows."""

    def matrix(weight: Tensor) -> Tensor:
        return weight.permute(2, 1, 0).reshape(-1, weight.shape[0])

    parts = {"embedding": torch.stack([one.embedding.weight.detach() for one in models])}
    for name in ("first", "second", "third"):
        parts[name] = torch.stack([matrix(getattr(one, name).weight.detach()) for one in models])
        parts[f"{name} bias"] = torch.stack([getattr(one, name).bias.detach() for one in models])[:, None, None]
    parts["head"] = torch.stack([one.classifier.weight.detach().T for one in models])
    parts["head bias"] = torch.stack([one.classifier.bias.detach() for one in models])[:, None]
    return {name: one.clone().requires_grad_() for name, one in parts.items()}


def stacked_losses(weights: dict[str, Tensor], ids: Tensor, labels: Tensor) -> Tensor:
    """Mean loss of each model on its own batch [s n t]."""
    count, vocabulary, width = weights["embedding"].shape
    offsets = (torch.arange(count) * vocabulary)[:, None, None]
    hidden = functional.embedding(ids + offsets, weights["embedding"].reshape(-1, width))
    for name in ("first", "second", "third"):
        hidden = functional.relu(_windows(hidden, weights[name]) + weights[f"{name} bias"])
    logits = torch.bmm(hidden.amax(2), weights["head"]) + weights["head bias"]
    losses = functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none")
    return losses.view(count, -1).mean(1)


def _windows(hidden: Tensor, weight: Tensor) -> Tensor:
    count, batch, length, width = hidden.shape
    size = weight.shape[1] // width
    unfolded = hidden.unfold(2, size, 1).transpose(3, 4).reshape(count, batch * (length - size + 1), size * width)
    return torch.bmm(unfolded, weight).view(count, batch, length - size + 1, -1)


def stacked_seconds(posed: CnnProblem, count: int, steps: int) -> float:
    """Seconds a step and model of the stacked form."""
    models = [posed.fresh(seed) for seed in range(count)]
    weights = stacked(models)
    ids = torch.as_tensor(posed.ids[: 64 * count]).view(count, 64, -1)
    labels = torch.as_tensor(posed.labels[: 64 * count]).view(count, 64)
    alone = [functional.cross_entropy(one(ids[place]).logits, labels[place]) for place, one in enumerate(models)]
    gap = float((stacked_losses(weights, ids, labels) - torch.stack(alone)).abs().max())
    assert gap < 1e-5, f"the stacked form is not the model: {gap}"
    optimizer = torch.optim.AdamW(weights.values(), lr=3e-3, fused=True)
    began = time.perf_counter()
    for _ in range(steps):
        optimizer.zero_grad()
        stacked_losses(weights, ids, labels).sum().backward()
        optimizer.step()
    return (time.perf_counter() - began) / steps / count


def main() -> None:
    """Time all forms in turn."""
    parser = arguments(__doc__, cache=False, rows=2000, models=16, repeats=3)
    args = parser.parse_args()
    posed = problem(args.rows)
    loop = TrainingLoop(posed, Settings(2, 64, 3e-3))
    steps = 2 * -(-args.rows // 64)
    found: dict[str, list[float]] = {"loop": [], "one process": [], "two processes": [], "stacked": []}
    for repeat in range(args.repeats):
        jobs = [RetrainJob(np.arange(args.rows), 100 * repeat + seed) for seed in range(args.models)]
        began = time.perf_counter()
        for job in jobs:
            loop(job.rows, job.seed)
        found["loop"].append((time.perf_counter() - began) / args.models)
        for name, workers in (("one process", 1), ("two processes", 2)):
            with tempfile.TemporaryDirectory() as folder:
                began = time.perf_counter()
                Retrains(loop, Path(folder), engine_of(workers), quiet=True).outputs(jobs)
                found[name].append((time.perf_counter() - began) / args.models)
        with one_thread():
            found["stacked"].append(stacked_seconds(posed, 8, 5) * steps)
        print({name: f"{one[-1]:.2f}" for name, one in found.items()}, flush=True)
    ratios = {name: median(a / b for a, b in zip(found["loop"], one, strict=True)) for name, one in found.items()}
    keep(args, "engine", {"seconds_per_model": found, "times_faster_than_the_loop": ratios})


if __name__ == "__main__":
    main()
