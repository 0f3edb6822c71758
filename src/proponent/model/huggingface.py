"""The only file that imports transformers (and peft): load models and tokenizers, read what a configuration promises.

Everything that leaves this file is a torch module, a tokenizer behind `Any`, or plain data.
"""

import warnings
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import transformers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    TrainerCallback,
)
from transformers.utils import logging as transformers_logging

from proponent.errors import MissingExtraError, ProponentError, RunError
from proponent.model.batch import Kind
from proponent.model.card import ModelCard, card_of, kind_of, positions
from proponent.model.checkpoints import ADAPTER_FILE, ADAPTER_SETTINGS, base_model, read_settings
from proponent.tensors import TensorSlices

__all__ = [
    "ModelCard",
    "TrainerCallback",
    "first_line",
    "load_model",
    "load_tokenizer",
    "positions",
    "quiet",
    "read_card",
    "transformers",
]

_LOADERS: dict[Kind, Any] = {
    "classification": AutoModelForSequenceClassification,
    "causal-lm": AutoModelForCausalLM,
    "masked-lm": AutoModelForMaskedLM,
    "seq2seq": AutoModelForSeq2SeqLM,
}
_ADAPTED: dict[object, Kind] = {"SEQ_CLS": "classification", "CAUSAL_LM": "causal-lm", "SEQ_2_SEQ_LM": "seq2seq"}
_HEADS = (".classifier.weight", ".score.weight", ".classifier.out_proj.weight")


def quiet() -> None:
    """Keep transformers' own progress bars and hints away from the terminal."""
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()


def read_card(folder: Path, *, trust_remote_code: bool = False) -> ModelCard:
    """Read task head, labels and limits from a checkpoint's configuration."""
    if (folder / ADAPTER_FILE).is_file():
        return _adapter_card(folder, trust_remote_code)
    config = _config(str(folder), trust_remote_code)
    names = cast("list[str]", getattr(config, "architectures", None) or [])
    architecture = names[0] if names else ""
    return card_of(config, architecture, kind_of(folder, architecture, config), adapter=False)


def load_model(folder: Path, card: ModelCard, *, trust_remote_code: bool = False) -> torch.nn.Module:
    """Load one checkpoint in float32 and evaluation mode with every parameter frozen."""
    quiet()
    try:
        model = (
            _load_adapter(folder, card, trust_remote_code)
            if card.adapter
            else _load_plain(folder, card, trust_remote_code)
        )
    except ProponentError:
        raise
    except Exception as error:  # the loaders of the many models, of safetensors and of peft raise whatever they like
        raise RunError(
            f"cannot load the model in {folder}: {first_line(error)}: the weights are damaged, or not of the "
            "architecture that config.json names"
        ) from error
    model.requires_grad_(requires_grad=False)
    return model.float().eval()


def fresh_model(folder: Path, card: ModelCard, *, trust_remote_code: bool = False) -> torch.nn.Module:
    """Make a model of the architecture of a checkpoint, with weights drawn by torch's present seed."""
    if card.adapter:
        raise RunError(
            f"the run in {folder} is a PEFT adapter, and the built-in retrainer trains whole models: "
            "bring your own proponent.evaluate.Retrainer"
        )
    quiet()
    config = _config(str(folder), trust_remote_code)
    made = _LOADERS[card.kind].from_config(config, trust_remote_code=trust_remote_code)
    return cast("torch.nn.Module", made).float()


def starting_model(name: str, folder: Path, card: ModelCard, *, trust_remote_code: bool = False) -> torch.nn.Module:
    """Load the pretrained model from which a run started; what it lacks (a head) is drawn by torch's present seed."""
    quiet()
    options: dict[str, Any] = {"config": _config(str(folder), trust_remote_code), "ignore_mismatched_sizes": True}
    try:
        model, _ = _loaded(name, card.kind, trust_remote_code, **options)
    except Exception as error:  # the loaders of the many models raise whatever they like
        raise RunError(
            f"cannot load the pretrained model {name}: {first_line(error)}: say from which weights the run started "
            "with --initial"
        ) from error
    return model.float()


def pooled_states(model: torch.nn.Module, inputs: dict[str, torch.Tensor]) -> np.ndarray:
    """Mean over the real tokens of the last hidden state."""
    out = model(**inputs, output_hidden_states=True)
    decoding = "decoder_input_ids" in inputs
    found: Any = out.encoder_last_hidden_state if decoding else getattr(out, "hidden_states", None)
    hidden = cast("torch.Tensor", found if decoding else (found or out.decoder_hidden_states)[-1])
    mask = inputs["attention_mask"][:, :, None].float()
    return ((hidden * mask).sum(1) / mask.sum(1).clamp(min=1)).float().numpy()


def check_shift(model: torch.nn.Module, start: int | None, pad: int) -> None:
    """Refuse an encoder-decoder that shifts its targets otherwise than they are shifted here."""
    shift = getattr(model, "prepare_decoder_input_ids_from_labels", None)
    if shift is None:
        return
    probe = [token for token in range(2, 9) if token != pad][:3]
    own = shift(labels=torch.tensor([probe]))[0].tolist()
    wanted = [probe[-1] if start is None else start, *probe[:-1]]
    if own != wanted:
        raise RunError(
            f"{type(model).__name__} shifts its targets in a way of its own ({probe} to {own}): proponent cannot say "
            "which token a gradient belongs to"
        )


def load_tokenizer(folder: Path, *, trust_remote_code: bool = False) -> Any:
    """Load a tokenizer that knows character offsets."""
    quiet()
    try:
        tokenizer = cast("Any", AutoTokenizer).from_pretrained(str(folder), trust_remote_code=trust_remote_code)
    except Exception as error:  # the loaders of the many tokenizer classes raise whatever they like
        raise RunError(
            f"no usable tokenizer in {folder}: {first_line(error)}: save it there with tokenizer.save_pretrained, "
            "or name its folder with --tokenizer"
        ) from error
    if not tokenizer.is_fast:
        raise RunError(
            f"the tokenizer in {folder} ({type(tokenizer).__name__}) knows no character offsets: "
            "save a fast tokenizer (tokenizer.json)"
        )
    return tokenizer


def _config(name: str, trust_remote_code: bool) -> Any:
    try:
        return cast("Any", AutoConfig).from_pretrained(name, trust_remote_code=trust_remote_code)
    except (OSError, ValueError, KeyError) as error:
        if not trust_remote_code and "trust_remote_code" in str(error):
            raise RunError(
                f"{name} brings code of its own, which proponent does not run unasked: read it, then allow it with "
                "--trust-remote-code (trust_remote_code=True)"
            ) from error
        raise RunError(f"cannot read the model configuration in {name}: {first_line(error)}") from error


def _load_plain(folder: Path, card: ModelCard, trust_remote_code: bool) -> torch.nn.Module:
    model, missing = _loaded(str(folder), card.kind, trust_remote_code)
    _require_whole(folder, missing)
    return model


def _loaded(name: str, kind: Kind, trust_remote_code: bool, **options: Any) -> tuple[torch.nn.Module, list[str]]:
    """Load a model from safetensors only; also say which of its weights were not there and are now random."""
    model, report = _LOADERS[kind].from_pretrained(
        name,
        use_safetensors=True,
        trust_remote_code=trust_remote_code,
        dtype=torch.float32,
        output_loading_info=True,
        **options,
    )
    return cast("torch.nn.Module", model), sorted(str(key) for key in report["missing_keys"])


def _require_whole(folder: Path, missing: list[str]) -> None:
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise RunError(f"the weights in {folder} lack {missing[0]}{more}: not a whole checkpoint of this architecture")


def _base(folder: Path) -> str:
    base = base_model(folder)
    if base is None:
        raise RunError(
            f"the adapter in {folder} does not say which base model it belongs to: "
            f"set base_model_name_or_path in {ADAPTER_SETTINGS}"
        )
    return base


def _adapter_card(folder: Path, trust_remote_code: bool) -> ModelCard:
    task = read_settings(folder / ADAPTER_SETTINGS).get("task_type")
    if task not in _ADAPTED:
        raise RunError(
            f"the adapter in {folder} has task type {task}: one of {', '.join(map(str, _ADAPTED))} is needed"
        )
    base = _base(folder)
    config = _config(base, trust_remote_code)
    kind = _ADAPTED[task]
    if kind == "classification":
        config.num_labels = _adapter_labels(folder, base, config)
    return card_of(config, f"PEFT adapter over {base}", kind, adapter=True)


def _adapter_labels(folder: Path, base: str, config: Any) -> int:
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


def _load_adapter(folder: Path, card: ModelCard, trust_remote_code: bool) -> torch.nn.Module:
    try:
        import peft  # optional extra
    except ImportError as error:
        raise MissingExtraError("this run is a PEFT adapter: pip install 'proponent[peft]'") from error
    options: dict[str, Any] = {} if card.label_names is None else {"num_labels": len(card.label_names)}
    model, missing = _loaded(_base(folder), card.kind, trust_remote_code, **options)
    carried = TensorSlices(folder / ADAPTER_FILE).names
    _require_whole(folder, [name for name in missing if not any(one.endswith(f".{name}") for one in carried)])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # what peft and transformers have to settle between them
        return cast("torch.nn.Module", cast("Any", peft).PeftModel.from_pretrained(model, str(folder)))


def first_line(error: BaseException) -> str:
    """Shorten what another library said."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
