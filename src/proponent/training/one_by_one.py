"""Train on one example per step and keep what each example changed, for Gradient Rollback.

Order, negatives and dropout follow from the ids, the seed and the number of the step: without some examples, every
other step stays the same, and the trained model can be compared with what was taken back. Lawrence, Sztyler and Niepert
2021 (arXiv 2010.05516).
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from proponent.data import Examples
from proponent.disk import write_bytes
from proponent.errors import DataError, InputError, RunError
from proponent.hub import KINDS
from proponent.models import Run
from proponent.models.change_record import PARTS, ChangeRecorder, Changes, Kept, recorded_parameters, refuse_large
from proponent.models.factorization import FACTS, SPECIAL, class_token, factorization
from proponent.models.former import RUN_FILE
from proponent.models.huggingface import quiet as quiet_transformers
from proponent.models.huggingface import transformers
from proponent.models.placement import HERE, device_of
from proponent.models.run_record import CHECKPOINTS, FRESH
from proponent.models.saving import save_model
from proponent.models.scratch import name_tokenizer, wordpiece
from proponent.training.class_names import label_names
from proponent.training.fact_steps import FactLoop, TouchedRows, steps_in_closed_form
from proponent.training.loop import InPlace, TrainingLoop
from proponent.training.precision import refuse_half
from proponent.training.rerun import RunProblem, fingerprint, write_run
from proponent.training.schedule import Settings, Step
from proponent.training.trainer import Training, empty_folder, untrained, whole_or_gone
from proponent.types import Example

INITIAL = "initial"
"""Folder in a run of the weights before the first step."""

OPTIMIZERS = ("lazy-adam", "adamw", "sgd")
SCHEDULES = ("constant", "linear", "exponential")


@dataclass(frozen=True)
class OneByOne:
    """How a model is trained on one example per step, and what is recorded."""

    changes: tuple[str, ...] = ("embedding",)  # parts of the model: embedding, head
    rows: Kept = "own"  # of the table: those of the example's tokens and class, or all with a gradient
    optimizer: Literal["lazy-adam", "adamw", "sgd"] = "lazy-adam"
    schedule: Literal["constant", "linear", "exponential"] = "constant"
    negatives: int = 0  # other classes drawn in each step of a fact; 0 for all classes
    factors: int = 10  # width of a model of facts or ratings, or of a bag of words

    def check(self, training: Training) -> None:
        """Refuse settings that do not fit."""
        if training.batch_size != 1:
            raise InputError(
                f"--batch-size {training.batch_size}: the changes of one example can be told apart only in batches of 1"
            )
        for part in self.changes:
            if part not in PARTS or part == "lora":
                where = ": train the adapter with proponent.Recorder(changes=('lora',))" if part == "lora" else ""
                raise InputError(f"--changes {part}: choose from embedding, head{where}")
        if self.rows == "moved" and "embedding" not in self.changes:
            raise InputError("--kept-rows moved is about the word table: add embedding to --changes")
        if training.half or training.replay:
            wrong = "--half" if training.half else "--replay"
            raise InputError(f"{wrong} does not go with a training on one example per step: leave it out")
        if self.negatives < 0 or self.factors < 1:
            raise InputError("--negatives must not be below 0, and --factors not below 1")
        if self.negatives and training.model not in FACTS:
            raise InputError(f"--negatives is for models of facts: --model {' or '.join(FACTS)}")
        if self.rows == "moved" and self.optimizer == "adamw":
            raise InputError(
                "--kept-rows moved needs an optimizer that moves only rows with a gradient, and adamw moves all: give "
                "--optimizer lazy-adam or sgd"
            )


@dataclass(frozen=True)
class OneByOneProblem(RunProblem):
    """A run whose facts may be trained against drawn classes."""

    negatives: int = 0

    @property
    def identity(self) -> str:
        """Model, data and queries, as text."""
        return f"{super().identity}\nnegatives {self.negatives}"

    def losses(self, model: nn.Module, rows: Int[np.ndarray, " m"]) -> Float[Tensor, " m"]:
        """Loss of each of some training examples, against drawn classes where there are negatives."""
        if not self.negatives:
            return super().losses(model, rows)
        fact = cast("Any", model)
        device = device_of(model)
        logits = fact.of_classes(self.facts[0][rows].to(device), self.drawn(fact, rows).to(device))
        first = torch.zeros(len(rows), dtype=torch.int64, device=device)
        return functional.cross_entropy(logits, first, reduction="none")

    def drawn(self, model: Any, rows: Int[np.ndarray, " m"]) -> Int[Tensor, "m c"]:
        """The class of each example, then drawn other classes."""
        gold = self.facts[1][rows]
        others = torch.randint(0, model.config.num_labels - 1, (len(rows), self.negatives))
        return torch.cat([gold[:, None], others + (others >= gold[:, None])], 1)

    def own(self, row: int, config: Any) -> Int[np.ndarray, " k"]:
        """The rows of the table that belong to an example: its tokens, and its class where classes are tokens."""
        encoded, labels = self._train_encoded
        token = class_token(config, labels[row])
        return encoded[row].ids if token is None else np.append(encoded[row].ids, token)

    def tokens(self, row: int) -> Int[np.ndarray, " t"]:
        """The tokens of an example."""
        return self._train_encoded[0][row].ids

    @cached_property
    def facts(self) -> tuple[Int[Tensor, "n 2"], Int[Tensor, " n"]]:
        """Head and relation of each example, and its class."""
        encoded, labels = self._train_encoded
        return torch.as_tensor(np.stack([one.ids for one in encoded]).astype(np.int64)), torch.tensor(labels)


class Recording(InPlace):
    """An optimizer whose steps are recorded."""

    def __init__(self, inner: InPlace, recorder: ChangeRecorder, problem: OneByOneProblem, config: Any) -> None:
        self.inner, self._applied, self._recorder = inner.inner, inner, recorder
        self._problem, self._config = problem, config

    def apply(self, state: nn.Module, gradient: Any, step: Step) -> nn.Module:
        """Apply the gradients in `.grad`, and record what they change."""
        (row,) = step.rows.tolist()
        moved = gradient.ids if isinstance(gradient, TouchedRows) else None
        self._recorder.begin(self._problem.own(row, self._config), moved)
        self._applied.apply(state, cast("Any", gradient), step)
        self._recorder.end(row, step.epoch, self._problem.tokens(row))
        return state


def train_one_by_one(examples: Examples, out: str | Path, training: Training, how: OneByOne = OneByOne()) -> Run:
    """Train a classifier, or a model of facts or ratings, on one example per step, and record what each changed.

    Args:
        examples: the training set; a fact or a rating is a pair of texts with a label.
        out: a new or empty folder for the run.
        training: the settings; its model is one of distmult, complex, product, bag, a pretrained model, or None.
        how: what is recorded, and the optimizer.

    Returns:
        The run, with `proponent_changes/` and the initial weights in its folder.

    Raises:
        InputError: batches above 1, adamw with all moved rows, unknown parts, a part that the model does not train.
        DataError: rows without labels, or without a second name for facts and ratings.

    Source:
        Lawrence, Sztyler and Niepert 2021 (arXiv 2010.05516).
    """
    training.check()
    how.check(training)
    folder = empty_folder(out)
    _refuse_rows(examples, training)
    quiet_transformers()
    transformers.set_seed(training.seed)
    tokenizer, model = _start(examples, training, how)
    with whole_or_gone(folder):
        save_model(folder / INITIAL, model, tokenizer)
        write_bytes(folder / RUN_FILE, json.dumps(_record(training, how) | {"finished": False}).encode())
        run = Run.from_pretrained(folder / INITIAL, **training.placement.options)
        length = min(training.max_length, run.most_tokens or training.max_length)
        loop = _loop(run, examples, (), _settings(training, how), how.negatives, length)
        if isinstance(loop, FactLoop):
            refuse_half(run, "a training on facts one by one")
        recorders: list[ChangeRecorder] = []

        def around(model: nn.Module, optimizer: InPlace) -> InPlace:
            parts = recorded_parameters(model, how.changes)
            if "embedding" in how.changes and how.rows == "own":
                _refuse_large(model, cast("OneByOneProblem", loop.problem))
            recorders.append(ChangeRecorder(model, parts, len(examples), training.epochs, how.rows))
            return Recording(optimizer, recorders[0], cast("OneByOneProblem", loop.problem), cast("Any", model).config)

        kept = training.checkpoints or CHECKPOINTS
        made = write_run(loop, folder, training.seed, checkpoints=kept, quiet=training.quiet, around=around)
        noted = {"training": asdict(loop.settings), "negatives": how.negatives, "seed": training.seed}
        noted |= {
            "optimizer": how.optimizer,
            "training_set": fingerprint(examples),
            "max_length": length,
            "parts": list(how.changes),
        }
        if training.dtype != "float32":
            noted["dtype"] = training.dtype
        recorders[0].changes(noted).write(folder)
        write_bytes(folder / RUN_FILE, json.dumps(_record(training, how)).encode())
    return Run.from_pretrained(made.path, device=training.placement.device)


def loop_of(run: Run, examples: Sequence[Example], queries: Sequence[Example], changes: Changes) -> TrainingLoop:
    """The loop that trained a run, with queries that are measured after it."""
    settings = changes.settings
    home = run.path / INITIAL
    if "training" not in settings:
        raise RunError(
            f"the training of {run.path} cannot be repeated step by step: only runs of `proponent train --changes` can "
            "be compared with deletion and retraining"
        )
    if not home.is_dir():
        raise RunError(f"{home} is missing, the weights before training: copy the whole folder of the run")
    found = dict(cast("Mapping[str, Any]", settings["training"]))
    made = Settings(**cast("Any", {**found, "betas": tuple(found["betas"])}))
    dtype = str(settings.get("dtype", "float32"))
    start = Run.from_pretrained(home, device=run.placement.device, dtype=dtype)
    return _loop(start, examples, queries, made, int(settings["negatives"]), int(settings["max_length"]))


def _loop(
    run: Run, examples: Sequence[Example], queries: Sequence[Example], settings: Settings, negatives: int, length: int
) -> TrainingLoop:
    closed = steps_in_closed_form(settings, negatives)
    if closed:  # numpy on the CPU is enough, and quicker
        run = replace(run, info=replace(run.info, placement=HERE))
    problem = OneByOneProblem(run, examples, queries, str(run.path), length, None, negatives)
    return (FactLoop if closed else TrainingLoop)(problem, settings, numbered=True)


def _settings(training: Training, how: OneByOne) -> Settings:
    rate = training.learning_rate or (1e-3 if training.model in (None, *KINDS) else 5e-5)
    return Settings(training.epochs, 1, rate, how.optimizer, epsilon=training.adam_epsilon, schedule=how.schedule)


def _record(training: Training, how: OneByOne) -> dict[str, Any]:
    """The run's record; what the built-in retrainer cannot repeat has a name that it refuses."""
    settings, scratch = _settings(training, how), training.model in (None, *KINDS)
    names = {"adamw": "adamw_torch", "sgd": "sgd"}
    optimizer = names.get(how.optimizer, how.optimizer)
    if how.negatives:
        optimizer = f"{optimizer} against {how.negatives} drawn classes"
    return {
        "version": 1,
        "initial": FRESH if scratch else training.model,
        "trained_before": not scratch,
        "finished": True,
        "num_train_epochs": training.epochs,
        "batch_size": 1,
        "learning_rate": settings.learning_rate,
        "optim": optimizer,
        "lr_scheduler_type": how.schedule,
        "adam_beta1": settings.betas[0],
        "adam_beta2": settings.betas[1],
        "adam_epsilon": settings.epsilon,
        "weight_decay": 0.0,
        "warmup_steps": 0,
        "max_grad_norm": 0.0,
        "seed": training.seed,
    }


def _refuse_rows(examples: Examples, training: Training) -> None:
    missing = next((one for one in examples if one.label is None), None)
    if missing is not None:
        raise DataError(f"row {missing.row} of {examples.name} has no label: changes are recorded of labelled rows")
    if examples.weights is not None and (examples.weights != 1).any():
        raise DataError(f"{examples.name} has weights, which a training on one example per step does not read")
    if training.model in ("distmult", "complex", "product"):
        single = next((one for one in examples if one.text_pair is None), None)
        if single is not None:
            raise DataError(
                f"row {single.row} of {examples.name} has one text: --model {training.model} reads two names and a "
                "label; name their columns with --text-column, --pair-column and --label-column"
            )


def _start(examples: Examples, training: Training, how: OneByOne) -> tuple[Any, Any]:
    kind = training.model
    if kind not in KINDS:
        return untrained(examples, label_names(examples), training)
    if kind == "bag":
        texts = [part for example in examples for part in example.parts]
        tokenizer = wordpiece(texts, training.vocabulary, training.max_length)
        return tokenizer, factorization(kind, tokenizer, label_names(examples), how.factors)
    heads, seconds = ([one.parts[at] for one in examples] for at in (0, 1))
    if kind == "product":
        ratings = [_rating(one) for one in examples]
        _refuse_shared(examples, heads, seconds, "a user and an item")
        tokenizer = _tokenizer(examples, list(dict.fromkeys([*heads, *seconds])))
        return tokenizer, factorization(kind, tokenizer, None, how.factors, offset=float(np.mean(ratings)))
    entities = sorted({*heads, *(str(one.label) for one in examples)})
    _refuse_shared(examples, entities, seconds, "an entity and a relation")
    if len(entities) < 2:
        raise DataError(f"{examples.name} has only one entity ({entities[0]}): a model of facts needs two")
    tokenizer = _tokenizer(examples, [*entities, *sorted(set(seconds))])
    return tokenizer, factorization(cast("Any", kind), tokenizer, entities, how.factors)


def _refuse_shared(examples: Examples, firsts: Sequence[str], seconds: Sequence[str], roles: str) -> None:
    both = sorted(set(firsts) & set(seconds))
    if both:
        raise DataError(f"{examples.name}: {both[0]!r} is {roles}, which would share one row: rename one of them")


def _tokenizer(examples: Examples, names: Sequence[str]) -> Any:
    """A tokenizer that reads every name as one token."""
    made = name_tokenizer(names, SPECIAL)
    for at, ids in enumerate(made(list(names))["input_ids"]):
        if ids != [at + len(SPECIAL)]:
            raise DataError(f"{examples.name}: the name {names[at]!r} holds a special token of the model: rename it")
    return made


def _refuse_large(model: Any, problem: OneByOneProblem) -> None:
    """Refuse a record that would not fit, before training."""
    count = sum(len(np.unique(problem.own(row, model.config))) for row in range(len(problem.train)))
    refuse_large("the word table", count * model.get_input_embeddings().weight.shape[1] * 8)


def _rating(example: Example) -> float:
    try:
        return float(cast("Any", example.label))
    except (TypeError, ValueError) as error:
        raise DataError(f"row {example.row} has the rating {example.label!r}: give a number") from error
