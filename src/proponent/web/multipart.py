"""A form with one file, as browsers send it (multipart/form-data, RFC 7578): parsed strictly while it arrives.

Fields come first, the file last; anything else is refused. At most `HEAD_BYTES` of the fields are held, and of the
file only the bytes that may begin the end of the form.
"""

import re
from typing import Literal

HEAD_BYTES = 16 * 1024
"""Maximum bytes of all fields, and of the head of the file."""

MOST_FIELDS = 20
_BOUNDARY = re.compile(rb"""multipart/form-data *; *boundary=(?:"([\w'()+,./:=? -]{1,70})"|([\w'+./-]{1,70}))""", re.I)
_NAME = re.compile(rb"""form-data; name="([^"\r\n]{1,100})"(?:; filename="([^"\r\n]*)")?""")


class FormError(ValueError):
    """A body that is no form with one file."""


def boundary_of(kind: bytes) -> bytes | None:
    """The boundary that a Content-Type names; None for any other type."""
    found = _BOUNDARY.fullmatch(kind.strip())
    return None if found is None else (found[1] or found[2]).strip()


class FormReader:
    """Reads a form as its body arrives.

    Attributes:
        fields: the fields before the file, by name.
        filename: name of the file as the browser says it; None until its head has arrived.
    """

    def __init__(self, boundary: bytes) -> None:
        self.fields: dict[str, str] = {}
        self.filename: str | None = None
        self._mark = b"\r\n--" + boundary
        self._held = b"\r\n"  # the first line is a mark without the line end before it
        self._left, self._parts = HEAD_BYTES, 0  # of the fields: bytes that may still come, and how many came
        self._at: Literal["fields", "file", "end"] = "fields"

    def feed(self, data: bytes) -> bytes:
        """Take the next bytes of the body.

        Returns:
            The next bytes of the file.

        Raises:
            FormError: this is no form with fields and then one file.
        """
        self._held += data
        if self._at == "fields":
            self._read_fields()
        if self._at == "file":
            return self._read_file()
        self._refuse_more()
        return b""

    def end(self) -> None:
        """Refuse a form that is not whole."""
        if self._at != "end" or self._held not in {b"--", b"--\r\n"}:
            raise FormError("the form ends too early")

    def _read_fields(self) -> None:
        while self.filename is None:
            stop = self._held.find(b"\r\n\r\n", len(self._mark))
            if stop < 0:
                break
            if not self._held.startswith(self._mark + b"\r\n"):
                raise FormError("the form has a part without its mark")
            name, filename = _disposition(self._held[len(self._mark) + 2 : stop])
            if filename is not None:
                self._named(name, filename, stop)
                return
            after = self._held.find(self._mark, stop + 4)
            if after < 0:
                break
            self.fields[name] = self._held[stop + 4 : after].decode("utf-8", "replace")
            self._parts, self._left = self._parts + 1, self._left - after
            if self._parts > MOST_FIELDS:
                raise FormError(f"the form has more than {MOST_FIELDS} fields")
            self._held = self._held[after:]
        if len(self._held) > self._left:
            raise FormError(f"the fields of the form take more than {HEAD_BYTES:,} bytes")

    def _named(self, name: str, filename: str, stop: int) -> None:
        if name != "file":
            raise FormError("the file has another name than that of the form")
        self.filename, self._at, self._held = filename, "file", self._held[stop + 4 :]

    def _read_file(self) -> bytes:
        """The bytes of the file that have arrived, but for those that may begin the last mark."""
        after = self._held.find(self._mark)
        if after >= 0:
            part, self._held, self._at = self._held[:after], self._held[after + len(self._mark) :], "end"
            self._refuse_more()
            return part
        sure = max(0, len(self._held) - len(self._mark))
        part, self._held = self._held[:sure], self._held[sure:]
        return part

    def _refuse_more(self) -> None:
        if self._at == "end" and len(self._held) > 4:
            raise FormError("the form goes on after its file: one file at a time")


def _disposition(head: bytes) -> tuple[str, str | None]:
    """Name of a part, and of its file."""
    lines = [line.partition(b":") for line in head.split(b"\r\n")]
    given = [value.strip() for name, _, value in lines if name.strip().lower() == b"content-disposition"]
    found = _NAME.fullmatch(given[0]) if len(given) == 1 else None
    if found is None:
        raise FormError("the form has a part without a name")
    filename = None if found[2] is None else found[2].decode("utf-8", "replace")
    return found[1].decode("utf-8", "replace"), filename
