"""captum's TracInCP over checkpoints with their learning rates: embedding, last layer, all layers."""

from pathlib import Path

import numpy as np
import torch
from captum.influence import TracInCP
from same import Given, Logits, Rows, main
from torch import nn
from torch.utils.data import DataLoader

EMBEDDING = "bert.embeddings.word_embeddings"


def scores(given: Given, scratch: Path) -> dict[str, np.ndarray]:  # noqa: ARG001 # captum keeps nothing on disk
    """[q n] of the embedding, of the last layer without and with its bias, and of all layers."""
    return {
        "we": _traced(given, [f"model.{EMBEDDING}"]),
        "last": _traced(given, ["model.classifier"], biases=False),
        "last, bias": _traced(given, ["model.classifier"]),
        "all": _traced(given, None),
        "we, rates 1": _traced(given, [f"model.{EMBEDDING}"], weighed=False),
    }


def _traced(given: Given, layers: list[str] | None, *, biases: bool = True, weighed: bool = True) -> np.ndarray:
    model = Logits(given.model(next(iter(given.rates))))
    if not biases:
        bias = model.model.classifier.bias.detach().clone()
        del model.model.classifier.bias
        model.model.classifier.register_buffer("bias", bias)

    def load(_: nn.Module, name: str) -> float:
        model.load_state_dict(Logits(given.model(name)).state_dict())
        return given.rates[name] if weighed else 1.0

    tracer = TracInCP(
        model,
        DataLoader(Rows(given.train), batch_size=len(given.train[0])),
        checkpoints=list(given.rates),
        checkpoints_load_func=load,
        layers=layers,
        loss_fn=nn.CrossEntropyLoss(reduction="none"),
        sample_wise_grads_per_batch=False,
    )
    with torch.enable_grad():
        return tracer.influence(given.queries).detach().double().numpy()


if __name__ == "__main__":
    main(scores)
