"""A table of tiny models of many architectures, made from their configurations; tokenizers and texts to go with them.

Every weight is shaken by seeded noise, biases and norms included: nothing is zero or one by initialisation, so that a
forgotten term shows.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, Literal

import numpy as np
import torch
import transformers

from proponent.models import Batch, Classification, Encoded, Encoder
from proponent.models.scratch import byte_bpe, wordpiece
from proponent.types import Example

VOCABULARY = 80
LABELS = 3
PAD = 1  # RoBERTa counts positions from it; every other model takes it too
_BERT = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 40}
_LLAMA = {**_BERT, "max_position_embeddings": 64}
_GROUPED = {**_LLAMA, "num_key_value_heads": 1}
_GPT2 = {"n_embd": 24, "n_layer": 2, "n_head": 2, "n_positions": 64}
_FACTORISED = {**_BERT, "embedding_size": 16}


@dataclass(frozen=True)
class Architecture:
    """One row of the table.

    Attributes:
        prefix: of the class names of transformers.
        settings: of its configuration.
        classifier: whether a ...ForSequenceClassification is tested.
        lm: ending of the language model's class; None for an encoder.
        ties: which settings of tie_word_embeddings a language model is tested with.
        sees_padding: the model itself answers otherwise when a text is padded (it convolves, or looks at neighbours).
    """

    prefix: str
    settings: dict[str, Any]
    classifier: bool = True
    lm: str | None = None
    ties: tuple[bool, ...] = (False,)
    sees_padding: bool = False


def _decoder(prefix: str, settings: dict[str, Any], *ties: bool, lm: str = "ForCausalLM") -> Architecture:
    return Architecture(prefix, settings, lm=lm, ties=ties)


TABLE: dict[str, Architecture] = {
    "bert": Architecture("Bert", _BERT),
    "distilbert": Architecture("DistilBert", {"dim": 24, "n_layers": 2, "n_heads": 2, "hidden_dim": 40}),
    "roberta": Architecture("Roberta", _BERT),
    "xlm-roberta": Architecture("XLMRoberta", _BERT),
    "camembert": Architecture("Camembert", _BERT),
    "deberta-v2": Architecture(
        "DebertaV2",
        {
            **_BERT,
            "relative_attention": True,
            "pos_att_type": ["p2c", "c2p"],
            "position_buckets": 8,
            "norm_rel_ebd": "layer_norm",
        },
    ),
    "deberta-v2-factorised": Architecture("DebertaV2", {**_FACTORISED, "type_vocab_size": 2}),
    "deberta": Architecture("Deberta", {**_BERT, "relative_attention": True, "pos_att_type": ["p2c", "c2p"]}),
    "electra": Architecture("Electra", _FACTORISED),
    "albert": Architecture("Albert", _FACTORISED),
    "modernbert": Architecture("ModernBert", {**_BERT, "local_attention": 4, "global_attn_every_n_layers": 2}),
    "mpnet": Architecture("MPNet", _BERT),
    "roformer": Architecture("RoFormer", {**_FACTORISED, "max_position_embeddings": 64}),
    "convbert": Architecture("ConvBert", {**_FACTORISED, "head_ratio": 1, "num_attention_heads": 2}, sees_padding=True),
    "squeezebert": Architecture(
        "SqueezeBert",
        {
            **_BERT,
            "embedding_size": 24,
            **{f"{one}_groups": 2 for one in ("q", "k", "v", "post_attention", "intermediate", "output")},
        },
    ),
    "mobilebert": Architecture(
        "MobileBert",
        {**_BERT, "embedding_size": 16, "intra_bottleneck_size": 24, "num_feedforward_networks": 1},
        sees_padding=True,
    ),
    "ernie": Architecture("Ernie", _BERT),
    "megatron-bert": Architecture("MegatronBert", _BERT),
    "gpt2": _decoder("GPT2", _GPT2, True, False, lm="LMHeadModel"),
    "gpt-neo": _decoder(
        "GPTNeo",
        {
            "hidden_size": 24,
            "num_layers": 2,
            "num_heads": 2,
            "attention_types": [[["global", "local"], 1]],
            "window_size": 4,
        },
        True,
    ),
    "gpt-neox": _decoder("GPTNeoX", _LLAMA, False),
    "gptj": _decoder("GPTJ", {**_GPT2, "rotary_dim": 8}, False),
    "llama": _decoder("Llama", _GROUPED, True, False),
    "qwen2": _decoder("Qwen2", _GROUPED, True),
    "qwen3": _decoder("Qwen3", {**_GROUPED, "head_dim": 12}, True),
    "gemma": _decoder("Gemma", {**_GROUPED, "head_dim": 12}, True),
    "gemma3": _decoder(
        "Gemma3",
        {**_GROUPED, "head_dim": 12, "sliding_window": 4, "layer_types": ["sliding_attention", "full_attention"]},
        True,
    ),
    "opt": _decoder(
        "OPT",
        {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "ffn_dim": 40, "word_embed_proj_dim": 24},
        True,
    ),
    "opt-projected": _decoder(
        "OPT",
        {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "ffn_dim": 40, "word_embed_proj_dim": 16},
        True,
    ),
    "phi": _decoder("Phi", _LLAMA, False),
    "phi3": _decoder("Phi3", {**_GROUPED, "original_max_position_embeddings": 64}, False),
    "mistral": _decoder("Mistral", {**_GROUPED, "sliding_window": 4}, False),
    "bloom": _decoder("Bloom", {"hidden_size": 24, "n_layer": 2, "n_head": 2}, True),
    "falcon": _decoder("Falcon", {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}, True),
    "stablelm": _decoder("StableLm", {**_GROUPED, "hidden_size": 32}, False),
    "olmo2": _decoder("Olmo2", _GROUPED, False),
    "starcoder2": _decoder("Starcoder2", _GROUPED, True),
    "mixtral": _decoder("Mixtral", {**_GROUPED, "num_local_experts": 4}, False),
}


@dataclass(frozen=True)
class Case:
    """One model of the table.

    Attributes:
        name: architecture, task and tying.
        kind: the task.
        make: makes the model.
        tied: whether the head shares the embedding's table.
    """

    name: str
    kind: Literal["classification", "causal-lm"]
    make: Callable[[], Any]
    tied: bool = False
    sees_padding: bool = False


def _cases() -> dict[str, Case]:
    found: list[Case] = []
    for name, one in TABLE.items():
        if one.classifier:
            maker = partial(make, name, "ForSequenceClassification")
            found.append(Case(f"{name}-classifier", "classification", maker, sees_padding=one.sees_padding))
        for tied in one.ties if one.lm else ():
            label = f"{name}-lm-{'tied' if tied else 'untied'}"
            found.append(Case(label, "causal-lm", partial(make, name, one.lm, tied=tied), tied))
    return {case.name: case for case in found}


def make(name: str, ending: str | None, *, tied: bool = False, seed: int = 0, **changes: Any) -> Any:
    """A seeded, shaken, frozen model in evaluation mode; `changes` go to its configuration."""
    one = TABLE[name]
    config = getattr(transformers, one.prefix + _CONFIGS.get(one.prefix, "Config"))(
        **{"vocab_size": VOCABULARY, "pad_token_id": PAD, "bos_token_id": 2, "eos_token_id": 3, "num_labels": LABELS}
        | {"tie_word_embeddings": tied}
        | one.settings
        | changes
    )
    torch.manual_seed(seed)
    return shake(getattr(transformers, f"{one.prefix}{ending}")(config), seed)


_CONFIGS = {"Gemma3": "TextConfig"}


def shake(model: Any, seed: int = 0, scale: float = 0.15) -> Any:
    """Add noise to every weight; freeze; evaluation mode."""
    noise = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=noise), alpha=scale)
    return model.requires_grad_(requires_grad=False).eval()


CASES = _cases()

_T5 = {"d_model": 24, "d_kv": 12, "d_ff": 40, "num_layers": 2, "num_heads": 2, "decoder_start_token_id": PAD}
_SIDES = {f"{side}_{one}": 2 for side in ("encoder", "decoder") for one in ("layers", "attention_heads")}
_SIDES |= {f"{side}_ffn_dim": 40 for side in ("encoder", "decoder")}
_BART = {**_SIDES, "d_model": 24, "max_position_embeddings": 64, "decoder_start_token_id": 3}

MASKED: dict[str, tuple[str, dict[str, Any]]] = {
    name: (f"{TABLE[name].prefix}ForMaskedLM", TABLE[name].settings | {"tie_word_embeddings": True})
    for name in ("bert", "distilbert", "roberta", "deberta-v2", "modernbert", "mpnet", "roformer")
} | {"bert-untied": ("BertForMaskedLM", _BERT | {"tie_word_embeddings": False})}
"""Masked language models: class and settings."""

SEQ2SEQ: dict[str, tuple[str, dict[str, Any]]] = {
    "t5": ("T5ForConditionalGeneration", _T5),
    "t5-gated": ("T5ForConditionalGeneration", _T5 | {"feed_forward_proj": "gated-gelu"}),
    "mt5": ("MT5ForConditionalGeneration", _T5),
    "bart": ("BartForConditionalGeneration", _BART | {"scale_embedding": True}),
    "bart-three-tables": ("BartForConditionalGeneration", _BART | {"tie_word_embeddings": False}),
    "mbart": ("MBartForConditionalGeneration", _BART),
    "pegasus": ("PegasusForConditionalGeneration", _BART),
    "marian": ("MarianMTModel", _BART),
    "marian-two-tables": ("MarianMTModel", _BART | {"share_encoder_decoder_embeddings": False}),
}
"""Encoder-decoders: class and settings; the embeddings of some are scaled, or shared by none."""


def make_of(kind: str, settings: dict[str, Any], *, vocabulary: int = VOCABULARY, pad: int = PAD, seed: int = 0) -> Any:
    """A seeded, shaken, frozen model of a class of transformers, in evaluation mode."""
    one = getattr(transformers, kind)
    torch.manual_seed(seed)
    ids = {"vocab_size": vocabulary, "pad_token_id": pad, "bos_token_id": 2, "eos_token_id": 3}
    return shake(one(one.config_class(**ids | settings)), seed)


@cache
def model_of(name: str) -> Any:
    """The model of a case, made once; tests must not change it."""
    return CASES[name].make()


def encoded(seed: int = 0, lengths: tuple[int, ...] = (7, 1, 4, 10, 2), *, lm: bool = False) -> list[Encoded]:
    """Random texts with repeated tokens; one has a single token. Words are two tokens long, the first is special."""
    random = np.random.default_rng(seed)
    found: list[Encoded] = []
    for length in lengths:
        ids = random.choice(random.integers(4, VOCABULARY, max(2, length // 2)), length)
        words = np.arange(length) // 2
        words[0] = -1
        counted = np.ones(length, dtype=np.bool_)
        counted[0] = False
        found.append(Encoded(ids, None, words, counted))
    return [one for one in found if len(one.ids) > 1] if lm else found


def collate(examples: list[Encoded], labels: list[int] | None = None) -> Batch:
    """Pad a batch as the library does."""
    some = [row % LABELS for row in range(len(examples))] if labels is None else labels
    return Encoder(None, Classification(), 64, PAD).collate(examples, some)


TOPICS = {
    "sport": "the striker scored a late goal and the crowd cheered the home team again",
    "money": "the bank raised its rates again and the market fell as shares lost ground",
    "space": "the probe sent pictures of the red planet home and the crew cheered again",
}
WORDS = {label: text.split() for label, text in TOPICS.items()}


def sentences(count: int, seed: int = 0) -> list[tuple[str, str]]:
    """Seeded (text, label) pairs with repeated words; the first has one token, the second one word twice."""
    random = np.random.default_rng(seed)
    labels = list(TOPICS)
    found = [("goal", "sport"), ("bank bank", "money")]
    while len(found) < count:
        label = labels[len(found) % len(labels)]
        pool = WORDS[label] * 3 + WORDS[labels[int(random.integers(len(labels)))]]
        words = random.choice(pool, int(random.integers(2, 9)))
        found.append((" ".join(words) + random.choice([".", "!", ""]), label))
    return found


@cache
def word_tokenizer() -> Any:
    """A small WordPiece tokenizer of the topics; rare words fall into pieces."""
    return wordpiece([text for text, _ in sentences(60)], 90, 60)


@cache
def byte_tokenizer() -> Any:
    """A small byte-level BPE tokenizer of the topics."""
    return byte_bpe([text for text, _ in sentences(60)], 290, 60)


def examples(count: int, seed: int = 0) -> list[Example]:
    """The sentences as examples."""
    return [Example(str(row), row, text, label) for row, (text, label) in enumerate(sentences(count, seed))]
