"""Command that looks for poisoned rows: hidden triggers that are tied to an answer."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import typer

from proponent.cli.data_options import IndexDataOptions
from proponent.cli.options import (
    BuildOptions,
    Data,
    ModelOptions,
    OutputOptions,
    PageFiles,
    QueryFile,
    RunFolder,
    listed,
    usable,
)
from proponent.errors import DataError, InputError

if TYPE_CHECKING:
    from proponent.actions.poison_retrain import Retraining
    from proponent.actions.poison_transforms import Transform
    from proponent.data import Examples

_TRUE = {"1", "1.0", "true", "yes"}
_FALSE = {"0", "0.0", "false", "no", "", "none"}


@dataclass(frozen=True)
class DetectionOptions:
    """What is flagged, and what it is compared with."""

    PANEL: ClassVar = "Detection"

    transforms: Annotated[
        str | None, typer.Option(metavar="A,B", help="Transforms of the published rules (default: all).")
    ] = None
    threshold: Annotated[
        float | None,
        typer.Option(help="Strength from which a word is flagged (default: 5, more for over 2,000 rows)."),
    ] = None
    truth: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="Column that marks poisoned rows: compare with controls.")
    ] = None


@dataclass(frozen=True)
class RetrainingOptions:
    """What is dropped and trained again, and how the attack is measured."""

    PANEL: ClassVar = "Retraining"

    retrain: Annotated[
        bool, typer.Option("--retrain", help="Drop the flagged rows and train again, beside a random drop.")
    ] = False
    drop: Annotated[int | None, typer.Option(min=1, help="Drop this number of the most suspect rows instead.")] = None
    trigger: Annotated[
        list[str] | None, typer.Option(metavar="WORDS", help="A known trigger, for attack success; repeatable.")
    ] = None
    attacked: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Rows that hold the trigger, labelled as the attacker wants them."),
    ] = None
    initial: Annotated[str | None, typer.Option(help="Initial weights: a model, or fresh.")] = None
    seed: Annotated[int, typer.Option(min=0, help="Seed of the retraining and of the random drop.")] = 0

    def plan(self, columns: IndexDataOptions, out: OutputOptions) -> "Retraining | None":
        """The retraining; None if it is not asked for."""
        if not self.retrain:
            if self != RetrainingOptions():
                raise InputError("--drop, --trigger, --attacked, --initial and --seed need --retrain")
            return None
        from proponent.actions.poison_retrain import Retraining

        rows = None if self.attacked is None else list(columns.read_queries(self.attacked, out))
        return Retraining(self.drop, tuple(self.trigger or ()), rows, self.initial, self.seed)


def poison(
    run: RunFolder,
    data: Data,
    building: BuildOptions,
    model: ModelOptions,
    columns: IndexDataOptions,
    detection: DetectionOptions,
    retraining: RetrainingOptions,
    output: OutputOptions,
    index: Annotated[
        Path, typer.Option("--index", help="Folder of an index of DATA; it is built there if there is none.")
    ] = Path("poison.index"),
    method: Annotated[
        str, typer.Option(help="Method of the index; tracin-we and tracin-we-idf have shares of words.")
    ] = "tracin-we",
    queries: QueryFile = None,
    limit: Annotated[int, typer.Option(min=0, help="Words and rows to print.")] = 15,
    pages: PageFiles = None,
) -> None:
    """Look for poisoned rows: words that act as hidden triggers, and the rows that tie them to an answer."""
    for path in pages or ():
        usable(path, "--out")
    chosen = _transforms(detection.transforms)
    opened = model.open(run)
    examples = columns.read(data, output)
    known = None if detection.truth is None else _truth(examples, detection.truth)
    asked = None if queries is None else list(columns.read_queries(queries, output))
    plan = retraining.plan(columns, output)
    from proponent.actions.poison import Known, refuse_early
    from proponent.actions.poison import poison as find
    from proponent.api import build
    from proponent.views.poison import print_poison

    refuse_early(opened, len(examples), asked, threshold=detection.threshold, truth=known, retraining=plan)
    how: dict[str, Any] = {"columns": columns.columns, "quiet": output.quiet, **building.settings()}
    built = build(opened, examples, index, method, **how)
    last = None
    if known is not None and opened.label_names is not None:
        last = build(opened, examples, index.with_name(f"{index.name}-last"), "tracin-last", **how)
    page = find(
        built,
        list(examples),
        asked,
        transforms=chosen,
        threshold=detection.threshold,
        known=None if known is None else Known(known, last),
        retraining=plan,
        quiet=output.quiet,
    )
    for path in pages or ():
        page.save(path)
    output.show(page.to_dict, lambda: print_poison(page, limit))


def _transforms(names: str | None) -> "dict[str, Transform]":
    """The transforms of these names."""
    from proponent.actions.poison_transforms import TRANSFORMS
    from proponent.suggest import nearest

    if names is None:
        return TRANSFORMS
    chosen = listed(names)
    for name in chosen:
        if name not in TRANSFORMS:
            raise InputError(f"--transforms {name!r}{nearest(name, TRANSFORMS)}: choose of {', '.join(TRANSFORMS)}")
    return {name: TRANSFORMS[name] for name in chosen}


def _truth(examples: "Examples", column: str) -> list[bool]:
    """Which rows are poisoned, by a column of 1 and 0 or of true and false."""
    if column not in examples.column_names:
        raise DataError(f"{examples.name}: no column {column!r}; it has {', '.join(examples.column_names[:20])}")
    said = [str(one).strip().lower() for one in examples.column(column)]
    strange: Sequence[str] = sorted(set(said) - _TRUE - _FALSE)
    if strange:
        raise DataError(f"{examples.name}: the column {column} holds {strange[0]!r}: give 1 or 0, true or false")
    return [one in _TRUE for one in said]
