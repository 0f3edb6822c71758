"""A Chromium that is there already, and `proponent serve` in a process of its own, over the demo's index."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Error, Page, expect, sync_playwright

CHROMIUM = next((one for one in ("chromium", "chromium-browser", "google-chrome") if shutil.which(one)), None)
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update",
         "--disable-sync", "--no-first-run"]  # fmt: skip
AXE = Path(os.environ.get("AXE", ".browser/package/axe.min.js"))


TOKENS: dict[str, str] = {}
"""The token of every explorer that was started, by its address."""


def start(*indexes: Path) -> tuple["subprocess.Popen[str]", str]:
    """Start the explorer; give its process and its address."""
    words = [sys.executable, "-m", "proponent.cli", "serve", *map(str, indexes), "--port", "0", "--quiet"]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    url, _, token = process.stdout.readline().strip().partition("/?token=")
    TOKENS[url] = token
    return process, url


def stop(process: "subprocess.Popen[str]") -> None:
    """End an explorer."""
    process.kill()
    process.wait()
    assert process.stdout is not None
    process.stdout.close()


def arrived(page: Page, address: str) -> None:
    """Wait for an address (`*` for anything), at most three minutes.

    A page in progress loads itself again and may give one navigation up for the next, which `wait_for_url` raises.
    """
    expect(page).to_have_url(re.compile(".*".join(map(re.escape, address.split("*"))) + "$"), timeout=180_000)
    page.wait_for_load_state()


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the demo."""
    given = os.environ.get("PROPONENT_DEMO")
    folder = tmp_path_factory.mktemp("demo") / "demo"
    if given:
        return Path(shutil.copytree(given, folder, ignore=shutil.ignore_patterns("*.asked", "*.decisions.jsonl")))
    subprocess.run([sys.executable, "-m", "proponent.cli", "demo", "--out", str(folder), "--quiet"], check=True)
    return folder


@pytest.fixture(scope="session")
def address(demo: Path) -> Iterator[str]:
    """Where the explorer of the demo is."""
    process, url = start(demo / "demo.index")
    yield url
    stop(process)


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    """The browser."""
    if CHROMIUM is None:
        pytest.fail("no Chromium: apt-get install chromium")
    with sync_playwright() as playwright:
        made = playwright.chromium.launch(executable_path=shutil.which(CHROMIUM), args=FLAGS)
        yield made
        made.close()


Opened = Callable[..., Page]


@pytest.fixture
def opened(chromium: Browser) -> Iterator[Opened]:
    """Open pages in fresh contexts; complain of dialogs, policy violations, script errors and requests elsewhere."""
    contexts: list[BrowserContext] = []
    wrong: list[str] = []

    def page(**options: object) -> Page:
        context = chromium.new_context(**{"viewport": {"width": 1280, "height": 900}} | options)  # type: ignore[arg-type]
        contexts.append(context)
        for url, token in TOKENS.items():
            with suppress(Error):  # an explorer that has ended
                context.request.get(f"{url}/?token={token}")  # as a visitor who opens the printed address
        made = context.new_page()
        made.on("dialog", lambda dialog: (wrong.append(f"dialog {dialog.message}"), dialog.dismiss()))
        made.on("pageerror", lambda error: wrong.append(f"error {error}"))
        made.on("console", lambda said: wrong.append(said.text) if "Content Security" in said.text else None)
        own = ("http://127.0.0.1:", "data:", "file:", "blob:")
        made.on("request", lambda sent: None if sent.url.startswith(own) else wrong.append(f"request {sent.url}"))
        return made

    yield page
    for context in contexts:
        context.close()
    assert wrong == []
