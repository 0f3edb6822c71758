"""Facts from a model's configuration: task head, labels, limits."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from proponent.errors import RunError
from proponent.models.padding import multiple_of
from proponent.models.placement import HERE, Placement
from proponent.models.tasks import Task

# Models whose position ids start after the padding index, so that two positions are never used.
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
    """Facts from the configuration of a checkpoint."""

    task: Task  # the task head, with its labels
    architecture: str  # class name of the model
    max_length: int | None  # number of positions that the model accepts; None without a limit
    pad_token_id: int | None  # the configuration's padding token; None if it has none (or a negative one)
    adapter: bool  # whether it is a PEFT adapter over a base model
    base: str | None = None  # the adapter's base model that the user named; None for the one that the adapter names
    notes: tuple[str, ...] = ()  # how its files were read
    placement: Placement = HERE  # where its models run
    multiple: int = 1  # the number of tokens to whose multiple the model pads its input


def model_info(config: Any, architecture: str, task: type[Task], *, adapter: bool) -> ModelInfo:
    """Read labels and limits."""
    pad = cast("int | None", getattr(config, "pad_token_id", None))
    pad = None if pad is None or pad < 0 else pad
    return ModelInfo(
        task.of(architecture, config), architecture, positions(config), pad, adapter, multiple=multiple_of(config)
    )


def positions(config: Any) -> int | None:
    """Return the number of tokens that a model accepts."""
    rows = getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", None)
    if not rows or rows < 0:
        return None
    if config.model_type in _OFFSET_POSITIONS:
        return int(rows) - int(config.pad_token_id or 0) - 1
    return int(rows)


def refuse_base(folder: Path, card: ModelInfo) -> None:
    """Refuse a base model that nothing reads: it is for adapters, and for losses with a reference model."""
    if card.base is not None and not card.adapter and not card.task.refers:
        raise RunError(f"{folder} is a complete model, and --base (base=) is for adapters: leave it out")
