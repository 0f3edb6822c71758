"""Training runs that several test files look at; whoever changes one copies it first.

Nothing heavy is imported before a test file needs it: the process that only hands out the tests does without.
"""

import gc
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

import checked

checked.install()  # before anything of proponent is imported
os.environ["XDG_STATE_HOME"] = tempfile.mkdtemp(prefix="proponent-tests-")  # tests make no key for this user
os.environ["HF_DEACTIVATE_ASYNC_LOAD"] = "1"  # threads that load a model of a few kilobytes take longer than it
os.environ.pop("XDG_RUNTIME_DIR", None)  # nor do they ask the explorers that this user runs

if TYPE_CHECKING:
    import tiny

settings.register_profile("unhurried", deadline=None)  # a busy machine is no failure
settings.load_profile("unhurried")


def pytest_collection_finish(session: pytest.Session) -> None:
    """Be quiet, and leave what the imports made out of every collection of garbage: each Trainer asks for one."""
    if session.items:
        import transformers

        transformers.utils.logging.set_verbosity_error()
        transformers.utils.logging.disable_progress_bar()
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def bert_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT classifier with saves at steps 8, 16 and 24, a linear schedule and the Recorder."""
    import runs
    from proponent.models.recorder import Recorder

    folder = tmp_path_factory.mktemp("bert") / "news"
    tokenizer = runs.bert_tokenizer()
    runs.trainer(
        folder, runs.bert(tokenizer), tokenizer, callbacks=[Recorder()], max_steps=24, save_steps=8, logging_steps=5
    ).train()
    return folder


@pytest.fixture(scope="session")
def lm_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A GPT-2 language model (tied table) with saves at steps 3 and 6."""
    import runs
    from proponent.models.recorder import Recorder

    folder = tmp_path_factory.mktemp("gpt2") / "lines"
    tokenizer = runs.gpt2_tokenizer()
    runs.trainer(folder, runs.gpt2(tokenizer), tokenizer, callbacks=[Recorder()]).train()
    return folder


@pytest.fixture
def copied(tmp_path: Path) -> Callable[[Path], Path]:
    """Copy a run, so that a test may spoil it."""

    def copy(folder: Path) -> Path:
        return Path(shutil.copytree(folder, tmp_path / "copies" / folder.name))

    return copy


@pytest.fixture(scope="session")
def news(tmp_path_factory: pytest.TempPathFactory) -> "tiny.Tiny":
    """A classifier of three labels, trained by proponent itself, and its index."""
    import tiny

    return tiny.made(tmp_path_factory.mktemp("news"), tiny.NEWS)


@pytest.fixture(scope="session")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> "tiny.Tiny":
    """A classifier of text pairs, and its index."""
    import tiny

    return tiny.made(tmp_path_factory.mktemp("pairs"), tiny.PAIRS)


@pytest.fixture(scope="session")
def lines(tmp_path_factory: pytest.TempPathFactory) -> "tiny.Tiny":
    """A language model with tied embeddings, trained on prompts and targets, and its index."""
    import tiny

    return tiny.made(tmp_path_factory.mktemp("lines"), tiny.LINES)


@pytest.fixture
def encoder_folder(tmp_path: Path) -> Path:
    """A BERT without a head, as people take for a base model."""
    import runs

    tokenizer = runs.bert_tokenizer()
    runs.bert(tokenizer).bert.save_pretrained(tmp_path / "encoder")
    tokenizer.save_pretrained(tmp_path / "encoder")
    return tmp_path / "encoder"


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run a command line in this process; give exit code, stdout and stderr."""

    from proponent.cli import main

    def run(*words: object) -> tuple[int, str, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as leaving:
            main([str(word) for word in words])
        out, err = capsys.readouterr()
        assert isinstance(leaving.value.code, int)
        return leaving.value.code, out, err

    return run
