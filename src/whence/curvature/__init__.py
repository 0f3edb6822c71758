"""What is known of the loss surface turns gradients: second moments, inverse Gauss-Newton matrices and their kin."""

from whence.curvature.adam import MeanSquares, SecondMoment
from whence.curvature.head import fitted_head, ggn
from whence.curvature.hessian import Hessian
from whence.curvature.kronecker import Kronecker
from whence.curvature.matrices import Damping, Moments, Shrinking, damped_inverse, inverse_root, shrunk_identity
from whence.curvature.solvers import Solved, conjugate_gradient, lissa, top_eigenvalue

__all__ = [
    "Damping",
    "Hessian",
    "Kronecker",
    "MeanSquares",
    "Moments",
    "SecondMoment",
    "Shrinking",
    "Solved",
    "conjugate_gradient",
    "damped_inverse",
    "fitted_head",
    "ggn",
    "inverse_root",
    "lissa",
    "shrunk_identity",
    "top_eigenvalue",
]
