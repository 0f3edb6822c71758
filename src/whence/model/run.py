"""Run: a training run as whence sees it: checkpoints, learning rates, tokenizer, task head."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import torch

from whence.errors import LabelError, MismatchError, RunError
from whence.model.checkpoints import Checkpoint, discover, tokenizer_fingerprint, weights_fingerprint
from whence.model.encoding import Encoder
from whence.model.huggingface import ModelCard, load_model, load_tokenizer, read_card
from whence.near import nearest
from whence.types import Label

MOST_TOKENS = 512
"""Longest text taken by default, in tokens, whatever the model allows."""


@dataclass(frozen=True)
class Run:
    """A training run.

    Attributes:
        path: the folder that was given.
        checkpoints: in order of their steps.
        card: what the configuration says.
        tokenizer: the run's own fast tokenizer.
        tokenizer_folder: where it was read from.
        named_tokenizer: the folder that the user named for it; None when it came with the run.
        trust_remote_code: the user's own flag.
    """

    path: Path
    checkpoints: tuple[Checkpoint, ...]
    card: ModelCard
    tokenizer: Any
    tokenizer_folder: Path
    named_tokenizer: str | None = None
    trust_remote_code: bool = False

    @classmethod
    def from_pretrained(
        cls, path: str | Path, *, tokenizer: str | Path | None = None, trust_remote_code: bool = False
    ) -> Self:
        """Open a training run.

        Args:
            path: a Trainer output folder (checkpoint-*), a model folder, or a PEFT adapter folder.
            tokenizer: folder of the tokenizer, when it is not in the run.
            trust_remote_code: allow code that comes with the model.

        Returns:
            The run; weights are loaded when they are needed.

        Raises:
            RunError: the folder is not a usable run; the message says what is missing and where.
        """
        folder = Path(path)
        checkpoints = discover(folder)
        last = checkpoints[-1].path
        card = read_card(last, trust_remote_code=trust_remote_code)
        home = Path(tokenizer) if tokenizer is not None else _tokenizer_home(folder, last)
        loaded = load_tokenizer(home, trust_remote_code=trust_remote_code)
        _same_tokenizer(checkpoints, home, explicit=tokenizer is not None)
        return cls(
            folder, checkpoints, card, loaded, home, None if tokenizer is None else str(tokenizer), trust_remote_code
        )

    @property
    def label_names(self) -> tuple[str, ...] | None:
        """Classes in the order of the model's outputs; None for a language model."""
        return self.card.label_names

    @cached_property
    def fingerprints(self) -> dict[str, str]:
        """SHA-256 by content: "tokenizer", and "weights step N" of every checkpoint."""
        weights = {f"weights step {one.step}": weights_fingerprint(one.path) for one in self.checkpoints}
        return {"tokenizer": tokenizer_fingerprint(self.tokenizer_folder)} | weights

    @property
    def most_tokens(self) -> int | None:
        """Tokens that the model can take; None when nothing bounds it."""
        limits = [
            limit
            for limit in (self.card.max_length, int(min(self.tokenizer.model_max_length, 2**31)))
            if limit and limit < 2**31
        ]
        return min(limits) if limits else None

    @property
    def equal_lengths(self) -> bool:
        """True when batches must not be padded: a decoder's classifier finds its last token by a padding id it lacks."""
        return self.card.kind == "classification" and self.card.pad_token_id is None

    def length(self, asked: int | None) -> int:
        """Decide how many tokens of a text are read.

        Args:
            asked: the user's wish, or None for the model's limit, at most 512.

        Returns:
            Tokens, special tokens included.

        Raises:
            RunError: more than the model can take.
        """
        limit = self.most_tokens
        if asked is None:
            return min(limit or MOST_TOKENS, MOST_TOKENS)
        if limit is not None and asked > limit:
            raise RunError(f"--max-length {asked} is more than the {limit} tokens that this model takes")
        return asked

    def encoder(self, max_length: int) -> Encoder:
        """Make the encoder of this run.

        Args:
            max_length: most tokens of a text.

        Returns:
            An encoder with the run's tokenizer.
        """
        pad = self.tokenizer.pad_token_id
        return Encoder(self.tokenizer, self.card.kind, max_length, pad if pad is not None else 0)

    def load(self, checkpoint: Checkpoint) -> torch.nn.Module:
        """Load one checkpoint: float32, evaluation mode, every parameter frozen.

        Args:
            checkpoint: one of this run's.

        Returns:
            The model.

        Raises:
            MismatchError: the tokenizer has ids that the embedding lacks.
        """
        model = load_model(checkpoint.path, self.card, trust_remote_code=self.trust_remote_code)
        rows = int(model.get_input_embeddings().weight.shape[0])  # type: ignore[operator, union-attr]
        if len(self.tokenizer) > rows:
            raise MismatchError(
                f"the tokenizer in {self.tokenizer_folder} has {len(self.tokenizer)} tokens but the embedding in {checkpoint.path} has {rows} rows: "
                "it belongs to another model; point to the right one with --tokenizer"
            )
        if self.equal_lengths:
            model.config.pad_token_id = -1  # type: ignore[union-attr] # no token has it, so the last token is the last
        return model

    def label_number(self, label: Label) -> int:
        """Find the class number of a label given by name or number.

        Args:
            label: name, number, or number as text.

        Returns:
            The class number.

        Raises:
            LabelError: the run has no such class; near names are offered.
        """
        names = self.label_names
        if names is None:
            raise LabelError(f"label {label!r} was given, but this run is a language model and has no labels")
        if isinstance(label, str) and label in names:
            return names.index(label)
        number = int(label) if isinstance(label, int) or label.isdecimal() else -1
        if 0 <= number < len(names):
            return number
        shown = ", ".join(names[:12]) + (", …" if len(names) > 12 else "")
        raise LabelError(
            f"unknown label {label!r}{nearest(str(label), names)}; the run knows: {shown} (or 0 to {len(names) - 1})"
        )


def _tokenizer_home(folder: Path, last: Path) -> Path:
    for home in (last, folder):
        if any(
            (home / name).is_file()
            for name in ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "spiece.model", "tokenizer.model")
        ):
            return home
    raise RunError(
        f"no tokenizer in {last} or {folder}: save it there with tokenizer.save_pretrained, or name its folder with --tokenizer"
    )


def _same_tokenizer(checkpoints: tuple[Checkpoint, ...], home: Path, *, explicit: bool) -> None:
    """Checkpoints that carry a tokenizer of their own must carry the same one."""
    expected = tokenizer_fingerprint(home)
    for checkpoint in checkpoints:
        if (
            not explicit
            and (checkpoint.path / "tokenizer.json").is_file()
            and tokenizer_fingerprint(checkpoint.path) != expected
        ):
            raise RunError(
                f"{checkpoint.path} carries another tokenizer than {home}: the checkpoints are not of one run; "
                "remove the stray folder, or name the right tokenizer with --tokenizer"
            )
