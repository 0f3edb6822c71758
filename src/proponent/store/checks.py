"""Check counts and indices for consistency, in files whose checksums are right.

A faulty or hostile writer may have written them: an index outside of an array must not be used.
"""

from collections.abc import Callable
from typing import NoReturn

import numpy as np
from jaxtyping import Int

from proponent.errors import DamagedError
from proponent.store.mapped import MappedTensors
from proponent.store.shard_outputs import REQUIRED

MOST_TOKENS = 2**24
"""Tokens have smaller ids: merging counts the rows of every token up to the largest id."""

MOST_WORDS = 2**26
"""Words of an example have smaller numbers."""

ROWS = ("rows.ids", "rows.words", "rows.rows")
"""Names of the arrays of embedding rows."""


def check_shard(file: MappedTensors, n: int) -> None:
    """Check a shard before its first use."""
    names = set(file.names)
    wrong = _refusing(file)
    forms = {name.partition(".")[0] for name in names} - {"meta"}
    needed = set(REQUIRED) | {f"{form}.indptr" for form in forms}
    needed |= set(ROWS) if "rows" in forms else set()
    if needed - names:
        wrong(f"it has no array {min(needed - names)!r}")
    for name in sorted(names):
        form, _, array = name.partition(".")
        shape = file.shape(name)
        if form == "meta" and (shape[:1] != (n,) or len(shape) > 2):
            wrong(f"{name} is not of {n} examples")
        if form != "meta" and array != "indptr" and shape[:1] != (_rows(file, form, n),):
            wrong(f"{name} has a different number of rows than {form}.indptr")
    if "rows" in forms:
        _check_rows(file)


def _rows(file: MappedTensors, form: str, n: int) -> int:
    """Rows of a form, after their bounds are checked."""
    indptr, wrong = file.view(f"{form}.indptr"), _refusing(file)
    if indptr.dtype.kind != "i" or indptr.shape != (n + 1,) or indptr[0] != 0 or (np.diff(indptr) < 0).any():
        wrong(f"{form}.indptr does not bound the rows of {n} examples")
    return int(indptr[-1])


def _check_rows(file: MappedTensors) -> None:
    ids, words, wrong = file.view("rows.ids"), file.view("rows.words"), _refusing(file)
    if ids.dtype.kind != "i" or words.dtype.kind != "i" or ids.ndim != 1 or words.ndim != 1:
        wrong("rows.ids and rows.words are not whole numbers")
    if ids.min(initial=0) < 0 or words.min(initial=-1) < -1:
        wrong("a token or word is below 0")
    if ids.max(initial=0) >= MOST_TOKENS or words.max(initial=0) >= MOST_WORDS:
        wrong("a token is beyond any vocabulary, or a word beyond any text")
    if len(file.shape("rows.rows")) != 2 or ("rows.scale" in file.names and len(file.shape("rows.scale")) != 1):
        wrong("rows.rows or rows.scale has another shape")


def check_postings(file: MappedTensors, n: int, tokens: Int[np.ndarray, " x"], indptr: Int[np.ndarray, " y"]) -> None:
    """Check postings of n examples when they are opened; owners are checked when they are read."""
    wrong = _refusing(file)
    if "totals" in file.names and file.shape("totals") != (n,):
        wrong(f"totals are not of {n} examples")
    if tokens.ndim != 1 or indptr.shape != (len(tokens) + 1,) or file.shape("largest") != tokens.shape:
        wrong("tokens, indptr and largest have different lengths")
    if tokens.dtype.kind != "i" or indptr.dtype.kind != "i" or file.view("largest", 0, 0).dtype.kind != "f":
        wrong("tokens, indptr or largest have another type")
    if indptr[0] != 0 or (indptr[1:] < indptr[:-1]).any() or (tokens[1:] <= tokens[:-1]).any():
        wrong("its tokens or their bounds are not sorted")
    total = int(indptr[-1])
    each = [name for name in ("owners", "words", "norms", "scale") if name in file.names]
    if any(file.shape(name) != (total,) for name in each) or file.shape("rows")[:1] != (total,):
        wrong(f"its arrays are not of {total} rows")
    if len(file.shape("rows")) != 2 or file.view("owners", 0, 0).dtype.kind != "i":
        wrong("rows or owners have another shape")


def check_owners(file: MappedTensors, owners: Int[np.ndarray, " m"], n: int) -> None:
    """Check the examples that rows belong to."""
    if len(owners) and not 0 <= int(owners.min()) <= int(owners.max()) < n:
        _refusing(file)(f"it refers to examples outside the segment of {n}")


def check_features(file: MappedTensors, name: str, array: np.ndarray, n: int, classes: int) -> None:
    """Check an array over the examples of a segment."""
    wrong = _refusing(file)
    if array.ndim not in {1, 2} or array.shape[1 if name == "losses" and array.ndim == 2 else 0] != n:
        wrong(f"{name} is not of {n} examples")
    if name == "skipped" and (array.dtype != np.bool_ or array.ndim != 1):
        wrong("skipped is not true or false")
    if name == "truncated" and (array.dtype != np.bool_ or array.ndim != 1):
        wrong("truncated is not true or false")
    if name == "counted" and (array.dtype.kind != "i" or array.ndim != 1 or array.min(initial=0) < 0):
        wrong("counted are not numbers of tokens")
    if name == "losses" and array.ndim != 2:
        wrong("losses are not of checkpoints and examples")
    if name.partition(".")[0] in {"probabilities", "mean_probabilities"} and array.shape != (n, classes):
        wrong(f"{name} are not of {classes} classes")
    if name == "labels":
        whole = array.dtype.kind == "i" and array.ndim == 1
        if not whole or array.min(initial=-1) < -1 or array.max(initial=-1) >= max(classes, 0):
            wrong(f"labels are not those of {classes} classes")


def _refusing(file: MappedTensors) -> Callable[[str], NoReturn]:
    def wrong(what: str) -> NoReturn:
        raise DamagedError(f"{file.path} is not a valid file of an index ({what}): build the index again")

    return wrong
