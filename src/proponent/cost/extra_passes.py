"""Passes over the training set besides the one that takes its gradients, as a build makes them, and what they leave."""

from typing import NamedTuple

from proponent.index import principal_directions
from proponent.index.gradient_computer import GradientComputer
from proponent.recipe import Recipe


class ExtraPasses(NamedTuple):
    """How often the training set goes through a checkpoint once more.

    Attributes:
        tables: before the gradients: for a refitted last layer, second moments of layers that are estimated, leading
            directions.
        curvature: after them: for the factors of EK-FAC, and its eigenvalues where labels are drawn.
    """

    tables: int
    curvature: int


def extra_passes(recipe: Recipe, second_moment: str) -> ExtraPasses:
    """Count the passes."""
    if recipe.layer != "layers":
        return ExtraPasses(0, 0)
    estimated = recipe.preconditioner == "adam" and second_moment == "estimate"
    curvature = 1 + (recipe.fisher == "sampled") if recipe.curvature == "ekfac" else 0
    return ExtraPasses((recipe.refit is not None) + estimated + (recipe.basis == "leading"), curvature)


def left_bytes(recipe: Recipe, work: GradientComputer, table: tuple[int, int]) -> int:
    """Count what is kept of the passes before the gradients, and of recorded moments."""
    adam = recipe.preconditioner == "adam"
    if work.layered is None:
        return 4 * table[0] * table[1] * adam
    found = sum(4 * one.o * one.i for one in work.layered.choice.blocks) * (adam + (recipe.refit is not None))
    return found + (principal_directions.held(work.layered.projection) if recipe.basis == "leading" else 0)


def uncounted(recipe: Recipe) -> tuple[str, ...]:
    """Say what of a curvature is not foreseen."""
    if recipe.curvature == "none":
        return ()
    return (
        f"not foreseen: what the matrices of curvature {recipe.curvature} take (time, memory and disk), and a pass "
        "over the queries of --eval, if there are any",
    )
