"""The process that holds the model: one question per line in, stages and one answer per line out, all of it JSON.

The explorer itself never loads torch. A question about a new text goes to this process, which can be slow to start,
fail or be killed without the pages noticing.
"""

import json
import os
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from proponent.processes import python


def main() -> None:
    """Answer questions until stdin ends."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print must not mix with the answers

    def tell(content: dict[str, Any]) -> None:
        out.write(json.dumps(content) + "\n")
        out.flush()

    tell({"stage": "starting the model's process"})
    held: dict[str, tuple[str, Any]] = {}
    for line in sys.stdin:
        try:
            _answer(json.loads(line), held, tell)
        except Exception as error:
            tell(_error_record(error))


def _answer(asked: dict[str, Any], held: dict[str, tuple[str, Any]], tell: Callable[[dict[str, Any]], None]) -> None:
    from proponent.api import open as open_index
    from proponent.search import Where

    path, root = asked["index"], asked["root"]
    if path not in held or held[path][0] != root or not root:
        tell({"stage": "opening the index"})
        held[path] = (root, open_index(path, **asked["options"]))
    index = held[path][1]
    index.say = _teller(tell)
    question = {name: value or None for name, value in asked["question"].items() if name != "text"}
    text, pair = asked["question"]["text"], question.pop("pair")
    where = Where(question.pop("only_label", None), question.pop("only_source", None))
    answer = index.explain(text, text_pair=pair, where=where, **question)
    tell({"stage": "summing over all training examples"})
    tell({"answer": answer.to_dict(), "n_examples": answer.n_examples, "groups": _groups(index, text, pair, question)})


def _teller(tell: Callable[[dict[str, Any]], None]) -> Callable[[str], None]:
    return lambda stage: tell({"stage": stage})


def _groups(index: Any, text: str, pair: str | None, question: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    scores = index.scores(
        [text],
        [question["label"]],
        text_pairs=[pair],
        targets=[question["target"]],
        against=question["against"],
    )[0]
    good = np.flatnonzero(index.store.alive & np.isfinite(scores))
    found: dict[str, list[dict[str, Any]]] = {}
    for column in ("label", "source"):
        values = np.asarray(["" if one is None else str(one) for one in index.store.examples[column]], dtype=object)
        if not any(values):
            continue
        names, codes = np.unique(values[good], return_inverse=True)
        counts = np.bincount(codes, minlength=len(names))
        helped = np.bincount(codes, np.maximum(scores[good], 0), minlength=len(names))
        hurt = np.bincount(codes, np.minimum(scores[good], 0), minlength=len(names))
        found[column] = [
            {"name": str(name), "n": int(n), "proponents": float(up), "opponents": float(down)}
            for name, n, up, down in zip(names, counts, helped, hurt, strict=True)
        ]
    return found


def _error_record(error: Exception) -> dict[str, Any]:
    from proponent.errors import ProponentError

    if isinstance(error, ProponentError):
        return {"error": str(error), "kind": type(error).__name__}
    return {"error": f"unexpected {type(error).__name__}: {error}", "kind": ""}


COMMAND = python("proponent.web.model_process")
"""How to start this process."""

if __name__ == "__main__":
    main()
