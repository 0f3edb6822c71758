"""Test sets in the explorer: what is predicted, judged and shown, and what bad files and forms get."""

import csv
import io
import json
import re
import shutil
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from email.parser import BytesParser
from email.policy import HTTP
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

import proponent
import runs
import tiny
from explorer import BOUNDARY, HOST, OWN, Browser, Reply, form_with_file
from markup import Structure
from proponent.data import Columns, read
from proponent.errors import InputError
from proponent.labels import Labels
from proponent.predictions import NO_CLASS, NO_LABEL, Predictions, Truth
from proponent.web import seals, test_sets, uploads
from proponent.web.jobs import IndexSource, RowsTask
from proponent.web.model_worker import ModelWorker
from proponent.web.multipart import FormError, FormReader, boundary_of
from proponent.web.open_indexes import OpenIndex
from proponent.web.states import Question
from proponent.web.test_sets import OpenTestSet, OpenTestSets, PredictTask

LABELS = ("World", "Sports", "Business")
ROWS = [{"id": f"t{at}", "text": one["text"], "label": LABELS[at % 7 % 3]}
        for at, one in enumerate(runs.rows(66, seed=5))]  # fmt: skip


def as_csv(rows: Sequence[dict[str, str]]) -> bytes:
    file = io.StringIO()
    writer = csv.DictWriter(file, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue().encode()


@pytest.fixture(scope="module")
def index(news: tiny.Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(shutil.copytree(news.index, tmp_path_factory.mktemp("predicted") / "news.index"))


@pytest.fixture(scope="module")
def browser(index: Path) -> Iterator[Browser]:
    made = Browser(index)
    yield made
    made.close()


@pytest.fixture(scope="module")
def url(browser: Browser) -> str:
    """The page of a test set that the process with the model has predicted."""
    reply = browser.upload(as_csv(ROWS))
    assert reply.status == 303
    assert "1–50 of 66" in browser.finished(reply.location).seen
    return reply.location


@pytest.fixture(scope="module")
def predicted(news: tiny.Tiny) -> list[str]:
    """What the library predicts."""
    return proponent.open(news.index).predict([one["text"] for one in ROWS])


def shown_rows(page: Reply) -> list[int]:
    """Rows of the test set on a page, in order."""
    return [int(one) for one in re.findall(r'wh-c-row wh-num">(\d+)<', page.text)]


def every_row(browser: Browser, url: str) -> list[int]:
    """Rows of all pages."""
    address = url.partition("#")[0]
    return shown_rows(browser.get(f"{address}{'&' if '?' in address else '?'}size=100"))


# What is predicted and judged.


def test_predictions_are_those_of_the_library(browser: Browser, url: str, predicted: list[str]) -> None:
    page = browser.get(url)
    right = sum(one == row["label"] for one, row in zip(predicted, ROWS, strict=True))
    assert 0 < right < 66
    assert f"accuracy {right / 66:.1%} right {right} wrong {66 - right}" in page.seen
    counts = Counter((row["label"], one) for row, one in zip(ROWS, predicted, strict=True))
    cells = re.findall(r'<td class="wh-num[^"]*"><a href="(/test[^"]*)"[^>]*><span class="wh-vh">given (.*?), predicted'
                       r" (.*?): </span>([\d,]+)</a>", page.text)  # fmt: skip
    found = {(bare(label), bare(said)): int(count) for _, label, said, count in cells}
    assert found == {pair: count for pair, count in counts.items() if count}
    for address, label, said, _ in cells:
        wanted = [at for at, (row, one) in enumerate(zip(ROWS, predicted, strict=True))
                  if (row["label"], one) == (bare(label), bare(said))]  # fmt: skip
        assert every_row(browser, unescape(address)) == wanted


def bare(html: str) -> str:
    return "".join(Structure(html).text)


def test_filters_and_orders_are_the_slow_ones(
    browser: Browser, url: str, news: tiny.Tiny, predicted: list[str]
) -> None:
    truth = [row["label"] for row in ROWS]
    wrong = [at for at in range(66) if predicted[at] != truth[at]]
    assert every_row(browser, f"{url}&only=wrong") == wrong
    assert every_row(browser, f"{url}&only=right") == [at for at in range(66) if at not in wrong]
    chances = proponent.open(news.index).probabilities([one["text"] for one in ROWS]).max(axis=1)
    for sort, sign in (("sure", -1), ("unsure", 1)):
        found = every_row(browser, f"{url}&sort={sort}")
        assert sorted(found) == list(range(66))
        assert np.all(np.diff(sign * chances[found]) >= -2e-6)
    both = every_row(browser, f"{url}&only=wrong&given=World&predicted=Sports&predicted=Business")
    assert both == [at for at in wrong if truth[at] == "World" and predicted[at] in {"Sports", "Business"}]
    pages = [shown_rows(browser.get(f"{url}&size=25&page={number}")) for number in (1, 2, 3, 99)]
    assert pages == [list(range(25)), list(range(25, 50)), list(range(50, 66)), list(range(50, 66))]


@pytest.mark.parametrize(
    "chosen",
    ["", "&only=wrong&sort=sure", "&given=World&predicted=Sports&predicted=Business&size=25&page=2", "&only=trained"],
)
def test_files_have_the_rows_of_the_page(browser: Browser, url: str, predicted: list[str], chosen: str) -> None:
    page = browser.get(f"{url.partition('#')[0]}{chosen}")
    links = [unescape(one) for one in re.findall(r'href="(/export/predictions\.[^"]*)"', page.text)]
    wanted = every_row(browser, f"{url.partition('#')[0]}{chosen.replace('&size=25&page=2', '')}")
    if not wanted:
        assert links == []
        return
    files = {link.split("?")[0].rpartition(".")[2]: browser.get(link).body for link in links}
    assert [*files] == ["csv", "jsonl", "parquet"]
    assert f"Save all {len(wanted)} selected" in page.seen
    lines = [json.loads(line) for line in files["jsonl"].decode().splitlines()]
    assert [one["row"] for one in lines] == wanted
    found = browser.explorer.test_sets.judged(
        browser.open_indexes.first, browser.explorer.test_sets.get("", browser.open_indexes.first)
    ).predictions
    assert lines == [
        {
            "id": ROWS[at]["id"],
            "row": at,
            "text": ROWS[at]["text"],
            "given_label": ROWS[at]["label"],
            "predicted_label": predicted[at],
            "probability": float(found.chances[at]),
            "is_wrong": predicted[at] != ROWS[at]["label"],
            "in_training_data": False,
        }
        for at in wanted
    ]
    assert pyarrow.parquet.read_table(io.BytesIO(files["parquet"])).to_pylist() == lines
    read_back = list(csv.DictReader(io.StringIO(files["csv"].decode())))
    assert [(one["id"], float(one["probability"])) for one in read_back] == [
        (one["id"], one["probability"]) for one in lines
    ]


def test_a_file_of_odd_rows_is_exact_and_its_csv_runs_no_formula(index: Path) -> None:
    made = Browser(index)
    rows = [
        {"id": "a", "text": "=SUM(A1) the bank", "label": "2"},
        {"id": "b", "text": "the cup", "label": "=1+1"},
        {"id": "c", "text": "the \U0001f600 vote", "label": ""},
    ]
    url = made.upload(as_csv(rows)).location
    page = made.finished(url)
    links = [unescape(one) for one in re.findall(r'href="(/export/predictions\.[^"]*)"', page.text)]
    plain = {link.split("?")[0].rpartition(".")[2]: made.get(link).body for link in links}
    lines = [json.loads(line) for line in plain["jsonl"].decode().splitlines()]
    assert [one["text"] for one in lines] == [one["text"] for one in rows]
    assert [one["given_label"] for one in lines] == [(made.open_indexes.first.plan.label_names or ())[2], "=1+1", None]
    assert [one["is_wrong"] is None for one in lines] == [False, True, True]
    cells = list(csv.DictReader(io.StringIO(plain["csv"].decode())))
    assert (cells[0]["text"], cells[1]["given_label"]) == ("'=SUM(A1) the bank", "'=1+1")
    made.close()


def test_files_of_nothing_are_refused(index: Path) -> None:
    made = Browser(index)
    for what in ("predictions", "errors"):
        assert made.get(f"/export/{what}.csv").status == 400
        assert made.get(f"/export/{what}.exe").status == 404
        assert made.get(f"/export/{what}.csv?set=gone").status == 400
    made.upload(as_csv(ROWS[:3]))
    made.explorer.asker.close()
    assert (
        "explained yet" in made.get("/export/errors.csv").seen
        or "not predicted yet" in made.get("/export/errors.csv").seen
    )
    assert made.get("/export/predictions.pair").status == 400
    made.close()


def test_one_click_leads_from_a_wrong_prediction_to_its_explanation(
    browser: Browser, url: str, news: tiny.Tiny, predicted: list[str]
) -> None:
    at = next(at for at in range(66) if predicted[at] != ROWS[at]["label"])
    page = browser.get(f"{url}&only=wrong")
    asked = f"Why {predicted[at]} and not {ROWS[at]['label']}?"
    form = next(one for one in re.findall(r'<form class="wh-why".*?</form>', page.text, re.S) if f'value="{at}"' in one)
    assert asked in bare(form)
    fields = dict(re.findall(r'name="(\w+)" value="([^"]*)"', form))
    reply = browser.post("/why", fields)
    answer = browser.finished(reply.location) if reply.location.startswith("/job") else browser.get(reply.location)
    answer = browser.get(answer.location) if answer.status == 303 else answer
    assert asked in answer.seen
    for name, value in (("label", predicted[at]), ("against", ROWS[at]["label"])):
        form = re.search(rf'<select name="{name}">.*?</select>', answer.text, re.S)
        assert form is not None
        assert f'value="{value}" selected' in form[0]
    kept = browser.open_indexes.first.questions.get(
        Question(text=ROWS[at]["text"], label=predicted[at], against=ROWS[at]["label"])
    )
    expected = proponent.open(news.index).explain(
        {"text": ROWS[at]["text"], "label": predicted[at]}, against=ROWS[at]["label"]
    )
    assert kept is not None
    assert kept.answer.to_dict() == expected.to_dict()
    assert browser.post("/why", fields).location.startswith("/ask?"), "it is stored"


def test_a_restart_computes_nothing_again(browser: Browser, url: str, index: Path, monkeypatch: Any) -> None:
    again = Browser(index)
    monkeypatch.setattr(again.explorer.asker, "work", lambda *_: pytest.fail("it is computed again"))
    assert "no longer open" in again.get(url).seen
    reply = again.upload(as_csv(ROWS), "other name.csv")
    assert reply.location == url
    assert f"{browser.get(url).seen.partition('accuracy')[2][:200]}" in again.get(url).seen
    with monkeypatch.context() as patch:
        patch.setattr(seals, "own_key", lambda: b"another user")
        other = Browser(index)
        other.explorer.asker.work = lambda *_: None  # type: ignore
        other.upload(as_csv(ROWS))
        assert "came with the folder" in other.get(url).seen
    assert "came with the folder" not in again.get(url).seen


def test_the_first_page_sums_up(browser: Browser, url: str, news: tiny.Tiny, predicted: list[str]) -> None:
    page = browser.get("/")
    right = sum(one == row["label"] for one, row in zip(predicted, ROWS, strict=True))
    assert f"{100 * right / 66:.1f} % accuracy on 66 rows" in page.seen
    for label, count in Counter(row["label"] for row in news.rows).items():
        assert f"{label} {count}" in page.seen
    flagged = int(browser.open_indexes.first.table.judged.flagged.sum())  # type: ignore
    assert f"{flagged} suspected label error" in page.seen
    assert page.text.count('class="wh-why"') == 4
    other = Browser(news.index)
    first = other.get("/")
    assert "Try one of these texts" in first.seen
    link = re.search(r'<li><a href="(/ask\?[^"]*)">', first.text)
    assert link is not None
    assert "has no answer to this question yet" in other.get(unescape(link[1])).seen


def test_where_the_disk_cannot_be_written_to_predictions_stay_in_memory(index: Path, monkeypatch: Any) -> None:
    made = Browser(index)
    monkeypatch.setattr("proponent.disk.write_bytes", lambda *_: (_ for _ in ()).throw(InputError("read-only")))
    reply = made.upload(as_csv(ROWS[:5]))
    page = made.finished(reply.location)
    assert "are not kept: read-only" in page.seen
    assert "1–5 of 5" in page.seen
    made.close()


# Labels.


@pytest.mark.parametrize("seed", range(20))
def test_the_judgement_is_the_slow_one(seed: int) -> None:
    drawn = np.random.default_rng(seed)
    names = ("a", "b", "3")
    labels: list[Any] = drawn.choice(np.asarray(["a", "b", "3", "c", 0, 7, None], dtype=object), 40).tolist()
    truth = Truth.of(labels, Labels(names))
    slow = [NO_LABEL if one is None else names.index(str(one)) if str(one) in names else 0 if one == 0 else NO_CLASS
            for one in labels]  # fmt: skip
    assert truth.classes.tolist() == slow
    assert truth.unknown == Counter(str(one) for one, at in zip(labels, slow, strict=True) if at == NO_CLASS)
    made = Predictions(names, drawn.integers(0, 3, 40), drawn.random(40), truth.classes)
    judged = [(at, int(one)) for at, one in zip(slow, made.predicted, strict=True) if at >= 0]
    assert made.accuracy == pytest.approx(sum(a == b for a, b in judged) / len(judged))
    assert made.confusion.tolist() == [[judged.count((a, b)) for b in range(3)] for a in range(3)]
    assert made.wrong.tolist() == [at >= 0 and at != int(one) for at, one in zip(slow, made.predicted, strict=True)]


def test_rows_without_labels_are_predicted_only(browser: Browser) -> None:
    page = browser.finished(browser.upload(as_csv([{"text": one["text"]} for one in ROWS[:9]])).location)
    assert "rows 9 without a label 9" in page.seen
    assert "accuracy" not in page.seen
    assert "Given and predicted" not in page.seen
    assert "Why " in page.seen


def test_unknown_labels_are_named_and_counted(browser: Browser) -> None:
    rows = [{**one, "label": "Weather" if at < 3 else "Opinion" if at == 3 else one["label"]}
            for at, one in enumerate(ROWS[:20])]  # fmt: skip
    page = browser.finished(browser.upload(as_csv(rows)).location)
    assert "4 rows have a label that is no class of the model: Weather (3), Opinion (1)" in page.seen
    assert "with an unknown label 4" in page.seen
    assert "16" in page.seen
    link = re.search(r'href="(/test[^"]*only=unjudged[^"]*)"', page.text)
    assert link is not None
    assert every_row(browser, unescape(link[1])) == [0, 1, 2, 3]


def test_training_rows_are_counted_and_said(browser: Browser, news: tiny.Tiny) -> None:
    rows = [*ROWS[:10], *({"id": f"x{at}", "text": news.text(at), "label": "World"} for at in range(3))]
    page = browser.finished(browser.upload(as_csv(rows)).location)
    assert "3 of the 13 rows stand in the training data, too" in page.seen
    link = re.search(r'href="(/test[^"]*only=trained[^"]*)"', page.text)
    assert link is not None
    assert every_row(browser, unescape(link[1])) == [10, 11, 12]


def test_pairs_are_training_rows_only_as_pairs(pairs: tiny.Tiny) -> None:
    whole = Browser(pairs.index).open_indexes.first.table.whole
    one, other = pairs.rows[0], next(row for row in pairs.rows if row["text_pair"] != pairs.rows[0]["text_pair"])
    texts, seconds = [one["text"], one["text"], "x"], [one["text_pair"], "something else", other["text_pair"]]
    assert whole.held(texts, seconds).tolist() == [True, False, False]


# Bad files.


BAD = {
    "no data set": (b"%PDF-1.4 \x00\x01", "paper.pdf", "unknown file type"),
    "no ending": (b"text,label\na,World\n", "noending", "unknown file type"),
    "a workbook": (b"PK\x03\x04", "sheet.xlsx", "export the sheet as CSV"),
    "unreadable": (b'text,label\n"never closed,World\n', "open.csv", "open.csv"),
    "not UTF-8": (b"text,label\n\xff\xfe\xfa,World\n", "latin.csv", "latin.csv"),
    "broken Parquet": (b"PAR1 not at all", "broken.parquet", "broken.parquet"),
    "only a header": (b"text,label\n", "head.csv", "no rows"),
    "no text": (b"body,label\na,World\n", "body.csv", "no column 'text'"),
    "an empty text": (b"text,label\n ,World\n", "blank.csv", "empty text"),
    "an empty file": (b"", "empty.csv", "the file is empty"),
    "no file": (b"", "", "choose a file first"),
    "conversations": (b'{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}\n',
                      "chat.jsonl", "no column 'text'; it has 'messages'"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_a_bad_file_gets_a_page_that_says_what_is_wrong(browser: Browser, case: str) -> None:
    content, name, told = BAD[case]
    reply = browser.upload(content, name)
    assert reply.status == 400
    assert told in reply.seen
    assert "/proponent-" not in reply.text, "the temporary folder is nobody's business"
    assert "Column of the texts" in reply.seen


def test_columns_can_be_named(browser: Browser) -> None:
    rows = [{"body": one["text"], "topic": one["label"]} for one in ROWS]
    named = {"text": "body", "label": "topic"}
    reply = browser.upload(as_csv(rows), fields=named)
    assert reply.status == 303
    page = browser.finished(reply.location)
    assert "1–50 of 66" in page.seen
    assert "accuracy" in page.seen
    assert "no column 'nothing'" in browser.upload(as_csv(rows), fields={**named, "label": "nothing"}).seen
    assert "accuracy" not in browser.finished(browser.upload(as_csv(rows), fields={**named, "label": ""}).location).seen


def test_too_many_rows_and_too_many_bytes_are_told(browser: Browser, monkeypatch: Any) -> None:
    monkeypatch.setattr(test_sets, "MOST_ROWS", 20)
    assert "has at most 20 rows, and this one has 66" in browser.upload(as_csv(ROWS)).seen
    monkeypatch.setattr(uploads, "UPLOAD_BYTES", 1_000)
    reply = browser.upload(as_csv(ROWS))
    assert (reply.status, "at most 1,000 are taken here" in reply.seen) == (400, True)
    assert "--test FILE" in reply.seen


def test_hostile_names_stay_text(browser: Browser) -> None:
    hostile = "<img src=x onerror=alert(1)>"
    rows = [{"id": f"{hostile}{at}", "text": f"{hostile} {one['text']}", "label": hostile if at % 2 else "World"}
            for at, one in enumerate(ROWS[:8])]  # fmt: skip
    reply = browser.upload(as_csv(rows), f"../../{hostile}.csv")
    page = browser.finished(reply.location)
    for shown in (page, browser.get("/"), browser.upload(b"", f"{hostile}.csv")):
        assert not any(tag[0] == "img" for tag in Structure(shown.text).tags)
    assert hostile in page.seen
    assert "../" not in page.seen


def test_a_model_that_takes_no_test_set_says_so(lines: tiny.Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Browser(lines.index)
    monkeypatch.setattr(OpenIndex, "language", False)
    for reply in (made.get("/test"), made.upload(as_csv(ROWS))):
        assert "Test sets are for classifiers" in reply.seen
    assert 'action="/upload"' not in made.get("/").text
    assert made.get("/").status == 200
    assert "there is no test set" in made.post("/predict", {"set": ""}).seen


def test_without_the_model_the_page_says_what_is_missing(news: tiny.Tiny, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(news.index, tmp_path / "news.index"))
    made = Browser(folder, run=str(tmp_path / "nowhere"))
    page = made.finished(made.upload(as_csv(ROWS)).location)
    assert "no run at" in page.seen
    assert "accuracy" not in page.seen
    made.close()


# Forms.


def test_other_forms_change_nothing(browser: Browser) -> None:
    before = set(browser.explorer.test_sets.shown)
    content = as_csv(ROWS[:3])
    foreign = {"origin": "http://evil.example", "sec-fetch-site": "cross-site"}
    assert browser.upload(content, headers=foreign).status == 403
    assert browser.upload(content, headers={"cookie": "x=y"}).status == 403
    for token in ("", "x", "Ω"):
        assert browser.upload(content, fields={"token": token}).status == 403
    for path in ("/upload", "/predict", "/why"):
        assert browser.get(f"{path}?token={browser.token}").status == 405
    for path in ("/predict", "/why"):
        assert browser.post(path, {"token": "x"}).status == 403
    assert set(browser.explorer.test_sets.shown) == before


@pytest.mark.parametrize(
    ("headers", "status"),
    [({"content-type": "application/x-www-form-urlencoded"}, 415), ({"content-type": "multipart/form-data"}, 415),
     ({"content-type": "multipart/mixed; boundary=x"}, 415), ({"content-length": str(2**40)}, 413),
     ({"content-length": "x"}, 413), ({"content-type": "multipart/form-data; boundary=other"}, 400)],
)  # fmt: skip
def test_bad_heads_are_refused(browser: Browser, headers: dict[str, str], status: int) -> None:
    assert browser.upload(as_csv(ROWS[:3]), headers=headers).status == status


def test_two_files_an_open_end_and_no_file_are_refused(browser: Browser) -> None:
    fields = {"token": browser.token}
    whole = form_with_file(fields, "a.csv", b"text\na\n")
    second = form_with_file({}, "b.csv", b"text\nb\n")
    kind = {"host": HOST, **OWN, "content-type": f"multipart/form-data; boundary={BOUNDARY}"}
    ending = f"--{BOUNDARY}--\r\n".encode()
    for body in (whole.removesuffix(b"--\r\n") + b"\r\n" + second, whole[:-30], whole.partition(b"\r\n\r\n")[0], b"",
                 ending, whole + b"more"):  # fmt: skip
        assert browser.send("POST", "/upload", kind, [body]).status in {400, 403}
    assert browser.send("POST", "/upload", kind, []).status == 400


def test_a_file_that_trickles_in_is_given_up_and_leaves_nothing(index: Path, monkeypatch: Any, tmp_path: Path) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    slow = Browser(index)
    slow.guard.upload_seconds = 0.2
    body = form_with_file({"token": slow.token}, "a.csv", b"text\n" + b"a\n" * 50)
    kind = {"host": HOST, **OWN, "content-type": f"multipart/form-data; boundary={BOUNDARY}"}
    assert (
        slow.send("POST", "/upload", kind, [body[at : at + 9] for at in range(0, len(body), 9)], wait=0.05).status
        == 408
    )
    assert list(tmp_path.iterdir()) == []
    slow.explorer.asker.work = lambda *_: None  # type: ignore
    assert slow.upload(as_csv(ROWS[:3])).status == 303, "the next one is taken"
    assert list(tmp_path.iterdir()) == []


def test_one_file_at_a_time(index: Path) -> None:
    made = Browser(index)
    made.guard._uploading = True
    assert made.upload(as_csv(ROWS)).status == 503


def test_rows_that_are_not_there_are_told(browser: Browser, url: str) -> None:
    identity = re.search(r"set=(\w+)", url)
    assert identity is not None
    for row in ("66", "x", "", "-1", "9" * 30):
        assert browser.post("/why", {"set": identity[1], "row": row}).status == 400
    assert browser.post("/why", {"set": "nothing", "row": "1"}).status == 400
    assert browser.post("/predict", {"set": "nothing"}).status == 400


texts = st.binary(max_size=200).map(lambda one: one.replace(b"--" + BOUNDARY.encode(), b""))


@given(
    texts, st.lists(st.text("abc \n", max_size=9), max_size=3), st.lists(st.integers(1, 60), min_size=1, max_size=20)
)
def test_a_form_in_any_parts_is_what_the_email_package_reads(
    content: bytes, values: list[str], cuts: list[int]
) -> None:
    fields = {f"f{at}": one for at, one in enumerate(values)}
    body = form_with_file(fields, "a.csv", content)
    reader, found, at, turn = FormReader(BOUNDARY.encode()), b"", 0, 0
    while at < len(body):
        step = cuts[turn % len(cuts)]
        found += reader.feed(body[at : at + step])
        at, turn = at + step, turn + 1
    reader.end()
    head = f"content-type: multipart/form-data; boundary={BOUNDARY}\r\n\r\n".encode()
    parts = [*BytesParser(policy=HTTP).parsebytes(head + body).iter_parts()]
    assert reader.filename == parts[-1].get_filename() == "a.csv"
    assert reader.fields == fields
    assert [part.get_param("name", header="content-disposition") for part in parts[:-1]] == list(fields)
    assert found == content


def read_whole(reader: FormReader, body: bytes) -> None:
    reader.feed(body)
    reader.end()


@given(st.binary(max_size=300))
def test_nonsense_is_no_form(body: bytes) -> None:
    with pytest.raises(FormError):
        read_whole(FormReader(b"x"), body)


def test_all_fields_together_have_a_size() -> None:
    field = b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\n' + b"y" * 5000 + b"\r\n"
    with pytest.raises(FormError, match="fields of the form take more than 16,384 bytes"):
        read_whole(FormReader(b"x"), field * 10)
    short = b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\ny\r\n'
    with pytest.raises(FormError, match="more than 20 fields"):
        read_whole(FormReader(b"x"), short * 30)


def test_only_forms_have_a_boundary() -> None:
    assert boundary_of(b"multipart/form-data; boundary=abc") == b"abc"
    assert boundary_of(b'Multipart/Form-Data; boundary="a b"') == b"a b"
    form = b"multipart/form-data"
    for kind in (b"", form, form + b"; boundary=", form + b"; boundary=a\r\nb", form + b"; boundary=" + b"a" * 71,
                 b"text/plain; boundary=a"):  # fmt: skip
        assert boundary_of(kind) is None


# Many rows, and the process with the model.


def test_a_hundred_thousand_rows_have_small_pages(index: Path) -> None:
    count = 100_000
    rows = [{"text": f"{ROWS[at % 66]['text']} {'long ' * 200}{at}", "label": LABELS[at % 3]} for at in range(count)]
    made = Browser(index)
    one = OpenTestSet(read(rows), "many.csv")
    made.explorer.test_sets.add(one)
    judged = made.explorer.test_sets.judged(made.open_indexes.first, one)
    drawn = np.random.default_rng(0)
    task = PredictTask(judged)
    start = blocks = 0
    while start < count:
        request, step = task.request(start)
        assert [one["id"] for one in request["rows"]] == [str(at) for at in range(start, start + step)]
        assert sum(len(one["text"]) for one in request["rows"]) <= test_sets.BLOCK_CHARACTERS
        task.take(start, {"predicted": drawn.integers(0, 3, step).tolist(), "chances": drawn.random(step).tolist()})
        start, blocks = start + step, blocks + 1
    assert blocks >= count / test_sets.BLOCK_ROWS
    task.finish(1.0)
    for address in ("/test", "/test?only=wrong&sort=sure&page=500", "/test?size=200", "/"):
        page = made.get(address)
        assert page.status == 200
        assert len(page.body) < (600_000 if "200" in address else 200_000)
    assert "100,000" in made.get("/test").seen


def test_questions_are_answered_between_two_blocks(tmp_path: Path) -> None:
    order: list[str] = []
    asker, seen = ModelWorker(), threading.Event()
    source = IndexSource(tmp_path, "", {})

    class Slow(RowsTask):
        name, total = "slow", 6

        def request(self, start: int) -> tuple[dict[str, Any], int]:
            return {"from": start}, 2

        def take(self, start: int, reply: Any) -> None:
            assert reply == {}
            order.append(f"rows {start}")

        def finish(self, seconds: float) -> None:
            order.append("done" if seconds >= 0 else "")
            seen.set()

    def answered(job: Any) -> bool:
        _ = job.request
        if isinstance(getattr(job, "task", None), Slow) and len(order) == 1:
            asker.ask(Question("now"), source, lambda *_: order.append("question"))
        return job.take({})

    asker._answer = answered  # type: ignore
    job = asker.work(Slow(), source, "working")
    assert seen.wait(20)
    assert order == ["rows 0", "rows 2", "question", "rows 4", "done"]
    assert asker.work(Slow(), source, "working") is not job, "a finished task is done again if it is asked again"


def test_predicting_can_be_cancelled(index: Path) -> None:
    made = Browser(index)
    made.explorer.asker._started = lambda: (_ for _ in ()).throw(InputError("cancelled in time"))  # type: ignore
    made.explorer.asker._run = lambda: None  # type: ignore
    reply = made.upload(as_csv(ROWS[:7]))
    page = made.get(reply.location)
    assert "predicting: 0 of 7 rows" in page.seen
    fields = dict(re.findall(r'name="(id|back)" value="([^"]*)"', page.text.partition('action="/cancel"')[2]))
    assert made.post("/cancel", {name: unescape(one) for name, one in fields.items()}).location == reply.location
    assert "cancelled" in made.get(reply.location).seen
    assert ">Predict<" in made.get(reply.location).text


def test_only_the_last_files_are_held(browser: Browser) -> None:
    held = OpenTestSets([OpenTestSet(read([{"text": "given"}]))])
    sent = [OpenTestSet(read([{"text": f"sent {at}"}])) for at in range(6)]
    for one in sent:
        held.add(one)
    assert [one.id for one in held.shown.values()][1:] == [one.id for one in sent[2:]]
    shown = browser.open_indexes.first
    assert held.get("", shown) is next(iter(held.shown.values()))
    with pytest.raises(InputError, match="no longer open"):
        held.get(sent[0].id, shown)


def test_the_columns_of_a_split_are_read(tmp_path: Path) -> None:
    path = tiny.write_csv(tmp_path / "a.csv", [{"body": "x", "topic": "World"}])
    made = test_sets.read_test_set(path, "shown.csv", Columns(text="body", label="topic"))
    assert (made.name, made.rows.labels) == ("shown.csv", ["World"])
