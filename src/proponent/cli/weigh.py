"""Command that weighs unlabelled rows by their influence on a validation set."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import typer

from proponent.cli.data_options import ColumnOptions
from proponent.cli.encoding_options import AllowOverlap, EncodingOptions, encoder_of, refuse_overlap
from proponent.cli.options import OutputOptions, index_folder, usable
from proponent.errors import InputError, MismatchError

if TYPE_CHECKING:
    from proponent.actions.unlabelled_weights import Rows, Scores
    from proponent.types import Example
    from proponent.views import EvaluationReport


@dataclass(frozen=True)
class LearningOptions:
    """How the weights are learned."""

    PANEL: ClassVar = "Learning of the weights"

    index: Annotated[
        Path | None,
        typer.Option(
            metavar="INDEX",
            parser=index_folder,
            help="Index of UNLABELLED: its scores in place of the head's influence.",
        ),
    ] = None
    train_encoder: Annotated[
        bool,
        typer.Option(
            "--train-encoder",
            help="Train the encoder as well, by consistency under word replacement; UNLABELLED needs no labels.",
        ),
    ] = False
    steps: Annotated[
        int | None, typer.Option(min=1, help="Steps of the training: 600, or 100 with --train-encoder.")
    ] = None
    alpha: Annotated[
        float | None, typer.Option(min=0.0, help="Step of Adam on the weights: .05, or .1 with --train-encoder.")
    ] = None
    ridge: Annotated[
        float, typer.Option(min=0.0, help="Ridge of the training: more for wide features and few labelled rows.")
    ] = 5e-4
    seeds: Annotated[
        int | None,
        typer.Option(min=1, help="Trainings, of whose weights the mean is taken: 5, or 1 with --train-encoder."),
    ] = None

    def check(self) -> None:
        """Refuse options that exclude each other."""
        if self.train_encoder and self.index is not None:
            raise InputError("--index holds scores of fixed gradients, which --train-encoder changes: leave one out")

    def changes(self, steps: int, warm_up: int) -> dict[str, Any]:
        """Settings that differ from the defaults of the library."""
        chosen = self.steps or steps
        alpha = {} if self.alpha is None else {"alpha": self.alpha}
        return {"steps": chosen, "ridge": self.ridge, "warm_up": min(warm_up, chosen // 4)} | alpha


def weigh(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run or a model folder, whose features the head reads.")],
    labelled: Annotated[str, typer.Argument(metavar="LABELLED", help="File of labelled texts.")],
    unlabelled: Annotated[
        str, typer.Argument(metavar="UNLABELLED", help="File of texts with guessed labels; each gets a weight.")
    ],
    validation: Annotated[
        str, typer.Argument(metavar="VALIDATION", help="File of labelled texts whose loss the weights lower.")
    ],
    columns: ColumnOptions,
    encoding: EncodingOptions,
    learning: LearningOptions,
    output: OutputOptions,
    test: Annotated[str, typer.Option(metavar="FILE", help="Labelled texts on which all heads are measured.")],
    allow_overlap: AllowOverlap = False,
    out: Annotated[Path | None, typer.Option(help="Write a copy of UNLABELLED with the weights as a column.")] = None,
    weight_name: Annotated[str, typer.Option(help="Name of that column.")] = "weight",
    pages: Annotated[
        list[Path] | None, typer.Option("--report", metavar="FILE", help="Also write .html, .md or .json; repeatable.")
    ] = None,
) -> None:
    """Learn one weight per row with a guessed label, by its influence on the validation loss, beside controls."""
    learning.check()
    for path, option in ((out, "--out"), *((one, "--report") for one in pages or ())):
        usable(path, option)
    files = {"LABELLED": labelled, "UNLABELLED": unlabelled, "VALIDATION": validation, "--test": test}
    from proponent.actions.lexical_bias import refuse_target, write_weighted

    sets = {name: columns.read_queries(file, output) for name, file in files.items()}
    if out is not None:
        refuse_target(sets["UNLABELLED"], out, weight_name)
    if not allow_overlap:
        trained = (one for name in ("LABELLED", "UNLABELLED") for one in sets[name])
        refuse_overlap(trained, {name: sets[name] for name in ("VALIDATION", "--test")})
    learn = _on_encoder if learning.train_encoder else _on_features
    page, weights = learn(run, sets, encoding, learning, output)
    from proponent.views.evaluation import print_report

    if out is not None:
        write_weighted(sets["UNLABELLED"], weights, out, weight_name)
    for path in pages or ():
        page.save(path)
    output.show(page.to_dict, lambda: print_report(page))
    if out is not None and not learning.train_encoder:
        way = f"`proponent train {shlex.quote(str(out))} --weight-column {weight_name}`"
        output.hint(f"{out}: to train on it, append the rows of {labelled} with weight 1, then {way}")


def _on_features(
    run: Path,
    sets: "dict[str, Any]",
    encoding: EncodingOptions,
    learning: LearningOptions,
    output: OutputOptions,
) -> "tuple[EvaluationReport, Any]":
    """Learn the weights by a head on frozen features."""
    from proponent.actions.unlabelled_weights import WeighSettings
    from proponent.actions.unlabelled_weights import weigh as learn

    of, by = sets["UNLABELLED"], sets["VALIDATION"]
    scores = None if learning.index is None else _scores(learning.index, of, by)
    known, guessed, wanted, measured = _rows(run, sets, encoding, output)
    settings, seeds = replace(WeighSettings(), **learning.changes(600, 100)), learning.seeds or 5
    return learn(known, guessed, wanted, measured, settings, scores=scores, seeds=seeds, quiet=output.quiet)


def _on_encoder(
    run: Path,
    sets: "dict[str, Any]",
    encoding: EncodingOptions,
    learning: LearningOptions,
    output: OutputOptions,
) -> "tuple[EvaluationReport, Any]":
    """Learn the weights while the encoder is trained."""
    from proponent.actions.consistency_weights import EncoderSettings, compare_trained
    from proponent.actions.text_features import LabelledTexts, class_numbers
    from proponent.actions.unlabelled_weights import weights_page

    names = sorted({str(one.label) for one in sets["LABELLED"] if one.label is not None})
    known, held, test = (
        LabelledTexts(list(sets[name]), class_numbers(sets[name], names, name))
        for name in ("LABELLED", "VALIDATION", "--test")
    )
    settings = replace(EncoderSettings(), max_length=encoding.max_length, **learning.changes(100, 20))
    seeds = learning.seeds or 1
    found = compare_trained(
        encoder_of(run), known, list(sets["UNLABELLED"]), held, test, settings,
        seeds=seeds, trust_remote_code=encoding.trust_remote_code, device=encoding.device, quiet=output.quiet,
    )  # fmt: skip
    said = (
        f"Accuracy of the trained encoder on {len(test):,} test rows, mean of {seeds} seeds; the unlabelled loss asks "
        "for the same prediction when words are replaced."
    )
    return weights_page(found, said), found.weights


def _rows(run: Path, sets: "dict[str, Any]", encoding: EncodingOptions, output: OutputOptions) -> "list[Rows]":
    """Encode all sets; features are scaled by the rows that are trained on."""
    import numpy as np

    from proponent.actions.text_features import class_numbers
    from proponent.actions.unlabelled_weights import Rows

    names = sorted({str(one.label) for one in sets["LABELLED"] if one.label is not None})
    ways = {"UNLABELLED": "give a guess of a weak model (--label-column)"}
    numbers = {name: class_numbers(rows, names, name, ways.get(name)) for name, rows in sets.items()}
    found = {name: encoding.features(encoder_of(run), list(examples), output) for name, examples in sets.items()}
    known = np.concatenate([found["LABELLED"], found["UNLABELLED"]])
    mean, spread = known.mean(0), known.std(0) + 1e-8
    return [Rows((found[name] - mean) / spread, numbers[name]) for name in sets]


def _scores(index: Path, unlabelled: "Sequence[Example]", validation: "Sequence[Example]") -> "Scores":
    """Scores of an index of the unlabelled rows, summed over validation rows."""
    import numpy as np

    from proponent.api import open as open_index

    opened = open_index(index)
    if [str(one) for one in opened.store.examples["id"]] != [one.id for one in unlabelled]:
        raise MismatchError(f"{index} does not hold the rows of UNLABELLED: build it from that file")
    matrix = np.nan_to_num(opened.scores(list(validation)))
    return lambda asked, places: matrix[np.ix_(asked, places)].sum(0)
