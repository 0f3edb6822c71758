"""The costly sections of the check on a GPU (gpu.py), and the record that all of them write."""

import argparse
import contextlib
import gc
import platform
import shutil
import sys
import time
import traceback
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Any

import gpu_runs
import harness
import torch
import transformers

import proponent
from proponent import Run
from proponent.cost import Forecast, forecast
from proponent.data import read
from proponent.index import Options, summed
from proponent.method_table import stored_method

GB = 1e9
METHODS = {"full": ("tracin-we", "tracin-we-idf", "tracin-last", "grad-cos"), "LoRA": ("tracin-we", "grad-cos")}


class Record:
    """The figures so far; every new one is printed and written at once."""

    def __init__(self, folder: Path, device: str) -> None:
        self.path = folder / f"{harness.today()}-gpu.json"
        name = torch.cuda.get_device_name() if on_gpu(device) else device
        versions = {"python": platform.python_version(), "torch": str(torch.__version__)}
        versions["transformers"] = transformers.__version__
        self.content: dict[str, Any] = {"date": harness.today(), "machine": harness.machine(), "device": name}
        self.content |= {"environment": harness.environment(), "versions": versions, "failed": []}

    def add(self, section: str, name: str, figures: Any) -> None:
        """One figure or several."""
        print(f"{section} | {name} | {figures}", flush=True)
        self.content.setdefault(section, {})[name] = figures
        harness.write_json(self.path, self.content)

    @contextlib.contextmanager
    def part(self, section: str, name: str) -> Generator[None]:
        """A failure within is noted, and the rest goes on."""
        try:
            yield
        except (Exception, SystemExit) as error:
            self.content["failed"].append(f"{section}, {name}: {type(error).__name__}: {error}"[:600])
            traceback.print_exc()
            sys.stderr.flush()
            self.add(section, name, "failed")

    def check(self, section: str, name: str, *, holds: bool) -> None:
        """Note what does not hold."""
        if not holds:
            print(f"FAILED: {section}, {name}", flush=True)
            self.content["failed"].append(f"{section}, {name}")


def on_gpu(device: str) -> bool:
    """Whether GPU memory can be measured there."""
    return device.startswith("cuda")


def emptied(device: str) -> None:
    """Give back what nobody holds, and forget the peak."""
    gc.collect()
    if on_gpu(device):
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def seconds(device: str, work: Callable[[], object]) -> float:
    """Wall seconds of one call, until the device has finished."""
    began = time.perf_counter()
    work()
    if on_gpu(device):
        torch.cuda.synchronize(device)
    return time.perf_counter() - began


def rounded(figures: dict[str, float]) -> dict[str, Any]:
    """Four digits."""
    return {name: float(f"{value:.4g}") for name, value in figures.items()}


def plain_pass(run: Run, rows: Sequence[gpu_runs.Row], size: int, length: int) -> tuple[Callable[[bool], None], int]:
    """One forward + backward over all rows, to every parameter or to the adapter; and the number of tokens."""
    model = run.load(run.checkpoints[0])
    encoder = run.encoder(run.length(length))
    examples = [proponent.Example(str(at), at, row["text"], target=row["target"]) for at, row in enumerate(rows)]
    encoded = sorted(encoder.encode(examples), key=lambda one: one.length)

    def once(everything: bool) -> None:
        for name, weight in model.named_parameters():
            weight.requires_grad_(everything or "lora_" in name)
        for start in range(0, len(encoded), size):
            some = encoded[start : start + size]
            batch = encoder.collate(some, [-1] * len(some))
            model.zero_grad(set_to_none=True)
            model(**batch.inputs, labels=batch.ids.masked_fill(~batch.counted, -100)).loss.backward()

    return once, sum(one.length for one in encoded)


def plain_seconds(args: argparse.Namespace, run: Run, rows: Sequence[gpu_runs.Row]) -> dict[str, float]:
    """Seconds of plain passes, the better of two after a warm one."""
    once, tokens = plain_pass(run, rows, args.batch, args.length)
    found = {"tokens": float(tokens)}
    for what, everything in {"to every parameter": True, "to the adapter": False}.items():
        if everything or run.info.adapter:
            spent = [seconds(args.device, lambda every=everything: once(every)) for _ in range(2 if args.smoke else 3)]
            found[what] = min(spent[1:])
    if on_gpu(args.device):
        found["peak GB"] = torch.cuda.max_memory_allocated(args.device) / GB
    return found


def foreseen(args: argparse.Namespace, run: Run, rows: Path, method: str, options: Options) -> Forecast:
    """What `proponent plan` says of a build."""
    examples = read(rows)
    return forecast(run, examples, summed(stored_method(method), run, examples.layout), options, folder=args.folder)


def build_figures(
    args: argparse.Namespace, run: Run, rows: Path, method: str, size: int | None, *, plan: bool = True
) -> tuple[dict[str, Any], proponent.Index]:
    """A build: seconds by stage, memory, and their forecasts."""
    out = args.folder / "made.index"
    shutil.rmtree(out, ignore_errors=True)
    figures: dict[str, float] = {}
    planned: list[Forecast] = []
    emptied(args.device)
    if plan:
        options = Options(args.length, size or run.placement.batch_size, quiet=True)
        took = seconds(args.device, lambda: planned.append(foreseen(args, run, rows, method, options)))
        figures |= {"forecast took": took, "forecast seconds": planned[0].seconds}
        emptied(args.device)
    given: dict[str, Any] = {"batch_size": size, "max_length": args.length, "quiet": True}
    made: list[proponent.Index] = []
    figures["seconds"] = seconds(args.device, lambda: made.append(proponent.build(run, rows, out, method, **given)))
    if on_gpu(args.device):
        figures["peak GB"] = torch.cuda.max_memory_allocated(args.device) / GB
        if planned:
            figures["forecast GB"] = (planned[0].peak_device or 0) / GB
            figures["forecast / peak"] = figures["forecast GB"] / figures["peak GB"]
    stages: Any = made[0].summary["seconds"]
    figures |= {f"seconds of {name}": spent for name, spent in stages.items()}
    figures["index GB"] = harness.folder_bytes(out) / GB
    return rounded(figures), made[0]


def explain(made: proponent.Index, asked: Sequence[gpu_runs.Row]) -> None:
    """Explain completions one by one."""
    for row in asked:
        made.explain(row["text"], target=row["target"], baselines=False)


def explained(args: argparse.Namespace, made: proponent.Index, count: int) -> dict[str, float]:
    """Seconds of a first explanation, which loads the model, and of more."""
    asked = gpu_runs.sentences(count, 8, 40, seed=9)
    first = seconds(args.device, lambda: explain(made, asked[:1]))
    return {"first explanation": first, f"{count} explanations": seconds(args.device, lambda: explain(made, asked))}


def index(args: argparse.Namespace, record: Record) -> None:
    """Builds and explanations of a model of 135 million weights."""
    rows = gpu_runs.sentences(24, 8, 40) if args.smoke else gpu_runs.sentences(args.rows, 58, 230)
    data = harness.write_lines(args.folder / "rows.jsonl", rows)
    base = args.folder / "smol"
    record.add("index", "model", gpu_runs.smol(base, args.base, rows, args.device, small=args.smoke))
    runs = {"full": gpu_runs.as_run(base, args.folder / "smol-full")}
    with record.part("index", "adapter"):
        runs["LoRA"] = gpu_runs.with_adapter(base, args.folder / "smol-lora")
    for dtype in ("float32", "bfloat16"):
        for name, folder in runs.items():
            with record.part("index", f"{name}, {dtype}"):
                timed_builds(args, record, name, Run.from_pretrained(folder, device=args.device, dtype=dtype), rows)
    if not args.smoke:
        name = "full, float32, tracin-we, batches by default"
        with record.part("index", name):
            run = Run.from_pretrained(runs["full"], device=args.device)
            record.add("index", name, build_figures(args, run, data, "tracin-we", None)[0])


def timed_builds(args: argparse.Namespace, record: Record, kind: str, run: Run, rows: Sequence[gpu_runs.Row]) -> None:
    """Builds over the plain pass, and explanations with their index."""
    emptied(args.device)
    name = f"{kind}, {run.placement.dtype}"
    plain = plain_seconds(args, run, rows)
    record.add("index", f"{name}, plain pass", rounded(plain))
    for method in METHODS[kind][: 1 if args.smoke else None]:
        with record.part("index", f"{name}, {method}"):
            plan = method == "tracin-we"
            figures, made = build_figures(args, run, args.folder / "rows.jsonl", method, args.batch, plan=plan)
            figures["tokens per second"] = plain["tokens"] / figures["seconds"]
            for what in ("to every parameter", "to the adapter"):
                if what in plain:
                    figures[f"build / plain pass {what}"] = figures["seconds"] / plain[what]
                    figures[f"gradients / plain pass {what}"] = figures["seconds of gradients"] / plain[what]
            if method == "tracin-we":
                figures |= explained(args, made, 2 if args.smoke else 20)
            record.add("index", f"{name}, {method}", rounded(figures))
            del made


def big(args: argparse.Namespace, record: Record) -> None:
    """A model of the size that people fine-tune."""
    began = time.perf_counter()
    shape = gpu_runs.SEVEN | (gpu_runs.TINY if args.smoke else {"num_hidden_layers": args.big_layers})
    rows = gpu_runs.sentences(8, 8, 24) if args.smoke else gpu_runs.sentences(64, 250, 460)
    data = harness.write_lines(args.folder / "big.jsonl", rows)
    base = args.folder / "big"
    args = argparse.Namespace(**vars(args) | {"length": 512})
    make = {"LoRA": gpu_runs.with_adapter, "full": gpu_runs.as_run}
    try:
        spent = seconds(args.device, lambda: gpu_runs.random_base(base, shape, rows, args.device, torch.bfloat16))
        record.add("big", "model", rounded({"seconds to make": spent, "GB": harness.folder_bytes(base) / GB}))
        for name, maker in make.items():
            spent = time.perf_counter() - began
            if name == "full" and spent > args.big_seconds / 2:
                record.add("big", name, f"left out: {spent:.0f} s are spent")
                continue
            with record.part("big", name):
                folder = maker(base, args.folder / f"big-{name}")
                one_big(args, record, name, Run.from_pretrained(folder, device=args.device, dtype="bfloat16"), data)
    finally:
        for left in args.folder.glob("big*"):
            shutil.rmtree(left) if left.is_dir() else left.unlink()


def one_big(args: argparse.Namespace, record: Record, name: str, run: Run, data: Path) -> None:
    """Load, build and explain."""
    loaded = seconds(args.device, lambda: run.load(run.checkpoints[0]))
    figures, made = build_figures(args, run, data, "tracin-we", args.batch)
    record.add("big", name, rounded(figures | {"seconds of a load alone": loaded}))
    record.add("big", f"{name}, explained", rounded(explained(args, made, 3)))
