"""The run of an index: checked against the fingerprints in the index, its checkpoints loaded when needed."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import torch
from torch import nn

from proponent.errors import InputError, MismatchError, RunError
from proponent.gradients.computer import NO_GRADIENTS, GradientComputer, GradientSpec
from proponent.gradients.layer_vectors import LayerVectors
from proponent.index.model_check import STORED_TABLES, too_coarse
from proponent.index.planning import planned_blocks
from proponent.index.row_check import tell_batches
from proponent.method import Gradients, Retaken
from proponent.models import Encoder, Masks, Run
from proponent.models.placement import HERE, Placement, free_bytes
from proponent.models.run_files import StoredName
from proponent.preconditioners.base import install_fitted
from proponent.shown_places import as_shown
from proponent.store import Store
from proponent.types import CheckpointId

KEPT_BYTES = 4 * 2**30
"""Maximum memory of loaded checkpoints between two queries."""


_UNCHECKED = {"moments", "queries", "dtype"}
"""Facts of a build that a run does not have, or need not share."""


def _are_folders(named: object) -> bool:
    """Whether these are paths, at least one."""
    paths: list[object] = [*named] if isinstance(named, Sequence) else []
    return bool(paths) and all(isinstance(one, str | Path) for one in paths)


class LoadedRun:
    """The run of an index and its checkpoints."""

    def __init__(
        self,
        store: Store,
        run: str | Path | Sequence[str | Path] | None,
        trust_remote_code: bool,
        base: str | Path | None,
        say: Callable[[str], None],
        placed: Placement = HERE,
    ) -> None:
        self.store, self._trust_remote_code, self.say = store, trust_remote_code, say
        self._placed = placed
        coarse = too_coarse(store.plan.term, self._placed.dtype)
        if coarse is not None:
            raise InputError(coarse)
        stored = None if store.plan.base is None else StoredName(store.plan.base)
        self._base = stored if base is None else base
        named = run if run is not None else store.plan.joined or store.plan.run
        folders = [named] if isinstance(named, str | Path) else named
        if not _are_folders(folders):
            raise InputError(f"run is {run!r}: give the folder of the run, or a list of folders of joined runs")
        self._folders = [Path(one) for one in folders]
        self._models: dict[CheckpointId, nn.Module] = {}
        self._computers: dict[CheckpointId, GradientComputer] = {}
        self._solving: dict[CheckpointId, GradientComputer] = {}
        self._embedding: dict[CheckpointId, GradientComputer] = {}

    @cached_property
    def run(self) -> Run:
        """See `Index.run`."""
        plan = self.store.plan
        if plan.trust_remote_code and not self._trust_remote_code:
            raise InputError(
                f"the run of {self.store.folder} needs custom code from its model: if you trust it, allow it with "
                "--trust-remote-code (trust_remote_code=True)"
            )
        gone = next((one for one in self._folders if not one.exists()), None)
        if gone is not None:
            raise RunError(
                f"no run at {gone}, the run that {self.store.folder} was built from: if it has moved, give its new "
                "folder with --run (run=)"
            )
        runs = [
            Run.from_pretrained(
                one,
                tokenizer=None if plan.tokenizer is None else StoredName(plan.tokenizer),
                base=self._base,
                trust_remote_code=self._trust_remote_code,
                **self._placed.options,
            )
            for one in self._folders
        ]
        run = (runs[0] if len(runs) == 1 else Run.join(runs)).named(plan.data_names or None)
        if run.task.sharing:
            encoder = run.encoder(plan.max_length, Masks.of(plan.term), plan.counting)
            held = map(self.store.example, range(self.store.n))
            tell_batches(run, encoder, held, str(self.store.folder), kept=False)
        for name, value in plan.fingerprints.items():
            found = value if name.split()[0] in _UNCHECKED else run.fingerprints.get(name, "missing")
            if found != value:
                raise MismatchError(
                    f"the run in {self._folders[0]} is not the run that {self.store.folder} was built from: its "
                    f"{name} is {found[:12]}, not {value[:12]}: give the right run with --run, or build the index "
                    "again"
                )
        return run

    @property
    def encoder(self) -> Encoder:
        """Encodes texts exactly as the build did."""
        plan = self.store.plan
        return self.run.encoder(plan.max_length, Masks.of(plan.term), plan.counting)

    def at(self, step: CheckpointId) -> GradientComputer:
        """A checkpoint that computes the gradients that the index stores, loaded or cached."""
        if step not in self._computers:
            method, model = self.store.plan.term, self._model(step)
            pooled = isinstance(method, Retaken) or step == self.store.plan.checkpoints[-1].id
            spec = replace(self._spec(model), pooled=pooled)
            self._computers[step] = GradientComputer(self.run, model, method, self.encoder, spec)
            install_fitted(method, self._computers[step], lambda: self.store.table(step))
        return self._computers[step]

    def solving(self, step: CheckpointId) -> GradientComputer:
        """A checkpoint that computes layer gradients for a method that solves per query."""
        if step not in self._solving:
            method, model = self.store.plan.term, self._model(step)
            assert isinstance(method, Retaken)
            spec = GradientSpec.of_layers(method, self.run, model)
            self._solving[step] = GradientComputer(self.run, model, method, self.encoder, spec)
        return self._solving[step]

    def embedding(self, step: CheckpointId) -> GradientComputer:
        """A checkpoint that computes the rows of the word embedding, whatever the index stores."""
        if step not in self._embedding:
            model, objective = self._model(step), self.store.plan.term.objective
            spec = replace(NO_GRADIENTS, rows=True)
            method = Gradients(objective=objective)
            self._embedding[step] = GradientComputer(self.run, model, method, self.encoder, spec)
        return self._embedding[step]

    def forward(self, step: CheckpointId) -> GradientComputer:
        """A checkpoint that computes mean losses of tokens, and no gradients."""
        return GradientComputer(self.run, self._model(step), Gradients(), self.encoder, NO_GRADIENTS)

    def _spec(self, model: nn.Module) -> GradientSpec:
        method, kept = self.store.plan.term, self.store.plan.blocks
        taken = 0
        for how in STORED_TABLES:
            try:
                spec = GradientSpec.of_index(method, self.run, model, **how)
            except InputError:  # a table that earlier versions projected
                continue
            blocks = planned_blocks(LayerVectors.of(spec.choice, method))
            if blocks == kept and spec.path == self.store.plan.embedding_path:
                return spec
            taken = len(blocks)
        # earlier versions stored the word embedding apart from the layers with a preconditioner
        raise MismatchError(
            f"{self.store.folder} stores {len(kept)} layers, but {method.name} now uses {taken}, because a "
            "preconditioner also works on the word embedding: build the index again"
        )

    def _make_room(self) -> None:
        """Forget loaded checkpoints before a further one would be too many; it has their size."""
        sizes = [sum(one.nbytes for one in model.parameters()) for model in self._models.values()]
        if not sizes:
            return
        sides = [free_bytes(torch.device(one)) for one in self.run.placement.devices]
        known = [one for one in sides if one is not None]
        free = sum(known) if known else None  # half of it is left for passes
        if sum(sizes) + max(sizes) > KEPT_BYTES or (free is not None and max(sizes) > free // 2):
            for held in (self._models, self._computers, self._solving, self._embedding):
                held.clear()

    def _model(self, step: CheckpointId) -> nn.Module:
        if step not in self._models:
            checkpoint = next(one for one in self.run.saved if one.id == step)
            self._make_room()
            self.say(f"loading the model of {step}")
            self._models[step] = self.run.load(checkpoint)
        return self._models[step]


def summary(store: Store) -> dict[str, object]:
    """Contents and cost of an index, as plain data."""
    plan, manifest = store.plan, store.manifest
    return {
        "index": as_shown(str(store.folder)),
        "method": plan.method.name,
        "embedding_path": plan.embedding_path,
        "examples": store.counts.examples,
        "deleted": store.counts.deleted,
        "checkpoints": [one.shown for one in plan.checkpoints],
        "skipped": [one.model_dump() for one in manifest.skipped],
        "notes": list(manifest.notes),
        "seconds": dict(manifest.seconds),
        "merkle_root": manifest.merkle_root,
    }
