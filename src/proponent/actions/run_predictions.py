"""What a run predicts for a data set: class probabilities, in the order of the data's classes."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float

from proponent.data import Examples
from proponent.errors import LabelError, MismatchError
from proponent.models import Run
from proponent.models.placement import host
from proponent.progress import track

_BATCH = 64


def class_probabilities(
    run: Run, examples: Examples, classes: Sequence[str], *, quiet: bool = False
) -> Float[np.ndarray, "n l"]:
    """Probabilities at the last checkpoint; the run must predict all classes of the data, and no others."""
    numbers = _numbers(run, examples.name, classes)
    model = run.load(run.checkpoints[-1])
    encoder = run.encoder(run.length(None))
    lengths = encoder.lengths(examples)
    order = np.argsort(lengths, kind="stable")
    found = np.zeros((len(examples), len(classes)))
    size = 1 if run.equal_lengths else _BATCH
    cuts = [order[start : start + size] for start in range(0, len(order), size)]
    for rows in track(cuts, total=len(order), label="predicting", weight=len, quiet=quiet):
        some = [examples[int(row)] for row in rows]
        with torch.inference_mode():
            batch = encoder.collate(encoder.encode(some), [-1] * len(some))
            made = run.task.probabilities(model(**batch.inputs).logits)
        assert made is not None
        found[rows] = host(made)[:, numbers]
    return found


def _numbers(run: Run, data: str, classes: Sequence[str]) -> list[int]:
    names = run.label_names
    if names is None or run.task.answers:
        raise MismatchError(
            f"{run.path} is a {run.task.kind} model, and lexical bias is tested on classifiers of one label per text"
        )
    try:
        numbers = [run.label_number(name) for name in classes]
    except LabelError as error:
        raise MismatchError(
            f"{run.path} predicts the classes {', '.join(names)}, and {data} has {', '.join(classes)}: give the run "
            f"that was trained on this data ({error})"
        ) from error
    if len(set(numbers)) < len(names):
        absent = next(name for number, name in enumerate(names) if number not in numbers)
        raise MismatchError(
            f"{run.path} also predicts the class {absent}, which {data} does not have (it has {', '.join(classes)}): "
            "give the run that was trained on this data"
        )
    return numbers
