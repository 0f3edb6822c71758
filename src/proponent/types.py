"""The nouns a user meets, and the one table of axis letters (docs/notation.md is made from it).

n  examples of the training set
q  queries
t  token positions
k  kept rows (one per distinct token and word of an example)
w  distinct words of a text
v  vocabulary
d  embedding width
i  in-features of a linear layer
o  out-features of a linear layer
l  labels (classes)
p  projected width
c  checkpoints
s  shards

Sign, once for all: score(z, z') > 0 means that training example z *helped* query z' (removing z raises the loss of
z'); score < 0 means that it *hurt*.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, cast

Span = tuple[int, int]
"""Character offsets [start, end) into the original text."""

Label = str | int | float
"""A class, by name or by number, or a value, as the user wrote it; several labels are one list as JSON text."""

SPECIAL = "[special]"
"""The one word that all special and zero-width tokens share."""

TEMPLATE = "[template]"
"""The one word that all tokens of a chat template's markup share."""

_REASONING = ("reasoning_content", "reasoning", "thinking")
"""Fields of a message that hold its reasoning; chat templates read one of them."""


@dataclass(frozen=True, slots=True, order=True)
class CheckpointId:
    """Which checkpoint: ordered run by run; its text is "step 5", or "step 5 of run 1" after the first run."""

    run: int  # number of the run among those that are joined, from 0
    step: int  # optimizer step

    def __str__(self) -> str:
        return f"step {self.step} of run {self.run}" if self.run else f"step {self.step}"


@dataclass(frozen=True, slots=True)
class Text:
    """One text: of a classifier, or all of it read by a language model.

    Attributes:
        text: the text.
    """

    text: str

    @property
    def parts(self) -> tuple[str, ...]:
        """The raw texts in the order in which the tokenizer meets them."""
        return (self.text,)


@dataclass(frozen=True, slots=True)
class Pair:
    """Two texts that a classifier reads together.

    Attributes:
        text: the first text.
        text_pair: the second text.
    """

    text: str
    text_pair: str

    @property
    def parts(self) -> tuple[str, ...]:
        """The raw texts in the order in which the tokenizer meets them."""
        return (self.text, self.text_pair)


@dataclass(frozen=True, slots=True)
class Prompted:
    """A text, and the target that a language model predicts from it.

    Attributes:
        prompt: the prompt of a causal language model, the text with a gap of a masked one, or the input of an
            encoder-decoder.
        target: the part whose tokens count after the prompt, what stands in the gap, or the output.
        text_pair: second text of the data; no model reads one beside a target, and encoding says so.
    """

    prompt: str
    target: str
    text_pair: str | None = None

    @property
    def parts(self) -> tuple[str, ...]:
        """The raw texts in the order in which the tokenizer meets them."""
        return (self.prompt, self.target if self.text_pair is None else self.text_pair)


class Turn(NamedTuple):
    """One raw text of a conversation."""

    role: str  # whose message it stands in
    kind: str  # "text", "reasoning" or "tool call"
    text: str


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a conversation.

    Attributes:
        role: who speaks, such as system, user, assistant or tool.
        content: its text; None if it has none, or if `other` holds a list of blocks as its "content".
        other: every other field, as given: reasoning, tool calls, names.
    """

    role: str
    content: str | None = None
    other: Mapping[str, Any] = field(default_factory=dict[str, Any], hash=False)

    @classmethod
    def of(cls, fields: Mapping[str, Any]) -> "Message":
        """Make a message from its fields; fields that are None count as missing, as chat templates see it.

        Args:
            fields: the message as a dict.

        Returns:
            The message.
        """
        kept = {name: value for name, value in fields.items() if value is not None}
        role = str(kept.pop("role"))
        content = kept.pop("content") if isinstance(kept.get("content"), str) else None
        return cls(role, content, kept)

    def fields(self, change: Callable[[str, str], str] = lambda _, text: text) -> dict[str, Any]:
        """Spell the message as a dict.

        Args:
            change: gives the new text for each text of the message, from its kind and the text.

        Returns:
            The dict that a chat template takes.
        """
        made: dict[str, Any] = {"role": self.role}
        for name in _REASONING:
            if isinstance(self.other.get(name), str):
                made[name] = change("reasoning", self.other[name])
        if self.content is not None:
            made["content"] = change("text", self.content)
        for name, value in self.other.items():
            if name == "content":
                made[name] = _changed(value, lambda text: change("text", text), frozenset({"text"}))
            elif name == "tool_calls":
                names = frozenset({"name", "arguments"})
                made[name] = _changed(value, lambda text: change("tool call", text), names)
            else:
                made.setdefault(name, value)
        return made

    @property
    def turns(self) -> tuple[Turn, ...]:
        """Its raw texts in order: reasoning, content, and names and arguments of tool calls."""
        found: list[Turn] = []

        def collect(kind: str, text: str) -> str:
            found.append(Turn(self.role, kind, text))
            return text

        self.fields(collect)
        return tuple(found)


def _changed(value: Any, change: Callable[[str], str], names: frozenset[str], *, inside: bool = False) -> Any:
    """Copy plain data with the texts under some keys changed."""
    if isinstance(value, str):
        return change(value) if inside else value
    if isinstance(value, Mapping):
        fields = cast("Mapping[str, Any]", value).items()
        return {key: _changed(one, change, names, inside=inside or key in names) for key, one in fields}
    if isinstance(value, list | tuple):
        return [_changed(one, change, names, inside=inside) for one in cast("Sequence[Any]", value)]
    return value


@dataclass(frozen=True, slots=True)
class Conversation:
    """Messages that a chat template renders for a language model.

    Attributes:
        messages: all messages in order.
        prompt: how many of the first messages are the prompt, of a row of prompt and completion; None for a row of
            messages.
        tools: schemas of the tools that the template shows; None for none.
        settings: what else the template takes (the column chat_template_kwargs).
    """

    messages: tuple[Message, ...]
    prompt: int | None = None
    tools: Sequence[Mapping[str, Any]] | None = field(default=None, hash=False)
    settings: Mapping[str, Any] = field(default_factory=dict[str, Any], hash=False)

    @property
    def turns(self) -> tuple[Turn, ...]:
        """Every raw text, with the role of its message."""
        return tuple(turn for message in self.messages for turn in message.turns)

    @property
    def parts(self) -> tuple[str, ...]:
        """The raw texts in the order in which the tokenizer meets them."""
        return tuple(turn.text for turn in self.turns)


Side = str | tuple[Message, ...]
"""A prompt or an answer of a preference: a text, or messages."""


@dataclass(frozen=True, slots=True)
class Preference:
    """A prompt and answers that people judged.

    Attributes:
        prompt: the prompt.
        chosen: the preferred answer; None for an answer that is only rejected.
        rejected: the rejected answer; None for an answer that is only chosen.
        tools: schemas of the tools that a chat template shows; None for none.
        settings: what else a chat template takes.
        figures: margin, and log-probabilities of a reference model (ref_chosen_logps ...), where the data gives them.
    """

    prompt: Side
    chosen: Side | None
    rejected: Side | None
    tools: Sequence[Mapping[str, Any]] | None = field(default=None, hash=False)
    settings: Mapping[str, Any] = field(default_factory=dict[str, Any], hash=False)
    figures: Mapping[str, float] = field(default_factory=dict[str, float], hash=False)

    @property
    def turns(self) -> tuple[Turn, ...]:
        """Every raw text, with the role of its message, or its side in a preference of texts."""
        return tuple(turn for _, turn in self.placed)

    @property
    def parts(self) -> tuple[str, ...]:
        """The raw texts in order: prompt, chosen, rejected."""
        return tuple(turn.text for turn in self.turns)

    @property
    def placed(self) -> Iterator[tuple[str, Turn]]:
        """Every raw text with the answer that it stands in: "chosen" or "rejected"; empty for the prompt."""
        for name, side in {"prompt": self.prompt, "chosen": self.chosen, "rejected": self.rejected}.items():
            said = [Turn(name, "text", side)] if isinstance(side, str) else [t for x in side or () for t in x.turns]
            yield from (("" if name == "prompt" else name, turn) for turn in said)


@dataclass(frozen=True, slots=True)
class Tokens:
    """A row that was tokenized before training.

    Attributes:
        input_ids: token ids.
        labels: the token that counts at each position, -100 where none does; None if all count.
        text: the tokens as text, once a tokenizer has decoded them.
    """

    input_ids: tuple[int, ...]
    labels: tuple[int, ...] | None = None
    text: str = ""

    @property
    def parts(self) -> tuple[str, ...]:
        """The decoded text."""
        return (self.text,)


Content = Text | Pair | Prompted | Conversation | Preference | Tokens
"""What one example holds."""


@dataclass(frozen=True, slots=True)
class Counting:
    """How a training made tokens of the rows of a language model, and which of them it counted.

    Attributes:
        trl: whether the rules of TRL's SFTTrainer hold: the prompt is tokenized apart, and an end token is appended.
        template: text of the chat template; None for the tokenizer's own.
        assistant_only: whether only what the template marks as the assistant's counts.
        completion_only: whether of prompt and completion only the completion counts.
        packing: how rows were packed: bfd, bfd_split or wrapped; empty if they were not.
        date: day of the training, for templates that print today's date; empty if not known.
        source: where this is known from, for people.
    """

    trl: bool = False
    template: str | None = None
    assistant_only: bool = False
    completion_only: bool = True
    packing: str = ""
    date: str = ""
    source: str = ""


@dataclass(frozen=True, slots=True, init=False)
class Example:
    """One row of a data set, or one query.

    Attributes:
        id: the user's id, or the 0-based row number as text.
        row: 0-based row of the source.
        content: what it holds: a text, a pair of texts, a prompt and its target, a conversation ...
        label: class by name or number; None when there is none.
        span: of a query, the place in its last text whose tokens alone count; None for all that count.
        weight: factor of its loss in the training.
    """

    id: str
    row: int
    content: Content
    label: Label | None
    span: Span | None
    weight: float

    def __init__(
        self,
        id: str,  # noqa: A002 # the name of the field
        row: int,
        text: Content | str = "",
        label: Label | None = None,
        text_pair: str | None = None,
        target: str | None = None,
        *,
        content: Content | None = None,
        span: Span | None = None,
        weight: float = 1.0,
    ) -> None:
        """Make an example.

        Args:
            id: the user's id, or the 0-based row number as text.
            row: 0-based row of the source.
            text: its text, the first text of a pair, or the prompt.
            label: class by name or number.
            text_pair: second text.
            target: what a language model predicts.
            content: what it holds, in place of the texts.
            span: the place in the last text whose tokens alone count.
            weight: factor of its loss in the training.

        Raises:
            TypeError: texts and content are both given.
        """
        if content is not None and (text, text_pair, target) != ("", None, None):
            raise TypeError("give an Example either texts or content, not both")
        content = text if content is None and isinstance(text, Content) else content
        if content is None:
            first = cast("str", text)  # `check_queries` refuses what is no text
            if target is not None:
                content = Prompted(first, target, text_pair)
            else:
                content = Text(first) if text_pair is None else Pair(first, text_pair)
        given = {"id": id, "row": row, "content": content, "label": label, "span": span, "weight": weight}
        for name, value in given.items():
            object.__setattr__(self, name, value)

    @property
    def text(self) -> str:
        """The text, the first text of a pair, or the prompt; the texts of a conversation, one per line."""
        content = self.content
        if isinstance(content, Conversation | Preference):
            return "\n".join(content.parts)
        return content.prompt if isinstance(content, Prompted) else content.text

    @property
    def text_pair(self) -> str | None:
        """The second text of a pair; None where there is none."""
        return self.content.text_pair if isinstance(self.content, Pair | Prompted) else None

    @property
    def turns(self) -> tuple[Turn, ...] | None:
        """The texts of a conversation or a preference, with their roles; None for other contents."""
        return self.content.turns if isinstance(self.content, Conversation | Preference) else None

    @property
    def target(self) -> str | None:
        """The target; None where there is none."""
        return self.content.target if isinstance(self.content, Prompted) else None

    @property
    def parts(self) -> tuple[str, ...]:
        """The raw texts in the order in which the tokenizer meets them: one, or two with a pair or a target."""
        return self.content.parts
