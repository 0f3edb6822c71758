"""Word removal: take named words out of the rows that helped most, retrain, and measure the change of the output.

For each query the rows are the same under every definition and control: the first k of the method's ranking. A
definition ranks the words of each row, the first few are taken out of its text, and the model is trained again on all
rows with the same seed, order and random draws.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Int

from proponent.baselines import tfidf_weights
from proponent.errors import InputError
from proponent.training.outputs import Output
from proponent.training.retraining import RetrainJob, Retrains
from proponent.types import Content, Conversation, Example, Message, Pair, Prompted, Span, Text
from proponent.views import Hit
from proponent.words import Word, lower_words, words

RANDOM_WORDS = "random words"
TFIDF_WORDS = "TF-IDF words"
LAST_WORDS = "words of the last layer"

Ranked = Sequence[int]
"""Words of a row by their number in `words(parts)`, the strongest first."""

Ranking = Callable[[int, int], Ranked]
"""Words of a row for a query, by the positions of query and row."""


@dataclass(frozen=True)
class Removal:
    """What is taken out for one query under one definition."""

    name: str  # of the definition or control
    query: int  # position of the query
    edits: tuple[tuple[int, Example], ...]  # the rows with their new texts
    removed: int  # number of removed words
    named: int  # number of them that the definition names; the others are drawn at random


@dataclass(frozen=True)
class RemovalResult:
    """Changes of the output under each definition."""

    changes: dict[str, Float[np.ndarray, " q"]]  # f(without the words) - f(all), mean over the seeds
    per_row: dict[str, float]  # words taken out of a row, mean
    named: dict[str, float]  # share of them that the definition names
    noise: float  # standard deviation over the seeds of f of the full runs, mean over queries; NaN for one seed
    retrains: int  # trained models, full runs included


def removable(example: Example) -> list[int]:
    """The words of a text that may be taken out: those with a letter or digit."""
    return [place for place, one in enumerate(words(example.parts)) if any(map(str.isalnum, one.text))]


def ranked_by_shares(example: Example, hit: Hit | None) -> list[int]:
    """Words of a row by their share of its score, positive shares only; none of a row that is no hit."""
    totals: dict[str, float] = {}
    for pair in () if hit is None else hit.words:
        totals[pair.train_word] = totals.get(pair.train_word, 0.0) + pair.share
    known = {word.text: place for place, word in enumerate(words(example.parts))}
    allowed = set(removable(example))
    order = sorted(totals, key=lambda text: -totals[text])
    return [known[text] for text in order if totals[text] > 0 and known.get(text, -1) in allowed]


def ranked_by_tfidf(rows: Sequence[Example], queries: Sequence[Example]) -> Ranking:
    """Words of a row by their part of the TF-IDF cosine with a query, then by their own weight."""
    texts = [" ".join(one.parts) for one in rows], [" ".join(one.parts) for one in queries]
    train, asked = (tfidf_weights(texts[0], some) for some in texts)

    def rank(query: int, row: int) -> list[int]:
        own, theirs, example = train[row], asked[query], rows[row]
        named = words(example.parts)
        keys = {place: named[place].text.lower() for place in removable(example)}
        return sorted(keys, key=lambda at: (-own.get(keys[at], 0.0) * theirs.get(keys[at], 0.0), -own.get(keys[at], 0)))

    return rank


def frequent_words(rows: Sequence[Example], share: float = 0.05) -> frozenset[str]:
    """Words, in lower case, that stand in more than this share of the rows, and so in two at least."""
    counts = Counter(word for one in rows for word in set(lower_words(" ".join(one.parts))))
    return frozenset(word for word, count in counts.items() if count > max(1, share * len(rows)))


def drawn(example: Example, generator: np.random.Generator, frequent: frozenset[str]) -> list[int]:
    """The words of a text in random order; those under three letters and the frequent ones of the data set last."""
    named = words(example.parts)
    order: list[int] = generator.permutation(removable(example)).tolist()
    plain = {at for at in order if len(named[at].text) < 3 or named[at].text.lower() in frequent}
    return [*(at for at in order if at not in plain), *(at for at in order if at in plain)]


def without_words(example: Example, chosen: Sequence[int]) -> Example:
    """Take some words out of a row.

    Args:
        example: the row.
        chosen: the words, by their number in `words(example.parts)`.

    Returns:
        The row without these words at any place; it keeps one word at least.

    Raises:
        InputError: the row holds no plain texts.
    """
    named = words(example.parts)
    left = len(removable(example)) - len(chosen)
    taken = [named[at] for at in (chosen if left > 0 else chosen[: len(chosen) + left - 1])]
    parts = [_cut(part, _spans(taken, at)) for at, part in enumerate(example.parts)]
    return replace_parts(example, parts)


def _spans(taken: Sequence[Word], part: int) -> list[Span]:
    return sorted(span for one in taken for span in one.spans[part])


def _cut(text: str, spans: Sequence[Span]) -> str:
    kept, at = list[str](), 0
    for start, end in spans:
        kept.append(text[at:start])
        at = end
    return "".join([*kept, text[at:]])


def replace_parts(example: Example, parts: Sequence[str]) -> Example:
    """Give a row other texts.

    Args:
        example: the row.
        parts: as many texts as it has.

    Returns:
        The row with its id, label and weight.

    Raises:
        InputError: the row holds no plain texts.
    """
    return Example(
        example.id,
        example.row,
        label=example.label,
        content=_content(example, iter(parts)),
        span=example.span,
        weight=example.weight,
    )


def _content(example: Example, parts: Iterator[str]) -> Content:
    match example.content:
        case Text():
            return Text(next(parts))
        case Pair():
            return Pair(next(parts), next(parts))
        case Prompted() as one:
            first, last = next(parts), next(parts)
            return Prompted(first, last, None) if one.text_pair is None else replace(one, prompt=first, text_pair=last)
        case Conversation() as one:
            messages = [Message.of(message.fields(lambda _kind, _text: next(parts))) for message in one.messages]
            return replace(one, messages=tuple(messages))
        case other:
            raise InputError(
                f"words can be taken out of texts and conversations; the row with id {example.id} is a "
                f"{type(other).__name__}"
            )


def plan_removals(
    rows: Sequence[Example],
    chosen: Sequence[Int[np.ndarray, " k"]],
    rankings: Mapping[str, Ranking],
    count: int,
    frequent: frozenset[str],
    seed: int = 0,
) -> list[Removal]:
    """Plan what is taken out: for each query and definition the first `count` words of each chosen row.

    Args:
        rows: the training set.
        chosen: the rows of each query.
        rankings: name of a definition to the words that it names in a row, by query and row.
        count: words taken out of each row; where a definition names fewer, others are drawn at random.
        frequent: words that are drawn only where a row has no others.
        seed: of the draws.

    Returns:
        The removals, with those of random words last.

    Raises:
        InputError: `count` is below 1.
    """
    if count < 1:
        raise InputError(f"--words {count}: must be at least 1")
    made: list[Removal] = []
    every: dict[str, Ranking] = {**rankings, RANDOM_WORDS: lambda query, row: ()}  # noqa: ARG005
    for query, places in enumerate(chosen):
        for name, rank in every.items():
            edits: list[tuple[int, Example]] = []
            removed = named = 0
            chosen_rows: list[int] = places.tolist()
            for row in chosen_rows:
                own = list(rank(query, row))[:count]
                others = drawn(rows[row], np.random.default_rng([seed, query, row]), frequent)
                filled = list(dict.fromkeys([*own, *others]))[:count]
                edits.append((row, without_words(rows[row], filled)))
                removed, named = removed + len(filled), named + len(own)
            made.append(Removal(name, query, tuple(edits), removed, named))
    return made


def run_removals(
    plan: Sequence[Removal],
    retrains: Retrains,
    classes: Int[np.ndarray, " q"],
    seeds: Sequence[int],
    output: Output = "log-odds",
) -> RemovalResult:
    """Retrain without the planned words, and compare with the full runs of the same seeds."""
    whole = np.arange(retrains.retrainer.size)
    full_jobs = [RetrainJob(whole, seed) for seed in seeds]
    jobs = [*full_jobs, *(RetrainJob(whole, seed, one.edits) for one in plan for seed in seeds)]
    made = dict(zip([job.name for job in jobs], retrains.outputs(jobs, "word removal"), strict=True))
    base = np.stack([made[job.name].of(classes, output) for job in full_jobs])
    changes: dict[str, list[float]] = {}
    for one in plan:
        outputs = [made[RetrainJob(whole, seed, one.edits).name].of(classes, output)[one.query] for seed in seeds]
        changes.setdefault(one.name, []).append(float(np.mean(outputs) - base[:, one.query].mean()))
    names = list(changes)
    rows = {name: sum(len(one.edits) for one in plan if one.name == name) for name in names}
    removed = {name: sum(one.removed for one in plan if one.name == name) for name in names}
    named = {name: sum(one.named for one in plan if one.name == name) for name in names}
    return RemovalResult(
        {name: np.asarray(found) for name, found in changes.items()},
        {name: removed[name] / max(1, rows[name]) for name in names},
        {name: named[name] / max(1, removed[name]) for name in names},
        float(base.std(0, ddof=1).mean()) if len(seeds) > 1 else float("nan"),
        len({job.name for job in jobs}),
    )
