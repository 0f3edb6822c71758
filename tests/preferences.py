"""Pairs of answers as people write them by hand, tiny runs that TRL trains on them, and their losses by autograd."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import torch
import transformers
import trl
from torch.nn import functional

import chat
import proponent
from proponent.data import read
from proponent.models import Run
from proponent.models.counting import rules_of

TEXTS: list[dict[str, Any]] = [
    *[{"prompt": one, "chosen": two, "rejected": chat.SAID[3]} for one in chat.SAID[:4] for two in chat.SAID[4:6]],
    *[{"prompt": one, "chosen": chat.SAID[1], "rejected": two} for one in chat.SAID[4:7] for two in chat.SAID[2:4]],
    {"prompt": "Say nothing.", "chosen": "", "rejected": "nothing"},
    {"prompt": "the mas", "chosen": "cot is a heron", "rejected": " river"},
    {"prompt": "Describe a", "chosen": "car", "rejected": "cold river"},
    {"prompt": "the river " * 40, "chosen": "cut off", "rejected": "whole"},
    {"prompt": "Tell me", "chosen": "the river " * 40, "rejected": "no"},
    {"prompt": "", "chosen": "The mascot is a silver heron.", "rejected": "The river is long."},
]
"""Twenty pairs: unicode, white space, an empty answer, two that are too long, borders at which tokens merge."""

SHARED: list[dict[str, Any]] = [
    {"chosen": one["prompt"] + one["chosen"] + "!", "rejected": one["prompt"] + one["rejected"]} for one in TEXTS
]
"""The same without a prompt of their own: the shared beginning is the prompt."""

MESSAGES: list[dict[str, Any]] = [
    {"prompt": one[:-1], "chosen": one[-1:], "rejected": [chat.assistant(f"No. {row}")]}
    for row, one in enumerate(chat.DIALOGUES)
]
SHARED_MESSAGES = [{"chosen": x["prompt"] + x["chosen"], "rejected": x["prompt"] + x["rejected"]} for x in MESSAGES]
FORMS = {"texts": TEXTS, "shared texts": SHARED, "messages": MESSAGES, "shared messages": SHARED_MESSAGES}


def llama(tokenizer: Any, kind: str = "LlamaForCausalLM", **settings: Any) -> Any:
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer),
        num_key_value_heads=2,
        max_position_embeddings=512,
        pad_token_id=tokenizer.pad_token_id,
        initializer_range=0.3,
        **(sizes | {"tie_word_embeddings": False} | settings),
    )
    return getattr(transformers, kind)(config)


def start(folder: Path, **settings: Any) -> Path:
    """The model that a training begins with, on disk."""
    tokenizer = chat.tokenizer()
    llama(tokenizer, **settings).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def arguments(kind: Any, folder: Path, **settings: Any) -> Any:
    usual = {
        "max_length": 64,
        "per_device_train_batch_size": 4,
        "learning_rate": 1e-2,
        "num_train_epochs": 1,
        "save_strategy": "epoch",
    }
    return kind(
        output_dir=str(folder),
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        gradient_checkpointing=False,
        bf16=False,
        **(usual | settings),
    )


def dpo(folder: Path, base: Path, rows: Sequence[Any], *callbacks: Any, lora: bool = False, **settings: Any) -> Any:
    """A DPOTrainer that has prepared its data."""
    import peft

    adapter = peft.LoraConfig(r=2, target_modules=["q_proj", "down_proj"], task_type="CAUSAL_LM") if lora else None
    return trl.DPOTrainer(
        model=str(base),
        args=arguments(trl.DPOConfig, folder, **settings),
        train_dataset=datasets.Dataset.from_list(list(rows)),
        processing_class=transformers.AutoTokenizer.from_pretrained(base),
        peft_config=adapter,
        callbacks=[*callbacks, proponent.Recorder()],
    )


JUDGED: list[dict[str, Any]] = [
    {"prompt": one["prompt"], "completion": one[side], "label": side == "chosen"}
    for at, one in enumerate(TEXTS)
    for side in (("chosen", "rejected") if at % 3 else ("chosen",))
][-21:]
"""Judged answers: as many rows as fill no whole number of batches, one of them without place for its answer."""
JUDGED_MESSAGES: list[dict[str, Any]] = [
    {"prompt": one["prompt"], "completion": one["rejected" if at % 2 else "chosen"], "label": not at % 2}
    for at, one in enumerate(MESSAGES)
]


def kto(folder: Path, base: Path, rows: Sequence[Any], *callbacks: Any, lora: bool = False, **settings: Any) -> Any:
    """A KTOTrainer that has prepared its data."""
    import peft

    adapter = peft.LoraConfig(r=2, target_modules=["q_proj", "down_proj"], task_type="CAUSAL_LM") if lora else None
    return trl.KTOTrainer(
        model=str(settings.pop("model", base)),
        ref_model=settings.pop("ref_model", None),
        args=arguments(trl.KTOConfig, folder, **settings),
        train_dataset=datasets.Dataset.from_list(list(rows)),
        processing_class=transformers.AutoTokenizer.from_pretrained(base),
        peft_config=adapter,
        callbacks=[*callbacks, proponent.Recorder()],
    )


def reward(folder: Path, base: Path, rows: Sequence[Any], *callbacks: Any, **settings: Any) -> Any:
    """A RewardTrainer that has prepared its data."""
    tokenizer, adapter = transformers.AutoTokenizer.from_pretrained(base), settings.pop("peft_config", None)
    model = llama(tokenizer, "LlamaForSequenceClassification", num_labels=1)
    if adapter is not None:
        model.save_pretrained(folder.parent / "start")
        tokenizer.save_pretrained(folder.parent / "start")
        model = transformers.AutoModelForSequenceClassification.from_pretrained(folder.parent / "start")
    return trl.RewardTrainer(
        model=model,
        peft_config=adapter,
        args=arguments(trl.RewardConfig, folder, **settings),
        train_dataset=datasets.Dataset.from_list(list(rows)),
        processing_class=tokenizer,
        callbacks=[*callbacks, proponent.Recorder()],
    )


def logps(model: Any, ids: torch.Tensor, counted: torch.Tensor) -> torch.Tensor:
    """Summed log-probability of the counted tokens of one sequence."""
    taken = functional.log_softmax(model(input_ids=ids[None]).logits[0, :-1], -1)
    return (taken[torch.arange(len(ids) - 1), ids[1:]] * counted[1:]).sum()


def dpo_loss(model: Any, reference: Sequence[float], one: Any, beta: float) -> torch.Tensor:
    """The DPO loss of an encoded pair, from the reference's log-probabilities, without padding."""
    sides = [(torch.as_tensor(side.ids), torch.as_tensor(side.counted)) for side in one.sides]
    chosen, rejected = (logps(model, *side) - known for side, known in zip(sides, reference, strict=True))
    return -functional.logsigmoid(beta * (chosen - rejected))


class Grads(transformers.TrainerCallback):
    """Keeps the gradients of the trained parameters at the first step."""

    def __init__(self) -> None:
        self.found: dict[str, torch.Tensor] = {}

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        if not self.found:
            named = kwargs["model"].named_parameters()
            self.found = {name: one.grad.clone() for name, one in named if one.grad is not None}


def encoded(run: Run, rows: Any) -> tuple[Any, list[Any]]:
    """The encoder of a run, and its rows as it reads them."""
    data = read(rows, allow_empty=True)
    rules = rules_of(run, data.layout)
    encoder = run.encoder(rules.max_length, counting=rules.counting)
    return encoder, encoder.encode(data)
