"""Looking after an index through the command line: plan, verify, info, delete, merge, append, shares, filters."""

import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

import proponent
import runs
import tiny
from proponent import disk
from proponent.data import read
from proponent.index import Options, planning
from proponent.method_table import stored_method
from proponent.models import Run
from proponent.preconditioners.base import Cost, ModelFacts, fitters_of
from proponent.store import Manifest, Store, Writer, merge
from proponent.types import CheckpointId
from tiny import NEWS, Tiny, write_csv

Said = Callable[..., tuple[int, str, str]]
MORE = [row | {"id": f"more-{row['id']}", "source": "new"} for row in runs.rows(9, seed=5)]
ROWS = [row | {"source": ("web", "book")[number % 2]} for number, row in enumerate(NEWS)]
TEXT = "The bank: profit fell after the vote"


def refused(result: tuple[int, str, str], code: int, *parts: str) -> None:
    """One line on stderr with every part in it, nothing on stdout, no traceback, and this exit code."""
    found, out, err = result
    last = err.splitlines()[-1]
    assert (found, out) == (code, ""), err
    assert "Traceback" not in err
    assert last.startswith("proponent: ")
    assert [part for part in parts if part not in last] == [], last


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """A classifier, its data with sources, and an index of seven shards per checkpoint."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(planning, "SHARD_ROWS", (9, 9))
        return tiny.made(tmp_path_factory.mktemp("kept"), ROWS)


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "SHARD_ROWS", (9, 9))


@pytest.fixture
def index(kept: Tiny, tmp_path: Path) -> Path:
    """A copy of the index, to be spoiled."""
    return Path(shutil.copytree(kept.index, tmp_path / "index"))


@pytest.fixture
def more(tmp_path: Path) -> Path:
    """More data of the same kind."""
    return write_csv(tmp_path / "more.csv", MORE)


@pytest.fixture
def content(said: Said) -> Callable[..., dict[str, Any]]:
    """The one line of JSON of a command that ends well."""

    def ask(*words: object) -> dict[str, Any]:
        code, out, err = said(*words, "--json")
        assert code == 0, err
        assert out.count("\n") == 1
        return json.loads(out)

    return ask


Content = Callable[..., dict[str, Any]]


def hits(answer: dict[str, Any]) -> set[str]:
    return {hit["id"] for hit in answer["proponents"] + answer["opponents"]}


def everything(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def flip(path: Path, place: int) -> None:
    held = bytearray(path.read_bytes())
    held[place] ^= 1
    path.write_bytes(held)


# ---- verify ---------------------------------------------------------------------------------------------------------


def test_a_whole_index_is_said_to_be_whole(said: Said, content: Content, index: Path):
    found = content("verify", index)
    sealed = {name: sums.size for name, sums in Store(index).manifest.files.items()}
    assert (found["finished"], found["whole"], found["damage"], found["strays"]) == (True, True, [], [])
    assert (found["files"], found["bytes"]) == (len(sealed), sum(sealed.values()))
    code, out, err = said("verify", index)
    assert (code, err) == (0, "")
    assert out.startswith(f"{index}: intact: {len(sealed)} files, ")
    assert "iB/s)" in out


@pytest.mark.parametrize("kind", ["forms", "postings", "examples", "plan.json"])
def test_a_changed_byte_is_found_by_file_and_place(said: Said, index: Path, kind: str):
    path = next(path for path in sorted(index.rglob("*")) if path.is_file() and kind in path.as_posix())
    name, size = path.relative_to(index).as_posix(), path.stat().st_size
    flip(path, size // 2)
    code, out, err = said("verify", index)
    assert code == 4
    assert out.splitlines()[1:] == [f"{name} differs from what was written: bytes 0 to {size:,}"]
    assert err.splitlines()[-1].startswith("proponent: 1 of the ")
    assert err.splitlines()[-1].endswith(f"({name} differs from what was written)")
    code, out, _ = said("verify", index, "--json", "--quiet")
    assert code == 4
    assert json.loads(out)["whole"] is False
    assert json.loads(out)["damage"] == [
        {"file": name, "problem": "differs from what was written", "ranges": [[0, size]]}
    ]


def test_only_the_changed_blocks_are_named(said: Said, index: Path):
    path, size = index / "big.bin", 5 * 256 * 1024 + 7
    manifest = Store(index).manifest
    path.write_bytes(bytes(size))
    from proponent.store.checksums import sums_of_file
    from proponent.store.layout import Layout
    from proponent.store.repair import publish_manifest

    held = manifest.model_copy(update={"files": manifest.files | {"big.bin": sums_of_file(path)}})
    publish_manifest(Layout(index), held)
    for place in (256 * 1024, 3 * 256 * 1024 - 1, size - 1):
        flip(path, place)
    code, out, _ = said("verify", index, "--json")
    assert code == 4
    assert json.loads(out)["damage"][0]["ranges"] == [[256 * 1024, 3 * 256 * 1024], [5 * 256 * 1024, size]]


@pytest.mark.parametrize("kind", ["forms", "postings", "examples"])
@pytest.mark.parametrize("how", ["changed", "cut", "gone"])
def test_the_way_to_mend_a_damaged_index_mends_it(said: Said, kept: Tiny, index: Path, kind: str, how: str):
    path = next(path for path in sorted(index.rglob("*")) if path.is_file() and kind in path.as_posix())
    before = everything(index)
    if how == "changed":
        flip(path, path.stat().st_size // 2)
    elif how == "cut":
        path.write_bytes(path.read_bytes()[:-9])
    else:
        path.unlink()
    code, _, err = said("verify", index)
    assert code == 4
    told = next(line for line in err.splitlines() if line.startswith("to repair it: "))
    words = told.removeprefix("to repair it: ").split(" (")[0].split()
    assert words == [
        "proponent",
        "index",
        str(kept.run),
        str(kept.data),
        *f"--out {index} --method tracin-we-idf --repair".split(),
    ]
    assert said(*words[1:])[0] == 0
    assert said("verify", index)[0] == 0
    after = everything(index)
    assert {name for name in before if before[name] != after[name]} <= {"manifest.json"}  # it holds times


def test_without_repair_a_changed_byte_stays(said: Said, kept: Tiny, index: Path):
    path = next(index.glob("postings/*/*"))
    flip(path, path.stat().st_size // 2)
    assert said("index", kept.run, kept.data, "--out", index)[0] == 0  # as long as it was: a full check is for --repair
    assert said("verify", index)[0] == 4


def test_an_index_that_was_added_to_is_not_made_again(said: Said, kept: Tiny, index: Path, more: Path):
    assert said("index", kept.run, more, "--out", index, "--append")[0] == 0
    path = next(index.glob("postings/*/*"))
    flip(path, path.stat().st_size // 2)
    code, _, err = said("verify", index)
    assert code == 4
    assert "to repair it: restore the files from a copy: only a first build" in err
    refused(said("index", kept.run, kept.data, "--out", index, "--repair"), 4, str(path), "build the index again")


def test_a_changed_manifest(said: Said, index: Path):
    path = index / "manifest.json"
    path.write_text(path.read_text().replace('"generation":1', '"generation":2'))
    refused(said("verify", index), 4, str(path), "its digest differs")


def test_files_that_belong_to_nothing_are_hints(said: Said, index: Path):
    (index / "notes.txt").write_text("mine")
    (index / "forms" / "x.safetensors.77.tmp").write_text("left by a kill")
    code, out, err = said("verify", index)
    assert code == 0
    assert ": intact: " in out
    assert err.splitlines() == [
        f"{index}: forms/x.safetensors.77.tmp (temporary) is not part of the index",
        f"{index}: notes.txt is not part of the index",
    ]
    assert said("verify", index, "--quiet")[2] == ""


def test_no_index_to_look_after(said: Said, tmp_path: Path):
    for words in (["verify"], ["info"], ["merge"], ["delete", "--ids", "a"]):
        refused(said(words[0], tmp_path / "nowhere", *words[1:]), 2, f"no index at {tmp_path / 'nowhere'}")


# ---- info and plan --------------------------------------------------------------------------------------------------


def test_info_counts_what_is_there(content: Content, kept: Tiny):
    found = content("info", kept.index)
    store = Store(kept.index)
    assert (found["method"], found["run"], found["rows"]) == ("tracin-we-idf", str(kept.run), "fp32")
    assert [(one["data"], one["rows"]) for one in found["sources"]] == [(str(kept.data), 60)]
    assert found["sources"][0]["fingerprint"] == store.manifest.sources[0].fingerprint
    assert (found["examples"], found["deleted"], found["skipped"], found["segments"]) == (60, 0, 0, 1)
    assert [one["step"] for one in found["checkpoints"]] == [8, 16]
    shards = [arrays["rows.ids"] for step in (8, 16) for _, arrays in store.shards(CheckpointId(0, step))]
    assert found["gradient_rows"] == sum(map(len, shards))
    assert found["tokens"] == len(np.unique(np.concatenate(shards)))
    sizes = {name: len(data) for name, data in everything(kept.index).items()}
    for kind in ("forms", "postings", "examples", "tables"):
        assert found["bytes"][kind] == sum(size for name, size in sizes.items() if name.startswith(f"{kind}/"))
    assert sum(found["bytes"].values()) == sum(sizes.values())
    assert found["seconds"] == store.manifest.seconds
    assert found["examples_per_second"] == pytest.approx(60 / sum(found["seconds"].values()))
    assert found["peak_rss"] > 50 * 2**20
    assert (found["merkle_root"], found["generation"]) == (store.manifest.merkle_root, 1)


def test_info_for_people(said: Said, kept: Tiny, monkeypatch: pytest.MonkeyPatch):
    for width in (80, 140):
        monkeypatch.setenv("COLUMNS", str(width))
        code, out, err = said("info", kept.index)
        assert (code, err) == (0, "")
        whole = " ".join(out.split())
        for part in ("method tracin-we", "examples 60", "deleted 0", "segments 1", "step 8, step 16", "kept as fp32"):
            assert part in whole
        assert max(map(len, out.splitlines())) <= width


def test_info_of_a_method_that_keeps_no_rows(content: Content, kept: Tiny, tmp_path: Path):
    content("index", kept.run, kept.data, "--out", tmp_path / "last", "--method", "tracin-last")
    found = content("info", tmp_path / "last")
    assert (found["gradient_rows"], found["tokens"], found["bytes"]["postings"]) == (0, 0, 0)


FORECAST = {
    "stages": [{"name": "gradients", "seconds": 2.0}, {"name": "dreaming", "seconds": 0.5}],
    "peak_rss": 2**30,
    "disk": {"forms": 1000, "postings": 0},
}


def test_a_forecast_stands_beside_what_was(said: Said, content: Content, kept: Tiny, tmp_path: Path):
    (tmp_path / "plan.json").write_text(json.dumps(FORECAST))
    found = content("info", kept.index, "--forecast", tmp_path / "plan.json")
    by_name = {one["what"]: one for one in found["forecast"]}
    spent = found["seconds"]["gradients"]
    assert by_name["seconds of gradients"]["forecast"] == 2.0
    assert by_name["seconds of gradients"]["real"] == spent
    assert by_name["seconds of gradients"]["ratio"] == pytest.approx(spent / 2)
    assert by_name["bytes of forms"]["ratio"] == pytest.approx(found["bytes"]["forms"] / 1000)
    assert by_name["peak memory"]["ratio"] == pytest.approx(found["peak_rss"] / 2**30)
    dreamt = {"what": "seconds of dreaming", "forecast": 0.5, "real": None, "ratio": None}
    assert by_name["seconds of dreaming"] == dreamt
    assert set(found["seconds"]) == {"tokenize", "load", "gradients", "tables", "postings", "seal"}
    assert all(seconds > 0 for seconds in found["seconds"].values())
    assert by_name["bytes of postings"]["ratio"] is None  # of nothing there is no share
    code, out, _ = said("info", kept.index, "--forecast", tmp_path / "plan.json")
    assert code == 0
    assert "predicted and actual cost" in out
    assert f"2.00 {spent:.2f} {spent / 2:.2f}" in " ".join(out.split())


@pytest.mark.parametrize(
    "raw", ["", "[]", "{}", '{"stages": 3, "peak_rss": 1, "disk": {}}', '{"stages": [], "disk": {}}']
)
def test_a_file_that_is_no_forecast(said: Said, kept: Tiny, tmp_path: Path, raw: str):
    (tmp_path / "plan.json").write_text(raw)
    refused(
        said("info", kept.index, "--forecast", tmp_path / "plan.json"), 2, "is not a forecast", "proponent plan --json"
    )
    refused(said("info", kept.index, "--forecast", tmp_path / "no.json"), 2, "is not a forecast")


@pytest.mark.parametrize(
    ("method", "changes", "second_moment", "passes"),
    [
        ("tracin-we-adam", {}, "estimate", (0, 0)),
        ("tracin-all", {}, "recorded", (0, 0)),
        ("datainf", {}, "recorded", (0, 0)),
        ("ekfac", {}, "recorded", (0, 1)),
        ("ekfac", {"fisher": "sampled"}, "recorded", (0, 2)),
        ("trackstar", {}, "estimate", (1, 0)),
        ("representer", {}, "recorded", (1, 0)),
    ],
)
def test_passes_besides_the_gradients_are_foreseen(
    method: str, changes: dict[str, Any], second_moment: str, passes: tuple[int, int]
):
    facts = ModelFacts(2, (9, 4), False, (), (), Options(second_moment=second_moment))
    costs = [one.cost(facts) for one in fitters_of(stored_method(method, **changes))]
    assert (sum(one.before for one in costs), sum(one.after for one in costs)) == passes


def test_a_pass_besides_the_gradients_is_foreseen_once(kept: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    run, options = Run.from_pretrained(kept.run), Options(quiet=True)
    module: Any = import_module("proponent.cost.forecast")
    forecaster = module._Forecaster(run, read(kept.data), stored_method("tracin-all"), options, tmp_path, 0.0)
    monkeypatch.setattr(module, "timed", lambda work: (work(), 0.0)[1])

    def stages(before: int, after: int) -> dict[str, float]:
        forecaster.costs = [Cost(before=before, after=after)]
        return {stage.name: stage.seconds for stage in forecaster.whole().stages}

    none, both = stages(0, 0), stages(3, 1)
    assert both["curvature"] > 0
    assert both["tables"] - none["tables"] == pytest.approx(3 * both["curvature"])


def test_plan_says_what_an_index_will_cost(
    said: Said, content: Content, kept: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    found = content("plan", kept.run, kept.data, "--rows", "int8")
    assert (found["n"], found["checkpoints"]) == (60, 2)
    assert {one["name"] for one in found["stages"]} >= {"tokenize", "gradients", "postings"}
    assert all(one["seconds"] >= 0 for one in found["stages"])
    assert found["peak_rss"] > 50 * 2**20
    (tmp_path / "plan.json").write_text(json.dumps(found))
    assert content("info", kept.index, "--forecast", tmp_path / "plan.json")["forecast"]
    code, out, _ = said("plan", kept.run, kept.data, "--quiet")
    assert code == 0
    assert " ".join(out.split()).startswith(f"tracin-we-idf of {kept.data}: 60 examples, 2 checkpoints what forecast")
    for part in ("seconds of gradients", "peak memory", "bytes of forms"):
        assert part in out
    assert out.index("seconds in all") < out.index("bytes in all") < out.index("seconds of")
    last = proponent.Run.from_pretrained(kept.run).checkpoints[-1].step
    text = " ".join(out.split())
    assert "last checkpoint only: about 0 s, " in text or "last checkpoint only: about 1 s, " in text
    assert f"(--steps {last})" in text
    assert f"(--steps {last} --rows fp16)" in text
    whole = content("plan", kept.run, kept.data)
    own = {one["name"]: one for one in whole["choices"]}
    assert list(own) == ["last checkpoint only", "fp16", "both"]
    assert own["both"]["bytes"] < own["last checkpoint only"]["bytes"] < whole["bytes"]
    assert own["last checkpoint only"]["seconds"] < whole["seconds"] == own["fp16"]["seconds"]
    assert [one["name"] for one in found["choices"]] == ["last checkpoint only"], "int8 is shorter than fp16"
    alone = content("plan", kept.run, kept.data, "--steps", last)
    assert alone["bytes"] == pytest.approx(own["last checkpoint only"]["bytes"], rel=0.1)
    assert [one["name"] for one in alone["choices"]] == ["fp16"]
    assert list(here.iterdir()) == [], "nothing is left behind"
    assert content("plan", kept.run, kept.data, "--method", "influence-last")["checkpoints"] == 1, "it takes the last"
    assert "curvature" not in {one["name"] for one in found["stages"]}
    curved = content("plan", kept.run, kept.data, "--method", "ekfac", "--set", "fisher=sampled")
    spent = {one["name"]: one["seconds"] for one in curved["stages"]}
    assert spent["curvature"] > 0, "two passes more"
    assert any(
        "not in the forecast: time, memory and disk space for the matrices of curvature ekfac" in note
        for note in curved["notes"]
    )
    refused(said("plan", kept.run, kept.data, "--rows", "fp8"), 2, "--rows 'fp8'", "fp32, fp16, int8")


# ---- delete and merge -----------------------------------------------------------------------------------------------


def test_deleted_examples_are_no_hits_and_merge_removes_them(
    said: Said, content: Content, kept: Tiny, index: Path, tmp_path: Path
):
    before = content("explain", index, TEXT, "-k", 100)
    victims = sorted(hits(before))[:3]
    code, out, err = said("delete", index, "--ids", ",".join(victims))
    assert (code, out) == (0, f"{index}: 3 examples deleted, 57 remain\n")
    assert err == f"to free their disk space, run `proponent merge {index}`\n"
    after = content("explain", index, TEXT, "-k", 100)
    assert hits(after) == hits(before) - set(victims)
    assert "3 deleted training examples are excluded" in after["notes"]
    assert [content("info", index)[name] for name in ("examples", "deleted", "segments")] == [57, 3, 1]
    text = next(row["text"] for row in ROWS if row["id"] == victims[0])
    assert text in Store(index).examples["text"]
    found = content("merge", index)
    assert (found["merged"], found["segments_before"], found["segments"]) == (True, 1, 1)
    assert found["bytes_freed"] > 0
    assert text not in Store(index).examples["text"]
    assert [content("info", index)[name] for name in ("examples", "deleted")] == [57, 0]
    last = content("explain", index, TEXT, "-k", 100)
    assert hits(last) == hits(after)
    data = write_csv(tmp_path / "left.csv", [row for row in ROWS if row["id"] not in victims])
    content("index", kept.run, data, "--out", tmp_path / "left")  # a merge counts the document frequencies again
    left = content("explain", tmp_path / "left", TEXT, "-k", 100)
    assert {hit["id"]: hit["score"] for hit in last["proponents"]} == pytest.approx(
        {hit["id"]: hit["score"] for hit in left["proponents"]}, rel=1e-5, abs=1e-9
    )
    assert said("merge", index) == (0, f"{index}: there was nothing to merge\n", "")
    assert said("verify", index)[0] == 0


def test_what_is_deleted_may_be_said_in_three_ways(content: Content, kept: Tiny, tmp_path: Path):
    copies = [Path(shutil.copytree(kept.index, tmp_path / name)) for name in "abc"]
    wanted = [row["id"] for row in ROWS if row["label"] == "Sports" and row["source"] == "web"]
    (tmp_path / "ids.txt").write_bytes("\ufeff{}\r\n\r\n".format("\r\n".join(wanted)).encode())
    found = [
        content("delete", copies[0], "--ids", ",".join(wanted)),
        content("delete", copies[1], "--ids-file", tmp_path / "ids.txt"),
        content("delete", copies[2], "--where", "label=1", "--where", "source=web"),
    ]
    assert [one["deleted"] for one in found] == [len(wanted)] * 3
    assert [one["examples"] for one in found] == [60 - len(wanted)] * 3
    assert len({one["merkle_root"] for one in found}) == 1
    again = content("delete", copies[0], "--ids", wanted[0])
    assert (again["deleted"], again["merkle_root"]) == (0, found[0]["merkle_root"])


def test_several_values_of_a_column_are_alternatives(content: Content, index: Path):
    found = content("delete", index, "--where", "label=Sports", "--where", "label=World")
    assert found["examples"] == sum(row["label"] == "Business" for row in ROWS)
    assert {Store(index).examples["label"][place] for place in np.flatnonzero(Store(index).alive)} == {"Business"}


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        ([], ["either --ids, --ids-file or --where"]),
        (["--ids", "n0", "--where", "label=World"], ["either --ids, --ids-file or --where"]),
        (["--ids", ""], ["--ids contains no id"]),
        (["--ids", ","], ["--ids contains no id"]),
        (["--ids", "n0,a,b,c,d,e,f"], ["has the id 'a', 'b', 'c', 'd', 'e' and 1 more"]),
        (["--where", "label"], ["--where 'label': give label=VALUE or source=VALUE", "label=Business"]),
        (["--where", "label="], ["give label=VALUE"]),
        (["--where", "topic=x"], ["--where 'topic=x'"]),
        (["--where", "label=Sprts"], ["unknown class 'Sprts' (did you mean 'Sports'?)"]),
        (["--where", "label=3"], ["unknown class '3'"]),
        (["--where", "source=wob"], ["has the source 'wob'"]),
        (["--where", "label=0", "--where", "label=1", "--where", "label=2"], ["every example", "delete the folder"]),
        (["--ids-file", "{tmp}/none.txt"], ["none.txt", "one id per line"]),
        (["--ids-file", "{tmp}/empty.txt"], ["contains no id"]),
        (["--ids-file", "{tmp}/latin.txt"], ["is not UTF-8 at byte 3"]),
    ],
)
def test_what_cannot_be_deleted(said: Said, index: Path, tmp_path: Path, words: list[str], parts: list[str]):
    (tmp_path / "empty.txt").write_text("\n \n")
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9\n")
    before = everything(index)
    refused(said("delete", index, *(word.format(tmp=tmp_path) for word in words)), 2, *parts)
    assert everything(index) == before


def test_an_interrupted_merge_resumes(said: Said, content: Content, kept: Tiny, more: Path, tmp_path: Path):
    index = Path(shutil.copytree(kept.index, tmp_path / "index"))
    content("index", kept.run, more, "--out", index, "--append")
    whole = Path(shutil.copytree(index, tmp_path / "whole"))
    content("merge", whole)

    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    before = content("explain", index, TEXT)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys.modules[merge.__module__], "write_postings", stop)
        code, out, err = said("merge", index)
    assert (code, out, err) == (130, "", "proponent: stopped; finished work is kept: run the same command to resume\n")
    assert content("explain", index, TEXT) == before, "until it is done the index is what it was"
    code, _, err = said("verify", index)
    assert code == 0
    assert "a change was started but not finished (plans/merge-00003.json): run the command of that merge again" in err
    assert content("merge", index)["merged"]
    assert Store(index).manifest.merkle_root == Store(whole).manifest.merkle_root


@pytest.mark.parametrize("command", ["delete", "merge"])
def test_a_full_disk_changes_nothing(
    said: Said, content: Content, index: Path, monkeypatch: pytest.MonkeyPatch, command: str
):
    content("delete", index, "--ids", "n1")
    before = content("explain", index, TEXT)

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    words = (command, index, *(["--ids", "n0"] if command == "delete" else []))
    with monkeypatch.context() as patch:
        patch.setattr(disk, "write", full)
        refused(said(*words), 74, str(index), "no space left", "free some space and run again")
    assert content("explain", index, TEXT) == before
    assert said("verify", index)[0] == 0
    assert said(*words)[0] == 0
    assert content("info", index)["examples"] == (58 if command == "delete" else 59)


# ---- append ---------------------------------------------------------------------------------------------------------


def test_append_adds_rows(said: Said, content: Content, kept: Tiny, index: Path, more: Path, tmp_path: Path):
    words = ("index", kept.run, more, "--out", index, "--append")
    assert content(*words)["examples"] == 69
    found = content("info", index)
    assert [(one["data"], one["rows"]) for one in found["sources"]] == [(str(kept.data), 60), (str(more), 9)]
    assert (found["segments"], found["generation"]) == (2, 2)
    answer = content("explain", index, TEXT, "-k", 100)
    data = write_csv(tmp_path / "both.csv", [*ROWS, *MORE])
    content("index", kept.run, data, "--out", tmp_path / "both")
    whole = content("explain", tmp_path / "both", TEXT, "-k", 100)
    assert hits(answer) == hits(whole)
    root = Store(index).manifest.merkle_root
    code, _, err = said(*words)
    assert code == 0
    assert f"{more} is in {index} already: nothing to append" in err
    assert Store(index).manifest.merkle_root == root
    merged = content("merge", index)
    assert (merged["segments_before"], merged["segments"]) == (2, 1)
    again = content("explain", index, TEXT, "-k", 100)
    assert [hit["id"] for hit in again["proponents"]] == [hit["id"] for hit in whole["proponents"]]


def test_an_append_of_another_kind_is_refused_by_name(said: Said, kept: Tiny, pairs: Tiny, index: Path, more: Path):
    words = ("index", kept.run, more, "--out", index, "--append")
    root = Store(index).manifest.merkle_root
    refused(said(*words, "--method", "tracin-last"), 3, "its method gradient kind is embedding-rows, not head")
    refused(said(*words, "--max-length", 16), 3, "its max_length is 24, not 16")
    refused(said(*words, "--rows", "int8"), 3, "its rows is fp32, not int8")
    other = ("index", pairs.run, pairs.data, "--out", index, "--append")
    refused(said(*other), 3, "its label_names 1 is Business, not other")
    assert Store(index).manifest.merkle_root == root


def test_an_append_of_another_model_names_both(
    said: Said, kept: Tiny, index: Path, more: Path, copied: Callable[[Path], Path]
):
    run = copied(kept.run)
    for path in run.glob("checkpoint-*/model.safetensors"):
        weights = safetensors.numpy.load_file(path)
        weights["classifier.bias"] = weights["classifier.bias"] + 1
        safetensors.numpy.save_file(weights, path, {"format": "pt"})
    mine, theirs = (proponent.Run.from_pretrained(one).fingerprints["weights step 16"] for one in (kept.run, run))
    assert mine != theirs
    refused(
        said("index", run, more, "--out", index, "--append"), 3, f"weights step 16 is {mine[:57]}", f"not {theirs[:57]}"
    )


def test_known_ids_are_not_appended(said: Said, kept: Tiny, index: Path, tmp_path: Path):
    mixed = write_csv(tmp_path / "mixed.csv", [*MORE[:2], ROWS[0], ROWS[5]])
    refused(
        said("index", kept.run, mixed, "--out", index, "--append"),
        2,
        f"2 ids of {mixed} are in {index} already (n0, n5)",
        "--id-column",
    )
    refused(said("index", kept.run, mixed, "--out", tmp_path / "none", "--append"), 2, "no index at", "to append to")


def test_merge_and_delete_wait_for_an_append(said: Said, content: Content, kept: Tiny, index: Path, more: Path):
    words = ("index", kept.run, more, "--out", index, "--append")

    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Writer, "seal", stop)
        code, _, err = said(*words)
    assert (code, err.splitlines()[-1]) == (
        130,
        "proponent: stopped; finished work is kept: run the same command to resume",
    )
    for command in (("merge", index), ("delete", index, "--ids", "n0")):
        refused(said(*command), 2, f"an append to {index} was not finished: run its command again")
    code, _, err = said("verify", index)
    assert code == 0
    assert (
        "a change was started but not finished (plans/append-00002.json): run the command of that append again" in err
    )
    assert content("info", index)["examples"] == 60
    assert content(*words)["examples"] == 69
    assert content("merge", index)["merged"]


def test_odd_texts_are_appended(said: Said, content: Content, kept: Tiny, index: Path, tmp_path: Path):
    rows = [
        {"id": "void", "text": "", "label": "World"},
        {"id": "vast", "text": "the bank " * 100_000, "label": "World"},
    ]
    data = write_csv(tmp_path / "odd.csv", rows)
    words = ("index", kept.run, data, "--out", index, "--append")
    refused(said(*words), 2, "1 of 2 rows have an empty text", "row 0", "--allow-empty")
    assert Store(index).n == 60
    code, _, err = said(*words, "--allow-empty")
    assert code == 0
    assert f"1 training texts of {data} reach the limit of 24 tokens; tokens beyond the limit were ignored" in err
    assert "1 training texts reach the limit" in err  # that of the first build is another
    (tmp_path / "ids.txt").write_text("vast\n")
    whole = " ".join(
        said("explain", index, "the bank", "--ids-file", tmp_path / "ids.txt", "--no-baselines")[1].split()
    )
    assert "id vast" in whole
    answer = content("explain", index, "the bank " * 100_000, "-k", 1, "--no-baselines", "--where", "source=book")
    assert answer["query"]["truncated_at"] == 98
    assert any(note.startswith("the text was truncated at character 98") for note in answer["notes"])


# ---- shares, unfinished and incomplete indexes ----------------------------------------------------------------------


@pytest.fixture
def share(said: Said, kept: Tiny, tmp_path: Path) -> Path:
    """An index of which one process of two has done its share."""
    folder = tmp_path / "share"
    words = ("index", kept.run, kept.data, "--out", folder, "--method", "tracin-we")  # norms need every share
    assert said(*words, "--shard", "0/2")[0] == 0
    return folder


def test_shares_make_one_index(said: Said, content: Content, kept: Tiny, tmp_path: Path):
    folder = tmp_path / "share"
    words = ("index", kept.run, kept.data, "--out", folder, "--shard")
    code, out, err = said(*words, "0/2")
    assert code == 0
    assert out == f"{folder} is unfinished: 55% of the examples are in it: run the other parts\n"
    assert "the index is complete when the other shares are finished" in err
    found = content(*words, "0/2")
    assert found == {"index": str(folder), "finished": False, "coverage": 0.55}
    assert content(*words, "1/2")["examples"] == 60
    assert Store(folder).manifest.merkle_root == Store(kept.index).manifest.merkle_root


@pytest.mark.parametrize("text", ["3/2", "2/2", "0", "-1/2", "a/b", "0/0"])
def test_a_share_that_is_none(said: Said, kept: Tiny, tmp_path: Path, text: str):
    words = ("index", kept.run, kept.data, "--out", tmp_path / "index", f"--shard={text}")
    refused(said(*words), 2, f"--shard {text!r}: give i/N with i from 0 to N - 1")
    assert not (tmp_path / "index").exists()


def test_a_share_that_no_shard_falls_to(said: Said, kept: Tiny, tmp_path: Path):
    words = ("index", kept.run, kept.data, "--out", tmp_path / "index", "--shard")
    refused(
        said(*words, "7/9"), 2, "--shard 7/9: there are 7 shards to share, so this share is empty: leave --shard out"
    )
    assert not (tmp_path / "index").exists()
    assert said(*words, "6/9")[0] == 0


def test_an_unfinished_index_is_asked_only_on_request(said: Said, content: Content, share: Path):
    refused(said("explain", share, TEXT), 2, "is unfinished: run the same `proponent index` command again", "--partial")
    answer = content("explain", share, TEXT, "-k", 100, "--partial")
    assert answer["notes"][0] == (
        "PARTIAL: this index is unfinished; 55% of the training examples are in it, and only they can be hits"
    )
    assert 0 < len(hits(answer)) <= 33
    assert "PARTIAL: this index is unfinished; 55%" in " ".join(said("explain", share, TEXT, "--partial")[1].split())
    found = content("info", share)
    assert (found["finished"], found["coverage"], found["merkle_root"]) == (False, 0.55, None)
    assert "unfinished; 55% of the examples are in it" in " ".join(said("info", share)[1].split())
    for command in (("merge", share), ("delete", share, "--ids", "n0")):
        refused(said(*command), 2, "is unfinished")


def test_the_finished_files_of_an_unfinished_index_are_verified(said: Said, share: Path):
    code, out, _ = said("verify", share)
    assert code == 0
    assert out.splitlines()[0] == (
        f"{share} is unfinished: only its finished files are checked; run the same `proponent index` command to resume"
    )
    assert ": intact: 9 files" in out  # four shards of two checkpoints, and the examples
    path = next(share.glob("forms/*/*.safetensors"))
    flip(path, path.stat().st_size // 2)
    code, out, err = said("verify", share, "--json")
    assert code == 4
    assert (json.loads(out)["finished"], json.loads(out)["whole"]) == (False, False)
    assert "to repair it: remove these files" in err


def test_a_missing_shard(said: Said, content: Content, kept: Tiny, index: Path, tmp_path: Path):
    path = index / "forms" / "step-8" / "seg-00000-shard-00002.safetensors"
    path.unlink()
    refused(said("explain", index, TEXT), 4, f"{path} is missing", "--repair", "--allow-missing")
    refused(said("labels", index, "--out", tmp_path / "x.csv"), 4, f"{path} is missing")
    refused(said("info", index), 4, f"{path} is missing")
    answer = content("explain", index, TEXT, "-k", 100, "--allow-missing")
    assert answer["notes"][0] == (
        "INCOMPLETE: 1 shards of this index are missing; 85% of the training examples are in it, and only they can be "
        "hits"
    )
    places = np.asarray(Store(kept.index).segments[0].order[18:27]).tolist()
    lost = {ROWS[place]["id"] for place in places}
    assert not hits(answer) & lost
    whole = content("explain", kept.index, TEXT, "-k", 100)
    assert hits(answer) == hits(whole) - lost
    code, out, err = said("labels", index, "--out", tmp_path / "x.csv", "--allow-missing", "--json")
    assert code == 0
    assert "INCOMPLETE: shards are missing; 85% of the training examples are ranked" in err
    assert {one["id"] for one in json.loads(out)["rows"]} == {row["id"] for row in ROWS} - lost


def test_a_link_in_place_of_a_shard(said: Said, index: Path, tmp_path: Path):
    path = index / "forms" / "step-8" / "seg-00000-shard-00002.safetensors"
    elsewhere = path.rename(tmp_path / "elsewhere.safetensors")
    path.symlink_to(elsewhere)
    refused(said("explain", index, TEXT), 4, f"{path} is a link, and an index contains no links")
    code, out, _ = said("verify", index, "--json")
    assert code == 4
    name = path.relative_to(index).as_posix()
    assert json.loads(out)["damage"] == [
        {"file": name, "problem": "is a link, and an index contains no links", "ranges": []}
    ]


def test_repair_puts_a_file_in_place_of_a_link(said: Said, kept: Tiny, index: Path, tmp_path: Path):
    path = index / "forms" / "step-8" / "seg-00000-shard-00002.safetensors"
    elsewhere = path.rename(tmp_path / "elsewhere.safetensors")
    path.symlink_to(elsewhere)
    assert said("index", kept.run, kept.data, "--out", index, "--repair")[0] == 0
    assert not path.is_symlink()
    assert elsewhere.is_file()
    assert said("verify", index)[0] == 0


def test_repair_removes_nothing_outside_of_the_index(said: Said, kept: Tiny, index: Path, tmp_path: Path):
    words = ("index", kept.run, kept.data, "--out", index, "--repair")
    elsewhere = (index / "postings").rename(tmp_path / "elsewhere")
    before = everything(elsewhere)
    (index / "postings").symlink_to(elsewhere)
    refused(
        said(*words),
        4,
        f"{index}/postings/step-16",
        "is a link, and an index contains no links: replace it with a regular file",
    )
    (index / "postings").unlink()
    elsewhere.rename(index / "postings")
    mine = tmp_path / "mine.txt"
    mine.write_text("mine")
    held = Manifest.model_validate_json((index / "manifest.json").read_bytes())
    evil = held.model_copy(update={"files": held.files | {"../mine.txt": held.files["plan.json"]}}).sealed()
    (index / "manifest.json").write_text(json.dumps(evil.model_dump()))
    refused(said(*words), 4, "../mine.txt is not a path inside the index")
    assert mine.read_text() == "mine"
    assert (index / "manifest.json").is_file()
    assert before == everything(index / "postings")


def test_an_append_to_a_damaged_index_leaves_its_seal(said: Said, kept: Tiny, index: Path, more: Path):
    path = index / "postings" / "step-8" / "seg-00000.safetensors"
    path.unlink()
    before = everything(index)
    words = ("index", kept.run, more, "--out", index, "--append")
    for also in ((), ("--repair",)):
        refused(
            said(*words, *also),
            4,
            f"{path} is missing or differs from what was written: repair the index",
            "proponent verify",
        )
    assert everything(index) == before
    assert said("index", kept.run, kept.data, "--out", index)[0] == 0
    assert said(*words)[0] == 0


def test_an_append_with_other_options_is_not_told_to_delete(said: Said, kept: Tiny, index: Path, more: Path):
    result = said("index", kept.run, more, "--out", index, "--append", "--rows", "int8")
    refused(result, 3, "its rows is fp32, not int8: append with the run and the options of the first build")
    assert "delete" not in result[2]


def test_the_way_out_of_a_missing_file_is_one(said: Said, kept: Tiny, index: Path, more: Path):
    features = index / "examples" / "seg-00000.safetensors"
    held = features.read_bytes()
    features.unlink()
    _, _, err = said("explain", index, TEXT, "--allow-missing")
    assert "--repair" in err
    assert "--allow-missing" not in err
    features.write_bytes(held)
    assert said("index", kept.run, more, "--out", index, "--append")[0] == 0
    (index / "postings" / "step-8" / "seg-00000.safetensors").unlink()
    _, _, err = said("merge", index)
    assert "restore it, or build the index again (or continue without it: `proponent explain --allow-missing`" in err


def test_what_a_lost_manifest_costs_is_said_and_true(said: Said, kept: Tiny, index: Path, more: Path):
    assert said("index", kept.run, more, "--out", index, "--append")[0] == 0
    path = index / "manifest.json"
    path.write_bytes(path.read_bytes().replace(b'"generation":2', b'"generation":3'))
    refused(
        said("verify", index), 4, "its digest differs", "run the first `proponent index` command", "what was appended"
    )
    path.unlink()
    assert said("index", kept.run, kept.data, "--out", index, "--repair")[0] == 0
    assert Store(index).n == 60
    assert said("index", kept.run, more, "--out", index, "--append")[0] == 0
    assert Store(index).n == 69
    assert said("verify", index)[0] == 0


@pytest.mark.parametrize(
    ("version", "named"),
    [
        (999, ("format 999, newer than the 3", "upgrade proponent")),
        (1, ("format 1, older than the 2", "build the index again")),
    ],
)
def test_another_format(said: Said, index: Path, version: int, named: tuple[str, str]):
    for name in ("plan.json", "manifest.json"):
        held = json.loads((index / name).read_text())
        (index / name).write_text(json.dumps(held | {"format": version}))
    for words in (
        ("verify",),
        ("info",),
        ("merge",),
        ("delete", "--ids", "n0"),
        ("explain", TEXT),
        ("labels", "--out", "x"),
    ):
        refused(said(words[0], index, *words[1:]), 3, *named)


@pytest.fixture
def read_only(index: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that nobody may write to, root neither."""
    real = os.open

    def refuse(path: Any, flags: int, *arguments: Any, **named: Any) -> int:
        inside = isinstance(path, str | os.PathLike) and Path(path).is_relative_to(index)
        if inside and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
        return real(path, flags, *arguments, **named)

    folders = [index, *(path for path in index.rglob("*") if path.is_dir())]
    with monkeypatch.context() as patch:
        patch.setattr(os, "open", refuse)
        for folder in folders:
            folder.chmod(0o555)
        yield index
        for folder in folders:
            folder.chmod(0o755)


def test_a_folder_that_is_read_only_is_read(said: Said, content: Content, kept: Tiny, read_only: Path, tmp_path: Path):
    before = everything(read_only)
    assert content("explain", read_only, TEXT) == content("explain", kept.index, TEXT)
    assert content("verify", read_only)["whole"]
    assert content("info", read_only)["examples"] == 60
    assert said("labels", read_only, "--out", tmp_path / "labels.csv")[0] == 0
    why = (f"{read_only} is read-only (Read-only file system)", "copy it")
    refused(said("delete", read_only, "--ids", "n0"), 2, *why)
    refused(said("merge", read_only), 2, *why)
    refused(said("index", kept.run, kept.data, "--out", read_only), 2, *why)
    assert everything(read_only) == before


# ---- rows, kernels, filters, rows that are not finite ---------------------------------------------------------------


@pytest.mark.parametrize(("rows", "most"), [("fp16", 2e-3), ("int8", 2e-2)])
def test_shorter_rows_are_said_and_smaller(
    said: Said, content: Content, kept: Tiny, tmp_path: Path, rows: str, most: float
):
    code, _, err = said("index", kept.run, kept.data, "--out", tmp_path / "short", "--rows", rows)
    assert code == 0
    assert f"gradient rows are stored as {rows} with one scale each: scores are rounded" in err
    found, whole = content("info", tmp_path / "short"), content("info", kept.index)
    assert found["rows"] == rows
    assert found["bytes"]["forms"] < whole["bytes"]["forms"]
    ours, theirs = (
        {hit["id"]: hit["score"] for hit in content("explain", folder, TEXT, "-k", 100)["proponents"]}
        for folder in (tmp_path / "short", kept.index)
    )
    largest = max(theirs.values())
    assert ours.keys() & theirs.keys()
    assert all(abs(ours[one] - theirs[one]) <= most * largest for one in ours.keys() & theirs.keys())


def test_rows_of_a_kind_that_is_not_known(said: Said, kept: Tiny, tmp_path: Path):
    words = ("index", kept.run, kept.data, "--out", tmp_path / "index")
    refused(said(*words, "--rows", "fp8"), 2, "--rows 'fp8'", "choose one of fp32, fp16, int8")
    refused(said(*words, "--rows", "int8", "--method", "tracin-last"), 2, "--rows int8 is for rows of the word")
    refused(said(*words, "--segment-rows", "0"), 2, "--segment-rows")
    assert not (tmp_path / "index").exists()


def test_segment_rows_cut_the_data(content: Content, kept: Tiny, tmp_path: Path):
    content("index", kept.run, kept.data, "--out", tmp_path / "index", "--segment-rows", 25)
    assert content("info", tmp_path / "index")["segments"] == 3
    assert hits(content("explain", tmp_path / "index", TEXT, "-k", 100)) == hits(
        content("explain", kept.index, TEXT, "-k", 100)
    )


def test_filters_of_a_question(content: Content, kept: Tiny, tmp_path: Path):
    rows = {row["id"]: row for row in ROWS}
    whole = content("explain", kept.index, TEXT, "-k", 100)
    sports = content("explain", kept.index, TEXT, "-k", 100, "--where", "label=Sports", "--where", "label=2")
    assert hits(sports) == {one for one in hits(whole) if rows[one]["label"] in {"Sports", "World"}}
    assert "filtered: only training examples with label Sports, World" in sports["notes"]
    web = content("explain", kept.index, TEXT, "-k", 100, "--where", "source=web", "--where", "label=Sports")
    assert hits(web) == {one for one in hits(whole) if (rows[one]["source"], rows[one]["label"]) == ("web", "Sports")}
    (tmp_path / "ids.txt").write_text("n3\nn4\nlong\n")
    some = content("explain", kept.index, TEXT, "-k", 100, "--ids-file", tmp_path / "ids.txt")
    assert hits(some) == hits(whole) & {"n3", "n4", "long"}
    for hit_list in some["baselines"].values():
        assert {hit["id"] for hit in hit_list} <= {"n3", "n4", "long"}


def test_filters_that_find_nothing(said: Said, kept: Tiny, tmp_path: Path):
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "ids.txt").write_text("n0\nnobody\n")
    explain = ("explain", kept.index, TEXT)
    refused(said(*explain, "--where", "label=Wolrd"), 2, "unknown class 'Wolrd' (did you mean 'World'?)")
    refused(said(*explain, "--where", "source=wob"), 2, "no training example", "has the source 'wob'")
    refused(said(*explain, "--where", "web"), 2, "--where 'web': give label=VALUE or source=VALUE")
    refused(said(*explain, "--ids-file", tmp_path / "ids.txt"), 2, "has the id 'nobody'")
    refused(said(*explain, "--ids-file", tmp_path / "empty.txt"), 2, "contains no id")
    refused(said(*explain, "--kernel", "cuda"), 2, "--kernel 'cuda'", "choose one of numpy, numba")


def test_another_column_of_sources(said: Said, content: Content, kept: Tiny, tmp_path: Path):
    rows = [{name: value for name, value in row.items() if name != "source"} | {"from": row["source"]} for row in ROWS]
    data = write_csv(tmp_path / "from.csv", rows)
    words = ("index", kept.run, data, "--out", tmp_path / "index")
    content(*words, "--source-column", "from")
    assert Store(tmp_path / "index").examples["source"] == [row["source"] for row in ROWS]
    refused(
        said("index", kept.run, data, "--out", tmp_path / "x", "--source-column", "fro"), 2, "no column 'fro'", "from"
    )
    content("index", kept.run, kept.data, "--out", tmp_path / "none", "--source-column", "")
    assert set(Store(tmp_path / "none").examples["source"]) == {None}


def test_both_kernels_say_the_same(content: Content, kept: Tiny):
    pytest.importorskip("numba")
    ours, theirs = (content("explain", kept.index, TEXT, "--kernel", kernel) for kernel in ("numba", "numpy"))
    assert [hit["id"] for hit in ours["proponents"]] == [hit["id"] for hit in theirs["proponents"]]
    np.testing.assert_allclose(
        [hit["score"] for hit in ours["proponents"]], [hit["score"] for hit in theirs["proponents"]], rtol=1e-6
    )


def test_rows_without_a_finite_gradient_can_be_deleted_for_good(
    content: Content, kept: Tiny, copied: Callable[[Path], Path], tmp_path: Path
):
    run = copied(kept.run)
    token = proponent.Run.from_pretrained(run).tokenizer("sum", add_special_tokens=False)["input_ids"]
    for path in run.glob("checkpoint-*/model.safetensors"):
        weights = safetensors.numpy.load_file(path)
        weights["bert.embeddings.word_embeddings.weight"][token] = np.nan
        safetensors.numpy.save_file(weights, path, {"format": "pt"})
    found = content("index", run, kept.data, "--out", tmp_path / "index", "--max-bad-rows", 0.9)
    skipped = [one["id"] for one in found["skipped"]]
    assert "formula" in skipped
    assert content("info", tmp_path / "index")["skipped"] == len(skipped)
    assert content("delete", tmp_path / "index", "--ids", ",".join(skipped))["deleted"] == len(skipped)
    content("merge", tmp_path / "index")
    assert not set(Store(tmp_path / "index").examples["id"]) & set(skipped)
    assert content("info", tmp_path / "index")["skipped"] == 0
    assert hits(content("explain", tmp_path / "index", TEXT))


# ---- what is not loaded ---------------------------------------------------------------------------------------------

LIGHT = """
import contextlib, io, sys
from proponent.cli import main
code = None
with contextlib.redirect_stdout(io.StringIO()):
    try:
        main(sys.argv[1:])
    except SystemExit as leaving:
        code = leaving.code
print(code, *sorted({"torch", "transformers", "datasets", "pandas"} & set(sys.modules)))
"""


@pytest.mark.parametrize(
    "words",
    [["verify"], ["info", "--json"], ["delete", "--ids", "n0,n7"], ["delete", "--where", "label=World"], ["merge"]],
)
def test_looking_after_an_index_needs_no_torch(index: Path, words: list[str]):
    done = subprocess.run(
        [sys.executable, "-c", LIGHT, words[0], str(index), *words[1:]], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["0"], done.stderr


def test_that_check_can_fail(kept: Tiny):
    done = subprocess.run(
        [sys.executable, "-c", LIGHT, "explain", str(kept.index), TEXT], capture_output=True, text=True, check=True
    )
    assert {"torch", "transformers"} <= set(done.stdout.split())
