"""The only file that imports transformers (and peft): load models and tokenizers, read their configurations.

Everything that this file returns is a torch module, a tokenizer typed as `Any`, or plain data.
"""

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
import transformers
from transformers import AutoConfig, AutoTokenizer
from transformers.utils import logging as transformers_logging

from proponent.errors import ProponentError, RunError, first_line
from proponent.hub import without_network
from proponent.models.adapter_modules import note_adapter, peft_library, show_layers
from proponent.models.adapters import (
    Base,
    adapter_labels,
    adapter_notes,
    adapter_settings,
    adapter_task,
    adapter_weights,
    base_of,
    base_weights,
    describe_kind,
    misfit,
    refuse_adapter,
    refuse_sizes,
    resized_rows,
)
from proponent.models.class_settings import check_classes, disagreement
from proponent.models.device_map import place, without_hooks
from proponent.models.info import ModelInfo, model_info, positions
from proponent.models.load_report import (
    LoadReport,
    misshapen,
    refuse_compiled,
    require_class,
    require_used,
    require_whole,
)
from proponent.models.placement import HERE
from proponent.models.quantised import dequantised, quantisation, quantisation_note, refuse_quantised
from proponent.models.run_files import (
    StoredName,
    check_files,
    refuse_code,
    refuse_hub_code,
    refuse_named_files,
)
from proponent.models.settings import check_numbers
from proponent.models.shared_base import LoadedBase, SharedBases, own_weights
from proponent.models.tasks import Task, of_adapter, recognise
from proponent.models.tokenizer_files import try_tokenizer
from proponent.models.weights import CONFIG_FILE, adapter_home, require_weights, weight_files

__all__ = [
    "ModelInfo",
    "first_line",
    "load_model",
    "load_tokenizer",
    "positions",
    "quiet",
    "read_model_info",
    "transformers",
    "untrained_adapter",
]

MOST_PER_BYTE, MOST_BESIDE = 8, 2**26
"""Maximum numbers of a model per byte of its files (packed weights hold several in a byte), and extra for buffers."""


def quiet() -> None:
    """Suppress transformers' own progress bars and hints."""
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()


def read_model_info(folder: Path, *, trust_remote_code: bool = False, base: str | None = None) -> ModelInfo:
    """Read task head, labels and limits from a checkpoint's configuration."""
    if adapter_home(folder) is not None:
        return _adapter_card(folder, trust_remote_code, base)
    config = read_config(str(folder), trust_remote_code)
    refuse_quantised(str(folder), config)
    given = cast("list[str] | str", getattr(config, "architectures", None) or [])
    names = [given] if isinstance(given, str) else given
    architecture = names[0] if names else ""
    made = model_info(config, architecture, recognise(folder, architecture, config), adapter=False)
    notes = (*quantisation_note(str(folder), config), *filter(None, [disagreement(config)]))
    return replace(made, base=base, notes=notes)


def load_model(
    folder: Path, card: ModelInfo, *, trust_remote_code: bool = False, bases: SharedBases | None = None
) -> torch.nn.Module:
    """Load one checkpoint to its device, in evaluation mode, with parameters frozen; adapters share their base."""
    quiet()
    try:
        model = (
            _load_adapter(folder, card, trust_remote_code, SharedBases() if bases is None else bases)
            if card.adapter
            else _load_plain(folder, card, trust_remote_code)
        )
    except ProponentError:
        raise
    except Exception as error:  # the loaders of models, safetensors and peft may raise anything
        made = None if card.adapter else without_weights(folder, card.task, trust_remote_code=trust_remote_code)
        problem = (None if made is None else misshapen(folder, made)) or (
            f"{first_line(error)}: the weights are damaged, or do not match the architecture in config.json"
        )
        raise RunError(f"cannot load the model in {folder}: {problem}") from error
    return place(model, card.placement).requires_grad_(requires_grad=False).eval()


def load_reference(name: str, card: ModelInfo, *, trust_remote_code: bool = False) -> torch.nn.Module:
    """Load the model that a training began with: a folder, or a name on a hub."""
    folder = Path(name)
    if not folder.is_dir():
        try:
            model, report = _loaded(name, card.task, trust_remote_code)
        except Exception as error:  # the loaders of models may raise anything
            raise RunError(
                f"cannot load the reference model {name}: {first_line(error)}: name its folder with --base (base=)"
            ) from error
        require_whole(folder, report.missing)
        return place(model, card.placement).requires_grad_(requires_grad=False).eval()
    own = read_model_info(folder, trust_remote_code=trust_remote_code)
    return load_model(folder, replace(own, placement=card.placement))


def load_base(folder: Path, card: ModelInfo, *, trust_remote_code: bool = False, bases: SharedBases) -> torch.nn.Module:
    """Load the base model of an adapter, as it was before the adapter was trained."""
    base = base_of(folder, card.base)
    model, missing = bases.copy(
        (base, outputs_of(card.task)), lambda: _load_base(folder, base, card, trust_remote_code)
    )
    require_whole(folder, list(missing))
    rows = int(cast("Any", model).get_input_embeddings().weight.shape[0])
    if rows != getattr(read_config(base.name, trust_remote_code, **base.options), "vocab_size", rows):
        raise RunError(
            f"the adapter in {folder} was trained with tokens that {base.name} lacks, and their rows before training "
            "are not known: give the columns ref_chosen_logps and ref_rejected_logps"
        )
    return place(model, card.placement).eval()


def fresh_model(folder: Path, card: ModelInfo, *, trust_remote_code: bool = False) -> torch.nn.Module:
    """Create a model with a checkpoint's architecture, and weights drawn from torch's current random state."""
    if card.adapter:
        raise RunError(
            f"the run in {folder} is a PEFT adapter, which starts from its base model: name that with --initial"
        )
    quiet()
    config = read_config(str(folder), trust_remote_code)
    made = _loader(card.task).from_config(config, trust_remote_code=trust_remote_code)
    return cast("torch.nn.Module", made).float()


def starting_model(name: str, folder: Path, card: ModelInfo, *, trust_remote_code: bool = False) -> torch.nn.Module:
    """Load the pretrained model of a run; missing weights (a head) are drawn from torch's current random state."""
    quiet()
    options: dict[str, Any] = {"config": read_config(str(folder), trust_remote_code), "ignore_mismatched_sizes": True}
    try:
        model, _ = _loaded(name, card.task, trust_remote_code, **options)
    except Exception as error:  # the loaders of models may raise anything
        raise RunError(
            f"cannot load the pretrained model {name}: {first_line(error)}: give the initial weights of the run with "
            "--initial"
        ) from error
    return model.float()


def untrained_adapter(name: str, folder: Path, card: ModelInfo, *, trust_remote_code: bool = False) -> torch.nn.Module:
    """Load a base model under a new adapter with a checkpoint's settings, drawn from torch's current random state."""
    quiet()
    model = _load_base(folder, base_of(folder, name), replace(card, placement=HERE), trust_remote_code).model
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # matters between peft and transformers
        settings = peft_library().PeftConfig.from_pretrained(str(adapter_home(folder) or folder))
        settings.inference_mode = False
        return cast("torch.nn.Module", peft_library().get_peft_model(model, settings))


def load_tokenizer(
    folder: Path, *, trust_remote_code: bool = False, revision: str | None = None, local: bool = False
) -> Any:
    """Load a tokenizer that supports character offsets; the revision is that of a name on a hub."""
    # a name that the user did not give is `local`: looked up in the cache of the hub, and not fetched
    quiet()
    _check_own(folder, trust_remote_code)
    refuse_code(folder / "tokenizer_config.json", trust_remote_code)
    refuse_named_files(folder / "tokenizer_config.json")
    try:
        options: dict[str, Any] = {"local_files_only": local or folder.is_dir()}
        options |= {} if revision is None else {"revision": revision}
        with without_network(options["local_files_only"]):
            tokenizer = cast("Any", AutoTokenizer).from_pretrained(
                str(folder), trust_remote_code=trust_remote_code, **options
            )
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
    try_tokenizer(folder, tokenizer)
    return tokenizer


def _check_own(folder: Path, trust_remote_code: bool) -> None:
    """Check a configuration on disk before anything is created from it."""
    if folder.is_dir():
        check_files(folder)
    path = folder / CONFIG_FILE
    if path.is_file():
        settings = check_numbers(path)
        if not trust_remote_code:
            refuse_hub_code(path, settings)
        check_classes(path, settings)
        refuse_code(path, trust_remote_code)


def read_config(name: str, trust_remote_code: bool, **options: Any) -> Any:
    """Read a configuration of a folder, or of a name on a hub, after checks of its files."""
    _check_own(Path(name), trust_remote_code)
    if Path(name).is_dir() and not (Path(name) / CONFIG_FILE).is_file():
        raise RunError(
            f"no {CONFIG_FILE} in {name}: the model was a module of the user's own, or was copied incompletely: train "
            "or save a model of transformers (model.save_pretrained writes it), or restore the file"
        )
    try:
        with without_network(_where(name)["local_files_only"]):
            return cast("Any", AutoConfig).from_pretrained(
                name, trust_remote_code=trust_remote_code, **_where(name), **options
            )
    except Exception as error:  # configurations of odd values may raise anything
        if not trust_remote_code and "trust_remote_code" in str(error):
            raise RunError(
                f"{name} contains custom code, which is not run by default: review it, then allow it with "
                "--trust-remote-code (trust_remote_code=True)"
            ) from error
        raise RunError(f"cannot read the model configuration in {name}: {first_line(error)}") from error


def _load_plain(folder: Path, card: ModelInfo, trust_remote_code: bool) -> torch.nn.Module:
    _check_size(folder, card.task, trust_remote_code)
    model, report = _loaded(str(folder), card.task, trust_remote_code, **_placed(card))
    refuse_compiled(folder, report.unused)
    require_whole(folder, report.missing)
    require_used(folder, model, report.unused)
    require_class(folder, model, card.architecture, exists=hasattr(transformers, card.architecture))
    return model


def without_weights(folder: Path, task: Task, *, trust_remote_code: bool = False) -> torch.nn.Module | None:
    """A model of a checkpoint's architecture that has no memory for its weights; None if it cannot be created."""
    return shapes_of_config(read_config(str(folder), trust_remote_code), task, trust_remote_code=trust_remote_code)


def shapes_of_config(config: Any, task: Task, *, trust_remote_code: bool) -> torch.nn.Module | None:
    """A model that has no memory for its weights; None if it cannot be created."""
    with torch.device("meta"):
        try:
            made: Any = _loader(task).from_config(config, trust_remote_code=trust_remote_code)
        except Exception:  # loading reports whatever is wrong
            return None
    return made


def _check_size(folder: Path, task: Task, trust_remote_code: bool) -> None:
    """Refuse a configuration of a model far larger than its files, before memory is allocated for it."""
    made: Any = without_weights(folder, task, trust_remote_code=trust_remote_code)
    if made is None:
        return
    wanted = sum(one.numel() for one in (*made.parameters(), *made.buffers()))
    held = sum(path.stat().st_size for path in weight_files(folder))
    if wanted > MOST_PER_BYTE * held + MOST_BESIDE:
        raise RunError(
            f"{folder / CONFIG_FILE} describes a model with {wanted:,} parameters, but its weights have {held:,} "
            "bytes: they do not match; copy the whole checkpoint again"
        )


def _loader(task: Task) -> Any:
    return getattr(transformers, task.auto_class)


def _loaded(name: str, task: Task, trust_remote_code: bool, **options: Any) -> tuple[torch.nn.Module, LoadReport]:
    """Load a model from safetensors only; quantised weights as plain ones of the same values."""
    if quantisation(options.get("config") or read_config(name, trust_remote_code, **_of_hub(options))) is not None:
        options["device_map"] = "cpu"
    with without_network(_where(name)["local_files_only"]):
        model, report = _loader(task).from_pretrained(
            name,
            use_safetensors=True,
            trust_remote_code=trust_remote_code,
            output_loading_info=True,
            **{"dtype": torch.float32} | _where(name) | options,
        )
    missing, unused = (sorted(map(str, report[key])) for key in ("missing_keys", "unexpected_keys"))
    return dequantised(without_hooks(cast("torch.nn.Module", model))), LoadReport(missing, unused)


def _placed(card: ModelInfo) -> dict[str, Any]:
    """The precision of a load, and the devices of a model that is split while it is loaded."""
    modules = card.placement.device_map
    return {"dtype": card.placement.precision} | ({} if modules is None else {"device_map": dict(cast("Any", modules))})


def _of_hub(options: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if name == "revision"}


def _where(name: str) -> dict[str, Any]:
    """Only a name that the user gave may be fetched from a hub."""
    return {"local_files_only": isinstance(name, StoredName) or Path(name).is_dir()}


def _adapter_card(folder: Path, trust_remote_code: bool, named: str | None) -> ModelInfo:
    settings = adapter_settings(folder)
    refuse_adapter(folder, settings)
    base = base_of(folder, named)
    config = _base_config(folder, base, trust_remote_code)
    refuse_quantised(base.name, config)
    task = adapter_task(folder, settings, config)
    task.fit_adapter(config, lambda: adapter_labels(folder, base.name, config))
    task = of_adapter(task, config)
    made = model_info(config, f"PEFT adapter over {base.name}", task, adapter=True)
    notes = (*adapter_notes(folder, settings), *quantisation_note(base.name, config))
    return replace(made, base=named, notes=notes)


def _base_config(folder: Path, base: Base, trust_remote_code: bool) -> Any:
    try:
        return read_config(base.name, trust_remote_code, **base.options)
    except RunError as error:
        if Path(base.name).is_dir() or "custom code" in str(error):
            raise
        raise RunError(
            f"the base model of the adapter in {folder} is neither a folder nor in the cache of the hub: {base.name}: "
            f"name its folder with --base (base=) ({error})"
        ) from error


def _load_base(folder: Path, base: Base, card: ModelInfo, trust_remote_code: bool) -> LoadedBase:
    if Path(base.name).is_dir():
        require_weights(Path(base.name), "the complete base model of the adapter is needed")
    width: dict[str, Any] = {"num_labels": count} if (count := outputs_of(card.task)) else {}
    options = {**_placed(card), **width, **base.options}
    model, report = _loaded(base.name, card.task, trust_remote_code, **options)
    rows = resized_rows(folder, adapter_settings(folder), model, base.name)
    if rows is not None:
        cast("Any", model).resize_token_embeddings(rows, mean_resizing=False)
    return LoadedBase(model, report.missing)


def outputs_of(task: Task) -> int:
    """Outputs of the head; 0 for a vocabulary."""
    return task.outputs or len(task.labels)


def _load_adapter(folder: Path, card: ModelInfo, trust_remote_code: bool, bases: SharedBases) -> torch.nn.Module:
    base, home, settings = base_of(folder, card.base), adapter_home(folder) or folder, adapter_settings(folder)
    refuse_sizes(folder, settings)
    model, missing = bases.copy(
        (base, outputs_of(card.task)), lambda: _load_base(folder, base, card, trust_remote_code)
    )
    carried = adapter_weights(folder).names
    require_whole(folder, [name for name in missing if not any(one.endswith(f".{name}") for one in carried)])
    if (problem := misfit(folder, base.name, model)) is not None:
        raise problem
    own_weights(model, base_weights(carried))
    with warnings.catch_warnings(), without_network(wanted=True):
        warnings.simplefilter("ignore")  # matters between peft and transformers
        peft = peft_library()
        adapted: Any = peft.PeftModel.from_pretrained(model, str(home), is_trainable=True, torch_device="cpu")
        expected = set(peft.get_peft_model_state_dict(adapted, save_embedding_layers=False))
    require_whole(folder, sorted(name for name in expected if name not in carried))
    show_layers(adapted)
    note_adapter(adapted, describe_kind(settings))
    return cast("torch.nn.Module", adapted)
