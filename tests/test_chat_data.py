"""Rows of chat fine-tuning as people have them: what is read, kept, and refused."""

import json
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

import chat
from proponent.data import Columns, from_json, read, to_json
from proponent.errors import DataError
from proponent.types import Conversation, Example, Message, Preference, Prompted, Tokens

ROWS: dict[str, list[dict[str, Any]]] = {
    "messages": [{"messages": one} for one in chat.DIALOGUES[:3]],
    "completion": chat.PAIRS[:3],
    "completion of messages": [{"prompt": one[:-1], "completion": one[-1:]} for one in chat.DIALOGUES[:3]],
    "preference": [{"prompt": "a", "chosen": "b", "rejected": "c"}],
    "preference of messages": [
        {"prompt": [chat.user("a")], "chosen": [chat.assistant("b")], "rejected": [chat.assistant("c")]}
    ],
    "KTO": [{"prompt": "a", "completion": "b", "label": True}, {"prompt": "a", "completion": "c", "label": False}],
    "tokens": [{"input_ids": [1, 2, 3], "labels": [-100, 2, 3]}],
    "tools": [{"messages": chat.DIALOGUES[0], "tools": chat.TOOLS, "chat_template_kwargs": {"think": True}}],
}


@pytest.mark.parametrize("layout", ROWS)
def test_every_format_reads_alike_from_every_kind_of_file(layout: str, tmp_path: Path) -> None:
    rows = ROWS[layout]
    wanted = read(rows)
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows))
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "rows.parquet")
    sources: list[Any] = [tmp_path / "rows.jsonl", tmp_path / "rows.parquet", list(wanted)]
    pandas, datasets = pytest.importorskip("pandas"), pytest.importorskip("datasets")
    sources += [pandas.DataFrame(rows), datasets.Dataset.from_list(rows)]
    for source in sources:
        found = read(source)
        assert [one.content for one in found] == [one.content for one in wanted]
        assert found.fingerprint == wanted.fingerprint


@pytest.mark.parametrize("layout", [one for one in ROWS if one != "completion"])
def test_a_row_comes_back_from_the_form_in_which_it_is_stored(layout: str) -> None:
    for one in read(ROWS[layout]):
        assert from_json(to_json(one.content)) == one.content


def test_without_the_label_a_judged_answer_is_an_answer() -> None:
    rows = [{"prompt": "a", "completion": "b", "label": True}]
    assert read(rows, columns=Columns(label=""))[0].content == read([{"prompt": "a", "completion": "b"}])[0].content


def test_everything_that_a_message_carries_is_kept() -> None:
    content = read(chat.WITH_TOOLS)[1].content
    assert isinstance(content, Conversation)
    assert content.messages[1].other == {"tool_calls": chat.CALL}
    assert content.messages[3].fields() == chat.WITH_TOOLS[1]["messages"][3]
    assert content.tools == chat.TOOLS
    assert content.turns[-2:] == (
        ("assistant", "reasoning", "the tool says sunny"), ("assistant", "text", "It is sunny."),
    )  # fmt: skip
    assert [one for one in content.turns if one.kind == "tool call"][:2] == [
        ("assistant", "tool call", "weather"), ("assistant", "tool call", 'Ulm "süd"'),
    ]  # fmt: skip


def test_blocks_of_text_are_texts_of_their_own() -> None:
    blocks = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    content = read([{"messages": [{"role": "user", "content": blocks}, chat.assistant("x")]}])[0].content
    assert content.parts == ("one", "two", "x")


def test_from_and_value_are_role_and_content() -> None:
    said = [{"from": "user", "value": "a"}, {"from": "assistant", "value": "b"}]
    assert read([{"conversations": said}])[0].content == Conversation((Message("user", "a"), Message("assistant", "b")))


def test_a_shared_prefix_is_the_prompt_of_a_preference() -> None:
    texts = read([{"chosen": "The sky is blue.", "rejected": "The sky is green."}])[0].content
    assert texts == Preference("The sky is", " blue.", " green.")
    both = [chat.user("sky?"), chat.assistant("blue")], [chat.user("sky?"), chat.assistant("green")]
    found = read([{"prompt": "sky?", "chosen": both[0], "rejected": both[1]}])[0].content
    assert isinstance(found, Preference)
    assert found.prompt == (Message("user", "sky?"),)


def test_texts_of_prompt_and_completion_keep_their_plain_form() -> None:
    assert read([{"prompt": "a", "completion": ""}])[0].content == Prompted("a", "")


def test_padding_of_a_fixed_width_is_no_part_of_a_row() -> None:
    rows = [{"input_ids": [5, 6, 0, 0], "attention_mask": [1, 1, 0, 0], "labels": [-100, 6, -100, -100]}]
    assert read(rows)[0].content == Tokens((5, 6), (-100, 6))


def test_a_tokenized_classification_set_is_read_by_its_texts() -> None:
    found = read([{"text": "a", "label": 1, "input_ids": [1], "attention_mask": [1]}])
    assert (found.layout, found[0].text) == ("text", "a")


def test_a_named_text_column_or_an_empty_name_reads_texts() -> None:
    rows = [{"text": "plain", "other": "also", "messages": chat.DIALOGUES[0]}]
    assert read(rows).layout == "messages"
    assert any("column 'text' is not" in line for line in read(rows).warnings)
    assert read(rows, columns=Columns(messages=""))[0].text == "plain"
    assert read(rows, columns=Columns(text="other"))[0].text == "also"


def test_an_empty_answer_is_read_and_said() -> None:
    found = read([{"messages": [chat.user("a"), chat.assistant("")]}])
    assert any("empty answer (row 0)" in line for line in found.warnings)


def test_the_text_of_a_conversation_has_one_turn_per_line() -> None:
    assert Example("a", 0, content=read([{"messages": chat.DIALOGUES[0]}])[0].content).text == "\n".join(chat.SAID[:2])


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "no list": ({"messages": "Hello"}, r"column 'messages', row 0 holds 'Hello', not a list of messages"),
    "no messages": ({"messages": []}, r"holds \[\], not a list of messages"),
    "no role": ({"messages": [{"content": "a"}]}, r"as message 0, not .*role"),
    "no text": ({"messages": [chat.user("a"), {"role": "assistant"}]}, r"has no text in message 1 \(assistant\)"),
    "tools without a schema": (
        {"messages": chat.DIALOGUES[0], "tools": [{"function": {"name": "f"}}]}, r"no schema for tool 0",
    ),
    "tools that are no JSON": ({"messages": chat.DIALOGUES[0], "tools": "[{"}, r"column 'tools', row 0 is not valid"),
    "two kinds": ({"prompt": "a", "completion": [chat.assistant("b")]}, r"two kinds, text and messages"),
    "a KTO label": ({"prompt": "a", "completion": "b", "label": "yes"}, r"true or false \(KTO\)"),
    "labels of another length": ({"input_ids": [1, 2], "labels": [1]}, r"has 1 labels for 2 tokens"),
    "labels of other tokens": ({"input_ids": [1, 2], "labels": [-100, 3]}, r"has label 3 at position 1"),
    "tokens that are no numbers": ({"input_ids": ["a"]}, r"not a list of whole numbers"),
    "NUL": ({"messages": [chat.user("a\0"), chat.assistant("b")]}, r"NUL character"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_a_bad_row_is_named_with_the_reason(name: str) -> None:
    row, message = BAD[name]
    with pytest.raises(DataError, match=message):
        read([row])


@pytest.mark.parametrize("name", ["completion_mask", "assistant_masks"])
def test_a_column_of_masks_is_said_not_to_be_read(name: str) -> None:
    rows = [{"input_ids": [1, 2, 3], name: [0, 1, 1]}, {"input_ids": [4, 5], name: [0, 1]}]
    assert any(f"column '{name}' is not read: labels say which" in line for line in read(rows).warnings)
