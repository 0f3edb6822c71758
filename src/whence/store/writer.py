"""Write an index: plan first, shards in any order, postings and manifest last. A killed build resumes."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import cast

import numpy as np
from jaxtyping import Int

from whence.errors import MismatchError
from whence.store.files import TEMPORARY, Columns, publish_table, publish_tensors, publish_text, sha256
from whence.store.manifest import FORMAT, Manifest, Plan, SkippedRow, canonical, merkle_root, read_json
from whence.tensors import read_tensors

PART_BYTES = 256 * 2**20
"""Bytes of rows aimed at in one file of postings; writing it takes about four times as much memory. The rows of one
token are never split, so a token that stands in every example makes a larger file."""

Arrays = Mapping[str, np.ndarray]


class Writer:
    """An index being built.

    Args:
        folder: where the index goes; made when it is not there.
        plan: what it will hold.

    Raises:
        MismatchError: the folder holds something else: another plan, or files that are not ours.
    """

    def __init__(self, folder: Path, plan: Plan) -> None:
        self.folder = folder
        self.plan = plan
        self._claim()

    @property
    def finished(self) -> Manifest | None:
        """The manifest of an index that is sealed and has all of its files; None while something is to be done."""
        path = self.folder / "manifest.json"
        manifest = read_json(path, Manifest) if path.is_file() else None
        whole = manifest is not None and all((self.folder / name).is_file() for name in manifest.files)
        return manifest if whole else None

    def has_shard(self, step: int, shard: int) -> bool:
        """Say whether a shard was finished, now or by an earlier build.

        Args:
            step: the checkpoint.
            shard: number of the shard.

        Returns:
            True when its file is published.
        """
        return self._shard(step, shard).is_file()

    def read_shard(self, step: int, shard: int) -> dict[str, np.ndarray]:
        """Read a finished shard back.

        Args:
            step: the checkpoint.
            shard: number of the shard.

        Returns:
            Its arrays.
        """
        return read_tensors(self._shard(step, shard))

    def put_shard(self, step: int, shard: int, arrays: Arrays) -> None:
        """Publish one shard of forms.

        Args:
            step: the checkpoint.
            shard: number of the shard.
            arrays: by name.
        """
        publish_tensors(self._shard(step, shard), arrays)

    def put_table(self, step: int, arrays: Arrays) -> None:
        """Publish the table (embedding or head) that a checkpoint's products need.

        Args:
            step: the checkpoint.
            arrays: by name.
        """
        publish_tensors(self.folder / "tables" / f"step-{step}.safetensors", arrays)

    def read_table(self, step: int) -> dict[str, np.ndarray]:
        """Read a published table back.

        Args:
            step: the checkpoint.

        Returns:
            Its arrays; none when there is no table.
        """
        path = self.folder / "tables" / f"step-{step}.safetensors"
        return read_tensors(path) if path.is_file() else {}

    def put_examples(self, columns: Columns, features: Arrays) -> None:
        """Publish the training set.

        Args:
            columns: equally long lists by name, in data order.
            features: arrays over examples (losses, probabilities, hidden states).
        """
        publish_table(self.folder / "examples" / "part-00000.parquet", columns)
        publish_tensors(self.folder / "examples" / "features.safetensors", features)

    def put_postings(self, step: int, order: Int[np.ndarray, " n"]) -> None:
        """Turn a checkpoint's example-major shards into token-major postings.

        Args:
            step: the checkpoint.
            order: example (in data order) of each place in the shards.
        """
        folder = self.folder / "postings" / f"step-{step}"
        counts = self._token_counts(step)
        names: set[str] = set()
        for part, (first, last) in enumerate(_ranges(counts, PART_BYTES // self._row_bytes(step))):
            path = folder / f"part-{part:05d}.safetensors"
            publish_tensors(path, self._posting_part(step, order, first, last))
            names.add(path.name)
        for stale in folder.glob("part-*"):  # an earlier, interrupted build may have cut the vocabulary otherwise
            if stale.name not in names:
                stale.unlink()

    def seal(self, skipped: Sequence[SkippedRow], notes: Sequence[str], seconds: Mapping[str, float]) -> None:
        """Hash every file and write the manifest: the index exists from here on.

        Args:
            skipped: rows without a gradient.
            notes: lines that every answer repeats.
            seconds: time by stage.
        """
        files = {path.relative_to(self.folder).as_posix(): sha256(path) for path in self._files()}
        manifest = Manifest(
            format=FORMAT,
            merkle_root=merkle_root(files),
            files=files,
            skipped=list(skipped),
            notes=list(notes),
            seconds=dict(seconds),
        )
        publish_text(self.folder / "manifest.json", canonical(manifest.sealed().model_dump()) + "\n")

    def _claim(self) -> None:
        planned = self.folder / "plan.json"
        if planned.is_file():
            refuse_other_plan(self.folder, read_json(planned, Plan), self.plan, finished=self.finished is not None)
            for stray in self.folder.rglob(f"*{TEMPORARY}"):
                stray.unlink()
            if self.finished is None:  # a seal over files that are gone
                (self.folder / "manifest.json").unlink(missing_ok=True)
            return
        if self.folder.exists() and not self.folder.is_dir():
            raise MismatchError(f"{self.folder} is a file: choose another --out")
        held = {entry.name for entry in self.folder.iterdir()} if self.folder.is_dir() else set[str]()
        if held - {planned.name + TEMPORARY}:
            raise MismatchError(
                f"{self.folder} is not empty and not an index (it holds {min(held)}): choose another --out"
            )
        publish_text(planned, canonical(self.plan.model_dump()) + "\n")

    def _files(self) -> Iterator[Path]:
        for path in sorted(self.folder.rglob("*")):
            if path.is_file() and path.name != "manifest.json" and not path.name.endswith(TEMPORARY):
                yield path

    def _shard(self, step: int, shard: int) -> Path:
        return self.folder / "forms" / f"step-{step}" / f"shard-{shard:05d}.safetensors"

    def _shards(self, step: int, names: tuple[str, ...]) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
        for shard, start in enumerate(self.plan.shards[:-1]):
            yield start, read_tensors(self._shard(step, shard), names)

    def _row_bytes(self, step: int) -> int:
        rows = read_tensors(self._shard(step, 0), ("rows.rows",))["rows.rows"]
        return int(rows.shape[1]) * rows.itemsize

    def _token_counts(self, step: int) -> Int[np.ndarray, " v"]:
        total = np.zeros(0, dtype=np.int64)
        for _, arrays in self._shards(step, ("rows.ids",)):
            counts = np.bincount(arrays["rows.ids"], minlength=len(total))
            counts[: len(total)] += total
            total = counts
        return total

    def _posting_part(self, step: int, order: Int[np.ndarray, " n"], first: int, last: int) -> dict[str, np.ndarray]:
        found: list[tuple[np.ndarray, ...]] = []
        for start, arrays in self._shards(step, ("rows.indptr", "rows.ids", "rows.words", "rows.rows")):
            ids = arrays["rows.ids"]
            chosen = (ids >= first) & (ids < last)
            places = np.repeat(np.arange(len(arrays["rows.indptr"]) - 1), np.diff(arrays["rows.indptr"]))[chosen]
            found.append(
                (ids[chosen], order[start + places], arrays["rows.words"][chosen], arrays["rows.rows"][chosen])
            )
        ids, owners, words, rows = (np.concatenate(column) for column in zip(*found, strict=True))
        by_token = np.lexsort((words, owners, ids))
        tokens, begins = np.unique(ids[by_token], return_index=True)
        return {
            "tokens": tokens.astype(np.int32),
            "indptr": np.append(begins, len(ids)).astype(np.int64),
            "owners": owners[by_token].astype(np.int32),
            "words": words[by_token].astype(np.int32),
            "rows": rows[by_token],
        }


def refuse_other_plan(folder: Path, found: Plan, wanted: Plan, *, finished: bool) -> None:
    """Refuse to go on with an index of something else.

    Args:
        folder: the index.
        found: its plan.
        wanted: the plan of this build.
        finished: whether the index is sealed; an unfinished one is not completed by another version of whence.

    Raises:
        MismatchError: they differ; the message names the first differing field with both values.
    """
    ignored = {"run", "tokenizer", "data", "columns"}  # names may change; what they name may not
    ignored |= {"whence"} if finished else set()
    mine, other = wanted.model_dump(exclude=ignored), found.model_dump(exclude=ignored)
    for name, value in other.items():
        if value == mine[name]:
            continue
        field, there, here = _difference(name, value, mine[name])
        raise MismatchError(
            f"{folder} already holds an index of something else: its {field} is {there}, not {here}: "
            "choose another --out, or delete that folder"
        )


def _difference(name: str, there: object, here: object) -> tuple[str, object, object]:
    """Go down into a nested value, so that the message names the smallest thing that differs."""
    if isinstance(there, dict) and isinstance(here, dict):
        mine, other = cast("dict[str, object]", here), cast("dict[str, object]", there)
        key = next(key for key in sorted({*mine, *other}) if mine.get(key) != other.get(key))
        return _difference(f"{name} {key}", other.get(key), mine.get(key))
    if isinstance(there, list) and isinstance(here, list):
        pairs = zip(cast("list[object]", there), cast("list[object]", here), strict=False)
        unlike = next(((place, pair) for place, pair in enumerate(pairs) if pair[0] != pair[1]), None)
        if unlike is not None:
            return _difference(f"{name} {unlike[0] + 1}", *unlike[1])
    return name, _short(cast("object", there)), _short(cast("object", here))


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _ranges(counts: Int[np.ndarray, " v"], most: int) -> Iterator[tuple[int, int]]:
    """Cut the vocabulary into runs of tokens with at most `most` postings (a single token may exceed it)."""
    first, held = 0, 0
    for token, count in enumerate(counts.tolist()):
        if held and held + count > most:
            yield first, token
            first, held = token, 0
        held += count
    if held:
        yield first, len(counts)
