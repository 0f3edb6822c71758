"""Queries as users give them: texts, dicts or examples, one or many."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeAlias, cast

import numpy as np
from jaxtyping import Int

from proponent.data import read
from proponent.errors import InputError
from proponent.index.asking import conversation_of, with_span
from proponent.suggest import nearest
from proponent.types import Conversation, Example, Label, Pair, Prompted, Text

AnyLabel = Label | np.integer[Any]
"""A class by name or number, from Python or numpy."""

AnyAnswer = AnyLabel | Sequence[Any] | Mapping[str, Any]
"""A class, a value, or what a task with answers reads: several labels, tags, an answer and its place."""

Labels = Sequence[AnyAnswer | None] | Int[np.ndarray, " q"]
"""Classes of several queries; None selects the predicted class."""

Query: TypeAlias = str | Mapping[str, Any] | Example
"""A text, an example, or a dict with its fields: text or messages, text_pair, label, target, id, span."""

Queries: TypeAlias = Query | Sequence[Query]
"""One query or several."""

_PAIR = ("prompt", "chosen", "rejected", "ref_chosen_logps", "ref_rejected_logps", "margin", "chat_template_kwargs")

_FIELDS = ("text", "messages", "tools", "text_pair", "label", "target", "id", "span", "completion", *_PAIR)


def plain_label(label: AnyLabel) -> Label:
    """Convert a numpy number to a Python number."""
    if isinstance(label, float | np.floating) and float(label).is_integer():
        return int(label)
    return label.item() if isinstance(label, np.generic) else label


def queries_of(
    given: Queries,
    labels: Labels | AnyLabel | None = None,
    text_pairs: Sequence[str | None] | str | None = None,
    targets: Sequence[str | None] | str | None = None,
) -> list[Example]:
    """Build queries from user input; a column sets or replaces a field of each query."""
    table = hasattr(given, "columns") and not isinstance(given, Sequence)  # iterates over its column names
    if table or not isinstance(cast("object", given), Iterable | Example):
        raise InputError(
            f"queries are of type {type(given).__name__}: give a text, a dict, an Example, or a list of them (rows of "
            "a table as dicts)"
        )
    texts = [given] if isinstance(given, str | Mapping | Example) else list(given)
    pairs, counted = _column(text_pairs), _column(targets)
    classes = _column(labels)
    columns = {"labels": classes, "text_pairs": pairs, "targets": counted}
    for name, column in columns.items():
        if column is not None and len(column) != len(texts):
            raise InputError(f"{len(texts)} texts, but {len(column)} {name}: give one for each text, or None")
    made = [_example(query, row) for row, query in enumerate(texts)]
    return [
        _completed(one, _filled(classes, row, one.label), _cell(pairs, row), _cell(counted, row))
        for row, one in enumerate(made)
    ]


def _row(query: Mapping[str, Any], name: str, row: int) -> Example:
    """A pair of answers, or a prompt with its completion, in the columns of a data set."""
    pair = "completion" not in query
    wanted, kind = ({"chosen", "rejected"}, "pair of answers") if pair else ({"prompt"}, "prompt with its completion")
    others = ("text", "messages", "text_pair", "target", *(("span",) if pair else ("chosen", "rejected", "label")))
    other = next((one for one in others if query.get(one) is not None), None)
    if other is not None or not wanted <= {*query}:
        lacks = "one of chosen and rejected is missing" if pair else "prompt is missing"
        also = "; the loss of a judged answer is not asked for, but that of its tokens" if other == "label" else ""
        wrong = lacks if other is None else f"it also has {other}{also}"
        way = "give chosen and rejected, and maybe prompt" if pair else "give both, and maybe span"
        raise InputError(f"query {row} is no {kind}: {wrong}; {way}")
    fields = (*_PAIR, "tools") if pair else ("prompt", "completion", "tools", "chat_template_kwargs")
    (found,) = read([{field: query[field] for field in fields if query.get(field) is not None}], allow_empty=True)
    made = Example(name, row, label=query.get("label"), content=found.content)
    return made if pair else with_span(made, query.get("span"))


def _completed(one: Example, label: Any, pair: Any, target: Any) -> Example:
    """A query with its label, second text and target."""
    content = one.content
    if isinstance(content, Text | Pair | Prompted):
        pair = one.text_pair if pair is None else pair
        target = one.target if target is None else target
        return Example(one.id, one.row, one.text, label, pair, target, span=one.span)
    if pair is not None:
        raise InputError(f"the query with id {one.id} holds messages, which have no second text: leave it out")
    if target is not None and isinstance(content, Conversation):
        content = replace(conversation_of([x.fields() for x in content.messages], target), tools=content.tools)
    return Example(one.id, one.row, label=label, content=content, span=one.span)


def _cell(column: Any, row: int) -> Any:
    return None if column is None else column[row]


def _column(values: Any) -> Any:
    """Convert a single value to a column; None stays None."""
    if values is None or isinstance(values, str | bytes) or not isinstance(values, Iterable):
        return None if values is None else [values]
    return list(cast("Iterable[object]", values))


def _filled(column: Any, row: int, own: Any) -> Any:
    value: Any = own if column is None or column[row] is None else column[row]
    if isinstance(value, list | tuple | dict | np.ndarray):
        return json.dumps(value.tolist() if isinstance(value, np.ndarray) else value)
    return plain_label(cast("AnyLabel", value)) if isinstance(value, float | np.floating | np.integer) else value


def _example(query: Query, row: int) -> Example:
    if isinstance(query, Example):
        return query
    if not isinstance(query, Mapping):
        return Example(str(row), row, query)  # `check_queries` refuses anything but text
    unknown = next((name for name in query if name not in _FIELDS), None)
    if unknown is not None:
        raise InputError(
            f"query {row} has the unknown field {unknown!r}{nearest(str(unknown), _FIELDS)}; fields: "
            f"{', '.join(_FIELDS)}"
        )
    identity = query.get("id")
    name = str(row) if identity is None else str(identity)
    if not {"chosen", "rejected", "completion"}.isdisjoint(query):
        return _row(query, name, row)
    if "messages" in query:
        content = conversation_of(query["messages"], query.get("target"), query.get("tools"))
        return with_span(Example(name, row, label=query.get("label"), content=content), query.get("span"))
    if "text" not in query:
        raise InputError(f"query {row} has no text: give a dict with the key 'text'")
    made = Example(name, row, query["text"], query.get("label"), query.get("text_pair"), query.get("target"))
    return with_span(made, query.get("span"))
