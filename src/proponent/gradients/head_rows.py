"""A vocabulary head's gradient at the rows of a text's own tokens, so that a shared table stays sparse."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from proponent.gradients.forms import Rows
from proponent.gradients.token_losses import Shares
from proponent.gradients.vocabulary_head import HeadOuter
from proponent.models.batch import Batch
from proponent.models.placement import host, hosts
from proponent.models.tasks.base import Objective


def own_tokens(batch: Batch, objective: Objective) -> list[Int[np.ndarray, " _"]]:
    """The distinct tokens that each example of a batch holds or predicts."""
    assert objective.predictions is not None
    target, weight = objective.predictions
    tensors = [batch.ids, batch.mask.bool(), target, weight.nan_to_num() != 0]
    if batch.decoder is not None:
        tensors += [batch.inputs["decoder_input_ids"], batch.decoder.mask]
    found = hosts(tensors)
    sides = list(zip(found[::2], found[1::2], strict=True))
    rows = range(len(batch.ids))
    return [np.unique(np.concatenate([ids[row][kept[row]] for ids, kept in sides])) for row in rows]


def shares_of(
    logits: Float[Tensor, "n u v"], counted: Bool[Tensor, "n u"], wanted: Sequence[Int[np.ndarray, " _"]]
) -> Shares:
    """Probabilities of the wanted tokens of each example at its counted positions, from all logits."""
    return [
        host(own[kept].float().softmax(-1)[:, torch.as_tensor(tokens, device=own.device)])
        for own, kept, tokens in zip(logits, counted, wanted, strict=True)
    ]


def head_rows(head: HeadOuter, shares: Shares, wanted: Sequence[Int[np.ndarray, " _"]], positions: Rows) -> Rows:
    """The head's gradient at the row of every token that a text holds or predicts."""
    # a token's part belongs to none of its positions: the words that contain the token share it equally
    made = [_of_example(head.example(at), shares[at], wanted[at], positions.example(at)) for at in range(len(head))]
    indptr = np.concatenate([[0], np.cumsum([len(one.ids) for one in made])])
    columns = ((one.ids, one.words, one.rows) for one in made)
    return Rows(indptr, *(np.concatenate(parts) for parts in zip(*columns, strict=True)))


def _of_example(
    head: HeadOuter, shares: Float[np.ndarray, "t w"], wanted: Int[np.ndarray, " w"], positions: Rows
) -> Rows:
    pairs = np.concatenate([np.stack([positions.ids, positions.words]), np.stack([head.target, head.words])], axis=1)
    ids, words = np.unique(pairs, axis=1)
    tokens, places, counts = np.unique(ids, return_inverse=True, return_counts=True)
    g = shares[:, np.searchsorted(wanted, tokens)]
    g -= head.target[:, None] == tokens[None, :]
    g *= head.weight[:, None]
    rows = (g.T @ head.a) / counts[:, None].astype(np.float32)
    return Rows(np.asarray([0, len(ids)]), ids, words, rows[places])
