"""Training runs that several test files look at; whoever changes one copies it first."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import transformers
from hypothesis import settings

import checked

checked.install()  # before anything of proponent is imported

import runs  # noqa: E402
import tiny  # noqa: E402
from proponent.cli import main  # noqa: E402
from proponent.models.recorder import Recorder  # noqa: E402

settings.register_profile("unhurried", deadline=None)  # a busy machine is no failure
settings.load_profile("unhurried")
transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()


@pytest.fixture(scope="session")
def bert_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT classifier with saves at steps 8, 16 and 24, a linear schedule and the Recorder."""
    folder = tmp_path_factory.mktemp("bert") / "news"
    tokenizer = runs.bert_tokenizer()
    runs.trainer(
        folder, runs.bert(tokenizer), tokenizer, callbacks=[Recorder()], max_steps=24, save_steps=8, logging_steps=5
    ).train()
    return folder


@pytest.fixture(scope="session")
def lm_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A GPT-2 language model (tied table) with saves at steps 3 and 6."""
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
def news(tmp_path_factory: pytest.TempPathFactory) -> tiny.Tiny:
    """A classifier of three labels, trained by proponent itself, and its index."""
    return tiny.made(tmp_path_factory.mktemp("news"), tiny.NEWS)


@pytest.fixture(scope="session")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> tiny.Tiny:
    """A classifier of text pairs, and its index."""
    return tiny.made(tmp_path_factory.mktemp("pairs"), tiny.PAIRS)


@pytest.fixture(scope="session")
def lines(tmp_path_factory: pytest.TempPathFactory) -> tiny.Tiny:
    """A language model with tied embeddings, trained on prompts and targets, and its index."""
    return tiny.made(tmp_path_factory.mktemp("lines"), tiny.LINES)


@pytest.fixture
def encoder_folder(tmp_path: Path) -> Path:
    """A BERT without a head, as people take for a base model."""
    tokenizer = runs.bert_tokenizer()
    runs.bert(tokenizer).bert.save_pretrained(tmp_path / "encoder")
    tokenizer.save_pretrained(tmp_path / "encoder")
    return tmp_path / "encoder"


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run a command line in this process; give exit code, stdout and stderr."""

    def run(*words: object) -> tuple[int, str, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as leaving:
            main([str(word) for word in words])
        out, err = capsys.readouterr()
        assert isinstance(leaving.value.code, int)
        return leaving.value.code, out, err

    return run
