"""Questions to a chat model: conversations, the span that counts, answers that the model writes."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch

from proponent.errors import InputError
from proponent.gradients.computer import GradientComputer
from proponent.index.loading import LoadedRun
from proponent.models.placement import device_of
from proponent.store import Store
from proponent.types import Conversation, Example, Message, Preference, Prompted, Span, Text

MOST_WRITTEN = 128
"""Maximum tokens of an answer that the model writes."""


def conversation_of(
    messages: object, target: str | None = None, tools: Sequence[Mapping[str, Any]] | None = None
) -> Conversation:
    """The conversation of a query: its last turn is the answer that counts, if there is one."""
    if not isinstance(messages, Sequence) or isinstance(messages, str) or not messages:
        raise InputError(f'messages are {messages!r:.80}: give a list of {{"role": ..., "content": ...}}')
    made: list[Message] = []
    for at, one in enumerate(cast("Sequence[object]", messages)):
        fields: Mapping[str, Any] = cast("Mapping[str, Any]", one) if isinstance(one, Mapping) else {}
        if not isinstance(fields.get("role"), str) or not isinstance(fields.get("content"), str | list | None):
            raise InputError(f'message {at} is {one!r:.80}: give {{"role": ..., "content": ...}}')
        made.append(Message.of(fields))
    if target is not None:
        if made[-1].role == "assistant":
            raise InputError("the messages end with an answer, and a target is given, too: leave one of them out")
        made.append(Message("assistant", target))
    answered = made[-1].role == "assistant"
    if answered and not any(turn.text.strip() for turn in made[-1].turns):
        raise InputError("the assistant's last turn is empty: there is nothing to explain")
    return Conversation(tuple(made), len(made) - answered, tools)


def question_of(text: Any, messages: object) -> Any:
    """The one question: a text, or messages."""
    if (text is None) == (messages is None):
        said = "the text must be a str, not NoneType" if text is None else "both are given"
        raise InputError(f"give either a text or messages: {said}")
    if isinstance(messages, Mapping):  # a row of a data set, such as a pair of answers
        return cast("Mapping[str, Any]", messages)
    return {"messages": messages} if text is None else text


def asked_query(
    query: Example, loaded: LoadedRun, span: str | Span | None, *, generate: bool
) -> tuple[Example, list[str]]:
    """A question as the index takes it, with notes; the model may write the answer."""
    store, notes = loaded.store, list[str]()
    if generate:
        query = as_chat(query) if _holds_conversations(store) else query
        query = answered(query, loaded.at(store.plan.checkpoints[-1].id))
        notes.append("the model wrote the answer, by the likeliest token at each step")
    found = query.parts[-1].count(span) if isinstance(span, str) and span else 0
    notes += [f"the span {span!r} stands {found} times in the answer: the first one counts"] if found > 1 else []
    return with_span(query, span), notes


def _holds_conversations(store: Store) -> bool:
    content = store.example(0).content if store.n > 0 else None
    return isinstance(content, Conversation) or (
        isinstance(content, Preference) and not isinstance(content.prompt, str)
    )


def as_asked(queries: Sequence[Example], store: Store) -> list[Example]:
    """Questions with their answers as conversations, where the rows of an index are conversations."""
    chat = any(query.target is not None for query in queries) and _holds_conversations(store)
    return [as_chat(query) if chat and query.target is not None else query for query in queries]


def unanswered(query: Example) -> bool:
    """Whether a query is a conversation without an answer."""
    content = query.content
    return isinstance(content, Conversation) and content.prompt == len(content.messages)


def refuse_unanswered(queries: Sequence[Example]) -> None:
    """Refuse conversations that end with a question."""
    if any(map(unanswered, queries)):
        raise InputError(
            "the messages end without an answer, and an answer is what is explained: give it with --target (target=), "
            "or let the model write it with --generate (generate=True)"
        )


def with_span(query: Example, span: str | Span | None) -> Example:
    """Let only a piece of the answer (of a text without one: of the text) count."""
    if span is None:
        return query
    text = query.parts[-1]
    if isinstance(span, str):
        start = text.find(span) if span else -1
        if start < 0:
            raise InputError(f"the span {span!r} does not stand in the answer: {text[:80]!r}")
        span = (start, start + len(span))
    if not 0 <= span[0] < span[1] <= len(text):
        raise InputError(f"the span {span} is not within the {len(text)} characters of the answer")
    return Example(query.id, query.row, label=query.label, content=query.content, span=span)


def as_chat(query: Example) -> Example:
    """A plain question, with or without its answer, as a conversation."""
    content = query.content
    if query.text_pair is not None:
        raise InputError(f"the query with id {query.id} has a second text, and this model reads chats: leave it out")
    if not isinstance(content, Text | Prompted):
        return query
    if isinstance(content, Prompted) and not content.target.strip():
        raise InputError(
            f"the target of the query with id {query.id} is empty: give the answer, or leave the target out"
        )
    messages = [Message("user", content.parts[0])]
    messages += [Message("assistant", content.target)] if isinstance(content, Prompted) else []
    return Example(query.id, query.row, label=query.label, content=Conversation(tuple(messages), 1), span=query.span)


def answered(query: Example, last: GradientComputer) -> Example:
    """Let the model write the answer: the likeliest token at each step."""
    content = query.content
    if not last.run.task.chats or not last.run.task.predicts_tokens:
        raise InputError("--generate: this run writes no text: ask without it")
    if isinstance(content, Prompted) or (isinstance(content, Conversation) and not unanswered(query)):
        raise InputError("--generate: the question has an answer already: leave the answer or --generate out")
    ids = torch.tensor([last.encoder.prompt_ids(query)], device=device_of(last.model))
    model: Any = last.model
    with torch.no_grad():
        made = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=MOST_WRITTEN,
            do_sample=False,
            num_beams=1,
            pad_token_id=last.encoder.pad_id,
            eos_token_id=last.run.tokenizer.eos_token_id,
        )
    text: str = last.run.tokenizer.decode(made[0, ids.shape[1] :], skip_special_tokens=True)
    if not text.strip():
        raise InputError("--generate: the model answers with its end token alone: give an answer with --target")
    if isinstance(content, Conversation):
        whole = Conversation(
            (*content.messages, Message("assistant", text.strip())), content.prompt, content.tools, content.settings
        )
        return Example(query.id, query.row, content=whole)
    return Example(query.id, query.row, query.text, target=text)


def other_answer(query: Example, target: str) -> Example:
    """The same question with another answer."""
    content = query.content
    if not target.strip():
        raise InputError("the other answer is empty: give the text to compare with")
    if isinstance(content, Prompted):
        return Example("against", query.row, content=Prompted(content.prompt, target))
    if isinstance(content, Conversation) and content.prompt is not None:
        kept = content.messages[: content.prompt]
        whole = Conversation((*kept, Message("assistant", target)), content.prompt, content.tools, content.settings)
        return Example("against", query.row, content=whole)
    raise InputError("another answer is compared with an answer: give that with --target (target=) or --generate")
