"""Objects in a bucket (s3://, gs://, az://, file://), through obstore, which is optional.

Credentials are those that obstore finds itself (environment, instance, workload identity): none is read, stored or
repeated here. A message never holds what a server or the library said in full, which may hold parts of a request.
"""

import re
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any, cast
from uuid import uuid4

from proponent.errors import BucketError, DamagedError, InputError, MissingExtraError
from proponent.plain_text import visible

SINGLE = 64 * 2**20
"""Maximum bytes of an object that is put in one request, and so only if there is none of its name."""

RETRIES, SECONDS = 5, 60.0
"""How often obstore tries a request again, and for how long."""

PIECE = 8 * 2**20
"""Maximum bytes of a range that is read at once."""

_URL = re.compile(r"(s3a?|gs|az|abfss?|file):/+(.*)", re.DOTALL)
_AGAIN = "what is finished is kept: run the same command again"


def url_of(place: str | Path) -> str | None:
    """Recognise a url; a `Path` of one, which has one slash, is one too.

    Returns:
        The url; None for a path.

    Raises:
        InputError: it holds credentials or parameters.
    """
    found = _URL.fullmatch(str(place))
    if found is None:
        return None
    scheme, rest = found.groups()
    clean = f"{scheme}://{'/' if scheme == 'file' else ''}{rest.strip('/')}"
    users = rest.replace("@", "", 1) if re.match(r"[^/@:]+@[^/@]+", rest) and scheme.startswith("abfs") else rest
    if re.search(r"[?#]", rest) or "@" in users:
        raise InputError(
            f"{without_secrets(clean)}: credentials and parameters do not belong in the address of an index: give them "
            "in the environment, as the tools of the store read them (docs/buckets.md)"
        )
    if not rest.strip("/") or ".." in rest.split("/"):
        raise InputError(f"{visible(clean)} is not the address of an index: give {scheme}://BUCKET/FOLDER")
    return clean


def without_secrets(url: str) -> str:
    """A url without what may be secret: user, password, parameters."""
    scheme, mark, rest = url.partition("://")
    user, at, host = rest.rpartition("@")
    if at and (":" in user or "/" not in user):  # a password may hold any character; hf://datasets/a/b@main has none
        rest = host
    return visible(re.split(r"[?#]", f"{scheme}{mark}{rest}" if mark else url, maxsplit=1)[0])


@dataclass(frozen=True)
class Held:
    """An object that is there."""

    size: int  # bytes
    e_tag: str | None  # changes with its contents
    version: str | None = None  # likewise, of some stores


class Bucket:
    """The objects under one address."""

    def __init__(self, url: str, store: Any = None) -> None:
        self.url, self._given = url, store

    def at(self, name: str) -> str:
        """The address of an object."""
        return f"{self.url}/{name}"

    @cached_property
    def _obstore(self) -> Any:
        try:
            return import_module("obstore")  # its types are partly unknown
        except ImportError as error:
            raise MissingExtraError(f"{self.url} needs the package obstore: pip install 'proponent[bucket]'") from error

    @cached_property
    def _store(self) -> Any:
        if self._given is not None:
            return self._given
        how: dict[str, Any] = {"mkdir": True}
        if not self.url.startswith("file:"):
            retries = {"max_retries": RETRIES, "retry_timeout": timedelta(seconds=SECONDS)}
            how = {"retry_config": retries}  # options of the client would replace those of the environment
        _ = self._obstore
        with self._named(""):
            return import_module("obstore.store").from_url(self.url, **how)

    @property
    def _absent(self) -> bool:
        """Whether it is a folder that does not exist, which reading must not create."""
        return self._given is None and self.url.startswith("file:") and not Path(self.url[len("file://") :]).is_dir()

    def head(self, name: str) -> Held | None:
        """Look at an object; None if there is none."""
        if self._absent:
            return None
        with self._named(name):
            try:
                return _held(self._obstore.head(self._store, name))
            except FileNotFoundError as error:
                _refuse_no_bucket(error)
                return None

    def read(self, name: str, most: int) -> tuple[bytes, Held] | None:
        """Read a small object.

        Returns:
            Its bytes and what it is; None if there is none.

        Raises:
            InputError: it is larger than such an object can be.
        """
        if self._absent:
            return None
        with self._named(name):
            try:
                found = self._obstore.get(self._store, name)
            except FileNotFoundError as error:
                _refuse_no_bucket(error)
                return None
            held = _held(found.meta)
            if held.size > most:
                raise InputError(f"{self.at(name)} has {held.size:,} bytes, and at most {most:,} are read")
            return bytes(found.bytes()), held

    def ranges(self, name: str, spans: Sequence[tuple[int, int]]) -> list[bytes]:
        """Read ranges of bytes of an object.

        Returns:
            The bytes of each.

        Raises:
            FileNotFoundError: there is no such object.
        """
        with self._named(name):
            starts, ends = [begin for begin, _ in spans], [end for _, end in spans]
            found = self._obstore.get_ranges(self._store, name, starts=starts, ends=ends, coalesce=0)
            return [bytes(one) for one in found]

    def chunks(self, name: str) -> Iterator[bytes]:
        """Read an object in pieces.

        Raises:
            FileNotFoundError: there is no such object.
        """
        if self._absent:
            raise FileNotFoundError(self.at(name))
        with self._named(name):
            for piece in self._obstore.get(self._store, name).stream(min_chunk_size=2**20):
                yield bytes(piece)

    def create(self, name: str, data: bytes | Path) -> Held | None:
        """Put an object unless there is one of its name: then None."""
        # one that is too large for one request is put in parts, after a look whether there is one
        size = data.stat().st_size if isinstance(data, Path) else len(data)
        with self._named(name):
            if size > SINGLE:
                if self.head(name) is not None:
                    return None
                part = max(8 * 2**20, size // 9_000)
                made = self._obstore.put(self._store, name, data, chunk_size=part, max_concurrency=4)
                return Held(size, made.get("e_tag"), made.get("version"))
            try:
                made = self._obstore.put(self._store, name, data, mode="create")
            except self._kinds("AlreadyExistsError", "PreconditionError"):
                return None
            return Held(size, made.get("e_tag"), made.get("version"))

    def replace(self, name: str, data: bytes, held: Held) -> Held | None:
        """Replace an object that has not changed since it was looked at; None if it has."""
        known = {"e_tag": held.e_tag, "version": held.version}
        version = {name: value for name, value in known.items() if value is not None}
        with self._named(name):
            try:
                made = self._obstore.put(self._store, name, data, mode=version)
            except (FileNotFoundError, *self._kinds("PreconditionError", "AlreadyExistsError")):
                return None
            return Held(len(data), made.get("e_tag"), made.get("version"))

    def names(self) -> dict[str, Held]:
        """All objects."""
        if self._absent:
            return {}
        with self._named(""):
            return {
                str(one["path"]): _held(one)
                for some in self._obstore.list(self._store)
                for one in cast("list[Any]", some)
            }

    def remove(self, names: Sequence[str]) -> None:
        """Remove objects, those that are gone already too."""
        with self._named(names[0] if names else ""):
            for start in range(0, len(names), 1000):
                try:
                    self._obstore.delete(self._store, list(names[start : start + 1000]))
                except FileNotFoundError as error:  # a local folder says so
                    _refuse_no_bucket(error)
                    if len(names) > 1:
                        for name in names[start : start + 1000]:
                            self.remove([name])

    def refuse_unconditional(self, *, changes: bool) -> None:
        """Refuse a store that puts an object although there is one; with `changes`, or although it has changed."""
        name, right = f"probe-{uuid4().hex}", False
        try:
            self.create(name, b"1")
            right = self.create(name, b"2") is None
            if right and changes:
                right = self.replace(name, b"3", Held(1, '"0"', "0")) is None
        except _UnsupportedError:
            right = False
        finally:
            self.remove([name])
        if not right:
            way = (
                "give the folder as a path, without file://"
                if self.url.startswith("file:")
                else (
                    "allow conditional writes (AWS_CONDITIONAL_PUT must not be disabled), take a store that has them, "
                    "or use a local folder and copy it"
                )
            )
            raise InputError(
                f"{self.url}: this store cannot put an object only if nobody else has, which is needed here: {way}"
            )

    def _kinds(self, *names: str) -> tuple[type[Exception], ...]:
        errors = import_module("obstore.exceptions")
        return tuple(getattr(errors, name) for name in names)

    @contextmanager
    def _named(self, name: str) -> Generator[None]:
        """Convert the errors of obstore; FileNotFoundError stays, for a missing object."""
        place = self.at(name) if name else self.url
        kinds = self._kinds("BaseError") if self._obstore else ()
        try:
            yield
        except _NoBucketError as error:
            raise InputError(f"{self.url}: there is no such bucket: create it, or correct the address") from error
        except FileNotFoundError:
            raise
        except (*kinds, OSError, NotImplementedError) as error:
            raise _converted(place, error) from None
        except ValueError as error:  # a name that no object has
            raise DamagedError(f"{visible(place)} is no name of an object: build the index again") from error


class _NoBucketError(Exception):
    """The bucket itself is missing."""


class _UnsupportedError(InputError):
    """The store cannot do this."""


def _refuse_no_bucket(error: FileNotFoundError) -> None:
    if "NoSuchBucket" in str(error):
        raise _NoBucketError


def _held(meta: Any) -> Held:
    return Held(int(meta["size"]), meta.get("e_tag"), meta.get("version"))


_DENIED = ("AccessDenied", "403 Forbidden", "Forbidden")
_LOST = (
    "ExpiredToken",
    "InvalidToken",
    "TokenRefreshRequired",
    "RequestExpired",
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
    "401 Unauthorized",
    "169.254.169.254",
    "metadata.google.internal",
    "InvalidClientTokenId",
)


def _converted(place: str, error: BaseException) -> InputError:
    """The error of a store in the user's words: its own text may hold parts of a request, and stays out."""
    text, kind = str(error), type(error).__name__
    if isinstance(error, NotImplementedError) or kind == "NotSupportedError" or "501 Not Implemented" in text:
        return _UnsupportedError(f"{place}: this store cannot do what is needed: use another one, or a local folder")
    if "NoSuchBucket" in text:
        return InputError(f"{place}: there is no such bucket: create it, or correct the address")
    if kind == "UnauthenticatedError" or any(one in text for one in _LOST):
        return BucketError(
            f"{place}: the store takes no credentials from here, or they have expired: renew them in the environment; "
            f"{_AGAIN}"
        )
    if isinstance(error, PermissionError) or kind == "PermissionDeniedError" or any(one in text for one in _DENIED):
        return InputError(f"{place}: access is denied: ask for the right to list, read and put objects; {_AGAIN}")
    if isinstance(error, OSError) and error.errno is not None:
        return BucketError(f"{place}: cannot be used ({error.strerror}); {_AGAIN}")
    if "No space left" in text:
        return BucketError(f"{place}: no space left there: free some; {_AGAIN}")
    status = re.search(r"status code: (\d{3} [A-Za-z ]+)", text)
    said = f"the store answers {status[1].strip()}" if status else "no answer, or the connection ended"
    return BucketError(f"{place}: cannot be reached ({said}): look at address, network and region; {_AGAIN}")
