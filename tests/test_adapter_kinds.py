"""Every kind of adapter against PEFT itself: outputs, gradients of embedding rows, and scores over what was trained."""

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
import transformers

import proponent
import runs
from pretend_device import pretend_device
from proponent.gradients.capture import head_table
from proponent.gradients.computer import GradientComputer
from proponent.method import Gradients
from proponent.models import Run

pytestmark = pytest.mark.filterwarnings("ignore")  # matters between peft and transformers

TEXTS = runs.TEXTS[:4]
LORA: dict[str, Any] = {"r": 2, "lora_alpha": 5, "task_type": "CAUSAL_LM", "target_modules": ["q_proj", "down_proj"]}

KINDS: dict[str, tuple[type, dict[str, Any]]] = {
    "lora": (peft.LoraConfig, {}),
    "no task type": (peft.LoraConfig, {"task_type": None}),
    "rslora, patterns": (peft.LoraConfig, {"use_rslora": True, "rank_pattern": {"down_proj": 3}}),
    "dora": (peft.LoraConfig, {"use_dora": True}),
    "lora with biases": (peft.LoraConfig, {"bias": "all"}),
    "embedding saved": (peft.LoraConfig, {"modules_to_save": ["embed_tokens"]}),
    "embedding and head saved": (peft.LoraConfig, {"modules_to_save": ["embed_tokens", "lm_head"]}),
    "lora on the embedding": (peft.LoraConfig, {"target_modules": ["embed_tokens", "q_proj"]}),
    "lora on the head": (peft.LoraConfig, {"target_modules": ["lm_head", "q_proj"]}),
    "dora on embedding and head": (
        peft.LoraConfig,
        {"use_dora": True, "target_modules": ["embed_tokens", "lm_head", "q_proj"]},
    ),
    "embedding saved, tied": (peft.LoraConfig, {"modules_to_save": ["embed_tokens"], "ensure_weight_tying": True}),
    "lora on the embedding, tied": (
        peft.LoraConfig,
        {"target_modules": ["embed_tokens", "q_proj"], "ensure_weight_tying": True},
    ),
    "single tokens": (peft.LoraConfig, {"trainable_token_indices": {"embed_tokens": [5, 9, 40]}}),
    "single tokens alone": (
        peft.TrainableTokensConfig,
        {"token_indices": [5, 9, 40], "target_modules": ["embed_tokens"]},
    ),
    "ia3": (peft.IA3Config, {"target_modules": ["k_proj", "down_proj"], "feedforward_modules": ["down_proj"]}),
}


tokenizer_of = cache(runs.gpt2_tokenizer)

PARTED = {"embedding saved", "lora on the embedding", "lora on the head", "dora on embedding and head"}
"""Kinds that change a tied table on one side only, or on each side differently: in training, it was no longer tied."""


def grid(like: torch.Tensor, spread: float) -> torch.Tensor:
    """Random numbers with few digits, so that products and sums of weights are exact in 32 bits."""
    return (spread * 64 * torch.randn_like(like)).round() / 64


def base_model(folder: Path, *, tied: bool = False) -> Path:
    tokenizer = tokenizer_of()
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer), num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=32,
        tie_word_embeddings=tied, pad_token_id=None, **sizes,
    )  # fmt: skip
    model = transformers.LlamaForCausalLM(config)
    for parameter in model.parameters():
        parameter.data.copy_(grid(parameter, 0.4))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def adapter(base: Path, folder: Path, config: type, seed: int = 1, **settings: Any) -> Path:
    """Save an adapter whose trained weights are random."""
    own = LORA if config is peft.LoraConfig else {"task_type": "CAUSAL_LM"}
    wrapped: Any = peft.get_peft_model(
        transformers.AutoModelForCausalLM.from_pretrained(base), config(**own | settings)
    )
    torch.manual_seed(seed)
    for parameter in wrapped.parameters():
        if parameter.requires_grad:
            parameter.data += grid(parameter, 0.3)
    wrapped.save_pretrained(folder)
    return folder


def peft_model(base: Path, folder: Path) -> Any:
    loaded = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    return peft.PeftModel.from_pretrained(loaded, folder, is_trainable=True).eval().double()


def loss(model: Any, text: str) -> torch.Tensor:
    ids = tokenizer_of()([text], return_tensors="pt")["input_ids"]
    return model(input_ids=ids, labels=ids).loss


def computed(run: Run, model: Any) -> np.ndarray:
    """Gradients of the word embedding by the method, as whole tables."""
    encoder = run.encoder(run.length(None))
    work = GradientComputer(run, model, Gradients(name="rows"), encoder)
    examples = [proponent.Example(str(row), row, text) for row, text in enumerate(TEXTS)]
    found = work.train(encoder.encode(examples), [-1] * len(TEXTS)).gradient
    tables = np.zeros((len(TEXTS), *model.get_input_embeddings().weight.shape))
    for row in range(len(TEXTS)):
        one = found.example(row)
        assert one.rows is not None
        np.add.at(tables[row], one.rows.ids, one.rows.rows)
        if one.head is not None:
            tables[row] += one.head.outer(head_table(model)).dense()
    return tables


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, Path]:
    """A base model with tables apart, and one with a shared table."""
    return {tied: base_model(tmp_path_factory.mktemp("base") / "base", tied=tied) for tied in (False, True)}


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("kind", KINDS)
def test_rows_equal_autograd_of_the_merged_model(
    kind: str, tied: bool, bases: dict[bool, Path], tmp_path: Path
) -> None:
    (config, settings), base = KINDS[kind], bases[tied]
    folder = adapter(base, tmp_path / "adapter", config, **settings)
    run = Run.from_pretrained(folder)
    model: Any = run.load(run.checkpoints[0]).double()
    theirs = peft_model(base, folder)
    for text in TEXTS:
        torch.testing.assert_close(loss(model, text), loss(theirs, text), rtol=1e-6, atol=0)
    if tied and kind in PARTED:
        truth = at_output(theirs)
    else:
        if tied and kind == "lora on the embedding, tied":  # PEFT merges the adapter of a tied table twice
            theirs.get_output_embeddings().lora_B["default"].weight.data.zero_()
        truth = at_table(theirs.merge_and_unload())
    bound = 1e-5 if kind == "dora on embedding and head" else 1e-6  # its tables, divided by norms, have 32 bits
    np.testing.assert_allclose(computed(run, model), truth, atol=bound * np.abs(truth).max(), rtol=bound)


def at_table(model: Any) -> np.ndarray:
    """Autograd's gradient of the whole table, the head's part included where they share it."""
    table = model.get_input_embeddings().weight.requires_grad_()
    return np.stack([torch.autograd.grad(loss(model, text), table)[0].numpy() for text in TEXTS])


def at_output(model: Any) -> np.ndarray:
    """Autograd's gradient at the output of PEFT's own embedding, placed at the rows that were looked up."""
    seen: list[Any] = []

    def see(_: Any, x: Any, out: torch.Tensor) -> torch.Tensor:
        leaf = out.detach().requires_grad_()
        seen.append((x[0], leaf))
        return leaf

    handle = model.get_input_embeddings().register_forward_hook(see)
    truth = np.zeros((len(TEXTS), model.config.vocab_size, model.config.hidden_size))
    for row, text in enumerate(TEXTS):
        value = loss(model, text)
        ids, leaf = seen[-1]
        np.add.at(truth[row], ids[0].numpy(), torch.autograd.grad(value, leaf)[0][0].numpy())
    handle.remove()
    return truth


@pytest.mark.parametrize(
    ("kind", "tied"),
    [*((kind, False) for kind in KINDS), ("single tokens", True), ("lora on the embedding, tied", True)],
)
def test_the_group_lora_scores_all_that_was_trained(
    kind: str, tied: bool, bases: dict[bool, Path], tmp_path: Path
) -> None:
    (config, settings), base = KINDS[kind], bases[tied]
    folder = adapter(base, tmp_path / "adapter", config, **settings)
    theirs = peft_model(base, folder)
    own = [one for one in theirs.parameters() if one.requires_grad]
    grads = [torch.autograd.grad(loss(theirs, text), own, allow_unused=True) for text in TEXTS]
    flat = [torch.cat([torch.zeros(one.numel()) if g is None else g.flatten() for one, g in zip(own, row, strict=True)])
            for row in grads]  # fmt: skip
    truth = torch.stack(flat) @ torch.stack(flat).T
    rows = [{"id": f"r{row}", "text": text} for row, text in enumerate(TEXTS)]
    index = proponent.build(
        folder, rows, tmp_path / "index", "tracin-layers", layers="lora", biases=True, project=None, quiet=True
    )
    found = index.scores(TEXTS)
    np.testing.assert_allclose(found, truth.numpy(), rtol=1e-4, atol=1e-5 * truth.abs().max())
    (note,) = (one for one in index.store.manifest.notes if "of the adapter's parameters" in one)
    assert "100.0% of the adapter's parameters; skipped: none" in note


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_moves_to_a_device_and_to_half_precision(kind: str, bases: dict[bool, Path], tmp_path: Path) -> None:
    config, settings = KINDS[kind]
    folder = adapter(bases[True], tmp_path / "adapter", config, **settings)

    def tables(**where: str) -> np.ndarray:
        run = Run.from_pretrained(folder, **where)
        return computed(run, run.load(run.checkpoints[0]))

    exact = tables(device="cpu")
    with pretend_device():
        assert np.array_equal(tables(device="cuda"), exact)
    for dtype in ("bfloat16", "float16"):
        half = tables(device="cpu", dtype=dtype)
        assert 0 < np.linalg.norm(half - exact) <= 0.05 * np.linalg.norm(exact)
