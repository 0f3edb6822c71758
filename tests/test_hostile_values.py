"""Values that stand in files of somebody else, and make a reader slow, greedy or trusting."""

import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import enemies
import tiny
from enemies import adapter_folder, model_folder, opened
from explorer import Browser
from proponent.actions.decisions import Decision, Decisions
from proponent.errors import DataError, RunError
from proponent.models import Run
from proponent.plain_text import one_line, visible
from proponent.store import Manifest, Store, verify
from proponent.store.manifest import canonical, merkle_root
from proponent.types import Example
from proponent.web.questions import Questions
from proponent.web.slots import BusyError
from proponent.web.states import Question
from runs import edit

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # of peft

PATIENCE = 10.0
"""Seconds of the processor that linear work on the inputs below never takes, and quadratic work exceeds by far."""


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return model_folder(tmp_path / "home")


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    return adapter_folder(tmp_path / "home")


def seconds_of(act: Callable[[], object]) -> float:
    began = time.process_time()
    act()
    return time.process_time() - began


# ---- text ----


@given(st.text(alphabet=" \t\n\rab\0", max_size=40))
def test_one_line_is_the_slow_expression(text: str) -> None:
    assert one_line(text) == visible(re.sub(r" *[\t\n\r][ \t\n\r]*", " ", text))


@pytest.mark.parametrize("text", [" " * 400_000 + "x", (" " * 1000 + "\n") * 400, "\t " * 200_000])
def test_long_blanks_in_a_message_take_linear_time(text: str) -> None:
    assert seconds_of(lambda: str(DataError(f"a value {text} of a file"))) < PATIENCE


def test_a_model_card_of_blanks_takes_linear_time(model: Path) -> None:
    with (model / "README.md").open("a") as file:
        file.write(" " * 1_000_000 + "x\n" + "\t" * 500_000 + "-" + " " * 500_000)
    assert seconds_of(lambda: Run.from_pretrained(model)) < PATIENCE


# ---- runs ----


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"r": 200_000_000}, "states a rank of 200,000,000"),
        ({"rank_pattern": {".*": 200_000_000}}, "states a rank of 200,000,000"),
        ({"layer_replication": [[0, 1]] * 200_000}, "repeats 200,000 ranges of layers"),
    ],
)
def test_sizes_that_the_weights_of_an_adapter_cannot_have_are_refused(
    adapter: Path, change: dict[str, Any], said: str
) -> None:
    edit(adapter / "adapter_config.json", **change)
    with pytest.raises(RunError, match=said):
        opened(adapter)


def test_an_adapter_that_adds_a_token_far_away_is_refused_without_memory(adapter: Path) -> None:
    edit(adapter / "adapter_config.json", trainable_token_indices=[1_000_000_000])
    with pytest.raises(RunError, match="over 1000000001 tokens"):
        opened(adapter)


def test_attention_code_of_a_package_that_is_not_there_is_not_fetched(model: Path) -> None:
    edit(model / "config.json", attn_implementation="flash_attention_2")
    with pytest.raises(RunError, match=r"attention code from a hub \(flash_attention_2\)"):
        opened(model)
    edit(model / "config.json", attn_implementation="eager")
    opened(model)


def test_no_limit_is_no_damage(model: Path) -> None:
    edit(model / "config.json", time_step_limit=[0.0, float("inf")])
    opened(model)
    edit(model / "config.json", dropout=float("inf"))
    with pytest.raises(RunError, match="the configuration is damaged"):
        opened(model)


def test_a_tokenizer_that_gives_up_is_named(model: Path) -> None:
    path = model / "tokenizer.json"
    slow = {"type": "Split", "pattern": {"Regex": "(a|a|aa)+b"}, "behavior": "Isolated", "invert": False}
    path.write_text(json.dumps(json.loads(path.read_text()) | {"pre_tokenizer": slow}))
    run = Run.from_pretrained(model)
    with pytest.raises(RunError, match=r"the tokenizer of this run does not work .*retry"):
        run.encoder(16).encode([Example("a", 0, "a" * 60, "World")])


def test_a_tokenizer_without_its_unknown_token_is_named(model: Path) -> None:
    path = model / "tokenizer.json"
    made = json.loads(path.read_text())
    made["model"]["unk_token"] = "[GONE]"
    path.write_text(json.dumps(made))
    with pytest.raises(RunError, match=r"the tokenizer (of this run|in .*) does not work .*UNK"):
        opened(model)


# ---- decisions ----


STEPS = st.lists(st.sampled_from([*[(act, name) for act in ("drop", "keep", "clear") for name in "abc"], None]))


def lines_of(steps: list[tuple[str, str] | None]) -> bytes:
    made = [{"undo": True} if one is None else {"step": [{"id": one[1], "act": one[0]}]} for one in steps]
    return b"".join(json.dumps({"when": "2026-01-01", "data": "d"} | one).encode() + b"\n" for one in made)


def replayed(steps: list[tuple[str, str] | None]) -> dict[str, str]:
    kept: list[tuple[str, str]] = []
    for one in steps:
        if one is not None:
            kept.append(one)
        elif kept:
            kept.pop()
    found: dict[str, str] = {}
    for act, name in kept:
        found.pop(name, None) if act == "clear" else found.update({name: act})
    return found


@given(first=STEPS, second=STEPS)
def test_undo_is_a_replay_also_of_a_file_that_grew(
    tmp_path_factory: pytest.TempPathFactory, first: Any, second: Any
) -> None:
    folder = tmp_path_factory.mktemp("log")
    made, path = Decisions(folder / "x", None, "d"), folder / "x.decisions.jsonl"
    for steps in (first, first + second):
        path.write_bytes(lines_of(steps))
        current: dict[str, Decision] = dict(made.current)
        assert {name: one.act for name, one in current.items()} == replayed(steps)


def test_thousands_of_undos_take_linear_time(tmp_path: Path) -> None:
    path = tmp_path / "x.decisions.jsonl"
    path.write_bytes(lines_of([("drop", f"n{one}") for one in range(10_000)] + [None] * 10_000))
    assert seconds_of(lambda: Decisions(tmp_path / "x", None, "d").current) < PATIENCE


# ---- explorer ----


@pytest.fixture
def index(news: tiny.Tiny, tmp_path: Path) -> Path:
    link = tmp_path / "mine.index"
    link.symlink_to(news.index)
    return link


def test_an_example_of_a_searched_list_waits_for_nobody(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Browser(index)
    url = "/example?id=n1&list=q%3D.%26how%3Dregex"
    assert " of " in made.get(url).seen.partition("Back to examples (")[2][:20]

    def busy() -> Any:
        raise BusyError("others search")

    monkeypatch.setattr(made.open_indexes.first.table, "_searching", busy)
    page = made.get(url)
    assert page.status == 200
    assert "Back to examples" in page.seen
    assert "Back to examples (" not in page.seen


def test_a_step_of_thousands_of_digits_is_refused(index: Path) -> None:
    made = Browser(index)
    assert made.post("/undo", {"back": "/table", "step": "9" * 5000}).status == 400


def test_a_list_of_questions_without_end_is_not_read(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held = Questions(index, Store(index).manifest.merkle_root)
    made = {"id": "a", "root": Store(index).manifest.merkle_root, "question": Question(text="x").plain, "when": "now",
            "predicted": None, "explained": None}  # fmt: skip
    held.folder.mkdir(exist_ok=True)
    lines = [made | {"hits": {}}, made | {"id": "b", "hits": {f"n{one}": [1, 1.0] for one in range(100_000)}}]
    (held.folder / "questions.jsonl").write_text("".join(json.dumps(one) + "\n" for one in lines))
    assert list(held.list()) == ["a"]


# ---- verify ----


def test_verify_sees_what_no_reader_opens(tmp_path: Path) -> None:
    folder = enemies.index_folder(tmp_path)
    path = folder / "manifest.json"
    whole = Manifest.model_validate_json(path.read_bytes())
    for change in ({"files": {}, "merkle_root": merkle_root({})}, {"sources": []}):
        sealed = whole.model_copy(update=change).sealed()
        path.write_text(canonical(sealed.model_dump()) + "\n", encoding="utf-8")
        assert verify(folder).damage
