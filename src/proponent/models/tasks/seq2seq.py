"""Encoder-decoders: the encoder reads the text, and the decoder predicts the target."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

from proponent.errors import InputError, RunError
from proponent.models.batch import Batch, Encoded
from proponent.models.tasks.base import Reduction, Task, TokenLoss, one_text
from proponent.types import Example

_WRAPPING = frozenset({"mbart", "plbart"})
"""Models whose decoder starts with the last token of its target: the language token."""


class Seq2Seq(Task):
    """Encoder-decoders; in shared arrays, the encoder's tokens precede the decoder's."""

    kind, heads, auto_class = "seq2seq", "an encoder-decoder's ...ForConditionalGeneration", "AutoModelForSeq2SeqLM"
    adapter_type, decodes = "SEQ_2_SEQ_LM", True

    @classmethod
    def recognises(cls, architecture: str, config: Any) -> bool:
        ends = ("ForConditionalGeneration", "MTModel", "EncoderDecoderModel")
        return bool(getattr(config, "is_encoder_decoder", False)) and architecture.endswith(ends)

    @classmethod
    def of(cls, architecture: str, config: Any) -> Task:
        if config.model_type in _WRAPPING:
            return cls()
        start = cast("int | None", getattr(config, "decoder_start_token_id", None))
        if start is None:
            raise RunError(f"{architecture} does not define the start token of its decoder: set decoder_start_token_id")
        return cls(start=start)

    def text(self, example: Example, tokenizer: Any) -> str:
        text = one_text(example)
        if example.target is None:
            raise InputError(
                f"the example with id {example.id} has no target, and an encoder-decoder needs a target: choose its "
                "column (--target-column), or give the target of one text with --target"
            )
        return text

    def predict(self, one: Encoded, tokenizer: Any, pad: int) -> Encoded:
        seam = len(one.ids) - len(one.counted)
        targets = one.ids[seam:]
        start = self.start if self.start is not None else int(targets[-1]) if len(targets) else pad
        read = replace(one, ids=one.ids[:seam], words=one.words[:seam])
        return replace(read, targets=targets, target_words=one.words[seam:], start=start)

    def objective(self, batch: Batch, reduction: Reduction = "mean", against: Sequence[int] | None = None) -> TokenLoss:
        assert batch.targets is not None
        return TokenLoss(batch.targets, batch.counted, reduction)
