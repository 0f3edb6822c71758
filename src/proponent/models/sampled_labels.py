"""Labels drawn from the model's own probabilities: what a Fisher matrix is made of (Kunstner et al. 2019).

The draw of an example hangs on a seed and its own tokens, neither on its batch nor on the rest of the data set. One
uniform number per prediction is put into the inverse of the cumulated probabilities.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import xxhash
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from proponent.models.batch import Batch
from proponent.models.task import CausalLM, Classification, Tokens, weighed


@dataclass(frozen=True)
class SampledLabels:
    """Labels that the model itself gives.

    Attributes:
        seed: of the draw.
    """

    seed: int

    def losses(self, batch: Batch, task: Classification | CausalLM | Tokens) -> Callable[[Tensor], Float[Tensor, " n"]]:
        """Put drawn labels in the place of those of a task."""
        uniform = self._uniform(batch)

        def losses(logits: Tensor) -> Float[Tensor, " n"]:
            if isinstance(task, Classification):
                return functional.cross_entropy(logits, sample_labels(logits, uniform[:, 0]), reduction="none")
            return weighed(logits, sample_labels(logits, uniform[:, : logits.shape[1]]), task.weight)

        return losses

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


def sample_labels(logits: Float[Tensor, "*n l"], uniform: Float[Tensor, "*n"]) -> Int[Tensor, "*n"]:
    """Draw classes."""
    with torch.no_grad():
        cumulated = torch.softmax(logits.detach().float(), -1).cumsum(-1)
        found = torch.searchsorted(cumulated, (uniform.float() * cumulated[..., -1])[..., None], right=True)
    return found[..., 0].clamp(max=logits.shape[-1] - 1)
