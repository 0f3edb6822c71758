"""`read`: recognize and open every supported kind of data."""

import difflib
import importlib
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, replace
from pathlib import Path
from typing import Any, cast

from proponent.data.addresses import fetched
from proponent.data.arrow import checked_column, is_arrow_table, read_user_arrow, read_user_parquet, table_of_arrow
from proponent.data.checks import check
from proponent.data.class_labels import feature_names
from proponent.data.columns import Column, ColumnBuilder, joined
from proponent.data.conversations import native
from proponent.data.examples import Columns, Examples
from proponent.data.saved import check_saved, is_saved
from proponent.data.separated import SEPARATORS, Separated, read_separated
from proponent.data.table import RawTable, check_names, one_after_another, packed_table, short, table_of_records
from proponent.data.text_files import read_json, read_json_lines
from proponent.errors import DataError, MissingExtraError
from proponent.types import Example

DEFAULT_COLUMNS = Columns()

_STRETCH = 4096
"""Rows of a `datasets.Dataset` that are reordered at a time."""

_READERS: dict[str, Callable[[Path], RawTable]] = {
    ".jsonl": read_json_lines,
    ".ndjson": read_json_lines,
    ".json": read_json,
    ".parquet": read_user_parquet,
    ".arrow": read_user_arrow,
}
_SUFFIXES = (*SEPARATORS, *_READERS)
_KNOWN = ", ".join(_SUFFIXES) + " (each also with .gz)"
_OTHER_TYPES = {
    (".xlsx", ".xls", ".ods"): "export the sheet as CSV",
    (".zip", ".tar", ".tgz", ".7z", ".rar", ".bz2", ".xz", ".zst"): "unpack it",
    (".txt", ""): "give it the ending of what it holds: .csv with a header line, or .jsonl",
    (
        ".pkl",
        ".pickle",
        ".pt",
        ".pth",
        ".bin",
        ".npy",
        ".npz",
    ): "save the data as Parquet or JSON (no pickle is opened)",
    (".yaml", ".yml", ".xml", ".html", ".pdf", ".docx", ".md"): "convert it to CSV or JSON",
}
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
_NAME_AND_SPLIT = re.compile(r"(.+) \[([^\[\]]+)\]", re.DOTALL)
_KINDS = (
    "a path, a list of paths, a datasets.Dataset, a pandas or polars DataFrame, an Arrow table, a list of dicts or a "
    "list of texts"
)


def read(
    source: object,
    *,
    columns: Columns = DEFAULT_COLUMNS,
    split: str | None = None,
    revision: str | None = None,
    allow_empty: bool = False,
    header: Sequence[str] = (),
    separator: str = "",
    quotes: str = "auto",
) -> Examples:
    """Read any supported input into validated examples.

    Args:
        source: a path, a list of paths, a hub id, a data set, a table, or a list of dicts or texts.
        columns: which column has which role.
        split: split of a data set that has several.
        revision: revision of a hub data set.
        allow_empty: accept rows with empty texts.
        header: names of the columns of a CSV or TSV file without a header line.
        separator: the separator of such a file, if it is not that of its type.
        quotes: what quotes mean in such a file: auto, double (they quote fields) or none (nothing).

    Returns:
        The examples.

    Raises:
        DataError: the data cannot be read; the message names the place.
    """
    how = Separated.of(header, separator, quotes)
    if isinstance(source, Examples):
        _refuse_split(source.name, split, revision)
        return source
    if _weighs(source) and not columns.weight:
        columns = replace(columns, weight="weight")
    if isinstance(source, str | os.PathLike):
        path = cast("str | os.PathLike[str]", source)
        table = _table_of_path(path, split, revision, how)
    else:
        table = _table_of_object(source, columns, split, revision, how)
    return check(table, columns, allow_empty)


def read_table(path: str | os.PathLike[str]) -> RawTable:
    """Read a file as it is: its columns have no roles."""
    return _table_of_path(path, None, None, Separated.of((), "", "auto"))


def read_local(name: str, columns: Columns, folder: Path, **written: Any) -> Examples | None:
    """Read a data set again by the name stored with its examples; None if no local file or folder has that name."""
    found = _NAME_AND_SPLIT.fullmatch(name)
    for spelled, split in ((name, None), *([found.groups()] if found else [])):
        for path in (Path(spelled), folder / spelled):
            if _exists(path) and (path.is_file() or path.is_dir()):  # no pipe: reading it might never end
                return read(path, columns=columns, split=split, allow_empty=True, **written)
    return None


def _refuse_split(name: str, split: str | None, revision: str | None) -> None:
    if split is not None:
        raise DataError(f"{name}: it has no splits: leave out --split {split}")
    if revision is not None:
        raise DataError(f"{name}: only a hub data set has revisions: leave out --revision {revision}")


def _table_of_path(source: str | os.PathLike[str], split: str | None, revision: str | None, how: Separated) -> RawTable:
    if (found := fetched(source)) is not None:
        return replace(_table_of_path(found.path, split, revision, how), name=found.name)
    path = Path(os.fsdecode(source))
    suffix = _suffix(path)
    if not _exists(path):
        if (
            isinstance(source, str)
            and _HUB_ID.fullmatch(source)
            and suffix not in _SUFFIXES
            and not _exists(path.parent)
        ):
            _refuse_separated(source, how)
            return _table_of_hub(source, split, revision)
        raise DataError(_not_found(path))
    if path.is_dir():
        _refuse_split(str(path), None, revision)
        _refuse_separated(str(path), how)
        return _table_of_folder(path, split)
    _refuse_split(str(path), split, revision)
    if suffix in SEPARATORS:
        return read_separated(path, how, SEPARATORS[suffix])
    if suffix not in _READERS:
        way = next((f": {way}" for ends, way in _OTHER_TYPES.items() if path.suffix.lower() in ends), "")
        raise DataError(f"{path}: unknown file type {short(path.suffix)}{way}; supported: {_KNOWN}")
    _refuse_separated(str(path), how)
    return _READERS[suffix](path)


def _refuse_separated(name: str, how: Separated) -> None:
    said = next(iter(how.stored), None)
    if said is not None:
        raise DataError(f"{name}: --{said} is for CSV and TSV files: leave it out ({said}=)")


def _suffix(path: Path) -> str:
    name = path.name.lower().removesuffix(".gz")
    return Path(name).suffix


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # for example a name too long for the file system
        return False


def _not_found(path: Path) -> str:
    shown = short(str(path), limit=300)
    if not _exists(path.parent):
        return f"{shown}: not found: there is no folder {short(str(path.parent), limit=300)}"
    near = difflib.get_close_matches(path.name, _names_in(path.parent), n=3)
    hint = f"; did you mean {', '.join(map(short, near))}?" if near else ": give a path, or a list of texts"
    return f"{shown}: no such file{hint}"


def _names_in(folder: Path) -> list[str]:
    try:
        return sorted(entry.name for entry in folder.iterdir())
    except OSError:  # a folder that cannot be listed gives no hints
        return []


def _datasets(needed_for: str) -> Any:
    try:
        return importlib.import_module("datasets")
    except ImportError as error:
        raise MissingExtraError(f"{needed_for} needs the package datasets: pip install 'proponent[data]'") from error


def _table_of_folder(path: Path, split: str | None) -> RawTable:
    if not is_saved(path):
        inside = [name for name in _names_in(path) if _suffix(Path(name)) in _SUFFIXES]
        held = [name for name in _names_in(path) if is_saved(path / name)]
        hint = f"name one of its files: {', '.join(map(short, inside[:5]))}" if inside else f"supported files: {_KNOWN}"
        hint = f"name a data set in it: {', '.join(map(short, held[:5]))}" if held else hint
        raise DataError(f"{path}: a folder that is not a data set from save_to_disk: {hint}")
    datasets = _datasets(f"{path}: a data set from save_to_disk")
    check_saved(path)
    try:
        loaded = datasets.load_from_disk(str(path))
    except Exception as error:  # datasets may raise anything for a folder it cannot read
        raise DataError(f"{path}: datasets cannot load it ({_reason(error)})") from error
    return _table_of_dataset(datasets, loaded, split, str(path))


def _table_of_hub(name: str, split: str | None, revision: str | None) -> RawTable:
    datasets = _datasets(f"{name}: no such local path, and a hub data set")
    asked = ", ".join(f"{key} {short(value)}" for key, value in (("split", split), ("revision", revision)) if value)
    try:
        loaded = datasets.load_dataset(name, split=split, revision=revision)
    except Exception as error:  # datasets and the network may raise anything
        raise DataError(
            f"{name}: no such local path, and it cannot be loaded as a hub data set ({asked or 'default revision'}): "
            f"{_reason(error)}"
        ) from error
    if split is not None:
        return _table_of_split(datasets, loaded, f"{name} [{split}]")
    return _table_of_dataset(datasets, loaded, None, name)


def _reason(error: BaseException) -> str:
    line = next((line for line in str(error).splitlines() if line.strip()), "")
    return f"{type(error).__name__}: {short(line, limit=200)}"


def _table_of_object(
    source: object, columns: Columns, split: str | None, revision: str | None, how: Separated
) -> RawTable:
    # an object can belong to a package only if that package is already imported, so none is imported to find out
    datasets: Any = sys.modules.get("datasets")
    kinds = ("Dataset", "IterableDataset", "DatasetDict", "IterableDatasetDict")
    if datasets is not None and isinstance(source, tuple(getattr(datasets, kind) for kind in kinds)):
        _refuse_split("this data set is already loaded", None, revision)
        _refuse_separated("this data set is already loaded", how)
        return _table_of_dataset(datasets, source, split, None)
    table = _table_of_rows(source, columns, how)
    _refuse_split(table.name, split, revision)
    return table


def _table_of_rows(source: object, columns: Columns, how: Separated) -> RawTable:
    if isinstance(source, list | tuple) and (paths := _paths_of(cast("Sequence[object]", source))):
        tables = [_table_of_path(one, None, None, how) for one in paths]
        return tables[0] if len(tables) == 1 else one_after_another(tables, astuple(columns))
    _refuse_separated("this data is no file", how)
    pandas: Any = sys.modules.get("pandas")
    polars: Any = sys.modules.get("polars")
    if pandas is not None and isinstance(source, pandas.DataFrame):
        return _table_of_pandas(source)
    if polars is not None and isinstance(source, polars.DataFrame):
        return _table_of_polars(source)
    if is_arrow_table(cast("object", source)):
        arrow = cast("Any", source)
        return table_of_arrow(arrow, f"pyarrow.Table of {arrow.num_rows} rows")
    if isinstance(source, list | tuple):
        return _table_of_list(cast("Sequence[object]", source), columns.text)
    raise DataError(f"cannot read examples from {short(source)} ({type(source).__name__}): pass {_KINDS}")


def _table_of_dataset(datasets: Any, source: Any, split: str | None, name: str | None) -> RawTable:
    called = name or f"datasets.{type(source).__name__}"
    if isinstance(source, datasets.DatasetDict | datasets.IterableDatasetDict):
        splits = [str(key) for key in source]
        if split is None and len(splits) != 1:
            raise DataError(f"{called}: choose one of its splits {', '.join(map(short, splits))} with --split")
        if split is not None and split not in splits:
            raise DataError(f"{called}: no split {short(split)}; it has {', '.join(map(short, splits))}")
        chosen = split or splits[0]
        return _table_of_split(datasets, source[chosen], f"{called} [{chosen}]")
    if split is not None and str(source.split) != split:
        raise DataError(
            f"{called}: it contains only the split {source.split}, not {short(split)}: leave out --split {split}"
        )
    return _table_of_split(datasets, source, called if name else None)


def _table_of_split(datasets: Any, source: Any, name: str | None) -> RawTable:
    features: Mapping[str, Any] = source.features or {}
    named = ((column, feature_names(feature)) for column, feature in features.items())
    classes = {column: names for column, names in named if names is not None}
    if isinstance(source, datasets.IterableDataset):
        packer = ColumnBuilder(list)
        for record in source:
            packer.add(dict(record))
        table = packed_table(name or f"datasets.IterableDataset of {len(packer)} rows", packer)
    else:
        table = _table_of_stored(source, name or f"datasets.Dataset of {source.num_rows} rows")
    return replace(table, classes=classes)


# a Dataset: mapped files, or their rows in another order; only the columns that are read are reordered
def _table_of_stored(source: Any, name: str) -> RawTable:
    def get(column: str) -> Sequence[object]:
        # the Arrow view keeps the order of select() and shuffle(), and does not decode images or audio
        view = source.select_columns([column]).with_format("arrow")
        pieces: list[Column] = []
        for start in range(0, source.num_rows, _STRETCH):
            part = view[start : start + _STRETCH].column(column)
            # reordered rows arrive as one chunk each: combine them; mapped files come in large chunks
            part = part.combine_chunks() if part.num_chunks > len(part) // 16 else part
            pieces.append(checked_column(name, column, part))
        return joined(pieces)

    return RawTable(name, int(source.num_rows), check_names(name, list(source.column_names)), get)


def _table_of_pandas(frame: Any) -> RawTable:
    name = f"pandas.DataFrame of {len(frame)} rows"
    names = check_names(name, list(frame.columns))

    def get(column: str) -> Sequence[object]:
        series = frame[column]
        if getattr(series.dtype, "storage", None) == "pyarrow":  # text that pandas already stores in Arrow memory
            return checked_column(name, column, series.array)
        return [None if null else value for value, null in zip(series.tolist(), series.isna().tolist(), strict=True)]

    return RawTable(name, len(frame), names, get)


def _table_of_polars(frame: Any) -> RawTable:
    name = f"polars.DataFrame of {frame.height} rows"

    def get(column: str) -> Sequence[object]:
        series = frame.get_column(column)
        return checked_column(name, column, series.to_arrow()) if str(series.dtype) == "String" else series.to_list()

    return RawTable(name, int(frame.height), tuple(frame.columns), get)


def _paths_of(rows: Sequence[object]) -> list[str | os.PathLike[str]]:
    """The entries of a list of paths; an empty list for any other list."""
    found = [cast("str | os.PathLike[str]", one) for one in rows if _means_a_path(one)]
    if found and len(found) < len(rows):
        odd = next(one for one in rows if not _means_a_path(one))
        raise DataError(
            f"a list of {len(rows)} mixes paths ({short(os.fspath(found[0]))}) with {short(odd)}, which is not the "
            "path of a data file: pass only paths, or pass texts as dicts with the key 'text'"
        )
    names = [os.path.realpath(one) for one in found]
    twice = next((one for place, one in enumerate(names) if one in names[:place]), None)
    if twice is not None:
        raise DataError(f"the file {short(twice, limit=300)} is given twice: give each file once")
    return found


def _means_a_path(one: object) -> bool:
    """Whether a string means a file and not a text: it has the name of a data file and nothing else in it."""
    if isinstance(one, os.PathLike):
        return True
    if not isinstance(one, str) or "\n" in one or "\0" in one:
        return False
    known = _suffix(Path(one)) in _SUFFIXES
    there = os.sep in one and _exists(Path(one))
    return there or (known and (not any(letter.isspace() for letter in one) or _exists(Path(one))))


def _table_of_list(rows: Sequence[object], text_column: str) -> RawTable:
    if not rows:
        raise DataError("an empty list: there is nothing to read")
    kinds: dict[type, str] = {str: "texts", Example: "examples", Mapping: "dicts"}
    kind = next((kind for kind in kinds if isinstance(rows[0], kind)), None)
    if kind is None:
        raise DataError(f"cannot read examples from a list of {type(rows[0]).__name__}: pass {_KINDS}")
    name = f"list of {len(rows)} {kinds[kind]}"
    odd = next((row for row, value in enumerate(rows) if not isinstance(value, kind)), None)
    if odd is not None:
        raise DataError(f"{name}: row {odd} holds {short(rows[odd])} instead: use one type for all rows")
    if kind is str:
        return RawTable(name, len(rows), (text_column,), lambda _: list(rows))
    if kind is Example:
        return _table_of_examples(name, cast("Sequence[Example]", rows))
    return table_of_records(name, cast("Sequence[Mapping[str, object]]", rows))


def _table_of_examples(name: str, rows: Sequence[Example]) -> RawTable:
    labels = {"label"} if any(row.label is not None for row in rows) else set[str]()
    weighs = _weighs(rows)
    records = [
        {"id": row.id}
        | ({"label": row.label} if labels else {})
        | ({"weight": row.weight} if weighs else {})
        | native(row.content)
        for row in rows
    ]
    return table_of_records(name, records)


def _weighs(source: object) -> bool:
    """Whether examples have weights other than 1."""
    rows = cast("Sequence[object]", source) if isinstance(source, list | tuple) else ()
    return any(isinstance(row, Example) and row.weight != 1 for row in rows)
