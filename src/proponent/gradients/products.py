"""Products of every gradient of one group with every gradient of another."""

import numpy as np
from jaxtyping import Float

from proponent.gradients.forms import Outer, Rows
from proponent.gradients.gradient import Gradient


def products(mine: Gradient, theirs: Gradient) -> Float[np.ndarray, "n m"]:
    """Multiply each of n gradients with each of m, in 64 bits; vocabulary heads in closed form are not supported."""
    total = np.zeros((len(mine), len(theirs)))
    if mine.dense is not None and theirs.dense is not None:
        total += mine.dense.v.astype(np.float64) @ theirs.dense.v.astype(np.float64).T
    if mine.rows is not None and theirs.rows is not None:
        total += _of_rows(mine.rows, theirs.rows)
    if mine.outer is not None and theirs.outer is not None:
        total += _of_outer(mine.outer, theirs.outer)
    return total


def _of_rows(mine: Rows, theirs: Rows) -> Float[np.ndarray, "n m"]:
    """Rows meet where both have the token."""
    shared = np.intersect1d(mine.ids, theirs.ids)
    width = mine.rows.shape[1]
    tables = [np.zeros((len(one), len(shared), width)) for one in (mine, theirs)]
    for table, one in zip(tables, (mine, theirs), strict=True):
        kept = one.keep(np.isin(one.ids, shared))
        np.add.at(table, (kept.owners, np.searchsorted(shared, kept.ids)), kept.rows)
    left, right = (table.reshape(len(table), -1) for table in tables)
    return left @ right.T


def _of_outer(mine: Outer, theirs: Outer) -> Float[np.ndarray, "n m"]:
    """Every position of one with every position of the other."""
    each = (mine.g.astype(np.float64) @ theirs.g.T.astype(np.float64)) * (
        mine.a.astype(np.float64) @ theirs.a.T.astype(np.float64)
    )
    total = np.zeros((len(mine), len(theirs)))
    np.add.at(total, (mine.owners[:, None], theirs.owners[None, :]), each)
    return total
