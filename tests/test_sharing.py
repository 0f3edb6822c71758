"""Several processes at one index: each shard is computed once, and the index is the one that a single process makes."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import proponent
from proponent.errors import InputError
from proponent.index import planning
from proponent.index.planning import SegmentPlan
from proponent.index.worker import Worker
from proponent.store import Store, Writer, verify
from runs import OTHERS

ROWS = [{**row, "id": f"{row['id']}-{copy}"} for copy in range(5) for row in OTHERS]


METHOD = "tracin-we"
"""The default's norms need every shard: what is there of an unfinished index of it cannot be asked."""

SMALL = (40, 40)
"""Examples of a shard: five shards at each of the three steps."""


@pytest.fixture(scope="module", autouse=True)
def small_shards() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(planning, "SHARD_ROWS", SMALL)
        yield


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def alone(bert_run: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Store:
    return proponent.build(bert_run, data, tmp_path_factory.mktemp("alone") / "index", METHOD, quiet=True).store


def test_two_processes_share_the_work(bert_run: Path, data: Path, alone: Store, tmp_path: Path) -> None:
    code = (
        f"from proponent.index import planning; planning.SHARD_ROWS = {SMALL}; from proponent.cli import main; main()"
    )
    out = ("--out", str(tmp_path / "index"), "--method", METHOD)
    words = [sys.executable, "-c", code, "index", str(bert_run), str(data), *out]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen([*words, "--json"], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    told = [process.communicate(timeout=300) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], told
    assert Store(tmp_path / "index").manifest.merkle_root == alone.manifest.merkle_root
    assert {json.loads(out)["merkle_root"] for out, _ in told} == {alone.manifest.merkle_root}
    assert verify(tmp_path / "index").strays == ()


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_shares_make_the_same_index(
    bert_run: Path, data: Path, alone: Store, tmp_path: Path, order: tuple[int, ...]
) -> None:
    folder = tmp_path / "index"
    for number, share in enumerate(order):
        index = proponent.build(bert_run, data, folder, METHOD, shard=f"{share}/3", quiet=True)
        assert index.store.sealed == (number == 2)
        if number < 2:
            assert 0 < index.store.coverage < 1
            with pytest.raises(InputError, match="unfinished"):
                proponent.open(folder)
            notes = index.explain(ROWS[0]["text"], baselines=False).notes
            assert notes[0].startswith("PARTIAL: ")
    assert Store(folder).manifest.merkle_root == alone.manifest.merkle_root


def test_a_share_that_another_overtakes_still_seals(
    bert_run: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first share saw segment 0 without the second's shards; the second saw segment 1 without the first's."""
    folder, gradients = tmp_path / "index", Worker.gradients
    whole = proponent.build(bert_run, data, tmp_path / "whole", segment_rows=100, quiet=True).store
    assert len(whole.manifest.sources[0].segments) > 1

    def overtaken(worker: Worker, writer: Writer, cuts: list[SegmentPlan], at: int) -> None:
        if at == 1:  # the first share has looked at segment 0 already
            monkeypatch.setattr(Worker, "gradients", gradients)
            other = proponent.build(bert_run, data, folder, shard="1/2", segment_rows=100, quiet=True)
            assert not other.store.sealed
        gradients(worker, writer, cuts, at)

    monkeypatch.setattr(Worker, "gradients", overtaken)
    index = proponent.build(bert_run, data, folder, shard="0/2", segment_rows=100, quiet=True)
    assert index.store.sealed
    assert index.store.manifest.merkle_root == whole.manifest.merkle_root


def test_what_is_there_of_an_unfinished_index_scores_as_in_the_end(
    bert_run: Path, data: Path, alone: Store, tmp_path: Path
) -> None:
    part = proponent.build(bert_run, data, tmp_path / "index", METHOD, shard="0/3", quiet=True)
    whole = proponent.open(alone.folder)
    texts = [ROWS[1]["text"], "Shares of the bank fell."]
    found, expected = part.scores(texts), whole.scores(texts)
    seen = part.store.alive
    assert 0 < seen.sum() < len(ROWS)
    assert abs(found[:, seen] - expected[:, seen]).max() <= 1e-6 * abs(expected).max()
    ranked = part.top(texts, k=5)
    for row, one in enumerate(ranked):
        assert set(one.proponents) <= set(seen.nonzero()[0])
        assert [float(found[row, place]) for place in one.proponents] == pytest.approx(
            list(one.proponent_scores), rel=1e-5
        )
