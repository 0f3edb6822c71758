"""The engine: what is finished is never done again, whoever kills it, and two processes give the same bytes."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

sys.path.append(str(Path(__file__).parents[1] / "benchmarks" / "fidelity"))

from convolution import CnnProblem, TextCnn

import runs
from planted import fickle, planted
from proponent.dynamics.optimizer import FlatOptimizer, OptimizerState
from proponent.engine import InProcess, Item, Result, engine_of
from proponent.errors import InputError, MismatchError
from proponent.evaluate import RetrainJob, Retrains, null_gap
from proponent.evaluate.tail_patch import tail_patch
from proponent.models import Run
from proponent.training.loop import TrainingLoop, gradient
from proponent.training.rerun import FRESH, RunProblem, settings_of_run, write_run
from proponent.training.schedule import Settings, Step, advance, batches, drawing, hashed, id_hashes, order
from proponent.types import Example

HASHES = id_hashes([f"n{number}" for number in range(40)])


@given(st.integers(0, 1000), st.integers(0, 5), st.sets(st.integers(0, 39), max_size=20))
def test_the_order_of_a_subset_is_that_of_the_whole(seed: int, epoch: int, deleted: set[int]):
    kept = np.ones(40, dtype=bool)
    kept[list(deleted)] = False
    whole = [row for row in order(HASHES, seed, epoch) if kept[row]]
    for keep_places in (True, False):
        found = list(batches(HASHES, kept, seed, epoch, 7, keep_places=keep_places))
        assert np.concatenate(found).tolist() == whole
        assert len(found) == -(-(40 if keep_places else len(whole)) // 7)
        assert keep_places or all(len(batch) for batch in found), "only a batch that keeps its places may be empty"


def test_keeping_places_moves_nothing_between_batches():
    kept = np.ones(40, dtype=bool)
    full = list(batches(HASHES, kept, 3, 0, 8, keep_places=True))
    kept[full[1][:3]] = False
    found = list(batches(HASHES, kept, 3, 0, 8, keep_places=True))
    assert [one.tolist() for one in found] == [
        full[0].tolist(),
        full[1][3:].tolist(),
        *[one.tolist() for one in full[2:]],
    ]


def test_every_epoch_and_seed_has_its_own_order():
    orders = {tuple(order(HASHES, seed, epoch)) for seed in range(3) for epoch in range(3)}
    assert len(orders) == 9
    assert all(sorted(one) == list(range(40)) for one in orders)


def problem(queries: int = 5, size: int = 60) -> CnnProblem:
    generator = np.random.default_rng(0)
    ids, labels = generator.integers(1, 50, (size + queries, 12)), np.arange(size + queries) % 3
    ids[:, :4] = labels[:, None] * 3 + generator.integers(0, 3, (size + queries, 4)) + 1
    hashes = id_hashes([str(row) for row in range(size)])
    return CnnProblem(ids[:size], labels[:size], ids[size:], labels[size:], hashes, 50, 3, "made up", 8, 6)


SETTINGS = Settings(2, 16, 1e-2)


def test_the_null_retrain_reproduces_the_model(tmp_path: Path):
    assert null_gap(Retrains(TrainingLoop(problem(), SETTINGS), tmp_path, quiet=True), 0) <= 1e-6
    assert null_gap(Retrains(fickle(), tmp_path, quiet=True), 0) > 0.5, "a fickle training function shows"


def test_nothing_deleted_equals_everything_kept_both_ways():
    whole = np.arange(60)
    first, second = (TrainingLoop(problem(), Settings(2, 16, 1e-2, keep_places=one))(whole, 4) for one in (True, False))
    assert (first.log_odds == second.log_odds).all()


def test_training_learns_and_deletion_changes_it():
    loop = TrainingLoop(problem(), Settings(6, 8, 1e-2))
    full = loop(np.arange(60), 0)
    assert full.loss.mean() < np.log(3) / 2
    less = loop(np.arange(60)[loop.problem.labels != 0], 0)
    zero = loop.problem.query_labels == 0
    assert less.of(np.zeros(5, int))[zero].max() < full.of(np.zeros(5, int))[zero].min()


def test_two_processes_write_the_same_bytes(tmp_path: Path):
    loop = TrainingLoop(problem(), SETTINGS)
    jobs = [RetrainJob.without([row], 60, seed) for row in range(2) for seed in range(2)]
    folders = [tmp_path / "one", tmp_path / "two"]
    found = [
        Retrains(loop, folder, engine_of(workers), quiet=True).outputs(jobs)
        for folder, workers in zip(folders, (1, 2), strict=True)
    ]
    assert all(
        (one.log_odds == other.log_odds).all() and (one.loss == other.loss).all()
        for one, other in zip(*found, strict=True)
    )


def test_a_finished_retrain_is_never_made_again(tmp_path: Path):
    trail = tmp_path / "trail"
    model = planted(trail=trail)
    jobs = [RetrainJob.without([row], 120, 0) for row in (1, 2, 3, 1)]
    first = Retrains(model, tmp_path / "cache", quiet=True)
    outputs = first.outputs(jobs)
    assert first.performed == 3, "equal jobs are trained once"
    assert (outputs[0].loss == outputs[3].loss).all()
    again = Retrains(model, tmp_path / "cache", quiet=True)
    assert again.missing(jobs) == []
    assert (again.outputs(jobs)[2].log_odds == outputs[2].log_odds).all()
    assert again.performed == 0
    assert len(trail.read_text().splitlines()) == 3
    assert len(again.seconds()) == 3


KILLED = """
import sys, pathlib, time
sys.path.insert(0, {tests!r})
from planted import Planted
import numpy as np
from proponent.training.retraining import RetrainJob, Retrains
class Stopping(Planted):
    def __call__(self, rows, seed):
        done = super().__call__(rows, seed)
        if len(self.trail.read_text().splitlines()) == 8 and "stop" in sys.argv:
            time.sleep(600)  # until it is killed, however late that is
        return done
model = Stopping(np.ones((3, 30)), trail=pathlib.Path({trail!r}))
Retrains(model, pathlib.Path({cache!r}), quiet=True).outputs([RetrainJob.without([row], 30, 0) for row in range(30)])
"""


def test_a_killed_evaluation_resumes_without_repeating(tmp_path: Path):
    trail, cache = tmp_path / "trail", tmp_path / "cache"
    code = KILLED.format(tests=str(Path(__file__).parent), trail=str(trail), cache=str(cache))
    running = subprocess.Popen([sys.executable, "-c", code, "stop"])
    while len(list(cache.rglob("*.safetensors"))) < 7:
        assert running.poll() is None
        time.sleep(0.01)
    running.send_signal(signal.SIGKILL)
    running.wait()
    kept = {path: path.stat().st_mtime_ns for path in cache.rglob("*.safetensors")}
    assert len(kept) == 7
    subprocess.run([sys.executable, "-c", code], check=True)
    assert len(list(cache.rglob("*.safetensors"))) == 30
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert len(trail.read_text().splitlines()) <= 31, "at most the one that was killed is begun twice"
    assert not list(cache.rglob("*.tmp*"))


def test_another_run_never_answers_for_this_one(tmp_path: Path):
    one, other = Retrains(planted(seed=0), tmp_path, quiet=True), Retrains(planted(seed=1), tmp_path, quiet=True)
    jobs = [RetrainJob.without([0], 120, 0)]
    assert (one.outputs(jobs)[0].loss != other.outputs(jobs)[0].loss).any()
    (one.home / "recipe.txt").write_text("something else")
    with pytest.raises(MismatchError, match="retrains of another run"):
        Retrains(planted(seed=0), tmp_path)


class Backwards:
    """An engine of one's own: the last item first."""

    def map(self, work: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Result]:
        return map(work, reversed(items))


def test_an_engine_of_ones_own_trains(tmp_path: Path):
    jobs = [RetrainJob.without([], 10, seed) for seed in range(3)]
    one, two = (
        Retrains(planted(queries=2, size=10), tmp_path / name, engine, quiet=True)
        for name, engine in (("one", InProcess()), ("two", Backwards()))
    )
    for first, second in zip(one.outputs(jobs), two.outputs(jobs), strict=True):
        np.testing.assert_array_equal(first.log_odds, second.log_odds)


def test_rows_that_are_not_there_are_refused(tmp_path: Path):
    retrains = Retrains(planted(), tmp_path, quiet=True)
    for rows in ([], [-1, 3], [3, 120]):
        with pytest.raises(InputError, match="by position from 0"):
            retrains.outputs([RetrainJob(np.asarray(rows, dtype=np.int64), 0)])
    with pytest.raises(InputError, match="it must be at least 1"):
        engine_of(0)


def test_a_diverged_training_is_no_result():
    with pytest.raises(InputError, match="diverged"):
        TrainingLoop(problem(), Settings(8, 16, 1e38, "sgd"))(np.arange(60), 0)


def test_the_cnn_is_that_of_the_experiments():
    model = TextCnn(25_000, 4, 128)
    sizes = [sum(one.numel() for one in part.parameters()) for part in model.children()]
    assert sizes == [3_200_000, 32_050, 12_550, 2_550, 204]
    logits = model(torch.zeros((2, 128), dtype=torch.int64)).logits
    assert logits.shape == (2, 4)
    assert model.get_output_embeddings() is None


def examples(rows: list[dict[str, str]]) -> list[Example]:
    return [Example(one["id"], number, one["text"], one["label"]) for number, one in enumerate(rows)]


def own(folder: Path, **changes: object) -> TrainingLoop:
    run = Run.from_pretrained(folder)
    found = settings_of_run(run, **changes)
    return TrainingLoop(
        RunProblem(run, examples(runs.ROWS), examples(runs.OTHERS[:6]), FRESH, runs.MAX_LENGTH), found.settings
    )


def test_the_users_own_run_is_trained_again(bert_run: Path, tmp_path: Path):
    loop = own(bert_run)
    assert (loop.settings.batch_size, loop.settings.learning_rate, loop.settings.schedule) == (4, 1e-2, "linear")
    retrains = Retrains(loop, tmp_path, quiet=True)
    assert null_gap(retrains, 0) <= 1e-6
    made = retrains.outputs([RetrainJob(np.arange(24), 0)])[0]
    assert made.log_odds.shape == (6, 3)
    written = write_run(loop, tmp_path / "again", 0)
    assert [one.step for one in written.checkpoints] == list(range(1, loop.settings.epochs + 1))
    assert written.checkpoints[-1].moments is not None
    problem = loop.problem
    model = written.load(written.checkpoints[-1])
    assert np.abs(problem.outputs(model).log_odds - made.log_odds).max() <= 1e-6, "nothing deleted, same seed"


def test_initial_weights_of_a_fresh_run_are_those_of_its_seed(bert_run: Path):
    tokenizer = runs.bert_tokenizer()
    made = own(bert_run).problem.fresh(0).state_dict()
    assert all(torch.equal(value, made[name]) for name, value in runs.bert(tokenizer).state_dict().items())


def test_a_pretrained_start_keeps_its_body(bert_run: Path, encoder_folder: Path):
    run = Run.from_pretrained(bert_run)
    problem = RunProblem(run, examples(runs.ROWS), examples(runs.OTHERS[:6]), str(encoder_folder), runs.MAX_LENGTH)
    first, second = problem.fresh(0).state_dict(), problem.fresh(1).state_dict()
    same = {name for name, value in first.items() if torch.equal(value, second[name])}
    assert "classifier.weight" not in same
    assert "bert.embeddings.word_embeddings.weight" in same


def test_what_a_foreign_run_does_not_say_is_said(bert_run: Path, copied):
    folder = copied(bert_run)
    (folder / "proponent_run.json").unlink()
    found = settings_of_run(Run.from_pretrained(folder), epochs=2)
    assert found.settings.epochs == 2
    assert found.initial is None
    assert "assumed" in found.notes[0]


@pytest.mark.parametrize(
    ("record", "wanted"),
    [
        ({"initial": None, "trained_before": False}, FRESH),
        ({"initial": None, "trained_before": True}, None),
        ({"initial": None, "trained_before": None}, None),
        ({"initial": "some/encoder", "trained_before": True}, "some/encoder"),
    ],
)
def test_weights_that_nothing_trained_before_are_drawn_again(record: dict, wanted: str | None, bert_run: Path, copied):
    folder = copied(bert_run)
    runs.edit(folder / "proponent_run.json", **record)
    found = settings_of_run(Run.from_pretrained(folder))
    assert found.initial == wanted
    assert found.drawn == (wanted == FRESH)


def test_an_optimizer_that_the_loop_lacks_is_named(bert_run: Path, copied):
    folder = copied(bert_run)
    runs.edit(folder / "proponent_run.json", optim="adafactor")
    with pytest.raises(InputError, match=r"optimizer adafactor.*use your own"):
        settings_of_run(Run.from_pretrained(folder))


def test_tail_patch_is_one_step_and_takes_it_back():
    loop = TrainingLoop(problem(), Settings(4, 8, 1e-2))
    model = loop.fit(np.arange(60), 0)
    kept = {name: one.detach().clone() for name, one in model.named_parameters()}
    classes = loop.problem.query_labels
    same = [np.flatnonzero(loop.problem.labels == one)[:3] for one in classes]
    other = [np.flatnonzero(loop.problem.labels != one)[:3] for one in classes]
    helped, hurt = (tail_patch(loop.problem, model, rows, classes, 0.1) for rows in (same, other))
    assert helped.shape == (5, 3)
    assert helped.mean() > 0 > hurt.mean()
    assert all(torch.equal(one, kept[name]) for name, one in model.named_parameters())
    with pytest.raises(InputError, match="the same number of"):
        tail_patch(loop.problem, model, [[0, 1], [2]], classes, 0.1)


WORKERS = """
import sys, pathlib
sys.path.insert(0, {tests!r})
from planted import Planted
import numpy as np
from proponent.engine import LocalProcesses
from proponent.training.retraining import RetrainJob, Retrains
if __name__ == "__main__":
    model = Planted(np.ones((3, 30)), trail=pathlib.Path({trail!r}), pause=0.02)
    jobs = [RetrainJob.without([], 30, seed) for seed in range(5000)]
    Retrains(model, pathlib.Path({cache!r}), LocalProcesses(2), quiet=True).outputs(jobs)
"""


def test_workers_end_with_the_evaluation(tmp_path: Path):
    trail, cache, script = tmp_path / "trail", tmp_path / "cache", tmp_path / "script.py"
    script.write_text(WORKERS.format(tests=str(Path(__file__).parent), trail=str(trail), cache=str(cache)))
    running = subprocess.Popen([sys.executable, str(script)])
    while not trail.is_file():
        assert running.poll() is None
        time.sleep(0.05)
    running.send_signal(signal.SIGKILL)
    running.wait()
    before, looks = -1, 0
    while looks < 5:  # workers that lived on would work on what they still hold; a busy machine may hold them up
        time.sleep(0.2)
        now = len(trail.read_text())
        before, looks = now, looks + 1 if now == before else 0
    assert len(trail.read_text().splitlines()) < 5000
    assert len(trail.read_text()) == before


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_both_optimizers_make_the_same_steps(optimizer: str):
    """In place by torch (what retrains) and flat, out of place (what replay differentiates)."""
    settings = Settings(2, 16, 1e-2, optimizer, momentum=0.9 * (optimizer == "sgd"), weight_decay=0.1, clip=0.5)
    one = problem()
    model = TrainingLoop(one, settings).fit(np.arange(60), 0)
    first = one.fresh(0)
    named = dict(first.named_parameters())
    shapes = {name: value.shape for name, value in named.items()}
    decayed = torch.cat([torch.full((value.numel(),), 0.1 * ("bias" not in name)) for name, value in named.items()])
    betas = settings.betas if optimizer == "adamw" else (settings.momentum, 0.0)
    names = {"adamw": "AdamW", "sgd": "SGD"}
    group = torch.zeros(len(decayed), dtype=torch.int64)
    flat = FlatOptimizer(names[optimizer], decayed, group, betas, settings.epsilon, 0.5)

    def ascend(state: OptimizerState, step: Step) -> torch.Tensor:
        parts = state.parameters.split([shape.numel() for shape in shapes.values()])
        first.load_state_dict({name: part.view(shapes[name]) for name, part in zip(shapes, parts, strict=True)})
        found = gradient(one, first, step.rows)
        return torch.cat([found[name].reshape(-1) for name in shapes])

    start = torch.cat([value.detach().reshape(-1) for value in named.values()])
    state = OptimizerState(start, torch.zeros_like(start), torch.zeros_like(start))
    for step in hashed(one.hashes, np.ones(60, dtype=bool), 0, settings):
        state = advance(state, step, ascend, flat)
    end = torch.cat([value.detach().reshape(-1) for value in model.parameters()])
    assert (state.parameters - end).abs().max() <= 1e-6
    assert (end - start).abs().max() > 1e-2


def test_training_leaves_the_random_generator_as_it_was():
    step = Step(0, np.arange(2), np.ones(1), draw=5)
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    with drawing(step):
        drawn = torch.rand(3)
    assert torch.equal(torch.rand(3), expected)
    with drawing(step):
        assert torch.equal(torch.rand(3), drawn)
