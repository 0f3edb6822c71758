"""A folder is read as what was trained, or refused by name."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

import proponent
import runs
from proponent.data import read
from proponent.errors import DataError, ProponentError, RunError
from proponent.models import Run
from proponent.models.checkpoints import MOMENTS_FILE, RECORD_FILE
from proponent.models.former import RUN_FILE
from proponent.models.recorder import Recorder
from proponent.models.run_record import run_record
from proponent.models.training_trace import FOLDER, read_training_trace
from proponent.models.weights import weights_fingerprint
from proponent.store import verify
from proponent.tensors import read_tensors, write_tensors
from proponent.views import Explanation
from runs import edit

Copy = Callable[[Path], Path]
Said = Callable[..., tuple[int, str, str]]
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"


class Trap:
    """A pickle that leaves a trace when it is opened."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.trace,)


@pytest.fixture
def model_folder(tmp_path: Path) -> Path:
    tokenizer = runs.bert_tokenizer()
    runs.bert(tokenizer).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def loaded(folder: Path) -> Any:
    run = Run.from_pretrained(folder)
    return run.load(run.checkpoints[-1])


# ---- names of weights ----


def sharded(folder: Path, name: str) -> None:
    held = read_tensors(folder / WEIGHTS)
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": dict.fromkeys(held, name)}))


@pytest.mark.parametrize("name", ["weights.bin", "../outside/x.safetensors", "/x.safetensors", "..\\x.safetensors", 7])
def test_shards_elsewhere_or_of_another_kind_are_refused(model_folder: Path, tmp_path: Path, name: Any) -> None:
    trace = tmp_path / "opened"
    sharded(model_folder, name)
    (model_folder / WEIGHTS).rename(tmp_path / "x.safetensors")
    torch.save(Trap(trace), model_folder / "weights.bin")
    with pytest.raises(RunError, match=r"index\.json names .*only safetensors files of the same folder"):
        Run.from_pretrained(model_folder)
    assert not trace.exists()


@pytest.mark.parametrize("name", ["adapter_model.bin", "../model.safetensors", ["model.safetensors"]])
def test_a_configuration_that_names_other_weights_is_refused(model_folder: Path, tmp_path: Path, name: Any) -> None:
    trace = tmp_path / "opened"
    torch.save(Trap(trace), model_folder / "adapter_model.bin")
    edit(model_folder / "config.json", transformers_weights=name)
    with pytest.raises(RunError, match=r"config\.json names .*as its weights"):
        Run.from_pretrained(model_folder)
    assert not trace.exists()


def test_weights_that_a_configuration_names_are_those_that_are_hashed(model_folder: Path) -> None:
    shutil.copy(model_folder / WEIGHTS, model_folder / "other.safetensors")
    edit(model_folder / "config.json", transformers_weights="other.safetensors")
    before = weights_fingerprint(model_folder)
    held = read_tensors(model_folder / WEIGHTS)
    write_tensors(model_folder / WEIGHTS, held | {"classifier.bias": held["classifier.bias"] + 1}, {"format": "pt"})
    assert weights_fingerprint(model_folder) == before
    write_tensors(model_folder / "other.safetensors", {k: v * 0 for k, v in held.items()}, {"format": "pt"})
    assert weights_fingerprint(model_folder) != before
    assert float(loaded(model_folder).classifier.weight.abs().sum()) == 0.0


def test_adapter_settings_without_adapter_weights_are_refused(model_folder: Path, tmp_path: Path) -> None:
    trace = tmp_path / "opened"
    torch.save(Trap(trace), model_folder / "adapter_model.bin")
    settings = {"base_model_name_or_path": "elsewhere", "peft_type": "LORA", "task_type": "SEQ_CLS"}
    (model_folder / "adapter_config.json").write_text(json.dumps(settings))
    with pytest.raises(RunError, match=r"adapter_config\.json but no adapter_model\.safetensors"):
        Run.from_pretrained(model_folder)
    assert not trace.exists()


# ---- numbers of a configuration ----


@pytest.mark.parametrize(
    ("name", "value"), [("num_labels", 10**9), ("num_hidden_layers", 10**9), ("hidden_size", 10**12)]
)
def test_numbers_that_no_model_has_are_refused(model_folder: Path, name: str, value: int) -> None:
    config = json.loads((model_folder / "config.json").read_text()) | {name: value}
    if name == "num_labels":
        del config["id2label"], config["label2id"]
    (model_folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(RunError, match=rf"config\.json has the value {value} for {name}"):
        Run.from_pretrained(model_folder)


def test_a_far_larger_model_than_the_weights_is_refused_before_it_is_made(model_folder: Path) -> None:
    edit(model_folder / "config.json", vocab_size=2**25, hidden_size=2**10)
    run = Run.from_pretrained(model_folder)
    with pytest.raises(RunError, match=r"describes a model with [\d,]+ parameters, but its weights have [\d,]+ bytes"):
        run.load(run.checkpoints[0])


# ---- another model than the trained one ----


def test_weights_that_the_model_does_not_use_are_refused(model_folder: Path) -> None:
    held = read_tensors(model_folder / WEIGHTS)
    extra = {"extra.weight": np.ones((2, 2), dtype=np.float32)}
    write_tensors(model_folder / WEIGHTS, held | extra, {"format": "pt"})
    with pytest.raises(RunError, match=r"contain extra\.weight, which BertForSequenceClassification does not use"):
        loaded(model_folder)


def test_a_head_that_would_be_drawn_anew_is_refused(model_folder: Path) -> None:
    held = read_tensors(model_folder / WEIGHTS)
    write_tensors(
        model_folder / WEIGHTS, {k: v for k, v in held.items() if not k.startswith("classifier")}, {"format": "pt"}
    )
    with pytest.raises(RunError, match=r"lack classifier\.bias and 1 more"):
        loaded(model_folder)


def test_a_class_that_transformers_lacks_is_refused(model_folder: Path) -> None:
    edit(model_folder / "config.json", architectures=["MeanBertForSequenceClassification"])
    with pytest.raises(RunError, match=r"names MeanBertForSequenceClassification, which transformers does not have"):
        loaded(model_folder)


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
def test_code_that_comes_with_a_model_is_not_left_out_in_silence(model_folder: Path, file: str) -> None:
    edit(model_folder / file, auto_map={"AutoModelForSequenceClassification": "pooled.MeanBert"})
    with pytest.raises(RunError, match=rf"contains custom code \(auto_map in {file}\).*--trust-remote-code"):
        Run.from_pretrained(model_folder)


def test_weights_of_a_compiled_model_are_named_as_such(model_folder: Path) -> None:
    held = read_tensors(model_folder / WEIGHTS)
    write_tensors(model_folder / WEIGHTS, {f"_orig_mod.{k}": v for k, v in held.items()}, {"format": "pt"})
    with pytest.raises(RunError, match="saved from a compiled model"):
        loaded(model_folder)


# ---- checkpoints of two trainings ----


def other_labels(folder: Path) -> None:
    runs.bert(runs.bert_tokenizer(), ("neg", "pos")).save_pretrained(folder)


def other_architecture(folder: Path) -> None:
    config = transformers.DistilBertConfig(
        vocab_size=200, dim=16, n_layers=1, n_heads=2, hidden_dim=32, id2label=dict(enumerate(runs.LABELS))
    )
    transformers.DistilBertForSequenceClassification(config).save_pretrained(folder)


def other_width(folder: Path) -> None:
    model = runs.bert(runs.bert_tokenizer())
    model.config.intermediate_size = 64
    type(model)(model.config).save_pretrained(folder)


def other_losses(folder: Path) -> None:
    state = json.loads((folder / "trainer_state.json").read_text())
    first = next(one for one in state["log_history"] if "loss" in one)
    first["loss"] += 1.0
    (folder / "trainer_state.json").write_text(json.dumps(state))


def other_seed(folder: Path) -> None:
    edit(folder / RECORD_FILE, seed=7)
    edit(folder / "trainer_state.json", log_history=[])


def other_mark(folder: Path) -> None:
    edit(folder / RECORD_FILE, training="another")


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (other_labels, r'differ in labels \({"0": "neg", "1": "pos"} and {"0": "Business"'),
        (other_architecture, r"differ in architecture .*DistilBert.*Bert"),
        (other_width, r"the sizes of bert\.encoder\.layer\.0\.intermediate\S+ differ"),
        (other_losses, r"at step 5 they log different values of loss"),
        (other_seed, r"their seeds differ"),
        (other_mark, r"the Recorder marked them as two trainings"),
    ],
)
def test_checkpoints_of_two_trainings_are_refused(
    bert_run: Path, copied: Copy, spoil: Callable[[Path], None], reason: str
) -> None:
    folder = copied(bert_run)
    spoil(folder / "checkpoint-8")
    with pytest.raises(RunError, match=rf"checkpoint-8 and .* are from different trainings: .*{reason}"):
        Run.from_pretrained(folder)


def test_a_training_that_went_on_after_a_stop_is_one(tmp_path: Path) -> None:
    tokenizer = runs.bert_tokenizer()
    runs.trainer(tmp_path, runs.bert(tokenizer), tokenizer, callbacks=[Recorder()], max_steps=3).train()
    again = runs.trainer(tmp_path, runs.bert(tokenizer), tokenizer, callbacks=[Recorder()])
    again.train(resume_from_checkpoint=True)
    assert [one.step for one in Run.from_pretrained(tmp_path).checkpoints] == [3, 6]


# ---- the model that was kept ----


@pytest.fixture
def best(bert_run: Path, copied: Copy) -> Path:
    """A run that kept its second checkpoint of three as the best one."""
    folder = copied(bert_run)
    for name in (WEIGHTS, "config.json"):
        shutil.copy(folder / "checkpoint-16" / name, folder)
    edit(folder / "checkpoint-24" / "trainer_state.json", best_model_checkpoint="news/checkpoint-16")
    return folder


def test_the_kept_model_is_the_one_that_is_explained(best: Path, tmp_path: Path) -> None:
    run = Run.from_pretrained(best)
    assert [one.step for one in run.checkpoints] == [8, 16]
    assert [one.step for one in run.later] == [24]
    (note,) = run.notes
    assert "the model is checkpoint-16, the best checkpoint" in note
    built = runs.index(best, tmp_path / "i")
    found = built.explain(runs.OTHERS[0]["text"], label="Business", k=1)
    assert note in found.notes
    kept = transformers.AutoModelForSequenceClassification.from_pretrained(best).eval()
    probabilities = built.store.features["probabilities"]
    encoded = run.tokenizer(runs.OTHERS[3]["text"], return_tensors="pt")
    with torch.no_grad():
        own = kept(**encoded).logits.softmax(-1)[0].numpy()
    np.testing.assert_allclose(probabilities[3], own, atol=1e-5)


def test_steps_that_are_asked_for_count_after_the_kept_model_too(best: Path, tmp_path: Path) -> None:
    built = runs.index(best, tmp_path / "i", steps=[8, 24])
    assert [one.id.step for one in built.store.plan.checkpoints] == [8, 24]
    assert not any("left out" in note for note in built.store.manifest.notes)
    built.explain(runs.OTHERS[0]["text"], label="Business", k=1)


def test_the_best_checkpoint_is_the_model_where_none_is_kept_apart(best: Path) -> None:
    (best / WEIGHTS).unlink()
    edit(best / RUN_FILE, load_best_model_at_end=True)
    assert [one.step for one in Run.from_pretrained(best).checkpoints] == [8, 16]
    edit(best / RUN_FILE, load_best_model_at_end=False)
    assert [one.step for one in Run.from_pretrained(best).checkpoints] == [8, 16, 24]


def test_a_kept_model_that_is_none_of_the_checkpoints_is_said(best: Path, said: Said, tmp_path: Path) -> None:
    held = read_tensors(best / WEIGHTS)
    write_tensors(best / WEIGHTS, held | {"classifier.bias": held["classifier.bias"] + 1}, {"format": "pt"})
    run = Run.from_pretrained(best)
    assert [one.step for one in run.checkpoints] == [8, 16, 24]
    (note,) = run.notes
    assert "differs from all of its checkpoints" in note
    data = tmp_path / "news.json"
    data.write_text(json.dumps(runs.ROWS))
    for command in ("check", "plan"):
        code, out, err = said(command, best, data)
        assert code == 0
        assert "differs from all of its checkpoints" in " ".join((out + err).split())


# ---- other losses ----


@pytest.mark.parametrize(
    ("figure", "objective"),
    [("rewards/chosen", "DPO"), ("rewards/chosen_sum", "KTO"), ("objective/kl", "PPO"), ("reward_std", "GRPO")],
)
def test_a_run_of_another_loss_is_refused_by_its_log(lm_run: Path, copied: Copy, figure: str, objective: str) -> None:
    folder = copied(lm_run)
    edit(folder / "checkpoint-6" / "trainer_state.json", log_history=[{"step": 6, figure: 0.1}])
    with pytest.raises(RunError, match=rf"was trained on .*{objective}.*according to {figure} in .*trainer_state"):
        Run.from_pretrained(folder)


def test_a_run_of_another_loss_is_refused_by_its_card(lm_run: Path, copied: Copy) -> None:
    folder = copied(lm_run)
    card = "---\nbase_model: sft\ntags:\n- trl\n- {}\n---\n\n# Model card\n"
    (folder / "README.md").write_text(card.format("sft"))
    Run.from_pretrained(folder)
    (folder / "README.md").write_text(card.format("cpo"))
    with pytest.raises(RunError, match=r"preferences \(DPO\) \(according to the tag cpo in .*README\.md\)"):
        Run.from_pretrained(folder)
    (folder / "README.md").write_text(card.format("dpo"))
    assert Run.from_pretrained(folder).task.kind == "DPO"


def test_a_reward_model_is_read_by_its_value_and_refuses_preferences(tmp_path: Path) -> None:
    tokenizer = runs.bert_tokenizer()
    runs.bert(tokenizer, ("reward",)).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    run = Run.from_pretrained(tmp_path)
    assert run.task.kind == "regression"
    with pytest.raises(ProponentError, match="prefer"):
        proponent.build(run, [{"prompt": "a", "chosen": "b", "rejected": "c"}], tmp_path / "i", quiet=True)


def test_parts_of_a_spread_model_are_not_to_be_removed(bert_run: Path, copied: Copy) -> None:
    folder = copied(bert_run)
    (folder / "checkpoint-16" / WEIGHTS).unlink()
    (folder / "checkpoint-16" / "pytorch_model_fsdp_0").mkdir()
    with pytest.raises(RunError, match="accelerate merge-weights") as refused:
        Run.from_pretrained(folder)
    assert "remove" not in str(refused.value)


# ---- the former name ----


def rename(folder: Path) -> None:
    """Give every record the name that it had under the library's former name."""
    for path in sorted(folder.rglob("proponent_*"), reverse=True):
        path.rename(path.with_name(path.name.replace("proponent_", "whence_")))


def test_records_under_the_former_name_are_read_and_said(bert_run: Path, copied: Copy, tmp_path: Path) -> None:
    folder = copied(bert_run)
    before = Run.from_pretrained(folder)
    assert not before.notes
    first = runs.index(folder, tmp_path / "before", "tracin-we-adam-unit")
    rename(folder)
    run = Run.from_pretrained(folder)
    assert run.checkpoints == before.checkpoints
    assert run.fingerprints == before.fingerprints
    assert [one.moments is not None for one in run.checkpoints] == [True] * 3
    assert run_record(folder) is not None
    (note,) = run.notes
    assert "have the library's former name (whence_moments.safetensors, whence_recorder.json, whence_run.json)" in note
    second = runs.index(folder, tmp_path / "after", "tracin-we-adam-unit")
    assert note in second.store.manifest.notes
    assert first.store.manifest.files == second.store.manifest.files


def test_the_present_name_wins(bert_run: Path, copied: Copy) -> None:
    folder = copied(bert_run)
    at = folder / "checkpoint-8"
    for name in (RECORD_FILE, MOMENTS_FILE):
        shutil.copy(at / name, at / name.replace("proponent_", "whence_"))
    edit(at / RECORD_FILE.replace("proponent_", "whence_"), learning_rate=7.0)
    run = Run.from_pretrained(folder)
    assert run.checkpoints[0].learning_rate != 7.0
    assert not run.notes


def test_a_replay_under_the_former_name_is_read(tmp_path: Path) -> None:
    tokenizer = runs.bert_tokenizer()
    runs.trainer(tmp_path, runs.bert(tokenizer), tokenizer, callbacks=[Recorder(replay=True)]).train()
    rates = read_training_trace(tmp_path).rates
    rename(tmp_path)
    assert not (tmp_path / FOLDER).exists()
    found = read_training_trace(tmp_path)
    assert np.array_equal(found.rates, rates)
    assert found.initial()


def former(index: Path) -> None:
    """Make an index as it was written under the former name: another key in its plan, and the sums that follow."""
    from proponent.store.checksums import sums_of_file
    from proponent.store.manifest import Manifest

    plan = json.loads((index / "plan.json").read_text())
    plan["whence"] = plan.pop("proponent")
    (index / "plan.json").write_text(json.dumps(plan, sort_keys=True, separators=(",", ":")) + "\n")
    manifest = Manifest.model_validate_json((index / "manifest.json").read_text())
    files = manifest.files | {"plan.json": sums_of_file(index / "plan.json")}
    sealed = manifest.model_copy(update={"files": files}).sealed()
    text = json.dumps(sealed.model_dump(), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    (index / "manifest.json").write_text(text + "\n")


def test_an_index_under_the_former_name_is_read_and_changed(bert_run: Path, tmp_path: Path) -> None:
    built = runs.index(bert_run, tmp_path / "i")
    expected = built.explain(runs.OTHERS[0]["text"], label="Business", k=3)
    former(tmp_path / "i")
    index = proponent.open(tmp_path / "i")
    found = index.explain(runs.OTHERS[0]["text"], label="Business", k=3)
    assert [one.score for one in found.proponents] == [one.score for one in expected.proponents]
    assert "this index was written under the library's former name, whence: it can be read" in found.notes
    runs.index(bert_run, tmp_path / "i")  # the same command finds it done
    added = [row | {"id": f"more {row['id']}"} for row in runs.ROWS]
    runs.index(bert_run, tmp_path / "i", data=added, append=True)
    assert not verify(tmp_path / "i").damage
    notes = proponent.open(tmp_path / "i").store.manifest.notes
    assert sum("former name" in note for note in notes) == 1


def test_a_saved_answer_under_the_former_name_is_read(bert_run: Path, tmp_path: Path) -> None:
    content = runs.index(bert_run, tmp_path / "i").explain(runs.OTHERS[0]["text"], label="Business", k=1).to_dict()
    found = Explanation.from_dict({("whence" if name == "proponent" else name): one for name, one in content.items()})
    assert found.version == content["proponent"]
    assert "this answer was saved under the library's former name, whence" in found.notes


def test_a_method_file_under_the_former_name_is_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from proponent.method import Gradients
    from proponent.method_table import method_of

    path = tmp_path / "mine.json"
    path.write_text(json.dumps({"whence": "0.1.0", "method": "tracin-we", "unit_norm": True}))
    assert method_of(str(path)) == Gradients(name="tracin-we", normalize="train")
    assert "mine.json was written under the library's former name, whence" in capsys.readouterr().err


# ---- several files ----


def write_lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_list_of_paths_is_read_as_one_data_set(tmp_path: Path) -> None:
    plain = [{name: row[name] for name in ("text", "label")} for row in runs.ROWS]
    first, second = write_lines(tmp_path / "a.jsonl", plain[:10]), write_lines(tmp_path / "b.jsonl", plain[10:])
    whole = read(plain)
    for source in ([str(first), str(second)], (first, second), [str(first), second]):
        found = read(source)
        assert found.fingerprint == whole.fingerprint
        assert found.ids == whole.ids
    assert read([first]).name == str(first)


def test_lists_of_paths_that_cannot_be_meant(tmp_path: Path) -> None:
    first = write_lines(tmp_path / "a.jsonl", runs.ROWS[:3])
    for source, reason in (
        ([str(first), "The cup and the bank."], "mixes paths .* which is not the path of a data file"),
        ([first, first], "is given twice"),
        (
            [first, write_lines(tmp_path / "b.jsonl", [{"text": "the cup"}])],
            "b.jsonl: no column 'label', but .*a.jsonl has it",
        ),
        ([first, write_lines(tmp_path / "c.jsonl", runs.ROWS[:2])], "ids must be unique, .*a.jsonl, .*c.jsonl"),
        (["a.jsonl", "gone.jsonl"], "no such file"),
    ):
        with pytest.raises(DataError, match=reason):
            read(source)
    assert [one.text for one in read(["see a.jsonl for more", "the cup"])] == ["see a.jsonl for more", "the cup"]
