"""Record G: is first better than last? Word embedding, last layer and word overlap on models trained from scratch.

    python benchmarks/fidelity/record_g.py bank trec agnews --data ../shared/data --cache CACHE

Data sets for choosing: trec, sst2; for reporting: agnews, toxic_tweets_davidson, newsgroups20. Each has 2,000 rows and
200 queries. A small classifier is trained from scratch by `proponent train`, and everything else is
`proponent evaluate`: the retrainings on halves are cached, and every step resumes.
"""

import argparse
import csv
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

sys.path.insert(0, str(Path(__file__).parent))
sys.path.append(str(Path(__file__).resolve().parents[1]))

import data
import harness

from proponent import Example
from proponent.evaluate import lds_replicates, ratio, spearman, widened, within_groups

CHOICE = ("trec", "sst2")
REPORT = ("agnews", "toxic_tweets_davidson", "newsgroups20")
LENGTHS = {"trec": 32, "sst2": 48, "agnews": 48, "toxic_tweets_davidson": 40, "newsgroups20": 64}
LABELS = {"trec": "label_name", "sst2": "label", "newsgroups20": "label_name"}
ROWS, QUERIES = 2_000, 200
FORMS = {
    "direction": {},
    "root of the norm": {"norm": 0.5},
    "whole norm": {"norm": 1.0},
    "whole norm and once": {"norm": 1.0, "repeats": "once"},
    "once": {"repeats": "once"},
    "idf to the half": {"power": 0.5},
    "idf to 1.5": {"power": 1.5},
    "idf squared": {"power": 2.0},
    "no idf": {"power": 0.0},
    "equal weights": {"weights": "constant"},
}
"""Fields that are changed; a baseline of each is the first."""
DELETED = ("tracin-we-idf", "tracin-last")
METHODS = ("tracin-we-idf", "tracin-we", "tracin-we-adam-unit", "tracin-last", "tracin-all", "grad-cos")


def examples(path: Path, label: str) -> list[Example]:
    """Rows of a packed file."""
    return [Example(str(at), at, one["text"], one[label]) for at, one in enumerate(data.rows(path))]


def task(folder: Path, name: str, sizes: tuple[int, int] = (ROWS, QUERIES)) -> data.Task:
    """Training rows and queries of a data set."""
    if name == "agnews":
        return data.agnews(folder, sizes, title=True)
    if name.startswith("toxic"):
        return data.toxic(folder, name, sizes)
    train, test = (examples(folder / name / f"{part}.csv.gz", LABELS[name]) for part in ("train", "test"))
    return data.task(name, train, test, tuple(sorted({str(one.label) for one in train})), sizes)


def write(path: Path, rows: list[Example]) -> None:
    """Write rows as a CSV file with unique ids."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("id", "text", "label"))
        writer.writerows((f"{path.stem}-{one.row}", one.text, one.label) for one in rows)


def trained(args: argparse.Namespace, name: str, checkpoints: int = 10) -> Path:
    """Folder of a data set's files and its run."""
    home = args.cache / name
    home.mkdir(parents=True, exist_ok=True)
    if not (home / "queries.csv").is_file():
        found = task(args.data, name)
        write(home / "train.csv", found.train)
        write(home / "queries.csv", found.queries)
    if not (home / f"run-{checkpoints}").is_dir():
        harness.command(
            "train", home / "train.csv", "--out", home / f"run-{checkpoints}", "--epochs", args.epochs, "--max-length",
            LENGTHS[name], "--checkpoints", checkpoints, "--quiet",
        )  # fmt: skip
    return home


def evaluate(args: argparse.Namespace, name: str, methods: list[str], what: str, checkpoints: int = 10) -> None:
    """Retrain on halves, unless the cache holds them, and measure methods."""
    home = trained(args, name, checkpoints)
    harness.command(
        "evaluate", home / f"run-{checkpoints}", home / "train.csv", "--queries", home / "queries.csv", "--metric",
        "lds", "--points", QUERIES, "--subsets", args.subsets, "--seeds", 2, "--runs", args.runs, "--methods",
        ",".join(methods), "--max-length", LENGTHS[name], "--cache", home / "cache", "--quiet", "--out",
        home / f"{what}-{checkpoints}-{args.runs}.json", "--arrays",
        home / f"{what}-{checkpoints}-{args.runs}.safetensors",
    )  # fmt: skip


def bank(args: argparse.Namespace, name: str) -> None:
    """Retrain on halves; every method is measured against them later."""
    evaluate(args, name, ["tracin-last"], "bank")


def choose(args: argparse.Namespace, name: str) -> None:
    """Forms of rows by direction, side by side."""
    folder = args.cache / "methods"
    folder.mkdir(exist_ok=True)
    made: list[str] = []
    for form, changes in FORMS.items():
        path = folder / f"{form}.json"
        path.write_text(json.dumps({"method": "tracin-we-idf", "name": form} | changes))
        made.append(str(path))
    for checkpoints in (3, 5, 10, 20):
        evaluate(args, name, made if checkpoints == 10 else made[:1], "choose", checkpoints)


def report(args: argparse.Namespace, name: str) -> None:
    """The chosen form beside the other methods."""
    evaluate(args, name, list(METHODS), "report")


def delete(args: argparse.Namespace, name: str) -> None:
    """Delete the rows that helped most by the chosen form, by the last layer and by word overlap."""
    home = trained(args, name)
    harness.command(
        "evaluate", home / "run-10", home / "train.csv", "--queries", home / "queries.csv", "--metric", "deletion",
        "--helped-only", "--points", args.points, "-k", args.deleted, "--seeds", args.seeds, "--methods",
        ",".join(DELETED), "--max-length", LENGTHS[name], "--cache", home / "cache", "--quiet", "--out",
        home / f"deletion-{args.deleted.replace(',', '-')}.json",
    )  # fmt: skip


def together(args: argparse.Namespace) -> None:
    """Mean within class over the queries of all given sets, and the ratio to word overlap."""
    found: dict[str, list[np.ndarray]] = {}
    drawn: dict[str, list[np.ndarray]] = {}
    for name in args.names:
        kept = load_file(args.cache / name / f"report-10-{args.runs}.safetensors")
        masks, groups = kept["masks"] > 0, kept["groups"]
        left = within_groups(kept["outputs"].mean(0), masks, groups)
        for key in (one for one in kept if one.startswith("scores.")):
            sums = within_groups(masks.astype(float) @ kept[key].T.astype(float), masks, groups)
            method = key.removeprefix("scores.")
            found.setdefault(method, []).append(spearman(sums, left))
            drawn.setdefault(method, []).append(lds_replicates(sums, left))
    values = {key: np.concatenate(each) for key, each in found.items() if len(each) == len(args.names)}
    draws = {key: np.mean(drawn[key], axis=0) for key in values}
    ours, lines = "tracin-we-idf", dict[str, dict[str, Any]]()
    for key, each in values.items():
        lines[key] = {"within_class": widened(float(each.mean()), draws[key], len(each)).to_dict()}
        if key not in (ours, "label", "random"):
            over_queries = ratio(values[ours], each).to_dict()
            over_both = widened(over_queries["value"], draws[ours] / draws[key], len(each)).to_dict()
            gap = widened(float((values[ours] - each).mean()), draws[ours] - draws[key], len(each)).to_dict()
            lines[key] |= {"ratio_over_queries": over_queries, "ratio_over_queries_and_halves": over_both}
            lines[key] |= {"tracin_we_idf_minus": gap}
    harness.write_json(args.cache / f"together-{args.runs}.json", {"sets": args.names, "methods": lines})


STEPS = {"bank": bank, "choose": choose, "report": report, "delete": delete}


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=(*STEPS, "together"))
    parser.add_argument("names", nargs="+", choices=(*CHOICE, *REPORT))
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--cache", type=Path, default=Path("fidelity-cache/g"))
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--subsets", type=int, default=60)
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--points", type=int, default=16)
    parser.add_argument("--seeds", type=int, default=2, help="of a deletion")
    parser.add_argument("--deleted", default="30,100")
    return parser.parse_args()


if __name__ == "__main__":
    given = arguments()
    if given.step == "together":
        together(given)
    else:
        for one in given.names:
            STEPS[given.step](given, one)
