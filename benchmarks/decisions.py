"""Decisions under kills and full disks: none lost that was confirmed, none half-written.

    python benchmarks/decisions.py [--n 100000] [--connections 16] [--processes 4] [--kills 60] [--folder DIR]

One `proponent serve` answers the connections, which decide through its forms; the processes decide through the library;
all write to one log, in a small file system in memory where one can be mounted. Server and processes are killed
(SIGKILL) at random moments and started again, and the file system is filled up and freed. Whoever was refused or cut
off decides again. A decision counts as confirmed when the page was answered (303), or the call returned. At the end
the log is read: every line a whole record, every confirmed decision in it.
"""

import argparse
import contextlib
import http.client
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import harness

from explorer import Server, generate

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from crashes import NoMountError, mounted

WEB_SHARE = 0.6
"""Part of the decisions that the connections make; the processes make the others."""

LONG = "x" * 2000
"""Every fourth decision of a process has a long id: its line takes several blocks of the disk."""

WRITER = """
import sys
from pathlib import Path
from proponent.actions.decisions import Decisions
from proponent.errors import ProponentError
made = Decisions(Path(sys.argv[1]), ["a", "b"])
for line in sys.stdin:
    name = line.strip()
    try:
        made.decide([name + ("x" * 2000 if name.endswith("0") else "")], "drop")
        print("+" + name, flush=True)
    except ProponentError as error:
        print("-" + name + " " + type(error).__name__, flush=True)
"""


class Tally:
    """What was confirmed, and what else happened."""

    def __init__(self) -> None:
        self.confirmed: set[str] = set()
        self.counts: Counter[str] = Counter()
        self._lock = threading.Lock()

    def confirm(self, name: str) -> None:
        """Note a confirmed decision."""
        with self._lock:
            self.confirmed.add(name)

    def count(self, what: str) -> None:
        """Note something else."""
        with self._lock:
            self.counts[what] += 1


class Served:
    """A server that is killed and started again; its visitors find the new one."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._lock = folder, threading.Lock()
        self.server, self.token = Server(folder), ""
        self._login()

    def _login(self) -> None:
        found = re.search(rb'name="token" value="([^"]+)"', self.server.get("/about")[1])
        assert found is not None
        self.token = found[1].decode()

    def kill(self) -> None:
        """Kill it at any moment, and start another."""
        self.server.process.send_signal(signal.SIGKILL)
        self.server.process.wait()
        with self._lock:
            self.server = Server(self._folder)
            self._login()

    def decide(self, name: str) -> int:
        """Send a form; give the status, or 0 when the connection was cut."""
        with self._lock:
            server, token = self.server, self.token
        body = urlencode({"token": token, "id": name, "act": "drop"})
        headers = {"Cookie": server.cookie, "Content-Type": "application/x-www-form-urlencoded"}
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
        try:
            connection.request("POST", "/decide", body, headers)
            return connection.getresponse().status
        except (OSError, http.client.HTTPException):
            return 0
        finally:
            connection.close()


def visit(served: Served, names: list[str], tally: Tally) -> None:
    """One connection after another, each decision again until it is confirmed."""
    for name in names:
        while True:
            status = served.decide(name)
            if status == 303:
                tally.confirm(name)
                break
            tally.count("connections cut" if status == 0 else f"refused by a page ({status})")
            time.sleep(0.02)


class Writer:
    """A process that decides through the library, killed now and then; it goes on with what was not confirmed."""

    def __init__(self, index: Path, names: list[str], tally: Tally) -> None:
        self._index, self._names, self._tally = index, names, tally
        self.process: subprocess.Popen[str] | None = None

    def run(self) -> None:
        """Decide until all is confirmed."""
        left = list(self._names)
        while left:
            words = [sys.executable, "-c", WRITER, str(self._index)]
            self.process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            left = self._feed(self.process, left)
            self.process.wait()

    def _feed(self, process: "subprocess.Popen[str]", left: list[str]) -> list[str]:
        assert process.stdin is not None
        assert process.stdout is not None
        place = 0
        while place < len(left):
            try:
                process.stdin.write(left[place] + "\n")
                process.stdin.flush()
                said = process.stdout.readline()
            except OSError:
                said = ""
            if not said.endswith("\n"):
                break
            if said[0] == "+":
                self._tally.confirm(left[place])
                place += 1
            else:
                self._tally.count(f"refused by the library ({said.split()[-1]})")
                time.sleep(0.02)
        with contextlib.suppress(OSError):
            process.stdin.close()
        return left[place:]


@contextlib.contextmanager
def small_disk(folder: Path, size: int) -> Iterator[tuple[Path, bool]]:
    """A file system that can be filled up; a plain folder where none can be mounted."""
    try:
        with mounted(folder / "small", size) as small:
            yield small, True
    except NoMountError:
        yield folder, False


def fill(folder: Path, seconds: float) -> None:
    """Take all the space but a few bytes of a line, wait, and free it."""
    path = folder / "ballast"
    with path.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(b"\0" * 4096)
    time.sleep(seconds)
    path.unlink()


def trouble(served: Served, writers: list[Writer], disk: Path | None, kills: int, done: Any, tally: Tally) -> None:
    """Kill and fill at random until everything is confirmed."""
    generator = random.Random(0)
    while not done.is_set():
        time.sleep(generator.uniform(0.2, 1.2))
        what = generator.random()
        if what < 0.25 and disk is not None:
            fill(disk, generator.uniform(0.05, 0.4))
            tally.count("times the disk was full")
        elif tally.counts["kills of the server"] + tally.counts["kills of processes"] >= kills:
            continue
        elif what < 0.4:
            served.kill()
            tally.count("kills of the server")
        else:
            process = generator.choice(writers).process
            if process is not None and process.poll() is None:
                process.kill()
                tally.count("kills of processes")


def check(index: Path, tally: Tally) -> dict[str, Any]:
    """Read the log: whole lines only, and every confirmed decision."""
    path = index.with_name(index.name + ".decisions.jsonl")
    *lines, tail = path.read_bytes().split(b"\n")
    records, broken = Counter[str](), 0
    for line in lines:
        try:
            records[json.loads(line)["step"][0]["id"].removesuffix(LONG)] += 1
        except (ValueError, KeyError, TypeError):
            broken += 1
    return {
        "confirmed": len(tally.confirmed),
        "lost": len(tally.confirmed - records.keys()),
        "half-written": broken + bool(tail),
        "lines": len(lines),
        "written but not confirmed, and written again": sum(count - 1 for count in records.values()),
        "bytes": path.stat().st_size,
        **dict(sorted(tally.counts.items())),
    }


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Decide, kill, fill up, and read the log."""
    web = int(options.n * WEB_SHARE)
    names = [f"x-0-{one}" for one in range(web)]
    others = [f"p-{one}" for one in range(options.n - web)]
    options.folder.mkdir(parents=True, exist_ok=True)
    if not (options.folder / "whole.index" / "manifest.json").is_file():
        generate(options.folder / "whole.index", web)
    tally, done = Tally(), threading.Event()
    with small_disk(options.folder, 64 * 2**20 + 4000 * options.n) as (disk, mounts):
        index = disk / "news.index"
        index.symlink_to((options.folder / "whole.index").absolute())
        served = Served(index)
        writers = [Writer(index, others[one :: options.processes], tally) for one in range(options.processes)]
        share = [names[one :: options.connections] for one in range(options.connections)]
        threads = [threading.Thread(target=visit, args=(served, some, tally)) for some in share]
        threads += [threading.Thread(target=one.run) for one in writers]
        full = disk if mounts else None
        bad = threading.Thread(target=trouble, args=(served, writers, full, options.kills, done, tally))
        began = time.perf_counter()
        for one in [*threads, bad]:
            one.start()
        for one in threads:
            one.join()
        seconds = time.perf_counter() - began
        done.set()
        bad.join()
        served.server.close()
        found = check(index, tally)
        index.unlink()
    return found | {"seconds": round(seconds, 1), "file system": "in memory, filled up" if mounts else "a plain folder"}


def confirmed(options: argparse.Namespace) -> dict[str, Any]:
    """Measure; end with an error if anything was lost."""
    found = measure(options)
    if found["lost"] or found["half-written"] or found["confirmed"] != options.n:
        raise SystemExit(f"decisions were lost or half-written: {found}")
    return found


def main() -> None:
    """Measure, print and write a dated record."""
    parser = harness.arguments(__doc__, n=100_000, connections=16, processes=4, kills=60)
    parser.add_argument("--folder", type=Path, default=Path("decisions-benchmark"))
    parser.add_argument("--keep", action="store_true", help="keep the generated index")
    options = parser.parse_args()
    found = confirmed(options)
    settings = {name: getattr(options, name) for name in ("n", "connections", "processes", "kills")}
    harness.write_record(options.out, "decisions", settings | {"measured": found}, f"load {os.getloadavg()[0]:.1f}")
    if not options.keep:
        shutil.rmtree(options.folder)


if __name__ == "__main__":
    main()
