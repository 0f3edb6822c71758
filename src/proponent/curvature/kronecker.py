"""EK-FAC: the Fisher matrix of a layer in the eigenbasis of its Kronecker factors, with corrected eigenvalues.

George et al. 2018 (arXiv 1806.03884); for influence Grosse et al. 2023 (arXiv 2308.03296). Of a weight W [o i] with
gradients g a^T, the factors are the means of a a^T [i i] and g g^T [o o] over positions; the eigenvalues are the mean
squares of the examples' gradients in the joint eigenbasis. Labels are those of the training set (empirical Fisher), or
drawn from the model's own probabilities.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from proponent.curvature.matrices import Damping
from proponent.errors import InputError


@dataclass(frozen=True)
class EKFAC:
    """Eigenbasis and damped inverse eigenvalues of one layer.

    Attributes:
        left: eigenvectors of the output side, in columns.
        right: eigenvectors of the input side.
        inverse: 1 / (eigenvalue + ridge).
    """

    left: Float[np.ndarray, "o o"]
    right: Float[np.ndarray, "i i"]
    inverse: Float[np.ndarray, "o i"]

    @staticmethod
    def basis(
        lefts: Float[np.ndarray, "o o"], rights: Float[np.ndarray, "i i"]
    ) -> tuple[Float[np.ndarray, "o o"], Float[np.ndarray, "i i"]]:
        """Find the joint eigenbasis."""
        return np.linalg.eigh(lefts)[1], np.linalg.eigh(rights)[1]

    @classmethod
    def of(
        cls,
        left: Float[np.ndarray, "o o"],
        right: Float[np.ndarray, "i i"],
        squares: Float[np.ndarray, "o i"],
        damping: Damping,
        name: str,
    ) -> tuple["EKFAC", float]:
        """Damp and invert the eigenvalues."""
        top = float(squares.max())
        if top <= 0.0:
            return cls(left, right, np.zeros_like(squares)), 0.0
        ridge = damping.ridge(squares.ravel())
        if float(squares.min()) + ridge <= 1e-12 * top:
            raise InputError(
                f"the curvature of layer {name} cannot be inverted (its smallest eigenvalue is {squares.min():.2g}, "
                f"its largest {top:.2g}): add damping, such as --set damping=0.1"
            )
        return cls(left, right, 1.0 / (squares + ridge)), ridge

    def turn(self, v: Float[np.ndarray, "n p"]) -> Float[np.ndarray, "n p"]:
        """Multiply gradients with the inverse."""
        shaped = v.reshape(len(v), *self.inverse.shape)
        inside = self.left.T @ shaped @ self.right
        return (self.left @ (inside * self.inverse) @ self.right.T).reshape(v.shape)
