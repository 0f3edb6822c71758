"""Made-up and spoilt files of an index: only typed errors, little memory, little time. Every digest is put right again
where the format would refuse the change by it, so that what reads behind the digest is reached."""

import functools
import json
import os
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st

import faults
from proponent.errors import DamagedError, ProponentError
from proponent.store import Checksums, Manifest, Plan, Store, verify
from proponent.store.checksums import sums_of
from proponent.store.files import finished, publish_tensors
from proponent.store.manifest import canonical, merkle_root
from proponent.store.mapped import MappedTensors

FUZZ = settings(
    max_examples=int(os.environ.get("PROPONENT_FUZZ", "25")),
    phases=(Phase.explicit, Phase.generate),
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)
FULL = "PROPONENT_FUZZ" in os.environ
MOST_SECONDS, MOST_BYTES = 5.0, 24 * 2**20

scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(["../plan.json", "/etc/passwd", "a/../../b", "\0", "x" * 5000, "\ud800", 1e308, 2**31, -1, "F32"])
)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip
paths = st.lists(st.integers(0, 30), min_size=1, max_size=6)
SCORES = "scores"


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fuzz") / "index"
    for job in ({"do": "build"}, {"do": "append"}, {"do": "delete"}):
        faults.change(folder, job)
    return folder


def bounded(work: Callable[[], object], size: int) -> None:
    """Run work that may end in a typed error and in nothing else, within limits of memory and (in full size) time."""
    began = time.process_time()
    tracemalloc.start()
    try:
        work()
    except ProponentError as error:
        if len(str(error).splitlines()) != 1:
            raise AssertionError("an error of more than one line") from error
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert not FULL or time.process_time() - began < MOST_SECONDS
    assert peak < 40 * size + MOST_BYTES, f"{peak} bytes for {size}"


def put(tree: Any, path: list[int], value: Any) -> Any:
    """Replace what stands at a place of a JSON tree; also its names."""
    if isinstance(tree, dict) and tree:
        key = sorted(tree)[path[0] % len(tree)]
        if len(path) == 1 and path[0] % 5 == 4:
            return {name if name != key else str(value): held for name, held in tree.items()}
        return tree | {key: put(tree[key], path[1:], value) if len(path) > 1 else value}
    if isinstance(tree, list) and tree:
        at = path[0] % len(tree)
        return [*tree[:at], put(tree[at], path[1:], value) if len(path) > 1 else value, *tree[at + 1 :]]
    return value


def everything(folder: Path) -> None:
    """Ask everything of an index; `answers` takes the typed errors, everything else comes through."""
    faults.answers(folder, allow_missing=True)
    verify(folder)


def text_of(tree: Any) -> bytes:
    return json.dumps(tree, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()


# ---- bytes ----


@FUZZ
@given(st.sampled_from(["manifest.json", "plan.json"]), st.binary(max_size=300))
@example("manifest.json", b"[" * 200_000)
@example("plan.json", b'{"format":' * 50_000)
@example("manifest.json", b'{"format":' + b"9" * 10_000 + b"}")
@example("manifest.json", b"\xff\xfe{}")
def test_any_bytes_in_place_of_plan_or_manifest(index: Path, name: str, data: bytes) -> None:
    whole = (index / name).read_bytes()
    try:
        (index / name).write_bytes(data)
        bounded(lambda: everything(index), len(data))
    finally:
        (index / name).write_bytes(whole)


@FUZZ
@given(st.binary(max_size=400))
@example(b"")
@example((2**63).to_bytes(8, "little") + b"{}")
@example((2).to_bytes(8, "little") + b"{}")
@example((100_000).to_bytes(8, "little") + b"[" * 100_000)
def test_any_bytes_in_place_of_a_shard(index: Path, data: bytes) -> None:
    path = index.parent / "any.safetensors"
    path.write_bytes(data)
    bounded(lambda: MappedTensors(path).all(), len(data))


# ---- trees ----


def sealed(tree: Any) -> Any:
    """Put root and digest of a manifest right, where it still is one."""
    try:
        manifest = Manifest.model_validate_json(text_of(tree))
        return json.loads(canonical(manifest.model_copy(update={"merkle_root": merkle_root(manifest.files)}).sealed()
                                    .model_dump()))  # fmt: skip
    except (ValueError, TypeError):
        return tree


@FUZZ
@given(paths, values)
@example([3, 0], float("inf"))
@example([0], "/etc/passwd")
@example([1], "../x")
def test_a_changed_manifest_with_its_digest_put_right(index: Path, path: list[int], value: Any) -> None:
    target = index / "manifest.json"
    whole = target.read_bytes()
    data = text_of(sealed(put(json.loads(whole), path, value)))
    try:
        target.write_bytes(data)
        bounded(lambda: everything(index), len(data))
    finally:
        target.write_bytes(whole)


@FUZZ
@given(paths, values)
def test_a_changed_plan_with_its_sums_put_right(index: Path, path: list[int], value: Any) -> None:
    data = text_of(put(json.loads((index / "plan.json").read_bytes()), path, value))
    with Replaced(index, "plan.json", data):
        bounded(lambda: everything(index), len(data))


HEADERS = [
    "forms/step-3/seg-00000-shard-00000.safetensors",
    "postings/step-3/seg-00000.safetensors",
    "postings/step-7/seg-00002.safetensors",
    "examples/seg-00000.safetensors",
    "tables/step-3.safetensors",
    "tombstones/gen-00003.safetensors",
]


@FUZZ
@example("tables/step-3.safetensors", [9], None)  # the array that a method needs is called otherwise
@given(st.sampled_from(HEADERS), paths, values | st.sampled_from(["F32", "I64", "U8", "BOOL", "F16", [0, 10**30], [0]]))
def test_a_changed_header_with_its_sums_put_right(index: Path, name: str, path: list[int], value: Any) -> None:
    whole = (index / name).read_bytes()
    begin = 8 + int.from_bytes(whole[:8], "little")
    header = text_of(put(json.loads(whole[8:begin]), path, value))
    data = len(header).to_bytes(8, "little") + header + whole[begin:]
    with Replaced(index, name, data):
        bounded(lambda: everything(index), len(data))


NUMBERS = st.sampled_from([-1, 0, 1, 2, 5, 7, 100, 2**31 - 1, -(2**31)])


@FUZZ
@given(st.sampled_from(HEADERS), st.integers(0, 20), st.lists(st.tuples(st.integers(0, 10_000), NUMBERS), max_size=4))
def test_changed_numbers_with_their_sums_put_right(
    index: Path, name: str, at: int, changes: list[tuple[int, int]]
) -> None:
    arrays = MappedTensors(index / name).all()
    chosen = sorted(arrays)[at % len(arrays)]
    flat = arrays[chosen].reshape(-1)
    for place, number in changes if flat.size else ():
        with np.errstate(all="ignore"):
            flat[place % flat.size] = np.asarray(number).astype(flat.dtype)
    publish_tensors(index.parent / "changed.safetensors", arrays)
    with Replaced(index, name, (index.parent / "changed.safetensors").read_bytes()):
        bounded(lambda: everything(index), 10_000)


@pytest.mark.parametrize("shape", [[0, 10**30], [0, 2**62, 2**62], [10**30, 0], [1] * 40, [], [-1], [1.0], ["1"], None])
def test_shapes_that_no_array_has(tmp_path: Path, shape: Any) -> None:
    header = text_of({"a": {"dtype": "U8", "shape": shape, "data_offsets": [0, 0]}})
    (tmp_path / "a.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(DamagedError, match=r"a\.safetensors"):
        MappedTensors(tmp_path / "a.safetensors")


def test_many_arrays_and_long_headers_are_refused_soon(tmp_path: Path) -> None:
    one = {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]}
    for header in (text_of({str(at): one for at in range(11_000)}), b"{" + b" " * 2**21 + b"}"):
        (tmp_path / "a.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
        with pytest.raises(DamagedError):
            MappedTensors(tmp_path / "a.safetensors")
        bounded(lambda: MappedTensors(tmp_path / "a.safetensors"), len(header))


@FUZZ
@given(st.binary(max_size=200) | values.map(lambda tree: text_of(tree)))
def test_any_note(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    (tmp_path / "a.done").write_bytes(data)
    found = finished(tmp_path / "a")
    assert found is None or isinstance(found, Checksums)


class Replaced:
    """A file of an index in other bytes, its sums and the seal put right; a context manager."""

    def __init__(self, folder: Path, name: str, data: bytes) -> None:
        self.folder, self.name, self.data = folder, name, data
        self.kept = {one: (folder / one).read_bytes() for one in (name, "manifest.json")}

    def __enter__(self) -> None:
        manifest = Manifest.model_validate_json(self.kept["manifest.json"])
        files = manifest.files | {self.name: sums_of([self.data])}
        (self.folder / self.name).write_bytes(self.data)
        text = canonical(manifest.model_copy(update={"files": files}).sealed().model_dump()) + "\n"
        (self.folder / "manifest.json").write_text(text, encoding="utf-8")

    def __exit__(self, *_: object) -> None:
        for name, data in self.kept.items():
            (self.folder / name).write_bytes(data)


def test_the_fuzz_reaches_behind_the_digest(index: Path) -> None:
    """The control: a harmless change with its sums put right is taken."""
    with Replaced(index, "plan.json", (index / "plan.json").read_bytes().replace(b"runs/news", b"runs/olds")):
        assert Store(index).plan.run == "runs/olds"
        assert not verify(index).damage
    assert Plan.model_validate_json((index / "plan.json").read_bytes()).run == "runs/news"
    functools.reduce(lambda _, one: one, [SCORES])
