"""Display time of the one-file report of 1,000 examples: its size, and Chromium's own time of the first paint.

    python benchmarks/paint.py [--times 7] [--out benchmarks/results]

Reports of 1,000 hits of 60 words each, twelve words marked: one answer of 500 hits per side, and 50 answers of ten per
side. Each is opened from disk (file://) in a fresh context of a running Chromium; any request other than for the
file itself is an error.
"""

import os
import shutil
import tempfile
from pathlib import Path

import harness
import numpy as np
from playwright.sync_api import Browser, sync_playwright

from explorer import answer_of, generate, texts_of
from proponent.store import Store
from proponent.views import Explanation, document

HITS = 1000
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync", "--no-first-run"]
PAINTS = "() => performance.getEntriesByType('paint').map(one => [one.name, one.startTime])"
LOADED = "() => performance.getEntriesByType('navigation')[0].loadEventEnd"


def answers(store: Store, count: int) -> list[Explanation]:
    """Some answers, 1,000 hits in all."""
    generator = np.random.default_rng(1)
    return [answer_of(store, generator, text, HITS // count // 2) for text in texts_of(generator, count)]


def painted(browser: Browser, page: Path) -> dict[str, float]:
    """Milliseconds from the start of the navigation."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    shown, asked = context.new_page(), list[str]()
    shown.on("request", lambda sent: asked.append(sent.url))
    shown.goto(page.as_uri(), wait_until="load")
    shown.wait_for_function("() => performance.getEntriesByName('first-contentful-paint').length > 0")
    found = dict(shown.evaluate(PAINTS)) | {"loaded": shown.evaluate(LOADED)}
    assert [one for one in asked if not one.startswith("data:")] == [page.as_uri()], asked
    context.close()
    return {name: round(value, 1) for name, value in found.items()}


def main() -> None:
    """Measure, print and write a dated record."""
    parser = harness.arguments(__doc__, times=7)
    options = parser.parse_args()
    chromium = next(path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name)))
    record, load = {}, f"load {os.getloadavg()[0]:.1f} before"
    with tempfile.TemporaryDirectory(prefix="proponent-") as made, sync_playwright() as playwright:
        folder = Path(made)
        generate(folder / "made.index", 4096)
        store, browser = Store(folder / "made.index"), playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        record["browser"] = f"Chromium {browser.version}"
        for count in (1, 50):
            page = folder / f"report-{count}.html"
            page.write_text(document(*answers(store, count)), encoding="utf-8")
            times = [painted(browser, page) for _ in range(options.times)]
            spread = {name: sorted(one[name] for one in times) for name in times[0]}
            record[f"{HITS:,} hits in {count} answers"] = {"bytes": page.stat().st_size, "milliseconds": spread}
        browser.close()
    harness.write_record(options.out, "paint", record, load)


if __name__ == "__main__":
    main()
