"""What tasks on pairs of answers share: rows with a chosen and a rejected answer, and the loss of their difference."""

from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from proponent.errors import DataError, InputError, RunError
from proponent.models.objective import Training, training_of
from proponent.models.preference_rows import ONE_SIDED
from proponent.models.tasks.base import Task
from proponent.types import Example, Preference


def lost(margin: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    """Minus the log-probability that the chosen answer is preferred, -log sigmoid(margin) (Bradley and Terry 1952)."""
    return functional.softplus(-margin)


class OnPairs(Task):
    """A task whose training rows are pairs of answers; a question is a pair, or one answer."""

    @classmethod
    @abstractmethod
    def replaces(cls, task: Task) -> bool:
        """Whether a run with this task may have been trained on pairs."""

    @classmethod
    @abstractmethod
    def settled(cls, task: Task, said: Training, base: str | None) -> Task:
        """The task with the settings of a training; those that change the loss are refused by name."""

    @classmethod
    def recognises(cls, architecture: str, config: Any) -> bool:
        return False  # only the files of the training tell

    @classmethod
    def trained(cls, task: Task, homes: Sequence[Path], base: str | None) -> Task | None:
        said = training_of(homes, cls.trainer) if cls.replaces(task) else None
        return None if said is None else cls.settled(task, said, base)

    def label_numbers(self, examples: Iterable[Example], source: str) -> list[int]:
        numbers: list[int] = []
        for example in examples:
            content, where = example.content, f"{source}, row {example.row}"
            if not isinstance(content, Preference):
                raise DataError(
                    f"{where} holds one answer, and this run was trained on pairs of answers: give rows with chosen "
                    "and rejected"
                )
            if content.chosen is None or content.rejected is None:
                raise InputError(ONE_SIDED.format(name=where))
            numbers.append(-1)
        return numbers


def refuse_settings(said: Training, plain: Mapping[str, tuple[object, ...]]) -> None:
    """Refuse settings that change the loss; `plain` has the values of each that do not."""
    for name, allowed in plain.items():
        value = said.settings.get(name)
        if value is not None and value not in allowed:
            raise RunError(
                f"{said.source} says that the run was trained with {name}={value!r}, which is another loss than "
                f"proponent explains (it explains {name}={allowed[0]!r})"
            )


def number_of(said: Training, name: str, default: float) -> float:
    """A number among the settings of a training."""
    value: Any = said.settings.get(name)
    value = default if value is None else value
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise RunError(f"{said.source}: {name} is {value!r}, not a number: the record is damaged; mend it")
    return float(cast("float", value))
