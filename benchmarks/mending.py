"""Mend the errors of a pretrained encoder on counterfactual pairs: by a method, beside controls at the same budget.

    python benchmarks/mending.py --data FOLDER [--rows 1000] [--epochs 3] [--runs 3] [--methods grad-cos]

A pretrained encoder is fine-tuned on SNLI pairs by `proponent train`, once for each seed. Its errors on counterfactual
pairs are mended by `proponent mend`, with the shipped settings; clean pairs are SNLI pairs that were not trained on.
All of it resumes in --cache.
"""

import csv
import json
from pathlib import Path

import numpy as np
from harness import arguments, command, encoder_folder, environment, machine, read_csv, today, write_json

from proponent.version import __version__


def pairs(path: Path, counts: dict[str, int], folder: Path) -> None:
    """Write disjoint samples of pairs; no premise stands in two of them."""
    rows = read_csv(path)
    premises: dict[str, list[dict[str, str]]] = {}
    for row in rows:
        premises.setdefault(row["premise"], []).append(row)
    order = np.random.default_rng(0).permutation(len(premises))
    drawn = (row for at in order.tolist() for row in list(premises.values())[at])
    for name, count in counts.items():
        kept: list[dict[str, str]] = []
        last = ""
        for row in drawn:
            if len(kept) >= count and row["premise"] != last:
                break
            kept.append(row)
            last = row["premise"]
        with (folder / f"{name}.csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(("id", "text", "text_pair", "label"))
            writer.writerows((one["id"], one["premise"], one["hypothesis"], one["label_name"]) for one in kept)


def main() -> None:
    """Train, mend, and write the record."""
    parser = arguments(
        __doc__, data=True, rows=1000, epochs=3, runs=3, asked=240, length=48, batch=16, rate=1e-4, methods="grad-cos"
    )
    parser.add_argument("--cache", type=Path, default=Path("mending-cache"))
    args = parser.parse_args()
    args.cache.mkdir(parents=True, exist_ok=True)
    if not (args.cache / "errors.csv").is_file():
        snli, other = (args.data / name / "pairs.csv.gz" for name in ("nli_snli_devtest", "nli_counterfactual"))
        pairs(snli, {"train": args.rows, "clean": args.asked}, args.cache)
        pairs(other, {"errors": args.asked}, args.cache)
    found: list[dict[str, object]] = []
    for seed in range(args.runs):
        home = args.cache / f"run-{seed}"
        if not home.is_dir():
            command(
                "train", args.cache / "train.csv", "--model", encoder_folder(), "--out", home, "--epochs", args.epochs,
                "--max-length", args.length, "--batch-size", args.batch, "--learning-rate", args.rate,
                "--seed", seed, "--quiet",
            )  # fmt: skip
        for method in args.methods.split(","):
            page = args.cache / f"{method}-{seed}.json"
            if not page.is_file():
                command(
                    "mend", home, args.cache / "train.csv", args.cache / "errors.csv", "--clean",
                    args.cache / "clean.csv", "--method", method, "--index", args.cache / f"{method}-{seed}.index",
                    "--max-length", args.length, "--out", page, "--quiet",
                )  # fmt: skip
            found.append({"seed": seed, "method": method, **json.loads(page.read_text(encoding="utf-8"))})
    settings = {key: value for key, value in vars(args).items() if isinstance(value, int | float | str)}
    record = {
        "date": today(),
        "version": __version__,
        "machine": machine(),
        "environment": environment(),
        "settings": settings,
        "mended": found,
    }
    write_json(args.out / f"{today()}-mending.json", record)


if __name__ == "__main__":
    main()
