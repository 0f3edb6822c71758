"""Labels drawn from the model's own probabilities: what a Fisher matrix is made of (Kunstner et al. 2019).

The draw of an example depends on a seed and its own tokens only, not on its batch or the rest of the data set. One
uniform number per prediction is put into the inverse of the cumulated probabilities.
"""

from dataclasses import dataclass

import numpy as np
import torch
import xxhash
from jaxtyping import Float
from torch import Tensor

from proponent.models.batch import Batch
from proponent.models.tasks.base import Losses, Objective, sample_labels

__all__ = ["SampledLabels", "sample_labels"]


@dataclass(frozen=True)
class SampledLabels:
    """Labels that the model itself gives."""

    seed: int  # of the draw

    def losses(self, batch: Batch, objective: Objective) -> Losses:
        """Put drawn labels in the place of those of an objective."""
        uniform = self._uniform(batch)
        return lambda logits: objective.sampled(logits, uniform)

    def _uniform(self, batch: Batch) -> Float[Tensor, "n t"]:
        """One number per place; those of an example are the same however far it is padded."""
        width = batch.counted.shape[1]
        found = np.empty((len(batch.ids), width))
        read = batch.inputs.get("decoder_input_ids")
        for row, (ids, mask) in enumerate(zip(batch.ids.numpy(), batch.mask.numpy(), strict=True)):
            tokens = ids[mask > 0]
            if read is not None and batch.decoder is not None:
                tokens = np.concatenate([tokens, read[row][batch.decoder.mask[row]].numpy()])
            own = xxhash.xxh3_64_intdigest(tokens.astype("<i8").tobytes())
            found[row] = np.random.default_rng([self.seed, own]).random(width)
        return torch.as_tensor(found)
