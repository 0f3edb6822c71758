"""Models of other libraries whose training has no gradient of a single row, or whose weights are no data."""

from pathlib import Path
from typing import cast

from proponent.errors import RunError
from proponent.models.run_files import read_settings
from proponent.models.weights import CONFIG_FILE

_EMBEDDERS = ("modules.json", "config_sentence_transformers.json")


def refuse_foreign(folder: Path) -> None:
    """Refuse runs of SetFit, and those of sentence-transformers that have no task head."""
    if (folder / "config_setfit.json").is_file():
        raise RunError(
            f"{folder} is a SetFit model (config_setfit.json): it was trained on pairs of rows, and its head is a "
            "pickle (model_head.pkl), which proponent never opens: train the same base with a classification head "
            "(...ForSequenceClassification) and explain that"
        )
    sign = next((name for name in _EMBEDDERS if (folder / name).is_file()), None)
    if sign is not None and not _has_head(folder):
        raise RunError(
            f"{folder} was trained by sentence-transformers ({sign}) and has no task head: its losses compare the rows "
            "of a batch with one another, so that no row has a gradient of its own; such a folder may be the base of a "
            "model with a task head (...ForSequenceClassification, a CrossEncoder), which is read"
        )


def _has_head(folder: Path) -> bool:
    path = folder / CONFIG_FILE
    names = cast("list[str] | None", read_settings(path).get("architectures")) if path.is_file() else None
    return any("For" in str(name) for name in names or [])
