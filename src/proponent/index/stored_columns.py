"""The columns of the training set that an index stores, as the user gave them."""

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Int

from proponent.data import Examples, to_json
from proponent.types import Example, Pair, Prompted, Text


def stored_columns(
    examples: Examples,
    rows: range,
    labels: Sequence[int],
    names: tuple[str, ...] | None,
    order: Int[np.ndarray, " n"],
    decoded: Callable[[Example], Example],
    answers: Callable[[Example], str | None] = lambda _: None,
) -> dict[str, Sequence[object] | np.ndarray]:
    """Lay out one segment of the training set; `answers` spells labels that are no classes."""
    kept, sources = [decoded(examples[row]) for row in rows], examples.part("source")
    content = [None if isinstance(one.content, Text | Pair | Prompted) else to_json(one.content) for one in kept]
    chat = {} if examples.layout == "text" else {"content": content}
    places = np.empty(len(kept), dtype=np.int32)
    places[order] = np.arange(len(kept), dtype=np.int32)
    return {
        "id": [one.id for one in kept],
        "row": np.asarray([one.row for one in kept], dtype=np.int64),
        "text": [one.text for one in kept],
        "text_pair": [one.text_pair for one in kept],
        "target": [one.target for one in kept],
        **chat,
        "label": [names[labels[row]] for row in rows] if names is not None else [answers(one) for one in kept],
        "source": [sources[row] for row in rows],
        "place": places,
    }
