"""The loss that a language model was trained with: plain-text loss cannot explain a run of DPO or of rewards."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

from proponent.errors import RunError
from proponent.models import axolotl
from proponent.models.former import RUN_FILE, recorded
from proponent.models.run_files import read_card, read_settings

_LOGGED = {
    "rewards of completions (GRPO or RLOO)": ("reward_std", "frac_reward_zero_std", "completions/mean_length"),
    "rewards of sampled answers (PPO)": (
        "objective/kl",
        "objective/rlhf_reward",
        "ppo/mean_scores",
        "policy/approxkl_avg",
    ),
    "preferences with an odds ratio (ORPO)": ("log_odds_ratio", "log_odds_chosen"),
    "desirable and undesirable answers (KTO)": ("rewards/chosen_sum", "logps/chosen_sum", "count/chosen"),
    "preferences (DPO or a similar method)": (
        "rewards/chosen",
        "rewards/margins",
        "rewards/accuracies",
        "logps/rejected",
    ),
}
"""Objectives by figures that only their trainers log; earlier entries first, as some also log those of later ones."""

_TAGS = {
    "preferences (DPO)": {"dpo", "online-dpo", "xpo", "nash-md", "bco", "cpo"},
    "preferences with an odds ratio (ORPO)": {"orpo"},
    "desirable and undesirable answers (KTO)": {"kto"},
    "rewards of sampled answers (PPO, GRPO or RLOO)": {"ppo", "grpo", "rloo"},
    "rewards (a reward model)": {"reward-trainer", "prm", "prm-trainer"},
    "a teacher's outputs (GKD)": {"gkd"},
}
"""Objectives by the tags that TRL writes into the model card of a run, in addition to its own tag."""

_CARDS = {"reward": "reward-trainer"}
"""Tags of trainers in model cards, where they differ from the names here."""

_DFT = re.compile(r"^[ \t]*loss_type:[ \t]*[\"']?dft\b", re.MULTILINE)
_SMOOTHED = re.compile(
    r"^(?:[ \t]*-)?[ \t]*label_smoothing_factor:[ \t]*([0-9]+(?:\.[0-9]*)?(?:e-?[0-9]+)?)[ \t]*$", re.MULTILINE
)
_HEAD = re.compile(r"\A---\n(.*?)\n---", re.DOTALL)
_TAG = re.compile(r"^[ \t]*-[ \t]*([\w-]+)[ \t]*$", re.MULTILINE)


def refuse_objective(folder: Path, checkpoints: Sequence[Path]) -> None:
    """Refuse a language model whose run was trained with another loss than that of its text."""
    for home in dict.fromkeys([checkpoints[-1], folder]):
        found = _by_log(home) or _by_card(home) or _by_record(home) or _by_axolotl(home)
        if found is not None:
            objective, source = found
            stated = f'{{"dpo": {{"beta": 0.1}}}} in {folder / RUN_FILE}'
            raise RunError(
                f"{folder} was trained on {objective} (according to {source}), but proponent explains the loss of "
                "text: use the run of the earlier fine-tuning (SFT); to explain the loss of text of this model "
                "anyway, copy weights, config.json and tokenizer into a separate folder"
                + (f"; if TRL's DPOTrainer trained it, say so with {stated}" if "(DPO" in objective else "")
            )


def refuse_smoothing(folder: Path, checkpoints: Sequence[Path]) -> None:
    """Refuse a run whose Trainer smoothed its labels, by the Recorder's note or the model card."""
    for home in dict.fromkeys([folder, checkpoints[-1]]):
        record, card = recorded(home, RUN_FILE), home / "README.md"
        noted: object = read_settings(record).get("label_smoothing_factor") if record.is_file() else None
        said = _SMOOTHED.search(read_card(card))
        found = ((noted, record), (said and float(said[1]), card))
        value, source = next(((value, path) for value, path in found if value), (None, record))
        if value is not None:
            raise RunError(
                f"{folder} was trained with smoothed labels (label_smoothing_factor {value} in {source}), which is "
                "another loss than proponent explains: train without; to explain the loss without smoothing anyway, "
                "set it to 0 there"
            )


class Training(NamedTuple):
    """What the files of a run say about the trainer."""

    settings: Mapping[str, Any]  # as the Recorder noted them; empty if only the trainer is known
    source: str  # the file that says so


def training_of(homes: Sequence[Path], trainer: str) -> Training | None:
    """Whether a trainer of TRL trained a run, by the Recorder's note, or by the tags of the model card."""
    for home in homes:
        record = recorded(home, RUN_FILE)
        noted: object = read_settings(record).get(trainer) if record.is_file() else None
        if isinstance(noted, dict):
            return Training(cast("dict[str, Any]", noted), str(record))
    for home in homes:
        path = home / "README.md"
        if {"trl", _CARDS.get(trainer, trainer)} <= _tags(path):
            return Training({}, str(path))
    return None


def _by_axolotl(folder: Path) -> tuple[str, str] | None:
    settings = axolotl.settings_of(folder)
    found = None if settings is None else axolotl.other_loss(settings)
    return None if found is None else ("another loss than that of single rows", f"{found}, in {folder / axolotl.CARD}")


def _by_log(folder: Path) -> tuple[str, str] | None:
    path = folder / "trainer_state.json"
    state: dict[str, Any] = read_settings(path) if path.is_file() else {}
    history = state.get("log_history")
    names: set[str] = set()
    for entry in cast("list[object]", history) if isinstance(history, list) else []:
        names |= set(cast("dict[str, object]", entry)) if isinstance(entry, dict) else set()
    for objective, figures in _LOGGED.items():
        found = next((one for one in figures if one in names or f"eval_{one}" in names), None)
        if found is not None:
            return objective, f"{found} in {path}"
    return None


def _by_record(folder: Path) -> tuple[str, str] | None:
    """A loss of TRL's SFTTrainer that weighs tokens by the model's own probabilities."""
    record, card = recorded(folder, RUN_FILE), folder / "README.md"
    held = read_settings(record) if record.is_file() else {}
    if "kto" in held:
        return "desirable and undesirable answers (KTO)", f"kto in {record}"
    noted: object = held.get("sft")
    if isinstance(noted, dict) and cast("dict[str, object]", noted).get("loss_type") == "dft":
        return "reweighted tokens (loss_type dft)", f"loss_type in {record}"
    if _DFT.search(read_card(card)):
        return "reweighted tokens (loss_type dft)", f"loss_type in {card}"
    return None


def _tags(path: Path) -> set[str]:
    """The tags of a model card; none if there is no card."""
    head = _HEAD.match(read_card(path).replace("\r\n", "\n"))
    return set() if head is None else {one.lower() for one in _TAG.findall(head[1])}


def _by_card(folder: Path) -> tuple[str, str] | None:
    path = folder / "README.md"
    tags = _tags(path)
    for objective, names in _TAGS.items():
        if "trl" in tags and tags & names:
            return objective, f"the tag {min(tags & names)} in {path}"
    return None
