"""Compare the indexes of two checkouts: bytes of shards and postings, and scores, for every named method.

    python benchmarks/same_scores.py runs FOLDER                     # tiny runs: BERT, tied GPT-2, T5, LoRA on BERT
    PYTHONPATH=OLD/src python benchmarks/same_scores.py build FOLDER --out old
    PYTHONPATH=NEW/src python benchmarks/same_scores.py build FOLDER --out new
    python benchmarks/same_scores.py compare old new

Each checkout builds with its own code through the public API; the runs are created once. If a method refuses a run, its
message is recorded. `compare` exits with 1 if anything differs that `--except` does not name.
"""

import argparse
import hashlib
import json
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import harness
import numpy as np

METHODS = (
    *("tracin-we", "tracin-we-topk", "tracin-we-noc", "tracin-we-syn", "tracin-we-adam", "tracin-we-adam-unit"),
    *("tracin-last", "tracin-sec", "tracin-all", "tracin-layers", "grad-cos", "influence-last", "representer"),
    *("datainf", "ekfac", "fastif", "trackstar", "bm25", "tfidf-label", "embedding", "label"),
)
WORDS = ("sales", "shares", "profit", "match", "goal", "team", "border", "vote", "army", "the", "of", "after")
LABELS = ("Business", "Sports", "World")


def rows(count: int, seed: int) -> list[dict[str, str]]:
    """Made-up news in three classes, with a target for encoder-decoders and language models."""
    generator = np.random.default_rng(seed)
    made: list[dict[str, str]] = []
    for number in range(count):
        words = [str(word) for word in generator.choice(WORDS, 4 + number % 5)]
        made.append({"id": f"n{number}", "text": " ".join(words), "label": LABELS[number % 3]})
    return made


def save_runs(folder: Path) -> None:
    """Train the four runs with the Trainer and the Recorder: checkpoints with every second moment."""
    import peft
    import torch
    import transformers

    import proponent

    data = rows(36, 0)
    words = sorted({word for row in data for word in row["text"].split()} | {name.lower() for name in LABELS})
    tokenizer = harness.word_tokenizer(words)
    size = len(tokenizer)
    small = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    labels: dict[str, Any] = {
        "num_labels": 3,
        "id2label": dict(enumerate(LABELS)),
        "label2id": {name: at for at, name in enumerate(LABELS)},
    }

    def bert() -> Any:
        torch.manual_seed(0)
        return transformers.BertForSequenceClassification(
            transformers.BertConfig(vocab_size=size, max_position_embeddings=32, **small, **labels)
        )

    def gpt2() -> Any:
        torch.manual_seed(0)
        return transformers.GPT2LMHeadModel(
            transformers.GPT2Config(
                vocab_size=size, n_positions=32, n_embd=16, n_layer=2, n_head=2, bos_token_id=2, eos_token_id=3
            )
        )

    def t5() -> Any:
        torch.manual_seed(0)
        return transformers.T5ForConditionalGeneration(
            transformers.T5Config(
                vocab_size=size, d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2, pad_token_id=0, eos_token_id=3,
                decoder_start_token_id=0,
            )
        )  # fmt: skip

    base = folder / "base"
    bert().save_pretrained(base)
    tokenizer.save_pretrained(base)

    def lora() -> Any:
        torch.manual_seed(0)
        model = transformers.AutoModelForSequenceClassification.from_pretrained(base)
        settings = peft.LoraConfig(task_type="SEQ_CLS", r=2, target_modules=["query", "value"])
        made = peft.get_peft_model(model, settings)
        for name, weight in made.named_parameters():  # LoRA's second factor starts at zero: shake it
            if "lora_B" in name:
                torch.nn.init.normal_(weight, std=0.1)
        return made

    kinds = {"bert": (bert, "label"), "gpt2": (gpt2, "text"), "t5": (t5, "target"), "lora": (lora, "label")}
    for name, (make, kind) in kinds.items():
        model = make()
        _train(folder / name, model, tokenizer, _features(tokenizer, data, kind), proponent.Recorder(moments="all"))


def _features(tokenizer: Any, data: list[dict[str, str]], kind: str) -> list[dict[str, Any]]:
    made: list[dict[str, Any]] = []
    for row in data:
        ids = tokenizer(row["text"])["input_ids"]
        if kind == "label":
            made.append({"input_ids": ids, "labels": LABELS.index(row["label"])})
        else:
            target = tokenizer(row["label"].lower())["input_ids"]
            made.append({"input_ids": ids, "labels": ids if kind == "text" else target})
    return made


def _train(folder: Path, model: Any, tokenizer: Any, features: list[dict[str, Any]], recorder: Any) -> None:
    import transformers

    lists = isinstance(features[0]["labels"], list)
    settings = transformers.TrainingArguments(
        output_dir=str(folder), per_device_train_batch_size=6, max_steps=8, save_steps=4, learning_rate=1e-2,
        logging_steps=1, report_to=[], use_cpu=True, disable_tqdm=True, dataloader_pin_memory=False, seed=0,
    )  # fmt: skip
    trainer = transformers.Trainer(
        model=model, args=settings, train_dataset=features, processing_class=tokenizer, callbacks=[recorder],
        data_collator=transformers.DataCollatorForSeq2Seq(tokenizer) if lists else None,
    )  # fmt: skip
    trainer.remove_callback(transformers.PrinterCallback)
    trainer.train()


def build(folder: Path, out: Path, runs: list[str], methods: list[str]) -> None:
    """Build methods on runs with the code that is imported; write what came out."""
    import proponent

    warnings.filterwarnings("ignore")
    out.mkdir(parents=True, exist_ok=True)
    train, queries = rows(40, 1), rows(5, 2)
    results: dict[str, Any] = {}
    scores: dict[str, np.ndarray] = {}
    for run in runs:
        data = [_of(row, run) for row in train]
        asked = [_of(row, run) for row in queries]
        for method in methods:
            with tempfile.TemporaryDirectory() as place:
                home = Path(place) / "made.index"
                options: dict[str, Any] = {"quiet": True, "batch_size": 8}
                if method == "tracin-layers":
                    options["layers"] = ("linear",)
                if method == "fastif" and run in {"gpt2", "t5"}:
                    options["damping"] = 1.0
                try:
                    index = proponent.build(folder / run, data, home, method, **options)
                    scores[f"{run}/{method}"] = _scores(index, asked)
                    results[f"{run}/{method}"] = _digests(home)
                except proponent.ProponentError as error:
                    said = f"{type(error).__name__}: {error}"
                    results[f"{run}/{method}"] = said.replace(str(folder), "").replace(place, "")
            print(run, method, flush=True)
    (out / "results.json").write_text(json.dumps(results, indent=1))
    np.savez(out / "scores.npz", **scores)


def _of(row: dict[str, str], run: str) -> dict[str, str]:
    if run in {"bert", "lora"}:
        return row
    made = {"id": row["id"], "text": row["text"]}
    return made | ({"target": row["label"].lower()} if run == "t5" else {})


def _scores(index: Any, asked: list[dict[str, str]]) -> np.ndarray:
    texts = [row["text"] for row in asked]
    if "label" in asked[0]:
        return np.asarray(index.scores(texts, [row["label"] for row in asked]))
    if "target" in asked[0]:
        return np.asarray(index.scores(texts, targets=[row["target"] for row in asked]))
    return np.asarray(index.scores(texts))


def _digests(home: Path) -> dict[str, str]:
    """SHA-256 of each file with gradients: shards and postings, by path."""
    return {
        path.relative_to(home).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(home.rglob("*.safetensors"))
    }


def compare(old: Path, new: Path, exempt: list[str]) -> int:
    """Print every difference; return how many are not exempt."""
    before, after = (json.loads((one / "results.json").read_text()) for one in (old, new))
    first, second = (np.load(one / "scores.npz") for one in (old, new))
    wrong = 0
    for name in sorted(before.keys() | after.keys()):
        told: list[str] = []
        was, now = before.get(name), after.get(name)
        if isinstance(was, dict) and isinstance(now, dict):
            files = [path for path in sorted(was.keys() | now.keys()) if was.get(path) != now.get(path)]
            if files:
                told.append(f"{len(files)} of {len(was)} files differ: {', '.join(files[:4])}")
            scale = max(1e-30, float(np.abs(first[name]).max()))
            same = first[name].shape == second[name].shape
            gap = float(np.abs(first[name] - second[name]).max()) / scale if same else np.inf
            if not gap <= 1e-6:
                told.append(f"scores differ by {gap:.2g} of the largest")
        elif was != now:
            told.append(f"was {str(was)[:300]!r}, is {str(now)[:300]!r}")
        if told:
            let = any(one in name for one in exempt)
            wrong += not let
            print(("exempt " if let else "") + f"{name}: {'; '.join(told)}")
    same = sum(isinstance(one, dict) for one in before.values())
    print(f"{len(before)} pairs of run and method, {same} of them indexes; {wrong} differ")
    return wrong


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("runs").add_argument("folder", type=Path)
    building = commands.add_parser("build")
    building.add_argument("folder", type=Path)
    building.add_argument("--out", type=Path, required=True)
    building.add_argument("--runs", nargs="+", default=["bert", "gpt2", "t5", "lora"])
    building.add_argument("--methods", nargs="+", default=METHODS)
    comparing = commands.add_parser("compare")
    comparing.add_argument("old", type=Path)
    comparing.add_argument("new", type=Path)
    comparing.add_argument("--except", dest="exempt", nargs="*", default=[], help="names (or parts) that may differ")
    options = parser.parse_args()
    if options.command == "runs":
        save_runs(options.folder)
    elif options.command == "build":
        build(options.folder, options.out, options.runs, options.methods)
    else:
        sys.exit(compare(options.old, options.new, options.exempt) > 0)


if __name__ == "__main__":
    main()
