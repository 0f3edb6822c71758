"""Training runs on disk for the tests of search: tiny models with several checkpoints, and the truth beside them."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import transformers
from safetensors.numpy import save_file

from cases import byte_tokenizer, make, sentences, shake, word_tokenizer
from oracle import Place, Text, layer_gradient, table_gradient

RATES = {5: 0.1, 10: 0.05, 20: 0.01}
NAMES = ("sport", "money", "space")
Row = dict[str, Any]


@dataclass(frozen=True)
class Truth:
    """A run, its training set and its queries, with their dense gradients by the oracle.

    Attributes:
        folder: the run.
        steps: its checkpoints.
        training: rows of the training set.
        queries: rows that are asked.
        lm: whether it is a language model.
    """

    folder: Path
    steps: tuple[int, ...]
    training: list[Row]
    queries: list[Row]
    lm: bool = False

    @cached_property
    def tokenizer(self) -> Any:
        return transformers.AutoTokenizer.from_pretrained(self.folder / f"checkpoint-{self.steps[-1]}")

    @cached_property
    def models(self) -> dict[int, Any]:
        kind = transformers.AutoModelForCausalLM if self.lm else transformers.AutoModelForSequenceClassification
        return {step: kind.from_pretrained(self.folder / f"checkpoint-{step}").eval() for step in self.steps}

    def text(self, row: Row) -> Text:
        """The row as plain numbers."""
        if not self.lm:
            read = self.tokenizer(row["text"], row.get("text_pair"))
            return Text(read["input_ids"], NAMES.index(row["label"]), types=read.get("token_type_ids"))
        target = row.get("target") or ""
        read = self.tokenizer(row["text"] + target, return_offsets_mapping=True)
        after = len(row["text"]) if target else -1
        return Text(read["input_ids"], counted=[end > after for _, end in read["offset_mapping"]])

    def gradients(
        self, step: int, rows: Sequence[Row], places: tuple[Place, ...] = ("input",), loss: str = "mean"
    ) -> list[np.ndarray]:
        """Dense gradients of some rows with respect to the table, at one checkpoint."""
        return [table_gradient(self.models[step], self.text(row), places, loss) for row in rows]

    def last(self, step: int, rows: Sequence[Row]) -> list[np.ndarray]:
        """Dense gradients with respect to the classifier's last weight."""
        named = self.models[step].named_parameters()
        layer = next(name for name, one in named if one.ndim == 2 and one.shape[0] == len(NAMES))
        return [layer_gradient(self.models[step], self.text(row), layer) for row in rows]

    def embedding(self, step: int) -> np.ndarray:
        """The word embedding's table."""
        return self.models[step].get_input_embeddings().weight.detach().double().numpy()

    def moment(self, step: int) -> np.ndarray:
        """The second moment that was written beside a checkpoint."""
        return second_moment(self.embedding(step).shape, step).astype(np.float64)


def second_moment(shape: tuple[int, ...], step: int) -> np.ndarray:
    """Made-up second moments over several orders of magnitude."""
    return (10 ** np.random.default_rng(step).uniform(-6, 0, shape)).astype(np.float32)


def save(folder: Path, model: Any, tokenizer: Any, steps: Sequence[int]) -> None:
    """Save one checkpoint per step, each a little further off, as a Trainer lays them out."""
    for step in steps:
        shake(model, step, 0.05)
        home = folder / f"checkpoint-{step}"
        model.save_pretrained(home)
        tokenizer.save_pretrained(home)
        state = {"global_step": step, "log_history": [{"step": step, "learning_rate": RATES[step], "loss": 1.0}]}
        (home / "trainer_state.json").write_text(json.dumps(state))
        table = model.get_input_embeddings().weight
        save_file({"embedding": second_moment(tuple(table.shape), step)}, home / "proponent_moments.safetensors")


def labels() -> dict[str, Any]:
    """Class names for a configuration."""
    return {"id2label": dict(enumerate(NAMES)), "label2id": {name: number for number, name in enumerate(NAMES)}}


def classifier_run(folder: Path, n: int = 200, q: int = 20) -> Truth:
    """BERT with three checkpoints of different learning rates."""
    tokenizer, steps = word_tokenizer(), (5, 10, 20)
    model = make("bert", "ForSequenceClassification", vocab_size=len(tokenizer), pad_token_id=0, **labels())
    save(folder, model, tokenizer, steps)
    return Truth(folder, steps, classified(n, 0), classified(q, 1))


def decoder_run(folder: Path, name: str = "gpt2", *, pad: bool) -> Truth:
    """A decoder, GPT-2 or its like, with a classifier on its last token, with or without a padding token."""
    tokenizer = byte_tokenizer()
    pad_id = tokenizer.pad_token_id if pad else None
    sizes = {"vocab_size": len(tokenizer), "pad_token_id": pad_id, "eos_token_id": tokenizer.eos_token_id}
    save(folder, make(name, "ForSequenceClassification", **sizes, **labels()), tokenizer, (10,))
    return Truth(folder, (10,), classified(24, 0), classified(4, 1))


def pair_run(folder: Path) -> Truth:
    """BERT over pairs of texts."""
    tokenizer = word_tokenizer()
    model = make("bert", "ForSequenceClassification", vocab_size=len(tokenizer), pad_token_id=0, **labels())
    save(folder, model, tokenizer, (10,))
    return Truth(folder, (10,), paired(classified(24, 0)), paired(classified(4, 1)))


def lm_run(folder: Path, name: str, *, tied: bool, steps: tuple[int, ...] = (5, 20), n: int = 24, q: int = 4) -> Truth:
    """A causal language model; every third text is a prompt with a target."""
    tokenizer = byte_tokenizer()
    end = tokenizer.eos_token_id
    ending = "LMHeadModel" if name == "gpt2" else "ForCausalLM"
    ids = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": end, "bos_token_id": end}
    save(folder, make(name, ending, tied=tied, vocab_size=len(tokenizer), **ids), tokenizer, steps)
    return Truth(folder, steps, prompted(classified(n, 0)), prompted(classified(q, 1)), lm=True)


def classified(count: int, seed: int) -> list[Row]:
    """Labelled texts."""
    return [{"id": f"r{row}", "text": text, "label": label} for row, (text, label) in enumerate(sentences(count, seed))]


def paired(rows: list[Row]) -> list[Row]:
    """Every text with the next one as its second text."""
    return [row | {"text_pair": after["text"]} for row, after in zip(rows, rows[1:] + rows[:1], strict=True)]


def prompted(rows: list[Row]) -> list[Row]:
    """Rows without labels; every third text is cut in two at a space."""
    found: list[Row] = []
    for place, row in enumerate(rows):
        words = row["text"].split(" ")
        cut = len(words) // 2 if place % 3 == 2 and len(words) > 2 else len(words)
        target = "".join(" " + word for word in words[cut:])
        found.append({"id": row["id"], "text": " ".join(words[:cut]), "target": target or None})
    return found
