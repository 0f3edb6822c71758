"""What a cell may hold, whatever part its column plays."""

from collections.abc import Sequence
from typing import cast

import numpy as np

from proponent.data.table import RawTable, short
from proponent.errors import DataError

# pandas.NA and NaT, told by name so that pandas stays unimported
_NULL_TYPES = {"NAType", "NaTType"}


def plain(value: object) -> object:
    """Turn a numpy scalar into a Python object."""
    return cast("object", value.item()) if isinstance(value, np.generic) else value


def is_null(value: object) -> bool:
    """Tell whether a cell holds nothing."""
    return value is None or (isinstance(value, float) and value != value) or type(value).__name__ in _NULL_TYPES


def is_blank(text: str | None) -> bool:
    """Tell whether a text says nothing."""
    return not text or text.isspace()


def refuse_odd_characters(table: RawTable, column: str, start: int, values: Sequence[object]) -> None:
    """Refuse lone surrogates (no UTF-8 for them) and NUL (HTML, C and tokenizers disagree about it)."""
    texts = [value if isinstance(value, str) else "" for value in values]
    if _clean("".join(texts)):
        return
    # two halves in neighbouring cells never join: utf-8 refuses both, joined or not
    place = next(i for i, text in enumerate(texts) if not _clean(text))
    what = "a NUL character" if "\0" in texts[place] else "half of a surrogate pair, which is not text"
    raise DataError(
        f"{table.name}: column {short(column)}, {table.where([start + place])} holds {what}: {short(texts[place])}; "
        "remove it"
    )


def _clean(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return "\0" not in text
