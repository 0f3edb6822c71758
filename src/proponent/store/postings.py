"""Postings of one segment at one checkpoint: the embedding rows of all its examples, by token.

Arrays: tokens [v'] ascending, indptr [v'+1], largest [v'] (the maximum over examples of the summed norms of the
token's rows); totals [n] (the norm of each example's gradient, as bounded by the norms of its rows); per row owners
(position in the segment, data order), words, norms, rows, and scale if rows are shorter than 32 bits.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from proponent.store.checks import check_owners, check_postings
from proponent.store.checksums import Checksums
from proponent.store.files import publish_scattered
from proponent.store.mapped import MappedTensors
from proponent.store.rows import decode

Shard = tuple[Int[np.ndarray, " m"], dict[str, np.ndarray]]
"""Examples (position in the segment) of a shard, and its stored arrays."""


class Postings:
    """Postings of one segment at one checkpoint."""

    def __init__(self, mapped: MappedTensors, n: int) -> None:
        self._file, self._n = mapped, n
        # in place: copies would take memory for every segment of an index
        self.tokens: Int[np.ndarray, " x"] = mapped.view("tokens")
        self.indptr: Int[np.ndarray, " y"] = mapped.view("indptr")
        check_postings(mapped, n, self.tokens, self.indptr)
        self.largest: Float[np.ndarray, " x"] = mapped.view("largest")
        self._short = "scale" in mapped.names
        self.width = mapped.shape("rows")[1]
        self.row_bytes = mapped.view("rows", 0, 0).itemsize * self.width

    @property
    def path(self) -> Path:
        """The file."""
        return self._file.path

    @property
    def totals(self) -> Float[np.ndarray, " n"] | None:
        """Bounds of the norms of the examples' gradients; None in an index of an earlier version."""
        return self._file.view("totals") if "totals" in self._file.names else None

    def __len__(self) -> int:
        return int(self.indptr[-1])

    def places(self, tokens: Int[np.ndarray, " k"]) -> Int[np.ndarray, " k"]:
        """Find tokens."""
        if not len(self.tokens):
            return np.full(len(tokens), -1)
        known = np.clip(tokens, -1, np.iinfo(self.tokens.dtype).max).astype(self.tokens.dtype)  # as stored: no copy
        found = np.minimum(np.searchsorted(self.tokens, known), len(self.tokens) - 1)
        return np.where(self.tokens[found] == tokens, found, -1)

    def span(self, place: int) -> tuple[int, int]:
        """The rows of one token."""
        return int(self.indptr[place]), int(self.indptr[place + 1])

    def owners(self, start: int, stop: int) -> Int[np.ndarray, " m"]:
        """Examples of some rows."""
        owners = self._file.view("owners", start, stop)
        check_owners(self._file, owners, self._n)
        return owners

    def norms(self, start: int, stop: int) -> Float[np.ndarray, " m"]:
        """Norms of some rows."""
        return self._file.view("norms", start, stop)

    def raw(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray | None]:
        """Some rows in their stored form, in place."""
        scale = self._file.view("scale", start, stop) if self._short else None
        return self._file.view("rows", start, stop), scale

    def rows(self, start: int, stop: int) -> Float[np.ndarray, "m d"]:
        """Some rows in 32-bit floats."""
        return decode(*self.raw(start, stop))

    def take(self, wanted: Int[np.ndarray, " m"]) -> Float[np.ndarray, "m d"]:
        """Chosen rows in 32-bit floats; only their blocks are read."""
        return decode(self._file.take("rows", wanted), self._file.take("scale", wanted) if self._short else None)

    def lookup(self, token: int) -> tuple[Int[np.ndarray, " m"], Float[np.ndarray, "m d"]] | None:
        """Read one token's block."""
        place = int(self.places(np.asarray([token]))[0])
        return None if place < 0 else (self.owners(*self.span(place)), self.rows(*self.span(place)))


def write_postings(path: Path, n: int, shards: Callable[[tuple[str, ...]], Iterator[Shard]]) -> Checksums:
    """Convert the shards of a segment of n examples to postings: one pass counts, one writes each row to its place."""
    # Memory: the token ids and owners of the segment, and the rows of one shard.
    counts = np.zeros(0, dtype=np.int64)
    width, kind, short = 0, np.dtype(np.float32), False
    for _, arrays in shards(("rows.ids",)):
        found = np.bincount(arrays["rows.ids"], minlength=len(counts))
        found[: len(counts)] += counts
        counts = found
    for _, arrays in shards(("rows.rows", "rows.scale")):
        width, kind, short = arrays["rows.rows"].shape[1], arrays["rows.rows"].dtype, "rows.scale" in arrays
        break
    tokens, total = np.flatnonzero(counts), int(counts.sum())
    indptr = np.concatenate([[0], np.cumsum(counts[tokens])])
    shapes = {
        "tokens": (np.dtype("<i4"), (len(tokens),)),
        "indptr": (np.dtype("<i8"), (len(tokens) + 1,)),
        "largest": (np.dtype("<f4"), (len(tokens),)),
        "totals": (np.dtype("<f4"), (n,)),
        "owners": (np.dtype("<i4"), (total,)),
        "words": (np.dtype("<i4"), (total,)),
        "norms": (np.dtype("<f4"), (total,)),
        "rows": (kind, (total, width)),
    } | ({"scale": (np.dtype("<f4"), (total,))} if short else {})

    def fill(put: Callable[[str, int, np.ndarray], None]) -> None:
        held = {name: np.zeros(total, dtype=shapes[name][0]) for name in ("owners", "words", "norms")}
        held |= {"scale": np.zeros(total, dtype=np.float32)} if short else {}
        free = np.zeros(len(counts), dtype=np.int64)
        free[tokens] = indptr[:-1]
        for examples, arrays in shards(("rows.indptr", "rows.ids", "rows.words", "rows.rows", "rows.scale")):
            _scatter(put, held, free, examples, arrays)
        for name, values in held.items():
            put(name, 0, values)
        put("tokens", 0, tokens)
        put("indptr", 0, indptr)
        for name, values in _bounds(held["owners"], held["norms"], indptr, n).items():
            put(name, 0, values)

    return publish_scattered(path, shapes, fill)


def norms_of(kept: np.ndarray, scale: np.ndarray | None) -> Float[np.ndarray, " m"]:
    """Norms of rows as stored, never below the true norms."""
    wide = kept.astype(np.float32, copy=False)
    squares = np.einsum("kd,kd->k", wide, wide, dtype=np.float64)
    norms = np.sqrt(squares) if scale is None else np.sqrt(squares) * scale
    return np.nextafter(norms.astype(np.float32), np.float32(np.inf))


def _bounds(
    owners: Int[np.ndarray, " m"], norms: Float[np.ndarray, " m"], indptr: Int[np.ndarray, " y"], n: int
) -> dict[str, Float[np.ndarray, " x"]]:
    """Bound each token's rows of one example, and each example's gradient, never below the true norms."""
    # A token may occur in several words of an example, with one row each: their norms are added.
    if not len(owners):
        return {"largest": np.zeros(0, dtype=np.float32), "totals": np.zeros(n, dtype=np.float32)}
    first = np.concatenate([[True], np.diff(owners) != 0])
    first[indptr[:-1]] = True
    begins = np.flatnonzero(first)
    sums = np.add.reduceat(norms.astype(np.float64), begins)
    found = {
        "largest": np.maximum.reduceat(sums, np.searchsorted(begins, indptr[:-1])),
        "totals": np.sqrt(np.bincount(owners[begins], weights=sums * sums, minlength=n)),
    }
    return {name: np.nextafter(values.astype(np.float32), np.float32(np.inf)) for name, values in found.items()}


def _scatter(
    put: Callable[[str, int, np.ndarray], None],
    held: dict[str, np.ndarray],
    free: Int[np.ndarray, " v"],
    examples: Int[np.ndarray, " m"],
    arrays: dict[str, np.ndarray],
) -> None:
    """Write the rows of one shard after the rows that their tokens already have."""
    ids = arrays["rows.ids"]
    if not len(ids):
        return
    order = np.argsort(ids, kind="stable")
    sorted_ids = ids[order]
    begins = np.flatnonzero(np.concatenate([[True], np.diff(sorted_ids) != 0]))
    lengths = np.diff(np.append(begins, len(ids)))
    token = sorted_ids[begins]
    targets = np.repeat(free[token] - begins, lengths) + np.arange(len(ids))
    owners = examples[np.repeat(np.arange(len(arrays["rows.indptr"]) - 1), np.diff(arrays["rows.indptr"]))]
    held["owners"][targets] = owners[order]
    held["words"][targets] = arrays["rows.words"][order]
    held["norms"][targets] = norms_of(arrays["rows.rows"], arrays.get("rows.scale"))[order]
    if "scale" in held:
        held["scale"][targets] = arrays["rows.scale"][order]
    rows, at = arrays["rows.rows"][order], free[token]
    apart = np.flatnonzero(at[1:] != at[:-1] + lengths[:-1]) + 1  # adjacent tokens are written in one piece
    firsts = np.concatenate([[0], apart])
    bounds = np.append(begins[firsts], len(ids)).tolist()
    for begin, end, target in zip(bounds[:-1], bounds[1:], at[firsts].tolist(), strict=True):
        put("rows", target, rows[begin:end])
    free[token] += lengths
