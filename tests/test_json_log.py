"""The log of JSON records: nothing that was confirmed is lost, nothing is left by halves."""

import json
import multiprocessing
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from proponent import disk, json_log
from proponent.actions.decisions import Decisions
from proponent.errors import DiskFullError, InputError

LONG = "x" * 2000


def add(path: Path, name: str, count: int) -> None:
    for number in range(count):
        json_log.append(path, {"id": f"{name}-{number}", "long": LONG})


def names(path: Path) -> set[str]:
    return {json.loads(line)["id"] for line in json_log.read_lines(path) if line}


def test_threads_lose_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, write = tmp_path / "log.jsonl", disk.write
    monkeypatch.setattr(disk, "write", lambda opened, data, at: write(opened, data[:700], at))  # a line takes 3 writes
    threads = [threading.Thread(target=add, args=(path, str(one), 25)) for one in range(8)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert len(names(path)) == 200


def test_processes_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    context = multiprocessing.get_context("fork" if os.name == "posix" else "spawn")
    workers = [context.Process(target=add, args=(path, str(one), 40)) for one in range(4)]
    for one in workers:
        one.start()
    for one in workers:
        one.join()
        assert one.exitcode == 0
    assert len(names(path)) == 160


def test_the_line_that_another_writer_is_still_writing_is_not_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, write = tmp_path / "log.jsonl", disk.write
    half, go_on = threading.Event(), threading.Event()

    def slow(opened: int, data: Any, at: int) -> int:
        if threading.current_thread() is first and not half.is_set():
            done = write(opened, data[:10], at)
            half.set()
            go_on.wait(10)
            return done
        return write(opened, data, at)

    monkeypatch.setattr(disk, "write", slow)
    first = threading.Thread(target=add, args=(path, "first", 1))
    second = threading.Thread(target=add, args=(path, "second", 1))
    first.start()
    assert half.wait(10)
    second.start()
    second.join(0.1)
    assert path.stat().st_size == 10, "the second waits"
    go_on.set()
    first.join()
    second.join()
    assert names(path) == {"first-0", "second-0"}


def failing(write: Callable[[int, Any, int], int]) -> Callable[[int, Any, int], int]:
    """The disk takes half of a line, and is full then."""
    calls: list[int] = []

    def half(opened: int, data: Any, at: int) -> int:
        calls.append(at)
        if len(calls) > 1:
            raise OSError(28, os.strerror(28))
        return write(opened, memoryview(data)[: len(data) // 2], at)

    return half


def test_a_short_write_is_taken_back_and_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "log.jsonl"
    add(path, "kept", 2)
    before = path.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(disk, "write", failing(disk.write))
        with pytest.raises(DiskFullError, match=r"log.jsonl: no space left"):
            add(path, "lost", 1)
    assert path.read_bytes() == before
    add(path, "next", 1)
    assert names(path) == {"kept-0", "kept-1", "next-0"}


def test_a_failed_sync_is_no_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "log.jsonl"
    add(path, "kept", 1)
    with monkeypatch.context() as patch:
        patch.setattr(disk, "sync", failing(disk.write))
        with pytest.raises((OSError, TypeError)):
            add(path, "lost", 1)
    assert names(path) == {"kept-0"}


@pytest.mark.parametrize(
    ("tail", "kept"), [(b'{"id": "half', {"kept-0", "next-0"}), (b'{"id": "whole"}', {"kept-0", "whole", "next-0"})]
)
def test_half_a_line_of_a_killed_process_goes_and_a_whole_one_stays(
    tmp_path: Path, tail: bytes, kept: set[str]
) -> None:
    path = tmp_path / "log.jsonl"
    add(path, "kept", 1)
    with path.open("ab") as file:
        file.write(tail)
    add(path, "next", 1)
    assert names(path) == kept


def test_links_and_pipes_are_refused(tmp_path: Path) -> None:
    (tmp_path / "link.jsonl").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match=r"link.jsonl cannot be written \(it is a symbolic link"):
        json_log.append(tmp_path / "link.jsonl", {})
    pipe = tmp_path / "pipe.jsonl"
    os.mkfifo(pipe)
    for use in (lambda: json_log.append(pipe, {}), lambda: json_log.read_lines(pipe)):
        with pytest.raises(InputError, match="not a regular file"):
            use()


def test_decisions_of_many_threads_all_stand(tmp_path: Path) -> None:
    shared = Decisions(tmp_path / "x.index", ["a"])

    def decide(name: int) -> None:
        for number in range(12):
            shared.decide([f"{name}-{number}-{LONG}"], "drop")
            assert f"{name}-{number}-{LONG}" in shared.current

    threads = [threading.Thread(target=decide, args=(one,)) for one in range(8)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert len(shared.current) == shared.steps == 96


def test_a_full_log_says_so_and_keeps_what_it_holds(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    add(path, "kept", 3)
    before = path.read_bytes()
    with pytest.raises(InputError, match=r"log\.jsonl is full: of a log at most 6,\d{3} bytes are read: move it away"):
        json_log.append(path, {"id": "one more", "long": LONG}, len(before) + 100)
    assert path.read_bytes() == before
    assert json_log.append(path, {"id": "small"}, len(before) + 100)
    assert json_log.read_lines(path, len(before) + 100)[-2] == b'{"id": "small"}'
