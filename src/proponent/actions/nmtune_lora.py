"""NMTune as a regulariser of LoRA: the encoder is tuned, and its features stay near those of pre-training.

The journal version of Chen et al. (arXiv 2403.06869) tunes parameter-efficiently where the encoder is at hand: Z are
the features of the tuned encoder, F those of the frozen one, and the losses of NMTune are the same.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from proponent.actions.nmtune import Form, HeadSettings, regulariser
from proponent.actions.text_features import Encoder, LabelledTexts, refuse_unreadable, text_features
from proponent.errors import InputError
from proponent.evaluate.intervals import bootstrap, paired
from proponent.evaluate.report import figure, verdict
from proponent.models.adapter_modules import lora
from proponent.models.model_outputs import pooled
from proponent.models.placement import host
from proponent.progress import track
from proponent.training.descent import descend
from proponent.training.loop import one_thread
from proponent.types import Example
from proponent.views import EvaluationReport, Figure, MethodFigures

Tuning = Literal["LoRA", "LoRA with NMTune"]
TUNINGS: dict[Tuning, str] = {
    "LoRA with NMTune": "the encoder tuned by LoRA, with the losses of NMTune between its features and the frozen ones",
    "LoRA": "the same adapter and head, cross entropy only",
}
"""Ways to tune an encoder, in words; the second is the control."""


@dataclass(frozen=True)
class LoraSettings:
    """Hyper-parameters of the tuning of an encoder."""

    rank: int = 8
    epochs: int = 3
    batch_size: int = 32
    learning_rate: float = 1e-3
    weight_decay: float = 1e-4
    max_length: int = 128

    def check(self, rows: int, kind: Tuning, form: Form) -> None:
        """Refuse invalid settings, and batches that are too small for the losses of NMTune."""
        for name in ("rank", "epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}: must be at least 1")
        if kind == "LoRA with NMTune":
            HeadSettings(batch_size=self.batch_size).check(rows, "NMTune", form)


_SETTINGS = LoraSettings()


def tuned_accuracies(
    encoder: str | Path,
    train: LabelledTexts,
    tests: Mapping[str, LabelledTexts],
    kind: Tuning = "LoRA with NMTune",
    *,
    form: Form = "paper",
    settings: LoraSettings = _SETTINGS,
    seeds: int = 3,
    frozen: Float[np.ndarray, "m d"] | None = None,
    trust_remote_code: bool = False,
    quiet: bool = False,
    device: str = "auto",
) -> dict[str, Float[np.ndarray, " n"]]:
    """Tune an encoder by LoRA and measure it on some test sets.

    Args:
        encoder: folder or name of a pretrained model.
        train: rows to train on, with their class numbers.
        tests: rows to measure on, by name.
        kind: with the losses of NMTune, or without.
        form: see `nmtune.fit_head`.
        settings: of the adapter and its training.
        seeds: trainings.
        frozen: features of the training rows by the encoder as it is; without them the rows are encoded.
        trust_remote_code: run code that the model brings.
        quiet: no progress on stderr.
        device: cpu, cuda, cuda:N or mps; auto takes the first CUDA device, else the CPU.

    Returns:
        For each test set, the share of the seeds that predict a row rightly.

    Raises:
        InputError: one class, no rows, or a training that diverges.

    Source:
        Chen et al. 2024, Impact of Noisy Supervision in Foundation Model Learning (arXiv 2403.06869).
    """
    rows, labels = train.examples, train.labels
    if len(np.unique(labels)) < 2:
        raise InputError("tuning needs at least two classes")
    settings.check(len(rows), kind, form)
    for some in (train, *tests.values()):
        refuse_unreadable(some.examples)
    options: dict[str, Any] = {"max_length": settings.max_length, "trust_remote_code": trust_remote_code}
    options["device"] = device
    frozen = text_features(encoder, rows, **options) if frozen is None else frozen
    found = {name: np.zeros(len(one)) for name, one in tests.items()}
    for seed in range(seeds):
        with one_thread(), cast("Any", torch).random.fork_rng(devices=[]):
            cast("Any", torch).default_generator.manual_seed(seed)
            tuned = _Tuned.of(Encoder.load(encoder, **options), settings.rank, frozen.shape[1], int(labels.max()) + 1)
            tuned.fit(rows, labels, frozen, form if kind != "LoRA" else None, settings, seed, quiet)
            for name, some in tests.items():
                found[name] += (tuned.predict(some.examples) == some.labels) / seeds
    return found


def with_lora(
    page: EvaluationReport,
    encoders: Mapping[str, Float[np.ndarray, "m _d"]],
    train: LabelledTexts,
    tests: Mapping[str, LabelledTexts],
    *,
    form: Form = "paper",
    settings: LoraSettings = _SETTINGS,
    seeds: int = 3,
    trust_remote_code: bool = False,
    quiet: bool = False,
    device: str = "auto",
) -> EvaluationReport:
    """Add rows to a page of `nmtune.head_report`: each encoder, given with its frozen features, tuned by LoRA."""
    rows: list[MethodFigures] = []
    for encoder, frozen in encoders.items():
        right = {
            kind: tuned_accuracies(
                encoder, train, tests, kind,
                form=form, settings=settings, seeds=seeds, frozen=frozen,
                trust_remote_code=trust_remote_code, quiet=quiet, device=device,
            )
            for kind in TUNINGS
        }  # fmt: skip
        pooled_rows = {kind: np.concatenate(list(each.values())) for kind, each in right.items()}
        judged = verdict(paired(pooled_rows["LoRA with NMTune"], pooled_rows["LoRA"]), "LoRA")
        for kind, each in right.items():
            figures = (
                *(figure(test, bootstrap(each[test])) for test in tests),
                Figure("SVE", None),
                Figure("LSVR", None),
            )
            name = f"{encoder}: {kind}" if len(encoders) > 1 else kind
            rows.append(MethodFigures(name, kind == "LoRA", figures, judged if kind != "LoRA" else ""))
    told = (
        f"LoRA: rank {settings.rank}, {settings.epochs} epochs, batches of {settings.batch_size}, rate "
        f"{settings.learning_rate:g}; its rows have no SVE and LSVR, for the features change"
    )
    ordered = sorted((*page.rows, *rows), key=lambda one: one.control)
    notes = (*page.notes, *(f"{kind}: {said}" for kind, said in TUNINGS.items()), told)
    return replace(page, rows=tuple(ordered), notes=notes)


@dataclass(frozen=True)
class _Tuned:
    """An encoder under an adapter, and a linear head."""

    encoder: Encoder
    adapted: nn.Module
    head: nn.Linear

    @classmethod
    def of(cls, encoder: Encoder, rank: int, width: int, labels: int) -> "_Tuned":
        return cls(encoder, lora(encoder.model, rank), nn.Linear(width, labels).to(encoder.device))

    def fit(
        self,
        rows: Sequence[Example],
        labels: Int[np.ndarray, " n"],
        frozen: Float[np.ndarray, "n d"],
        form: Form | None,
        settings: LoraSettings,
        seed: int,
        quiet: bool,
    ) -> None:
        """Train adapter and head; a form adds the losses of NMTune."""
        generator, size = np.random.default_rng(seed), settings.batch_size
        free = [one for one in (*self.adapted.parameters(), *self.head.parameters()) if one.requires_grad]
        optimizer = torch.optim.AdamW(free, lr=settings.learning_rate, weight_decay=settings.weight_decay)
        batches = [
            order[start : start + size]
            for order in (_whole(generator.permutation(len(rows)), size) for _ in range(settings.epochs))
            for start in range(0, len(order), size)
        ]

        def loss_of(places: Int[np.ndarray, " b"]) -> Float[Tensor, ""]:
            made = pooled(self.adapted, self.encoder.inputs([rows[int(at)] for at in places]))
            loss = nn.functional.cross_entropy(self.head(made), torch.as_tensor(labels[places], device=made.device))
            if form is None:
                return loss
            return loss + regulariser(made, torch.as_tensor(frozen[places], device=made.device), form)

        passed = track(batches, total=len(batches), label="tuning", unit="steps", quiet=quiet)
        descend(optimizer, map(loss_of, passed), "tuning by LoRA", cosine=len(batches))

    def predict(self, rows: Sequence[Example]) -> Int[np.ndarray, " n"]:
        """Classes of some rows."""
        made: list[np.ndarray] = []
        with torch.inference_mode():
            for start in range(0, len(rows), 32):
                states = pooled(self.adapted, self.encoder.inputs(list(rows[start : start + 32])))
                made.append(host(self.head(states).argmax(1)))
        return np.concatenate(made)


def _whole(order: Int[np.ndarray, " n"], size: int) -> Int[np.ndarray, " m"]:
    """Rows of full batches only: the losses of NMTune compare batches of one size; fewer rows are one batch."""
    return order[: len(order) - len(order) % size] if len(order) > size else order
