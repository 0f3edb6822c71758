"""Masked language models and encoder-decoders: what is read, gradients against autograd, jobs from a Trainer's run.

The truth takes its loss from transformers itself, which masks, shifts and averages on its own.
"""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

import cases
import proponent
import runs
import tiny
from proponent.check import check
from proponent.data import read
from proponent.errors import InputError, RunError
from proponent.gradients.capture import Capture, head_outer, head_table
from proponent.gradients.model_parts import is_tied, table_shape, word_tables
from proponent.method import MaskedLoss
from proponent.models import Encoded, Encoder, MaskedLM, Masks, Run, Seq2Seq, Task
from proponent.models.model_outputs import check_shift
from proponent.types import Example
from proponent.words import words

Said = Callable[..., tuple[int, str, str]]
TOLERANCE = 1e-5
PAIRS = [
    ("the bank raised its rates", "rates raised"),
    ("goal", "the late goal goal"),
    ("the crew cheered the home team", "cheered"),
    ("the red planet", "pictures of the planet"),
]


def encoder(kind: type[Task], *, start: int | None = 0, most: int = 60, **options: Any) -> Encoder:
    tokenizer = cases.word_tokenizer()
    return Encoder(tokenizer, kind(start=start), most, tokenizer.pad_token_id, **options)


def pairs() -> list[Example]:
    return [Example(str(row), row, text, target=target) for row, (text, target) in enumerate(PAIRS)]


def their_loss(model: Any, one: Encoded, kind: type[Task]) -> torch.Tensor:
    """The loss that transformers takes of one example, from labels alone."""
    wanted = one.targets if kind is Seq2Seq else np.where(one.counted, one.targets, -100)
    ids, labels = (torch.as_tensor(np.asarray(some)[None]) for some in (one.ids, wanted))
    return model(input_ids=ids, attention_mask=torch.ones_like(ids), labels=labels).loss


def truth(model: Any, one: Encoded, kind: type[Task]) -> tuple[float, np.ndarray]:
    """Loss and whole gradient of the word embeddings' tables, by autograd."""
    tables = word_tables(model, decoding=kind is Seq2Seq)
    for table in tables:
        table.requires_grad_(True)
    loss = their_loss(model, one, kind)
    grads = torch.autograd.grad(loss, tables)
    for table in tables:
        table.requires_grad_(False)
    return float(loss.detach()), torch.cat(grads).double().numpy()


def head_truth(model: Any, one: Encoded, kind: type[Task]) -> np.ndarray:
    """Gradient of a vocabulary head that shares no table."""
    weight = model.get_output_embeddings().weight.requires_grad_(True)
    (grad,) = torch.autograd.grad(their_loss(model, one, kind), [weight])
    weight.requires_grad_(False)
    return grad.double().numpy()


def relative(found: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))


@cache
def model_of(name: str) -> tuple[Any, type[Task]]:
    kind = MaskedLM if name in cases.MASKED else Seq2Seq
    cls, settings = (cases.MASKED | cases.SEQ2SEQ)[name]
    tokenizer = cases.word_tokenizer()
    if "decoder_start_token_id" in settings:
        settings = settings | {"decoder_start_token_id": 0}
    return cases.make_of(cls, settings, vocabulary=len(tokenizer), pad=tokenizer.pad_token_id), kind


def texts(kind: type[Task], model: Any) -> tuple[Encoder, list[Encoded]]:
    if kind is MaskedLM:
        made = encoder(MaskedLM, masks=Masks(0.4))
        cloze = Example("x", 9, "the [MASK] fell as shares lost ground", target="market")
        return made, made.encode([*(Example(one.id, one.row, one.text) for one in pairs()), cloze])
    made = encoder(Seq2Seq, start=None if model.config.model_type == "mbart" else 0)
    return made, made.encode(pairs())


@pytest.mark.parametrize("name", [*cases.MASKED, *cases.SEQ2SEQ])
def test_gradients_equal_autograd_of_the_loss_of_transformers(name: str):
    model, kind = model_of(name)
    made, encoded = texts(kind, model)
    batch = made.collate(encoded, [-1] * len(encoded))
    task, side = kind().objective(batch), batch.decoder
    tied = is_tied(model, decoding=kind is Seq2Seq)
    captured = Capture(model, head=True)(
        batch.inputs, task.losses, batch.words, None if side is None else (side.mask, side.words)
    )
    assert captured.rows is not None
    assert captured.inputs is not None
    heads = head_outer(captured.inputs, task.target, task.weight, batch.predicted_words).outer(head_table(model))
    shape = table_shape(model, decoding=kind is Seq2Seq)
    for row, one in enumerate(encoded):
        loss, wanted = truth(model, one, kind)
        assert captured.losses[row] == pytest.approx(loss, rel=1e-5)
        mine = captured.rows.example(row)
        dense = np.zeros(shape)
        np.add.at(dense, mine.ids, mine.rows.astype(np.float64))
        head = heads.example(row).dense()
        if tied:
            dense[: len(head)] += head
        else:
            assert relative(head, head_truth(model, one, kind)) <= TOLERANCE
        assert relative(dense, wanted) <= TOLERANCE


def test_what_an_encoder_decoder_reads_is_the_target_shifted():
    made = encoder(Seq2Seq, start=7)
    examples = pairs()
    encoded = made.encode(examples)
    batch = made.collate(encoded, [-1] * len(encoded))
    tokenizer = cases.word_tokenizer()
    for row, (text, target) in enumerate(PAIRS):
        one, wanted = encoded[row], tokenizer(target)["input_ids"]
        assert one.ids.tolist() == tokenizer(text)["input_ids"]
        assert one.targets.tolist() == wanted
        assert batch.inputs["decoder_input_ids"][row, : len(wanted)].tolist() == [7, *wanted[:-1]]
        assert batch.decoder.mask[row].sum() == len(wanted)
        named = [word.text for word in words((text, target))]
        said = [named[word] if word >= 0 else "-" for word in one.target_words]
        assert said[0] == said[-1] == "-"
        assert set(said) - {"-"} == set(target.split())
        assert batch.decoder.words[row, : len(wanted)].tolist() == [-1, *one.target_words[:-1].tolist()]
    assert made.lengths(examples).tolist() == [one.length for one in encoded]
    short = encoder(Seq2Seq, most=5)
    assert short.at_limit(examples, short.lengths(examples)) == 4
    cut = short.encode(examples)[1]
    assert 0 < cut.pair_truncated_at < len(PAIRS[1][1])


def test_masks_are_drawn_from_the_text_alone_and_a_gap_is_its_target():
    made = encoder(MaskedLM, masks=Masks(0.3, seed=5))
    examples = [Example(str(row), row, text) for row, (text, _) in enumerate(cases.sentences(30))]
    first = made.encode(examples)
    back = made.encode(examples[::-1])[::-1]
    tokenizer = cases.word_tokenizer()
    for one, other in zip(first, back, strict=True):
        assert one.counted.tolist() == other.counted.tolist()
        assert one.counted.sum() == max(1, round(0.3 * (len(one.ids) - 2)))
        assert (one.ids[one.counted] == tokenizer.mask_token_id).all()
        assert (one.ids == one.targets)[~one.counted].all()
        assert not one.counted[[0, -1]].any()
    other = encoder(MaskedLM, masks=Masks(0.3, seed=6)).encode(examples)
    assert [one.counted.tolist() for one in first] != [one.counted.tolist() for one in other]
    gap = Example("g", 0, "the [MASK] fell, and fell", target="bank market")
    (one,) = made.encode([gap])
    assert one.targets.tolist() == tokenizer("the bank market fell, and fell")["input_ids"]
    named = [word.text for word in words(gap.parts)]
    said = [named[word] if word >= 0 else "-" for word in one.words]
    assert {said[place] for place in np.flatnonzero(one.counted)} == {"bank", "market"}
    assert said[-1] == "-"
    assert said[-2] == "fell"
    assert set(said) == {"-", "the", "bank", "market", "fell", ",", "and"}


@pytest.mark.parametrize(
    ("kind", "example", "message"),
    [
        (MaskedLM, Example("a", 0, "the [MASK] fell"), "without the text that belongs there"),
        (MaskedLM, Example("a", 0, "it fell", target="bank"), "has a target and 0 gaps"),
        (MaskedLM, Example("a", 0, "[MASK] [MASK]", target="bank"), "has a target and 2 gaps"),
        (MaskedLM, Example("a", 0, "it", text_pair="fell"), "a language model reads only one"),
        (Seq2Seq, Example("a", 0, "it fell"), "an encoder-decoder needs a target"),
        (Seq2Seq, Example("a", 0, "it", text_pair="fell"), "a language model reads only one"),
    ],
)
def test_texts_that_do_not_fit_the_task_are_named(kind: type[Task], example: Example, message: str):
    with pytest.raises(InputError, match="id a") as caught:
        encoder(kind).encode([example])
    assert message in str(caught.value)


def test_a_shift_of_its_own_is_refused():
    model, _ = model_of("bart")
    check_shift(model, 0, 0)
    with pytest.raises(RunError, match="an unknown way"):
        check_shift(model, 5, 0)


LINES = [{"id": one["id"], "text": one["text"], "target": one["target"]} for one in tiny.LINES]
CLOZE = [
    {"id": f"c{row}", "text": text, "target": ""} for row, (text, _) in enumerate(cases.sentences(24)) if " " in text
] + [{"id": "gap", "text": "the [MASK] raised its rates", "target": "bank"}]


@pytest.fixture(scope="module", params=["masked-lm", "seq2seq", "two-tables"])
def job(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path, Path]:
    """A run of the real Trainer with the Recorder, and its data."""
    task, folder = request.param, tmp_path_factory.mktemp(request.param)
    rows = CLOZE if task == "masked-lm" else LINES
    tokenizer = runs.wordpiece([row["text"] + " " + row["target"] for row in rows], 200, 24)
    name = {"masked-lm": "bert", "seq2seq": "t5", "two-tables": "bart-three-tables"}[task]
    cls, settings = (cases.MASKED | cases.SEQ2SEQ)[name]
    model = cases.make_of(cls, settings | {"decoder_start_token_id": 0}, vocabulary=len(tokenizer), pad=0)
    data = [dict(tokenizer(row["text"])) for row in rows if "[MASK]" not in row["text"]]
    if task == "masked-lm":
        collator: Any = transformers.DataCollatorForLanguageModeling(tokenizer)
    else:
        data = [one | {"labels": tokenizer(row["target"])["input_ids"]} for one, row in zip(data, rows, strict=True)]
        collator = transformers.DataCollatorForSeq2Seq(tokenizer, model)
    arguments = transformers.TrainingArguments(
        output_dir=str(folder / "run"), max_steps=4, save_steps=2, per_device_train_batch_size=4, learning_rate=1e-3,
        report_to=[], use_cpu=True, disable_tqdm=True, dataloader_pin_memory=False,
    )  # fmt: skip
    trainer = transformers.Trainer(
        model=model.requires_grad_(True).train(), args=arguments, train_dataset=data, data_collator=collator,
        processing_class=tokenizer, callbacks=[proponent.Recorder()],
    )  # fmt: skip
    trainer.remove_callback(transformers.PrinterCallback)
    trainer.train()
    return task, folder / "run", tiny.write_csv(folder / "rows.csv", rows)


def asked_of(task: str) -> dict[str, str]:
    if task == "masked-lm":
        return {"text": "the [MASK] scored again", "target": "goal"}
    return {"text": "the bank of the cup", "target": "team said army"}


@pytest.mark.parametrize("method", ["tracin-we", "tracin-we-adam", "tracin-last"])
def test_scores_equal_brute_force_and_words_sum_to_them(job: tuple[str, Path, Path], tmp_path: Path, method: str):
    task, folder, data = job
    run = Run.from_pretrained(folder)
    kind = type(run.task)
    index = proponent.build(run, data, tmp_path / "i", method, quiet=True)
    query = asked_of(task)
    scores = index.scores([query["text"]], targets=[query["target"]])[0]
    made = run.encoder(24)
    rows = list(read(data))
    encoded = made.encode([*rows, Example("q", 0, query["text"], target=query["target"])])
    wanted = np.zeros(len(rows))
    for checkpoint in run.checkpoints:
        model = run.load(checkpoint)
        untied = not is_tied(model, decoding=kind is Seq2Seq)
        taken = head_truth if method == "tracin-last" and untied else lambda *one: truth(*one)[1]
        if method == "tracin-last" and not untied:
            taken = output_path
        grads = [taken(model, one, kind) for one in encoded]
        if method == "tracin-we-adam":
            v = index.store.table(checkpoint.id)["inverse_root"].astype(np.float64)
            grads[-1] = grads[-1] * v
        wanted += checkpoint.learning_rate * np.asarray([float((one * grads[-1]).sum()) for one in grads[:-1]])
    np.testing.assert_allclose(scores, wanted, rtol=2e-3, atol=2e-5 * np.abs(wanted).max())
    answer = index.explain(query["text"], target=query["target"], k=3)
    best = answer.proponents[0]
    assert best.score == pytest.approx(scores.max(), rel=1e-5)
    assert sum(pair.share for pair in best.words) == pytest.approx(best.score, rel=1e-4, abs=1e-9)
    spoken = {pair.query_word for pair in best.words}
    assert spoken <= {*query["text"].split(), *query["target"].split(), "", "[special]", "[", "MASK", "]"}
    assert spoken & set(query["target"].split())


def output_path(model: Any, one: Encoded, kind: type[Task]) -> np.ndarray:
    """Gradient of a shared table through the head alone: the head gets a copy of its own."""
    head = model.get_output_embeddings()
    shared = head.weight
    head.weight = torch.nn.Parameter(shared.detach().clone())
    try:
        return head_truth(model, one, kind)
    finally:
        head.weight = shared


def test_the_doctor_passes(job: tuple[str, Path, Path]):
    _, folder, data = job
    findings = check(Run.from_pretrained(folder), read(data))
    assert [one.name for one in findings if one.passed is False] == []
    assert sum(one.passed is True for one in findings) >= 5


def test_the_command_line_knows_the_tasks(job: tuple[str, Path, Path], tmp_path: Path, said: Said):
    task, folder, data = job
    code, _, err = said("index", folder, data, "--out", tmp_path / "i", "--path", "input")
    assert code == 0, err
    assert ("tokens of each text are masked" in err) == (task == "masked-lm")
    query = asked_of(task)
    code, out, err = said("explain", tmp_path / "i", query["text"], "--target", query["target"])
    assert code == 0, err
    code, out, err = said("explain", tmp_path / "i", "the crowd cheered")
    assert (code == 0) == (task == "masked-lm")
    assert ("masked and predicted: " in out) if code == 0 else ("needs a target" in err)
    code, _, err = said("index", folder, data, "--out", tmp_path / "j", "--method", "tracin-all")
    assert code == 0, err
    code, out, err = said("explain", tmp_path / "j", query["text"], "--target", query["target"])
    assert code == 0, err
    assert "tracin-all" in out + err
    for method in ("tracin-we", "tracin-all", "ekfac"):
        code, _, err = said("plan", folder, data, "--method", method)
        assert code == 0, err


def test_layers_split_by_word(job: tuple[str, Path, Path], tmp_path: Path):
    task, folder, data = job
    index = proponent.build(folder, data, tmp_path / "i", "tracin-layers", layers="mlp", quiet=True)
    query = asked_of(task)
    best = index.explain(query["text"], target=query["target"], k=1).proponents[0]
    assert sum(pair.share for pair in best.words) == pytest.approx(best.score, rel=1e-4)


def test_masks_of_the_method_are_kept_in_the_plan_and_used_when_asked(job: tuple[str, Path, Path], tmp_path: Path):
    task, folder, data = job
    if task != "masked-lm":
        pytest.skip("nothing is masked")
    index = proponent.build(folder, data, tmp_path / "i", mask_share=0.5, mask_seed=3, quiet=True)
    assert index.store.plan.method.objective == MaskedLoss(share=0.5, seed=3)
    other = proponent.build(folder, data, tmp_path / "j", quiet=True)
    text = "the crowd cheered the home team again"
    assert not np.allclose(index.scores([text]), other.scores([text]))
