"""Record I: answers that are no class. Scores against models that were trained again on halves.

    python benchmarks/fidelity/record_i.py relatedness places tags --data ../shared/data --cache CACHE

Relatedness of sentences (`nli_sick`), places of answers in a context and tags of words (generated, as in
`planted_copies.py`, with three near-copies of each query among the rows). Small models trained from scratch with the
Trainer and `proponent.Recorder()`, ten checkpoints. Everything else is `proponent evaluate`, whose retrainings are
cached. Queries of odd and even number are reported apart, and so is the lead of every method over the default of
earlier versions, `tracin-we`: a default is chosen on relatedness, odd queries, and read on the others.
"""

import argparse
import json
import random
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

sys.path.insert(0, str(Path(__file__).parent))
sys.path.append(str(Path(__file__).resolve().parents[1]))

import harness
import planted_copies

from proponent.evaluate import lds_replicates, spearman, widened

METHODS = (
    "tracin-we", "tracin-we-idf", "tracin-we-adam-unit", "tracin-we-noc", "grad-cos", "tracin-last", "tracin-all"
)  # fmt: skip
PLAIN = METHODS[0]
SETS = {"relatedness": "regression", "places": "answers", "tags": "entities"}
"""Tasks of `planted_copies.py`."""


def trained(args: argparse.Namespace, name: str) -> tuple[Path, planted_copies.Task]:
    """Folder of the rows, the queries and the run."""
    task = planted_copies.TASKS[SETS[name]](args)
    names = {"text": task.columns.text, "text_pair": task.columns.text_pair, "label": task.columns.label}
    asked = [{names[key]: value for key, value in row.items()} for row in task.questions]
    read = {said(row, task.columns) for row in asked}
    rows = [*task.rows, *(copy for own in task.copies for copy in own)]
    rows = [row for row in rows if said(row, task.columns) not in read]  # some generated copies are equal
    random.Random(1).shuffle(rows)
    home = args.cache / name
    home.mkdir(parents=True, exist_ok=True)
    harness.write_lines(home / "train.jsonl", rows)
    harness.write_lines(home / "queries.jsonl", [row | {"id": f"q{at}"} for at, row in enumerate(asked)])
    if not (home / "trained").is_file():
        task.train(home / "run", rows)
        (home / "trained").touch()
    return home, task


def said(row: dict[str, Any], columns: Any) -> tuple[str, str]:
    """What the model reads of a row."""
    text = " ".join(row["tokens"]) if "tokens" in row else row[columns.text]
    return text, str(row.get(columns.text_pair, ""))


def measured(args: argparse.Namespace, name: str) -> dict[str, Any]:
    """LDS of every method and control, and the parts of it that a default is chosen and read on."""
    home, task = trained(args, name)
    columns = task.columns
    harness.command(
        "evaluate", home / "run", home / "train.jsonl", "--queries", home / "queries.jsonl", "--metric", "lds",
        "--methods", ",".join(METHODS), "--points", args.queries, "--subsets", args.subsets, "--seeds", 2, "--groups",
        "length", "--initial", "fresh", "--text-column", columns.text, "--pair-column", columns.text_pair,
        "--label-column", columns.label, "--cache", home / "cache", "--out", home / "report.json", "--arrays",
        home / "report.safetensors",
    )  # fmt: skip
    page = json.loads((home / "report.json").read_text(encoding="utf-8"))
    return {"page": page, "parts": parts(load_file(home / "report.safetensors"))}


def parts(arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    """LDS of odd, even and all queries, and its lead over the earlier default."""
    masks, left = arrays["masks"].astype(float), arrays["outputs"].mean(0)
    sums = {key[7:]: masks @ one.T.astype(float) for key, one in arrays.items() if key.startswith("scores.")}
    found = dict[str, Any]()
    for part, some in {"odd": slice(1, None, 2), "even": slice(0, None, 2), "all": slice(None)}.items():
        each = {name: spearman(one[:, some], left[:, some]) for name, one in sums.items()}
        drawn = {name: lds_replicates(one[:, some], left[:, some]) for name, one in sums.items()}
        found[part] = {
            name: {
                "lds": widened(float(one.mean()), drawn[name], len(one)).to_dict(),
                "minus tracin-we": widened(
                    float((one - each[PLAIN]).mean()), drawn[name] - drawn[PLAIN], len(one)
                ).to_dict(),
            }
            for name, one in each.items()
        }
    return found


def main() -> None:
    """Measure the named sets, one record for each."""
    sizes = {"rows": 600, "queries": 40, "copies": 3, "epochs": 10, "checkpoints": 10, "subsets": 40}
    parser = harness.arguments(__doc__, data=True, **sizes)
    parser.add_argument("names", nargs="*", choices=list(SETS), default=list(SETS))
    parser.add_argument("--cache", type=Path, default=Path("fidelity-cache/i"))
    given = parser.parse_args()
    given.cache = given.cache.absolute()
    warnings.simplefilter("ignore")
    for name in given.names:
        harness.write_record(given.out, f"fidelity-i-{name}", {"rows": given.rows} | measured(given, name))


if __name__ == "__main__":
    main()
