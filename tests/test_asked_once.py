"""A question's gradients are taken once, whatever is asked about it next; a model that two passes share counts once."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from torch.nn.modules.module import register_module_forward_hook

import proponent
import tiny
from proponent.index import loading
from proponent.web import model_process

TEXT = "The bank said shares fell"


@pytest.fixture(scope="module")
def news(tmp_path_factory: pytest.TempPathFactory) -> tiny.Tiny:
    return tiny.made(tmp_path_factory.mktemp("news"), tiny.NEWS)


@pytest.fixture
def passes() -> Iterator[Callable[[], int]]:
    """Count the calls of all modules."""
    count = 0

    def note(*_: object) -> None:
        nonlocal count
        count += 1

    hook = register_module_forward_hook(note)
    yield lambda: count
    hook.remove()


def test_explain_and_scores_take_gradients_once(news: tiny.Tiny, passes: Callable[[], int]) -> None:
    index = proponent.open(news.index)
    index.explain(TEXT, k=3)
    once = passes()
    scores = index.scores([TEXT])
    assert passes() == once > 0
    assert (scores == proponent.open(news.index).scores([TEXT])).all()


@pytest.mark.parametrize("other", [{"label": "World"}, {"text": "the cup"}, {"against": "World"}])
def test_another_question_is_taken_anew(news: tiny.Tiny, other: dict[str, str]) -> None:
    first = {"text": TEXT, "label": "Business"}
    index = proponent.open(news.index)
    index.explain(**first, k=3)
    mine = index.explain(**(first | other), k=3)
    assert mine.to_dict() == proponent.open(news.index).explain(**(first | other), k=3).to_dict()


def answer(index: Path) -> list[dict[str, Any]]:
    """What the explorer's process tells about one question."""
    told: list[dict[str, Any]] = []
    question = {"text": TEXT, "pair": "", "target": "", "label": "", "against": "", "k": 3}
    question |= {"only_label": [], "only_source": []}
    model_process._answer({"index": str(index), "root": "x", "options": {}, "question": question}, {}, told.append)
    return told


def test_the_explorers_process_takes_gradients_once(news: tiny.Tiny, passes: Callable[[], int]) -> None:
    proponent.open(news.index).explain(TEXT, k=3)
    once = passes()
    assert answer(news.index)[-1]["groups"]
    assert passes() == 2 * once


def test_the_explorers_process_solves_once(news: tiny.Tiny, tmp_path: Path) -> None:
    index = tmp_path / "fast.index"
    settings = {"layers": "head", "depth": 3, "runs": 1, "damping": 0.5}
    proponent.build(news.run, news.data, index, method="fastif", quiet=True, **settings)
    stages = [one["stage"] for one in answer(index) if "stage" in one]
    assert sum("inverse-Hessian" in stage for stage in stages) == 1


def test_a_model_shared_by_two_computers_counts_once(
    news: tiny.Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = [one.id.step for one in proponent.open(news.index).store.plan.checkpoints]
    index = proponent.build(
        news.run, news.data, tmp_path / "fast", method="fastif", layers="head", steps=steps, quiet=True
    )
    held = index._loaded
    first, second = (one.id for one in index.store.plan.checkpoints)
    size = sum(one.nbytes for one in held.at(first).model.parameters())
    monkeypatch.setattr(loading, "KEPT_BYTES", 2 * size)
    kept = held.at(first), held.solving(first)
    held.at(second)
    assert (held.at(first), held.solving(first)) == kept
