"""dattri-llm: TracIn on the word embeddings, live and from stored gradients, and on the layers it hooks by default."""

import shutil
from pathlib import Path

import numpy as np
import torch
from contract import WORD_TABLE, Peer, Rows, Work, folder_bytes, freeze_all_but, main
from dattri_llm import (
    AttributionArguments,
    AttributionTask,
    GradientStorageManager,
    HookManagerConfig,
    TracInAttributor,
)


def summed_loss(model: torch.nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """The sum over the batch, so that each example's gradient is that of its own loss."""
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    return torch.nn.functional.cross_entropy(logits, batch["labels"], reduction="sum")


def build(work: Work, variant: str, scratch: Path) -> Peer:
    """The variants "live", "stored" (on disk), "memory" (stored in RAM) and "default" (live, default layers)."""
    model, config = work.model(), None
    if variant != "default":
        freeze_all_but(model, (WORD_TABLE,))
        config = HookManagerConfig(hook_types={WORD_TABLE: "linear_io"})
    train = Rows(work.train)
    attributor = TracInAttributor(
        AttributionArguments(
            output_dir=str(scratch / "scores"),
            per_device_train_batch_size=len(work.train[0].labels),
            per_device_eval_batch_size=len(work.queries[0].labels),
            max_grad_norm=None,
            use_cpu=True,
        ),
        task=AttributionTask(loss_func=summed_loss, model=model),
    )

    def live(number: int = 0) -> np.ndarray:
        score = attributor.attribute(train, Rows([work.queries[number]]), hook_config=config)
        return score.scores.T.numpy()

    if variant in {"live", "default"}:
        notes = ["nothing is kept: a further batch of queries reads the training set again"]
        if variant == "default":
            notes.append("its default hooks take in the position embeddings, whose gradient it sums over the batch")
        return Peer("embedding" if variant == "live" else "all hooked layers", live, live, notes=notes)

    residency = "disk" if variant == "stored" else "memory"
    stores: dict[str, GradientStorageManager] = {}

    def store(name: str) -> GradientStorageManager:
        shutil.rmtree(scratch / name, ignore_errors=True)
        stores[name] = GradientStorageManager(str(scratch / name), residency=residency)
        return stores[name]

    def ask(number: int) -> np.ndarray:
        queries = attributor.generate_test_rep(Rows([work.queries[number]]), hook_config=config)
        kept = attributor.collect_gradients(queries, store("queries"))
        return attributor.attribute_from_cache(stores["train"], kept).scores.T.numpy()

    def end_to_end() -> np.ndarray:
        attributor.collect_gradients(attributor.generate_train_rep(train, hook_config=config), store("train"))
        return ask(0)

    def kept_bytes() -> int:
        if residency == "disk":
            return folder_bytes(scratch / "train")
        return sum(batch.ids.numel() * (8 + 4 * model.config.hidden_size) for batch in work.train)

    return Peer("embedding", end_to_end, ask, kept_bytes, notes=["a further batch of queries reads the whole store"])


if __name__ == "__main__":
    main(build, ("dattri-llm",))
