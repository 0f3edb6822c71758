"""One weight for each unlabelled row while an encoder is trained with a consistency loss under word replacement.

The setting of Ren, Yeh and Schwing 2020 (arXiv 2007.01293) on text: the unlabelled loss is that of UDA (Xie et al.
2020, arXiv 1904.12848), the cross entropy of a changed text against what the model predicts for the text itself. The
influence on the validation loss is taken through the head, as with frozen features.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from proponent.actions.text_features import Encoder, LabelledTexts, refuse_unreadable
from proponent.actions.unlabelled_weights import (
    HIGHEST,
    OURS,
    SCALARS,
    TUNED,
    Comparison,
    Gradient,
    RowAdam,
    Rows,
    drawn,
    gradients,
    refuse_small,
    solved,
)
from proponent.errors import InputError
from proponent.models.model_outputs import pooled
from proponent.models.placement import host
from proponent.progress import track
from proponent.training.descent import descend
from proponent.training.loop import one_thread
from proponent.types import Example

_BATCH = 32


@dataclass(frozen=True)
class EncoderSettings:
    """Hyper-parameters of the training of encoder and weights."""

    steps: int = 100
    batch_size: int = 8  # labelled rows of a step
    ratio: int = 2  # unlabelled rows for each labelled one in a batch
    validation: int = 64  # validation rows of a change of the weights
    learning_rate: float = 5e-5
    head_rate: float = 1e-3
    replaced: float = 0.3  # mean share of the words that are replaced
    ridge: float = 5e-4  # times half the squared norm of the head
    warm_up: int = 20  # steps before the weights change
    every: int = 2  # steps between two changes of the weights
    alpha: float = 0.1  # step of Adam on the weights
    damping: float = 1.0  # added to the Hessian
    max_length: int = 128
    seed: int = 0

    def check(self) -> None:
        """Refuse invalid settings."""
        refuse_small(self, "steps", "batch_size", "ratio", "validation", "every")
        if not 0 < self.replaced < 1:
            raise InputError(f"the share of replaced words is {self.replaced:g}: must be above 0 and below 1")


@dataclass(frozen=True)
class WordReplacement:
    """Words in many texts are replaced often, and are what replaces; rare words, which tell most, stay."""

    words: tuple[str, ...]
    weights: Float[np.ndarray, " w"]  # largest inverse document frequency minus the word's own
    share: float

    @classmethod
    def of(cls, texts: Sequence[str], share: float) -> "WordReplacement":
        """Count the words of some texts."""
        counts = Counter(word for text in texts for word in set(text.split()))
        words = tuple(sorted(counts))
        if not words:
            raise InputError("the unlabelled texts hold no word that could be replaced")
        rarity = np.asarray([math.log(len(texts) / counts[word]) for word in words])
        return cls(words, rarity.max() - rarity + 1e-9, share)

    def changed(self, text: str, generator: np.random.Generator) -> str:
        """A text with some words replaced; its number of words stays."""
        parts = text.split()
        if not parts:
            return text
        known = dict(zip(self.words, self.weights.tolist(), strict=True))
        lean = np.asarray([known.get(word, 0.0) for word in parts])
        chance = np.clip(self.share * lean / max(lean.mean(), 1e-12), 0.0, 1.0)
        places = np.flatnonzero(generator.random(len(parts)) < chance).tolist()
        drawn = generator.choice(len(self.words), len(places), p=self.weights / self.weights.sum()).tolist()
        for place, number in zip(places, drawn, strict=True):
            parts[place] = self.words[number]
        return " ".join(parts)


def compare_trained(
    encoder: str | Path,
    labelled: LabelledTexts,
    unlabelled: Sequence[Example],
    validation: LabelledTexts,
    test: LabelledTexts,
    settings: EncoderSettings = EncoderSettings(),
    *,
    scalars: Sequence[float] = SCALARS,
    seeds: int = 1,
    trust_remote_code: bool = False,
    quiet: bool = False,
    device: str = "auto",
) -> Comparison:
    """Train an encoder with learned weights, and with controls.

    Args:
        encoder: folder or name of a pretrained model.
        labelled: rows whose loss always counts once.
        unlabelled: texts without labels; the weights are theirs.
        validation: rows whose loss the weights should lower.
        test: rows on which all models are measured.
        settings: of the training.
        scalars: weights that all rows share, of which the best on the validation set is the control.
        seeds: trainings; the weights are the mean over them.
        trust_remote_code: run code that the model brings.
        quiet: no progress on stderr.
        device: cpu, cuda, cuda:N or mps; auto takes the first CUDA device, else the CPU.

    Returns:
        Correct test rows of the trained model and of the controls, and the weights.

    Raises:
        InputError: no rows, no words to replace, or a training that diverges.
    """
    settings.check()
    if seeds < 1:
        raise InputError(f"seeds is {seeds}: must be at least 1")
    for some in (labelled.examples, unlabelled, validation.examples, test.examples):
        refuse_unreadable(some)
    numbers = [*dict.fromkeys((0.0, 1.0, *scalars))]
    both = LabelledTexts(
        [*labelled.examples, *validation.examples], np.concatenate([labelled.labels, validation.labels])
    )
    right: dict[str, Float[np.ndarray, " n"]] = {}
    total, best = np.zeros(len(unlabelled)), list[float]()
    for seed in range(seeds):
        own = replace(settings, seed=seed)

        def run(known: LabelledTexts, weights: float | None, own: EncoderSettings = own) -> _Model:
            with one_thread(), cast("Any", torch).random.fork_rng(devices=[]):
                made = _Model.of(encoder, 1 + int(both.labels.max()), own, trust_remote_code, device)
                made.train(known, unlabelled, validation, weights, quiet)
            return made

        ours = run(labelled, None)
        total += ours.weights / seeds
        trained = {scalar: run(labelled, scalar) for scalar in numbers}
        scored = {scalar: float((one.predict(validation.examples) == validation.labels).mean())
                  for scalar, one in trained.items()}  # fmt: skip
        tuned = max(numbers, key=scored.__getitem__)
        best.append(tuned)
        ways = {
            OURS: ours,
            TUNED: trained[tuned],
            "all weights 1": trained[1.0],
            "no unlabelled rows": trained[0.0],
            "one tuned weight, validation rows added": run(both, tuned),
        }
        for name, model in ways.items():
            right[name] = right.get(name, 0) + (model.predict(test.examples) == test.labels) / seeds
    return Comparison(right, total, tuple(best))


class _Model:
    """An encoder with a linear head, and the weights of the unlabelled rows."""

    def __init__(self, encoder: Encoder, labels: int, settings: EncoderSettings) -> None:
        self._encoder, self._settings = encoder, settings
        self._head = nn.Linear(cast("Any", encoder.model).config.hidden_size, labels).to(encoder.device)
        nn.init.zeros_(self._head.weight)
        nn.init.zeros_(self._head.bias)
        self.weights = np.zeros(0)

    @classmethod
    def of(
        cls, encoder: str | Path, labels: int, settings: EncoderSettings, trust_remote_code: bool, device: str = "auto"
    ) -> "_Model":
        options: dict[str, Any] = {"max_length": settings.max_length, "trust_remote_code": trust_remote_code}
        loaded = Encoder.load(encoder, device=device, **options)
        return cls(loaded, labels, settings)

    def train(
        self,
        labelled: LabelledTexts,
        unlabelled: Sequence[Example],
        validation: LabelledTexts,
        weight: float | None,
        quiet: bool,
    ) -> None:
        """Train on the labelled loss and the weighted consistency loss; None learns the weights."""
        chosen, outer = self._settings, RowAdam(len(unlabelled))
        self.weights = np.full(len(unlabelled), 1.0 if weight is None else weight)
        generator = np.random.default_rng(chosen.seed)
        words = WordReplacement.of([part for one in unlabelled for part in one.parts], chosen.replaced)
        optimizer = torch.optim.AdamW([
            {"params": list(self._encoder.model.parameters()), "lr": chosen.learning_rate},
            {"params": list(self._head.parameters()), "lr": chosen.head_rate},
        ])  # fmt: skip

        def loss_of(step: int) -> Float[Tensor, ""]:
            known = labelled.take(drawn(generator, len(labelled), chosen.batch_size))
            places = drawn(generator, len(unlabelled), chosen.batch_size * chosen.ratio)
            asked = validation.take(drawn(generator, len(validation), chosen.validation))
            states = self._states(known.examples)
            loss = nn.functional.cross_entropy(self._head(states), torch.as_tensor(known.labels, device=states.device))
            loss = loss + chosen.ridge / 2 * sum(one.square().sum() for one in self._head.parameters())
            if weight is not None and weight <= 0:
                return loss
            some = [unlabelled[int(at)] for at in places]
            with torch.no_grad():
                targets = self._head(self._states(some)).softmax(1)
            moved = self._states([_with(one, words, generator) for one in some])
            each = nn.functional.cross_entropy(self._head(moved), targets, reduction="none")
            shares = torch.as_tensor(self.weights[places], dtype=each.dtype, device=each.device)
            loss = loss + (shares * each).mean()
            if weight is None and step >= chosen.warm_up and not step % chosen.every:
                rows = Rows(_plain(states), known.labels)
                helped = self._influence(rows, _plain(moved), _plain(targets), self.weights[places], asked)
                moves = chosen.alpha * outer.step(places, helped)
                self.weights[places] = np.clip(self.weights[places] + moves, 0.0, HIGHEST)
            return loss

        steps = track(range(chosen.steps), total=chosen.steps, label="training", unit="steps", quiet=quiet)
        descend(optimizer, map(loss_of, steps), "training the encoder")

    def _influence(
        self,
        known: Rows,
        moved: Float[np.ndarray, "u h"],
        targets: Float[np.ndarray, "u l"],
        weights: Float[np.ndarray, " u"],
        asked: LabelledTexts,
    ) -> Float[np.ndarray, " u"]:
        """How much more weight on each unlabelled row lowers the validation loss, by the head."""
        with torch.no_grad():
            held = Rows(_plain(self._states(asked.examples)), asked.labels)
        head: Gradient = np.concatenate([_plain(self._head.weight).T, _plain(self._head.bias)[None]])
        guessed = Rows(moved, targets.argmax(1))
        direction = solved(head, known, guessed, weights, held, self._settings.ridge + self._settings.damping)
        wide, errors = gradients(head, guessed, targets)
        return ((wide @ direction) * errors).sum(1)

    def predict(self, examples: Sequence[Example]) -> Int[np.ndarray, " n"]:
        """Classes of some rows."""
        with one_thread(), torch.inference_mode():
            found = [
                host(self._head(self._states(examples[start : start + _BATCH])).argmax(1))
                for start in range(0, len(examples), _BATCH)
            ]
        return np.concatenate(found)

    def _states(self, examples: Sequence[Example]) -> Float[Tensor, "b h"]:
        return pooled(self._encoder.model, self._encoder.inputs(examples))


def _with(example: Example, words: WordReplacement, generator: np.random.Generator) -> Example:
    """A row with some words of its texts replaced."""
    pair = example.text_pair
    return Example(
        example.id,
        example.row,
        words.changed(example.text, generator),
        text_pair=None if pair is None else words.changed(pair, generator),
    )


def _plain(some: Tensor) -> Float[np.ndarray, "..."]:
    return host(some).astype(np.float64)
