"""What a model's configuration promises: task head, labels, limits."""

from dataclasses import dataclass
from typing import Any, cast

from proponent.models.tasks import Task

# Models whose position ids start after the padding index, so that two of the positions are never used.
_OFFSET_POSITIONS = frozenset(
    {
        "roberta",
        "xlm-roberta",
        "xlm-roberta-xl",
        "camembert",
        "roberta-prelayernorm",
        "data2vec-text",
        "xmod",
        "longformer",
        "mpnet",
        "ibert",
        "luke",
        "esm",
    }
)


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What the configuration of a checkpoint says."""

    task: Task  # the task head, with its labels
    architecture: str  # class name of the model
    max_length: int | None  # positions that the model can take; None when it sets no bound
    pad_token_id: int | None  # the configuration's padding token; None when it has none (or a negative one)
    adapter: bool  # True for a PEFT adapter over a base model


def model_info(config: Any, architecture: str, task: type[Task], *, adapter: bool) -> ModelInfo:
    """Read labels and limits."""
    pad = cast("int | None", getattr(config, "pad_token_id", None))
    pad = None if pad is None or pad < 0 else pad
    return ModelInfo(task.of(architecture, config), architecture, positions(config), pad, adapter)


def positions(config: Any) -> int | None:
    """Say how many tokens a model can take."""
    rows = getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", None)
    if not rows or rows < 0:
        return None
    if config.model_type in _OFFSET_POSITIONS:
        return int(rows) - int(config.pad_token_id or 0) - 1
    return int(rows)
