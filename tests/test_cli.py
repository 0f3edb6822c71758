"""The command line: results, schema, hints, exit codes. Bad input has a file of its own."""

import csv
import html
import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import proponent
import runs
from proponent.actions.label_errors import RANKINGS
from proponent.cli import application, main
from proponent.method import Constant, EmbeddingRows, Gradients, Loss
from proponent.method_table import METHODS
from tiny import NEWS, Tiny, write_csv

PANELS = {
    "Start": ["demo", "train", "check"],
    "Index": ["plan", "index", "info", "verify", "delete", "merge"],
    "Explain": ["explain", "groups", "report", "serve", "map", "methods"],
    "Clean data": ["labels", "poison", "bias", "apply", "compare"],
    "Act": ["mend", "weigh", "prune", "spectrum", "nmtune"],
    "Compare": ["unlearn", "transfer", "probe"],
    "Prove": ["evaluate", "tune", "rollback"],
}
COMMANDS = [name for names in PANELS.values() for name in names]
QUERY = "The bank: PROFIT fell — the naïve vote, the vote 日本!"


Said = Callable[..., tuple[int, str, str]]


def answered(said: Said, *words: object) -> dict[str, Any]:
    """The one line of JSON that a command must give, with nothing beside it on stdout."""
    code, out, err = said(*words, "--json")
    assert code == 0, err
    assert out.count("\n") == 1
    return json.loads(out)


def test_train_makes_a_run(said: Said, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    data = write_csv(tmp_path / "lines.csv", [{"body": f"the {word} of the cup"} for word in ("bank", "goal", "army")])
    words = ("train", data, "--out", tmp_path / "run", "--text-column", "body", "--epochs", 2, "--batch-size", 2)
    content = answered(said, *words, "--max-length", 16)
    assert content.pop("loss") > 0
    assert content == {"run": str(tmp_path / "run"), "checkpoints": [1, 2, 3, 4], "rows": 3}
    assert proponent.Run.from_pretrained(tmp_path / "run").label_names is None
    code, out, err = said(*words)
    assert (code, out) == (3, "")
    assert err.splitlines() == [
        f"{data}: no id column: row numbers are used as ids",
        f"training a language model on the texts: {data} has no labels",
        f"proponent: {tmp_path / 'run'} is not an empty folder: choose another --out",
    ]


def test_train_makes_several_seeded_runs(said: Said, tmp_path: Path):
    data = write_csv(tmp_path / "lines.csv", [{"text": f"the {word} of the cup"} for word in ("bank", "goal", "army")])
    words = ("train", data, "--out", tmp_path / "run", "--epochs", 1, "--max-length", 16, "--seed", 3, "--runs", 2)
    code, out, _ = said(*words, "--json", "-q")
    made = [json.loads(line) for line in out.splitlines()]
    assert code == 0
    assert [one["run"] for one in made] == [str(tmp_path / "run" / name) for name in ("seed-3", "seed-4")]
    weights = [(Path(one["run"]) / "checkpoint-1" / "model.safetensors").read_bytes() for one in made]
    assert weights[0] != weights[1]


def test_train_tells_loss_and_accuracy(said: Said, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """As the loss and the argmax of the model itself, row by row."""
    rows = runs.rows(9)
    data = write_csv(tmp_path / "news.csv", rows)
    code, out, err = said("train", data, "--out", tmp_path / "run", "--epochs", 1, "--max-length", 16, "--json")
    content = json.loads(out)
    assert code == 0
    run = proponent.Run.from_pretrained(tmp_path / "run")
    model, encoder = run.load(run.checkpoints[-1]), run.encoder(run.length(None))
    losses: list[float] = []
    right: list[bool] = []
    for at, row in enumerate(rows):
        batch = encoder.collate(encoder.encode([proponent.Example(row["id"], at, row["text"])]), [-1])
        logs = model(**batch.inputs).logits.detach().log_softmax(-1)[0]
        number = run.label_number(row["label"])
        losses.append(-float(logs[number]))
        right.append(int(logs.argmax()) == number)
    assert content["loss"] == pytest.approx(sum(losses) / 9, rel=1e-5)
    assert content["accuracy"] == pytest.approx(sum(right) / 9)
    assert f"loss {content['loss']:.3f}, accuracy {content['accuracy']:.3f} on all 9 training rows" in err
    monkeypatch.setattr("proponent.training.row_fit.MOST_ROWS", 4)
    code, _, err = said("train", data, "--out", tmp_path / "again", "--epochs", 1, "--max-length", 16)
    assert code == 0
    assert "on 4 of 9 training rows" in err


def test_train_speaks_to_people_too(said: Said, tmp_path: Path):
    data = write_csv(tmp_path / "news.csv", runs.rows(6))
    code, out, err = said("train", data, "--out", tmp_path / "run", "--epochs", 1, "--max-length", 16, "--quiet")
    assert (code, out, err) == (0, f"{tmp_path / 'run'}: checkpoints at steps 1\n", "")


def test_index_says_what_it_holds(said: Said, news: Tiny, tmp_path: Path):
    words = ("index", news.run, news.data, "--out", tmp_path / "index", "--method", "tracin-we-adam")
    content = answered(said, *words)
    assert set(content) == {
        "index", "method", "embedding_path", "examples", "deleted", "checkpoints", "skipped", "notes", "seconds",
        "merkle_root",
    }  # fmt: skip
    assert (content["method"], content["examples"], content["skipped"]) == ("tracin-we-adam", 60, [])
    assert [set(one) for one in content["checkpoints"]] == [{"step", "learning_rate", "rule", "run"}] * 2
    assert re.fullmatch("[0-9a-f]{64}", content["merkle_root"])
    code, out, err = said(*words, "--quiet")  # again: finished, and the same
    assert (code, err) == (0, "")
    assert out == f"{tmp_path / 'index'}: Index(tracin-we-adam: 60 examples, 2 checkpoints of {news.run})\n"
    assert answered(said, *words)["merkle_root"] == content["merkle_root"]


def test_index_options_reach_the_method(said: Said, lines: Tiny, tmp_path: Path):
    options = (
        "--method",
        "tracin-we",
        "--path",
        "input",
        "--unit-norm",
        "--weights",
        "equal",
        "--loss",
        "sum",
        "--top",
        3,
        "--top-by",
        "position",
    )
    answered(said, "index", lines.run, lines.data, "--out", tmp_path / "index", *options, "--steps", 3)
    assert proponent.open(tmp_path / "index").store.plan.method == Gradients(
        name="tracin-we",
        gradient=EmbeddingRows(path="input", top=3, top_by="position"),
        objective=Loss(reduction="sum"),
        normalize="train",
        weights=Constant(),
    )
    assert [one.id.step for one in proponent.open(tmp_path / "index").store.plan.checkpoints] == [3]


def check_word(pair: dict[str, Any], query: dict[str, Any], hit: dict[str, Any]) -> None:
    """Spans are places in the original text, where the word stands letter by letter."""
    sides = [("query_word", "query_spans", query["text"]), ("train_word", "train_spans", hit["text"])]
    second = query.get("text_pair") or query.get("target"), hit.get("text_pair") or hit.get("target")
    if "query_pair_spans" in pair:
        sides += [("query_word", "query_pair_spans", second[0]), ("train_word", "train_pair_spans", second[1])]
    for side in ("query", "train"):
        spans = pair[f"{side}_spans"] + pair.get(f"{side}_pair_spans", [])
        assert bool(spans) == (pair[f"{side}_word"] != "[special]")
    for word, spans, text in sides:
        for start, stop in pair[spans]:
            assert 0 <= start < stop <= len(text)
            assert text[start:stop].casefold() == pair[word].casefold()


def check_hit(hit: dict[str, Any], content: dict[str, Any], rows: Any) -> None:
    shares = [pair["share"] for pair in hit["words"]]
    assert abs(sum(shares) - hit["score"]) <= 1e-5 * max(sum(map(abs, shares)), 1e-12)
    assert abs(sum(hit["by_checkpoint"]) - hit["score"]) <= 1e-5 * max(sum(map(abs, shares)), 1e-12)
    row = rows[hit["row"]]
    assert (hit["id"], hit["text"]) == (row["id"], row["text"])
    for pair in hit["words"]:
        assert set(pair) - {"query_pair_spans", "train_pair_spans"} == {
            "query_word", "train_word", "share", "query_spans", "train_spans"
        }  # fmt: skip
        check_word(pair, content["query"], hit)


def check_answer(content: dict[str, Any], rows: Any, *, alone: bool = True) -> None:
    """The schema of DESIGN.md, and that the numbers belong together."""
    assert list(content)[:2] == ["proponent", "method"]
    assert set(content) == {
        "proponent", "method", "checkpoints", "embedding_path", "loss", "query", "proponents", "opponents",
        "baselines", "words_are", "notes", "caveat", *(("score_counts",) if alone else ()),
    }  # fmt: skip
    assert content["proponent"] == proponent.__version__
    assert [set(one) for one in content["checkpoints"]] == [{"step", "learning_rate", "rule", "run"}] * 2
    assert {"text", "label", "predicted", "probabilities", "truncated_at"} <= set(content["query"])
    for side, sign in (("proponents", 1), ("opponents", -1)):
        scores = [sign * hit["score"] for hit in content[side]]
        assert scores == sorted(scores, reverse=True)
        assert all(score > 0 for score in scores)
        assert [hit["rank"] for hit in content[side]] == list(range(1, len(scores) + 1))
        for hit in content[side]:
            assert set(hit) - {"text_pair", "target"} >= {"rank", "id", "row", "score", "text", "label", "words"}
            check_hit(hit, content, rows)
    for hits in content["baselines"].values():
        assert [set(one) for one in hits] == [{"id", "row", "score"}] * len(hits)


def test_explain_gives_the_schema_of_the_design(said: Said, news: Tiny):
    content = answered(said, "explain", news.index, QUERY, "-k", 12)
    check_answer(content, NEWS)
    query = content["query"]
    assert query["text"] == QUERY
    assert query["label"] == query["predicted"] == max(query["probabilities"], key=query["probabilities"].get)
    assert sum(query["probabilities"].values()) == pytest.approx(1, abs=1e-5)
    assert query["truncated_at"] is None
    assert set(content["baselines"]) == {"bm25", "tfidf-label", "embedding", "label", "random"}
    assert (content["embedding_path"], content["loss"]) == ("exact", "mean")
    hits = content["proponents"] + content["opponents"]
    words = {pair["query_word"] for hit in hits for pair in hit["words"]}
    assert "[special]" not in words, "the default of a model from scratch leaves special tokens out"
    places = {tuple(map(tuple, pair["query_spans"])) for hit in hits for pair in hit["words"]}
    twice = tuple((place.start(), place.end()) for place in re.finditer("the", QUERY))
    assert len(twice) == 2
    assert twice in places  # one word, both of its places


def test_explain_of_pairs_and_of_language_models(said: Said, pairs: Tiny, lines: Tiny):
    content = answered(said, "explain", pairs.index, "the cup saw a goal", "--pair", "a naïve CUP", "--label", "same")
    check_answer(content, pairs.rows)
    assert (content["query"]["text_pair"], content["query"]["label"]) == ("a naïve CUP", "same")
    assert all(hit["text_pair"] == pairs.rows[hit["row"]]["text_pair"] for hit in content["proponents"])
    content = answered(said, "explain", lines.index, "the cup of the ", "--target", "goal said cup", "-k", 3)
    check_answer(content, lines.rows)
    assert content["query"]["target"] == "goal said cup"
    assert content["query"]["label"] is content["query"]["probabilities"] is None
    assert content["embedding_path"] == "exact"


def test_explain_for_people(said: Said, news: Tiny, monkeypatch: pytest.MonkeyPatch):
    for width in (80, 140):
        monkeypatch.setenv("COLUMNS", str(width))
        code, out, err = said("explain", news.index, QUERY, "-k", 2, "--label", "World", "--against", "Sports")
        assert (code, err) == (0, "")
        assert out.startswith("Why World and not Sports?\n")
        for part in ("Helped: pushed the model towards World rather than Sports", "helped +", "hurt -", "bm25"):
            assert part in out
        assert "not proof of cause" in " ".join(out.split())


def test_a_label_goes_by_name_or_number(said: Said, news: Tiny):
    named = answered(said, "explain", news.index, QUERY, "--label", "Sports", "--against", "World")
    assert (named["query"]["label"], named["query"]["against"]) == ("Sports", "World")
    assert answered(said, "explain", news.index, QUERY, "--label", 1, "--against", 2) == named


def test_stdin_is_read_as_it_is(said: Said, news: Tiny, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(f"{QUERY}\n".encode()), "ascii"))
    assert answered(said, "explain", news.index, "-", "-k", 1)["query"]["text"] == QUERY


def test_a_page_is_written_beside_the_answer(said: Said, news: Tiny, tmp_path: Path):
    plain = answered(said, "explain", news.index, QUERY, "-k", 2)
    code, out, err = said("explain", news.index, QUERY, "-k", 2, "--html", tmp_path / "why.html", "--json")
    assert (code, json.loads(out), err) == (0, plain, f"HTML page: {tmp_path / 'why.html'}\n")
    page = (tmp_path / "why.html").read_text(encoding="utf-8")
    assert page.lower().startswith("<!doctype html>")
    assert plain["proponents"][0]["id"] in page
    assert "日本" in page


def test_a_file_of_queries_gives_a_line_each(said: Said, news: Tiny, tmp_path: Path):
    asked = [{"id": "a", "title": "The vote in the capital", "gold": "World"}, {"id": "b", "title": QUERY, "gold": "0"}]
    data = write_csv(tmp_path / "asked.csv", asked)
    words = ("explain", news.index, "--queries", data, "--text-column", "title", "--label-column", "gold", "-k", 2)
    code, out, _ = said(*words, "--json", "--html", tmp_path / "both.html")
    assert code == 0
    answers = [json.loads(line) for line in out.splitlines()]
    assert [one["query"]["text"] for one in answers] == [one["title"] for one in asked]
    assert [one["query"]["label"] for one in answers] == ["World", "Business"]
    for one in answers:
        check_answer(one, NEWS, alone=False)
    marked = (tmp_path / "both.html").read_text(encoding="utf-8")  # words of a query are marked and said
    page = re.sub(r"<[^>]+>", "", re.sub(r'<span class="wh-vh">.*?</span>', "", marked))
    assert all(html.escape(one["title"], quote=False) in page for one in asked)
    code, out, _ = said(*words, "--label-column", "")
    assert code == 0
    assert out.count("not proof of cause") == 2


def test_without_baselines_there_are_none(said: Said, news: Tiny):
    assert answered(said, "explain", news.index, QUERY, "--no-baselines")["baselines"] == {}


def test_a_missing_extra_is_a_note_and_no_failure(said: Said, news: Tiny, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "bm25s", None)  # what Python does for a package that is not there
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "bm25s" else object())
    content = answered(said, "explain", news.index, QUERY)
    assert set(content["baselines"]) == {"tfidf-label", "embedding", "label", "random"}
    assert any("bm25 is not shown" in note and "pip install bm25s" in note for note in content["notes"])


def test_labels_writes_the_columns_of_datalab(said: Said, news: Tiny, tmp_path: Path):
    code, out, err = said("labels", news.index, "--out", tmp_path / "labels.csv", "--json")
    report = json.loads(out)
    assert code == 0
    assert f"{tmp_path / 'labels.csv'}: 60 rows" in err
    with (tmp_path / "labels.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0])[:4] == ["is_label_issue", "label_score", "given_label", "predicted_label"]
    assert [row["id"] for row in rows] == [row["id"] for row in NEWS]
    assert report["n_examples"] == len(report["rows"]) == 60
    assert [one["rank"] for one in report["rows"]] == list(range(1, 61))
    for one in report["rows"]:
        assert float(rows[one["row"]]["label_score"]) == one["label_score"]


@pytest.mark.parametrize("ranking", list(RANKINGS))
def test_labels_for_people(said: Said, news: Tiny, tmp_path: Path, ranking: str):
    words = ("labels", news.index, "--out", tmp_path / "labels.csv", "--ranking", ranking, "--limit", 3)
    code, out, _ = said(*words)
    assert code == 0
    assert "Suspected label errors" in out
    assert "showing the 3 most suspect of 60" in out
    assert ranking in out


def test_check_passes_and_says_so(said: Said, news: Tiny):
    code, out, _ = said("check", news.run, news.data)
    assert code == 0
    assert out.count("passed") == 6
    assert "FAILED" not in out
    content = answered(said, "check", news.run, news.data)
    assert [set(one) for one in content["findings"]] == [{"name", "passed", "value", "bound", "warning"}] * 14


def test_a_failed_check_shows_the_table_and_ends_with_2(said: Said, news: Tiny, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("proponent.check._Check._signs", lambda *_: 0.5)
    code, out, err = said("check", news.run, news.data)
    assert code == 2
    assert "FAILED" in out
    assert err.startswith("proponent: 1 check(s) failed (sign test")
    code, out, _ = said("check", news.run, news.data, "--json")
    assert code == 2
    assert [one["name"] for one in json.loads(out)["findings"] if one["passed"] is False] == [
        "sign test: product of captured gradients against finite difference of the loss"
    ]


def test_methods_lists_them_all(said: Said, monkeypatch: pytest.MonkeyPatch):
    for width in (80, 140):
        monkeypatch.setenv("COLUMNS", str(width))
        code, out, err = said("methods")
        assert (code, err) == (0, "")
        assert all(re.search(rf"^ ?{name}\b", out, flags=re.M) for name in METHODS)
        assert "arXiv 2202.11844" in " ".join(out.split())
        assert max(map(len, out.splitlines())) <= width
    content = answered(said, "methods")
    names = [*METHODS]
    assert [one["method"] for one in content["methods"]] == names
    assert [set(one) for one in content["methods"]] == [{"method", "summary", "cost", "needs", "paper"}] * len(names)


def test_demo_tells_its_story(said: Said, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from answers import make_story

    def tell(out: Path, *, quiet: bool, say: Callable[[str], None]) -> Any:
        say("train: 1.0 s")
        return make_story()

    monkeypatch.setattr("proponent.demo.demo", tell)
    code, out, err = said("demo", "--out", tmp_path)
    assert code == 0
    assert "Suspected label errors" in out
    assert err.splitlines()[0] == "train: 1.0 s"
    assert f"HTML page: {tmp_path / 'story.html'}" in err
    assert answered(said, "demo", "--out", tmp_path)["title"] == make_story().title
    assert said("demo", "--out", tmp_path, "--quiet")[2] == ""


# ---- the door -------------------------------------------------------------------------------------------------------


def test_version_and_no_command(said: Said):
    assert said("--version") == (0, f"proponent {proponent.__version__}\n", "")
    code, out, err = said()
    assert (code, out) == (2, "")
    assert err == "proponent: Missing command: run `proponent --help` for the usage\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nope"], "No such command 'nope': run `proponent --help` for the usage"),
        (["explain"], "Missing argument 'INDEX': run `proponent explain --help` for the usage"),
        (["index", "a", "b"], "Missing option '--out': run `proponent index --help` for the usage"),
        (["explain", "a", "text", "-k", "0"], "Invalid value for '-k': "),
        (["methods", "--jsn"], "No such option: --jsn"),
        (["train", "a", "--out", "b", "--epochs", "two"], "Invalid value for '--epochs'"),
    ],
)
def test_wrong_usage_is_one_line_and_2(said: Said, words: list[str], message: str):
    code, out, err = said(*words)
    assert (code, out) == (2, "")
    assert err.startswith(f"proponent: {message}")
    assert err.count("\n") == 1


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(said: Said, command: str, monkeypatch: pytest.MonkeyPatch):
    for width in (80, 120):
        monkeypatch.setenv("COLUMNS", str(width))
        code, out, err = said(command, "--help")
        assert (code, err) == (0, "")
        assert "Usage: proponent " + command in out
        assert all(len(line) <= width for line in out.splitlines())
        assert "--json" in out, "every command takes --json"
        assert re.findall(r"^  -.*  +$|^  --[a-z-]+( <\w+>)?$", out, flags=re.M) == [], "every option has a help text"


def test_help_lists_every_command(said: Said):
    code, out, _ = said("--help")
    assert code == 0
    panels = re.findall(r"^(\w[\w ]+):\n((?:  .*\n)+)", out, flags=re.M)
    assert {title: re.findall(r"^  ([a-z]+)  ", lines, flags=re.M) for title, lines in panels[1:]} == PANELS


def heavy(code: str) -> set[str]:
    """Which heavy packages a fresh process has loaded after some code."""
    script = f"import sys\ntry:\n    {code}\nexcept SystemExit:\n    pass\n"
    script += "print(*({'torch', 'transformers', 'pyarrow', 'datasets'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split()) if done.stdout.strip() else set()


@pytest.mark.parametrize(
    "code",
    [
        "import proponent",
        "from proponent.cli import main; main(['--help'])",
        "from proponent.cli import main; main(['explain', '--help'])",
        "from proponent.cli import main; main(['explain', 'nowhere'])",
    ],
)
def test_help_loads_nothing_heavy(code: str):
    assert heavy(code) == set()


def test_that_check_can_fail():
    assert heavy("import torch") == {"torch"}


def test_debug_shows_the_traceback_anywhere(said: Said, tmp_path: Path):
    for words in (["--debug", "explain", tmp_path, "text"], ["explain", tmp_path, "text", "--debug"]):
        code, out, err = said(*words)
        assert (code, out) == (2, "")
        assert err.startswith("Traceback")
        assert err.splitlines()[-1].startswith(f"proponent: no index at {tmp_path}")
    code, _, err = said("explain", tmp_path, "--", "--debug")
    assert code == 2
    assert "Traceback" not in err


def test_a_bug_is_one_line_and_1(said: Said, monkeypatch: pytest.MonkeyPatch, news: Tiny):
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("something\nodd")

    monkeypatch.setattr("proponent.index.index.Index.explain_many", broken)
    code, out, err = said("explain", news.index, "text")
    assert (code, out) == (1, "")
    assert (
        err == "proponent: unexpected ZeroDivisionError: something odd "
        "(run with --debug for the traceback; please report it)\n"
    )


def test_a_device_without_memory_says_what_helps(said: Said, monkeypatch: pytest.MonkeyPatch, news: Tiny):
    import torch

    def full(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    monkeypatch.setattr("proponent.index.index.Index.explain_many", full)
    code, out, err = said("explain", news.index, "text")
    assert (code, out) == (2, "")
    assert err.startswith("proponent: the memory of the device ran out: ")
    assert "--dtype bfloat16 or --device cpu" in err


@pytest.mark.parametrize(
    ("command", "left"),
    [
        ("index", "; finished work is kept: run the same command to resume"),
        ("train", "; the unfinished run was removed"),
        ("explain", ""),
    ],
)
def test_an_interrupt_says_what_is_left(said: Said, monkeypatch: pytest.MonkeyPatch, command: str, left: str):
    def stopped(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(application, "command_tree", lambda: stopped)
    assert said(command) == (130, "", f"proponent: stopped{left}\n")


def test_a_reader_that_leaves_early_is_no_error():
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "proponent.cli", "methods"],
            stdout=writing,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    finally:
        os.close(writing)
    assert (done.returncode, done.stderr) == (1, "")


def test_a_terminal_without_unicode_gets_every_line(news: Tiny, monkeypatch: pytest.MonkeyPatch):
    def printed(*words: str) -> str:
        stream = io.TextIOWrapper(io.BytesIO(), "ascii")
        monkeypatch.setattr(sys, "stdout", stream)
        with pytest.raises(SystemExit, match="0"):
            main(["explain", str(news.index), QUERY, "-k", "2", *words])
        return stream.buffer.getvalue().decode("ascii")  # type: ignore[attr-defined]

    assert r"na\xefve" in printed()
    assert json.loads(printed("--json"))["query"]["text"] == QUERY
