"""Parts that a training left frozen: they are found, said, left out of layers, and stay frozen when trained again."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import proponent
import runs
from proponent.errors import InputError
from proponent.index import default_method
from proponent.models import Run
from proponent.models.former import RUN_FILE
from proponent.models.recorder import Recorder
from proponent.models.trained_parts import trained_of
from proponent.training.rerun import RunProblem

Part = Callable[[str], bool]


def trained(folder: Path, free: Part, *, lm: bool = False, callbacks: Any = None, **settings: Any) -> Path:
    tokenizer = runs.gpt2_tokenizer() if lm else runs.bert_tokenizer()
    model = runs.gpt2(tokenizer) if lm else runs.bert(tokenizer)
    for name, one in model.named_parameters():
        one.requires_grad = free(name)
    given = [Recorder()] if callbacks is None else callbacks
    runs.trainer(folder, model, tokenizer, callbacks=given, save_only_model=True, **settings).train()
    return folder


def head(name: str) -> bool:
    return name.startswith("classifier")


@pytest.fixture(scope="module")
def head_only(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tmp_path_factory.mktemp("frozen") / "run", head)


def unrecorded(run: Path, to: Path) -> Path:
    folder = Path(shutil.copytree(run, to))
    for path in [*folder.glob("proponent_*"), *folder.glob("checkpoint-*/proponent_*")]:
        path.unlink()
    return folder


def notes(index: proponent.Index) -> str:
    return "\n".join(index.store.manifest.notes)


def test_the_recorder_notes_what_was_trained(head_only: Path, bert_run: Path) -> None:
    record = json.loads((head_only / RUN_FILE).read_text())
    assert record["trained"] == ["classifier.bias", "classifier.weight"]
    assert json.loads((bert_run / RUN_FILE).read_text())["trained"] is None
    assert Run.from_pretrained(bert_run).trained is None


@pytest.mark.parametrize("record", [True, False], ids=["recorded", "compared"])
def test_the_default_scores_what_was_trained(head_only: Path, tmp_path: Path, record: bool) -> None:
    folder = head_only if record else unrecorded(head_only, tmp_path / "run")
    run = Run.from_pretrained(folder)
    assert run.trained is not None
    assert run.trained.names == {"classifier.bias", "classifier.weight"}
    found = default_method(run)
    assert found.method == "grad-cos"
    assert "the word embedding was frozen" in found.reason
    assert "train with proponent.Recorder" not in found.reason
    index = proponent.build(run, runs.ROWS, tmp_path / "index", quiet=True)
    source = "recorded by proponent.Recorder" if record else "equal in checkpoint-3 and checkpoint-6"
    assert "only classifier (51 parameters) was trained; all other parameters were frozen" in notes(index)
    assert source in notes(index)
    assert "scores 94.1% of trained parameters" in notes(index)  # its 48 weights, not its 3 biases
    assert index.explain(runs.TEXTS[0], k=2).proponents


def test_the_embedding_as_a_stand_in(head_only: Path, tmp_path: Path) -> None:
    index = proponent.build(head_only, runs.ROWS, tmp_path / "index", "tracin-we", quiet=True)
    assert "the training did not train the word embedding: the gradient at its output stands for it" in notes(index)
    with pytest.raises(InputError, match="the embedding was frozen, the optimizer keeps none"):
        proponent.build(head_only, runs.ROWS, tmp_path / "other", "tracin-we-adam-unit", quiet=True)


def test_layers_that_were_frozen_are_not_scored(tmp_path: Path) -> None:
    folder = trained(tmp_path / "run", lambda name: "attention" in name)
    (model,) = [Run.from_pretrained(folder).load(one) for one in Run.from_pretrained(folder).checkpoints[-1:]]
    found = trained_of(model)
    assert found is not None
    assert not found.embedding
    index = proponent.build(folder, runs.ROWS, tmp_path / "index", "grad-cos", quiet=True)
    assert all("attention" in block.name for block in index.store.plan.blocks)


def test_biases_alone(tmp_path: Path) -> None:
    folder = trained(tmp_path / "run", lambda name: name.endswith("bias"))
    assert default_method(Run.from_pretrained(folder)).method != "grad-cos"
    with pytest.raises(InputError, match="layers all contain only biases and gains"):
        proponent.build(folder, runs.ROWS, tmp_path / "index", "grad-cos", quiet=True)
    index = proponent.build(folder, runs.ROWS, tmp_path / "other", "grad-cos", quiet=True, biases=True)
    assert all(block.name.endswith(".bias") for block in index.store.plan.blocks)


class Thaw(transformers.TrainerCallback):
    """Train one more part from a step on."""

    def on_step_end(self, _args: Any, state: Any, _control: Any, **kwargs: Any) -> None:
        if state.global_step == 4:
            kwargs["model"].bert.pooler.requires_grad_(requires_grad=True)


def test_parts_that_thaw_count_as_trained(tmp_path: Path) -> None:
    tokenizer, folder = runs.bert_tokenizer(), tmp_path / "run"
    model = runs.bert(tokenizer)
    for name, one in model.named_parameters():
        one.requires_grad = head(name)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    runs.trainer(folder, model, tokenizer, callbacks=[Recorder(), Thaw()], optimizer=optimizer).train()
    names = json.loads((folder / RUN_FILE).read_text())["trained"]
    assert {name.rsplit(".", 1)[0] for name in names} == {"classifier", "bert.pooler.dense"}


def test_a_resumed_training_keeps_what_moved_before(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    tokenizer = runs.bert_tokenizer()
    for resumed, part in ((False, "classifier"), (True, "pooler")):
        model = runs.bert(tokenizer)
        for name, one in model.named_parameters():
            one.requires_grad = part in name
        made = runs.trainer(folder, model, tokenizer, callbacks=[Recorder()], max_steps=6 if resumed else 3,
                            save_only_model=False)  # fmt: skip
        if resumed:
            (folder / "checkpoint-3" / "optimizer.pt").unlink()
        made.train(resume_from_checkpoint=str(folder / "checkpoint-3") if resumed else None)
    names = json.loads((folder / RUN_FILE).read_text())["trained"]
    assert {name.rsplit(".", 1)[0] for name in names} == {"classifier", "bert.pooler.dense"}


def test_a_language_model_with_a_frozen_table(tmp_path: Path) -> None:
    folder = trained(tmp_path / "run", lambda name: "wte" not in name, lm=True)
    run = Run.from_pretrained(folder)
    assert run.trained is not None
    assert not run.trained.embedding
    assert default_method(run).method.startswith("tracin-we")
    columns = proponent.Columns(label="")
    index = proponent.build(run, runs.ROWS, tmp_path / "index", columns=columns, quiet=True)
    assert "transformer.wte, lm_head was frozen" in notes(index) or "transformer.wte was frozen" in notes(index)
    assert "the gradient at its output stands for it" in notes(index)


def test_equal_checkpoints_say_nothing(head_only: Path, tmp_path: Path) -> None:
    folder = unrecorded(head_only, tmp_path / "run")
    shutil.copy(folder / "checkpoint-6" / "model.safetensors", folder / "checkpoint-3" / "model.safetensors")
    assert Run.from_pretrained(folder).trained is None


def test_a_whole_training_is_not_called_frozen(bert_run: Path, lm_run: Path, tmp_path: Path) -> None:
    for run in (bert_run, lm_run):
        assert Run.from_pretrained(unrecorded(run, tmp_path / run.name)).trained is None


def test_joined_runs_count_what_any_of_them_trained(head_only: Path, bert_run: Path, tmp_path: Path) -> None:
    first, second = (Run.from_pretrained(one) for one in (head_only, bert_run))
    assert Run.join([first, second]).trained is None
    other = trained(tmp_path / "other", lambda name: "pooler" in name, max_steps=3)
    both = Run.join([first, Run.from_pretrained(other)]).trained
    assert both is not None
    assert {name.rsplit(".", 1)[0] for name in both.names} == {"classifier", "bert.pooler.dense"}


def test_a_retrained_model_has_the_same_frozen_parts(head_only: Path) -> None:
    run = Run.from_pretrained(head_only)
    problem = RunProblem(run, list(proponent.data.read(runs.ROWS)), (), "fresh", 24)
    model = problem.fresh(0)
    assert {name for name, one in model.named_parameters() if one.requires_grad} == run.trained.names  # type: ignore[union-attr]
    assert "\ntrained classifier.bias classifier.weight" in problem.identity
    assert all(isinstance(one, torch.nn.Parameter) for one in model.parameters())
