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

Span = tuple[int, int]
"""Character offsets [start, end) into the original text."""

Label = str | int
"""A class, by name or by number, as the user wrote it."""

RUN_STEPS = 10**9
"""Where several runs are joined, checkpoint s of run r has the number r x RUN_STEPS + s; of the first run, just s."""

SPECIAL = "[special]"
"""The one word that all special and zero-width tokens share."""


def step_name(number: int) -> str:
    """Name a checkpoint."""
    run, step = divmod(number, RUN_STEPS)
    return f"step {step} of run {run}" if run else f"step {step}"


@dataclass(frozen=True, slots=True)
class Example:
    """One row of a data set, or one query.

    Attributes:
        id: the user's id, or the 0-based row number as text.
        row: 0-based row of the source.
        text: the text, or the first text of a pair, or the prompt of a causal language model.
        label: class by name or number; None when there is none.
        text_pair: second text of a pair (sequence classification).
        target: the part whose tokens count (causal language model; None means the whole text), what stands in the gap
            of the text (masked language model), or what is to be written (encoder-decoder).
    """

    id: str
    row: int
    text: str
    label: Label | None = None
    text_pair: str | None = None
    target: str | None = None

    @property
    def parts(self) -> tuple[str, ...]:
        """The raw texts in the order in which the tokenizer meets them: one, or two with a pair or a target."""
        second = self.text_pair if self.text_pair is not None else self.target
        return (self.text,) if second is None else (self.text, second)
