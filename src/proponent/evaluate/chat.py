"""What an evaluation of a chat model asks and indexes: of a query the last answer counts, rows keep their turns."""

from collections.abc import Sequence

from proponent.data import Examples, Layout, read
from proponent.index.asking import as_chat, conversation_of
from proponent.types import Conversation, Example


def layout_of(rows: Sequence[Example]) -> Layout:
    """Which columns hold the rows."""
    return rows.layout if isinstance(rows, Examples) else read(list(rows)).layout


def as_questions(queries: Sequence[Example], train: Sequence[Example]) -> list[Example]:
    """Queries of messages whose last turn alone counts; where the rows are conversations, all queries are."""
    chat = any(isinstance(one.content, Conversation) for one in train)
    return [_asked(as_chat(one) if chat else one) for one in queries]


def rows_like(kept: Sequence[Example], data: Sequence[Example]) -> Sequence[Example]:
    """The kept rows, in the columns of the data set that they are from."""
    if not isinstance(data, Examples):
        return kept
    names = {one.id for one in kept}
    return data.subset([place for place, one in enumerate(data) if one.id in names])


def _asked(one: Example) -> Example:
    content = one.content
    if not isinstance(content, Conversation) or content.prompt is not None:
        return one
    made = conversation_of([message.fields() for message in content.messages], tools=content.tools)
    whole = Conversation(made.messages, made.prompt, made.tools, content.settings)
    return Example(one.id, one.row, label=one.label, content=whole)
