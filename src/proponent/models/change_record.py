"""What every training example really changed: the sums of its own updates, kept while training.

    proponent_changes/changes.json          what was recorded, and how the model was trained
    proponent_changes/changes.safetensors   for each table: ends [n], ids [m], rows [m d]; for each dense parameter
                                            [n p]; epochs [n e]: size of each example's change in each epoch;
                                            digests [n] of token ids

Rows are kept of tables: by default those of the example's own tokens and, where classes are tokens, of its class. Dense
parameters (a head, LoRA matrices) are kept whole. Lawrence, Sztyler and Niepert 2021 (arXiv 2010.05516).
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from jaxtyping import Float, Int, UInt64
from torch import Tensor, nn

from proponent.disk import make_folder, write_bytes
from proponent.errors import DamagedError, InputError, RunError
from proponent.models.run_files import read_settings, weights_file
from proponent.models.training_trace import digest
from proponent.tensors import read_tensors, write_tensors

FOLDER = "proponent_changes"
PARTS = ("embedding", "head", "lora")
MOST_BYTES = 4 * 2**30
"""Largest record; it is held in memory while training."""

Kept = Literal["own", "moved"]
"""Which rows of a table are kept: those of the example's own tokens and class, or every row with a gradient."""

HOW = "train with `proponent train --changes embedding`, or proponent.Recorder(changes=('embedding',)) and batches of 1"


@dataclass(frozen=True)
class TableChanges:
    """Changes of rows of one table, example after example."""

    ends: Int[np.ndarray, " n"]  # where each example's rows end
    ids: Int[np.ndarray, " m"]
    rows: Float[np.ndarray, "m d"]

    def of(self, row: int) -> slice:
        """Places of an example's rows."""
        return slice(int(self.ends[row - 1]) if row else 0, int(self.ends[row]))

    @cached_property
    def examples(self) -> Int[np.ndarray, " m"]:
        """The example that each row belongs to."""
        return np.repeat(np.arange(len(self.ends)), np.diff(self.ends, prepend=0))


@dataclass(frozen=True)
class Changes:
    """A record of changes."""

    tables: Mapping[str, TableChanges]  # by the name of the parameter
    dense: Mapping[str, Float[np.ndarray, "n p"]]
    epochs: Float[np.ndarray, "n e"]  # size of each example's change in each epoch
    digests: UInt64[np.ndarray, " n"]  # of each example's token ids; 0 if no step was trained on it
    settings: Mapping[str, Any]  # what was recorded, and how the model was trained

    def __len__(self) -> int:
        return len(self.epochs)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the recorded parameters."""
        return (*self.tables, *self.dense)

    def write(self, folder: Path) -> None:
        """Write the record into a run's folder."""
        home = folder / FOLDER
        make_folder(home)
        arrays: dict[str, np.ndarray] = {"epochs": self.epochs.astype(np.float32), "digests": self.digests}
        for name, one in self.tables.items():
            arrays |= {f"ends.{name}": one.ends, f"ids.{name}": one.ids, f"rows.{name}": one.rows.astype(np.float32)}
        arrays |= {f"dense.{name}": one.astype(np.float32) for name, one in self.dense.items()}
        write_tensors(home / "changes.safetensors", arrays)
        write_bytes(home / "changes.json", (json.dumps({"version": 1, **self.settings}, indent=1) + "\n").encode())


def read_changes(folder: Path) -> Changes:
    """Read the record in a run's folder."""
    home = folder / FOLDER
    if not (home / "changes.json").is_file() or not (home / "changes.safetensors").is_file():
        raise RunError(f"{folder} has no record of what each example changed ({FOLDER}/): {HOW}")
    settings = read_settings(home / "changes.json")
    try:
        found = read_tensors(weights_file(home / "changes.safetensors"))
    except Exception as error:  # the safetensors reader may raise anything
        raise DamagedError(f"cannot read {home / 'changes.safetensors'}: {error}: train again") from error
    names = sorted(name.removeprefix("ends.") for name in found if name.startswith("ends."))
    try:
        tables = {one: TableChanges(*(found[f"{what}.{one}"] for what in ("ends", "ids", "rows"))) for one in names}
        dense = {name.removeprefix("dense."): one for name, one in found.items() if name.startswith("dense.")}
        made = Changes(tables, dense, found["epochs"], found["digests"], settings)
        _check(made)
    except (KeyError, ValueError, IndexError, TypeError) as error:
        raise DamagedError(f"{home} is damaged ({error}): train again") from error
    return made


def _check(found: Changes) -> None:
    count, known = len(found), found.settings
    if len(found.digests) != count:
        raise ValueError("digests of other examples")
    wrong = [name for name in ("max_length", "optimizer", "rows") if name not in known]
    wrong += [name for name in ("max_length", "seed", "negatives") if not isinstance(known.get(name, 0), int)]
    if wrong or ("training" in known and not {"seed", "negatives", "training_set"} <= set(known)):
        raise ValueError(
            f"changes.json lacks {', '.join(wrong) or 'the settings of the training'}, or has other values"
        )
    for name, one in found.tables.items():
        if len(one.ends) != count or len(one.ids) != len(one.rows) or (one.ends[-1:] != len(one.ids)).any():
            raise ValueError(f"{name} has rows of other examples")
        if (np.diff(one.ends, prepend=0) < 0).any() or (one.ids < 0).any():
            raise ValueError(f"{name} has rows out of order")
    for name, one in found.dense.items():
        if len(one) != count:
            raise ValueError(f"{name} has rows of other examples")


def recorded_parameters(model: Any, parts: Sequence[str]) -> dict[str, nn.Parameter]:
    """The trained parameters of the named parts: the word table, the head, LoRA matrices."""
    unknown = next((one for one in parts if one not in PARTS), None)
    if unknown is not None or not parts:
        raise InputError(f"--changes (changes=) {unknown or ''}: choose from {', '.join(PARTS)}")
    inner = getattr(model, "module", model)
    named = {name: one for name, one in inner.named_parameters() if one.requires_grad}
    table, head = inner.get_input_embeddings().weight, _head(inner)
    members = {
        "embedding": {name for name, one in named.items() if one is table},
        "head": {name for name, one in named.items() if id(one) in head},
        "lora": {name for name in named if "lora_" in name},
    }
    found: dict[str, nn.Parameter] = {}
    for part in parts:
        own = {name: one for name, one in named.items() if name in members[part]}
        if not own:
            raise InputError(f"--changes (changes=) {part}: this model trains no parameters of that part")
        found |= own
    return found


def _head(model: Any) -> set[int]:
    """The parameters of a classifier's last layer; empty for language models."""
    width = getattr(model.config, "num_labels", 0)
    layers = [one for one in model.modules() if isinstance(one, nn.Linear) and one.out_features == width]
    return {id(one) for layer in layers[-1:] for one in layer.parameters()}


class ChangeRecorder:
    """Adds up, for each example, what the steps on it alone changed."""

    def __init__(
        self, model: nn.Module, parameters: Mapping[str, nn.Parameter], count: int, epochs: int, kept: Kept = "own"
    ) -> None:
        self._table = cast("Any", model).get_input_embeddings().weight
        self._parameters, self._kept = dict(parameters), kept
        self._rows: dict[str, list[dict[int, np.ndarray]]] = {}
        self._dense: dict[str, np.ndarray] = {}
        for name, one in parameters.items():
            if one is self._table:
                self._rows[name] = [{} for _ in range(count)]
            else:
                refuse_large(name, count * one.numel() * 8)
                self._dense[name] = np.zeros((count, one.numel()))
        self._epochs, self._digests = np.zeros((count, epochs)), np.zeros(count, dtype=np.uint64)
        self._before: dict[str, tuple[Tensor, Tensor]] = {}
        self._touched: tuple[Tensor | slice, Tensor] | None = None
        self._moved = np.zeros(2)
        self._bytes = 0

    def begin(
        self,
        own: Int[np.ndarray, " k"],
        moved: Int[np.ndarray, " m"] | None = None,  # all that will move, where it is known
    ) -> None:
        """Keep what a step is about to change."""
        for name, one in self._parameters.items():
            if name in self._rows:
                ids = torch.as_tensor(np.unique(own))
                if self._kept == "moved":
                    ids = _rows_with_gradient(one) if moved is None else torch.as_tensor(moved)
                self._before[name] = (ids, one.detach()[ids].clone())
                place = slice(None) if moved is None else torch.as_tensor(moved)
                self._touched = (place, one.detach()[place].clone())
            else:
                self._before[name] = (torch.empty(0), one.detach().clone())

    def end(self, row: int, epoch: int, ids: Int[np.ndarray, " t"]) -> None:
        """Add up what the step on an example with these tokens changed."""
        self._digests[row] = digest(torch.as_tensor(ids)[None])
        size = 0.0
        for name, (places, before) in self._before.items():
            now = self._parameters[name].detach()
            if name in self._dense:
                change = (now - before).cpu().double().numpy().ravel()
                self._dense[name][row] += change
                size += float(change @ change)
                continue
            change = (now[places] - before).cpu().double().numpy()
            size += float((change * change).sum())
            self._add(name, row, cast("Any", places).tolist(), change)
            if self._touched is not None:
                rest = now[self._touched[0]] - self._touched[1]
                self._moved += (float((change * change).sum()), float(rest.square().sum()))
        self._epochs[row, epoch] += size**0.5

    def _add(self, name: str, row: int, ids: list[int], change: Float[np.ndarray, "k d"]) -> None:
        held = self._rows[name][row]
        for number, one in zip(ids, change, strict=True):
            if number in held:
                held[number] += one
            else:
                held[number] = one.copy()
                self._bytes += one.nbytes
        refuse_large(name, self._bytes)

    @property
    def own_share(self) -> float | None:
        """Share of the squared change of the table that lies in the kept rows; None without a table."""
        return min(1.0, float(self._moved[0] / self._moved[1])) if self._moved[1] > 0 else None

    def changes(self, settings: Mapping[str, Any]) -> Changes:
        """The record."""
        tables = {name: _joined(rows, self._table.shape[1]) for name, rows in self._rows.items()}
        noted = {"rows": self._kept, "own_share": self.own_share}
        return Changes(tables, self._dense, self._epochs, self._digests, {**settings, **noted})


def _rows_with_gradient(table: Tensor) -> Int[Tensor, " k"]:
    """The rows that the gradient touches, in order."""
    if table.grad is None:
        return torch.zeros(0, dtype=torch.int64)
    return table.grad.ne(0).any(1).nonzero()[:, 0]


def refuse_large(name: str, size: int) -> None:
    """Refuse a record that would not fit."""
    if size > MOST_BYTES:
        raise InputError(
            f"the changes of {name} take more than {MOST_BYTES / 2**30:.0f} GB: record another part (--changes), or "
            "train on fewer rows"
        )


def _joined(rows: Sequence[Mapping[int, np.ndarray]], width: int) -> TableChanges:
    ids = [np.asarray(sorted(one), dtype=np.int64) for one in rows]
    values = [one[number] for one in rows for number in sorted(one)]
    ends = np.cumsum([len(one) for one in ids], dtype=np.int64)
    joined = np.stack(values) if values else np.zeros((0, width))
    return TableChanges(ends, np.concatenate(ids) if ids else np.zeros(0, np.int64), joined)
