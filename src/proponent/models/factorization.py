"""Small models of facts, ratings and words that Gradient Rollback is made for: every example touches few rows.

    distmult   a fact (head, relation, tail): sum_j h_j r_j t_j for every possible tail
    complex    the same with complex numbers: Re <h, r, conj(t)>
    product    a rating (user, item): the product of two rows, plus the mean rating
    bag        a text classifier: the mean of the word rows, then a linear head

A fact is a pair of texts (head and relation) whose class is the tail, so that it is a `Run` like any other: every
method that reads word embeddings explains it. Sources: Yang et al. 2015 (arXiv 1412.6575), Trouillon et al. 2016
(arXiv 1606.06357).
"""

from collections.abc import Sequence
from typing import Any, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from proponent.errors import InputError
from proponent.hub import Kind
from proponent.models.huggingface import transformers
from proponent.models.tasks import Classification, Regression

FACTS = ("distmult", "complex")
"""The kinds whose classes are tokens as well: entities."""

SPECIAL = ("[PAD]", "[UNK]")
"""Tokens before the names."""
_Hidden: Any = cast("Any", transformers).modeling_outputs.BaseModelOutput
_Output: Any = cast("Any", transformers).modeling_outputs.SequenceClassifierOutput


class FactorizationConfig(transformers.PretrainedConfig):
    """Settings of such a model; the tokens after the special ones are its classes, in order, where it has facts."""

    model_type = "proponent-factorization"

    def __init__(
        self,
        vocab_size: int = 8,
        hidden_size: int = 10,
        factorization: Kind = "distmult",
        offset: float = 0.0,
        initializer_range: float = 0.3,
        **others: object,
    ) -> None:
        """Take the settings.

        Args:
            vocab_size: rows of the table.
            hidden_size: width of a row; for complex numbers twice their number.
            factorization: which of the models.
            offset: what is added to a product, such as the mean rating.
            initializer_range: standard deviation of fresh weights.
            others: settings of every model of transformers.
        """
        self.vocab_size, self.hidden_size, self.factorization = vocab_size, hidden_size, factorization
        self.offset, self.initializer_range = offset, initializer_range
        others.setdefault("pad_token_id", 0)
        cast("Any", super()).__init__(**others)


class FactorizationModel(transformers.PreTrainedModel):
    """The table alone: a row for each token."""

    config_class = FactorizationConfig
    base_model_prefix = "model"

    def __init__(self, config: Any) -> None:
        """Make a table with fresh rows."""
        cast("Any", super()).__init__(config)
        self.words = nn.Embedding(config.vocab_size, config.hidden_size)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Embedding | nn.Linear):
            nn.init.normal_(module.weight, std=self.config.initializer_range)
        if isinstance(module, nn.Linear):
            nn.init.zeros_(module.bias)

    def get_input_embeddings(self) -> nn.Module:
        """The table."""
        return self.words

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the table."""
        self.words = cast("nn.Embedding", value)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,  # noqa: ARG002
        inputs_embeds: Tensor | None = None,
        **_: Any,
    ) -> Any:
        """Rows of the tokens [n t d]."""
        return _Hidden(last_hidden_state=self.words(input_ids) if inputs_embeds is None else inputs_embeds)


class FactorizationForSequenceClassification(FactorizationModel):
    """One table of rows, for words, users, items, entities and relations alike, with what is predicted from them."""

    def __init__(self, config: Any) -> None:
        """Make a model with fresh weights."""
        cast("Any", transformers.PreTrainedModel).__init__(self, config)
        self.model = FactorizationModel(config)
        bag = config.factorization == "bag"
        self.classifier = nn.Linear(config.hidden_size, int(config.num_labels or 0)) if bag else None
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """The table."""
        return self.model.words

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the table."""
        self.model.words = cast("nn.Embedding", value)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        **_: Any,
    ) -> Any:
        """Logits of every class [n l], or a number [n 1]."""
        rows = self.model(input_ids, inputs_embeds=inputs_embeds).last_hidden_state
        if self.classifier is not None:
            mask = torch.ones(rows.shape[:2], device=rows.device) if attention_mask is None else attention_mask
            weight = mask.to(rows.dtype)[..., None]
            return _Output(logits=self.classifier((rows * weight).sum(1) / weight.sum(1).clamp(min=1.0)))
        if rows.shape[1] != 2:
            raise InputError(
                f"this {self.config.factorization} model reads two names ({self._names}), and the example has "
                f"{rows.shape[1]} token(s): name both columns (--text-column, --pair-column)"
            )
        if self.config.factorization == "product":
            return _Output(logits=(rows[:, 0] * rows[:, 1]).sum(-1, keepdim=True) + self.config.offset)
        return _Output(logits=self.against(rows) @ self.model.words.weight[self._classes].T)

    def of_classes(self, ids: Int[Tensor, "n 2"], classes: Int[Tensor, "n c"]) -> Float[Tensor, "n c"]:
        """Logits of some classes only."""
        tails = self.model.words(classes + len(SPECIAL))
        return (self.against(self.model.words(ids))[:, None] * tails).sum(-1)

    def against(self, rows: Float[Tensor, "n 2 d"]) -> Float[Tensor, "n d"]:
        """The vector whose product with a tail's row is the logit."""
        head, relation = rows[:, 0], rows[:, 1]
        if self.config.factorization == "distmult":
            return head * relation
        (a, b), (c, d) = head.chunk(2, -1), relation.chunk(2, -1)
        return torch.cat([a * c - b * d, a * d + b * c], -1)

    @property
    def _classes(self) -> slice:
        return slice(len(SPECIAL), len(SPECIAL) + int(self.config.num_labels or 0))

    @property
    def _names(self) -> str:
        return "user and item" if self.config.factorization == "product" else "head and relation"


def class_token(config: Any, label: int) -> int | None:
    """The token that is a class; None where classes are no tokens."""
    kind = getattr(config, "factorization", None)
    return label + len(SPECIAL) if kind in FACTS and label >= 0 else None


def factorization(
    kind: Kind,
    tokenizer: Any,
    labels: Sequence[str] | None,
    width: int,
    *,
    offset: float = 0.0,
) -> Any:
    """Create a model with fresh weights; without labels it predicts a number."""
    named: dict[str, Any] = {"num_labels": 1, "problem_type": Regression.kind}
    if labels is not None:
        numbers = {name: number for number, name in enumerate(labels)}
        named = {
            "id2label": dict(enumerate(labels)),
            "label2id": numbers,
            "problem_type": "single_label_classification",
        }
    config = FactorizationConfig(
        vocab_size=len(tokenizer),
        hidden_size=2 * width if kind == "complex" else width,
        factorization=kind,
        offset=offset,
        initializer_range=width**-0.5,
        **named,
    )
    return FactorizationForSequenceClassification(config)


def register() -> None:
    """Make the loaders of transformers know these models."""
    cast("Any", transformers.AutoConfig).register(FactorizationConfig.model_type, FactorizationConfig, exist_ok=True)
    getattr(transformers, Classification.auto_class).register(
        FactorizationConfig, FactorizationForSequenceClassification, exist_ok=True
    )
