"""What a merge fits again: arrays that replace those of the tables, and factors that replace those of the features.

One file for the whole index, `tables/gen-N.safetensors`: the files of the build stay as they are.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from proponent.store.layout import REFIT, stored_number
from proponent.store.mapped import MappedTensors
from proponent.store.segment import Segment, refitted_scale
from proponent.types import CheckpointId


@dataclass(frozen=True)
class Refit:
    """Arrays that were fitted again to the examples of some segments."""

    tables: Mapping[CheckpointId, Mapping[str, np.ndarray]]
    scales: Mapping[CheckpointId, Mapping[Segment, np.ndarray]]  # of all examples of a segment; empty without norms
    notes: list[str]  # the notes of the merged index

    def arrays(self, parts: Mapping[str, tuple[Segment, ...]]) -> dict[str, np.ndarray]:
        """Name the arrays for the file, given which segments each new one is made of."""
        made = {
            f"table.{stored_number(at)}.{name}": array
            for at, table in self.tables.items()
            for name, array in table.items()
        }
        for at, scales in self.scales.items():
            for new, old in parts.items():
                made[refitted_scale(at, new)] = np.concatenate([scales[one][one.kept] for one in old])
        return made


def refit_name(files: Iterable[str]) -> str | None:
    """The file of an index that replaces arrays of its tables."""
    return next((name for name in files if name.startswith(REFIT)), None)


def refitted_table(file: MappedTensors | None, at: CheckpointId) -> dict[str, np.ndarray]:
    """The replaced arrays of a checkpoint's table."""
    begin = f"table.{stored_number(at)}."
    names = () if file is None else file.names
    return {name.removeprefix(begin): file.view(name) for name in names if file is not None and name.startswith(begin)}
