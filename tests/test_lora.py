"""Runs trained with PEFT's LoRA: methods over the adapter's parameters against autograd, one example at a time."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
import transformers

import proponent
import runs
from proponent.models import Run
from proponent.models.recorder import Recorder
from test_search import assert_equal

pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")

QUERIES = runs.rows(4, seed=5)
Pick = Callable[[str], bool]


@dataclass(frozen=True)
class Lora:
    """A run of two checkpoints with adapters, and PEFT's own models beside it.

    Attributes:
        folder: the run.
        base: the model that was adapted.
        lm: whether it is a language model.
    """

    folder: Path
    base: Path
    lm: bool

    @cached_property
    def models(self) -> list[Any]:
        kind = transformers.AutoModelForCausalLM if self.lm else transformers.AutoModelForSequenceClassification
        more = {} if self.lm else {"num_labels": len(runs.LABELS)}
        parts = [
            peft.PeftModel.from_pretrained(kind.from_pretrained(self.base, **more), self.folder / name).eval()
            for name in ("checkpoint-3", "checkpoint-6")
        ]
        for one in parts:
            for name, value in one.named_parameters():
                value.requires_grad_("lora_" in name or "modules_to_save" in name)
        return parts

    def gradients(self, at: int, rows: list[dict[str, Any]], pick: Pick) -> np.ndarray:
        """One backward pass per example; picked parameters one after another."""
        model = self.models[at]
        tokenizer = transformers.AutoTokenizer.from_pretrained(self.base)
        made: list[np.ndarray] = []
        for row in rows:
            inputs = tokenizer([row["text"]], return_tensors="pt")
            model.zero_grad()
            with torch.enable_grad():
                labels = inputs["input_ids"] if self.lm else torch.tensor([runs.LABELS.index(row["label"])])
                model(**inputs, labels=labels).loss.backward()
            own = {name: value for name, value in model.named_parameters() if value.requires_grad and pick(name)}
            zero = [value.grad if value.grad is not None else torch.zeros_like(value) for value in own.values()]
            made.append(np.concatenate([one.double().numpy().ravel() for one in zero]))
        return np.stack(made)

    def blocks(self, pick: Pick) -> list[str]:
        return [name for name, value in self.models[0].named_parameters() if value.requires_grad and pick(name)]

    @property
    def rates(self) -> list[float]:
        return [one.learning_rate for one in Run.from_pretrained(self.folder).checkpoints]


def trained(folder: Path, *, lm: bool) -> Lora:
    """Adapted and trained by the Trainer; B starts at zero, so that only training gives A a gradient."""
    tokenizer = runs.gpt2_tokenizer() if lm else runs.bert_tokenizer()
    whole = runs.gpt2(tokenizer) if lm else runs.bert(tokenizer)
    (whole if lm else whole.bert).save_pretrained(folder / "base")
    tokenizer.save_pretrained(folder / "base")
    kind = transformers.AutoModelForCausalLM if lm else transformers.AutoModelForSequenceClassification
    more = {} if lm else {"num_labels": len(runs.LABELS)}
    torch.manual_seed(0)
    base = kind.from_pretrained(folder / "base", **more)
    settings: dict[str, Any] = {"target_modules": ["query", "value"], "task_type": "SEQ_CLS"}
    if lm:
        settings = {"target_modules": ["c_attn"], "task_type": "CAUSAL_LM", "fan_in_fan_out": True}
    model = peft.get_peft_model(base, peft.LoraConfig(r=3, lora_alpha=5, lora_dropout=0.1, **settings))
    model.peft_config["default"].base_model_name_or_path = str(folder / "base")
    runs.trainer(folder / "run", model, tokenizer, callbacks=[Recorder()], learning_rate=0.05).train()
    return Lora(folder / "run", folder / "base", lm)


@pytest.fixture(scope="module", params=["classifier", "language model"])
def lora(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Lora:
    return trained(tmp_path_factory.mktemp("lora"), lm=request.param == "language model")


def build(lora: Lora, folder: Path, method: str, **changes: Any) -> proponent.Index:
    columns = proponent.Columns(label="") if lora.lm else None
    return proponent.build(lora.folder, runs.ROWS, folder, method, columns=columns, quiet=True, batch_size=8, **changes)


def ask(index: proponent.Index, lora: Lora) -> np.ndarray:
    labels = None if lora.lm else [row["label"] for row in QUERIES]
    return index.scores([row["text"] for row in QUERIES], labels)


def both(lora: Lora, at: int, pick: Pick) -> tuple[np.ndarray, np.ndarray]:
    return lora.gradients(at, runs.ROWS, pick), lora.gradients(at, QUERIES, pick)


@pytest.mark.parametrize("part", ["lora_A", "lora_B"])
def test_gradient_products_over_one_side(lora: Lora, tmp_path: Path, part: str) -> None:
    index = build(lora, tmp_path / "index", "tracin-layers", layers=f"*{part}*")
    truth = np.zeros((len(QUERIES), len(runs.ROWS)))
    for at, rate in enumerate(lora.rates):
        mine, theirs = both(lora, at, lambda name: part in name)
        assert np.abs(mine).max() > 0
        truth += rate * theirs @ mine.T
    assert len(lora.rates) == 2
    assert_equal(ask(index, lora), truth, 1e-5)


def test_the_cosine_over_the_whole_adapter(lora: Lora, tmp_path: Path) -> None:
    """By default: both factors of every module, and the weights of heads that were trained with them."""
    index = build(lora, tmp_path / "index", "grad-cos", project=None)
    truth = np.zeros((len(QUERIES), len(runs.ROWS)))
    for at, rate in enumerate(lora.rates):
        parts = both(lora, at, lambda name: name.endswith("weight"))
        mine, theirs = (one / np.linalg.norm(one, axis=1, keepdims=True) for one in parts)
        truth += rate * theirs @ mine.T
    assert_equal(ask(index, lora), truth, 1e-5)


def test_datainf_over_both_sides(lora: Lora, tmp_path: Path) -> None:
    index = build(lora, tmp_path / "index", "datainf", layers="*lora_*")
    truth = np.zeros((len(QUERIES), len(runs.ROWS)))
    for block in lora.blocks(lambda name: "lora_" in name):
        mine, theirs = both(lora, 1, lambda name, one=block: name == one)
        ridge = 0.1 * (mine**2).sum() / mine.size
        # each inverse by Sherman and Morrison
        turned = [(theirs - np.outer(theirs @ g, g) / (ridge + g @ g)) / ridge for g in mine]
        truth += np.mean(turned, axis=0) @ mine.T
    assert_equal(ask(index, lora), truth, 1e-5)


def test_words_and_coverage(lora: Lora, tmp_path: Path) -> None:
    index = build(lora, tmp_path / "index", "tracin-layers", layers="*lora_A*", steps=(6,))
    own = {name: value.numel() for name, value in lora.models[1].named_parameters() if value.requires_grad}
    total, taken = sum(own.values()), sum(size for name, size in own.items() if "lora_A" in name)
    (told,) = (note for note in index.store.manifest.notes if "scores" in note and "skipped" in note)
    assert f"{taken / total:.1%} of the adapter's parameters; skipped: other layers (" in told
    label = {} if lora.lm else {"label": QUERIES[0]["label"]}
    answer = index.explain(QUERIES[0]["text"], k=3, baselines=False, **label)
    assert told in answer.notes
    for hit in (*answer.proponents, *answer.opponents):
        assert sum(word.share for word in hit.words) == pytest.approx(hit.score, rel=1e-4)
