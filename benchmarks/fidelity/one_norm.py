"""Which norm makes training gradients alike: that of g / sqrt(v + eps), or that of g / (v + eps)^(1/4)?

    python benchmarks/fidelity/one_norm.py --data ../shared/data --cache CACHE

`tracin-we-adam-unit` divides the product of two gradients by sqrt(v + eps) and by a norm of the training gradient. The
library takes the norm of the divided gradient; the other candidate is the norm in the metric of the product. Both
come from indexes of the public API: the second norm of a row is the root of its score on itself. A small classifier is
trained from scratch on AG News by `proponent train`, and `proponent evaluate` retrains it on halves. One run and three,
the last checkpoint and ten; within class and plain. Every step resumes.
"""

import sys
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

sys.path.insert(0, str(Path(__file__).parent))
sys.path.append(str(Path(__file__).resolve().parents[1]))

import harness
import record_g

import proponent
from proponent import Run
from proponent.data import read
from proponent.evaluate import ceiling, lds_replicates, spearman, widened, within_groups

METHOD = "tracin-we-adam"
SEEDS = (0, 1, 2)


def arguments():
    """Read the command line."""
    parser = harness.arguments(
        __doc__, data=True, rows=1000, queries=100, subsets=40, epochs=4, length=48, checkpoints=10, runs=3
    )
    parser.add_argument("--cache", type=Path, required=True)
    return parser.parse_args()


def bank(args) -> dict[str, np.ndarray]:
    """Halves and the outputs of the models that were trained on them."""
    home = args.cache
    if not (home / "queries.csv").is_file():
        found = record_g.data.agnews(args.data, (args.rows, args.queries), title=True)
        home.mkdir(parents=True, exist_ok=True)
        record_g.write(home / "train.csv", found.train)
        record_g.write(home / "queries.csv", found.queries)
    for seed in range(args.runs):
        if not (home / f"seed-{seed}" / "config.json").is_file():
            harness.command(
                "train", home / "train.csv", "--out", home / f"seed-{seed}", "--epochs", args.epochs, "--max-length",
                args.length, "--checkpoints", args.checkpoints, "--seed", seed, "--quiet",
            )  # fmt: skip
    kept = home / "bank.safetensors"
    if not kept.is_file():
        harness.command(
            "evaluate", home / "seed-0", home / "train.csv", "--queries", home / "queries.csv", "--metric", "lds",
            "--points", args.queries, "--subsets", args.subsets, "--seeds", 2, "--methods", "tracin-last",
            "--max-length", args.length, "--cache", home / "cache", "--quiet", "--out", home / "bank.json",
            "--arrays", kept,
        )  # fmt: skip
    return load_file(kept)


def both_norms(args, seed: int) -> dict[str, np.ndarray]:
    """Scores [q n] of one run under either norm, over all checkpoints and over the last alone; kept in the cache."""
    path = args.cache / f"scores-{seed}.npz"
    if path.is_file():
        return dict(np.load(path))
    home = args.cache
    train, queries = (list(read(home / f"{name}.csv")) for name in ("train", "queries"))
    found: dict[str, np.ndarray] = {}
    for checkpoint in Run.from_pretrained(home / f"seed-{seed}").checkpoints:
        step = checkpoint.step
        scores = {
            name: index_of(args, seed, step, method, train).scores(queries)
            for name, method in (("product", METHOD), ("divided", f"{METHOD}-unit"))
        }
        own = np.diagonal(index_of(args, seed, step, METHOD, train).scores(train))
        scores["metric"] = scores.pop("product") / np.sqrt(np.maximum(own, 1e-60))
        for name, one in scores.items():
            found[name] = found.get(name, 0) + one
            found[f"{name}, last"] = one
    np.savez(path, **found)
    return found


def index_of(args, seed: int, step: int, method: str, train):
    """An index of one checkpoint, every weight equal."""
    return proponent.build(
        args.cache / f"seed-{seed}", train, args.cache / "indexes" / f"{seed}-{step}-{method}", method, steps=(step,),
        weights="equal", max_length=args.length, quiet=True,
    )  # fmt: skip


def main() -> None:
    """Measure, and write the record."""
    args = arguments()
    kept = bank(args)
    masks, groups = kept["masks"] > 0, kept["groups"]
    each = [both_norms(args, seed) for seed in range(args.runs)]
    outputs, made = kept["outputs"].mean(0), {}
    tops = {"plain": ceiling(kept["outputs"]), "within class": ceiling(kept["outputs"], masks, groups)}
    for runs in sorted({1, args.runs}):
        for which in ("", ", last"):
            scores = {
                name: np.sum([one[f"{name}{which}"] for one in each[:runs]], axis=0) for name in ("divided", "metric")
            }
            made[f"{runs} {'run' if runs == 1 else 'runs'}{which or ', all checkpoints'}"] = {
                "rank correlation of the two scores": float(spearman(scores["divided"].T, scores["metric"].T).mean()),
                "plain": compared(scores, masks, outputs, None),
                "within class": compared(scores, masks, outputs, groups),
            }
    record = {
        "what": __doc__.splitlines()[0], "rows": args.rows, "queries": args.queries, "subsets": args.subsets,
        "ceilings": {name: [one.value, one.low, one.high] for name, one in tops.items()}, "norms": made,
    }  # fmt: skip
    harness.write_record(args.out, "fidelity-one-norm", record)


def compared(scores: dict[str, np.ndarray], masks: np.ndarray, outputs: np.ndarray, groups) -> dict:
    """LDS of both, and their paired difference."""

    def sides(one: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        sums = masks.astype(float) @ one.T
        return (
            (sums, outputs)
            if groups is None
            else (within_groups(sums, masks, groups), within_groups(outputs, masks, groups))
        )

    values = {name: float(spearman(*sides(one)).mean()) for name, one in scores.items()}
    draws = {name: lds_replicates(*sides(one)) for name, one in scores.items()}
    count = outputs.shape[1]
    made = {name: widened(value, draws[name], count).to_dict() for name, value in values.items()}
    gap = widened(values["metric"] - values["divided"], draws["metric"] - draws["divided"], count)
    return made | {"metric less divided": gap.to_dict()}


if __name__ == "__main__":
    main()
