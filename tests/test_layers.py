"""Gradients of every layer against autograd, for every architecture; groups, patterns, coverage."""

from typing import Any

import numpy as np
import pytest
import torch

from cases import CASES, LABELS, collate, encoded, model_of
from oracle import Text, layer_gradient
from proponent.gradients.capture import Capture, Captured
from proponent.gradients.layer_hooks import UnbatchedError
from proponent.gradients.layer_rules import Block
from proponent.gradients.layer_selection import Choice, choose
from proponent.gradients.model_parts import classifier_head, input_embedding, vocabulary_head
from proponent.gradients.projection import Projection
from proponent.models import CausalLM, Classification

TOLERANCE = 1e-5
LMS = [name for name, case in CASES.items() if case.kind == "causal-lm"]


def chosen(model: Any, *wanted: str, biases: bool = True, rows: bool = False) -> Choice:
    head = vocabulary_head(model) or (classifier_head(model) if model.config.num_labels == LABELS else None)
    return choose(model, wanted or ("all",), head=head, word=input_embedding(model), biases=biases, rows=rows)


def vectors(model: Any, examples: Any, choice: Choice, *, lm: bool, p: int | None = None) -> tuple[Any, np.ndarray]:
    """All examples in one batch; one by one where a layer is not called on one entry per example."""
    projection = Projection(choice.blocks, p, 0)
    labels = [row % LABELS for row in range(len(examples))]
    try:
        parts = [captured(model, examples, labels, choice, lm=lm)]
    except UnbatchedError:
        parts = [captured(model, [one], [label], choice, lm=lm) for one, label in zip(examples, labels, strict=True)]
    return projection, np.concatenate([projection.vectors(one.calls, len(one.losses)) for one in parts])


def captured(model: Any, examples: Any, labels: list[int], choice: Choice, *, lm: bool) -> Captured:
    batch = collate(examples, labels)
    task = (CausalLM() if lm else Classification()).objective(batch)
    return Capture(model, embedding=False, blocks=choice.blocks)(batch.inputs, task.losses, batch.words)


def truth(model: Any, text: Text, block: Block) -> np.ndarray:
    """Autograd's gradient of the block's parameter in every module that uses it, laid out [o i]."""
    part = "bias" if block.part == "bias" else "weight"
    names = dict.fromkeys(f"{module}.{part}" for module in block.modules)
    found = shared_gradient(model, text, list(names))
    module = model.get_submodule(block.modules[0])
    if part == "weight" and type(module).__name__ == "Conv1D":
        found = found.T
    return found.reshape(block.o, block.i)


def shared_gradient(model: Any, text: Text, names: list[str]) -> np.ndarray:
    if len(names) == 1:
        return layer_gradient(model, text, names[0])
    from oracle import loss

    weight = model.get_parameter(names[0]).detach().clone().requires_grad_()
    inputs = {"input_ids": torch.tensor([list(text.ids)]), "attention_mask": torch.ones(1, len(text.ids)).long()}
    with torch.enable_grad():
        output = torch.func.functional_call(model, dict.fromkeys(names, weight), (), inputs, tie_weights=False)
        (gradient,) = torch.autograd.grad(loss(output.logits, text), weight)
    return gradient.double().numpy()


@pytest.mark.parametrize("name", CASES)
def test_every_layer_equals_autograd(name: str) -> None:
    model, lm = model_of(name), name in LMS
    lengths = (6, 6, 6) if CASES[name].sees_padding else (7, 4, 10)
    examples = encoded(1, lengths, lm=lm)
    choice = chosen(model)
    projection, found = vectors(model, examples, choice, lm=lm)
    assert choice.blocks
    for position, one in enumerate(examples):
        text = Text(one.ids.tolist(), counted=one.counted.tolist()) if lm else Text(one.ids.tolist(), position % LABELS)
        whole = 0.0
        for block in choice.blocks:
            wanted = truth(model, text, block)
            mine = found[position, projection.cuts[block.name]].reshape(block.o, block.i)
            size = float(np.linalg.norm(wanted))
            whole += size**2
            assert np.linalg.norm(mine - wanted) <= TOLERANCE * max(size, 1e-2), block.name
        assert whole > 0
