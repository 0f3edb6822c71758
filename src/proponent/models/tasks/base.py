"""Tasks: how an example is read, which tokens count, the loss, the labels. One subclass per task head."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from proponent.errors import InputError
from proponent.labels import NO_LABELS, Labels
from proponent.models.batch import Aligned, Batch, Encoded
from proponent.models.masking import Masks
from proponent.models.objective import refuse_smoothing
from proponent.models.placement import in_full
from proponent.models.preference_rows import Pairing
from proponent.types import Example

Losses = Callable[[Tensor], Float[Tensor, " n"]]
"""Maps logits to one number per example."""

Reduction = Literal["mean", "sum"]
"""How the losses of an example's tokens are combined."""


@dataclass(frozen=True)
class TokenTerms:
    """A loss that follows from the losses of single tokens, so that no position needs the others' logits."""

    target: Int[Tensor, "n u"]  # the token that each position predicts
    counted: Bool[Tensor, "n u"]  # the positions whose loss is needed; the others' is 0
    combine: Callable[[Float[Tensor, "n u"]], Float[Tensor, " n"]]  # losses of tokens to losses of examples
    uniform: Float[Tensor, "n u"] | None = (
        None  # numbers that sample labels in place of the target; None for the target
    )


class Objective(ABC):
    """The loss of a batch as a function of the model's logits: one number per example."""

    @abstractmethod
    def losses(self, logits: Tensor) -> Float[Tensor, " n"]:
        """Loss of each example."""

    @abstractmethod
    def sampled(self, logits: Tensor, uniform: Float[Tensor, "n t"]) -> Float[Tensor, " n"]:
        """Loss of each example with labels sampled from the logits, by one uniform number per position."""

    @property
    @abstractmethod
    def count(self) -> float:
        """The number by which a Trainer divides the sum of the losses."""

    @property
    def predictions(self) -> tuple[Int[Tensor, "n u"], Float[Tensor, "n u"]] | None:
        """The token that each output position predicts, and its weight; None if no tokens are predicted."""
        return None

    def weighed(self, losses: Float[np.ndarray, " n"]) -> tuple[Int[Tensor, "n u"], Float[Tensor, "n u"]] | None:
        """The predicted tokens with their weights at these losses: what a token's loss adds to an example's."""
        return self.predictions

    def terms(self, uniform: Float[Tensor, "n t"] | None = None) -> TokenTerms | None:
        """The loss by tokens, with sampled labels if numbers are given; None if it is no function of their losses."""
        return None

    def logits(self, logits: Tensor) -> Float[Tensor, " n"]:
        """Minus the logit of each example's label."""
        raise InputError("measure=logit is for classifiers, and this run predicts no labels: use measure=loss")


@dataclass(frozen=True)
class TokenLoss(Objective):
    """Cross-entropy of the tokens that the output positions predict."""

    target: Int[Tensor, "n u"]  # the token that each position predicts
    counted: Bool[Tensor, "n u"]  # which positions count
    reduction: Reduction = "mean"  # mean or sum over the counted positions

    @property
    def weight(self) -> Float[Tensor, "n u"]:
        """Weight of each position in the loss; all NaN for an example without counted positions."""
        counted = self.counted.float()
        total = counted.sum(1, keepdim=True)
        scale = total if self.reduction == "mean" else (total > 0).float()
        return counted / torch.where(scale > 0, scale, torch.nan)

    @property
    def count(self) -> float:
        return float(self.counted.sum())

    @property
    def predictions(self) -> tuple[Int[Tensor, "n u"], Float[Tensor, "n u"]]:
        return self.target, self.weight

    def terms(self, uniform: Float[Tensor, "n t"] | None = None) -> TokenTerms:
        draws = None if uniform is None else uniform[:, : self.target.shape[1]]
        return TokenTerms(self.target, self.weight.nan_to_num() != 0, self._combine, draws)

    def losses(self, logits: Tensor) -> Float[Tensor, " n"]:
        return self._combine(self.each(logits))

    def sampled(self, logits: Tensor, uniform: Float[Tensor, "n t"]) -> Float[Tensor, " n"]:
        return self._weighed(logits, sample_labels(logits, uniform[:, : logits.shape[1]]))

    def each(self, logits: Tensor) -> Float[Tensor, "n u"]:
        """Loss at each position, also where none counts."""
        return functional.cross_entropy(logits.transpose(1, 2), self.target, reduction="none")

    def _weighed(self, logits: Tensor, target: Int[Tensor, "n u"]) -> Float[Tensor, " n"]:
        return self._combine(functional.cross_entropy(logits.transpose(1, 2), target, reduction="none"))

    def _combine(self, token: Float[Tensor, "n u"]) -> Float[Tensor, " n"]:
        return (token * self.weight).sum(1)


@dataclass(frozen=True)
class Task(ABC):
    """Everything that depends on the task head of a model."""

    kind: ClassVar[str]
    """Name in plans."""
    heads: ClassVar[str]
    """The model classes of this task, as error messages name them."""
    auto_class: ClassVar[str]
    """The transformers class that loads such a model."""
    adapter_type: ClassVar[str | None] = None
    """PEFT's task type; None if adapters are not supported."""
    decodes: ClassVar[bool] = False
    """Whether a decoder reads the target: two word tables, two sides of every example."""
    replays: ClassVar[bool] = False
    """Whether a recorded training can be replayed."""
    masks: ClassVar[bool] = False
    """Whether tokens are masked and must be predicted."""
    chats: ClassVar[bool] = False
    """Whether conversations and rows of tokens are read."""
    pairing: ClassVar[Pairing | None] = None
    """What counts of rows that are pairs of answers; None where rows are no pairs."""
    judged: ClassVar[bool] = False
    """Whether rows are single judged answers."""
    refers: ClassVar[bool] = False
    """Whether the loss of judged answers reads log-probabilities under the model that training began with."""
    trainer: ClassVar[str] = "sft"
    """TRL's tag for the trainer of chat data whose settings hold."""
    predicts_tokens: ClassVar[bool] = True
    """Whether the outputs are scores of tokens."""
    answers: ClassVar[bool] = False
    """Whether the loss reads an answer that is neither a class nor a token."""
    answers_by_token: ClassVar[bool] = False
    """Whether such an answer has one number for each token."""
    needs_pad: ClassVar[bool] = False
    """Whether the model finds its last token by a pad id; without the id, no batch may be padded."""

    labels: Labels = NO_LABELS  # classes in the order of the outputs; empty for a language model
    # first token that a decoder reads; None for the last token of its target, or without a decoder
    start: int | None = None
    outputs: int = 0  # width of the head, where it has no classes
    # folder or name of the model that training began with, where the loss reads it; None for an adapter's base
    reference: str | None = None

    @property
    def predicts(self) -> Literal["labels", "tokens", "next tokens", "pairs"]:
        """What the outputs are compared with, as plans name it; labels are classes and values."""
        if self.pairing is not None:
            return "pairs"
        if self.answers or not self.predicts_tokens:
            return "labels"
        return "next tokens" if self.chats else "tokens"

    @property
    def settings(self) -> str:
        """What the loss depends on beside the model, in one line; empty where it depends on nothing else."""
        return ""

    @property
    def sharing(self) -> int:
        """The rows of a batch, in the order of the training, where they share a part of the loss; 0 where none do."""
        return 0

    @classmethod
    @abstractmethod
    def recognises(cls, architecture: str, config: Any) -> bool:
        """Whether a model's class has this head."""

    @classmethod
    def fits(cls, config: Any) -> bool:
        """Whether the configuration is of this task, among those with one class of model."""
        return True

    @classmethod
    def of(cls, architecture: str, config: Any) -> "Task":
        """Create the task from a model's configuration."""
        return cls()

    @classmethod
    def fit_adapter(cls, config: Any, outputs: Callable[[], int]) -> None:
        """Complete a base model's configuration with facts of its adapter; `outputs` returns the width of its head."""

    @classmethod
    def trained(cls, task: "Task", homes: Sequence[Path], base: str | None) -> "Task | None":
        """This task in place of another with the same head, if the files of a run say that it was trained so."""
        return None

    def named(self, names: Sequence[str]) -> "Task":
        """This task with the names that a data set gives to its classes, if the model has only default names."""
        for part in ("labels", "names"):
            held: Labels = getattr(self, part, NO_LABELS)
            if held.default and len(held) == len(names):
                twice = next((name for at, name in enumerate(names) if name in names[:at]), None)
                if twice is not None:
                    raise InputError(
                        f"the data gives two classes one name, {twice!r}: a label would mean either; give each class a "
                        "name of its own (ClassLabel), and build an index of such data again"
                    )
                return replace(self, **{part: Labels(tuple(names))})
        return self

    def refuse_training(self, folder: Path, checkpoints: Sequence[Path]) -> None:
        """Refuse a run that was trained with another loss."""
        refuse_smoothing(folder, checkpoints)

    def refuse_tokenizer(self, folder: Path, tokenizer: Any) -> None:
        """Refuse a tokenizer that lacks what the head needs."""

    def least_tokens(self, tokenizer: Any) -> int:
        """Return the number of tokens of the shortest text, including special tokens."""
        return int(tokenizer.num_special_tokens_to_add(pair=False)) + 1

    @abstractmethod
    def text(self, example: Example, tokenizer: Any) -> str | tuple[str, str]:
        """Return the tokenizer's input for an example; refuse parts that the head does not read."""

    def count(self, one: Aligned, example: Example, tokenizer: Any, masks: Masks) -> Aligned:
        """Determine which tokens count, and which part of the example each token belongs to."""
        return one

    def predict(self, one: Encoded, tokenizer: Any, pad: int) -> Encoded:
        """Add the predicted tokens, if they differ from the input."""
        return one

    @abstractmethod
    def objective(self, batch: Batch, reduction: Reduction = "mean", against: Sequence[int] | None = None) -> Objective:
        """The loss of a batch, or the contrast with other labels."""

    def probabilities(self, logits: Tensor) -> Float[Tensor, "n l"] | None:
        """Return the predicted class probabilities; None if no classes are predicted."""
        return None

    def label_numbers(self, examples: Iterable[Example], source: str) -> list[int]:
        """Return the class number of every training row; -1 for all rows without classes."""
        return [-1 for _ in examples]

    def figures(self, example: Example) -> Float[np.ndarray, " m"]:
        """The numbers of judged answers that the loss reads; NaN for one that a model must give."""
        raise NotImplementedError

    def stored(self, example: Example) -> str | None:
        """The label of a training example as an index keeps it, where it is no class; None to keep none."""
        return None

    def answer(self, example: Example, one: Aligned, tokenizer: Any) -> Float[np.ndarray, " m"]:
        """The answer that the loss reads, as numbers; NaN where a question gives none."""
        raise NotImplementedError

    def predicted(self, logits: Tensor, one: Encoded) -> Float[np.ndarray, " m"]:
        """The model's own answer to one example."""
        raise NotImplementedError

    def completed(self, answer: Float[np.ndarray, " m"], predicted: Float[np.ndarray, " m"]) -> Float[np.ndarray, " m"]:
        """The answer of a question, with the model's own in place of a missing one."""
        return np.where(np.isnan(answer), predicted, answer)

    def spoken(self, example: Example, answer: Float[np.ndarray, " m"], one: Encoded) -> str:
        """An answer in words."""
        raise NotImplementedError

    def chances(self, logits: Tensor) -> Mapping[str, float] | None:
        """The probability of each part of an answer, for people."""
        return None

    def notes(self, masks: Masks) -> list[str]:
        """Return notes for an index of such a model."""
        return []


def logits_of(output: Any) -> Tensor:
    """The scores that a model gives, in 32 bits or more; of question answering, those of both ends of an answer."""
    found = getattr(output, "logits", None)
    return in_full(torch.stack([output.start_logits, output.end_logits], -1) if found is None else found)


def one_text(example: Example) -> str:
    """Refuse a second text, since a language model reads only one."""
    if example.text_pair is not None:
        raise InputError(
            f"the example with id {example.id} has a second text, and a language model reads only one text: give the "
            "completion as its target (--target-column), or leave the second text out (--pair-column '')"
        )
    return example.text


def sample_labels(logits: Float[Tensor, "*n l"], uniform: Float[Tensor, "*n"]) -> Int[Tensor, "*n"]:
    """Sample classes."""
    with torch.no_grad():
        cumulated = torch.softmax(logits.detach().float(), -1).cumsum(-1)
        found = torch.searchsorted(cumulated, (uniform.float() * cumulated[..., -1])[..., None], right=True)
    return found[..., 0].clamp(max=logits.shape[-1] - 1)
