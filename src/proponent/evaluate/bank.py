"""Banks: halves of a training set with the outputs of models trained on them, kept for other methods."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
from jaxtyping import Bool, Float, Int

from proponent.errors import InputError, MismatchError
from proponent.evaluate.experiment import Experiment
from proponent.tensors import read_metadata, read_tensors, write_tensors
from proponent.training.rerun import fingerprint

_UNTOUCHED = ("keep_places",)
"""Settings of a retraining that change no output."""


class Bank(NamedTuple):
    """Halves and outputs of models that were trained on them."""

    masks: Bool[np.ndarray, "m n"]
    outputs: Float[np.ndarray, "r m q"]  # per seed of a retrain
    note: str  # one line for the reader


def write_bank(
    path: Path,
    subject: Experiment,
    scores: Mapping[str, Float[np.ndarray, "q n"]],
    masks: Bool[np.ndarray, "m n"],
    outputs: Float[np.ndarray, "r m q"],
    groups: Int[np.ndarray, " n"] | None,
) -> None:
    """Write what an LDS is made of, for other statistics and other methods."""
    arrays = {f"scores.{name}": one.astype(np.float32) for name, one in scores.items()}
    arrays |= {"masks": masks.astype(np.uint8), "outputs": outputs}
    write_tensors(path, arrays if groups is None else arrays | {"groups": groups}, _described(subject))


def read_bank(path: Path, subject: Experiment) -> Bank:
    """Read a bank; refuse one of other rows, queries or settings."""
    kept = read_tensors(path)
    if not {"masks", "outputs"} <= set(kept):
        raise InputError(f"{path} has no halves and outputs: give a file that `evaluate --arrays` wrote")
    masks, outputs = kept["masks"] > 0, kept["outputs"]
    sizes, wanted = (masks.shape[-1], outputs.shape[-1]), (len(subject.problem.train), len(subject.problem.queries))
    shaped = masks.ndim == 2 and outputs.ndim == 3 and outputs.shape[1] == len(masks)
    if not shaped or sizes != wanted:
        raise MismatchError(
            f"{path} was made for {sizes[0]} rows and {sizes[1]} queries, and there are {wanted[0]} rows and "
            f"{wanted[1]} queries: give the same data, queries and --points"
        )
    said, own = read_metadata(path), _described(subject)
    for name in own if said else ():
        if said.get(name) != own[name]:
            raise MismatchError(f"{path} was made with other {name}: {_difference(said.get(name, ''), own[name])}")
    told = f"retrains of {path.name} were used again: {len(masks)} halves x {len(outputs)} seeds"
    known = "" if said else "; it does not say what they were trained on, so only sizes were compared"
    return Bank(masks, outputs, told + known)


def _described(subject: Experiment) -> dict[str, str]:
    """What the outputs of a bank depend on, apart from the machine."""
    settings = {name: one for name, one in asdict(subject.rerun.settings).items() if name not in _UNTOUCHED}
    return {
        "training rows": fingerprint(subject.problem.train),
        "queries": fingerprint(subject.problem.queries),
        "settings": json.dumps(settings, sort_keys=True),
    }


def _difference(theirs: str, ours: str) -> str:
    """Name the settings that differ; two fingerprints differ as a whole."""
    if not theirs.startswith("{"):
        return f"its fingerprint is {theirs or 'unknown'}, that of this evaluation {ours}"
    first, second = (cast("dict[str, Any]", json.loads(one)) for one in (theirs, ours))
    changed = [name for name in second if first.get(name) != second[name]]
    return ", ".join(f"{name} {first.get(name)!r} there, {second[name]!r} here" for name in changed)
