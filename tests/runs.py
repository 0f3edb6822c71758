"""Tiny training runs, made by the real Trainer of transformers, and the data they were trained on."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

import proponent
from proponent.models import Run
from proponent.models.scratch import byte_bpe, causal_lm, classifier, wordpiece

LABELS = ("Business", "Sports", "World")
WORDS = {
    "Business": ("sales", "shares", "profit", "bank", "market", "prices", "retail"),
    "Sports": ("match", "goal", "team", "coach", "league", "player", "cup"),
    "World": ("minister", "border", "vote", "army", "treaty", "capital", "flood"),
}
COMMON = ("the", "of", "in", "said", "after", "on", "a")
MAX_LENGTH = 24


def rows(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Short made-up news with labels; ids are not the row numbers."""
    generator = np.random.default_rng(seed)
    made: list[dict[str, Any]] = []
    for number in range(count):
        label = LABELS[number % 3]
        words = [*generator.choice(WORDS[label], 4), *generator.choice(COMMON, 2 + number % 4)]
        text = " ".join(str(word) for word in generator.permutation(words))
        made.append({"id": f"n{number}", "text": f"{text.capitalize()}.", "label": label})
    return made


ROWS = rows(24)
TEXTS = [row["text"] for row in ROWS]
OTHERS = rows(40, seed=1)


def bert_tokenizer() -> Any:
    return wordpiece(TEXTS, 200, MAX_LENGTH)


def gpt2_tokenizer() -> Any:
    return byte_bpe(TEXTS, 420, MAX_LENGTH)


def bert(tokenizer: Any, labels: Sequence[str] = LABELS) -> Any:
    torch.manual_seed(0)
    return classifier(tokenizer, labels, 16, 1, MAX_LENGTH)


def gpt2(tokenizer: Any) -> Any:
    torch.manual_seed(0)
    return causal_lm(tokenizer, 16, 1, MAX_LENGTH)


def features(tokenizer: Any, data: Sequence[dict[str, Any]] = ROWS, *, lm: bool = False) -> list[dict[str, Any]]:
    made: list[dict[str, Any]] = []
    for row in data:
        ids = tokenizer(row["text"], truncation=True, max_length=MAX_LENGTH)["input_ids"]
        ids = (ids + [tokenizer.pad_token_id] * MAX_LENGTH)[:MAX_LENGTH]
        mask = [int(token != tokenizer.pad_token_id) for token in ids]
        labels = [token if on else -100 for token, on in zip(ids, mask, strict=True)]
        made.append({"input_ids": ids, "attention_mask": mask, "labels": labels if lm else LABELS.index(row["label"])})
    return made


def trainer(folder: Path, model: Any, tokenizer: Any, *, callbacks: Sequence[Any] = (), **settings: Any) -> Any:
    """A Trainer that saves everything it knows, pickles included, as most people's does."""
    settings = {
        "per_device_train_batch_size": 4,
        "max_steps": 6,
        "save_steps": 3,
        "learning_rate": 1e-2,
        "logging_steps": 1,
    } | settings
    make = settings.pop("trainer", transformers.Trainer)
    extra = {"optimizers": (settings.pop("optimizer"), None)} if "optimizer" in settings else {}
    arguments = transformers.TrainingArguments(
        output_dir=str(folder),
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        dataloader_pin_memory=False,
        **{"seed": 0} | settings,
    )
    made = make(
        model=model,
        args=arguments,
        train_dataset=features(tokenizer, lm=hasattr(model, "lm_head")),
        processing_class=tokenizer,
        callbacks=list(callbacks),
        **extra,
    )
    made.remove_callback(transformers.PrinterCallback)
    return made


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def index(
    run: Path | Run, folder: Path, method: str = "tracin-we", data: Any = None, **options: Any
) -> proponent.Index:
    """An index of forty rows that the run was not trained on, or of the given ones."""
    return proponent.build(run, OTHERS if data is None else data, folder, method, quiet=True, batch_size=8, **options)
