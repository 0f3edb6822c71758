"""docs/extending.md, a new preconditioner: two files of a copy of the package, run through its command line."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

import proponent
import runs
import tiny

ROOT = Path(__file__).parents[1]


@pytest.fixture
def extended(tmp_path: Path) -> Path:
    """The package with the two files of the page."""
    section = (ROOT / "docs" / "extending.md").read_text().split("## A new preconditioner")[1].split("\n## ")[0]
    spec, module = re.findall(r"^```python\n(.*?)^```$", section, re.DOTALL | re.MULTILINE)
    package = tmp_path / "src" / "proponent"
    shutil.copytree(ROOT / "src" / "proponent", package, ignore=shutil.ignore_patterns("__pycache__"))
    (package / "preconditioners" / "diagonal_fisher.py").write_text(module)
    parts = package / "method_parts.py"
    text, count = re.subn(
        r"^Preconditioner = Annotated\[\n.*?^\]\n", lambda _: spec, parts.read_text(), flags=re.S | re.M
    )
    assert count == 1
    parts.write_text(text)
    return package.parent


COMMANDS = """
import json, sys
from proponent.cli import main
for words in json.loads(sys.stdin.read()):
    try:
        main(words)
    except SystemExit as leaving:
        if leaving.code:
            raise
    print("\\0")
"""


def commands(source: Path, *several: tuple[object, ...]) -> list[str]:
    """What each command line prints, one after the other in one process."""
    done = subprocess.run(
        [sys.executable, "-c", COMMANDS],
        input=json.dumps([[*map(str, words)] for words in several]),
        env=os.environ | {"PYTHONPATH": str(source)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split("\0")[: len(several)]


def test_a_preconditioner_is_a_spec_and_a_module(extended: Path, bert_run: Path, tmp_path: Path) -> None:
    data, folder = tiny.write_csv(tmp_path / "train.csv", runs.ROWS), tmp_path / "index"
    setting = ("--method", "tracin-layers", "--layers", "head", "--set", "curvature=diagonal-fisher", "--quiet")
    query = "The bank said that profit fell."
    _, explained = commands(
        extended,
        ("index", bert_run, data, "--out", folder, *setting, "--set", "damping=0.5"),
        ("explain", folder, query, "-k", 2, "--no-baselines", "--json"),
    )
    answer = json.loads(explained)
    assert any("curvature diagonal-fisher" in note and "damping 0.5 of the mean" in note for note in answer["notes"])
    best = answer["proponents"][0]
    assert sum(pair["share"] for pair in best["words"]) == pytest.approx(best["score"], rel=1e-4)
    plain = proponent.build(bert_run, data, tmp_path / "plain", "tracin-layers", layers="head", quiet=True)
    last = plain.store.plan.checkpoints[-1].id
    vectors = np.concatenate([arrays["dense.v"] for _, arrays in plain.store.shards(last)])
    layer = plain.store.plan.blocks[0]
    squares = (vectors[:, : layer.kept_o * layer.kept_i].astype(np.float64) ** 2).mean(0)
    held = load_file(folder / plain.store.layout.table(last).relative_to(tmp_path / "plain"))["curvature.0.inverse"]
    np.testing.assert_allclose(held, 1.0 / (squares + 0.5 * squares.mean()), rtol=1e-5)
