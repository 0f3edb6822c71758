"""kronfluence: EK-FAC pairwise scores, for a model whose Linear layers have no bias, and for the unchanged model."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from kronfluence.analyzer import Analyzer, prepare_model
from kronfluence.arguments import FactorArguments, ScoreArguments
from kronfluence.task import Task
from same import Given, Rows, main
from torch import nn

LAST = "bert.encoder.layer.1."


class Classification(Task):
    """The summed loss of a classifier.

    Args:
        names: modules that are scored; None for all.
    """

    def __init__(self, names: list[str] | None = None) -> None:
        super().__init__()
        self.names = names

    def compute_train_loss(self, batch: Any, model: nn.Module, sample: bool = False) -> torch.Tensor:
        """The summed loss; with `sample`, of labels drawn from the model."""
        ids, mask, labels = batch
        logits = model(input_ids=ids, attention_mask=mask).logits
        if sample:
            labels = torch.multinomial(torch.softmax(logits.detach(), -1), 1).flatten()
        return nn.functional.cross_entropy(logits, labels, reduction="sum")

    def compute_measurement(self, batch: Any, model: nn.Module) -> torch.Tensor:
        """The queries' loss."""
        return self.compute_train_loss(batch, model)

    def get_influence_tracked_modules(self) -> list[str] | None:
        """What is scored."""
        return self.names

    def get_attention_mask(self, batch: Any) -> torch.Tensor:
        """Padding does not count."""
        return batch[1]


def scores(given: Given, scratch: Path) -> dict[str, np.ndarray]:
    """[q n] for some dampings, kinds of Fisher matrix, and with biases."""
    last = list(given.rates)[-1]
    return {
        "identity": _pairs(given, scratch, "identity", given.plain, strategy="identity"),
        "mean .1": _pairs(given, scratch, "mean", given.plain, damping=None, last=False),
        "absolute": _pairs(given, scratch, "absolute", given.plain, damping=1e-3, last=False),
        "last block too": _pairs(given, scratch, "last", given.plain, damping=None),
        "sampled": _pairs(given, scratch, "sampled", given.plain, damping=None, empirical=False),
        "biases": _pairs(given, scratch, "biases", last, damping=None),
        "as it comes": _pairs(given, scratch, "comes", last, damping=1e-8, empirical=False),
    }


def _pairs(
    given: Given,
    scratch: Path,
    name: str,
    checkpoint: str,
    *,
    strategy: str = "ekfac",
    damping: float | None = None,
    empirical: bool = True,
    last: bool = True,
) -> np.ndarray:
    model = given.model(checkpoint)
    if checkpoint == given.plain:
        for module in model.modules():
            if isinstance(module, nn.Linear):
                assert not module.bias.any()
                module.bias = None
    linear = [one for one, module in model.named_modules() if isinstance(module, nn.Linear)]
    task = Classification(None if last else [one for one in linear if not one.startswith(LAST)])
    analyzer = Analyzer(
        name,
        prepare_model(model, task),
        task,
        cpu=True,
        disable_tqdm=True,
        disable_model_save=True,
        output_dir=str(scratch),
    )
    analyzer.fit_all_factors(
        factors_name=name,
        dataset=Rows(given.train),
        per_device_batch_size=16,
        factor_args=FactorArguments(strategy=strategy, use_empirical_fisher=empirical),
        overwrite_output_dir=True,
    )
    analyzer.compute_pairwise_scores(
        scores_name=name,
        factors_name=name,
        query_dataset=Rows(given.queries),
        train_dataset=Rows(given.train),
        per_device_query_batch_size=16,
        per_device_train_batch_size=16,
        score_args=ScoreArguments(damping_factor=damping),
        overwrite_output_dir=True,
    )
    return analyzer.load_pairwise_scores(name)["all_modules"].double().numpy()


if __name__ == "__main__":
    main(scores)
