"""The Recorder: a Trainer callback that records what attribution methods need.

At each save it writes two files to the checkpoint folder: `proponent_recorder.json` (step, the learning rate that the
last optimizer step actually used, seed) and `proponent_moments.safetensors` (the optimizer's second moments). On
request it also records in the run's folder what is needed to repeat the training (`proponent.models.training_trace`).
For language models it notes which rows were fed and which tokens counted (`proponent.models.batch_record`).
"""

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, cast
from uuid import uuid4

import torch

from proponent.disk import make_folder, remove, write_bytes
from proponent.errors import RunError
from proponent.models.batch_record import BatchRecorder
from proponent.models.change_watch import ChangeWatch
from proponent.models.checkpoints import MOMENTS_FILE, RECORD_FILE, TRAINING
from proponent.models.former import RUN_FILE, recorded
from proponent.models.huggingface import transformers
from proponent.models.optimizer_moments import embedding_group, second_moments
from proponent.models.run_files import read_settings
from proponent.models.run_record import run_record, spread
from proponent.models.trained_parts import trained_names, word_table
from proponent.models.trainer_notes import JUDGED, initial_model, trainer_note
from proponent.models.training_trace import StepRecorder
from proponent.tensors import halve, write_tensors

_ARGUMENTS = (
    "num_train_epochs",
    "max_steps",
    "learning_rate",
    "weight_decay",
    "adam_beta1",
    "adam_beta2",
    "adam_epsilon",
    "max_grad_norm",
    "warmup_steps",
    "seed",
    "data_seed",
    "label_smoothing_factor",
    "load_best_model_at_end",
)


class Recorder(transformers.TrainerCallback):  # loaded here: it imports datasets, pandas and more
    """Record exact learning rates and second moments at each checkpoint of a Hugging Face Trainer.

    Pass it as `Trainer(..., callbacks=[proponent.Recorder()])`. In some versions, the learning rate that a Trainer logs
    belongs to another step, and for most steps it is missing. The Recorder reads it between the optimizer's step and
    the scheduler's.

    Args:
        moments: "embedding" stores the second moment of the word embedding's rows in full; "all" stores those of every
            parameter; "none" stores none.
        initial: initial weights of the training: name or folder of a pretrained model, or "fresh"; `proponent
            evaluate` needs it for retraining. Default: the name that a loaded model has.
        replay: also record what replaying the training needs: weights before the first step, and the rows, rates and
            random state of every step (`proponent_replay/` in the run's folder).
        checkpoints: save this many times at equal distances, the last time at the end, in addition to the Trainer's own
            `save_strategy` ("no" leaves only these; `save_only_model=True` keeps them small).
        half: store the weights of every checkpoint as 16-bit floats (half the disk; training cannot resume from them).
        changes: parts whose changes by each example are recorded for the method rollback: "embedding", "head", "lora"
            (`proponent_changes/` in the run's folder); needs batches of one.
        weight_column: column of the training set whose values the loss multiplies each example's loss by; a
            `proponent.WeightedTrainer` sets it.

    Raises:
        ValueError: `checkpoints` is below 1.
    """

    def __init__(
        self,
        moments: Literal["embedding", "all", "none"] = "embedding",
        initial: str | Path | None = None,
        *,
        replay: bool = False,
        checkpoints: int | None = None,
        half: bool = False,
        weight_column: str | None = None,
        changes: Sequence[str] = (),
    ) -> None:
        if checkpoints is not None and checkpoints < 1:
            raise ValueError(f"Recorder(checkpoints={checkpoints}): it must be at least 1, or be left out")
        self.checkpoints, self.half = checkpoints, half
        self.moments = moments
        self.initial = None if initial is None else str(initial)
        self.replay = replay
        self.weight_column = weight_column
        self.changes = (changes,) if isinstance(changes, str) else tuple(changes)
        self._changes: ChangeWatch | None = None
        self._steps: StepRecorder | None = None
        self._batches: BatchRecorder | None = None
        self._rates: list[float] = []
        self._group = 0
        self._mark = ""
        self._content: dict[str, Any] = {}
        self._home = Path()  # folder of the run: a search over settings saves every trial in a folder of its own
        self._trained: set[str] | None = None  # parameters that moved, if others were frozen
        self._started: dict[Path, bool | None] = {}  # a second training continues with the weights of the first

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        """Write the training's description to the run's folder, and start recording its steps if requested."""
        if not state.is_world_process_zero:
            return
        record = {name: getattr(args, name, None) for name in _ARGUMENTS}
        record["warmup_steps"] = int(args.get_warmup_steps(state.max_steps))
        record["optim"] = str(getattr(args.optim, "value", args.optim))
        record["lr_scheduler_type"] = str(getattr(args.lr_scheduler_type, "value", args.lr_scheduler_type))
        record["batch_size"] = int(args.train_batch_size * args.gradient_accumulation_steps * max(1, args.world_size))
        folder = self._home = Path(args.output_dir)
        make_folder(folder)
        if state.global_step:  # resumed: these weights are the run's own
            self._started.setdefault(folder, _noted(folder, "trained_before"))
        self._mark = _mark(folder, int(state.global_step)) if state.global_step else uuid4().hex
        record["weight_column"] = self.weight_column
        record["training"] = self._mark
        record["trained_before"] = self._started.setdefault(folder, _trained_before(kwargs.get("model")))
        note = trainer_note(args, kwargs.get("processing_class"), kwargs.get("model"))
        record |= note
        initial = self.initial
        if initial is None and record["trained_before"]:  # a resumed run keeps the name that it began with
            initial = (state.global_step and _noted(folder, "initial")) or initial_model(kwargs.get("model"))
        record["trained"] = self._moving(kwargs.get("model"), kwargs.get("optimizer"), _trained_until(folder, state))
        self._content = {"version": 1, "initial": initial, "finished": False} | record
        _write(folder / RUN_FILE, self._content)
        self._say_unkept(kwargs.get("model"))
        judged = not note.keys().isdisjoint(JUDGED)
        self._batches = _batch_recorder(args, state, kwargs.get("model"), kwargs.get("train_dataloader"), judged=judged)
        if self._batches is not None:
            self._batches.write(folder)
        if self.changes:
            loader = kwargs["train_dataloader"]
            self._changes = ChangeWatch(args, state, kwargs["model"], kwargs["optimizer"], loader, self.changes)
        if self.replay:
            _require_replayable(args, state)
            self._steps = StepRecorder(
                kwargs["model"], kwargs["optimizer"], kwargs["train_dataloader"], float(args.max_grad_norm or 0.0)
            )

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        """Store the random state at the start of this step."""
        if self._steps is not None:
            self._steps.begin()

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        """Keep what the step is about to change."""
        if self._changes is not None:
            self._changes.begin()

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        """Read the learning rate of this step, before the scheduler changes it."""
        if self._changes is not None:
            self._changes.end()
        optimizer = kwargs.get("optimizer")
        if optimizer is not None:
            self._rates = [float(group["lr"]) for group in optimizer.param_groups]
            self._group = embedding_group(kwargs.get("model"), optimizer)
            if self._steps is not None:
                self._steps.end(self._rates)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        """Request a checkpoint where one is due."""
        if self._batches is not None:
            self._batches.end_step()
        if self.checkpoints is not None and state.global_step in spread(state.max_steps, self.checkpoints):
            control.should_save = True

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        """Write the record of the steps, and mark the training as finished."""
        if state.is_world_process_zero:
            if self._steps is not None:
                self._steps.write(self._home)
            if self._changes is not None:
                self._changes.write(self._home)
            if self._batches is not None:
                self._batches.write(self._home)
                self._batches.close()
            _write(self._home / RUN_FILE, self._content | {"finished": True})

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        """Write both files to the checkpoint folder that was just saved."""
        folder = saved_folder(Path(args.output_dir), state.global_step)
        if not state.is_world_process_zero or folder is None or not self._rates:
            return
        model, optimizer = kwargs["model"], kwargs["optimizer"]
        self._keep_run(folder.parent, self._moving(model, optimizer, self._trained))
        record = {
            "version": 1,
            "step": int(state.global_step),
            "learning_rate": self._rates[self._group],
            "learning_rates": self._rates,
            "optimizer": type(getattr(optimizer, "optimizer", optimizer)).__name__,
            "seed": int(args.seed),
            TRAINING: self._mark,
        }
        if self.moments != "none":
            moments = second_moments(model, optimizer, every=self.moments == "all")
            if moments:
                write_tensors(folder / MOMENTS_FILE, moments, {TRAINING: self._mark})
        _write(folder / RECORD_FILE, record)
        if self.half:
            for path in sorted(folder.glob("*.safetensors")):
                if path.name != MOMENTS_FILE:
                    halve(path)

    def _say_unkept(self, model: Any) -> None:
        """Say what cannot be recorded of a model that is a module of the user's own; its training goes on."""
        inner = getattr(model, "module", model)
        if inner is not None and self.moments == "embedding" and word_table(inner) is None:
            logging.getLogger("proponent").warning(
                "proponent.Recorder: %s names no word embedding (get_input_embeddings): learning rates are recorded, "
                "and second moments are not; save a model of transformers, so that the run can be explained",
                type(inner).__name__,
            )

    def _moving(self, model: Any, optimizer: Any, before: set[str] | None) -> list[str] | None:
        """Names of the parameters that have moved so far; None where all do. Parts may thaw as the training goes on."""
        names = None if model is None else trained_names(model, optimizer)
        self._trained = None if names is None or before is None else {*before, *names}
        return None if self._trained is None else sorted(self._trained)

    def _keep_run(self, home: Path, trained: list[str] | None) -> None:
        """Write the run's description to the folder that the checkpoints are saved in, where something changed."""
        if not self._content or (home == self._home and trained == self._content["trained"]):
            return  # nothing was written as the training began, or nothing changed
        self._content["trained"] = trained
        if home != self._home:
            remove(self._home / RUN_FILE)
            self._home = home
        _write(home / RUN_FILE, self._content)


def saved_folder(run: Path, step: int) -> Path | None:
    """The checkpoint of a step that was saved last, in a run's folder or in that of one of its trials."""
    name = f"checkpoint-{step}"
    found = [path for path in (run / name, *run.glob(f"*/{name}")) if path.is_dir()]
    return max(found, key=_written, default=None)


def _written(folder: Path) -> int:
    state = folder / "trainer_state.json"
    return (state if state.is_file() else folder).stat().st_mtime_ns


def _trained_until(folder: Path, state: Any) -> set[str] | None:
    """Parameters that had moved before a training was resumed; None if all had, or if nothing is known of it."""
    if not state.global_step:
        return set()
    try:
        names = (run_record(folder) or {}).get("trained")
    except RunError:
        return None
    return set(map(str, cast("list[object]", names))) if isinstance(names, list) else None


def _batch_recorder(args: Any, state: Any, model: Any, loader: Any, *, judged: bool) -> BatchRecorder | None:
    """Watch the batches of a language model that one process trains from its first step; of pairs, note the rows."""
    alone = args.world_size <= 1 and args.n_gpu <= 1 and not state.global_step
    kind, dataset = type(getattr(model, "module", model)).__name__, getattr(loader, "dataset", None)
    causal = "ForCausalLM" in kind or "LMHeadModel" in kind
    if alone and judged:
        return BatchRecorder(None, dataset, getattr(args, "max_length", None))
    return BatchRecorder(model, dataset) if alone and causal else None


def _write(path: Path, content: dict[str, Any]) -> None:
    write_bytes(path, (json.dumps(content, indent=1) + "\n").encode())


def _require_replayable(args: Any, state: Any) -> None:
    """Refuse to record a training that could not be replayed."""
    refused = {
        "gradient accumulation": args.gradient_accumulation_steps > 1,
        "half precision": bool(args.bf16 or args.fp16),
        "several processes or devices": args.world_size > 1 or args.n_gpu > 1,
        "label smoothing": bool(args.label_smoothing_factor),
        "a training that resumes": state.global_step > 0,
    }
    found = [name for name, wrong in refused.items() if wrong]
    if found:
        raise RunError(f"Recorder(replay=True) cannot record {found[0]}: train without it, or leave replay out")


def _noted(folder: Path, name: str) -> Any:
    """What the record of a resumed run says of its beginning; a damaged record is ignored and rewritten."""
    try:
        return (run_record(folder) or {}).get(name)
    except RunError:
        return None


def _mark(folder: Path, step: int) -> str:
    """The mark of a resumed training, from the checkpoint where it resumes; empty if there is none."""
    path = recorded(folder / f"checkpoint-{step}", RECORD_FILE)
    try:
        return str(read_settings(path).get("training") or "") if path.is_file() else ""
    except RunError:
        return ""


def _trained_before(model: Any) -> bool | None:
    """Whether weights are trained: in fresh weights, all gains of a normalisation are equal."""
    gains = [
        one
        for module in (() if model is None else model.modules())
        for name, one in module.named_parameters(recurse=False)
        if "norm" in type(module).__name__.lower()
        and name == "weight"
        and one.numel() > 1
        and type(one.data) is torch.Tensor  # skips parameters of a model that is distributed over processes
    ]
    return any(bool((one != one.flatten()[0]).any()) for one in gains) if gains else None
