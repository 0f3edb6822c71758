"""A vocabulary head's gradient at the rows of a text's own tokens, so that a shared table stays sparse."""

import numpy as np
from jaxtyping import Float
from torch import Tensor

from proponent.gradients.forms import Rows
from proponent.gradients.vocabulary_head import HeadOuter


def head_rows(head: HeadOuter, logits: Float[Tensor, "t v"], positions: Rows) -> Rows:
    """The head's gradient at the row of every token that a text holds or predicts."""
    # a token's part belongs to none of its positions: the words that contain the token share it equally
    made = [
        _of_example(head.example(at), logits[int(head.indptr[at]) : int(head.indptr[at + 1])], positions.example(at))
        for at in range(len(head))
    ]
    indptr = np.concatenate([[0], np.cumsum([len(one.ids) for one in made])])
    columns = ((one.ids, one.words, one.rows) for one in made)
    return Rows(indptr, *(np.concatenate(parts) for parts in zip(*columns, strict=True)))


def _of_example(head: HeadOuter, logits: Float[Tensor, "t v"], positions: Rows) -> Rows:
    pairs = np.concatenate([np.stack([positions.ids, positions.words]), np.stack([head.target, head.words])], axis=1)
    ids, words = np.unique(pairs, axis=1)
    tokens, places, shares = np.unique(ids, return_inverse=True, return_counts=True)
    g = logits.float().softmax(-1)[:, tokens].numpy()
    g -= head.target[:, None] == tokens[None, :]
    g *= head.weight[:, None]
    rows = (g.T @ head.a) / shares[:, None].astype(np.float32)
    return Rows(np.asarray([0, len(ids)]), ids, words, rows[places])
