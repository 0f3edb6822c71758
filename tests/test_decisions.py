"""Decisions beside an index, and the data set that follows from them."""

import json
import multiprocessing
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

import tiny
from proponent.actions.corrections import apply
from proponent.actions.decisions import SUFFIX, Decisions
from proponent.data import read, write_columns
from proponent.errors import DataError, InputError, LabelError
from proponent.store import Store

NAMES = ["Business", "Sports", "World"]


@pytest.fixture
def store(news: tiny.Tiny, tmp_path: Path) -> Store:
    """The index under another name, so that decisions of other tests do not count."""
    link = tmp_path / "mine.index"
    link.symlink_to(news.index)
    return Store(link)


def test_the_last_decision_stands_and_undo_takes_steps_back(store: Store) -> None:
    made = Decisions.of(store)
    made.decide(["n0"], "drop")
    made.decide(["n1", "n2"], "fix", ["World", "Sports"])
    made.decide(["n0"], "keep")
    assert {name: (one.act, one.label) for name, one in made.current.items()} == {
        "n0": ("keep", None), "n1": ("fix", "World"), "n2": ("fix", "Sports")
    }  # fmt: skip
    assert [one.id for one in made.undo()] == ["n0"]
    assert made.current["n0"].act == "drop"
    assert [one.id for one in made.undo()] == ["n1", "n2"]
    assert set(made.current) == {"n0"}
    made.undo()
    assert made.current == {}
    assert made.undo() == ()
    assert made.steps == 0


def test_undo_of_the_same_step_takes_one_step_back_however_often(store: Store) -> None:
    made = Decisions.of(store)
    for name in ("n0", "n1", "n2"):
        made.decide([name], "drop")
    step, _ = made.last_step
    outcomes: list[int] = []
    threads = [threading.Thread(target=lambda: outcomes.append(len(made.undo(step)))) for _ in range(8)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert sorted(outcomes) == [0] * 7 + [1]
    assert set(Decisions.of(store).current) == {"n0", "n1"}


def test_undo_of_a_step_that_is_no_longer_the_last_is_refused(store: Store) -> None:
    made = Decisions.of(store)
    made.decide(["n0"], "drop")
    step, _ = made.last_step
    made.decide(["n1"], "drop")
    with pytest.raises(InputError, match="another decision was made since"):
        made.undo(step)
    assert set(made.current) == {"n0", "n1"}
    assert step != made.last_step[0] != 0


def test_a_file_that_grows_is_read_from_where_it_was_and_a_changed_one_anew(store: Store) -> None:
    made = Decisions.of(store)
    for name in ("n0", "n1", "n2"):
        made.decide([name], "drop")
        assert name in made.current
    made.undo()
    assert set(made.current) == {"n0", "n1"}
    lines = made.path.read_bytes().splitlines(keepends=True)
    assert made._start.lines == len(lines) == 4
    made.path.write_bytes(lines[1] + lines[2] + lines[0].replace(b"n0", b"n3") + lines[1])
    assert set(made.current) == {"n1", "n2", "n3"} == set(Decisions.of(store).current)


def test_clear_takes_one_decision_back_and_is_a_step_itself(store: Store) -> None:
    made = Decisions.of(store)
    made.decide(["n0"], "drop")
    made.decide(["n0"], "clear")
    assert made.current == {}
    made.undo()
    assert made.current["n0"].act == "drop"


def test_another_reader_sees_every_step(store: Store) -> None:
    one, other = Decisions.of(store), Decisions.of(store)
    one.decide(["n0"], "drop")
    assert other.current["n0"].act == "drop"
    other.undo()
    assert one.current == {}


def add(path: Path, name: str) -> None:
    made = Decisions(path, NAMES)
    for number in range(40):
        made.decide([f"{name}-{number}"], "drop")


def test_writers_in_several_processes_lose_nothing(tmp_path: Path) -> None:
    index = tmp_path / "x.index"
    workers = [multiprocessing.get_context("spawn").Process(target=add, args=(index, str(one))) for one in range(3)]
    for one in workers:
        one.start()
    for one in workers:
        one.join()
        assert one.exitcode == 0
    assert len(Decisions(index, NAMES).current) == 120


@pytest.mark.parametrize(
    ("act", "label", "error"),
    [("fix", None, InputError), ("fix", "Busines", LabelError), ("explode", None, InputError), ("", None, InputError)],
)
def test_an_impossible_decision_is_refused_and_not_written(
    store: Store, act: str, label: str | None, error: type[Exception]
) -> None:
    made = Decisions.of(store)
    with pytest.raises(error):
        made.decide(["n0"], act, [label])
    assert not made.path.exists()


def test_a_wrong_label_gets_a_hint(store: Store) -> None:
    with pytest.raises(LabelError, match="did you mean 'Business'"):
        Decisions.of(store).decide(["n0"], "fix", ["Busines"])


def test_a_language_model_has_no_labels_to_fix(tmp_path: Path) -> None:
    with pytest.raises(LabelError, match="language model"):
        Decisions(tmp_path / "x", None).decide(["a"], "fix", ["b"])


def test_a_torn_last_line_is_no_step_and_the_next_one_is_whole(store: Store) -> None:
    made = Decisions.of(store)
    made.decide(["n0"], "drop")
    with made.path.open("ab") as file:
        file.write(b'{"step": [{"id": "n1", "act')
    again = Decisions.of(store)
    assert set(again.current) == {"n0"}
    again.decide(["n2"], "drop")
    assert set(Decisions.of(store).current) == {"n0", "n2"}


@pytest.mark.parametrize(
    "line",
    ["nonsense", "[]", '{"step": 3, "when": "x"}', '{"step": [{"id": 3, "act": "drop"}], "when": "x"}',
     '{"step": [{"id": "a", "act": "explode"}], "when": "x"}', '{"step": [{"id": "a", "act": "fix"}], "when": "x"}',
     '{"step": [{"id": "a", "act": "fix", "label": "Mars"}], "when": "x"}', '{"when": "x"}', "3", "null"],
)  # fmt: skip
def test_a_line_that_is_no_decision_is_named(store: Store, line: str) -> None:
    made = Decisions.of(store)
    made.path.write_text(f"{line}\n", encoding="utf-8")
    with made.path.open("a", encoding="utf-8") as file:
        file.write('{"undo": true, "when": "x"}\n')
    with pytest.raises(DataError, match="line 1: invalid decision"):
        _ = made.current


def test_decisions_about_other_data_are_counted(store: Store) -> None:
    Decisions(store.folder, NAMES, "other").decide(["n0"], "drop")
    made = Decisions.of(store)
    made.decide(["n1"], "drop")
    assert set(made.current) == {"n0", "n1"}
    assert made.foreign == 1


def test_ids_of_any_kind_come_back(store: Store) -> None:
    strange = ["a\nb", "\u2028", "\ud800", '"}', "日本", "", " ", "{{ x }}"]
    made = Decisions.of(store)
    for one in strange:
        made.decide([one], "drop")
    assert list(Decisions.of(store).current) == strange
    assert len(made.path.read_bytes().splitlines()) == len(strange)


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_the_mended_data_is_the_input_but_for_the_decisions(store: Store, news: tiny.Tiny, suffix: str) -> None:
    made = Decisions.of(store)
    made.decide(["n0"], "drop")
    made.decide(["n1"], "fix", ["World"])
    made.decide(["n2"], "keep")
    made.decide(["gone"], "drop")
    out = store.folder.parent / f"mended{suffix}"
    before = news.data.read_bytes()
    done = apply(store, made, out, guard=False)
    given, mended = list(read(news.data)), list(read(out))
    changed = next(one for one in given if one.id == "n1").label != "World"
    assert (done.rows, done.dropped, done.fixed) == (len(given) - 1, 1, int(changed))
    expected = [(one.id, one.text, "World" if one.id == "n1" else one.label) for one in given if one.id != "n0"]
    assert [(one.id, one.text, one.label) for one in mended] == expected
    assert news.data.read_bytes() == before


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
@pytest.mark.parametrize("index", ["news", "pairs", "lines"])
def test_a_file_made_in_blocks_is_the_one_made_at_once(
    index: str, suffix: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    store = Store(request.getfixturevalue(index).index)
    ids = store.examples["id"]
    made = Decisions(tmp_path / "mine.decisions.jsonl", store.plan.label_names)
    made.decide([str(one) for one in (*ids[:4], ids[6], ids[-1])], "drop")
    dropped = {0, 1, 2, 3, 6, len(ids) - 1}
    names = store.manifest.sources[0].columns
    whole = {
        names.get(role) or role: [one for place, one in enumerate(store.examples[role]) if place not in dropped]
        for role in ("id", "text", "text_pair", "target", "label", "source")
        if any(one is not None for one in store.examples[role])
    }
    write_columns(tmp_path / f"whole{suffix}", whole, suffix, guard=True)
    monkeypatch.setattr(
        "proponent.actions.corrections.read_local", lambda *_: None
    )  # only what the index keeps is there
    monkeypatch.setattr("proponent.data.stored.GROUP", 3)
    monkeypatch.setattr("proponent.data.arrow._STRETCH", 5)
    assert apply(store, made, tmp_path / f"blocks{suffix}", guard=True).rows == len(ids) - 6
    assert (tmp_path / f"blocks{suffix}").read_bytes() == (tmp_path / f"whole{suffix}").read_bytes()


def test_without_decisions_the_data_comes_back_with_its_fingerprint(store: Store, news: tiny.Tiny) -> None:
    out = store.folder.parent / "same.csv"
    apply(store, Decisions.of(store), out, guard=False)
    assert read(out).fingerprint == read(news.data).fingerprint


def test_a_spreadsheet_does_not_run_the_mended_data(store: Store) -> None:
    out = store.folder.parent / "safe.csv"
    assert apply(store, Decisions.of(store), out, guard=True).guarded == 1
    assert "'=SUM(A1)" in out.read_text(encoding="utf-8")


def test_apply_replaces_nothing_and_names_what_it_cannot_write(store: Store) -> None:
    made, folder = Decisions.of(store), store.folder.parent
    (folder / "there.csv").write_text("mine", encoding="utf-8")
    for name, told in (("there.csv", "exists"), ("x.xlsx", "choose .csv, .jsonl or .parquet"), ("no/x.csv", "folder")):
        with pytest.raises(InputError, match=told):
            apply(store, made, folder / name)
    assert (folder / "there.csv").read_text(encoding="utf-8") == "mine"
    assert not (folder / "x.xlsx").exists()


def test_pairs_and_targets_keep_their_columns(pairs: tiny.Tiny, lines: tiny.Tiny, tmp_path: Path) -> None:
    for number, one in enumerate((pairs, lines)):
        store = Store(one.index)
        out = tmp_path / f"{number}.jsonl"
        apply(store, Decisions(tmp_path / "none", store.plan.label_names), out)
        rows = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
        assert rows == [dict(row) for row in one.rows]


def test_the_command_writes_the_data_set(store: Store, said: Callable[..., tuple[int, str, str]]) -> None:
    out = store.folder.parent / "cli.csv"
    code, told, hints = said("apply", store.folder, "--out", out)
    assert (code, "0 labels fixed" in told, "no decisions" in hints, "spreadsheet" in hints) == (0, True, True, False)
    safe = store.folder.parent / "safe.csv"
    assert "' for spreadsheets" in said("apply", store.folder, "--out", safe, "--spreadsheet-safe")[2]
    Decisions.of(store).decide(["n0"], "drop")
    again = store.folder.parent / "again.jsonl"
    code, told, _ = said("apply", store.folder, "--out", again, "--json")
    assert code == 0
    assert json.loads(told)["dropped"] == 1
    assert said("apply", store.folder, "--out", again)[0] == 2
    assert store.folder.with_name(store.folder.name + SUFFIX).exists()
