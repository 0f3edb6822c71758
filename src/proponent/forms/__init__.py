"""Form: one example's gradient in its cheapest exact shape, for a batch of examples at once.

Rows       word embedding: one row per token (and word) of the example; everything else is zero
Outer      linear layer: sum over positions of g a^T, never formed
HeadOuter  the vocabulary head: an Outer whose g = weight (softmax(a W^T + b) - onehot(target)) is made again on demand
           from the head's table, because it is as wide as the vocabulary
Dense      many layers as one vector per example, in full (small models) or projected

Examples lie one after another; `indptr` [n+1] says where each begins. Products are exact; those of all but `Dense`
split exactly into word x word `terms`.
"""

from proponent.forms.gradient import Gradient
from proponent.forms.head import Head, HeadOuter, cross_terms
from proponent.forms.ragged import Dense, Outer, Ragged, Rows, Terms, gather

__all__ = ["Dense", "Gradient", "Head", "HeadOuter", "Outer", "Ragged", "Rows", "Terms", "cross_terms", "gather"]
