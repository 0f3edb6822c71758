"""A model split over several devices by accelerate: which module goes where, and what is refused.

A map names a device for every module. It is the user's, or follows from a rule of accelerate's and the memory of the
GPUs, from the shapes of the model alone. Weights are then loaded to their devices, and accelerate's hooks move what
flows between them. Everything here that imports accelerate is for a split model only.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from proponent.errors import InputError, MissingExtraError, first_line
from proponent.foreign_files import Door
from proponent.models.placement import Modules, Placement, device_name, devices, free_bytes, no_room, shown_bytes
from proponent.suggest import nearest

RULES = ("auto", "balanced", "balanced_low_0", "sequential")
"""How accelerate may split a model, by the names that transformers knows."""

WEIGHTS_SHARE = 0.75
"""Share of a GPU's free memory that a rule gives to weights by default; passes need the rest."""

MOST_MAP_BYTES = 2**22
_DOOR = Door(InputError, "give a JSON object of modules and devices")
_OFFLOADED = ("cpu", "disk", "meta")

GivenMap = str | Path | Mapping[str, Any] | Sequence[Any]
"""A rule, a JSON file, or modules with their devices."""

GivenMemory = int | str | Mapping[Any, int | str] | Sequence[Any]
"""Bytes or text such as 20GiB, for every GPU or by GPU."""


def placed(
    device: str = "auto",
    dtype: str = "float32",
    device_map: GivenMap | None = None,
    max_memory: GivenMemory | None = None,
) -> Placement:
    """Choose where a model runs: on one device, or split over several.

    Args:
        device: auto, cpu, cuda, cuda:N or mps, without a map.
        dtype: float32, bfloat16 or float16.
        device_map: a rule (auto, balanced, balanced_low_0, sequential), modules with their devices, or a JSON file of
            these; None for one device.
        max_memory: of a rule, the most bytes of weights per GPU, as a number or as "20GiB", for all or by GPU.

    Returns:
        The placement; a map of it is checked, or made, once the model is known.

    Raises:
        InputError: a device or a rule does not exist, or the map cannot be used here.
        MissingExtraError: accelerate is not installed.
    """
    if device_map is None:
        if max_memory is not None:
            raise InputError("--max-memory (max_memory=) limits a split model: add --device-map auto (device_map=)")
        return Placement.of(device, dtype)
    if device != "auto":
        raise InputError(f"--device {device} and --device-map (device_map=) exclude each other: leave one out")
    _accelerate()
    plain, known = Placement.of("auto", dtype), devices()
    wanted = _rule_or_modules(device_map)
    if isinstance(wanted, str):
        return _of_rule(plain, wanted, known, max_memory)
    if max_memory is not None:
        raise InputError(
            "--max-memory (max_memory=) is for a rule such as auto: a map of modules says itself what goes where"
        )
    modules = tuple((name, _existing(name, given, known)) for name, given in wanted.items())
    _refuse_offload(modules)
    return replace(plain, device=modules[0][1], device_map=modules)


def settled(placement: Placement, model: nn.Module | None, folder: Path) -> Placement:
    """Make or check the map of a model that has shapes only; batches go to the device of its word embedding."""
    if placement.device_map is None:
        return placement
    if model is None:
        raise InputError(
            f"the model in {folder} cannot be created without its weights, so that no map can be made for it: leave "
            "--device-map out (device_map=)"
        )
    whole = whole_layers(model)
    if isinstance(placement.device_map, str):
        modules = _inferred(placement, placement.device_map, model, sorted({type(one).__name__ for _, one in whole}))
    else:
        modules = tuple(_spread(dict(placement.device_map), model).items())
    by_module = dict(modules)
    _refuse_torn(by_module, whole)
    _refuse_untied(by_module, model)
    if not isinstance(placement.device_map, str):
        _require_room(by_module, model, placement.precision)
    embedding = cast("Any", model).get_input_embeddings()
    at = next(name for name, one in _named(model) if one is embedding)
    return replace(placement, device=device_at(by_module, at), device_map=modules, max_memory=())


def place(model: nn.Module, placement: Placement) -> nn.Module:
    """Put a model where it runs: on one device, or on those of its map, with accelerate's hooks between them."""
    if placement.device_map is None:
        return placement.put(model)
    assert not isinstance(placement.device_map, str)
    inner: Any = getattr(model, "get_base_model", lambda: model)()
    try:
        placement.cast(model)
        _accelerate().dispatch_model(
            inner,
            device_map=dict(placement.device_map),
            main_device=placement.device,
            skip_keys=getattr(inner, "_skip_keys_device_placement", None),
        )
    except torch.OutOfMemoryError as error:
        raise InputError(no_room(placement.name, model)) from error
    return model


def without_hooks(model: nn.Module) -> nn.Module:
    """A model where it was loaded to, without accelerate's hooks: copies of its modules must not run another's."""
    if getattr(model, "hf_device_map", None) is None:
        return model
    _accelerate().hooks.remove_hook_from_submodules(model)
    del cast("Any", model).hf_device_map
    for _, one in _named(model):
        own = vars(one).get("forward")
        if getattr(own, "__self__", None) is one:  # the class's own, bound: a copy would run this module's
            del vars(one)["forward"]
    return model


def device_at(modules: Mapping[str, str], name: str) -> str:
    """The device of a module or a parameter: that of the closest module around it that the map names."""
    while name and name not in modules:
        name = name.rpartition(".")[0]
    return modules[name]


def module_bytes(model: nn.Module, dtype: torch.dtype, modules: Mapping[str, str] | None = None) -> dict[str, int]:
    """Bytes of weights and buffers per device, from shapes; without a map, of all together under ""."""
    found: dict[str, int] = {}
    for name, one in _tensors(model):
        at = "" if modules is None else device_at(modules, name)
        found[at] = found.get(at, 0) + one.numel() * (dtype if one.is_floating_point() else one.dtype).itemsize
    return found


def whole_layers(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """Layers that must stay on one device: what the model says, the items of its stacks, and what sums embeddings."""
    said = set(cast("Iterable[str]", getattr(model, "_no_split_modules", None) or ()))
    stacked = [one for _, one in _named(model) if isinstance(one, nn.ModuleList)]
    items = {id(child) for one in stacked for child in one.children()}
    embedding = cast("Any", model).get_input_embeddings()
    found = [(name, one) for name, one in _named(model) if type(one).__name__ in said or id(one) in items]
    for name, one in _named(model):
        sums = any(child is embedding for child in one.children())
        if name and sums and not any(isinstance(each, nn.ModuleList) for each in one.modules()):
            found.append((name, one))
    return found


def unsplit_bytes(model: nn.Module, dtype: torch.dtype) -> list[int]:
    """Bytes of what stays together on one device, in the order of the model."""
    names = [name for name, _ in whole_layers(model)]
    units = _spread(dict.fromkeys(["", *names], "cpu"), model)
    by_unit = module_bytes(model, dtype, {name: name for name in units})
    return [by_unit[name] for name in units if name in by_unit]


def _split(
    model: nn.Module, rule: str, memory: Mapping[int, int], dtype: torch.dtype, whole: Sequence[str]
) -> dict[str, str]:
    lib, named = _accelerate(), {"no_split_module_classes": list(whole), "dtype": dtype}
    found: dict[str, Any] = {}
    if rule != "sequential":
        most = lib.utils.get_balanced_memory(model, dict(memory), low_zero=rule == "balanced_low_0", **named)
        found = lib.infer_auto_device_map(model, most, **named)
    if not found or "disk" in found.values():  # a balance may leave too little for a large table
        found = lib.infer_auto_device_map(model, dict(memory), **named)
    return {name: f"cuda:{at}" if isinstance(at, int) else str(at) for name, at in found.items()}


def _accelerate() -> Any:
    """The library, which is an optional extra."""
    try:
        return cast("Any", import_module("accelerate"))
    except ImportError as error:
        raise MissingExtraError(
            "a model is split over devices by accelerate, which is not installed: pip install 'proponent[train]', or "
            "leave --device-map out (device_map=)"
        ) from error


def _rule_or_modules(given: GivenMap) -> str | dict[str, Any]:
    """A rule by its name, or modules with devices as they were given."""
    if isinstance(given, Mapping):
        content: object = dict(given)
    elif isinstance(given, str | Path):
        if str(given) in RULES:
            return str(given)
        content = _read(Path(given))
    else:
        content = dict(given)
    if not isinstance(content, dict) or not content:
        raise InputError(f"--device-map (device_map=) is {given!r}: {_DOOR.way_out}, or one of {', '.join(RULES)}")
    return {str(name): at for name, at in cast("dict[Any, Any]", content).items()}


def _read(path: Path) -> object:
    if not path.is_file():
        raise InputError(
            f"--device-map {str(path)!r}{nearest(str(path), RULES)}: it is neither a rule ({', '.join(RULES)}) nor a "
            "JSON file of modules and devices"
        )
    with _DOOR.open(path, most=MOST_MAP_BYTES) as file:
        try:
            return json.loads(file.read())
        except ValueError as error:
            raise InputError(f"{path} is not JSON ({first_line(error)}): {_DOOR.way_out}") from error


def _existing(module: str, given: object, known: Sequence[str]) -> str:
    """A device of a map by torch's name."""
    named = f"cuda:{given}" if isinstance(given, int) else str(given)
    named = "cuda:0" if named == "cuda" else named
    if named not in known and named not in _OFFLOADED:
        raise InputError(
            f"--device-map (device_map=) puts {module or 'the model'} on {given!r}: this machine has {', '.join(known)}"
        )
    return named


def _refuse_offload(modules: Modules) -> None:
    used = dict.fromkeys(at for _, at in modules)
    for away in ("disk", "meta"):
        if away in used:
            name = next(name for name, at in modules if at == away)
            raise InputError(
                f"--device-map (device_map=) puts {name or 'the model'} on {away}: weights that are not in memory give "
                "no gradients, and are refused; use more GPUs, --dtype bfloat16, or --device cpu"
            )
    if "cpu" in used and len(used) > 1:
        name = next(name for name, at in modules if at == "cpu")
        raise InputError(
            f"--device-map (device_map=) puts {name} on the CPU beside a GPU: accelerate then holds its weights on no "
            "device between passes, where gradients need them; use more GPUs, --dtype bfloat16, or --device cpu"
        )


def _of_rule(plain: Placement, rule: str, known: Sequence[str], given: GivenMemory | None) -> Placement:
    """A rule is for GPUs; without one, the model is on the CPU, as transformers does it."""
    cards = [one for one in known if one.startswith("cuda")]
    if not cards:
        return replace(plain, device="cpu")
    return replace(plain, device_map=rule, max_memory=_memory(given, cards))


def _memory(given: GivenMemory | None, cards: Sequence[str]) -> tuple[tuple[str, int], ...]:
    """Bytes of weights per GPU."""
    if given is None:
        free = [(one, free_bytes(torch.device(one)) or 0) for one in cards]
        return tuple((one, int(WEIGHTS_SHARE * size)) for one, size in free)
    if isinstance(given, int | str):
        return tuple((one, _size(given)) for one in cards)
    by_card = dict(cast("Any", given))
    found = {
        f"cuda:{name}" if isinstance(name, int) or str(name).isdigit() else str(name): size
        for name, size in by_card.items()
    }
    for name in found:
        if name not in cards:
            raise InputError(
                f"--max-memory (max_memory=) names {name!r}: the GPUs of this machine are {', '.join(cards)}; weights "
                "are kept nowhere else"
            )
    return tuple((one, _size(found[one])) for one in cards if one in found)


def _size(given: int | str) -> int:
    try:
        found = given if isinstance(given, int) else int(_accelerate().utils.convert_file_size_to_int(given))
    except ValueError as error:
        raise InputError(f"--max-memory (max_memory=) is {given!r}: give bytes, or a size such as 20GiB") from error
    if found <= 0:
        raise InputError(f"--max-memory (max_memory=) is {given!r}: give a size above 0, such as 20GiB")
    return found


def _inferred(placement: Placement, rule: str, model: nn.Module, whole: Sequence[str]) -> Modules:
    memory = dict(placement.max_memory)
    numbered = {int(name[5:]): size for name, size in memory.items()}
    found = _split(model, rule, numbered, placement.precision, whole)
    away = [name for name, at in found.items() if at in _OFFLOADED]
    if away:
        (needed,) = module_bytes(model, placement.precision).values()
        own = sum(
            one.numel() * placement.precision.itemsize
            for name, one in _tensors(model)
            if f"{name}.".startswith(f"{away[0]}.")
        )
        listed = ", ".join(f"{name} {shown_bytes(size)}" for name, size in memory.items())
        raise InputError(
            f"the model of {shown_bytes(needed)} does not fit: no room is left for {away[0]} ({shown_bytes(own)}) and "
            f"what follows it, with {listed} for weights: use more or larger GPUs, --dtype bfloat16 (dtype=), a larger "
            "--max-memory (max_memory=), or --device cpu"
        )
    return tuple(found.items())


def _spread(modules: Mapping[str, str], model: nn.Module) -> dict[str, str]:
    """The same map with modules that do not contain each other: accelerate reads "" and nested names otherwise."""
    known = [name for name, _ in _named(model)]
    for name in modules:
        if name not in known:
            raise InputError(
                f"--device-map (device_map=) names {name!r}, which {type(model).__name__} does not have"
                f"{nearest(name, known)}"
            )
    found: dict[str, str | None] = {}
    _walk("", model, None, modules, found)
    missing = [name for name, at in found.items() if at is None]
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise InputError(
            f'--device-map (device_map=) has no device for {", ".join(missing[:3])}{more}: add these modules, or "" '
            "for all others"
        )
    return {name: at for name, at in found.items() if at is not None}


def _walk(
    name: str, module: nn.Module, at: str | None, modules: Mapping[str, str], found: dict[str, str | None]
) -> None:
    at, within = modules.get(name, at), f"{name}." if name else ""
    if not any(one != name and one.startswith(within) for one in modules):
        if any(True for _ in module.parameters()) or any(True for _ in module.buffers()):
            found[name] = at
        return
    for own, _ in (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)):
        found[f"{within}{own}"] = at
    for own, child in module.named_children():
        _walk(f"{within}{own}", child, at, modules, found)


def _refuse_torn(modules: Mapping[str, str], whole: Iterable[tuple[str, nn.Module]]) -> None:
    """Refuse a map that splits what adds up its own parts."""
    for name, one in whole:
        used = sorted({device_at(modules, f"{name}.{own}") for own, _ in _tensors(one)})
        if len(used) > 1:
            raise InputError(
                f"--device-map (device_map=) splits {name} ({type(one).__name__}) over {' and '.join(used)}: its parts "
                "are added to each other, so put it on one device"
            )


def _refuse_untied(modules: Mapping[str, str], model: nn.Module) -> None:
    """Refuse a map that puts the uses of one table on several devices."""
    homes: dict[int, str] = {}
    named = cast("Iterable[tuple[str, nn.Parameter]]", model.named_parameters(remove_duplicate=False))
    for name, one in named:
        first = homes.setdefault(id(one), name)
        at, other = device_at(modules, first), device_at(modules, name)
        if at != other:
            raise InputError(
                f"--device-map (device_map=) puts {first} on {at} and {name} on {other}, and they are one table: put "
                "both on one device"
            )


def _require_room(modules: Mapping[str, str], model: nn.Module, dtype: torch.dtype) -> None:
    """Require that what a map puts on a device fits there."""
    for device, size in module_bytes(model, dtype, modules).items():
        free = free_bytes(torch.device(device))
        if free is None or size <= free:
            continue
        taken, first = 0, ""
        for name, one in _tensors(model):
            taken += one.numel() * dtype.itemsize if device_at(modules, name) == device else 0
            if taken > free:
                first = name.rpartition(".")[0]
                break
        raise InputError(
            f"{device_name(device)} has {shown_bytes(free)} free, and --device-map (device_map=) puts "
            f"{shown_bytes(size)} of weights there: there is no room from {first} on; move modules to another device, "
            "or take --dtype bfloat16 (dtype=)"
        )


def _named(model: nn.Module) -> list[tuple[str, nn.Module]]:
    return list(cast("Iterable[tuple[str, nn.Module]]", model.named_modules()))


def _tensors(model: nn.Module) -> list[tuple[str, torch.Tensor]]:
    return [*model.named_parameters(), *model.named_buffers()]
