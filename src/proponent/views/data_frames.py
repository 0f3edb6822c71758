"""Tables of pandas, which is optional and slow to import."""

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

from proponent.errors import MissingExtraError


def data_frame(rows: Sequence[Sequence[object]], columns: Sequence[str]) -> Any:
    """A pandas DataFrame of some rows."""
    return _pandas().DataFrame(list(rows), columns=list(columns))


def frame_of_columns(columns: Mapping[str, Sequence[object]]) -> Any:
    """A pandas DataFrame of some columns."""
    return _pandas().DataFrame(dict(columns))


def _pandas() -> Any:
    try:
        return import_module("pandas")
    except ImportError as error:
        raise MissingExtraError("to_pandas needs pandas: pip install 'proponent[data]'") from error
