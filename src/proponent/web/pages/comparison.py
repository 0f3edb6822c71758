"""Page that compares rankings: several indexes, or one index and its baselines."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np

from proponent.views import Explanation
from proponent.views.frames import Link, Screen
from proponent.views.text_marks import clip
from proponent.web.layout import Form, form, method_line
from proponent.web.model_worker import ModelWorker, QuestionJob
from proponent.web.open_indexes import OpenIndex, OpenIndexes
from proponent.web.pages.ask import provenance
from proponent.web.questions import StoredAnswer
from proponent.web.states import MOST_INDEXES, ExampleState, QuestionState, toggled

Ranks = Mapping[str, int] | None
"""Id of a training example to its rank in the first ranking; None for the first ranking itself."""

USUAL = ("bm25", "embedding")
"""Baselines that a single index is compared with by default."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparedHit:
    """One training example in one of several rankings."""

    rank: Annotated[int, "1 is the strongest"]
    id: Annotated[str, "id of the training example"]
    url: Annotated[str, "its page"]
    text: Annotated[str, "the text"]
    label: Annotated[str | None, "given class"]
    score: Annotated[float, "in the unit of its ranking"]
    change: Annotated[str, 'against the first ranking: "same", "up 3", "down 2", "new", or empty']


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparisonColumn:
    """One of several rankings side by side."""

    title: Annotated[str, "name of the method or the baseline"]
    note: Annotated[str, "index, checkpoints"]
    hits: Annotated[tuple[ComparedHit, ...], "its first k"]
    overlap: Annotated[str, "how many of them the first ranking has too, in words"]
    problem: Annotated[str, "why there is nothing"] = ""
    ask: Annotated[tuple[tuple[str, str], ...], "fields of a form that asks this index; none if it cannot help"] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class CompareScreen(Screen):
    """Up to four rankings of the training examples for one question."""

    template: ClassVar[str] = "explorer/compare.html.j2"

    form: Annotated[Form, "the question"]
    columns: Annotated[tuple[ComparisonColumn, ...], "the rankings; the first is the one compared with"]
    choices: Annotated[tuple[Link, ...], "rankings to show or leave out"]
    asked: Annotated[bool, "whether there is an answer at all"]


def compare_screen(open_indexes: OpenIndexes, state: QuestionState, asker: ModelWorker) -> CompareScreen:
    """Show rankings side by side."""
    chosen = [open_indexes.get(name) for name in state.index] or [open_indexes.first]
    first, question = chosen[0], state.question
    for one in chosen:
        one.check_filters(question)
    kept = {one.name: one.questions.get(question) for one in chosen} if state.given else {}
    main = kept.get(first.name)
    usual = USUAL if len(chosen) == 1 else ()
    known = [name for name in state.beside or usual if main is not None and name in main.answer.baselines]
    wanted = known[: MOST_INDEXES - len(chosen)]
    ranks = {hit.id: rank for rank, hit in enumerate(main.answer.proponents, 1)} if main is not None else {}
    pending = [asker.pending(question, one.folder) for one in chosen]
    columns = [
        _of_index(state, one, kept.get(one.name), job, None if one is first else ranks)
        for one, job in zip(chosen, pending, strict=True)
    ]
    if main is not None:
        columns += [_of_baseline(first, name, main.answer, ranks) for name in wanted]
    moving = any(job is not None and job.state in {"waiting", "running"} for job in pending)
    return CompareScreen(
        title="Rankings side by side",
        warnings=provenance(*kept.values()),
        refresh=1.0 if moving else 0.0,
        form=form(open_indexes, first, state),
        columns=tuple(columns[:MOST_INDEXES]),
        choices=_choices(open_indexes, state, [one.name for one in chosen], main, wanted),
        asked=any(kept.values()) or any(pending),
        method=method_line(first.plan),
    )


def _of_index(
    state: QuestionState, shown: OpenIndex, kept: StoredAnswer | None, job: QuestionJob | None, ranks: Ranks
) -> ComparisonColumn:
    plan = shown.plan
    name = f"{shown.name}: {plan.method.name}" if len(state.index) > 1 else plan.method.name
    note = f"{shown.folder}, {len(plan.checkpoints)} checkpoints, {shown.store.counts.examples:,} training examples"
    if kept is None:
        problem = (
            "This index has no answer to this question yet."
            if job is None
            else job.error or f"In progress: {job.stage} …"
        )
        ask = () if not state.given or (job is not None and not job.error) else tuple(state.pairs)
        return ComparisonColumn(title=name, note=note, hits=(), overlap="", problem=problem, ask=ask)
    rows = [(hit.id, hit.score, hit.text, hit.label) for hit in kept.answer.proponents]
    return _column(shown, name, note, rows, ranks)


def _of_baseline(shown: OpenIndex, name: str, answer: Explanation, ranks: Ranks) -> ComparisonColumn:
    whole = shown.table.whole
    places = [whole.numbers.get(one.id, -1) for one in answer.baselines[name]]
    found = whole.rows(np.asarray([one for one in places if one >= 0], dtype=np.int64))
    texts = {str(row["id"]): (str(row["text"]), row["label"]) for row in found}
    rows = [(one.id, one.score, *texts.get(one.id, ("", None))) for one in answer.baselines[name]]
    return _column(shown, name, "a baseline, for comparison", rows, ranks)


def _column(
    shown: OpenIndex, title: str, note: str, rows: Iterable[tuple[str, float, str, str | None]], ranks: Ranks
) -> ComparisonColumn:
    """A ranking of (id, score, text, label), compared with the ranks of the first one; None for the first itself."""
    hits = tuple(
        ComparedHit(
            rank=rank,
            id=identity,
            url=ExampleState(index=shown.name, id=identity).url("/example"),
            text=clip(text, 220),
            label=label,
            score=score,
            change="" if ranks is None else change(rank, ranks.get(identity)),
        )
        for rank, (identity, score, text, label) in enumerate(rows, 1)
    )
    shared = sum(hit.id in ranks for hit in hits) if ranks is not None else 0
    overlap = "" if ranks is None else f"{shared} of {len(ranks)} are in the first ranking too"
    return ComparisonColumn(title=title, note=note, hits=hits, overlap=overlap)


def change(rank: int, first: int | None) -> str:
    """Describe how an example's rank differs from that in the first ranking."""
    if first is None:
        return "new"
    moved = first - rank
    return "same" if moved == 0 else f"up {moved}" if moved > 0 else f"down {-moved}"


def _choices(
    open_indexes: OpenIndexes,
    state: QuestionState,
    names: Sequence[str],
    main: StoredAnswer | None,
    wanted: Sequence[str],
) -> tuple[Link, ...]:
    """Links that show or hide an index or a baseline."""
    links: list[Link] = []
    for name in open_indexes.shown if len(open_indexes.shown) > 1 else ():
        others = toggled(names, name)
        if 0 < len(others) <= MOST_INDEXES:
            links.append(Link(name, state.url("/compare", index=others), name in names))
    for name in main.answer.baselines if main is not None else ():
        here = name in wanted
        if here or len(names) + len(wanted) < MOST_INDEXES:
            links.append(Link(name, state.url("/compare", beside=toggled(wanted, name) or ("none",)), here))
    return tuple(links)
