"""Views of texts, which polars writes: measured, and then copied to plain texts, since views may share their bytes."""

from typing import Any, cast

import numpy as np

from proponent.data.untyped import pa

_PLAIN = {"string_view": pa.large_string(), "binary_view": pa.large_binary()}
_VIEW = np.dtype([("length", "<i4"), ("rest", "V12")])


def plain_type(kind: Any) -> Any:
    """A type with plain texts in place of views."""
    if str(kind) in _PLAIN:
        return _PLAIN[str(kind)]
    if pa.types.is_dictionary(kind):
        return pa.dictionary(kind.index_type, plain_type(kind.value_type), kind.ordered)
    if pa.types.is_map(kind):
        return pa.map_(plain_type(kind.key_type), plain_type(kind.item_type), kind.keys_sorted)
    parts = [one.with_type(plain_type(one.type)) for one in map(kind.field, range(kind.num_fields))]
    if pa.types.is_struct(kind):
        return pa.struct(parts)
    if pa.types.is_fixed_size_list(kind):
        return pa.list_(parts[0], kind.list_size)
    if pa.types.is_large_list(kind):
        return pa.large_list(parts[0])
    return pa.list_(parts[0]) if pa.types.is_list(kind) else kind


def plain_schema(schema: Any) -> Any:
    """A schema with plain texts in place of views."""
    return pa.schema([one.with_type(plain_type(one.type)) for one in schema], schema.metadata)


def viewed_size(array: Any) -> int:
    """Bytes of all the texts of an array that are views, each as often as it is seen; the array must be valid."""
    kind = array.type
    if str(kind) in _PLAIN:
        views = np.frombuffer(array.buffers()[1] or b"", _VIEW)[array.offset : array.offset + len(array)]
        lengths = views["length"].astype(np.int64)
        return int(lengths[np.asarray(array.is_valid())].sum()) if len(array) else 0
    if pa.types.is_dictionary(kind):
        return viewed_size(array.dictionary)
    if pa.types.is_map(kind):
        return viewed_size(array.keys) + viewed_size(array.items)
    if not kind.num_fields:
        return 0
    parts: Any = array.flatten()
    return sum(map(viewed_size, cast("list[Any]", parts))) if isinstance(parts, list) else viewed_size(parts)
