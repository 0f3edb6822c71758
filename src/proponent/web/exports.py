"""Exports of the current view: its rows, values and order as CSV, JSON Lines, Parquet and other files."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from proponent.actions.corrections import apply
from proponent.data import write_columns
from proponent.errors import InputError
from proponent.views import CAVEAT, Explanation, Report, document
from proponent.web.downloads import filled
from proponent.web.layout import method_line
from proponent.web.open_indexes import OpenIndex
from proponent.web.pages.ask import require_answer, sharing, shown_words
from proponent.web.pages.groups import sums
from proponent.web.states import ExampleState, PageState, QuestionState, TableState
from proponent.web.table_columns import FileColumns, columns_of

TYPES = {
    "csv": "text/csv; charset=utf-8",
    "tsv": "text/tab-separated-values; charset=utf-8",
    "jsonl": "application/x-ndjson; charset=utf-8",
    "json": "application/json; charset=utf-8",
    "parquet": "application/vnd.apache.parquet",
    "html": "text/html; charset=utf-8",
    "cleanlab": "text/csv; charset=utf-8",
    "pair": "application/x-ndjson; charset=utf-8",
}
COLUMN_FILES = ("csv", "jsonl", "parquet")
SUFFIXES = {"cleanlab": "csv", "pair": "jsonl"}
Fill = Callable[[Path], object]
"""Writes a file at a path that ends like its kind."""


def table_columns(shown: OpenIndex, state: TableState) -> FileColumns:
    """All rows that a state of the table selects, with the displayed fields of each; read while they are written."""
    decisions = shown.decisions.current
    with shown.table.searching(state):
        places = shown.table.select(state, decisions).places
    return columns_of(shown.table, places, decisions)


def cleanlab_columns(shown: OpenIndex, state: TableState) -> FileColumns:
    """The same rows in the columns of cleanlab's Datalab, in data order."""
    if shown.table.names is None:
        raise InputError("this index belongs to a language model, which has no labels to check")
    columns = table_columns(shown, replace(state, sort=()))
    names = ("is_label_issue", "label_score", "given_label", "predicted_label", "id", "row")
    return {name: columns[name] for name in names}


def answer_columns(answer: Explanation) -> FileColumns:
    """One row per hit, with the method and the caveat in each."""
    hits = (*answer.proponents, *answer.opponents)
    columns: FileColumns = {"side": ["helped"] * len(answer.proponents) + ["hurt"] * len(answer.opponents)}
    for name in ("rank", "id", "row", "score", "label", "predicted", "text", "second"):
        columns[name] = [getattr(hit, name) for hit in hits]
    columns["words"] = [json.dumps([[p.query_word, p.train_word, p.share] for p in hit.words]) for hit in hits]
    copied = [hit.overlap for hit in hits]
    columns["verbatim_words"] = [None if one is None else one.words for one in copied]
    columns["verbatim_share"] = [None if one is None else one.share for one in copied]
    columns["same_sign_checkpoints"] = [hit.agreeing for hit in hits]
    same = {
        "checkpoints": len(answer.checkpoints),
        "method": answer.method,
        "query": answer.query.text,
        "query_label": answer.query.label,
        "caveat": answer.caveat,
    }
    return columns | {name: [value] * len(hits) for name, value in same.items()}


def pair_line(answer: Explanation, identity: str) -> dict[str, Any]:
    """An answer in the format of the pretraining-tda viewer."""
    query = answer.query
    target = query.target if query.target is not None else query.label or ""
    text = query.text if query.text_pair is None else f"{query.text} {query.text_pair}"
    confidence = (query.probabilities or {}).get(query.label or "")
    made: dict[str, Any] = {
        "example_id": f"proponent-{identity}",
        "inputs_plaintext": text,
        "targets_plaintext": target,
        "model_confidence": confidence,
        "method": answer.method,
        "caveat": answer.caveat,
    }
    for name, hits in (("proponent", answer.proponents), ("opponent", answer.opponents)):
        made |= {
            f"{name}s": [" ".join(one for one in (hit.text, hit.second) if one is not None) for hit in hits],
            f"{name}_ids": [hit.id for hit in hits],
            f"{name}_scores": [hit.score for hit in hits],
            f"{name}_ranks": [hit.rank for hit in hits],
            f"{name}_labels": [hit.label for hit in hits],
        }
    return made


def of_table(shown: OpenIndex, state: TableState, kind: str) -> Fill:
    """A file of the table."""
    if kind == "cleanlab":
        return written(cleanlab_columns(shown, state), "csv")
    return written(table_columns(shown, state), kind)


def of_answer(shown: OpenIndex, state: QuestionState, kind: str) -> Fill:
    """A file of the displayed answer: only the hits of the chosen word."""
    kept = require_answer(shown, state)
    answer = sharing(shown_words(kept.answer, state), state.word)
    if kind == "html":
        return encoded(document(answer))
    if kind == "json":
        return encoded(answer.to_json(indent=2) + "\n")
    if kind == "pair":
        return lines_of([pair_line(answer, kept.id)])
    return written(answer_columns(answer), kind)


def of_answers(shown: OpenIndex, _: ExampleState, kind: str) -> Fill:
    """A file of all answers of an index."""
    found = [(one.id, shown.questions.get(one.question)) for one in shown.questions.list().values()]
    answers = {name: kept.answer for name, kept in found if kept is not None}
    if not answers:
        raise InputError("this index has no questions yet")
    if kind == "html":
        return encoded(document(Report(title="Answers", answers=tuple(answers.values()), index=shown.name)))
    if kind == "pair":
        return lines_of([pair_line(answer, name) for name, answer in answers.items()])
    if kind == "json":
        return encoded("".join(answer.to_json() + "\n" for answer in answers.values()))
    raise InputError(f"answers cannot be exported as {kind[:20]!r}")


def of_groups(shown: OpenIndex, state: QuestionState, kind: str) -> Fill:
    """A file of sums over groups."""
    found = sums(require_answer(shown, state), state.grouped)
    columns: FileColumns = {state.grouped: [one.name for one in found]}
    for name in ("n", "total", "proponents", "opponents", "mean"):
        columns[name] = [getattr(one, name) for one in found]
    columns["method"] = [method_line(shown.plan)] * len(found)
    return written(columns | {"caveat": [CAVEAT] * len(found)}, kind)


def of_corrected(shown: OpenIndex, _: ExampleState, kind: str) -> Fill:
    """The data set with all decisions applied: exact, to train on."""
    _check_kind(kind, (*COLUMN_FILES, "tsv", "json"))
    return lambda path: apply(shown.store, shown.decisions, path, whole=True)


def of_action(shown: OpenIndex, state: ExampleState, kind: str) -> Fill:
    """The whole report of an action."""
    report = shown.report(state.id)
    return encoded(report.to_json(indent=2) if kind == "json" else document(report))


def of_decisions(shown: OpenIndex, _: ExampleState, _kind: str) -> Fill:
    """The current decisions, one per line."""
    return lines_of([asdict(one) for one in shown.decisions.current.values()])


MAKERS: Mapping[str, tuple[type[PageState], Callable[[OpenIndex, Any, str], Fill]]] = {
    "table": (TableState, of_table),
    "answer": (QuestionState, of_answer),
    "answers": (ExampleState, of_answers),
    "groups": (QuestionState, of_groups),
    "corrected": (ExampleState, of_corrected),
    "decisions": (ExampleState, of_decisions),
    "action": (ExampleState, of_action),
}
"""Kinds of exports: the state that selects the contents, and the function that creates the file."""


def written(columns: Mapping[str, Sequence[Any]], kind: str) -> Fill:
    """Write columns to a file; CSV is safe for spreadsheets, other formats are exact."""
    _check_kind(kind)
    return lambda path: write_columns(path, columns, path.suffix, guard=True)


def _check_kind(kind: str, kinds: Sequence[str] = COLUMN_FILES) -> None:
    if kind not in kinds:
        raise InputError(f"this cannot be exported as {kind[:20]!r}")


def lines_of(records: Sequence[Mapping[str, Any]]) -> Fill:
    """Format records as JSON Lines."""
    return encoded("".join(json.dumps(one, ensure_ascii=False, allow_nan=False) + "\n" for one in records))


def encoded(text: str) -> Fill:
    """Write a text as UTF-8; a lone surrogate as its escape."""
    return filled(text.encode("utf-8", "backslashreplace"))
