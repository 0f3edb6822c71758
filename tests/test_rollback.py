"""Gradient Rollback: what is recorded, what is taken back, the check by deletion, and what is refused."""

import copy
import json
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

import facts
import proponent
import runs
import tiny
from proponent.cli import main
from proponent.data import Columns, Examples, read
from proponent.dynamics.explain import explain_run
from proponent.dynamics.loops import Query
from proponent.dynamics.rollback import Rollback
from proponent.errors import DamagedError, DataError, InputError, MismatchError, RunError
from proponent.evaluate.rolled_back import ALL, DELETED, DROP, RollbackSettings, check_rollback
from proponent.models import Run
from proponent.models.change_record import FOLDER, read_changes
from proponent.models.factorization import FactorizationConfig, FactorizationForSequenceClassification, class_token
from proponent.training import one_by_one
from proponent.training.fact_steps import FactLoop, touched
from proponent.training.loop import TrainingLoop
from proponent.training.one_by_one import INITIAL, OneByOne, OneByOneProblem, loop_of, train_one_by_one
from proponent.training.outputs import Outputs
from proponent.training.schedule import Settings, hashed, id_hashes
from proponent.training.trainer import Training
from proponent.types import Example

FACTS = Columns(text="head", text_pair="relation", label="tail")
TRAINING = Training(model="distmult", epochs=3, batch_size=1, learning_rate=0.02, checkpoints=2, quiet=True)
HOW = OneByOne(negatives=4, factors=6)


def read_facts(path: Path) -> Examples:
    return read(path, columns=FACTS, header=facts.HEADER)


@pytest.fixture(scope="module")
def knowledge(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Examples]:
    folder = tmp_path_factory.mktemp("facts")
    examples = read_facts(facts.write(folder / "train.tsv", facts.triples()))
    return train_one_by_one(examples, folder / "run", TRAINING, HOW), examples


def test_a_run_that_was_killed_before_its_end_does_not_pass_for_a_whole_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGKILL leaves what was written so far: nothing removes it."""
    examples = read_facts(facts.write(tmp_path / "train.tsv", facts.triples()))
    write = one_by_one.write_run

    def killed(*given: Any, **named: Any) -> Run:
        write(*given, **named)
        raise KeyboardInterrupt

    monkeypatch.setattr(one_by_one, "write_run", killed)
    monkeypatch.setattr(one_by_one, "whole_or_gone", lambda _: nullcontext())
    with pytest.raises(KeyboardInterrupt):
        train_one_by_one(examples, tmp_path / "run", TRAINING, HOW)
    (note,) = Run.from_pretrained(tmp_path / "run").notes
    assert "has not finished" in note


def weights(run: Run, initial: bool = False) -> dict[str, np.ndarray]:
    run = Run.from_pretrained(run.path / INITIAL) if initial else run
    return {name: one.double().numpy() for name, one in run.load(run.checkpoints[-1]).named_parameters()}


def summed(run: Run) -> dict[str, np.ndarray]:
    """Sum of all recorded changes, by parameter."""
    changes, found = read_changes(run.path), {}
    for name, one in weights(run).items():
        total = np.zeros_like(one)
        if name in changes.tables:
            np.add.at(total, changes.tables[name].ids, changes.tables[name].rows.astype(np.float64))
        elif name in changes.dense:
            total += changes.dense[name].astype(np.float64).sum(0).reshape(total.shape)
        found[name] = total
    return found


@pytest.mark.parametrize("kind", ["distmult", "complex"])
@pytest.mark.parametrize("optimizer", ["sgd", "lazy-adam"])
def test_the_recorded_changes_sum_to_what_training_moved(kind: str, optimizer: Any, tmp_path: Path):
    examples = read_facts(facts.write(tmp_path / "train.tsv", facts.triples(count=20)))
    how = replace(HOW, rows="moved", optimizer=optimizer)
    run = train_one_by_one(examples, tmp_path / "run", replace(TRAINING, model=kind), how)
    (found,), after, before = summed(run).values(), weights(run), weights(run, initial=True)
    moved = after["model.words.weight"] - before["model.words.weight"]
    assert np.abs(moved).max() > 0.01
    np.testing.assert_allclose(found, moved, atol=1e-6)


def test_own_rows_are_those_of_the_fact(knowledge: tuple[Run, Examples]):
    run, examples = knowledge
    changes = read_changes(run.path)
    table, vocabulary = changes.tables["model.words.weight"], run.tokenizer.get_vocab()
    for row, one in enumerate(examples):
        assert set(table.ids[table.of(row)]) == {vocabulary[name] for name in (*one.parts, str(one.label))}
    assert 0 < changes.settings["own_share"] < 1  # rows of drawn classes move, too
    assert (changes.epochs > 0).all()


def test_training_again_without_deleting_gives_the_run_bit_for_bit(knowledge: tuple[Run, Examples]):
    run, examples = knowledge
    loop = loop_of(run, examples, list(examples)[:4], read_changes(run.path))
    assert isinstance(loop, FactLoop)
    again = loop.fit(np.arange(len(examples)), TRAINING.seed)
    for name, one in again.named_parameters():
        assert torch.equal(one, run.load(run.checkpoints[-1]).get_parameter(name))


def test_taking_back_is_the_slow_rule_and_restores_bit_for_bit(knowledge: tuple[Run, Examples]):
    run, examples = knowledge
    work = Rollback.of(run, examples)
    before = copy.deepcopy(work.model.state_dict())
    query = Query(examples[3], run.label_number(str(examples[3].label)))
    scores = work.scores(query)
    for name, one in work.model.state_dict().items():
        assert torch.equal(one, before[name])
    table, vocabulary = work.changes.tables["model.words.weight"], run.tokenizer.get_vocab()
    head, relation = (vocabulary[name] for name in examples[3].parts)

    def probability(rows: np.ndarray) -> float:
        logits = (rows[head] * rows[relation]) @ rows[2 : 2 + len(run.label_names or ())].T
        return float(np.exp(logits[query.label]) / np.exp(logits).sum())

    whole = weights(run)["model.words.weight"]
    entities = {examples[3].text, str(examples[3].label)}
    for row, one in enumerate(examples):
        assert np.isfinite(scores[row]) == bool(entities & {one.text, str(one.label)})
        if np.isfinite(scores[row]):
            rows = whole.copy()
            rows[table.ids[table.of(row)]] -= table.rows[table.of(row)]
            assert scores[row] == pytest.approx(probability(whole) - probability(rows), abs=1e-6)


def test_what_has_no_neighbours_is_refused(knowledge: tuple[Run, Examples], news: tiny.Tiny, tmp_path: Path):
    run, examples = knowledge
    for head, relation, wrong in (("nowhere", "r0", "nowhere"), ("e1", "before", "before")):
        asked = [examples[0], Example("q", 0, head, "e1", relation)]
        with pytest.raises(InputError, match=f"the training has no name '{wrong}'"):
            explain_run(run, examples, asked, "rollback", k=2, quiet=True)
    with pytest.raises(InputError, match="two names"):
        explain_run(run, examples, [Example("q", 0, "e1", "e2")], "rollback", quiet=True)
    rows = read(news.data)[:12]
    training = replace(tiny.SETTINGS, model="bag", batch_size=1, epochs=1)
    bag = train_one_by_one(rows, tmp_path / "run", training, OneByOne(factors=2))
    with pytest.raises(InputError, match="no training example shares an entity or token with the query 'zzz'"):
        explain_run(bag, rows, [Example("q", 0, "zzz", rows[0].label)], "rollback", quiet=True)


def test_an_explanation_names_facts_words_and_limits(knowledge: tuple[Run, Examples]):
    run, examples = knowledge
    (found,) = explain_run(run, examples, [examples[0]], "rollback", k=3, quiet=True)
    assert found.proponents[0].score > 0 > found.opponents[0].score
    words = {one.train_word for one in found.proponents[0].words}
    assert words <= {found.proponents[0].text, "r0", "r1", "[special]"}
    said = " ".join(found.notes)
    assert "among neighbours: only the" in said
    assert "of 3: the earlier" in said
    assert "is not trained again" in found.caveat


@pytest.mark.parametrize("kind", ["distmult", "complex"])
def test_closed_form_steps_are_those_of_autograd(kind: str, knowledge: tuple[Run, Examples]):
    config = FactorizationConfig(
        vocab_size=12,
        hidden_size=6,
        factorization=kind,
        num_labels=8,
        initializer_range=1.0,  # pyright: ignore[reportArgumentType]
    )
    torch.manual_seed(3)
    model = FactorizationForSequenceClassification(config).double()
    pair, tails = np.asarray([4, 10]), np.asarray([4, 2, 7, 2, 9])  # the head among the tails, one drawn twice
    rows = touched(model.model.words.weight.detach().numpy(), pair, tails, turned=kind == "complex")
    logits = model.of_classes(torch.as_tensor(pair)[None], torch.as_tensor(tails)[None] - 2)
    torch.nn.functional.cross_entropy(logits, torch.zeros(1, dtype=torch.int64)).backward()
    slow = np.zeros((12, 6))
    slow[rows.ids] = rows.values
    np.testing.assert_allclose(slow, model.model.words.weight.grad.numpy(), atol=1e-12)
    whole = model(input_ids=torch.as_tensor(pair)[None]).logits
    every = model.of_classes(torch.as_tensor(pair)[None], torch.arange(8)[None])
    torch.testing.assert_close(whole, every)


@pytest.mark.parametrize("optimizer", ["sgd", "lazy-adam"])
def test_closed_form_training_is_that_of_autograd_and_torch(optimizer: Any, knowledge: tuple[Run, Examples]):
    run, examples = knowledge
    fast = loop_of(run, examples, (), read_changes(run.path))
    fast = replace(fast, settings=replace(fast.settings, optimizer=optimizer, learning_rate=0.05))
    slow = TrainingLoop(fast.problem, fast.settings, numbered=True)
    rows = np.arange(1, len(examples))
    for one, other in zip(fast.fit(rows, 1).parameters(), slow.fit(rows, 1).parameters(), strict=True):
        torch.testing.assert_close(one, other, atol=2e-5, rtol=1e-4)


def test_complex_scores_are_products_of_complex_numbers():
    config = FactorizationConfig(vocab_size=6, hidden_size=4, factorization="complex", num_labels=3)
    model = FactorizationForSequenceClassification(config)
    rows = model.model.words.weight.detach().numpy()
    numbers = rows[:, :2] + 1j * rows[:, 2:]
    logits = model(input_ids=torch.tensor([[2, 5]])).logits.detach().numpy()[0]
    expected = [(numbers[2] * numbers[5] * numbers[tail].conj()).sum().real for tail in (2, 3, 4)]
    np.testing.assert_allclose(logits, expected, rtol=1e-5)
    assert [class_token(config, label) for label in (0, 2, -1)] == [2, 4, None]


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 30), st.integers(0, 3), st.data())
def test_deleted_rows_leave_the_other_steps_alone(count: int, seed: int, data: st.DataObject):
    hashes = id_hashes([str(one) for one in range(count)])
    deleted = data.draw(st.sets(st.integers(0, count - 1), max_size=count - 1))
    kept = np.ones(count, dtype=np.bool_)
    kept[list(deleted)] = False
    how = Settings(2, 1, 0.1, schedule="exponential")
    whole = {one.number: one for one in hashed(hashes, np.ones(count, np.bool_), seed, how, numbered=True)}
    rest = list(hashed(hashes, kept, seed, how, numbered=True))
    assert len(rest) == 2 * (count - len(deleted))
    for one in rest:
        same = whole[one.number]
        assert (one.rows.tolist(), one.draw, one.rates.tolist()) == (same.rows.tolist(), same.draw, same.rates.tolist())
        assert one.rates[0] == pytest.approx(0.1 * 0.96 ** (one.number / 1000))


def test_lazy_adam_moves_only_rows_with_a_gradient(news: tiny.Tiny, tmp_path: Path):
    examples = read(news.data)[:20]
    training = replace(tiny.SETTINGS, model="bag", batch_size=1, epochs=1, learning_rate=0.05)
    run = train_one_by_one(examples, tmp_path / "run", training, OneByOne(("embedding", "head"), factors=4))
    after, before = weights(run), weights(run, initial=True)
    seen = {number for one in run.encoder(24).encode(list(examples)) for number in one.ids.tolist()}
    moved = np.flatnonzero(np.abs(after["model.words.weight"] - before["model.words.weight"]).max(1)).tolist()
    assert set(moved) == seen
    for name, one in summed(run).items():
        np.testing.assert_allclose(one, after[name] - before[name], atol=1e-6)
    (found,) = explain_run(run, examples, [examples[0]], "rollback", k=3, quiet=True)
    assert "share a token" in " ".join(found.notes)
    assert found.proponents


def test_dense_adam_is_said(news: tiny.Tiny, tmp_path: Path):
    examples = read(news.data)[:16]
    training = replace(tiny.SETTINGS, batch_size=1, epochs=1)
    run = train_one_by_one(examples, tmp_path / "run", training, OneByOne(optimizer="adamw"))
    share = read_changes(run.path).settings["own_share"]
    assert 0 < share < 1
    (found,) = explain_run(run, examples, [examples[0]], "rollback", k=2, quiet=True)
    assert f"{1 - share:.1%} of the squared change of the word table is outside the kept rows" in " ".join(found.notes)
    assert "the optimizer (adamw) has momentum" in " ".join(found.notes)


def test_the_head_of_a_transformer_has_every_row_as_candidate(news: tiny.Tiny, tmp_path: Path):
    examples = read(news.data)[:16]
    training = replace(tiny.SETTINGS, batch_size=1, epochs=1)
    run = train_one_by_one(examples, tmp_path / "run", training, OneByOne(("head",), optimizer="sgd"))
    found, after, before = summed(run), weights(run), weights(run, initial=True)
    for name in ("classifier.weight", "classifier.bias"):
        np.testing.assert_allclose(found[name], after[name] - before[name], atol=1e-6)
    (answer,) = explain_run(run, examples, [examples[0]], "rollback", k=2, quiet=True)
    assert "momentum" not in " ".join(answer.notes)  # plain sgd
    turned = examples.subset(list(reversed(range(len(examples)))))
    with pytest.raises(MismatchError, match="other tokens than the row"):
        explain_run(run, turned, [examples[0]], "rollback", quiet=True)
    with pytest.raises(InputError, match="-k all would delete all 16 rows"):
        check_rollback(run, examples, examples[:1], RollbackSettings(tmp_path / "all", (ALL,)), quiet=True)
    work = Rollback.of(run, examples)
    assert work.neighbours == "all"
    scores = work.scores(Query(examples[0], 0))
    assert np.isfinite(scores).all()
    assert work.words(Query(examples[0], 0), 1) == {}
    page = check_rollback(run, examples, examples[:2], RollbackSettings(tmp_path / "cache", (1,)), quiet=True)
    assert [one.method for one in page.rows] == ["rollback, 1 row", "random neighbours, 1 row"]


def test_ratings_are_products_of_two_rows(tmp_path: Path):
    rows = [
        {"user": f"u{a}", "item": f"i{b}", "stars": float(5 if (a + b) % 2 else 1)} for a in range(4) for b in range(4)
    ]
    examples = read(rows, columns=Columns(text="user", text_pair="item", label="stars"))
    training = replace(TRAINING, model="product", epochs=40, learning_rate=0.05)
    run = train_one_by_one(examples, tmp_path / "run", training, OneByOne(factors=2))
    model = run.load(run.checkpoints[-1])
    assert model.config.offset == 3.0
    (found,) = explain_run(run, examples, [examples[1]], "rollback", k=4, quiet=True)
    assert "the score is the rise of the loss (without a value: the fall of the output)" in " ".join(found.notes)
    assert all({"u0", "i1"} & {one.text, one.text_pair} for one in found.proponents)
    with pytest.raises(InputError, match="compares probabilities"):
        check_rollback(run, examples, examples[:1], RollbackSettings(tmp_path / "cache"), quiet=True)


def test_the_check_deletes_and_trains_again(knowledge: tuple[Run, Examples], tmp_path: Path):
    run, examples = knowledge
    how = RollbackSettings(tmp_path / "cache", (1, 5, ALL), predicted=False)
    page = check_rollback(run, examples, examples[:4], how, quiet=True)
    ours, random = page.rows[:3], page.rows[3:]
    assert [one.control for one in page.rows] == [False] * 3 + [True] * 3
    assert ours[0].verdict
    assert not ours[2].verdict  # every neighbour is not as many rows
    drops = [next(x.value for x in one.figures if x.name == DROP) for one in (*ours, *random)]
    deleted = [next(x.value for x in one.figures if x.name == DELETED) for one in (*ours, *random)]
    assert deleted[:2] == [1, 5] == deleted[3:5]
    assert deleted[5] > deleted[2] > 5
    assert drops[1] > drops[4]
    work = Rollback.of(run, examples)
    query = Query(examples[0], run.label_number(str(examples[0].label)))
    (best,) = np.argsort(-np.nan_to_num(work.scores(query)))[:1].tolist()
    loop = loop_of(run, examples, [examples[0]], work.changes)
    whole, without = (loop(rows, 0) for rows in (np.arange(len(examples)), np.delete(np.arange(len(examples)), best)))
    labels = np.asarray([query.label])
    drop = float((whole.of(labels, "probability") - without.of(labels, "probability"))[0])
    single = check_rollback(run, examples, examples[:1], replace(how, counts=(1,)), quiet=True)
    assert single.rows[0].figures[2].value == pytest.approx(drop, abs=1e-9)


def test_other_rows_are_refused(knowledge: tuple[Run, Examples], tmp_path: Path):
    run, examples = knowledge
    fewer, turned = examples[:-1], examples.subset(list(reversed(range(len(examples)))))
    with pytest.raises(MismatchError, match="39 rows were given"):
        explain_run(run, fewer, [examples[0]], "rollback", quiet=True)
    with pytest.raises(MismatchError, match="other tokens than the row"):
        explain_run(run, turned, [examples[0]], "rollback", quiet=True)
    other = run.path / FOLDER / "changes.json"
    kept = other.read_text()
    try:
        other.write_text(json.dumps(json.loads(kept) | {"training_set": "0" * 64}))
        with pytest.raises(MismatchError, match="ids, labels or texts of the 40 rows are not those"):
            check_rollback(run, examples, examples[:1], RollbackSettings(tmp_path), quiet=True)
    finally:
        other.write_text(kept)


def test_a_training_that_cannot_be_repeated_is_refused(knowledge: tuple[Run, Examples], tmp_path: Path):
    run, examples = knowledge
    other = run.path / FOLDER / "changes.json"
    kept = other.read_text()
    try:
        other.write_text(json.dumps(json.loads(kept) | {"seed": 5}))
        with pytest.raises(MismatchError, match="again without deleting anything changes a probability"):
            check_rollback(run, examples, examples[:2], RollbackSettings(tmp_path), quiet=True)
    finally:
        other.write_text(kept)


def test_damaged_and_missing_records_are_refused(news: tiny.Tiny, knowledge: tuple[Run, Examples]):
    with pytest.raises(RunError, match="has no record of what each example changed"):
        explain_run(Run.from_pretrained(news.run), read(news.data), [read(news.data)[0]], "rollback", quiet=True)
    run, _ = knowledge
    path = run.path / FOLDER / "changes.safetensors"
    kept = path.read_bytes()
    try:
        path.write_bytes(kept[:200])
        with pytest.raises(DamagedError, match="cannot read"):
            read_changes(run.path)
    finally:
        path.write_bytes(kept)


@pytest.mark.parametrize(
    ("training", "how", "said"),
    [
        ({"batch_size": 2}, {}, "batches of 1"),
        ({}, {"changes": ("lora",)}, r"proponent.Recorder\(changes=\('lora',\)\)"),
        ({}, {"changes": ("body",)}, "choose from embedding, head"),
        ({}, {"changes": ("head",)}, "trains no parameters of that part"),
        ({}, {"rows": "moved", "optimizer": "adamw"}, "moves all"),
        ({"model": "bag"}, {"negatives": 2}, "models of facts"),
        ({}, {"factors": 0}, "--factors"),
        ({"half": True}, {}, "--half does not go with"),
        (
            {"model": None},
            {"negatives": 0, "changes": ("head",), "rows": "moved"},
            "--kept-rows moved is about the word",
        ),
    ],
)
def test_settings_that_do_not_fit_are_refused(training: Any, how: Any, said: str, tmp_path: Path):
    examples = read_facts(facts.write(tmp_path / "train.tsv", facts.triples(count=6)))
    with pytest.raises(InputError, match=said):
        train_one_by_one(examples, tmp_path / "run", replace(TRAINING, **training), replace(HOW, **how))
    assert not (tmp_path / "run").exists()


def test_rows_that_do_not_fit_are_refused(tmp_path: Path):
    rows = [{"head": "a", "relation": "r", "tail": "b"}, {"head": "b", "relation": "a", "tail": "c"}]
    with pytest.raises(DataError, match="'a' is an entity and a relation"):
        train_one_by_one(read(rows, columns=FACTS), tmp_path / "run", TRAINING, HOW)
    alone = read([{"text": "one", "label": "x"}, {"text": "two", "label": "y"}])
    with pytest.raises(DataError, match="reads two names and a label"):
        train_one_by_one(alone, tmp_path / "run", TRAINING, HOW)
    unlabelled = read([{"text": "one"}])
    with pytest.raises(DataError, match=r"row 0 of .* has no label"):
        train_one_by_one(unlabelled, tmp_path / "run", TRAINING, HOW)
    single = read([{"head": "a", "relation": one, "tail": "a"} for one in "rs"], columns=FACTS)
    with pytest.raises(DataError, match=r"only one entity \(a\)"):
        train_one_by_one(single, tmp_path / "run", TRAINING, HOW)
    hidden = read([{"head": "a", "relation": "r", "tail": one} for one in ("a [UNK] b", "c")], columns=FACTS)
    with pytest.raises(DataError, match="holds a special token of the model"):
        train_one_by_one(hidden, tmp_path / "run", TRAINING, HOW)
    numbers = read([{"text": "1", "text_pair": "2", "label": 3.0}, {"text": "2", "text_pair": "4", "label": 1.0}])
    with pytest.raises(DataError, match="'2' is a user and an item, which would share one row"):
        train_one_by_one(numbers, tmp_path / "run", replace(TRAINING, model="product"), OneByOne())
    stars = read([{"text": "u", "text_pair": "i", "label": "good"}])
    with pytest.raises(DataError, match="rating 'good'"):
        train_one_by_one(stars, tmp_path / "run", replace(TRAINING, model="product"), OneByOne())


def test_a_file_without_a_header_gets_names(tmp_path: Path):
    path = facts.write(tmp_path / "facts.tsv", facts.triples(count=5))
    named = facts.write(tmp_path / "named.tsv", facts.triples(count=5), header=True)
    assert [one.parts for one in read_facts(path)] == [one.parts for one in read(named, columns=FACTS)]
    with pytest.raises(DataError, match="--header has 2 fields but line 1 has 3"):
        read(path, columns=FACTS, header=("head", "tail"))
    lines = tmp_path / "facts.jsonl"
    lines.write_text("{}\n")
    with pytest.raises(DataError, match="--header is for CSV and TSV files"):
        read(lines, header=("a",))
    with pytest.raises(DataError, match="no such file"):
        read(tmp_path / "fact.tsv", header=("a",))


def test_log_odds_of_many_classes_are_those_of_deleting_each():
    logits = np.random.default_rng(0).normal(size=(3, 150)) * [[1], [5], [40]]
    fast = Outputs.of_logits(logits, np.zeros(3, dtype=np.int64)).log_odds
    for one in range(150):
        rest = np.delete(logits, one, axis=1)
        own = rest.max(1) + np.log(np.exp(rest - rest.max(1, keepdims=True)).sum(1))
        np.testing.assert_allclose(fast[:, one], logits[:, one] - own, atol=1e-9)


@pytest.mark.parametrize("parts", [("embedding",), ("embedding", "head")])
def test_the_recorder_keeps_changes_of_a_trainer(parts: tuple[str, ...], tmp_path: Path):
    tokenizer = runs.bert_tokenizer()
    model = runs.bert(tokenizer)
    before = {name: one.detach().double().numpy().copy() for name, one in model.named_parameters()}
    recorder = proponent.Recorder(changes=parts)
    how = {"per_device_train_batch_size": 1, "optim": "sgd", "learning_rate": 0.05, "num_train_epochs": 2}
    how |= {"max_steps": -1, "lr_scheduler_type": "constant", "save_strategy": "epoch"}
    runs.trainer(tmp_path, model, tokenizer, callbacks=[recorder], **how).train()
    run = Run.from_pretrained(tmp_path)
    after, found, table = weights(run), summed(run), "bert.embeddings.word_embeddings.weight"
    np.testing.assert_allclose(found[table], after[table] - before[table], atol=1e-6)
    if "head" in parts:
        np.testing.assert_allclose(
            found["classifier.bias"], after["classifier.bias"] - before["classifier.bias"], atol=1e-6
        )
    examples = read(runs.ROWS)
    (answer,) = explain_run(run, examples, [examples[0]], "rollback", k=3, quiet=True)
    assert answer.proponents
    turned = examples.subset(list(reversed(range(len(examples)))))
    with pytest.raises(MismatchError, match="other tokens than the row"):
        explain_run(run, turned, [examples[0]], "rollback", quiet=True)
    with pytest.raises(RunError, match="cannot be repeated step by step"):
        check_rollback(run, examples, examples[:1], RollbackSettings(tmp_path / "cache"), quiet=True)


@pytest.mark.parametrize(
    ("how", "said"),
    [({"per_device_train_batch_size": 2}, "batches of 2"), ({"gradient_accumulation_steps": 2}, "accumul")],
)
def test_the_recorder_refuses_mixed_batches(how: Any, said: str, tmp_path: Path):
    tokenizer = runs.bert_tokenizer()
    trainer = runs.trainer(
        tmp_path, runs.bert(tokenizer), tokenizer, callbacks=[proponent.Recorder(changes=("embedding",))],
        **{"per_device_train_batch_size": 1, **how},
    )  # fmt: skip
    with pytest.raises(RunError, match=said):
        trainer.train()


def test_facts_are_explained_by_other_methods_too(knowledge: tuple[Run, Examples], tmp_path: Path):
    run, examples = knowledge
    index = proponent.build(run, examples, tmp_path / "index", method="tracin-we", quiet=True)
    first = examples[0]
    found = index.explain(first.text, text_pair=first.text_pair, label=str(first.label), k=3)
    assert found.proponents[0].score > 0
    assert transformers.AutoConfig.from_pretrained(run.path / INITIAL).factorization == "distmult"


def test_negatives_and_kept_numbers_are_part_of_a_trainings_identity(knowledge: tuple[Run, Examples]):
    run, examples = knowledge
    loop = loop_of(run, examples, (), read_changes(run.path))
    assert isinstance(loop.problem, OneByOneProblem)
    others = (
        replace(loop, problem=replace(loop.problem, negatives=5)),
        replace(loop, numbered=False),
        replace(loop, settings=replace(loop.settings, schedule="linear")),
    )
    assert len({loop.identity, *(one.identity for one in others)}) == 4


def test_the_commands_train_explain_and_check(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    train, test = (facts.write(tmp_path / f"{name}.tsv", facts.triples(count=20)) for name in ("train", "test"))
    columns = ["--header", "head,relation,tail", "--text-column", "head", "--pair-column", "relation"]
    columns += ["--label-column", "tail", "--quiet", "--json"]

    def said(*words: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main([*map(str, words), *columns])
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, err

    how = ("--model", "complex", "--negatives", 3, "--factors", 4, "--epochs", 2, "--learning-rate", 0.05)
    assert said("train", train, "--out", tmp_path / "run", *how)[0] == 0
    asked = ("explain", tmp_path / "run", "e1", "--pair", "r0", "--method", "rollback", "--data", train)
    counts: list[int] = []
    for more in ((), ("--set", "neighbours=token"), ("--set", "neighbours=all")):
        code, out, _ = said(*asked, "-k", 40, *more)
        assert code == 0
        answer = json.loads(out)
        counts.append(len(answer["proponents"]) + len(answer["opponents"]))
    assert counts[0] < counts[1] < counts[2] <= 20
    page = tmp_path / "page.html"
    words = ("rollback", tmp_path / "run", train, "--queries", test, "--points", 2, "-k", "1,all")
    code, out, _ = said(*words, "--cache", tmp_path / "cache", "--out", page)
    assert (code, json.loads(out)["metric"]) == (0, "rollback")
    assert "Gradient Rollback, checked by deletion" in page.read_text()
    for bad, expected in (
        ((*asked, "--set", "neighbours=near"), "choose one of auto, entity, token, all"),
        ((*asked, "--set", "depth=2"), "rollback has no setting 'depth'"),
        ((*words, "-k", "0"), "give numbers of rows from 1, or all"),
        (("train", train, "--out", tmp_path / "x", "--changes", "head", "--batch-size", 8), "batches of 1"),
        (("train", train, "--out", tmp_path / "x", "--changes", "head", "--replay"), "--replay does not go with"),
        (("train", train, "--out", tmp_path / "x", "--factors", 3), "need --changes"),
        (("explain", tmp_path / "run", "e1", "--set", "a=1"), "--set is only for --method replay or rollback"),
    ):
        code, _, err = said(*bad)
        assert (code, expected in err) == (2, True), err


def test_the_recorder_refuses_to_resume(tmp_path: Path):
    tokenizer, how = runs.bert_tokenizer(), {"per_device_train_batch_size": 1, "max_steps": 6, "save_steps": 3}
    runs.trainer(tmp_path, runs.bert(tokenizer), tokenizer, **how).train()
    recorder = proponent.Recorder(changes="head")
    again = runs.trainer(tmp_path, runs.bert(tokenizer), tokenizer, callbacks=[recorder], **how | {"max_steps": 9})
    with pytest.raises(RunError, match="cannot record a training that resumes"):
        again.train(resume_from_checkpoint=True)


def test_a_record_cut_short_says_so(tmp_path: Path):
    tokenizer, recorder = runs.bert_tokenizer(), proponent.Recorder(changes="head")
    how = {"per_device_train_batch_size": 1, "max_steps": 6, "save_steps": 6}
    runs.trainer(tmp_path, runs.bert(tokenizer), tokenizer, callbacks=[recorder], **how).train()
    run, examples = Run.from_pretrained(tmp_path), read(runs.ROWS)
    (found,) = explain_run(run, examples, [examples[0]], "rollback", k=3, quiet=True)
    said = " ".join(found.notes)
    assert "18 of 24 examples were in no step of this training" in said
    assert "the optimizer (adamw) has momentum" in said


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing.:FutureWarning")  # between peft and transformers
def test_lora_matrices_of_a_trainer_are_taken_back(tmp_path: Path):
    peft = pytest.importorskip("peft")
    tokenizer = runs.bert_tokenizer()
    base = runs.bert(tokenizer)
    base.save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    base = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "base")
    model = peft.get_peft_model(base, peft.LoraConfig(task_type="SEQ_CLS", r=2, target_modules=["query", "value"]))
    recorder = proponent.Recorder(changes=("lora",))
    how = {"per_device_train_batch_size": 1, "num_train_epochs": 1, "max_steps": -1, "optim": "sgd"}
    runs.trainer(tmp_path / "run", model, tokenizer, callbacks=[recorder], **how | {"learning_rate": 0.5}).train()
    run, examples = Run.from_pretrained(tmp_path / "run"), read(runs.ROWS)
    (found,) = explain_run(run, examples, [examples[0]], "rollback", k=3, quiet=True)
    assert found.proponents
    assert "lora_A" in found.notes[0]


@pytest.mark.parametrize("change", [{"max_length": "x"}, {"seed": None}, {"optimizer": ...}])
def test_damaged_settings_are_refused(change: dict[str, Any], knowledge: tuple[Run, Examples]):
    path = knowledge[0].path / FOLDER / "changes.json"
    kept = path.read_text()
    found = {name: one for name, one in (json.loads(kept) | change).items() if one is not ...}
    try:
        path.write_text(json.dumps(found))
        with pytest.raises(DamagedError, match="is damaged"):
            read_changes(knowledge[0].path)
    finally:
        path.write_text(kept)
