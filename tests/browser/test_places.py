"""A person's place is never lost: scroll, focus, Back, the list that an example was opened from; and small screens."""

import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page

from browser.conftest import arrived, start, stop

Opened = Callable[..., Page]
SUSPECTS = "/table?flag=yes&sort=score"


def undo_all(page: Page) -> None:
    """Leave no decision behind."""
    while page.locator("#undo").count():
        told = page.locator("#undo").inner_text()
        page.click("#undo")
        page.wait_for_function("told => document.querySelector('#undo')?.innerText !== told", arg=told)


def top(page: Page, row: int) -> float:
    """Where a row stands on the screen."""
    return page.evaluate(f"document.getElementById('row-{row}').getBoundingClientRect().top")


def test_a_decision_on_a_scrolled_page_leaves_the_row_where_it_is(address: str, opened: Opened) -> None:
    page = opened()
    page.goto(f"{address}{SUSPECTS}&size=25")
    for row in (25, 12, 18):
        page.evaluate(f"document.getElementById('row-{row}').scrollIntoView({{block: 'center'}})")
        before = top(page, row)
        page.click(f"#keep-{row}")
        page.wait_for_selector(f"#row-{row}.wh-is-keep")
        page.wait_for_timeout(100)
        assert abs(top(page, row) - before) < 4
    undo_all(page)


def test_a_row_that_leaves_the_list_gives_its_place_to_the_next(address: str, opened: Opened) -> None:
    page = opened()
    page.goto(f"{address}{SUSPECTS}&decided=none")
    following = page.locator("#row-4 .wh-id").inner_text()
    page.locator("#row-3").focus()
    page.keyboard.press("e")
    page.wait_for_function("name => document.querySelector('#row-3 .wh-id').innerText === name", arg=following)
    page.wait_for_function("() => document.activeElement.id === 'row-3'")
    undo_all(page)


def test_back_after_decisions_leaves_the_example_and_finds_the_list_as_it_was(address: str, opened: Opened) -> None:
    page = opened()
    page.goto(f"{address}/ask")
    page.goto(f"{address}{SUSPECTS}")
    page.evaluate("document.getElementById('row-14').scrollIntoView({block: 'center'})")
    before = page.evaluate("scrollY")
    assert before > 300
    page.evaluate("document.querySelector('#row-14 .wh-open').click()")
    page.wait_for_url("**/example?**")
    for act in ("keep", "drop", "keep"):
        name = page.inner_text("h1")
        page.click(f"#{act}-one")
        page.wait_for_function("name => document.querySelector('h1').innerText !== name", arg=name)
    page.go_back()
    page.wait_for_url("**/table?**")
    page.wait_for_function("() => document.activeElement.id === 'row-14'")
    assert abs(page.evaluate("scrollY") - before) < 60  # verdicts make rows a little higher
    page.go_back()
    page.wait_for_url("**/ask")
    page.goto(f"{address}/table")
    undo_all(page)


def test_an_example_knows_its_list_and_a_decision_goes_on_to_the_next(address: str, opened: Opened) -> None:
    page = opened()
    page.goto(f"{address}{SUSPECTS}&size=25")
    total = int(re.findall(r"of (\d+)", page.inner_text(".wh-shown"))[0])
    names = [page.locator(f"#row-{row} .wh-id").inner_text() for row in (13, 14, 15)]
    page.locator("#row-13 .wh-open").click()
    page.wait_for_selector(".wh-trail")
    assert f"Back to suspects (13 of {total})" in page.inner_text(".wh-trail")
    page.click("#keep-one")
    page.wait_for_function(f"() => document.querySelector('.wh-trail').innerText.includes('14 of {total}')")
    assert names[1] in page.inner_text("h1")
    page.keyboard.press("n")
    page.wait_for_function(f"() => document.querySelector('.wh-trail').innerText.includes('15 of {total}')")
    assert names[2] in page.inner_text("h1")
    page.keyboard.press("x")
    page.wait_for_function(f"() => document.querySelector('.wh-trail').innerText.includes('16 of {total}')")
    page.click("text=Back to suspects")
    page.wait_for_function("() => document.activeElement.id === 'row-16'")
    assert 0 < top(page, 16) < 900
    undo_all(page)


def test_all_suspects_of_a_cell_are_fixed_at_once_and_taken_back(address: str, opened: Opened) -> None:
    page = opened()
    page.goto(f"{address}{SUSPECTS}")
    cell = page.locator(".wh-confusion td a").first
    many = int(re.findall(r"\d+$", cell.inner_text())[0])
    cell.click()
    page.wait_for_selector(".wh-confusion .wh-here")
    assert page.locator(".wh-grid tbody tr").count() == many
    page.click(".wh-bulk summary")
    page.fill(".wh-bulk input[name=note]", "fex, all of one author")
    page.keyboard.press("Enter")
    page.wait_for_timeout(300)
    assert page.locator("#undo").count() == 0, "neither letters nor Enter in a note decide anything"
    page.click(".wh-bulk button[value=fix]")
    page.wait_for_selector("#row-1.wh-is-fix")
    assert page.locator(".wh-is-fix.wh-row").count() == many
    assert "fex, all of one author" in page.inner_text("#row-1")
    page.click("#undo")
    page.wait_for_selector("#row-1:not(.wh-is-fix)")
    assert page.locator("#undo").count() == 0


def test_enter_in_a_note_saves_it_with_the_decision_that_is_there(address: str, opened: Opened) -> None:
    page = opened()
    page.goto(f"{address}{SUSPECTS}")
    page.click("#row-1 .wh-open")
    page.wait_for_selector("#note-one")
    url = page.url
    page.fill("#note-one", "x first")
    page.keyboard.press("Enter")
    page.wait_for_timeout(300)
    assert page.locator("#undo").count() == 0
    page.click("#drop-one")
    page.wait_for_url(lambda now: now != url)
    page.wait_for_selector("#drop-one[aria-pressed=false]")
    page.goto(url)
    assert "x first" in page.inner_text(".wh-decide")
    page.fill("#note-one", "second")
    page.keyboard.press("Enter")
    page.wait_for_selector(".wh-why-decided:has-text('second')")
    assert page.url == url, "a note leaves the reader where they are"
    assert page.input_value("#note-one") == "second"
    assert page.locator("#drop-one[aria-pressed=true]").count() == 1
    page.click("#undo")
    page.wait_for_selector("#note-one[value='x first']")
    page.click("#undo")
    page.wait_for_selector("#note-one[value='']")
    assert page.locator("#undo").count() == 0


def test_a_row_of_a_later_page_leads_back_to_that_page(address: str, opened: Opened) -> None:
    page = opened(java_script_enabled=False)
    page.goto(f"{address}/table?size=25&page=2")
    page.click("#row-30 .wh-open")
    assert "(30 of" in page.inner_text(".wh-trail")
    page.click("text=Back to examples")
    assert page.url.endswith("page=2&size=25#row-30")
    assert page.locator("#row-30").count() == 1


def test_the_key_f_asks_for_the_label_where_nothing_speaks_against_it(address: str, opened: Opened) -> None:
    page = opened()
    page.goto(f"{address}/table?flag=no&sort=-score")
    given = page.locator("#row-1 .wh-c-label .wh-label").inner_text()
    page.keyboard.press("j")
    page.keyboard.press("f")
    assert page.evaluate("document.activeElement.id") == "label-1"
    assert "Choose the right one" in page.inner_text("#said")
    page.wait_for_timeout(300)
    assert page.locator("#row-1.wh-is-fix").count() == 0
    other = page.locator("#label-1 option").nth(1).get_attribute("value")
    assert other
    assert other != given
    page.locator("#label-1").select_option(other)
    page.keyboard.press("Enter")
    page.wait_for_selector("#row-1.wh-is-fix")
    assert other in page.inner_text("#row-1 .wh-verdict")
    page.click("#fix-3")  # by mouse the browser asks
    page.wait_for_timeout(300)
    assert page.locator("#row-3.wh-is-fix").count() == 0
    undo_all(page)


def test_the_keys_are_shown_in_a_readable_width(address: str, opened: Opened) -> None:
    for width, least in ((1280, 400), (360, 300)):
        page = opened(viewport={"width": width, "height": 740})
        page.goto(f"{address}/table")
        page.keyboard.press("?")
        box = page.locator("#keys").bounding_box()
        assert box
        assert box["width"] > least
        assert box["x"] >= 0


def test_on_a_small_screen_filters_come_first_and_fingers_fit(address: str, opened: Opened) -> None:
    page = opened(viewport={"width": 360, "height": 740}, has_touch=True)
    page.goto(f"{address}/table?sort=score")
    assert not page.locator(".wh-facets").is_visible()
    page.tap("text=Filters")
    assert page.locator(".wh-facets").bounding_box()["y"] < 900  # type: ignore[index]
    page.locator(".wh-facets a >> nth=0").tap()
    page.wait_for_selector(".wh-chips")
    for url in ("/table?sort=score", SUSPECTS, "/example?id=csv.Sniffer", "/ask", "/about", "/compare"):
        page.goto(address + url)
        small = page.evaluate(
            """[...document.querySelectorAll("button, select, input[type=search], .wh-button, .wh-nav a, .wh-pages a")]
            .filter((one) => one.getClientRects().length && !one.matches(".wh-vh"))
            .filter((one) => one.getBoundingClientRect().height < 44).map((one) => one.outerHTML.slice(0, 90))"""
        )
        assert small == [], url


def ask(page: Page, text: str) -> None:
    """Fill in the form of a page and send it."""
    page.fill("#text", text)
    page.click("button.wh-main")


def test_groups_shows_the_sums_of_a_new_text(address: str, opened: Opened) -> None:
    page = opened()
    page.goto(f"{address}/groups")
    ask(page, "Sum up the groups of this very text")
    page.wait_for_selector(".wh-sums", timeout=180_000)
    assert "/groups?" in page.url


def test_the_word_filter_keeps_bars_and_baselines_and_says_what_it_does(address: str, opened: Opened) -> None:
    page = opened()
    page.goto(f"{address}/ask")
    ask(page, "Issue a warning, or maybe ignore it or raise an exception.")
    arrived(page, "**/ask?**")
    page.wait_for_selector(".wh-hits > li")
    url = page.url
    bars = """[...document.querySelectorAll(".wh-hits > li")]
        .map((li) => [li.id, li.querySelector(".wh-bar rect:last-child").getAttribute("width")])"""
    whole, baselines = dict(page.evaluate(bars)), page.locator(".wh-ranks").inner_text()
    words = page.evaluate(
        "[...new Set([...document.querySelectorAll('.wh-words td:nth-child(2)')].map(td => td.innerText))]"
    )
    some = next(word for word in words if word.isalpha())
    page.goto(f"{url}&word={some}")
    kept = dict(page.evaluate(bars))
    assert 0 < len(kept) <= len(whole)
    assert all(whole[name] == width for name, width in kept.items())
    assert page.locator(".wh-ranks").inner_text() == baselines
    page.goto(f"{url}&word=zzyzx")
    seen = page.inner_text("main")
    assert "No training example helped" not in seen
    assert "None of the 10 examples that helped shares zzyzx" in seen
    assert "0 of 20 examples share" in seen
    assert page.locator(".wh-ranks").inner_text() == baselines


@pytest.fixture(scope="module")
def two(demo: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An explorer of two indexes."""
    folder = tmp_path_factory.mktemp("two")
    for name in ("one.index", "other.index"):
        shutil.copytree(demo / "demo.index", folder / name)
    process, url = start(folder / "one.index", folder / "other.index")
    yield url
    stop(process)


def test_a_comparison_finishes_by_itself_and_asks_the_second_index(two: str, opened: Opened) -> None:
    page = opened()
    page.goto(f"{two}/compare")
    ask(page, "Compare this new text without a reload")
    page.wait_for_url("**/compare?**")
    page.wait_for_selector(".wh-column .wh-hits > li", timeout=180_000)
    page.locator(".wh-chips >> text=other").click()
    page.wait_for_selector(".wh-of-2")
    heads = page.locator(".wh-column h2").all_inner_texts()
    assert len(set(heads)) == 2
    assert any("one" in head for head in heads)
    page.click("text=Ask this index")
    page.wait_for_function(
        "() => document.querySelectorAll('.wh-column').length === 2 && "
        "[...document.querySelectorAll('.wh-column')].every(one => one.querySelector('.wh-hits > li'))",
        timeout=180_000,
    )


@pytest.fixture(params=["before the first shard", "a part"])
def unfinished(request: pytest.FixtureRequest, demo: Path, tmp_path: Path) -> Iterator[str]:
    """An index whose build was stopped."""
    folder = tmp_path / "half.index"
    shutil.copytree(demo / "demo.index", folder)
    (folder / "manifest.json").unlink()
    if request.param == "before the first shard":
        for one in folder.iterdir():
            if one.name != "plan.json":
                shutil.rmtree(one) if one.is_dir() else one.unlink()
    process, url = start(folder)
    yield f"{url} {request.param}"
    stop(process)


def test_the_pages_of_an_unfinished_index_agree(unfinished: str, opened: Opened) -> None:
    url, what = unfinished.split(" ", 1)
    page = opened()
    for path in ("/", "/about", "/table", "/table?flag=yes&sort=score", "/ask"):
        reply = page.goto(url + path)
        assert reply
        assert reply.status == 200, path
        seen = page.inner_text("main")
        assert "run the same" not in seen.split("is being built")[0], path
        if what.startswith("before"):
            assert "is being built" in seen
