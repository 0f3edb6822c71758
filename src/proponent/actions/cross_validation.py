"""Cross-validated class probabilities of the rows of an index."""

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float, Int

from proponent.actions.held_out import FOLDS, HeldOut, held_out_features, held_out_words, stratified_folds
from proponent.actions.near_duplicates import Bags, NearPairs, near_pairs
from proponent.actions.out_of_sample import OutOfSample
from proponent.errors import InputError
from proponent.plain_text import visible
from proponent.store import Store
from proponent.types import Example

OWN_FEATURES = (
    "the features are those of the run's own encoder, which was trained on every label that it judges here, wrong ones "
    "too: only the regression on them is out of sample; --encoder with a pretrained model has seen none"
)


def cross_validate(
    store: Store,
    features: Callable[[Sequence[Example]], Float[np.ndarray, "m h"]] | None = None,
    *,
    encoder: str = "",
    groups: Sequence[str] | None = None,
    folds: int = FOLDS,
    seed: int = 0,
    notes: Sequence[str] = (),
) -> OutOfSample:
    """Cross-validate the labels of an index by the words of its texts, and by the features of an encoder.

    Args:
        store: an index of a classifier.
        features: encodes texts or pairs [m h]; None: words alone.
        encoder: its name, for the report.
        groups: a group for each row of the index, kept in one fold; near-duplicates are kept so always.
        folds: number of folds; classes are spread over them.
        seed: of the folds.
        notes: what a reader must know about the features.

    Returns:
        Probabilities by `words` and by `encoder`; NaN for rows that are not available.

    Raises:
        InputError: no labels, too few rows or classes, or features that are not finite.

    Source:
        Northcutt, Jiang and Chuang 2021 (arXiv 1911.00068): labels are judged by out-of-sample probabilities.
    """
    names = store.plan.labels.names
    if not names:
        raise InputError("this index belongs to a language model, which has no labels to check")
    places = np.flatnonzero(store.alive)
    labels = store.features["labels"][places].astype(np.int64)
    texts = [" ".join(filter(None, one)) for one in zip(store.examples["text"], _seconds(store), strict=True)]
    texts = [texts[place] for place in places.tolist()]
    near = near_pairs(Bags.of(texts))
    own = None if groups is None else _numbered([groups[place] for place in places.tolist()])
    fold = stratified_folds(labels, joined(near, own, len(texts)), folds, seed)
    found = {"words": held_out_words(texts, labels, len(names), fold)}
    if features is not None:
        examples = [store.example(place) for place in places.tolist()]
        name = encoder if encoder not in {"", "words", "file", "run"} else f"encoder {encoder}".strip()
        found[name] = held_out_features(features(examples), labels, len(names), fold)
    alone = [str(names[one]) for one in _alone(labels, fold)]
    return OutOfSample(
        {name: _spread(store.n, places, _without(one, labels, fold)) for name, one in found.items()},
        (
            f"cross-validated in {folds} folds; {len(near.first):,} pairs of near-duplicates are kept in one fold",
            *(
                f"class {visible(one)} has too few rows to be cross-validated: its labels are judged by the run alone"
                for one in alone
            ),
            *notes,
        ),
    )


def _numbered(groups: Sequence[str]) -> Int[np.ndarray, " n"]:
    """Numbers of groups; a row without a value is a group of its own."""
    alone = (group or f"\0{place}" for place, group in enumerate(groups))
    return np.unique(list(alone), return_inverse=True)[1].astype(np.int64)


def _seconds(store: Store) -> list[str | None]:
    return [None if one is None else str(one) for one in store.examples["text_pair"]]


def joined(near: NearPairs, groups: Int[np.ndarray, " n"] | None, n: int) -> Int[np.ndarray, " n"]:
    """Groups of rows that are connected by near-duplicates or by a group of the user."""
    if groups is None:
        return near.groups(n)
    _, first, number = np.unique(groups, return_index=True, return_inverse=True)
    both = NearPairs(
        np.concatenate([near.first, first[number]]),
        np.concatenate([near.second, np.arange(n)]),
        np.concatenate([near.similarity, np.ones(n)]),
    )
    return both.groups(n)


def _alone(labels: Int[np.ndarray, " m"], fold: Int[np.ndarray, " m"]) -> list[int]:
    """Classes that one fold alone has: their labels cannot be judged."""
    found: list[int] = np.unique(labels).tolist()
    return [one for one in found if len(np.unique(fold[labels == one])) < 2]


def _without(found: HeldOut, labels: Int[np.ndarray, " m"], fold: Int[np.ndarray, " m"]) -> Float[np.ndarray, "m l"]:
    """Leave out the rows of these classes."""
    made = found.probabilities.copy()
    made[np.isin(labels, _alone(labels, fold))] = np.nan
    return made


def _spread(n: int, places: Int[np.ndarray, " m"], found: Float[np.ndarray, "m l"]) -> Float[np.ndarray, "n l"]:
    made = np.full((n, found.shape[1]), np.nan)
    made[places] = found
    return made
