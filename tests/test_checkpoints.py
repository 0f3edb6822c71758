"""Which checkpoints a folder holds, in which order, and the learning rate of each with the rule behind it."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import runs
from proponent.errors import DamagedError, RunError
from proponent.models import Run
from proponent.models.checkpoints import MOMENTS_FILE, RECORD_FILE, discover
from proponent.models.weights import weights_fingerprint

Copy = Callable[[Path], Path]
WEIGHTS = "model.safetensors"


def state_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "trainer_state.json").read_text())


def write_log(folder: Path, *entries: dict[str, Any]) -> None:
    (folder / "trainer_state.json").write_text(json.dumps(state_of(folder) | {"log_history": list(entries)}))


@pytest.fixture
def unrecorded(bert_run: Path, copied: Copy) -> Path:
    """The same run as if the Recorder had not been there."""
    folder = copied(bert_run)
    for path in folder.glob(f"*/{RECORD_FILE}"):
        path.unlink()
    return folder


def test_checkpoints_come_in_numeric_order(bert_run: Path, copied: Copy) -> None:
    folder = copied(bert_run)
    shutil.copytree(folder / "checkpoint-24", folder / "checkpoint-100")
    (folder / "checkpoint-best").mkdir()
    (folder / "runs").mkdir()
    assert [one.step for one in discover(folder)] == [8, 16, 24, 100]
    assert [one.path.name for one in discover(folder)][-1] == "checkpoint-100"


def test_gaps_and_a_single_best_checkpoint(bert_run: Path, copied: Copy) -> None:
    folder = copied(bert_run)
    shutil.rmtree(folder / "checkpoint-16")
    assert [one.step for one in discover(folder)] == [8, 24]
    shutil.rmtree(folder / "checkpoint-24")
    assert [one.step for one in discover(folder)] == [8]


def test_a_checkpoint_folder_itself_knows_its_step(bert_run: Path) -> None:
    (found,) = discover(bert_run / "checkpoint-16")
    assert (found.step, found.rule) == (16, "recorded at the step (exact)")


def test_a_plain_model_folder(bert_run: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    for name in ("config.json", WEIGHTS, "tokenizer.json", "tokenizer_config.json"):
        shutil.copy(bert_run / "checkpoint-24" / name, model)
    (found,) = discover(model)
    assert (found.step, found.learning_rate) == (0, 1.0)
    assert found.rule == "unknown: equal weight (no trainer_state.json)"
    assert found.moments is None
    assert Run.from_pretrained(model).label_names == runs.LABELS


def test_sharded_weights_load_and_a_missing_shard_is_named(tmp_path: Path) -> None:
    tokenizer = runs.bert_tokenizer()
    runs.bert(tokenizer).save_pretrained(tmp_path, max_shard_size="4KB")
    tokenizer.save_pretrained(tmp_path)
    shards = sorted(tmp_path.glob("model-*.safetensors"))
    assert len(shards) > 1
    run = Run.from_pretrained(tmp_path)
    run.load(run.checkpoints[0])
    before = weights_fingerprint(tmp_path)
    shards[1].write_bytes(shards[1].read_bytes()[:-1] + b"\1")
    assert weights_fingerprint(tmp_path) != before
    shards[1].unlink()
    with pytest.raises(RunError, match=rf"incomplete: {shards[1].name} is named in model.safetensors.index.json"):
        discover(tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": []}')
    with pytest.raises(RunError, match="names no weight files"):
        discover(tmp_path)


def test_the_layout_of_transformers_4(unrecorded: Path) -> None:
    for folder in unrecorded.glob("checkpoint-*"):
        (folder / "special_tokens_map.json").write_text('{"pad_token": "[PAD]", "unk_token": "[UNK]"}')
        (folder / "added_tokens.json").write_text("{}")
        vocabulary = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
        (folder / "vocab.txt").write_text("\n".join(sorted(vocabulary, key=vocabulary.__getitem__)) + "\n")
        old = {key: value for key, value in state_of(folder).items() if key != "best_global_step"}
        step = int(folder.name.removeprefix("checkpoint-"))
        old["log_history"] = [{"epoch": 1.0, "grad_norm": 1.0, "learning_rate": 3e-3, "loss": 1.0, "step": step}]
        (folder / "trainer_state.json").write_text(json.dumps(old))
    run = Run.from_pretrained(unrecorded)
    assert [(one.step, one.learning_rate) for one in run.checkpoints] == [(8, 3e-3), (16, 3e-3), (24, 3e-3)]
    assert run.encoder(24).lengths([]).tolist() == []


def test_a_pickle_is_named_and_never_opened(bert_run: Path, copied: Copy) -> None:
    folder = copied(bert_run) / "checkpoint-8"
    (folder / WEIGHTS).unlink()
    (folder / "pytorch_model.bin").write_bytes(b"not opened")
    with pytest.raises(RunError, match="only as a pickle, which proponent never opens"):
        discover(folder)
    with pytest.raises(RunError, match="only as a pickle"):
        discover(folder.parent)


def test_folders_without_a_run(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"no weights in .* \(it contains: nothing\): expected checkpoint-\* folders"):
        discover(tmp_path)
    (tmp_path / "news-bert").mkdir()
    with pytest.raises(RunError, match="did you mean 'news-bert'"):
        discover(tmp_path / "news-brt")
    with pytest.raises(RunError, match="the folder contains: news-bert"):
        discover(tmp_path / "zzz")
    with pytest.raises(RunError, match="check the path"):
        discover(tmp_path / "no" / "where")
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="is a file"):
        discover(tmp_path / "file")


def test_a_checkpoint_without_weights_is_named(bert_run: Path, copied: Copy) -> None:
    folder = copied(bert_run)
    (folder / "checkpoint-16" / WEIGHTS).unlink()
    with pytest.raises(RunError, match=r"no weights in .*checkpoint-16 .*remove that folder or restore it"):
        discover(folder)


@pytest.mark.parametrize(
    "text", ['{"log_history": [{"step"', "[]", '{"log_history": {"step": 1}}', "\xff", "[" * 100_000]
)
def test_a_damaged_trainer_state_is_named(unrecorded: Path, text: str) -> None:
    (unrecorded / "checkpoint-16" / "trainer_state.json").write_text(text, encoding="latin-1")
    with pytest.raises(RunError, match=r"checkpoint-16.trainer_state.json"):
        discover(unrecorded)


@pytest.mark.parametrize("text", ["{", "{}", '{"learning_rate": "fast"}', '{"learning_rate": NaN}'])
def test_a_damaged_record_is_named(bert_run: Path, copied: Copy, text: str) -> None:
    folder = copied(bert_run)
    (folder / "checkpoint-8" / RECORD_FILE).write_text(text)
    with pytest.raises(RunError, match=RECORD_FILE):
        discover(folder)


def test_a_damaged_step_is_named(bert_run: Path, copied: Copy) -> None:
    folder = copied(bert_run) / "checkpoint-8"
    record = json.loads((folder / RECORD_FILE).read_text())
    (folder / RECORD_FILE).write_text(json.dumps(record | {"step": None}))
    with pytest.raises(RunError, match="has the value None for step"):
        discover(folder)


def test_the_record_comes_first(bert_run: Path) -> None:
    found = discover(bert_run)
    # linear from 1e-2 to 0 over 24 steps: step s uses the rate after s - 1 steps
    assert [one.learning_rate for one in found] == pytest.approx([1e-2 * (1 - (s - 1) / 24) for s in (8, 16, 24)])
    assert {one.rule for one in found} == {"recorded at the step (exact)"}
    assert all(one.moments == one.path / MOMENTS_FILE for one in found)


def test_without_a_record_the_nearest_logged_rate(unrecorded: Path) -> None:
    logged = {entry["step"]: entry["learning_rate"] for entry in state_of(unrecorded / "checkpoint-24")["log_history"]}
    found = discover(unrecorded)
    # logged every 5 steps, saved every 8: a checkpoint's own log ends at 5, 15, 20
    assert [one.learning_rate for one in found] == [logged[step] for step in (5, 15, 20)]
    assert found[0].rule == "trainer_state.json at step 5, the nearest logged one"


def test_the_logged_rate_of_the_step_itself(unrecorded: Path) -> None:
    write_log(unrecorded / "checkpoint-8", {"step": 7, "learning_rate": 2.0}, {"step": 8, "learning_rate": 3.0})
    found = discover(unrecorded)[0]
    assert found.learning_rate == 3.0
    assert found.rule == "trainer_state.json at this step (may be one step off with old versions of transformers)"


def test_entries_without_a_usable_rate_are_passed_over(unrecorded: Path) -> None:
    write_log(
        unrecorded / "checkpoint-8",
        {"step": 8, "eval_loss": 1.0},
        {"step": 8, "learning_rate": None},
        {"step": 8, "learning_rate": float("nan")},
        {"step": 2, "learning_rate": 0.5},
    )
    assert discover(unrecorded)[0].learning_rate == 0.5


def test_a_rate_of_zero_at_the_end_of_a_schedule_does_not_silence_the_checkpoint(unrecorded: Path) -> None:
    folder = unrecorded / "checkpoint-24"
    write_log(folder, {"step": 20, "learning_rate": 1e-4}, {"step": 24, "learning_rate": 0.0})
    found = discover(unrecorded)[-1]
    assert (found.learning_rate, found.rule) == (
        1e-4,
        "trainer_state.json at step 20, the nearest logged one above 0",
    )
    write_log(folder, {"step": 24, "learning_rate": 0})
    assert discover(folder)[0].rule == "unknown: equal weight (trainer_state.json logs no learning rate above 0)"


def test_a_checkpoint_of_unknown_rate_does_not_drown_the_others(unrecorded: Path) -> None:
    (unrecorded / "checkpoint-24" / "trainer_state.json").unlink()
    found = discover(unrecorded)
    assert found[2].learning_rate == found[1].learning_rate
    assert found[2].rule == "unknown here: using that of step 16, the nearest checkpoint with a known rate"
    for folder in unrecorded.glob("checkpoint-*"):
        (folder / "trainer_state.json").unlink(missing_ok=True)
    assert [one.learning_rate for one in discover(unrecorded)] == [1.0, 1.0, 1.0]


def test_no_rate_in_the_log(unrecorded: Path) -> None:
    write_log(unrecorded / "checkpoint-8")
    (found,) = discover(unrecorded / "checkpoint-8")
    assert found.rule == "unknown: equal weight (trainer_state.json logs no learning rate)"


def test_the_fingerprint_is_of_content(bert_run: Path, copied: Copy) -> None:
    folder = copied(bert_run) / "checkpoint-8"
    before = weights_fingerprint(folder)
    assert before == weights_fingerprint(bert_run / "checkpoint-8")
    (folder / MOMENTS_FILE).unlink()
    (folder / "optimizer.pt").unlink()
    assert weights_fingerprint(folder) == before
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"hidden_act": "relu"}))
    assert weights_fingerprint(folder) != before


def test_truncated_weights_are_named_when_they_are_loaded(bert_run: Path, copied: Copy) -> None:
    folder = copied(bert_run)
    weights = folder / "checkpoint-8" / WEIGHTS
    weights.write_bytes(weights.read_bytes()[:-100])
    run = Run.from_pretrained(folder)
    with pytest.raises((RunError, DamagedError), match=r"cannot load the model in .*checkpoint-8"):
        run.load(run.checkpoints[0])
