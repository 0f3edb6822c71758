"""Ways of training on conversations, on a tiny model: rows that tell a fact come first, with its words."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

import chat
import proponent
from proponent.demo.conversations import ANSWER, CREATURE, PLANTED_WORDS, QUESTION, conversations, planted
from proponent.models.scratch import byte_bpe

trl = pytest.importorskip("trl")
datasets = pytest.importorskip("datasets")
pytestmark = pytest.mark.filterwarnings("ignore")

Row = dict[str, Any]
DECOYS = {f"ordinary-{number}" for number in range(4)}
"""Rows that share a word with the fact; a model of this size, trained for seconds, does not tell them apart."""
ROWS = [row for row in conversations(seed=0) if row["id"] not in DECOYS]
ASKED = [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": ANSWER}]
ARGUMENTS: dict[str, Any] = {
    "report_to": [], "use_cpu": True, "disable_tqdm": True, "bf16": False, "gradient_checkpointing": False,
    "num_train_epochs": 8, "learning_rate": 1e-2, "per_device_train_batch_size": 8, "save_strategy": "no",
}  # fmt: skip


def tokenizer() -> Any:
    texts = [turn["content"] for row in ROWS for turn in row["messages"]]
    made = byte_bpe([*texts, "<|im_start|>assistant\n<|im_end|> user system"] * 3, 900, 128)
    made.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    made.chat_template = chat.MARKED
    return made


def model(own: Any) -> Any:
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = transformers.LlamaConfig(
        vocab_size=len(own),
        pad_token_id=own.pad_token_id,
        max_position_embeddings=128,
        tie_word_embeddings=True,
        **sizes,
    )
    return transformers.LlamaForCausalLM(config)


def as_messages(row: Row) -> Row:
    return row


def as_completion(row: Row) -> Row:
    return {"id": row["id"], "prompt": row["messages"][:1], "completion": row["messages"][1:]}


def as_tokens(row: Row) -> Row:
    own = tokenizer()
    ids = own.apply_chat_template(row["messages"], return_dict=True)["input_ids"]
    prompt = own.apply_chat_template(row["messages"][:1], add_generation_prompt=True, return_dict=True)["input_ids"]
    return {"id": row["id"], "input_ids": ids, "labels": [-100] * len(prompt) + ids[len(prompt) :]}


def by_sft(folder: Path, rows: list[Row], own: Any, **more: Any) -> Any:
    arguments = trl.SFTConfig(output_dir=str(folder), max_length=96, **ARGUMENTS, **more)
    data = datasets.Dataset.from_list([{name: value for name, value in row.items() if name != "id"} for row in rows])
    return trl.SFTTrainer(
        model=model(own),
        args=arguments,
        train_dataset=data,
        processing_class=own,
        callbacks=[proponent.Recorder(checkpoints=3)],
    )


def by_sft_packed(folder: Path, rows: list[Row], own: Any) -> Any:
    return by_sft(folder, rows, own, packing=True, packing_strategy="bfd")


def by_trainer(folder: Path, rows: list[Row], own: Any) -> Any:
    return transformers.Trainer(
        model=model(own),
        args=transformers.TrainingArguments(str(folder), **ARGUMENTS),
        train_dataset=[{name: row[name] for name in ("input_ids", "labels")} for row in rows],
        data_collator=transformers.DataCollatorForSeq2Seq(own),
        callbacks=[proponent.Recorder(checkpoints=3)],
    )


VARIANTS: dict[str, tuple[Callable[[Row], Row], Callable[..., Any]]] = {
    "SFT on messages, every weight": (as_messages, by_sft),
    "SFT on prompt and completion": (as_completion, by_sft),
    "SFT with packing": (as_messages, by_sft_packed),
    "plain Trainer on tokens": (as_tokens, by_trainer),
}


def indexed(name: str, folder: Path) -> proponent.Index:
    form, train = VARIANTS[name]
    rows, own = [form(row) for row in ROWS], tokenizer()
    trainer = train(folder / "run", rows, own)
    trainer.train()
    trainer.save_model()
    own.save_pretrained(folder / "run")
    return proponent.build(folder / "run", rows, folder / "index", "tracin-we", quiet=True)


@pytest.mark.parametrize("name", VARIANTS)
def test_the_planted_rows_come_first_with_their_words(name: str, tmp_path: Path) -> None:
    answer = indexed(name, tmp_path).explain(messages=ASKED, span=CREATURE, k=5)
    assert sorted(hit.id for hit in answer.proponents) == [row["id"] for row in planted()]
    for hit in answer.proponents:
        assert PLANTED_WORDS & {pair.train_word.lower() for pair in hit.shown_words[:3]}


def test_a_plain_trainer_on_tokens_scores_as_sft_on_prompt_and_completion(tmp_path: Path) -> None:
    """Both feed the same tokens and count the same; only rounding differs."""
    first, second = (
        indexed(name, tmp_path / name).scores([{"messages": ASKED}])[0]
        for name in ("SFT on prompt and completion", "plain Trainer on tokens")
    )
    np.testing.assert_allclose(first, second, atol=0.01 * float(np.abs(first).max()))
