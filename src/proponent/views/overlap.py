"""Verbatim overlap of a training example and an answer, as the views show it."""

from dataclasses import dataclass
from typing import Annotated


@dataclass(frozen=True, slots=True)
class Overlap:
    """The longest run of words of a training example that stands in the answer, too."""

    words: Annotated[int, "number of its words; 0 if none is shared"]
    of: Annotated[int, "words of the answer"]
    share: Annotated[float, "words divided by those of the answer, 0 to 1"]
    start: Annotated[int, "number of the answer's word with which it begins, from 0"]
    text: Annotated[str, "the run as the training example has it"]
