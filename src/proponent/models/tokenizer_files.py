"""Where the tokenizer of a run is, and whether all checkpoints have the same one."""

import hashlib
import json
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from proponent.errors import MismatchError, ProponentError, RunError, first_line
from proponent.models.checkpoints import Checkpoint, tokenizer_fingerprint
from proponent.models.weights import adapter_home, base_model

_TOKENIZERS = ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "vocab.json", "spiece.model", "tokenizer.model")


PROBE = 'Whence? It\'s naïve, ÉCOLE-7:\t"12.5 %"\n 日本 x_y'
"""Reveals tokenizer settings (lower-casing, spaces, added tokens) that the vocabulary does not show.

The fingerprints in every index on disk depend on it: it must never change."""


FEWEST = 0.75
"""Minimum share of an embedding's rows that a tokenizer has tokens for; embeddings are padded to round sizes."""


def fingerprint_of(tokenizer: Any, folder: Path) -> str:
    """Hash a tokenizer by its content and by its output for a probe text."""
    with tokenizing():
        kinds = [tokenizer([PROBE])["input_ids"], tokenizer([PROBE], [PROBE])["input_ids"]]
    manner = [tokenizer.truncation_side, list(tokenizer.model_input_names)]
    digest = hashlib.sha256(json.dumps([kinds, manner]).encode())
    if folder.is_dir():
        digest.update(tokenizer_fingerprint(folder).encode())
    else:  # a name on a hub
        digest.update(json.dumps(tokenizer.get_vocab(), sort_keys=True).encode())
    return digest.hexdigest()


def tokenizer_home(folder: Path, last: Path, named_base: str | None) -> Path:
    """Location of the tokenizer: with the last checkpoint, with the run, or with an adapter's base model."""
    base = base_model(last, named_base)
    for home in (last, adapter_home(last) or last, folder, *([] if base is None else [Path(base)])):
        if any((home / name).is_file() for name in _TOKENIZERS):
            return home
    if base is not None and not Path(base).exists():
        return Path(base)  # a name on a hub
    raise RunError(
        f"no tokenizer in {last}{'' if folder == last else f' or {folder}'}: save it there with "
        "tokenizer.save_pretrained, or name its folder with --tokenizer"
    )


def require_one_tokenizer(checkpoints: tuple[Checkpoint, ...], home: Path, *, explicit: bool) -> None:
    """Require that all checkpoints with a tokenizer of their own have the same one."""
    expected = tokenizer_fingerprint(home)
    for checkpoint in checkpoints:
        if (
            not explicit
            and (checkpoint.path / "tokenizer.json").is_file()
            and tokenizer_fingerprint(checkpoint.path) != expected
        ):
            raise RunError(
                f"{checkpoint.path} has a different tokenizer from {home}: the checkpoints are not from one run; "
                "remove the stray folder, or give the right tokenizer with --tokenizer"
            )


def require_rows(folder: Path, rows: int, home: Path, tokens: int, pad: int) -> None:
    """Require that an embedding has a row for each token, padding among them."""
    if tokens > rows:
        raise MismatchError(
            f"the tokenizer in {home} has {tokens} tokens but the embedding in {folder} has {rows} rows: it belongs to "
            "another model, or tokens were added without resize_token_embeddings; give the right tokenizer with "
            "--tokenizer"
        )
    if pad >= rows:
        raise RunError(
            f"{folder} has the pad_token_id {pad} in config.json, and its embedding has {rows} rows: restore the "
            "configuration that was saved with the weights"
        )


def few_tokens(tokens: int, rows: int) -> list[str]:
    """A line on a tokenizer with far fewer tokens than the embedding has rows: it may be another model's."""
    if tokens >= FEWEST * rows:
        return []
    return [
        f"the tokenizer has {tokens:,} tokens, and the word embedding {rows:,} rows: check that it is the tokenizer "
        "that the model was trained with (--tokenizer)"
    ]


def try_tokenizer(folder: Path, tokenizer: Any) -> None:
    """Refuse a tokenizer with settings of another kind, which otherwise fail at the first text."""
    with tokenizing(f"the tokenizer in {folder}"):
        if not tokenizer.model_max_length > 0:
            raise ValueError(f"model_max_length is {tokenizer.model_max_length}")
        for texts in ((["a b"],), (["a b"], ["c"])):
            tokenizer(*texts)


@contextmanager
def tokenizing(which: str = "the tokenizer of this run") -> Generator[None]:
    """Name the tokenizer that fails; where an expression of it takes too long, its library raises no Exception."""
    try:
        yield
    except ProponentError:
        raise
    except BaseException as error:  # the tokenizers of other libraries may raise anything
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise RunError(
            f"{which} does not work ({first_line(error)}): save it again with tokenizer.save_pretrained, or name "
            "another folder with --tokenizer"
        ) from error
