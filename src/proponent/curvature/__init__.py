"""Preconditioners: Adam moments, Gauss-Newton, EK-FAC, DataInf."""

from proponent.curvature.adam import MeanSquares, SecondMoment
from proponent.curvature.head import fitted_head, ggn
from proponent.curvature.hessian import Hessian
from proponent.curvature.kronecker import EKFAC
from proponent.curvature.matrices import Damping, DataInfProduct, LayerMoments, damped_inverse, shrunk_identity
from proponent.curvature.solvers import Solved, conjugate_gradient, lissa, top_eigenvalue

__all__ = [
    "EKFAC",
    "Damping",
    "DataInfProduct",
    "Hessian",
    "LayerMoments",
    "MeanSquares",
    "SecondMoment",
    "Solved",
    "conjugate_gradient",
    "damped_inverse",
    "fitted_head",
    "ggn",
    "lissa",
    "shrunk_identity",
    "top_eigenvalue",
]
