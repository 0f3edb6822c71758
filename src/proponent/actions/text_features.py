"""Features of texts by any encoder: the mean of its last hidden states over real tokens, without a head."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import nn

from proponent.errors import InputError, RunError, first_line
from proponent.models.huggingface import load_tokenizer, positions, quiet, transformers
from proponent.models.model_outputs import pooled_states
from proponent.models.placement import Placement, device_of
from proponent.progress import track
from proponent.types import Example

_BATCH = 32


def text_features(
    encoder: str | Path,
    examples: Sequence[Example],
    *,
    max_length: int = 128,
    trust_remote_code: bool = False,
    progress: bool = False,
    device: str = "auto",  # cpu, cuda, cuda:N or mps; auto: the first CUDA device, else the CPU
) -> Float[np.ndarray, "n h"]:
    """Encode texts, or pairs, with a pretrained model; a head that it may have is left out."""
    refuse_unreadable(examples)
    reader = Encoder.load(encoder, max_length=max_length, trust_remote_code=trust_remote_code, device=device)
    order = sorted(range(len(examples)), key=lambda at: sum(map(len, examples[at].parts)))
    made: list[np.ndarray | None] = [None] * len(examples)
    blocks = [order[start : start + _BATCH] for start in range(0, len(order), _BATCH)]
    with torch.inference_mode():
        for block in track(blocks, total=len(blocks), label="encoding", unit="batches", quiet=not progress):
            inputs = reader.inputs([examples[at] for at in block])
            for at, row in zip(block, pooled_states(reader.model, inputs), strict=True):
                made[at] = row
    return np.stack([cast("np.ndarray", one) for one in made])


def refuse_unreadable(examples: Sequence[Example]) -> None:
    """Refuse an empty data set, conversations, and more than two texts."""
    if not examples:
        raise InputError("there is no text to encode: the data set is empty")
    many = next((one for one in examples if len(one.parts) > 2 or one.turns is not None), None)
    if many is not None:
        raise InputError(
            f"the row with id {many.id} is a conversation or has more than two texts: an encoder reads a text or a pair"
        )


@dataclass(frozen=True)
class Encoder:
    """A pretrained model without a head, and its tokenizer."""

    model: nn.Module  # in evaluation mode
    tokenizer: Any
    max_length: int

    @classmethod
    def load(
        cls, encoder: str | Path, *, max_length: int = 128, trust_remote_code: bool = False, device: str = "auto"
    ) -> "Encoder":
        """Load the weights to a device; of an encoder-decoder, the encoder."""
        placement = Placement.of(device)
        quiet()
        try:
            model = cast("Any", transformers).AutoModel.from_pretrained(
                str(encoder), use_safetensors=True, trust_remote_code=trust_remote_code, dtype=torch.float32
            )
        except Exception as error:  # the loaders of models may raise anything
            raise RunError(
                f"cannot load an encoder from {encoder}: {first_line(error)}: give a model folder"
            ) from error
        model = model.get_encoder() if getattr(model.config, "is_encoder_decoder", False) else model
        tokenizer = load_tokenizer(Path(encoder), trust_remote_code=trust_remote_code)
        if tokenizer.pad_token is None:  # padding is masked, so any token serves
            tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token or tokenizer.convert_ids_to_tokens(0)
        return cls(placement.put(model.eval()), tokenizer, min(max_length, positions(model.config) or max_length))

    def inputs(self, examples: Sequence[Example]) -> dict[str, torch.Tensor]:
        """A padded batch of texts and pairs, on the model's device."""
        each = [self.tokenizer(*one.parts, truncation=True, max_length=self.max_length) for one in examples]
        padded = self.tokenizer.pad(each, return_tensors="pt")
        return {name: one.to(self.device) for name, one in padded.items()}

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return device_of(self.model)


@dataclass(frozen=True)
class LabelledTexts:
    """Rows and their class numbers."""

    examples: Sequence[Example]
    labels: Int[np.ndarray, " m"]

    def __len__(self) -> int:
        return len(self.examples)

    def take(self, places: Int[np.ndarray, " b"]) -> "LabelledTexts":
        """Some of the rows."""
        return LabelledTexts([self.examples[int(at)] for at in places], self.labels[places])


def class_numbers(
    examples: Sequence[Example], names: Sequence[str], where: str, way: str | None = None
) -> Int[np.ndarray, " n"]:
    """Class numbers of rows; a row without a label and a class that the training set lacks are refused."""
    known = {name: at for at, name in enumerate(names)}
    for one in examples:
        if one.label is None:
            raise InputError(
                f"{where}: the row with id {one.id} has no label: {way or 'name its column (--label-column)'}"
            )
        if str(one.label) not in known:
            raise InputError(
                f"{where} has the class {str(one.label)!r}, which the training set lacks: its classes are "
                f"{', '.join(names)}"
            )
    return np.asarray([known[str(one.label)] for one in examples], dtype=np.int64)
