"""What recurs behind many wrong predictions: in Python, in the command line, in the report and in the explorer."""

import csv
import io
import json
import re
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest

import proponent
import tiny
from explorer import Browser
from proponent.errors import InputError
from proponent.index.error_hits import spread
from proponent.views import CAVEAT, ErrorReport, document
from proponent.views.error_report import LEAST, SHOWN_EXAMPLES
from proponent.web import error_tasks
from test_web_predictions import ROWS, as_csv

Said = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def index(news: tiny.Tiny) -> proponent.Index:
    return proponent.open(news.index)


@pytest.fixture(scope="module")
def report(index: proponent.Index) -> ErrorReport:
    return index.explain_errors(ROWS, k=4)


@pytest.fixture(scope="module")
def wrong(index: proponent.Index) -> list[tuple[dict[str, str], str]]:
    """Rows that are predicted wrongly, and what is predicted."""
    predicted = index.predict([one["text"] for one in ROWS])
    return [(row, said) for row, said in zip(ROWS, predicted, strict=True) if said != row["label"]]


def test_it_counts_what_single_explanations_show(
    index: proponent.Index, report: ErrorReport, wrong: list[tuple[dict[str, str], str]]
) -> None:
    appear, totals = Counter[str](), Counter[str]()
    by_row: list[set[str]] = []
    words: dict[str, int] = Counter()
    for row, said in wrong:
        answer = index.explain(row["text"], label=said, against=row["label"], k=4, baselines=False)
        by_row.append({hit.id for hit in answer.proponents})
        shares: dict[str, float] = {}
        for hit in answer.without_function_words().proponents:
            appear[hit.id] += 1
            totals[hit.id] += hit.score
            for pair in hit.shown_words:
                if pair.share > 0:
                    name = (pair.piece or pair.train_word).casefold()
                    shares[name] = shares.get(name, 0) + pair.share
        words.update(sorted(shares, key=lambda name: (-shares[name], name))[:8])
    assert (report.rows, report.judged, report.wrong, report.explained) == (66, 66, len(wrong), len(wrong))
    expected = sorted((name for name, count in appear.items() if count >= LEAST),
                      key=lambda name: (-appear[name], -totals[name]))[:SHOWN_EXAMPLES]  # fmt: skip
    assert sorted(one.errors for one in report.examples) == sorted(appear[name] for name in expected)
    assert {one.id: one.errors for one in report.examples} == {one.id: appear[one.id] for one in report.examples}
    for one in report.examples:
        assert one.total == pytest.approx(totals[one.id], rel=1e-4, abs=1e-9)
    chosen = {one.id for one in report.examples}
    assert report.covered == sum(bool(some & chosen) for some in by_row)
    assert report.headline == f"12 training examples appear behind {report.covered} of {len(wrong)} wrong predictions"
    assert report.words
    assert all(abs(one.errors - words[one.word]) <= 1 for one in report.words), "ties of rounding"


def test_sums_are_those_of_all_scores(
    index: proponent.Index, report: ErrorReport, wrong: list[tuple[dict[str, str], str]]
) -> None:
    labels = [str(one) for one in index.store.examples["label"]]
    slow = {name: [0.0, 0.0] for name in labels}
    for row, said in wrong:
        scores = index.scores([{"text": row["text"], "label": said}], against=row["label"])[0]
        for name, score in zip(labels, scores.tolist(), strict=True):
            slow[name][score < 0] += score
    assert {one.name for one in report.sums["label"]} == set(labels)
    for one in report.sums["label"]:
        assert one.n == labels.count(one.name)
        assert [one.proponents, one.opponents] == pytest.approx(slow[one.name], rel=1e-3, abs=1e-9)


def test_some_of_many_are_spread_and_said(index: proponent.Index) -> None:
    found = index.explain_errors(ROWS, k=2, most=3)
    assert found.explained == 3
    assert any(note.startswith("3 of ") for note in found.notes)
    assert spread(list(range(100)), 5) == [0, 25, 50, 74, 99]
    assert spread([1, 2], 5) == [1, 2]


def test_rows_without_classes_are_not_judged(index: proponent.Index) -> None:
    rows = [*({**one, "label": "Weather"} for one in ROWS[:5]), {"text": "the bank"}, *ROWS[5:12]]
    found = index.explain_errors(rows, k=2)
    assert (found.rows, found.judged) == (13, 7)
    assert any(note.startswith("6 rows have no label") for note in found.notes)
    none = index.explain_errors([{"text": "the bank and the cup"}])
    assert (none.judged, none.accuracy, none.examples) == (0, None, ())
    assert none.headline == "No training example recurs behind 0 wrong predictions"


def test_bad_calls_are_refused(index: proponent.Index, lines: tiny.Tiny) -> None:
    with pytest.raises(InputError, match="must be at least 1"):
        index.explain_errors(ROWS, most=0)
    with pytest.raises(InputError, match="predicts no classes"):
        proponent.open(lines.index).explain_errors([{"text": "a"}])
    with pytest.raises(InputError, match="is empty"):
        index.explain_errors([{"text": " ", "label": "World"}])


def test_a_method_that_compares_no_classes_says_so(news: tiny.Tiny, tmp_path: Path) -> None:
    proponent.build(news.run, news.data, tmp_path / "bm25.index", "bm25", quiet=True)
    found = proponent.open(tmp_path / "bm25.index").explain_errors(ROWS[:20], k=3)
    assert any("compares no classes" in note for note in found.notes)


def test_it_shows_itself(report: ErrorReport) -> None:
    assert report.headline in repr(report)
    assert all(len(line) <= 100 for line in repr(report).splitlines())
    page = document(report)
    for one in report.examples:
        assert f"row {one.row}" in page
    assert len(report.to_pandas()) == len(report.examples)
    assert json.loads(report.to_json())["covered"] == report.covered
    assert "not proof of cause" in report.notebook()


def test_the_command_predicts_a_test_set(said: Said, news: tiny.Tiny, tmp_path: Path, index: proponent.Index) -> None:
    path = tiny.write_csv(tmp_path / "test.csv", [*ROWS[:30], {"id": "u", "text": news.text(0), "label": "Weather"}])
    code, out, err = said("explain", news.index, "--test", path, "-k", 3, "--html", tmp_path / "t.html", "--json", "-q")
    assert (code, err) == (0, "")
    content = json.loads(out)
    predicted = index.predict([*(one["text"] for one in ROWS[:30]), news.text(0)])
    assert content["predicted"] == predicted
    assert (content["unknown"], content["trained"], content["judged"]) == ({"Weather": 1}, 1, 30)
    wrong = [at for at in range(30) if predicted[at] != ROWS[at]["label"]]
    assert [one["row"] for one in content["wrong"]] == wrong
    assert content["errors"]["explained"] == len(wrong)
    cells = np.asarray(content["confusion"])
    assert cells.sum() == 30
    assert cells.trace() == 30 - len(wrong)
    code, out, _ = said("explain", news.index, "--test", path, "--most-errors", 0)
    assert code == 0
    for told in ("are predicted rightly", "given / predicted", f"{len(wrong)} wrong predictions", "Weather (1)",
                 "1 rows stand in the training data"):  # fmt: skip
        assert told in " ".join(out.split())
    assert "behind" not in out
    assert "Given and predicted" in (tmp_path / "t.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("words", "told"),
    [(("some text",), "TEXT is about questions"), (("--label", "World"), "--label is about questions"),
     (("--where", "label=World"), "--where is about questions"), (("--queries", "q.csv"), "--queries is about"),
     (("--text-column", "nothing"), "no column 'nothing'")],
)  # fmt: skip
def test_what_does_not_fit_beside_a_test_set_is_refused(
    said: Said, news: tiny.Tiny, tmp_path: Path, words: tuple[str, ...], told: str
) -> None:
    path = tiny.write_csv(tmp_path / "test.csv", ROWS[:3])
    code, out, err = said("explain", news.index, *words, "--test", path)
    assert (code, out) == (2, "")
    assert told in err


def test_serve_reads_its_test_set_before_it_starts(said: Said, news: tiny.Tiny, tmp_path: Path) -> None:
    code, _, err = said("serve", news.index, "--test", tmp_path / "nothing.csv")
    assert code == 2
    assert "no such file" in err
    code, _, err = said("serve", news.index, "--text-column", "body")
    assert code == 2
    assert "--text-column is for --test FILE" in err


def test_a_report_shows_the_truth_and_what_recurs(said: Said, news: tiny.Tiny, tmp_path: Path) -> None:
    path, out = tiny.write_csv(tmp_path / "q.csv", ROWS[:24]), tmp_path / "r.html"
    assert said("report", news.index, path, "--out", out, "-k", 3, "--truth-column", "label", "-q")[0] == 0
    page = out.read_text(encoding="utf-8")
    assert re.search(r"training examples? appears? behind \d+ of \d+ wrong predictions", page)
    assert page.count("true class") == 24
    code, _, err = said("report", news.index, path, "--out", out, "--truth-column", "labl")
    assert code == 2
    assert "did you mean 'label'" in err


# The explorer.


def test_the_explorer_finds_what_the_library_finds(
    news: tiny.Tiny, tmp_path: Path, index: proponent.Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(shutil.copytree(news.index, tmp_path / "news.index"))
    made = Browser(folder)
    assert "There is no test set" in made.get("/errors").seen
    url = made.upload(as_csv(ROWS)).location
    assert made.post("/errors", {"set": ""}).status == 400, "not predicted yet"
    page = made.finished(url)
    link = re.search(r'href="(/errors\?[^"]*)"', page.text)
    assert link is not None
    address = link[1].replace("&amp;", "&")
    assert "Explain the wrong predictions" in made.get(address).seen
    fields = dict(re.findall(r'name="(in|set)" value="([^"]*)"', made.get(address).text))
    assert made.post("/errors", fields).location == address
    shown = made.finished(address)
    expected = index.explain_errors(ROWS, k=error_tasks.K)
    assert expected.headline in shown.seen
    for one in expected.examples:
        assert f'href="/example?in=news&amp;id={one.id}"' in shown.text
    for one in expected.sums["label"]:
        assert f"{one.name} {one.n}" in shown.seen
    again = Browser(folder)
    monkeypatch.setattr(again.explorer.asker, "work", lambda *_: pytest.fail("it is computed again"))
    again.upload(as_csv(ROWS))
    assert expected.headline in again.get(address).seen, "a restart computes nothing again"
    made.close()
    check_files(again, address, index, expected)


def check_files(made: Browser, address: str, index: proponent.Index, expected: ErrorReport) -> None:
    """The files that the page links to: the report, and each wrong prediction with its proponents."""
    links = re.findall(r'href="(/export/errors\.[^"]*)"', made.get(address).text)
    files = {link.split("?")[0].removeprefix("/export/errors."): made.get(link.replace("&amp;", "&")) for link in links}
    assert [*files] == ["html", "json", "csv", "jsonl", "parquet"]
    assert {one.status for one in files.values()} == {200}
    assert expected.headline in files["html"].seen
    report = json.loads(files["json"].body)
    counts = [(one["id"], one["errors"], one["mostly"]) for one in report["examples"]]
    assert counts == [(one.id, one.errors, one.mostly) for one in expected.examples]
    lines = [json.loads(line) for line in files["jsonl"].body.decode().splitlines()]
    predicted = index.predict([one["text"] for one in ROWS])
    wrong = {at for at, row in enumerate(ROWS) if predicted[at] != row["label"]}
    assert {one["row"] for one in lines} == wrong
    for at in wrong:
        row = ROWS[at]
        why = index.explain({"text": row["text"], "label": predicted[at]}, against=row["label"], k=error_tasks.K)
        mine = [one for one in lines if one["row"] == at]
        assert [(one["training_id"], one["rank"]) for one in mine] == [(hit.id, hit.rank) for hit in why.proponents]
        assert [one["score"] for one in mine] == pytest.approx([hit.score for hit in why.proponents], rel=1e-4)
        assert {(one["id"], one["given_label"], one["predicted_label"], one["text"]) for one in mine} <= {
            (row["id"], row["label"], predicted[at], row["text"])
        }
    assert {one["caveat"] for one in lines} == {CAVEAT}
    (stored,) = made.open_indexes.first.questions.folder.glob("errors*.json")
    hits = {number: some for number, _, _, some, _ in json.loads(stored.read_text())["hits"]}
    assert [one["score"] for one in lines] == [score for some in hits.values() for _, score in some], "exactly"
    table = pyarrow.parquet.read_table(io.BytesIO(files["parquet"].body)).to_pylist()
    assert table == lines
    assert [row["training_id"] for row in csv.DictReader(io.StringIO(files["csv"].text))] == [
        one["training_id"] for one in lines
    ]


def test_of_a_language_model_nothing_is_wrong(said: Said, lines: tiny.Tiny, tmp_path: Path) -> None:
    made = Browser(lines.index)
    assert "predicts no classes" in made.get("/errors").seen
    for what, told in (("errors.csv", "predicts no classes"), ("predictions.csv", "there is no test set")):
        reply = made.get(f"/export/{what}")
        assert (reply.status, told in reply.seen) == (400, True)
    (tmp_path / "rows.jsonl").write_text(
        json.dumps({"prompt": "the bank of the ", "completion": "team said bank"}) + "\n"
    )
    code, _, err = said("report", lines.index, tmp_path / "rows.jsonl", "--out", tmp_path / "page.html")
    assert code == 0, err
    assert "<dt>loss</dt>" in (tmp_path / "page.html").read_text()


def test_serve_refuses_a_test_set_that_no_index_reads(
    said: Said, lines: tiny.Tiny, news: tiny.Tiny, tmp_path: Path
) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps({"prompt": "the bank of the ", "completion": "team said bank"}) + "\n")
    code, _, err = said("serve", news.index, "--test", rows)
    assert (code, "a test set of this model holds texts with labels" in err) == (2, True)
    rows.write_text(json.dumps({"prompt": "the bank", "chosen": " of", "rejected": " said"}) + "\n")
    code, _, err = said("serve", lines.index, "--test", rows)
    assert (code, "a test set of this model holds messages" in err) == (2, True)
