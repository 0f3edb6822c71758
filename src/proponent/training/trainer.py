"""Fine-tune with the Hugging Face Trainer and the Recorder, for users without a run.

Without a model it trains a small transformer from scratch with a tokenizer trained on the data, offline.
"""

import math
import os
import shutil
import signal
import threading
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, fields
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.utils.rnn import pad_sequence

from proponent.data import Examples
from proponent.disk import is_full, remove_all_in, remove_folder
from proponent.errors import DiskFullError, InputError, MismatchError, MissingExtraError, first_line
from proponent.hub import require_model
from proponent.models import Run
from proponent.models.huggingface import load_tokenizer, positions, transformers
from proponent.models.huggingface import quiet as quiet_transformers
from proponent.models.placement import Placement
from proponent.models.recorder import Recorder
from proponent.models.run_record import CHECKPOINTS, TUNED_CHECKPOINTS
from proponent.models.scratch import byte_bpe, causal_lm, classifier, wordpiece
from proponent.models.tasks.classification import refuse_end_token
from proponent.progress import track
from proponent.training.class_names import label_names, refuse_unread
from proponent.training.weighted_trainer import WeightedTrainer
from proponent.types import Example

COUNTED_OUT = -100
"""Label of a token that does not count in the loss."""

WEIGHT = "weight"
"""Name of the weight of an example in its features."""

_FULL = 64 * 1024
"""Free bytes below which a failed write of torch, whose message has no cause, counts as a full disk."""


@dataclass(frozen=True)
class Training:
    """Settings of a training."""

    model: str | None = None  # name or folder; None trains a small one from scratch
    epochs: int = 3
    # number of equidistant checkpoints; None: 10 for a model from scratch, 4 for a pretrained one
    checkpoints: int | None = None
    half: bool = False  # store their weights as 16-bit floats
    batch_size: int = 32
    learning_rate: float | None = None  # None: 1e-3 from scratch, 5e-5 for a pretrained model
    max_length: int = 128
    seed: int = 0
    width: int = 128
    layers: int = 2
    vocabulary: int = 8000
    replay: bool = False  # record every step; attention then avoids fused kernels
    adam_epsilon: float = 1e-8  # a larger value makes training smoother, which replay needs
    quiet: bool = False
    # cpu, cuda, cuda:0 or mps; auto takes the first CUDA device, or the CPU without one and with replay
    device: str = "auto"
    dtype: str = "float32"  # of the passes; weights have 32 bits

    @property
    def placement(self) -> Placement:
        """The device and the precision of the passes."""
        return Placement.of("cpu" if self.replay and self.device == "auto" else self.device, self.dtype)

    def check(self) -> None:
        """Refuse invalid settings."""
        whole = {"epochs": 1, "batch_size": 1, "max_length": 8, "width": 2, "layers": 1, "vocabulary": 1}
        for name, least in whole.items():
            if getattr(self, name) < least:
                raise InputError(f"--{name.replace('_', '-')} {getattr(self, name)}: must be at least {least}")
        if self.checkpoints is not None and self.checkpoints < 1:
            raise InputError(f"--checkpoints {self.checkpoints}: must be at least 1")
        for name, value in {"learning-rate": self.learning_rate, "adam-epsilon": self.adam_epsilon}.items():
            if value is not None and not (math.isfinite(value) and value > 0):
                raise InputError(f"--{name} {value}: must be a number above 0")
        if not 0 <= self.seed < 2**32:
            raise InputError(f"--seed {self.seed}: must be a whole number from 0 to 4294967295")
        self._check_placement(self.placement)

    def _check_placement(self, place: Placement) -> None:
        if place.device.startswith("cuda") and place.device != "cuda:0":
            raise InputError(
                f"--device {place.device} (device=): the Trainer takes the first CUDA device; make this one the first "
                f"with the environment variable CUDA_VISIBLE_DEVICES={place.device[5:]}, and give --device cuda"
            )
        if place.dtype == "float16" and not place.device.startswith("cuda"):
            raise InputError(f"--dtype float16 (dtype=) needs a CUDA device to train: take bfloat16 on {place.device}")


def train(examples: Examples, out: str | Path, training: Training = Training()) -> Run:
    """Train a classifier (if the data has labels) or a causal language model (if it has none)."""
    _require_accelerate()
    training.check()
    folder = empty_folder(out)
    names, weights = label_names(examples), examples.weights
    weights = None if weights is None or (weights == 1).all() else weights  # weights of 1 are a plain training
    refuse_unread(examples, labelled=names is not None)
    quiet_transformers()
    transformers.set_seed(training.seed)
    tokenizer, model = untrained(examples, names, training)
    rows = [_features(tokenizer, example, names, training.max_length) for example in examples]
    if weights is not None:
        rows = [row | {WEIGHT: weight} for row, weight in zip(rows, weights.tolist(), strict=True)]
    # Replay needs second derivatives, which the fused attention kernels lack.
    kernels = cast("Any", sdpa_kernel)(SDPBackend.MATH) if training.replay else nullcontext()
    with whole_or_gone(folder), kernels:
        _trainer(
            model, tokenizer, rows, folder, training, examples.columns.weight if weights is not None else ""
        ).train()
    return Run.from_pretrained(folder, device=training.placement.device)


def empty_folder(out: str | Path) -> Path:
    """A folder for a run, which must be new or empty."""
    folder = Path(out)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise MismatchError(f"{folder} is not an empty folder: choose another --out")
    return folder


@contextmanager
def whole_or_gone(folder: Path) -> Generator[None]:
    """Remove the files of a training that is stopped, by a signal too."""
    with _ended_by_signals(), _whole_or_gone(folder):
        yield


@contextmanager
def _ended_by_signals() -> Generator[None]:
    """Let SIGTERM and SIGHUP end a training like Ctrl-C; signals that are ignored or handled are left alone."""

    def end(number: int, _frame: object) -> None:
        os.write(2, f"stopped by {signal.Signals(number).name}: the unfinished run is removed\n".encode())
        raise SystemExit(128 + number)

    numbers = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    own = threading.current_thread() is threading.main_thread()  # other threads must not set handlers
    taken = [one for one in numbers if own and signal.getsignal(one) is signal.SIG_DFL]
    for one in taken:
        signal.signal(one, end)
    try:
        yield
    finally:
        for one in taken:
            signal.signal(one, signal.SIG_DFL)


@contextmanager
def _whole_or_gone(folder: Path) -> Generator[None]:
    """Remove the files of a stopped training from its (new or empty) folder: a partial run would look complete."""
    there = folder.exists()
    try:
        yield
    except BaseException as error:
        full = is_full(error) or (
            isinstance(error, RuntimeError) and folder.exists() and shutil.disk_usage(folder).free < _FULL
        )
        remove_all_in(folder)
        if folder.exists() and not there:
            remove_folder(folder)
        if full:
            raise DiskFullError(f"{folder}: no space left to write it: free some space and run again") from error
        raise


def _require_accelerate() -> None:
    if find_spec("accelerate") is None:
        raise MissingExtraError("training needs accelerate: pip install 'proponent[train]'")


def untrained(examples: Examples, names: Sequence[str] | None, training: Training) -> tuple[Any, Any]:
    """Tokenizer and model before training."""
    if training.model is None:
        return _scratch(examples, names, training)
    return _pretrained(training.model, examples, names, training)


def _scratch(examples: Examples, names: Sequence[str] | None, training: Training) -> tuple[Any, Any]:
    texts = [part for example in examples for part in example.parts]
    if names is None:
        tokenizer = byte_bpe(texts, training.vocabulary, training.max_length)
        return tokenizer, causal_lm(tokenizer, training.width, training.layers, training.max_length)
    tokenizer = wordpiece(texts, training.vocabulary, training.max_length)
    return tokenizer, classifier(tokenizer, names, training.width, training.layers, training.max_length)


def _pretrained(name: str, examples: Examples, names: Sequence[str] | None, training: Training) -> tuple[Any, Any]:
    require_model(name)
    tokenizer = load_tokenizer(Path(name))
    options: dict[str, Any] = {"use_safetensors": True, "dtype": torch.float32, "trust_remote_code": False}
    loader: Any = transformers.AutoModelForCausalLM
    if names is not None:
        loader = transformers.AutoModelForSequenceClassification
        numbers = {label: number for number, label in enumerate(names)}
        options |= {"num_labels": len(names), "id2label": dict(enumerate(names)), "label2id": numbers}
        options["ignore_mismatched_sizes"] = True  # a head for other labels is replaced by a fresh one; see below
    try:
        model, report = loader.from_pretrained(name, output_loading_info=True, **options)
    except Exception as error:  # the loaders of different models raise different errors
        raise InputError(
            f"cannot load the model {name}: {first_line(error)}: give a folder or a hub name, "
            "or leave --model out to train a small one from scratch"
        ) from error
    _check_pretrained(name, model, report, training)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    for example in examples if names is not None and model.config.is_encoder_decoder else ():
        refuse_end_token(example, tokenizer)
    if names is not None and model.config.pad_token_id is None:
        model.config.pad_token_id = tokenizer.pad_token_id
    return tokenizer, model


def _check_pretrained(name: str, model: Any, report: Any, training: Training) -> None:
    unlike = sorted(str(one[0]) for one in report["mismatched_keys"])
    body = [key for key in unlike if key.startswith(f"{model.base_model_prefix}.")]
    if body:
        raise InputError(
            f"cannot load the model {name}: {body[0]} has a different shape from the one in its config.json"
        )
    limit = positions(model.config)
    if limit is not None and training.max_length > limit:
        raise InputError(f"--max-length {training.max_length} is more than the {limit} tokens that {name} supports")


def _features(tokenizer: Any, example: Example, names: Sequence[str] | None, max_length: int) -> dict[str, Any]:
    if names is not None:
        encoded = dict(tokenizer(example.text, example.text_pair, truncation=True, max_length=max_length))
        return encoded | {"labels": names.index(str(example.label))}
    encoded = tokenizer("".join(example.parts), truncation=True, max_length=max_length, return_offsets_mapping=True)
    seam = len(example.text)
    labels = [
        token if example.target is None or end > seam else COUNTED_OUT
        for token, (_, end) in zip(encoded["input_ids"], encoded["offset_mapping"], strict=True)
    ]
    return {"input_ids": encoded["input_ids"], "attention_mask": encoded["attention_mask"], "labels": labels}


def _by_length() -> dict[str, Any]:
    """The option for batches of texts of similar length, as named by this version of transformers."""
    if any(one.name == "train_sampling_strategy" for one in fields(cast("Any", transformers.TrainingArguments))):
        return {"train_sampling_strategy": "group_by_length"}
    return {"group_by_length": True}


def _trainer(
    model: Any, tokenizer: Any, rows: list[dict[str, Any]], folder: Path, training: Training, weight_column: str
) -> Any:
    rate = training.learning_rate or (1e-3 if training.model is None else 5e-5)
    kept = training.checkpoints or (CHECKPOINTS if training.model is None else TUNED_CHECKPOINTS)
    initial = training.model or "fresh"
    recorder = Recorder(initial=initial, replay=training.replay, checkpoints=kept, half=training.half)
    place = training.placement
    arguments = cast("Any", transformers.TrainingArguments)(
        output_dir=str(folder),
        num_train_epochs=training.epochs,
        per_device_train_batch_size=training.batch_size,
        learning_rate=rate,
        adam_epsilon=training.adam_epsilon,
        seed=training.seed,
        save_strategy="no",
        save_only_model=True,
        logging_strategy="epoch",
        report_to=[],
        use_cpu=place.device == "cpu",
        bf16=place.dtype == "bfloat16",
        fp16=place.dtype == "float16",
        disable_tqdm=True,
        dataloader_pin_memory=False,
        **_by_length(),
    )
    one_device(arguments)
    kind = partial(WeightedTrainer, weight_column=WEIGHT) if weight_column else transformers.Trainer
    trainer = cast("Any", kind)(
        model=model,
        args=arguments,
        train_dataset=cast("Any", rows),
        processing_class=tokenizer,
        callbacks=[recorder, Watch(training.quiet)],
        data_collator=_Padding(tokenizer.pad_token_id or 0),
    )
    recorder.weight_column = weight_column or None  # the name in the data
    for noisy in (transformers.PrinterCallback, transformers.ProgressCallback):
        trainer.remove_callback(noisy)
    return trainer


def one_device(arguments: Any) -> None:
    """Let a Trainer use one CUDA device, where it would split batches over all of them."""
    if arguments.n_gpu > 1:  # asks for the devices, so that they are not counted again
        arguments._n_gpu = 1


class Watch(transformers.TrainerCallback):  # loaded here: it imports datasets, pandas and more
    """Progress on stderr, as everywhere else, instead of the Trainer's prints on stdout."""

    def __init__(self, quiet: bool) -> None:
        self._quiet = quiet
        self._steps: Iterator[int] = iter(())

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        """Start counting steps."""
        total = int(state.max_steps)
        self._steps = track(range(total), total=total, label="training", unit="steps", quiet=self._quiet)
        next(self._steps, None)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        """Count one step."""
        next(self._steps, None)


@dataclass(frozen=True)
class _Padding:
    """Pad a batch on the right."""

    pad_id: int

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        fill = {"input_ids": self.pad_id, "labels": COUNTED_OUT}
        batch: dict[str, torch.Tensor] = {}
        for name in rows[0]:
            kind = torch.float32 if name == WEIGHT else torch.long
            values = [torch.tensor(row[name], dtype=kind) for row in rows]
            # a classifier's label and a weight are single numbers
            batch[name] = (
                pad_sequence(values, batch_first=True, padding_value=fill.get(name, 0))
                if values[0].ndim
                else torch.stack(values)
            )
        return batch
