"""Rows of chat fine-tuning: conversations, preferences and token ids, from columns as people have them."""

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import takewhile
from typing import Any, Literal, cast

import numpy as np

from proponent.data.columns import pack_texts
from proponent.data.table import RawTable, is_null, refuse_odd_characters, short
from proponent.data.untyped import pa
from proponent.errors import DataError
from proponent.types import Content, Conversation, Message, Pair, Preference, Prompted, Side, Text, Tokens

Layout = Literal["text", "messages", "completion", "preference", "judged", "tokens"]
"""How the rows of a data set are laid out; "completion" stands for prompt and completion, "judged" for KTO."""

UNSEEN = -100
"""Label of a position that does not count."""

_WAY_OUT = "mend the row, or read another column with --messages-column"


def layout_of(names: Sequence[str], messages: str, *, labelled: bool = True) -> Layout:
    """Recognize the layout by the names of the columns; `messages` names conversations, or is empty for none."""
    held = set(names)
    if not messages:
        return "text"
    if "input_ids" in held and not {"text", "label"} <= held:
        return "tokens"
    if messages in held or (messages == "messages" and "conversations" in held):
        return "messages"
    if {"chosen", "rejected"} <= held:
        return "preference"
    if {"prompt", "completion"} <= held and "text" not in held:
        # without labels, what people judged is a prompt with its completion
        return "judged" if labelled and "label" in held else "completion"
    return "text"


def contents_of(table: RawTable, layout: Layout, messages: str) -> Iterator[Content]:
    """Read what each row holds."""
    read = _READERS[layout](table, messages)
    wanted = [name for name in _COLUMNS[layout] if name in table.column_names]
    wanted += [messages] if layout == "messages" and messages not in wanted and messages in table.column_names else []
    columns = {name: table.get(name) for name in wanted}
    for start in range(0, table.rows, 256):
        cut = slice(start, min(start + 256, table.rows))
        cells = {name: list(column[cut]) for name, column in columns.items()}
        for row in range(cut.start, cut.stop):
            values = {name: _plain(column[row - start]) for name, column in cells.items()}
            content = read(_Row(table, row), {name: value for name, value in values.items() if not is_null(value)})
            refuse_odd_characters(table, layout, row, ["\n".join(content.parts)])
            if not isinstance(content, Prompted):  # roles, tools and settings are kept, too
                refuse_odd_characters(table, layout, row, [to_json(content)])
            yield content


def packed(contents: Iterator[Content]) -> tuple[dict[str, Any], list[int]]:
    """Lay contents out as the columns of examples; also the rows with an answer that is empty."""
    columns: dict[str, list[Any]] = {"text": [], "target": [], "content": []}
    chunks: dict[str, list[Any]] = {name: [] for name in columns}
    empty: list[int] = []
    for row, content in enumerate(contents):
        if isinstance(content, Prompted):
            texts = (content.prompt, content.target, None)
        else:
            text = content.text if isinstance(content, Tokens) else "\n".join(content.parts)
            texts = (text, None, to_json(content))
        if _lacks_answer(content):
            empty.append(row)
        for name, value in zip(columns, texts, strict=True):
            columns[name].append(value)
        if len(columns["text"]) == 4096:
            _flush(columns, chunks)
    _flush(columns, chunks)
    kept = {name: pa.chunked_array(parts, pa.large_string()) for name, parts in chunks.items()}
    return {name: column for name, column in kept.items() if column.null_count < len(column)}, empty


def _flush(columns: dict[str, list[Any]], chunks: dict[str, list[Any]]) -> None:
    for name, values in columns.items():
        chunks[name].append(pack_texts(values))
        values.clear()


def _lacks_answer(content: Content) -> bool:
    """Whether an assistant's turn, or a completion, is empty."""
    if isinstance(content, Prompted):
        return not content.target.strip()
    messages = content.messages if isinstance(content, Conversation) else ()
    return any(one.role == "assistant" and not any(turn.text.strip() for turn in one.turns) for one in messages)


class _Row:
    """A row, for messages."""

    def __init__(self, table: RawTable, number: int) -> None:
        self.table, self.number = table, number

    def refuse(self, column: str, what: str) -> DataError:
        """The error about a cell."""
        return DataError(f"{self.table.place(column, self.number)} {what}: {_WAY_OUT}")


Reader = Callable[[_Row, dict[str, Any]], Content]


def _of_messages(table: RawTable, messages: str) -> Reader:
    column = messages if messages in table.column_names else "conversations"

    def read(row: _Row, cells: dict[str, Any]) -> Content:
        return Conversation(_messages(row, column, cells.get(column)), None, *_more(row, cells))

    return read


def _of_completion(_table: RawTable, _messages_column: str) -> Reader:
    def read(row: _Row, cells: dict[str, Any]) -> Content:
        prompt, answer = _sides(row, cells, ("prompt", "completion"))
        if isinstance(prompt, str):
            return Prompted(prompt, cast("str", answer))
        return Conversation((*prompt, *cast("tuple[Message, ...]", answer)), len(prompt), *_more(row, cells))

    return read


def _of_judged(_table: RawTable, _messages_column: str) -> Reader:
    def read(row: _Row, cells: dict[str, Any]) -> Content:
        prompt, answer = _sides(row, cells, ("prompt", "completion"))
        label = cells.get("label")
        if label not in (True, False):
            raise row.refuse(
                "label",
                f"holds {short(label)}, and beside prompt and completion it is true or false (KTO); for rows without "
                "that, leave it out (--label-column '')",
            )
        return Preference(prompt, *((answer, None) if label else (None, answer)), *_more(row, cells))

    return read


def _of_preference(_table: RawTable, _messages_column: str) -> Reader:
    def read(row: _Row, cells: dict[str, Any]) -> Content:
        chosen, rejected = _sides(row, cells, ("chosen", "rejected"))
        given = cells.get("prompt")
        if given is not None and isinstance(_parsed(given), str) == isinstance(chosen, str):
            prompt, _ = _sides(row, cells, ("prompt", "prompt"))
            return Preference(prompt, chosen, rejected, *_more(row, cells), _figures(row, cells))
        return Preference(*_without_prompt(chosen, rejected), *_more(row, cells), _figures(row, cells))

    return read


def _of_tokens(_table: RawTable, _messages_column: str) -> Reader:
    def read(row: _Row, cells: dict[str, Any]) -> Content:
        ids, labels = _numbers(row, "input_ids", cells.get("input_ids")), None
        if "labels" in cells:
            labels = _numbers(row, "labels", cells["labels"])
            if len(labels) != len(ids):
                raise row.refuse("labels", f"has {len(labels)} labels for {len(ids)} tokens")
            wrong = next((at for at, one in enumerate(labels) if one not in (UNSEEN, ids[at])), None)
            if wrong is not None:
                what = f"has label {labels[wrong]} at position {wrong}, where the token is {ids[wrong]} (or {UNSEEN})"
                raise row.refuse("labels", what)
        real = cells.get("attention_mask")
        if real is not None and len(real) == len(ids):  # padding of a fixed width
            kept = [at for at, one in enumerate(real) if one]
            ids = tuple(ids[at] for at in kept)
            labels = None if labels is None else tuple(labels[at] for at in kept)
        return Tokens(ids, labels)

    return read


def _of_text(_table: RawTable, _messages_column: str) -> Reader:
    raise AssertionError("rows of text are read column by column")


_MORE = ("tools", "chat_template_kwargs")
_FIGURES = ("margin", "ref_chosen_logps", "ref_rejected_logps")
_COLUMNS: dict[Layout, tuple[str, ...]] = {
    "text": (),
    "messages": ("messages", "conversations", *_MORE),
    "completion": ("prompt", "completion", *_MORE),
    "judged": ("prompt", "completion", "label", *_MORE),
    "preference": ("prompt", "chosen", "rejected", *_FIGURES, *_MORE),
    "tokens": ("input_ids", "labels", "attention_mask"),
}
_READERS: dict[Layout, Callable[[RawTable, str], Reader]] = {
    "text": _of_text,
    "messages": _of_messages,
    "completion": _of_completion,
    "judged": _of_judged,
    "preference": _of_preference,
    "tokens": _of_tokens,
}


def _sides(row: _Row, cells: Mapping[str, Any], names: tuple[str, str]) -> tuple[Side, Side]:
    """Two cells that are both texts, or both messages."""
    found: list[Side] = []
    for name in names:
        value = _parsed(cells.get(name, ""))
        found.append(value if isinstance(value, str) else _messages(row, name, value))
    if isinstance(found[0], str) != isinstance(found[1], str):
        raise row.refuse(names[1], f"and {names[0]} are of two kinds, text and messages")
    return found[0], found[1]


def _parsed(value: Any) -> Any:
    """A list of messages that a table holds as JSON."""
    if isinstance(value, str) and value.startswith("[{"):
        try:
            return json.loads(value)
        except ValueError:
            return value
    return value


def _messages(row: _Row, column: str, value: Any) -> tuple[Message, ...]:
    found: object = _parsed(value)
    if not isinstance(found, list) or not found:
        raise row.refuse(column, f"holds {short(cast('object', found))}, not a list of messages")
    return tuple(_message(row, column, at, one) for at, one in enumerate(cast("list[object]", found)))


def _message(row: _Row, column: str, at: int, value: object) -> Message:
    fields = dict(cast("Mapping[str, Any]", value)) if isinstance(value, Mapping) else {}
    for old, new in (("from", "role"), ("value", "content")):
        if old in fields and new not in fields:
            fields[new] = fields.pop(old)
    role, content = fields.get("role"), fields.get("content")
    if not isinstance(role, str) or not role:
        raise row.refuse(
            column, f'holds {short(cast("object", value))} as message {at}, not {{"role": ..., "content": ...}}'
        )
    if not isinstance(content, str | list | None) or (content is None and not fields.get("tool_calls")):
        raise row.refuse(column, f"has no text in message {at} ({role}), but {short(content)}")
    return Message.of(fields)


def _more(row: _Row, cells: Mapping[str, Any]) -> tuple[list[dict[str, Any]] | None, dict[str, Any]]:
    """Tools and settings of a chat template."""
    tools, settings = cells.get("tools"), cells.get("chat_template_kwargs")
    if isinstance(tools, str):
        try:
            tools = json.loads(tools) if tools.strip() else None
        except ValueError as error:
            raise row.refuse("tools", f"is not valid JSON ({error})") from error
    if not isinstance(tools, list | None):
        raise row.refuse("tools", f"holds {short(tools)}, not a list of tools")
    for at, tool in enumerate(cast("list[object]", tools or [])):
        fields: Mapping[str, Any] = cast("Mapping[str, Any]", tool) if isinstance(tool, Mapping) else {}
        schema: object = fields.get("function", fields)
        if not isinstance(schema, Mapping) or not {"name", "parameters"} <= {*cast("Mapping[str, Any]", schema)}:
            shown = short(cast("object", tool))
            raise row.refuse("tools", f"has no schema for tool {at} (a name and its parameters): {shown}")
    if not isinstance(settings, Mapping | None):
        raise row.refuse("chat_template_kwargs", f"holds {short(settings)}, not names with values")
    given = {} if settings is None else dict(cast("Mapping[str, Any]", settings))
    return cast("list[dict[str, Any]] | None", tools), {name: one for name, one in given.items() if one is not None}


def _figures(row: _Row, cells: Mapping[str, Any]) -> dict[str, float]:
    """Numbers that belong to a pair of answers."""
    found = {name: cells[name] for name in _FIGURES if name in cells}
    for name, value in found.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise row.refuse(name, f"holds {short(value)}, not a finite number")
    return {name: float(value) for name, value in found.items()}


def _numbers(row: _Row, column: str, value: object) -> tuple[int, ...]:
    if not isinstance(value, list) or not all(type(one) is int for one in cast("list[Any]", value)):
        raise row.refuse(column, f"holds {short(cast('object', value))}, not a list of whole numbers")
    return tuple(cast("list[int]", value))


def _without_prompt(chosen: Side, rejected: Side) -> tuple[Side, Side, Side]:
    """The shared prefix of two answers is their prompt; of texts, without a space at its end."""
    shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(chosen, rejected, strict=False)))
    shared = min(shared, len(chosen) - 1, len(rejected) - 1) if shared else 0
    if shared and chosen[shared - 1] == " ":
        shared -= 1
    return chosen[:shared], chosen[shared:], rejected[shared:]


def _plain(value: Any) -> Any:
    """Convert arrays and scalars of numpy inside a cell to Python objects."""
    if isinstance(value, np.ndarray):
        return [_plain(one) for one in cast("Any", value).tolist()]
    if isinstance(value, np.generic):
        return cast("Any", value).item()
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in cast("Mapping[Any, Any]", value).items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in cast("Sequence[Any]", value)]
    return value


def native(content: Content) -> dict[str, Any]:
    """What a row holds, as the columns that people write."""
    if isinstance(content, Tokens):
        labels = {} if content.labels is None else {"labels": list(content.labels)}
        return {"input_ids": list(content.input_ids)} | labels
    if isinstance(content, Text | Pair | Prompted):
        names = {"text": content.parts[0]}
        names |= {} if isinstance(content, Text) or content.text_pair is None else {"text_pair": content.text_pair}
        return names | ({"target": content.target} if isinstance(content, Prompted) else {})
    more: dict[str, Any] = {} if content.tools is None else {"tools": [*content.tools]}
    more |= {"chat_template_kwargs": dict(content.settings)} if content.settings else {}
    if isinstance(content, Preference):
        prompt, chosen, rejected = map(_spelled, (content.prompt, content.chosen, content.rejected))
        if chosen is None or rejected is None:
            answer = rejected if chosen is None else chosen
            return {"prompt": prompt, "completion": answer, "label": chosen is not None} | more
        return {"prompt": prompt, "chosen": chosen, "rejected": rejected, **content.figures} | more
    if content.prompt is None:
        return {"messages": _spelled(content.messages)} | more
    before, after = content.messages[: content.prompt], content.messages[content.prompt :]
    return {"prompt": _spelled(before), "completion": _spelled(after)} | more


def _spelled(side: Side | None) -> Any:
    return side if isinstance(side, str | None) else [one.fields() for one in side]


def to_json(content: Content) -> str:
    """Store what a row holds; `from_json` reads it back."""
    record = native(content) | ({"decoded": content.text} if isinstance(content, Tokens) and content.text else {})
    return json.dumps(record, ensure_ascii=False, separators=(",", ":"))


def from_json(text: str) -> Content:
    """Read what `to_json` stored."""
    held: dict[str, Any] = json.loads(text)
    if "input_ids" in held:
        labels = held.get("labels")
        return Tokens(tuple(held["input_ids"]), None if labels is None else tuple(labels), held.get("decoded", ""))
    more = held.get("tools"), held.get("chat_template_kwargs", {})
    if "messages" in held:
        return Conversation(tuple(map(Message.of, held["messages"])), None, *more)
    sides = {name: _side(held.get(name)) for name in ("prompt", "chosen", "rejected", "completion")}
    prompt = cast("Side", sides["prompt"])
    if "chosen" in held:
        figures = {name: held[name] for name in _FIGURES if name in held}
        return Preference(prompt, sides["chosen"], sides["rejected"], *more, figures)
    answer = cast("Side", sides["completion"])
    if "label" in held:
        return Preference(prompt, *((answer, None) if held["label"] else (None, answer)), *more)
    before = cast("tuple[Message, ...]", prompt)
    return Conversation((*before, *cast("tuple[Message, ...]", answer)), len(before), *more)


def _side(value: Any) -> Side | None:
    return value if isinstance(value, str | None) else tuple(map(Message.of, value))
