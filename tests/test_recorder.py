"""The Recorder against what the optimizer of a real Trainer does: rates to the last bit, moments from its own state."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

import runs
from proponent import Recorder
from proponent.index import default_method
from proponent.models import Run
from proponent.models.checkpoints import MOMENTS_FILE, RECORD_FILE, discover
from proponent.models.former import RUN_FILE
from proponent.models.run_record import started_from
from proponent.tensors import read_tensors


class Spied(transformers.Trainer):
    """Writes down the rate that each optimizer step finds in its groups."""

    def create_optimizer(self, *args: Any, **kwargs: Any) -> Any:
        optimizer = super().create_optimizer(*args, **kwargs)
        self.rates: list[float] = []
        optimizer.register_step_pre_hook(lambda found, *_: self.rates.append(found.param_groups[0]["lr"]))
        return optimizer


def recorded(folder: Path) -> dict[int, float]:
    return {
        int(path.parent.name.removeprefix("checkpoint-")): json.loads(path.read_text())["learning_rate"]
        for path in folder.glob(f"checkpoint-*/{RECORD_FILE}")
    }


def train(folder: Path, recorder: Recorder | None = None, **settings: Any) -> Any:
    tokenizer = runs.bert_tokenizer()
    settings = {"trainer": Spied, "callbacks": [recorder or Recorder()]} | settings
    trainer = runs.trainer(folder, runs.bert(tokenizer), tokenizer, **settings)
    trainer.train(resume_from_checkpoint=settings.get("resume_from_checkpoint"))
    return trainer


def test_the_recorded_rate_is_the_one_that_the_step_used(tmp_path: Path) -> None:
    trainer = train(tmp_path, save_steps=1, max_steps=6, warmup_steps=2, lr_scheduler_type="linear")
    assert len(set(trainer.rates)) == 6 - 1  # up and down again: a rate one step off would be another
    assert recorded(tmp_path) == dict(enumerate(trainer.rates, 1))


def test_gradient_accumulation_counts_optimizer_steps(tmp_path: Path) -> None:
    trainer = train(tmp_path, save_steps=1, max_steps=3, gradient_accumulation_steps=2)
    assert len(trainer.rates) == 3
    assert recorded(tmp_path) == dict(enumerate(trainer.rates, 1))


def test_a_resumed_training_goes_on_recording(tmp_path: Path) -> None:
    first = train(tmp_path, max_steps=6, save_steps=3)
    whole = dict(enumerate(first.rates, 1))
    shutil.rmtree(tmp_path / "checkpoint-6")
    tokenizer = runs.bert_tokenizer()
    again = runs.trainer(tmp_path, runs.bert(tokenizer), tokenizer, callbacks=[Recorder()], trainer=Spied)
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert again.rates == pytest.approx([whole[4], whole[5], whole[6]], rel=1e-12)
    assert recorded(tmp_path)[6] == again.rates[-1]
    found = read_tensors(tmp_path / "checkpoint-6" / MOMENTS_FILE)["embedding"]
    np.testing.assert_allclose(found, bias_corrected(tmp_path / "checkpoint-6", found.shape, 6), rtol=1e-6)


def test_weights_that_were_trained_before_are_noticed(tmp_path: Path) -> None:
    def told(folder: Path) -> Any:
        return json.loads((folder / RUN_FILE).read_text())["trained_before"]

    train(tmp_path / "fresh", max_steps=4, save_steps=2)
    assert told(tmp_path / "fresh") is False
    tokenizer = runs.bert_tokenizer()
    trained = type(runs.bert(tokenizer)).from_pretrained(tmp_path / "fresh" / "checkpoint-4")
    runs.trainer(tmp_path / "tuned", trained, tokenizer, callbacks=[Recorder()], max_steps=4, save_steps=2).train()
    assert told(tmp_path / "tuned") is True
    began = str(tmp_path / "fresh" / "checkpoint-4")
    assert started_from(tmp_path / "tuned") == began  # as the model was loaded
    assert started_from(tmp_path / "fresh") is None
    for name, before in (("fresh", False), ("tuned", True)):  # a resumed run's weights are trained either way
        shutil.rmtree(tmp_path / name / "checkpoint-4")
        again = runs.trainer(tmp_path / name, runs.bert(tokenizer), tokenizer, callbacks=[Recorder()], max_steps=4)
        again.train(resume_from_checkpoint=str(tmp_path / name / "checkpoint-2"))
        assert told(tmp_path / name) is before
    assert started_from(tmp_path / "tuned") == began
    twice = runs.trainer(tmp_path / "twice", runs.bert(tokenizer), tokenizer, callbacks=[Recorder()], max_steps=4)
    twice.train()
    twice.train()
    assert told(tmp_path / "twice") is False
    (tmp_path / "tuned" / RUN_FILE).write_text("{")  # a damaged record does not keep a training from going on
    shutil.rmtree(tmp_path / "tuned" / "checkpoint-4")
    again = runs.trainer(tmp_path / "tuned", runs.bert(tokenizer), tokenizer, callbacks=[Recorder()], max_steps=4)
    again.train(resume_from_checkpoint=str(tmp_path / "tuned" / "checkpoint-2"))
    assert told(tmp_path / "tuned") is None
    runs.edit(tmp_path / "tuned" / RUN_FILE, trained_before=True)
    assert default_method(Run.from_pretrained(tmp_path / "fresh")).method == "tracin-we-idf"
    found = default_method(Run.from_pretrained(tmp_path / "tuned"))
    assert found.method == "grad-cos-mid"
    assert "fine-tuned from a pretrained model (name not recorded" in found.reason


def bias_corrected(checkpoint: Path, shape: tuple[int, ...], step: int) -> np.ndarray:
    """From the optimizer's own file; the embedding is the one parameter of that shape."""
    saved = torch.load(checkpoint / "optimizer.pt", weights_only=True)
    (state,) = [one for one in saved["state"].values() if tuple(one["exp_avg_sq"].shape) == shape]
    assert float(state["step"]) == step
    return (state["exp_avg_sq"] / (1 - 0.999**step)).numpy()


def test_the_embedding_moments_are_the_optimizers_own(bert_run: Path) -> None:
    for checkpoint in discover(bert_run):
        assert checkpoint.moments is not None
        (name,) = found = read_tensors(checkpoint.moments)
        assert name == "embedding"
        expected = bias_corrected(checkpoint.path, found[name].shape, checkpoint.step)
        np.testing.assert_allclose(found[name], expected, rtol=1e-6)
        assert found[name].max() > 0
    record = json.loads((bert_run / "checkpoint-8" / RECORD_FILE).read_text())
    assert (record["step"], record["optimizer"], record["seed"]) == (8, "AdamW", 0)


def test_all_moments_and_none(tmp_path: Path) -> None:
    trainer = train(tmp_path / "all", Recorder(moments="all"), max_steps=3)
    found = read_tensors(tmp_path / "all" / "checkpoint-3" / MOMENTS_FILE)
    shapes = {name: tuple(parameter.shape) for name, parameter in trainer.model.named_parameters()}
    assert {name: array.shape for name, array in found.items() if name != "embedding"} == shapes
    np.testing.assert_array_equal(found["embedding"], found["bert.embeddings.word_embeddings.weight"])
    train(tmp_path / "none", Recorder(moments="none"), max_steps=3)
    assert not (tmp_path / "none" / "checkpoint-3" / MOMENTS_FILE).exists()
    assert recorded(tmp_path / "none")[3] > 0


def test_an_optimizer_without_second_moments(tmp_path: Path) -> None:
    tokenizer = runs.bert_tokenizer()
    model = runs.bert(tokenizer)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.25)
    trainer = runs.trainer(
        tmp_path, model, tokenizer, callbacks=[Recorder()], optimizer=optimizer, lr_scheduler_type="constant"
    )
    trainer.train()
    assert recorded(tmp_path) == {3: 0.25, 6: 0.25}
    assert not list(tmp_path.glob(f"*/{MOMENTS_FILE}"))
    assert json.loads((tmp_path / "checkpoint-3" / RECORD_FILE).read_text())["optimizer"] == "SGD"


def test_old_checkpoints_are_dropped_with_what_was_recorded(tmp_path: Path) -> None:
    train(tmp_path, max_steps=6, save_steps=2, save_total_limit=1)
    assert [one.step for one in discover(tmp_path)] == [6]
    assert list(recorded(tmp_path)) == [6]


def test_an_embedding_that_is_not_trained_has_no_moments(tmp_path: Path) -> None:
    tokenizer = runs.bert_tokenizer()
    model = runs.bert(tokenizer)
    model.get_input_embeddings().weight.requires_grad_(False)
    runs.trainer(tmp_path, model, tokenizer, callbacks=[Recorder()], max_steps=3).train()
    assert recorded(tmp_path)[3] > 0
    assert not list(tmp_path.glob(f"*/{MOMENTS_FILE}"))


def test_the_rate_of_a_run_with_a_record_is_exact(bert_run: Path, copied: Callable[[Path], Path]) -> None:
    exact = {one.step: one.learning_rate for one in discover(bert_run)}
    assert recorded(bert_run) == exact
    folder = copied(bert_run)
    (folder / "checkpoint-16" / RECORD_FILE).unlink()
    rules = [one.rule for one in discover(folder)]
    assert rules[0] == rules[2] == "recorded at the step (exact)"
    assert rules[1].startswith("trainer_state.json at step 15")


def test_a_training_that_has_not_finished_is_named(tmp_path: Path) -> None:
    class Stop(transformers.TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
            if state.global_step == 5:
                raise KeyboardInterrupt

    tokenizer = runs.bert_tokenizer()
    options = {"max_steps": 8, "save_steps": 4}
    with pytest.raises(KeyboardInterrupt):
        runs.trainer(tmp_path, runs.bert(tokenizer), tokenizer, callbacks=[Recorder(), Stop()], **options).train()
    (note,) = Run.from_pretrained(tmp_path).notes
    assert "has not finished" in note
    again = runs.trainer(tmp_path, runs.bert(tokenizer), tokenizer, callbacks=[Recorder()], **options)
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
    assert Run.from_pretrained(tmp_path).notes == ()
    runs.edit(tmp_path / "proponent_run.json", finished=None)  # as records were before
    assert Run.from_pretrained(tmp_path).notes == ()
