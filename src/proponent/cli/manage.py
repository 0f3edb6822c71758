"""Commands that look after an index: forecast what it will cost, check it, say what it holds, delete, merge."""

import shlex
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from proponent.cli import options
from proponent.cli.contents import (
    bytes_by_kind,
    compared,
    contents,
    figures,
    print_contents,
    read_forecast,
    spelled,
    spelled_bytes,
)
from proponent.cli.options import Data, IndexFolder, Json, Quiet
from proponent.cli.output import hint, show
from proponent.errors import DamagedError, InputError
from proponent.views.tables import print_table
from proponent.views.text_marks import plain

if TYPE_CHECKING:
    import numpy as np

    from proponent.search import Where
    from proponent.store import Checksums, Store, Verdict

STRAYS_SHOWN = 10


def plan(
    run: options.RunFolder,
    data: Data,
    method: options.Method = None,
    path: options.EmbeddingPath = None,
    unit_norm: options.UnitNorm = None,
    weights: options.Weights = None,
    loss: options.Loss = None,
    top: options.Top = None,
    top_by: options.TopBy = None,
    layers: options.Layers = None,
    project: options.Project = None,
    fields: options.Fields = None,
    second_moment: options.SecondMoment = "recorded",
    steps: options.Steps = None,
    max_length: options.MaxLength = None,
    batch_size: options.BatchSize = 32,
    max_bad_rows: options.MaxBadRows = 0.01,
    rows: options.Rows = "fp32",
    segment_rows: options.SegmentRows = 65_536,
    tokenizer: options.Tokenizer = None,
    trust_remote_code: options.TrustRemoteCode = False,
    split: options.Split = None,
    revision: options.Revision = None,
    text_column: options.TextColumn = "text",
    pair_column: options.PairColumn = "text_pair",
    label_column: options.LabelColumn = "label",
    id_column: options.IdColumn = "id",
    target_column: options.TargetColumn = "target",
    source_column: options.SourceColumn = "source",
    allow_empty: options.AllowEmpty = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Forecast time, memory and disk of an index from a few measured batches, before anything is spent."""
    settings = options.building(max_length, batch_size, max_bad_rows, steps, second_moment, rows, segment_rows)
    from proponent.cost import forecast
    from proponent.index import Options
    from proponent.models import Run

    named = options.columns(text_column, pair_column, label_column, id_column, target_column, source_column)
    examples = options.read_data(data, named, split, revision, quiet=quiet, allow_empty=allow_empty)
    opened = Run.from_pretrained(run, tokenizer=tokenizer, trust_remote_code=trust_remote_code)
    method = options.settled(method, opened, steps, second_moment, quiet=quiet)
    made = options.method_of(method, path, unit_norm, weights, loss, top, top_by, layers, project, fields)
    foreseen = forecast(opened, examples, made, Options(quiet=quiet, **settings))
    title = f"{method} of {data}: {foreseen.n:,} examples, {foreseen.checkpoints} checkpoints"
    for note in foreseen.notes:
        hint(note, quiet=quiet)
    rows_shown = [(name, spelled(name, value)) for name, value in figures(foreseen.to_dict()).items()]
    show(as_json, foreseen.to_dict, lambda: print_table(Console(), title, ("what", "forecast"), rows_shown))


def verify(index: IndexFolder, as_json: Json = False, quiet: Quiet = False) -> None:
    """Check every byte and every count of an index."""
    from proponent.progress import track
    from proponent.store import verify as check

    def each(files: list[tuple[str, "Checksums"]]) -> Iterator[tuple[str, "Checksums"]]:
        size = sum(sums.size for _, sums in files)
        return track(files, total=size, label="verifying", unit="bytes", weight=lambda one: one[1].size, quiet=quiet)

    verdict = check(index, each)
    way_out = _way_out(index, verdict) if verdict.damage else None
    show(as_json, lambda: _verdict(index, verdict, way_out), lambda: _print_verdict(index, verdict))
    for line in _strays(index, verdict):
        hint(line, quiet=quiet)
    if verdict.damage:
        hint(f"to mend it: {way_out}", quiet=quiet)
        first = verdict.damage[0]
        raise DamagedError(
            f"{len(verdict.damage)} of the {verdict.files} files of {index} are not what was written "
            f"({first.file} {first.problem})"
        )


def info(
    index: IndexFolder,
    forecast: Annotated[
        Path | None, typer.Option(metavar="FILE", help="What `proponent plan --json` said, to set beside what it was.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Say what an index holds and what it cost."""
    from proponent.store import Store

    foreseen = None if forecast is None else read_forecast(forecast)
    content = contents(Store(index, partial=True))
    beside = [] if foreseen is None else compared(foreseen, content)
    show(
        as_json,
        lambda: content | ({"forecast": beside} if foreseen is not None else {}),
        lambda: print_contents(content, beside),
    )


def delete(
    index: IndexFolder,
    ids: Annotated[str | None, typer.Option(metavar="A,B,C", help="Ids of the examples, with commas.")] = None,
    ids_file: Annotated[Path | None, typer.Option(metavar="FILE", help="A file with their ids, one per line.")] = None,
    filters: Annotated[
        list[str] | None,
        typer.Option(
            "--where",
            metavar="COLUMN=VALUE",
            help="Those with this label or source; of two labels either, of a label and a source both.",
        ),
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Delete examples from an index: they are no hits from now on; `merge` removes their bytes."""
    if [ids, ids_file, filters].count(None) != 2:
        raise InputError("say which examples to delete: either --ids, or --ids-file, or --where")
    named = options.ids_in(ids_file) if ids is None else [one for one in ids.split(",") if one]
    if named == []:
        raise InputError("--ids names no example: give ids with commas, such as --ids a,b,c")
    from proponent.store import Store
    from proponent.store import delete as delete_from

    store = Store(index)
    where = options.where(filters, named, store.plan.label_names)
    where.check(store)
    delete_from(index, _matching(store, where), _waiting(index, quiet=quiet))
    after = Store(index)
    left, gone = after.counts.examples, after.counts.deleted - store.counts.deleted
    show(
        as_json,
        lambda: {"index": str(index), "deleted": gone, "examples": left, "merkle_root": after.manifest.merkle_root},
        lambda: typer.echo(f"{index}: {gone:,} examples deleted, {left:,} remain"),
    )
    if gone:
        hint(f"their bytes stay until `proponent merge {shlex.quote(str(index))}`", quiet=quiet)


def merge(index: IndexFolder, as_json: Json = False, quiet: Quiet = False) -> None:
    """Merge the segments of an index into few large ones, without the deleted examples."""
    from proponent.store import Store
    from proponent.store import merge as merge_of

    before, size = len(Store(index).segments), sum(bytes_by_kind(index).values())
    manifest, merged = merge_of(index, waiting=_waiting(index, quiet=quiet))
    after, freed = len(manifest.segments), size - sum(bytes_by_kind(index).values())
    told = (
        f"{before} segments before, {after} after; {spelled_bytes(freed)} freed"
        if merged
        else "there was nothing to merge"
    )
    show(
        as_json,
        lambda: {
            "index": str(index),
            "merged": merged,
            "segments_before": before,
            "segments": after,
            "bytes_freed": freed,
            "merkle_root": manifest.merkle_root,
        },
        lambda: typer.echo(f"{index}: {told}"),
    )


# ---- verify ---------------------------------------------------------------------------------------------------------


def _verdict(index: Path, verdict: "Verdict", way_out: str | None) -> dict[str, Any]:
    return {
        "index": str(index),
        "finished": verdict.sealed,
        "whole": not verdict.damage,
        "files": verdict.files,
        "bytes": verdict.size,
        "seconds": verdict.seconds,
        "damage": [{"file": one.file, "problem": one.problem, "ranges": _joined(one.ranges)} for one in verdict.damage],
        "strays": list(verdict.strays),
        "to_mend": way_out,
    }


def _print_verdict(index: Path, verdict: "Verdict") -> None:
    speed = f" ({spelled_bytes(verdict.size / verdict.seconds)}/s)" if verdict.seconds else ""
    told = f"{verdict.files:,} files, {spelled_bytes(verdict.size)} in {verdict.seconds:.2f} s{speed}"
    if not verdict.sealed:
        typer.echo(f"{index} is unfinished: only its finished files are checked; the same `proponent index` resumes")
    if not verdict.damage:
        typer.echo(f"{index}: whole: {told}")
        return
    typer.echo(f"{index}: damaged: {told}")
    for one in verdict.damage:  # a line each, which no table breaks: names are to be copied
        ranges = ", ".join(f"{begin:,} to {end:,}" for begin, end in _joined(one.ranges))
        typer.echo(plain(f"{one.file} {one.problem}" + (f": bytes {ranges}" if ranges else "")))


def _joined(ranges: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Ranges of bytes, those that touch as one."""
    joined: list[tuple[int, int]] = []
    for begin, end in ranges:
        if joined and joined[-1][1] == begin:
            joined[-1] = (joined[-1][0], end)
        else:
            joined.append((begin, end))
    return joined


def _strays(index: Path, verdict: "Verdict") -> list[str]:
    """What to say of files that belong to nothing; those of a change that was not finished are no strays."""
    changes = [name for name in verdict.strays if name.startswith("plans/") and name.endswith(".json")]
    if changes:
        kind = "append" if changes[0].startswith("plans/append-") else "merge"
        return [f"{index}: a change was begun and not finished ({changes[0]}): run the command of that {kind} again"]
    more = len(verdict.strays) - STRAYS_SHOWN
    lines = [f"{index}: {name} is not part of the index" for name in verdict.strays[:STRAYS_SHOWN]]
    return lines + ([f"{index}: and {more} more files are not part of it"] if more > 0 else [])


def _way_out(index: Path, verdict: "Verdict") -> str:
    """How a damaged index is mended."""
    from proponent.store import FORMAT, Manifest, Plan
    from proponent.store.layout import PLAN, Layout
    from proponent.store.manifest import read_json

    layout = Layout(index)
    if not verdict.sealed:
        return "remove these files, and run the same `proponent index` command again"
    try:
        plan, manifest = read_json(layout.plan, Plan), read_json(layout.manifest, Manifest)
    except DamagedError:
        return "restore the files from a copy, or build the index again"
    if manifest.generation > 1 or PLAN in {one.file for one in verdict.damage}:
        return f"restore the files from a copy: only a first build of format {FORMAT} can be computed again"
    words = ["proponent", "index", plan.run, plan.source.data, "--out", str(index), "--method", plan.method.name]
    return f"{shlex.join([*words, '--repair'])} (and the other options of the first build)"


# ---- delete and merge -----------------------------------------------------------------------------------------------


def _matching(store: "Store", where: "Where") -> "np.ndarray":
    """Numbers of the examples that every filter chooses, those without a gradient too."""
    import numpy as np

    found = [np.zeros(0, dtype=np.int64)]
    for segment in store.segments:
        chosen = np.ones(segment.n, dtype=np.bool_)
        for column, wanted in (("label", where.labels), ("source", where.sources), ("id", where.ids)):
            if wanted is not None:
                own = np.zeros(segment.n, dtype=np.bool_)
                if column in segment.examples.names:
                    own[segment.examples.select(column, set(wanted))] = True
                chosen &= own
        found.append(segment.offset + np.flatnonzero(chosen))
    return np.concatenate(found)


def _waiting(index: Path, *, quiet: bool) -> Callable[[], None]:
    return lambda: hint(f"another process holds {index}: waiting for it", quiet=quiet)
