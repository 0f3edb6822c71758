"""PEFT adapters: over which base model and class, and which of them are refused and why."""

from pathlib import Path
from typing import Any, cast

from proponent.errors import RunError
from proponent.models.batch import Kind
from proponent.models.info import kind_of
from proponent.models.weights import ADAPTER_FILE, ADAPTER_SETTINGS, base_model
from proponent.tensors import TensorSlices

ADAPTED: dict[object, Kind] = {"SEQ_CLS": "classification", "CAUSAL_LM": "causal-lm", "SEQ_2_SEQ_LM": "seq2seq"}
_HEADS = (".classifier.weight", ".score.weight", ".classifier.out_proj.weight")
MERGE = (
    ", which proponent does not read: merge it (model.merge_and_unload().save_pretrained(folder)) and give that folder"
)


def base_of(folder: Path) -> str:
    """Find the base model of an adapter, which must be there and whole."""
    base = base_model(folder)
    if base is None:
        raise RunError(
            f"the adapter in {folder} does not say which base model it belongs to: "
            f"set base_model_name_or_path in {ADAPTER_SETTINGS}"
        )
    home = Path(base)
    if not home.is_dir() and (home.is_absolute() or base.startswith(".") or base.count("/") > 1):
        raise RunError(
            f"the base model of the adapter in {folder} is not at {base} any more: if it has moved, set "
            f"base_model_name_or_path in {folder / ADAPTER_SETTINGS}"
        )
    if (home / ADAPTER_SETTINGS).is_file():
        raise RunError(
            f"{base}, the base model of the adapter in {folder}, is an adapter itself: merge it into its own base "
            "first (merge_and_unload), save the result, and name that as the base"
        )
    return base


def kind_of_base(folder: Path, settings: dict[str, Any], config: Any) -> Kind:
    """An adapter without a task type says over which class it was trained."""
    mapped: object = settings.get("auto_mapping")
    known = cast("dict[str, object]", mapped) if isinstance(mapped, dict) else {}
    names = cast("list[str]", getattr(config, "architectures", None) or [])
    named = known.get("base_model_class") or (names[0] if names else "")
    try:
        return kind_of(folder, str(named), config)
    except RunError as error:
        raise RunError(
            f"the adapter in {folder} has no task type, and its base class {named or '(not named)'} has no head that "
            f"proponent knows: set task_type in {folder / ADAPTER_SETTINGS} to one of {', '.join(map(str, ADAPTED))}"
        ) from error


def refuse_adapter(folder: Path, settings: dict[str, Any]) -> None:
    """Adapters whose gradients are not taken, each by its reason."""
    kind = str(settings.get("peft_type"))
    if "PROMPT" in kind or kind in {"PREFIX_TUNING", "P_TUNING", "CPT"}:
        raise RunError(
            f"the adapter in {folder} puts trained vectors before the text ({kind}), which proponent does not support: "
            "LoRA and its kin are"
        )
    if settings.get("trainable_token_indices"):
        raise RunError(
            f"the adapter in {folder} trains single rows of the word embedding (trainable_token_indices)" + MERGE
        )


def adapter_labels(folder: Path, base: str, config: Any) -> int:
    """The width of the classifier that the adapter carries, since PEFT saves no label count."""
    slices = TensorSlices(folder / ADAPTER_FILE)
    heads = [name for name in slices.names if f".{name}".endswith(_HEADS)]
    if heads:
        return slices.shape(heads[-1])[0]
    names = cast("list[str]", getattr(config, "architectures", None) or [])
    if not names or not names[0].endswith("ForSequenceClassification"):
        raise RunError(
            f"neither the adapter in {folder} nor its base model {base} holds a trained classifier: "
            "train the adapter with modules_to_save that names the head"
        )
    return int(config.num_labels)
