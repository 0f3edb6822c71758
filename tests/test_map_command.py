"""`proponent map`: the page, its rows, colours, refusals before any work."""

import csv
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest

from proponent.actions.example_map import COLOURS, colours, example_map, influence, kinds_of
from proponent.errors import InputError
from proponent.store import Store
from tiny import Tiny

Said = Callable[..., tuple[int, str, str]]


def test_one_run_writes_the_page_and_the_rows(said: Said, news: Tiny, tmp_path: Path) -> None:
    files = [tmp_path / f"map{ending}" for ending in (".html", ".json", ".csv", ".jsonl", ".parquet")]
    code, out, err = said("map", news.index, *(word for one in files for word in ("--out", one)), "--json")
    assert code == 0, err
    told = json.loads(out)
    store = Store(news.index)
    made = example_map(store)
    assert told["out"] == [str(one) for one in files]
    assert (told["of"], told["examples"], told["drawn"], told["left_out"]) == ("hidden", 60, 60, 0)
    assert told["shares"] == list(made.shares)
    assert (told["kind"], told["kinds"]) == ("given label", dict(Counter(store.examples["label"])))
    html = files[0].read_text(encoding="utf-8")
    assert "coloured by given label</bdi>; all 60 examples are drawn" in html
    assert "<script" not in html
    assert "<a href" not in html, "a file of its own has no explorer to lead to"
    assert json.loads(files[1].read_text(encoding="utf-8"))["plot"]["kind_name"] == "given label"
    with files[2].open(encoding="utf-8", newline="") as lines:
        rows = list(csv.DictReader(lines))
    assert list(rows[0]) == ["id", "row", "x", "y", "kind"]
    assert [one["id"] for one in rows] == list(store.examples["id"])
    assert [one["kind"] for one in rows] == list(store.examples["label"])
    np.testing.assert_array_equal([[float(one["x"]), float(one["y"])] for one in rows], made.places)
    assert json.loads(files[3].read_text(encoding="utf-8").splitlines()[3])["x"] == float(made.places[3, 0])
    assert pyarrow.parquet.read_table(files[4]).column_names == ["id", "row", "x", "y", "kind"]  # pyright: ignore[reportUnknownMemberType]
    code, out, _ = said("map", news.index, "--out", tmp_path / "other.html", "--of", "gradients", "--colour", "plain")
    assert code == 0
    assert out.startswith(f"{tmp_path / 'other.html'}: 60 examples by their gradients; all 60 examples are drawn; the")
    assert "coloured by" not in (tmp_path / "other.html").read_text(encoding="utf-8")


def test_every_colour_of_an_index_is_that_of_its_examples(news: Tiny, lines: Tiny) -> None:
    store = Store(news.index)
    made = example_map(store)
    named = {one: kinds_of(store, made, one) for one in colours(store)}
    assert set(named) >= {"label", "predicted", "flag", "influence", "plain"}
    assert [named["label"].names[at] for at in named["label"].codes] == list(store.examples["label"])
    assert named["predicted"].codes.tolist() == store.features["mean_probabilities"].argmax(1).tolist()
    helped = [named["influence"].names[at].startswith("helped") for at in named["influence"].codes]
    assert helped == (influence(store) >= 0).tolist()
    other = Store(lines.index)
    assert "label" not in colours(other)
    with pytest.raises(InputError, match="the examples of this index have no given label: choose one of "):
        kinds_of(other, example_map(other), "label")
    assert {*colours(store), *colours(other)} <= set(COLOURS)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--out", "map.txt"], "choose a name that ends in .html, .json, .csv, .jsonl, .parquet"),
        (["--out", "nowhere/map.html"], "there is no folder nowhere"),
        (["--out", "here.csv"], "--out here.csv exists already and is not overwritten: choose another name"),
        (["--out", "map.html", "--of", "hiden"], "--of 'hiden' (did you mean 'hidden'?)"),
        (["--out", "map.html", "--colour", "red"], "--colour 'red'"),
        (["--out", "map.html", "--colour", "system"], "the examples of this index have no system prompt"),
        ([], "Missing option '--out'"),
    ],
)
def test_refusals(
    said: Said, news: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("here.csv").write_text("mine", encoding="utf-8")
    code, out, err = said("map", news.index, *words)
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1
    assert [one.name for one in tmp_path.iterdir()] == ["here.csv"]
    assert Path("here.csv").read_text(encoding="utf-8") == "mine"


def test_an_example_without_a_place_has_no_numbers(
    said: Said, lines: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def without_first(store: Store, space: object) -> object:
        made = example_map(store)
        made.places[0] = np.nan
        return made

    monkeypatch.setattr("proponent.actions.example_map.example_map", without_first)
    code, out, err = said("map", lines.index, "--out", tmp_path / "map.jsonl", "--out", tmp_path / "map.csv")
    assert code == 0, err
    assert "19 examples by their hidden states" in out
    first = json.loads((tmp_path / "map.jsonl").read_text(encoding="utf-8").splitlines()[0])
    assert (first["x"], first["y"]) == (None, None)
    assert (tmp_path / "map.csv").read_text(encoding="utf-8").splitlines()[1].split(",")[2:4] == ["", ""]
