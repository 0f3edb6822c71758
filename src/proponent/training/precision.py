"""What moves weights by less than half precision can tell."""

from dataclasses import replace

from proponent.errors import InputError
from proponent.models import Run
from proponent.models.placement import refuse_split


def refuse_half(run: Run, what: str) -> None:
    """Refuse half precision for what moves weights by less than it can tell, and a model on several devices."""
    refuse_split(run.placement, what)
    if run.placement.dtype != "float32":
        raise InputError(
            f"{what} moves weights by less than {run.placement.dtype} can tell: leave --dtype out (dtype=)"
        )


def in_32_bits(run: Run) -> Run:
    """The run with weights in 32 bits, on its device: for what moves them by less than half precision can tell."""
    refuse_split(run.placement, "what compares weights that move")
    whole = replace(run.placement, dtype="float32")
    return run if whole == run.placement else replace(run, info=replace(run.info, placement=whole))
