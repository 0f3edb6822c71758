"""Models and texts that are unlike the usual: each is read, or refused in one line."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import proponent
import runs
from proponent.check import check
from proponent.data import read
from proponent.errors import InputError, RunError
from proponent.models import Run
from proponent.training.trainer import Training, train

ROWS = [{"id": row["id"], "text": row["text"]} for row in runs.ROWS[:6]]


def saved(folder: Path, model: Any, tokenizer: Any) -> Path:
    for parameter in model.parameters():
        parameter.data.normal_(std=0.2)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_a_head_that_calls_the_decoder_of_its_body(tmp_path: Path) -> None:
    """OPT's head calls the decoder inside its model, not the model."""
    tokenizer = runs.gpt2_tokenizer()
    torch.manual_seed(0)
    config = transformers.OPTConfig(
        vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, ffn_dim=16, num_attention_heads=2,
        max_position_embeddings=32, word_embed_proj_dim=16, pad_token_id=None,
    )  # fmt: skip
    folder = saved(tmp_path / "opt", transformers.OPTForCausalLM(config), tokenizer)
    index = proponent.build(folder, ROWS, tmp_path / "index", quiet=True)
    answer = index.explain(ROWS[0]["text"], k=1)
    assert answer.proponents[0].id == "n0"
    assert "embedding" in " ".join(answer.baselines)


def test_check_of_a_model_without_float64(tmp_path: Path) -> None:
    tokenizer = runs.gpt2_tokenizer()
    torch.manual_seed(0)
    config = transformers.MixtralConfig(
        vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, intermediate_size=16, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=32, num_local_experts=2, num_experts_per_tok=2,
    )  # fmt: skip
    folder = saved(tmp_path / "moe", transformers.MixtralForCausalLM(config), tokenizer)
    found = check(Run.from_pretrained(folder), read(ROWS))
    (signs,) = (one for one in found if one.name.startswith("sign test"))
    assert "does not run in float64" in signs.name
    assert all(one.passed is not False for one in found)


def bart(folder: Path) -> Path:
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=runs.gpt2_tokenizer().backend_tokenizer, eos_token="</s>", pad_token="<pad>", bos_token="<s>"
    )
    ends: Any = tokenizer
    ends.backend_tokenizer.post_processor = __import__("tokenizers").processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", ends.bos_token_id), ("</s>", ends.eos_token_id)]
    )
    config = transformers.BartConfig(
        vocab_size=len(tokenizer), d_model=16, encoder_layers=1, decoder_layers=1, encoder_ffn_dim=16,
        decoder_ffn_dim=16, encoder_attention_heads=2, decoder_attention_heads=2, max_position_embeddings=64,
        num_labels=3, pad_token_id=ends.pad_token_id, bos_token_id=ends.bos_token_id, eos_token_id=ends.eos_token_id,
        decoder_start_token_id=ends.eos_token_id, forced_eos_token_id=ends.eos_token_id,
        id2label=dict(enumerate(runs.LABELS)), label2id={name: at for at, name in enumerate(runs.LABELS)},
    )  # fmt: skip
    return saved(folder, transformers.BartForSequenceClassification(config), tokenizer)


def test_the_end_token_in_a_text_names_the_row(tmp_path: Path) -> None:
    folder = bart(tmp_path / "bart")
    rows = [dict(row) for row in runs.ROWS[:6]]
    rows[4]["text"] += " </s> more."
    with pytest.raises(InputError, match=r"the text of row 4 \(id n4\) contains </s>"):
        proponent.build(folder, rows, tmp_path / "index", quiet=True)
    training = Training(model=str(folder), epochs=1, max_length=32, quiet=True)
    with pytest.raises(InputError, match=r"the text of row 4 \(id n4\) contains </s>"):
        train(read(rows), tmp_path / "run", training)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("batch_size", [1, 8])
@pytest.mark.parametrize("lm", [False, True], ids=["classifier", "language model"])
def test_a_text_without_tokens(tmp_path: Path, lm: bool, batch_size: int) -> None:
    """A bad row of an index; a question about it is refused in one line."""
    tokenizer = runs.gpt2_tokenizer()
    tokenizer.backend_tokenizer.pre_tokenizer = __import__("tokenizers").pre_tokenizers.Whitespace()
    config = transformers.GPT2Config(
        vocab_size=len(tokenizer), n_embd=16, n_layer=1, n_head=2, n_positions=32, num_labels=3, pad_token_id=0,
        id2label=dict(enumerate(runs.LABELS)), label2id={name: at for at, name in enumerate(runs.LABELS)},
    )  # fmt: skip
    kind = transformers.GPT2LMHeadModel if lm else transformers.GPT2ForSequenceClassification
    folder = saved(tmp_path / "gpt2", kind(config), tokenizer)
    blank = "日本"
    assert not tokenizer(blank)["input_ids"]
    rows = [dict(row) for row in runs.ROWS[:6]]
    rows[2]["text"] = blank
    columns = proponent.Columns(label="") if lm else None
    index = proponent.build(folder, rows, tmp_path / "index", "tracin-last", columns=columns, quiet=True,
                            batch_size=batch_size)  # fmt: skip
    (bad,) = index.store.manifest.skipped
    assert (bad.id, "no token" in bad.cause) == ("n2", True)
    with pytest.raises(InputError, match="the text has no token"):
        index.explain(blank)


def test_models_of_other_libraries_are_refused_by_name(bert_run: Path, tmp_path: Path) -> None:
    tokenizer = runs.bert_tokenizer()
    folder = tmp_path / "embedder"
    runs.bert(tokenizer).bert.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "modules.json").write_text("[]")
    with pytest.raises(RunError, match=r"trained by sentence-transformers \(modules.json\) and has no task head"):
        Run.from_pretrained(folder)
    (folder / "config_setfit.json").write_text("{}")
    with pytest.raises(RunError, match=r"is a SetFit model .* pickle"):
        Run.from_pretrained(folder)
    cross = tmp_path / "cross"
    runs.bert(tokenizer).save_pretrained(cross)
    tokenizer.save_pretrained(cross)
    (cross / "config_sentence_transformers.json").write_text("{}")
    assert Run.from_pretrained(cross).label_names == runs.LABELS


def test_a_loss_that_reweights_tokens_is_refused(lm_run: Path, copied: Any) -> None:
    folder = copied(lm_run)
    runs.edit(folder / "proponent_run.json", sft={"loss_type": "dft"})
    with pytest.raises(RunError, match="loss_type dft"):
        Run.from_pretrained(folder)


def test_checkpoints_in_folders_of_other_names(tmp_path: Path) -> None:
    tokenizer = runs.gpt2_tokenizer()
    for name in ("epoch_0", "epoch_1"):
        saved(tmp_path / "run" / name, runs.gpt2(tokenizer), tokenizer)
    with pytest.raises(RunError, match=r"in its folders epoch_0, epoch_1: give one of them .*checkpoint-STEP"):
        Run.from_pretrained(tmp_path / "run")


@pytest.mark.parametrize("left", ["pytorch_model_fsdp_0/__0_0.distcp", "global_step10/zero_pp_rank_0.pt"])
def test_weights_in_parts_are_never_told_to_be_removed(lm_run: Path, copied: Any, left: str) -> None:
    folder = copied(lm_run)
    last = folder / "checkpoint-6"
    (last / "model.safetensors").unlink()
    (last / left).parent.mkdir()
    (last / left).write_bytes(b"x")
    with pytest.raises(RunError, match="merge them with") as found:
        Run.from_pretrained(folder)
    assert "remove" not in str(found.value)
    assert json.loads((folder / "checkpoint-3" / "config.json").read_text())
