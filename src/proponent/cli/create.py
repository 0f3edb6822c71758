"""Commands that create something: the demo, a run, an index."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import typer
from rich.console import Console

from proponent.cli.chat_options import CountingOptions
from proponent.cli.data_options import DataOptions, IndexDataOptions
from proponent.cli.lines import echo
from proponent.cli.options import BuildOptions, Data, Device, MethodOptions, OutputOptions, RunFolder, SplitOptions
from proponent.cli.rollback import ChangeOptions
from proponent.cli.slurm import script_of
from proponent.engine import EngineName
from proponent.errors import InputError

if TYPE_CHECKING:
    from proponent.data import Examples
    from proponent.index import Index
    from proponent.models import Run
    from proponent.training.one_by_one import OneByOne
    from proponent.training.trainer import Training


def demo(
    output: OutputOptions,
    out: Annotated[Path, typer.Option(help="Folder for data, run, index and page.")] = Path("proponent-demo"),
    llm: Annotated[
        bool, typer.Option("--llm", help="With a real chat model (135M), fine-tuned with LoRA: takes minutes.")
    ] = False,
) -> None:
    """Run the whole workflow on built-in text: train, index, explain, find planted label errors."""
    from proponent.demo import chat_demo
    from proponent.demo import demo as run_demo
    from proponent.views.terminal import print_story

    story = (chat_demo if llm else run_demo)(out, quiet=output.quiet, say=output.hint)
    output.show(story.to_dict, lambda: print_story(story, Console()))
    output.hint(f"HTML page: {out / 'story.html'}")
    asked = "'your question' --generate" if llm else "'your text'"
    output.hint(f"to explain your own text: proponent explain {out / 'demo.index'} {asked}")


@dataclass(frozen=True)
class TrainingOptions:
    """How a run is trained."""

    PANEL: ClassVar = "Training"

    model: Annotated[
        str | None,
        typer.Option(
            help="Pretrained model to fine-tune, or distmult or complex (facts), product (ratings), bag (words); "
            "default: a small model from scratch."
        ),
    ] = None
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the data.")] = 3
    checkpoints: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Number of evenly spaced checkpoints; default: 10 from scratch, 4 of a pretrained model.",
        ),
    ] = None
    half: Annotated[bool, typer.Option("--half", help="Keep checkpoints in 16-bit floats.")] = False
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Batch size: texts per step; default: 32, with --changes 1.")
    ] = None
    learning_rate: Annotated[float | None, typer.Option(help="Default: 1e-3 from scratch, 5e-5 pretrained.")] = None
    max_length: Annotated[int, typer.Option(min=2, help="Maximum tokens per text.")] = 128
    seed: Annotated[int, typer.Option(help="Seed of weights, order and dropout.")] = 0
    runs: Annotated[
        int, typer.Option(min=1, help="Number of seeded runs; several are written to OUT/seed-0, OUT/seed-1, ...")
    ] = 1
    replay: Annotated[bool, typer.Option("--replay", help="Record every step, so that it can be replayed.")] = False
    adam_epsilon: Annotated[
        float, typer.Option(help="Adam's epsilon; 1e-3 makes training smooth enough for replay.")
    ] = 1e-8
    device: Device = "auto"
    dtype: Annotated[str, typer.Option(help="Precision of passes; weights keep 32 bits.")] = "float32"

    def settings(self, how: "OneByOne | None", *, quiet: bool) -> "Training":
        """The settings of the first run."""
        from proponent.training.trainer import Training

        return Training(
            self.model,
            self.epochs,
            self.checkpoints,
            self.half,
            self.batch_size or (32 if how is None else 1),
            self.learning_rate,
            self.max_length,
            self.seed,
            replay=self.replay,
            adam_epsilon=self.adam_epsilon,
            quiet=quiet,
            device=self.device,
            dtype=self.dtype,
        )


def train(
    data: Data,
    out: Annotated[Path, typer.Option(help="Folder for the run; must be new or empty.")],
    columns: DataOptions,
    training: TrainingOptions,
    changing: ChangeOptions,
    output: OutputOptions,
) -> None:
    """Fine-tune with the Hugging Face Trainer and the Recorder: a classifier, or without labels a language model."""
    if training.model is not None:
        from proponent.hub import require_model

        require_model(training.model)  # before torch is loaded
    how = changing.how(training.model)
    settings = training.settings(how, quiet=output.quiet)
    if how is not None:
        how.check(settings)
    examples = columns.read(data, output)
    if how is None:
        from proponent.training.class_names import described

        output.hint(described(examples))
    for number in range(training.seed, training.seed + training.runs):
        folder = out if training.runs == 1 else out / f"seed-{number}"
        seeded = replace(settings, seed=number)
        fit: dict[str, float | int] = {}
        if how is None:
            from proponent.training.trainer import train as run_training

            run = run_training(examples, folder, seeded)
            fit = _fit(run, examples, output)
        else:
            from proponent.training.one_by_one import train_one_by_one

            run = train_one_by_one(examples, folder, seeded, how)
        steps = [one.step for one in run.checkpoints]
        output.show(
            lambda at=folder, held=steps, fit=fit: {"run": str(at), "checkpoints": held} | fit,
            lambda at=folder, held=steps: echo(f"{at}: checkpoints at steps {', '.join(map(str, held))}"),
        )


def _fit(run: "Run", examples: "Examples", output: OutputOptions) -> dict[str, float | int]:
    """Loss and accuracy on the training rows, shown as a hint."""
    from proponent.training.row_fit import row_fit

    found = row_fit(run, examples)
    right = "" if found.accuracy is None else f", accuracy {found.accuracy:.3f}"
    some = f"all {found.rows:,}" if found.rows == len(examples) else f"{found.rows:,} of {len(examples):,}"
    output.hint(f"{run.path}: loss {found.loss:.3f}{right} on {some} training rows (not on held-out ones)")
    made: dict[str, float | int] = {"rows": found.rows, "loss": found.loss}
    return made if found.accuracy is None else made | {"accuracy": found.accuracy}


def index(
    run: RunFolder,
    data: Data,
    out: Annotated[str, typer.Option(help="Folder of the index, or s3://BUCKET/FOLDER; an unfinished one is resumed.")],
    method: MethodOptions,
    building: BuildOptions,
    model: SplitOptions,
    columns: IndexDataOptions,
    counting: CountingOptions,
    output: OutputOptions,
    queries: Annotated[
        str | None,
        typer.Option("--eval", metavar="FILE", help="trackstar: queries to include in the autocorrelation."),
    ] = None,
    append: Annotated[bool, typer.Option("--append", help="Add DATA to the finished index.")] = False,
    shard: Annotated[
        str | None,
        typer.Option(metavar="i/N", help="Compute part i of N (0-based); the last part seals the index."),
    ] = None,
    repair: Annotated[bool, typer.Option("--repair", help="Check every byte; recompute damaged parts.")] = False,
    workers: Annotated[int, typer.Option(help="Processes that compute the index.")] = 1,
    engine: Annotated[
        EngineName,
        typer.Option(help="Where they run: this machine, or actors of Ray (of the cluster RAY_ADDRESS, or here)."),
    ] = "processes",
    slurm: Annotated[
        str | None,
        typer.Option(metavar="N", callback=script_of, help="Print a Slurm array script of N parts, and do no more."),
    ] = None,
) -> None:
    """Build the index of a training set under a method, or resume an unfinished one."""
    if slurm is not None:
        if shard is not None or workers > 1 or engine != "processes":
            raise InputError("--slurm N shares the shards out itself: leave --shard out, and --workers and --engine")
        echo(slurm)
        return
    if shard is not None and (workers > 1 or engine != "processes"):
        raise InputError("--shard is for a build in one process: leave it out, or --workers and --engine")
    settings: dict[str, Any] = building.settings() | {"append": append, "shard": shard, "repair": repair}
    settings |= vars(counting) | {"workers": workers, "engine": engine}
    from proponent.api import build
    from proponent.index import summed

    opened = model.open(run)
    changed = method.changed(method.named(opened, building, output))
    examples = columns.read(data, output)
    changed = summed(changed, opened, examples.layout) if method.loss is None else changed
    built = build(
        opened,
        examples,
        out,
        changed,
        queries=None if queries is None else columns.read_queries(queries, output),
        columns=columns.columns,
        quiet=output.quiet,
        **settings,
    )
    _report(built, out, output)


def _report(built: "Index", out: str, output: OutputOptions) -> None:
    """Report what was built: the whole index or some of its shards."""
    store = built.store
    if not store.sealed:
        output.show(
            lambda: {"index": out, "finished": False, "coverage": store.coverage},
            lambda: echo(f"{out} is unfinished: {store.coverage:.0%} of the examples are in it: run the other parts"),
        )
        return
    for note in store.manifest.notes:
        output.hint(note)
    output.show(lambda: built.summary, lambda: echo(f"{out}: {built!r}"))
