"""PEFT adapters over a base model: which head, which labels, which tokenizer, and when they are refused."""

from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
import transformers

import proponent
import runs
from proponent.errors import RunError
from proponent.models import Run
from proponent.models.trained_parts import trained_of
from runs import edit

peft_settles_this = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")


def adapter(folder: Path, base: Any, base_folder: Path, **settings: Any) -> Path:
    """Save a LoRA adapter, with what was trained made unlike its start."""
    wrapped = peft.get_peft_model(base, peft.LoraConfig(r=2, **settings))
    torch.manual_seed(1)
    for name, parameter in wrapped.named_parameters():
        if parameter.requires_grad:
            parameter.data.normal_(std=0.1) if "lora" in name else parameter.data.add_(0.1)
    wrapped.peft_config["default"].base_model_name_or_path = str(base_folder)
    wrapped.save_pretrained(folder)
    wrapped.eval()
    return folder


@peft_settles_this
@pytest.mark.parametrize("labels", [3, 5])
def test_a_lora_classifier(encoder_folder: Path, tmp_path: Path, labels: int) -> None:
    tokenizer = runs.bert_tokenizer()
    base = transformers.AutoModelForSequenceClassification.from_pretrained(encoder_folder, num_labels=labels)
    folder = adapter(tmp_path / "lora", base, encoder_folder, task_type="SEQ_CLS", target_modules=["query", "value"])
    run = Run.from_pretrained(folder)
    assert run.info.adapter
    # PEFT keeps no names; those of the base model hold as long as their number is right
    assert run.label_names == (runs.LABELS if labels == 3 else tuple(f"LABEL_{number}" for number in range(5)))
    assert run.tokenizer_folder == encoder_folder  # the adapter's folder has none of its own
    inputs = tokenizer(["Sales of the bank."], return_tensors="pt")
    base.eval()  # the layers of the adapter were put into it
    np.testing.assert_allclose(
        run.load(run.checkpoints[0])(**inputs).logits.numpy(), base(**inputs).logits.detach().numpy(), atol=1e-6
    )
    before = run.fingerprints["weights step 0"]
    runs.bert(tokenizer).bert.to(torch.float16).save_pretrained(encoder_folder)
    assert Run.from_pretrained(folder).fingerprints["weights step 0"] != before, "another base model is another run"


@peft_settles_this
def test_the_label_count_of_an_adapter_is_that_of_its_head(tmp_path: Path) -> None:
    """DistilBERT has a second layer whose name ends alike, and as many outputs as the model is wide."""
    tokenizer = runs.bert_tokenizer()
    config = transformers.DistilBertConfig(
        vocab_size=len(tokenizer), dim=16, n_layers=1, n_heads=2, hidden_dim=16, max_position_embeddings=32
    )
    transformers.DistilBertModel(config).save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    base = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "base", num_labels=4)
    folder = adapter(
        tmp_path / "lora",
        base,
        tmp_path / "base",
        task_type="SEQ_CLS",
        target_modules=["q_lin"],
        modules_to_save=["pre_classifier", "classifier"],
    )
    run = Run.from_pretrained(folder)
    assert len(run.label_names or ()) == 4
    said = trained_of(run.load(run.checkpoints[-1]))
    assert said is not None
    assert "LoRA" in said.description
    assert "on q_lin and pre_classifier, classifier saved whole (" in said.description


@peft_settles_this
def test_a_lora_language_model_explains(lm_run: Path, tmp_path: Path) -> None:
    base_folder = lm_run / "checkpoint-6"
    base = transformers.AutoModelForCausalLM.from_pretrained(base_folder)
    folder = adapter(
        tmp_path / "lora", base, base_folder, task_type="CAUSAL_LM", target_modules=["c_attn"], fan_in_fan_out=True
    )
    run = Run.from_pretrained(folder)
    assert (run.task.kind, run.info.adapter) == ("causal-lm", True)
    index = proponent.build(run, runs.ROWS[:6], tmp_path / "i.index", columns=proponent.Columns(label=""), quiet=True)
    answer = index.explain(runs.TEXTS[0], baselines=False)
    assert answer.proponents[0].id == "n0"
    assert any("adapter" in note for note in answer.notes)


@peft_settles_this
def test_an_adapter_whose_head_was_never_trained_is_refused(encoder_folder: Path, tmp_path: Path) -> None:
    base = transformers.AutoModelForSequenceClassification.from_pretrained(encoder_folder, num_labels=3)
    folder = adapter(tmp_path / "lora", base, encoder_folder, target_modules=["query"])
    edit(folder / "adapter_config.json", task_type="SEQ_CLS")
    with pytest.raises(RunError, match="contains a trained classifier"):
        Run.from_pretrained(folder)
    edit(folder / "adapter_config.json", task_type="FEATURE_EXTRACTION")
    with pytest.raises(RunError, match="task type FEATURE_EXTRACTION"):
        Run.from_pretrained(folder)


@peft_settles_this
def test_an_adapter_without_its_base_is_refused(encoder_folder: Path, tmp_path: Path) -> None:
    tokenizer = runs.bert_tokenizer()
    base = transformers.AutoModelForSequenceClassification.from_pretrained(encoder_folder, num_labels=3)
    folder = adapter(tmp_path / "lora", base, encoder_folder, task_type="SEQ_CLS", target_modules=["query"])
    edit(folder / "adapter_config.json", base_model_name_or_path=None)
    tokenizer.save_pretrained(folder)
    with pytest.raises(RunError, match="does not name its base model"):
        Run.from_pretrained(folder)
    edit(folder / "adapter_config.json", base_model_name_or_path=str(tmp_path / "gone"))
    with pytest.raises(
        RunError, match=r"the base model of the adapter in .* is no longer at .*gone: .*base_model_name_or_path"
    ):
        Run.from_pretrained(folder)
    (folder / "adapter_config.json").write_text("{")
    with pytest.raises(RunError, match=r"adapter_config\.json"):
        Run.from_pretrained(folder)
