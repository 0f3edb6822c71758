"""Memory forecast from the shapes of a configuration, against models that are really built."""

import gc
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers

import answered
import proponent
import runs
from pretend_device import pretend_device
from proponent.cost import forecast
from proponent.cost.shapes import cards_needed, linear_blocks, pass_bytes, scored_by, shape_forecast
from proponent.data import read
from proponent.errors import RunError
from proponent.index import Options
from proponent.method_table import stored_method
from proponent.models import Run
from proponent.models.scratch import byte_bpe
from proponent.models.shapes import model_of_shapes

pytestmark = pytest.mark.filterwarnings("ignore")
Said = Callable[..., tuple[int, str, str]]
TOKENS, TEXTS = 64, 12
DOCS = Path(__file__).parents[1] / "docs" / "devices.md"


def tokenizer() -> Any:
    return byte_bpe(runs.TEXTS, 420, 128)


def configuration(kind: str) -> Any:
    pad = tokenizer().pad_token_id
    if kind == "gpt2":
        return transformers.GPT2Config(
            vocab_size=2000, n_embd=64, n_layer=4, n_head=4, n_positions=128, pad_token_id=pad,
            architectures=["GPT2LMHeadModel"],
        )  # fmt: skip
    sizes = {"vocab_size": 2000, "hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 6}
    sizes |= {"num_attention_heads": 4, "max_position_embeddings": 128, "pad_token_id": pad}
    if kind == "llama":
        return transformers.LlamaConfig(
            **sizes, num_key_value_heads=2, tie_word_embeddings=False, architectures=["LlamaForCausalLM"]
        )
    names = dict(enumerate(runs.LABELS))
    return transformers.BertConfig(
        **sizes, id2label=names, label2id={name: at for at, name in names.items()},
        architectures=["BertForSequenceClassification"],
    )  # fmt: skip


def rows_of(kind: str) -> list[dict[str, Any]]:
    draw, words = random.Random(0), [word for some in runs.WORDS.values() for word in some]
    made = [{"id": f"r{at}", "text": " ".join(draw.choice(words) for _ in range(60))} for at in range(TEXTS)]
    return [one | {"label": runs.LABELS[at % 3]} for at, one in enumerate(made)] if kind == "bert" else made


def really(kind: str, folder: Path, *, lora: bool = False) -> Path:
    torch.manual_seed(0)
    config = configuration(kind)
    model = getattr(transformers, config.architectures[0])(config).eval()
    if not lora:
        return answered.saved(folder, model, tokenizer())
    answered.saved(folder.parent / "base", model, tokenizer())
    base = transformers.AutoModelForCausalLM.from_pretrained(folder.parent / "base")
    settings = peft.LoraConfig(r=8, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False)
    peft.get_peft_model(base, settings).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("kind", "method"),
    [
        *((kind, method) for kind in ("llama", "gpt2", "bert") for method in ("tracin-we", "grad-cos")),
        ("lora", "grad-cos"),
    ],
)
def test_shapes_forecast_the_memory_of_a_build(kind: str, method: str, dtype: Any, tmp_path: Path) -> None:
    folder = really("llama" if kind == "lora" else kind, tmp_path / "run", lora=kind == "lora")
    with pretend_device():
        run = Run.from_pretrained(folder, device="cuda", dtype=dtype)
        gc.collect()
        torch.cuda.reset_peak_memory_stats()
        how: dict[str, Any] = {"batch_size": TEXTS, "max_length": TOKENS, "quiet": True}
        proponent.build(run, rows_of(kind), tmp_path / "index", method, **how)
        peak = torch.cuda.max_memory_allocated()
    model, card = model_of_shapes(folder)
    scored = scored_by(stored_method(method), adapter=card.adapter)
    found = shape_forecast(model, scored=scored, dtype=dtype, tokens=TOKENS)
    blocks = linear_blocks(model) if scored == "layers" else ()
    assert all(one.device.type == "meta" for one in model.parameters())
    assert 0.85 <= (found.weights + pass_bytes(model, TEXTS, TOKENS, blocks)) / peak <= 1.15


@pytest.mark.parametrize("method", ["tracin-we", "grad-cos"])
def test_a_plan_forecasts_every_gpu_of_a_split_model(method: str, tmp_path: Path) -> None:
    folder, rows, term = really("llama", tmp_path / "run"), rows_of("llama"), stored_method(method)
    modules = {"": 1, "model.embed_tokens": 0, "model.layers.0": 0, "model.layers.1": 0}
    with pretend_device(cards=2):
        run = Run.from_pretrained(folder, device_map=modules)
        found = forecast(run, read(rows), term, Options(batch_size=TEXTS, quiet=True))
        gc.collect()
        for card in (0, 1):
            torch.cuda.reset_peak_memory_stats(card)
        proponent.build(run, rows, tmp_path / "index", method, batch_size=TEXTS, quiet=True)
        peaks = [torch.cuda.max_memory_allocated(card) for card in (0, 1)]
    assert found.peak_device is not None
    assert 0.85 <= found.peak_device / max(peaks) <= 1.15
    (note,) = [one for one in found.notes if "peak memory of the GPUs" in one]
    for card, peak in enumerate(peaks):
        said = float(note.split(f"cuda:{card} ")[1].split(" MB")[0])
        assert 0.85 <= said * 1e6 / peak <= 1.15


def test_gpus_are_counted_as_a_rule_fills_them(tmp_path: Path) -> None:
    folder = really("llama", tmp_path / "run")
    model, _ = model_of_shapes(folder)
    found = shape_forecast(model, tokens=TOKENS)
    assert cards_needed(model, found, 2 * found.total) == 1
    assert cards_needed(model, found, found.text) is None
    size = int((found.text + 0.75 * found.weights) / 0.95)
    count = cards_needed(model, found, size)
    assert count is not None
    assert count > 1
    room = int(0.95 * size) - found.text
    with pretend_device(cards=count):
        run = Run.from_pretrained(folder, device_map="sequential", max_memory=room)
        assert len(run.placement.devices) == count
    with pretend_device(cards=count - 1), pytest.raises(proponent.errors.InputError, match="does not fit"):
        Run.from_pretrained(folder, device_map="sequential", max_memory=room)


def test_a_model_of_seven_billion_weights_needs_no_weights(said: Said, tmp_path: Path) -> None:
    transformers.LlamaConfig(architectures=["LlamaForCausalLM"]).save_pretrained(tmp_path)
    assert [one.name for one in tmp_path.iterdir()] == ["config.json"]
    code, out, _ = said("plan", tmp_path, "--dtype", "bfloat16", "--max-length", "1024", "--json")
    told = json.loads(out)
    assert code == 0
    assert (told["parameters"], told["tokens"], told["layers"]) == (6_738_415_616, 1024, 0)
    assert told["weights"] == pytest.approx(2 * told["parameters"], rel=1e-3)
    assert told["gpus"] == {"24 GB": 1, "48 GB": 1, "80 GB": 1, "140 GB": 1}
    layers = json.loads(said("plan", tmp_path, "--method", "grad-cos", "--json")[1])
    assert layers["layers"] == 32 * 7
    assert layers["gpus"]["24 GB"] == 2
    assert "GPUs of 24 GB" in said("plan", tmp_path)[1]
    code, _, err = said("plan", tmp_path, "--device-map", "auto")
    assert code == 2
    assert "without DATA nothing runs on a device" in " ".join(err.split())
    (tmp_path / "none").mkdir()
    with pytest.raises(RunError):
        model_of_shapes(tmp_path / "none")


def published(name: str) -> Any:
    """The shapes of SmolLM2-135M, TinyLlama-1.1B, Llama-2-7B and Llama-2-70B."""
    llama = transformers.LlamaConfig
    return {
        "135M": lambda: llama(
            vocab_size=49152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9,
            num_key_value_heads=3, tie_word_embeddings=True,
        ),
        "1.1B": lambda: llama(
            hidden_size=2048, intermediate_size=5632, num_hidden_layers=22, num_key_value_heads=4
        ),
        "7B": llama,
        "70B": lambda: llama(
            hidden_size=8192, intermediate_size=28672, num_hidden_layers=80, num_attention_heads=64,
            num_key_value_heads=8,
        ),
    }[name]()  # fmt: skip


def table() -> list[str]:
    """The table of docs/devices.md."""
    made: list[str] = []
    for name in ("135M", "1.1B", "7B", "70B"):
        for kind in ("whole", "LoRA"):
            for scored in ("words", "layers") if kind == "whole" else ("layers",):
                for dtype in ("float32", "bfloat16"):
                    with torch.device("meta"):
                        model = transformers.AutoModelForCausalLM.from_config(published(name))
                        if kind == "LoRA":
                            model = peft.get_peft_model(model, peft.LoraConfig(r=16, target_modules="all-linear"))
                    found = shape_forecast(model, scored=scored, dtype=dtype, tokens=512)
                    cards = [cards_needed(model, found, size * 10**9) for size in (24, 48, 80, 140)]
                    cells = [
                        f"{found.weights / 1e9:.1f}",
                        f"{found.text / 1e9:.1f}",
                        *("none" if one is None else str(one) for one in cards),
                    ]
                    made.append(f"| {name}, {kind} | {scored} | {dtype} | {' | '.join(cells)} |")
    return made


def test_the_table_of_the_documentation_is_that_of_the_code() -> None:
    assert [
        line
        for line in DOCS.read_text().splitlines()
        if line.startswith(
            (
                "| 135M",
                "| 1.1B",
                "| 7",
            )
        )
    ] == table()
