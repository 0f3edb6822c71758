"""The gradient of the word embedding against finite differences of the loss, by architecture, tied and untied."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

import proponent
import runs
from proponent.gradients.capture import head_table
from proponent.gradients.computer import GradientComputer
from proponent.method import Gradients
from proponent.models import Run

SIZES: dict[str, Any] = {
    "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "head_dim": 8, "max_position_embeddings": 32,
}  # fmt: skip
MODELS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "GPT-2": ("GPT2Config", "GPT2LMHeadModel", {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 32}),
    "Llama": ("LlamaConfig", "LlamaForCausalLM", SIZES),
    "Qwen3": ("Qwen3Config", "Qwen3ForCausalLM", SIZES),
    "Gemma 3": ("Gemma3TextConfig", "Gemma3ForCausalLM", SIZES | {"sliding_window": 8}),
    "ModernBERT": (
        "ModernBertConfig",
        "ModernBertForMaskedLM",
        {name: SIZES[name] for name in SIZES if name not in {"num_key_value_heads", "head_dim"}}
        | {"attn_implementation": "eager", "local_attention": 8},
    ),
}


def saved(folder: Path, name: str, *, tied: bool, **more: Any) -> Path:
    config, kind, settings = MODELS[name]
    masked = kind.endswith("MaskedLM")
    tokenizer = runs.bert_tokenizer() if masked else runs.gpt2_tokenizer()
    torch.manual_seed(0)
    special = {"pad_token_id": tokenizer.pad_token_id, "bos_token_id": None, "eos_token_id": None}
    made = getattr(transformers, config)(
        vocab_size=len(tokenizer), tie_word_embeddings=tied, **settings | special | more
    )
    model = getattr(transformers, kind)(made)
    for parameter in model.parameters():
        parameter.data.normal_(std=0.3)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("name", MODELS)
def test_against_finite_differences(name: str, tied: bool, tmp_path: Path) -> None:
    run = Run.from_pretrained(saved(tmp_path / "model", name, tied=tied))
    model: Any = run.load(run.checkpoints[0]).double()
    assert (model.get_output_embeddings().weight is model.get_input_embeddings().weight) == tied
    encoder = run.encoder(run.length(None))
    work = GradientComputer(run, model, Gradients(name="rows"), encoder)
    assert work.spec.tied == tied, "read from the checkpoint, not from the class"
    encoded = encoder.encode([proponent.Example("a", 0, runs.TEXTS[0])])
    found = work.train(encoded, [-1]).gradient
    table = model.get_input_embeddings().weight
    gradient = np.zeros(table.shape)
    assert found.rows is not None
    np.add.at(gradient, found.rows.ids, found.rows.rows)
    if found.head is not None:
        gradient += found.head.outer(head_table(model)).dense()
    with torch.enable_grad():
        table.requires_grad = True
        truth = torch.autograd.grad(work.losses(encoded, [-1]).sum(), table)[0].numpy()
        table.requires_grad = False
    np.testing.assert_allclose(gradient, truth, atol=1e-6 * np.abs(truth).max(), rtol=1e-6)
    generator = torch.Generator().manual_seed(1)
    for _ in range(3):
        # some architectures normalise in 32 bits: the step must be long and go uphill
        random = torch.randn(table.shape, generator=generator, dtype=torch.float64) * torch.as_tensor(truth != 0)
        direction = torch.as_tensor(truth / np.linalg.norm(truth)) + 0.5 * random / random.norm()
        losses = [moved_loss(work, encoded, table, sign * 1e-3 * direction) for sign in (1.0, -1.0)]
        slope = (losses[0] - losses[1]) / 2e-3
        assert (gradient * direction.numpy()).sum() == pytest.approx(slope, rel=1e-3)


@torch.no_grad()
def moved_loss(work: GradientComputer, encoded: Any, table: torch.Tensor, step: torch.Tensor) -> float:
    """The loss with the table moved by a step."""
    table += step
    loss = float(work.losses(encoded, [-1]).sum())
    table -= step
    return loss


def test_a_second_table_of_tokens_is_named(tmp_path: Path) -> None:
    """Gemma 3n looks every token up in a second table, whose rows are not scored."""
    tokenizer = runs.gpt2_tokenizer()
    config = transformers.Gemma3nTextConfig(
        vocab_size=len(tokenizer), vocab_size_per_layer_input=len(tokenizer), hidden_size=16, num_hidden_layers=2,
        intermediate_size=[24] * 2, num_attention_heads=2, num_key_value_heads=1, head_dim=8, sliding_window=8,
        max_position_embeddings=32, hidden_size_per_layer_input=4, num_kv_shared_layers=0, laurel_rank=2,
        altup_num_inputs=2, layer_types=["full_attention"] * 2, activation_sparsity_pattern=[0.0] * 2,
        pad_token_id=tokenizer.pad_token_id, bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    torch.manual_seed(0)
    transformers.Gemma3nForCausalLM(config).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    rows = [{"id": row["id"], "text": row["text"]} for row in runs.ROWS[:4]]
    index = proponent.build(tmp_path / "model", rows, tmp_path / "index", quiet=True)
    assert any("embed_tokens_per_layer" in note for note in index.store.manifest.notes)
