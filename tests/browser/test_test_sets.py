"""A test set in a real browser: upload, drill-down, from a wrong prediction to its explanation; also without script."""

import csv
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page

from browser.conftest import AXE, arrived, start, stop

Opened = Callable[..., Page]


@pytest.fixture(scope="module")
def held_out(demo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A hundred rows of the demo's test set, with the true topics as labels."""
    path = tmp_path_factory.mktemp("sets") / "held-out.csv"
    with (demo / "held-out.csv").open(encoding="utf-8", newline="") as file:
        rows = [{"id": row["id"], "text": row["text"], "label": row["true_label"]} for row in csv.DictReader(file)]
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, ["id", "text", "label"])
        writer.writeheader()
        writer.writerows(rows[:100])
    return path


@pytest.fixture(scope="module")
def own(demo: Path) -> Iterator[str]:
    """An explorer of its own: others expect a first page without a test set."""
    process, url = start(demo / "demo.index")
    yield url
    stop(process)


@pytest.fixture(scope="module")
def predicted(own: str, held_out: Path, chromium: object) -> str:
    """The address of the page of a test set that was uploaded."""
    from browser.conftest import TOKENS

    page = chromium.new_page()  # type: ignore[attr-defined]
    page.goto(f"{own}/test?token={TOKENS[own]}")
    page.wait_for_url(f"{own}/test")
    page.set_input_files("input[type=file]", str(held_out))
    page.click(".wh-upload button")
    page.wait_for_selector(".wh-confusion", timeout=180_000)
    url = page.url
    page.close()
    return url


def over_the_edge(page: Page) -> int:
    return page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")


def test_a_number_of_the_matrix_leads_to_its_rows_and_a_row_to_its_explanation(
    own: str, predicted: str, opened: Opened
) -> None:
    page = opened()
    page.goto(predicted)
    cell = page.locator(".wh-confusion td:not(.wh-right) a").first
    named, count = (part.strip() for part in cell.inner_text().split(":"))
    given, said = named.removeprefix("given ").split(", predicted ")
    cell.click()
    page.wait_for_selector(".wh-confusion .wh-here")
    assert page.locator(".wh-row").count() == int(count)
    assert page.locator(".wh-row .wh-c-label .wh-label").all_inner_texts() == [given] * int(count)
    assert page.locator(".wh-row .wh-c-predicted .wh-label").all_inner_texts() == [said] * int(count)
    page.locator(".wh-why button").first.click()
    arrived(page, "**/ask?**")
    assert page.locator("h1").inner_text() == f"Why {said} and not {given}?"
    assert page.locator(".wh-ask select[name=label]").input_value() == said
    assert page.locator(".wh-ask select[name=against]").input_value() == given
    page.go_back()
    page.goto(own)
    assert "accuracy on 100 rows" in page.inner_text("#view")
    assert page.locator(".wh-why").count() == 4


def test_a_dropped_file_is_sent_and_a_large_one_is_not(own: str, opened: Opened) -> None:
    page = opened()
    page.goto(f"{own}/test")
    drop = """(size) => {
        const form = document.querySelector("[data-drop]"), held = new DataTransfer();
        form.closest("details")?.setAttribute("open", "");
        if (size) form.dataset.most = size;
        held.items.add(new File(["text,label\\nRead a file from the disk,files\\n"], "dropped.csv"));
        form.dispatchEvent(new DragEvent("drop", { bubbles: true, cancelable: true, dataTransfer: held }));
    }"""
    page.evaluate(drop, 3)
    assert page.locator(".wh-too-large").first.is_visible()
    page.goto(f"{own}/test")
    page.evaluate(drop, 0)
    page.wait_for_selector("text=Test set dropped.csv", timeout=60_000)
    page.wait_for_selector(".wh-confusion", timeout=180_000)
    assert page.locator(".wh-row").count() == 1


def test_a_bad_file_is_told(own: str, opened: Opened, tmp_path: Path) -> None:
    path = tmp_path / "paper.pdf"
    path.write_bytes(b"%PDF-1.4")
    page = opened(java_script_enabled=False)
    page.goto(f"{own}/test")
    if page.locator("details.wh-again summary").count():
        page.click("details.wh-again summary")
    page.set_input_files("input[type=file]", str(path))
    page.click(".wh-upload button")
    assert "unknown file type" in page.inner_text("[role=alert]")


def test_without_script_a_test_set_is_uploaded_and_explained(own: str, held_out: Path, opened: Opened) -> None:
    page = opened(java_script_enabled=False)
    page.goto(f"{own}/test")
    if page.locator("details.wh-again summary").count():
        page.click("details.wh-again summary")
    page.set_input_files("input[type=file]", str(held_out))
    page.click(".wh-upload button")
    page.wait_for_selector(".wh-confusion", timeout=180_000)  # a page in progress loads itself again
    page.click("text=wrong >> nth=0")
    page.locator(".wh-why button").first.click()
    arrived(page, "**/ask?**")
    assert page.locator("h1").inner_text().startswith("Why ")


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_it_fits_a_phone_and_axe_finds_nothing_serious(own: str, predicted: str, opened: Opened, theme: str) -> None:
    script = AXE.read_text(encoding="utf-8")
    for width in (360, 1280):
        page = opened(viewport={"width": width, "height": 900}, color_scheme=theme, bypass_csp=True)
        for address in (own, predicted, f"{predicted}&only=wrong", predicted.replace("/test?", "/errors?")):
            page.goto(address)
            assert over_the_edge(page) <= 0, (address, width)
            page.evaluate(script)
            found = page.evaluate("axe.run()")
            serious = [one["id"] for one in found["violations"] if one["impact"] in {"serious", "critical"}]
            assert serious == [], (address, width)
