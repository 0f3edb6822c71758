"""What a training set trains: the classes of a classifier, or a language model."""

from collections.abc import Sequence

from proponent.data import Examples, near_column
from proponent.errors import DataError
from proponent.labels import number_of
from proponent.types import Label


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
    near = near_column(examples.column_names, "label") if examples.columns.label == "label" else None
    if near is not None and examples.layout == "text":
        raise DataError(
            f"{examples.name} has no column 'label', but {near!r}: name it with --label-column {near!r} to train a "
            "classifier, or train a language model on the texts with --label-column ''"
        )


def _refuse_values(examples: Examples, labels: Sequence[Label]) -> None:
    """Refuse numbers with fractions as classes, however they are written."""
    numbers = [number_of(label) for label in labels]
    value = next((one for one in numbers if one is not None and not one.is_integer()), None)
    if value is not None and None not in numbers:
        raise DataError(
            f"the labels of {examples.name} are numbers such as {value:g}, which are values and not classes: proponent "
            "trains classifiers and language models; a regression model that the Trainer trained (num_labels=1) is "
            "read, and classes may have names such as 'grade 2.5'"
        )


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
