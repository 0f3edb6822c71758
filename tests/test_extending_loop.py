"""docs/extending.md, a method with a loop of its own: the code there runs, and the method answers by its name."""

import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import proponent.dynamics
import runs
import test_replay
import tiny
from proponent import method_table
from proponent.data import read
from proponent.dynamics.explain import explain_run
from proponent.errors import InputError
from proponent.method import Loop
from proponent.models import Run
from proponent.types import Example

Said = Callable[..., tuple[int, str, str]]
PAGE = Path(__file__).parents[1] / "docs" / "extending.md"


@pytest.fixture
def extended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The module and the row of the page."""
    section = PAGE.read_text().split("## A method with a loop of its own")[1].split("\n## ")[0]
    module, row = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    (tmp_path / "leave_one_out.py").write_text(module)
    monkeypatch.setattr(proponent.dynamics, "__path__", [*proponent.dynamics.__path__, str(tmp_path)])
    ((name, made),) = eval(f"{{{row}}}", vars(method_table).copy()).items()
    monkeypatch.setitem(method_table.METHODS, name, made._replace(method=made.method.model_copy(update={"name": name})))
    yield
    sys.modules.pop("proponent.dynamics.leave_one_out", None)


@pytest.mark.usefixtures("extended")
def test_a_loop_is_a_module_and_a_row(tmp_path: Path):
    folder = test_replay.made(tmp_path / "run", max_steps=4, save_steps=4)
    run, examples = Run.from_pretrained(folder), read(runs.ROWS)
    query = [Example("q", 0, "The bank said that profit fell after the vote.", "World")]
    nearly = Loop(name="leave-one-out", which="leave_one_out", settings={"weight": 0.99})
    exact = explain_run(run, examples, query, "replay", k=2, quiet=True)[0]
    answer = explain_run(run, examples, query, nearly, k=2, quiet=True)[0]
    assert answer.method == "leave-one-out"
    assert [one.id for one in answer.proponents] == [one.id for one in exact.proponents]
    expected = [0.01 * one.score for one in exact.proponents]
    assert [one.score for one in answer.proponents] == pytest.approx(expected, rel=0.1)
    assert "weight 0.99 in place of 1" in answer.notes
    assert answer.proponents[0].words == ()
    assert set(answer.baselines) >= {"label", "random"}
    named = explain_run(run, examples, query, "leave-one-out", k=1, quiet=True, baselines=False)[0]
    assert named.proponents[0].score > answer.proponents[0].score
    with pytest.raises(InputError, match="leave-one-out has no setting 'wait'; it has weight"):
        explain_run(run, examples, query, nearly.model_copy(update={"settings": {"wait": 1}}), quiet=True)


@pytest.mark.parametrize("which", ["lost", "explain", "a.b", "../x"])
def test_a_loop_without_a_module_is_refused(which: str, bert_run: Path):
    run = Run.from_pretrained(bert_run)
    query = [Example("q", 0, "The bank", "World")]
    with pytest.raises(InputError, match="with a function scores"):
        explain_run(run, read(runs.ROWS), query, Loop(name="mine", which=which), quiet=True)
    with pytest.raises(InputError, match="tracin-we needs an index"):
        explain_run(run, read(runs.ROWS), query, "tracin-we", quiet=True)


@pytest.mark.usefixtures("extended")
def test_the_command_line_knows_it_by_name(tmp_path: Path, said: Said):
    folder = test_replay.made(tmp_path / "run", max_steps=2, save_steps=2)
    data = tiny.write_csv(tmp_path / "train.csv", runs.ROWS)
    words = ["explain", folder, "The bank said that profit fell.", "--method", "leave-one-out"]
    code, out, err = said(*words, "--data", data, "-k", 2, "--json")
    assert code == 0, err
    assert json.loads(out)["method"] == "leave-one-out"
    code, _, err = said(*words)
    assert code == 2
    assert "--method leave-one-out needs --data" in err
