"""Gradient Rollback: take back exactly what a training example did to the weights, and look at the output again.

Lawrence, Sztyler and Niepert 2021, Explaining Neural Matrix Factorization with Gradient Rollback (arXiv 2010.05516).
Written from the formula: the score is p(theta) - p(theta - what the example changed), for the candidates only.
"""

from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, cast

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from proponent.data import Examples
from proponent.dynamics.loops import LoopScores, Query
from proponent.errors import InputError, MismatchError
from proponent.models import Encoded, Run
from proponent.models.change_record import Changes, read_changes
from proponent.models.encoding import Encoder
from proponent.models.factorization import class_token
from proponent.models.tasks.base import logits_of
from proponent.models.training_trace import digest
from proponent.progress import track
from proponent.training.precision import refuse_half
from proponent.training.rerun import fingerprint
from proponent.types import Example

Neighbours = Literal["auto", "entity", "token", "all"]
NEIGHBOURS: tuple[Neighbours, ...] = ("auto", "entity", "token", "all")
MEASURES = ("auto", "probability", "loss")

_SHOWN = 10
_WHOLE = 0.999  # share above which nothing else is said to have moved

CAVEAT = (
    "A score says what happens to the output when the updates of one training example are taken back from the final "
    "weights. The model is not trained again: `proponent rollback` deletes rows and trains again to check."
)


@dataclass(frozen=True)
class Rollback:
    """A trained model with its record of changes."""

    run: Run
    examples: Sequence[Any]
    changes: Changes
    encoder: Encoder
    model: nn.Module
    neighbours: Neighbours
    probability: bool  # else the loss

    @classmethod
    def of(
        cls,
        run: Run,
        examples: Examples,
        *,
        max_length: int | None = None,
        neighbours: str = "auto",
        measure: str = "auto",
    ) -> "Rollback":
        """Open the record of a run; refuse other rows than those it was trained on."""
        if neighbours not in NEIGHBOURS:
            raise InputError(f"neighbours {neighbours!r}: choose one of {', '.join(NEIGHBOURS)}")
        if measure not in MEASURES:
            raise InputError(f"measure {measure!r}: choose one of {', '.join(MEASURES)}")
        changes = read_changes(run.path)
        length = changes.settings.get("max_length") if max_length is None else max_length
        refuse_half(run, "a rollback")
        model = run.load(run.checkpoints[-1])
        config = cast("Any", model).config
        classifies = bool(run.task.labels)
        if measure == "probability" and not classifies:
            raise InputError("measure=probability is for classifiers, and this run predicts no class: use loss")
        if neighbours == "auto":
            facts = class_token(config, 0) is not None
            neighbours = "entity" if facts else "token" if changes.tables else "all"
        if neighbours != "all" and not changes.tables:
            raise InputError(f"neighbours={neighbours} needs recorded rows of the word table: use neighbours=all")
        if neighbours == "entity" and class_token(config, 0) is None:
            raise InputError("neighbours=entity is for models of facts, whose classes are entities: use token")
        encoder = run.encoder(run.length(length))
        probability = classifies if measure == "auto" else measure != "loss"
        made = cls(run, examples, changes, encoder, model, cast("Neighbours", neighbours), probability)
        made._refuse_other_rows()
        return made

    def candidates(self, query: Query) -> Bool[np.ndarray, " n"]:
        """The training examples that share a row with a query."""
        if self.neighbours == "all":
            return np.ones(len(self.changes), dtype=np.bool_)
        (encoded,) = self.encoder.encode([query.example])
        token = class_token(self._config, query.label)
        own: set[int | None] = {*encoded.ids.tolist(), token}
        if self.neighbours == "entity":
            own &= {class_token(self._config, label) for label in range(len(self.run.task.labels.names))}
        own -= set(self.run.tokenizer.all_special_ids)
        found = np.zeros(len(self.changes), dtype=np.bool_)
        for table in self.changes.tables.values():
            found[table.examples[self._own & np.isin(table.ids, sorted(one for one in own if one is not None))]] = True
        return found

    def predicted(self, examples: Sequence[Example]) -> list[int]:
        """The most likely class of each text."""
        found: list[int] = []
        for one in self.encoder.encode(examples):
            with torch.inference_mode():
                logits = logits_of(self.model(**self.encoder.collate([one], [-1]).inputs))
            found.append(int(logits.argmax(-1)[0]))
        return found

    def value(self, encoded: Encoded, label: int) -> float:
        """Probability of the class, or minus the loss: higher is better."""
        batch = self.encoder.collate([encoded], [label])
        with torch.inference_mode():
            logits = logits_of(self.model(**batch.inputs))
            if self.probability:
                return float(torch.softmax(logits.double(), -1)[0, label])
            return -float(self.run.task.objective(batch).losses(logits)[0])

    @contextmanager
    def without(self, row: int, tokens: Sequence[int] | None = None) -> Generator[None]:
        """The model without what an example changed, or changed in the rows of some tokens; restored bit for bit."""
        kept: list[tuple[Tensor, Any, Tensor]] = []
        with torch.inference_mode():
            for name, table in self.changes.tables.items():
                part = table.of(row)
                chosen = np.ones(part.stop - part.start, bool) if tokens is None else np.isin(table.ids[part], tokens)
                parameter = self._parameters[name]
                ids = torch.as_tensor(table.ids[part][chosen], device=parameter.device)
                kept.append((parameter, ids, parameter[ids].clone()))
                parameter[ids] -= torch.as_tensor(table.rows[part][chosen], device=parameter.device)
            for name, changed in self.changes.dense.items() if tokens is None else ():
                parameter = self._parameters[name]
                kept.append((parameter, slice(None), parameter.clone()))
                parameter -= torch.as_tensor(changed[row], device=parameter.device).view_as(parameter)
        try:
            yield
        finally:
            with torch.inference_mode():
                for parameter, place, before in reversed(kept):
                    parameter[place] = before

    def words(self, query: Query, row: int) -> dict[int, float]:
        """Score of each word of an example: its rows alone are taken back; -1 stands for everything else."""
        if not self.changes.tables:
            return {}
        (asked,), own = self.encoder.encode([query.example]), self._encoded[row]
        whole = self.value(asked, query.label)
        found: dict[int, float] = {}
        for word in sorted(set(own.words.tolist())):
            with self.without(row, [int(one) for one in own.ids[own.words == word]]):
                found[max(word, -1)] = whole - self.value(asked, query.label)
        token = class_token(self._config, self._label(row))
        if token is not None:
            with self.without(row, [token]):
                found[-1] = found.get(-1, 0.0) + whole - self.value(asked, query.label)
        return found

    def scores(self, query: Query, *, quiet: bool = True) -> Float[np.ndarray, " n"]:
        """What the query's output loses when each candidate is taken back; NaN for all others."""
        (encoded,) = self.encoder.encode([query.example])
        whole = self.value(encoded, query.label)
        found = np.full(len(self.changes), np.nan)
        rows = np.flatnonzero(self.candidates(query)).tolist()
        for row in track(rows, total=len(rows), label="taking back", unit="examples", quiet=quiet):
            with self.without(row):
                found[row] = whole - self.value(encoded, query.label)
        return found

    @cached_property
    def _parameters(self) -> dict[str, Tensor]:
        named = {name: one.detach() for name, one in self.model.named_parameters()}
        lost = next((name for name in self.changes.names if name not in named), None)
        if lost is not None:
            raise MismatchError(f"the record of {self.run.path} holds changes of {lost}, which its model lacks")
        return named

    @cached_property
    def _own(self) -> Bool[np.ndarray, " m"]:
        """Which recorded rows are of an example's own tokens and class, and not of drawn classes."""
        (table,) = self.changes.tables.values()
        if self.changes.settings.get("rows") == "own":
            return np.ones(len(table.ids), dtype=np.bool_)
        found = np.zeros(len(table.ids), dtype=np.bool_)
        for row, own in enumerate(self._rows):
            found[table.of(row)] = np.isin(table.ids[table.of(row)], list(own))
        return found

    @cached_property
    def _rows(self) -> list[set[int]]:
        """The tokens of every example, and its class where classes are tokens."""
        tokens = [class_token(self._config, self._label(row)) for row in range(len(self._encoded))]
        own = zip(self._encoded, tokens, strict=True)
        return [{*one.ids.tolist(), *(() if token is None else (token,))} for one, token in own]

    @cached_property
    def _encoded(self) -> list[Encoded]:
        return self.encoder.encode(list(self.examples))

    @property
    def _config(self) -> Any:
        return cast("Any", self.model).config

    def _label(self, row: int) -> int:
        label = self.examples[row].label
        return -1 if label is None or not self.run.task.labels else self.run.label_number(label)

    def _refuse_other_rows(self) -> None:
        """Require the training set, by the tokens of every row, and by its labels where they are recorded."""
        if len(self.examples) != len(self.changes):
            raise MismatchError(
                f"{len(self.examples)} rows were given, and {self.run.path} was trained on {len(self.changes)}: give "
                "the same file"
            )
        for one, example, known in zip(self._encoded, self.examples, self.changes.digests.tolist(), strict=True):
            if known and digest(torch.as_tensor(one.ids)[None]) != known:
                raise MismatchError(
                    f"the row with id {example.id} has other tokens than the row that {self.run.path} was trained on "
                    "in its place: give the same file, in the same order"
                )
        known = self.changes.settings.get("training_set")
        if known is not None and known != fingerprint(self.examples):
            raise MismatchError(
                f"ids, labels or texts of the {len(self.examples)} rows are not those that {self.run.path} was trained "
                "on: give the same file, with the same columns"
            )

    def unknown(self, query: Example) -> str | None:
        """A name of a query that the training never had, of models that read names; None for none."""
        if getattr(self._config, "factorization", "bag") == "bag":
            return None
        vocabulary = self.run.tokenizer.get_vocab()
        return next((one for one in query.parts if one not in vocabulary), None)

    def notes(self, chosen: Int[np.ndarray, " k"], counts: Sequence[int]) -> tuple[str, ...]:
        """What a reader of the scores must know."""
        notes = [
            f"what was taken back: changes of {', '.join(self.changes.names)}; the score is the "
            + ("lost probability" if self.probability else "rise of the loss (without a value: the fall of the output)")
        ]
        shared = {"entity": "an entity", "token": "a token"}.get(self.neighbours)
        if shared is not None:
            of = f"{min(counts):,} to {max(counts):,}" if len(set(counts)) > 1 else f"{counts[0]:,}"
            notes.append(
                f"among neighbours: only the {of} of {len(self.changes):,} examples that share {shared} with the query "
                "have a score"
            )
        if class_token(self._config, 0) is not None:
            notes.append("[special] stands for the row of an example's class (its tail)")
        unseen = int((self.changes.digests == 0).sum())
        if unseen:
            notes.append(f"{unseen:,} of {len(self.changes):,} examples were in no step of this training")
        return (*notes, *_limits(self.changes, chosen))


def _limits(changes: Changes, chosen: Int[np.ndarray, " k"]) -> list[str]:
    """What else is in the changes, or is not."""
    notes: list[str] = []
    share = changes.settings.get("own_share")
    if share is not None and share < _WHOLE:
        notes.append(
            f"{1 - float(share):.1%} of the squared change of the word table is outside the kept rows (drawn classes, "
            "tied outputs, momentum or weight decay) and is not taken back"
        )
    if changes.settings["optimizer"] != "sgd":
        notes.append(
            f"the optimizer ({changes.settings['optimizer']}) has momentum: a recorded change also holds that of "
            "earlier examples with the same weights; sgd has none"
        )
    sizes = changes.epochs[chosen].sum(0)
    if len(sizes) > 1 and sizes.sum() > 0:
        half = int(np.searchsorted(np.cumsum(sizes) / sizes.sum(), 0.5)) + 1
        notes.append(
            f"half of the change of the {len(chosen)} strongest examples arose by epoch {half} of {len(sizes)}: the "
            "earlier, the further from the weights that it is taken back from"
        )
    return notes


def scores(
    run: Run,
    examples: Examples,
    queries: Sequence[Query],
    *,
    max_length: int | None = None,
    quiet: bool = False,
    neighbours: str = "auto",
    measure: str = "auto",
) -> LoopScores:
    """Score the neighbours of each query by what its output loses without their changes."""
    work = Rollback.of(run, examples, max_length=max_length, neighbours=neighbours, measure=measure)
    for one in queries:
        _refuse_alone(work, one)
    found = np.stack([work.scores(one, quiet=quiet) for one in queries])
    counts = [int(np.isfinite(one).sum()) for one in found]
    order = np.argsort(-np.abs(np.nan_to_num(found)), axis=1)[:, :_SHOWN]
    best = np.unique(order[np.isfinite(np.take_along_axis(found, order, axis=1))])

    def words(query: int, row: int) -> Mapping[int, float]:
        return work.words(queries[query], row)

    used = "the final weights, with changes taken back"
    return LoopScores(found, used, notes=work.notes(best, counts), caveat=CAVEAT, words=words)


def _refuse_alone(work: Rollback, query: Query) -> None:
    name, text = work.unknown(query.example), " ".join(query.example.parts)[:80]
    if name is not None:
        raise InputError(f"the training has no name {name!r} (of the query {text!r}): check its spelling")
    if not work.candidates(query).any():
        raise InputError(
            f"no training example shares an entity or token with the query {text!r}: nothing can be taken back; score "
            "every row with neighbours=all"
        )
