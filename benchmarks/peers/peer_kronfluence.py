"""kronfluence: its identity strategy (products of the Linear layers' gradients) and EK-FAC. It ignores embeddings."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from contract import Peer, Rows, Work, folder_bytes, main
from kronfluence.analyzer import Analyzer, prepare_model
from kronfluence.arguments import FactorArguments
from kronfluence.task import Task


class Classification(Task):
    """The summed loss of a classifier, for training texts and for queries."""

    def compute_train_loss(self, batch: Any, model: torch.nn.Module, sample: bool = False) -> torch.Tensor:
        """The summed loss; with `sample`, of labels drawn from the model (the true Fisher)."""
        logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        labels = batch["labels"]
        if sample:
            labels = torch.multinomial(torch.softmax(logits.detach(), -1), 1).flatten()
        return torch.nn.functional.cross_entropy(logits, labels, reduction="sum")

    def compute_measurement(self, batch: Any, model: torch.nn.Module) -> torch.Tensor:
        """What is explained: the queries' loss."""
        return self.compute_train_loss(batch, model)

    def get_attention_mask(self, batch: Any) -> torch.Tensor:
        """Padding does not count."""
        return batch["attention_mask"]


def build(work: Work, variant: str, scratch: Path) -> Peer:
    """The variants "identity" and "ekfac"."""
    task, train = Classification(), Rows(work.train)
    analyzer = Analyzer(
        "peers",
        prepare_model(work.model(), task),
        task,
        cpu=True,
        disable_tqdm=True,
        disable_model_save=True,
        output_dir=str(scratch),
    )

    def ask(number: int) -> np.ndarray:
        analyzer.compute_pairwise_scores(
            scores_name=f"queries-{number}",
            factors_name=variant,
            query_dataset=Rows([work.queries[number]]),
            train_dataset=train,
            per_device_query_batch_size=len(work.queries[number].labels),
            per_device_train_batch_size=len(work.train[0].labels),
            overwrite_output_dir=True,
        )
        return analyzer.load_pairwise_scores(f"queries-{number}")["all_modules"].float().numpy()

    def end_to_end() -> np.ndarray:
        analyzer.fit_all_factors(
            factors_name=variant,
            dataset=train,
            per_device_batch_size=len(work.train[0].labels),
            factor_args=FactorArguments(strategy=variant),
            overwrite_output_dir=True,
        )
        return ask(0)

    quantity = "Linear layers" if variant == "identity" else "Linear layers, EK-FAC inverse"
    notes = ["keeps factors, no gradients: a further batch of queries reads the training set again"]
    return Peer(quantity, end_to_end, ask, lambda: folder_bytes(scratch / "peers" / f"factors_{variant}"), notes)


if __name__ == "__main__":
    main(build, ("kronfluence",))
