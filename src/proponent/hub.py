"""The hub of models: whether one is there at all, before loaders try for minutes; loading without asking it."""

import os
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from proponent.errors import InputError

Kind = Literal["distmult", "complex", "product", "bag"]
KINDS: tuple[Kind, ...] = ("distmult", "complex", "product", "bag")
"""Models that are trained from scratch by their name; no hub has them."""

ASK_SECONDS = 10.0
"""Wait for the hub's answer."""

_OFF = {"", "0", "no", "off", "false"}


def require_model(name: str, option: str = "--model", otherwise: str = "train a small model") -> None:
    """Refuse a model that is neither a folder, nor in the hub's cache, nor on the hub.

    Args:
        name: a folder, or the name of a model on the hub.
        option: the option that it was given with.
        otherwise: what happens without the option.

    Raises:
        InputError: if there is no such model, or if the hub cannot be reached and its cache has none.
    """
    if name in KINDS or Path(name).expanduser().is_dir():
        return
    way = f"give {option} a folder with config.json and model.safetensors, or leave {option} out to {otherwise}"
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise InputError(f"{option} {name}: there is no such folder: {way}")
    from huggingface_hub import HfApi, try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError

    try:
        if isinstance(try_to_load_from_cache(name, "config.json"), str):
            return
        if os.environ.get("HF_HUB_OFFLINE", "").lower() not in _OFF:
            raise InputError(
                f"{option} {name}: no such folder, no such model in the cache, and HF_HUB_OFFLINE forbids to ask the "
                f"hub: {way}"
            )
        HfApi().model_info(name, timeout=ASK_SECONDS)
    except HFValidationError as error:
        raise InputError(f"{option} {name}: no such folder, and it is no name of a model on the hub: {way}") from error
    except RepositoryNotFoundError as error:
        raise InputError(f"{option} {name}: no such folder, and the hub has no such model: {way}") from error
    except InputError:
        raise
    except Exception as error:  # the hub's client and its transport raise errors of several kinds
        kind = type(error).__name__
        raise InputError(
            f"{option} {name}: no such folder, no such model in the cache, and the hub cannot be asked ({kind}): {way}"
        ) from error


_ALONE = ("HF_HUB_OFFLINE", "HF_HUB_DISABLE_IMPLICIT_TOKEN")


@contextmanager
def without_network(wanted: bool) -> Generator[None]:
    """Load without asking a hub: some loaders ask it, or read the user's token, though they are to use local files."""
    constants: Any = sys.modules.get("huggingface_hub.constants")
    if not wanted or constants is None:
        yield
        return
    before = [getattr(constants, name) for name in _ALONE]
    _set(constants, [True] * len(_ALONE))
    try:
        yield
    finally:
        _set(constants, before)


def _set(constants: Any, values: list[Any]) -> None:
    for name, value in zip(_ALONE, values, strict=True):
        setattr(constants, name, value)
