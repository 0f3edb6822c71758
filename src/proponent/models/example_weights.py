"""Weights of examples in the loss of a training: whether a run had them, and whether the data at hand has them."""

from proponent.errors import MismatchError
from proponent.models.run import Run
from proponent.models.run_record import run_record


def weight_column(run: Run) -> str | None:
    """The column of example weights that a run was trained with, by its record; None without weights or record."""
    for folder in dict.fromkeys([run.path, *run.joined, *(one.path.parent for one in run.checkpoints)]):
        found = (run_record(folder) or {}).get("weight_column")
        if found:
            return str(found)
    return None


def refuse_missing_weights(run: Run, data: str, *, weighted: bool) -> None:
    """Refuse data without the example weights that a run was trained with."""
    column = weight_column(run)
    if column is not None and not weighted:
        raise MismatchError(
            f"{run.path} was trained with example weights (column {column}), and {data} is read without weights: name "
            f"their column with --weight-column {column} (proponent.Columns(weight={column!r}))"
        )
