"""The process that seals an index of many workers: what is changed, missing or done twice is found and named."""

import shutil
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest

import proponent
from proponent.errors import DamagedError, MismatchError, ProponentError
from proponent.store import Store, verify
from proponent.store.files import NOTE, note_of
from runs import OTHERS

ROWS = [{**row, "id": f"{row['id']}-{copy}"} for copy in range(2) for row in OTHERS]
METHODS = ("tracin-we", "grad-cos")


def part(run: Path, folder: Path, number: int, method: str = "tracin-we", **changes: Any) -> None:
    proponent.build(run, ROWS, folder, method, shard=f"{number}/3", segment_rows=12, quiet=True, **changes)


@pytest.fixture(scope="module")
def alone(bert_run: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Roots of the indexes that a single process builds."""
    home = tmp_path_factory.mktemp("alone")
    made = {one: proponent.build(bert_run, ROWS, home / one, one, segment_rows=12, quiet=True) for one in METHODS}
    return {one: index.store.manifest.merkle_root for one, index in made.items()}


@pytest.fixture(scope="module")
def begun(bert_run: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """All shards but those of one part."""
    home = tmp_path_factory.mktemp("begun")
    for method in METHODS:
        for number in (2, 0):
            part(bert_run, home / method, number, method)
    return {method: home / method for method in METHODS}


@pytest.fixture(params=METHODS)
def unfinished(request: pytest.FixtureRequest, begun: dict[str, Path], tmp_path: Path) -> tuple[str, Path]:
    return request.param, Path(shutil.copytree(begun[request.param], tmp_path / "index"))


def shards(folder: Path) -> list[Path]:
    return [one for one in sorted(folder.glob("forms/*/*.safetensors")) if note_of(one).is_file()]


@pytest.mark.parametrize("place", [-3, 700], ids=["last", "middle"])
def test_a_changed_byte_of_a_finished_shard_is_named_and_repaired(
    bert_run: Path, unfinished: tuple[str, Path], alone: dict[str, str], place: int
) -> None:
    method, folder = unfinished
    path = shards(folder)[1]
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(DamagedError, match=rf"{path.name} differs from what was written.*--repair"):
        part(bert_run, folder, 1, method)
    assert not (folder / "manifest.json").exists()
    proponent.build(bert_run, ROWS, folder, method, segment_rows=12, quiet=True, repair=True)
    assert Store(folder).manifest.merkle_root == alone[method]
    verify(folder)


def test_a_missing_shard_is_computed_by_whoever_comes(
    bert_run: Path, unfinished: tuple[str, Path], alone: dict[str, str]
) -> None:
    """Also where only its record is gone, as on a file system that shows new files late."""
    method, folder = unfinished
    first, second = shards(folder)[:2]
    first.unlink()
    note_of(second).unlink()
    part(bert_run, folder, 1, method)
    assert not (folder / "manifest.json").exists(), "a part that is not its own is left to others"
    for number in (0, 2):
        part(bert_run, folder, number, method)
    assert Store(folder).manifest.merkle_root == alone[method]
    verify(folder)


def test_a_part_of_another_model_is_refused(lm_run: Path, unfinished: tuple[str, Path]) -> None:
    method, folder = unfinished
    before = {one: one.read_bytes() for one in folder.rglob("*") if one.is_file()}
    with pytest.raises(ProponentError) as refused:
        part(lm_run, folder, 1, method)
    assert str(folder) in str(refused.value) or "label" in str(refused.value)
    assert {one: one.read_bytes() for one in folder.rglob("*") if one.is_file()} == before


def _together(run: Path, folder: Path, mine: int) -> str:
    """In a process of its own: waits for the other one, then computes the same part."""
    folder.with_name(f"{folder.name}-{mine}").touch()
    while not folder.with_name(f"{folder.name}-{1 - mine}").exists():
        time.sleep(0.001)
    part(run, folder, 1)
    return Store(folder).manifest.merkle_root


def test_two_processes_that_seal_at_once_make_one_seal(
    bert_run: Path, begun: dict[str, Path], alone: dict[str, str], tmp_path: Path
) -> None:
    """One part by two workers, ten times; both find the index complete."""
    copies = [Path(shutil.copytree(begun["tracin-we"], tmp_path / f"copy{attempt}")) for attempt in range(10)]
    with ProcessPoolExecutor(2, get_context("spawn")) as pool:
        for folder in copies:
            both = [pool.submit(_together, bert_run, folder, mine) for mine in range(2)]
            assert {one.result(timeout=300) for one in both} == {alone["tracin-we"]}
            assert not list(folder.rglob(f"*{NOTE}"))


def test_a_worker_of_another_version_is_refused(
    bert_run: Path, unfinished: tuple[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another version may compute other numbers; its part is not mixed with those that are there."""
    method, folder = unfinished
    before = {one: one.read_bytes() for one in folder.rglob("*") if one.is_file()}
    monkeypatch.setattr(sys.modules["proponent.index.build"], "__version__", "9.9.9")
    with pytest.raises(MismatchError, match=r"proponent is 0\.1\.0, not 9\.9\.9.*choose another --out"):
        part(bert_run, folder, 1, method)
    assert {one: one.read_bytes() for one in folder.rglob("*") if one.is_file()} == before
