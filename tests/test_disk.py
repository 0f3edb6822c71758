"""The door for what is written: complete under its final name or absent, and usable where the system lacks a part."""

import errno
import fcntl
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from proponent import disk, json_log, locks, notices
from proponent.actions.decisions import Decisions
from proponent.errors import DiskFullError, InputError
from proponent.store.leases import Leases


@pytest.fixture(autouse=True)
def nothing_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notices, "_SAID", set())


def failing(number: int) -> Callable[..., Any]:
    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    return fail


# ---- file systems that lack something ----


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS])
def test_a_log_without_locks_works_and_says_so_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], number: int
) -> None:
    monkeypatch.setattr(fcntl, "flock", failing(number))
    for act in ("keep", "drop"):
        Decisions(tmp_path / "x.index", ["a"]).decide(["n0"], act)
    assert Decisions(tmp_path / "x.index", ["a"]).current["n0"].act == "drop"
    said = capfd.readouterr().err
    assert said.count("cannot lock files") == 1
    assert "let only one process write" in said


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS])
def test_an_index_without_locks_is_written_and_says_so_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], number: int
) -> None:
    monkeypatch.setattr(fcntl, "lockf", failing(number))
    held = Leases(tmp_path)
    with held.whole():
        assert held.alone
    assert held.take(3)
    held.drop(3)
    held.close()
    assert capfd.readouterr().err.count("cannot lock files") == 1


def test_another_error_of_a_lock_is_no_missing_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fcntl, "flock", failing(errno.EIO))
    with pytest.raises(InputError, match=r"x.index.decisions.jsonl cannot be written .Input/output error"):
        Decisions(tmp_path / "x.index", ["a"]).decide(["n0"], "keep")


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP, errno.ENOSYS])
def test_a_file_system_without_fsync_works_and_says_so_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], number: int
) -> None:
    real = os.fsync

    def only_files(opened: int) -> None:
        if Path(f"/proc/self/fd/{opened}").is_dir():
            raise OSError(number, os.strerror(number))
        real(opened)

    monkeypatch.setattr(disk, "sync", only_files)
    for name in ("a", "b"):
        disk.write_bytes(tmp_path / name, b"whole")
    json_log.append(tmp_path / "log", {})
    assert (tmp_path / "b").read_bytes() == b"whole"
    assert capfd.readouterr().err.count("cannot sync folders") == 1
    monkeypatch.setattr(disk, "sync", failing(number))
    disk.write_bytes(tmp_path / "c", b"whole")
    assert capfd.readouterr().err.count("cannot sync files") == 1


# ---- files ----


def test_a_new_file_never_replaces_one_that_appears_meanwhile(tmp_path: Path) -> None:
    def fill(file: Any) -> None:
        file.write(b"mine")
        (tmp_path / "out").write_bytes(b"theirs")

    with pytest.raises(InputError, match="exists already"):
        disk.write_stream(tmp_path / "out", fill, replace=False)
    assert [(one.name, one.read_bytes()) for one in tmp_path.iterdir()] == [("out", b"theirs")]


def test_of_many_writers_of_one_new_name_one_wins(tmp_path: Path) -> None:
    outcomes: list[str] = []

    def write(name: int) -> None:
        try:
            disk.write_stream(tmp_path / "out", lambda file: file.write(b"%d" % name * 1000), replace=False)
            outcomes.append("written")
        except InputError:
            outcomes.append("refused")

    threads = [threading.Thread(target=write, args=(one,)) for one in range(8)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert sorted(outcomes) == ["refused"] * 7 + ["written"]
    assert len(set((tmp_path / "out").read_bytes())) == 1


def test_without_hard_links_a_new_file_is_still_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "link", failing(errno.EPERM))
    disk.write_stream(tmp_path / "out", lambda file: file.write(b"mine"), replace=False)
    with pytest.raises(InputError, match="exists already"):
        disk.write_stream(tmp_path / "out", lambda file: file.write(b"other"), replace=False)
    assert (tmp_path / "out").read_bytes() == b"mine"


def test_a_private_file_is_never_readable_by_others(tmp_path: Path) -> None:
    disk.write_private(tmp_path / "key", b"secret")
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600
    with pytest.raises(InputError, match="exists already"):
        disk.write_private(tmp_path / "key", b"other")
    assert (tmp_path / "key").read_bytes() == b"secret"


# ---- folders ----


def two_files(home: Path) -> None:
    (home / "a").write_bytes(b"a" * 100)
    (home / "in").mkdir()
    (home / "in" / "b").write_bytes(b"b")


def test_a_folder_is_whole_or_absent(tmp_path: Path) -> None:
    class Stop(BaseException):
        pass

    def half(home: Path) -> None:
        (home / "a").write_bytes(b"a")
        raise Stop

    with pytest.raises(Stop):
        disk.write_folder(tmp_path / "model", half)
    assert list(tmp_path.iterdir()) == []
    disk.write_folder(tmp_path / "model", two_files)
    assert (tmp_path / "model" / "in" / "b").read_bytes() == b"b"
    with pytest.raises(InputError, match="has files already"):
        disk.write_folder(tmp_path / "model", two_files)
    disk.write_folder(tmp_path / "model", lambda home: (home / "c").write_bytes(b"c"), replace=True)
    assert [one.name for one in (tmp_path / "model").iterdir()] == ["c"]
    assert [one.name for one in tmp_path.iterdir()] == ["model"]


def test_a_full_disk_while_a_folder_is_written_is_named(tmp_path: Path) -> None:
    def full(home: Path) -> None:
        (home / "a").write_bytes(b"a")
        raise RuntimeError(f"Error while serializing: {os.strerror(errno.ENOSPC)} (os error 28)")

    with pytest.raises(DiskFullError, match="model: no space left"):
        disk.write_folder(tmp_path / "model", full)
    assert list(tmp_path.iterdir()) == []


KILLED = """
import os, signal, sys
from pathlib import Path
from proponent import disk
home, at = Path(sys.argv[1]), int(sys.argv[2])
calls = 0
def through(real):
    def call(*words):
        global calls
        calls += 1
        if calls == at:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*words)
    return call
for name in ("create", "write", "sync", "rename", "make_one_folder", "close", "remove"):
    setattr(disk, name, through(getattr(disk, name)))
def fill(folder):
    for name in "ab":
        disk.write_bytes(folder / name, b"new" * 1000)
if sys.argv[3] == "folder":
    disk.write_folder(home / "out", fill)
else:
    disk.write_stream(home / "out", lambda file: file.write(b"new" * 1000), replace=sys.argv[3] == "replace")
"""


@pytest.mark.parametrize("kind", ["folder", "new", "replace"])
def test_a_killed_writer_leaves_the_old_the_new_or_nothing(tmp_path: Path, kind: str) -> None:
    new, at = b"new" * 1000, 0
    while True:
        at += 1
        home = tmp_path / f"{kind}-{at}"
        home.mkdir()
        if kind == "replace":
            (home / "out").write_bytes(b"old")
        done = subprocess.run([sys.executable, "-c", KILLED, str(home), str(at), kind], check=False)
        out = home / "out"
        if kind == "folder":
            assert not out.exists() or [(out / name).read_bytes() for name in "ab"] == [new, new]
        else:
            assert (out.read_bytes() if out.exists() else b"") in ((b"old", new) if kind == "replace" else (b"", new))
        if done.returncode != -signal.SIGKILL:
            assert done.returncode == 0
            break
    assert at > 5


def test_locks_are_by_file_not_by_name(tmp_path: Path) -> None:
    """A log that is moved away while somebody waits for it is not the one that is written."""
    path = tmp_path / "log"
    path.write_bytes(b'{"id": "old"}\n')
    waiting = threading.Event()

    def write() -> None:
        waiting.set()
        json_log.append(path, {"id": "new"})

    with path.open("rb+") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        writer = threading.Thread(target=write)
        writer.start()
        waiting.wait(10)
        writer.join(0.2)
        path.rename(tmp_path / "away")
    writer.join(10)
    assert (tmp_path / "away").read_bytes() == b'{"id": "old"}\n'
    assert path.read_bytes() == b'{"id": "new"}\n'


def test_a_child_process_does_not_wait_for_its_parents_threads(tmp_path: Path) -> None:
    with locks.alone(tmp_path / "log"):
        child = os.fork()
        if child == 0:
            os._exit(0 if not locks._THREADS else 1)
        assert os.waitpid(child, 0)[1] == 0
