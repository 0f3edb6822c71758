"""What does a random projection do to rankings? A tied GPT-2 and a BERT, both small, on AG News titles.

    python benchmarks/projection_orders.py --data ../shared/data

Indexes with a projection to p numbers a side are compared with one that keeps gradients in full: rank correlation of
the scores over the training set, mean and lowest over the queries. The tables over the vocabulary are exact in both,
or left out of both (under a preconditioner).
"""

import tempfile
import warnings
from pathlib import Path
from typing import Any

import harness
import numpy as np
import transformers

import proponent

WIDTHS = (16, 32, 64)
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "tracin-all": ("tracin-all", {}),
    "grad-cos": ("grad-cos", {}),
    "blocks alone": ("tracin-layers", {"layers": "blocks"}),
    "ekfac": ("ekfac", {}),
}


def main() -> None:
    """Measure both models, and write one record."""
    parser = harness.arguments(__doc__, data=True, rows=120, queries=16, epochs=3, width=96, length=32)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    transformers.utils.logging.set_verbosity_error()
    rows = harness.sample(harness.agnews(args.data), args.rows + args.queries)
    asked, rows = rows[: args.queries], rows[args.queries :]
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, train in (("GPT-2, tied", gpt2), ("BERT classifier", bert)):
            run, own, queries = train(args, Path(folder) / name.partition(",")[0], rows, asked)
            found[name] = {
                method: compared(args, run, own, queries, Path(folder) / f"{name}-{method}", *changes)
                for method, changes in METHODS.items()
            }
            print(name, found[name], flush=True)
    settings = {name: getattr(args, name) for name in ("rows", "queries", "epochs", "width", "length")}
    about = {"seeds": "0 for weights, rows and projection", "initial": "fresh: drawn from the configuration"}
    harness.write_record(args.out, "projection-orders", settings | about | {"models": found})


def compared(args, run: Path, rows: list, queries: list, home: Path, method: str, changes: dict[str, Any]) -> dict:
    """Rank correlations with the exact scores, by width, and the layers that are projected."""
    how = changes | {"quiet": True, "max_length": args.length}
    scores = {
        width: proponent.build(run, rows, home / str(width), method, project=width, **how).scores(queries)
        for width in (None, *WIDTHS)
    }
    made: dict[str, Any] = {}
    for width in WIDTHS:
        each = harness.rank_correlations(scores[width], scores[None])
        made[str(width)] = {"mean": float(np.mean(each)), "lowest": float(np.min(each))}
    return made


def bert(args, folder: Path, rows: list, asked: list) -> tuple[Path, list, list]:
    """A classifier as `proponent train` makes one."""
    harness.trained(
        rows, folder, epochs=args.epochs, checkpoints=1, width=args.width, layers=2, vocabulary=4000,
        max_length=args.length,
    )  # fmt: skip
    return folder, rows, [proponent.Example(row["id"], at, row["text"], row["label"]) for at, row in enumerate(asked)]


def gpt2(args, folder: Path, rows: list, asked: list) -> tuple[Path, list, list]:
    """A language model whose head shares the embedding's table, by the Trainer of transformers."""
    tokenizer = harness.subword_tokenizer([row["text"] for row in rows], 4000)
    transformers.set_seed(0)
    config = transformers.GPT2Config(
        vocab_size=len(tokenizer), n_embd=args.width, n_layer=2, n_head=4, n_positions=args.length,
        pad_token_id=tokenizer.pad_token_id, bos_token_id=tokenizer.eos_token_id, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    data = [tokenizer(row["text"], truncation=True, max_length=args.length) for row in rows]
    transformers.Trainer(
        transformers.GPT2LMHeadModel(config),
        transformers.TrainingArguments(
            str(folder), num_train_epochs=args.epochs, per_device_train_batch_size=16, learning_rate=1e-3,
            save_strategy="epoch", save_total_limit=1, report_to="none", disable_tqdm=True, use_cpu=True,
        ),
        train_dataset=data, callbacks=[proponent.Recorder()], processing_class=tokenizer,
        data_collator=transformers.DataCollatorForLanguageModeling(tokenizer, mlm=False),
    ).train()  # fmt: skip
    texts = [{"id": row["id"], "text": row["text"]} for row in rows]
    return folder, texts, [proponent.Example(row["id"], at, row["text"]) for at, row in enumerate(asked)]


if __name__ == "__main__":
    main()
