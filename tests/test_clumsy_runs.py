"""Runs as people really have them: explained rightly, or refused in a line that names the file and the way out."""

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pytest
import torch
import transformers
from pyarrow import parquet
from tokenizers.processors import TemplateProcessing

import proponent
import runs
from proponent.check import check
from proponent.data import read
from proponent.errors import InputError, LabelError, MismatchError, RunError
from proponent.index import default_method
from proponent.models import Run
from proponent.models.padding import NOTE, multiple_of
from proponent.models.scratch import wordpiece

NAMES = dict(enumerate(runs.LABELS))
LABELLED: dict[str, Any] = {"id2label": NAMES, "label2id": {name: at for at, name in NAMES.items()}, "num_labels": 3}


def saved(folder: Path, model: Any, tokenizer: Any) -> Path:
    for parameter in model.parameters():
        parameter.data.normal_(std=0.2)
    model.save_pretrained(folder)
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    tokenizer = runs.bert_tokenizer()
    return saved(tmp_path_factory.mktemp("clumsy") / "model", runs.bert(tokenizer), tokenizer)


@pytest.fixture
def model(plain: Path, copied: Any) -> Path:
    return copied(plain)


def opened(folder: Path) -> Any:
    """What a build does first: open the run, and load its last checkpoint."""
    run = Run.from_pretrained(folder)
    return run.load(run.checkpoints[-1])


# the classes in config.json

CLASSES: list[tuple[dict[str, Any], str]] = [
    ({"id2label": ["Business", "Sports", "World"]}, r"config.json has the list .* for id2label: give an object"),
    ({"id2label": "Business"}, r"config.json has the str Business for id2label"),
    ({"id2label": {"Business": 0, "Sports": 1, "World": 2}}, "has the class number 'Business' in id2label"),
    ({"id2label": {"0": "a", "2": "b", "3": "c"}}, "names 3 classes in id2label and not the class 1"),
    ({"id2label": {"0": "a", "1": None, "2": "c"}}, "gives the class 1 no name in id2label"),
    ({"id2label": {"0": "a", "1": " ", "2": "c"}}, "gives the class 1 no name in id2label"),
    ({"id2label": {"0": "Business", "1": "Sports", "2": "Sports"}}, "gives the classes 1 and 2 one name, 'Sports'"),
    (
        {"architectures": "BertForSequenceClassification", "id2label": {"0": "Sports", "1": "Biz", "2": "Sports"}},
        "gives the classes 0 and 2 one name, 'Sports'",
    ),
]


@pytest.mark.parametrize(("changes", "said"), CLASSES, ids=[str(at) for at in range(len(CLASSES))])
def test_classes_without_number_or_name(model: Path, changes: dict[str, Any], said: str) -> None:
    runs.edit(model / "config.json", **changes)
    with pytest.raises(RunError, match=said) as refusal:
        Run.from_pretrained(model)
    assert "\n" not in str(refusal.value)


def test_a_language_model_may_have_any_classes(lm_run: Path, copied: Any) -> None:
    folder = copied(lm_run)
    for path in folder.glob("checkpoint-*/config.json"):
        runs.edit(path, id2label={"0": "a", "1": "a"}, label2id={"a": 1})
    assert Run.from_pretrained(folder).label_names is None


def test_names_of_label2id_where_id2label_has_none(model: Path) -> None:
    default = {str(at): f"LABEL_{at}" for at in range(3)}
    runs.edit(model / "config.json", id2label=default, label2id={"World": 0, "Sports": 1, "Business": 2})
    assert Run.from_pretrained(model).label_names == ("World", "Sports", "Business")


def test_a_data_set_gives_no_name_to_two_classes(model: Path) -> None:
    runs.edit(model / "config.json", id2label={str(at): f"LABEL_{at}" for at in range(3)}, label2id=None)
    run = Run.from_pretrained(model)
    assert run.named(("a", "b", "c")).label_names == ("a", "b", "c")
    with pytest.raises(InputError, match=r"two classes one name, 'a'.* give each class a name of its own"):
        run.named(("a", "b", "a"))


def test_names_that_contradict_each_other_are_said(model: Path) -> None:
    runs.edit(model / "config.json", label2id={"Business": 2, "Sports": 1, "World": 0})
    (note,) = Run.from_pretrained(model).notes
    assert "names class 0 'Business' in id2label, and label2id gives that name to class 2: id2label is followed" in note
    runs.edit(model / "config.json", label2id={f"LABEL_{at}": at for at in range(3)})
    assert Run.from_pretrained(model).notes == ()


def numbered(folder: Path) -> Path:
    names = ["World", "Sports", "Business"]
    numbers = [names.index(row["label"]) for row in runs.ROWS]
    feature = {"label": {"names": names, "_type": "ClassLabel"}}
    table = pyarrow.table({"id": [row["id"] for row in runs.ROWS], "text": runs.TEXTS, "label": numbers})
    parquet.write_table(
        table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": feature}})}),
        folder / "a.parquet",
    )
    return folder / "a.parquet"


def test_a_model_without_names_takes_those_of_the_data(model: Path, tmp_path: Path) -> None:
    default = {str(at): f"LABEL_{at}" for at in range(3)}
    runs.edit(model / "config.json", id2label=default, label2id={name: int(at) for at, name in default.items()})
    with pytest.raises(LabelError, match=r"unknown label 'Business'.*has only default names; write the names into"):
        proponent.build(model, runs.ROWS, tmp_path / "text", "tracin-we", quiet=True)
    data = numbered(tmp_path)
    proponent.build(model, data, tmp_path / "index", "tracin-we", quiet=True)
    index = proponent.open(tmp_path / "index")
    assert index.store.plan.label_names == ["World", "Sports", "Business"]
    said = f"the model's classes have no names: those of {data} are used in order (World, Sports, Business)"
    assert said in index.store.manifest.notes
    answer = index.explain("the bank fell", label="Business", k=3)
    assert answer.query.label == "Business"
    assert set(answer.query.probabilities or {}) == {"World", "Sports", "Business"}
    assert {one.label for one in answer.proponents} <= {"World", "Sports", "Business"}
    assert np.array_equal(index.scores(["the bank"], ["Business"]), index.scores(["the bank"], [2]))
    assert not [one for one in check(Run.from_pretrained(model), read(data)) if one.passed is False]


# padding


def fnet(folder: Path) -> Path:
    tokenizer = runs.bert_tokenizer()
    torch.manual_seed(0)
    config = transformers.FNetConfig(
        vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, intermediate_size=16,
        max_position_embeddings=24, pad_token_id=0, **LABELLED,
    )  # fmt: skip
    return saved(folder, transformers.FNetForSequenceClassification(config), tokenizer)


def test_a_model_that_reads_its_padding_gets_none(tmp_path: Path) -> None:
    folder = fnet(tmp_path / "model")
    made = [
        proponent.build(folder, runs.ROWS[:9], tmp_path / f"i{size}", "tracin-we", batch_size=size, quiet=True)
        for size in (1, 9)
    ]
    assert all(NOTE in one.store.manifest.notes for one in made)
    one, many = (index.scores(["the bank fell", "the cup"], ["World", "Sports"]) for index in made)
    assert np.allclose(one, many, rtol=1e-4, atol=1e-6)
    found = {one.name: one for one in check(Run.from_pretrained(folder), read(runs.ROWS))}
    assert "gets none" in found["extra padding"].value
    assert not [one for one in found.values() if one.passed is False]


def test_other_models_are_padded(bert_run: Path, plain: Path) -> None:
    for folder in (bert_run, plain):
        run = Run.from_pretrained(folder)
        run.load(run.checkpoints[-1])
        assert (run.padding.tried, run.equal_lengths, run.padding.moves) == (True, False, False)


@pytest.mark.parametrize("batch_size", [1, 4])
def test_a_model_that_pads_to_a_window(tmp_path: Path, batch_size: int) -> None:
    tokenizer = runs.bert_tokenizer()
    torch.manual_seed(0)
    config = transformers.LongformerConfig(
        vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16,
        max_position_embeddings=40, attention_window=[4, 8], pad_token_id=0, bos_token_id=2, eos_token_id=3,
        sep_token_id=3, **LABELLED,
    )  # fmt: skip
    assert multiple_of(config) == 8
    folder = saved(tmp_path / "model", transformers.LongformerForSequenceClassification(config), tokenizer)
    index = proponent.build(folder, runs.ROWS[:6], tmp_path / "i", "tracin-we", batch_size=batch_size, quiet=True)
    for text in ("the", "the bank fell", runs.TEXTS[0]):
        assert index.explain(text, k=1).proponents


def test_a_model_that_shortens_its_texts(tmp_path: Path) -> None:
    tokenizer = runs.bert_tokenizer()
    config = transformers.FunnelConfig(
        vocab_size=len(tokenizer), d_model=16, n_head=2, d_head=8, d_inner=16, block_sizes=[1, 1], num_decoder_layers=1,
        pad_token_id=0, **LABELLED,
    )  # fmt: skip
    folder = saved(tmp_path / "model", transformers.FunnelForSequenceClassification(config), tokenizer)
    index = proponent.build(folder, runs.ROWS[:6], tmp_path / "i", "tracin-we", quiet=True)
    assert index.explain("the bank fell", k=1).proponents


# encoder-decoders with a classifier


def with_end(tokenizer: Any) -> Any:
    made = copy.deepcopy(tokenizer)
    end = (made.eos_token, made.eos_token_id)
    made.backend_tokenizer.post_processor = TemplateProcessing(single=f"$A {end[0]}", special_tokens=[end])
    return made


@pytest.mark.parametrize("kind", ["bart", "t5"])
def test_an_encoder_decoder_with_a_classifier(tmp_path: Path, kind: str) -> None:
    tokenizer = with_end(runs.gpt2_tokenizer())
    torch.manual_seed(0)
    ends = {"pad_token_id": 1, "eos_token_id": tokenizer.eos_token_id, "decoder_start_token_id": tokenizer.eos_token_id}
    if kind == "bart":
        config: Any = transformers.BartConfig(
            vocab_size=len(tokenizer), d_model=16, encoder_layers=1, decoder_layers=1, encoder_ffn_dim=16,
            decoder_ffn_dim=16, encoder_attention_heads=2, decoder_attention_heads=2, max_position_embeddings=64,
            forced_eos_token_id=None, **ends, **LABELLED,
        )  # fmt: skip
        made: Any = transformers.BartForSequenceClassification(config)
    else:
        config = transformers.T5Config(
            vocab_size=len(tokenizer), d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2, **ends, **LABELLED
        )
        made = transformers.T5ForSequenceClassification(config)
    folder = saved(tmp_path / "model", made, tokenizer)
    run = Run.from_pretrained(folder)
    assert default_method(run).method == "grad-cos"
    index = proponent.build(run, runs.ROWS[:6], tmp_path / "index", quiet=True)
    assert any("words are one token off" in note for note in index.store.manifest.notes)
    answer = index.explain(runs.TEXTS[0], k=1)
    assert answer.proponents
    with pytest.raises(RunError, match=r"choose a method of layers, such as --method grad-cos"):
        proponent.build(run, runs.ROWS[:6], tmp_path / "other", "tracin-we", quiet=True)
    proponent.build(run, runs.ROWS[:6], tmp_path / "last", "tracin-last", quiet=True)
    found = {one.name: one for one in check(run, read(runs.ROWS[:6]))}
    assert "choose a method of layers" in found["methods of the word embedding"].value
    assert found["captured gradients of all other layers against autograd"].passed


# files that do not belong together


def test_a_configuration_without_a_file(model: Path) -> None:
    (model / "config.json").unlink()
    with pytest.raises(
        RunError, match=r"no config.json in .*: the model was a module of the user's own, or was copied"
    ):
        opened(model)


def test_a_configuration_of_other_sizes(model: Path) -> None:
    runs.edit(model / "config.json", vocab_size=5)
    with pytest.raises(
        RunError, match=r"word_embeddings.weight has the shape .* in the weights, and \[5, 16\] by config"
    ):
        opened(model)


def test_a_setting_of_a_wrong_type(model: Path) -> None:
    runs.edit(model / "config.json", vocab_size="100")
    with pytest.raises(RunError, match=r"cannot read the model configuration in .*'vocab_size'.*expected int"):
        opened(model)


def test_architectures_as_text(model: Path) -> None:
    runs.edit(model / "config.json", architectures="BertForSequenceClassification")
    assert Run.from_pretrained(model).info.architecture == "BertForSequenceClassification"


def test_an_architecture_that_its_model_type_contradicts(model: Path) -> None:
    runs.edit(model / "config.json", architectures=["RobertaForSequenceClassification"])
    with pytest.raises(
        RunError, match=r"names RobertaForSequenceClassification .* its model_type makes BertForSequence"
    ):
        opened(model)


def test_a_pad_token_outside_of_the_vocabulary(tmp_path: Path) -> None:
    tokenizer = runs.gpt2_tokenizer()
    config = transformers.GPT2Config(
        vocab_size=len(tokenizer), n_embd=16, n_layer=1, n_head=2, n_positions=32, pad_token_id=100_000, **LABELLED
    )
    folder = saved(tmp_path / "model", transformers.GPT2ForSequenceClassification(config), tokenizer)
    with pytest.raises(RunError, match=r"has the pad_token_id 100000 in config.json, and its embedding has"):
        opened(folder)


def test_tokens_that_were_added_without_rows(model: Path) -> None:
    tokenizer = runs.bert_tokenizer()
    tokenizer.add_tokens(["newtoken"])
    tokenizer.save_pretrained(model)
    with pytest.raises(MismatchError, match="or tokens were added without resize_token_embeddings"):
        opened(model)


def test_a_tokenizer_with_far_fewer_tokens_is_said(model: Path, plain: Path, tmp_path: Path) -> None:
    wordpiece(["a b c"], 30, 24).save_pretrained(model)
    index = proponent.build(model, runs.ROWS[:6], tmp_path / "i", "tracin-we", quiet=True)
    assert any("check that it is the tokenizer" in note for note in index.store.manifest.notes)
    other = proponent.build(plain, runs.ROWS[:6], tmp_path / "o", "tracin-we", quiet=True)
    assert not any("check that it is the tokenizer" in note for note in other.store.manifest.notes)


def test_weights_that_are_all_zero(model: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    path = model / "model.safetensors"
    save_file({name: one * 0 for name, one in load_file(path).items()}, path, {"format": "pt"})
    assert proponent.build(model, runs.ROWS[:6], tmp_path / "i", "tracin-we", quiet=True).explain("the bank", k=1)


def test_a_model_that_fails_says_on_what(plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kind = transformers.BertForSequenceClassification

    def failing(*_: Any, **__: Any) -> Any:
        raise RuntimeError("the size of tensor a must match:\n  details")

    run = Run.from_pretrained(plain)
    monkeypatch.setattr(kind, "forward", failing)
    with pytest.raises(RunError, match=r"BertForSequenceClassification fails on 6 texts of \d+ tokens \(the size of"):
        proponent.build(run, runs.ROWS[:6], tmp_path / "i", "tracin-we", quiet=True)


def test_damaged_checkpoints(model: Path) -> None:
    path = model / "model.safetensors"
    whole = path.read_bytes()
    for content in (whole[:-500], b"", whole[:40]):
        path.write_bytes(content)
        with pytest.raises((RunError, InputError), match="the weights are damaged"):
            opened(model)
