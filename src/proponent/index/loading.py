"""The run behind an index: checked against what the index was built from, its checkpoints loaded when needed."""

from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
from jaxtyping import Float
from torch import nn

from proponent.errors import InputError, MismatchError, RunError
from proponent.index.gradient_computer import GradientComputer
from proponent.method import Retaken
from proponent.models import Encoder, Masks, Run
from proponent.store import Store
from proponent.types import CheckpointId, Example

KEPT_BYTES = 4 * 2**30
"""Most memory that loaded checkpoints may take between two questions."""


class LoadedRun:
    """The run of an index and its checkpoints."""

    def __init__(
        self,
        store: Store,
        run: str | Path | Sequence[str | Path] | None,
        trust_remote_code: bool,
        say: Callable[[str], None],
    ) -> None:
        self.store, self._trust_remote_code, self.say = store, trust_remote_code, say
        named = run if run is not None else store.plan.joined or store.plan.run
        self._folders = [Path(named)] if isinstance(named, str | Path) else [Path(one) for one in named]
        self._passes: dict[tuple[CheckpointId, bool], GradientComputer] = {}

    @cached_property
    def run(self) -> Run:
        """See `Index.run`."""
        plan = self.store.plan
        if plan.trust_remote_code and not self._trust_remote_code:
            raise InputError(
                f"the run of {self.store.folder} needs code that comes with its model: if you trust it, allow it with "
                "--trust-remote-code (trust_remote_code=True)"
            )
        gone = next((one for one in self._folders if not one.exists()), None)
        if gone is not None:
            raise RunError(
                f"no run at {gone}, from which {self.store.folder} was built: "
                "if it has moved, say where it is with --run (run=)"
            )
        runs = [
            Run.from_pretrained(one, tokenizer=plan.tokenizer, trust_remote_code=self._trust_remote_code)
            for one in self._folders
        ]
        run = runs[0] if len(runs) == 1 else Run.join(runs)
        for name, value in plan.fingerprints.items():
            found = value if name.split()[0] in {"moments", "queries"} else run.fingerprints.get(name, "missing")
            if found != value:
                raise MismatchError(
                    f"the run in {self._folders[0]} is not the one that {self.store.folder} was built from: "
                    f"its {name} is {found[:12]}, not {value[:12]}: "
                    "point to the right run with --run, or build the index again"
                )
        return run

    @property
    def encoder(self) -> Encoder:
        """Encodes texts as they were when the index was built."""
        return self.run.encoder(self.store.plan.max_length, Masks.of(self.store.plan.term))

    def by_word(
        self, step: CheckpointId, example: Example, label: int, width: int, against: int | None, asked: bool
    ) -> Float[np.ndarray, "w p"]:
        """The vector of one text split by its words, taken again from the model."""
        (encoded,) = self.encoder.encode([example])
        return self.at(step).words(encoded, label, width, against, asked=asked)

    def at(self, step: CheckpointId, *, retaken: bool = False) -> GradientComputer:
        """Load a checkpoint, or take it from before."""
        if (step, retaken) not in self._passes:
            other = self._passes.get((step, not retaken))
            model = self._model(step) if other is None else other.model
            method = self.store.plan.term
            pooled = not retaken and (isinstance(method, Retaken) or step == self.store.plan.checkpoints[-1].id)
            work = GradientComputer(self.run, model, method, self.encoder, pooled=pooled, retaken=retaken)
            if self._other_layers(work):  # earlier versions kept a vocabulary head with the other layers
                work = GradientComputer(
                    self.run, model, method, self.encoder, pooled=pooled, retaken=retaken, closed_head=False
                )
            self._refuse_other_layers(work)
            if work.needs_table:
                work.prepare(self.store.table(step))
            self._passes[step, retaken] = work
        return self._passes[step, retaken]

    def _other_layers(self, work: GradientComputer) -> bool:
        """Whether other layers are taken than the index keeps as vectors."""
        taken = [] if work.layers is None else work.layers.planned()
        return not isinstance(self.store.plan.term, Retaken) and taken != self.store.plan.blocks

    def _refuse_other_layers(self, work: GradientComputer) -> None:
        """Earlier versions kept the word embedding apart from the layers that a curvature turns."""
        if self._other_layers(work):
            kept, taken = len(self.store.plan.blocks), 0 if work.layers is None else len(work.layers.planned())
            raise MismatchError(
                f"{self.store.folder} keeps {kept} layers, and {work.method.name} takes {taken} since a "
                "preconditioner works on the word embedding, too: build the index again"
            )

    def _model(self, step: CheckpointId) -> nn.Module:
        checkpoint = next(one for one in self.run.saved if one.id == step)
        self.say(f"loading the model of {step}")
        model = self.run.load(checkpoint)
        models = {id(work.model): work.model for work in self._passes.values()}  # two passes may share one
        held = sum(parameter.nbytes for one in models.values() for parameter in one.parameters())
        if held + sum(parameter.nbytes for parameter in model.parameters()) > KEPT_BYTES:
            self._passes.clear()
        return model
