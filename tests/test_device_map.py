"""Models split over several devices: pretended cards give the CPU's bits, and what cannot be split is refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
import transformers

import answered
import proponent
import runs
from pretend_device import pretend_device
from proponent.data import read
from proponent.errors import InputError, MissingExtraError
from proponent.models import Run
from proponent.models.device_map import placed
from proponent.models.placement import Placement, device_of, devices_of

pytestmark = pytest.mark.filterwarnings("ignore")
Said = Callable[..., tuple[int, str, str]]
LINES = [{"id": row["id"], "text": row["text"]} for row in runs.ROWS]
ROWS = runs.ROWS[:9]
FIRST, SECOND = "cuda:0", "cuda:1"
OF_CLASSES = (
    "tracin-we", "tracin-we-idf", "tracin-we-adam-unit", "tracin-last", "tracin-all", "grad-cos", "ekfac", "datainf",
    "trackstar", "representer", "fastif",
)  # fmt: skip
OF_TOKENS = ("tracin-we", "tracin-we-idf", "tracin-last", "tracin-all", "grad-cos", "ekfac")
FASTIF = {"layers": "all", "solver": "cg", "damping": 0.1}
BERT = {
    "bert.embeddings": FIRST, "bert.encoder.layer.0": FIRST, "bert.encoder.layer.1": SECOND,
    "bert.encoder.layer.2": SECOND, "bert.pooler": FIRST, "classifier": SECOND,
}  # fmt: skip
GPT2 = {"": SECOND, "transformer.wte": FIRST, "transformer.h.0": FIRST, "lm_head": FIRST}
LLAMA = {
    "model.embed_tokens": SECOND, "model.layers.0": FIRST, "model.layers.1": SECOND, "model.layers.2": FIRST,
    "model.norm": SECOND, "model.rotary_emb": FIRST, "lm_head": FIRST,
}  # fmt: skip


def bert(folder: Path) -> Path:
    torch.manual_seed(0)
    tokenizer = runs.bert_tokenizer()
    names = dict(enumerate(runs.LABELS))
    config = transformers.BertConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=24, num_hidden_layers=3, num_attention_heads=2,
        max_position_embeddings=runs.MAX_LENGTH, pad_token_id=tokenizer.pad_token_id, id2label=names,
        label2id={name: at for at, name in names.items()},
    )  # fmt: skip
    return answered.saved(folder, transformers.BertForSequenceClassification(config).eval(), tokenizer)


def gpt2(folder: Path) -> Path:
    torch.manual_seed(0)
    tokenizer = runs.gpt2_tokenizer()
    config = transformers.GPT2Config(
        vocab_size=len(tokenizer), n_embd=16, n_layer=3, n_head=2, n_positions=runs.MAX_LENGTH,
        pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    return answered.saved(folder, transformers.GPT2LMHeadModel(config).eval(), tokenizer)


def llama_model(tokenizer: Any, **settings: Any) -> Any:
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 3, "num_attention_heads": 2}
    sizes |= {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id, "num_key_value_heads": 1}
    sizes |= {"max_position_embeddings": runs.MAX_LENGTH, "tie_word_embeddings": False}
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes | settings)).eval()


def llama(folder: Path) -> Path:
    tokenizer = runs.gpt2_tokenizer()
    return answered.saved(folder, llama_model(tokenizer), tokenizer)


def lora(folder: Path, **settings: Any) -> Path:
    """An untrained adapter whose second factors are not zero."""
    base = llama(folder.parent / "base")
    model = transformers.AutoModelForCausalLM.from_pretrained(base)
    targets = {"target_modules": ["q_proj", "down_proj"]} | settings
    adapted: Any = peft.get_peft_model(model, peft.LoraConfig(r=2, task_type="CAUSAL_LM", **targets))
    torch.manual_seed(1)
    with torch.no_grad():
        for name, one in adapted.named_parameters():
            if "lora_" in name:
                one.normal_(std=0.3)
    adapted.save_pretrained(folder)
    runs.gpt2_tokenizer().save_pretrained(folder)
    return folder


def answers(run: Any, rows: Any, asked: Any, method: str, out: Path, **how: Any) -> tuple[Any, list[Any]]:
    """Scores of some questions, and the words of their answers."""
    how = {"quiet": True, "batch_size": 4, "second_moment": "estimate"} | how
    index = proponent.build(run, rows, out, method, **how)
    why = [*index.explain_many(read(asked), k=2)]
    return np.asarray(index.scores(read(asked))), [(hit.id, hit.score, hit.words) for one in why for hit in one.proponents]


def compare(folder: Path, rows: Any, asked: Any, method: str, out: Path, modules: Any, **how: Any) -> None:
    """Split over two pretended cards as on the CPU."""
    here = answers(Run.from_pretrained(folder, device="cpu"), rows, asked, method, out / "cpu", **how)
    with pretend_device(cards=2):
        run = Run.from_pretrained(folder, device_map=modules)
        assert run.placement.split
        there = answers(run, rows, asked, method, out / "cards", **how)
    assert np.nanmax(np.abs(here[0])) > 0
    if method == "fastif":  # a second derivative of a split model is summed in another order
        np.testing.assert_allclose(there[0], here[0], rtol=1e-5)
        return
    assert np.array_equal(here[0], there[0], equal_nan=True)
    assert here[1] == there[1]


@pytest.mark.parametrize("method", OF_CLASSES)
def test_methods_of_a_classifier(method: str, tmp_path: Path) -> None:
    changes: dict[str, Any] = FASTIF if method == "fastif" else {}
    compare(bert(tmp_path / "run"), ROWS, runs.OTHERS[:2], method, tmp_path, BERT, **changes)


@pytest.mark.parametrize("method", OF_TOKENS)
def test_methods_of_a_language_model_with_a_tied_table(method: str, tmp_path: Path) -> None:
    compare(gpt2(tmp_path / "run"), LINES[:9], LINES[:1], method, tmp_path, GPT2)


@pytest.mark.parametrize("method", OF_TOKENS)
def test_methods_of_a_language_model_with_two_tables(method: str, tmp_path: Path) -> None:
    compare(llama(tmp_path / "run"), LINES[:9], LINES[:1], method, tmp_path, LLAMA)


@pytest.mark.parametrize("targets", [["q_proj", "down_proj"], ["v_proj", "embed_tokens", "lm_head"]], ids=["layers", "tables"])
@pytest.mark.parametrize("method", ["tracin-all", "grad-cos", "ekfac"])
def test_adapters(method: str, targets: list[str], tmp_path: Path) -> None:
    folder = lora(tmp_path / "run", target_modules=targets)
    compare(folder, LINES[:9], LINES[:1], method, tmp_path, LLAMA)


@pytest.mark.parametrize(
    "settings",
    [
        {"use_dora": True, "modules_to_save": ["lm_head"]},
        {"use_dora": True, "target_modules": ["embed_tokens", "v_proj", "lm_head"]},
        {"trainable_token_indices": [3, 5, 8]},
    ],
    ids=["magnitudes", "magnitudes of tables", "tokens"],
)
def test_kinds_of_adapters(settings: dict[str, Any], tmp_path: Path) -> None:
    compare(lora(tmp_path / "run", **settings), LINES[:9], LINES[:1], "grad-cos", tmp_path, LLAMA)
