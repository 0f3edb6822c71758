"""Indexes in buckets: results of two machines, plans or states that must not mix, and what is left behind."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import buckets
import faults
from proponent.buckets import Bucket, url_of, without_secrets
from proponent.errors import BucketError, DamagedError, InputError, MismatchError
from proponent.store import Store, Writer, building, delete, local, merge, verify
from proponent.store.names import refuse_name
from proponent.store.outbox import Outbox


class Killed(BaseException):
    """Ends a build as a signal would."""


@pytest.fixture
def machines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> buckets.Machines:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return buckets.Machines(tmp_path)


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"file://{tmp_path}/bucket/made.index"


def test_a_result_that_differs_from_that_of_another_machine_is_refused(
    machines: buckets.Machines, url: str, monkeypatch: pytest.MonkeyPatch
):
    """One machine could not put its shard; another one computed it with other bytes; the first one goes on."""
    put, arrays = Outbox.put, faults.shard_arrays

    def failing(self: Outbox, path: Path, **how: Any) -> None:
        if "shard-00000" in path.name:
            raise BucketError("lost")
        put(self, path, **how)

    def stopping(self: Outbox, path: Path, **how: Any) -> None:
        put(self, path, **how)
        if "shard-00000" in path.name:
            raise Killed

    def others(*given: Any) -> dict[str, np.ndarray]:
        made = dict(arrays(*given))
        return made | {"rows.rows": made["rows.rows"] * np.float32(1.0001)}

    with monkeypatch.context() as patch:
        patch.setattr(Outbox, "put", failing)
        with pytest.raises(BucketError):
            machines.build("one", url)
    with monkeypatch.context() as patch:
        patch.setattr(Outbox, "put", stopping)
        patch.setattr(faults, "shard_arrays", others)
        with pytest.raises(Killed):
            machines.build("two", url)
    with pytest.raises(MismatchError, match="computed twice with different results"):
        machines.build("one", url)
    assert Bucket(url).head("manifest.json") is None


def test_parts_of_a_forgotten_build_do_not_enter_another_index(
    machines: buckets.Machines, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The bucket is emptied and another plan begun there while a first build goes on."""
    put, plan = Outbox.put, faults.plan
    shards: list[Path] = []

    def other_plan(**changes: Any) -> Any:
        return plan(**(changes | {"max_length": 64}))

    def replaced(self: Outbox, path: Path, **how: Any) -> None:
        put(self, path, **how)
        if "shard" not in path.name:
            return
        shards.append(path)
        if len(shards) == 1:
            shutil.rmtree(tmp_path / "bucket" / "made.index")
            with monkeypatch.context() as patch:
                patch.setenv("XDG_CACHE_HOME", str(tmp_path / "elsewhere"))
                with building(url) as folder:
                    Writer(folder, other_plan()).close()

    with monkeypatch.context() as patch:
        patch.setattr(Outbox, "put", replaced)
        with pytest.raises(MismatchError, match="holds another index by now"):
            machines.build("one", url)
    assert Bucket(url).head("manifest.json") is None, "it did not seal over the other plan"
    monkeypatch.setattr(faults, "plan", other_plan)
    arrays, computed = faults.shard_arrays, list[int]()

    def counted(*given: Any) -> dict[str, np.ndarray]:
        computed.append(1)
        return arrays(*given)

    monkeypatch.setattr(faults, "shard_arrays", counted)
    machines.build("two", url)  # its bytes are equal in this test: they are computed, and found there
    assert len(computed) == 8, "notes of the other plan count for nothing"
    with machines("reader"):
        assert Store(local(url)).plan.max_length == 64
        assert verify(local(url)).damage == ()


def test_verify_leaves_files_that_are_read_as_they_are(machines: buckets.Machines, tmp_path: Path):
    buckets.large(tmp_path / "bucket" / "large.index")
    place = f"file://{tmp_path}/bucket/large.index"
    store = Store(local(place))
    file = store.segments[0]._shard(buckets.AT, 0)
    before = file.path.stat().st_ino
    assert verify(local(place)).damage == ()
    assert file.path.stat().st_ino == before
    for row in (0, 100, 300, 500, 700):  # blocks that were not fetched before
        assert np.isfinite(file.view("rows.rows", row, row + 1)).all()
    shutil.rmtree(tmp_path / "cache")
    with pytest.raises(InputError, match="was removed while the index was open"):
        store.segments[1]._shard(buckets.AT, 0).view("rows.rows", 700, 701)


def test_a_file_that_changed_before_the_seal_is_fetched_again(
    machines: buckets.Machines, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def stop(*_: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Outbox, "seal", stop)
        with pytest.raises(Killed):
            machines.build("one", url)
    path = next((tmp_path / "one").rglob("seg-00000-shard-00000.safetensors"))
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    machines.build("one", url)
    with machines("reader"):
        assert verify(local(url)).damage == ()


@pytest.mark.parametrize("name", ["lock", "manifest.json", "what", "address.json", "a..b"])
def test_an_index_may_have_any_name(machines: buckets.Machines, tmp_path: Path, name: str):
    place = f"file://{tmp_path}/bucket/{name}"
    machines.build("one", place)
    with machines("reader"):
        assert verify(local(place)).damage == ()
        assert faults.answers(local(place))


@pytest.mark.parametrize(
    "url",
    [
        "s3://AKIA:abc/hidden@bucket/x",
        "s3://key:hid?hidden@b/x",
        "s3://hidden@b/x",
        "s3://a/b@hidden",
        "s3://k:hid#hidden@b/x",
    ],
)
def test_credentials_with_any_character_are_refused_and_not_repeated(url: str):
    with pytest.raises(InputError, match="environment") as refused:
        url_of(url)
    assert "hidden" not in str(refused.value) or url.endswith("@hidden")


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://u:pa/SECRET@host/f.csv", "https://host/f.csv"),
        ("https://u:p?a@host/f.csv?token=x", "https://host/f.csv"),
        ("https://user@host/f.csv", "https://host/f.csv"),
        ("hf://datasets/a/b@main/train.csv", "hf://datasets/a/b@main/train.csv"),
        ("s3://texts/train.csv", "s3://texts/train.csv"),
    ],
)
def test_what_is_shown_of_a_url(url: str, shown: str):
    assert without_secrets(url) == shown


@pytest.mark.parametrize("name", ["forms//x", "./x", "forms/./x", "forms/x/", "/x", "../x", ""])
def test_names_of_files_have_one_spelling(name: str, tmp_path: Path):
    assert refuse_name(tmp_path, name) is not None
    assert refuse_name(tmp_path, "forms/step-1/x") is None


def test_a_name_that_is_no_object_is_a_typed_error(tmp_path: Path):
    with pytest.raises(DamagedError, match="no name of an object"):
        Bucket(f"file://{tmp_path}").head("forms//x")


def test_a_segment_without_living_examples_goes_with_a_merge(tmp_path: Path):
    folder = tmp_path / "index"
    faults.build(folder)
    first = Store(folder).segments[0]
    delete(folder, np.arange(first.n))
    merged, changed = merge(folder, rows=1)
    assert changed
    assert sum(one.n for one in merged.segments) == Store(folder).n
    assert first.name not in {one.name for one in merged.segments}
    assert verify(folder).damage == ()
