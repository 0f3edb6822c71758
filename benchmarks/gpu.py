"""The library on a GPU: the same scores as on the CPU, and what it costs there.

    python benchmarks/gpu.py [equal] [index] [big] [retrain] [memory] [--device cuda] [--base FOLDER] [--smoke]

    equal    small runs of every kind: scores on the device in 32 bits against the CPU's (at most 1e-3 of a query's
             largest score apart, the same ten best), and in bfloat16 (rank correlation, shared tens)
    index    SmolLM2-135M, full and LoRA: seconds of a build over those of a plain forward + backward pass of the same
             batches, GPU memory over its forecast, seconds of explanations
    big      a Llama of 7 billion random weights in bfloat16 with LoRA, and in full if time is left
    retrain  `proponent evaluate --metric lds` on the CPU, on the device and there with four workers; outputs compared
    memory   a build that runs out of GPU memory takes smaller passes; a text that never fits is refused

Each section writes its figures into one dated record as they come. `--smoke` makes everything tiny.
"""

import argparse
import contextlib
import io
import shutil
import tempfile
import time
import warnings
from collections.abc import Generator
from pathlib import Path
from typing import Any

import gpu_runs
import harness
import numpy as np
import torch
import transformers
from gpu_cost import GB, Record, big, build_figures, emptied, index, on_gpu, rounded, seconds
from safetensors.numpy import load_file

import proponent
from proponent import Run

TOLERANCE = 1e-3
Outputs = dict[str, dict[str, np.ndarray]]


def best(scores: np.ndarray, k: int = 10) -> list[set[int]]:
    """The rows of the highest scores of each query."""
    return [set(np.argsort(-one)[:k].tolist()) for one in scores]


def shared(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Mean share of the ten best rows that both have."""
    pairs = zip(best(ours), best(theirs), strict=True)
    return float(np.mean([len(one & other) / len(one) for one, other in pairs]))


def scored(args: argparse.Namespace, run: Path, rows: Any, queries: Any, method: str, device: str, dtype: str) -> Any:
    """Scores of an index that is built and asked on one device."""
    out = args.folder / "equal.index"
    shutil.rmtree(out, ignore_errors=True)
    given: dict[str, Any] = {"device": device, "dtype": dtype, "quiet": True, "batch_size": 32}
    if method == "tracin-layers":
        given["layers"] = "attention,mlp"
    proponent.build(run, rows, out, method, **given)
    labels = [row["label"] for row in queries] if "label" in queries[0] else None
    asked = [{name: value for name, value in row.items() if name not in {"id", "label"}} for row in queries]
    return proponent.open(out, device=device, dtype=dtype).scores(asked, labels)


def equal(args: argparse.Namespace, record: Record) -> None:
    """Scores of small runs of every kind."""
    count, steps = (24, 4) if args.smoke else (200, 20)
    for at, (name, kind) in enumerate(gpu_runs.KINDS.items()):
        with record.part("equal", name):
            rows, queries = kind.rows(count, 0), kind.rows(2 if args.smoke else 4, 1)
            run = gpu_runs.make(kind, args.folder / f"equal-{at}", rows, steps)
            for method in kind.methods.split()[: 1 if args.smoke else None]:
                with record.part("equal", f"{name}, {method}"):
                    compare(args, record, name, run, rows, queries, method)


def compare(
    args: argparse.Namespace, record: Record, name: str, run: Path, rows: Any, queries: Any, method: str
) -> None:
    """One method on the CPU, on the device, and there in bfloat16."""
    what = f"{name}, {method}"
    here = scored(args, run, rows, queries, method, "cpu", "float32")
    for dtype in ("float32", "bfloat16"):
        began = time.perf_counter()
        with record.part("equal", f"{what}, {dtype}"):
            there = scored(args, run, rows, queries, method, args.device, dtype)
            figures = harness.alike(there, here) | {"shared tens": shared(there, here)}
            record.add("equal", f"{what}, {dtype}", rounded(figures | {"seconds": time.perf_counter() - began}))
            holds = dtype != "float32" or figures["largest_difference"] <= TOLERANCE
            record.check("equal", f"{what}, {dtype}", holds=holds)


def retrain(args: argparse.Namespace, record: Record) -> None:
    """Models trained again on halves: seconds, and their outputs against the CPU's."""
    count, steps, width = (36, 6, 32) if args.smoke else (600, 3 * 600 // 16, 128)
    folder = args.folder / "again"
    rows = gpu_runs.news(count)
    harness.write_lines(folder / "rows.jsonl", rows)
    harness.write_lines(folder / "asked.jsonl", gpu_runs.news(12 if args.smoke else 40, 1))
    tokenizer = gpu_runs.whole_words()
    gpu_runs.trained(folder / "run", gpu_runs.bert(tokenizer, width=width), tokenizer, rows, "classes", steps)
    ways: dict[str, tuple[Any, ...]] = {"cpu": ("--device", "cpu"), "device": ("--device", args.device)}
    if not args.smoke:
        ways["device, 4 workers"] = ("--device", args.device, "--workers", 4)
    here: Outputs = {}
    for way, words in ways.items():
        with record.part("retrain", way):
            found: Outputs = {}
            whole = seconds(args.device, lambda words=words, found=found: found.update(halves(folder, *words)))
            each = [float(one["seconds"][0]) for one in found.values()]
            figures = {"command": whole, "retrains": float(len(each)), "seconds each": float(np.mean(each))}
            if way == "cpu":
                here = found
            elif here:
                apart = [float(np.abs(here[name]["loss"] - one["loss"]).max()) for name, one in found.items()]
                figures |= {"largest difference of a loss": max(apart), "median": float(np.median(apart))}
                figures["spread of losses over halves"] = float(
                    np.std([one["loss"] for one in here.values()], 0).mean()
                )
            record.add("retrain", way, rounded(figures))


def halves(folder: Path, *words: object) -> Outputs:
    """Retrain on twenty halves by the command; what each model said of the queries."""
    cache = Path(tempfile.mkdtemp(dir=folder))
    sizes = ("--subsets", 20, "--seeds", 1, "--points", 40, "--methods", "tracin-last", "--cache", cache, "-q")
    files = (folder / "run", folder / "rows.jsonl", "--queries", folder / "asked.jsonl")
    with contextlib.redirect_stdout(io.StringIO()):
        harness.command("evaluate", *files, "--metric", "lds", *sizes, *words)
    return {path.name: load_file(path) for path in cache.glob("retrains/*/*.safetensors")}


@contextlib.contextmanager
def short(device: str, room: float) -> Generator[None]:
    """Within, this process gets no more than so many bytes of the GPU, though more are free."""
    emptied(device)
    whole = torch.cuda.get_device_properties(device).total_memory
    torch.cuda.set_per_process_memory_fraction(room / whole)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
        emptied(device)


@contextlib.contextmanager
def crowded(device: str, room: float) -> Generator[None]:
    """Within, all but so many bytes of the GPU are taken by someone else."""
    emptied(device)
    taken = torch.empty(max(0, int(torch.cuda.mem_get_info(device)[0] - room)), dtype=torch.uint8, device=device)
    try:
        yield
    finally:
        del taken
        emptied(device)


def memory(args: argparse.Namespace, record: Record) -> None:
    """Builds where memory is short."""
    if not on_gpu(args.device):
        record.add("memory", "left out", "it needs a GPU")
        return
    rows = gpu_runs.sentences(16, 20, 40) if args.smoke else gpu_runs.sentences(128, 300, 460)
    data = harness.write_lines(args.folder / "memory.jsonl", rows)
    base = args.folder / "memory"
    shape = gpu_runs.SMOL | (gpu_runs.TINY | {"vocab_size": 4000} if args.smoke else {})
    gpu_runs.random_base(base, shape, rows, args.device, torch.float32)
    run = Run.from_pretrained(gpu_runs.as_run(base, args.folder / "memory-run"), device=args.device)
    asked = gpu_runs.sentences(3, 40, 80, seed=9)
    args = argparse.Namespace(**vars(args) | {"length": 512})

    def build() -> tuple[dict[str, Any], np.ndarray]:
        said = io.StringIO()
        with contextlib.redirect_stderr(said):
            figures, made = build_figures(args, run, data, "tracin-we", 64, plan=False)
            scores = made.scores([row["text"] for row in asked], targets=[row["target"] for row in asked])
        figures["notes"] = [line for line in said.getvalue().splitlines() if "memory" in line]
        return figures, scores

    figures, roomy = build()
    record.add("memory", "roomy", figures)
    ways = {"short of memory": short, "a crowded GPU": crowded}
    for name, way in ways.items():
        with record.part("memory", name), way(args.device, args.room * GB):
            figures, scores = build()
            figures["difference"] = harness.alike(scores, roomy)["largest_difference"]
            record.add("memory", name, figures)
            noted = bool(figures["notes"]) or way is crowded
            record.check("memory", f"{name}: the same scores", holds=figures["difference"] <= 1e-4)
            record.check("memory", f"{name}: a note", holds=noted)
    with record.part("memory", "a text that never fits"), short(args.device, args.room * GB):
        record.add("memory", "a text that never fits", refused(args, run))


def refused(args: argparse.Namespace, run: Run) -> str:
    """What a build says of a text that no pass can hold."""
    (row,) = gpu_runs.sentences(1, 12_000, 12_000, seed=5)
    rows = [{"id": "long", "text": row["text"] + row["target"]}]
    try:
        proponent.build(run, rows, args.folder / "refused.index", "tracin-we", max_length=8192, quiet=True)
    except proponent.ProponentError as error:
        return f"{type(error).__name__}: {error}"
    raise AssertionError("a text of 8,192 tokens was indexed")


SECTIONS = {"equal": equal, "index": index, "big": big, "retrain": retrain, "memory": memory}


def main() -> None:
    """Run the sections, and end with an error if something failed."""
    parser = harness.arguments(__doc__, device="cuda", rows=1200, batch=64, length=256, room=6.0)
    parser.add_argument(
        "sections", nargs="*", metavar="SECTION", help=f"of {', '.join(SECTIONS)}; all if none is given"
    )
    parser.add_argument("--base", type=Path, help="folder of SmolLM2-135M; else that of its package, or random weights")
    parser.add_argument("--smoke", action="store_true", help="tiny models")
    harness.add_defaults(parser, {"big_layers": 32, "big_seconds": 150.0})
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    transformers.utils.logging.set_verbosity_error()
    wrong = [one for one in args.sections if one not in SECTIONS]
    if wrong:
        parser.error(f"no section {wrong[0]}: choose of {', '.join(SECTIONS)}")
    record = Record(args.out, args.device)
    with tempfile.TemporaryDirectory() as folder:
        args.folder = Path(folder)
        for name in args.sections or SECTIONS:
            began = time.perf_counter()
            with record.part(name, "whole"):
                SECTIONS[name](args, record)
            emptied(args.device)
            record.add("seconds", name, round(time.perf_counter() - began, 1))
    print(f"failed: {record.content['failed'] or 'nothing'}")
    if record.content["failed"]:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
