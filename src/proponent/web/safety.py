"""Request guard: hosts, origins, tokens, size limits, headers.

GET never changes anything; from another site it is answered only if a visitor follows a link. Every other request needs
the token of this run's forms, and must not come from another site. Names in the Host header are an allow-list, so that
a foreign name that resolves to this address (DNS rebinding) is refused.

Nobody is let in without the printed address: its token is exchanged for a cookie, and leaves the address bar.
"""

import asyncio
import hmac
import html
import ipaddress
import re
import secrets
from dataclasses import dataclass, field
from urllib.parse import parse_qsl

from proponent.disk import scratch_folder
from proponent.web.slots import BusyError
from proponent.web.turns import Application, InTurn, Message, Patience, Receive, Send
from proponent.web.uploads import UPLOAD_SECONDS, UploadError, receive_file

BODY_BYTES = 64 * 1024
UPLOAD_PATH = "/upload"
"""The one path that takes a file."""

URL_BYTES = 48 * 1024
MOST_PARAMETERS = 200
READ_SECONDS = 30.0
BUSY = 503
COOKIE = "proponent-visit"
LOGIN = b"token"
"""Name of the parameter that carries the login token."""

POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = (
    (b"content-security-policy", POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"x-frame-options", b"DENY"),
    (b"permissions-policy", b"interest-cohort=(), browsing-topics=()"),
)
_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[0-9a-z.-]+)(?::([0-9]{1,5}))?", re.IGNORECASE | re.ASCII)
_LOOPBACK = frozenset({"127.0.0.1", "localhost", "[::1]"})


class Refused(Exception):  # noqa: N818 (what is done, not what went wrong)
    """A refused request, with the status of the response."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status, self.reason = status, reason


def _secret() -> str:
    return secrets.token_urlsafe(24)


@dataclass(frozen=True)
class Secrets:
    """The secrets of one run of a server. None of them tells another one."""

    login: str = field(default_factory=_secret)  # in the printed address
    cookie: str = field(default_factory=_secret)  # what a visitor's browser keeps after it
    form: str = field(default_factory=_secret)  # in every form of our pages


class Guard:
    """Checks requests before the application sees them; allows only the bound host and port (port 0 allows any).

    Without a login (`login=False`), which only a loopback address may have, whoever reaches the port is let in.
    """

    def __init__(self, application: Application, host: str, port: int, secret: Secrets, *, login: bool = True) -> None:
        self.application: Application = InTurn(application)
        self.host, self.port, self.secrets = host, port, secret
        self._patience = Patience()
        self.open = not is_loopback(host)
        self.login = login or self.open
        self._cookie = f"{COOKIE}-{port}"  # a browser sends the cookies of one port to all ports of a host
        self._seconds, self.upload_seconds, self._uploading = READ_SECONDS, UPLOAD_SECONDS, False

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] == "lifespan":
            await self.application(scope, receive, send)
            return
        if scope["type"] != "http":
            return
        try:
            headers = self._checked(scope)
            if self.login and await self._welcomed(scope, headers, send):
                return
            if scope["method"] == "POST" and scope["path"] == UPLOAD_PATH:
                await self._upload(scope, headers, receive, send)
                return
            body = await self._body(scope["method"], headers, receive)
            fields = _pairs(body)
            self._writes(scope["method"], headers, dict(fields))
        except Refused as refused:
            await self._refuse(refused, send)
            return
        scope["proponent.fields"] = fields
        try:
            await self.application(scope, receive, self._guarded(send))
        except BusyError as error:
            await self._refuse(Refused(503, str(error)), send)

    async def _upload(self, scope: Message, headers: dict[bytes, bytes], receive: Receive, send: Send) -> None:
        """Pass on a form with a file, which is gone when the request is answered; one at a time."""
        _refuse_foreign(headers)
        if self._uploading:
            raise Refused(503, "another file is being sent: try again in a few seconds")
        self._uploading = True
        try:
            with scratch_folder() as folder:
                sent = await receive_file(
                    headers, receive, folder, lambda token: _equal(token, self.secrets.form), self.upload_seconds
                )
                scope["proponent.fields"], scope["proponent.upload"] = list(sent.fields.items()), sent
                await self.application(scope, receive, self._guarded(send))
        except BusyError as error:
            raise Refused(503, str(error)) from error
        except UploadError as error:
            raise Refused(error.status, error.reason) from error
        finally:
            self._uploading = False

    def _checked(self, scope: Message) -> dict[bytes, bytes]:
        """Run the checks of every request."""
        names = [name for name, _ in scope["headers"]]
        if names.count(b"host") != 1:
            raise Refused(400, "a request needs exactly one Host header")
        headers: dict[bytes, bytes] = dict(scope["headers"])
        if not self.admits(headers[b"host"].decode("latin-1")):
            raise Refused(403, "this explorer accepts requests to its own address only")
        if len(scope.get("raw_path", b"")) + len(scope["query_string"]) > URL_BYTES:
            raise Refused(414, f"the address is longer than {URL_BYTES:,} bytes")
        if scope["query_string"].count(b"&") >= MOST_PARAMETERS:
            raise Refused(400, f"the address has more than {MOST_PARAMETERS} parameters")
        if scope["method"] not in {"GET", "HEAD", "POST"}:
            raise Refused(405, "only GET, HEAD and POST are supported")
        if scope["method"] != "POST" and _foreign(headers):
            raise Refused(403, "this request comes from another site")
        return headers

    def admits(self, host: str) -> bool:
        """Whether a Host header is allowed."""
        match = _HOST.fullmatch(host)
        if match is None:
            return False
        name, port = match[1].lower(), match[2]
        if self.port and int(port or 80) != self.port:
            return False
        if name in _LOOPBACK:
            return True
        return self.open and (name.strip("[]") == self.host.lower() or _address(name) is not None)

    def _knows(self, headers: dict[bytes, bytes]) -> bool:
        """Whether the browser has the cookie of this run."""
        held = [one.partition("=") for one in headers.get(b"cookie", b"").decode("latin-1").split("; ")]
        return any(_equal(value, self.secrets.cookie) for name, _, value in held if name == self._cookie)

    async def _welcomed(self, scope: Message, headers: dict[bytes, bytes], send: Send) -> bool:
        """Exchange the login token for a cookie, and lead to the same address without it; refuse who has neither."""
        given = None if scope["method"] == "POST" else _login_of(scope)
        if given is None or not _equal(given, self.secrets.login):
            if self._knows(headers):
                return False
            raise Refused(403, "open the address that `proponent serve` printed: it carries the token of this run")
        parts = [one for one in scope["query_string"].split(b"&") if one and one.partition(b"=")[0] != LOGIN]
        path: bytes = b"/" + scope["raw_path"].split(b"?")[0].lstrip(b"/\\")  # never the address of another host
        url = (path + b"?" + b"&".join(parts) if parts else path).decode("latin-1").replace("'", "%27")
        # no 303: after a link on another page, browsers would follow it without the new cookie
        page = _WELCOME.format(url=html.escape(url)).encode("latin-1")
        cookie = f"{self._cookie}={self.secrets.cookie}; Path=/; HttpOnly; SameSite=Strict"
        await _send(send, 200, b"text/html; charset=latin-1", page, (b"set-cookie", cookie.encode()))
        return True

    async def _body(self, method: str, headers: dict[bytes, bytes], receive: Receive) -> bytes:
        """Read the body of a POST, up to a maximum size and time."""
        if method != "POST":
            return b""
        declared = headers.get(b"content-length", b"0")
        if not declared.isdigit() or int(declared) > BODY_BYTES:
            raise Refused(413, f"a body has at most {BODY_BYTES:,} bytes")
        kind = headers.get(b"content-type", b"").split(b";")[0].strip().lower()
        if kind != b"application/x-www-form-urlencoded":
            raise Refused(415, "forms are sent as application/x-www-form-urlencoded")
        try:
            async with asyncio.timeout(self._seconds):
                return await _gathered(receive)
        except TimeoutError as error:
            raise Refused(408, f"the body did not arrive within {self._seconds:g} seconds") from error

    def _writes(self, method: str, headers: dict[bytes, bytes], fields: dict[str, str]) -> None:
        """Run further checks of a request that changes something."""
        if method in {"GET", "HEAD"}:
            return
        _refuse_foreign(headers)
        if not _equal(fields.get("token", ""), self.secrets.form):
            raise Refused(
                403, "this form is from an earlier run of `proponent serve`: reload the page and send it again"
            )

    def _guarded(self, send: Send) -> Send:
        """Add the headers of every response; delay refusals."""

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                if message["status"] == BUSY:
                    await self._patience()
                headers = list(message.get("headers", ()))
                if not any(name == b"cache-control" for name, _ in headers):
                    headers.append((b"cache-control", b"no-store"))
                message = {**message, "headers": [*headers, *HEADERS]}
            await send(message)

        return guarded

    async def _refuse(self, refused: Refused, send: Send) -> None:
        await self._patience()
        text = f"{refused.status}: {refused.reason}\n".encode()
        # the rest of the request is not read
        await _send(send, refused.status, b"text/plain; charset=utf-8", text, (b"connection", b"close"))


_WELCOME = """<!doctype html>
<html lang="en"><head><meta charset="latin-1"><title>proponent</title>
<meta http-equiv="refresh" content="0; url='{url}'"></head>
<body><p><a href="{url}">Open the explorer</a></p></body></html>
"""


async def _send(send: Send, status: int, kind: bytes, body: bytes, *more: tuple[bytes, bytes]) -> None:
    headers = [
        (b"content-type", kind),
        (b"content-length", str(len(body)).encode()),
        (b"cache-control", b"no-store"),
        *more,
        *HEADERS,
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _equal(given: str, secret: str) -> bool:
    return hmac.compare_digest(given.encode("utf-8", "replace"), secret.encode())


def _login_of(scope: Message) -> str | None:
    """The login token in an address."""
    given = [value for name, value in _pairs(scope["query_string"]) if name == LOGIN.decode()]
    return given[-1] if given else None


def _foreign(headers: dict[bytes, bytes]) -> bool:
    """Whether another site asks without a visitor who follows a link: a script, an image, a frame."""
    site = headers.get(b"sec-fetch-site")
    if site in {None, b"same-origin", b"none"}:
        return False
    return headers.get(b"sec-fetch-mode") != b"navigate" or headers.get(b"sec-fetch-dest") != b"document"


def _refuse_foreign(headers: dict[bytes, bytes]) -> None:
    """Refuse a write that another site sends."""
    site, origin = headers.get(b"sec-fetch-site"), headers.get(b"origin")
    if site is not None and site != b"same-origin":
        raise Refused(403, "this request comes from another site")
    # no-referrer makes browsers send "null" for forms of our own pages; they then also send same-origin
    own = origin is not None and origin.lower() in {b"http://" + headers[b"host"].lower()}
    if origin is not None and not own and not (origin == b"null" and site == b"same-origin"):
        raise Refused(403, "this request comes from another origin")


def is_loopback(host: str) -> bool:
    """Whether an address is a loopback address."""
    address = _address(host)
    return host == "localhost" or (address is not None and address.is_loopback)


def _address(name: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return None


def _pairs(query: bytes) -> list[tuple[str, str]]:
    try:
        text = query.decode("ascii")
        return parse_qsl(text, keep_blank_values=True, max_num_fields=MOST_PARAMETERS, errors="replace")
    except ValueError as error:
        raise Refused(400, f"a form has at most {MOST_PARAMETERS} fields, percent-encoded") from error


async def _gathered(receive: Receive) -> bytes:
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Refused(400, "the request was interrupted")
        part: bytes = message.get("body", b"")
        size += len(part)
        if size > BODY_BYTES:
            raise Refused(413, f"a body has at most {BODY_BYTES:,} bytes")
        parts.append(part)
        if not message.get("more_body", False):
            return b"".join(parts)
