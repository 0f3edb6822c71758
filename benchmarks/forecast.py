"""Compare the forecast of `proponent plan` with the cost of `proponent index`: seconds, memory, disk.

    python benchmarks/forecast.py --data FOLDER [--repeats 3] [--only small] [--out benchmarks/results]

Two settings: the encoder of all-MiniLM-L6-v2 with a fresh head (one checkpoint, 1,024 texts of AG News), and a small
transformer trained from scratch on AG News (two checkpoints, ten tokens per text, 16-bit rows, 8,000 texts). Plan and
index alternate at the command line, each in a separate process; the figures are medians. Seconds are those of all
stages of the build, without the start of the process and without reading the data.
"""

import json
import shutil
import statistics
import tempfile
from pathlib import Path
from typing import Any

import harness
from index_cost import texts_of
from notebook_job import rows_of

STAGES = ("tokenize", "load", "gradients", "tables", "postings", "seal")


def cases(folder: Path, data: Path, wanted: set[str], scale: int) -> dict[str, tuple[Path, Path, list[str]]]:
    """Make the runs and the data: run, data and options of each case by name."""
    found: dict[str, tuple[Path, Path, list[str]]] = {}
    if not wanted or "encoder" in wanted:
        count = 1024 // scale
        file = harness.write_lines(folder / "encoder.jsonl", texts_of(data, count))
        harness.fresh_encoder(folder / "encoder", 4)
        found[f"encoder of MiniLM-L6, {count:,} texts, 1 checkpoint"] = folder / "encoder", file, []
    if not wanted or "small" in wanted:
        count = 8000 // scale
        rows = rows_of(data, count)
        file, few = (
            harness.write_lines(folder / f"{name}.jsonl", part)
            for name, part in (("small", rows), ("few", rows[: count // 4]))
        )
        harness.proponent("train", few, "--out", folder / "small", "--epochs", 2, "--max-length", 96, "-q")
        words = ["--method", "tracin-we-topk", "--top", "10", "--rows", "fp16"]
        found[f"small transformer, {count:,} texts, 2 checkpoints, top 10, fp16"] = folder / "small", file, words
    return found


def turn(run: Path, data: Path, words: list[str], out: Path) -> dict[str, tuple[float, float]]:
    """Forecast and truth of one index: by figure."""
    shutil.rmtree(out, ignore_errors=True)
    foreseen: dict[str, Any] = json.loads(harness.proponent("plan", run, data, "--json", "-q", *words))
    harness.proponent("index", run, data, "--out", out, "-q", *words)
    real: dict[str, Any] = json.loads(harness.proponent("info", out, "--json"))
    planned = {stage["name"]: stage["seconds"] for stage in foreseen["stages"]}
    figures = {"seconds": (foreseen["seconds"], sum(real["seconds"].values()))}
    figures["peak memory, MB"] = (foreseen["peak_rss"] / 1e6, real["peak_rss"] / 1e6)
    kinds = foreseen["disk"]
    figures["disk, MB"] = (foreseen["bytes"] / 1e6, sum(real["bytes"][kind] for kind in kinds) / 1e6)
    figures |= {f"seconds of {name}": (planned[name], real["seconds"].get(name, 0.0)) for name in STAGES}
    return figures


def main() -> None:
    """Take turns; print and write a dated record."""
    parser = harness.arguments(__doc__, data=True, repeats=3)
    parser.add_argument("--only", default="", help="encoder or small")
    parser.add_argument("--scale", type=int, default=1, help="divides the number of texts")
    options = parser.parse_args()
    told: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary)
        wanted = set(filter(None, options.only.split(",")))
        for name, (run, data, words) in cases(place, options.data, wanted, options.scale).items():
            turns = [turn(run, data, words, place / "made.index") for _ in range(options.repeats)]
            figures: dict[str, list[float]] = {}
            for what in turns[0]:
                before, after = (statistics.median(one[what][at] for one in turns) for at in (0, 1))
                ratios = [one[what][1] / one[what][0] for one in turns if one[what][0]]
                ratio = statistics.median(ratios) if ratios else 0.0
                figures[what] = [round(before, 2), round(after, 2), round(ratio, 2)]
            told.append({"case": name, "forecast, real, ratio": figures})
            print(json.dumps(told[-1]), flush=True)
    harness.write_record(options.out, "forecast", {"repeats": options.repeats, "cases": told})


if __name__ == "__main__":
    main()
