"""Unlearning whole corpora: the ascent, the products of sets, the truth at equal steps, and what is refused."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

import answered
import proponent
import runs
import tiny
from proponent.actions.corpora import COSINE, DOT, INVERSE, UNTRAC, UnlearnSettings, unlearn
from proponent.data import read
from proponent.dynamics.untrac import Ascent, AscentSettings, TextSet, Unlearner, common_steps, set_products
from proponent.errors import InputError, MismatchError
from proponent.evaluate.left_out import LeftOutSettings, agreement, correlations
from proponent.models import Run
from proponent.training.loop import TrainingLoop, one_thread
from proponent.training.rerun import RunProblem, settings_of_run
from proponent.training.schedule import Settings, hashed, id_hashes
from proponent.types import Example
from test_adapter_kinds import KINDS, TEXTS, adapter, base_model, peft_model
from test_adapter_kinds import loss as adapted_loss

T5 = {"decoder_start_token_id": 0, "d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2}


def corpora_of(rows: list[Example]) -> dict[str, list[Example]]:
    return {"one": rows[:7], "two": rows[7:14], "three": rows[14:]}


@pytest.fixture(scope="module")
def language_model(lines: tiny.Tiny) -> tuple[Run, dict[str, list[Example]], dict[str, list[Example]]]:
    rows = list(read(lines.data))
    return Run.from_pretrained(lines.run), corpora_of(rows), {"first": rows[:3], "last": rows[-4:]}


@pytest.fixture(scope="module", params=["causal", "seq2seq", "classifier"])
def any_model(
    request: pytest.FixtureRequest, lines: tiny.Tiny, news: tiny.Tiny, tmp_path_factory: pytest.TempPathFactory
):
    if request.param == "classifier":
        rows = list(read(news.data))[:20]
        return Run.from_pretrained(news.run), corpora_of(rows), {"first": rows[:3], "last": rows[-4:]}
    rows = list(read(lines.data))
    tests = {"first": rows[:3], "last": rows[-4:]}
    if request.param == "causal":
        return Run.from_pretrained(lines.run), corpora_of(rows), tests
    tokenizer = runs.bert_tokenizer()
    torch.manual_seed(0)
    model = transformers.T5ForConditionalGeneration(
        transformers.T5Config(vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id, dropout_rate=0.3, **T5)
    )
    folder = answered.saved(tmp_path_factory.mktemp("t5"), model, tokenizer)
    return Run.from_pretrained(folder), corpora_of(rows), tests


def read_sets(run: Run, sets: dict[str, list[Example]], *, asked: bool = False) -> list[TextSet]:
    encoder = run.encoder(24)
    labels = {
        name: [run.label_number(one.label) if run.task.labels else -1 for one in rows] for name, rows in sets.items()
    }
    return [TextSet(name, encoder.encode(rows, asked=asked), labels[name]) for name, rows in sets.items()]


def unlearner_of(run: Run) -> Unlearner:
    return Unlearner(run.load(run.checkpoints[-1]), run.encoder(24), run.task, batch=3)


def slow_loss(run: Run, model: torch.nn.Module, texts: TextSet) -> torch.Tensor:
    """Mean loss of all tokens of a set, one row at a time, from the model's own loss."""
    total, count = torch.zeros(()), 0.0
    for one, label in zip(texts.encoded, texts.labels, strict=True):
        inputs = {
            "input_ids": torch.as_tensor(one.ids)[None],
            "attention_mask": torch.ones(1, len(one.ids), dtype=torch.long),
        }
        if one.type_ids is not None:
            inputs["token_type_ids"] = torch.as_tensor(one.type_ids)[None]
        if run.task.labels:
            own, counted = model(**inputs, labels=torch.as_tensor([label])).loss, 1
        elif one.targets is not None:
            wanted = torch.where(torch.as_tensor(one.counted), torch.as_tensor(one.targets), -100)[None]
            own, counted = model(**inputs, labels=wanted).loss, int(one.counted.sum())
        else:
            logits = model(**inputs).logits[0, :-1]
            own = torch.nn.functional.cross_entropy(logits, inputs["input_ids"][0, 1:], reduction="none")
            kept = torch.as_tensor(one.counted[1:] if len(one.counted) == len(one.ids) else one.counted)
            own, counted = own[kept].mean(), int(kept.sum())
        total, count = total + own * counted, count + counted
    return total / count


def test_losses_and_gradients_of_a_set_are_those_of_its_tokens(any_model) -> None:
    run, corpora, _ = any_model
    made, model = unlearner_of(run), run.load(run.checkpoints[-1]).requires_grad_(requires_grad=True)
    for texts in read_sets(run, corpora):
        loss = slow_loss(run, model, texts)
        assert made.loss(texts) == pytest.approx(float(loss.detach()), rel=1e-5)
        model.zero_grad()
        loss.backward()
        wanted = {name: one.grad for name, one in model.named_parameters() if one.grad is not None}
        found = made.gradient(texts)
        assert set(found) == set(wanted)
        for name, one in found.items():
            torch.testing.assert_close(one, wanted[name], rtol=1e-4, atol=1e-6)


def test_an_ascent_is_plain_adam_on_minus_the_loss(any_model) -> None:
    run, corpora, tests = any_model
    made, watched = unlearner_of(run), read_sets(run, tests)
    unlearned = read_sets(run, corpora)[0]
    settings = AscentSettings(4, "adam", 1e-3, None, every=2, limit=50.0)
    found = made.ascend(unlearned, watched, settings)
    assert found.steps.tolist() == [0, 2, 4]
    assert not found.stopped
    model = run.load(run.checkpoints[-1]).requires_grad_(requires_grad=True)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for step in range(5):
        if step % 2 == 0:
            for column, texts in enumerate(watched):
                assert found.losses[step // 2, column] == pytest.approx(
                    float(slow_loss(run, model, texts).detach()), rel=2e-4
                )
        optimizer.zero_grad()
        (-slow_loss(run, model, unlearned)).backward()
        optimizer.step()


@pytest.mark.filterwarnings("ignore")  # matters between peft and transformers
@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("kind", KINDS)
def test_an_adapter_is_unlearned_as_peft_would_train_it_or_refused(kind: str, tied: bool, tmp_path: Path) -> None:
    config, settings = KINDS[kind]
    base = base_model(tmp_path / "base", tied=tied)
    run = Run.from_pretrained(adapter(base, tmp_path / "adapter", config, **settings))
    encoder = run.encoder(24)
    model = run.load(run.checkpoints[-1])
    if "dora" in kind or "lora on" in kind or "single" in kind:
        with pytest.raises(InputError, match=r"do not follow an ascent; merge it into its base"):
            Unlearner(model, encoder, run.task)
        return
    examples = [Example(str(row), row, text) for row, text in enumerate(TEXTS)]
    texts = TextSet("texts", encoder.encode(examples), [-1] * len(examples))
    found = Unlearner(model, encoder, run.task).ascend(texts, [texts], AscentSettings(3, "adam", 1e-2, None, limit=1e9))
    theirs = peft_model(base, tmp_path / "adapter").float()
    optimizer = torch.optim.Adam([one for one in theirs.parameters() if one.requires_grad], lr=1e-2)
    counts = [len(one.ids) - 1 for one in texts.encoded]
    for step in range(4):
        each = torch.stack([adapted_loss(theirs, text) for text in TEXTS])
        loss = (each * torch.as_tensor(counts)).sum() / sum(counts)
        assert found.losses[step, 0] == pytest.approx(float(loss.detach()), rel=1e-4)
        optimizer.zero_grad()
        (-loss).backward()
        optimizer.step()


def test_one_small_step_of_plain_ascent_is_the_product_of_gradients(any_model) -> None:
    run, corpora, tests = any_model
    made, sets, asked = unlearner_of(run), read_sets(run, corpora), read_sets(run, tests)
    dots, cosines = set_products(made, sets, asked)
    rate = 2e-3
    step = AscentSettings(1, "sgd", rate, None)
    plain = np.asarray([made.ascend(one, asked, step).change(1) for one in sets])
    inverse = np.asarray([made.ascend(one, sets, step).change(1) for one in asked]).T
    largest = np.abs(rate * dots).max()
    np.testing.assert_allclose(plain, rate * dots, rtol=0.01, atol=0.01 * largest)
    np.testing.assert_allclose(inverse, rate * dots, rtol=0.01, atol=0.01 * largest)
    assert np.all(np.abs(cosines) <= 1 + 1e-9)
    same, own = set_products(made, sets[:1], sets[:1])
    assert own[0, 0] == pytest.approx(1.0)
    assert same[0, 0] > 0


def test_every_ascent_begins_at_the_trained_weights_and_leaves_them_bit_for_bit(language_model) -> None:
    run, corpora, tests = language_model
    made, sets, asked = unlearner_of(run), read_sets(run, corpora), read_sets(run, tests)
    before = {name: one.clone() for name, one in made.model.state_dict().items()}
    settings = AscentSettings(6, "adam", 1e-3, 2, every=3)
    first = made.ascend(sets[0], asked, settings, seed=3)
    assert all(torch.equal(one, before[name]) for name, one in made.model.state_dict().items())
    made.ascend(sets[1], asked, settings, seed=3)
    again = made.ascend(sets[0], asked, settings, seed=3)
    assert np.array_equal(first.losses, again.losses)
    other = made.ascend(sets[0], asked, settings, seed=4)
    assert not np.array_equal(first.losses, other.losses)


@pytest.mark.parametrize("optimizer", ["adam", "adafactor", "rmsprop", "momentum", "sgd"])
def test_every_optimizer_raises_the_loss_of_the_unlearned_set(language_model, optimizer) -> None:
    run, corpora, tests = language_model
    made, sets, asked = unlearner_of(run), read_sets(run, corpora), read_sets(run, tests)
    found = made.ascend(sets[0], asked, AscentSettings(5, optimizer, 1e-3, None))
    assert found.own[-1] > found.own[0]


def test_an_ascent_ends_when_the_loss_rises_too_far(language_model) -> None:
    run, corpora, tests = language_model
    made, sets, asked = unlearner_of(run), read_sets(run, corpora), read_sets(run, tests)
    settings = AscentSettings(200, "adam", 1e-3, None, every=2, limit=1.01)
    found = made.ascend(sets[0], asked, settings)
    assert found.stopped.startswith("the unlearned set's loss rose from")
    assert 2 < found.steps[-1] < 200
    assert found.own[-1] > max(1.01 * found.own[0], found.own[0] + 0.5) >= found.own[-2]
    calm = made.ascend(sets[1], asked, replace(settings, learning_rate=1e-6))
    assert common_steps([found, calm]) == found.steps[-2]
    with pytest.raises(InputError, match=r"no step stays near the trained weights.*lower the learning rate"):
        common_steps([Ascent(np.asarray([0, 2]), np.zeros((2, 1)), np.asarray([1.0, 9.0]), "the loss rose"), calm])


def test_a_page_has_all_methods_with_the_scores_of_the_parts(language_model) -> None:
    run, corpora, tests = language_model
    settings = UnlearnSettings(steps=6, learning_rate=1e-3, batch_size=2, inverse_steps=2, points=2, seeds=2, limit=9.0)
    page = unlearn(run, corpora, tests, settings, quiet=True)
    assert [one.method for one in page.rows] == list(corpora)
    assert list(page.columns) == list(tests)
    assert [one.title.partition(":")[0] for one in page.others] == [INVERSE, DOT, COSINE]
    made, sets, asked = unlearner_of(run), read_sets(run, corpora), read_sets(run, tests, asked=True)
    own = settings.plain(7)
    for row, texts in zip(page.rows, sets, strict=True):
        changes = np.mean([made.ascend(texts, asked, own, seed).change(6) for seed in (0, 1)], axis=0)
        np.testing.assert_allclose([one.value for one in row.figures], changes, rtol=1e-3, atol=1e-6)
    inverse = made.ascend(asked[1], sets, settings.inverse).change(2)
    np.testing.assert_allclose([row.figures[1].value for row in page.others[0].rows], inverse, rtol=1e-3, atol=1e-6)
    dots, _ = set_products(made, sets, asked)
    found = [[one.value for one in row.figures] for row in page.others[1].rows]
    np.testing.assert_allclose(found, dots, rtol=1e-3, atol=1e-6)
    assert [one.y_name for one in page.plots] == ["change of the loss on first", "change of the loss on last"]
    assert page.plots[0].curves[0].x == (0.0, 3.0, 6.0)
    assert any("3 of 3 rows of first also stand in a corpus" in one for one in page.notes)


def test_an_index_gives_its_mean_scores(language_model, lines) -> None:
    run, corpora, tests = language_model
    index = proponent.open(lines.index)
    settings = UnlearnSettings(steps=1, inverse_steps=1)
    page = unlearn(run, corpora, tests, settings, index=index, quiet=True)
    table = page.others[-1]
    assert table.title.startswith(f"{index.method}, mean score")
    scores = index.scores(tests["last"])
    wanted = [scores[:, :7].mean(), scores[:, 7:14].mean(), scores[:, 14:].mean()]
    np.testing.assert_allclose([row.figures[1].value for row in table.rows], wanted, rtol=1e-5)
    other = {**corpora, "two": [Example("x", 0, "a new text", target="the cup")]}
    with pytest.raises(MismatchError, match="the index lacks 1 of 1 rows of two"):
        unlearn(run, other, tests, settings, index=index, quiet=True)


def test_what_would_be_refused_at_the_end_is_refused_before_the_work(
    language_model, lines, tmp_path, monkeypatch
) -> None:
    run, corpora, tests = language_model
    monkeypatch.setattr(Unlearner, "ascend", lambda *_: pytest.fail("nothing may be unlearned"))
    other = {**corpora, "two": [Example("x", 0, "a new text", target="the cup")]}
    with pytest.raises(MismatchError, match="the index lacks"):
        unlearn(run, other, tests, UnlearnSettings(steps=1), index=proponent.open(lines.index), quiet=True)
    monkeypatch.setattr(
        "proponent.training.rerun.settings_of_run", lambda run: replace(settings_of_run(run), initial=None)
    )
    with pytest.raises(InputError, match=r"the initial weights of the run in .* are unknown"):
        unlearn(run, corpora, tests, UnlearnSettings(steps=1), truth=LeftOutSettings(tmp_path), quiet=True)


def test_trainings_of_any_subset_take_as_many_steps() -> None:
    hashes, kept = id_hashes([str(one) for one in range(10)]), np.arange(10) >= 4
    settings = Settings(3, 4, 1.0, schedule="linear", warmup=2)
    plain = list(hashed(hashes, np.ones(10, dtype=np.bool_), 0, settings))
    assert len(plain) == 9
    found = list(hashed(hashes, kept, 0, settings, 9))
    assert [one.number for one in found] == list(range(9))
    assert [one.rates[0] for one in found] == [one.rates[0] for one in plain]
    assert all(kept[one.rows].all() for one in found)
    assert {int(row) for one in found[:2] for row in one.rows} == set(range(4, 10))
    same = list(hashed(hashes, np.ones(10, dtype=np.bool_), 0, settings, 9))
    assert all(np.array_equal(one.rows, other.rows) for one, other in zip(plain, same, strict=True))


def test_the_truth_is_the_loss_without_a_corpus_minus_the_loss_with_all(language_model, tmp_path) -> None:
    run, corpora, tests = language_model
    settings = UnlearnSettings(steps=1, inverse_steps=1)
    truth = LeftOutSettings(tmp_path, seeds=2)
    page = unlearn(run, corpora, tests, settings, truth=truth, quiet=True)
    left, agreed = page.others[-2:]
    assert left.title.startswith("Without the corpus")
    rows = [Example(f"{name}/{one.id}", one.row, content=one.content) for name, own in corpora.items() for one in own]
    asked = [Example(f"{name}/{one.id}", one.row, content=one.content) for name, own in tests.items() for one in own]
    rerun = settings_of_run(run)
    problem = RunProblem(run, rows, asked, str(rerun.initial), run.length(None))
    loop = TrainingLoop(problem, rerun.settings, rerun.settings.epochs * -(-20 // rerun.settings.batch_size))
    counts = np.asarray([one.n_counted for one in run.encoder(run.length(None)).encode(asked, asked=True)])
    changes = []
    with one_thread():
        for seed in (0, 1):
            whole = loop(np.arange(20), seed).loss
            without = loop(np.arange(7, 20), seed).loss
            changes.append(without - whole)
    change = np.mean(changes, axis=0)
    wanted = [np.average(change[:3], weights=counts[:3]), np.average(change[3:], weights=counts[3:])]
    np.testing.assert_allclose([one.value for one in left.rows[0].figures], wanted, rtol=1e-6, atol=1e-9)
    assert [row.method for row in agreed.rows] == [UNTRAC, INVERSE, DOT, COSINE]
    assert [row.control for row in agreed.rows] == [False, False, True, True]
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")}
    assert len(before) == 8
    again = unlearn(run, corpora, tests, settings, truth=truth, quiet=True)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")} == before
    assert again.others[-2:] == page.others[-2:]


def test_agreement_is_over_corpora() -> None:
    truth = np.asarray([[1.0, 5.0], [2.0, 4.0], [3.0, 0.0], [9.0, 1.0]])
    np.testing.assert_allclose(correlations(truth * 2 + 1, truth), 1.0)
    np.testing.assert_allclose(correlations(-truth, truth), -1.0)
    np.testing.assert_allclose(correlations(np.ones((4, 2)), truth), 0.0)
    pearson, spearman, first = agreement(truth**3, truth)
    assert pearson.value < spearman.value == pytest.approx(1.0)
    assert first.value == 1.0
    assert agreement(-truth, truth)[2].value == 0.0


def test_the_command_writes_pages_and_json(lines, said, tmp_path) -> None:
    parts = [tiny.write_csv(tmp_path / f"{name}.csv", lines.rows[at : at + 7]) for name, at in (("a", 0), ("b", 7))]
    (tmp_path / "other").mkdir()
    test = tiny.write_csv(tmp_path / "other" / "a.csv", lines.rows[14:])
    pages = [tmp_path / f"page.{kind}" for kind in ("html", "md", "json")]
    words = [word for page in pages for word in ("--out", page)]
    command = ("unlearn", lines.run, "--corpora", *parts, "--tests", test, "--steps", 4, "--json", *words)
    code, out, err = said(*command)
    assert code == 0, err
    found = json.loads(out)
    assert [one["method"] for one in found["rows"]] == ["a", "b"]
    assert found["columns"] == ["a"]
    assert json.loads(pages[2].read_text()) == found
    assert "| a |" in pages[1].read_text()
    assert "## UnTrac-Inv" in pages[1].read_text()
    assert pages[0].read_text().count("<svg class=") == 1
    code, out, _ = said("unlearn", lines.run, "--corpora", *parts, "--tests", test, "--steps", 2, "--quiet")
    assert code == 0
    assert "GradCos" in out
    repeated = ("--corpora", parts[0], "--corpora", parts[1], "--tests", test, "--steps", 2, "--json")
    assert said("unlearn", lines.run, *repeated)[0] == 0


def test_bad_input_is_refused(language_model, tmp_path, news, said) -> None:
    run, corpora, tests = language_model
    small = UnlearnSettings(steps=1, inverse_steps=1)

    def refused(match: str, *, sets=corpora, asked=tests, settings=small) -> None:
        with pytest.raises(InputError, match=match):
            unlearn(run, sets, asked, settings, quiet=True)

    refused("at least two corpora", sets={"one": corpora["one"]})
    refused("at least one test set", asked={})
    refused("empty has no rows", sets={**corpora, "empty": []})
    refused(
        "foreign and first have no token in common", sets={**corpora, "foreign": [Example("f", 0, "日", target="本")]}
    )
    refused("steps of the ascent is 0", settings=replace(small, steps=0))
    refused("unknown optimizer 'lion'", settings=replace(small, optimizer="lion"))
    refused("learning rate of the ascent is nan", settings=replace(small, learning_rate=float("nan")))
    refused("learning rate of the ascent is 0", settings=replace(small, inverse_rate=0.0))
    refused("limit of the ascent is 1", settings=replace(small, limit=1.0))
    refused("seeds is 0", settings=replace(small, seeds=0))
    refused("no step stays near the trained weights", settings=UnlearnSettings(steps=3, learning_rate=5.0, limit=1.01))
    unlabelled = [Example("u", 0, "the cup"), Example("v", 1, "the bank")]
    with pytest.raises(InputError, match=r"a row of one has no label \(one/u\)"):
        unlearn(
            Run.from_pretrained(news.run), {"one": unlabelled, "two": unlabelled}, {"t": unlabelled}, small, quiet=True
        )
    file = tiny.write_csv(tmp_path / "a.csv", tiny.LINES)
    code, _, err = said("unlearn", run.path, "--corpora", file, "--tests", file, "--optimizer", "adm")
    assert code == 2
    assert "--optimizer 'adm' (did you mean 'adam'?)" in err
