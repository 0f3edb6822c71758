"""The only file that imports transformers (and peft): load models and tokenizers, read their configurations.

Everything that this file returns is a torch module, a tokenizer typed as `Any`, or plain data.
"""

import warnings
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
import transformers
from transformers import AutoConfig, AutoTokenizer, TrainerCallback
from transformers.utils import logging as transformers_logging

from proponent.errors import MissingExtraError, ProponentError, RunError
from proponent.models.adapters import MERGE, adapter_labels, adapter_task, base_of, refuse_adapter
from proponent.models.info import ModelInfo, model_info, positions
from proponent.models.settings import check_numbers, read_settings
from proponent.models.tasks import Task, recognise
from proponent.models.weights import ADAPTER_FILE, ADAPTER_SETTINGS, CONFIG_FILE, require_weights, weight_files
from proponent.tensors import TensorSlices

__all__ = [
    "ModelInfo",
    "TrainerCallback",
    "first_line",
    "load_model",
    "load_tokenizer",
    "positions",
    "quiet",
    "read_model_info",
    "transformers",
]

MOST_PER_BYTE, MOST_BESIDE = 8, 2**26
"""Maximum numbers of a model per byte of its files (packed weights hold several in a byte), and extra for buffers."""

_OLD_NAMES = frozenset({"T5WithLMHeadModel"})
"""Classes of earlier versions of transformers that have another name now."""


def quiet() -> None:
    """Suppress transformers' own progress bars and hints."""
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()


def read_model_info(folder: Path, *, trust_remote_code: bool = False) -> ModelInfo:
    """Read task head, labels and limits from a checkpoint's configuration."""
    if (folder / ADAPTER_FILE).is_file():
        return _adapter_card(folder, trust_remote_code)
    config = _config(str(folder), trust_remote_code)
    names = cast("list[str]", getattr(config, "architectures", None) or [])
    architecture = names[0] if names else ""
    return model_info(config, architecture, recognise(folder, architecture, config), adapter=False)


def load_model(folder: Path, card: ModelInfo, *, trust_remote_code: bool = False) -> torch.nn.Module:
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
    except Exception as error:  # the loaders of models, safetensors and peft may raise anything
        raise RunError(
            f"cannot load the model in {folder}: {first_line(error)}: the weights are damaged, or do not match the "
            "architecture in config.json"
        ) from error
    model.requires_grad_(requires_grad=False)
    return model.float().eval()


def fresh_model(folder: Path, card: ModelInfo, *, trust_remote_code: bool = False) -> torch.nn.Module:
    """Create a model with a checkpoint's architecture, and weights drawn from torch's current random state."""
    if card.adapter:
        raise RunError(
            f"the run in {folder} is a PEFT adapter, and the built-in retrainer trains only complete models: use your "
            "own proponent.evaluate.Retrainer"
        )
    quiet()
    config = _config(str(folder), trust_remote_code)
    made = _loader(card.task).from_config(config, trust_remote_code=trust_remote_code)
    return cast("torch.nn.Module", made).float()


def starting_model(name: str, folder: Path, card: ModelInfo, *, trust_remote_code: bool = False) -> torch.nn.Module:
    """Load the pretrained model of a run; missing weights (a head) are drawn from torch's current random state."""
    quiet()
    options: dict[str, Any] = {"config": _config(str(folder), trust_remote_code), "ignore_mismatched_sizes": True}
    try:
        model, _ = _loaded(name, card.task, trust_remote_code, **options)
    except Exception as error:  # the loaders of models may raise anything
        raise RunError(
            f"cannot load the pretrained model {name}: {first_line(error)}: give the initial weights of the run with "
            "--initial"
        ) from error
    return model.float()


def pooled_states(model: torch.nn.Module, inputs: dict[str, torch.Tensor]) -> np.ndarray:
    """Mean of the last hidden state over real tokens."""
    out = model(**inputs, output_hidden_states=True)
    decoding = "decoder_input_ids" in inputs
    found: Any = out.encoder_last_hidden_state if decoding else getattr(out, "hidden_states", None)
    hidden = cast("torch.Tensor", found if decoding else (found or out.decoder_hidden_states)[-1])
    mask = inputs["attention_mask"][:, :, None].float()
    return ((hidden * mask).sum(1) / mask.sum(1).clamp(min=1)).float().numpy()


def check_shift(model: torch.nn.Module, start: int | None, pad: int) -> None:
    """Refuse an encoder-decoder that shifts its targets differently from this library."""
    shift = getattr(model, "prepare_decoder_input_ids_from_labels", None)
    if shift is None:
        return
    probe = [token for token in range(2, 9) if token != pad][:3]
    own = shift(labels=torch.tensor([probe]))[0].tolist()
    wanted = [probe[-1] if start is None else start, *probe[:-1]]
    if own != wanted:
        raise RunError(
            f"{type(model).__name__} shifts its targets in an unknown way ({probe} to {own}): proponent cannot assign "
            "gradients to tokens"
        )


def load_tokenizer(folder: Path, *, trust_remote_code: bool = False) -> Any:
    """Load a tokenizer that supports character offsets."""
    quiet()
    _check_own(folder, trust_remote_code)
    _refuse_code(folder / "tokenizer_config.json", trust_remote_code)
    try:
        tokenizer = cast("Any", AutoTokenizer).from_pretrained(str(folder), trust_remote_code=trust_remote_code)
    except Exception as error:  # the loaders of tokenizers may raise anything
        raise RunError(
            f"no usable tokenizer in {folder}: {first_line(error)}: save it there with tokenizer.save_pretrained, "
            "or name its folder with --tokenizer"
        ) from error
    if not tokenizer.is_fast:
        raise RunError(
            f"the tokenizer in {folder} ({type(tokenizer).__name__}) has no character offsets: "
            "save a fast tokenizer (tokenizer.json)"
        )
    return tokenizer


def _check_own(folder: Path, trust_remote_code: bool) -> None:
    """Check a configuration on disk before anything is created from it."""
    path = folder / CONFIG_FILE
    if path.is_file():
        attention = check_numbers(path).get("attn_implementation")
        if isinstance(attention, str) and "/" in attention and not trust_remote_code:
            raise RunError(
                f"{path} uses attention code from a hub ({attention[:100]}), which is not run by default: allow it "
                "with --trust-remote-code (trust_remote_code=True), or take attn_implementation out"
            )
        _refuse_code(path, trust_remote_code)


def _refuse_code(path: Path, trust_remote_code: bool) -> None:
    """Refuse code that comes with a model unless it is allowed: without its code, it would be another model."""
    code = read_settings(path).get("auto_map") if path.is_file() and not trust_remote_code else None
    if code:
        raise RunError(
            f"{path.parent} contains custom code (auto_map in {path.name}), which is not run by default: "
            "read it, then allow it with --trust-remote-code (trust_remote_code=True); if the model was trained "
            "without that code, take auto_map out"
        )


def _config(name: str, trust_remote_code: bool) -> Any:
    _check_own(Path(name), trust_remote_code)
    try:
        return cast("Any", AutoConfig).from_pretrained(name, trust_remote_code=trust_remote_code)
    except (OSError, ValueError, KeyError) as error:
        if not trust_remote_code and "trust_remote_code" in str(error):
            raise RunError(
                f"{name} contains custom code, which is not run by default: review it, then allow it with "
                "--trust-remote-code (trust_remote_code=True)"
            ) from error
        raise RunError(f"cannot read the model configuration in {name}: {first_line(error)}") from error


def _load_plain(folder: Path, card: ModelInfo, trust_remote_code: bool) -> torch.nn.Module:
    _check_size(folder, card.task, trust_remote_code)
    model, report = _loaded(str(folder), card.task, trust_remote_code)
    _refuse_compiled(folder, report.unused)
    _require_whole(folder, report.missing)
    _require_used(folder, model, report.unused)
    _require_class(folder, model, card.architecture)
    return model


def _check_size(folder: Path, task: Task, trust_remote_code: bool) -> None:
    """Refuse a configuration of a model far larger than its files, before memory is allocated for it."""
    config = _config(str(folder), trust_remote_code)
    with torch.device("meta"):
        try:
            made: Any = _loader(task).from_config(config, trust_remote_code=trust_remote_code)
        except Exception:  # loading reports whatever is wrong
            return
    wanted = sum(one.numel() for one in (*made.parameters(), *made.buffers()))
    held = sum(path.stat().st_size for path in weight_files(folder))
    if wanted > MOST_PER_BYTE * held + MOST_BESIDE:
        raise RunError(
            f"{folder / CONFIG_FILE} describes a model with {wanted:,} parameters, but its weights have {held:,} "
            "bytes: they do not match; copy the whole checkpoint again"
        )


class _Report(NamedTuple):
    """Result of loading: missing weights, now random, and weights that the model does not use."""

    missing: list[str]
    unused: list[str]


def _loader(task: Task) -> Any:
    return getattr(transformers, task.auto_class)


def _loaded(name: str, task: Task, trust_remote_code: bool, **options: Any) -> tuple[torch.nn.Module, _Report]:
    """Load a model from safetensors only."""
    model, report = _loader(task).from_pretrained(
        name,
        use_safetensors=True,
        trust_remote_code=trust_remote_code,
        dtype=torch.float32,
        output_loading_info=True,
        **options,
    )
    missing, unused = (sorted(map(str, report[key])) for key in ("missing_keys", "unexpected_keys"))
    return cast("torch.nn.Module", model), _Report(missing, unused)


def _require_whole(folder: Path, missing: list[str]) -> None:
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise RunError(
            f"the weights in {folder} lack {missing[0]}{more}: this is not a complete checkpoint of this architecture"
        )


def _refuse_compiled(folder: Path, unused: list[str]) -> None:
    if any("_orig_mod." in name for name in unused):
        raise RunError(
            f"the weights in {folder} were saved from a compiled model (their names begin with _orig_mod.): save them "
            "again with model._orig_mod.save_pretrained(folder)"
        )


def _require_used(folder: Path, model: torch.nn.Module, unused: list[str]) -> None:
    if unused:
        more = f" and {len(unused) - 1} more" if len(unused) > 1 else ""
        raise RunError(
            f"the weights in {folder} contain {unused[0]}{more}, which {type(model).__name__} does not use: the "
            "trained model differs from the model that would be explained; if its class has custom code, name it in "
            "auto_map of config.json and allow it with --trust-remote-code"
        )


def _require_class(folder: Path, model: torch.nn.Module, architecture: str) -> None:
    """Require the class that was trained; another class with similar weights may compute something else."""
    known = hasattr(transformers, architecture) or architecture in _OLD_NAMES
    if type(model).__name__ != architecture and not known:
        raise RunError(
            f"{folder / CONFIG_FILE} names {architecture}, which transformers does not have: {type(model).__name__} "
            "would be explained instead; if the class has custom code, name it in auto_map of config.json and allow "
            "it with --trust-remote-code"
        )


def _adapter_card(folder: Path, trust_remote_code: bool) -> ModelInfo:
    settings = read_settings(folder / ADAPTER_SETTINGS)
    refuse_adapter(folder, settings)
    base = base_of(folder)
    config = _config(base, trust_remote_code)
    task = adapter_task(folder, settings, config)
    task.fit_adapter(config, lambda: adapter_labels(folder, base, config))
    return model_info(config, f"PEFT adapter over {base}", task, adapter=True)


def _load_adapter(folder: Path, card: ModelInfo, trust_remote_code: bool) -> torch.nn.Module:
    try:
        import peft  # optional extra
    except ImportError as error:
        raise MissingExtraError("this run is a PEFT adapter: pip install 'proponent[peft]'") from error
    options: dict[str, Any] = {"num_labels": len(card.task.labels)} if card.task.labels else {}
    base = base_of(folder)
    if Path(base).is_dir():
        require_weights(Path(base), "the complete base model of the adapter is needed")
    model, report = _loaded(base, card.task, trust_remote_code, **options)
    _resize(folder, model)
    carried = TensorSlices(folder / ADAPTER_FILE).names
    _require_whole(folder, [name for name in report.missing if not any(one.endswith(f".{name}") for one in carried)])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # a matter between peft and transformers
        adapted: Any = cast("Any", peft).PeftModel.from_pretrained(model, str(folder))
    table = adapted.get_input_embeddings()
    if not isinstance(table, torch.nn.Embedding):
        raise RunError(f"the adapter in {folder} trains the word embedding itself ({type(table).__name__})" + MERGE)
    expected = set(cast("Any", peft).get_peft_model_state_dict(adapted, save_embedding_layers=False))
    lacking = sorted(name for name in expected if name not in carried)
    _require_whole(folder, lacking)
    return cast("torch.nn.Module", adapted)


def _resize(folder: Path, model: Any) -> None:
    """Resize a base model whose vocabulary was changed before training: the adapter contains the whole new table."""
    slices = TensorSlices(folder / ADAPTER_FILE)
    table = model.get_input_embeddings().weight
    names = {f"base_model.model.{name}" for name, one in model.named_parameters() if one is table}
    rows = {slices.shape(name)[0] for name in names & set(slices.names)} - {table.shape[0]}
    if rows:
        model.resize_token_embeddings(rows.pop(), mean_resizing=False)


def first_line(error: BaseException) -> str:
    """Shorten a message of another library to one line."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
