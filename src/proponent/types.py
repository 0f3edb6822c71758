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

from dataclasses import dataclass
from typing import cast

Span = tuple[int, int]
"""Character offsets [start, end) into the original text."""

Label = str | int
"""A class, by name or by number, as the user wrote it."""

SPECIAL = "[special]"
"""The one word that all special and zero-width tokens share."""


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


Content = Text | Pair | Prompted
"""What one example holds."""


@dataclass(frozen=True, slots=True, init=False)
class Example:
    """One row of a data set, or one query.

    Attributes:
        id: the user's id, or the 0-based row number as text.
        row: 0-based row of the source.
        content: what it holds: a text, a pair of texts, or a prompt and its target.
        label: class by name or number; None when there is none.
    """

    id: str
    row: int
    content: Content
    label: Label | None

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

        Raises:
            TypeError: texts and content are both given.
        """
        if content is not None and (text, text_pair, target) != ("", None, None):
            raise TypeError("give an Example either texts or content, not both")
        content = text if content is None and isinstance(text, Text | Pair | Prompted) else content
        if content is None:
            first = cast("str", text)  # `check_queries` refuses what is no text
            if target is not None:
                content = Prompted(first, target, text_pair)
            else:
                content = Text(first) if text_pair is None else Pair(first, text_pair)
        object.__setattr__(self, "id", id)
        object.__setattr__(self, "row", row)
        object.__setattr__(self, "content", content)
        object.__setattr__(self, "label", label)

    @property
    def text(self) -> str:
        """The text, the first text of a pair, or the prompt."""
        return self.content.prompt if isinstance(self.content, Prompted) else self.content.text

    @property
    def text_pair(self) -> str | None:
        """The second text of a pair; None where there is none."""
        return None if isinstance(self.content, Text) else self.content.text_pair

    @property
    def target(self) -> str | None:
        """The target; None where there is none."""
        return self.content.target if isinstance(self.content, Prompted) else None

    @property
    def parts(self) -> tuple[str, ...]:
        """The raw texts in the order in which the tokenizer meets them: one, or two with a pair or a target."""
        return self.content.parts
