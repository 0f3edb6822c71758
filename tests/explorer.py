"""An explorer for tests: the application behind its guard, asked in this process, with every header in our hands."""

import asyncio
import atexit
import json
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

from markup import Structure
from proponent.processes import Child
from proponent.web.model_process import COMMAND
from proponent.web.model_worker import ModelWorker
from proponent.web.open_indexes import OpenIndexes
from proponent.web.serving import made

PORT = 7860
HOST = f"127.0.0.1:{PORT}"
IDLE: list[Child] = []
"""Processes with a model that no explorer uses: to start one takes longer than most tests."""

OWN = {"origin": f"http://{HOST}", "sec-fetch-site": "same-origin"}


BOUNDARY = "----of-a-form"


def form_with_file(fields: Mapping[str, str], name: str, content: bytes) -> bytes:
    """A form as browsers send it: its fields, then its file."""
    parts = [f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{one}"\r\n\r\n{value}\r\n'
             for one, value in fields.items()]  # fmt: skip
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n'
    head += "Content-Type: application/octet-stream\r\n\r\n"
    return "".join([*parts, head]).encode() + content + f"\r\n--{BOUNDARY}--\r\n".encode()


@dataclass(frozen=True)
class Reply:
    """What came back."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()

    @property
    def seen(self) -> str:
        """The words of the page, white space made plain."""
        return " ".join(" ".join(Structure(self.text).text).split())

    @property
    def location(self) -> str:
        return self.headers.get("location", "")


class Browser:
    """Asks an explorer."""

    def __init__(
        self,
        *indexes: Path,
        host: str = "127.0.0.1",
        read_seconds: float = 30.0,
        login: bool = True,
        **options: Any,
    ) -> None:
        self.open_indexes = OpenIndexes(indexes, options)
        self.explorer, self.guard = made(self.open_indexes, host, PORT, login=login)
        self.guard._seconds = read_seconds
        self._options = options
        self.token, self.login = self.guard.secrets.form, self.guard.secrets.login
        self.cookie = f"{self.guard._cookie}={self.guard.secrets.cookie}"  # of a visitor who opened the printed address
        self.explorer.asker._started = self._started

    def get(self, url: str, headers: Mapping[str, str] | None = None, method: str = "GET") -> Reply:
        return self.send(method, url, {"host": HOST, **(headers or {})})

    def post(self, url: str, fields: Mapping[str, Any], headers: Mapping[str, str] | None = None) -> Reply:
        """A form of our own pages."""
        filled = {"token": self.token, **fields}
        kind = {"content-type": "application/x-www-form-urlencoded"}
        body = urlencode(filled, doseq=True).encode()
        length = {"content-length": str(len(body))}
        return self.send("POST", url, {"host": HOST, **OWN, **kind, **length, **(headers or {})}, [body])

    def upload(
        self, content: bytes, name: str = "test.csv", fields: Mapping[str, str] | None = None, **how: Any
    ) -> Reply:
        """The form of a test set, with its file."""
        body = form_with_file({"token": self.token, "in": "", **(fields or {})}, name, content)
        kind = {"content-type": f"multipart/form-data; boundary={BOUNDARY}", "content-length": str(len(body))}
        headers = {"host": HOST, **OWN, **kind, **how.pop("headers", {})}
        return self.send(
            "POST", "/upload", headers, [body[at : at + 65_536] for at in range(0, len(body), 65_536)], **how
        )

    def finished(self, url: str, seconds: float = 120.0) -> Reply:
        """Wait until a page no longer shows progress."""
        until = time.monotonic() + seconds
        reply = self.get(url)
        while 'hx-trigger="every' in reply.text and time.monotonic() < until:
            time.sleep(0.1)
            reply = self.get(url)
        return reply

    def send(self, method: str, url: str, headers: Any, parts: Sequence[bytes] = (b"",), wait: float = 0.0) -> Reply:
        """Any request of a visitor who is let in, unless a cookie is given; headers as a mapping or as pairs."""
        pairs = list(headers.items() if isinstance(headers, Mapping) else headers)
        if all(name.lower() != "cookie" for name, _ in pairs):
            pairs.append(("cookie", self.cookie))
        split = urlsplit(url)
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": split.path,
            "raw_path": split.path.encode("utf-8", "surrogatepass"),
            "query_string": split.query.encode("utf-8", "surrogatepass"),
            "root_path": "",
            "headers": [(name.lower().encode(), value.encode("latin-1")) for name, value in pairs],
            "client": ("127.0.0.1", 50000),
            "server": ("127.0.0.1", PORT),
            "state": {},
        }
        return asyncio.run(self._run(scope, list(parts), wait))

    async def _run(self, scope: dict[str, Any], parts: list[bytes], wait: float) -> Reply:
        sent: list[dict[str, Any]] = []
        waiting = list(parts)

        async def receive() -> dict[str, Any]:
            if not waiting:
                return {"type": "http.disconnect"}
            await asyncio.sleep(wait)
            return {"type": "http.request", "body": waiting.pop(0), "more_body": bool(waiting)}

        async def send(message: dict[str, Any]) -> None:
            sent.append(dict(message))

        await self.guard(scope, receive, send)
        start = sent[0]
        headers = {name.decode(): value.decode("latin-1") for name, value in start["headers"]}
        return Reply(start["status"], headers, b"".join(one.get("body", b"") for one in sent[1:]))

    def ask(self, text: str, seconds: float = 120.0, **fields: Any) -> Reply:
        """Ask a question and wait for the page with its answer."""
        reply = self.post("/ask", {"text": text, **fields})
        until = time.monotonic() + seconds
        while reply.status == 303 and time.monotonic() < until:
            where = reply.location
            reply = self.get(where)
            if where.startswith("/job") and reply.status == 200 and 'hx-trigger="every' in reply.text:
                time.sleep(0.1)
                reply = Reply(303, {"location": where}, b"")
        return reply

    def undo(self, back: str, step: int | None = None) -> Reply:
        """Undo the decision that the page names as the last one."""
        shown = re.search(r'name="step" value="(\d+)"', self.get(back).text) if step is None else None
        return self.post("/undo", {"back": back, "step": step if shown is None else shown[1]})

    def _started(self) -> Child:
        """The process with the model: one that another explorer left, or a new one."""
        asker = self.explorer.asker
        if asker._process is None and IDLE and asker._command == COMMAND and not self._options:
            asker._process = IDLE.pop()
        return ModelWorker._started(asker)

    def close(self) -> None:
        """End; the process with the model stays for another explorer, if it is the usual one and has nothing to do."""
        asker = self.explorer.asker
        busy = asker._in_state("waiting", "running")
        process = asker._process
        if process is None or process.poll() is not None or busy or asker._command != COMMAND or self._options:
            asker.close()
        else:
            IDLE.append(process)
            asker._process = None


@atexit.register
def end() -> None:
    """End what is left."""
    for process in IDLE:
        process.communicate()


def lines(body: bytes) -> list[Any]:
    return [json.loads(line) for line in body.decode().splitlines()]
