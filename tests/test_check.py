"""The doctor: passes on honest models, and fails on a capture that lies."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import transformers

import proponent
import runs
from proponent.check import Finding, check
from proponent.data import read
from proponent.errors import InputError, LabelError
from proponent.gradients import computer as gradient_computer
from proponent.gradients.projection_order import sampled_products
from proponent.method_table import method_of
from tiny import Tiny

CHECKS = [
    "captured gradient against autograd",
    "batch of several against one by one",
    "extra padding",
    "sign test: product of captured gradients against finite difference of the loss",
    "score of an example on itself",
    "captured gradients of all other layers against autograd",
]
ORDER = "order kept by the projection of tracin-all"
FACTS = ["model", "learning rate", "embedding", "second moments"]
COVERAGE = [
    "parameters covered by methods of layers",
    "texts that reach the token limit",
    "parameters covered by embedding methods",
]


def findings(run: Path, data: object) -> dict[str, Finding]:
    return {one.name: one for one in check(proponent.Run.from_pretrained(run), read(data))}


def failed(found: dict[str, Finding]) -> set[str]:
    return {name for name, one in found.items() if one.passed is False}


def test_a_classifier_passes(news: Tiny):
    found = findings(news.run, news.data)
    assert list(found) == [*FACTS, *CHECKS, *COVERAGE, ORDER]
    assert found[ORDER] == Finding(ORDER, None, "nothing is projected: gradients of this model are stored in full")
    assert failed(found) == set()
    assert all(found[name].passed is True for name in CHECKS)
    assert all(found[name].passed is None for name in (*FACTS, *COVERAGE))
    assert found["embedding"].value == "not shared with a head"
    assert found["model"].value == "BertForSequenceClassification, 2 checkpoint(s), last at step 16"
    assert found["second moments"].value == "recorded at 2 of 2 checkpoints"
    assert found["texts that reach the token limit"].value == "1 of 60 (limit 24 tokens)"
    model = proponent.Run.from_pretrained(news.run).load(proponent.Run.from_pretrained(news.run).checkpoints[-1])
    table = model.get_input_embeddings().weight.numel()  # type: ignore[operator, union-attr]
    total = sum(parameter.numel() for parameter in model.parameters())
    assert (
        found["parameters covered by embedding methods"].value
        == f"{table / total:.1%} ({table:,} of {total:,}); skipped: every other layer"
    )
    assert found["extra padding"].description.endswith("(at most 1e-05)")
    assert found["model"].description == found["model"].value


@pytest.mark.parametrize("kind", ["pairs", "lines"])
def test_pairs_and_language_models_pass(kind: str, request: pytest.FixtureRequest):
    tiny: Tiny = request.getfixturevalue(kind)
    found = findings(tiny.run, tiny.data)
    assert failed(found) == set()
    assert all(found[name].passed is True for name in CHECKS)
    if kind == "lines":
        assert found["embedding"].value == "shared with the head: the exact gradient adds both paths"


NEWS_LAYERS = ("tracin-all", "grad-cos")


@pytest.mark.parametrize("method", NEWS_LAYERS)
def test_the_compared_products_are_those_of_an_index(news: Tiny, tmp_path: Path, method: str):
    """With and without projection; the word embedding enters both sides exactly."""
    run, rows = proponent.Run.from_pretrained(news.run), news.rows[:14]
    last = run.checkpoints[-1]
    settings = {"weights": "equal", "steps": (last.id.step,), "quiet": True}
    model, encoder = run.load(last), run.encoder(24)
    read_rows = read(rows)
    pairs = list(zip(encoder.encode(list(read_rows)), [run.label_number(row["label"]) for row in rows], strict=True))
    given = method_of(method, project=4)
    assert isinstance(given, proponent.Gradients)
    found = sampled_products(given, run, model, encoder, pairs, 4, (4, 64))
    assert found.layers > 0
    texts, labels = [row["text"] for row in rows[:4]], [row["label"] for row in rows[:4]]
    for width, products in ((4, found.projected[4]), (64, found.projected[64]), (None, found.exact)):
        index = proponent.build(news.run, rows[4:], tmp_path / str(width), method, project=width, **settings)
        wanted = index.scores(texts, labels)
        np.testing.assert_allclose(products, wanted, rtol=1e-3, atol=1e-4 * np.abs(wanted).max())


def test_a_projection_that_reorders_is_warned_about_with_the_way_out(
    lines: Tiny, said: Callable[..., tuple[int, str, str]]
):
    run, data = proponent.Run.from_pretrained(lines.run), read(lines.data)
    name = "order kept by the projection of tracin-layers"
    found = {
        width: next(
            one
            for one in check(run, data, method=method_of("tracin-layers", layers="blocks", project=width))
            if one.name == name
        )
        for width in (1, 8, 64)
    }
    numbers = [float(one.value.split("rank correlation ")[1].split(" ")[0]) for one in found.values()]
    assert numbers == sorted(numbers)
    assert found[1].passed is False
    assert found[8].passed is True
    assert found[8].warning.startswith("the projection to 8 reorders the scores: take --project ")
    assert found[8].warning.endswith(
        "--project none, which stores gradients in full, or a method that projects nothing (tracin-last)"
    )
    assert found[64].warning == ""
    code, out, _ = said(
        "check", lines.run, lines.data, "--method", "tracin-layers", "--layers", "blocks", "--project", "1", "--json"
    )
    assert code == 2
    code, out, _ = said(
        "check", lines.run, lines.data, "--method", "tracin-layers", "--layers", "blocks", "--project", "8"
    )
    assert "reorders the scores" in " ".join(out.split())


def lying(change: Callable[[Any], Any]) -> Callable[..., Any]:
    """A capture whose result is changed."""

    class Lying(gradient_computer.Capture):
        def __call__(self, *arguments: Any, **options: Any) -> Any:
            return change(super().__call__(*arguments, **options))

    return Lying


def scaled(captured: Any) -> Any:
    return replace(captured, rows=replace(captured.rows, rows=captured.rows.rows * 1.01))


def moved(captured: Any) -> Any:
    """Right rows, and one more that no token of the text has."""
    extra = replace(captured.rows, ids=np.where(captured.rows.ids == captured.rows.ids.max(), 9, captured.rows.ids))
    return replace(captured, rows=extra)


def silent(captured: Any) -> Any:
    return replace(captured, rows=replace(captured.rows, rows=captured.rows.rows * 0.0))


@pytest.mark.parametrize("change", [scaled, moved, silent])
def test_a_capture_that_lies_is_found(news: Tiny, monkeypatch: pytest.MonkeyPatch, change: Callable[[Any], Any]):
    monkeypatch.setattr(gradient_computer, "Capture", lying(change))
    assert "captured gradient against autograd" in failed(findings(news.run, news.data))


def test_a_capture_that_sees_the_padding_is_found(news: Tiny, monkeypatch: pytest.MonkeyPatch):
    def more_in_company(captured: Any) -> Any:
        factor = 1.0 if len(captured.losses) == 1 else 1.001
        return replace(captured, rows=replace(captured.rows, rows=captured.rows.rows * factor))

    monkeypatch.setattr(gradient_computer, "Capture", lying(more_in_company))
    found = failed(findings(news.run, news.data))
    assert {"batch of several against one by one", "extra padding"} <= found
    assert "captured gradient against autograd" not in found


def test_a_sign_turned_round_is_found(news: Tiny, monkeypatch: pytest.MonkeyPatch):
    """Every product of two captured gradients keeps its sign, so the difference of real losses must tell."""

    def turned(captured: Any) -> Any:
        return replace(captured, rows=replace(captured.rows, rows=-captured.rows.rows))

    monkeypatch.setattr(gradient_computer, "Capture", lying(turned))
    found = failed(findings(news.run, news.data))
    assert {
        "captured gradient against autograd",
        "sign test: product of captured gradients against finite difference of the loss",
    } <= found


def test_data_of_another_run_is_refused(news: Tiny):
    with pytest.raises(LabelError, match="did you mean 'Sports'"):
        findings(news.run, [{"text": "a cup", "label": "Sport"}])


def test_a_model_without_a_finite_loss_is_refused(news: Tiny, copied: Callable[[Path], Path]):
    run = copied(news.run)
    for path in run.glob("checkpoint-*/model.safetensors"):
        weights = safetensors.numpy.load_file(path)
        weights["classifier.bias"] = np.full_like(weights["classifier.bias"], np.nan)
        safetensors.numpy.save_file(weights, path, {"format": "pt"})
    with pytest.raises(InputError, match="has a finite loss"):
        findings(run, news.data)


def test_a_decoder_without_a_padding_token_says_what_was_not_asked(tmp_path: Path):
    """Its classifier reads the last token, which a batch of one length always has."""
    tokenizer = runs.gpt2_tokenizer()
    config = transformers.GPT2Config(
        vocab_size=len(tokenizer), n_embd=16, n_layer=1, n_head=2, n_positions=24, num_labels=3, pad_token_id=None
    )
    config.id2label = dict(enumerate(runs.LABELS))
    transformers.GPT2ForSequenceClassification(config).save_pretrained(tmp_path / "run")
    tokenizer.save_pretrained(tmp_path / "run")
    found = findings(tmp_path / "run", runs.ROWS)
    assert failed(found) == set()
    assert found["extra padding"] == Finding(
        "extra padding", None, "not checked: this model does not support padding and gets none"
    )
