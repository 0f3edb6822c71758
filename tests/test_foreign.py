"""`proponent evaluate` and `tune` on a model that brings code of its own: refused unless allowed, then all the way."""

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import transformers

import tiny
from proponent.errors import InputError
from proponent.evaluate.experiment import EvaluationRequest
from proponent.models import Run
from runs import edit

Said = Callable[..., tuple[int, str, str]]

CODE = """
from transformers import BertConfig, BertForSequenceClassification


class ForeignConfig(BertConfig):
    model_type = "foreign"


class ForeignForSequenceClassification(BertForSequenceClassification):
    config_class = ForeignConfig
"""


@pytest.fixture
def foreign(
    news: tiny.Tiny, copied: Callable[[Path], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Path]:
    """The run of a model whose class stands in its own folder."""
    monkeypatch.setattr(transformers.dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    before, path = set(sys.modules), list(sys.path)
    run = copied(news.run)
    classes = {"AutoConfig": "ForeignConfig", "AutoModelForSequenceClassification": "ForeignForSequenceClassification"}
    for checkpoint in run.glob("checkpoint-*"):
        (checkpoint / "foreign.py").write_text(CODE)
        edit(
            checkpoint / "config.json",
            model_type="foreign",
            architectures=["ForeignForSequenceClassification"],
            auto_map={name: f"foreign.{one}" for name, one in classes.items()},
        )
    yield run
    for name in set(sys.modules) - before:
        if name.startswith("transformers_modules"):
            del sys.modules[name]
    sys.path[:] = path


def test_evaluate_runs_a_models_own_code_only_when_allowed(
    news: tiny.Tiny, foreign: Path, tmp_path: Path, said: Said
) -> None:
    words = ["evaluate", foreign, news.data, "--metric", "ndr", "--points", 4, "--set", "epochs=1"]
    words += ["--methods", "tracin-we", "--cache", tmp_path / "cache", "--quiet", "--json"]
    code, _, err = said(*words)
    assert code == 2
    assert len(err.splitlines()) == 1
    assert "--trust-remote-code" in err
    assert not (tmp_path / "modules").exists() or not list((tmp_path / "modules").rglob("foreign.py"))
    code, out, err = said(*words, "--trust-remote-code")
    assert code == 0, err
    assert json.loads(out)["rows"][0]["method"] == "tracin-we"
    assert list((tmp_path / "cache").rglob("foreign.py")), "the run that was trained again keeps the code it needs"


def test_tune_takes_the_flag_too(
    news: tiny.Tiny, foreign: Path, tmp_path: Path, said: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[Run] = []

    def begun(request: EvaluationRequest, _: float) -> None:
        opened.append(request.run)
        raise InputError("far enough: what follows is that of evaluate")

    monkeypatch.setattr("proponent.evaluate.experiment.with_noise", begun)
    words = ["tune", foreign, news.data, "--out", tmp_path / "tuned.json", "--cache", tmp_path / "cache", "--quiet"]
    code, _, err = said(*words)
    assert code == 2
    assert "--trust-remote-code" in err
    assert not opened
    code, _, err = said(*words, "--trust-remote-code")
    assert "far enough" in err
    assert opened[0].trust_remote_code
