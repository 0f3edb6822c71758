"""The exact Gauss-Newton matrix of a classifier's head, which equals the head's Hessian."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from proponent.errors import InputError
from proponent.method_parts import GaussNewton
from proponent.preconditioners.base import BuildOptions, ModelFacts, Pass
from proponent.preconditioners.batches import EACH, Arrays, Batch, LayerShape, Parts, StoredBatch, Sums
from proponent.preconditioners.damped import DampedFitter, refuse_large


class Fitter(DampedFitter[GaussNewton]):
    """The damped inverse of the head's Hessian."""

    # The gradient of the head is (p - y) a^T, so its inputs a are recovered from stored gradients.

    def check(self, facts: ModelFacts) -> None:
        """Refuse every layer other than a classifier's head stored in full."""
        for layer in facts.layers:
            refuse_large([layer])
            if layer.o != facts.classes or not layer.full:
                raise self._no_head(layer)

    def _no_head(self, layer: LayerShape) -> InputError:
        return InputError(
            f"{self.method.name} needs the exact Hessian of a classifier's head, stored in full: {layer.name} is not "
            "such a layer (choose ekfac or trackstar for other layers)"
        )

    def passes(self, options: BuildOptions) -> tuple[Pass, ...]:
        """The training gradients."""
        return (Pass("signals", "gradients", "after"),)

    def partial(self, this: Pass, batch: Batch, known: Arrays, group: Sequence[LayerShape]) -> Parts:
        """The head's inputs and its predictions, example by example."""
        assert isinstance(batch, StoredBatch)
        for layer in group:
            every = batch.probabilities
            if every is None or every.shape[1] != layer.o or not layer.full:
                raise self._no_head(layer)
            p = every[batch.alive].astype(np.float64)
            signal = p - np.eye(layer.o)[batch.labels[batch.alive]]
            g = batch.vectors[:, layer.cut].astype(np.float64).reshape(len(p), layer.o, layer.i)
            inputs = np.einsum("no,noi->ni", signal, g) / np.maximum((signal**2).sum(1), 1e-30)[:, None]
            yield f"{EACH}inputs.{layer.at}", inputs
            yield f"{EACH}predicted.{layer.at}", p

    def reduce(self, this: Pass, sums: Sums, known: Arrays, group: Sequence[LayerShape]) -> Arrays:
        """Invert the Hessian of each layer."""
        made: Sums = {}
        for layer in group:
            hessian = ggn(sums[f"{EACH}inputs.{layer.at}"], sums[f"{EACH}predicted.{layer.at}"])
            made |= self.matrix(hessian, layer)
        return made

    def held(self, this: Pass, layer: LayerShape) -> int:
        """Bytes of a layer's matrix."""
        return 8 * layer.size**2


def ggn(a: Float[np.ndarray, "n i"], p: Float[np.ndarray, "n l"]) -> Float[np.ndarray, "x x"]:
    """Gauss-Newton matrix of softmax cross-entropy for the weight of a linear layer, where it equals the Hessian."""
    # H = (1/n) sum (diag(p) - p p^T) (x) a a^T, row by row of the weight.
    n, i = a.shape
    classes = p.shape[1]
    blocks = np.empty((classes, i, classes, i))
    for one in range(classes):
        for other in range(one, classes):
            weight = p[:, one] * ((one == other) - p[:, other])
            blocks[one, :, other] = (a * weight[:, None]).T @ a / n
            blocks[other, :, one] = blocks[one, :, other].T
    return blocks.reshape(classes * i, classes * i)
