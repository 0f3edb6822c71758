"""What a curvature is made of: R = lambda R_eval + (1 - lambda) R_train (TrackStar), labels given or drawn (EK-FAC).

Chang et al. 2025 (arXiv 2410.17413): lambda is such that lambda s_eval[j] = (1 - lambda) s_train[j] at one place j of
the sorted eigenvalues of all layers, so that the directions before it, common to all queries, weigh less.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from proponent.curvature.matrices import MOST
from proponent.data import Examples
from proponent.errors import DataError, InputError
from proponent.recipe import Recipe
from proponent.types import step_name

SHARE = "curvature.eval_share"
"""Name of the lambda that was used, in the table of a checkpoint."""

PLACE = "curvature.eval_place"
"""Name of the place j at which it was chosen; 0 where it was given."""


@dataclass(frozen=True)
class EvalShare:
    """A lambda.

    Attributes:
        share: lambda, from 0 to 1.
        place: j at which both sides weigh the same, from 1; 0 where lambda was given.
    """

    share: float
    place: int


def check_curvature(recipe: Recipe, queries: Examples | None) -> None:
    """Refuse queries that nothing is made of, a share of queries that are not there, and labels drawn for nothing."""
    if recipe.fisher == "sampled" and recipe.curvature != "ekfac":
        raise InputError(
            f"fisher sampled is about EK-FAC's Fisher matrix, and {recipe.name} has curvature {recipe.curvature}: "
            "leave it out, or choose ekfac"
        )
    mixes = recipe.curvature == "autocorrelation"
    if queries is None:
        if mixes and recipe.eval_share not in {"auto", 0.0}:
            raise InputError(
                f"{recipe.name} mixes in the queries' autocorrelation (eval_share {recipe.eval_share:g}), and there "
                "are no queries: pass a file with --eval, or omit eval_share"
            )
        return
    if not mixes:
        raise InputError(
            f"--eval is for methods with an autocorrelation, and {recipe.name} has curvature {recipe.curvature}: "
            "leave it out, or choose trackstar"
        )
    if not len(queries):
        raise DataError(f"{queries.name} has no rows: pass a file of queries with --eval, or omit it")


def chosen_share(
    recipe: Recipe, train: Float[np.ndarray, " p"], queries: Float[np.ndarray, " p"], count: int
) -> EvalShare:
    """Choose lambda, or take the given one."""
    if recipe.eval_share != "auto":
        return EvalShare(float(recipe.eval_share), 0)
    place = _place(recipe, len(train))
    theirs, mine = (max(0.0, float(np.sort(one)[-place])) for one in (queries, train))
    rank = int((queries > 1e-9 * queries.max(initial=0.0)).sum())
    if theirs <= 1e-9 * float(queries.max(initial=0.0)):
        raise InputError(_too_few(count, place, len(train), f"its rank is {rank:,}", rank))
    return EvalShare(mine / (theirs + mine), place)


def refuse_too_few(recipe: Recipe, widths: Sequence[int], queries: Examples | None) -> None:
    """Refuse, before any gradient is taken, queries that are too few for the place at which lambda is chosen."""
    if queries is None or recipe.eval_share != "auto":
        return
    total, rank = sum(widths), sum(min(len(queries), one) for one in widths)
    place = _place(recipe, total)
    if place > rank:
        raise InputError(_too_few(len(queries), place, total, f"its rank is at most {rank:,}", rank))


def _place(recipe: Recipe, total: int) -> int:
    wanted = recipe.eval_component
    place = max(1, round(wanted * total)) if wanted <= 1 else int(wanted)
    if place > total:
        raise InputError(f"eval_component {wanted:g}: the layers of {recipe.name} have {total:,} eigenvalues")
    return place


def _too_few(count: int, place: int, total: int, why: str, rank: int) -> str:
    # a component of 1 would be read as a share: all eigenvalues
    earlier = f"an earlier place (--set eval_component={max(2, rank // 2)}), " if rank > 1 else ""
    return (
        f"R_eval of {count} {'queries' if count != 1 else 'query'} has no eigenvalue at place {place:,} of "
        f"{total:,} ({why}), and lambda would be 1: give more queries, {earlier}or lambda itself "
        "(--set eval_share=0.5)"
    )


def describe_mixing(step: int, table: dict[str, np.ndarray], queries: Examples | None, widest: int) -> str:
    """Say what R is made of."""
    if queries is None or SHARE not in table:
        return f"{step_name(step)}: R is the autocorrelation of the training set alone (no queries were given: --eval)"
    share, place = float(table[SHARE][0]), int(table[PLACE][0])
    how = f"chosen so that both weigh the same at eigenvalue {place:,} of all layers" if place else "as given"
    low = f"; {len(queries)} queries give it a rank of at most {len(queries)} in a layer of up to {widest:,} numbers"
    return (
        f"{step_name(step)}: R = {share:.3g} of the autocorrelation of the {len(queries)} queries of {queries.name} + "
        f"{1 - share:.3g} of the training set's (lambda = eval_share {share:.3g}, {how}"
        + (low if len(queries) < widest else "")
        + ")"
    )


def describe_sampled_labels(recipe: Recipe) -> str:
    """Say whose labels EK-FAC's Fisher matrix is made of."""
    if recipe.fisher == "sampled":
        return f"Fisher matrix: labels drawn from the model's own probabilities (seed {recipe.fisher_seed})"
    return (
        "Fisher matrix: labels of the training set (the empirical one); --set fisher=sampled draws them from the model"
    )


def describe_eval_spread(large: int, layers: int) -> str:
    """Say which layers' closed form is taken when asked."""
    return (
        f"DataInf's closed form over {large} of {layers} layers (more than {MOST:,} numbers each) is taken when asked, "
        "from the gradients of the examples that may be found: a question reads them once more, and so do its words"
    )
