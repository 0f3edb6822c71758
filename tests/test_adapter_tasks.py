"""LoRA over models of tags and of answers in a context: read, checked, and with the gradients of autograd."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import answered
import proponent
import test_places as cases
from proponent.check import check
from proponent.data import read
from proponent.errors import RunError
from proponent.gradients.computer import GradientComputer, GradientSpec
from proponent.method import Gradients, Layers
from proponent.models import Run

peft = pytest.importorskip("peft")
pytestmark = pytest.mark.filterwarnings("ignore")
TYPES = {"token-classification": "TOKEN_CLS", "question-answering": "QUESTION_ANS"}


def adapted(folder: Path, kind: str, task_type: str | None = None) -> Run:
    """An adapter with trained values, over a base on disk."""
    base = answered.saved(folder / "base", cases.model_of(kind), cases.TOKENIZER)
    settings = peft.LoraConfig(r=2, target_modules=["query", "output.dense"], task_type=task_type or TYPES[kind])
    made = peft.get_peft_model(cases.model_of(kind), settings)
    torch.manual_seed(2)
    for name, parameter in made.named_parameters():
        if parameter.requires_grad:
            parameter.data.normal_(std=0.1) if "lora" in name else parameter.data.add_(0.1)
    made.peft_config["default"].base_model_name_or_path = str(base)
    made.save_pretrained(folder / "run")
    return Run.from_pretrained(folder / "run")


def truth(kind: str) -> tuple[Any, Callable[[int, Any], dict[str, Any]]]:
    """Rows, and what transformers' own loss of each takes."""
    if kind == "token-classification":
        own = [cases.labels_of_words(row)[1] for row in cases.WORDS]
        return read(cases.WORDS), lambda row, _: {"labels": torch.tensor([own[row]])}
    found = [cases.places(row) for row in cases.QUESTIONS]
    names = ("start_positions", "end_positions")
    columns = proponent.Columns(text="question", text_pair="context", label="answers")
    return read(cases.QUESTIONS, columns=columns), lambda row, _: {
        name: torch.tensor([found[row][name]]) for name in names
    }


@pytest.mark.parametrize("kind", TYPES)
def test_the_embedding_gradient_is_autograds(kind: str, tmp_path: Path) -> None:
    run = adapted(tmp_path, kind)
    assert (run.task.kind, run.info.adapter) == (kind, True)
    answered.compare(run, *truth(kind))


@pytest.mark.parametrize("kind", TYPES)
def test_the_gradients_of_the_adapter_are_autograds(kind: str, tmp_path: Path) -> None:
    run, (rows, labels) = adapted(tmp_path, kind), truth(kind)
    model = run.load(run.checkpoints[-1]).double()
    encoder, made = answered.encoded(run, rows)
    method = Gradients(name="lora", gradient=Layers(names=("lora",)))
    computer = GradientComputer(run, model, method, encoder, GradientSpec.of_layers(method, run, model))
    dense = computer.train(made, [-1] * len(made)).gradient.dense.v
    blocks, cuts = computer.layers.choice.blocks, computer.layers.projection.cuts
    weights = [getattr(model.get_submodule(one.modules[0]), one.part) for one in blocks]
    assert len(weights) > 2
    for row, one in enumerate(made):
        for weight in weights:
            weight.requires_grad_(True)
        types = {} if one.type_ids is None else {"token_type_ids": torch.as_tensor(one.type_ids)[None]}
        loss = model(input_ids=torch.as_tensor(one.ids)[None], **types, **labels(row, one)).loss
        for block, grad in zip(blocks, torch.autograd.grad(loss, weights), strict=True):
            wanted = grad.numpy()
            found = dense[row, cuts[block.name]].reshape(wanted.shape)
            assert np.linalg.norm(found - wanted) <= 1e-6 * max(np.linalg.norm(wanted), 1e-4)


@pytest.mark.parametrize("kind", TYPES)
def test_check_passes_and_an_index_answers(kind: str, tmp_path: Path) -> None:
    run, (rows, _) = adapted(tmp_path, kind), truth(kind)
    assert [(one.name, one.value) for one in check(run, rows) if one.passed is False] == []
    index = proponent.build(run, rows, tmp_path / "index", quiet=True)
    hit = index.explain(rows[3], k=1, baselines=False).proponents[0]
    assert sum(pair.share for pair in hit.words) == pytest.approx(hit.score, rel=1e-4)


def test_an_adapter_of_another_type_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="FEATURE_EXTRACTION"):
        adapted(tmp_path, "token-classification", "FEATURE_EXTRACTION")
