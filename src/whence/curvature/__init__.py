"""What is known of the loss surface turns gradients: second moments, inverse Gauss-Newton matrices and their kin."""

from whence.curvature.adam import MeanSquares, SecondMoment
from whence.curvature.head import fitted_head, ggn
from whence.curvature.kronecker import Kronecker
from whence.curvature.matrices import Damping, Moments, damped_inverse, inverse_root, shrunk_identity

__all__ = [
    "Damping",
    "Kronecker",
    "MeanSquares",
    "Moments",
    "SecondMoment",
    "damped_inverse",
    "fitted_head",
    "ggn",
    "inverse_root",
    "shrunk_identity",
]
