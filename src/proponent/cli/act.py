"""Commands that act on what an attribution says."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from proponent.cli.data_options import ColumnOptions, IndexDataOptions
from proponent.cli.encoding_options import AllowOverlap, EncodingOptions, refuse_overlap
from proponent.cli.named_files import short_names
from proponent.cli.options import (
    BuildOptions,
    Data,
    MethodOptions,
    ModelOptions,
    OutputOptions,
    RunFolder,
    choice,
    usable,
)
from proponent.errors import InputError

if TYPE_CHECKING:
    from proponent.actions.nmtune import Labelled
    from proponent.actions.text_features import LabelledTexts
    from proponent.views import EvaluationReport

Encoders = Annotated[list[str], typer.Argument(metavar="ENCODER...", help="Folders or names of pretrained models.")]
Pages = Annotated[
    list[Path] | None,
    typer.Option("--out", "--report", metavar="FILE", help="Also write .html, .md or .json; repeatable."),
]


def mend(
    run: RunFolder,
    data: Data,
    errors: Annotated[
        str, typer.Argument(metavar="ERRORS", help="A file of labelled texts; those predicted wrongly are mended.")
    ],
    method: MethodOptions,
    building: BuildOptions,
    model: ModelOptions,
    columns: IndexDataOptions,
    output: OutputOptions,
    index: Annotated[
        Path, typer.Option("--index", help="Folder of an index of DATA; it is built there if there is none.")
    ] = Path("mend.index"),
    clean: Annotated[
        str | None,
        typer.Option("--clean", metavar="FILE", help="Labelled texts on which no accuracy should be lost."),
    ] = None,
    budget: Annotated[int, typer.Option("--step-rows", min=1, help="Training rows of a step.")] = 10,
    count: Annotated[int, typer.Option("--mend-steps", min=1, help="Steps of the fine-tuning.")] = 10,
    anchors: Annotated[int, typer.Option(min=1, help="Wrong predictions that choose the rows of a step.")] = 10,
    learning_rate: Annotated[float, typer.Option("--learning-rate", help="Of the fine-tuning.")] = 1e-4,
    seeds: Annotated[int, typer.Option(min=1, help="Splits of the errors into choosing and measured ones.")] = 3,
    save: Annotated[
        Path | None, typer.Option("--save", metavar="FOLDER", help="Write a copy mended with all errors.")
    ] = None,
    pages: Pages = None,
) -> None:
    """Fine-tune a copy on the rows most helpful for wrong predictions, and measure it beside controls."""
    for path in pages or ():
        usable(path, "--out")
    from proponent.actions.mending import MendSettings, refuse_unmendable
    from proponent.actions.mending import mend as run_mending
    from proponent.api import build

    settings = MendSettings(budget, count, anchors, learning_rate, seeds)
    settings.check()
    opened = model.open(run)
    refuse_unmendable(opened, save)
    examples, wrong = columns.read(data, output), columns.read_queries(errors, output)
    kept = None if clean is None else columns.read_queries(clean, output)
    named = method.changed(method.named(opened, building, output))
    built = build(opened, examples, index, named, columns=columns.columns, quiet=output.quiet, **building.settings())
    page = run_mending(built, examples, wrong, kept, settings, save=save, quiet=output.quiet)
    _show(page, pages, output)
    if save is not None:
        output.hint(f"mended model: {save}")


def spectrum(
    data: Data,
    encoders: Encoders,
    columns: ColumnOptions,
    encoding: EncodingOptions,
    output: OutputOptions,
    centre: Annotated[str, typer.Option(help="none, or columns: subtract the mean of each feature.")] = "none",
    pages: Pages = None,
) -> None:
    """Measure the singular values of encoders' features: noise in pre-training labels raises SVE and LSVR."""
    for path in pages or ():
        usable(path, "--out")
    rule = choice("--centre", centre, ("none", "columns"))
    examples = list(columns.read(data, output))
    from proponent.actions.spectrum import spectrum as measure
    from proponent.actions.spectrum import spectrum_report

    found = [(name, measure(encoding.features(name, examples, output), rule)) for name in encoders]
    _show(spectrum_report(found), pages, output)


def nmtune(
    data: Data,
    encoders: Encoders,
    columns: ColumnOptions,
    encoding: EncodingOptions,
    output: OutputOptions,
    test: Annotated[
        list[Path], typer.Option("--test", metavar="FILE", help="Labelled texts to measure on; repeatable.")
    ],
    form: Annotated[str, typer.Option(help="Losses as in the paper or in the authors' code: paper, code.")] = "paper",
    epochs: Annotated[int, typer.Option(min=1, help="Epochs of each head.")] = 30,
    seeds: Annotated[int, typer.Option(min=1, help="Trainings of each head.")] = 3,
    noise: Annotated[
        str | None,
        typer.Option(metavar="PERCENTS", help="Noise of each ENCODER, as 0,10,30; the first --test is in domain."),
    ] = None,
    lora: Annotated[
        bool, typer.Option("--lora", help="Also tune each encoder by LoRA, with and without the losses of NMTune.")
    ] = False,
    allow_overlap: AllowOverlap = False,
    pages: Pages = None,
) -> None:
    """Train heads on frozen features: linear probe, MLP and NMTune, in and out of domain, for each encoder."""
    for path in pages or ():
        usable(path, "--out")
    chosen = choice("--form", form, ("paper", "code"))
    levels = None if noise is None else _levels(noise, encoders)
    if levels is not None and lora:
        raise InputError("--noise compares heads on frozen features: leave out --lora, or call once without --noise")
    examples = list(columns.read(data, output))
    files = [str(path) for path in test]
    asked = {
        name: list(columns.read_queries(file, output)) for name, file in zip(short_names(files), files, strict=True)
    }
    if not allow_overlap:
        refuse_overlap(examples, asked)
    from proponent.actions.nmtune import HeadSettings, head_report
    from proponent.actions.text_features import LabelledTexts, class_numbers

    names = sorted({str(one.label) for one in examples if one.label is not None})
    train = LabelledTexts(examples, class_numbers(examples, names, data))
    tests = {name: LabelledTexts(rows, class_numbers(rows, names, name)) for name, rows in asked.items()}
    found = {encoder: _features(encoder, train, tests, encoding, output) for encoder in encoders}
    settings = HeadSettings(epochs=epochs)
    if levels is not None:
        from proponent.actions.noise_report import noise_report

        by_level = {level: found[encoder] for level, encoder in levels.items()}
        first = [next(iter(tests))]
        page = noise_report(by_level, first, form=chosen, settings=settings, seeds=seeds, quiet=output.quiet)
    else:
        page = head_report(found, form=chosen, settings=settings, seeds=seeds, quiet=output.quiet)
    if lora:
        from proponent.actions.nmtune_lora import LoraSettings, with_lora

        frozen = {encoder: own.features for encoder, (own, _) in found.items()}
        page = with_lora(
            page, frozen, train, tests, form=chosen, settings=LoraSettings(max_length=encoding.max_length), seeds=seeds,
            trust_remote_code=encoding.trust_remote_code, device=encoding.device, quiet=output.quiet,
        )  # fmt: skip
    _show(page, pages, output)


def _features(
    encoder: str,
    train: "LabelledTexts",
    tests: "dict[str, LabelledTexts]",
    encoding: EncodingOptions,
    output: OutputOptions,
) -> "tuple[Labelled, dict[str, Labelled]]":
    """Features of all sets by one encoder."""
    from proponent.actions.nmtune import Labelled

    def encoded(some: "LabelledTexts") -> Labelled:
        return Labelled(encoding.features(encoder, some.examples, output), some.labels)

    return encoded(train), {name: encoded(some) for name, some in tests.items()}


def _levels(noise: str, encoders: list[str]) -> dict[float, str]:
    """The encoder of each level of noise."""
    try:
        levels = [float(one) / 100 for one in noise.split(",")]
    except ValueError as error:
        raise InputError(f"--noise {noise}: give numbers of percent, such as 0,10,30") from error
    if len(levels) != len(encoders) or len(set(levels)) != len(levels):
        raise InputError(
            f"--noise {noise}: give a different number for each encoder; there are {len(encoders)} encoders"
        )
    return dict(zip(levels, encoders, strict=True))


def _show(page: "EvaluationReport", pages: list[Path] | None, output: OutputOptions) -> None:
    """Save a page and show it."""
    from proponent.views.evaluation import print_report

    for path in pages or ():
        page.save(path)
    output.show(page.to_dict, lambda: print_report(page))
