"""A file that a visitor sends: written to a temporary file while it arrives, never held in memory.

Its size, its time and the number of files that are sent at once are bounded. Whether the form is one of our own is
known from its first bytes: of a form without the token of this run nothing is written.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from proponent import disk
from proponent.web.multipart import FormError, FormReader, boundary_of

UPLOAD_BYTES = 32 * 1024 * 1024
"""Maximum bytes of a file."""

DRAINED_BYTES = 8 * UPLOAD_BYTES
"""A body up to this size is read to its end even if its file is too large: else a browser would not show the reason."""

UPLOAD_SECONDS = 120.0
"""Time in which a file must arrive."""

_ENDING = re.compile(r"(\.[a-z0-9]{1,8}){1,2}$")

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]


class UploadError(Exception):
    """A file that is not taken, with the status of the response."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status, self.reason = status, reason


@dataclass(frozen=True)
class Upload:
    """A file that arrived, with the fields of its form.

    Attributes:
        fields: the other fields, by name.
        name: the name that the browser says; only for display.
        path: the file, until the request is answered.
        problem: why it cannot be used, in words; empty if it can.
    """

    fields: Mapping[str, str]
    name: str
    path: Path
    problem: str = ""


class _Writer:
    """Writes the file, up to the maximum; further bytes are only counted."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._opened, self.size = folder, -1, 0
        self.path = folder / "test-set"

    def begin(self, name: str) -> None:
        """Begin, with no more of the visitor's name than its ending, which says what the file holds."""
        ending = _ENDING.search(name.lower())
        self.path = self._folder / f"test-set{ending[0] if ending else ''}"
        self._opened = disk.create(self.path, mode=0o600)

    def write(self, part: bytes) -> None:
        """Append some bytes."""
        if part and self.size + len(part) <= UPLOAD_BYTES:
            disk.write_all(self._opened, part, self.size)
        self.size += len(part)

    def close(self) -> None:
        """Close the file."""
        if self._opened >= 0:
            disk.close(self._opened)
            self._opened = -1


async def receive_file(
    headers: Mapping[bytes, bytes],
    receive: Receive,
    folder: Path,
    own: Callable[[str], bool],
    seconds: float = UPLOAD_SECONDS,
) -> Upload:
    """Receive a form with one file.

    Args:
        headers: of the request.
        receive: gives the parts of its body.
        folder: where the file is written.
        own: whether a token is that of our own forms.
        seconds: the time that it may take.

    Returns:
        The file; with a problem if it is too large.

    Raises:
        UploadError: it is no form with one file, of another run, far too large, or does not arrive in time.
    """
    boundary = boundary_of(headers.get(b"content-type", b""))
    if boundary is None:
        raise UploadError(415, "files are sent as multipart/form-data")
    declared = headers.get(b"content-length", b"0")
    if not declared.isdigit() or len(declared) > 18 or int(declared) > DRAINED_BYTES:
        raise UploadError(413, f"a file has at most {UPLOAD_BYTES:,} bytes: give larger ones with --test FILE")
    writer = _Writer(folder)
    try:
        async with asyncio.timeout(seconds):
            return await _received(FormReader(boundary), receive, writer, own)
    except TimeoutError as error:
        raise UploadError(408, f"the file did not arrive within {seconds:g} seconds") from error
    except FormError as error:
        raise UploadError(400, str(error)) from error
    except OSError as error:
        full = disk.is_full(error)
        raise UploadError(507 if full else 500, f"the file cannot be kept: {error.strerror or error}") from error
    finally:
        writer.close()


async def _received(reader: FormReader, receive: Receive, writer: _Writer, own: Callable[[str], bool]) -> Upload:
    read, known = 0, False
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise UploadError(400, "the request was interrupted")
        body: bytes = message.get("body", b"")
        read += len(body)
        if read > DRAINED_BYTES:
            raise UploadError(413, f"a file has at most {UPLOAD_BYTES:,} bytes: give larger ones with --test FILE")
        part = reader.feed(body)
        if reader.filename is not None and not known:
            if not own(reader.fields.get("token", "")):
                raise UploadError(
                    403, "this form is from an earlier run of `proponent serve`: reload the page and send it again"
                )
            known = True
            writer.begin(reader.filename)
        writer.write(part)
        if not message.get("more_body", False):
            break
    reader.end()
    problem = ""
    if writer.size > UPLOAD_BYTES:
        problem = (
            f"the file has {writer.size:,} bytes, and at most {UPLOAD_BYTES:,} are taken here: start again with "
            "`proponent serve INDEX --test FILE`"
        )
    elif not writer.size:
        problem = "the file is empty: choose a file with a test set" if reader.filename else "choose a file first"
    return Upload(reader.fields, reader.filename or "", writer.path, problem)
