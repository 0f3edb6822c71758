"""Write a model and its tokenizer as a folder for `from_pretrained`: complete under its final name, or absent."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from proponent.disk import write_folder


def save_model(
    folder: Path,
    model: Any,
    tokenizer: Any,
    *,
    further: Callable[[Path], None] | None = None,
    replace: bool = False,
) -> Path:
    """Write a model.

    Args:
        folder: a new or empty folder.
        model: a model of transformers or peft.
        tokenizer: its tokenizer.
        further: writes further files into the folder that it is given.
        replace: whether a folder with files is replaced.

    Returns:
        The folder.

    Raises:
        InputError: the folder has files, or its place cannot be written to.
        DiskFullError: there is no space left.
    """

    def fill(home: Path) -> None:
        model.save_pretrained(home)
        tokenizer.save_pretrained(home)
        if further is not None:
            further(home)

    write_folder(folder, fill, replace=replace)
    return folder
