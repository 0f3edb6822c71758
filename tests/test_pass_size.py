"""Parts of a batch: they fit into memory, what a pass keeps is foreseen, and splitting changes no gradient."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from cases import collate, encoded, make
from proponent.gradients import computer, pass_size, token_losses
from proponent.gradients.capture import Capture
from proponent.gradients.computer import GradientComputer
from proponent.gradients.output_layer import OutputLayer
from proponent.gradients.pass_size import PassSize, of_length
from proponent.method_table import method_of
from proponent.models import CausalLM, Encoded, Run
from proponent.types import Example
from truth import lm_run


@given(st.lists(st.integers(1, 40), min_size=1, max_size=30), st.floats(1.0, 1e8), st.floats(0.0, 1e6))
def test_parts_tile_a_batch_and_fit(lengths: list[int], linear: float, quadratic: float) -> None:
    size = PassSize(linear, quadratic)
    parts = size.parts(lengths)
    assert [at for part in parts for at in range(part.start, part.stop)] == list(range(len(lengths)))
    for part in parts:
        own = lengths[part]
        assert len(own) == 1 or size.bytes(len(own), max(own)) <= pass_size.PASS_BYTES


def passes(model: Any) -> Callable[[Encoded], int]:
    output = OutputLayer(model)

    def run(one: Encoded) -> int:
        batch = collate([one])
        loss = CausalLM().objective(batch)
        Capture(model, output=output)(batch.inputs, loss.losses, batch.words, None, loss.terms())
        return 0

    return run


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_what_a_pass_keeps_is_foreseen(attention: str) -> None:
    model = make("llama", "ForCausalLM", attn_implementation=attention)
    (example,) = encoded(0, (6,), lm=True)
    found, run = PassSize.measure(model, example, passes(model)), passes(model)
    for t in (12, 40):
        tokens, kept = pass_size._kept(model, of_length(example, t), run)
        assert tokens == t
        assert found.bytes(1, t) == pytest.approx(kept, rel=0.02)
    assert (found.quadratic > 0) == (attention == "eager")


class Largest(TorchDispatchMode):
    """Notes the size of the largest tensor in memory that an operation returns."""

    numbers = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        sizes = [one.untyped_storage().nbytes() // 4 for one in tree_leaves(made) if isinstance(one, torch.Tensor)]
        self.numbers = max([self.numbers, *sizes])
        return made


def test_no_tensor_is_as_large_as_the_logits_of_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    vocabulary, positions = 3000, 20
    monkeypatch.setattr(token_losses, "BLOCK_BYTES", 4 * vocabulary * 4)
    model = make("llama", "ForCausalLM", vocab_size=vocabulary)
    batch = collate(encoded(0, (positions,) * 6, lm=True))
    loss = CausalLM().objective(batch)
    sizes: list[int] = []
    for output in (OutputLayer(model), None):
        with Largest() as largest:
            Capture(model, output=output)(batch.inputs, loss.losses, batch.words, None, loss.terms())
        sizes.append(largest.numbers)
    assert sizes[0] <= model.lm_head.weight.numel()
    assert sizes[1] >= 6 * positions * vocabulary


@pytest.mark.parametrize("method", ["tracin-we", "tracin-layers"])
def test_splitting_a_batch_changes_no_gradient(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    truth = lm_run(tmp_path / "run", "gpt2", tied=True, steps=(5,))
    run = Run.from_pretrained(truth.folder)
    model = run.load(run.checkpoints[0])
    changes = {"layers": ("attention",)} if method == "tracin-layers" else {}
    encoder = run.encoder(64)
    rows = [Example(row["id"], at, row["text"], target=row.get("target")) for at, row in enumerate(truth.training)]
    examples = encoder.encode(rows)

    def gradients() -> tuple[dict[str, np.ndarray], int]:
        work = GradientComputer(run, model, method_of(method, **changes), encoder)
        made = work.train(examples, [-1] * len(examples))
        return made.gradient.pack() | {"losses": made.losses}, len(work.parts(examples))

    whole, one = gradients()
    monkeypatch.setattr(pass_size, "PASS_BYTES", 2**20)
    monkeypatch.setattr(computer, "SMALL", 0)
    split, several = gradients()
    assert (one, several > 2) == (1, True)
    for name, truth_of in whole.items():
        np.testing.assert_allclose(split[name], truth_of, rtol=1e-4, atol=1e-6 * max(1e-30, np.abs(truth_of).max()))
