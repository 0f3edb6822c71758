"""Whatever trains, replays or moves weights does so on a pretended CUDA device as on the CPU."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch

import facts
import proponent
import runs
import tiny
from pretend_device import NAME, pretend_device
from proponent.actions.channel_influence import channel_influence
from proponent.actions.channel_pruning import INFLUENCE, Pruned, Pruner, PruneSettings, shared_channels
from proponent.actions.consistency_weights import EncoderSettings, compare_trained
from proponent.actions.corpora import UnlearnSettings, unlearn
from proponent.actions.nmtune_lora import LoraSettings, tuned_accuracies
from proponent.actions.poison_probe import Probe
from proponent.actions.poison_report import base_model
from proponent.actions.poison_retrain import AttackTest, drop_and_retrain
from proponent.actions.poison_rows import AnsweredRows
from proponent.actions.run_predictions import class_probabilities
from proponent.actions.text_features import LabelledTexts, text_features
from proponent.check import check
from proponent.data import Columns, read
from proponent.dynamics.loops import Query
from proponent.dynamics.replay_engine import Replay
from proponent.dynamics.rollback import Rollback
from proponent.errors import InputError, RunError
from proponent.evaluate import RetrainJob, Retrains
from proponent.evaluate.cancellation import measure_cancellation
from proponent.evaluate.experiment import EvaluationRequest, Experiment
from proponent.evaluate.tail_patch import tail_patch
from proponent.models import Run
from proponent.models.placement import Placement, device_of
from proponent.training.loop import TrainingLoop
from proponent.training.one_by_one import OneByOne, loop_of, train_one_by_one
from proponent.training.precision import in_32_bits
from proponent.training.rerun import FRESH, RunProblem, write_run
from proponent.training.schedule import Settings, Step, drawing
from proponent.training.trainer import Training, train
from proponent.types import Example

SETTINGS = Settings(2, 8, 1e-3, clip=1.0)
SEEN = np.arange(24)


def opened(path: Path, device: str = "cpu", dtype: str = "float32") -> Run:
    return Run.from_pretrained(path, device=device, dtype=dtype)


def problem_of(data: tiny.Tiny, device: str = "cpu", dtype: str = "float32") -> RunProblem:
    rows = list(read(data.data))
    run = opened(data.run, device, dtype)
    initial = FRESH if run.task.labels else str(run.checkpoints[-1].path)
    return RunProblem(run, rows[:24], rows[-6:], initial, run.length(None))


def same(work: Callable[[str], Any], atol: float = 1e-6) -> None:
    """Compare what some work gives on both devices."""
    here = work("cpu")
    with pretend_device():
        there = work(NAME)
    for one, other in zip(here, there, strict=True):
        np.testing.assert_allclose(other, one, rtol=0, atol=atol)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_a_retraining_draws_and_trains_as_on_the_cpu(optimizer: Any, news: tiny.Tiny):
    def work(device: str) -> Any:
        loop = TrainingLoop(problem_of(data=news, device=device), replace(SETTINGS, optimizer=optimizer))
        outputs = loop(SEEN[:20], 3)  # with dropout
        return outputs.log_odds, outputs.loss

    same(work)


def test_a_language_model_is_retrained(lines: tiny.Tiny, copied: Callable[[Path], Path]):
    folder = copied(lines.run)
    for config in folder.rglob("config.json"):  # attention draws in C++, which the pretended device cannot follow
        runs.edit(config, attn_pdrop=0.0)

    def work(device: str) -> Any:
        rows = list(read(lines.data))
        run = opened(folder, device)
        problem = RunProblem(run, rows[:12], rows[-4:], str(run.checkpoints[-1].path), run.length(None))
        return [TrainingLoop(problem, SETTINGS)(np.arange(10), 1).loss]

    same(work)


def test_retrains_of_devices_never_mix(news: tiny.Tiny, tmp_path: Path):
    plain = TrainingLoop(problem_of(news), SETTINGS)
    assert "placement" not in plain.identity
    with pretend_device():
        other = TrainingLoop(problem_of(news, NAME), SETTINGS)
        half = TrainingLoop(problem_of(news, NAME, "bfloat16"), SETTINGS)
        assert other.identity == plain.identity.replace("\nplain loop", "\nplacement cuda float32\nplain loop")
        assert "placement cuda bfloat16" in half.identity
        jobs = [RetrainJob(SEEN[:20], 0), RetrainJob(SEEN[4:], 0)]
        for loop in (plain, other, half):
            kept = Retrains(loop, tmp_path, quiet=True)
            assert len(kept.outputs(jobs)) == kept.performed == 2


def test_passes_have_the_precision_of_the_run_and_weights_have_32_bits(news: tiny.Tiny):
    exact = TrainingLoop(problem_of(news), SETTINGS)(SEEN, 0)
    problem = problem_of(news, dtype="bfloat16")
    model = TrainingLoop(problem, SETTINGS).fit(SEEN, 0)
    assert {one.dtype for one in model.parameters()} == {torch.float32}
    found = problem.outputs(model)
    gap = np.abs(found.log_odds - exact.log_odds).max()
    assert 1e-6 < gap < 0.1
    with pytest.raises(InputError, match="float16 needs a scaled loss"):
        problem_of(news, dtype="float16").fresh(0)


def test_a_written_run_stays_on_its_device(news: tiny.Tiny, tmp_path: Path):
    with pretend_device():
        made = write_run(TrainingLoop(problem_of(news, NAME), SETTINGS), tmp_path / "run", 1, checkpoints=2)
        assert made.placement == Placement(NAME)
        assert device_of(made.load(made.checkpoints[-1])).type == "cuda"
    again = write_run(TrainingLoop(problem_of(news), SETTINGS), tmp_path / "other", 1, checkpoints=2)
    both = [one.load(one.checkpoints[-1]).state_dict() for one in (opened(made.path), again)]
    assert all((one - both[1][name]).abs().max() < 1e-6 for name, one in both[0].items())


def test_an_evaluation_scores_and_retrains(news: tiny.Tiny, tmp_path: Path):
    def work(device: str) -> Any:
        rows = list(read(news.data))
        asked = {"cache": tmp_path, "methods": ("tracin-we",), "initial": FRESH, "quiet": True}
        subject = Experiment(EvaluationRequest(opened(news.run, device), rows[:24], rows[-4:], **asked))
        jobs = [RetrainJob(SEEN[::2], 0), RetrainJob(SEEN[1::2], 0)]
        outputs = subject.retrains(keep_places=False).outputs(jobs)
        scores = subject.method_scores() | {
            name: one for name, one in subject.control_scores().items() if "random" not in name
        }
        return [*(one.loss for one in outputs), *(np.nan_to_num(one) for one in scores.values())]

    same(work, 1e-5)


def test_random_draws_of_a_step_are_restored_on_the_device():
    with pretend_device():
        device, step = torch.device(NAME), Step(0, np.arange(2), np.ones(1), draw=5)
        before = torch.cuda.get_rng_state(0)
        with drawing(step, device):
            drawn = torch.rand(3, device=NAME)
        assert torch.equal(torch.cuda.get_rng_state(0), before)
        with drawing(step, device):
            assert torch.equal(torch.rand(3, device=NAME).cpu(), drawn.cpu())


def recorded_run(folder: Path, dropout: float) -> Path:
    tokenizer = runs.bert_tokenizer()
    model = runs.bert(tokenizer)
    for one in model.modules():
        if isinstance(one, torch.nn.Dropout):
            one.p = dropout
    if not dropout:
        model.config.hidden_dropout_prob = model.config.attention_probs_dropout_prob = 0.0
    options: dict[str, Any] = {"max_steps": 6, "save_steps": 6, "learning_rate": 1e-3, "adam_epsilon": 1e-3}
    runs.trainer(folder, model, tokenizer, callbacks=[proponent.Recorder(replay=True)], **options).train()
    return folder


def replay_of(folder: Path, device: str, dtype: str = "float32") -> Replay:
    rows = [Example(one["id"], place, one["text"], one["label"]) for place, one in enumerate(runs.ROWS)]
    labels = [runs.LABELS.index(str(one.label)) for one in rows]
    return Replay(opened(folder, device, dtype), rows, labels, quiet=True)


def test_a_replay(tmp_path: Path):
    folder = recorded_run(tmp_path / "run", 0.0)
    query = Query(Example("a", 0, "The bank said that profit fell after the vote.", 0), 0)

    def work(device: str) -> Any:
        replay = replay_of(folder, device)
        deviation = replay.deviation()
        found = replay.derivative([query])
        smooth = replay.smoothness(query, found, [0])
        return [deviation], found.scores, found.tokens, found.losses, smooth.difference

    same(work)
    with pytest.raises(InputError, match="a replay moves weights by less than bfloat16 can tell"):
        replay_of(folder, "cpu", "bfloat16")


def test_recorded_random_states_drive_the_cpu_only(tmp_path: Path):
    folder = recorded_run(tmp_path / "run", 0.1)
    with pretend_device(), pytest.raises(RunError, match=r"dropout, whose recorded random states .* --device cpu"):
        replay_of(folder, NAME)


@pytest.mark.parametrize("negatives", [0, 3])
def test_training_on_one_example_per_step_and_taking_it_back(negatives: int, tmp_path: Path):
    header = {"columns": Columns(text="head", text_pair="relation", label="tail"), "header": facts.HEADER}
    examples = read(facts.write(tmp_path / "train.tsv", facts.triples(count=20)), **header)
    how = OneByOne(negatives=negatives, factors=4, optimizer="sgd")
    training = Training(model="distmult", epochs=2, batch_size=1, learning_rate=0.02, checkpoints=1, quiet=True)

    def work(device: str) -> Any:
        folder = tmp_path / device.partition(":")[0]
        run = train_one_by_one(examples, folder, replace(training, device=device), how)
        assert run.placement.device == device
        back = Rollback.of(run, examples)
        query = Query(examples[3], run.label_number(str(examples[3].label)))
        found = back.scores(query)
        words = list(back.words(query, int(np.nanargmax(found))).values())
        loop = loop_of(run, examples, list(examples)[:3], back.changes)
        assert cast("RunProblem", loop.problem).run.placement.device == ("cpu" if negatives else device)
        weights = back.model.state_dict()
        return (
            found,
            words,
            back.predicted(list(examples)[:2]),
            loop(np.arange(19), 0).loss,
            weights["model.words.weight"].cpu(),
        )

    same(work)


def test_corpora_are_unlearned(lines: tiny.Tiny):
    def work(device: str) -> Any:
        rows = list(read(lines.data))
        page = unlearn(
            opened(lines.run, device), {"one": rows[:5], "two": rows[5:10]}, {"test": rows[-3:]},
            UnlearnSettings(steps=2), max_length=24, quiet=True,
        )  # fmt: skip
        return [[one.value or 0.0 for row in page.rows for one in row.figures]]

    same(work)


@pytest.mark.parametrize("order", ["first", "second", "mixed"])
def test_the_influence_of_channels(order: Any, news: tiny.Tiny):
    def work(device: str) -> Any:
        problem = problem_of(news, device)
        whole = Pruned.whole(problem.run, "feed-forward")
        found = channel_influence(whole.model.eval(), whole.sites, problem, [SEEN[:4], SEEN[4:8]], order)
        return [*found.values, *shared_channels(whole.model, whole.sites, problem, 0, 1)]

    same(work)


@pytest.mark.parametrize("kind", ["feed-forward", "heads"])
def test_a_model_is_pruned(kind: str, news: tiny.Tiny, tmp_path: Path):
    small = PruneSettings(kind=kind, batches=2, batch_size=8, rounds=1, steps=2, seeds=1, draws=1)

    def work(device: str) -> Any:
        rows = list(read(news.data))
        pruner = Pruner.of(opened(news.run, device), rows[:24], rows[-6:], small, None)
        found = pruner.run_all(quiet=True)
        best = found[INFLUENCE][0]
        assert device_of(best.model).type == torch.device(device).type
        pruner.save(best, tmp_path / device.partition(":")[0] / kind)
        return [one.points for each in found.values() for one in each]

    same(work)


def test_a_search_for_poison_reads_and_retrains(news: tiny.Tiny):
    def work(device: str) -> Any:
        problem = problem_of(news, device)
        run, rows = problem.run, list(problem.train)
        probe = Probe(run, run.load(run.checkpoints[-1]), (), problem.max_length)
        names = run.label_names or ()
        given = np.asarray([run.label_number(str(one.label)) for one in rows])
        clean = AnsweredRows(tuple(rows[:6]), tuple(one.text for one in rows[:6]), given[:6], names)
        test = AttackTest(clean, tuple(rows[6:9]), given[6:9], "a word")
        outcomes, _ = drop_and_retrain(probe, rows, test, np.arange(3), given, initial=FRESH)
        told = [(one.right, one.turned) for one in outcomes]
        first = base_model(probe, str(run.checkpoints[0].path))[0]
        flat = [each.astype(float) for pair in told for each in pair]
        return [probe.log_odds(rows), probe.states(rows), first.log_odds(rows[:2]), *flat]

    same(work)


def one_hot(ids: torch.Tensor, size: int) -> torch.Tensor:
    """As torch's, which makes a tensor in C++ that the pretended device does not see."""
    return torch.eye(size, dtype=torch.int64, device=ids.device)[ids]


def test_predictions_and_the_check_of_a_run(news: tiny.Tiny, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.nn.functional, "one_hot", one_hot)

    def work(device: str) -> Any:
        examples, run = read(news.data), opened(news.run, device)
        findings = check(run, examples)
        assert all(one.passed is not False for one in findings), findings
        return [class_probabilities(run, examples, run.label_names or (), quiet=True)]

    same(work)
    found = check(opened(news.run, dtype="bfloat16"), read(news.data))
    assert all(one.passed is not False for one in found), found
    assert any(one.name == "precision" for one in found)


def test_single_steps_and_gradients(news: tiny.Tiny, tmp_path: Path):
    def work(device: str) -> Any:
        problem = problem_of(news, device)
        model = problem.run.load(problem.run.checkpoints[-1])
        moments = {name: np.full(tuple(one.shape), 1e-4, np.float32) for name, one in model.named_parameters()}
        moved = tail_patch(problem, model, [[0, 1]] * 6, problem.query_labels, 1e-3, moments)
        request = EvaluationRequest(
            problem.run, problem.train, None, tmp_path, quiet=True, initial=FRESH, say=lambda _: None
        )
        page = measure_cancellation(request)
        return [moved, [one.value or 0.0 for row in page.rows for one in row.figures]]

    same(work, 1e-3)


def test_an_encoder_is_read_tuned_and_trained(encoder_folder: Path):
    rows = [Example(row["id"], place, row["text"], row["label"]) for place, row in enumerate(runs.rows(30))]
    labels = np.asarray([runs.LABELS.index(str(one.label)) for one in rows])
    train_rows, test = LabelledTexts(rows[:20], labels[:20]), LabelledTexts(rows[20:], labels[20:])

    def work(device: str) -> Any:
        features = text_features(encoder_folder, rows, max_length=24, device=device)
        lora = LoraSettings(rank=2, epochs=1, batch_size=8, learning_rate=1e-2, max_length=24)
        tuned = tuned_accuracies(encoder_folder, train_rows, {"own": test}, settings=lora, seeds=1, device=device)
        small = EncoderSettings(steps=3, batch_size=4, validation=4, warm_up=1, every=1, max_length=24)
        compared = compare_trained(
            encoder_folder, train_rows, rows[:12], test, test, small, scalars=(), quiet=True, device=device
        )
        return [features, tuned["own"], compared.weights]

    same(work, 1e-5)


def test_a_training_with_the_trainer(news: tiny.Tiny, tmp_path: Path):
    examples = read(news.data)
    small = Training(epochs=1, checkpoints=1, max_length=24, width=16, layers=1, vocabulary=100, quiet=True)
    half = train(examples, tmp_path / "half", replace(small, device="cpu", dtype="bfloat16"))
    assert half.placement == Placement()
    assert {one.dtype for one in half.load(half.checkpoints[-1]).parameters()} == {torch.float32}
    with pytest.raises(InputError, match=r"float16 .* needs a CUDA device"):
        replace(small, device="cpu", dtype="float16").check()
    with pretend_device():
        assert small.placement.device == NAME
        assert replace(small, replay=True).placement.device == "cpu"


def test_a_second_device_is_refused_with_a_way_out(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(InputError, match="CUDA_VISIBLE_DEVICES=1, and give --device cuda"):
        Training(device="cuda:1").check()
    assert Training(device="cuda:0").placement.device == NAME


def test_what_moves_weights_has_32_bits(news: tiny.Tiny):
    run = opened(news.run)
    assert in_32_bits(run) is run
    half = opened(news.run, dtype="bfloat16")
    assert in_32_bits(half).placement == Placement("cpu", "float32")
    exact = run.load(run.checkpoints[-1]).state_dict()
    found = in_32_bits(half).load(half.checkpoints[-1]).state_dict()
    assert all(torch.equal(one, found[name]) for name, one in exact.items())
