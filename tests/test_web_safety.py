"""The guard: who is let in, and how much they may send."""

import random
import socket
import string
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

import tiny
from explorer import HOST, OWN, PORT, Browser
from proponent.errors import InputError
from proponent.web import serving
from proponent.web.open_indexes import OpenIndexes
from proponent.web.safety import BODY_BYTES, MOST_PARAMETERS, POLICY, is_loopback

HOSTS = [
    "evil.example", "evil.example:7860", "127.0.0.1.evil.example", "127.0.0.1.evil.example:7860", "localhost.:7860",
    "localhost.evil.example:7860", "evil-localhost:7860", "xlocalhost:7860", "user@127.0.0.1:7860",
    "127.0.0.1:7860@evil.example", "127.0.0.1:7860.evil.example", "127.0.0.1:80", "127.0.0.1:7861", "127.0.0.1",
    "localhost", "127.0.0.1:", "127.0.0.1:7860:7860", "127.0.0.1:78600", "127.0.0.1:-7860", "127.0.0.1: 7860",
    " 127.0.0.1:7860", "127.0.0.1:7860 ", "127.0.0.1:7860\t", "127.0.0.1:7860,evil.example", "", ":7860",
    "0.0.0.0:7860",
    "[::]:7860", "[::1", "::1:7860", "[::1]evil:7860", "[::ffff:127.0.0.1]:7860", "127.1:7860", "2130706433:7860",
    "0x7f000001:7860", "0177.0.0.1:7860", "127.0.0.2:7860", "10.0.0.1:7860", "192.168.1.2:7860",
    "127.0.0.1.nip.example:7860", "rebind.example:7860", "localhost%00.evil.example:7860", "localhost/evil:7860",
    "localhost#:7860", "localhost?:7860", "ｌocalhost:7860".encode().decode("latin-1"), "loca1host:7860",
    "http://127.0.0.1:7860", "127.0.0.1\x00:7860", "127.0.0.1:7860/..", "127。0。0。1:7860".encode().decode("latin-1"),
]  # fmt: skip

ORIGINS: list[dict[str, str]] = [
    {"origin": "https://evil.example"}, {"origin": "http://evil.example:7860"}, {"origin": "null"},
    {"origin": "http://127.0.0.1.evil.example:7860"}, {"origin": "http://localhost:7860"},
    {"origin": "https://127.0.0.1:7860"}, {"origin": "http://127.0.0.1:7861"}, {"origin": "http://127.0.0.1"},
    {"origin": "http://127.0.0.1:7860/"}, {"origin": "http://127.0.0.1:7860 http://evil.example"}, {"origin": ""},
    {"origin": "file://"}, {"origin": "chrome-extension://abc"}, {"origin": "http://user@127.0.0.1:7860"},
    {"sec-fetch-site": "cross-site"}, {"sec-fetch-site": "same-site"}, {"sec-fetch-site": "none"},
    {"sec-fetch-site": ""}, {"sec-fetch-site": "SAME-ORIGIN"}, {"sec-fetch-site": "same-origin, cross-site"},
    {"origin": f"http://{HOST}", "sec-fetch-site": "cross-site"}, {"origin": "null", "sec-fetch-site": "cross-site"},
    {"origin": "null", "sec-fetch-site": "same-site"}, {"origin": "https://evil.example",
    "sec-fetch-site": "same-origin"},
]  # fmt: skip


@pytest.fixture(scope="module")
def browser(news: tiny.Tiny, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    folder = tmp_path_factory.mktemp("shown") / "news.index"
    folder.symlink_to(news.index)
    made = Browser(folder)
    yield made
    made.close()


def test_the_lists_are_long_enough() -> None:
    assert len(set(HOSTS)) >= 40
    assert len(ORIGINS) >= 20


@pytest.mark.parametrize("host", HOSTS)
def test_a_foreign_host_reaches_nothing(browser: Browser, host: str) -> None:
    reply = browser.send("GET", "/ask", {"host": host})
    assert reply.status in {400, 403}
    assert "training" not in reply.text


@pytest.mark.parametrize("host", [HOST, f"localhost:{PORT}", f"LOCALHOST:{PORT}", f"[::1]:{PORT}"])
def test_our_own_names_are_let_in(browser: Browser, host: str) -> None:
    assert browser.send("GET", "/ask", {"host": host}).status == 200


@pytest.mark.parametrize("headers", [[], [("host", HOST), ("host", HOST)], [("host", HOST), ("host", "evil.example")]])
def test_a_request_names_exactly_one_host(browser: Browser, headers: list[tuple[str, str]]) -> None:
    assert browser.send("GET", "/ask", headers).status == 400


@pytest.mark.parametrize("headers", ORIGINS)
def test_a_write_from_another_site_changes_nothing(browser: Browser, headers: dict[str, str]) -> None:
    before = browser.open_indexes.first.decisions.steps
    sent = {"content-type": "application/x-www-form-urlencoded", "host": HOST, **headers}
    body = f"token={browser.token}&in=&id=twice&act=drop".encode()
    assert browser.send("POST", "/decide", sent, [body]).status == 403
    assert browser.open_indexes.first.decisions.steps == before


@pytest.mark.parametrize("token", ["", "x", None, "Ω", "a" * 5000])
def test_a_write_without_the_token_of_this_run_changes_nothing(browser: Browser, token: str | None) -> None:
    before = browser.open_indexes.first.decisions.steps
    fields = {"id": "twice", "act": "drop", "token": token}
    assert browser.post("/decide", {name: one for name, one in fields.items() if one is not None} | (
        {"token": ""} if token is None else {})).status == 403  # fmt: skip
    assert browser.open_indexes.first.decisions.steps == before


def test_our_own_forms_are_let_in_with_and_without_an_origin(browser: Browser) -> None:
    shown = browser.open_indexes.first
    for headers in (OWN, {"origin": "null", "sec-fetch-site": "same-origin"}):
        assert browser.post("/decide", {"id": "twice", "act": "keep"}, headers).status == 303
    assert shown.decisions.current["twice"].act == "keep"


@pytest.mark.parametrize("path", ["/decide", "/undo", "/theme"])
def test_get_never_changes_anything(browser: Browser, path: str) -> None:
    before = browser.open_indexes.first.decisions.steps
    assert browser.get(f"{path}?token={browser.token}&id=twice&act=drop").status == 405
    assert browser.open_indexes.first.decisions.steps == before


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT", "PROPFIND", "get"])
def test_other_methods_are_refused(browser: Browser, method: str) -> None:
    assert browser.send(method, "/ask", {"host": HOST}).status == 405


def test_every_answer_carries_the_headers(browser: Browser) -> None:
    for reply in (browser.get("/ask"), browser.get("/nothing"), browser.send("GET", "/", {"host": "evil.example"}),
                  browser.get("/table?page=x"), browser.get("/export/table.csv")):  # fmt: skip
        assert reply.headers["content-security-policy"] == POLICY
        assert reply.headers["x-content-type-options"] == "nosniff"
        assert reply.headers["referrer-policy"] == "no-referrer"
        assert reply.headers["cross-origin-resource-policy"] == "same-origin"
        assert reply.headers["cache-control"] == "no-store"
        assert "access-control-allow-origin" not in reply.headers


# Limits.


def test_a_declared_gigabyte_is_refused_without_reading_it(browser: Browser) -> None:
    headers = {"host": HOST, **OWN, "content-type": "application/x-www-form-urlencoded", "content-length": str(2**30)}
    reply = browser.send("POST", "/ask", headers, [])
    assert reply.status == 413
    assert reply.headers["connection"] == "close"


def test_an_undeclared_large_body_is_cut_off(browser: Browser) -> None:
    headers = {"host": HOST, **OWN, "content-type": "application/x-www-form-urlencoded"}
    assert browser.send("POST", "/ask", headers, [b"text=" + b"a" * 4096] * (BODY_BYTES // 4096 + 1)).status == 413


@pytest.mark.parametrize("length", ["-1", "1e3", "x", "９".encode().decode("latin-1"), "99999999999999999999"])
def test_a_nonsense_length_is_refused(browser: Browser, length: str) -> None:
    headers = {"host": HOST, **OWN, "content-type": "application/x-www-form-urlencoded", "content-length": length}
    assert browser.send("POST", "/ask", headers, [b"text=a"]).status == 413


@pytest.mark.parametrize("kind", ["multipart/form-data; boundary=x", "text/plain", "application/json", ""])
def test_only_plain_forms_are_read(browser: Browser, kind: str) -> None:
    assert browser.send("POST", "/ask", {"host": HOST, **OWN, "content-type": kind}, [b"text=a"]).status == 415


def test_a_body_that_trickles_in_is_given_up(news: tiny.Tiny) -> None:
    slow = Browser(news.index, read_seconds=0.2)
    headers = {"host": HOST, **OWN, "content-type": "application/x-www-form-urlencoded"}
    assert slow.send("POST", "/ask", headers, [b"t"] * 50, wait=0.05).status == 408


def test_too_many_parameters_and_too_long_addresses_are_refused(browser: Browser) -> None:
    assert browser.get("/table?" + "&".join(["label=a"] * (MOST_PARAMETERS + 1))).status == 400
    assert browser.get("/table?q=" + "a" * 60_000).status == 414
    headers = {"host": HOST, **OWN, "content-type": "application/x-www-form-urlencoded"}
    assert browser.send("POST", "/ask", headers, [b"&".join([b"a=b"] * 300)]).status == 400


# Traversal.


def traversals() -> list[str]:
    random_ = random.Random(0)
    steps = ["../", "..\\", "%2e%2e/", "%2e%2e%2f", "..%2f", "..%5c", "....//", "%252e%252e%252f", "..;/", ".%00./",
             "%c0%ae%c0%ae/", "/", "//", "\\\\", "file:///", "C:\\", "~/", "./"]  # fmt: skip
    ends = [
        "etc/passwd",
        "plan.json",
        "manifest.json",
        "proc/self/environ",
        "explorer.js",
        "app.py",
        "%00.css",
        "a" * 300,
    ]
    found = {step * count + end for step in steps for count in (1, 3, 9) for end in ends}
    found |= {"".join(random_.choice(steps) for _ in range(4)) + random_.choice(ends) for _ in range(40)}
    return sorted(found)


def test_no_name_leads_out(browser: Browser, news: tiny.Tiny) -> None:
    names = traversals()
    assert len(names) >= 200
    secret = (news.index / "manifest.json").read_bytes()[:200]
    for name in names:
        for url in (f"/static/{name}", f"/export/{name}", f"/{name}", f"/example?id={name}", f"/table?in={name}",
                    f"/job?id={name}", f"/export/table.csv?in={quote(name)}"):  # fmt: skip
            reply = browser.get(url)
            assert reply.status in {400, 404, 303, 200}, url
            assert b"root:" not in reply.body
            assert secret not in reply.body
            if url.startswith("/static/"):
                assert reply.status == 404


def test_back_never_leads_to_another_site(browser: Browser) -> None:
    for back in ("//evil.example", "https://evil.example", "/\\evil.example", "javascript:alert(1)", "\r\nx: y", "",
                 "/\t/evil.example", "/ask\r\nSet-Cookie: a=b"):  # fmt: skip
        assert browser.post("/theme", {"theme": "dark", "back": back}).location == "/table"
    assert browser.post("/theme", {"theme": "dark", "back": "/ask?text=a"}).location == "/ask?text=a"


# Another address than this machine's own.


def test_bound_elsewhere_every_visitor_needs_the_token(news: tiny.Tiny) -> None:
    wide = Browser(news.index, host="0.0.0.0")
    at = {"host": f"192.168.1.7:{PORT}"}
    new = {**at, "cookie": ""}
    assert wide.send("GET", "/ask", new).status == 403
    assert wide.send("GET", "/ask?token=wrong", new).status == 403
    assert wide.send("GET", "/ask", {"host": f"rebind.example:{PORT}"}).status == 403
    reply = wide.send("GET", f"/ask?token={wide.login}", new)
    assert reply.status == 200
    cookie = reply.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie
    assert wide.send("GET", "/ask", {**at, "cookie": cookie.split(";")[0]}).status == 200
    assert wide.send("GET", "/ask", {**at, "cookie": "proponent-visit-7860=x"}).status == 403


def test_on_this_machine_too_every_visitor_needs_the_token(browser: Browser) -> None:
    new = {"cookie": ""}
    wrong = ("", "wrong", browser.token, browser.guard.secrets.cookie)
    asked = [("GET", "/ask"), ("GET", "/static/explorer.js"), ("HEAD", "/table"), ("GET", "/export/table.csv")]
    for method, url in [*asked, *(("GET", f"/ask?token={one}") for one in wrong)]:
        reply = browser.get(url, new, method=method)
        assert (reply.status, "printed" in reply.text or method == "HEAD") == (403, True), url
    assert browser.post("/decide", {"id": "twice", "act": "drop"}, new).status == 403
    assert browser.post(f"/decide?token={browser.login}", {"id": "twice", "act": "drop"}, new).status == 403
    for name in ("proponent-visit-7861", "proponent-visit", "x"):  # the cookie of another port is another server's
        assert browser.get("/ask", {"cookie": f"{name}={browser.guard.secrets.cookie}"}).status == 403


def test_the_secrets_of_a_run_differ_and_none_is_in_a_page_but_that_of_the_forms(browser: Browser) -> None:
    secret = browser.guard.secrets
    assert len({secret.login, secret.cookie, secret.form}) == 3
    for url in ("/ask", "/table", "/about", "/nothing", "/example?id=twice"):
        text = browser.get(url).text
        assert secret.form in text
        assert secret.login not in text
        assert secret.cookie not in text


@pytest.mark.parametrize(
    ("asked", "url"),
    [("/?token={}", "/"), ("/ask?token={}", "/ask"), ("/ask?text=a%27b&token={}&k=3", "/ask?text=a%27b&amp;k=3"),
     ("/table?token=old&token={}", "/table"), ("http://x//evil.example/?token={}", "/evil.example/"),
     ("/\\evil.example?token={}", "/evil.example"), ("/ask?text='\"<x>&token={}", "/ask?text=%27&quot;&lt;x&gt;")],
)  # fmt: skip
def test_the_token_leaves_the_address_bar(browser: Browser, asked: str, url: str) -> None:
    for cookie in ("", browser.cookie):  # a first visit, and a second one
        reply = browser.get(asked.format(browser.login), {"cookie": cookie})
        assert reply.status == 200
        assert f"content=\"0; url='{url}'\"" in reply.text
        assert browser.login not in reply.text
        assert reply.headers["set-cookie"].startswith(browser.cookie)
        assert reply.headers["cache-control"] == "no-store"


def test_without_a_token_only_on_this_machine(news: tiny.Tiny) -> None:
    assert Browser(news.index, login=False).get("/ask", {"cookie": ""}).status == 200
    assert Browser(news.index, host="0.0.0.0", login=False).get("/ask", {"cookie": ""}).status == 403
    with pytest.raises(InputError, match=r"--no-token: 0\.0\.0\.0 can be reached"):
        serving.serve([news.index], host="0.0.0.0", login=False)


FOREIGN = [
    {"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors", "sec-fetch-dest": "image"},
    {"sec-fetch-site": "cross-site", "sec-fetch-mode": "cors", "sec-fetch-dest": "empty"},
    {"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors", "sec-fetch-dest": "script"},
    {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "iframe"},
    {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "object"},
    {"sec-fetch-site": "same-site", "sec-fetch-mode": "no-cors", "sec-fetch-dest": "image"},
    {"sec-fetch-site": "cross-site"},
    {"sec-fetch-site": "x"},
]


@pytest.mark.parametrize("headers", FOREIGN)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("login", [True, False])
def test_a_page_elsewhere_cannot_make_the_server_work(
    browser: Browser, news: tiny.Tiny, headers: dict[str, str], method: str, login: bool
) -> None:
    asked = browser if login else Browser(news.index, login=False)
    assert asked.get("/table?how=regex&q=a", headers, method=method).status == 403


@pytest.mark.parametrize("site", ["none", "same-origin", "cross-site", "same-site"])
def test_a_visitor_who_follows_a_link_is_let_in(browser: Browser, site: str) -> None:
    headers = {"sec-fetch-site": site, "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}
    assert browser.get("/table", headers).status == 200


@pytest.mark.parametrize(("host", "own"), [("127.0.0.1", True), ("localhost", True), ("::1", True), ("[::1]", True),
                                           ("127.8.8.8", True), ("0.0.0.0", False), ("::", False), ("10.0.0.1", False),
                                           ("example.com", False), ("", False)])  # fmt: skip
def test_what_is_this_machine(host: str, own: bool) -> None:
    assert is_loopback(host) == own


def test_tokens_of_two_runs_differ(news: tiny.Tiny) -> None:
    tokens = {Browser(news.index).token for _ in range(5)}
    assert len(tokens) == 5
    assert all(len(one) >= 32 and set(one) <= set(string.ascii_letters + string.digits + "-_") for one in tokens)


def test_the_index_is_not_written_to(browser: Browser, news: tiny.Tiny) -> None:
    before = {path: path.stat().st_mtime_ns for path in sorted(Path(news.index).rglob("*"))}
    for url in ("/ask", "/table", "/about", "/asked", "/example?id=twice", "/export/corrected.csv"):
        assert browser.get(url).status == 200
    assert before == {path: path.stat().st_mtime_ns for path in sorted(Path(news.index).rglob("*"))}


# A server on a socket.


@pytest.fixture
def address(news: tiny.Tiny, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, int]]:
    """A server whose request heads must arrive within half a second."""
    monkeypatch.setattr(serving.TimedHead, "seconds", 0.5)
    bound = socket.create_server(("127.0.0.1", 0))
    _, guard = serving.made(OpenIndexes([news.index], {}), login=False)

    async def application(scope: Any, receive: Any, send: Any) -> None:
        """The guard as uvicorn sees it without the type checks of the tests, which it takes for a factory."""
        await guard(scope, receive, send)

    running = serving.server(application)
    thread = threading.Thread(target=running.run, kwargs={"sockets": [bound]})
    thread.start()
    yield bound.getsockname()
    running.should_exit = True
    thread.join()
    bound.close()


def replied(address: tuple[str, int], *parts: bytes, wait: float = 0.0) -> bytes:
    """Everything that the server sends until it closes the connection."""
    with socket.create_connection(address, timeout=20) as connection:
        for part in parts:
            connection.sendall(part)
            time.sleep(wait)
        received = b""
        while part := connection.recv(65536):
            received += part
        return received


def test_a_head_that_never_ends_is_cut_off(address: tuple[str, int]) -> None:
    assert replied(address, b"GET /about HTTP/1.1\r\nHost: 127.0.0.1\r\n") == b""
    assert replied(address) == b""


def test_a_head_in_parts_is_answered_and_the_connection_closed(
    address: tuple[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving.TimedHead, "seconds", 20)  # a busy machine may send the parts late
    head = b"GET /about HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    for cut in (1, len(head) - 3, len(head) - 1):
        received = replied(address, head[:cut], head[cut:], wait=0.05)
        assert received.startswith(b"HTTP/1.1 200")
        assert b"connection: close" in received


def test_a_slow_second_request_has_no_connection_to_hold(address: tuple[str, int]) -> None:
    head = b"GET /about HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    received = replied(address, head + b"GET /about HTTP/1.1\r\nHost:")
    assert received.count(b"HTTP/1.1 ") == 1
