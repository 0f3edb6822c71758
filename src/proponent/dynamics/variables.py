"""What the derivative is taken by, and where its parts are gathered."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from proponent.dynamics.optimizer import OptimizerState


@dataclass(frozen=True)
class Variables:
    """One step's variables."""

    state: OptimizerState
    parameters: Float[Tensor, " p"]  # a leaf
    weight: Float[Tensor, " b"]  # of each example, 1
    factors: Float[Tensor, "b t"]  # of each token's embedding output, 1

    @classmethod
    def of(cls, state: OptimizerState, rows: int, longest: int) -> "Variables":
        """Make the leaves of one step."""
        parameters = state.parameters.detach().requires_grad_()
        ones = torch.ones(rows, longest, dtype=parameters.dtype)
        return cls(state, parameters, ones[:, 0].clone().requires_grad_(), ones.requires_grad_())


class ScoreSums:
    """Scores of examples and tokens, summed over the steps."""

    def __init__(self, queries: int, lengths: Sequence[int]) -> None:
        self.indptr: Int[np.ndarray, " n1"] = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
        self.scores: Float[np.ndarray, "q n"] = np.zeros((queries, len(lengths)))
        self.tokens: Float[np.ndarray, "q m"] = np.zeros((queries, int(self.indptr[-1])))

    def add(
        self, query: int, rows: Int[np.ndarray, " b"], weight: Float[Tensor, " b"], factors: Float[Tensor, "b t"]
    ) -> None:
        """Add one step's part."""
        np.subtract.at(self.scores[query], rows, weight.double().numpy())
        values = factors.double().numpy()
        for place, row in enumerate(rows):
            begin, end = int(self.indptr[row]), int(self.indptr[row + 1])
            self.tokens[query, begin:end] -= values[place, : end - begin]
