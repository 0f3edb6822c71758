"""Run.from_pretrained on every kind of folder that people have, and on folders that must be refused."""

import json
import os
import pickle
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

import proponent
import runs
from proponent.errors import LabelError, MismatchError, RunError
from proponent.labels import Labels
from proponent.models import Classification, Run
from proponent.models.huggingface import load_tokenizer
from proponent.types import Example
from runs import edit

Copy = Callable[[Path], Path]
TINY = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}


@pytest.fixture
def model_folder(tmp_path: Path) -> Path:
    """A classifier saved with save_pretrained, with its tokenizer."""
    tokenizer = runs.bert_tokenizer()
    runs.bert(tokenizer).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


# ---- folders that work ----


def test_a_trainer_folder(bert_run: Path) -> None:
    run = proponent.Run.from_pretrained(bert_run)
    assert [one.step for one in run.checkpoints] == [8, 16, 24]
    assert run.label_names == runs.LABELS
    assert (run.task.kind, run.info.architecture) == ("classification", "BertForSequenceClassification")
    assert run.tokenizer_folder == bert_run / "checkpoint-24"
    model = run.load(run.checkpoints[0])
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert list(run.fingerprints) == ["tokenizer", "weights step 8", "weights step 16", "weights step 24"]
    assert len(set(run.fingerprints.values())) == 4


def test_a_language_model_folder(lm_run: Path) -> None:
    run = Run.from_pretrained(str(lm_run))
    assert (run.task.kind, run.label_names) == ("causal-lm", None)
    assert not run.equal_lengths
    with pytest.raises(LabelError, match="is a language model and has no labels"):
        run.label_number("Business")


def test_half_precision_weights_are_read_as_float32(model_folder: Path) -> None:
    runs.bert(runs.bert_tokenizer()).to(torch.bfloat16).save_pretrained(model_folder)
    run = Run.from_pretrained(model_folder)
    assert {parameter.dtype for parameter in run.load(run.checkpoints[0]).parameters()} == {torch.float32}


# ---- tokenizers ----


def test_without_a_tokenizer(model_folder: Path, tmp_path: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (model_folder / name).unlink()
    with pytest.raises(RunError, match=r"no tokenizer in .*--tokenizer"):
        Run.from_pretrained(model_folder)
    runs.bert_tokenizer().save_pretrained(tmp_path / "elsewhere")
    run = Run.from_pretrained(model_folder, tokenizer=tmp_path / "elsewhere")
    assert run.named_tokenizer == str(tmp_path / "elsewhere")


def test_a_tokenizer_beside_the_checkpoints(bert_run: Path, copied: Copy) -> None:
    folder = copied(bert_run)
    for checkpoint in folder.glob("checkpoint-*"):
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.move(checkpoint / name, folder / name)
    run = Run.from_pretrained(folder)
    assert run.tokenizer_folder == folder
    # what matters is what it does, not where it lies
    assert run.fingerprints["tokenizer"] == Run.from_pretrained(bert_run).fingerprints["tokenizer"]


def test_a_tokenizer_without_offsets(model_folder: Path) -> None:
    (model_folder / "tokenizer.json").unlink()
    (model_folder / "vocab.txt").write_text("\n".join(("<unk>", "<pad>", "a", "b")) + "\n")
    (model_folder / "vocab.json").write_text(json.dumps({"<unk>": 0, "<pad>": 1, "a": 2}))
    edit(model_folder / "tokenizer_config.json", tokenizer_class="CanineTokenizer", backend="python")
    with pytest.raises(RunError, match=r"has no character offsets|no usable tokenizer"):
        Run.from_pretrained(model_folder)


def test_a_tokenizer_that_is_damaged(model_folder: Path) -> None:
    (model_folder / "tokenizer.json").write_text('{"version": "1.0", "model":')
    with pytest.raises(RunError, match=r"no usable tokenizer in .*model"):
        Run.from_pretrained(model_folder)


def test_a_tokenizer_of_another_model(bert_run: Path, lm_run: Path) -> None:
    run = Run.from_pretrained(bert_run, tokenizer=lm_run / "checkpoint-6")
    rows = len(runs.bert_tokenizer())
    with pytest.raises(MismatchError, match=rf"has \d+ tokens but the embedding in .*checkpoint-8 has {rows} rows"):
        run.load(run.checkpoints[0])


def test_checkpoints_with_different_tokenizers(bert_run: Path, lm_run: Path, copied: Copy) -> None:
    folder = copied(bert_run)
    shutil.copy(lm_run / "checkpoint-6" / "tokenizer.json", folder / "checkpoint-8")
    with pytest.raises(RunError, match=r"checkpoint-8 has a different tokenizer from"):
        Run.from_pretrained(folder)
    assert Run.from_pretrained(folder, tokenizer=bert_run / "checkpoint-8").checkpoints


def test_a_setting_of_the_tokenizer_changes_its_fingerprint(model_folder: Path) -> None:
    before = Run.from_pretrained(model_folder).fingerprints
    path = model_folder / "tokenizer.json"
    path.write_text(path.read_text().replace('"lowercase": true', '"lowercase": false'))
    after = Run.from_pretrained(model_folder).fingerprints
    assert {name for name in before if before[name] != after[name]} == {"tokenizer"}


# ---- heads ----


def test_a_config_without_a_head(encoder_folder: Path) -> None:
    with pytest.raises(RunError, match=r"no task head that proponent supports: the configuration names BertModel"):
        Run.from_pretrained(encoder_folder)
    config = json.loads((encoder_folder / "config.json").read_text())
    del config["architectures"]
    (encoder_folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(RunError, match="names no architecture"):
        Run.from_pretrained(encoder_folder)
    (encoder_folder / "config.json").unlink()
    with pytest.raises(RunError, match=r"no config\.json in .*save_pretrained writes it"):
        Run.from_pretrained(encoder_folder)


def test_the_problem_type_decides_the_task(model_folder: Path) -> None:
    config = json.loads((model_folder / "config.json").read_text())
    for kind, changes in (
        ("regression", {"id2label": {"0": "score"}, "label2id": {"score": 0}}),
        ("regression", {"problem_type": "regression"}),
        ("multi-label", {"problem_type": "multi_label_classification"}),
    ):
        (model_folder / "config.json").write_text(json.dumps(config | changes))
        assert Run.from_pretrained(model_folder).task.kind == kind
    edit(model_folder / "config.json", problem_type="single_label_classification")
    assert Run.from_pretrained(model_folder).label_names == runs.LABELS


def test_weights_that_are_not_of_the_configuration(model_folder: Path) -> None:
    edit(model_folder / "config.json", num_hidden_layers=2)
    run = Run.from_pretrained(model_folder)
    with pytest.raises(RunError, match=r"lack bert\.encoder\.layer\.1\..* more: this is not a complete checkpoint"):
        run.load(run.checkpoints[0])
    edit(model_folder / "config.json", num_hidden_layers=1, intermediate_size=48)
    run = Run.from_pretrained(model_folder)
    with pytest.raises(RunError, match=r"cannot load the model in .*model"):
        run.load(run.checkpoints[0])


# ---- labels and lengths ----


def test_a_label_by_name_number_or_number_as_text(bert_run: Path) -> None:
    run = Run.from_pretrained(bert_run)
    assert [run.label_number(label) for label in ("Sports", 1, "1")] == [1, 1, 1]
    with pytest.raises(LabelError, match=r"unknown label 'sport' \(did you mean 'Sports'\?\); the run knows: Business"):
        run.label_number("sport")
    for label in (3, -1, "3", "-1", "²", ""):
        with pytest.raises(LabelError, match="or 0 to 2"):
            run.label_number(label)


def test_classes_named_by_numbers_are_found_by_name_first(bert_run: Path) -> None:
    run = Run.from_pretrained(bert_run)
    ratings = replace(run, info=replace(run.info, task=Classification(Labels(("1", "2", "10")))))
    assert [ratings.label_number(label) for label in (1, "1", 10, "2")] == [0, 0, 2, 1]
    for unknown in (0, "3"):  # a place among numbers would be a guess
        with pytest.raises(LabelError, match=r"the run knows: 1, 2, 10$"):
            ratings.label_number(unknown)


def test_how_long_a_text_may_be(bert_run: Path) -> None:
    run = Run.from_pretrained(bert_run)
    assert (run.most_tokens, run.length(None), run.length(5)) == (runs.MAX_LENGTH, runs.MAX_LENGTH, 5)
    with pytest.raises(RunError, match="--max-length 25 is more than the 24 tokens"):
        run.length(25)
    for asked in (0, -1, 3):  # [CLS] a [SEP] b [SEP]
        with pytest.raises(RunError, match=f"--max-length {asked} leaves no room for a text: .* at least 4 tokens"):
            run.length(asked)
    run.tokenizer.model_max_length = 12
    assert run.most_tokens == 12
    run.tokenizer.model_max_length = int(1e30)
    boundless = replace(run, info=replace(run.info, max_length=None))
    assert (boundless.most_tokens, boundless.length(None), boundless.length(4096)) == (None, 512, 4096)
    long = replace(run, info=replace(run.info, max_length=2048))
    assert (long.length(None), long.length(2048)) == (512, 2048)


def test_positions_of_roberta_start_after_the_padding(tmp_path: Path) -> None:
    tokenizer = runs.bert_tokenizer()
    config = transformers.RobertaConfig(vocab_size=210, max_position_embeddings=20, pad_token_id=1, **TINY)
    transformers.RobertaForSequenceClassification(config).save_pretrained(tmp_path)
    tokenizer.model_max_length = int(1e30)
    tokenizer.save_pretrained(tmp_path)
    run = Run.from_pretrained(tmp_path)
    assert (run.most_tokens, run.encoder(18).pad_id) == (18, 1)  # the model's padding, not the tokenizer's 0
    model: Any = run.load(run.checkpoints[0])
    model(input_ids=torch.full((1, 18), 5), attention_mask=torch.ones((1, 18)))
    with pytest.raises((IndexError, RuntimeError)):
        model(input_ids=torch.full((1, 19), 5), attention_mask=torch.ones((1, 19)))


# ---- a decoder that classifies ----


def decoder(folder: Path, pad: int | None) -> Run:
    tokenizer = runs.gpt2_tokenizer()
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=420, n_embd=16, n_layer=1, n_head=2, n_positions=24, num_labels=2, pad_token_id=pad
    )
    transformers.GPT2ForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return Run.from_pretrained(folder)


@pytest.mark.parametrize("pad", [None, -1, 7])
def test_a_decoder_answers_alike_in_a_batch_and_alone(tmp_path: Path, pad: int | None) -> None:
    """Without a padding token of its own its texts go in batches of equal length; with one, that one pads."""
    run = decoder(tmp_path / "run", pad)
    assert run.equal_lengths == (pad != 7)
    data = [row | {"label": number % 2} for number, row in enumerate(runs.ROWS[:8])]
    texts, labels = [row["text"] for row in data], [row["label"] for row in data]
    batched = proponent.build(run, data, tmp_path / "many", batch_size=8, quiet=True).scores(texts, labels)
    alone = proponent.build(run, data, tmp_path / "one", batch_size=1, quiet=True).scores(texts, labels)
    np.testing.assert_allclose(batched, alone, rtol=1e-5, atol=1e-7 * np.abs(alone).max())
    encoded = run.encoder(24).encode([Example("0", 0, texts[0])])
    plain: Any = transformers.GPT2ForSequenceClassification.from_pretrained(tmp_path / "run").eval()
    expected = plain(torch.from_numpy(encoded[0].ids)[None]).logits.softmax(-1)[0].tolist()
    found = proponent.open(tmp_path / "one").explain(texts[0], baselines=False).query.probabilities
    assert list((found or {}).values()) == pytest.approx(expected, abs=1e-6)


# ---- nothing foreign is run ----

_opened: list[str] | None = None


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    if _opened is None:
        return
    if event == "open" and isinstance(arguments[0], str | os.PathLike):
        _opened.append(os.fspath(arguments[0]))
    if event == "pickle.find_class":
        _opened.append(f"pickle of {arguments}")


@pytest.fixture
def opened() -> Iterator[list[str]]:
    """Every path that Python opens, and every class that a pickle asks for; the hook itself can never be taken off."""
    global _opened
    if not getattr(sys, "_proponent_hooked", False):
        sys.addaudithook(_watch)
        sys._proponent_hooked = True  # type: ignore[attr-defined]
    _opened = []
    yield _opened
    _opened = None


class Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path(os.environ["PROPONENT_BOMB"]),))


BOMBS = ("pytorch_model.bin", "training_args.bin", "rng_state.pth", "optimizer.pt", "scheduler.pt", "extra.pkl")


def test_no_pickle_is_opened(
    bert_run: Path, copied: Copy, tmp_path: Path, opened: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROPONENT_BOMB", str(tmp_path / "exploded"))
    folder = copied(bert_run)
    for home in (folder, *folder.glob("checkpoint-*")):
        for name in BOMBS:
            (home / name).write_bytes(pickle.dumps(Bomb()))
    opened.clear()
    index = proponent.build(Run.from_pretrained(folder), runs.ROWS, tmp_path / "i.index", "tracin-we-adam", quiet=True)
    assert index.explain(runs.TEXTS[0]).proponents
    assert proponent.open(tmp_path / "i.index").explain("A match.").query.predicted
    assert any(path.endswith("config.json") for path in opened), "the hook is awake"
    foreign = [
        path for path in opened if path.startswith("pickle") or Path(path).suffix in {".bin", ".pt", ".pth", ".pkl"}
    ]
    assert foreign == []
    assert not (tmp_path / "exploded").exists()


def test_code_of_a_model_is_run_with_the_flag_only(model_folder: Path, tmp_path: Path) -> None:
    (model_folder / "foreign.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\nclass Foreign: pass\n")
    foreign = {"AutoConfig": "foreign.Foreign", "AutoModelForSequenceClassification": "foreign.Foreign"}
    edit(model_folder / "config.json", model_type="foreign", auto_map=foreign)
    with pytest.raises(RunError, match=r"contains custom code.*--trust-remote-code"):
        Run.from_pretrained(model_folder)
    edit(model_folder / "tokenizer_config.json", auto_map={"AutoTokenizer": ["foreign.Foreign", None]})
    edit(model_folder / "tokenizer_config.json", tokenizer_class="ForeignTokenizer")
    with suppress(RunError):  # today it falls back on tokenizer.json; either way nothing foreign runs
        load_tokenizer(model_folder)
    assert not (tmp_path / "ran").exists()
