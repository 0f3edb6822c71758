"""The Recorder within trainings that are unlike the usual: they go on, and records lie where checkpoints lie."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import proponent
import runs
from proponent.errors import RunError
from proponent.models import Run
from proponent.models.checkpoints import MOMENTS_FILE, RECORD_FILE
from proponent.models.former import RUN_FILE
from proponent.models.recorder import Recorder, saved_folder


class Own(torch.nn.Module):
    """A module of the user's own around a model of transformers."""

    def __init__(self, **names: Any) -> None:
        super().__init__()
        self.body = runs.bert(runs.bert_tokenizer()).bert
        self.head = torch.nn.Linear(16, 3)
        for name, value in names.items():
            setattr(self, name, value)

    def forward(self, input_ids: Any, attention_mask: Any = None, labels: Any = None) -> Any:
        logits = self.head(self.body(input_ids, attention_mask=attention_mask)[0][:, 0])
        return {"loss": torch.nn.functional.cross_entropy(logits, labels), "logits": logits}


def refused() -> None:
    raise NotImplementedError


@pytest.mark.parametrize(
    "names",
    [{}, {"get_input_embeddings": lambda: None}, {"get_input_embeddings": torch.nn.Flatten},
     {"get_input_embeddings": refused}],
    ids=["no method", "none", "a module without weight", "not implemented"],
)  # fmt: skip
def test_a_module_of_ones_own(tmp_path: Path, caplog: pytest.LogCaptureFixture, names: dict[str, Any]) -> None:
    with caplog.at_level(logging.WARNING, "proponent"):
        runs.trainer(tmp_path, Own(**names), runs.bert_tokenizer(), callbacks=[Recorder()]).train()
    assert [one.getMessage() for one in caplog.records if one.name == "proponent"] == [
        "proponent.Recorder: Own names no word embedding (get_input_embeddings): learning rates are recorded, and "
        "second moments are not; save a model of transformers, so that the run can be explained"
    ]
    record = json.loads((tmp_path / "checkpoint-6" / RECORD_FILE).read_text())
    assert record["learning_rate"] > 0
    assert not (tmp_path / "checkpoint-6" / MOMENTS_FILE).exists()
    assert json.loads((tmp_path / RUN_FILE).read_text())["finished"] is True
    with pytest.raises(RunError, match=r"no config.json in .*checkpoint-6: .*save_pretrained"):
        Run.from_pretrained(tmp_path)


def test_all_moments_of_a_module_of_ones_own(tmp_path: Path) -> None:
    from proponent.tensors import read_tensors

    runs.trainer(tmp_path, Own(), runs.bert_tokenizer(), callbacks=[Recorder(moments="all")]).train()
    held = read_tensors(tmp_path / "checkpoint-6" / MOMENTS_FILE)
    assert "head.weight" in held
    assert "embedding" not in held


class Search(transformers.Trainer):
    """What hyperparameter_search does: every trial has a folder of its own."""

    trial = 0

    def _get_output_dir(self, trial: Any) -> str:  # noqa: ARG002
        return f"{self.args.output_dir}/run-{Search.trial}"


def test_trials_of_a_search_have_their_records(tmp_path: Path) -> None:
    tokenizer, recorder = runs.bert_tokenizer(), Recorder(checkpoints=3)
    for trial in range(2):
        Search.trial = trial
        rate = 1e-2 / (trial + 1)
        runs.trainer(tmp_path / "run", runs.bert(tokenizer), tokenizer, trainer=Search, callbacks=[recorder],
                     learning_rate=rate).train()  # fmt: skip
    assert not (tmp_path / "run" / RUN_FILE).exists()
    for trial in range(2):
        home = tmp_path / "run" / f"run-{trial}"
        record = json.loads((home / RUN_FILE).read_text())
        assert (record["learning_rate"], record["finished"]) == (1e-2 / (trial + 1), True)
        run = Run.from_pretrained(home)
        assert [one.step for one in run.checkpoints] == [2, 3, 4, 6]
        assert all(one.rule == "recorded at the step (exact)" and one.moments is not None for one in run.checkpoints)
        assert proponent.index.default_method(run).method == "tracin-we-idf"


def test_a_language_model_of_a_search_has_its_rows(tmp_path: Path) -> None:
    tokenizer = runs.gpt2_tokenizer()
    Search.trial = 0
    runs.trainer(tmp_path, runs.gpt2(tokenizer), tokenizer, trainer=Search, callbacks=[Recorder()]).train()
    assert (tmp_path / "run-0" / "proponent_rows.safetensors").is_file()


def test_the_checkpoint_that_was_saved_last(tmp_path: Path) -> None:
    import os

    assert saved_folder(tmp_path, 4) is None
    for number, name in enumerate(("run-0/checkpoint-4", "checkpoint-4", "run-1/checkpoint-4")):
        folder = tmp_path / name
        folder.mkdir(parents=True)
        (folder / "trainer_state.json").write_text("{}")
        os.utime(folder / "trainer_state.json", (number, number))
        assert saved_folder(tmp_path, 4) == folder


def test_a_path_as_the_initial_model(tmp_path: Path) -> None:
    tokenizer = runs.bert_tokenizer()
    recorder = Recorder(initial=tmp_path / "base")
    runs.trainer(tmp_path / "run", runs.bert(tokenizer), tokenizer, callbacks=[recorder]).train()
    assert json.loads((tmp_path / "run" / RUN_FILE).read_text())["initial"] == str(tmp_path / "base")


class OldAdam(torch.optim.Adam):
    """An optimizer whose state has second moments, and no number of steps."""

    def step(self, closure: Any = None) -> Any:
        found = super().step(closure)
        for state in self.state.values():
            self.kept = {id(state): state.pop("step")}
        self.state.clear()
        return found


def test_an_optimizer_whose_state_is_unusual(tmp_path: Path) -> None:
    tokenizer = runs.bert_tokenizer()
    model = runs.bert(tokenizer)
    runs.trainer(tmp_path, model, tokenizer, callbacks=[Recorder()], optimizer=OldAdam(model.parameters())).train()
    assert not (tmp_path / "checkpoint-6" / MOMENTS_FILE).exists()
    assert json.loads((tmp_path / "checkpoint-6" / RECORD_FILE).read_text())["optimizer"] == "OldAdam"
