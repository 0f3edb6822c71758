"""What a training set trains: the classes of a classifier, or a language model."""

import re
from collections import Counter
from collections.abc import Sequence

from proponent.data import Examples, near_column
from proponent.data.labels_and_ids import NO_LABEL
from proponent.errors import DataError
from proponent.labels import number_of
from proponent.types import Label

_MOST, _LONGEST = 20, 30
"""Maximum number and length of targets that may be the names of classes."""

_COMMA = re.compile(r"[+-]?\d+,\d+", re.ASCII)
"""A number as many languages write it."""


def label_names(examples: Examples) -> tuple[str, ...] | None:
    """List the classes of a training set."""
    found = {example.label for example in examples}
    if found == {None}:
        _refuse_near(examples)
        return None
    if None in found:
        rows = [str(example.row) for example in examples if example.label is None]
        raise DataError(
            f"{len(rows)} rows of {examples.name} have no label (rows {', '.join(rows[:5])}): fill them in or drop them"
        )
    _refuse_values(examples, [label for label in found if label is not None])
    known = {str(label) for label in found}
    if len(known) < 2:
        raise DataError(f"{examples.name} has only one label ({next(iter(known))}): a classifier needs two classes")
    if examples.label_names is not None and known <= set(examples.label_names):
        return examples.label_names
    return tuple(sorted(known, key=_place))


def _refuse_near(examples: Examples) -> None:
    """Refuse to take rows for those of a language model where a column looks like the labels of a classifier."""
    if examples.columns.label != "label" or examples.layout != "text":
        return
    near = near_column(examples.column_names, "label")
    if near is None and _classes_in_targets(examples):
        target = examples.columns.target
        raise DataError(
            f"{examples.name} has no column 'label', and few values that repeat in its column {target!r}: read them as "
            f"classes with --label-column {target!r} --target-column '', or train a language model that completes the "
            "texts with --label-column ''"
        )
    if near is not None:
        raise DataError(
            f"{examples.name} has no column 'label', but {near!r}: name it with --label-column {near!r} to train a "
            "classifier, or train a language model on the texts with --label-column ''"
        )


def _classes_in_targets(examples: Examples) -> bool:
    """Whether the targets are few, short and found again and again, as the names of classes are."""
    found = Counter[str]()
    for example in examples:
        found[example.target or ""] += 1
        if len(found) > _MOST or len(example.target or "") > _LONGEST:
            return False
    return 1 < len(found) <= found.total() // 2 and "" not in found


def _refuse_values(examples: Examples, labels: Sequence[Label]) -> None:
    """Refuse numbers with fractions as classes, however they are written."""
    labels = sorted(labels, key=str)
    known = [one for one in labels if not isinstance(one, str) or one.casefold() not in NO_LABEL]
    numbers = [number_of(_pointed(label)) for label in known]
    value = next((one for one, number in zip(known, numbers, strict=True) if number and not number.is_integer()), None)
    if value is not None and None not in numbers:
        shown = value if isinstance(value, str) else f"{value:g}"
        rest = sorted(str(one) for one in labels if one not in known)
        beside = f" (beside {', '.join(map(repr, rest[:3]))})" if rest else ""
        raise DataError(
            f"the labels of {examples.name} are numbers such as {shown}{beside}, which are values and not classes: "
            "proponent trains classifiers and language models; a regression model that the Trainer trained "
            "(num_labels=1) is read, and classes may have names such as 'grade 2.5'"
        )


def _pointed(label: Label) -> Label:
    """A label with a point in place of a decimal comma."""
    return label.replace(",", ".") if isinstance(label, str) and _COMMA.fullmatch(label) else label


def described(examples: Examples) -> str:
    """Say in one line what would be trained."""
    names = label_names(examples)
    if names is None:
        parts = {"id", "source", examples.columns.text, examples.columns.target}
        rest = ", ".join(repr(one) for one in examples.column_names if one not in parts)
        unused = f"; columns that are not read: {rest}" if rest else ""
        return f"training a language model on the texts: {examples.name} has no labels{unused}"
    return f"training a classifier of {len(names)} classes: {', '.join(names[:8])}{', …' * (len(names) > 8)}"


def _place(name: str) -> tuple[bool, float, str]:
    """Numbers first, by value, then names."""
    number = number_of(name)
    return number is None, number or 0.0, name


def refuse_unread(examples: Examples, *, labelled: bool) -> None:
    """Refuse targets for a classifier and second texts for a language model, which would be ignored silently."""
    for example in examples:
        if labelled and example.target is not None:
            raise DataError(
                f"{examples.name} has labels and targets (row {example.row}), and a classifier reads no target: leave "
                "the target out with --target-column '', or train a language model with --label-column ''"
            )
        if not labelled and example.text_pair is not None:
            raise DataError(
                f"{examples.name} has second texts (row {example.row}) and no labels, and a language model reads only "
                "one text: leave the second texts out with --pair-column '', or name the target with --target-column"
            )
