"""Folders of adapters as people have them: moved bases, several adapters, other bases, kinds that are not read."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
import transformers

import proponent
import runs
from proponent.errors import MissingExtraError, RunError
from proponent.models import Run, huggingface
from runs import edit
from test_adapter_kinds import adapter, base_model, tokenizer_of

pytestmark = pytest.mark.filterwarnings("ignore")  # matters between peft and transformers

ROWS = [{"id": row["id"], "text": row["text"]} for row in runs.ROWS[:6]]


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return base_model(tmp_path / "base")


def checkpoints(base: Path, folder: Path) -> Path:
    """A run of two checkpoints of an adapter."""
    for step in (1, 2):
        adapter(base, folder / f"checkpoint-{step}", peft.LoraConfig, seed=step)
    return folder


def test_the_base_is_loaded_once_for_all_checkpoints(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run.from_pretrained(checkpoints(base, tmp_path / "run"))
    loads: list[str] = []
    real = huggingface._load_base
    monkeypatch.setattr(huggingface, "_load_base", lambda *given: loads.append("base") or real(*given))
    first, second = (run.load(one) for one in run.checkpoints)
    assert loads == ["base"]
    shared = [one.data_ptr() for one in first.parameters()]
    assert sum(one.data_ptr() in shared for one in second.parameters()) == len(list(base_parameters(base)))
    ids = torch.arange(6)[None]
    alone = Run.from_pretrained(run.checkpoints[1].path)
    truth = alone.load(alone.checkpoints[0])(input_ids=ids).logits
    torch.testing.assert_close(second(input_ids=ids).logits, truth, rtol=0, atol=0)
    first.double()  # the shared weights stay as they are
    torch.testing.assert_close(second(input_ids=ids).logits, truth, rtol=0, atol=0)
    with torch.no_grad():
        first = run.load(run.checkpoints[0])
        first.get_input_embeddings().weight += 1.0
    again = run.load(run.checkpoints[1])
    assert len(loads) == 3, "a base that a model has changed is loaded again"
    torch.testing.assert_close(again(input_ids=ids).logits, truth, rtol=0, atol=0)


def base_parameters(base: Path) -> Any:
    return transformers.AutoModelForCausalLM.from_pretrained(base).parameters()


def test_a_moved_base_is_named(base: Path, tmp_path: Path) -> None:
    folder = adapter(base, tmp_path / "adapter", peft.LoraConfig)
    before = Run.from_pretrained(folder).fingerprints
    index = proponent.build(folder, ROWS, tmp_path / "index", quiet=True)
    scores = index.scores([ROWS[0]["text"]])
    moved = Path(shutil.move(base, tmp_path / "moved"))
    with pytest.raises(RunError, match=r"is no longer at .*: .*--base"):
        Run.from_pretrained(folder)
    run = Run.from_pretrained(folder, base=moved)
    assert (run.fingerprints, run.tokenizer_folder) == (before, moved)
    np.testing.assert_allclose(proponent.open(tmp_path / "index", base=moved).scores([ROWS[0]["text"]]), scores)
    proponent.build(run, ROWS, tmp_path / "other", quiet=True)
    again = proponent.open(tmp_path / "other")  # the index keeps what was named
    np.testing.assert_allclose(again.scores([ROWS[0]["text"]]), scores)
    edit(folder / "adapter_config.json", base_model_name_or_path="someone/a-base")
    with pytest.raises(RunError, match=r"neither a folder nor in the cache of the hub: someone/a-base: .*--base"):
        Run.from_pretrained(folder)
    with pytest.raises(RunError, match="is a complete model, and --base"):
        Run.from_pretrained(moved, base=moved)


def test_the_revision_of_a_base_on_a_hub_is_read(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = adapter(base, tmp_path / "adapter", peft.LoraConfig)
    edit(folder / "adapter_config.json", base_model_name_or_path="someone/a-base", revision="0123abc")
    seen: list[Any] = []
    for loader in (transformers.AutoConfig, transformers.AutoModelForCausalLM, transformers.AutoTokenizer):
        real = loader.from_pretrained

        def local(name: str, *given: Any, real: Any = real, **options: Any) -> Any:
            if name == "someone/a-base":
                seen.append(options.pop("revision", None))
            return real(str(base) if name == "someone/a-base" else name, *given, **options)

        monkeypatch.setattr(loader, "from_pretrained", local)
    run = Run.from_pretrained(folder)
    run.load(run.checkpoints[0])
    assert set(seen) == {"0123abc"}
    assert len(seen) >= 3


def test_adapters_of_other_names_lie_in_subfolders(base: Path, tmp_path: Path) -> None:
    whole = adapter(base, tmp_path / "whole", peft.LoraConfig)
    named = tmp_path / "named"
    shutil.copytree(whole, named / "style")
    one, other = Run.from_pretrained(named), Run.from_pretrained(whole)
    ids = torch.arange(6)[None]
    logits = [run.load(run.checkpoints[0])(input_ids=ids).logits for run in (one, other)]
    torch.testing.assert_close(*logits, rtol=0, atol=0)
    assert one.fingerprints == other.fingerprints
    shutil.copytree(whole, named / "tone")
    with pytest.raises(RunError, match=r"holds several adapters \(style, tone\): .*style"):
        Run.from_pretrained(named)
    assert Run.from_pretrained(named / "tone").info.adapter
    shutil.copytree(named, whole, dirs_exist_ok=True)
    assert any("also holds adapters style, tone" in note for note in Run.from_pretrained(whole).notes)
    run = tmp_path / "run"
    for step in (1, 2):
        shutil.copytree(whole / "style", run / f"checkpoint-{step}" / "style")
    assert [one.step for one in Run.from_pretrained(run).checkpoints] == [1, 2]


def test_an_adapter_over_another_base_is_refused(base: Path, tmp_path: Path) -> None:
    folder = adapter(base, tmp_path / "adapter", peft.LoraConfig)
    shallow = transformers.AutoConfig.from_pretrained(base)
    shallow.num_hidden_layers = 1
    wide = transformers.AutoConfig.from_pretrained(base)
    wide.hidden_size, wide.head_dim = 32, 16
    for name, config in (("shallow", shallow), ("wide", wide)):
        transformers.LlamaForCausalLM(config).save_pretrained(tmp_path / name)
        tokenizer_of().save_pretrained(tmp_path / name)
    message = r"was trained on model\.layers\.1\..*, which .*shallow lacks: .*--base"
    with pytest.raises(RunError, match=message):
        loaded(folder, tmp_path / "shallow")
    with pytest.raises(RunError, match=r"was trained on .* with 16 numbers, which has 32 in .*wide: .*--base"):
        loaded(folder, tmp_path / "wide")


def loaded(folder: Path, base: Path) -> Any:
    run = Run.from_pretrained(folder, base=base)
    return run.load(run.checkpoints[0])


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
def test_added_tokens(tied: bool, tmp_path: Path) -> None:
    """The whole table lies in the adapter, or not all that was added: N against M tokens."""
    base = base_model(tmp_path / "base", tied=tied)
    rows = len(tokenizer_of())
    tokenizer = runs.gpt2_tokenizer()
    tokenizer.add_tokens(["<tool>", "<call>"])
    for name, settings in {
        "whole": {},
        "saved": {"modules_to_save": ["embed_tokens", "lm_head"]},
        "on the embedding": {"target_modules": ["embed_tokens", "q_proj"]},
        "rows": {"trainable_token_indices": {"embed_tokens": [rows, rows + 1]}},
    }.items():
        model: Any = transformers.AutoModelForCausalLM.from_pretrained(base)
        model.resize_token_embeddings(len(tokenizer))
        wrapped = peft.get_peft_model(
            model, peft.LoraConfig(r=2, task_type="CAUSAL_LM", **{"target_modules": ["q_proj"]} | settings)
        )
        wrapped.save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
        if not tied and name == "on the embedding":  # PEFT keeps the embedding's rows and forgets the head's
            with pytest.raises(RunError, match=f"trained over {rows + 2} tokens and its base .* has {rows}"):
                loaded(tmp_path / name, base)
            continue
        run = Run.from_pretrained(tmp_path / name)
        ids = torch.tensor([[1, 5, rows, 7, rows + 1]])
        found = run.load(run.checkpoints[0])(input_ids=ids).logits
        torch.testing.assert_close(found, wrapped.eval()(input_ids=ids).logits.detach(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"peft_type": "PROMPT_TUNING"}, r"trained vectors before the text .*\(PROMPT_TUNING\)"),
        ({"peft_type": "PREFIX_TUNING"}, "PREFIX_TUNING"),
        ({"peft_type": "P_TUNING"}, "P_TUNING"),
        ({"peft_type": "LOHA"}, "of kind LOHA, which proponent does not read.*merge_and_unload"),
        ({"peft_type": "VERA"}, "of kind VERA"),
        ({"alora_invocation_tokens": [3]}, r"activated LoRA \(alora_invocation_tokens\).*merge_and_unload"),
        ({"use_qalora": True}, "QALoRA"),
    ],
)
def test_other_kinds_are_refused_by_name(base: Path, tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    folder = adapter(base, tmp_path / "adapter", peft.LoraConfig)
    edit(folder / "adapter_config.json", **changes)
    with pytest.raises(RunError, match=message):
        Run.from_pretrained(folder)


def test_quantised_weights_are_refused_by_name(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = adapter(base, tmp_path / "adapter", peft.LoraConfig)
    edit(base / "config.json", quantization_config={"quant_method": "gptq", "bits": 4})
    for one in (folder, base):
        with pytest.raises(RunError, match=r"quantised by gptq, which proponent does not read: .*--base"):
            Run.from_pretrained(one)
    edit(base / "config.json", quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": True})
    monkeypatch.setattr("proponent.models.quantised.find_spec", lambda _: None)
    with pytest.raises(MissingExtraError, match="quantised by bitsandbytes: pip install bitsandbytes"):
        Run.from_pretrained(folder)


@pytest.mark.parametrize("bits", [4, 8])
def test_a_quantised_base_is_read_as_trained(base: Path, tmp_path: Path, bits: int) -> None:
    pytest.importorskip("bitsandbytes")
    quantised = transformers.AutoModelForCausalLM.from_pretrained(
        base,
        device_map="cpu",
        dtype=torch.float32,
        quantization_config=transformers.BitsAndBytesConfig(load_in_4bit=bits == 4, load_in_8bit=bits == 8),
    )
    quantised.save_pretrained(tmp_path / "quantised")
    tokenizer_of().save_pretrained(tmp_path / "quantised")
    folder = adapter(base, tmp_path / "adapter", peft.LoraConfig)
    edit(folder / "adapter_config.json", base_model_name_or_path=str(tmp_path / "quantised"))
    run = Run.from_pretrained(folder)
    assert any("as bitsandbytes stores them" in note for note in run.notes)
    model = run.load(run.checkpoints[0])
    plain = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "quantised", device_map="cpu").dequantize()
    plain = plain.float()
    ids = torch.arange(6)[None]
    if bits == 4:  # with 8 bits, activations are rounded too
        torch.testing.assert_close(plain(input_ids=ids).logits, quantised(input_ids=ids).logits, rtol=1e-5, atol=1e-5)
    adapted = peft.PeftModel.from_pretrained(plain, folder).eval()
    torch.testing.assert_close(
        model(input_ids=ids).logits, adapted(input_ids=ids).logits.detach(), rtol=1e-5, atol=1e-5
    )
    assert proponent.build(run, ROWS, tmp_path / "index", quiet=True).scores([ROWS[0]["text"]]).any()


def test_the_notes_say_what_was_trained(base: Path, tmp_path: Path) -> None:
    frozen = adapter(base, tmp_path / "frozen", peft.LoraConfig)
    saved = adapter(base, tmp_path / "saved", peft.LoraConfig, modules_to_save=["embed_tokens"], use_rslora=True)
    notes = [
        " ".join(
            proponent.build(one, ROWS, tmp_path / f"{one.name}.index", "tracin-we", quiet=True).store.manifest.notes
        )
        for one in (frozen, saved)
    ]
    assert "LoRA of rank 2 on q_proj, down_proj (" in notes[0]
    assert "did not train the word embedding" in notes[0]
    assert "LoRA (rsLoRA) of rank 2 on q_proj, down_proj and embed_tokens saved whole (" in notes[1]
    assert "did not train" not in notes[1]
    assert json.loads((saved / "adapter_config.json").read_text())["use_rslora"]
