"""A model of shapes only: from its configuration, on torch's meta device, without the memory of its weights."""

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from proponent.errors import RunError
from proponent.models.adapter_modules import peft_library
from proponent.models.adapters import base_of
from proponent.models.checkpoints import discover
from proponent.models.device_map import settled
from proponent.models.huggingface import outputs_of, read_config, read_model_info, shapes_of_config
from proponent.models.info import ModelInfo
from proponent.models.weights import CONFIG_FILE, adapter_home


def model_of_shapes(
    folder: Path, *, base: str | Path | None = None, trust_remote_code: bool = False
) -> tuple[nn.Module, ModelInfo]:
    """Create the model of a folder that may have a configuration and no weights.

    Args:
        folder: a model folder with config.json, a PEFT adapter folder, or a Trainer output folder.
        base: of an adapter, folder (or name on a hub) of its base model, if it is not where the adapter says.
        trust_remote_code: allow code that comes with the model.

    Returns:
        The model on the meta device, with its adapter, and the facts of its configuration.

    Raises:
        RunError: there is no configuration, or no model can be made of it.
    """
    plain = (folder / CONFIG_FILE).is_file() or adapter_home(folder) is not None
    home = folder if plain else discover(folder)[-1].path
    named = base if isinstance(base, str | None) else str(base)
    card = read_model_info(home, trust_remote_code=trust_remote_code, base=named)
    model = _whole_or_base(home, card, trust_remote_code=trust_remote_code)
    if model is None:
        raise RunError(f"{home / CONFIG_FILE}: no model can be created of it without its weights")
    if card.adapter:
        with warnings.catch_warnings(), torch.device("meta"):
            warnings.simplefilter("ignore")  # matters between peft and transformers
            settings = peft_library().PeftConfig.from_pretrained(str(adapter_home(home) or home))
            model = cast("nn.Module", peft_library().get_peft_model(model, settings))
    return model, card


def settled_card(folder: Path, card: ModelInfo, *, trust_remote_code: bool = False) -> ModelInfo:
    """Facts whose placement names a device for every module, if the model is to be split."""
    if card.placement.device_map is None:
        return card
    model = _whole_or_base(folder, card, trust_remote_code=trust_remote_code)
    return replace(card, placement=settled(card.placement, model, folder))


def _whole_or_base(folder: Path, card: ModelInfo, *, trust_remote_code: bool) -> nn.Module | None:
    """A complete model, or the base of an adapter."""
    if not card.adapter:
        config = read_config(str(folder), trust_remote_code)
    else:
        base = base_of(folder, card.base)
        width: dict[str, Any] = {"num_labels": count} if (count := outputs_of(card.task)) else {}
        config = read_config(base.name, trust_remote_code, **width, **base.options)
    return shapes_of_config(config, card.task, trust_remote_code=trust_remote_code)
