"""Child processes never run files of the working folder, and still find what PYTHONPATH names."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from proponent.processes import python, start
from proponent.web.model_worker import IndexSource, ModelWorker
from proponent.web.states import Question

PLANTED = "import os, pathlib\npathlib.Path({marker!r}).open('a').write(__name__ + '\\n')\nraise SystemExit(9)\n"
NAMES = ("numpy", "multiprocessing", "json", "random", "proponent", "torch", "sitecustomize")

POOL = """
import sys
sys.path.insert(0, {tests!r})
import torch
from pathlib import Path
from planted import planted
from proponent.engine import LocalProcesses
from proponent.training.retraining import RetrainJob, Retrains
if __name__ == "__main__":
    model = planted(queries=2, size=10)
    jobs = [RetrainJob.without([], 10, seed) for seed in range(3)]
    print(len(Retrains(model, Path({cache!r}), LocalProcesses(2), quiet=True).outputs(jobs)))
"""


@pytest.fixture
def hostile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in a folder whose files note that they ran."""
    folder = tmp_path / "hostile"
    folder.mkdir()
    for name in NAMES:
        (folder / f"{name}.py").write_text(PLANTED.format(marker=str(tmp_path / "ran")))
    monkeypatch.chdir(folder)
    return tmp_path


def ran(hostile: Path) -> list[str]:
    marker = hostile / "ran"
    return marker.read_text().split() if marker.exists() else []


def test_the_planted_files_would_run(hostile: Path) -> None:
    command = [sys.executable, "-m", "proponent.web.model_process"]
    unsafe = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}
    subprocess.run(command, stdin=subprocess.DEVNULL, env=unsafe, capture_output=True, check=False)
    assert ran(hostile)


def test_the_explorers_process_runs_no_file_of_the_working_folder(hostile: Path) -> None:
    asker = ModelWorker()
    job = asker.ask(Question("some text"), IndexSource(hostile / "nowhere", "", {}), lambda *_: None)
    assert asker._thread is not None
    while job.state in {"waiting", "running"}:
        asker._thread.join(0.05)
    asker.close()
    assert "no index at" in job.error
    assert ran(hostile) == []


def test_spawned_workers_run_no_file_of_the_working_folder(hostile: Path) -> None:
    script = hostile / "script.py"
    script.write_text(POOL.format(tests=str(Path(__file__).parent), cache=str(hostile / "cache")))
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False)
    assert ran(hostile) == []
    assert done.stdout.split() == ["3"], done.stderr


def test_pythonpath_still_works(hostile: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = hostile / "own"
    own.mkdir()
    (own / "mine.py").write_text("print('mine')")
    before = [part for part in (str(own), os.environ.get("PYTHONPATH")) if part]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(before))
    process = start(python("mine"))
    assert process.communicate()[0].split() == ["mine"]
    assert ran(hostile) == []
