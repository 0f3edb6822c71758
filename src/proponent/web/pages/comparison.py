"""The screen that sets rankings side by side: several indexes, or one beside simpler rankings."""

from collections.abc import Sequence

import numpy as np

from proponent.views import Explanation
from proponent.views.frames import Link
from proponent.views.screens import ComparedHit, CompareScreen, ComparisonColumn
from proponent.views.text_marks import clip
from proponent.web.layout import form, method_line
from proponent.web.model_worker import ModelWorker
from proponent.web.open_indexes import OpenIndex, OpenIndexes
from proponent.web.pages.ask import question_of
from proponent.web.questions import StoredAnswer
from proponent.web.states import MOST_INDEXES, ExampleState, QuestionState

USUAL = ("bm25", "embedding")
"""Baselines that stand beside a single index when nothing else is chosen."""


def compare_screen(open_indexes: OpenIndexes, state: QuestionState, asker: ModelWorker) -> tuple[CompareScreen, bool]:
    """Set rankings side by side."""
    chosen = [open_indexes.get(name) for name in state.index] or [open_indexes.first]
    first = chosen[0]
    question = question_of(state)
    for one in chosen:
        one.check_filters(question)
    kept = {one.name: one.questions.get(question) for one in chosen} if state.text else {}
    asked = bool(state.text) and any(kept.values())
    main = kept.get(first.name)
    wanted = _compared_names(state, main, len(chosen))
    leading = [hit.id for hit in main.answer.proponents] if main is not None else []
    columns = [_of_index(one, kept.get(one.name), leading, one is first, asker, state) for one in chosen]
    if main is not None:
        columns += [_of_baseline(first, name, main.answer, leading) for name in wanted]
    pending = [asker.pending(question, one.folder) for one in chosen]
    moving = [job for job in pending if job is not None and job.state in {"waiting", "running"}]
    screen = CompareScreen(
        form=form(open_indexes, first, state),
        columns=tuple(columns[:MOST_INDEXES]),
        choices=_choices(open_indexes, state, chosen, main, wanted),
        asked=asked or bool(moving) or any(pending),
        method=method_line(first.plan),
    )
    return screen, bool(moving)


def _compared_names(state: QuestionState, main: StoredAnswer | None, indexes: int) -> tuple[str, ...]:
    known = tuple(main.answer.baselines) if main is not None else ()
    wanted = state.beside or (USUAL if indexes == 1 else ())
    return tuple(name for name in wanted if name in known)[: MOST_INDEXES - indexes]


def _of_index(
    shown: OpenIndex,
    kept: StoredAnswer | None,
    leading: Sequence[str],
    first: bool,
    asker: ModelWorker,
    state: QuestionState,
) -> ComparisonColumn:
    plan = shown.plan
    note = f"{shown.name}, {len(plan.checkpoints)} checkpoints, {shown.store.counts.examples:,} training examples"
    if kept is None:
        job = asker.pending(question_of(state), shown.folder)
        told = "This index was not asked yet." if job is None else job.error or f"Being asked: {job.stage} …"
        return ComparisonColumn(title=plan.method.name, note=note, hits=(), overlap="", problem=told)
    hits = tuple(
        ComparedHit(
            rank=hit.rank,
            id=hit.id,
            url=ExampleState(index=shown.name, id=hit.id).url("/example"),
            text=clip(hit.text, 220),
            label=hit.label,
            score=hit.score,
            change="" if first else change(hit.rank, hit.id, leading),
            first=None if first or hit.id not in leading else leading.index(hit.id) + 1,
        )
        for hit in kept.answer.proponents
    )
    return ComparisonColumn(
        title=plan.method.name, note=note, hits=hits, overlap="" if first else overlap(hits, leading)
    )


def _of_baseline(shown: OpenIndex, name: str, answer: Explanation, leading: Sequence[str]) -> ComparisonColumn:
    table = shown.table
    places = [table.whole.numbers.get(one.id, -1) for one in answer.baselines[name]]
    rows = table.whole.rows(np.asarray([one for one in places if one >= 0], dtype=np.int64))
    texts = {str(row["id"]): row for row in rows}
    hits = tuple(
        ComparedHit(
            rank=rank,
            id=one.id,
            url=ExampleState(index=shown.name, id=one.id).url("/example"),
            text=clip(str(texts[one.id]["text"]), 220) if one.id in texts else "",
            label=texts[one.id]["label"] if one.id in texts else None,
            score=one.score,
            change=change(rank, one.id, leading),
            first=leading.index(one.id) + 1 if one.id in leading else None,
        )
        for rank, one in enumerate(answer.baselines[name], 1)
    )
    return ComparisonColumn(
        title=name, note="a simpler ranking, for comparison", hits=hits, overlap=overlap(hits, leading)
    )


def change(rank: int, identity: str, leading: Sequence[str]) -> str:
    """Say how an example's rank differs from that in the first ranking."""
    if identity not in leading:
        return "new"
    moved = leading.index(identity) + 1 - rank
    return "same" if moved == 0 else f"up {moved}" if moved > 0 else f"down {-moved}"


def overlap(hits: Sequence[ComparedHit], leading: Sequence[str]) -> str:
    """Say how many examples two rankings share."""
    return f"{sum(hit.id in leading for hit in hits)} of {len(leading)} are in the first ranking too"


def _choices(
    open_indexes: OpenIndexes,
    state: QuestionState,
    chosen: Sequence[OpenIndex],
    main: StoredAnswer | None,
    wanted: Sequence[str],
) -> tuple[Link, ...]:
    names = tuple(one.name for one in chosen)
    links: list[Link] = []
    for one in open_indexes.shown.values() if len(open_indexes.shown) > 1 else ():
        here = one.name in names
        turned = tuple(name for name in names if name != one.name) if here else (*names, one.name)
        if turned and len(turned) <= MOST_INDEXES:
            links.append(Link(one.name, state.url("/compare", index=turned), here))
    for name in main.answer.baselines if main is not None else ():
        here = name in wanted
        turned = tuple(one for one in wanted if one != name) if here else (*wanted, name)
        room = here or len(names) + len(wanted) < MOST_INDEXES
        if room:
            links.append(Link(name, state.url("/compare", beside=turned or ("none",)), here))
    return tuple(links)
