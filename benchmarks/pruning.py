"""Channel pruning against controls on real text, and the order of single channels against the truth.

    python benchmarks/pruning.py --data FOLDER [--sets agnews,sst2] [--seeds 4] [--cache FOLDER]

A small classifier is trained by `proponent train`; `proponent prune` removes half of its feed-forward channels with the
shipped settings, four seeds. The truth of a channel is the rise of the loss on held-out rows when it alone is removed;
Spearman's correlation with it is measured for every form of the influence, for one batch, and for the weight norm.
"""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
from harness import agnews, arguments, command, read_csv, sample, write_record
from scipy.stats import spearmanr

from proponent.actions.channel_influence import ORDERS, channel_influence, losses_without
from proponent.models import Run
from proponent.models.prunable import norms, sites_of
from proponent.training.rerun import RunProblem


def rows_of(name: str, folder: Path) -> list[dict[str, str]]:
    """Labelled texts of a data set."""
    if name == "agnews":
        return agnews(folder)
    found = read_csv(folder / name / "train.csv.gz")
    return [{"id": f"{name}-{at}", "text": row["text"], "label": row["label"]} for at, row in enumerate(found)]


def write(path: Path, rows: list[dict[str, str]]) -> Path:
    """Write rows as CSV."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, ("id", "text", "label"))
        writer.writeheader()
        writer.writerows(rows)
    return path


def orders(run: Run, train: list[Any], held: list[Any], args: Any) -> dict[str, float]:
    """Spearman of each form with the rise of the held-out loss, over sampled channels."""
    problem = RunProblem(run, train, held, str(run.checkpoints[-1].path), run.length(None))
    model = run.load(run.checkpoints[-1])
    sites = sites_of(model)
    generator = np.random.default_rng(0)
    every = [(at, channel) for at, site in enumerate(sites) for channel in range(site.count)]
    chosen = [every[at] for at in np.sort(generator.permutation(len(every))[: args.channels])]
    before = float(problem.outputs(model).loss.mean())
    truth = (
        np.asarray(list(losses_without(model, sites, chosen, lambda one: float(problem.outputs(one).loss.mean()))))
        - before
    )
    batches = [np.sort(generator.permutation(len(train))[:16]) for _ in range(args.batches)]
    ways = {
        name: channel_influence(model, sites, problem, batches[:2] if name == "mixed" else batches, name).values
        for name in ORDERS
    }
    ways["one batch"] = channel_influence(model, sites, problem, batches[:1]).values
    ways["weight norm"] = tuple(norms(model, sites))
    return {
        name: float(spearmanr([values[at][channel] for at, channel in chosen], truth).statistic)
        for name, values in ways.items()
    }


def main() -> None:
    """Train, prune, measure the orders, and write the record."""
    parser = arguments(
        __doc__,
        data=True,
        sets="agnews,sst2",
        rows=2000,
        asked=600,
        epochs=5,
        seeds=4,
        channels=200,
        batches=30,
        steps=100,
    )
    parser.add_argument("--cache", type=Path, default=Path("pruning-cache"))
    args = parser.parse_args()
    found: dict[str, Any] = {}
    for name in args.sets.split(","):
        home = args.cache / name
        home.mkdir(parents=True, exist_ok=True)
        rows = sample(rows_of(name, args.data), args.rows + args.asked)
        train, test = write(home / "train.csv", rows[: args.rows]), write(home / "test.csv", rows[args.rows :])
        if not (home / "run").is_dir():
            command("train", train, "--out", home / "run", "--epochs", args.epochs, "--quiet")
        if not (home / "page.json").is_file():
            command(
                "prune", home / "run", train, "--test", test, "--seeds", args.seeds, "--steps", args.steps, "--batches",
                args.batches, "--save", home / "half", "--out", home / "page.json", "--quiet",
            )  # fmt: skip
        if not (home / "orders.json").is_file():
            from proponent.data import read

            said = orders(Run.from_pretrained(home / "run"), list(read(train)), list(read(test)), args)
            (home / "orders.json").write_text(json.dumps(said), encoding="utf-8")
        page = json.loads((home / "page.json").read_text(encoding="utf-8"))
        figures = {row["method"]: row["figures"][0] | {"verdict": row["verdict"]} for row in page["rows"]}
        spearman = json.loads((home / "orders.json").read_text(encoding="utf-8"))
        found[name] = {"accuracy": figures, "facts": dict(page["facts"]), "spearman with the truth": spearman}
    settings = {key: value for key, value in vars(args).items() if isinstance(value, int | str)}
    write_record(args.out, "pruning", {"settings": settings, "sets": found})


if __name__ == "__main__":
    main()
