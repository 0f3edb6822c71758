"""Suspected label errors with their evidence, and suggested labels.

This module reads an index only; it needs neither the model nor torch.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Int

from proponent.actions.out_of_sample import OutOfSample, much_likelier
from proponent.data import write_csv
from proponent.errors import InputError
from proponent.gradients.forms import Dense, Rows
from proponent.gradients.gradient import Gradient
from proponent.method import Gradients, Layers, Logit, similarity_of
from proponent.preconditioners.base import preconditioners_of
from proponent.store import Store
from proponent.types import CheckpointId
from proponent.views import LabelReport, Suspect

Ranking = Literal[
    "mean-probability", "mean-loss", "last-loss", "influence", "self-influence", "combined", "out-of-sample"
]

RANKINGS: dict[Ranking, str] = {
    "mean-probability": "mean probability of the given label over the checkpoints, lowest first",
    "mean-loss": "mean loss of the given label over the checkpoints",
    "last-loss": "loss of the given label at the last checkpoint",
    "influence": "sum of the scores of all other training examples on this example",
    "self-influence": "score of the example on itself",
}
"""Rankings of suspected label errors by an index alone, in words."""

OUT_OF_SAMPLE: dict[Ranking, str] = {
    "combined": "probability of the given label, the geometric mean of the run's mean over the checkpoints and of the "
    "out-of-sample ones, lowest first",
    "out-of-sample": "the same of the out-of-sample probabilities alone",
}
"""Rankings that also need out-of-sample probabilities."""


def report(store: Store) -> LabelReport:
    """Report for the table of actions: the default ranking."""
    return label_errors(store)


def label_errors(store: Store, ranking: Ranking | None = None, out_of_sample: OutOfSample | None = None) -> LabelReport:
    """Rank the training examples by how suspect their labels are.

    Args:
        store: an index of a classifier.
        ranking: a ranking; None: `combined` with out-of-sample probabilities, else `mean-probability`.
        out_of_sample: probabilities of models that have not seen the rows; flags, suggestions and confidence then come
            from their combination with the run's own, whatever the ranking.

    Returns:
        All available rows. `label_score` lies in 0 to 1, low is suspect: the probability of the given label; for the
        loss rankings exp(-loss), its geometric mean; for the influence ones the rank divided by the number of rows.

    Raises:
        InputError: the index has no labels, or the ranking needs out-of-sample probabilities or other scores.
    """
    ranking = ranking or ("mean-probability" if out_of_sample is None else "combined")
    if ranking in OUT_OF_SAMPLE and out_of_sample is None:
        raise InputError(
            f"the ranking {ranking} needs out-of-sample probabilities: give --cross-validate or --probabilities FILE "
            "(out_of_sample=)"
        )
    names = store.plan.labels.names
    judged = judge(store, out_of_sample)
    suspicion = _suspicion(store, ranking, out_of_sample)
    valid = np.flatnonzero(store.alive)
    order = valid[np.lexsort((valid, -suspicion[valid]))]
    quality = _quality(ranking, suspicion, order)
    ids, numbers, texts, pairs = (store.examples[name] for name in ("id", "row", "text", "text_pair"))
    rows = tuple(
        Suspect(
            rank=rank,
            id=str(ids[place]),
            row=int(numbers[place]),
            text=" ".join(str(part) for part in (texts[place], pairs[place]) if part is not None),
            given_label=names[int(judged.given[place])],
            predicted_label=names[int(judged.likeliest[place])],
            suggested_label=names[int(judged.suggested[place])] if judged.flagged[place] else None,
            label_score=float(quality[place]),
            is_label_issue=bool(judged.flagged[place]),
            confidence=float(judged.confidence[place]),
        )
        for rank, place in enumerate(order.tolist(), 1)
    )
    named = f"{ranking}: {(RANKINGS | OUT_OF_SAMPLE)[ranking]}"
    notes = tuple(store.manifest.notes) + _ties(store, ranking) + (out_of_sample.notes if out_of_sample else ())
    return LabelReport(ranking=named, n_examples=len(rows), rows=rows, n_flagged=int(judged.flagged.sum()), notes=notes)


def _ties(store: Store, ranking: Ranking) -> tuple[str, ...]:
    method = store.plan.term
    cosine = isinstance(method, Gradients) and method.scales_queries
    cosine = cosine and all(one.symmetric for one in preconditioners_of(method))
    if ranking != "self-influence" or not cosine:
        return ()
    return (f"{method.name} is a cosine, so every example has the same score on itself: choose another ranking",)


@dataclass(frozen=True)
class LabelVerdicts:
    """Verdicts on every label of a classifier's training set, as arrays in data order."""

    given: Int[np.ndarray, " n"]  # class numbers in the data
    likeliest: Int[np.ndarray, " n"]  # classes of largest probability
    confidence: Float[np.ndarray, " n"]  # their probability
    quality: Float[np.ndarray, " n"]  # mean over the checkpoints of the probability of the given label; low is suspect
    flagged: Bool[np.ndarray, " n"]  # whether the label is flagged as wrong; never for an example without a gradient
    suggested: Int[np.ndarray, " n"]  # suggested class for a flagged label; -1 for the others


def judge(store: Store, out_of_sample: OutOfSample | None = None) -> LabelVerdicts:
    """Judge every label by the stored probabilities, or by their combination with out-of-sample ones."""
    if not store.plan.labels:
        raise InputError("this index belongs to a language model, which has no labels to check")
    means, given = store.features["mean_probabilities"], store.features["labels"]
    valid = np.flatnonzero(store.alive)
    if out_of_sample is None:
        wrong, better = confident_errors(means[valid], given[valid])
    else:
        means = out_of_sample.combined(means.astype(np.float64))
        wrong, better = much_likelier(means[valid], given[valid]), means[valid].argmax(1)
    flagged, suggested = np.zeros(store.n, dtype=np.bool_), np.full(store.n, -1)
    flagged[valid] = wrong
    suggested[valid] = np.where(wrong, better, -1)
    own = np.clip(_given_probability(store), 0.0, 1.0)
    return LabelVerdicts(given, means.argmax(1), means.max(1).astype(np.float64), own, flagged, suggested)


def confident_errors(
    probabilities: Float[np.ndarray, "n l"], given: Int[np.ndarray, " n"]
) -> tuple[Bool[np.ndarray, " n"], Int[np.ndarray, " n"]]:
    """Flag labels by the rule of confident learning (Northcutt et al. 2021, arXiv 1911.00068)."""
    # A label is flagged if another class has a higher probability than the given one, and at least the mean probability
    # that this class has among the examples with its label.
    classes = probabilities.shape[1]
    threshold = np.full(classes, np.inf)  # a class without examples cannot be suggested
    for number in np.unique(given).tolist():
        threshold[number] = probabilities[given == number, number].mean()
    everyone = np.arange(len(given))
    own = probabilities[everyone, given]
    confident = np.where(probabilities >= threshold, probabilities, -1.0)
    confident[everyone, given] = -1.0
    return confident.max(1) > own, confident.argmax(1)


def write_label_csv(report: LabelReport, path: str | Path) -> int:
    """Write a report in the columns of cleanlab's Datalab, in data order, with a suggested fix."""
    rows = sorted(report.rows, key=lambda one: one.row)
    names = (
        "is_label_issue",
        "label_score",
        "given_label",
        "predicted_label",
        "suggested_label",
        "rank",
        "id",
        "row",
        "text",
        "confidence",
    )
    columns: dict[str, Sequence[object]] = {name: [getattr(one, name) for one in rows] for name in names}
    columns["suggested_label"] = [one.suggested_label or one.given_label for one in rows]
    return write_csv(path, columns)


def support(store: Store, *, itself: bool = False) -> Float[np.ndarray, " n"]:
    """Sum the scores of all other training examples on each training example, in one pass over the index."""
    # Products are linear in the training side, so the sum of all (scaled) gradients replaces the single gradients:
    # support(i) = sum over checkpoints of weight * factor(i) * (sum of all gradients - own) . own gradient.
    # Embedding rows are summed by token; the vectors of other layers are summed as they are.
    _refuse_unlike(store)
    total, method = np.zeros(store.n), store.plan.term
    dividing = [one for one in preconditioners_of(method) if one.stage == "elementwise"]
    for checkpoint in store.plan.checkpoints:
        at = checkpoint.id
        everything, table = None if itself else _sums(store, at), store.table(at) if dividing else {}
        for examples, kept in _shards(store, at):
            divided = kept
            for one in dividing:
                divided = one.apply(divided, table, (), None)
            own, others = _products(kept, divided.rows, everything)
            own *= store.scale(at)[examples]
            products = own if everything is None else others - own
            total[examples] += checkpoint.weight * _query_scale(store, kept, divided.rows) * products
    return total


@dataclass(frozen=True)
class _Sums:
    """Sum of all training examples' scaled gradients at one checkpoint: by token, and for the other layers."""

    rows: Float[np.ndarray, "v d"]
    dense: Float[np.ndarray, " p"]


def _refuse_unlike(store: Store) -> None:
    """Refuse an index whose scores are not plain products of the stored gradients of two training examples."""
    method = store.plan.term
    if not isinstance(method, Gradients) or isinstance(method.objective, Logit) or method.prepare is not None:
        raise _unlike(store)
    kept = isinstance(method.gradient, Layers) or (store.plan.by_token and similarity_of(method) is None)
    if not kept or method.preconditioner("query") is not None or method.overlap is not None:
        raise _unlike(store)


def _unlike(store: Store) -> InputError:
    return InputError(
        "this ranking needs plain dot products of gradients (of layers, or of word embeddings at equal tokens only), "
        f"and the method {store.plan.method.name} of this index computes other scores: use --ranking mean-probability"
    )


def _shards(store: Store, at: CheckpointId) -> Iterator[tuple[Int[np.ndarray, " m"], Gradient]]:
    """Examples and gradients of each shard, one row per distinct token; those of hidden examples are removed."""
    alive = store.alive
    for examples, arrays in store.shards(at):
        kept = Gradient.unpack(arrays)
        if kept.outer is not None or kept.head is not None:
            raise _unlike(store)
        left = ~alive[examples]
        rows = None if kept.rows is None else kept.rows.without(left).merged(by_word=False)
        yield examples, replace(kept, rows=rows, dense=None if kept.dense is None else kept.dense.without(left))


def _sums(store: Store, at: CheckpointId) -> _Sums:
    rows: Float[np.ndarray, "v d"] = np.zeros((0, 0))
    dense: Float[np.ndarray, " p"] = np.zeros(0)
    scale = store.scale(at)
    for examples, kept in _shards(store, at):
        if kept.rows is not None:
            rows = _grown(rows, int(kept.rows.ids.max(initial=-1)) + 1, kept.rows.rows.shape[1])
            np.add.at(rows, kept.rows.ids, kept.rows.rows * scale[examples][kept.rows.owners, None])
        if kept.dense is not None:
            part = scale[examples][kept.dense.owners] @ kept.dense.v.astype(np.float64)
            dense = part if not len(dense) else dense + part
    return _Sums(rows, dense)


def _grown(sums: np.ndarray, size: int, width: int) -> np.ndarray:
    """The sums, enlarged for more tokens."""
    if len(sums) >= size:
        return sums
    return np.concatenate([sums.reshape(-1, width), np.zeros((size - len(sums), width))])


def _products(
    kept: Gradient, divided: Rows | None, everything: _Sums | None
) -> tuple[Float[np.ndarray, " m"], Float[np.ndarray, " m"]]:
    """Product of each gradient with itself, and with the sum of all."""
    own, others = np.zeros(len(kept)), np.zeros(len(kept))
    if kept.rows is not None and divided is not None:
        rows = kept.rows
        np.add.at(own, rows.owners, np.einsum("kd,kd->k", rows.rows, divided.rows, dtype=np.float64))
        if everything is not None:
            np.add.at(others, rows.owners, np.einsum("kd,kd->k", everything.rows[rows.ids], divided.rows))
    if kept.dense is not None:
        own += _squares(kept.dense)
        if everything is not None:
            np.add.at(others, kept.dense.owners, kept.dense.v @ everything.dense)
    return own, others


def _squares(dense: Dense) -> Float[np.ndarray, " m"]:
    squares = np.einsum("np,np->n", dense.v, dense.v, dtype=np.float64)
    return np.bincount(dense.owners, weights=squares, minlength=len(dense))


def _query_scale(store: Store, kept: Gradient, divided: Rows | None) -> Float[np.ndarray, " m"] | float:
    """1 / norm of each gradient as a query, if the method compares directions."""
    method = store.plan.term
    if not (isinstance(method, Gradients) and method.scales_queries):
        return 1.0
    squares: Float[np.ndarray, " m"] = np.zeros(len(kept))
    if kept.rows is not None and divided is not None:
        symmetric = any(one.symmetric for one in preconditioners_of(method))
        squares += divided.products(kept.rows) if symmetric else kept.rows.norms() ** 2
    if kept.dense is not None:
        squares += _squares(kept.dense)
    return 1.0 / np.sqrt(np.where(squares > 0, squares, 1.0))


def _suspicion(store: Store, ranking: Ranking, out_of_sample: OutOfSample | None) -> Float[np.ndarray, " n"]:
    """Suspicion of every label; high is suspect."""
    losses, given = store.features["losses"], store.features["labels"]

    def probability(*, combined: bool) -> Float[np.ndarray, " n"]:
        assert out_of_sample is not None
        means = store.features["mean_probabilities"].astype(np.float64)
        found = out_of_sample.combined(means) if combined else out_of_sample.combined()
        found = np.where(np.isfinite(found), found, means)  # a row that no fold can judge
        return found[np.arange(len(given)), given]

    measures: dict[Ranking, Callable[[], Float[np.ndarray, " n"]]] = {
        "mean-probability": lambda: -_given_probability(store),
        "mean-loss": lambda: losses.mean(0),
        "last-loss": lambda: losses[-1],
        "influence": lambda: -support(store),
        "self-influence": lambda: support(store, itself=True),
        "combined": lambda: -probability(combined=True),
        "out-of-sample": lambda: -probability(combined=False),
    }
    return measures[ranking]()


def _given_probability(store: Store) -> Float[np.ndarray, " n"]:
    means, given = store.features["mean_probabilities"], store.features["labels"]
    return means[np.arange(len(given)), given].astype(np.float64)


def _quality(
    ranking: Ranking, suspicion: Float[np.ndarray, " n"], order: Int[np.ndarray, " m"]
) -> Float[np.ndarray, " n"]:
    """A label's score in [0, 1], low is suspect."""
    if ranking == "mean-probability" or ranking in OUT_OF_SAMPLE:
        return np.clip(-suspicion, 0.0, 1.0)
    if ranking.endswith("loss"):
        return np.exp(-suspicion)
    share = np.ones(len(suspicion))
    share[order] = np.arange(1, len(order) + 1) / max(len(order), 1)
    return share
