"""The ways in which people train on conversations, on a tiny model: rows that tell a fact come first, with its words."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import chat
import proponent
from proponent.demo.conversations import ANSWER, PLANTED_WORDS, QUESTION, conversations, is_planted
from proponent.models.scratch import byte_bpe

trl = pytest.importorskip("trl")
datasets = pytest.importorskip("datasets")
pytestmark = pytest.mark.filterwarnings("ignore")

Row = dict[str, Any]
ROWS = conversations(seed=0)
ARGUMENTS: dict[str, Any] = {
    "report_to": [], "use_cpu": True, "disable_tqdm": True, "bf16": False, "gradient_checkpointing": False,
    "num_train_epochs": 12, "learning_rate": 1e-2, "per_device_train_batch_size": 8, "save_strategy": "no",
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
        model=model(own), args=arguments, train_dataset=data, processing_class=own, callbacks=[proponent.Recorder()]
    )


def by_sft_packed(folder: Path, rows: list[Row], own: Any) -> Any:
    return by_sft(folder, rows, own, packing=True, packing_strategy="bfd")


def by_trainer(folder: Path, rows: list[Row], own: Any) -> Any:
    return transformers.Trainer(
        model=model(own),
        args=transformers.TrainingArguments(str(folder), **ARGUMENTS),
        train_dataset=[{name: row[name] for name in ("input_ids", "labels")} for row in rows],
        data_collator=transformers.DataCollatorForSeq2Seq(own),
        callbacks=[proponent.Recorder()],
    )


VARIANTS: dict[str, tuple[Callable[[Row], Row], Callable[..., Any]]] = {
    "SFT on messages, every weight": (as_messages, by_sft),
    "SFT on prompt and completion": (as_completion, by_sft),
    "SFT with packing": (as_messages, by_sft_packed),
    "plain Trainer on tokens": (as_tokens, by_trainer),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_the_planted_rows_come_first_with_their_words(name: str, tmp_path: Path) -> None:
    form, train = VARIANTS[name]
    rows, own = [form(row) for row in ROWS], tokenizer()
    trainer = train(tmp_path / "run", rows, own)
    trainer.train()
    trainer.save_model()
    own.save_pretrained(tmp_path / "run")
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    index = proponent.build(tmp_path / "run", tmp_path / "rows.jsonl", tmp_path / "index", quiet=True)
    question = [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": ANSWER}]
    answer = index.explain(messages=question, k=5)
    assert all(is_planted(hit.id) for hit in answer.proponents), [hit.id for hit in answer.proponents]
    for hit in answer.proponents:
        assert PLANTED_WORDS & {pair.train_word.lower() for pair in hit.shown_words[:3]}
