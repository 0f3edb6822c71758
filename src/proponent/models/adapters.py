"""PEFT adapters: their base model and class, which are refused and why, and whether an adapter fits its base."""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, cast

from torch import nn

from proponent.errors import RunError
from proponent.models.run_files import read_settings, weights_file
from proponent.models.settings import MOST_LAYERS
from proponent.models.tasks import Task, adapter_tasks, recognise
from proponent.models.weights import ADAPTER_FILE, ADAPTER_SETTINGS, adapter_home, adapters_inside, base_model
from proponent.tensors import TensorSlices

KINDS = ("LORA", "IA3", "TRAINABLE_TOKENS")
"""The kinds of adapters that are read, as PEFT names them."""

_HEADS = (".classifier.weight", ".score.weight", ".classifier.out_proj.weight")
_PROMPTS = frozenset({"PREFIX_TUNING", "P_TUNING", "CPT", "CARTRIDGE", "ADAPTION_PROMPT"})
_VARIANTS = {
    "alora_invocation_tokens": "activated LoRA",
    "arrow_config": "Arrow, which mixes several adapters",
    "kasa_config": "KaSA",
    "megatron_config": "Megatron's parallel layers",
    "monteclora_config": "MonteCLoRA",
    "use_bdlora": "block-diagonal LoRA",
    "use_qalora": "QALoRA",
    "velora_config": "VeLoRA",
}
"""Settings of LoRA that change what an adapter computes and that are not read."""

_PREFIX = "base_model.model."
_PART = re.compile(r"\.(?:lora_|ia3_|token_adapter|trainable_tokens|base_layer|modules_to_save|original_module)")


class Base(NamedTuple):
    """The base model of an adapter."""

    name: str  # a folder, or a name on a hub
    revision: str | None  # on the hub, if the adapter names one

    @property
    def options(self) -> dict[str, Any]:
        """Keyword arguments for loading it."""
        return {} if self.revision is None else {"revision": self.revision}


def adapter_settings(folder: Path) -> dict[str, Any]:
    """Read the settings of the adapter in a folder."""
    return read_settings(_home(folder) / ADAPTER_SETTINGS)


def adapter_weights(folder: Path) -> TensorSlices:
    """Open the weights of the adapter in a folder."""
    return TensorSlices(weights_file(_home(folder) / ADAPTER_FILE))


def base_of(folder: Path, named: str | None = None) -> Base:
    """Find the base model of an adapter; it must exist and be complete."""
    base, settings = base_model(folder, named), _home(folder) / ADAPTER_SETTINGS
    if base is None:
        raise RunError(
            f"the adapter in {folder} does not name its base model: name it with --base (base=), or set "
            f"base_model_name_or_path in {settings}"
        )
    home = Path(base)
    if not home.is_dir() and (home.is_absolute() or base.startswith(".") or base.count("/") > 1):
        raise RunError(
            f"the base model of the adapter in {folder} is no longer at {base}: if it has moved, name its folder with "
            f"--base (base=), or set base_model_name_or_path in {settings}"
        )
    if (home / ADAPTER_SETTINGS).is_file():
        raise RunError(
            f"{base}, the base model of the adapter in {folder}, is an adapter itself: merge it into its own base "
            "first (merge_and_unload), save the result, and name that as the base"
        )
    revision = None if home.is_dir() else read_settings(settings).get("revision")
    return Base(base, revision if isinstance(revision, str) and revision else None)


def adapter_task(folder: Path, settings: dict[str, Any], config: Any) -> type[Task]:
    """Find the task of an adapter: by the type that it names, else by the class that it was trained with."""
    known, kind = adapter_tasks(), settings.get("task_type")
    if kind is not None:
        return known[kind]
    mapped: object = settings.get("auto_mapping")
    mapping = cast("dict[str, object]", mapped) if isinstance(mapped, dict) else {}
    names = cast("list[str]", getattr(config, "architectures", None) or [])
    named = mapping.get("base_model_class") or (names[0] if names else "")
    try:
        return recognise(folder, str(named), config)
    except RunError as error:
        raise RunError(
            f"the adapter in {folder} has no task type, and its base class {named or '(not named)'} has no head that "
            f"proponent supports: set task_type in {_home(folder) / ADAPTER_SETTINGS} to one of "
            f"{', '.join(map(str, known))}"
        ) from error


def refuse_adapter(folder: Path, settings: dict[str, Any]) -> None:
    """Refuse adapters whose gradients are not supported, each with its reason."""
    task, known = settings.get("task_type"), adapter_tasks()
    if task is not None and task not in known:
        raise RunError(f"the adapter in {folder} has task type {task}: one of {', '.join(map(str, known))} is needed")
    kind = str(settings.get("peft_type"))
    if "PROMPT" in kind or kind in _PROMPTS:
        raise RunError(
            f"the adapter in {folder} puts trained vectors before the text or between layers ({kind}), which proponent "
            "does not support, and which cannot be merged into the base: train a LoRA adapter instead"
        )
    variant = next((one for one in _VARIANTS if settings.get(one)), None)
    if kind in KINDS and variant is None:
        return
    what = f"of kind {kind}" if kind not in KINDS else f"{_VARIANTS[str(variant)]} ({variant})"
    raise RunError(
        f"the adapter in {folder} is {what}, which proponent does not read (it reads LoRA, rsLoRA, DoRA and IA3): "
        "merge it (model.merge_and_unload().save_pretrained(folder)) and give that folder"
    )


def adapter_notes(folder: Path, settings: dict[str, Any]) -> list[str]:
    """What a user must know of how an adapter was read."""
    others = [one.name for one in adapters_inside(folder)] if _home(folder) == folder else []
    notes = [f"{folder} also holds adapters {', '.join(others)}: the one in {folder} itself is read"] if others else []
    if settings.get("bias") not in {None, "none"}:
        notes.append(f"the adapter in {folder} also trained biases ({settings['bias']})")
    return notes


def adapter_labels(folder: Path, base: str, config: Any) -> int:
    """The width of the classifier in the adapter's weights, since PEFT saves no label count."""
    slices = adapter_weights(folder)
    heads = [name for name in slices.names if f".{name}".endswith(_HEADS)]
    if heads:
        return slices.shape(heads[-1])[0]
    names = cast("list[str]", getattr(config, "architectures", None) or [])
    if not names or not names[0].endswith(("ForSequenceClassification", "ForTokenClassification")):
        raise RunError(
            f"neither the adapter in {folder} nor its base model {base} contains a trained classifier: train the "
            "adapter with modules_to_save that names the head"
        )
    return int(config.num_labels)


def describe_kind(settings: dict[str, Any]) -> str:
    """Name the kind of an adapter in words."""
    kind = str(settings.get("peft_type"))
    if kind != "LORA":
        return {"IA3": "IA3", "TRAINABLE_TOKENS": "rows of single tokens"}[kind]
    name = ("DoRA" if settings.get("use_dora") else "LoRA") + (" (rsLoRA)" if settings.get("use_rslora") else "")
    return f"{name} of rank {settings.get('r')}"


def resized_rows(folder: Path, settings: dict[str, Any], model: Any, base: str) -> int | None:
    """The number of rows that the base's vocabulary had in training, if it was changed before; None if it was not."""
    table, head = model.get_input_embeddings(), model.get_output_embeddings()
    held = int(table.weight.shape[0])
    homes = {name: one for name, one in model.named_modules() if one is table or (one is head and head is not None)}
    slices = adapter_weights(folder)
    apart = head is not None and head.weight is not table.weight
    whole, parts, heads = set[int](), set[int](), False
    for name in slices.names:
        module, shape = homes.get(_module(name)), slices.shape(name)
        if module is not None and name.endswith("lora_embedding_A"):
            parts.add(shape[1])
        elif module is not None and module is head and name.endswith("lora_B.weight"):
            parts.add(shape[0])
        elif module is not None and name.endswith(".weight") and ".lora_" not in name:
            whole.add(shape[0])
            heads = heads or module is head
    new = sorted(_new_tokens(settings, held))
    rows = bool(new) and (new[0], new[-1] + 1 - held) == (held, len(new))  # the adapter holds each added row
    wanted = max((whole or parts or {token + 1 for token in new}) - {held}, default=held)
    if wanted != held and (whole or rows) and (heads or not apart):
        return wanted
    if wanted != held:
        raise RunError(
            f"the adapter in {folder} was trained over {wanted} tokens and its base {base} has {held}, and the adapter "
            "does not hold the tables of the others: name the base that it was trained on with --base (base=)"
        )
    return None


def refuse_sizes(folder: Path, settings: dict[str, Any]) -> None:
    """Refuse ranks that the weights cannot have, and endless copies of layers, before anything is made from them."""
    slices, path = adapter_weights(folder), _home(folder) / ADAPTER_SETTINGS
    largest = max((size for name in slices.names for size in slices.shape(name)), default=0)
    pattern: object = settings.get("rank_pattern")
    ranks = [settings.get("r"), *(cast("dict[str, object]", pattern).values() if isinstance(pattern, dict) else ())]
    wrong = next((one for one in ranks if isinstance(one, int) and one > largest), None)
    if wrong is not None:
        raise RunError(
            f"{path} states a rank of {wrong:,}, and no side of its weights has more than {largest:,}: they do not "
            "match; copy the whole adapter again"
        )
    copies = settings.get("layer_replication")
    if isinstance(copies, list) and len(cast("list[object]", copies)) > MOST_LAYERS:
        raise RunError(f"{path} repeats {len(cast('list[object]', copies)):,} ranges of layers: the file is damaged")


def base_weights(names: Iterable[str]) -> list[str]:
    """Weights of the base that an adapter's file overwrites, as the base names them."""
    return [name.removeprefix(_PREFIX).replace(".base_layer.", ".").replace(".token_adapter.", ".") for name in names]


def misfit(folder: Path, base: str, model: nn.Module) -> RunError | None:
    """Say which module of an adapter its base lacks, or has in another size."""
    modules = dict(cast("Iterable[tuple[str, nn.Module]]", model.named_modules()))
    slices = adapter_weights(folder)
    other = f"name the base that it was trained on with --base (base=); {base} is another one"
    for name in slices.names:
        home = _module(name)
        if home not in modules:
            return RunError(f"the adapter in {folder} was trained on {home}, which {base} lacks: {other}")
        wanted, held = _sizes(name, slices.shape(name), modules[home])
        if wanted != held:
            return RunError(
                f"the adapter in {folder} was trained on {home} with {wanted} numbers, which has {held} in {base}: "
                f"{other}"
            )
    return None


def _home(folder: Path) -> Path:
    return adapter_home(folder) or folder


def _module(name: str) -> str:
    """The module of the base that a weight of an adapter belongs to."""
    path = name.removeprefix(_PREFIX)
    found = _PART.search(path)
    return path[: found.start()] if found else path.rpartition(".")[0]


def _sizes(name: str, shape: tuple[int, ...], module: Any) -> tuple[int, int]:
    """The width in an adapter's weight, and in the module; equal where they cannot be compared."""
    weight = getattr(module, "weight", None)
    if weight is None or weight.dim() != 2:
        return 0, 0
    ins, outs = sorted(weight.shape), sorted(weight.shape)
    if isinstance(module, nn.Linear):
        ins, outs = [int(weight.shape[1])], [int(weight.shape[0])]
    if name.endswith("lora_A.weight"):
        return _like(shape[1], ins)
    return _like(shape[0], outs) if name.endswith("lora_B.weight") else (0, 0)


def _like(width: int, allowed: list[int]) -> tuple[int, int]:
    return (width, width) if width in allowed else (width, int(allowed[0]))


def _new_tokens(settings: dict[str, Any], held: int) -> Iterator[int]:
    """Tokens beyond the base's vocabulary of which single rows were trained."""
    named: object = settings.get("trainable_token_indices") or settings.get("token_indices") or []
    lists = cast("dict[str, object]", named).values() if isinstance(named, dict) else [named]
    for one in lists:
        yield from {token for token in cast("list[int]", one) if token >= held}
