"""What loading a model reports: weights that are missing or unused, which are refused by name."""

from pathlib import Path
from typing import NamedTuple

from torch import nn

from proponent.errors import RunError


class LoadReport(NamedTuple):
    """Result of loading: missing weights, now random, and weights that the model does not use."""

    missing: list[str]
    unused: list[str]


def require_whole(folder: Path, missing: list[str]) -> None:
    """Refuse weights that lack parameters, which would be random."""
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise RunError(
            f"the weights in {folder} lack {missing[0]}{more}: this is not a complete checkpoint of this architecture"
        )


def refuse_compiled(folder: Path, unused: list[str]) -> None:
    """Refuse the weights of a compiled model, whose names differ."""
    if any("_orig_mod." in name for name in unused):
        raise RunError(
            f"the weights in {folder} were saved from a compiled model (their names begin with _orig_mod.): save them "
            "again with model._orig_mod.save_pretrained(folder)"
        )


def require_used(folder: Path, model: nn.Module, unused: list[str]) -> None:
    """Refuse weights that the model does not use."""
    if unused:
        more = f" and {len(unused) - 1} more" if len(unused) > 1 else ""
        raise RunError(
            f"the weights in {folder} contain {unused[0]}{more}, which {type(model).__name__} does not use: the "
            "trained model differs from the model that would be explained; if its class has custom code, name it in "
            "auto_map of config.json and allow it with --trust-remote-code"
        )


def first_line(error: BaseException) -> str:
    """Shorten a message of another library to one line."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
