"""Which rows of a test set are training rows."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from jaxtyping import Bool

from proponent.data import ExampleColumns
from proponent.store import Store
from proponent.types import Example


def known_rows(store: Store, rows: Sequence[Example], second: Literal["text_pair", "target"]) -> Bool[np.ndarray, " n"]:
    """Which rows have the texts of a training example; of a pair, or a prompt and its target, both."""
    whole = ExampleColumns([one.examples for one in store.segments])
    seconds = [one.text_pair if second == "text_pair" else one.target for one in rows]
    return whole.held([one.text for one in rows], seconds, second)
