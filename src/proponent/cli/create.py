"""Commands that make something: the demo, a run, an index."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from proponent.cli import options
from proponent.cli.options import Data, Json, Quiet
from proponent.cli.output import hint, show

if TYPE_CHECKING:
    from proponent.index import Index


def demo(
    out: Annotated[Path, typer.Option(help="Folder for data, run, index and page.")] = Path("proponent-demo"),
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Run the whole job on text that every Python has: train, index, explain, find planted label errors."""
    from proponent.demo import demo as run_demo
    from proponent.views.terminal import print_story

    story = run_demo(out, quiet=quiet, say=lambda line: hint(line, quiet=quiet))
    show(as_json, story.to_dict, lambda: print_story(story, Console()))
    hint(f"the page: {out / 'story.html'}", quiet=quiet)
    hint(f"ask the index yourself: proponent explain {out / 'demo.index'} 'a text of yours'", quiet=quiet)


def train(
    data: Data,
    out: Annotated[Path, typer.Option(help="Folder of the run; new or empty.")],
    model: Annotated[
        str | None, typer.Option(help="Pretrained model to fine-tune; without it a small one from scratch.")
    ] = None,
    epochs: Annotated[int, typer.Option(min=1)] = 3,
    batch_size: Annotated[int, typer.Option(min=1)] = 32,
    learning_rate: Annotated[float | None, typer.Option(help="Default: 1e-3 from scratch, 5e-5 pretrained.")] = None,
    max_length: Annotated[int, typer.Option(min=2, help="Most tokens of a text.")] = 128,
    seed: int = 0,
    runs: Annotated[
        int, typer.Option(min=1, help="Independently seeded runs; several go to OUT/seed-0, OUT/seed-1 ...")
    ] = 1,
    replay: Annotated[
        bool, typer.Option("--replay", help="Record every step, so that the run can be replayed.")
    ] = False,
    adam_epsilon: Annotated[
        float, typer.Option(help="Of the optimizer; 1e-3 makes training smooth for replay.")
    ] = 1e-8,
    split: options.Split = None,
    revision: options.Revision = None,
    text_column: options.TextColumn = "text",
    pair_column: options.PairColumn = "text_pair",
    label_column: options.LabelColumn = "label",
    id_column: options.IdColumn = "id",
    target_column: options.TargetColumn = "target",
    allow_empty: options.AllowEmpty = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Fine-tune with the Hugging Face Trainer and the Recorder: a classifier, or without labels a language model."""
    from proponent.training.trainer import Training
    from proponent.training.trainer import train as run_training

    named = options.columns(text_column, pair_column, label_column, id_column, target_column)
    examples = options.read_data(data, named, split, revision, quiet=quiet, allow_empty=allow_empty)
    settings = Training(
        model,
        epochs,
        batch_size,
        learning_rate,
        max_length,
        seed,
        replay=replay,
        adam_epsilon=adam_epsilon,
        quiet=quiet,
    )
    for number in range(seed, seed + runs):
        folder = out if runs == 1 else out / f"seed-{number}"
        run = run_training(examples, folder, replace(settings, seed=number))
        steps = [one.step for one in run.checkpoints]
        show(
            as_json,
            lambda at=folder, held=steps: {"run": str(at), "checkpoints": held},
            lambda at=folder, held=steps: typer.echo(f"{at}: checkpoints at steps {', '.join(map(str, held))}"),
        )


def index(
    run: options.RunFolder,
    data: Data,
    out: Annotated[Path, typer.Option(help="Folder of the index; an unfinished one is resumed.")],
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
    queries: options.Mixed = None,
    steps: options.Steps = None,
    max_length: options.MaxLength = None,
    batch_size: options.BatchSize = 32,
    max_bad_rows: options.MaxBadRows = 0.01,
    rows: options.Rows = "fp32",
    segment_rows: options.SegmentRows = 65_536,
    append: Annotated[bool, typer.Option("--append", help="Add DATA to the finished index.")] = False,
    shard: Annotated[
        str | None, typer.Option(metavar="i/N", help="Compute the share i of N, from 0/N on; the last seals.")
    ] = None,
    repair: Annotated[bool, typer.Option("--repair", help="Check every byte; compute what is wrong again.")] = False,
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
    """Build the index of a training set under a method, or go on with an unfinished one."""
    settings = options.building(max_length, batch_size, max_bad_rows, steps, second_moment, rows, segment_rows)
    settings |= {"append": append, "shard": shard, "repair": repair, "quiet": quiet}
    from proponent.api import build
    from proponent.models import Run

    named = options.columns(text_column, pair_column, label_column, id_column, target_column, source_column)
    opened = Run.from_pretrained(run, tokenizer=tokenizer, trust_remote_code=trust_remote_code)
    method = options.settled(method, opened, steps, second_moment, quiet=quiet)
    made = options.method_of(method, path, unit_norm, weights, loss, top, top_by, layers, project, fields)
    built = build(
        opened,
        options.read_data(data, named, split, revision, quiet=quiet, allow_empty=allow_empty),
        out,
        made,
        queries=None if queries is None else options.read_data(queries, named, quiet=quiet),
        columns=named,
        **settings,
    )
    _built(built, out, as_json=as_json, quiet=quiet)


def _built(built: "Index", out: Path, *, as_json: bool, quiet: bool) -> None:
    """Say what there is now: the whole index, or a share of its shards."""
    store = built.store
    if not store.sealed:
        show(
            as_json,
            lambda: {"index": str(out), "finished": False, "coverage": store.coverage},
            lambda: typer.echo(
                f"{out}: unfinished; {store.coverage:.0%} of the examples are in it: run the other shares"
            ),
        )
        return
    for note in store.manifest.notes:
        hint(note, quiet=quiet)
    show(as_json, lambda: built.summary, lambda: typer.echo(f"{out}: {built!r}"))
