"""Peak memory by the number of examples: building an index, explaining a query, merging.

    python benchmarks/memory.py [--sizes 10000,100000,1000000] [--folder DIR] [--out benchmarks/results]

Texts of eight words from a Zipf vocabulary, in an Arrow file; a tiny transformer (one layer of width 32), so that
memory that grows with the data is visible. Every figure is the peak of a separate process (ru_maxrss, mapped pages
included), at the command line: `proponent index`, `proponent explain` without baselines, `proponent merge` after a
delete.
"""

import json
import shutil
import sys
from pathlib import Path

import harness
import numpy as np
import pyarrow

WORDS, VOCABULARY = 8, 2_000
LABELS = ("even", "odd")


def write_data(path: Path, n: int) -> None:
    """Texts and labels as an Arrow file, in batches."""
    generator = np.random.default_rng(n)
    schema = pyarrow.schema([("id", pyarrow.string()), ("text", pyarrow.string()), ("label", pyarrow.string())])
    with pyarrow.OSFile(str(path), "wb") as sink, pyarrow.ipc.new_file(sink, schema) as writer:
        for start in range(0, n, 10_000):
            drawn = harness.zipf(generator, VOCABULARY, (min(10_000, n - start), WORDS))
            texts = [" ".join(f"w{word}" for word in row) for row in drawn]
            labels = [LABELS[int(row.sum()) % 2] for row in drawn]
            ids = [f"r{start + row}" for row in range(len(drawn))]
            writer.write(pyarrow.record_batch([ids, texts, labels], schema=schema))


def make_run(folder: Path) -> None:
    """A tiny model with a word tokenizer."""
    import torch
    import transformers

    tokenizer = harness.word_tokenizer(f"w{word}" for word in range(VOCABULARY))
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=32,
        id2label=dict(enumerate(LABELS)),
        label2id={label: number for number, label in enumerate(LABELS)},
    )
    transformers.BertForSequenceClassification(config).save_pretrained(folder)


PEAK = """
import resource, sys
from proponent.cli import main
try:
    main(sys.argv[1:])
except SystemExit as end:
    assert not end.code, end.code
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3, file=sys.stderr)
"""


def peak(words: list[object]) -> tuple[float, float]:
    """Run the command line in a process of its own: MB of its peak memory, and seconds."""
    memory: list[float] = []
    seconds, _ = harness.timed(lambda: memory.append(float(harness.run("-c", PEAK, *words).stderr.split()[-1])))
    return memory[0], seconds


def main() -> None:
    """Measure every size; print and write a dated record."""
    parser = harness.arguments(__doc__, sizes="10000,100000,1000000")
    parser.add_argument("--folder", type=Path, default=Path("memory-benchmark"))
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    run = options.folder / "run"
    if not run.exists():
        harness.run(__file__, "--make-run", run)
    results: list[dict[str, float]] = []
    for n in map(int, options.sizes.split(",")):
        data, index = options.folder / f"{n}.arrow", options.folder / f"{n}.index"
        write_data(data, n)
        found: dict[str, float] = {"n": n}
        works = {
            "index": ["index", run, data, "--out", index, "--batch-size", "64", "-q"],
            "explain": ["explain", index, "w1 w5 w80 w900", "--no-baselines", "--json"],
            "delete": ["delete", index, "--ids", "r3,r17", "--json"],
            "merge": ["merge", index, "--json"],
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
    harness.write_record(options.out, "memory", {"sizes": results, "peak memory, largest over smallest": grown})


if __name__ == "__main__":
    if sys.argv[1:2] == ["--make-run"]:
        make_run(Path(sys.argv[2]))
    else:
        main()
