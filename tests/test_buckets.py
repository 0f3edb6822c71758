"""Indexes in buckets: the bytes of a local build, on machines that share nothing else, whatever happens on the way."""

import errno
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import buckets
import faults
import proponent
import tiny
from proponent import disk
from proponent.buckets import Bucket, Held, url_of, without_secrets
from proponent.data import read
from proponent.errors import (
    BucketError,
    DamagedError,
    DataError,
    DiskFullError,
    InputError,
    MismatchError,
    MissingExtraError,
)
from proponent.search import Search
from proponent.store import Store, building, delete, local, merge, verify
from proponent.store.checksums import BLOCK
from proponent.store.outbox import Outbox
from proponent.store.remote_files import spans_of

DELETED = faults.DELETED[:3]  # examples of the first data set
ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def server() -> buckets.Server:
    return buckets.Server()


@pytest.fixture
def s3(server: buckets.Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """The url of a folder of its own in the bucket."""
    for name, value in buckets.environment(server.port).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("proponent.buckets.RETRIES", 0)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return f"s3://{buckets.BUCKET}/{tmp_path.name}/made.index"


@pytest.fixture
def machines(tmp_path: Path, s3: str) -> buckets.Machines:
    return buckets.Machines(tmp_path)


@pytest.fixture(scope="session")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The index of the made-up gradients, built in a folder."""
    folder = tmp_path_factory.mktemp("plain") / "made.index"
    faults.build(folder)
    return folder


@pytest.fixture(scope="session")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return buckets.large(tmp_path_factory.mktemp("large") / "large.index")


def files_of(folder: Path) -> dict[str, bytes]:
    """The files of an index, without its seal, whose times differ."""
    paths = [path for path in folder.rglob("*") if path.is_file()]
    names = {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}
    return {name: data for name, data in names.items() if name not in {"lease", "manifest.json"}}


def objects_of(url: str) -> dict[str, bytes]:
    bucket = Bucket(url)
    return {name: buckets.read(bucket, name) for name in bucket.names() if name != "manifest.json"}


def roots(url: str | Path) -> str:
    return Store(local(url)).manifest.merkle_root


# ---- addresses ----


def test_urls_are_recognised_also_as_paths():
    assert url_of("s3://a/b/") == url_of(Path("s3://a/b")) == "s3://a/b"
    assert url_of("file:///tmp/x") == url_of(Path("file:///tmp/x")) == "file:///tmp/x"
    assert url_of("gs://a/b") == "gs://a/b"
    assert url_of("abfss://c@account.dfs.core.windows.net/x") is not None
    for path in ("a/b", "/a/b", "C:/a", "s3", "http://a/b", Path("a.index")):
        assert url_of(path) is None


@pytest.mark.parametrize(
    "url", ["s3://key:hidden@a/b", "s3://a/b?token=hidden", "s3://a/b#hidden", "s3://key@a/b?hidden"]
)
def test_credentials_in_an_address_are_refused_and_not_repeated(url: str):
    with pytest.raises(InputError, match="environment") as refused:
        url_of(url)
    assert "hidden" not in str(refused.value)
    assert "hidden" not in without_secrets(url)


@pytest.mark.parametrize("url", ["s3://", "s3://a/../b", "gs:///"])
def test_an_address_without_a_place_is_refused(url: str):
    with pytest.raises(InputError, match="BUCKET/FOLDER"):
        url_of(url)


# ---- building ----


def test_a_build_in_a_bucket_has_the_bytes_of_a_local_one(machines: buckets.Machines, s3: str, plain: Path):
    machines.build("one", s3)
    assert objects_of(s3) == files_of(plain)
    assert roots(s3) == roots(plain)
    assert verify(local(s3)).damage == ()
    assert faults.answers(local(s3)) == faults.answers(plain)


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_two_machines_that_share_only_the_bucket_make_one_index(
    machines: buckets.Machines, s3: str, plain: Path, order: tuple[int, int]
):
    machines.build(f"machine-{order[0]}", s3, share=(order[0], 2))
    with machines("reader"):
        assert 0 < Store(local(s3), partial=True).coverage < 1
        with pytest.raises(InputError, match="unfinished"):
            Store(local(s3))
    computed: list[str] = []
    machines.build(f"machine-{order[1]}", s3, share=(order[1], 2), said=computed.append)
    assert objects_of(s3) == files_of(plain)
    assert 0 < len([one for one in computed if one.startswith("computed")]) < 8


def test_a_share_that_is_done_twice_is_equal(machines: buckets.Machines, s3: str, plain: Path, monkeypatch: Any):
    machines.build("one", s3, share=(0, 2))
    with monkeypatch.context() as patch:  # the second machine sees nothing of the first
        patch.setattr(Outbox, "refresh", lambda *_, **__: None)
        patch.setattr(Outbox, "look", lambda *_: False)
        machines.build("two", s3, share=(0, 2))
    machines.build("three", s3)
    assert objects_of(s3) == files_of(plain)


def test_a_late_list_of_objects_only_costs_time(machines: buckets.Machines, s3: str, plain: Path, monkeypatch: Any):
    machines.build("one", s3, share=(0, 2))
    names = Bucket.names
    with monkeypatch.context() as patch:
        patch.setattr(Bucket, "names", lambda bucket: {"plan.json": names(bucket)["plan.json"]})
        machines.build("two", s3)
    machines.build("three", s3)
    assert {name for name in objects_of(s3) if not name.endswith(".done")} == set(files_of(plain))
    assert roots(s3) == roots(plain)


def test_of_two_drivers_that_seal_at_once_one_wins(machines: buckets.Machines, s3: str, plain: Path, monkeypatch: Any):
    machines.build("one", s3, share=(0, 2))
    barrier, made, create = threading.Barrier(2, timeout=60), list[bool](), Bucket.create

    def at_once(bucket: Bucket, name: str, data: bytes | Path) -> Held | None:
        if name == "manifest.json":
            barrier.wait()
            found = create(bucket, name, data)
            made.append(found is not None)
            return found
        return create(bucket, name, data)

    monkeypatch.setattr(Bucket, "create", at_once)
    folders: list[Path] = []
    for machine in ("two", "three"):
        with machines(machine), building(s3) as folder:
            folders.append(folder)
    errors: list[BaseException] = []

    def seal(folder: Path) -> None:
        try:
            faults.build(folder)
        except BaseException as error:
            errors.append(error)

    for folder, machine in zip(folders, ("two", "three"), strict=True):
        with machines(machine):
            from proponent.store.outbox import outbox_of

            assert outbox_of(folder) is not None
    threads = [threading.Thread(target=seal, args=(folder,)) for folder in folders]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert errors == []
    assert sorted(made) == [False, True]
    assert roots(s3) == roots(plain)


def test_a_driver_that_finds_another_seal_says_so(machines: buckets.Machines, s3: str, monkeypatch: Any):
    seal = Outbox.seal

    def after_another(outbox: Outbox, manifest: Any, text: bytes) -> bytes:
        other = manifest.model_copy(update={"files": {"plan.json": manifest.files["plan.json"]}}).sealed()
        outbox.bucket.create("manifest.json", faults_text(other))
        return seal(outbox, manifest, text)

    monkeypatch.setattr(Outbox, "seal", after_another)
    with pytest.raises(MismatchError, match="sealed by another machine, and its index differs: its merkle root is"):
        machines.build("one", s3)


def faults_text(manifest: Any) -> bytes:
    from proponent.store.manifest import canonical

    return (canonical(manifest.model_dump()) + "\n").encode()


def test_a_shard_with_other_bytes_is_refused_and_both_are_named(machines: buckets.Machines, s3: str, monkeypatch: Any):
    machines.build("one", s3, share=(0, 2))
    arrays = faults.shard_arrays

    def another(data: str, rows: list[int], step: int) -> dict[str, np.ndarray]:
        return arrays(data, rows, step) | {"rows.rows": arrays(data, rows, step)["rows.rows"] + 1}

    with monkeypatch.context() as patch:
        patch.setattr(Outbox, "refresh", lambda *_, **__: None)
        patch.setattr(faults, "shard_arrays", another)
        with pytest.raises(MismatchError, match=r"shard-00000.safetensors was computed twice .* \(kept in ") as refused:
            machines.build("two", s3)
    assert str(machines.folder / "two") in str(refused.value)


def test_another_plan_in_the_bucket_is_refused_by_name(machines: buckets.Machines, s3: str):
    machines.build("one", s3, share=(0, 2))
    with pytest.raises(MismatchError, match=rf"{s3} already contains a different index: its rows is fp32, not int8"):
        machines.build("two", s3, rows="int8")
    machines.build("one", s3)
    with pytest.raises(MismatchError, match=rf"{s3} already contains a different index: its rows is fp32, not int8"):
        machines.build("two", s3, rows="int8")


def test_two_plans_at_once_are_one(machines: buckets.Machines, s3: str, monkeypatch: Any):
    taken = Outbox.take_plan

    def late(outbox: Outbox) -> None:
        taken(outbox)
        Bucket(s3).create("plan.json", faults_plan(run="another/place"))

    with monkeypatch.context() as patch:
        patch.setattr(Outbox, "take_plan", late)
        machines.build("one", s3)
    assert Store(local(s3)).plan.run == "another/place"


def faults_plan(**changes: Any) -> bytes:
    from proponent.store.manifest import canonical

    return (canonical(faults.plan(**changes).model_dump(mode="json", by_alias=True)) + "\n").encode()


def test_a_folder_with_other_objects_is_refused(machines: buckets.Machines, s3: str):
    Bucket(s3).create("photo.jpg", b"1")
    with pytest.raises(MismatchError, match=r"not an index \(it contains photo.jpg\)"):
        machines.build("one", s3)


def test_a_build_that_fails_at_any_request_is_resumed(
    machines: buckets.Machines, s3: str, plain: Path, monkeypatch: Any
):
    """Every put may be the last one of a machine that then dies; others, or it, go on."""
    create = Bucket.create
    for stop in range(0, 40, 3):
        left = [stop]

        def failing(bucket: Bucket, name: str, data: bytes | Path, left: list[int] = left) -> Held | None:
            if left[0] == 0:
                raise BucketError("the connection ended")
            left[0] -= 1
            return create(bucket, name, data)

        url = f"{s3}-{stop}"
        with monkeypatch.context() as patch:
            patch.setattr(Bucket, "create", failing)
            with pytest.raises(BucketError):
                machines.build(f"one-{stop}", url)
        machines.build(f"{'one' if stop % 2 else 'two'}-{stop}", url)
        assert objects_of(url).keys() - {"x"} == files_of(plain).keys()
        assert roots(url) == roots(plain)


def test_a_machine_that_is_killed_leaves_what_others_go_on_with(machines: buckets.Machines, s3: str, plain: Path):
    code = (
        "import os, signal, sys; import faults; from proponent.store import building\n"
        "count = [0]\n"
        "def said(line):\n"
        "    count[0] += line.startswith('confirmed')\n"
        "    if count[0] == 3: os.kill(os.getpid(), signal.SIGKILL)\n"
        "with building(sys.argv[1]) as folder: faults.build(folder, said=said)\n"
    )
    path = os.pathsep.join([str(ROOT / "src"), str(ROOT / "tests")])
    with machines("killed"):
        done = subprocess.run([sys.executable, "-c", code, s3], env=os.environ | {"PYTHONPATH": path}, check=False)
    assert done.returncode == -signal.SIGKILL
    computed: list[str] = []
    machines.build("other", s3, said=computed.append)
    assert len([one for one in computed if one.startswith("computed")]) == 8 - 3
    assert objects_of(s3) == files_of(plain)


def test_a_tampered_or_missing_shard_is_refused_by_name(machines: buckets.Machines, s3: str):
    machines.build("one", s3, share=(0, 2))
    bucket, name = Bucket(s3), "forms/step-3/seg-00000-shard-00000.safetensors"
    right = buckets.read(bucket, name)
    buckets.overwrite(bucket, name, right[:-1] + bytes([right[-1] ^ 1]))
    with pytest.raises(DamagedError, match=rf"{s3}/{name} differs from its note: remove it and"):
        machines.build("two", s3)
    bucket.remove([name])
    computed: list[str] = []
    machines.build("three", s3, said=computed.append)  # a file without its object is computed again
    assert "computed 00000 3 0" in computed
    assert verify(local(s3)).damage == ()


def test_nothing_secret_is_written(machines: buckets.Machines, s3: str, tmp_path: Path):
    machines.build("one", s3)
    local(s3)
    kept = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()] + list(objects_of(s3).values())
    assert not any(buckets.SECRET.encode() in one for one in kept)


# ---- changes ----


def test_changes_in_a_bucket_are_those_of_a_folder(machines: buckets.Machines, s3: str, tmp_path: Path):
    folder = tmp_path / "folder.index"
    faults.build(folder)
    machines.build("one", s3)
    faults.change(folder, {"do": "append"})
    with machines("two"), building(s3, adding="more") as copy:
        faults.build(copy, "more", append=True)
    assert objects_of(s3) == files_of(folder)
    delete(folder, DELETED)
    delete(local(s3), DELETED)
    assert objects_of(s3) == files_of(folder)
    assert faults.answers(local(s3)) == faults.answers(folder)
    merge(folder, rows=faults.ROWS_MERGED)
    merge(local(s3), rows=faults.ROWS_MERGED)
    assert objects_of(s3) == files_of(folder)
    assert roots(s3) == roots(folder)
    assert verify(local(s3)).damage == verify(local(s3)).strays == ()


def test_of_two_changes_at_once_one_counts(machines: buckets.Machines, s3: str, monkeypatch: Any):
    machines.build("one", s3)
    replace = Bucket.replace

    def after_another(bucket: Bucket, name: str, data: bytes, held: Held) -> Held | None:
        if name == "manifest.json":
            monkeypatch.setattr(Bucket, "replace", replace)
            with machines("two"), building(s3, adding="more") as copy:
                faults.build(copy, "more", append=True)
        return replace(bucket, name, data, held)

    mine = local(s3)
    monkeypatch.setattr(Bucket, "replace", after_another)
    with pytest.raises(MismatchError, match="changed by another process meanwhile, and that change counts: run"):
        delete(mine, DELETED)
    assert verify(local(s3)).damage == verify(local(s3)).strays == ()
    assert Store(local(s3)).counts.deleted == 0
    with pytest.raises(MismatchError, match="was changed by another process: run the same command again"):
        delete(mine, DELETED)
    delete(local(s3), DELETED)
    assert Store(local(s3)).counts.deleted == len(DELETED)


def test_a_change_that_stops_is_taken_up_again(machines: buckets.Machines, s3: str, monkeypatch: Any):
    machines.build("one", s3)
    with monkeypatch.context() as patch:
        patch.setattr(Bucket, "replace", _ends)
        with pytest.raises(BucketError):
            delete(local(s3), DELETED)
    assert Store(local(s3)).counts.deleted == 0
    with pytest.raises(MismatchError, match=r"gen-00002.safetensors is there already, with other contents"):
        delete(local(s3), DELETED[:1])
    delete(local(s3), DELETED)
    assert Store(local(s3)).counts.deleted == len(DELETED)


def _ends(bucket: Bucket, name: str, data: bytes, held: Held) -> Held | None:
    if name == "manifest.json":
        raise BucketError("the connection ended")
    return None


def test_a_repair_in_a_bucket_is_refused_with_the_way_out(s3: str):
    with pytest.raises(InputError, match=f"download {s3}, repair it there"), building(s3, repair=True):
        pass


# ---- reading ----


def test_a_query_reads_only_the_blocks_that_it_needs(s3: str, large: Path, monkeypatch: Any):
    buckets.put(Bucket(s3), large)
    size = sum(path.stat().st_size for path in large.rglob("*"))
    traffic = buckets.Traffic().watch(monkeypatch)
    answers = [Search(Store(local(s3)), threads=1).top(buckets.question(7), 1, 3) for _ in range(1)]
    first = traffic.bytes
    assert first < size / 3, (first, size)
    assert any("forms/" in name for name in traffic.names)
    again = Search(Store(local(s3)), threads=1).top(buckets.question(7), 1, 3)
    assert traffic.bytes == first  # a second query reads nothing more, in a newly opened index too
    plain = Search(Store(large), threads=1).top(buckets.question(7), 1, 3)
    for found in (answers[0], again):
        for name in ("proponents", "proponent_scores", "opponents", "opponent_scores"):
            assert getattr(found[0], name).tobytes() == getattr(plain[0], name).tobytes()
    blocks = sum(path.stat().st_blocks * 512 for path in local(s3).rglob("*") if path.is_file())
    assert blocks < size / 2  # nor is there more on the disk
    whole = Search(Store(local(s3)), threads=1).scores(buckets.question(9), 1)
    assert whole.tobytes() == Search(Store(large), threads=1).scores(buckets.question(9), 1).tobytes()


def test_the_cache_is_private_and_mends_itself(s3: str, large: Path, monkeypatch: Any):
    buckets.put(Bucket(s3), large)
    folder = local(s3)
    Search(Store(folder), threads=1).scores(buckets.question(7), 1)
    for path in folder.rglob("*"):
        assert not path.is_file() or path.stat().st_mode & 0o077 == 0
    assert folder.parent.parent.stat().st_mode & 0o077 == 0
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            data = bytearray(path.read_bytes())
            data[len(data) // 2] ^= 255
            path.write_bytes(bytes(data))
    traffic = buckets.Traffic().watch(monkeypatch)
    plain = Search(Store(large), threads=1).scores(buckets.question(7), 1)
    assert Search(Store(local(s3)), threads=1).scores(buckets.question(7), 1).tobytes() == plain.tobytes()
    assert traffic.requests
    next(folder.rglob("*.safetensors")).write_bytes(b"")  # cut off
    assert Search(Store(local(s3)), threads=1).scores(buckets.question(7), 1).tobytes() == plain.tobytes()


def test_two_readers_may_fill_one_cache_at_once(s3: str, large: Path):
    buckets.put(Bucket(s3), large)
    plain = Search(Store(large), threads=1)
    found: dict[int, bytes] = {}

    def ask(token: int) -> None:
        found[token] = Search(Store(local(s3)), threads=2).scores(buckets.question(token), 1).tobytes()

    threads = [threading.Thread(target=ask, args=(token,)) for token in range(4)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert found == {token: plain.scores(buckets.question(token), 1).tobytes() for token in range(4)}


def test_a_changed_index_never_mixes_with_the_cache(machines: buckets.Machines, s3: str):
    machines.build("one", s3)
    before = Store(local(s3))
    _ = before.examples["text"]
    delete(local(s3), DELETED)
    after = local(s3)
    assert after != before.folder
    assert before.counts.deleted == 0
    assert Store(after).counts.deleted == len(DELETED)


def test_a_former_state_is_removed_once_nobody_reads_it(machines: buckets.Machines, s3: str):
    code = "import sys; from proponent.store import local; print(local(sys.argv[1]))"
    machines.build("one", s3)
    with machines("two"):
        path = os.environ | {"PYTHONPATH": str(ROOT / "src")}
        told = subprocess.run([sys.executable, "-c", code, s3], env=path, check=True, capture_output=True, text=True)
        former = Path(told.stdout.strip())
    assert (former / "manifest.json").is_file()
    delete(local(s3), DELETED)
    with machines("two"):
        local(s3)
    assert not former.parent.exists()


@pytest.mark.parametrize("folder", ["forms", "postings", "examples"])
def test_a_tampered_object_is_refused_by_name(s3: str, plain: Path, folder: str):
    bucket = Bucket(s3)
    buckets.put(bucket, plain)
    name = next(one for one in bucket.names() if one.startswith(f"{folder}/") and one.endswith("s"))
    data = bytearray(buckets.read(bucket, name))
    data[-1] ^= 1
    buckets.overwrite(bucket, name, bytes(data))
    said = [str(one) for one in faults.answers(local(s3)).values() if isinstance(one, DamagedError)]
    said += [f"{s3}/{one.file}" for one in verify(local(s3)).damage]
    assert any(f"{s3}/{name}" in one for one in said)
    assert [one.file for one in verify(local(s3)).damage] == [name]
    assert all("cache" not in one for one in said)


def test_a_missing_object_is_refused_by_name(s3: str, plain: Path):
    bucket = Bucket(s3)
    buckets.put(bucket, plain)
    name = "forms/step-3/seg-00000-shard-00001.safetensors"
    opened = local(s3)
    bucket.remove([name])  # after it was opened here
    with pytest.raises(DamagedError, match=f"{s3}/{name} is missing"):
        list(Store(opened).shards(faults.CheckpointId(0, 3)))
    Bucket(s3).remove(["tables/step-7.safetensors"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(opened.parents[4] / "elsewhere"))
        with pytest.raises(DamagedError, match=f"{s3}/(forms|tables)/.* is missing"):
            Store(local(s3))


def test_missing_shards_are_left_out_where_that_is_allowed(s3: str, plain: Path):
    bucket = Bucket(s3)
    buckets.put(bucket, plain)
    bucket.remove(["forms/step-3/seg-00000-shard-00001.safetensors"])
    with pytest.raises(DamagedError, match="is missing: restore it"):
        Store(local(s3))
    assert 0 < Store(local(s3), allow_missing=True).coverage < 1
    buckets.put(bucket, plain)
    assert Store(local(s3)).coverage == 1  # it is there again


def test_a_manifest_that_names_files_elsewhere_is_refused(s3: str, plain: Path, tmp_path: Path):
    bucket = Bucket(s3)
    buckets.put(bucket, plain)
    text = buckets.read(bucket, "manifest.json").replace(b'"tables/step-3.safetensors"', b'"../../../../evil"')
    buckets.overwrite(bucket, "manifest.json", text)
    with pytest.raises(DamagedError, match="is not a path inside the index"):
        local(s3)
    assert not list(tmp_path.rglob("evil"))


def test_near_blocks_are_fetched_together():
    assert spans_of([0, 1, 3, 9], 9 * BLOCK + 5) == [(0, 4 * BLOCK), (9 * BLOCK, 9 * BLOCK + 5)]


def test_a_build_over_an_index_with_a_wrong_object_is_refused(machines: buckets.Machines, s3: str, plain: Path):
    bucket, name = Bucket(s3), "forms/step-3/seg-00000-shard-00001.safetensors"
    buckets.put(bucket, plain)
    buckets.overwrite(bucket, name, b"short")
    with pytest.raises(DamagedError, match=f"{s3}/{name} is missing or has another size: restore it"):
        machines.build("one", s3)
    with pytest.raises(DamagedError, match=f"{s3}/{name} has 5 bytes, not "):
        Store(local(s3))


def test_large_files_are_put_in_parts(machines: buckets.Machines, s3: str, plain: Path, monkeypatch: Any):
    monkeypatch.setattr("proponent.buckets.SINGLE", 100)
    machines.build("one", s3, share=(0, 2))
    machines.build("two", s3)
    assert objects_of(s3) == files_of(plain)


# ---- other stores ----


def test_a_folder_as_a_store(tmp_path: Path, plain: Path, machines: buckets.Machines):
    url = f"file://{tmp_path}/store/made.index"
    machines.build("one", url, share=(0, 2))
    machines.build("two", url, share=(1, 2))
    assert files_of(tmp_path / "store" / "made.index") == files_of(plain)
    assert faults.answers(local(url)) == faults.answers(plain)
    with pytest.raises(InputError, match="give the folder as a path, without file://"):
        delete(local(url), DELETED)
    with pytest.raises(InputError, match="no index at file:///"):
        local(f"file://{tmp_path}/nothing")
    assert not (tmp_path / "nothing").exists()


def test_a_store_in_memory(monkeypatch: Any, machines: buckets.Machines, plain: Path):
    from obstore.store import MemoryStore

    store = MemoryStore()
    monkeypatch.setattr(Bucket, "_store", store)
    machines.build("one", "s3://memory/x")
    assert objects_of("s3://memory/x") == files_of(plain)
    assert faults.answers(local("s3://memory/x")) == faults.answers(plain)
    delete(local("s3://memory/x"), DELETED)
    assert Store(local("s3://memory/x")).counts.deleted == len(DELETED)


# ---- what goes wrong ----


def test_without_the_package_it_is_named(s3: str, monkeypatch: Any):
    monkeypatch.setitem(sys.modules, "obstore", None)
    with pytest.raises(MissingExtraError, match=r"needs the package obstore: pip install 'proponent\[bucket\]'"):
        local(s3)


def test_no_such_bucket_is_said(s3: str, machines: buckets.Machines):
    with pytest.raises(InputError, match="s3://nowhere/x: there is no such bucket"):
        local("s3://nowhere/x")
    with pytest.raises(InputError, match="s3://nowhere/x: there is no such bucket"):
        machines.build("one", "s3://nowhere/x")


@pytest.mark.parametrize(
    ("status", "code", "kind", "words"),
    [
        (403, "AccessDenied", InputError, "access is denied"),
        (400, "ExpiredToken", BucketError, "credentials"),
        (403, "InvalidAccessKeyId", BucketError, "credentials"),
        (500, "InternalError", BucketError, "cannot be reached"),
        (501, "NotImplemented", InputError, "cannot do what is needed"),
    ],
)
def test_a_store_that_refuses(
    s3: str, monkeypatch: Any, status: int, code: str, kind: type[InputError], words: str, machines: buckets.Machines
):
    with buckets.answering(status, code) as port:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
        for work in (lambda: local(s3), lambda: machines.build("one", s3)):
            with pytest.raises(kind, match=words) as refused:
                work()
            assert buckets.SECRET not in str(refused.value)
            assert type(refused.value) is not InputError or kind is InputError


def test_lost_credentials_in_a_build_keep_what_is_finished(
    machines: buckets.Machines, s3: str, plain: Path, monkeypatch: Any
):
    def lost(line: str) -> None:
        if line == "confirmed 00000 7 0":
            monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
            Bucket.__dict__["_store"].__set_name__(Bucket, "_store")
            for held in outboxes():
                held.bucket.__dict__.pop("_store", None)

    def outboxes() -> list[Outbox]:
        from proponent.store import outbox

        return list(outbox._OUTBOXES.values())

    right = os.environ["AWS_ENDPOINT_URL"]
    with (
        buckets.answering(400, "ExpiredToken") as port,
        pytest.raises(BucketError, match="expired: renew them in the environment; what is finished is kept") as refused,
    ):
        machines.build("one", s3, said=lost)
    assert refused.value.exit_code == 75
    monkeypatch.setenv("AWS_ENDPOINT_URL", right)
    computed: list[str] = []
    machines.build("one", s3, said=computed.append)
    assert len([one for one in computed if one.startswith("computed")]) < 8
    assert objects_of(s3) == files_of(plain)


def test_a_connection_that_ends_is_said(s3: str, monkeypatch: Any):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(BucketError, match=r"cannot be reached .*: look at address, network and region"):
        local(s3)


def test_stores_without_conditional_writes_are_refused(s3: str, machines: buckets.Machines, monkeypatch: Any):
    create = Bucket.create

    def careless(bucket: Bucket, name: str, data: bytes | Path) -> Held | None:
        bucket.remove([name])
        return create(bucket, name, data)

    with monkeypatch.context() as patch:
        patch.setattr(Bucket, "create", careless)
        with pytest.raises(InputError, match="cannot put an object only if nobody else has"):
            machines.build("one", s3)
    assert Bucket(s3).names() == {}
    monkeypatch.setenv("AWS_CONDITIONAL_PUT", "disabled")
    with pytest.raises(InputError, match="AWS_CONDITIONAL_PUT must not be disabled"):
        machines.build("one", s3)


def test_a_full_disk_under_the_cache_is_named(s3: str, large: Path, monkeypatch: Any, tmp_path: Path):
    buckets.put(Bucket(s3), large)
    store, write = Store(local(s3)), disk.write

    def full(opened: int, data: Any, at: int) -> int:
        if len(data) >= 1000:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(opened, data, at)

    with monkeypatch.context() as patch:
        patch.setattr(disk, "write", full)
        with pytest.raises(DiskFullError, match=f"the cache in {tmp_path}.*: no space left"):
            Search(store, threads=1).scores(buckets.question(7), 1)
    assert Search(store, threads=1).scores(buckets.question(7), 1).any()


# ---- runs, commands, data ----


def test_a_run_is_indexed_on_two_machines(machines: buckets.Machines, s3: str, news: tiny.Tiny, tmp_path: Path):
    how: dict[str, Any] = {"method": "trackstar", "second_moment": "estimate", "project": 8}
    how |= {"segment_rows": 20, "quiet": True}
    plain = proponent.build(news.run, news.data, tmp_path / "plain", **how)
    with machines("one"):
        part = proponent.build(news.run, news.data, s3, shard="0/2", **how)
        assert 0 < part.store.coverage < 1
        tables = [one for one in Bucket(s3).names() if one.startswith("tables/")]
        assert tables
        assert all(".first." in one for one in tables)  # they get further arrays after the gradients
    with machines("two"):
        made = proponent.build(news.run, news.data, s3, shard="1/2", **how)
    assert made.summary["index"] == s3
    assert made.store.manifest.merkle_root == plain.store.manifest.merkle_root
    assert objects_of(s3) == files_of(tmp_path / "plain")
    asked = proponent.open(Path(s3)).explain(news.text(3))
    assert asked.to_dict() == plain.explain(news.text(3)).to_dict()


def test_commands_take_the_address_of_an_index(
    s3: str, news: tiny.Tiny, said: Callable[..., tuple[int, str, str]], tmp_path: Path
):
    more = tiny.write_csv(tmp_path / "more.csv", [{"id": "m1", "text": "the new cup goal", "label": "Sports"}])
    data = f"{s3.removesuffix('/made.index')}/train.csv"
    Bucket(s3.removesuffix("/made.index")).create("train.csv", news.data)
    assert said("index", news.run, data, "--out", s3, "--workers", 2)[0] == 0
    assert Store(local(s3)).plan.source.data == data
    code, out, err = said("explain", s3, "the cup and the bank", "--json", "-k", 2)
    assert code == 0, err
    ranked = [(one["id"], pytest.approx(one["score"], rel=1e-5)) for one in json.loads(out)["proponents"]]
    there = json.loads(said("explain", news.index, "the cup and the bank", "--json", "-k", 2)[1])["proponents"]
    assert ranked == [(one["id"], one["score"]) for one in there]
    assert f'"index": "{s3}"' in said("info", s3, "--json")[1]
    assert said("verify", s3)[1].startswith(f"{s3}: intact")
    assert said("delete", s3, "--ids", "twice,7")[1].startswith(f"{s3}: 2 examples deleted")
    method = Store(local(s3)).plan.method.name
    assert said("index", news.run, more, "--out", s3, "--append", "--method", method)[0] == 0
    assert said("merge", s3)[1].startswith(f"{s3}: 2 segments before, 1 after")
    assert said("verify", s3)[1].startswith(f"{s3}: intact")
    code, _, err = said("explain", "s3://key:hidden@texts/x", "a text")
    assert (code, "hidden" in err) == (2, False)
    code, _, err = said("labels", f"{s3}-none")
    assert (code, f"no index at {s3}-none: build one" in err) == (2, True)


def test_decisions_about_an_index_in_a_bucket_outlive_its_cache(s3: str, machines: buckets.Machines, tmp_path: Path):
    from proponent.actions.decisions import Decisions

    machines.build("one", s3)
    Decisions.of(Store(local(s3))).decide(["base-1"], "keep")
    delete(local(s3), DELETED[1:])
    decided = Decisions.of(Store(local(s3)))
    assert list(decided.current) == ["base-1"]
    assert decided.path.is_relative_to(tmp_path / "state")


def test_data_is_read_at_urls(s3: str, tmp_path: Path):
    import fsspec

    text = "id,text,label\na,one text,x\nb,another text,y\n"
    fsspec.filesystem("memory").pipe_file("/folder/rows.csv", text.encode())
    Bucket(s3).create("rows.csv", text.encode())
    (tmp_path / "rows.csv").write_text(text)
    plain = read(tmp_path / "rows.csv")
    for url in ("memory://folder/rows.csv", f"{s3}/rows.csv", f"file://{tmp_path}/rows.csv"):
        found = read(url)
        assert (found.name, found.fingerprint) == (url, plain.fingerprint)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("memory://folder/none.csv", "memory://folder/none.csv: no such file"),
        ("memory://folder/none.xlsx", "no such file"),
        ("gopher://a/rows.csv", "data files are read from s3"),
        ("simplecache::memory://a/rows.csv", "data files are read from|no such file|not found"),
        ("memory://key:hidden@folder/none.csv?sig=hidden", "no such file"),
        ("s3://texts/none.csv", "s3://texts/none.csv: no such file"),
    ],
)
def test_data_that_cannot_be_read_is_named(s3: str, url: str, words: str):
    with pytest.raises(DataError, match=words) as refused:
        read(url)
    assert "hidden" not in str(refused.value)


def test_a_bad_row_of_a_file_at_a_url_is_named_with_the_url(s3: str):
    Bucket(s3).create("rows.jsonl", b'{"text": "a"}\n{"text": 1')
    with pytest.raises(DataError, match=f"{s3}/rows.jsonl.*line 2"):
        read(f"{s3}/rows.jsonl")
