"""The table of actions, and the code of docs/extending.md that adds one."""

import re
import sys
from pathlib import Path
from types import ModuleType

import pytest
from jinja2 import ChoiceLoader, DictLoader

import tiny
from explorer import Browser
from proponent import actions
from proponent.actions import Action
from proponent.errors import InputError
from proponent.store import Store
from proponent.views.page import TEMPLATES, environment

PAGE = Path(__file__).parents[1] / "docs" / "extending.md"


def example() -> tuple[str, str, str]:
    """Module, template and row of the page."""
    section = PAGE.read_text(encoding="utf-8").split("\n## A new action\n")[1].split("\n## ")[0]
    module, template, row = re.findall(r"```(?:python|jinja)\n(.*?)```", section, re.DOTALL)
    return module, template, row


@pytest.mark.parametrize("name", sorted(actions.ACTIONS))
def test_every_row_of_the_table_works(name: str, news: tiny.Tiny, lines: tiny.Tiny) -> None:
    allowing = [one.index for one in (news, lines) if not actions.action(name).missing(Store(one.index).plan)]
    assert allowing
    made = actions.action(name).report(Store(allowing[0]))
    assert (TEMPLATES / made.template).is_file()
    assert made.to_json()
    assert Browser(allowing[0]).get(f"/action?id={name}").status == 200


def test_the_documented_action_works(news: tiny.Tiny, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    source, template, row = example()
    module = ModuleType("proponent.actions.hard_examples")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(compile(source, "hard_examples.py", "exec"), vars(module))
    added = eval(row, {"Action": Action})
    monkeypatch.setitem(actions.ACTIONS, added.name, added)
    jinja = environment()
    extra = DictLoader({module.HardExamples.template: template})
    monkeypatch.setattr(jinja, "loader", ChoiceLoader([jinja.loader, extra]))
    made = actions.action("hard-examples").report(Store(news.index))
    assert [loss for _, loss, _ in made.rows] == sorted((loss for _, loss, _ in made.rows), reverse=True)
    made.save(tmp_path / "hard.html")
    assert made.rows[0][2][:20] in (tmp_path / "hard.html").read_text(encoding="utf-8")
    browser = Browser(news.index)
    assert 'href="/action?in=' in browser.get("/about").text
    assert "Hard examples" in browser.get("/about").seen
    assert f"loss {made.rows[0][1]:.3f}" in browser.get("/action?id=hard-examples").seen


def test_an_action_that_an_index_does_not_allow_is_refused(lines: tiny.Tiny, news: tiny.Tiny) -> None:
    with pytest.raises(InputError, match="language model"):
        actions.action("label-errors").report(Store(lines.index))
    with pytest.raises(InputError, match="did you mean 'label-errors'"):
        actions.action("label-error")
    browser = Browser(lines.index)
    assert browser.get("/action?id=label-errors").status == 400
    assert "/action?id=label-errors" not in browser.get("/about").text
    assert "/action?id=suspect-rows" in browser.get("/about").text
    assert "unknown action 'x'" in Browser(news.index).get("/action?id=x").seen
