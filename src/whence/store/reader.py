"""Read an index without torch and without the model: plan, examples, forms and postings."""

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from whence.errors import DamagedError, InputError
from whence.examples import read_parquet
from whence.store.files import sha256
from whence.store.manifest import Manifest, Plan, merkle_root, read_json
from whence.tensors import TensorSlices, read_tensors


class Postings:
    """Token-major embedding gradients of one checkpoint: per token one contiguous block.

    Args:
        folder: postings of one checkpoint.
    """

    def __init__(self, folder: Path) -> None:
        self._parts = [TensorSlices(path) for path in sorted(folder.glob("part-*.safetensors"))]
        self._places: dict[int, tuple[int, int, int]] = {}
        for number, part in enumerate(self._parts):
            head = read_tensors(part.path, ("tokens", "indptr"))
            bounds = zip(
                head["tokens"].tolist(), head["indptr"][:-1].tolist(), head["indptr"][1:].tolist(), strict=True
            )
            self._places |= {token: (number, start, stop) for token, start, stop in bounds}

    @property
    def tokens(self) -> list[int]:
        """Tokens that some training example holds."""
        return list(self._places)

    def lookup(self, token: int) -> tuple[Int[np.ndarray, " m"], Float[np.ndarray, "m d"]] | None:
        """Read one token's block.

        Args:
            token: its id.

        Returns:
            Owners (in data order, ascending, repeated when the token stands in several words) and rows; None when no
            training example holds the token.
        """
        place = self._places.get(token)
        if place is None:
            return None
        part = self._parts[place[0]]
        return part.read("owners", place[1], place[2]), part.read("rows", place[1], place[2])


class Store:
    """A finished index on disk.

    Args:
        folder: the index.

    Raises:
        InputError: there is no index, or its build was not finished.
        DamagedError: plan or manifest is not what was written, or a file is missing.
        MismatchError: it was written by a newer version of the format.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        if not (folder / "plan.json").is_file():
            raise InputError(f"no index at {folder}: build one with `whence index RUN DATA --out {folder}`")
        self.plan = read_json(folder / "plan.json", Plan)
        if not (folder / "manifest.json").is_file():
            raise InputError(
                f"the index at {folder} is unfinished: run the same `whence index` command again, it resumes"
            )
        self.manifest = read_json(folder / "manifest.json", Manifest)
        self._right: set[Path] = set()
        self._check()

    @cached_property
    def examples(self) -> dict[str, list[object]]:
        """Columns of the training set in data order."""
        return {
            name: list(column)
            for name, column in read_parquet(self._whole(self.folder / "examples" / "part-00000.parquet")).items()
        }

    @cached_property
    def features(self) -> dict[str, np.ndarray]:
        """Arrays over the examples: "order" [n], "losses" [c n], "probabilities" [n l], "pooled" [n d] ..."""
        return read_tensors(self._whole(self.folder / "examples" / "features.safetensors"))

    @property
    def order(self) -> Int[np.ndarray, " n"]:
        """Example (in data order) of each place in the shards."""
        return self.features["order"]

    @cached_property
    def places(self) -> Int[np.ndarray, " n"]:
        """Place in the shards of each example."""
        places = np.empty(self.plan.n, dtype=np.int64)
        places[self.order] = np.arange(self.plan.n)
        return places

    def postings(self, step: int) -> Postings:
        """Open a checkpoint's postings.

        Args:
            step: the checkpoint.

        Returns:
            The postings.
        """
        folder = self.folder / "postings" / f"step-{step}"
        for path in folder.glob("part-*.safetensors"):
            self._whole(path)
        return Postings(folder)

    def shards(self, step: int) -> Iterator[tuple[Int[np.ndarray, " m"], dict[str, np.ndarray]]]:
        """Read a checkpoint's forms, shard by shard.

        Args:
            step: the checkpoint.

        Yields:
            Examples (in data order) of the shard, and its arrays.
        """
        for shard, (start, stop) in enumerate(zip(self.plan.shards[:-1], self.plan.shards[1:], strict=True)):
            yield self.order[start:stop], read_tensors(self._whole(self._shard(step, shard)))

    def example_arrays(self, step: int, example: int) -> dict[str, np.ndarray]:
        """Read the forms of one example without reading its shard.

        Args:
            step: the checkpoint.
            example: in data order.

        Returns:
            The arrays of a shard of one example.
        """
        place = int(self.places[example])
        shard = int(np.searchsorted(self.plan.shards, place, side="right")) - 1
        slices = TensorSlices(self._whole(self._shard(step, shard)))
        position = place - self.plan.shards[shard]
        taken: dict[str, np.ndarray] = {}
        for name in slices.names:
            form, _, array = name.partition(".")
            if form == "meta":
                continue
            start, stop = slices.read(f"{form}.indptr", position, position + 2).tolist()
            taken[name] = np.asarray([0, stop - start]) if array == "indptr" else slices.read(name, start, stop)
        return taken

    def table(self, step: int) -> dict[str, np.ndarray]:
        """Read the table that a checkpoint's products need.

        Args:
            step: the checkpoint.

        Returns:
            Arrays by name.
        """
        return read_tensors(self._whole(self.folder / "tables" / f"step-{step}.safetensors"))

    def _check(self) -> None:
        """Check what is cheap: the seal, the plan, and that every file is there."""
        files = self.manifest.files
        sealed = self.manifest.digest == self.manifest.own_digest() and self.manifest.merkle_root == merkle_root(files)
        written = {"manifest.json": sealed, "plan.json": files.get("plan.json") == sha256(self.folder / "plan.json")}
        for name, right in written.items():
            if not right:
                raise DamagedError(
                    f"{self.folder / name} is not what was written (its digest differs): build the index again"
                )
        missing = next((name for name in files if not (self.folder / name).is_file()), None)
        if missing is not None:
            raise DamagedError(
                f"{self.folder / missing} is missing: restore it, or run the same `whence index` command again"
            )

    def _whole(self, path: Path) -> Path:
        """Check a file against the manifest before its first use: a flipped bit must not become an answer."""
        if path not in self._right:
            name = path.relative_to(self.folder).as_posix()
            if not path.is_file() or self.manifest.files.get(name) != sha256(path):
                raise DamagedError(f"{path} is not what was written: restore it, or build the index again")
            self._right.add(path)
        return path

    def _shard(self, step: int, shard: int) -> Path:
        return self.folder / "forms" / f"step-{step}" / f"shard-{shard:05d}.safetensors"
