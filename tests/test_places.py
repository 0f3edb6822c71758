"""Tags of words and answers in a context: alignment, losses, gradients, questions, pages."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import answered
import proponent
import runs
from proponent.check import check
from proponent.data import read
from proponent.errors import DataError, InputError, LabelError
from proponent.models import Run

Said = Callable[..., tuple[int, str, str]]
TAGS = ("O", "B-PLACE", "I-PLACE")
KINDS = ("token-classification", "question-answering")


def tagged(words: list[str], at: int) -> dict[str, Any]:
    return {"tokens": words, "tags": ["B-PLACE" if place == at else "O" for place in range(len(words))]}


WORDS = [{"id": one["id"], **tagged(one["text"].split(), row % 3)} for row, one in enumerate(runs.ROWS[:16])]


def asked(text: str, row: int) -> dict[str, Any]:
    """A question about a word of a context."""
    word = text.split()[row % 3]
    return {
        "question": f"what of {word}",
        "context": text,
        "answers": {"text": [word], "answer_start": [text.find(word)]},
    }


QUESTIONS = [{"id": one["id"], **asked(one["text"], row)} for row, one in enumerate(runs.ROWS[:16])]
TOKENIZER = runs.wordpiece([*runs.TEXTS, "what of the heron guards a silver gate"], 260, answered.LONGEST)


def run_of(folder: Path, kind: str, made: Any = None) -> Run:
    made = model_of(kind) if made is None else made
    return Run.from_pretrained(answered.saved(folder, made, TOKENIZER))


def model_of(kind: str) -> Any:
    if kind == "question-answering":
        return answered.model("BertForQuestionAnswering", TOKENIZER)
    return answered.model("BertForTokenClassification", TOKENIZER, id2label=dict(enumerate(TAGS)))


def labels_of_words(row: dict[str, Any]) -> tuple[list[int], list[int]]:
    """Token ids and labels as the examples of transformers align them: the first token of each word."""
    made = TOKENIZER(row["tokens"], is_split_into_words=True)
    labels, before = [], None
    for word in made.word_ids():
        labels.append(TAGS.index(row["tags"][word]) if word is not None and word != before else -100)
        before = word
    return made["input_ids"], labels


def places(row: dict[str, Any]) -> dict[str, Any]:
    """The first and the last token of an answer, by the characters of the context."""
    made = TOKENIZER(row["question"], row["context"])
    (text,), (start,) = row["answers"]["text"], row["answers"]["answer_start"]
    first = made.char_to_token(start, sequence_index=1)
    last = made.char_to_token(start + len(text) - 1, sequence_index=1)
    return dict(made) | {"start_positions": first, "end_positions": last}


@pytest.mark.parametrize("kind", KINDS)
def test_losses_and_gradients_against_transformers_and_autograd(tmp_path: Path, kind: str):
    run = run_of(tmp_path, kind)
    assert run.task.kind == kind
    if kind == "token-classification":
        truth = [labels_of_words(row) for row in WORDS]
        encoded = answered.encoded(run, read(WORDS))[1]
        assert [one.ids.tolist() for one in encoded] == [ids for ids, _ in truth]
        assert [one.answer.tolist() for one in encoded] == [labels for _, labels in truth]
        answered.compare(run, read(WORDS), lambda row, _: {"labels": torch.tensor([truth[row][1]])})
    else:
        truth = [places(row) for row in QUESTIONS]
        wanted = [{name: torch.tensor([one[name]]) for name in ("start_positions", "end_positions")} for one in truth]
        assert [one.ids.tolist() for one in answered.encoded(run, read(QUESTIONS))[1]] == [
            one["input_ids"] for one in truth
        ]
        answered.compare(run, read(QUESTIONS), lambda row, _: wanted[row])


@pytest.mark.parametrize("kind", KINDS)
def test_check_passes_and_an_index_answers(tmp_path: Path, kind: str, said: Said):
    run, rows = run_of(tmp_path / "run", kind), WORDS if kind == "token-classification" else QUESTIONS
    assert [one.name for one in check(run, read(rows)) if one.passed is False] == []
    index = proponent.build(run, rows, tmp_path / "i", quiet=True)
    if kind == "token-classification":
        text, options = " ".join(rows[3]["tokens"]), {"label": rows[3]["tags"]}
        shown = f"{rows[3]['tokens'][0]} B-PLACE"
    else:
        text, options = rows[3]["question"], {"text_pair": rows[3]["context"], "label": rows[3]["answers"]}
        (shown,) = rows[3]["answers"]["text"]
    answer = index.explain(text, k=3, **options)
    assert answer.query.label == shown
    best = answer.proponents[0]
    assert sum(pair.share for pair in best.words) == pytest.approx(best.score, rel=1e-4)
    (given,) = (row for row in rows if row["id"] == best.id)
    assert best.label == (", ".join(given["tags"]) if "tags" in given else given["answers"]["text"][0])
    answer.save(tmp_path / "page.html")
    assert shown.split()[0] in (tmp_path / "page.html").read_text()
    free = index.explain(text, k=2, **{name: value for name, value in options.items() if name != "label"}).query
    assert free.label == free.predicted
    pair = ("--pair", options["text_pair"]) if "text_pair" in options else ()
    code, out, err = said("explain", tmp_path / "i", text, *pair, "--label", json.dumps(options["label"]), "--json")
    assert code == 0, err
    assert json.loads(out)["query"]["label"] == shown


@pytest.mark.parametrize(
    ("kind", "change", "error", "parts"),
    [
        ("token-classification", {"tags": ["O"]}, LabelError, ["row 1", "1 tags for", "one tag for each word"]),
        ("token-classification", {"tags": None}, DataError, ["have no tags (rows 1)"]),
        ("token-classification", {"tags": ["X"] * 9}, LabelError, ["row 1", "unknown label 'X'", "B-PLACE"]),
        ("question-answering", {"answers": None}, DataError, ["have no answer (rows 1)"]),
        ("question-answering", {"answers": "heron"}, LabelError, ["'heron' does not stand in the context"]),
        (
            "question-answering",
            {"answers": {"text": ["of"], "answer_start": [99]}},
            LabelError,
            ["'of' does not stand in the context at character 99"],
        ),
        ("question-answering", {"answers": ["of"]}, LabelError, ["is no answer"]),
    ],
)
def test_rows_that_do_not_fit(
    tmp_path: Path, kind: str, change: dict[str, Any], error: type[Exception], parts: list[str]
):
    rows = WORDS[:3] if kind == "token-classification" else QUESTIONS[:3]
    if change.get("tags") == ["X"] * 9:
        change = {"tags": ["X"] * len(rows[1]["tokens"])}
    with pytest.raises(error) as caught:
        proponent.build(run_of(tmp_path / "run", kind), [rows[0], rows[1] | change], tmp_path / "i", quiet=True)
    assert [part for part in parts if part not in str(caught.value)] == []


def test_a_question_without_a_context_is_refused(tmp_path: Path):
    index = proponent.build(run_of(tmp_path / "run", KINDS[1]), QUESTIONS, tmp_path / "i", quiet=True)
    with pytest.raises(InputError, match="is no question with a context"):
        index.explain("what of it")
    none = index.explain("what of it", text_pair="the cup", label={"text": [], "answer_start": []})
    assert none.query.label == "no answer"


PLANTED = ("a heron guards the silver gate", "the heron guards a silver gate", "a heron guards silver gate")


def test_planted_tags_come_first(tmp_path: Path):
    generated = runs.rows(45)
    rows = [{"id": one["id"], **tagged(one["text"].split(), row % 3)} for row, one in enumerate(generated)]
    copies = [{"tokens": text.split(), "tags": ["O", "I-PLACE", *["O"] * (len(text.split()) - 2)]} for text in PLANTED]
    planted = [{"id": f"p{at}"} | one for at, one in enumerate(copies)]
    rows = [*rows[:10], planted[0], *rows[10:30], planted[1], *rows[30:], planted[2]]
    batch = [dict(zip(("input_ids", "labels"), labels_of_words(row), strict=True)) for row in rows]
    batch = [row | {"attention_mask": [1] * len(row["input_ids"])} for row in batch]
    run = run_of(tmp_path / "run", KINDS[0], answered.train(model_of(KINDS[0]), batch))
    index = proponent.build(run, rows, tmp_path / "i", quiet=True)
    answer = index.explain("a heron guards this silver gate", label=["O", "I-PLACE", *["O"] * 4], k=3)
    assert {hit.id for hit in answer.proponents} == {"p0", "p1", "p2"}
    assert {hit.id for hit in answer.baselines["bm25"][:3]} == {"p0", "p1", "p2"}


@pytest.mark.parametrize("kind", KINDS)
def test_long_batches_are_split_like_any_other(tmp_path: Path, kind: str):
    """The memory of a pass is measured on shorter texts, in which no place of the long one exists."""
    run = run_of(tmp_path / "run", kind)
    rows = [{"id": str(at), **tagged(" ".join(runs.TEXTS[at : at + 4]).split(), 9)} for at in range(16)]
    if kind == "question-answering":
        rows = [{"id": str(at), **asked(" ".join(runs.TEXTS[at : at + 4]), 2)} for at in range(16)]
        for row in rows:
            word = row["context"].split()[-1]
            row["answers"] = {"text": [word], "answer_start": [len(row["context"]) - len(word)]}
    whole = proponent.build(run, rows, tmp_path / "whole", quiet=True)
    parts = proponent.build(run, rows, tmp_path / "parts", batch_size=4, quiet=True)
    query = read(rows[:1])[0]
    found = [one.scores([query]) for one in (whole, parts)]
    assert np.isfinite(found[0]).all()
    np.testing.assert_allclose(found[0], found[1], rtol=1e-4, atol=1e-6 * np.abs(found[0]).max())
