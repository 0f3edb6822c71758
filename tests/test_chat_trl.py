"""Rows of chat fine-tuning: our tokens and labels are those of TRL's collated batches, token for token."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import chat
from proponent.data import read
from proponent.models import CausalLM, Encoder
from proponent.models.scratch import causal_lm
from proponent.types import Counting

trl = pytest.importorskip("trl")
datasets = pytest.importorskip("datasets")
pytestmark = pytest.mark.filterwarnings("ignore")

Row = tuple[list[int], list[int]]


def trained_on(folder: Path, tokenizer: Any, data: Any, **settings: Any) -> Any:
    """An SFTTrainer that has prepared its data."""
    torch.manual_seed(0)
    rows = data if isinstance(data, datasets.Dataset) else datasets.Dataset.from_list(data)
    arguments = trl.SFTConfig(
        output_dir=str(folder),
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        per_device_train_batch_size=4,
        gradient_checkpointing=False,
        bf16=False,
        **({"max_length": 64} | settings),
    )
    return trl.SFTTrainer(
        model=causal_lm(tokenizer, 16, 1, 256), args=arguments, train_dataset=rows, processing_class=tokenizer
    )


def theirs(trainer: Any) -> list[Row]:
    """Every row of TRL's batches, without padding; nothing predicts the first token, whose label is left out."""
    found: list[Row] = []
    for batch in torch.utils.data.DataLoader(
        trainer.train_dataset.select_columns(["input_ids", "labels"]), batch_size=4, collate_fn=trainer.data_collator
    ):
        for ids, labels, mask in zip(batch["input_ids"], batch["labels"], batch["attention_mask"], strict=True):
            length = int(mask.sum())
            found.append((ids[:length].tolist(), [-100, *labels[1:length].tolist()]))
    return [one for one in found if set(one[1]) != {-100}]


def ours(tokenizer: Any, data: Any, most: int = 64, **counting: Any) -> list[Row]:
    """Every row that counts, as proponent encodes it."""
    encoder = Encoder(tokenizer, CausalLM(), most, tokenizer.pad_token_id, counting=Counting(trl=True, **counting))
    found: list[Row] = []
    for one in encoder.encode(read(data, allow_empty=True)):
        labels = [token if on else -100 for token, on in zip(one.ids.tolist(), one.counted.tolist(), strict=True)]
        if any(label != -100 for label in labels):
            found.append((one.ids.tolist(), labels))
    return found


MESSAGES = [{"messages": one} for one in chat.DIALOGUES]
SPLIT = [{"prompt": one[:-1], "completion": one[-1:]} for one in chat.DIALOGUES]
SHAREGPT = [{"conversations": [{"from": m["role"], "value": m["content"]} for m in one]} for one in chat.DIALOGUES]
PLAIN = [{"text": one} for one in chat.TEXTS]

CASES: dict[str, tuple[Any, str, dict[str, Any], dict[str, Any]]] = {
    "messages": (MESSAGES, chat.MARKED, {}, {}),
    "messages, template without marks": (MESSAGES, chat.UNMARKED, {}, {}),
    "messages, assistant only": (MESSAGES, chat.MARKED, {"assistant_only_loss": True}, {"assistant_only": True}),
    "from and value": (SHAREGPT, chat.MARKED, {}, {}),
    "prompt and completion of messages": (SPLIT, chat.MARKED, {}, {}),
    "prompt and completion of messages, whole": (
        SPLIT, chat.UNMARKED, {"completion_only_loss": False}, {"completion_only": False},
    ),
    "prompt and completion, assistant only": (
        SPLIT, chat.MARKED, {"assistant_only_loss": True}, {"assistant_only": True},
    ),
    "prompt and completion": (chat.PAIRS, chat.MARKED, {}, {}),
    "prompt and completion, whole": (
        chat.PAIRS, chat.MARKED, {"completion_only_loss": False}, {"completion_only": False},
    ),
    "text": (PLAIN, chat.MARKED, {}, {}),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_tokens_and_labels_are_those_that_trl_feeds(case: str, tmp_path: Path) -> None:
    data, template, settings, counting = CASES[case]
    assert len(data) == 20
    tokenizer = chat.tokenizer(template)
    if template == chat.UNMARKED:
        tokenizer.bos_token = "<|im_start|>"
    if "assistant_only" in counting:
        data = [one for one in data if "Say nothing." not in str(one)]  # marks nothing: TRL stops
    assert ours(tokenizer, data, **counting) == theirs(trained_on(tmp_path, tokenizer, data, **settings))


@pytest.mark.parametrize("assistant", [False, True])
def test_tools_and_settings_of_a_row_reach_the_template(assistant: bool, tmp_path: Path) -> None:
    tokenizer = chat.tokenizer()
    rows = datasets.Dataset.from_list([{**one, "tools": json.dumps(one["tools"])} for one in chat.WITH_TOOLS[:2]])
    trainer = trained_on(tmp_path, tokenizer, rows, max_length=400, assistant_only_loss=assistant)
    assert ours(tokenizer, rows, 400, assistant_only=assistant) == theirs(trainer)


def test_rows_of_tokens_are_taken_as_they_are(tmp_path: Path) -> None:
    tokenizer = chat.tokenizer()
    rows: list[dict[str, Any]] = []
    for number, text in enumerate(chat.TEXTS):
        ids = tokenizer(text + "!")["input_ids"]
        rows.append({"input_ids": ids, "labels": [-100 if at < number % 3 else one for at, one in enumerate(ids)]})
    assert ours(tokenizer, rows) == theirs(trained_on(tmp_path, tokenizer, rows))
