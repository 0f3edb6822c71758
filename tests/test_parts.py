"""An index built in parts, by processes or actors of Ray, in any order and twice, is the one of a single process."""

import copy
import json
import os
import pickle
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch

import proponent
from doubling import Doubles
from proponent import ray_actors
from proponent.data import Columns, read
from proponent.engine import InProcess, LocalProcesses, engine_of
from proponent.errors import InputError
from proponent.index import parts
from proponent.index.build import build
from proponent.index.options import Options
from proponent.method_table import stored_method
from proponent.ray_actors import RayActors
from proponent.store import Store, verify
from runs import OTHERS

ROWS = [{**row, "id": f"{row['id']}-{copy}", "more": copy} for copy in range(2) for row in OTHERS]
SMALL = {"segment_rows": 12, "quiet": True}
METHOD = "tracin-we-idf"


@pytest.fixture(scope="module")
def alone(bert_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Store:
    return proponent.build(bert_run, ROWS, tmp_path_factory.mktemp("alone") / "index", METHOD, **SMALL).store


@pytest.fixture(scope="module")
def ray() -> Iterator[Any]:
    """Ray with two processors, started once for all tests."""
    if find_spec("ray") is None:
        pytest.skip("Ray is not installed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)  # of the actors
        found = ray_actors.imported()
        ray_actors.connect(found, 2)
        yield found
        found.shutdown()


def arrays(store: Store) -> dict[str, bytes]:
    """Every file of an index but the manifest, which holds times, and locks."""
    files = (one for one in store.folder.rglob("*") if one.is_file() and one.name not in {"manifest.json", "lease"})
    return {str(one.relative_to(store.folder)): one.read_bytes() for one in files}


def same(one: Store, other: Store) -> None:
    assert arrays(one) == arrays(other)
    assert one.manifest.merkle_root == other.manifest.merkle_root
    verify(one.folder)


def built(run: Path, folder: Path, engine: Any, workers: int = 2, **how: Any) -> Store:
    examples = read(ROWS)
    columns = {one.name: getattr(Columns(), one.name) for one in fields(Columns)}
    options = Options(segment_rows=12, quiet=True, columns=columns, **how)
    ahead = parts.in_parts(engine, workers, options)
    build(proponent.Run.from_pretrained(run), examples, folder, stored_method(METHOD), options, ahead)
    return Store(folder)


class Forward:
    """Does the parts in this process, as an engine of other processes would."""

    def map(self, work: Callable[[Any], Any], items: Sequence[Any]) -> Iterator[Any]:
        return map(work, items)


class Reversed:
    """Does the last part first."""

    def map(self, work: Callable[[Any], Any], items: Sequence[Any]) -> Iterator[Any]:
        return map(work, items[::-1])


class Twice:
    """Two processes that each do every part, the second one in reverse, as after lost answers."""

    def map(self, work: Callable[[Any], Any], items: Sequence[Any]) -> Iterator[Any]:
        one, other = (pickle.loads(pickle.dumps(work)) for _ in range(2))
        for item, last in zip(items, items[::-1], strict=True):
            yield one(item) + one(item)
            yield other(last)
        for made in (one, other):
            made._build.writer.close()


@pytest.mark.parametrize("engine", [Forward(), Reversed(), Twice()], ids=lambda one: type(one).__name__)
def test_parts_in_any_order_and_twice_make_the_same_index(
    bert_run: Path, alone: Store, tmp_path: Path, engine: Any
) -> None:
    same(built(bert_run, tmp_path / "index", engine, workers=7), alone)


def test_parts_of_several_segments_read_their_own_texts(
    bert_run: Path, alone: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        sys.modules["proponent.index.build"], "KEPT_BYTES", 1
    )  # as for data that is too large to be kept encoded
    same(built(bert_run, tmp_path / "index", Forward()), alone)


def test_a_single_part_is_left_to_this_process(bert_run: Path, tmp_path: Path) -> None:
    class Never:
        def map(self, *_: Any) -> Iterator[Any]:
            raise AssertionError("one part")

    threads = torch.get_num_threads()
    run = proponent.Run.from_pretrained(bert_run)
    examples, options = read(ROWS), Options(quiet=True, steps=(run.checkpoints[-1].id.step,))
    build(run, examples, tmp_path / "index", stored_method(METHOD), options, parts.in_parts(Never(), 2, options))
    assert torch.get_num_threads() == threads


def test_processes_make_the_same_index(bert_run: Path, alone: Store, tmp_path: Path) -> None:
    made = proponent.build(bert_run, ROWS, tmp_path / "index", METHOD, workers=2, **SMALL)
    same(made.store, alone)


def test_actors_of_ray_make_the_same_index(bert_run: Path, alone: Store, tmp_path: Path, ray: Any) -> None:
    made = proponent.build(bert_run, ROWS, tmp_path / "index", METHOD, workers=2, engine="ray", **SMALL)
    same(made.store, alone)


def test_an_interrupted_build_goes_on_in_any_engine(bert_run: Path, alone: Store, tmp_path: Path) -> None:
    class Stops:
        def map(self, work: Callable[[Any], Any], items: Sequence[Any]) -> Iterator[Any]:
            yield from map(work, items[:5])
            raise InputError("the machine is gone")

    with pytest.raises(InputError, match="machine is gone"):
        built(bert_run, tmp_path / "index", Stops())
    made = proponent.build(bert_run, ROWS, tmp_path / "index", METHOD, **SMALL)
    same(made.store, alone)


def test_the_command_builds_with_processes(
    said: Callable[..., tuple[int, str, str]], bert_run: Path, alone: Store, tmp_path: Path
) -> None:
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    how = ("--method", METHOD, "--segment-rows", 12, "--workers", 2, "--json", "-q")
    code, out, err = said("index", bert_run, data, "--out", tmp_path / "index", *how)
    assert (code, err) == (0, "")
    assert json.loads(out)["examples"] == len(ROWS)
    assert {name: content for name, content in arrays(Store(tmp_path / "index")).items() if name != "plan.json"} == {
        name: content for name, content in arrays(alone).items() if name != "plan.json"
    }
    for more in (("--shard", "0/2"), ("--repair",)):
        code, _, err = said("index", bert_run, data, "--out", tmp_path / "other", *how, *more)
        assert (code, "is for a build in one process" in err) == (2, True)
    code, _, err = said("index", bert_run, data, "--out", tmp_path / "other", "--workers", 0)
    assert (code, "--workers 0" in err) == (2, True)


def test_what_is_sent_to_a_process_is_what_is_indexed(tmp_path: Path) -> None:
    given = read(ROWS, columns=Columns(source="more"))
    sent = pickle.loads(pickle.dumps(given))
    assert list(sent) == list(given)
    assert (sent.fingerprint, sent.labels, sent.sources) == (given.fingerprint, given.labels, given.sources)
    assert (sent.layout, sent.columns, sent.column_names) == (given.layout, given.columns, given.column_names)
    assert list(pickle.loads(pickle.dumps(given.subset([3, 1])))) == [given[3], given[1]]
    with pytest.raises(KeyError, match="was not sent"):
        sent.column("more")
    assert copy.deepcopy(given).column("more") == given.column("more")


# ---- engines ----


def test_ray_does_every_item_once_for_the_caller(ray: Any) -> None:
    assert sorted(RayActors(2).map(Doubles(), [1, 2, 4, 6, 7])) == [2, 4, 8, 12, 14]
    assert list(RayActors(2).map(Doubles(), [])) == []
    assert list(RayActors(2).map(Doubles(), [9])) == [18]


def test_an_actor_that_is_killed_starts_again(ray: Any, tmp_path: Path) -> None:
    found = sorted(RayActors(2).map(Doubles(tmp_path / "killed"), [4, 5, 6, 7, 8]))
    assert (tmp_path / "killed").exists()
    assert found == [8, 10, 12, 14, 16]


def test_an_actor_that_is_killed_again_and_again_is_an_error(ray: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"ended 4 times.*what is finished is kept"):
        list(RayActors(1).map(Doubles(tmp_path / "killed", always=True), [5]))


def test_an_error_of_the_user_comes_through_ray(ray: Any) -> None:
    with pytest.raises(InputError, match="three is no number here"):
        list(RayActors(2).map(Doubles(), [1, 3]))


def test_ray_that_is_started_here_cannot_be_reached_from_elsewhere(ray: Any) -> None:
    started = {one.pid for one in psutil.Process().children(recursive=True)}
    listening = [one for one in psutil.net_connections("tcp") if one.status == "LISTEN" and one.pid in started]
    assert listening
    assert {one.laddr.ip.removeprefix("::ffff:") for one in listening} <= {"127.0.0.1", "::1"}


def test_work_does_not_wait_for_devices_that_are_busy(ray: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_actors, "START_SECONDS", 15.0)
    holders = [ray.remote(ray_actors.Actor).options(num_cpus=1).remote(Doubles())]
    ray.get(holders[0].ready.remote())
    assert sorted(RayActors(2).map(Doubles(), [1, 2, 4])) == [2, 4, 8], "with the actor that could start"
    holders.append(ray.remote(ray_actors.Actor).options(num_cpus=1).remote(Doubles()))
    ray.get(holders[1].ready.remote())
    with pytest.raises(InputError, match="no actor of Ray started within 15 seconds"):
        list(RayActors(2).map(Doubles(), [1, 2]))
    for one in holders:
        ray.kill(one)


def test_too_few_devices_are_said(ray: Any) -> None:
    with pytest.raises(InputError, match=r"Ray has 0 GPUs, and --workers 2 needs 2"):
        list(RayActors(2, gpu=True).map(Doubles(), [1, 2]))
    with pytest.raises(InputError, match=r"Ray has 2 CPUs, and --workers 9 needs 5"):
        list(RayActors(9).map(Doubles(), [1, 2, 4, 6, 7]))


def test_without_ray_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise ImportError(name)

    monkeypatch.setattr(ray_actors, "import_module", missing)
    with pytest.raises(InputError, match=r"pip install 'proponent\[ray\]'"):
        list(RayActors(2).map(Doubles(), [1]))


@pytest.mark.parametrize("address", ["127.0.0.1:1", "nowhere.invalid:6379"])
def test_a_cluster_that_cannot_be_reached_is_an_error(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Away:
        class exceptions:  # noqa: N801 -- as in Ray
            RayError = RayTaskError = RayActorError = type("RayError", (Exception,), {})

        @staticmethod
        def is_initialized() -> bool:
            return False

        @staticmethod
        def shutdown() -> None:
            pass

        @staticmethod
        def init(**how: Any) -> None:
            assert "num_cpus" not in how, "of a cluster that is there"
            raise ConnectionError(f"could not connect to {address}")

    monkeypatch.setenv("RAY_ADDRESS", address)
    monkeypatch.setattr(ray_actors, "import_module", lambda _: Away)
    with pytest.raises(InputError, match=r"Ray cannot be used \(could not connect.*RAY_ADDRESS"):
        list(RayActors(1).map(Doubles(), [1]))


def test_engines_have_names() -> None:
    assert engine_of(1) == engine_of(1, "processes") or isinstance(engine_of(1), InProcess)
    assert engine_of(2) == LocalProcesses(2)
    assert engine_of(1, "ray", gpu=True) == RayActors(1, gpu=True)
    with pytest.raises(InputError, match="at least 1"):
        engine_of(0, "ray")


def test_a_part_of_nothing_changes_nothing(bert_run: Path, alone: Store) -> None:
    before = arrays(alone)
    assert np.isfinite(alone.features["losses"]).all()
    again = proponent.build(bert_run, ROWS, alone.folder, METHOD, workers=2, **SMALL)
    assert arrays(again.store) == before
