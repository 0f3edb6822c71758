"""Files that are sent: on the disk, not in memory, until the client has read them."""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

from proponent.disk import scratch_folder, write_bytes
from proponent.web.slots import Slots

PART = 256 * 1024
"""Bytes of a file per sent part."""

MAKING = Slots("other files are being made", running=1, waiting=2, seconds=30.0)
"""A file of a whole view takes memory while it is made."""

SENDING = Slots("other files are still being sent", running=8, waiting=0)
"""A file of a client that does not read stays on the disk."""


class Download:
    """A file of a temporary folder, which is gone when the file is closed."""

    def __init__(self, fill: Callable[[Path], object], name: str) -> None:
        with ExitStack() as stack:
            SENDING.take()
            stack.callback(SENDING.give_back)
            with MAKING():
                path = stack.enter_context(scratch_folder()) / name
                fill(path)
            self.size = path.stat().st_size
            self._file: IO[bytes] = stack.enter_context(path.open("rb"))
            self._kept = stack.pop_all()

    def read(self) -> bytes:
        """Read the next part; empty at the end."""
        return self._file.read(PART)

    def close(self) -> None:
        """Remove the file."""
        self._kept.close()


def filled(content: bytes) -> Callable[[Path], object]:
    """A function that writes a content to a file."""
    return lambda path: write_bytes(path, content)


class FileResponse:
    """Sends a download in parts, and closes it in any case."""

    def __init__(self, download: Download, headers: Mapping[str, str]) -> None:
        self._download = download
        sent = {**headers, "content-length": str(download.size)}
        self._headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in sent.items()]

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:  # noqa: ARG002
        """Send it; a client that is gone or too slow is given up by the server."""
        try:
            await send({"type": "http.response.start", "status": 200, "headers": self._headers})
            part = b"" if scope["method"] == "HEAD" else self._download.read()
            while part:
                await send({"type": "http.response.body", "body": part, "more_body": True})
                part = self._download.read()
            await send({"type": "http.response.body", "body": b""})
        finally:
            self._download.close()
