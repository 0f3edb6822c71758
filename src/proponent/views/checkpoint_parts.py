"""The parts of scores by checkpoint, as a plot: the strongest examples of both sides as curves, more in its table."""

from collections.abc import Sequence

from proponent.views.hit import Hit
from proponent.views.plot import Band, Plot
from proponent.views.text_marks import clip

DRAWN, LISTED = 3, 10
"""Examples of each side that are drawn, and that are listed in the table."""


def checkpoint_parts(checkpoints: Sequence[str], sides: Sequence[tuple[str, Sequence[Hit]]]) -> Plot | None:
    """Plot the parts of scores over the named checkpoints; None where scores are not sums over two or more."""
    many = len(checkpoints)
    if many < 2:
        return None
    parted = [(name, [hit for hit in hits[:LISTED] if len(hit.by_checkpoint) == many]) for name, hits in sides]
    drawn = [(name, hit) for name, hits in parted for hit in hits[:DRAWN]]
    looks = [start + at for start, (_, hits) in zip((6, 9), parted, strict=True) for at in range(len(hits[:DRAWN]))]
    rest = [(name, hit) for name, hits in parted for hit in hits[DRAWN:]]
    if not drawn:
        return None
    places = tuple(map(float, range(many)))
    more = any(len(hits) > LISTED for _, hits in sides)
    listed = f"the {LISTED} strongest of each side" if more else "all listed examples"
    return Plot(
        curves=tuple(
            Band(f"{name} {hit.rank}: {clip(hit.id, 24)}", places, hit.by_checkpoint) for name, hit in [*drawn, *rest]
        ),
        x_name="checkpoints (step of training)",
        y_name="part of the score",
        note=f"the {DRAWN} strongest of each side; the numbers are of {listed}, with the sum, which is the score",
        x_texts=tuple(checkpoints),
        shown=len(drawn),
        looks=tuple(looks),
        sum_name="score",
    )
