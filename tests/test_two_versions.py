"""Two versions of the program on one index: the older one says so in one line and changes nothing."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import tiny
from proponent.store import Store
from proponent.web.questions import Questions
from proponent.web.states import Question

Said = Callable[..., tuple[int, str, str]]


def newer(path: Path) -> None:
    path.write_text(json.dumps(json.loads(path.read_bytes()) | {"format": 99}), encoding="utf-8")


def contents(folder: Path) -> dict[Path, bytes]:
    """All files of an index and beside it, but the one whose bytes are locked."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != "lease"}


@pytest.mark.parametrize("finished", [True, False])
def test_no_command_of_an_older_version_changes_an_index_of_a_newer_one(
    news: tiny.Tiny, tmp_path: Path, said: Said, finished: bool
) -> None:
    home = tmp_path / "home"
    folder = Path(shutil.copytree(news.index, home / "x.index"))
    newer(folder / "plan.json")
    if finished:
        newer(folder / "manifest.json")
    else:
        (folder / "manifest.json").unlink()
    before = contents(home)
    commands = [
        ("explain", folder, "text"), ("labels", folder, "--out", tmp_path / "l.csv"),
        ("apply", folder, "--out", tmp_path / "out.csv"),
        ("delete", folder, "--ids", "n0"), ("merge", folder), ("index", news.run, news.data, "--out", folder),
        ("index", news.run, news.data, "--out", folder, "--append"),
        ("index", news.run, news.data, "--out", folder, "--repair"),
        ("groups", folder, "text", "--by", "label"),
    ]  # fmt: skip
    for words in commands:
        code, out, err = said(*words, "--quiet")
        assert (code, out) == (3, ""), (words, code, err)
        assert "format 99, newer than the" in err, (words, err)
        assert "upgrade proponent" in err
        assert contents(home) == before, words
    assert not (tmp_path / "out.csv").exists()


def test_answers_and_questions_of_a_newer_version_are_left_alone(news: tiny.Tiny, tmp_path: Path) -> None:
    """What an older version cannot read is neither shown nor rewritten, as long as nobody asks the same again."""
    index = tmp_path / "x.index"
    index.symlink_to(news.index)
    kept = Questions(index, Store(index).manifest.merkle_root)
    kept.folder.mkdir()
    asked = {"text": "x", "colour": "green"}
    line = {"id": "1" * 20, "root": kept._root, "question": asked, "predicted": None, "explained": None}
    (kept.folder / "questions.jsonl").write_text(json.dumps(line | {"when": "x", "hits": {}}) + "\n", encoding="utf-8")
    (kept.folder / f"{kept.identity(Question('x'))}.json").write_text(json.dumps({"question": asked}), encoding="utf-8")
    before = contents(kept.folder)
    assert kept.list() == {}
    assert kept.get(Question("x")) is None
    assert contents(kept.folder) == before
