"""The convolutional text classifier of the TracIn-WE experiments, as a plain module and as a retrainable problem.

Embedding -> convolution of width 5 -> convolution of width 5 -> convolution of width 1, each with ReLU -> maximum
over the positions -> linear layer. Texts are padded to one length, and the padding is not masked: it counts
as a word, as in the original.
"""

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Float, Int, UInt64
from torch import Tensor, nn
from torch.nn import functional

from proponent.evaluate import Outputs


class TextCnn(nn.Module):
    """The classifier; it answers as a model of transformers does, so that the capture takes it.

    Args:
        vocabulary: rows of the embedding.
        labels: classes.
        width: of the embedding.
        filters: of each convolution.
    """

    def __init__(self, vocabulary: int, labels: int, width: int = 128, filters: int = 50) -> None:
        super().__init__()
        self.config = SimpleNamespace(num_labels=labels)
        self.embedding = nn.Embedding(vocabulary, width)
        self.first = nn.Conv1d(width, filters, 5)
        self.second = nn.Conv1d(filters, filters, 5)
        self.third = nn.Conv1d(filters, filters, 1)
        self.classifier = nn.Linear(filters, labels)

    def get_input_embeddings(self) -> nn.Embedding:
        """The word embedding."""
        return self.embedding

    def get_output_embeddings(self) -> None:
        """There is no vocabulary head."""
        return

    def forward(self, input_ids: Int[Tensor, "n t"], attention_mask: Tensor | None = None) -> SimpleNamespace:
        """Classify."""
        del attention_mask
        hidden = self.embedding(input_ids).transpose(1, 2)
        for layer in (self.first, self.second, self.third):
            hidden = functional.relu(layer(hidden))
        return SimpleNamespace(logits=self.classifier(hidden.amax(2)))


@dataclass(frozen=True)
class CnnProblem:
    """The classifier with its data.

    Attributes:
        ids: tokens of the training set, padded.
        labels: its classes.
        query_ids: tokens of the queries, padded.
        query_labels: their true classes.
        hashes: of the ids of the training set.
        vocabulary: rows of the embedding.
        classes: number of labels.
        data: names data and queries in the identity, such as by their fingerprints.
        width: of the embedding.
        filters: of each convolution.
    """

    ids: Int[np.ndarray, "n t"]
    labels: Int[np.ndarray, " n"]
    query_ids: Int[np.ndarray, "q t"]
    query_labels: Int[np.ndarray, " q"]
    hashes: UInt64[np.ndarray, " n"]
    vocabulary: int
    classes: int
    data: str
    width: int = 64
    filters: int = 50

    @property
    def identity(self) -> str:
        """Model, data and queries, as text."""
        shape = f"{self.vocabulary} x {self.width}, {self.filters} filters, {self.classes} classes"
        return f"text CNN 1, {shape}, {self.ids.shape[1]} tokens\n{self.data}"

    def fresh(self, seed: int) -> TextCnn:
        """A model with its initial weights."""
        cast("Any", torch).manual_seed(seed)
        return TextCnn(self.vocabulary, self.classes, self.width, self.filters).train()

    def losses(self, model: nn.Module, rows: Int[np.ndarray, " m"]) -> Float[Tensor, " m"]:
        """Loss of each of some training examples."""
        logits = model(torch.as_tensor(self.ids[rows])).logits
        return functional.cross_entropy(logits, torch.as_tensor(self.labels[rows]), reduction="none")

    def outputs(self, model: nn.Module) -> Outputs:
        """Outputs on the queries."""
        with torch.inference_mode():
            logits = model(torch.as_tensor(self.query_ids)).logits
        return Outputs.of_logits(logits.double().numpy(), self.query_labels)
