"""Record what each example changes while a Hugging Face Trainer trains in batches of one."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from proponent.errors import RunError
from proponent.models.change_record import ChangeRecorder, recorded_parameters
from proponent.models.training_trace import watch_rows


class ChangeWatch:
    """Records the changes of every step of a Trainer."""

    def __init__(self, args: Any, state: Any, model: Any, optimizer: Any, loader: Any, parts: tuple[str, ...]) -> None:
        inner = getattr(model, "module", model)
        _refuse_mixed(args, state, loader)
        self._watched = watch_rows(loader)
        self._parts, self._step, self._longest = parts, 0, 0
        self._optimizer = _named(getattr(optimizer, "optimizer", optimizer))
        self._passes = max(1, int(np.ceil(max(args.num_train_epochs, state.num_train_epochs or 0))))
        self._recorder = ChangeRecorder(inner, recorded_parameters(inner, parts), len(loader.dataset), self._passes)
        self._ids = np.zeros(0, dtype=np.int64)
        self._hook = inner.register_forward_pre_hook(self._see, with_kwargs=True)

    def _see(self, module: torch.nn.Module, inputs: Any, named: dict[str, Any]) -> None:
        if not module.training:
            return
        ids: Tensor | None = named.get("input_ids", inputs[0] if inputs else None)
        if ids is None:
            raise RunError("Recorder(changes=...) needs token ids (input_ids), and the model was given something else")
        mask = named.get("attention_mask")
        self._ids = (ids if mask is None else ids[mask.bool()]).detach().cpu().numpy().ravel()
        self._longest = max(self._longest, len(self._ids))

    def begin(self) -> None:
        """Before the optimizer's step."""
        self._recorder.begin(self._ids)

    def end(self) -> None:
        """After it."""
        epoch, row = self._watched.place(self._step)
        self._recorder.end(row, min(epoch, self._passes - 1), self._ids)
        self._step += 1

    def write(self, folder: Path) -> None:
        """Write the record into the run's folder."""
        self._hook.remove()
        self._recorder.changes(
            {"parts": list(self._parts), "max_length": self._longest, "optimizer": self._optimizer}
        ).write(folder)


def _refuse_mixed(args: Any, state: Any, loader: Any) -> None:
    wrong = {
        f"batches of {args.train_batch_size}": args.train_batch_size != 1,
        "gradient accumulation": args.gradient_accumulation_steps > 1,
        "several processes or devices": args.world_size > 1 or args.n_gpu > 1,
        "half precision": bool(args.bf16 or args.fp16),
    }
    found = next((name for name, holds in wrong.items() if holds), None)
    if found is not None:
        raise RunError(
            f"Recorder(changes=...) cannot tell the changes of one example apart with {found}: set "
            "per_device_train_batch_size=1, and leave the rest at its default"
        )
    if state.global_step:
        raise RunError("Recorder(changes=...) cannot record a training that resumes: start it again from the beginning")
    if not hasattr(loader.dataset, "__len__"):
        raise RunError("Recorder(changes=...) needs a data set whose rows can be counted, and this one is a stream")


def _named(optimizer: Any) -> str:
    """The optimizer; with momentum, an update holds those of earlier examples."""
    name = type(optimizer).__name__.lower()
    momentum = any(group.get("momentum") for group in optimizer.param_groups)
    return f"{name} with momentum" if name == "sgd" and momentum else name
