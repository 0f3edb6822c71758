"""What an index refuses to answer from: changed bytes, and code that the user did not allow."""

import shutil
from pathlib import Path

import pytest

import whence
from tiny import Tiny
from whence.errors import DamagedError, InputError, LabelError
from whence.model import Run


@pytest.fixture
def copy(news: Tiny, tmp_path: Path) -> Path:
    shutil.copytree(news.index, tmp_path / "copy.whence")
    return tmp_path / "copy.whence"


@pytest.mark.parametrize("kind", ["forms", "postings", "examples/features", "examples/part"])
def test_a_changed_byte_never_becomes_an_answer(copy: Path, news: Tiny, kind: str):
    path = next(path for path in sorted(copy.rglob("*")) if path.is_file() and kind in path.as_posix())
    damaged = bytearray(path.read_bytes())
    damaged[-len(damaged) // 4] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(DamagedError, match=path.name):
        whence.open(copy, run=news.run).explain("the bank cut its rates", baselines=False)


def test_an_untouched_copy_answers(copy: Path, news: Tiny):
    assert whence.open(copy, run=news.run).explain("the bank cut its rates", baselines=False).helped


def test_an_index_never_allows_remote_code_by_itself(copy: Path, news: Tiny, monkeypatch: pytest.MonkeyPatch):
    asked: list[bool] = []
    real = Run.from_pretrained
    monkeypatch.setattr(
        Run,
        "from_pretrained",
        lambda *a, trust_remote_code=False, **k: (asked.append(trust_remote_code), real(*a, **k))[1],
    )
    index = whence.open(copy, run=news.run)
    index.store.plan = index.store.plan.model_copy(update={"trust_remote_code": True})
    with pytest.raises(InputError, match="--trust-remote-code"):
        index.explain("the bank")
    assert asked == []
    allowed = whence.open(copy, run=news.run, trust_remote_code=True)
    assert allowed.explain("the bank", baselines=False)
    assert asked == [True]


def test_a_truth_value_is_no_class(news: Tiny):
    with pytest.raises(LabelError, match="True is a bool: give a name or a whole number"):
        whence.open(news.index, run=news.run).explain("the bank", label=True)
