"""The supported task heads, one row each; all others are refused here."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from proponent.errors import RunError
from proponent.models.tasks.base import Losses, Objective, Reduction, Task, TokenLoss
from proponent.models.tasks.causal_lm import CausalLM
from proponent.models.tasks.classification import Classification, LabelLoss
from proponent.models.tasks.dpo import DPO
from proponent.models.tasks.kto import KTO
from proponent.models.tasks.masked_lm import MaskedLM
from proponent.models.tasks.multi_label import MultiLabel
from proponent.models.tasks.question_answering import QuestionAnswering
from proponent.models.tasks.regression import Regression
from proponent.models.tasks.reward import RewardPairs
from proponent.models.tasks.seq2seq import Seq2Seq
from proponent.models.tasks.token_classification import TokenClassification

__all__ = [
    "DPO",
    "KTO",
    "TASKS",
    "CausalLM",
    "Classification",
    "LabelLoss",
    "Losses",
    "MaskedLM",
    "MultiLabel",
    "Objective",
    "QuestionAnswering",
    "Reduction",
    "Regression",
    "RewardPairs",
    "Seq2Seq",
    "Task",
    "TokenClassification",
    "TokenLoss",
    "adapter_tasks",
    "of_adapter",
    "recognise",
    "trained_task",
]

TASKS: tuple[type[Task], ...] = (
    *(Regression, MultiLabel, Classification, TokenClassification, QuestionAnswering),
    *(CausalLM, MaskedLM, Seq2Seq),
    *(DPO, RewardPairs, KTO),  # in place of others, by how a run was trained
)
"""The first task that recognises a model is used."""


def recognise(folder: Path, architecture: str, config: Any) -> type[Task]:
    """Find the task of a model by its class."""
    found = next((task for task in TASKS if task.recognises(architecture, config)), None)
    if found is None:
        said = f"the configuration names {architecture}" if architecture else "the configuration names no architecture"
        *others, last = dict.fromkeys(task.heads for task in TASKS)
        raise RunError(
            f"{folder} has no task head that proponent supports: {said}; supported: {', '.join(others)}, or {last} "
            "(train such a head, or name its class in architectures of config.json)"
        )
    return found


def adapter_tasks() -> dict[object, type[Task]]:
    """The tasks of adapters by the task type that PEFT writes."""
    return {task.adapter_type: task for task in TASKS if task.adapter_type is not None}


def of_adapter(task: type[Task], config: Any) -> type[Task]:
    """The task of an adapter among those with its task type, once its configuration is complete."""
    return next(one for one in TASKS if one.adapter_type == task.adapter_type and one.fits(config))


def trained_task(task: Task, homes: Sequence[Path], base: str | None) -> Task:
    """The task by which a run was trained, among those with the same head."""
    found = (one.trained(task, homes, base) for one in TASKS)
    return next((one for one in found if one is not None), task)
