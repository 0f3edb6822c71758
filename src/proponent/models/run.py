"""Run: a training run with its checkpoints, learning rates, tokenizer and task head."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any, cast

import torch

from proponent.errors import RunError
from proponent.models.adapters import base_of
from proponent.models.best import kept
from proponent.models.checkpoints import MOMENTS_FILE, RECORD_FILE, Checkpoint, discover, members_of
from proponent.models.device_map import GivenMap, GivenMemory, placed
from proponent.models.encoding import Encoder
from proponent.models.former import RUN_FILE, former_note
from proponent.models.frozen import parts_of
from proponent.models.huggingface import (
    ModelInfo,
    load_base,
    load_model,
    load_reference,
    load_tokenizer,
    read_model_info,
)
from proponent.models.info import refuse_base
from proponent.models.joined_runs import check_alike, note_of, numbered, refuse_twice
from proponent.models.judged_rows import JudgedSource
from proponent.models.masking import ONE_DRAW, Masks
from proponent.models.model_outputs import check_shift
from proponent.models.one_training import check_one_training
from proponent.models.padding import Padding
from proponent.models.placement import Placement
from proponent.models.run_files import StoredName, reading_run
from proponent.models.run_record import unfinished_note
from proponent.models.shapes import settled_card
from proponent.models.shared_base import SharedBases
from proponent.models.tasks import Task, trained_task
from proponent.models.tokenizer_files import (
    PROBE,
    fingerprint_of,
    require_one_tokenizer,
    require_rows,
    tokenizer_home,
    tokenizing,
)
from proponent.models.trained_parts import Trained, note_trained
from proponent.models.training_trace import FOLDER
from proponent.models.weights import loss_fingerprints, weights_fingerprint
from proponent.types import Counting, Label

MOST_TOKENS = 512
"""Maximum tokens per text by default, even if the model allows more."""

RECORDS = (RUN_FILE, RECORD_FILE, MOMENTS_FILE, FOLDER)
"""The Recorder's files in a run and in its checkpoints."""


@dataclass(frozen=True)
class Run:
    """A training run.

    Attributes:
        path: the folder given by the user.
        checkpoints: in order of their steps; for joined runs, run after run.
        card: facts from the configuration.
        tokenizer: the run's own fast tokenizer.
        tokenizer_folder: the folder it was read from.
        named_tokenizer: the folder that the user named for it; None if it came with the run.
        trust_remote_code: the user's own flag.
        joined: folders of the joined runs; empty for a single run, and for a folder of runs (seed-0, seed-1 ...).
        later: checkpoints saved after the final model (load_best_model_at_end); none are used unless requested by
            their steps.
        notes: facts about how the folder was read that a user must know.
    """

    path: Path
    checkpoints: tuple[Checkpoint, ...]
    info: ModelInfo
    tokenizer: Any
    tokenizer_folder: Path
    named_tokenizer: str | None = None
    trust_remote_code: bool = False
    joined: tuple[Path, ...] = ()
    later: tuple[Checkpoint, ...] = ()
    notes: tuple[str, ...] = ()

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path,
        *,
        tokenizer: str | Path | None = None,
        base: str | Path | None = None,
        trust_remote_code: bool = False,
        device: str = "auto",
        dtype: str = "float32",
        device_map: GivenMap | None = None,
        max_memory: GivenMemory | None = None,
    ) -> "Run":
        """Open a training run.

        Args:
            path: a Trainer output folder (checkpoint-*), a model folder, a PEFT adapter folder, or a folder of
                independently seeded runs (seed-*), which are joined.
            tokenizer: folder of the tokenizer, if it is not in the run.
            base: folder (or name on a hub) of an adapter's base model, if it is not where the adapter says.
            trust_remote_code: allow code that comes with the model.
            device: where its models run: cpu, cuda, cuda:N or mps; auto takes the first CUDA device, else the CPU.
            dtype: precision of weights and passes: float32, bfloat16 or float16.
            device_map: splits models in place of `device`: a rule of accelerate's, modules and devices, or a JSON file.
            max_memory: of a rule, the most bytes of weights per GPU: a number, "20GiB", or a dict by GPU.

        Returns:
            The run; weights are loaded when needed.

        Raises:
            RunError: the folder is not a usable run; the message says what is missing and where.
            InputError: there is no such device, precision or module, or no room (MissingExtraError: no accelerate).
        """
        folder, placement = Path(path), placed(device, dtype, device_map, max_memory)
        members = members_of(folder)
        if members:
            how: dict[str, Any] = {"tokenizer": tokenizer, "base": base, "trust_remote_code": trust_remote_code}
            how |= {"device_map": device_map, "max_memory": max_memory}
            runs = [cls.from_pretrained(one, device=device, dtype=dtype, **how) for one in members]
            return replace(cls.join(runs), path=folder, joined=())
        with reading_run(folder):
            return cls._opened(folder, placement, tokenizer, base, trust_remote_code=trust_remote_code)

    @classmethod
    def _opened(
        cls,
        folder: Path,
        placement: Placement,
        tokenizer: str | Path | None,
        base: str | Path | None,
        *,
        trust_remote_code: bool,
    ) -> "Run":
        saved = discover(folder)
        last = saved[-1].path
        named_base = base if isinstance(base, str | None) else str(base)
        local = isinstance(base if tokenizer is None else tokenizer, StoredName | None)
        card = read_model_info(last, trust_remote_code=trust_remote_code, base=named_base)
        homes = list(dict.fromkeys([folder, *(one.path for one in reversed(saved))]))
        card = replace(card, task=trained_task(card.task, homes, named_base))
        refuse_base(last, card)
        check_one_training(saved)
        card.task.refuse_training(folder, [one.path for one in saved])
        found = kept(folder, saved)
        checkpoints, last = found.checkpoints, found.checkpoints[-1].path
        home = Path(tokenizer) if tokenizer is not None else tokenizer_home(folder, last, named_base)
        revision = base_of(last, named_base).revision if card.adapter and tokenizer is None else None
        loaded = load_tokenizer(home, trust_remote_code=trust_remote_code, revision=revision, local=local)
        require_one_tokenizer(saved, home, explicit=tokenizer is not None)
        card.task.refuse_tokenizer(home, loaded)
        named = None if tokenizer is None else str(tokenizer)
        records = former_note(folder, [one.path for one in saved], RECORDS)
        notes = (*records, *unfinished_note(folder), *found.notes, *card.notes)
        card = settled_card(last, replace(card, placement=placement), trust_remote_code=trust_remote_code)
        made = cls(folder, checkpoints, card, loaded, home, named, trust_remote_code, later=found.later, notes=notes)
        if made.lacks_pad and card.task.pairing is not None:
            raise RunError(
                f"{last / 'config.json'} names no pad_token_id, and pairs need padding: set that of training"
            )
        return made

    @classmethod
    def join(cls, runs: Sequence["Run"]) -> "Run":
        """Join independently seeded runs: scores are summed over the checkpoints of all of them.

        Args:
            runs: runs with one task, one kind of model and one tokenizer.

        Returns:
            One run with the checkpoints of all; predictions are those of the last run.

        Raises:
            InputError: a run was given twice.
            MismatchError: two runs are incompatible; the message says why.
        """
        refuse_twice(runs)
        first = runs[0]
        for other in runs[1:]:
            check_alike(first, other)
        counts = [1 + run.checkpoints[-1].id.run for run in runs]  # number of runs in each: some are joined already
        firsts = [0, *accumulate(counts[:-1])]
        checkpoints = numbered(firsts, [run.checkpoints for run in runs])
        later = numbered(firsts, [run.later for run in runs])
        notes = tuple(dict.fromkeys(note_of(run, note, runs) for run in runs for note in run.notes))
        joined = tuple(path for run in runs for path in run.joined or (run.path,))
        return replace(first, checkpoints=checkpoints, joined=joined, later=later, notes=notes)

    @property
    def saved(self) -> tuple[Checkpoint, ...]:
        """Every checkpoint in order of steps, including those saved after the final model."""
        return tuple(sorted((*self.checkpoints, *self.later), key=lambda one: one.id))

    @property
    def task(self) -> Task:
        """The task head: labels, model inputs, losses."""
        return self.info.task

    @property
    def placement(self) -> Placement:
        """The device and the precision of its models."""
        return self.info.placement

    @property
    def label_names(self) -> tuple[str, ...] | None:
        """Classes in the order of the model's outputs; None for a language model."""
        return self.task.labels.names or None

    def named(self, names: Sequence[str] | None) -> "Run":
        """This run with the names that a data set gives to its classes, if the model has only default names."""
        task = self.task if names is None else self.task.named(names)
        return self if task is self.task else replace(self, info=replace(self.info, task=task))

    @cached_property
    def fingerprints(self) -> dict[str, str]:
        """SHA-256 of the content: "tokenizer", and "weights step N" for every checkpoint; "dtype" if not float32."""
        weights = {f"weights {one.id}": weights_fingerprint(one.path, self.info.base) for one in self.saved}
        precision = {} if self.placement.dtype == "float32" else {"dtype": self.placement.dtype}
        return (
            {"tokenizer": self.tokenizer_fingerprint()}
            | weights
            | loss_fingerprints(self.task, adapter=self.info.adapter)
            | precision
        )

    @cached_property
    def trained(self) -> Trained | None:
        """Which parameters the training moved; None if it moved all, as far as is known. An adapter's model says it."""
        return parts_of(self.saved, self.info, trust_remote_code=self.trust_remote_code)

    @cached_property
    def _bases(self) -> SharedBases:
        """Base models that the adapters of this run share."""
        return SharedBases()

    @property
    def loss_of_pairs(self) -> tuple[str, str | None]:
        """The settings of the loss of pairs, and the name of the model that it compares with."""
        if not self.task.refers:
            return self.task.settings, None
        base = base_of(self.checkpoints[-1].path, self.info.base).name if self.info.adapter else self.task.reference
        return self.task.settings, base

    @cached_property
    def reference_figures(self) -> dict[int, tuple[float, ...]]:
        """Log-probabilities of answers under the reference model, one or both of a pair, by a hash of their tokens."""
        return {}

    @cached_property
    def judged(self) -> JudgedSource:
        """The batches of a KTO training, whose rows share an estimate."""
        return JudgedSource()

    @cached_property
    def reference(self) -> torch.nn.Module:
        """The model that training began with, for a loss that compares with it."""
        trusted = self.trust_remote_code
        if self.info.adapter:
            return load_base(self.checkpoints[-1].path, self.info, trust_remote_code=trusted, bases=self._bases)
        if self.task.reference is None:
            raise RunError(
                f"the loss of pairs ({self.task.kind}) compares with the model that training began with, and nothing "
                f"in {self.path} names it: give it with --base (base=), or give the columns ref_chosen_logps and "
                "ref_rejected_logps"
            )
        return load_reference(self.task.reference, self.info, trust_remote_code=trusted)

    @property
    def most_tokens(self) -> int | None:
        """Number of tokens that the model accepts; None without a limit."""
        limits = (self.info.max_length, self.tokenizer.model_max_length)
        known = [int(limit) for limit in limits if limit and limit < 2**31]  # a tokenizer without a limit reports 1e30
        return min(known, default=None)

    @property
    def equal_lengths(self) -> bool:
        """Whether batches hold texts of equal length, because padding is impossible or changes a model's output."""
        return self.lacks_pad or self.padding.changes

    @property
    def lacks_pad(self) -> bool:
        """Whether a decoder's classifier, which finds its last token by a pad id, has none."""
        return self.task.needs_pad and self.info.pad_token_id is None

    @cached_property
    def padding(self) -> Padding:
        """What padding does to the model, found out when it is first loaded."""
        return Padding()

    def length(self, asked: int | None) -> int:
        """Determine how many tokens of a text are read.

        Args:
            asked: the number that the user requests, or None for the model's limit, at most 512.

        Returns:
            Number of tokens, including special tokens.

        Raises:
            RunError: more than the model accepts, or too few for any text.
        """
        limit = self.most_tokens
        if asked is None:
            return min(limit or MOST_TOKENS, MOST_TOKENS)
        least = self.task.least_tokens(self.tokenizer)
        if asked < least:
            raise RunError(f"--max-length {asked} leaves no room for a text: this model needs at least {least} tokens")
        if limit is not None and asked > limit:
            raise RunError(f"--max-length {asked} is more than the {limit} tokens that this model supports")
        return asked

    def encoder(self, max_length: int, masks: Masks = ONE_DRAW, counting: Counting | None = None) -> Encoder:
        """Create the encoder of this run.

        Args:
            max_length: maximum tokens per text.
            masks: which tokens a masked language model must predict.
            counting: which tokens count in the rows of chat fine-tuning; None for the rules of plain training.

        Returns:
            An encoder with the run's tokenizer.
        """
        # the model's own pad id first: RoBERTa's positions and the last token of a decoder's classifier depend on it
        pads = (self.info.pad_token_id, self.tokenizer.pad_token_id, 0)
        pad = next(pad for pad in pads if pad is not None)
        return Encoder(
            self.tokenizer, self.task, max_length, pad, masks, counting, self.placement.device, self.info.multiple
        )

    def load(self, checkpoint: Checkpoint) -> torch.nn.Module:
        """Load one checkpoint to the run's device: evaluation mode, every parameter frozen.

        Args:
            checkpoint: a checkpoint of this run.

        Returns:
            The model.

        Raises:
            MismatchError: the tokenizer has ids that the embedding lacks.
            RunError: weights and configuration do not match.
            InputError: the device has no room for the model.
        """
        loaded = cast(
            "Any",
            load_model(checkpoint.path, self.info, trust_remote_code=self.trust_remote_code, bases=self._bases),
        )
        rows, pad = int(loaded.get_input_embeddings().weight.shape[0]), self.encoder(2).pad_id
        require_rows(checkpoint.path, rows, self.tokenizer_folder, len(self.tokenizer), pad)
        if self.task.decodes:
            check_shift(cast("torch.nn.Module", loaded), self.task.start, pad)
        if self.trained is not None:
            note_trained(loaded, self.trained)
        self._try_padding(loaded)
        if self.lacks_pad:
            loaded.config.pad_token_id = -1  # no token has this id, so the last token is the real last token
        return cast("torch.nn.Module", loaded)

    def _try_padding(self, model: torch.nn.Module) -> None:
        """See once what padding does; what follows a token cannot change a language model's output."""
        if (
            self.padding.tried
            or self.lacks_pad
            or self.task.pairing
            or (self.task.predicts_tokens and not self.task.masks)
        ):
            return
        with tokenizing():
            ids: list[int] = self.tokenizer(PROBE)["input_ids"][-4:] or [0]
        self.padding.try_out(model, ids, self.encoder(2).pad_id, self.info.multiple)

    def label_number(self, label: Label) -> int:
        """Return the class number of a label given by name or number; a class named "1" takes precedence over number 1.

        Args:
            label: name, number, or number as text.

        Returns:
            The class number.

        Raises:
            LabelError: the run has no such class; the message suggests similar names.
        """
        return self.task.labels.number(label)

    def tokenizer_fingerprint(self) -> str:
        """Hash the tokenizer by its content and by its output for a probe text.

        Returns:
            SHA-256, hexadecimal.
        """
        return fingerprint_of(self.tokenizer, self.tokenizer_folder)
