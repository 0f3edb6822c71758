"""Maintenance commands: plan, verify, info, delete, merge."""

import shlex
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from proponent.cli.chat_options import CountingOptions
from proponent.cli.data_options import IndexDataOptions
from proponent.cli.lines import echo
from proponent.cli.options import (
    BuildOptions,
    IndexFolder,
    MethodOptions,
    OutputOptions,
    RunFolder,
    SplitOptions,
    filters_of,
    ids_in,
    index_folder,
)
from proponent.cli.shapes import plan_by_shapes
from proponent.errors import DamagedError, InputError
from proponent.progress import duration
from proponent.views.inventory import print_inventory, spelled, spelled_bytes
from proponent.views.tables import print_table

if TYPE_CHECKING:
    from proponent.store import Checksums, Verdict


def plan(
    run: RunFolder,
    method: MethodOptions,
    building: BuildOptions,
    model: SplitOptions,
    columns: IndexDataOptions,
    counting: CountingOptions,
    output: OutputOptions,
    data: Annotated[
        str | None, typer.Argument(metavar="[DATA]", help="The training set; without it, only memory by config.json.")
    ] = None,
) -> None:
    """Predict time, memory and disk of an index from a few measured batches; without DATA, memory by shapes alone."""
    settings = building.settings()
    if data is None:
        plan_by_shapes(run, method, building, model, output)
        return
    from proponent.cost import choices, forecast
    from proponent.index import Options, summed
    from proponent.store.inventory import forecast_figures

    examples = columns.read(data, output)
    opened = model.open(run)
    name = method.named(opened, building, output)
    changed = method.changed(name)
    changed = summed(changed, opened, examples.layout) if method.loss is None else changed
    settings["batch_size"] = settings["batch_size"] or opened.placement.batch_size
    options = Options(quiet=output.quiet, stated=counting.stated(), **settings)
    predicted = forecast(opened, examples, changed, options)
    for note in predicted.notes:
        output.hint(note)
    title = f"{name} of {data}: {predicted.n:,} examples, {predicted.checkpoints} checkpoints"
    figures = {"seconds in all": predicted.seconds, "bytes in all": float(predicted.bytes)}
    figures |= forecast_figures(predicted.to_dict())
    rows = [(figure, spelled(figure, value)) for figure, value in figures.items()]
    last = max(building.chosen_steps or [one.step for one in opened.checkpoints])
    cheaper = choices(predicted, building.rows, last)
    lines = [
        f"{one.name}: about {duration(one.seconds)}, {spelled_bytes(one.bytes)} ({one.options})" for one in cheaper
    ]
    output.show(
        lambda: predicted.to_dict() | {"choices": [asdict(one) for one in cheaper]},
        lambda: print_table(Console(), title, ("what", "forecast"), rows, lines),
    )


def verify(index: IndexFolder, output: OutputOptions) -> None:
    """Check every byte and every count of an index."""
    from proponent.progress import track
    from proponent.store import verify as check
    from proponent.store.advice import remedy_of, stray_lines, verdict_fields

    def each(files: list[tuple[str, "Checksums"]]) -> Iterator[tuple[str, "Checksums"]]:
        size = sum(sums.size for _, sums in files)
        return track(
            files, total=size, label="verifying", unit="bytes", weight=lambda one: one[1].size, quiet=output.quiet
        )

    verdict = check(index, each)
    remedy = remedy_of(index, verdict) if verdict.damage else None
    output.show(lambda: verdict_fields(index, verdict, remedy), lambda: _print_verdict(index, verdict))
    for line in stray_lines(index, verdict):
        output.hint(line)
    if verdict.damage:
        output.hint(f"to repair it: {remedy}")
        first = verdict.damage[0]
        raise DamagedError(
            f"{len(verdict.damage)} of the {verdict.files} files of {index} differ from what was written "
            f"({first.file} {first.problem})"
        )


def _print_verdict(index: Path, verdict: "Verdict") -> None:
    from proponent.store.advice import joined

    speed = f" ({spelled_bytes(verdict.size / verdict.seconds)}/s)" if verdict.seconds else ""
    summary = f"{verdict.files:,} files, {spelled_bytes(verdict.size)} in {verdict.seconds:.2f} s{speed}"
    if not verdict.sealed:
        echo(
            f"{index} is unfinished: only its finished files are checked; run the same `proponent index` command to "
            "resume"
        )
    if not verdict.damage:
        echo(f"{index}: intact: {summary}")
        return
    echo(f"{index}: damaged: {summary}")
    for one in verdict.damage:  # one line each, not wrapped, so that file names can be copied
        ranges = ", ".join(f"{begin:,} to {end:,}" for begin, end in joined(one.ranges))
        echo(f"{one.file} {one.problem}" + (f": bytes {ranges}" if ranges else ""))


def info(
    index: IndexFolder,
    output: OutputOptions,
    forecast: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="A file from `plan --json`: compares predicted with actual cost."),
    ] = None,
) -> None:
    """Show the contents and the cost of an index."""
    from proponent.store import Store
    from proponent.store.inventory import compare_forecast, inventory, read_forecast

    predicted = None if forecast is None else read_forecast(forecast)
    content = inventory(Store(index, partial=True))
    compared = [] if predicted is None else compare_forecast(predicted, content)
    output.show(
        lambda: content | ({} if predicted is None else {"forecast": compared}),
        lambda: print_inventory(content, compared),
    )


def delete(
    index: IndexFolder,
    output: OutputOptions,
    ids: Annotated[str | None, typer.Option(metavar="A,B,C", help="Comma-separated ids of the examples.")] = None,
    ids_file: Annotated[Path | None, typer.Option(metavar="FILE", help="A file with their ids, one per line.")] = None,
    filters: Annotated[
        list[str] | None,
        typer.Option(
            "--where",
            metavar="COLUMN=VALUE",
            help="Delete examples with this label or source; may be repeated: values of one option are combined with "
            "OR, labels and sources with AND.",
        ),
    ] = None,
) -> None:
    """Delete examples from an index; `merge` frees their disk space."""
    if [ids, ids_file, filters].count(None) != 2:
        raise InputError("choose the examples to delete with either --ids, --ids-file or --where")
    named = ids_in(ids_file) if ids is None else [one for one in ids.split(",") if one]
    if named == []:
        raise InputError("--ids contains no id: give ids separated by commas, such as --ids a,b,c")
    from proponent.search import Where
    from proponent.store import Store, latest
    from proponent.store import delete as delete_from

    store = Store(index)
    where = Where(ids=named, **filters_of(filters, store.plan.label_names))
    where.check(store)
    delete_from(index, where.rows(store), _waiting(index, output))
    after = Store(latest(index))
    left, gone = after.counts.examples, after.counts.deleted - store.counts.deleted
    output.show(
        lambda: {"index": str(index), "deleted": gone, "examples": left, "merkle_root": after.manifest.merkle_root},
        lambda: echo(f"{index}: {gone:,} examples deleted, {left:,} remain"),
    )
    if gone:
        output.hint(f"to free their disk space, run `proponent merge {shlex.quote(str(index))}`")


def merge(
    index: IndexFolder,
    output: OutputOptions,
    others: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[OTHER]...",
            parser=index_folder,
            help="Indexes of the same run and method whose examples are added to it.",
        ),
    ] = None,
) -> None:
    """Merge segments into larger ones, remove deleted examples, and add the examples of other indexes."""
    from proponent.preconditioners.refitting import refit
    from proponent.store import Store, latest
    from proponent.store import merge as merge_of
    from proponent.store.inventory import bytes_by_kind
    from proponent.store.refit import refit_name

    held = Store(index)
    before, size, fitted = len(held.segments), sum(bytes_by_kind(index).values()), refit_name(held.manifest.files)
    manifest, merged = merge_of(index, others or (), waiting=_waiting(index, output), refit=refit)
    after, freed = len(manifest.segments), size - sum(bytes_by_kind(latest(index)).values())
    summary = f"{before} segments before, {after} after; "
    summary += f"{spelled_bytes(freed)} freed" if freed >= 0 else f"{spelled_bytes(-freed)} more"
    if refit_name(manifest.files) != fitted:
        summary += "; document frequencies were counted again"
    content = {
        "index": str(index),
        "merged": merged,
        "segments_before": before,
        "segments": after,
        "bytes_freed": freed,
        "merkle_root": manifest.merkle_root,
    }
    output.show(lambda: content, lambda: echo(f"{index}: {summary if merged else 'there was nothing to merge'}"))


def _waiting(index: Path, output: OutputOptions) -> Callable[[], None]:
    return lambda: output.hint(f"another process is using {index}: waiting for it")
