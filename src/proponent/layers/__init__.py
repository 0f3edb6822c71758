"""Layers of a model: which ones a recipe scores, and how hooks see each one's gradient in factors."""

from proponent.layers.choice import GROUPS, Choice, choose
from proponent.layers.parts import (
    Lookup,
    classifier_head,
    embedding_scale,
    input_embedding,
    is_tied,
    lookups,
    table_shape,
    vocabulary_head,
    word_tables,
)
from proponent.layers.rules import Block, OneHot
from proponent.layers.taps import Call, Spoken, Taps, UnbatchedError
from proponent.layers.trial import Order

__all__ = [
    "GROUPS",
    "Block",
    "Call",
    "Choice",
    "Lookup",
    "OneHot",
    "Order",
    "Spoken",
    "Taps",
    "UnbatchedError",
    "choose",
    "classifier_head",
    "embedding_scale",
    "input_embedding",
    "is_tied",
    "lookups",
    "table_shape",
    "vocabulary_head",
    "word_tables",
]
