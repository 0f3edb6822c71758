"""What a model's configuration promises: task head, labels, limits, where a decoder starts."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from proponent.errors import RunError
from proponent.models.batch import Kind

_WRAPPING = frozenset({"mbart", "plbart"})
"""Encoder-decoders whose decoder starts with the last token of its target: its language."""

# Models whose position ids start after the padding index, so that two of the positions are never used.
_OFFSET_POSITIONS = frozenset(
    {
        "roberta",
        "xlm-roberta",
        "xlm-roberta-xl",
        "camembert",
        "roberta-prelayernorm",
        "data2vec-text",
        "xmod",
        "longformer",
        "mpnet",
        "ibert",
        "luke",
        "esm",
    }
)


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What the configuration of a checkpoint says.

    Attributes:
        kind: the task head.
        architecture: class name of the model.
        label_names: classes in the order of the outputs; None for a language model.
        max_length: positions that the model can take; None when it sets no bound.
        pad_token_id: the configuration's padding token; None when it has none (or a negative one).
        adapter: True for a PEFT adapter over a base model.
        start: first token that a decoder reads; None for the last token of its target, or without a decoder.
    """

    kind: Kind
    architecture: str
    label_names: tuple[str, ...] | None
    max_length: int | None
    pad_token_id: int | None
    adapter: bool
    start: int | None = None


def kind_of(folder: Path, architecture: str, config: Any) -> Kind:
    """Find the task head."""
    if architecture.endswith("ForSequenceClassification"):
        return "classification"
    if getattr(config, "is_encoder_decoder", False) and architecture.endswith(
        ("ForConditionalGeneration", "MTModel", "EncoderDecoderModel")
    ):
        return "seq2seq"
    if architecture.endswith("ForMaskedLM"):
        return "masked-lm"
    if architecture.endswith(("ForCausalLM", "LMHeadModel")):
        return "causal-lm"
    said = f"the configuration names {architecture}" if architecture else "the configuration names no architecture"
    raise RunError(
        f"{folder} has no supported task head: {said}; needed: ...ForSequenceClassification, "
        "...ForCausalLM, ...ForMaskedLM, or an encoder-decoder's ...ForConditionalGeneration"
    )


def model_info(config: Any, architecture: str, kind: Kind, *, adapter: bool) -> ModelInfo:
    """Read labels and limits."""
    labels: tuple[str, ...] | None = None
    if kind == "classification":
        by_number = {int(number): str(name) for number, name in cast("dict[Any, Any]", config.id2label).items()}
        labels = tuple(by_number[number] for number in sorted(by_number))
        problem = getattr(config, "problem_type", None)
        if len(labels) < 2 or problem in {"regression", "multi_label_classification"}:
            what = " (a reward model, or a regression)" if len(labels) == 1 and problem is None else ""
            raise RunError(
                f"{architecture} with {len(labels)} output(s) and problem type {problem}{what}: "
                "only single-label classification is supported"
            )
    pad = cast("int | None", getattr(config, "pad_token_id", None))
    pad = None if pad is None or pad < 0 else pad
    return ModelInfo(kind, architecture, labels, positions(config), pad, adapter, _start(config, architecture, kind))


def _start(config: Any, architecture: str, kind: Kind) -> int | None:
    """The first token that a decoder reads."""
    if kind != "seq2seq" or config.model_type in _WRAPPING:
        return None
    start = cast("int | None", getattr(config, "decoder_start_token_id", None))
    if start is None:
        raise RunError(f"{architecture} does not say with which token its decoder starts: set decoder_start_token_id")
    return start


def positions(config: Any) -> int | None:
    """Say how many tokens a model can take."""
    rows = getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", None)
    if not rows or rows < 0:
        return None
    if config.model_type in _OFFSET_POSITIONS:
        return int(rows) - int(config.pad_token_id or 0) - 1
    return int(rows)
