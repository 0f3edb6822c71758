"""Exports of the current view: its rows, values and order as CSV, JSON Lines, Parquet and other files."""

import io
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from proponent.actions import action
from proponent.actions.corrections import apply
from proponent.data import write_columns, write_csv
from proponent.errors import InputError
from proponent.views import CAVEAT, Explanation, Report, document
from proponent.web.layout import method_line
from proponent.web.open_indexes import OpenIndex
from proponent.web.pages.ask import kept_of, sharing
from proponent.web.pages.groups import sums
from proponent.web.pages.table import TableRow, rows_of
from proponent.web.states import QuestionState, TableState

TYPES = {
    "csv": "text/csv; charset=utf-8",
    "jsonl": "application/x-ndjson; charset=utf-8",
    "json": "application/json; charset=utf-8",
    "parquet": "application/vnd.apache.parquet",
    "html": "text/html; charset=utf-8",
    "cleanlab": "text/csv; charset=utf-8",
    "pair": "application/x-ndjson; charset=utf-8",
}
SUFFIXES = {"cleanlab": "csv", "pair": "jsonl"}
Columns = dict[str, list[Any]]
BLOCK = 4096
"""Rows that are made at a time."""


def table_columns(shown: OpenIndex, state: TableState) -> Columns:
    """All rows that a state of the table selects, with what the screen shows of each."""
    decisions = shown.decisions.current
    places = shown.table.select(state, decisions).places
    columns = _columns(shown, rows_of(shown, places[:BLOCK], decisions))
    for start in range(BLOCK, len(places), BLOCK):
        for name, values in _columns(shown, rows_of(shown, places[start : start + BLOCK], decisions)).items():
            columns[name] += values
    return columns


def _columns(shown: OpenIndex, rows: Sequence[TableRow]) -> Columns:
    columns: Columns = {"id": [one.id for one in rows], "row": [one.row for one in rows]}
    columns["text"] = [one.text for one in rows]
    if shown.table.whole.has("text_pair") or shown.table.whole.has("target"):
        columns["second"] = [one.second for one in rows]
    if shown.table.names is not None:
        columns |= {
            "given_label": [one.label for one in rows],
            "predicted_label": [one.predicted for one in rows],
            "suggested_label": [one.suggested for one in rows],
            "is_label_issue": [one.flagged for one in rows],
            "label_score": [one.quality for one in rows],
        }
    columns["loss"] = [one.loss for one in rows]
    if shown.table.whole.has("source"):
        columns["source"] = [one.source for one in rows]
    return columns | {"decision": [one.decided for one in rows], "new_label": [one.new_label for one in rows]}


def cleanlab_columns(shown: OpenIndex, state: TableState) -> Columns:
    """The same rows in the columns of cleanlab's Datalab, in data order."""
    if shown.table.names is None:
        raise InputError("this index is of a language model: there are no labels to check")
    columns = table_columns(shown, state)
    order = sorted(range(len(columns["row"])), key=columns["row"].__getitem__)
    names = ("is_label_issue", "label_score", "given_label", "predicted_label", "id", "row")
    return {name: [columns[name][at] for at in order] for name in names}


def answer_columns(answer: Explanation) -> Columns:
    """One row per hit, with the method and the caveat in each."""
    hits = [("helped", hit) for hit in answer.proponents] + [("hurt", hit) for hit in answer.opponents]
    checkpoints = len(answer.checkpoints)
    return {
        "side": [side for side, _ in hits],
        "rank": [hit.rank for _, hit in hits],
        "id": [hit.id for _, hit in hits],
        "row": [hit.row for _, hit in hits],
        "score": [hit.score for _, hit in hits],
        "label": [hit.label for _, hit in hits],
        "predicted": [hit.predicted for _, hit in hits],
        "text": [hit.text for _, hit in hits],
        "second": [hit.second for _, hit in hits],
        "words": [json.dumps([[p.query_word, p.train_word, p.share] for p in hit.words]) for _, hit in hits],
        "same_sign_checkpoints": [hit.agreeing for _, hit in hits],
        "checkpoints": [checkpoints] * len(hits),
        "method": [answer.method] * len(hits),
        "query": [answer.query.text] * len(hits),
        "query_label": [answer.query.label] * len(hits),
        "caveat": [answer.caveat] * len(hits),
    }


def pair_line(answer: Explanation, identity: str) -> dict[str, Any]:
    """An answer as the viewer of pretraining-tda reads it."""
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


def of_table(shown: OpenIndex, state: TableState, kind: str) -> bytes:
    """A file of the table."""
    if kind == "cleanlab":
        return written(cleanlab_columns(shown, state), "csv")
    return written(table_columns(shown, state), kind)


def of_answer(shown: OpenIndex, state: QuestionState, kind: str) -> bytes:
    """A file of an answer, as it is seen: with the hits of the word that is chosen."""
    kept = kept_of(shown, state)
    answer = sharing(kept.answer, state.word)
    makers: Mapping[str, Callable[[], str]] = {
        "html": lambda: document(answer),
        "json": lambda: answer.to_json(indent=2) + "\n",
        "pair": lambda: _line(pair_line(answer, kept.id)),
    }
    if kind in makers:
        return makers[kind]().encode("utf-8", "backslashreplace")
    return written(answer_columns(answer), kind)


def of_answers(shown: OpenIndex, kind: str) -> bytes:
    """A file of all answers that were asked of an index."""
    found = [(one.id, shown.questions.get(one.question)) for one in shown.questions.list().values()]
    answers = [(name, kept.answer) for name, kept in found if kept is not None]
    if not answers:
        raise InputError("nothing was asked of this index yet")
    if kind == "html":
        report = Report(title="Answers", answers=tuple(answer for _, answer in answers), index=shown.name)
        return document(report).encode("utf-8", "backslashreplace")
    if kind == "pair":
        text = "".join(_line(pair_line(answer, name)) for name, answer in answers)
    elif kind == "json":
        text = "".join(answer.to_json() + "\n" for _, answer in answers)
    else:
        raise InputError(f"answers are not written as {kind[:20]!r}")
    return text.encode("utf-8", "backslashreplace")


def of_groups(shown: OpenIndex, state: QuestionState, kind: str) -> bytes:
    """A file of sums over groups."""
    found = sums(kept_of(shown, state), state.by)
    columns: Columns = {state.by: [one.name for one in found]}
    for name in ("n", "total", "proponents", "opponents", "mean"):
        columns[name] = [getattr(one, name) for one in found]
    columns["method"] = [method_line(shown.plan)] * len(found)
    return written(columns | {"caveat": [CAVEAT] * len(found)}, kind)


def of_corrected(shown: OpenIndex, kind: str) -> bytes:
    """The data set with all decisions applied: exact, to train on."""
    if kind not in {"csv", "jsonl", "parquet"}:
        raise InputError(f"this is not written as {kind[:20]!r}")
    with TemporaryDirectory(prefix="proponent-") as folder:
        path = Path(folder) / f"export.{kind}"
        apply(shown.store, shown.decisions, path, whole=True)
        return path.read_bytes()


def of_action(shown: OpenIndex, name: str, kind: str) -> bytes:
    """The whole report of an action."""
    report = action(name).report(shown.store)
    return (report.to_json(indent=2) if kind == "json" else document(report)).encode("utf-8", "backslashreplace")


def of_decisions(shown: OpenIndex) -> bytes:
    """The current decisions, one per line."""
    current = shown.decisions.current
    return "".join(
        _line({"id": one.id, "act": one.act, "label": one.label, "when": one.when}) for one in current.values()
    ).encode("utf-8", "backslashreplace")


def written(columns: Mapping[str, Sequence[Any]], kind: str) -> bytes:
    """Write columns as a file in memory; CSV is safe for spreadsheets, the others are exact."""
    if kind == "csv":
        made = io.BytesIO()  # not StringIO, which takes four bytes a character
        with io.TextIOWrapper(made, encoding="utf-8", errors="backslashreplace", newline="") as sink:
            write_csv(sink, columns)
            sink.flush()
            return made.getvalue()
    if kind not in {"jsonl", "parquet"}:
        raise InputError(f"this is not written as {kind[:20]!r}")
    with TemporaryDirectory(prefix="proponent-") as folder:
        path = Path(folder) / f"export.{kind}"
        write_columns(path, columns, f".{kind}", guard=False)
        return path.read_bytes()


def _line(content: Mapping[str, Any]) -> str:
    return json.dumps(content, ensure_ascii=False, allow_nan=False) + "\n"
