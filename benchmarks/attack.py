"""What other visitors notice while the explorer is attacked, by other sites, slow readers and slow expressions.

    python benchmarks/attack.py [--n 100000] [--visits 300] [--folder DIR]

An index of n generated examples of 60 words, `proponent serve` in a process of its own. All attacks run at once: pages
of other sites (GETs of slow expressions without and with a visitor's cookie), a visitor's own slow expressions and
examples of such lists, files and pages that are asked for and never read, heads and bodies that never end, addresses of
10 MB. Meanwhile another visitor looks at answers, the table, examples and the index. Memory is the largest resident
size of the server.
"""

import multiprocessing
import os
import shutil
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import harness
import numpy as np

from explorer import Server, generate, put_answers, spread, timed

SLOW = "(?:[bcdf].{0,30}){20}0"
FOREIGN = "Sec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: no-cors\r\nSec-Fetch-Dest: image\r\n"
EXPRESSIONS, FOREIGNERS, FILES, PAGES, HEADS = 8, 8, 16, 50, 100


class Attack:
    """Clients that go on until they are told to stop, and what they were answered."""

    def __init__(self, port: int, cookie: str) -> None:
        self._port, self.stop, self.outcomes = port, threading.Event(), Counter[str]()
        self._head = f"Host: 127.0.0.1:{port}\r\nCookie: {cookie}\r\n"
        self._threads: list[threading.Thread] = []

    def start(self, name: str, count: int, act: Callable[[int], str]) -> None:
        """Start some clients."""

        def keep(number: int) -> None:
            round_ = 0
            while not self.stop.is_set():
                try:
                    said = act(number + 1000 * round_)
                except OSError as error:
                    said = f"closed ({type(error).__name__})"
                self.outcomes[f"{name}: {said}"] += 1
                round_ += 1

        self._threads += [threading.Thread(target=keep, args=(one,), daemon=True) for one in range(count)]

    def run(self) -> None:
        """Start all of them."""
        for one in self._threads:
            one.start()

    def end(self) -> None:
        """Stop all of them."""
        self.stop.set()
        for one in self._threads:
            one.join(timeout=40)

    def line(self, head: str, more: str = "") -> str:
        """Send a request, and read the first line of the answer and all that follows."""
        with socket.create_connection(("127.0.0.1", self._port), timeout=60) as opened:
            opened.sendall(f"{head} HTTP/1.1\r\nHost: 127.0.0.1:{self._port}\r\n{more}\r\n".encode())
            first = opened.recv(4096).split(b"\r\n", 1)[0].decode()
            while opened.recv(1 << 16):
                pass
        return first

    def unread(self, url: str) -> str:
        """Ask for something and read none of it."""
        with socket.socket() as opened:
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            opened.connect(("127.0.0.1", self._port))
            opened.sendall(f"GET {url} HTTP/1.1\r\n{self._head}\r\n".encode())
            self.stop.wait(20)
        return "not read for 20 s"

    def endless(self) -> str:
        """Send a head that does not end."""
        with socket.create_connection(("127.0.0.1", self._port), timeout=60) as opened:
            opened.sendall(b"GET /table HTTP/1.1\r\nHost: 127")
            self.stop.wait(20)
        return "held for 20 s"

    def body(self) -> str:
        """Send a body that does not end."""
        with socket.create_connection(("127.0.0.1", self._port), timeout=60) as opened:
            kind = "Content-Type: application/x-www-form-urlencoded\r\nTransfer-Encoding: chunked"
            opened.sendall(f"POST /ask HTTP/1.1\r\n{self._head}{kind}\r\n\r\n".encode())
            while not self.stop.is_set():
                opened.sendall(b"10000\r\n" + b"a" * 65536 + b"\r\n")
        return "sent until the end"


def expression(number: int) -> str:
    """The address of a slow search that no cache knows."""
    return "/table?" + urlencode({"q": f"{SLOW}{number:x}", "how": "regex"})


def behind(number: int) -> str:
    """The address of an example that was opened from such a search."""
    return "/example?" + urlencode({"id": "x-0-1", "list": expression(number).partition("?")[2]})


def attack(port: int, held: str) -> Attack:
    """All attacks at once."""
    made, cookie = Attack(port, held), f"Cookie: {held}\r\n"
    made.start("other site", FOREIGNERS, lambda one: made.line(f"GET {expression(one)}", FOREIGN))
    made.start(
        "other site with a cookie", FOREIGNERS, lambda one: made.line(f"GET {expression(one)}", FOREIGN + cookie)
    )
    made.start("slow expression", EXPRESSIONS, lambda one: made.line(f"GET {expression(one)}", cookie))
    made.start("example of a slow list", EXPRESSIONS, lambda one: made.line(f"GET {behind(one)}", cookie))
    made.start("unread file", FILES, lambda one: made.unread(f"/export/table.csv?sort=loss&x={one}"))
    made.start("unread page", PAGES, lambda _: made.unread("/table?size=200"))
    made.start("endless head", HEADS, lambda _: made.endless())
    made.start("endless body", 2, lambda _: made.body())
    made.start("10 MB address", 2, lambda _: made.line("GET /table?q=" + "a" * 10_000_000, cookie))
    return made


def attack_until(port: int, cookie: str, over: Any, outcomes: Any) -> None:
    """Attack in a process of its own, so that the other visitor's clock does not wait for the attackers."""
    attacked = attack(port, cookie)
    attacked.run()
    over.wait()
    attacked.end()
    outcomes.put(dict(sorted(attacked.outcomes.items())))


def main() -> None:
    """Generate, measure, print and write a dated record."""
    parser = harness.arguments(__doc__, n=100_000, visits=300)
    parser.add_argument("--folder", type=Path, default=Path("attack-benchmark"))
    parser.add_argument("--keep", action="store_true", help="keep the generated index")
    options = parser.parse_args()
    folder = options.folder / f"{options.n}.index"
    if not (folder / "manifest.json").is_file():
        options.folder.mkdir(parents=True, exist_ok=True)
        generate(folder, options.n)
    generator = np.random.default_rng(0)
    rows = generator.integers(0, min(options.n, 60_000), options.visits)
    answers, server = put_answers(folder), Server(folder)
    kinds = [lambda at: answers[at % len(answers)], lambda at: f"/example?id=x-0-{rows[at]}",
             lambda at: f"/table?page={1 + at % 20}&sort=-score", lambda _: "/about"]  # fmt: skip
    urls = [kinds[at % len(kinds)](at) for at in range(options.visits)]
    server.get("/export/table.csv")  # what a visitor may do at any time: its memory is no growth
    quiet, before = timed(server, urls), server.memory()
    context = multiprocessing.get_context("spawn")
    over, outcomes = context.Event(), context.Queue()
    attackers = context.Process(target=attack_until, args=(server.port, server.cookie, over, outcomes), daemon=True)
    attackers.start()
    time.sleep(4)
    began = time.perf_counter()
    seconds = []
    for url in urls:
        spent, data = server.get(url)
        assert b" 200 " in data.split(b"\r\n", 1)[0], (url, data[:200])
        seconds.append(spent)
        time.sleep(0.05)
    lasted = time.perf_counter() - began
    over.set()
    answers_to_it = outcomes.get(timeout=120)
    attackers.join()
    found: dict[str, Any] = {
        "other visitors, quiet": quiet,
        "other visitors, under attack": spread(seconds),
        "seconds of attack": round(lasted, 1),
        "peak memory before MB": before,
        "peak memory after MB": server.memory(),
        "growth of the peak MB": server.memory() - before,
        "answers to the attack": answers_to_it,
    }
    server.close()
    harness.write_record(options.out, "attack", {"n": options.n, "measured": found}, f"load {os.getloadavg()[0]:.1f}")
    if not options.keep:
        shutil.rmtree(options.folder)


if __name__ == "__main__":
    main()
