"""Per-example gradients: their forms, the layers they belong to, hooks, and projection.

Rows       word embedding: one row per token (and word) of the example; everything else is zero
Outer      linear layer: sum over positions of g a^T, never formed
HeadOuter  the vocabulary head: an Outer whose g = weight (softmax(a W^T + b) - onehot(target)) is recomputed on demand
           from the head's table, because it is as wide as the vocabulary
Dense      many layers as one vector per example, in full (small models) or projected

Examples are concatenated; `indptr` [n+1] says where each begins. Products are exact; those of all forms but `Dense`
split exactly into word x word `terms`.
"""
