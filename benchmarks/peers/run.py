"""Compare proponent with its peers on the same work and machine: time, memory, agreement.

    python benchmarks/peers/run.py --data FOLDER                  # proponent, captum, dattri-llm, kronfluence
    python benchmarks/peers/run.py --data FOLDER --slow           # peers that take minutes or do not finish
    python benchmarks/peers/run.py --data FOLDER --growth 1024    # a further batch of queries over more texts

Every peer has its own virtual environment (created once, in --envs) and runs alone, in a separate process, on one
thread; it measures the floor (one plain forward+backward of the same texts) alternating with its own work, so that
every figure is a ratio within one process. The record of a day is `results/DATE-peers.json`; later runs of the day are
added to it, and `docs/peers.md` is generated from it. Its environment needs `proponent` and the encoder (`work.py`).
"""

import argparse
import json
import platform
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from environments import EnvironmentFailedError, environment

sys.path.append(str(Path(__file__).resolve().parents[1]))

import harness
from report import page
from work import prepare

HERE = Path(__file__).resolve().parent

PATIENCE = 8
"""Wall seconds allowed for each CPU second: limits count what a peer computes, not what else the machine does."""


@dataclass(frozen=True)
class Variant:
    """One row of the table.

    Attributes:
        name: key in the record.
        peer: its environment; "proponent" is the present one.
        variant: what its script calls it.
        label: what the table calls it.
        repeats: most repetitions.
        limit: most CPU seconds, where the common limit is more than it deserves.
        slow: run with --slow only.
        grows: run with --growth.
        keeps: further queries need what end to end left behind.
    """

    name: str
    peer: str
    variant: str
    label: str
    repeats: int = 3
    limit: float = 1e9
    slow: bool = False
    grows: bool = False
    keeps: bool = False

    @property
    def script(self) -> Path:
        """The peer's script."""
        return HERE / f"peer_{self.peer.replace('-', '_')}.py"


VARIANTS = [
    Variant("proponent", "proponent", "index", "**proponent**, from raw texts, index on disk", grows=True, keeps=True),
    Variant("dattri-llm-live", "dattri-llm", "live", "dattri-llm, embedding, live", 2, grows=True),
    Variant(
        "dattri-llm-stored", "dattri-llm", "stored", "dattri-llm, embedding, stored on disk", 2, grows=True, keeps=True
    ),
    Variant("captum-1", "captum", "embedding-1", "captum TracInCP, embedding, batches of 1", 1, grows=True),
    Variant("captum-32", "captum", "embedding-32", "captum TracInCP, embedding, batches of 32", 1),
    Variant("captum-fast", "captum", "fast", "captum TracInCPFast, last layer", 2),
    Variant("kronfluence-identity", "kronfluence", "identity", "kronfluence identity, Linear layers", 1),
    Variant("kronfluence-ekfac", "kronfluence", "ekfac", "kronfluence EK-FAC, Linear layers", 1, slow=True),
    Variant("dattri-llm-memory", "dattri-llm", "memory", "dattri-llm, embedding, stored in RAM", 1, slow=True),
    Variant("dattri-llm-default", "dattri-llm", "default", "dattri-llm, its default layers, live", 1, slow=True),
    Variant("dattri", "dattri", "embedding", "dattri TracIn, embedding", 1, slow=True),
    Variant("traker", "traker", "basic", "TRAK, BasicProjector 512", 1, slow=True),
    Variant("bergson", "bergson", "import", "bergson", 1, 60.0, slow=True),
]


def main() -> None:
    """Prepare, run, record, report."""
    parser = harness.arguments(__doc__, data=True, texts=256, queries=16)
    parser.add_argument("--repeats", type=int, default=3, help="most repetitions of one variant")
    parser.add_argument("--limit", type=float, default=300.0, help="most CPU seconds of one variant")
    parser.add_argument("--only", default="", help="names of variants or peers, by commas")
    parser.add_argument("--slow", action="store_true", help="the slow ones instead of the usual ones")
    parser.add_argument("--growth", type=int, default=0, help="time a further batch of queries over so many texts")
    parser.add_argument("--envs", type=Path, default=harness.ROOT / ".peers" / "envs")
    parser.add_argument("--scratch", type=Path, default=harness.ROOT / ".peers" / "work")
    parser.add_argument("--page", type=Path, default=harness.ROOT / "docs" / "peers.md")
    options = parser.parse_args()
    texts = options.growth or options.texts
    work = prepare((options.scratch / f"{texts}-{options.queries}").resolve(), options.data, texts, options.queries)
    file, record = opened(options)
    for variant in chosen(options):
        began = time.perf_counter()
        found = run_one(variant, work, options)
        print(f"{variant.name}: {found['outcome']}, {time.perf_counter() - began:.0f} s", file=sys.stderr)
        section = record["growth"].setdefault(str(texts), {}) if options.growth else record["variants"]
        section[variant.name] = {"label": variant.label, **found}
        if not options.growth:
            compare(record["variants"], work.parent / f"{work.name}.results")
        harness.write_json(file, record)
        options.page.write_text(page(record), encoding="utf-8")


def chosen(options: argparse.Namespace) -> list[Variant]:
    """The variants to run."""
    names = {name for name in options.only.split(",") if name}
    unknown = names - {one.name for one in VARIANTS} - {one.peer for one in VARIANTS}
    if unknown:
        raise SystemExit(f"--only {', '.join(sorted(unknown))}: known are {', '.join(one.name for one in VARIANTS)}")
    if names:
        return [one for one in VARIANTS if {one.name, one.peer} & names and (one.grows or not options.growth)]
    return [one for one in VARIANTS if (one.grows if options.growth else one.slow == options.slow)]


def opened(options: argparse.Namespace) -> tuple[Path, dict[str, Any]]:
    """The day's record, or a new one."""
    date = harness.today()
    file = options.out / f"{date}-peers.json"
    facts = {"texts": options.texts, "queries": options.queries, "machine": machine()}
    if file.is_file():
        record = json.loads(file.read_text(encoding="utf-8"))
        if {name: record.get(name) for name in facts} == facts:
            return file, record
    return file, {"date": date, **facts, "environment": harness.environment(), "variants": {}, "growth": {}}


def run_one(variant: Variant, work: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Run one variant in its environment."""
    try:
        python = (
            Path(sys.executable) if variant.peer == "proponent" else environment(variant.peer, options.envs.resolve())
        )
    except EnvironmentFailedError as error:
        return {"outcome": f"does not install: {error}"}
    limit = int(2 * options.limit if options.growth else min(options.limit, variant.limit))
    results = work.parent / f"{work.name}.results"
    results.mkdir(exist_ok=True)
    out = results / f"{variant.name}.json"
    out.unlink(missing_ok=True)
    repeats = 1 if options.growth else min(variant.repeats, options.repeats)
    words = [str(python), "-B", str(variant.script), "--work", str(work), "--variant", variant.variant]
    words += ["--out", str(out), "--repeats", str(repeats), "--seconds", str(limit)]
    if options.growth and not variant.keeps:
        words.append("--further-only")
    words = ["/bin/sh", "-c", f'ulimit -t {limit}; exec "$@"', "limited", *words]
    stopped = True
    try:
        done = subprocess.run(
            words, env=harness.one_thread(), capture_output=True, text=True, timeout=PATIENCE * limit, check=False
        )
        lines = done.stderr.strip().splitlines() or ["no message"]
        outcome = "finished" if done.returncode == 0 else f"failed: {lines[-1][:200]}"
        stopped = done.returncode in {-signal.SIGXCPU, -signal.SIGKILL}
    except subprocess.TimeoutExpired:
        pass
    finally:
        shutil.rmtree(out.with_suffix(".scratch"), ignore_errors=True)
    found = json.loads(out.read_text(encoding="utf-8")) if out.is_file() else {}
    if stopped:
        outcome = f"not finished in {limit} CPU seconds"
        if "since" in found:
            found["CPU seconds of the step that was stopped"] = limit - found["since"]
    return {"outcome": outcome, **found}


def compare(variants: dict[str, dict[str, Any]], folder: Path) -> None:
    """Say how far scores agree with proponent's: exactly where the quantity is the same, else by rank."""
    reference = _scores(folder, "proponent")
    for name, record in variants.items():
        found = _scores(folder, name)
        if found is None or reference is None or name == "proponent" or found.shape != reference.shape:
            continue
        alike = harness.alike(found, reference)
        record["agreement"] = {"Spearman, mean over the queries": alike["spearman"]}
        if record.get("quantity") == "embedding":
            record["agreement"]["largest difference over the query's largest score"] = alike["largest_difference"]


def _scores(folder: Path, name: str) -> np.ndarray | None:
    path = folder / f"{name}.end-to-end.npy"
    return np.load(path).astype(np.float64) if path.is_file() else None


def machine() -> str:
    """What it ran on."""
    name, info = platform.processor() or platform.machine(), Path("/proc/cpuinfo")
    if info.is_file():
        lines = info.read_text(encoding="utf-8").splitlines()
        name = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), name)
    return f"{name}, {platform.system()} {harness.machine()}, one thread"


if __name__ == "__main__":
    main()
