"""What `proponent plan` says beside what `proponent index` then takes: seconds, memory, disk.

    python benchmarks/forecast.py --data FOLDER [--repeats 3] [--only small] [--out benchmarks/results]

Two settings: the encoder of all-MiniLM-L6-v2 with a fresh head (one checkpoint, 1,024 texts of AG News), and a small
transformer trained from scratch on AG News (two checkpoints, ten tokens a text, 16-bit rows, 8,000 texts). Plan and
index take turns at the command line, each in a process of its own; the figures are medians over the turns. Seconds are
those of all stages of the build, without the start of the process and without reading the data.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from index_cost import make_run, texts_of
from notebook_job import rows_of

STAGES = ("tokenize", "load", "gradients", "tables", "postings", "seal")


def cases(folder: Path, data: Path, wanted: set[str]) -> dict[str, tuple[Path, Path, list[str]]]:
    """Make the runs and the data: run, data and options of each case by name."""
    found: dict[str, tuple[Path, Path, list[str]]] = {}
    if not wanted or "encoder" in wanted:
        rows, file = texts_of(data, 1024)[1], folder / "encoder.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        run = make_run(folder / "encoder", len({row["label"] for row in rows}), None)
        found["encoder of MiniLM-L6, 1,024 texts, 1 checkpoint"] = run, file, []
    if not wanted or "small" in wanted:
        rows, file, few = rows_of(data, 8000), folder / "small.jsonl", folder / "few.jsonl"
        for path, part in ((file, rows), (few, rows[:2000])):
            path.write_text("".join(json.dumps(row) + "\n" for row in part), encoding="utf-8")
        proponent("train", str(few), "--out", str(folder / "small"), "--epochs", "2", "--max-length", "96", "-q")
        words = ["--method", "tracin-we-topk", "--top", "10", "--rows", "fp16"]
        found["small transformer, 8,000 texts, 2 checkpoints, top 10, fp16"] = folder / "small", file, words
    return found


def proponent(*words: str) -> str:
    """Run a command."""
    done = subprocess.run(
        [sys.executable, "-m", "proponent.cli", *words],
        env=os.environ | {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"proponent {' '.join(words)}: {done.stderr[-2000:]}")
    return done.stdout


def turn(run: Path, data: Path, words: list[str], out: Path) -> dict[str, tuple[float, float]]:
    """Forecast and truth of one index: by figure."""
    shutil.rmtree(out, ignore_errors=True)
    foreseen: dict[str, Any] = json.loads(proponent("plan", str(run), str(data), "--json", "-q", *words))
    proponent("index", str(run), str(data), "--out", str(out), "-q", *words)
    real: dict[str, Any] = json.loads(proponent("info", str(out), "--json"))
    planned = {stage["name"]: stage["seconds"] for stage in foreseen["stages"]}
    figures = {"seconds": (foreseen["seconds"], sum(real["seconds"].values()))}
    figures["peak memory, MB"] = (foreseen["peak_rss"] / 1e6, real["peak_rss"] / 1e6)
    kinds = foreseen["disk"]
    figures["disk, MB"] = (foreseen["bytes"] / 1e6, sum(real["bytes"][kind] for kind in kinds) / 1e6)
    figures |= {f"seconds of {name}": (planned[name], real["seconds"].get(name, 0.0)) for name in STAGES}
    return figures


def main() -> None:
    """Take turns; print and write a dated record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder that holds agnews/")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", default="", help="encoder or small")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    options = parser.parse_args()
    told: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary)
        for name, (run, data, words) in cases(place, options.data, set(filter(None, options.only.split(",")))).items():
            turns = [turn(run, data, words, place / "made.index") for _ in range(options.repeats)]
            figures: dict[str, list[float]] = {}
            for what in turns[0]:
                before, after = (statistics.median(one[what][at] for one in turns) for at in (0, 1))
                ratios = [one[what][1] / one[what][0] for one in turns if one[what][0]]
                ratio = statistics.median(ratios) if ratios else 0.0
                figures[what] = [round(before, 2), round(after, 2), round(ratio, 2)]
            told.append({"case": name, "forecast, real, ratio": figures})
            print(json.dumps(told[-1]), flush=True)
    record = {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": f"{os.uname().machine}, {os.cpu_count()} cores, one thread",
        "repeats": options.repeats,
        "cases": told,
    }
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / f"{record['date']}-forecast.json"
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
