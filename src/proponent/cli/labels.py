"""The command `labels`: suspected label errors of a classifier, suspect rows of a language model."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import typer
from rich.console import Console

from proponent.cli.data_options import ColumnOptions
from proponent.cli.encoding_options import EncodingOptions
from proponent.cli.options import IndexFolder, IndexOptions, OutputOptions, choice, usable
from proponent.errors import InputError

if TYPE_CHECKING:
    from proponent.actions.out_of_sample import OutOfSample
    from proponent.store import Store
    from proponent.types import Example
    from proponent.views import LabelReport, RowReport


@dataclass(frozen=True)
class OutOfSampleOptions:
    """Where out-of-sample class probabilities come from."""

    PANEL: ClassVar = "Out-of-sample probabilities (classifier)"

    cross_validate: Annotated[
        bool, typer.Option("--cross-validate", help="Fit logistic regressions on the other folds: finds more errors.")
    ] = False
    encoder: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="Features besides words: folder or name of a pretrained model, run (its last checkpoint), none. "
            "Default: run; none if it was trained from scratch.",
        ),
    ] = None
    folds: Annotated[int, typer.Option(min=2, help="Number of folds.")] = 5
    group_column: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="Rows with one value of this column are kept in one fold.")
    ] = None
    data: Annotated[
        list[str] | None,
        typer.Option("--data", metavar="FILE", help="The data set of the index, if it has moved (--group-column)."),
    ] = None
    probabilities: Annotated[
        str | None,
        typer.Option(
            metavar="FILE", help="Out-of-sample probabilities of another model: columns id and each class by its name."
        ),
    ] = None

    def given(self) -> str | None:
        """The first option that was given; None without any."""
        named = {"--cross-validate": self.cross_validate, "--probabilities": self.probabilities} | self._only_folds()
        return next((name for name, said in named.items() if said), None)

    def _only_folds(self) -> dict[str, object]:
        return {"--encoder": self.encoder, "--group-column": self.group_column, "--data": self.data}

    def read(self, store: "Store", opening: IndexOptions, output: OutputOptions) -> "OutOfSample | None":
        """Read or fit the probabilities; None where none are asked for."""
        idle = next((name for name, said in self._only_folds().items() if said and not self.cross_validate), None)
        if idle is not None:
            raise InputError(f"{idle} is for --cross-validate: add it, or leave {idle} out")
        from proponent.actions.out_of_sample import read_probabilities

        found = [read_probabilities(store, self.probabilities)] if self.probabilities is not None else []
        found += [self._fitted(store, opening, output)] if self.cross_validate else []
        return sum(found[1:], found[0]) if found else None

    def _fitted(self, store: "Store", opening: IndexOptions, output: OutputOptions) -> "OutOfSample":
        from proponent.actions.cross_validation import OWN_FEATURES, cross_validate
        from proponent.actions.group_columns import data_column

        groups = None if self.group_column is None else data_column(store, self.group_column, self.data or ())
        named, own = self.encoder, self.encoder in {None, "run"}
        if named is None or named == "run":
            named = _own_encoder(store, opening, output, asked=named is not None)
        elif named != "none":
            from proponent.hub import require_model

            require_model(named, "--encoder", "take the run's own")
        if named == "none":
            return cross_validate(store, groups=groups, folds=self.folds)
        if opening.device_map is not None:
            raise InputError("--cross-validate reads texts with an encoder on one device: leave --device-map out")
        encoding = EncodingOptions(trust_remote_code=opening.trust_remote_code, device=opening.device)

        def features(examples: "Sequence[Example]") -> Any:
            return encoding.features(named, examples, output)

        notes = (OWN_FEATURES,) if own else ()
        return cross_validate(store, features, encoder=named, groups=groups, folds=self.folds, notes=notes)


def _own_encoder(store: "Store", opening: IndexOptions, output: OutputOptions, *, asked: bool) -> str:
    """Folder of the run's last checkpoint; none for a run from scratch, whose features add nothing to words."""
    from proponent.models import Run
    from proponent.models.counting import homes
    from proponent.models.run_record import drawn

    folder = Path(opening.run or next(iter(store.plan.joined), store.plan.run))
    try:
        run = Run.from_pretrained(folder, base=opening.base, trust_remote_code=opening.trust_remote_code)
    except InputError as error:
        if asked:
            raise
        output.hint(f"words alone are cross-validated, without the features of the run: {error}")
        return "none"
    if not asked and all(drawn(home) for home in homes(run)):
        output.hint("words alone are cross-validated: the run was trained from scratch; --encoder MODEL finds more")
        return "none"
    return str(run.checkpoints[-1].path)


def labels(
    index: IndexFolder,
    out: Annotated[Path, typer.Option(help="CSV file, of a classifier in the columns of cleanlab's Datalab.")],
    opening: IndexOptions,
    columns: ColumnOptions,
    sampling: OutOfSampleOptions,
    output: OutputOptions,
    ranking: Annotated[
        str | None,
        typer.Option(
            help="Of a classifier: mean-probability (the default), mean-loss, last-loss, influence or self-influence; "
            "with out-of-sample probabilities combined (then the default) or out-of-sample. "
            "Of a language model: combined (the default), duplicate, contradiction, misplaced, repeated, fault, loss, "
            "self-influence, influence or query-influence."
        ),
    ] = None,
    limit: Annotated[int, typer.Option(min=0, help="Number of suspects to print.")] = 20,
    queries: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Good questions and answers: also rank rows by how much they hurt these."),
    ] = None,
) -> None:
    """Rank suspected label errors and suggest fixes; of a language model, rank suspect rows and say why."""
    usable(out, "--out")
    from proponent.store import Store

    store = Store(index, allow_missing=opening.allow_missing)
    if store.coverage < 1:
        output.hint(f"INCOMPLETE: shards are missing; {store.coverage:.0%} of the training examples are ranked")
    if store.plan.label_names is None:
        if sampling.given():
            raise InputError(f"{sampling.given()} is for a classifier: this index belongs to a language model")
        harm = None if queries is None else _harm(index, columns.read(queries, output), vars(opening))
        report, guarded = _rows(store, ranking or "combined", harm, out, limit, output)
    elif queries is not None:
        raise InputError("--queries is for a language model; `proponent explain --queries FILE --group` sums scores")
    else:
        report, guarded = _labels(store, ranking, sampling.read(store, opening, output), out, limit, output)
    output.hint(f"{out}: {report.n_examples} rows, {report.flagged} flagged")
    if guarded:
        output.hint(f"{out}: {guarded} cells begin like a formula and were prefixed with ' for spreadsheets")


def _labels(
    store: "Store",
    ranking: str | None,
    sampled: "OutOfSample | None",
    out: Path,
    limit: int,
    output: OutputOptions,
) -> "tuple[LabelReport | RowReport, int]":
    """Suspected label errors of a classifier."""
    from proponent.actions.label_errors import OUT_OF_SAMPLE, RANKINGS, label_errors, write_label_csv
    from proponent.views.terminal import print_labels

    known = (*RANKINGS, *OUT_OF_SAMPLE)
    report = label_errors(store, None if ranking is None else choice("--ranking", ranking, known), sampled)
    guarded = write_label_csv(report, out)
    output.show(report.to_dict, lambda: print_labels(report, Console(), limit))
    return report, guarded


def _rows(
    store: "Store", ranking: str, harm: Any, out: Path, limit: int, output: OutputOptions
) -> "tuple[LabelReport | RowReport, int]":
    """Suspect rows of a language model."""
    from proponent.actions.suspect_rows import ROW_RANKINGS, suspect_rows, write_row_csv
    from proponent.views.row_terminal import print_rows

    report = suspect_rows(store, choice("--ranking", ranking, tuple(ROW_RANKINGS)), harm=harm)
    guarded = write_row_csv(report, out)
    output.show(report.to_dict, lambda: print_rows(report, Console(), limit))
    return report, guarded


def _harm(index: Path, queries: "Sequence[Example]", options: dict[str, Any]) -> Any:
    """How much each training row hurts some queries: minus the sum of its scores."""
    from proponent.api import open as open_index

    return -open_index(index, **options).scores(queries).sum(0)
