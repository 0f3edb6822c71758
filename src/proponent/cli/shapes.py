"""`proponent plan RUN` without DATA: the memory of a model on GPUs, from its configuration."""

from pathlib import Path

from rich.console import Console

from proponent.cli.options import BuildOptions, MethodOptions, OutputOptions, SplitOptions
from proponent.errors import InputError
from proponent.views.inventory import spelled_bytes
from proponent.views.tables import print_table

SIZES = (24, 48, 80, 140)
"""Memory of common GPUs in GB."""

TOKENS = 512
"""Tokens of a text, unless --max-length says so."""


def plan_by_shapes(
    run: Path, method: MethodOptions, building: BuildOptions, model: SplitOptions, output: OutputOptions
) -> None:
    """Print the memory of weights and of a pass over one text, and the GPUs that suffice."""
    if model.device_map is not None or model.device != "auto" or model.max_memory is not None:
        raise InputError(
            "without DATA nothing runs on a device: leave --device, --device-map and --max-memory out, or give DATA"
        )
    from proponent.cost.shapes import cards_needed, scored_by, shape_forecast
    from proponent.models.placement import Placement
    from proponent.models.shapes import model_of_shapes

    dtype = Placement.of("cpu", model.dtype).dtype
    shapes, card = model_of_shapes(run, base=model.base, trust_remote_code=model.trust_remote_code)
    scored = scored_by(method.changed(method.method) if method.method else None, adapter=card.adapter)
    tokens = building.max_length or min(card.max_length or TOKENS, TOKENS)
    try:
        found = shape_forecast(shapes, scored=scored, dtype=dtype, tokens=tokens)
    except (RuntimeError, ValueError, KeyError, TypeError, ArithmeticError) as error:
        raise InputError(
            f"{run}: no pass of this model can be made from its shapes alone (encoder-decoders, mixtures of experts in "
            f"float32, or a damaged config.json: {type(error).__name__}): give DATA, then a few batches are measured"
        ) from error
    cards = {f"{size} GB": cards_needed(shapes, found, size * 10**9) for size in SIZES}
    rows = [
        ("weights", spelled_bytes(found.weights)),
        (f"a pass over one text of {tokens:,} tokens", spelled_bytes(found.text)),
        ("in all", spelled_bytes(found.total)),
        *((f"GPUs of {size}", "too small" if count is None else str(count)) for size, count in cards.items()),
    ]
    what = f"{found.layers:,} layers" if found.layers else "the word embedding"
    output.hint("from config.json alone: time and disk need DATA; batches take more, as far as memory is free")
    output.show(
        lambda: found.to_dict() | {"gpus": cards},
        lambda: print_table(
            Console(),
            f"{run}: {found.parameters:,} parameters in {dtype}, gradients of {what}",
            ("what", "forecast"),
            rows,
        ),
    )
