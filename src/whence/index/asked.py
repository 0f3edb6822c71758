"""Queries on their way through the checkpoints: encoded, labelled, and their gradients."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Float

from whence.baselines import Texts
from whence.errors import InputError
from whence.forms import Gradient
from whence.index.passes import Pass
from whence.model import Encoded
from whence.types import Example
from whence.views import QueryView


class Asked:
    """Queries on their way: encoded, labelled, and their gradients at every checkpoint."""

    def __init__(
        self,
        queries: Sequence[Example],
        encoded: Sequence[Encoded],
        labels: list[int],
        against: int | None,
        predicted: list[int],
        probabilities: list[Float[np.ndarray, " l"]],
    ) -> None:
        self.queries, self.encoded, self.labels, self.against = queries, encoded, labels, against
        self.predicted, self.probabilities = predicted, probabilities
        self.gradients: dict[int, Gradient] = {}
        self.losses: list[float] = []
        self.pooled: list[Float[np.ndarray, " d"]] = []

    def take(self, step: int, work: Pass, size: int, *, equal: bool) -> None:
        """Take gradients at one checkpoint, in batches of the given size (of one where lengths must be equal)."""
        size = 1 if equal else size
        parts = []
        self.losses, self.pooled = [], []
        for start in range(0, len(self.encoded), size):
            cut = slice(start, start + size)
            count = len(self.encoded[cut])
            passed = work(self.encoded[cut], self.labels[cut], None if self.against is None else [self.against] * count)
            if passed.bad.any():
                text = self.queries[start + int(np.flatnonzero(passed.bad)[0])].text
                raise InputError(
                    f"the loss or gradient of the text {text[:40]!r} is not finite at step {step}: "
                    "nothing can be explained"
                )
            parts.append(passed.gradient)
            self.losses += passed.losses.tolist()
            self.pooled += list(passed.pooled) if passed.pooled is not None else []
        if parts:
            self.gradients[step] = Gradient.stack(parts)

    def texts(self, row: int) -> Texts:
        """One query as the baselines see it."""
        labelled = bool(self.probabilities)
        return Texts(
            [" ".join(self.queries[row].parts)],
            np.asarray([self.labels[row]]) if labelled else None,
            self.probabilities[row][None].astype(np.float64) if labelled else None,
            self.pooled[row][None] if self.pooled else None,
        )

    def notes(self, row: int) -> list[str]:
        """What was cut."""
        one = self.encoded[row]
        left = "reads nothing before it" if one.cut_before else "reads no further"
        second = "the second text" if self.queries[row].target is None else "the target"
        cuts = {"the text": one.truncated_at, second: one.pair_truncated_at}
        return [
            f"{name} was cut at character {place}: the model {left}"
            for name, place in cuts.items()
            if place is not None
        ]

    def view(self, row: int, names: list[str] | None) -> QueryView:
        """One query as the answer shows it."""
        query = self.queries[row]
        view = QueryView(
            text=query.text,
            text_pair=query.text_pair,
            target=query.target,
            label=None,
            against=None,
            predicted=None,
            probabilities=None,
            loss=self.losses[row],
            truncated_at=self.encoded[row].truncated_at,
        )
        if names is None:
            return view
        return replace(
            view,
            label=names[self.labels[row]],
            against=None if self.against is None else names[self.against],
            predicted=names[self.predicted[row]],
            probabilities={name: float(value) for name, value in zip(names, self.probabilities[row], strict=True)},
        )
