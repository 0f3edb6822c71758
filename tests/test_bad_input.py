"""Bad input through the command line: one line that says what, where and how to mend it; nothing lost."""

import errno
import io
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

import proponent
import runs
from proponent import disk
from tiny import NEWS, Tiny, write_csv

Said = Callable[..., tuple[int, str, str]]
UTF8 = "id,text,label\n1,a cup,Sports\n2,a vote,World\n"


def refused(result: tuple[int, str, str], code: int, *parts: str) -> None:
    """One line on stderr with every part in it, nothing on stdout, no traceback, and this exit code."""
    found, out, err = result
    last = err.splitlines()[-1]
    assert (found, out) == (code, ""), err
    assert "Traceback" not in err
    assert last.startswith("proponent: ")
    assert [part for part in parts if part not in last] == [], last


# ---- files of data ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        (b"", ["the file is empty"]),
        (b"   \n\n", ["the file is empty"]),
        (b"id,text,label\n", ["a header but no rows"]),
        (b"id,txt,label\n1,a cup,Sports\n", ["no column 'text'", "'id', 'txt', 'label'", "--text-column", "'txt'?"]),
        (UTF8.replace("cup", "caf\u00e9").encode("latin-1"), ["not UTF-8", "line 2", "iconv"]),
        (UTF8.encode("utf-16"), ["encoded as utf-16", "iconv"]),
        (UTF8.replace("cup", "c\0p").encode(), ["NUL byte", "line 2"]),
        (UTF8.replace("a cup", "a cup, too").encode(), ["the header has 3 fields but line 2 has 4", "quotes"]),
        (UTF8.replace("a cup", '"a cup').encode(), ["line 2", "quote", "never closed"]),
        (
            UTF8.replace("2,", "1,").encode(),
            ["repeats '1' in row 0 (line 2), row 1 (line 3)", "--id-column ''"],
        ),
        (UTF8.replace("a vote", " ").encode(), ["1 of 2 rows have an empty text", "row 1 (line 3)", "--allow-empty"]),
        (
            UTF8.replace("World", "Wrld").encode(),
            ["unknown label 'Wrld' (did you mean 'World'?)", "Business, Sports"],
        ),
        (UTF8.replace("World", "").encode(), ["1 rows of", "have no label (rows 1)", "--label-column"]),
        (UTF8.replace("label", "topic").encode(), ["2 rows of", "have no label", "--label-column"]),
    ],
)
def test_a_file_that_cannot_be_used(said: Said, news: Tiny, tmp_path: Path, content: bytes, parts: Sequence[str]):
    data = tmp_path / "bad.csv"
    data.write_bytes(content)
    refused(
        said("index", news.run, data, "--out", tmp_path / "index"),
        2,
        str(data) if "label '" not in parts[0] else "",
        *parts,
    )
    assert not (tmp_path / "index").exists()


@pytest.mark.parametrize(
    ("name", "content", "parts"),
    [
        ("bad.jsonl", '{"text": "a cup", "label": "Sports"}\n{"text": "a vote"\n', ["line 2 is not valid JSON"]),
        ("bad.jsonl", '{"text": "a", "label": 1}\n{"text": "b", "label": "World"}\n', ["mixes numbers and names"]),
        ("bad.jsonl", '{"text": "a", "label": 0.5}\n', ["row 0: label 0.5 is a float: give a name or a whole number"]),
        ("bad.jsonl", '{"text": 3, "label": 1}\n', ["column 'text' must contain text"]),
        ("bad.xlsx", "x", ["unknown file type '.xlsx'", ".parquet"]),
        ("bad.parquet", "x", ["bad.parquet"]),
    ],
)
def test_other_files_that_cannot_be_used(
    said: Said, news: Tiny, tmp_path: Path, name: str, content: str, parts: list[str]
):
    (tmp_path / name).write_text(content)
    refused(said("index", news.run, tmp_path / name, "--out", tmp_path / "index"), 2, str(tmp_path / name), *parts)


@pytest.mark.parametrize("command", ["train", "check", "explain"])
def test_every_command_that_reads_data_says_the_same(said: Said, news: Tiny, tmp_path: Path, command: str):
    write_csv(tmp_path / "data.csv", [{"id": 1, "txt": "a cup", "label": "Sports"}])
    words: Mapping[str, tuple[object, ...]] = {
        "train": ("train", tmp_path / "data.csv", "--out", tmp_path / "run"),
        "check": ("check", news.run, tmp_path / "data.csv"),
        "explain": ("explain", news.index, "--queries", tmp_path / "data.csv"),
    }
    refused(said(*words[command]), 2, "no column 'text'; it has 'id', 'txt', 'label'", "did you mean 'txt'?")
    refused(said(*words[command], "--text-column", "body"), 2, "no column 'body'", "--text-column")
    refused(said(*(str(word).replace("data.csv", "dta.csv") for word in words[command])), 2, "did you mean 'data.csv'?")


def test_one_row_is_enough_for_an_index_but_not_for_a_classifier(said: Said, news: Tiny, tmp_path: Path):
    data = write_csv(tmp_path / "one.csv", NEWS[:1])
    assert said("index", news.run, data, "--out", tmp_path / "index")[0] == 0
    code, out, _ = said("explain", tmp_path / "index", "the bank", "--json")
    content = json.loads(out)
    assert code == 0
    assert len(content["proponents"]) + len(content["opponents"]) == 1
    code, out, _ = said("labels", tmp_path / "index", "--out", tmp_path / "labels.csv", "--json")
    assert (code, json.loads(out)["n_examples"]) == (0, 1)
    assert said("check", news.run, data)[0] == 0
    refused(said("train", data, "--out", tmp_path / "run"), 2, "only one label (Business)", "two classes")
    assert not (tmp_path / "run").exists()


def test_labels_may_be_names_or_numbers(said: Said, news: Tiny, tmp_path: Path):
    rows = [{**row, "label": runs.LABELS.index(row["label"])} for row in NEWS]
    data = write_csv(tmp_path / "numbers.csv", rows)
    assert said("index", news.run, data, "--out", tmp_path / "index")[0] == 0
    for words in (("the bank fell", "--label", "World"), ("the bank fell", "--label", 2)):
        assert (
            said("explain", tmp_path / "index", *words, "--json")[1] == said("explain", news.index, *words, "--json")[1]
        )
    said("labels", tmp_path / "index", "--out", tmp_path / "numbers-labels.csv")
    said("labels", news.index, "--out", tmp_path / "names-labels.csv")
    assert (tmp_path / "numbers-labels.csv").read_bytes() == (tmp_path / "names-labels.csv").read_bytes()


def test_a_run_of_numbered_labels(said: Said, tmp_path: Path):
    rows = [{**row, "label": 5 * (1 + number % 2)} for number, row in enumerate(runs.rows(8))]
    data = write_csv(tmp_path / "numbers.csv", rows)
    assert said("train", data, "--out", tmp_path / "run", "--epochs", 1, "--max-length", 16)[0] == 0
    assert proponent.Run.from_pretrained(tmp_path / "run").label_names == ("5", "10")
    assert said("index", tmp_path / "run", data, "--out", tmp_path / "index")[0] == 0
    content = json.loads(said("explain", tmp_path / "index", "the bank", "--label", 10, "--json")[1])
    assert content["query"]["label"] == "10"
    refused(
        said("explain", tmp_path / "index", "the bank", "--label", 7), 2, "unknown label '7'", "the run knows: 5, 10"
    )
    refused(said("explain", tmp_path / "index", "the bank", "--label", 1), 2, "unknown label '1'")


def test_a_label_that_no_row_carries(said: Said, news: Tiny, tmp_path: Path):
    data = write_csv(tmp_path / "two.csv", [row for row in NEWS if row["label"] != "World"])
    assert said("index", news.run, data, "--out", tmp_path / "index")[0] == 0
    code, out, _ = said("explain", tmp_path / "index", "the army at the border", "--label", "World", "--json")
    content = json.loads(out)
    assert (code, content["query"]["label"]) == (0, "World")
    assert {hit["label"] for hit in content["proponents"] + content["opponents"]} <= {"Business", "Sports"}
    code, out, _ = said("labels", tmp_path / "index", "--out", tmp_path / "labels.csv", "--json")
    assert "World" not in {one["suggested_label"] for one in json.loads(out)["rows"]}


# ---- texts and options of a question --------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["", " ", "\t\n\u3000"])
def test_an_empty_text(said: Said, news: Tiny, text: str):
    refused(said("explain", news.index, text), 2, "the text is empty: there is nothing to explain")


@pytest.mark.parametrize(
    ("raw", "part"),
    [(b"", "is empty"), (b" \n", "is empty"), (b"caf\xe9", "stdin is not UTF-8 at byte 3"), (b"a\0b", "NUL character")],
)
def test_a_stdin_that_cannot_be_used(said: Said, news: Tiny, monkeypatch: pytest.MonkeyPatch, raw: bytes, part: str):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(raw)))
    refused(said("explain", news.index, "-"), 2, part)


def test_an_argument_that_is_not_utf8(said: Said, news: Tiny):
    refused(said("explain", news.index, os.fsdecode(b"caf\xe9")), 2, "bytes that are not UTF-8 (character 3)")


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (
            ["text", "--label", "Wolrd"],
            ["unknown label 'Wolrd' (did you mean 'World'?)", "(or 0 to 2)"],
        ),
        (["text", "--label", "3"], ["unknown label '3'", "0 to 2"]),
        (["text", "--against", "sport"], ["unknown label 'sport' (did you mean 'Sports'?)"]),
        (["text", "--label", "World", "--against", "2"], ["two different classes"]),
        (["text", "--target", "words"], ["target"]),
        (["text", "--html", "nowhere/why.html"], ["--html nowhere/why.html: there is no folder nowhere"]),
        (["text", "--html", "."], ["--html . is a folder"]),
        (["text", "--queries", "asked.csv"], ["either a TEXT or --queries"]),
        ([], ["either a TEXT or --queries"]),
        (["--queries", "asked.csv", "--label", "World"], ["--label is only for a single TEXT", "column"]),
        (["--queries", "asked.csv", "--pair", "x"], ["--pair is only for a single TEXT"]),
        (["--queries", "asked.csv", "--target", "x"], ["--target is only for a single TEXT"]),
    ],
)
def test_a_question_that_cannot_be_asked(said: Said, news: Tiny, words: Sequence[str], parts: Sequence[str]):
    refused(said("explain", news.index, *words), 2, *parts)


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["the cup", "--label", "World"], "language model and has no labels"),
        (["the cup", "--against", "World"], "language model"),
        (["the cup", "--pair", "the bank"], "language model reads only one"),
        (["a"], "language model needs two tokens"),
        (["the cup " * 40, "--target", "the bank"], "what counts of the text lies beyond the 24 tokens"),
        (["the cup", "--target", " "], "the target of the text is empty"),
    ],
)
def test_a_question_that_a_language_model_cannot_be_asked(said: Said, lines: Tiny, words: Sequence[str], part: str):
    refused(said("explain", lines.index, *words), 2, part)


@pytest.mark.parametrize("content", [b"[" * 100_000, b'{"a":' * 100_000, b"[1", b"\xff"])
def test_a_conversation_that_is_no_json(said: Said, lines: Tiny, tmp_path: Path, content: bytes):
    (tmp_path / "deep.json").write_bytes(content)
    refused(said("explain", lines.index, "--messages", tmp_path / "deep.json"), 2, "deep.json is not valid JSON (")


def test_a_text_that_shares_no_token(said: Said, news: Tiny):
    code, out, err = said("explain", news.index, "☃ ẞ ⌘", "--json")
    assert (code, err) == (0, "")
    assert any("no token of this text occurs in the training set" in note for note in json.loads(out)["notes"])
    code, out, _ = said("explain", news.index, "☃ ẞ ⌘")
    assert code == 0
    assert "no token of this text occurs in the training set" in " ".join(out.split())


def test_a_text_that_is_too_long(said: Said, news: Tiny):
    text = "profit " * 40
    content = json.loads(said("explain", news.index, text, "--json")[1])
    assert content["query"]["truncated_at"] == len("profit " * 22) - 1
    assert any(note.startswith("the text was truncated at character 153") for note in content["notes"])
    assert "the model reads the text to character 153 only" in said("explain", news.index, text)[1]


def test_an_empty_row_of_a_file_of_queries(said: Said, news: Tiny, tmp_path: Path):
    data = write_csv(tmp_path / "asked.csv", [{"id": "a", "text": "a cup"}, {"id": "b", "text": ""}])
    refused(said("explain", news.index, "--queries", data), 2, "1 of 2 rows have an empty text", "row 1 (line 3)")


def test_options_that_cannot_be(said: Said, news: Tiny, tmp_path: Path):
    index = ("index", news.run, news.data, "--out", tmp_path / "index")
    refused(said(*index, "--method", "tracin"), 2, "unknown method 'tracin' (did you mean 'tracin-we'?)", "bm25")
    refused(said(*index, "--path", "both"), 2, "option path 'both' of method tracin-we", "'exact', 'input' or 'output'")
    refused(said(*index, "--path", "output"), 2, "path 'output' needs a head that shares the embedding's table")
    refused(said(*index, "--second-moment", "record"), 2, "--second-moment 'record' (did you mean 'recorded'?)")
    refused(said(*index, "--steps", "8;16"), 2, "--steps '8;16': give numbers separated by commas")
    refused(said(*index, "--steps", "9"), 2, "no checkpoint at step 9", "it has 8, 16")
    refused(said(*index, "--max-length", "1000"), 2, "--max-length 1000 is more than the 24 tokens")
    refused(said(*index, "--id-column", "key"), 2, "no column 'key'", "--id-column")
    labels = ("labels", news.index, "--out", tmp_path / "labels.csv")
    refused(said(*labels, "--ranking", "loss"), 2, "--ranking 'loss'", "choose one of mean-probability, mean-loss")
    refused(said("labels", news.index, "--out", tmp_path), 2, f"--out {tmp_path} is a folder")
    refused(said("labels", news.index, "--out", tmp_path / "no" / "x.csv"), 2, "there is no folder")
    assert list(tmp_path.iterdir()) == []


# ---- runs and indexes -----------------------------------------------------------------------------------------------


def test_runs_that_cannot_be_used(said: Said, news: Tiny, tmp_path: Path, copied: Callable[[Path], Path]):
    index = (news.data, "--out", tmp_path / "index")
    refused(said("index", news.run.parent / "rnu", *index), 2, "no run folder at", "did you mean 'run'?")
    refused(said("index", news.data, *index), 2, "is a file: give the folder of the run")
    (tmp_path / "empty").mkdir()
    refused(said("check", tmp_path / "empty", news.data), 2, "no weights in", "it contains: nothing")
    run = copied(news.run)
    for path in run.rglob("tokenizer*"):
        path.unlink()
    refused(said("index", run, *index), 2, "no tokenizer in", "--tokenizer")
    assert said("index", run, *index, "--tokenizer", news.run / "checkpoint-16")[0] == 0


def test_the_hint_for_a_missing_index_never_writes_into_other_files(said: Said, news: Tiny, tmp_path: Path):
    where = f"proponent index {news.run} DATA --out {news.run}.index"
    refused(said("explain", news.run, "text"), 2, "no index at", "the folder is a training run", where)
    refused(said("explain", news.data, "text"), 2, "the path is a file", "--out NEW_FOLDER")
    (tmp_path / "notes.txt").touch()
    refused(said("explain", tmp_path, "text"), 2, "the folder contains other files", "--out NEW_FOLDER")
    refused(said("serve", news.run), 2, "the folder is a training run", where)
    for name in ("examples", "plans"):  # names that folders of anybody have
        (tmp_path / name).mkdir()
        (tmp_path / name / "readme.md").touch()
    refused(said("verify", tmp_path), 2, f"no index at {tmp_path}")


def test_indexes_that_are_not_there(said: Said, news: Tiny, tmp_path: Path):
    refused(said("explain", tmp_path / "index", "text"), 2, "no index at", "proponent index RUN DATA --out")
    refused(said("labels", tmp_path / "index", "--out", tmp_path / "x.csv"), 2, "no index at")
    unfinished = Path(shutil.copytree(news.index, tmp_path / "index"))
    (unfinished / "manifest.json").unlink()
    refused(said("explain", unfinished, "text"), 2, "is unfinished: run the same `proponent index` command again")


def test_an_index_of_something_else_is_refused_by_name(said: Said, news: Tiny, pairs: Tiny, tmp_path: Path):
    index = Path(shutil.copytree(news.index, tmp_path / "index"))
    held = (index / "manifest.json").read_bytes()
    some = write_csv(tmp_path / "some.csv", NEWS[:-1])
    for words, field in (
        ((news.run, news.data, "--method", "tracin-last"), "method"),
        ((news.run, news.data, "--weights", "equal"), "method"),
        ((news.run, some), "data"),
        ((news.run, some), "add new rows with --append, choose another --out"),
        ((news.run, news.data, "--batch-size", "16"), "its --batch-size is 32, not 16"),
        (
            (news.run, news.data, "--segment-rows", "10"),
            "its number of rows (--segment-rows) of segment 1 is 60, not 10",
        ),
        ((news.run, news.data, "--steps", "8"), "step 16"),
        ((news.run, news.data, "--max-length", "16"), "max_length"),
        ((pairs.run, pairs.data), "label_names"),
    ):
        refused(said("index", *words, "--out", index), 3, "already contains a different index", field)
    assert (index / "manifest.json").read_bytes() == held
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    refused(
        said("index", news.run, news.data, "--out", tmp_path / "mine"), 3, "is not empty and not an index", "notes.txt"
    )
    refused(said("index", news.run, news.data, "--out", some), 3, "is a file")
    refused(said("demo", "--out", tmp_path / "mine", "--quiet"), 3, "the demo did not create", "--out")


def test_a_run_whose_weights_changed(said: Said, news: Tiny, copied: Callable[[Path], Path]):
    run = copied(news.run)
    spoil(run, "classifier.bias", lambda bias: bias + 1)
    refused(said("explain", news.index, "text", "--run", run), 3, "is not the run that", "its weights step", "--run")
    shutil.rmtree(run / "checkpoint-16")
    refused(said("explain", news.index, "text", "--run", run), 3, "weights step")
    shutil.rmtree(run)
    refused(said("explain", news.index, "text", "--run", run), 2, f"no run at {run}", "give its new folder with --run")


def damage(path: Path, how: str) -> None:
    if how == "cut":
        path.write_bytes(path.read_bytes()[:-20])
    elif how == "gone":
        path.unlink()
    else:
        path.write_text(path.read_text().replace('"n":60', '"n":61').replace('"skipped":[]', '"skipped":0'))


@pytest.mark.parametrize(
    ("name", "how"),
    [
        ("manifest.json", "cut"),
        ("manifest.json", "changed"),
        ("plan.json", "cut"),
        ("plan.json", "changed"),
        ("examples/seg-00000.parquet", "gone"),
        ("examples/seg-00000.safetensors", "gone"),
    ],
)
def test_a_damaged_index(said: Said, news: Tiny, tmp_path: Path, name: str, how: str):
    index = Path(shutil.copytree(news.index, tmp_path / "index"))
    damage(index / name, how)
    refused(said("explain", index, "the bank"), 4, str(index), "again")
    refused(said("labels", index, "--out", tmp_path / "x.csv"), 4, str(index))


def test_a_folder_of_other_things_is_refused_by_one_of_them(said: Said, news: Tiny, tmp_path: Path):
    folder = tmp_path / "mine"
    folder.mkdir()
    for name in ("lease", "notes.txt"):  # the first is ours, and left by a build that was refused
        (folder / name).touch()
    refused(said("index", news.run, news.data, "--out", folder), 3, "it contains notes.txt")


def test_an_index_of_a_newer_format(said: Said, news: Tiny, tmp_path: Path):
    index = Path(shutil.copytree(news.index, tmp_path / "index"))
    content = json.loads((index / "plan.json").read_text())
    (index / "plan.json").write_text(json.dumps(content | {"format": 999}))
    refused(said("explain", index, "the bank"), 3, "format 999", "upgrade proponent")


# ---- losses that are not finite -------------------------------------------------------------------------------------


def spoil(run: Path, name: str, change: Callable[[Any], Any]) -> None:
    for path in run.glob("checkpoint-*/model.safetensors"):
        weights = safetensors.numpy.load_file(path)
        weights[name] = change(weights[name])
        safetensors.numpy.save_file(weights, path, {"format": "pt"})


@pytest.fixture
def poisoned(news: Tiny, copied: Callable[[Path], Path]) -> Path:
    """A run for which every text with the word "formula" has no finite loss."""
    run = copied(news.run)
    token = proponent.Run.from_pretrained(run).tokenizer("sum", add_special_tokens=False)["input_ids"]

    def poison(table: Any) -> Any:
        table[token] = np.inf
        return table

    spoil(run, "bert.embeddings.word_embeddings.weight", poison)
    return run


def test_rows_without_a_finite_loss_are_left_out_and_named(said: Said, news: Tiny, poisoned: Path, tmp_path: Path):
    code, out, err = said("index", poisoned, news.data, "--out", tmp_path / "index", "--max-bad-rows", 0.9, "--json")
    assert code == 0
    content = json.loads(out)
    skipped = [one["id"] for one in content["skipped"]]
    assert "formula" in skipped
    assert [one["row"] for one in content["skipped"]] == [row for row, one in enumerate(NEWS) if one["id"] in skipped]
    assert all("not finite at step 8" in one["cause"] for one in content["skipped"])
    assert f"{len(skipped)} training rows have no finite loss or gradient and are left out: ids" in err
    answer = json.loads(said("explain", tmp_path / "index", "the vote in the capital", "-k", 100, "--json")[1])
    shown = {hit["id"] for hit in answer["proponents"] + answer["opponents"]}
    assert shown
    assert not shown & set(skipped)
    for hits in answer["baselines"].values():
        assert len(hits) == len(NEWS) - len(skipped)
        assert not {hit["id"] for hit in hits} & set(skipped)
    report = json.loads(said("labels", tmp_path / "index", "--out", tmp_path / "x.csv", "--json")[1])
    assert {one["id"] for one in report["rows"]} == {one["id"] for one in NEWS} - set(skipped)
    refused(said("explain", tmp_path / "index", "the sum"), 2, "is not finite at step", "nothing can be explained")


def test_too_many_rows_without_a_finite_loss_stop_the_build(said: Said, news: Tiny, poisoned: Path, tmp_path: Path):
    data = write_csv(tmp_path / "twice.csv", [*NEWS, {"id": "more", "text": "the sum of all", "label": "World"}])
    result = said("index", poisoned, data, "--out", tmp_path / "index")
    refused(
        result,
        2,
        "have no finite loss or gradient, more than the 1 that --max-bad-rows 0.01 allows",
        "id formula (row 58)",
        "id more",
    )


# ---- full disks and interrupts --------------------------------------------------------------------------------------


def test_a_full_disk_ends_with_74_and_resumes(said: Said, news: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    calls: list[int] = []

    def full(opened: int, *arguments: Any) -> int:
        calls.append(opened)
        if len(calls) > 15:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(opened, *arguments)

    write = disk.write
    words = ("index", news.run, news.data, "--out", tmp_path / "index")
    with monkeypatch.context() as patch:
        patch.setattr(disk, "write", full)
        refused(said(*words), 74, "no space left", "free some")
    assert list(tmp_path.glob("index/forms/*/*.done")), "what was finished before is kept"
    assert said(*words)[0] == 0
    assert root(tmp_path / "index") == root(news.index)


def root(index: Path) -> str:
    return json.loads((index / "manifest.json").read_text())["merkle_root"]


SLOW = """
import sys, time
from proponent.store import Writer
put = Writer.put_shard
def slow(self, *arguments):
    put(self, *arguments)
    print("a shard is done", file=sys.stderr, flush=True)
    time.sleep(60)
Writer.put_shard = slow
from proponent.cli import main
main()
"""


def test_ctrl_c_in_the_middle_of_a_build_and_again(said: Said, news: Tiny, tmp_path: Path):
    words = ["index", str(news.run), str(news.data), "--out", str(tmp_path / "index")]
    with subprocess.Popen(
        [sys.executable, "-c", SLOW, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        assert process.stdout is not None
        while "a shard is done" not in (line := process.stderr.readline()):
            assert line, "it ended without a shard"
        process.send_signal(signal.SIGINT)
        err, out = process.stderr.read(), process.stdout.read()
    assert process.returncode == 130
    assert err.splitlines()[-1] == "proponent: stopped; finished work is kept: run the same command to resume"
    assert "Traceback" not in err
    assert out == ""
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "index").rglob("*.safetensors")}
    assert kept
    assert not list((tmp_path / "index").rglob("*.tmp"))
    refused(said("explain", tmp_path / "index", "text"), 2, "is unfinished", "to resume")
    assert said(*words)[0] == 0
    assert all(path.stat().st_mtime_ns == when for path, when in kept.items()), "what was finished is not done again"
    assert root(tmp_path / "index") == root(news.index)


@pytest.mark.parametrize("there", [True, False])
def test_ctrl_c_in_the_middle_of_training_leaves_nothing(
    said: Said, news: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: bool
):
    run = tmp_path / "run"
    if there:
        run.mkdir()
    seen: list[bool] = []

    def stop(*_: object, **__: object) -> None:
        seen.append(any(run.iterdir()))
        raise KeyboardInterrupt

    monkeypatch.setattr(proponent.Recorder, "on_save", stop)
    words = ("train", news.data, "--out", run, "--epochs", 1, "--max-length", 16, "--quiet")
    code, out, err = said(*words)
    assert (code, out, err) == (130, "", "proponent: stopped; the unfinished run was removed\n")
    assert seen == [True]  # there was something to remove
    assert run.exists() == there
    assert not there or list(run.iterdir()) == []
    monkeypatch.undo()
    assert said(*words)[0] == 0


@pytest.mark.parametrize(("free", "code"), [(0, 74), (2**30, 1)])
def test_a_full_disk_while_torch_writes_is_a_full_disk(
    said: Said, news: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int, code: int
):
    def stop(*_: object, **__: object) -> None:
        raise RuntimeError("basic_ios::clear: iostream error")  # all that torch.save says

    monkeypatch.setattr(proponent.Recorder, "on_save", stop)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
    found, out, err = said("train", news.data, "--out", tmp_path / "run", "--epochs", 1, "--max-length", 16, "-q")
    assert (found, out) == (code, "")
    assert ("no space left" in err) == (code == 74)
    assert not (tmp_path / "run").exists()
