"""Tables of pandas, which is optional and slow to import."""

from collections.abc import Sequence
from importlib import import_module
from typing import Any

from proponent.errors import MissingExtraError


def data_frame(rows: Sequence[Sequence[object]], columns: Sequence[str]) -> Any:
    """A pandas DataFrame of some rows."""
    try:
        pandas = import_module("pandas")
    except ImportError as error:
        raise MissingExtraError("to_pandas needs pandas: pip install 'proponent[data]'") from error
    return pandas.DataFrame(list(rows), columns=list(columns))
