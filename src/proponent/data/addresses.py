"""A data file at a url: fetched to a private file of this process first, then read as any other file."""

import atexit
import re
from collections.abc import Generator, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from proponent import disk
from proponent.buckets import Bucket, url_of, without_secrets
from proponent.data.door import ANY
from proponent.errors import DataError, MissingExtraError, ProponentError
from proponent.shown_places import show_as

PROTOCOLS = (
    *("s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "http", "https", "hf", "ftp", "sftp"),
    *("hdfs", "webhdfs", "file", "memory"),
)
"""Protocols of data files; what else fsspec knows may run other protocols, or archives, inside them."""

CHUNK = 2**20
_URL = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]*)://.+", re.DOTALL)
_FETCHED = ExitStack()
atexit.register(_FETCHED.close)


@dataclass(frozen=True)
class Fetched:
    """A file that was fetched."""

    path: Path  # lasts as long as this process
    name: str  # its url without what may be secret


def fetched(url: object) -> Fetched | None:
    """Fetch a data file.

    Args:
        url: as the user gave it; what may be secret in it is used, and neither shown nor kept.

    Returns:
        The file; None if it is no url.

    Raises:
        DataError: it cannot be read.
        MissingExtraError: the package that reads such urls is not installed.
    """
    found = _URL.fullmatch(url) if isinstance(url, str) else None
    if found is None:
        return None
    url, shown = found[0], without_secrets(found[0])
    if found[1].lower() not in PROTOCOLS or "::" in url:
        raise DataError(f"{shown}: data files are read from {', '.join(PROTOCOLS)}, one at a time: download it first")
    name = shown.rpartition("/")[2]
    if not name or name in {".", ".."}:
        raise DataError(f"{shown}: give the url of one file, with its ending")
    target = _FETCHED.enter_context(disk.scratch_folder()) / name
    show_as(str(target), shown)

    def fill(file: Any) -> None:
        size = 0
        for piece in _pieces(url, shown):
            size += len(piece)
            if size > ANY:
                raise DataError(f"{shown} has more than {ANY:,} bytes")
            file.write(piece)

    disk.write_stream(target, fill)
    return Fetched(target, shown)


def _pieces(url: str, shown: str) -> Iterator[bytes]:
    try:
        opened = _opened(url)
    except ImportError as error:
        yield from _from_bucket(url, shown, error)
        return
    with _named(shown), opened as file:
        while piece := file.read(CHUNK):
            yield piece


def _opened(url: str) -> Any:
    """Open a file with fsspec; ImportError without the package of the protocol."""
    with _named(without_secrets(url)):
        return import_module("fsspec").open(url, "rb")  # its types are partly unknown


def _from_bucket(url: str, shown: str, missing: ImportError) -> Iterator[bytes]:
    """Read a file of a bucket without the package that fsspec takes for it."""
    home, _, name = url.rpartition("/")
    place = url_of(home) if "?" not in url else None
    if place is None:
        raise MissingExtraError(f"{shown}: a package is needed to read it: {missing}") from missing
    try:
        yield from Bucket(place).chunks(name)
    except FileNotFoundError as error:
        raise DataError(f"{shown}: no such file") from error


@contextmanager
def _named(shown: str) -> Generator[None]:
    """Convert what a file system may raise; its own words may hold a request, and stay out."""
    try:
        yield
    except (ProponentError, ImportError):
        raise
    except FileNotFoundError:
        raise DataError(f"{shown}: no such file") from None
    except PermissionError:
        raise DataError(f"{shown}: access is denied: give credentials in the environment") from None
    except Exception as error:  # fsspec and what it loads may raise anything
        raise DataError(f"{shown}: cannot be read ({type(error).__name__}): look at the address and network") from None
