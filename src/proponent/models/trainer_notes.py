"""What TRL's trainers were told about tokens and losses: noted by the Recorder, read by `counting` and by tasks."""

import sys
from datetime import date
from typing import Any

JUDGED = frozenset({"dpo", "reward", "kto"})
"""Trainers whose rows are judged answers: batches count no tokens, and pass through a reference model, too."""

_DPO = (
    "beta",
    "loss_type",
    "loss_weights",
    "label_smoothing",
    "f_divergence_type",
    "ld_alpha",
    "use_weighting",
    "sync_ref_model",
    "reference_free",
    "truncation_mode",
)
"""Settings of the DPOTrainer; those that change its loss are refused by name (`tasks/dpo.py`)."""

_KTO = ("beta", "loss_type", "desirable_weight", "undesirable_weight", "sync_ref_model", "dataloader_drop_last")
"""Settings of the loss of the KTOTrainer."""


def trainer_note(args: Any, tokenizer: Any, model: Any) -> dict[str, Any]:
    """The settings of the trainer that these arguments belong to, under its name; empty for other trainers."""
    if hasattr(args, "assistant_only_loss") and hasattr(args, "completion_only_loss"):
        return {"sft": _single(args, tokenizer)}
    if hasattr(args, "precompute_ref_log_probs") and hasattr(args, "desirable_weight"):
        own = {name: getattr(args, name) for name in _KTO if hasattr(args, name)}
        size = {"batch_size": args.per_device_train_batch_size, "processes": args.world_size}
        return {"kto": _common(args, tokenizer) | own | size | {"reference": initial_model(model)}}
    if hasattr(args, "precompute_ref_log_probs") and hasattr(args, "loss_type") and hasattr(args, "beta"):
        own = {name: getattr(args, name) for name in _DPO if hasattr(args, name)}
        return {"dpo": _common(args, tokenizer) | own | {"reference": initial_model(model)}}
    if hasattr(args, "center_rewards_coefficient"):
        return {"reward": _common(args, tokenizer) | {"center_rewards_coefficient": args.center_rewards_coefficient}}
    return {}


def _common(args: Any, tokenizer: Any) -> dict[str, Any]:
    template = getattr(tokenizer, "chat_template", None)
    return {
        "trl": str(getattr(sys.modules.get("trl"), "__version__", "")),
        "template": template if isinstance(template, str | None) else template.get("default"),
        "max_length": getattr(args, "max_length", None),
        "date": date.today().isoformat(),
    }


def _single(args: Any, tokenizer: Any) -> dict[str, Any]:
    """Of the SFTTrainer."""
    note = _common(args, tokenizer)
    if args.assistant_only_loss:  # TRL trains by a template of its own where the tokenizer's has no marks
        known: dict[str, Any] = vars(sys.modules.get("trl.chat_template_utils", sys))
        marked, other = known.get("has_generation_markers"), known.get("get_training_chat_template")
        if marked is not None and other is not None and not marked(note["template"]):
            note["template"] = other(tokenizer) or note["template"]
    packing = str(getattr(args, "packing_strategy", "bfd")) if getattr(args, "packing", False) else ""
    return note | {
        "assistant_only": bool(args.assistant_only_loss),
        "completion_only": args.completion_only_loss,
        "packing": packing,
        "loss_type": getattr(args, "loss_type", None),
    }


def initial_model(model: Any) -> str | None:
    """The model that training began with, which TRL loads once more as the reference; None for an adapter's base."""
    inner = getattr(model, "module", model)
    if hasattr(inner, "peft_config"):
        return None
    return str(getattr(inner.config, "_name_or_path", "")) or None
