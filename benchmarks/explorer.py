"""The cost of the explorer: its start, its pages at 100,000 training examples, many readers, hostile clients.

    python benchmarks/explorer.py [--n 100000] [--folder DIR] [--keep]

An index of n generated examples of 60 words in four classes is written, answers are stored next to it, and `proponent
serve` runs as for users, in a separate process, with requests over loopback. No cache is warmed by hand. Memory maps,
sockets and peak memory of the server are read from /proc. Answers are stored by `proponent.web.questions`: there is no
model for the server to query.
"""

import os
import re
import shutil
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

import harness
import numpy as np
from generated_index import SEGMENT, write_index

from proponent.store import Store
from proponent.types import CheckpointId
from proponent.views import CheckpointView, Explanation, Hit, QueryView, WordPair
from proponent.web.questions import Questions
from proponent.web.states import Question

LABELS = ["business", "science", "sports", "world"]
STEPS = (CheckpointId(0, 100), CheckpointId(0, 200))
WORDS, SHARD, WIDTH = 60, 8_192, 4
VOCABULARY = 20_000
ANSWERS = 100


def texts_of(generator: np.random.Generator, count: int) -> list[str]:
    """Texts of Zipf words: the more frequent a word, the shorter."""
    drawn = harness.zipf(generator, VOCABULARY, (count, WORDS))
    words = np.asarray([_word(number) for number in range(VOCABULARY + 1)], dtype=object)
    return [" ".join(row) for row in words[drawn]]


def _word(number: int) -> str:
    letters = ""
    number += 5
    while number:
        number, digit = divmod(number, 20)
        letters += "bcdfghklmnprstvwxyzj"[digit] + "aeiou"[digit % 5]
    return letters


def generate(folder: Path, n: int) -> None:
    """Write an index of n generated examples of a classifier."""

    def labels(segment: int) -> np.ndarray:
        return np.random.default_rng([5, segment]).integers(0, len(LABELS), SEGMENT)

    def columns(segment: int, count: int) -> dict[str, Any]:
        return {
            "id": [f"x-{segment}-{row}" for row in range(count)],
            "text": texts_of(np.random.default_rng([6, segment]), count),
            "label": [LABELS[one] for one in labels(segment)[:count]],
            "source": [("news", "forum", "letters")[row % 3] for row in range(count)],
        }

    def shard(segment: int, at: int, count: int) -> dict[str, np.ndarray]:
        generator, given = np.random.default_rng([7, segment, at]), labels(segment)[at * SHARD :][:count]
        probabilities = generator.dirichlet(np.full(len(LABELS), 0.4), count)
        right = generator.random(count) < 0.9
        probabilities[right] += 2 * np.eye(len(LABELS))[given[right]]
        return _forms(generator, probabilities / probabilities.sum(1, keepdims=True), given)

    write_index(folder, n, columns, shard, shard_rows=SHARD, steps=STEPS, labels=LABELS)


def _forms(generator: np.random.Generator, probabilities: np.ndarray, given: np.ndarray) -> dict[str, np.ndarray]:
    count = len(given)
    return {
        "rows.indptr": np.arange(count + 1, dtype=np.int64),
        "rows.ids": generator.integers(0, VOCABULARY, count),
        "rows.words": np.zeros(count, dtype=np.int64),
        "rows.rows": generator.standard_normal((count, WIDTH), dtype=np.float32),
        "meta.losses": -np.log(probabilities[np.arange(count), given]),
        "meta.bad": np.zeros(count, dtype=np.bool_),
        "meta.probabilities": probabilities.astype(np.float32),
    }


def answer_of(store: Store, generator: np.random.Generator, text: str, side: int) -> Explanation:
    """An answer with some examples a side."""
    proponents, opponents = (
        tuple(hit_of(store, generator, rank, sign, text) for rank in range(1, side + 1)) for sign in (1.0, -1.0)
    )
    probabilities = dict(zip(LABELS, (0.1, 0.1, 0.1, 0.7), strict=True))
    return Explanation(
        method="tracin-we",
        checkpoints=tuple(CheckpointView(one.step, 1.0, "benchmark") for one in STEPS),
        embedding_path="exact",
        loss="mean",
        query=QueryView(text=text, label="world", predicted="world", probabilities=probabilities, loss=0.3),
        proponents=proponents,
        opponents=opponents,
        n_examples=store.n,
    )


def put_answers(folder: Path) -> list[str]:
    """Put answers of ten examples a side beside the index; give their addresses."""
    store = Store(folder)
    questions, generator = Questions(folder, store.manifest.merkle_root), np.random.default_rng(1)
    texts = texts_of(generator, ANSWERS)
    sums = [{"name": one, "n": 25, "proponents": 1.0, "opponents": -0.5} for one in LABELS]
    for text in texts:
        answer = answer_of(store, generator, text, 10).to_dict()
        questions.put(Question(text), {"answer": answer, "n_examples": store.n, "groups": {"label": sums}})
    return ["/ask?" + urlencode({"text": text}) for text in texts]


def hit_of(store: Store, generator: np.random.Generator, rank: int, sign: float, query: str) -> Hit:
    """One hit: a training example with twelve marked words."""
    row = store.row(int(generator.integers(store.n)))
    text, asked = str(row["text"]), query.split()
    places = [(one.start(), one.end()) for one in re.finditer(r"\w+", text)]
    pairs = []
    for number in range(12):
        word, (start, end) = asked[number], places[5 * number]
        at = query.index(word)
        share = sign / (number + 1) / rank
        pairs.append(WordPair(word, text[start:end], share, ((at, at + len(word)),), ((start, end),)))
    score = sum(pair.share for pair in pairs)
    return Hit(
        rank=rank,
        id=str(row["id"]),
        row=int(row["row"]),
        score=score,
        text=text,
        label=row["label"],
        predicted=row["predicted"],
        by_checkpoint=(score / 2, score / 2),
        words=tuple(pairs),
    )


def states(generator: np.random.Generator, count: int) -> list[str]:
    """Random states of the table: searches, facets, sorts, pages."""
    found = []
    for _ in range(count):
        state: dict[str, Any] = {}
        if generator.random() < 0.6:
            state["q"] = _word(int(generator.integers(0, 4000)))
            state["how"] = str(generator.choice(["substring", "substring", "word", "regex"]))
            if state["how"] == "regex":
                state["q"] += "[aeiou]+" + _word(int(generator.integers(0, 300)))
        if generator.random() < 0.5:
            state["label"] = [str(one) for one in generator.choice(LABELS, 2, replace=False)]
        if generator.random() < 0.3:
            state["flag"] = "yes"
        if generator.random() < 0.3:
            state["source"] = "news"
        if generator.random() < 0.3:
            state["low"] = 0.1
        if generator.random() < 0.7:
            sign = "-" if generator.random() < 0.5 else ""
            state["sort"] = sign + str(generator.choice(["label", "score", "loss", "length", "id", "predicted"]))
        state["page"] = int(generator.integers(1, 20))
        found.append("/table?" + urlencode(state, doseq=True))
    return found


class Server:
    """`proponent serve` in a process of its own."""

    def __init__(self, folder: Path) -> None:
        self.began = time.perf_counter()
        words = [sys.executable, "-m", "proponent.cli", "serve", str(folder), "--port", "0", "--quiet"]
        self.process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        address = urlsplit(self.process.stdout.readline().strip())
        self.port, self.cookie = int(address.port or 0), ""
        welcome = self.get(f"/?{address.query}")[1].decode("latin-1")
        found = re.search(r"set-cookie: ([^;\r]+)", welcome, re.IGNORECASE)
        assert found is not None, welcome[:300]
        self.cookie = found[1]

    @property
    def head(self) -> str:
        """The headers of every request."""
        return f"Host: 127.0.0.1:{self.port}\r\nCookie: {self.cookie}\r\n"

    def get(self, url: str, at: socket.socket | None = None) -> tuple[float, bytes]:
        """Seconds and the whole answer."""
        began = time.perf_counter()
        opened = at or socket.create_connection(("127.0.0.1", self.port))
        opened.sendall(f"GET {url} HTTP/1.1\r\n{self.head}\r\n".encode())
        data = _answer(opened)
        if at is None:
            opened.close()
        return time.perf_counter() - began, data

    def memory(self, name: str = "VmHWM") -> int:
        """Megabytes."""
        found = re.search(rf"{name}:\s+(\d+)", Path(f"/proc/{self.process.pid}/status").read_text(encoding="utf-8"))
        return int(found[1]) // 1000 if found else 0

    def maps(self, name: str) -> bool:
        """Whether a library is loaded."""
        return name in Path(f"/proc/{self.process.pid}/maps").read_text(encoding="utf-8")

    def close(self) -> None:
        """End it."""
        self.process.terminate()
        self.process.wait()


def _answer(opened: socket.socket) -> bytes:
    data = b""
    while b"\r\n\r\n" not in data:
        part = opened.recv(65536)
        if not part:
            return data
        data += part
    head, _, body = data.partition(b"\r\n\r\n")
    length = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
    parts, held = [body], len(body)
    while length and held < int(length[1]):
        part = opened.recv(1 << 20)
        if not part:
            break
        parts.append(part)
        held += len(part)
    return head + b"\r\n\r\n" + b"".join(parts)


def spread(seconds: list[float]) -> dict[str, float]:
    """Milliseconds: median, 95th percentile, largest."""
    ordered = sorted(seconds)
    return {
        "p50 ms": round(1000 * statistics.median(ordered), 1),
        "p95 ms": round(1000 * ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))], 1),
        "max ms": round(1000 * ordered[-1], 1),
        "n": len(ordered),
    }


def timed(server: Server, urls: list[str]) -> dict[str, float]:
    """Ask one after another."""
    seconds = []
    for url in urls:
        spent, data = server.get(url)
        assert b" 200 " in data.split(b"\r\n", 1)[0], (url, data[:200])
        seconds.append(spent)
    return spread(seconds)


def readers(server: Server, urls: list[str], count: int, each: int, pause: float) -> dict[str, float]:
    """Many readers at once, each over one connection, who look at a page for a while before they go on."""
    seconds: list[float] = []

    def read(number: int) -> None:
        generator = np.random.default_rng(number)
        opened = socket.create_connection(("127.0.0.1", server.port))
        time.sleep(float(generator.random()) * pause)
        for _ in range(each):
            seconds.append(server.get(urls[int(generator.integers(len(urls)))], opened)[0])
            time.sleep(pause * (0.5 + float(generator.random())))
        opened.close()

    threads = [threading.Thread(target=read, args=(number,)) for number in range(count)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    return spread(seconds)


def hostile(server: Server, urls: list[str]) -> dict[str, Any]:
    """What others get while somebody sends a gigabyte, long addresses, slow heads and bad expressions."""
    before, stop, outcomes = server.memory("VmRSS"), threading.Event(), dict[str, str]()
    slow = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(100)]
    for one in slow:
        one.sendall(b"GET /table HTTP/1.1\r\nHost: 127")

    def keep(name: str, act: Callable[[], str]) -> None:
        while not stop.is_set():
            try:
                outcomes[name] = act()
            except OSError as error:
                outcomes[name] = f"connection closed ({type(error).__name__})"

    acts = {
        "1 GB body": lambda: _gigabyte(server, stop),
        "10 MB address": lambda: _first_line(server, "/table?q=" + "a" * 10_000_000),
        "a million parameters": lambda: _first_line(server, "/table?" + "label=a&" * 1_000_000),
        "catastrophic expression": lambda: _first_line(
            server, "/table?" + urlencode({"q": f"(a|aa)+(.*e){{30}}{time.time()}$", "how": "regex"})
        ),
    }
    threads = [threading.Thread(target=keep, args=item, daemon=True) for item in acts.items()]
    for one in threads:
        one.start()
    time.sleep(1)
    others = timed(server, urls)
    stop.set()
    for one in threads:
        one.join(timeout=20)
    for one in slow:
        one.close()
    return {"others": others, "outcomes": outcomes, "memory growth MB": server.memory("VmRSS") - before}


def _first_line(server: Server, url: str) -> str:
    return server.get(url)[1].split(b"\r\n", 1)[0].decode()


def _gigabyte(server: Server, stop: threading.Event) -> str:
    """Send a body without end; say how much was taken."""
    opened = socket.create_connection(("127.0.0.1", server.port))
    kind = "Content-Type: application/x-www-form-urlencoded\r\nTransfer-Encoding: chunked"
    opened.sendall(f"POST /ask HTTP/1.1\r\n{server.head}{kind}\r\n\r\n".encode())
    sent = 0
    try:
        while sent < 2**30 and not stop.is_set():
            opened.sendall(b"10000\r\n" + b"a" * 65536 + b"\r\n")
            sent += 65536
    except OSError:
        pass
    opened.close()
    return f"cut off after {sent // 1024} KiB"


def listening(port: int) -> list[str]:
    """Addresses on which anything listens at a port."""
    found = []
    for name in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{name}").read_text(encoding="utf-8").splitlines()[1:]:
            local, state = line.split()[1], line.split()[3]
            if state == "0A" and int(local.rsplit(":", 1)[1], 16) == port:
                found.append(local.rsplit(":", 1)[0])
    return found


def main() -> None:
    """Generate, measure, print and write a dated record."""
    parser = harness.arguments(__doc__, n=100_000, readers=20)
    parser.add_argument("--folder", type=Path, default=Path("explorer-benchmark"))
    parser.add_argument("--keep", action="store_true", help="keep the generated index")
    parser.add_argument("--pages", type=int, default=10, help="pages that each reader looks at")
    options = parser.parse_args()
    folder = options.folder / f"{options.n}.index"
    if not (folder / "manifest.json").is_file():
        options.folder.mkdir(parents=True, exist_ok=True)
        generate(folder, options.n)
    answers = put_answers(folder)
    generator = np.random.default_rng(0)
    starts = []
    for _ in range(5):
        server = Server(folder)
        server.get("/ask")
        starts.append(time.perf_counter() - server.began)
        assert not server.maps("libtorch")
        server.close()
    server = Server(folder)
    first_table = server.get("/table")[0]
    time.sleep(3)
    filters = states(generator, 200)
    found: dict[str, Any] = {
        "cold start to the first page, seconds": [round(one, 2) for one in sorted(starts)],
        "first look at the table, seconds": round(first_table, 2),
        "filter, sort, page": timed(server, filters),
        "stored answer": timed(server, answers * 2),
        "one example": timed(
            server, [f"/example?id=x-0-{one}" for one in generator.integers(0, min(options.n, 60_000), 50)]
        ),
        **{
            f"{options.readers} readers, {name}": readers(
                server, filters + answers, options.readers, options.pages, pause
            )
            for name, pause in {"2 s a page": 2.0, "no pause": 0.0}.items()
        },
        "peak memory MB": server.memory(),
        "hostile": hostile(server, answers[:60]),
        "torch loaded": server.maps("libtorch"),
        "listens on": listening(server.port),
    }
    server.close()
    load = f"load {os.getloadavg()[0]:.1f} before"
    harness.write_record(options.out, "explorer", {"n": options.n, "measured": found}, load)
    if not options.keep:
        shutil.rmtree(options.folder)


if __name__ == "__main__":
    main()
