"""The pages of the explorer as a browser sees them: weights, first paint, time to the first answer, screenshots.

    make demo && python benchmarks/explorer_pages.py --demo demo-out [--pictures docs/screens --page docs/screens.md]

`proponent serve` runs as for users over a copy of the demo's index, with the held-out examples as its test set;
Chromium opens each page in a fresh context at three widths, light and dark. Weights are the bytes of the bodies, not
compressed. The first answer starts the model's process; the next ones find it. Pictures are JPEG, of the window only.
"""

import argparse
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import harness
from playwright.sync_api import Browser, Page, Response, sync_playwright

SIZES = {"360": (360, 780), "768": (768, 1024), "1280": (1280, 900)}
THEMES = ("light", "dark")
QUESTION = "True if only one bit set in num (should be an int)"
PAGES = {
    "home": "/",
    "ask": "/ask",
    "suspects": "/table?flag=yes&sort=score",
    "table": "/table",
    "example": "/example?id=csv.Sniffer",
    "map": "/map",
    "groups": "/groups",
    "asked": "/asked",
    "about": "/about",
}
PAINTED = """() => new Promise(told => new PerformanceObserver(list => told(list.getEntries()[0].startTime)).observe(
    {type: "paint", buffered: true}))"""
"""Milliseconds until the first paint of a page, which may be yet to come."""

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]


@contextmanager
def serving(index: Path, test: Path) -> Iterator[tuple[str, float]]:
    """Serve an index; give the address with its token, and the seconds until it stood there."""
    words = [sys.executable, "-m", "proponent.cli", "serve", index, "--test", test, "--port", "0", "--quiet"]
    start = time.perf_counter()
    process = subprocess.Popen([*map(str, words)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield process.stdout.readline().strip(), time.perf_counter() - start
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def ask(page: Page, own: str, text: str) -> tuple[float, str]:
    """Ask as a person does; give the seconds until the answer is there, and its address."""
    page.goto(f"{own}/ask")
    page.fill("#text", text)
    start = time.perf_counter()
    page.click("button.wh-main")
    page.wait_for_selector(".wh-cols", timeout=180_000)
    return time.perf_counter() - start, page.url.removeprefix(own)


def visit(browser: Browser, login: str, url: str, size: tuple[int, int], theme: Any) -> tuple[Page, dict[str, Any]]:
    """Open a page with nothing cached; give it with its weights."""
    context = browser.new_context(viewport={"width": size[0], "height": size[1]}, color_scheme=theme)
    context.request.get(login)
    page, got = context.new_page(), list[Response]()
    page.on("response", lambda one: got.append(one))
    page.goto(url, wait_until="load")
    paint = page.evaluate(PAINTED)
    bodies = [len(one.body()) for one in got if one.status == 200]
    figures = {
        "page_bytes": bodies[0],
        "all_bytes": sum(bodies),
        "requests": len(bodies),
        "first_paint_ms": paint,
        "over_the_edge": page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth"),
    }
    return page, figures


def looked_at(browser: Browser, login: str, pages: dict[str, str], pictures: Path | None) -> dict[str, Any]:
    """Open every page in every size and theme; keep the pictures."""
    own, _, _ = login.partition("/?token=")
    made: dict[str, Any] = {}
    for name, path in pages.items():
        for width, size in SIZES.items():
            for theme in THEMES:
                page, figures = visit(browser, login, own + path, size, theme)
                if pictures is not None and name in KEPT:
                    target = pictures / f"{name}-{width}-{theme}.jpg"
                    page.screenshot(path=target, type="jpeg", quality=60, animations="disabled")
                made.setdefault(name, {})[f"{width} {theme}"] = figures
                page.context.close()
    return made


def summary(found: dict[str, Any]) -> dict[str, Any]:
    """Weights at 1280 pixels, the median and the slowest first paint, the widest overflow, by page."""
    return {
        name: {
            "page_kb": round(each["1280 light"]["page_bytes"] / 1024, 1),
            "all_kb": round(each["1280 light"]["all_bytes"] / 1024, 1),
            "requests": each["1280 light"]["requests"],
            "first_paint_ms": round(statistics.median(one["first_paint_ms"] for one in each.values())),
            "first_paint_slowest_ms": round(max(one["first_paint_ms"] for one in each.values())),
            "over_the_edge_px": max(one["over_the_edge"] for one in each.values()),
        }
        for name, each in found.items()
    }


KEPT = {
    "home": "Overview",
    "suspects": "Suspects",
    "answer": "An answer",
    "test-set": "A test set",
    "errors": "Behind the wrong predictions",
    "map": "The map",
    "example": "One example",
}
"""Pages whose pictures are kept."""


def page_of(record: dict[str, Any], pictures: str) -> str:
    """The page of the documentation: every kept picture, and the weights."""
    widest = max(one["over_the_edge_px"] for one in record["pages"].values())
    lines = [
        "# The explorer in pictures",
        "",
        "`benchmarks/explorer_pages.py` opens the pages over the demo in Chromium, at 360, 768 and 1,280 pixels, light "
        f"and dark, each in a fresh context; none is wider than the window by more than {widest} pixels. It writes "
        f"this page and its [record](../benchmarks/results/{record['date']}-explorer-pages.json).",
        "",
    ]
    for name, title in KEPT.items():
        others = [f"[{width} {theme}]({pictures}/{name}-{width}-{theme}.jpg)" for width in SIZES for theme in THEMES]
        lines += [f"## {title}", "", f"![{title}]({pictures}/{name}-1280-light.jpg)", "", ", ".join(others), ""]
    lines += [
        "## Weights and times",
        "",
        "The page, and all that a first visit loads (style, scripts, icon), not compressed; first paint: a median.",
        "",
        "| page | KB | first visit KB | first paint ms |",
        "|---|---|---|---|",
    ]
    for name, one in record["pages"].items():
        lines.append(f"| {name} | {one['page_kb']} | {one['all_kb']} | {one['first_paint_ms']} |")
    lines += [
        "",
        f"`proponent serve` prints its address after {record['serve_seconds']} s. The first question, whose process "
        f"has to import torch and load the model, is answered after {record['first_answer_seconds']} s, the next after "
        f"{record['next_answer_seconds']} s (from the click to the answer on the screen).",
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--demo", type=Path, default=Path("demo-out"), help="folder of the demo")
    parser.add_argument("--pictures", type=Path, help="folder for the pictures")
    parser.add_argument("--page", type=Path, help="page of the documentation that shows the pictures")
    parser.add_argument("--out", type=Path, default=harness.RESULTS)
    args = parser.parse_args()
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        raise SystemExit("no Chromium: apt-get install chromium")
    if args.pictures is not None:
        args.pictures.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as made, sync_playwright() as playwright:
        folder = Path(made) / "demo"
        shutil.copytree(args.demo, folder, ignore=shutil.ignore_patterns("*.asked", "*.decisions.jsonl"))
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        with serving(folder / "demo.index", folder / "held-out.csv") as (login, start):
            own, _, _ = login.partition("/?token=")
            page = browser.new_page()
            page.goto(login)
            first, answer = ask(page, own, QUESTION)
            again = [ask(page, own, f"{QUESTION} {word}")[0] for word in ("or a float", "or none", "or a list")]
            page.goto(f"{own}/map")
            page.wait_for_selector(".wh-map", timeout=300_000)
            page.goto(f"{own}/test")
            page.wait_for_selector(".wh-confusion", timeout=300_000)
            pages = PAGES | {"answer": answer, "test-set": page.url.removeprefix(own)}
            page.click(".wh-offer a")
            page.click("text=Explain the wrong predictions")
            page.wait_for_selector(".wh-behind", timeout=300_000)
            pages |= {"errors": page.url.removeprefix(own)}
            found = looked_at(browser, login, pages, args.pictures)
        browser.close()
    record = {
        "benchmark": "explorer pages",
        "settings": {"sizes": list(SIZES), "themes": list(THEMES)},
        "serve_seconds": round(start, 2),
        "first_answer_seconds": round(first, 2),
        "next_answer_seconds": round(statistics.median(again), 2),
        "pages": summary(found),
    }
    harness.write_record(args.out, "explorer-pages", record)
    if args.page is not None:
        folder = args.pictures.relative_to(args.page.parent)
        args.page.write_text(page_of(record | {"date": harness.today()}, folder.as_posix()), encoding="utf-8")


if __name__ == "__main__":
    main()
