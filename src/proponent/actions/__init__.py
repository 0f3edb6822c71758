"""Actions on an index: label errors, decisions, the corrected data set; the table of actions with their own page.

A new action is a module with a function `report`, the template of its page, and a row of the table.
"""

from dataclasses import dataclass
from importlib import import_module

from proponent.actions.row_texts import missing_text
from proponent.errors import InputError
from proponent.store import Plan, Store
from proponent.suggest import nearest
from proponent.views import Page


@dataclass(frozen=True)
class Action:
    """A row of the table: `module.report(store)` builds the page, whose class names its template."""

    name: str
    title: str
    module: str
    needs: frozenset[str] = frozenset()

    def missing(self, plan: Plan) -> str:
        """Why an index does not allow this action; empty if it does."""
        if "texts" in self.needs:
            return missing_text(plan)
        no_labels = "labels" in self.needs and plan.label_names is None
        return "this index belongs to a language model, which has no labels to check" if no_labels else ""

    def report(self, store: Store) -> Page:
        """Run the action."""
        problem = self.missing(store.plan)
        if problem:
            raise InputError(problem)
        return import_module(self.module).report(store)


ROWS = (
    Action("label-errors", "Suspected label errors", "proponent.actions.label_errors", needs=frozenset({"labels"})),
    Action("suspect-rows", "Suspect rows", "proponent.actions.suspect_rows", needs=frozenset({"texts"})),
    Action("map", "Map of the examples", "proponent.actions.example_map"),
    Action("lexical-bias", "Words and labels", "proponent.actions.lexical_bias", needs=frozenset({"labels"})),
)  # fmt: skip
ACTIONS = {one.name: one for one in ROWS}


def action(name: str) -> Action:
    """Find an action."""
    if name not in ACTIONS:
        raise InputError(f"unknown action {name[:60]!r}{nearest(name[:60], ACTIONS)}; actions: {', '.join(ACTIONS)}")
    return ACTIONS[name]
