"""Retrain the user's own run: same architecture, initial weights, tokenizer and hyper-parameters.

Same as in the Trainer: architecture, tokenizer and truncation, initial weights (fresh ones sampled with the seed, or a
pretrained model with a head sampled with the seed), loss, optimizer with its decay groups, schedule, clipping, batch
size and epochs. Different: the order of the data (derived from the ids, see `order`), the dropout masks (sampled anew
at every step), batches are neither sorted by length, packed nor spread over devices, and numbers have 32 bits, or
those of passes the run's precision with weights in 32 bits (as bf16=True does). Of an adapter, the base model stays
and new factors are sampled with the seed. In the rows of chat fine-tuning every token weighs the same, as in the
Trainer, and so does every tag; in those of other language models every text does.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Float, Int, UInt64
from torch import Tensor, nn

from proponent.data import to_json
from proponent.disk import write_bytes
from proponent.errors import InputError, RunError
from proponent.models import Batch, Encoded, Run
from proponent.models.adapters import adapter_settings, base_of
from proponent.models.checkpoints import MOMENTS_FILE, RECORD_FILE, TRAINING
from proponent.models.counting import homes
from proponent.models.encoding import Encoder
from proponent.models.example_weights import refuse_missing_weights
from proponent.models.former import RUN_FILE, recorded
from proponent.models.huggingface import fresh_model, starting_model, untrained_adapter
from proponent.models.optimizer_moments import second_moments
from proponent.models.placement import device_of, host, refuse_split
from proponent.models.run_files import StoredName, read_settings, reading_run
from proponent.models.run_record import FRESH, drawn, run_record, spread
from proponent.models.saving import save_model
from proponent.models.tasks.answered import has_loss
from proponent.models.tasks.base import logits_of
from proponent.models.trained_parts import free_trained
from proponent.models.trainer_notes import JUDGED
from proponent.models.weights import sizes_of_weights
from proponent.progress import track
from proponent.tensors import write_tensors
from proponent.training.loop import Around, TrainingLoop
from proponent.training.outputs import Outputs
from proponent.training.schedule import Settings, id_hashes
from proponent.types import Counting, Example, Pair, Prompted, Text

_OPTIMIZERS = {"adamw_torch": "adamw", "adamw_torch_fused": "adamw", "sgd": "sgd"}
_SCHEDULES = {"linear": "linear", "constant": "constant", "constant_with_warmup": "constant"}
_PLACES = frozenset({"base_model_name_or_path", "inference_mode", "revision", "peft_version"})
"""Settings of an adapter that do not change what it computes."""
_OUTPUT_BATCH, _FEW = 64, 8  # the second for logits of a vocabulary


@dataclass(frozen=True)
class RunProblem:
    """A run with its training set and queries."""

    run: Run
    train: Sequence[Example]
    queries: Sequence[Example]  # with labels for a classifier
    initial: str  # FRESH, or name or folder of a pretrained model; of an adapter, its base
    max_length: int
    counting: Counting | None = None  # which tokens count in the rows of chat fine-tuning; None: plain training

    @property
    def hashes(self) -> UInt64[np.ndarray, " n"]:
        """Hashes of the ids of the training set."""
        return self._hashes

    @property
    def identity(self) -> str:
        """Model, data and queries, as text."""
        return self._identity

    @cached_property
    def _hashes(self) -> UInt64[np.ndarray, " n"]:
        return id_hashes([one.id for one in self.train])

    @cached_property
    def _identity(self) -> str:
        config = json.dumps(_configuration(self.run), sort_keys=True)
        weights = self.initial if self.initial == FRESH else f"{self.initial} {sizes_of_weights(Path(self.initial))}"
        counted = "" if self.counting is None else f"\ncounted {json.dumps(asdict(self.counting), sort_keys=True)}"
        counted += "" if (own := self.run.trained) is None else f"\ntrained {' '.join(sorted(own.names))}"
        placed = "" if (at := self.run.placement).plain else f"\nplacement {at.device.partition(':')[0]} {at.dtype}"
        return (
            f"run 1 {self.run.info.architecture}\nconfiguration {config}\ninitial weights {weights}\n"
            f"tokenizer {self.run.fingerprints['tokenizer']} up to {self.max_length} tokens\n"
            f"training set {fingerprint(self.train)}\nqueries {fingerprint(self.queries)}{counted}{placed}"
        )

    def edited(self, rows: Mapping[int, Example]) -> "RunProblem":
        """The same with other texts of these rows."""
        return replace(self, train=[rows.get(at, one) for at, one in enumerate(self.train)])

    def fresh(self, seed: int) -> nn.Module:
        """A model with its initial weights in 32 bits, drawn on the CPU, so that a seed gives the same everywhere."""
        if self.run.placement.dtype == "float16":
            raise InputError(
                "training in float16 needs a scaled loss, which the built-in retrainer lacks: take --dtype bfloat16 or "
                "float32 (dtype=)"
            )
        cast("Any", torch).manual_seed(seed)
        refuse_split(place := replace(self.run.placement, dtype="float32"), "retraining")
        card, last, trusted = self.run.info, self.run.checkpoints[-1].path, self.run.trust_remote_code
        if self.initial == FRESH:
            model = fresh_model(last, card, trust_remote_code=trusted)
        elif card.adapter:  # the base stays as it is
            return place.put(untrained_adapter(self.initial, last, card, trust_remote_code=trusted)).train()
        else:
            model = starting_model(self.initial, last, card, trust_remote_code=trusted)
        return free_trained(place.put(model), self.run.trained).train()

    def losses(self, model: nn.Module, rows: Int[np.ndarray, " m"]) -> Float[Tensor, " m"]:
        """Loss of each of some training examples; of chat rows and tags, scaled so that a mean weighs tokens alike."""
        encoded, labels = self._train_encoded
        chosen: list[int] = rows.tolist()
        if self.counting is None and not self.run.task.answers_by_token:
            losses = self._losses(model, [encoded[row] for row in chosen], [labels[row] for row in chosen])[0]
            return losses * self._weights[chosen].to(losses.device)
        places = [at for at, row in enumerate(chosen) if has_loss(encoded[row])]
        whole = torch.zeros(len(chosen), device=device_of(model))
        if not places:
            return whole.requires_grad_()
        known = [chosen[at] for at in places]
        batch = self._encoder.collate([encoded[row] for row in known], [-1] * len(known))
        objective = self.run.task.objective(batch, "sum")
        scale = self._weights[known] * (len(chosen) / objective.count)
        found = objective.losses(self._logits(model, batch)) * scale.to(whole.device)
        return whole.to(found.dtype).index_put((torch.tensor(places, device=whole.device),), found)

    def sampled(self, model: nn.Module, rows: Int[np.ndarray, " m"], seed: int) -> Float[Tensor, " m"]:
        """Loss of each of some training examples with sampled labels, times the root of its number of tokens."""
        # the mean of the squares of its gradients is then the Gauss-Newton term of the loss
        encoded, labels = self._train_encoded
        places: list[int] = rows.tolist()
        batch = self._encoder.collate([encoded[at] for at in places], [labels[at] for at in places])
        logits = self._logits(model, batch)
        shape = (len(places), logits.shape[1] if logits.dim() > 2 else 1)
        uniform = torch.rand(shape, generator=torch.Generator().manual_seed(seed))
        counts = [1 if self._classifies else encoded[at].n_counted for at in places]
        found = self.run.task.objective(batch).sampled(logits, uniform.to(logits.device))
        return found * torch.tensor(counts).sqrt().to(found.device)

    def outputs(self, model: nn.Module) -> Outputs:
        """Outputs on the queries."""
        encoded, labels = self._queries_encoded
        losses: list[np.ndarray] = []
        logits: list[np.ndarray] = []
        with torch.inference_mode():
            size = _OUTPUT_BATCH if self._classifies else _FEW
            for start in range(0, len(encoded), size):
                part = slice(start, start + size)
                loss, raw = self._losses(model, encoded[part], labels[part])
                losses.append(host(loss).astype(np.float64))
                if self._classifies:
                    logits.append(host(raw).astype(np.float64))
        if self._classifies:
            return Outputs.of_logits(np.concatenate(logits), np.asarray(labels))
        return Outputs.of_losses(np.concatenate(losses))

    def refuse_cut_queries(self) -> None:
        """Require that of every query something counts within the tokens that are read."""
        self._refuse_cut("query", self._queries_encoded[0], self.queries)

    def refuse_cut_rows(self) -> None:
        """Require the same of every training row and every query."""
        self._refuse_cut("training row", self._train_encoded[0], self.train)
        self.refuse_cut_queries()

    def _refuse_cut(self, what: str, encoded: Sequence[Encoded], examples: Sequence[Example]) -> None:
        lost = next((at for at, one in enumerate(encoded) if not one.n_counted), None)
        if lost is not None:
            raise RunError(
                f"no token of the {what} with id {examples[lost].id} counts among its first {self.max_length}: "
                "leave it out, or read more with --max-length"
            )

    @property
    def query_labels(self) -> Int[np.ndarray, " q"]:
        """True classes of the queries; all 0 for a language model."""
        return np.maximum(np.asarray(self._queries_encoded[1], dtype=np.int64), 0)

    @property
    def train_labels(self) -> Int[np.ndarray, " n"] | None:
        """Classes of the training set; None for a language model."""
        return np.asarray(self._train_encoded[1], dtype=np.int64) if self._classifies else None

    @property
    def _classifies(self) -> bool:
        return bool(self.run.task.labels)

    @cached_property
    def _weights(self) -> Float[Tensor, " n"]:
        """Weights of the training set in the loss."""
        weights = [one.weight for one in self.train]
        refuse_missing_weights(self.run, "the training set", weighted=any(one != 1 for one in weights))
        return torch.tensor(weights)

    @cached_property
    def _train_encoded(self) -> tuple[list[Encoded], list[int]]:
        return self._encoded(self.train, asked=False)

    @cached_property
    def _queries_encoded(self) -> tuple[list[Encoded], list[int]]:
        return self._encoded(self.queries, asked=True)

    @cached_property
    def _encoder(self) -> Encoder:
        return self.run.encoder(self.max_length, counting=self.counting)

    def _encoded(self, examples: Sequence[Example], *, asked: bool) -> tuple[list[Encoded], list[int]]:
        encoder = self._encoder
        if not self._classifies:
            numbers = self.run.task.label_numbers(examples, "the queries" if asked else "the training set")
            return encoder.encode(examples, asked=asked), numbers
        missing = next((one for one in examples if one.label is None), None)
        if missing is not None:
            raise RunError(f"the row with id {missing.id} has no label: no classifier can be trained or measured on it")
        numbers = [self.run.label_number(one.label) for one in examples if one.label is not None]
        return encoder.encode(examples), numbers

    def _losses(
        self, model: nn.Module, encoded: Sequence[Encoded], labels: Sequence[int]
    ) -> tuple[Float[Tensor, " m"], Tensor]:
        batch = self._encoder.collate(encoded, labels)
        logits = self._logits(model, batch)
        return self.run.task.objective(batch).losses(logits), logits

    def _logits(self, model: nn.Module, batch: Batch) -> Tensor:
        """Logits; the passes of weights in 32 bits have the run's precision."""
        dtype, device = self.run.placement.precision, device_of(model)
        mixed = dtype != torch.float32 == next(model.parameters()).dtype
        with torch.autocast(device.type, dtype) if mixed else nullcontext():
            return logits_of(model(**batch.inputs))


def fingerprint(examples: Sequence[Example]) -> str:
    """SHA-256 over the model's view of some examples, and their ids."""
    digest = hashlib.sha256()
    for one in examples:
        read = (one.text, one.text_pair, one.target)
        texts = list(read) if isinstance(one.content, Text | Pair | Prompted) else [to_json(one.content)]
        weight = [] if one.weight == 1 else [one.weight]
        digest.update(json.dumps([one.id, *texts, str(one.label), *weight]).encode())
    return digest.hexdigest()


@dataclass(frozen=True)
class RerunSettings:
    """The hyper-parameters of the run."""

    settings: Settings
    initial: str | None  # None if unknown
    notes: tuple[str, ...]  # the sources of the settings, and the assumptions
    drawn: bool = False  # the record says that nothing was trained before, and names no weights


def settings_of_run(run: Run, **changes: Any) -> RerunSettings:
    """Read the hyper-parameters of a run."""
    if run.task.trainer in JUDGED:
        raise RunError(
            f"the run in {run.path} was trained on judged answers ({run.task.kind}), which the built-in retrainer "
            "does not support: its scores cannot be measured by retraining"
        )
    with reading_run(run.path):
        return _settings_of(run, {name: value for name, value in changes.items() if value is not None})


def _settings_of(run: Run, given: dict[str, Any]) -> RerunSettings:
    places = homes(run)
    record = run_record(places[0])
    base = base_of(run.checkpoints[-1].path, run.info.base).name if run.info.adapter else None
    if record is None:
        settings, notes = _assumed(run)
        return RerunSettings(replace(settings, **given), base, notes)
    optimizer, schedule = str(record["optim"]), str(record["lr_scheduler_type"])
    for what, value, known in (("optimizer", optimizer, _OPTIMIZERS), ("schedule", schedule, _SCHEDULES)):
        if value not in known:
            raise RunError(
                f"the run in {run.path} was trained with the {what} {value}, which the built-in retrainer does not "
                f"support (it supports {', '.join(known)}): use your own proponent.evaluate.Retrainer"
            )
    settings = Settings(
        epochs=max(1, round(float(record["num_train_epochs"]))),
        batch_size=int(record["batch_size"]),
        learning_rate=float(record["learning_rate"]),
        optimizer=cast("Any", _OPTIMIZERS[optimizer]),
        betas=(float(record["adam_beta1"]), float(record["adam_beta2"])),
        epsilon=float(record["adam_epsilon"]),
        weight_decay=float(record["weight_decay"]),
        schedule=cast("Any", _SCHEDULES[schedule]),
        warmup=int(record["warmup_steps"]),
        clip=float(record["max_grad_norm"]) or None,
    )
    named: object = record.get("initial")
    initial = base or (StoredName(named) if isinstance(named, str) and named else None)
    fresh = initial is None and all(map(drawn, places))
    initial = FRESH if fresh else initial
    notes = ("recorded by proponent.Recorder",)
    return RerunSettings(replace(settings, **given), initial, notes, fresh)


def starting_weights(run: Run, given: str | None) -> str:
    """Initial weights of a retraining: the given ones, or those that the run records."""
    found = given or settings_of_run(run).initial
    if found is None:
        raise InputError(
            f"the initial weights of the run in {run.path} are unknown: give --initial with the folder or name of the "
            "pretrained model, or --initial fresh for randomly initialized weights"
        )
    return found


def _assumed(run: Run) -> tuple[Settings, tuple[str, ...]]:
    path = run.checkpoints[-1].path / "trainer_state.json"
    state = read_settings(path) if path.is_file() else {}
    logged = [float(one["learning_rate"]) for one in state.get("log_history", []) if "learning_rate" in one]
    settings = Settings(
        epochs=max(1, round(float(state.get("num_train_epochs", 3)))),
        batch_size=int(state.get("train_batch_size") or 8),
        learning_rate=max(logged, default=5e-5),
        schedule="linear",
        clip=1.0,
    )
    said = "trainer_state.json" if state else "the Trainer's defaults"
    return settings, (
        f"epochs, batch size and rate are from {said}; AdamW, a linear schedule, no weight decay and clipping at 1 "
        "are assumed: train with proponent.Recorder to record them",
    )


def write_run(
    loop: TrainingLoop,
    folder: Path,
    seed: int,
    *,
    checkpoints: int | None = None,
    quiet: bool = True,
    around: Around | None = None,
) -> Run:
    """Train the run again into a folder that all commands can read, with equidistant checkpoints or one per epoch."""
    done = recorded(folder, "proponent_retrained.json")
    problem = cast("RunProblem", loop.problem)
    if not done.is_file():
        settings = loop.settings
        total = settings.epochs * -(-loop.size // settings.batch_size)
        at_steps = () if checkpoints is None else spread(total, checkpoints)
        count = len(at_steps) or settings.epochs
        passed = track(range(count), total=count, label="training the scored run", unit="checkpoints", quiet=quiet)
        next(passed)
        mark = f"{hashlib.sha256(loop.identity.encode()).hexdigest()[:16]}-{seed}"

        def watch(model: nn.Module, optimizer: torch.optim.Optimizer, number: int) -> None:
            step = number + 1
            at = folder / f"checkpoint-{step}"
            moments = second_moments(model, optimizer, every=True)
            rate = max(float(group["lr"]) for group in optimizer.param_groups) or settings.learning_rate
            record = {"version": 1, "step": step, "learning_rate": rate, "learning_rates": [rate], "seed": seed}
            noted = json.dumps(record | {"optimizer": settings.optimizer, TRAINING: mark}).encode()

            def further(home: Path) -> None:
                if moments:
                    write_tensors(home / MOMENTS_FILE, moments, {TRAINING: mark})
                write_bytes(home / RECORD_FILE, noted)

            save_model(at, model, problem.run.tokenizer, further=further, replace=True)
            next(passed, None)

        loop.fit(np.arange(loop.size), seed, watch, at_steps, around)
        if problem.counting is not None:
            write_bytes(folder / RUN_FILE, json.dumps(_counted_as(problem, problem.counting)).encode())
        write_bytes(done, json.dumps({"identity": loop.identity, "seed": seed}).encode())
    run = problem.run
    return Run.from_pretrained(folder, trust_remote_code=run.trust_remote_code, **run.placement.options)


def _counted_as(problem: RunProblem, counting: Counting) -> dict[str, Any]:
    """A run's record of how its rows became tokens, as the Recorder writes it."""
    own = getattr(problem.run.tokenizer, "chat_template", None)
    note = {"trl": counting.source, "template": own if counting.template is None else counting.template}
    note |= {"max_length": problem.max_length, "packing": "", "loss_type": None, "date": counting.date}
    note |= {"assistant_only": counting.assistant_only, "completion_only": counting.completion_only}
    return {"version": 1, "initial": problem.initial, "finished": True, "sft": note}


def _configuration(run: Run) -> dict[str, Any]:
    folder = run.checkpoints[-1].path
    path = folder / "config.json"
    if run.info.adapter:
        return {name: value for name, value in adapter_settings(folder).items() if name not in _PLACES}
    found = read_settings(path) if path.is_file() else {}
    return {name: value for name, value in found.items() if name not in {"_name_or_path", "transformers_version"}}
