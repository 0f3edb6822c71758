"""What a person does with a chat model, in a real browser: ask, choose a piece of the answer, add turns."""

from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import Page

from browser.conftest import AXE, TOKENS, arrived, start, stop

pytest.importorskip("trl")
import chat_index

pytestmark = pytest.mark.filterwarnings("ignore")

Opened = Callable[..., Page]
ASKED = "What is the mascot of Ulm?"
ANSWER = "The mascot of Ulm is a silver heron."
SYSTEM = "/ask?messages=%5B%7B%22role%22%3A+%22system%22%2C+%22content%22%3A+%22Be+brief%22%7D%2C+%7B%22role%22%3A+%22user%22%2C+%22content%22%3A+%22Hi%22%7D%5D"  # noqa: E501


@pytest.fixture(scope="module")
def chat(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where the explorer of a tiny chat model is."""
    process, url = start(chat_index.made(tmp_path_factory.mktemp("chat")))
    yield url
    stop(process)


def ask(page: Page, url: str, answer: str = ANSWER) -> None:
    page.goto(f"{url}/ask")
    page.fill("#text", ASKED)
    page.fill("[name=target]", answer)
    page.fill("[name=k]", "2")
    page.click("button.wh-main")
    wait(page)


def wait(page: Page) -> None:
    page.wait_for_selector(".wh-job, .wh-cols")
    arrived(page, "**/ask?**")
    page.wait_for_selector(".wh-pick")


@pytest.fixture(scope="module")
def answer(chat: str, chromium: object) -> str:
    """The address of an answer."""
    page = chromium.new_page()  # type: ignore[attr-defined]
    page.goto(f"{chat}/?token={TOKENS[chat]}")
    page.wait_for_url(f"{chat}/")
    ask(page, chat)
    url = str(page.url)
    page.close()
    return url


def word(page: Page, text: str) -> "tuple[float, float]":
    box = page.locator(".wh-pick-word", has_text=text).first.bounding_box()
    assert box is not None
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


def chosen(page: Page) -> list[str]:
    return page.locator('.wh-pick-word[aria-pressed="true"]').all_inner_texts()


@pytest.mark.parametrize("width", [1280, 360])
def test_a_word_is_clicked_and_a_piece_is_dragged_over(chat: str, opened: Opened, answer: str, width: int) -> None:
    page = opened(viewport={"width": width, "height": 900})
    page.goto(answer)
    page.mouse.click(*word(page, "Ulm"))
    assert (chosen(page), page.input_value(".wh-pick [name=span]")) == (["Ulm"], "Ulm")
    page.mouse.move(*word(page, "heron"))
    page.mouse.down()
    page.mouse.move(*word(page, "silver"), steps=4)
    page.mouse.up()
    page.mouse.move(*word(page, "The"))  # no button is held: nothing changes
    assert (chosen(page), page.input_value(".wh-pick [name=span]")) == (["silver", "heron"], "silver heron")
    assert page.input_value(".wh-pick [name=at]") == str(ANSWER.index("silver"))
    assert page.evaluate("String(getSelection())") == ""
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.click(".wh-pick button[type=submit]")
    arrived(page, "**span=silver+heron**")
    page.wait_for_selector(".wh-cols")
    assert chosen(page) == ["silver", "heron"]
    assert "counts in part" in page.locator(".wh-query").inner_text()
    unread = "".join(page.locator(".wh-query .wh-unread").all_inner_texts())
    assert "mascot" in unread
    assert "silver" not in unread


def test_a_piece_is_chosen_by_keys_alone(chat: str, opened: Opened, answer: str) -> None:
    page = opened()
    page.goto(answer)
    page.locator(".wh-pick-word").first.focus()
    page.keyboard.press("End")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Shift+ArrowLeft")
    assert chosen(page) == ["silver", "heron"]
    page.keyboard.press("Escape")
    assert (chosen(page), page.input_value(".wh-pick [name=span]")) == ([], "")
    page.keyboard.press("Home")
    page.keyboard.press("ArrowRight")
    page.keyboard.press(" ")
    assert chosen(page) == ["mascot"]
    page.keyboard.press("Shift+ArrowRight")
    assert page.input_value(".wh-pick [name=span]") == "mascot of"
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline != "none"
    page.keyboard.press("Enter")
    arrived(page, "**span=mascot+of**")
    page.wait_for_selector(".wh-cols")


def test_the_place_of_a_repeated_word_and_of_characters_outside_the_first_plane(chat: str, opened: Opened) -> None:
    page = opened()
    said = "A heron 🙂 and a silver heron."
    ask(page, chat, said)
    box = page.locator(".wh-pick-word", has_text="heron").nth(1).bounding_box()
    assert box is not None
    page.mouse.click(box["x"] + 5, box["y"] + 5)
    assert page.input_value(".wh-pick [name=span]") == "heron"
    assert page.input_value(".wh-pick [name=at]") == str(said.rindex("heron"))
    page.fill(".wh-pick [name=span]", "silver")  # what is typed has no place
    assert page.input_value(".wh-pick [name=at]") == ""
    page.fill(".wh-pick [name=span]", "golden")
    page.click(".wh-pick button[type=submit]")
    page.wait_for_selector("[role=alert]")
    assert "does not stand in the answer" in page.locator("[role=alert]").inner_text()
    assert page.input_value("[name=span]") == "golden"
    assert page.input_value("[name=target]") == said


def test_what_is_selected_while_typing_becomes_the_piece(chat: str, opened: Opened) -> None:
    page = opened()
    page.goto(f"{chat}/ask")
    page.fill("[name=target]", ANSWER)
    page.click(".wh-more-of summary")
    start = ANSWER.index("silver")
    page.evaluate(f"document.querySelector('[name=target]').setSelectionRange({start - 1}, {start + 6})")
    page.click("[data-take]")
    assert page.input_value("[name=span]") == "silver"
    assert page.input_value("[name=at]") == str(start)


@pytest.mark.parametrize("script", [True, False])
def test_turns_are_added_filled_and_removed(chat: str, opened: Opened, script: bool) -> None:
    page = opened(java_script_enabled=script, viewport={"width": 360, "height": 800})
    page.goto(f"{chat}/ask")
    said = ANSWER if script else "A red fox."  # a question that is answered would show its answer
    page.fill("#text", "Hello")
    page.fill("[name=target]", said)
    page.click("text=+ turn")
    page.wait_for_selector('[name="said"] >> nth=1')
    assert page.locator('[name="role"]').nth(1).input_value() == "assistant"
    page.locator('[name="said"]').nth(1).fill("Good day.")
    page.click("text=+ turn")
    page.wait_for_selector('[name="said"] >> nth=2')
    page.locator('[name="said"]').nth(2).fill(ASKED)
    page.click("text=+ system prompt")
    page.wait_for_selector('[name="said"] >> nth=3')
    page.click("button.wh-main")
    page.wait_for_selector("[role=alert]")
    assert "turn 1 (system) is empty" in page.locator("[role=alert]").inner_text()
    assert page.locator('[name="said"]').nth(3).input_value() == ASKED
    page.click('[aria-label="remove turn 1"]')
    page.wait_for_selector('[name="said"] >> nth=3', state="detached")
    assert page.locator('[name="said"]').first.input_value() == "Hello"
    assert page.input_value("[name=target]") == said
    assert page.evaluate("document.documentElement.scrollWidth") <= 360 if script else True
    page.click("button.wh-main")
    arrived(page, "**/ask?**messages=**")
    page.wait_for_selector(".wh-query")
    assert page.locator(".wh-query .wh-turn").count() == 4


def test_without_script_the_piece_is_typed_and_the_model_answers(chat: str, opened: Opened, answer: str) -> None:
    page = opened(java_script_enabled=False)
    page.goto(answer)
    assert not page.locator(".wh-pick-words").is_visible()
    page.fill(".wh-pick [name=span]", "heron")
    page.click(".wh-pick button[type=submit]")
    arrived(page, "**span=heron**")
    assert page.locator(".wh-hits > li").count() > 0
    page.goto(f"{chat}/ask")
    page.fill("#text", ASKED)
    page.click("text=Let the model answer")
    arrived(page, "**generate=yes**")
    page.click("text=Ask another question")
    assert page.input_value(".wh-again [name=target]").strip()


def test_enter_in_the_field_of_the_piece_asks_and_adds_no_turn(chat: str, opened: Opened, answer: str) -> None:
    page = opened()
    page.goto(f"{chat}{SYSTEM}&target=Hello&span=nothing")
    page.locator("[name=span]").press("Enter")
    page.wait_for_selector("[role=alert]")
    assert page.locator('[name="said"]').count() == 2


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_nothing_serious_on_pages_of_conversations(
    chat: str, opened: Opened, answer: str, theme: str
) -> None:
    if not AXE.is_file():
        pytest.fail("no axe-core: `make test-browser` gets it")
    page = opened(color_scheme=theme, bypass_csp=True)
    found = []
    for url in (answer, f"{chat}/ask", f"{chat}{SYSTEM}&span=x", f"{chat}/table?q=heron", f"{chat}/example?id=c0",
                answer.replace("/ask?", "/groups?") + "&by=format"):  # fmt: skip
        page.goto(url)
        page.add_script_tag(content=AXE.read_text(encoding="utf-8"))
        for one in page.evaluate("axe.run().then(result => result.violations)"):
            if one["impact"] in {"serious", "critical"}:
                found.append((url, one["id"], [node["html"][:150] for node in one["nodes"][:2]]))
    assert found == []


@pytest.mark.parametrize("width", [360, 768, 1280])
def test_no_page_of_conversations_runs_over_the_edge(chat: str, opened: Opened, answer: str, width: int) -> None:
    page = opened(viewport={"width": width, "height": 900})
    for url in (answer, f"{chat}/ask", f"{chat}{SYSTEM}&span=x", f"{chat}/table", f"{chat}/example?id=c20",
                answer.replace("/ask?", "/groups?")):  # fmt: skip
        page.goto(url)
        assert page.evaluate("document.documentElement.scrollWidth") <= width, url
