"""A fine-tuned chat adapter is trained again on halves: its base stays, tokens count and weigh as in the training."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

import chat
import proponent
from proponent.cli import main
from proponent.data import read
from proponent.errors import RunError
from proponent.evaluate.experiment import EvaluationRequest, Experiment
from proponent.models import Run
from proponent.training.rerun import FRESH, RunProblem, settings_of_run

trl = pytest.importorskip("trl")
peft = pytest.importorskip("peft")
datasets = pytest.importorskip("datasets")
pytestmark = pytest.mark.filterwarnings("ignore")

TOWNS = ("Ulm", "Bonn", "Trier", "Mainz", "Jena", "Kiel")
ANIMALS = ("heron", "otter", "badger", "ram")
ROWS = [
    {"id": f"{town}-{animal}", "messages": [chat.user(f"Who lives in {town}?"), chat.assistant(f"The {animal}.")]}
    for town in TOWNS
    for animal in ANIMALS
]
ASKED = [
    {"id": f"q{at}", "messages": [chat.user(f"Who is in {town}?"), chat.assistant(f"The {animal} is.")]}
    for at, (town, animal) in enumerate(zip(TOWNS, ANIMALS, strict=False))
]
CONFIG: dict[str, Any] = {
    "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
    "num_key_value_heads": 2, "max_position_embeddings": 256, "tie_word_embeddings": True,
}  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """LoRA by TRL, only the assistant's tokens count."""
    home = tmp_path_factory.mktemp("chat-lora")
    tokenizer = chat.tokenizer(chat.MARKED)
    torch.manual_seed(0)
    config = transformers.LlamaConfig(vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id, **CONFIG)
    transformers.LlamaForCausalLM(config).save_pretrained(home / "base")
    tokenizer.save_pretrained(home / "base")
    arguments = trl.SFTConfig(
        output_dir=str(home / "run"), report_to=[], use_cpu=True, disable_tqdm=True, bf16=False, max_length=48,
        gradient_checkpointing=False, num_train_epochs=2, learning_rate=1e-2, per_device_train_batch_size=4,
        save_strategy="epoch", assistant_only_loss=True,
    )  # fmt: skip
    trl.SFTTrainer(
        model=transformers.AutoModelForCausalLM.from_pretrained(home / "base"),
        args=arguments,
        train_dataset=datasets.Dataset.from_list(ROWS),
        processing_class=tokenizer,
        peft_config=peft.LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM"),
        callbacks=[proponent.Recorder()],
    ).train()
    (home / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    (home / "asked.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ASKED))
    return home / "run"


@pytest.fixture(scope="module")
def experiment(run: Path) -> Experiment:
    home = run.parent
    rows, asked = read(home / "rows.jsonl"), read(home / "asked.jsonl")
    request = EvaluationRequest(Run.from_pretrained(run), rows, asked, home / "cache", quiet=True, points=4)
    return Experiment(replace(request, methods=("tracin-we",)))


def trainable(model: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    return {name: one for name, one in model.named_parameters() if one.requires_grad}


def test_only_the_adapter_is_trained_and_its_factors_follow_from_the_seed(experiment: Experiment) -> None:
    first, again, other = (trainable(experiment.problem.fresh(seed)) for seed in (3, 3, 4))
    assert first
    assert all(".lora_A." in name or ".lora_B." in name for name in first)
    assert all(torch.equal(one, again[name]) for name, one in first.items())
    assert any(not torch.equal(one, other[name]) for name, one in first.items())


def test_a_batch_weighs_every_counted_token_alike(experiment: Experiment) -> None:
    """The mean of the losses is what a Trainer computes from the labels, with a row that counts more tokens."""
    problem = experiment.problem
    model, rows = problem.fresh(0).eval(), np.asarray([0, 5, 11])
    encoder = problem.run.encoder(problem.max_length, counting=problem.counting)
    batch = encoder.collate(encoder.encode([problem.train[at] for at in rows.tolist()]), [-1] * 3)
    labels = batch.ids.masked_fill(~batch.counted, -100)
    assert len(set((labels >= 0).sum(1).tolist())) > 1, "rows of different lengths"
    torch.testing.assert_close(problem.losses(model, rows).mean(), model(**batch.inputs, labels=labels).loss)


def test_a_row_whose_answer_is_cut_off_changes_no_step(experiment: Experiment) -> None:
    problem = experiment.problem
    cut = replace(problem, max_length=12)
    model = problem.fresh(0).eval()
    assert not any(one.counted.any() for one in cut._train_encoded[0])
    assert cut.losses(model, np.asarray([0, 1])).tolist() == [0.0, 0.0]


def test_a_query_whose_answer_is_cut_off_is_named_and_a_row_is_not_refused(experiment: Experiment) -> None:
    with pytest.raises(RunError, match=r"no token of the query with id q0 counts among its first 12: leave it out"):
        Experiment(replace(experiment.request, max_length=12))
    rows = replace(experiment.problem, max_length=12, queries=experiment.problem.train)
    assert np.isnan(rows.outputs(rows.fresh(0).eval()).loss).all()


def test_of_a_query_only_the_answer_counts(experiment: Experiment) -> None:
    problem = experiment.problem
    model = problem.fresh(0).eval()
    (asked, *_), _ = problem._queries_encoded
    logits = model(input_ids=torch.from_numpy(asked.ids)[None]).logits[0]
    lines = problem.run.tokenizer.decode(asked.ids[asked.counted].tolist())
    assert lines.startswith("The heron is.")
    assert "Who" not in lines
    places = np.flatnonzero(asked.counted)
    expected = -torch.log_softmax(logits, -1)[places - 1, asked.ids[places]].mean()
    assert problem.outputs(model).loss[0] == pytest.approx(float(expected), abs=1e-5)


def test_the_retrained_run_counts_as_the_users_did(experiment: Experiment) -> None:
    (made,) = experiment.scored_runs
    rules = experiment.problem.counting
    assert rules is not None
    assert rules.assistant_only
    index = proponent.build(made, read(experiment.request.run.path.parent / "rows.jsonl"), made.path / "i", quiet=True)
    held = index.store.plan.counting
    assert (held.assistant_only, held.completion_only) == (True, True)
    assert len(made.checkpoints) == len(experiment.request.run.checkpoints)


def test_scores_are_those_of_an_index_of_the_run(experiment: Experiment, tmp_path: Path) -> None:
    found = experiment.method_scores()["tracin-we"]
    home = experiment.request.run.path.parent
    index = proponent.build(
        experiment.scored_runs[0], read(home / "rows.jsonl"), tmp_path / "i", "tracin-we", quiet=True
    )
    expected = index.scores(ASKED)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-7)


def test_the_command_measures_an_adapter(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    home = run.parent
    words: list[object] = ["evaluate", run, home / "rows.jsonl", "--queries", home / "asked.jsonl", "--metric", "lds"]
    words += [
        "--subsets",
        20,
        "--seeds",
        1,
        "--methods",
        "tracin-we,tracin-last",
        "--cache",
        home / "cache",
        "--quiet",
        "--json",
    ]
    pages: list[dict[str, Any]] = []
    times: list[dict[Path, int]] = []
    for _ in range(2):  # the second time, nothing is trained again
        with pytest.raises(SystemExit) as left:
            main([*map(str, words), "--arrays", str(home / "bank.safetensors")])
        assert not left.value.code
        pages.append(json.loads(capsys.readouterr().out))
        kept = (home / "cache" / "retrains").glob("*/*.safetensors")
        times.append({path: path.stat().st_mtime_ns for path in kept})
    assert times[0] == times[1]
    assert len(times[0]) == 1 + 20, "one on all rows, for the forecast"
    assert pages[0] == pages[1]
    text = json.dumps(pages[0])
    assert all(name in text for name in ("tracin-we", "tracin-last", "bm25", "embedding", "length quartile"))


def test_an_adapter_has_no_fresh_weights(run: Path) -> None:
    opened = Run.from_pretrained(run)
    assert settings_of_run(opened).initial == str(run.parent / "base")
    problem = RunProblem(opened, (), (), FRESH, 48)
    with pytest.raises(RunError, match="starts from its base model"):
        problem.fresh(0)


def test_rows_not_trained_on_are_not_held_out_and_the_length_of_training_holds(run: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(run, tmp_path / "run"))
    record = json.loads((folder / "proponent_run.json").read_text())
    record["sft"]["max_length"] = 160  # more than the tokenizer's 64: trainers do not ask it
    (folder / "proponent_run.json").write_text(json.dumps(record))
    for path in folder.rglob("proponent_rows.safetensors"):
        path.unlink()
    long = {"id": "long", "messages": [chat.user("the river " * 120), chat.assistant("Never read.")]}
    request = EvaluationRequest(
        Run.from_pretrained(folder), read([*ROWS, long]), None, tmp_path / "cache", quiet=True, points=12,
        methods=("tracin-last",), changes={"epochs": 1},
    )  # fmt: skip
    for seed in range(4):
        subject = Experiment(replace(request, seed=seed))
        assert "long" not in [one.id for one in subject.problem.queries]
    assert subject.problem.max_length == 160
    assert subject.method_scores()["tracin-last"].shape[0] == 12
    index = proponent.build(folder, ROWS, tmp_path / "index", "tracin-last", max_length=100, quiet=True)
    assert index.store.plan.max_length == 100
    with pytest.raises(RunError, match="--max-length 300 is more than"):
        proponent.build(folder, ROWS, tmp_path / "other", max_length=300, quiet=True)
