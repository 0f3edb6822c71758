"""Quantised weights: which are read as trained, and which are refused by name."""

from importlib.util import find_spec
from typing import Any, cast

from torch import nn

from proponent.errors import MissingExtraError, RunError


def quantisation(config: Any) -> dict[str, Any] | None:
    """The settings by which the weights of a model are quantised; None for plain weights."""
    found: object = getattr(config, "quantization_config", None)
    if found is None:
        return None
    return cast("dict[str, Any]", found if isinstance(found, dict) else cast("Any", found).to_dict())


def refuse_quantised(name: str, config: Any) -> None:
    """Refuse weights that cannot be read as trained on a CPU."""
    settings = quantisation(config)
    if settings is None:
        return
    method = settings.get("quant_method") or "a method that is not named"
    if method != "bitsandbytes":
        raise RunError(
            f"the weights of {name} are quantised by {method}, which proponent does not read: give a model in full "
            "precision (the base of an adapter: --base, base=), whose gradients then differ a little from those of "
            "training"
        )
    if find_spec("bitsandbytes") is None:
        raise MissingExtraError(
            f"the weights of {name} are quantised by bitsandbytes: pip install bitsandbytes, which reads them on a "
            "CPU, or give the same model in full precision (the base of an adapter: --base, base=)"
        )


def quantisation_note(name: str, config: Any) -> list[str]:
    """Say how quantised weights are read."""
    settings = quantisation(config)
    if settings is None:
        return []
    bits = "8 bits; in training, activations were rounded too" if settings.get("load_in_8bit") else "4 bits"
    return [f"the weights of {name} are read as bitsandbytes stores them ({bits})"]


def dequantised(model: nn.Module) -> nn.Module:
    """The same model with plain layers that hold the values of its quantised weights."""
    return cast("Any", model).dequantize() if getattr(model, "is_quantized", False) else model
