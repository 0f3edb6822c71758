"""PEFT adapters: their base model and class, and which adapters are refused and why."""

from pathlib import Path
from typing import Any, cast

from proponent.errors import RunError
from proponent.models.tasks import Task, adapter_tasks, recognise
from proponent.models.weights import ADAPTER_FILE, ADAPTER_SETTINGS, base_model
from proponent.tensors import TensorSlices

_HEADS = (".classifier.weight", ".score.weight", ".classifier.out_proj.weight")
MERGE = (
    ", which proponent does not read: merge it (model.merge_and_unload().save_pretrained(folder)) and give that folder"
)


def base_of(folder: Path) -> str:
    """Find the base model of an adapter; it must exist and be complete."""
    base = base_model(folder)
    if base is None:
        raise RunError(
            f"the adapter in {folder} does not name its base model: set base_model_name_or_path in {ADAPTER_SETTINGS}"
        )
    home = Path(base)
    if not home.is_dir() and (home.is_absolute() or base.startswith(".") or base.count("/") > 1):
        raise RunError(
            f"the base model of the adapter in {folder} is no longer at {base}: if it has moved, set "
            f"base_model_name_or_path in {folder / ADAPTER_SETTINGS}"
        )
    if (home / ADAPTER_SETTINGS).is_file():
        raise RunError(
            f"{base}, the base model of the adapter in {folder}, is an adapter itself: merge it into its own base "
            "first (merge_and_unload), save the result, and name that as the base"
        )
    return base


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
            f"proponent supports: set task_type in {folder / ADAPTER_SETTINGS} to one of {', '.join(map(str, known))}"
        ) from error


def refuse_adapter(folder: Path, settings: dict[str, Any]) -> None:
    """Refuse adapters whose gradients are not supported, each with its reason."""
    task, known = settings.get("task_type"), adapter_tasks()
    if task is not None and task not in known:
        raise RunError(f"the adapter in {folder} has task type {task}: one of {', '.join(map(str, known))} is needed")
    kind = str(settings.get("peft_type"))
    if "PROMPT" in kind or kind in {"PREFIX_TUNING", "P_TUNING", "CPT"}:
        raise RunError(
            f"the adapter in {folder} puts trained vectors before the text ({kind}), which proponent does not "
            "support: train a LoRA adapter instead"
        )
    if settings.get("trainable_token_indices"):
        raise RunError(
            f"the adapter in {folder} trains single rows of the word embedding (trainable_token_indices)" + MERGE
        )


def adapter_labels(folder: Path, base: str, config: Any) -> int:
    """The width of the classifier in the adapter's weights, since PEFT saves no label count."""
    slices = TensorSlices(folder / ADAPTER_FILE)
    heads = [name for name in slices.names if f".{name}".endswith(_HEADS)]
    if heads:
        return slices.shape(heads[-1])[0]
    names = cast("list[str]", getattr(config, "architectures", None) or [])
    if not names or not names[0].endswith("ForSequenceClassification"):
        raise RunError(
            f"neither the adapter in {folder} nor its base model {base} contains a trained classifier: train the "
            "adapter with modules_to_save that names the head"
        )
    return int(config.num_labels)
