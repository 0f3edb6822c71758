"""Commands that make something: the demo, a run, an index."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from whence.cli import options
from whence.cli.options import Data, Json, Quiet
from whence.cli.speech import hint, show


def demo(
    out: Annotated[Path, typer.Option(help="Folder for data, run, index and page.")] = Path("whence-demo"),
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Run the whole job on text that every Python has: train, index, explain, find planted label errors."""
    from whence.demo import demo as run_demo
    from whence.views.terminal import print_story

    story = run_demo(out, quiet=quiet, say=lambda line: hint(line, quiet=quiet))
    show(as_json, story.to_dict, lambda: print_story(story, Console()))
    hint(f"the page: {out / 'story.html'}", quiet=quiet)
    hint(f"ask the index yourself: whence explain {out / 'index.whence'} 'a text of yours'", quiet=quiet)


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
    from whence.training import Training
    from whence.training import train as run_training

    named = options.columns(text_column, pair_column, label_column, id_column, target_column)
    examples = options.read_data(data, named, split, revision, quiet=quiet, allow_empty=allow_empty)
    settings = Training(model, epochs, batch_size, learning_rate, max_length, seed, quiet=quiet)
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
    method: Annotated[str, typer.Option(help="A name of `whence methods`.")] = "tracin-we",
    path: Annotated[str | None, typer.Option(help="Tied embeddings: exact, input or output.")] = None,
    unit_norm: Annotated[bool | None, typer.Option("--unit-norm", help="Scale training gradients to norm 1.")] = None,
    weights: Annotated[str | None, typer.Option(help="Checkpoints weigh by learning-rate or equal.")] = None,
    loss: Annotated[str | None, typer.Option(help="Language model: mean or sum over the counted tokens.")] = None,
    top: Annotated[int | None, typer.Option(min=1, help="Tokens kept per example.")] = None,
    top_by: Annotated[str | None, typer.Option(help="Count distinct tokens (token) or places (position).")] = None,
    second_moment: Annotated[
        str, typer.Option(help="recorded, optimizer (opens optimizer.pt) or estimate.")
    ] = "recorded",
    steps: Annotated[str | None, typer.Option(help="Checkpoints to use, by step: 100,200.")] = None,
    max_length: options.MaxLength = None,
    batch_size: Annotated[int, typer.Option(min=1)] = 32,
    max_bad_rows: Annotated[float, typer.Option(min=0.0, max=1.0, help="Share of rows that may be left out.")] = 0.01,
    tokenizer: options.Tokenizer = None,
    trust_remote_code: options.TrustRemoteCode = False,
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
    """Build the index of a training set under a method, or go on with an unfinished one."""
    changes = {"path": path, "unit_norm": unit_norm, "weights": weights, "loss": loss, "top": top, "top_by": top_by}
    recipe = _recipe(method, changes)
    from whence.attribution import build
    from whence.model import Run

    named = options.columns(text_column, pair_column, label_column, id_column, target_column)
    moments = options.choice("--second-moment", second_moment, ("recorded", "optimizer", "estimate"))
    built = build(
        Run.from_pretrained(run, tokenizer=tokenizer, trust_remote_code=trust_remote_code),
        options.read_data(data, named, split, revision, quiet=quiet, allow_empty=allow_empty),
        out,
        recipe,
        columns=named,
        max_length=max_length,
        batch_size=batch_size,
        max_bad_rows=max_bad_rows,
        steps=options.steps(steps),
        second_moment=moments,
        quiet=quiet,
    )
    for note in built.store.manifest.notes:
        hint(note, quiet=quiet)
    show(as_json, lambda: built.summary, lambda: typer.echo(f"{out}: {built!r}"))


def _recipe(method: str, changes: dict[str, Any]) -> Any:
    from whence.methods import recipe_of

    return recipe_of(method, **{name: value for name, value in changes.items() if value is not None})
