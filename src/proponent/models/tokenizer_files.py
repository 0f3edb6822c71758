"""Where the tokenizer of a run is, and whether all checkpoints have the same one."""

from pathlib import Path

from proponent.errors import RunError
from proponent.models.checkpoints import Checkpoint, tokenizer_fingerprint
from proponent.models.weights import adapter_home, base_model

_TOKENIZERS = ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "vocab.json", "spiece.model", "tokenizer.model")


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
