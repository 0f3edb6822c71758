"""A bucket on this machine, machines that share nothing but it, and what goes over the network."""

import contextlib
import logging
import os
import threading
import urllib.request
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import faults
from proponent.buckets import Bucket, Held
from proponent.gradients.forms import Rows
from proponent.gradients.gradient import Gradient
from proponent.store import PlannedSegment, Writer, building
from proponent.types import CheckpointId

SECRET = "an-open-secret"
BUCKET = "texts"


def environment(port: int) -> dict[str, str]:
    return {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ALLOW_HTTP": "true",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_REGION": "us-east-1",
    }


class Server:
    """An S3 server on 127.0.0.1, with one bucket."""

    def __init__(self) -> None:
        from moto.server import ThreadedMotoServer

        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        self.server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        self.server.start()
        self.port = self.server.get_host_and_port()[1]
        made = urllib.request.Request(f"http://127.0.0.1:{self.port}/{BUCKET}", method="PUT")
        with urllib.request.urlopen(made) as answer:
            answer.read()


@contextlib.contextmanager
def answering(status: int, code: str) -> Generator[int]:
    """A server that answers every request with one error of S3; its port."""

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            body = f"<Error><Code>{code}</Code><Message>no</Message></Error>".encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_HEAD(self) -> None:
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            """Be quiet."""

    for method in ("GET", "PUT", "POST", "DELETE"):
        setattr(Handler, f"do_{method}", Handler.answer)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@dataclass
class Traffic:
    """What was read from buckets."""

    bytes: int = 0
    requests: int = 0
    names: list[str] = field(default_factory=list)

    def watch(self, monkeypatch: pytest.MonkeyPatch) -> "Traffic":
        ranges, chunks = Bucket.ranges, Bucket.chunks

        def count(size: int, name: str) -> None:
            self.bytes, self.requests = self.bytes + size, self.requests + 1
            self.names.append(name)

        def counted_ranges(bucket: Bucket, name: str, spans: Any) -> list[bytes]:
            count(sum(end - begin for begin, end in spans), name)
            return ranges(bucket, name, spans)

        def counted_chunks(bucket: Bucket, name: str) -> Iterator[bytes]:
            count(0, name)
            for piece in chunks(bucket, name):
                self.bytes += len(piece)
                yield piece

        monkeypatch.setattr(Bucket, "ranges", counted_ranges)
        monkeypatch.setattr(Bucket, "chunks", counted_chunks)
        return self


class Machines:
    """Machines that share only buckets: each has a cache of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @contextlib.contextmanager
    def __call__(self, name: str) -> Generator[Path]:
        before = os.environ.get("XDG_CACHE_HOME")
        os.environ["XDG_CACHE_HOME"] = str(self.folder / name)
        try:
            yield self.folder / name / "proponent" / "buckets"
        finally:
            if before is None:
                del os.environ["XDG_CACHE_HOME"]
            else:
                os.environ["XDG_CACHE_HOME"] = before

    def build(self, machine: str, url: str, **how: Any) -> None:
        """Build or resume an index of made-up gradients on one of them."""
        with self(machine), building(url) as folder:
            faults.build(folder, **how)


def put(bucket: Bucket, folder: Path) -> None:
    """Copy a folder to a bucket."""
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name != "lease":
            bucket.create(path.relative_to(folder).as_posix(), path)


def overwrite(bucket: Bucket, name: str, data: bytes) -> Held:
    bucket.remove([name])
    made = bucket.create(name, data)
    assert made is not None
    return made


def read(bucket: Bucket, name: str) -> bytes:
    return b"".join(bucket.chunks(name))


# ---- an index of many blocks ----

WIDE, TOKENS, EACH, SEGMENTS, PER_SEGMENT = 384, 400, 6, 3, 500
AT = CheckpointId(0, 3)


def large(folder: Path) -> Path:
    """An index of several files of many blocks: 26 MB."""
    generator = np.random.default_rng(5)
    segments = [
        PlannedSegment(name=f"{number:05d}", n=PER_SEGMENT, shards=[*range(0, PER_SEGMENT, 125), PER_SEGMENT])
        for number in range(SEGMENTS)
    ]
    base = faults.plan()
    data = base.source.model_copy(update={"segments": segments, "n": SEGMENTS * PER_SEGMENT})
    term = base.terms[0].model_copy(update={"checkpoints": base.terms[0].checkpoints[:1]})
    writer = Writer(folder, base.model_copy(update={"source": data, "terms": [term]}))
    for number, segment in enumerate(segments):
        order = np.arange(segment.n)
        columns = {
            "id": [f"{number}-{row}" for row in order],
            "row": order,
            "text": ["a text"] * segment.n,
            "label": ["a"] * segment.n,
            "place": order.astype(np.int32),
        }
        writer.put_examples(segment.name, columns)
        for shard in range(len(segment.shards) - 1):
            writer.put_shard(AT, segment.name, shard, _arrays(generator, 125))
        writer.finish(segment, order, writer.gather(segment, order, [0] * segment.n), postings=True)
    writer.seal([], [], {})
    writer.close()
    return folder


def _arrays(generator: np.random.Generator, n: int) -> dict[str, np.ndarray]:
    rows = n * EACH
    tokens = np.concatenate([np.sort(generator.choice(TOKENS, EACH, replace=False)) for _ in range(n)])
    return {
        "rows.indptr": np.arange(n + 1) * EACH,
        "rows.ids": tokens.astype(np.int32),
        "rows.words": np.tile(np.arange(EACH, dtype=np.int32), n),
        "rows.rows": generator.normal(size=(rows, WIDE)).astype(np.float32),
        "meta.bad": np.zeros(n, dtype=np.bool_),
        "meta.losses": generator.random(n),
        "meta.probabilities": np.full((n, 3), 1 / 3, dtype=np.float32),
    }


def question(token: int) -> dict[CheckpointId, Gradient]:
    """A query of one token."""
    rows = np.random.default_rng(token).normal(size=(1, WIDE)).astype(np.float32)
    held = Rows(np.asarray([0, 1]), np.asarray([token]), np.zeros(1, dtype=np.int64), rows)
    return {AT: Gradient(rows=held)}
