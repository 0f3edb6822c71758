"""Columns by which the training examples of an index are grouped."""

from proponent.data import from_json
from proponent.data.conversation_columns import format_of, system_prompt
from proponent.store import Store

SYSTEM, FORMAT = "system prompt", "format"
"""Columns that rows of chat data have by what they hold."""


def group_columns(store: Store) -> dict[str, list[str]]:
    """One value for each example, by column; columns without any value are left out."""
    found = {name: ["" if one is None else str(one) for one in store.examples[name]] for name in ("label", "source")}
    held = store.examples["content"]
    if any(one is not None for one in held):
        contents = [None if one is None else from_json(one) for one in held]
        prompted = store.examples["target"]
        found[SYSTEM] = [system_prompt(one) for one in contents]
        found[FORMAT] = [format_of(one, target) for one, target in zip(contents, prompted, strict=True)]
    return {name: values for name, values in found.items() if any(values)}
