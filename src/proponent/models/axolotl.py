"""Runs of axolotl: the settings in their model card, which are YAML and read as data alone.

After docs.axolotl.ai (config reference, tokenized data sets), July 2026; tested on folders made by hand.
"""

import re
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, cast

from proponent.errors import RunError
from proponent.models.run_files import read_card

CARD = "README.md"
LENGTH = 512
"""Its default of sequence_len."""

_BEGIN = re.compile(r"axolotl version: `([^`\n]{0,100})`\s{0,20}```yaml\n")
MOST_YAML = 2**16
"""Maximum characters of the settings."""

_OTHER_LOSS = (
    "rl", "reward_model", "process_reward_model", "label_smoothing_factor", "kd_trainer", "pretraining_dataset",
)  # fmt: skip
"""Settings under which the loss of a row is another one, or is no loss of a row."""
_SEPARATES = ("flash_attention", "sdp_attention", "xformers_attention", "flex_attention")
"""Kinds of attention that keep packed rows apart."""
_SAME_LOSS = ("liger", "cut_cross_entropy", "spectrum")
"""Plugins that compute the same loss."""


def settings_of(folder: Path) -> dict[str, Any] | None:
    """Read the settings in the model card of a run; None for a run of another library."""
    path = folder / CARD
    card = read_card(path)
    begin = _BEGIN.search(card)
    end = -1 if begin is None else card.find("\n```", begin.end() - 1)
    if begin is None or end < 0:
        return None
    yaml: Any = import_module("yaml")
    try:
        if end - begin.end() > MOST_YAML:
            raise ValueError(f"more than {MOST_YAML:,} characters")
        text = card[begin.end() : end]
        if any(isinstance(one, yaml.AliasToken) for one in yaml.scan(text)):  # a few lines may stand for gigabytes
            raise ValueError("it repeats a part of itself (an alias), which axolotl does not write")
        found: object = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, TypeError, RecursionError, OverflowError) as error:
        raise RunError(
            f"{path}: axolotl's settings in it are no YAML ({first_words(error)}): restore the file as axolotl wrote "
            "it, or remove it to go without"
        ) from error
    if not isinstance(found, Mapping):
        raise RunError(f"{path}: axolotl's settings in it are no list of names and values: restore the file")
    return {**cast("Mapping[str, Any]", found), "version": begin[1]}


def first_words(error: BaseException) -> str:
    """The first line of a message."""
    return next(iter(str(error).splitlines()), type(error).__name__)


def other_loss(settings: Mapping[str, Any]) -> str | None:
    """The setting under which no row has the loss of its text; None if every row has."""
    name = next((one for one in _OTHER_LOSS if settings.get(one)), None)
    if name is not None:
        return f"{name}: {settings[name]!r:.60}"
    plugins: object = settings.get("plugins") or []
    for one in cast("list[object]", plugins) if isinstance(plugins, list) else [plugins]:
        if not any(known in str(one) for known in _SAME_LOSS):
            return f"the plugin {one}, which is not known here"
    named = settings.get("attn_implementation") or "eager"
    if settings.get("sample_packing") and named == "eager" and not any(settings.get(one) for one in _SEPARATES):
        return f"sample_packing without {', '.join(_SEPARATES)}, so that rows read each other"
    return None


def longest(settings: Mapping[str, Any], path: Path) -> int:
    """Tokens of the longest row that was trained on."""
    length = settings.get("sequence_len", LENGTH)
    if not isinstance(length, int) or isinstance(length, bool) or length < 1:
        raise RunError(f"{path}: sequence_len is {length!r}: a number of tokens is needed; restore the file")
    return length
