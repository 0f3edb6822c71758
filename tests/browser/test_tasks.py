"""What a person does, in a real browser: find label errors, fix, save, train again; by mouse, keys, without script."""

import csv
import io
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Browser, Page, Route

import tiny
from browser.conftest import AXE, TOKENS, arrived, start, stop
from test_views_hostile import PAYLOADS

Opened = Callable[..., Page]
QUESTION = "True if only one bit set in num (should be an int)"
SCREENS = ["/ask", "/table", "/table?flag=yes&sort=score", "/table?q=zzzz", "/table?q=(&how=regex",
           "/example?id=csv.Sniffer", "/map", "/compare", "/groups", "/asked", "/about", "/nothing"]  # fmt: skip


@pytest.fixture(scope="module")
def answer(address: str, chromium: object) -> str:
    """The address of an answer."""
    page = chromium.new_page()  # type: ignore[attr-defined]
    page.goto(f"{address}/ask?token={TOKENS[address]}")
    page.wait_for_url(f"{address}/ask")
    page.fill("#text", QUESTION)
    page.click("button.wh-main")
    page.wait_for_selector(".wh-job, .wh-cols")
    arrived(page, "**/ask?**")
    url = page.url
    page.close()
    return url


def test_find_ten_planted_errors_fix_them_save_and_train_again(address: str, opened: Opened, demo: Path) -> None:
    truth = {row["id"]: row for row in csv.DictReader(io.StringIO((demo / "train.csv").read_text(encoding="utf-8")))}
    page = opened()
    page.goto(f"{address}/ask")
    clicks = 1
    page.click("text=Suspects")
    page.wait_for_url("**/table?**")
    planted, at = 0, 1
    while planted < 10:
        row = page.locator(f"#row-{at}")
        name = row.locator(".wh-id").inner_text()
        suggested = row.locator("select").input_value()
        if truth[name]["label"] != truth[name]["true_label"] == suggested:
            row.locator("text=Fix to").click()
            page.wait_for_selector(f"#row-{at}.wh-is-fix")
            clicks, planted = clicks + 1, planted + 1
        at += 1
    page.click("text=Index")
    with page.expect_download() as saved:
        page.click("text=corrected data set (CSV)")
    clicks += 2
    assert clicks <= 15
    corrected = list(csv.DictReader(io.StringIO(Path(saved.value.path()).read_text(encoding="utf-8"))))
    fixed = [row for row in corrected if row["label"] != truth[row["id"]]["label"]]
    assert len(fixed) == 10
    assert all(row["label"] == truth[row["id"]]["true_label"] for row in fixed)
    out = demo / "corrected.csv"
    subprocess.run(
        [sys.executable, "-m", "proponent.cli", "apply", str(demo / "demo.index"), "--out", str(out)], check=True
    )
    train = [
        sys.executable,
        "-m",
        "proponent.cli",
        "train",
        str(out),
        "--out",
        str(demo / "again"),
        "--epochs",
        "1",
        "--quiet",
    ]
    subprocess.run(train, check=True)
    for _ in range(10):
        told = page.locator("#undo").inner_text()
        page.click("#undo")
        page.wait_for_function("told => document.querySelector('#undo')?.innerText !== told", arg=told)
    assert page.locator("#undo").count() == 0


def test_the_same_by_keys_alone(address: str, opened: Opened) -> None:
    page = opened()
    page.goto(f"{address}/table?flag=yes&sort=score")
    for key in ("j", "j", "f"):
        page.keyboard.press(key)
    page.wait_for_selector("#row-2.wh-is-fix")
    page.wait_for_function("() => document.activeElement.id === 'row-3'")  # a decision by key goes on to the next row
    page.keyboard.press("x")
    page.wait_for_selector("#row-3.wh-is-drop")
    page.keyboard.press("u")
    page.wait_for_selector("#row-3:not(.wh-is-drop)")
    page.keyboard.press("u")
    page.wait_for_selector("#row-2:not(.wh-is-fix)")
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "q"
    page.keyboard.type("socket")
    page.keyboard.press("Enter")
    page.wait_for_selector("mark.wh-found")
    page.keyboard.press("Escape")
    page.keyboard.press("?")
    assert page.locator("#keys").is_visible()
    page.keyboard.press("Escape")
    page.keyboard.press("j")
    page.keyboard.press("Enter")
    page.wait_for_url("**/example?**")


def test_pages_are_turned_and_questions_asked_by_keys_alone(address: str, opened: Opened) -> None:
    page = opened()
    page.goto(f"{address}/table?size=25")
    page.keyboard.press("n")
    page.wait_for_url("**page=2**")
    page.wait_for_selector("#row-26")
    page.keyboard.press("p")
    page.wait_for_selector("#row-1")
    page.goto(f"{address}/ask")
    page.keyboard.press("/")
    page.keyboard.type("Ask by keys alone")
    page.keyboard.press("Enter")
    page.keyboard.type("and on a second line")
    assert page.locator("#text").input_value() == "Ask by keys alone\nand on a second line"
    page.keyboard.press("Control+Enter")
    page.wait_for_selector(".wh-job, .wh-cols")
    arrived(page, "**/ask?**")
    page.wait_for_selector(".wh-hits > li")
    page.keyboard.press("j")
    page.keyboard.press("Enter")
    page.wait_for_url("**/example?**")


def test_what_is_typed_while_a_search_is_under_way_stays(address: str, opened: Opened) -> None:
    page = opened()
    held: list[Route] = []
    page.route("**/table?*q=soc&*", lambda route: held.append(route))
    page.goto(f"{address}/table")
    page.keyboard.press("/")
    page.keyboard.type("soc")
    with page.expect_request("**/table?*q=soc&*"):
        pass
    page.keyboard.type("ket")
    held[0].continue_()
    page.wait_for_url("**q=socket**")
    assert page.locator("#q").input_value() == "socket"
    assert page.evaluate("document.activeElement.id") == "q"


def test_escape_leaves_a_search_as_it_is_and_a_late_page_leaves_the_keys_open(address: str, opened: Opened) -> None:
    page = opened()
    held: list[Route] = []
    page.route("**/table?*q=socket&*", lambda route: held.append(route))
    page.goto(f"{address}/table")
    page.keyboard.press("/")
    page.keyboard.type("socket")
    with page.expect_request("**/table?*q=socket&*"):
        page.keyboard.press("Escape")
    assert page.locator("#q").input_value() == "socket"
    page.keyboard.press("?")
    assert page.locator("#keys").is_visible()
    held[-1].continue_()
    page.wait_for_selector("mark.wh-found")
    assert page.locator("#keys").is_visible()
    page.keyboard.press("Escape")
    assert not page.locator("#keys").is_visible()
    page.keyboard.press("j")
    assert page.evaluate("document.activeElement.id") == "row-1"


def test_the_printed_address_lets_in_and_its_token_leaves_the_address_bar(address: str, chromium: Browser) -> None:
    context = chromium.new_context()
    page = context.new_page()
    page.goto(f"{address}/table")
    assert "403" in page.inner_text("body")
    page.goto(f"{address}/table?size=25&token={TOKENS[address]}")
    page.wait_for_url(f"{address}/table?size=25")
    assert page.locator("h1").inner_text() == "Training examples"
    assert TOKENS[address] not in page.content()
    page.go_back()
    assert TOKENS[address] not in page.url
    context.close()


def test_focus_is_always_seen(address: str, opened: Opened) -> None:
    page = opened()
    page.goto(f"{address}/table?flag=yes")
    for _ in range(40):
        page.keyboard.press("Tab")
        outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert outline != "none", page.evaluate("document.activeElement.outerHTML")


def test_without_javascript_everything_can_be_read_and_decided(address: str, opened: Opened, answer: str) -> None:
    page = opened(java_script_enabled=False)
    page.goto(answer)
    assert page.locator(".wh-hits > li").count() == 20
    page.goto(f"{address}/table")
    page.fill("#q", "socket")
    page.click(".wh-search button")
    assert page.locator("mark.wh-found").count() > 3
    page.click("a[rel=next]")
    page.click(".wh-facets a >> nth=0")
    assert "page=" not in page.url
    page.goto(f"{address}/table?flag=yes&sort=score")
    page.click("#drop-1")
    assert page.locator("#row-1.wh-is-drop").count() == 1
    page.click("#undo")
    assert page.locator("#row-1.wh-is-drop").count() == 0
    page.goto(f"{address}/ask")
    page.fill("#text", "Open a file without script")
    page.click("button.wh-main")
    arrived(page, "**/ask?**")
    assert page.locator(".wh-hits > li").count() > 4


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_nothing_serious(address: str, opened: Opened, answer: str, theme: str) -> None:
    if not AXE.is_file():
        pytest.fail("no axe-core: `make test-browser` gets it")
    page = opened(color_scheme=theme, bypass_csp=True)
    found = []
    for url in (*(address + one for one in SCREENS), answer, answer.replace("/ask?", "/compare?"),
                answer.replace("/ask?", "/groups?")):  # fmt: skip
        page.goto(url)
        page.add_script_tag(content=AXE.read_text(encoding="utf-8"))
        for one in page.evaluate("axe.run().then(result => result.violations)"):
            if one["impact"] in {"serious", "critical"}:
                found.append((url, one["id"], [node["html"][:150] for node in one["nodes"][:2]]))
    assert found == []


def test_a_screen_reader_hears_the_sign_and_the_number_of_a_mark(opened: Opened, answer: str) -> None:
    page = opened()
    page.goto(answer)
    heard = page.locator(".wh-hits").first.aria_snapshot()
    assert re.search(r"mark: \S+ (helped \+|hurt -)\d|link \"\S+ (helped \+|hurt -)\d", heard)


@pytest.mark.parametrize("width", [360, 768, 1280, 2560, 3840])
def test_nothing_runs_over_the_edge(address: str, opened: Opened, answer: str, width: int) -> None:
    page = opened(viewport={"width": width, "height": 900})
    for url in (*(address + one for one in SCREENS), answer, answer.replace("/ask?", "/compare?")):
        page.goto(url)
        assert page.evaluate("document.documentElement.scrollWidth") <= width, url


def test_two_hundred_random_states_come_back_in_a_new_browser(address: str, opened: Opened) -> None:
    generator = np.random.default_rng(0)
    one, other = opened(), opened()
    for _ in range(200):
        state = "&".join(
            str(generator.choice(choices))
            for choices in (["q=file", "q=set&how=word", "q=s.t&how=regex", "q="],
                            ["label=files", "label=network&label=markup", ""],
                            ["flag=yes", "flag=no", ""], ["sort=score", "sort=-loss&sort=label", "sort=-length", ""],
                            ["page=1", "page=2", "page=7"], ["size=25"], ["low=0.2", "high=0.5", ""])
        )  # fmt: skip
        url = f"{address}/table?{state}"
        texts = []
        for page in (one, other):
            page.goto(url, wait_until="domcontentloaded")
            texts.append(page.text_content("#view"))
        assert texts[0] == texts[1], url


def hostile_texts() -> list[str]:
    """At least 300 payloads: each known one in several coats."""
    coats = ["{}", '"{}', "'>{}", "a {} b", "{}{}", "</td>{}"]
    return [coat.format(*[payload] * coat.count("{}")) for payload in PAYLOADS for coat in coats]


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, int]]:
    """An index whose texts, labels, ids and folder name are hostile."""
    import proponent
    from proponent.data import read
    from proponent.training.trainer import train

    clean = [one.replace("\0", "").encode("utf-8", "ignore").decode() for one in hostile_texts()]
    clean = [one for one in clean if one.strip()]
    labels = ["<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "plain"]
    rows = [
        {"id": f"{number}{text}", "text": f"{text} the cup", "label": labels[number % 3]}
        for number, text in enumerate(clean)
    ]
    folder = tmp_path_factory.mktemp("x") / "<img src=x onerror=alert(1)>"
    folder.mkdir()
    data = folder / "train.jsonl"
    data.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    train(read(data), folder / "run", tiny.SETTINGS)
    proponent.build(folder / "run", data, folder / '"><b>.index', quiet=True)
    process, url = start(folder / '"><b>.index')
    yield url, len(rows)
    stop(process)


def test_no_text_of_the_data_becomes_structure_in_any_view(hostile: tuple[str, int], opened: Opened) -> None:
    url, count = hostile
    assert count >= 300
    page = opened()
    kinds = "[...document.querySelectorAll('#view *')].map(e => e.tagName).filter(t => ['SCRIPT','IMG','IFRAME','OBJECT','BASE','META','STYLE','B','XMP','TEMPLATE','MATH','PLAINTEXT'].includes(t))"  # noqa: E501
    handlers = "[...document.querySelectorAll('*')].some(e => [...e.attributes].some(a => a.name.startsWith('on') || a.name === 'style' || /^\\s*javascript:/i.test(a.value)))"  # noqa: E501
    seen = 0
    for number in range(1, -(-count // 100) + 1):
        page.goto(f"{url}/table?size=100&page={number}")
        seen += page.locator(".wh-row").count()
        assert page.evaluate(kinds) == []
        assert not page.evaluate(handlers)
    assert seen == count
    links = page.evaluate("[...document.querySelectorAll('.wh-open')].slice(0, 25).map(e => e.href)")
    for one in (*links, f"{url}/about", f"{url}/ask", f"{url}/table?q=%3Cscript%3Ealert(1)%3C/script%3E",
                f"{url}/example?id=%3Cimg%20src=x%20onerror=alert(1)%3E",
                f"{url}/%3Cscript%3Ealert(1)%3C/script%3E"):  # fmt: skip
        page.goto(one)
        assert page.evaluate(kinds) == []
        assert not page.evaluate(handlers)
    page.goto(f"{url}/ask")
    page.fill("#text", "<img src=x onerror=alert(1)> the cup")
    page.click("button.wh-main")
    arrived(page, "**/ask?**")
    for one in (
        page.url,
        page.url.replace("/ask?", "/compare?"),
        page.url.replace("/ask?", "/groups?"),
        f"{url}/asked",
    ):
        page.goto(one)
        assert page.evaluate(kinds) == []
        assert not page.evaluate(handlers)


def test_the_saved_page_opens_from_the_disk_without_a_network(opened: Opened, answer: str, tmp_path: Path) -> None:
    page = opened()
    page.goto(answer)
    with page.expect_download() as saved:
        page.click("text=page (HTML)")
    saved.value.save_as(tmp_path / "why.html")
    offline = opened(offline=True)
    offline.goto((tmp_path / "why.html").as_uri())
    assert offline.locator(".wh-hits > li").count() == 20
    assert offline.locator("script").count() == 0
