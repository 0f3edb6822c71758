"""Plots in the explorer: each bar and each cell leads to exactly its examples; maps are computed in the background."""

import json
import re
import shutil
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qsl, urlencode

import numpy as np
import pytest

import proponent
import tiny
from explorer import Browser, Reply
from proponent.actions.example_map import example_map
from proponent.store import Store
from proponent.views import scatter
from proponent.views.scatter import cells_of, frame_of
from proponent.views.score_counts import histogram
from proponent.web import maps
from proponent.web.pages.example_map import answer_on_map
from proponent.web.states import MapState, Question, QuestionState, TableState


@pytest.fixture(scope="module")
def browser(news: tiny.Tiny, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    folder = tmp_path_factory.mktemp("plots") / "news.index"
    shutil.copytree(news.index, folder)
    made = Browser(folder)
    yield made
    made.close()


def state(url: str) -> TableState:
    return TableState.read(parse_qsl(url.partition("?")[2].replace("&amp;", "&")))


def links(page: Reply, inside: str = "svg") -> list[tuple[str, int]]:
    """Addresses of the linked parts of a plot, and the number of examples that they name."""
    found = re.findall(r'<a href="([^"]+)" tabindex="-1" aria-label="([\d,]+) ', page.text)
    assert found, inside
    return [(url, int(count.replace(",", ""))) for url, count in found]


@pytest.mark.parametrize("start", ["/table", "/table?q=bank", "/table?label=World&low=0.3"])
def test_a_bar_leads_to_exactly_its_examples(browser: Browser, start: str) -> None:
    table = browser.open_indexes.first.table
    page = browser.get(start)
    selected = table.select(TableState(**{**state(start).__dict__, "low": None}), {}).places
    assert sum(count for _, count in links(page)) == len(selected)
    for url, count in links(page):
        assert len(table.select(state(url), {}).places) == count
    assert f"{len(selected)} examples</li>" in page.text


def test_scores_of_suspects_count_only_them_but_draw_all(browser: Browser, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = browser.open_indexes.first
    judged = shown.table.judged
    assert judged is not None
    flagged = np.arange(len(judged.given)) % 4 == 1
    monkeypatch.setitem(shown.table.coded, "flag", (flagged.astype(np.int32), ["no", "yes"]))
    object.__setattr__(judged, "flagged", flagged)
    page = browser.get("/table?flag=yes")
    assert sum(count for _, count in links(page)) == flagged.sum()
    assert f"{len(shown.table)} examples" in page.seen
    assert f"{flagged.sum()} of them flagged" in page.seen
    assert f"no example above {judged.quality[flagged].max():.3g} is flagged" in page.seen


def test_the_overview_counts_labels_and_predictions(browser: Browser) -> None:
    table = browser.open_indexes.first.table
    judged, names = table.judged, table.names
    assert judged is not None
    assert names is not None
    page = browser.get("/")
    (counts,) = re.findall(r'<table class="wh-counts">.*?</table>', page.text, re.DOTALL)
    rows = re.findall(r'<tr><th scope="row">.*?</tr>', counts)
    given, predicted = (Counter(names[at] for at in one[table.alive]) for one in (judged.given, judged.likeliest))
    assert len(rows) == len(names)
    for name, row in zip(sorted(names, key=lambda one: (-given[one], -predicted[one], one)), rows, strict=True):
        assert re.sub(r"<[^>]+>", " ", row).split() == [name, str(given[name]), str(predicted[name])]
        for url in re.findall(r'href="([^"]+)"', row):
            count = given[name] if "label=" in url else predicted[name]
            assert len(table.select(state(url), {}).places) == count


@pytest.mark.parametrize("space", ["hidden", "gradients", "probabilities"])
def test_a_cell_of_the_map_leads_to_exactly_its_examples(browser: Browser, space: str) -> None:
    table = browser.open_indexes.first.table
    page = browser.finished(f"/map?space={space}")
    assert page.status == 200
    made = example_map(Store(browser.open_indexes.first.folder), space)  # pyright: ignore[reportArgumentType]
    columns, rows = cells_of(made.places)
    assert sum(count for _, count in links(page)) == len(table)
    for url, count in links(page):
        _, column, row = state(url).area.split()
        inside = np.flatnonzero((columns == int(column)) & (rows == int(row)))
        assert table.select(state(url), {}).places.tolist() == inside.tolist()
        assert len(inside) == count
    seen = browser.get(url.replace("&amp;", "&")).seen
    assert f"cell of the map: {space}, column" in seen
    assert f"of {count} selected" in seen
    assert len(page.body) < 60_000


def test_a_point_of_the_map_leads_to_its_example(browser: Browser, monkeypatch: pytest.MonkeyPatch) -> None:
    found = re.compile(
        r'<a href="([^"]+)" tabindex="-1"><title>([^<]+)</title><path class="wh-dot" d="M([^ ]+) (.+)h0"/>'
    )
    table = browser.open_indexes.first.table
    page = browser.finished("/map?space=hidden")
    ids = [str(one) for one in table.whole.values("id", np.arange(len(table)))]
    points = found.findall(page.text)
    assert sorted(name for _, name, *_ in points) == sorted(ids)
    made = example_map(Store(browser.open_indexes.first.folder), "hidden")
    right, up = frame_of(made.places)
    for url, name, x, y in points:
        assert dict(parse_qsl(url.partition("?")[2].replace("&amp;", "&")))["id"] == name
        place = made.places[ids.index(name)]
        assert (float(x), float(y)) == (right.at(float(place[0])), up.at(float(place[1])))
    seen = browser.get(points[7][0].replace("&amp;", "&")).seen
    assert points[7][1] in seen
    assert "Follow a point to its example, or a cell to its examples" in page.seen
    monkeypatch.setattr(scatter, "MOST_POINTS", len(ids) - 1)
    many = browser.finished("/map?space=hidden")
    assert found.findall(many.text) == []
    assert f"of up to {len(ids) - 1} drawn examples each is a link" in many.seen
    assert links(many) == links(page)


def test_colours_of_the_map(browser: Browser) -> None:
    colours = {
        "label": "coloured by given label",
        "predicted": "coloured by predicted class",
        "flag": "coloured by likely wrong",
        "influence": "coloured by influence of all other examples",
        "plain": "Training examples by their hidden states",
    }
    for colour, words in colours.items():
        page = browser.finished(f"/map?colour={colour}")
        assert page.status == 200
        assert words in page.seen
    refused = browser.get("/map?colour=system")
    assert (refused.status, "no system prompt: choose another colour" in refused.seen) == (200, True)
    assert browser.get("/map?colour=red").status == 400
    unknown = browser.get("/map?id=nobody")
    assert (unknown.status, "no training example has the id" in unknown.seen) == (400, True)


def test_an_example_and_the_hits_of_an_answer_stand_out(browser: Browser) -> None:
    identity = str(browser.open_indexes.first.table.whole.values("id", np.asarray([3]))[0])
    (url,) = re.findall(r'href="(/map\?[^"]+)">On the map', browser.get(f"/example?id={identity}").text)
    page = browser.finished(url.replace("&amp;", "&"))
    assert page.text.count('class="wh-lit wh-lit-one"') == 1
    assert f'<a href="/example?in=news&amp;id={identity}"><title>example {identity}</title>' in page.text
    answer = browser.ask("The bank said shares fell", k=3)
    (url,) = re.findall(r'href="(/map\?[^"]+)">These examples on the map', answer.text)
    page = browser.finished(url.replace("&amp;", "&"))
    assert page.text.count("wh-lit-up") == page.text.count("wh-lit-down") == 3
    assert "what helped (▲) and hurt (▼)" in page.seen
    assert "Influence by checkpoint" in answer.seen
    asked = QuestionState(index=("news",), text="x", word="y", by="source")
    assert MapState.read(parse_qsl(answer_on_map(asked).partition("?")[2])).question == asked.question


def test_an_answer_counts_the_scores_of_all_examples(browser: Browser, news: tiny.Tiny) -> None:
    text = "The army and the cup"
    page = browser.ask(text, k=2)
    scores = proponent.open(news.index).scores([text])[0]
    kept = browser.open_indexes.first.questions.get(Question(text, k=2))
    assert kept is not None
    plot = histogram(scores, title="t", value_name="v")
    counts = kept.answer.score_counts
    assert counts is not None
    assert plot is not None
    assert counts.total == len(scores)
    assert counts.counts == tuple(one.count for one in plot.bins)
    assert (counts.low, counts.high) == pytest.approx((plot.bins[0].low, plot.bins[-1].high))
    (row,) = re.findall(f'<th scope="row">from {counts.low:.3g} to below [^<]*</th><td>([0-9]+)</td>', page.text)
    assert int(row) == counts.counts[0]
    for side, hits in (("helped", kept.answer.proponents), ("hurt", kept.answer.opponents)):
        assert f"the last example that {side} has {hits[-1].score:.3g}:" in page.seen
    path = browser.open_indexes.first.questions.folder / f"{kept.id}.json"
    stored = json.loads(path.read_text(encoding="utf-8"))
    del stored["answer"]["score_counts"]  # as stored by earlier versions
    path.write_text(json.dumps(stored), encoding="utf-8")
    other = Browser(browser.open_indexes.first.folder)
    former = other.get(f"/ask?{urlencode({'text': text, 'k': 2})}")
    other.close()
    assert "Influence by checkpoint" in former.seen
    assert "Scores of all training examples" not in former.seen


def test_a_map_is_computed_in_the_background_and_once(
    news: tiny.Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(shutil.copytree(news.index, tmp_path / "news.index"))
    go, calls = threading.Event(), list[str]()

    def slow(store: Store, space: str) -> object:
        calls.append(space)
        go.wait(60)
        return example_map(store, space)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(maps, "example_map", slow)
    monkeypatch.setattr(maps, "PATIENCE", 0.01)
    made = Browser(folder)
    try:
        for _ in range(3):
            waiting = made.get("/map")
            assert "The map is being computed" in waiting.seen
            assert 'hx-trigger="every 1s"' in waiting.text
            assert '<noscript><meta http-equiv="refresh"' in waiting.text
        busy = made.get("/table?area=hidden+3+4")
        assert (busy.status, "try again in a few seconds" in busy.seen) == (503, True)
    finally:
        go.set()
    assert "hidden states" in made.finished("/map").seen
    assert made.get("/table?area=hidden+3+4").status == 200
    assert calls == ["hidden"]
    made.close()


def test_a_map_that_failed_for_a_passing_reason_is_computed_again(
    news: tiny.Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = list[str]()

    def first_without_memory(store: Store, space: str) -> object:
        calls.append(space)
        if len(calls) == 1:
            raise MemoryError
        return example_map(store, space)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(maps, "example_map", first_without_memory)
    monkeypatch.setattr(maps, "PATIENCE", 60.0)
    made = maps.Maps(Store(news.index))
    with pytest.raises(MemoryError):
        made.get("hidden")
    assert made.get("hidden") is not None
    assert made.get("hidden") is not None
    assert len(calls) == 2


def test_the_end_of_a_process_does_not_wait_for_a_map() -> None:
    code = "import threading; from proponent.web.slots import later; later(threading.Event().wait); later(print, 1)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300)


@pytest.mark.parametrize(
    "area", ["hidden", "hidden 1", "hidden 1 2 3", "red 1 2", "hidden -1 2", "hidden ٣ 2", "hidden 1 2\n"]
)
def test_a_wrong_cell_is_refused(browser: Browser, area: str) -> None:
    page = browser.get("/table?" + "&".join([f"area={area.replace(' ', '+')}".replace("\n", "%0A")]))
    assert page.status == 400
    outside = browser.get("/table?area=hidden+40+2")
    assert "is none of them" in outside.seen


def test_an_index_without_vectors_says_so(browser: Browser, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(maps, "spaces", lambda _: ())
    page = browser.get("/map")
    assert page.status == 200
    assert "build it with the baselines, which store the hidden states" in page.seen


def test_a_language_model_has_a_map(lines: tiny.Tiny) -> None:
    made = Browser(lines.index)
    page = made.finished("/map")
    assert "all 20 examples are drawn" in page.seen
    assert "colour the map by something else" in made.finished("/map?colour=influence").seen
    made.close()
