"""Plots in a browser: bars and cells lead to their examples, by mouse and by keys, with and without script."""

import csv
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page

from browser.conftest import AXE, start, stop

Opened = Callable[..., Page]


@pytest.fixture(scope="module")
def few(demo: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where the explorer of an index of every eleventh example of the demo is: few enough for points to be links."""
    folder = tmp_path_factory.mktemp("small")
    with (demo / "train.csv").open(encoding="utf-8", newline="") as source:
        rows = list(csv.reader(source))
    with (folder / "small.csv").open("w", encoding="utf-8", newline="") as target:
        csv.writer(target).writerows([rows[0], *rows[1::11]])
    words = ["index", str(demo / "run"), str(folder / "small.csv"), "--out", str(folder / "small.index"), "--quiet"]
    subprocess.run([sys.executable, "-m", "proponent.cli", *words], check=True, stdout=subprocess.DEVNULL)
    process, url = start(folder / "small.index")
    yield url
    stop(process)


def selected(page: Page) -> int:
    """How many examples the table selects."""
    (found,) = re.findall(r"of ([\d,]+)", page.inner_text(".wh-shown"))[:1]
    return int(found.replace(",", ""))


def map_of(page: Page, url: str) -> None:
    """Open a map and wait until it is there."""
    page.goto(url)
    page.wait_for_selector(".wh-map", timeout=60_000)


@pytest.mark.parametrize("script", [True, False])
def test_a_bar_and_a_cell_lead_to_their_examples(address: str, opened: Opened, script: bool) -> None:
    page = opened(java_script_enabled=script)
    page.goto(f"{address}/table?flag=yes")
    bar = page.locator("svg.wh-plot a").first
    count = int((bar.get_attribute("aria-label") or "").split(" ")[0].replace(",", ""))
    bar.locator(".wh-hit").click(force=True)
    page.wait_for_url("**high=**")
    assert selected(page) == count
    if not script:
        page.goto(f"{address}/map")
        page.wait_for_timeout(3_000)
    map_of(page, f"{address}/map")
    cell = page.locator(".wh-map svg.wh-plot a").nth(20)
    count = int((cell.get_attribute("aria-label") or "").split(" ")[0].replace(",", ""))
    cell.locator(".wh-hit").click()
    page.wait_for_url("**area=**")
    assert selected(page) == count


def test_keys_reach_every_cell_by_the_numbers(address: str, opened: Opened) -> None:
    page = opened()
    map_of(page, f"{address}/map")
    cells = page.locator(".wh-map svg.wh-plot a").count()
    page.locator(".wh-numbers summary").focus()
    page.keyboard.press("Enter")
    links = page.locator(".wh-numbers tbody a")
    assert links.count() == cells > 30
    links.nth(3).focus()
    page.keyboard.press("Enter")
    page.wait_for_url("**area=**")


@pytest.mark.parametrize("script", [True, False])
def test_a_point_leads_to_its_example_and_is_no_tab_stop(few: str, opened: Opened, script: bool) -> None:
    page = opened(java_script_enabled=script)
    if not script:
        page.goto(f"{few}/map")
        page.wait_for_timeout(3_000)
    map_of(page, f"{few}/map")
    points = page.locator(".wh-map svg.wh-plot a:has(.wh-dot)")
    assert points.count() > 200
    name = points.last.locator("title").text_content() or ""
    points.last.locator(".wh-dot").click(force=True)  # drawn last: above all others
    page.wait_for_url("**/example?**")
    assert name in page.inner_text("h1")
    map_of(page, f"{few}/map")
    assert page.evaluate("[...document.querySelectorAll('.wh-map svg a')].every(one => one.tabIndex < 0)") is True


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_plots_are_accessible_and_fit_a_telephone(address: str, few: str, opened: Opened, theme: str) -> None:
    if not AXE.is_file():
        pytest.fail("no axe-core: `make test-browser` gets it")
    wrong: list[str] = []
    for width in (360, 1280):
        page = opened(viewport={"width": width, "height": 800}, color_scheme=theme, bypass_csp=True)
        for path in (
            "/",
            "/table?flag=yes",
            "/action?id=label-errors",
            "/map",
            "/map?colour=influence&id=csv.Sniffer",
            "small",
        ):
            if path.startswith("/map"):
                map_of(page, address + path)
            elif path == "small":
                map_of(page, f"{few}/map")
            else:
                page.goto(address + path)
            page.evaluate("document.querySelectorAll('details').forEach(one => { one.open = true })")
            assert page.evaluate("document.documentElement.scrollWidth") <= width, path
            small = page.evaluate(
                "[...document.querySelectorAll('svg.wh-plot text')].map(one => one.getBoundingClientRect().height)"
            )
            assert all(one >= 9 for one in small if one), (path, small)
            page.add_script_tag(content=AXE.read_text(encoding="utf-8"))
            for one in page.evaluate("axe.run().then(result => result.violations)"):
                if one["impact"] in {"serious", "critical"}:
                    wrong.append(f"{path} {width} {one['id']} {one['nodes'][0]['html'][:200]}")
    assert wrong == []
