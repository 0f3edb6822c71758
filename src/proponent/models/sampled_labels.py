"""Labels sampled from the model's own probabilities, as a Fisher matrix needs them (Kunstner et al. 2019).

The draw of an example depends only on a seed and its own tokens, not on its batch or the rest of the data set. It
applies the inverse of the cumulative probabilities to one uniform number per prediction.
"""

from dataclasses import dataclass

import numpy as np
import torch
import xxhash
from jaxtyping import Float
from torch import Tensor

from proponent.models.batch import Batch
from proponent.models.placement import host, hosts
from proponent.models.tasks.base import Losses, Objective, TokenTerms, sample_labels

__all__ = ["SampledLabels", "sample_labels"]


@dataclass(frozen=True)
class SampledLabels:
    """Labels sampled from the model."""

    seed: int  # seed of the draw

    def losses(self, batch: Batch, objective: Objective) -> Losses:
        """Replace the labels of an objective by sampled labels."""
        uniform = self._uniform(batch)
        return lambda logits: objective.sampled(logits, uniform)

    def terms(self, batch: Batch, objective: Objective) -> TokenTerms | None:
        """The loss by tokens with sampled labels."""
        return objective.terms(self._uniform(batch))

    def _uniform(self, batch: Batch) -> Float[Tensor, "n t"]:
        """One number per position; an example's numbers do not depend on its padding."""
        width = batch.counted.shape[1]
        found = np.empty((len(batch.ids), width))
        read = batch.inputs.get("decoder_input_ids")
        for row, (ids, mask) in enumerate(zip(*hosts([batch.ids, batch.mask]), strict=True)):
            tokens = ids[mask > 0]
            if read is not None and batch.decoder is not None:
                tokens = np.concatenate([tokens, host(read[row][batch.decoder.mask[row]])])
            own = xxhash.xxh3_64_intdigest(tokens.astype("<i8").tobytes())
            found[row] = np.random.default_rng([self.seed, own]).random(width)
        return torch.as_tensor(found).to(batch.ids.device)
