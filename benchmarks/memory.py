"""Peak memory against the number of examples: building an index, asking it, merging it.

    python benchmarks/memory.py [--sizes 10000,100000,1000000] [--folder DIR] [--out benchmarks/results]

Texts of eight words from a Zipf vocabulary, in an Arrow file; a tiny transformer (one layer of width 32), so that what
grows with the data would show beside it. Every figure is the peak of a process of its own (ru_maxrss, mapped pages
included), at the command line: `proponent index`, `proponent explain` without baselines, `proponent merge` after a
delete.
"""

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow

WORDS, VOCABULARY = 8, 2_000
LABELS = ("even", "odd")


def write_data(path: Path, n: int) -> None:
    """Texts and labels as an Arrow file, in batches."""
    weights = 1.0 / (np.arange(VOCABULARY) + 2.7)
    edges = np.cumsum(weights / weights.sum())
    generator = np.random.default_rng(n)
    schema = pyarrow.schema([("id", pyarrow.string()), ("text", pyarrow.string()), ("label", pyarrow.string())])
    with pyarrow.OSFile(str(path), "wb") as sink, pyarrow.ipc.new_file(sink, schema) as writer:
        for start in range(0, n, 10_000):
            drawn = np.searchsorted(edges, generator.random((min(10_000, n - start), WORDS)))
            texts = [" ".join(f"w{word}" for word in row) for row in drawn]
            labels = [LABELS[int(row.sum()) % 2] for row in drawn]
            ids = [f"r{start + row}" for row in range(len(drawn))]
            writer.write(pyarrow.record_batch([ids, texts, labels], schema=schema))


def make_run(folder: Path) -> None:
    """A tiny model with a word tokenizer."""
    import torch
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    known = {token: number for number, token in enumerate([*special, *(f"w{word}" for word in range(VOCABULARY))])}
    tokenizer = Tokenizer(models.WordLevel(known, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    names = {
        "pad_token": "[PAD]",
        "unk_token": "[UNK]",
        "cls_token": "[CLS]",
        "sep_token": "[SEP]",
        "mask_token": "[MASK]",
    }
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=32, **names).save_pretrained(
        folder
    )
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=len(known),
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=32,
        id2label=dict(enumerate(LABELS)),
        label2id={label: number for number, label in enumerate(LABELS)},
    )
    transformers.BertForSequenceClassification(config).save_pretrained(folder)


def peak(words: list[str]) -> tuple[float, float]:
    """Run the command line in a process of its own: MB of its peak memory, and seconds."""
    code = (
        "import resource, sys\n"
        "from proponent.cli import main\n"
        "try:\n    main(sys.argv[1:])\n"
        "except SystemExit as end:\n"
        "    assert not end.code, end.code\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3, file=sys.stderr)\n"
    )
    began = time.perf_counter()
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run([sys.executable, "-c", code, *words], env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(words)}: {done.stderr[-2000:]}")
    return float(done.stderr.split()[-1]), time.perf_counter() - began


def main() -> None:
    """Measure every size; print and write a dated record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="10000,100000,1000000")
    parser.add_argument("--folder", type=Path, default=Path("memory-benchmark"))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    run = options.folder / "run"
    if not run.exists():
        subprocess.run([sys.executable, __file__, "--make-run", str(run)], check=True)
    results: list[dict[str, float]] = []
    for n in map(int, options.sizes.split(",")):
        data, index = options.folder / f"{n}.arrow", options.folder / f"{n}.index"
        write_data(data, n)
        found: dict[str, float] = {"n": n}
        works = {
            "index": ["index", str(run), str(data), "--out", str(index), "--batch-size", "64", "-q"],
            "explain": ["explain", str(index), "w1 w5 w80 w900", "--no-baselines", "--json"],
            "delete": ["delete", str(index), "--ids", "r3,r17", "--json"],
            "merge": ["merge", str(index), "--json"],
        }
        for name, words in works.items():
            memory, seconds = peak(words)
            found |= {f"{name}, MB": round(memory), f"{name}, s": round(seconds, 1)}
        print(json.dumps(found), flush=True)
        results.append(found)
        shutil.rmtree(index)
        data.unlink()
    grown = {
        name: round(results[-1][f"{name}, MB"] / results[0][f"{name}, MB"], 3) for name in ("index", "explain", "merge")
    }
    record = {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, one thread",
        "sizes": results,
        "peak memory, largest over smallest": grown,
    }
    print(json.dumps(grown))
    options.out.mkdir(parents=True, exist_ok=True)
    name = f"{record['date']}-memory.json"
    (options.out / name).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--make-run"]:
        make_run(Path(sys.argv[2]))
    else:
        main()
