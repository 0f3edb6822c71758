"""The process with the model: reads one question per line, writes its stages and one answer per line, all in JSON.

The explorer itself never loads torch. Questions about new texts go to this process, which can be slow to start,
fail or be killed without affecting the pages.
"""

import json
import os
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from proponent.errors import ProponentError
from proponent.processes import python

Tell = Callable[[dict[str, Any]], None]
Held = dict[str, tuple[str, Any, Any, Any]]
"""By folder of the index: its root, the index, columns that sums are by, and the files of its run."""

BEAT = 5.0
"""Seconds between two signs of life."""


def main() -> None:
    """Answer questions until stdin ends."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # output of libraries must not be mixed with the answers

    one_at_a_time = threading.Lock()

    def tell(content: dict[str, Any]) -> None:
        line = json.dumps(content) + "\n"
        with one_at_a_time:
            out.write(line)
            out.flush()

    threading.Thread(target=_beat, args=(tell,), daemon=True).start()
    tell({"stage": "starting the model's process"})
    held: Held = {}
    for line in sys.stdin:
        try:
            _answer(json.loads(line), held, tell)
        except ProponentError as error:
            tell({"error": str(error), "kind": type(error).__name__})
        except Exception as error:
            tell({"error": f"unexpected {type(error).__name__}: {error}"})


def _beat(tell: Tell) -> None:
    """Show that this process is alive, until nobody reads it."""
    with suppress(OSError, ValueError):
        while True:
            time.sleep(BEAT)
            tell({"alive": True})


def _answer(asked: dict[str, Any], held: Held, tell: Tell) -> None:
    index, columns = _opened(asked, held, tell)
    index.say = partial(_stage, tell)
    if "rows" in asked:
        tell(_predicted(index, asked["rows"]))
    elif "measure" in asked:
        tell(_measured(index, asked["measure"]))
    elif "errors" in asked:
        tell(_behind_errors(index, asked["errors"], asked["k"]))
    elif "explain" in asked:
        tell(_answered(index, asked["explain"]))
    else:
        tell(_explained(index, columns, asked["question"], tell))


def _opened(asked: dict[str, Any], held: Held, tell: Tell) -> tuple[Any, Any]:
    """The index, and the columns that sums are by; an index that has not changed, nor its run, stays open."""
    from proponent.actions.group_columns import data_columns
    from proponent.api import open as open_index
    from proponent.index.group_columns import group_columns

    path, root, options = asked["index"], asked["root"], asked["options"]
    if path not in held or held[path][0] != root or not root or held[path][3] != _run_files(held[path][1]):
        tell({"stage": "opening the index"})
        held.pop(path, None)  # two models may be too much
        opened = open_index(path, **options)
        columns = group_columns(opened.store) | data_columns(opened.store)
        held[path] = (root, opened, columns, _run_files(opened))
    return held[path][1:3]


def _run_files(index: Any) -> list[tuple[str, int, int]]:
    """Names, times and sizes of all files that a run is read from: another run in its place is checked as a new one."""
    from proponent.models.adapters import base_of

    run = index.run
    places = [one.path for one in (*run.checkpoints, *run.later)]
    base = base_of(places[-1], run.info.base).name if run.info.adapter else run.task.reference
    named = [Path(one) for one in (base, run.named_tokenizer) if one is not None]
    members = {one.parent for one in places if one.is_relative_to(run.path) and one != run.path}  # seed-0, seed-1 ...
    folders = {run.path, run.tokenizer_folder, *run.joined, *places, *members, *named}
    found: list[tuple[str, int, int]] = []
    for folder in folders:
        with suppress(OSError):  # a name on a hub is no folder
            states = [(str(path), path.stat()) for path in folder.iterdir() if path.is_file()]
            found += [(name, state.st_mtime_ns, state.st_size) for name, state in states]
    return sorted(found)


def _explained(index: Any, columns: Any, asked: dict[str, Any], tell: Tell) -> dict[str, Any]:
    """The answer to a question, with its sums over all training examples."""
    from proponent.index.group_sums import answered_scores, group_sums
    from proponent.web.states import Question

    question = Question(**asked)
    query = question.query
    chat = {"messages": query.get("messages"), "target": query.get("target")}
    how: dict[str, Any] = {
        "against": question.against or None,
        "span": question.place,
        "generate": bool(question.generate),
        "against_target": question.other or None,
    }
    text = chat if question.messages else {"text": query}
    answer = index.explain(**text, **how, k=question.k, where=question.where)
    tell({"stage": "summing over all training examples"})
    sums = group_sums(index, answered_scores(index, query, answer, **how), columns)
    return {"answer": answer.to_dict(whole=True), "n_examples": answer.n_examples, "groups": sums}


def _answered(index: Any, asked: dict[str, Any]) -> dict[str, Any]:
    """The answer to a question of a terminal, as it would compute it itself."""
    from proponent.search import Where

    answer = index.explain(**{**asked, "where": Where(**asked["where"])})
    return {"answer": answer.to_dict(whole=True), "n_examples": answer.n_examples}


def _predicted(index: Any, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Number and probability of the predicted class of some rows; those of similar length share a pass."""
    order = sorted(range(len(rows)), key=lambda at: len(rows[at]["text"]) + len(rows[at].get("text_pair") or ""))
    found = index.probabilities([rows[at] for at in order])
    places = {at: place for place, at in enumerate(order)}
    chosen = [found[places[at]] for at in range(len(rows))]
    return {
        "predicted": [int(one.argmax()) for one in chosen],
        "chances": [round(float(one.max()), 6) for one in chosen],
    }


def _measured(index: Any, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Losses of some rows, their counted tokens, and numbers of those that are truncated."""
    from proponent.data import from_json
    from proponent.types import Example

    given = [
        Example(one["id"], at, content=from_json(one["content"]))
        if "content" in one
        else Example(one["id"], at, one["text"], target=one.get("target"))
        for at, one in enumerate(rows)
    ]
    found = index.losses(given)
    losses = [float(one) if good else None for one, good in zip(found.losses, found.measured, strict=True)]
    return {"losses": losses, "tokens": found.tokens.tolist(), "truncated": found.truncated.nonzero()[0].tolist()}


def _behind_errors(index: Any, rows: list[dict[str, Any]], k: int) -> dict[str, Any]:
    """Proponents and words of some wrong predictions, and sums over all training examples."""
    from proponent.index.error_hits import GroupTotals, WrongPrediction, explained_errors
    from proponent.types import Example

    wrong = [
        WrongPrediction(
            one["number"],
            Example(str(one["number"]), one["number"], one["text"], one["classes"][0], one["text_pair"]),
            one["classes"][1],
        )
        for one in rows
    ]
    totals, hits = GroupTotals(index), list[Any]()
    for one, _, scores in explained_errors(index, wrong, k):
        totals.add(scores)
        hits.append([one.number, one.given, one.predicted, one.hits, one.words])
    sums = {
        column: [[one.name, one.n, one.proponents, one.opponents] for one in some]
        for column, some in totals.sums.items()
    }
    return {"hits": hits, "sums": sums}


def _stage(tell: Tell, stage: str) -> None:
    tell({"stage": stage})


COMMAND = python("proponent.web.model_process")
"""Command that starts this process."""

if __name__ == "__main__":
    main()
