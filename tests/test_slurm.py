"""The printed array script: run part by part, in any order and twice, it gives the index of one process."""

import json
import os
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import proponent
import runs
from proponent.index import planning

Said = Callable[..., tuple[int, str, str]]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "the rows.jsonl"
    path.write_text("\n".join(map(json.dumps, runs.ROWS)))
    return path


def test_the_script_names_every_option_once(said: Said, bert_run: Path, data: Path, tmp_path: Path) -> None:
    how = ("--method", "tracin-we", "--device", "cpu")
    for asked in (("--slurm", "5"), ("--slurm=5",)):
        code, out, _ = said("index", bert_run, *asked, data, "--out", tmp_path / "index", *how)
        assert code == 0
        assert "#SBATCH --array=0-4\n" in out
        assert f"cd {Path.cwd()}" in out
        (last,) = [line for line in out.splitlines() if line.startswith("exec ")]
        assert last.endswith('--method tracin-we --device cpu --shard "${SLURM_ARRAY_TASK_ID}/5"')
        assert f"'{data}'" in last
        assert "slurm" not in last.lower().replace("slurm_array_task_id", "")
        assert "--gpus-per-task" not in out
    code, out, _ = said("index", bert_run, data, "--out", tmp_path / "index", "--device", "cuda", "--slurm", "2")
    assert (code, "#SBATCH --gpus-per-task=1\n" in out) == (0, True)
    assert not (tmp_path / "index").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--slurm", "0"), "give the number of parts, from 1 to 1000"),
        (("--slurm", "many"), "give the number of parts"),
        (("--slurm", "2000"), "from 1 to 1000"),
        (("--slurm", "2", "--shard", "0/2"), "leave --shard out"),
    ],
)
def test_wrong_numbers_are_refused(
    words: tuple[str, ...], message: str, said: Said, bert_run: Path, data: Path, tmp_path: Path
) -> None:
    code, out, err = said("index", bert_run, data, "--out", tmp_path / "index", *words)
    assert (code, out) == (2, ""), err
    assert message in err


def test_parts_run_in_any_order_and_twice(
    said: Said, bert_run: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, script, _ = said("index", bert_run, data, "--out", "parts", "--segment-rows", "9", "-q", "--slurm", "3")
    assert code == 0
    path = tmp_path / "index.sbatch"
    path.write_text(script)
    (command,) = [line for line in script.splitlines() if line.startswith("exec ")]
    for part in ("2", "0", "2"):
        words = shlex.split(command.replace("${SLURM_ARRAY_TASK_ID}", part))
        assert said(*words[words.index("proponent.cli") + 1 :])[0] == 0
    assert not proponent.open(tmp_path / "parts", device="cpu", partial=True).store.sealed
    done = subprocess.run(
        ["bash", str(path)], env=os.environ | {"SLURM_ARRAY_TASK_ID": "1"}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    parts = proponent.open(tmp_path / "parts", device="cpu")
    assert parts.store.sealed
    whole = proponent.build(bert_run, data, tmp_path / "whole", device="cpu", segment_rows=9, quiet=True)
    assert planning.planned_batch_size(tmp_path / "parts") == 32
    assert np.array_equal(parts.scores(runs.TEXTS[:3]), whole.scores(runs.TEXTS[:3]))
    assert parts.store.manifest.merkle_root == whole.store.manifest.merkle_root
