"""A report of suspected label errors as an issue type of cleanlab's Datalab; cleanlab is optional."""

from collections import Counter
from collections.abc import Sequence
from importlib import import_module
from typing import Any

import numpy as np

from proponent.errors import InputError, MismatchError, MissingExtraError
from proponent.plain_text import visible
from proponent.views.data_frames import frame_of_columns
from proponent.views.suspects import LabelReport, Suspect

ISSUE = "proponent_label"
"""Name of the issue type."""

NEEDED = "2.6"
"""First version of cleanlab whose Datalab this was written for."""

ABOUT = (
    "Labels that are probably wrong by the training run itself: by the probabilities along its checkpoints, and by "
    "out-of-sample ones where the report has them."
)


def register() -> type[Any]:
    """Make the issue type known to cleanlab; `Datalab.find_issues` then takes a report.

    Returns:
        The registered subclass of cleanlab's `IssueManager`. Use it so:
        `lab.find_issues(issue_types={"proponent_label": {"report": label_errors(store)}})`.

    Raises:
        MissingExtraError: cleanlab is not installed, or its Datalab cannot be extended.
    """
    try:
        base = import_module("cleanlab.datalab.internal.issue_manager").IssueManager
        add = import_module("cleanlab.datalab.internal.issue_manager_factory").register
    except (ImportError, AttributeError) as error:
        raise MissingExtraError(
            f"the issue type {ISSUE} needs cleanlab from {NEEDED} on: pip install 'cleanlab[datalab]>={NEEDED}'"
        ) from error

    def find_issues(self: Any, report: object = None, id_column: str = "id", **_: object) -> None:
        """Take over a report; rows meet by their ids, or by their numbers where the data has no ids."""
        if not isinstance(report, LabelReport):
            raise InputError(
                f"the issue type {ISSUE} needs a report of suspected label errors: give "
                f"issue_types={{{ISSUE!r}: {{'report': label_errors(store)}}}}"
            )
        data = self.datalab.data
        given = list(data[self.datalab.label_name]) if self.datalab.label_name else None
        ids = [str(one) for one in data[id_column]] if id_column in data.column_names else None
        found = matched(report, len(data), ids, given)
        self.issues = frame_of_columns({f"is_{ISSUE}_issue": found["issue"], f"{ISSUE}_score": found["score"]})
        self.summary = self.make_summary(score=float(np.mean(found["score"])))
        self.info = self.collect_info(found, report)

    def collect_info(_: Any, found: dict[str, list[Any]], report: LabelReport) -> dict[str, Any]:
        """The other columns, by row of the data."""
        names = ("given_label", "predicted_label", "suggested_label", "confidence")
        return {name: found[name] for name in names} | {"ranking": report.ranking, "notes": list(report.notes)}

    body = {
        "__module__": __name__,
        "__doc__": ABOUT,
        "description": ABOUT,
        "issue_name": ISSUE,
        "verbosity_levels": {0: [], 1: ["ranking"], 2: ["notes"], 3: []},
        "find_issues": find_issues,
        "collect_info": collect_info,
    }
    return add(type(base)("ProponentLabelIssues", (base,), body))


def matched(
    report: LabelReport, n: int, ids: Sequence[str] | None, given: Sequence[object] | None
) -> dict[str, list[Any]]:
    """The columns of a report in the order of another data set.

    Args:
        report: the report, with all its rows.
        n: rows of the data set.
        ids: their ids; None: rows meet by their numbers.
        given: their labels, names or numbers; None: they are not compared.

    Returns:
        Columns of n values; rows that the report leaves out have score 1 and no issue.

    Raises:
        MismatchError: the report has rows that the data lacks, ids repeat, or labels differ.
    """
    if ids is not None and len(set(ids)) < len(ids):
        raise MismatchError("the ids of the data set repeat: make them unique, or leave the column out")
    if ids is None and len({row.row for row in report.rows}) < len(report.rows):
        raise MismatchError(
            "rows of several files have the same numbers: give the data a column of their ids, and name it as id_column"
        )
    places = {one: at for at, one in enumerate(ids)} if ids is not None else {str(at): at for at in range(n)}
    classes = {row.given_label for row in report.rows}
    made: dict[str, list[Any]] = {
        "issue": [False] * n,
        "score": [1.0] * n,
        "given_label": [None] * n,
        "predicted_label": [None] * n,
        "suggested_label": [None] * n,
        "confidence": [None] * n,
    }
    names: dict[str, str] = {}
    for row in report.rows:
        at = places.get(row.id if ids is not None else str(row.row))
        if at is None:
            raise MismatchError(
                f"the row with id {visible(row.id)} of the report is not in the data set: give Datalab the data that "
                "the index was built from"
            )
        if given is not None:
            known = str(given[at])  # a class of the report means itself; another value, such as a number, one class
            _refuse_other(row, names.setdefault(known, known if known in classes else row.given_label), given[at])
        made["issue"][at], made["score"][at] = row.is_label_issue, row.label_score
        for name in ("given_label", "predicted_label", "suggested_label", "confidence"):
            made[name][at] = getattr(row, name)
    twice = [one for one, count in Counter(names.values()).items() if count > 1]
    if twice:
        raise MismatchError(
            f"several labels of the data set stand for {visible(twice[0])} of the index: give Datalab the data that "
            "the index was built from"
        )
    return made


def _refuse_other(row: Suspect, known: str, given: object) -> None:
    """Refuse a label that stands for two classes of the report."""
    if known != row.given_label:
        raise MismatchError(
            f"the row with id {visible(row.id)} has the label {visible(str(given))} in the data set and "
            f"{visible(row.given_label)} in the index: give Datalab the data that the index was built from"
        )
