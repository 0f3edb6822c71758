"""The command that writes a map of the training examples."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from proponent.cli.lines import echo
from proponent.cli.options import AllowMissing, IndexFolder, OutputOptions, choice, usable
from proponent.errors import InputError

if TYPE_CHECKING:
    from proponent.actions.example_map import ExampleMap
    from proponent.store import Store
    from proponent.views.scatter import Kinds

PAGES, ROWS = (".html", ".json"), (".csv", ".jsonl", ".parquet")
"""Endings of files with the drawn map, and of those with a row for each example."""


def map(  # noqa: A001 -- its name is that of the command
    index: IndexFolder,
    out: Annotated[
        list[Path],
        typer.Option(
            metavar="FILE",
            help="The page (.html), its content (.json), or a row per example (.csv, .jsonl, .parquet); repeatable.",
        ),
    ],
    output: OutputOptions,
    of: Annotated[
        str | None, typer.Option(help="hidden, gradients or probabilities (default: the first that the index has).")
    ] = None,
    colour: Annotated[
        str | None,
        typer.Option(
            help="label, predicted, flag, source, system, format, influence or plain (default: label, else influence)."
        ),
    ] = None,
    allow_missing: AllowMissing = False,
) -> None:
    """Write a map of the training examples: those that the model treats alike lie near one another."""
    for path in out:
        _check(path)
    twice = next((path for at, path in enumerate(out) if path in out[:at]), None)
    if twice is not None:
        raise InputError(f"--out {twice} is given twice: give it once")
    from proponent.actions.example_map import COLOURS, NAMES, SPACES, example_map, map_report
    from proponent.store import Store

    space = None if of is None else choice("--of", of, tuple(SPACES))
    chosen = None if colour is None else choice("--colour", colour, tuple(COLOURS))
    store = Store(index, allow_missing=allow_missing)
    made = example_map(store, space)
    page, kinds = map_report(store, made, chosen)
    for path in out:
        if path.suffix.lower() in PAGES:
            page.save(path)
        else:
            _write_rows(path, store, made, kinds)
    plot = page.plot
    content: dict[str, Any] = {
        "out": [str(path) for path in out],
        "of": made.space,
        "examples": plot.total,
        "drawn": plot.drawn,
        "left_out": plot.left_out,
        "shares": list(made.shares),
        "kind": plot.kind_name,
        "kinds": {one.name: one.count for one in plot.kinds},
        "notes": list(page.notes),
    }
    across, up = (f"{one:.0%}" for one in made.shares)
    line = f"{', '.join(content['out'])}: {plot.total:,} examples by their {NAMES[made.space]}; {plot.drawn_words}"
    output.show(lambda: content, lambda: echo(f"{line}; the two directions hold {across} and {up} of the variance"))
    for note in page.notes:
        output.hint(note)


def _check(path: Path) -> None:
    """Refuse a file that cannot be written, before any work is done."""
    usable(path, "--out")
    if path.suffix.lower() not in (*PAGES, *ROWS):
        raise InputError(f"--out {path}: choose a name that ends in {', '.join((*PAGES, *ROWS))}")
    if path.suffix.lower() in ROWS and path.exists():
        raise InputError(f"--out {path} exists already and is not overwritten: choose another name")


def _write_rows(path: Path, store: "Store", made: "ExampleMap", kinds: "Kinds") -> None:
    """Write id, row, place and kind of every example; one without a place has none."""
    from proponent.data import write_columns

    places = [
        (x, y) if known else (None, None)
        for (x, y), known in zip(made.places.tolist(), made.known.tolist(), strict=True)
    ]
    columns: dict[str, list[Any]] = {
        "id": list(store.examples["id"]),
        "row": list(store.examples["row"]),
        "x": [x for x, _ in places],
        "y": [y for _, y in places],
    }
    if kinds.title:
        columns["kind"] = [kinds.names[code] for code in kinds.codes.tolist()]
    write_columns(path, columns, path.suffix.lower(), guard=True)
