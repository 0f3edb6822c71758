"""dattri: TracIn on the word embeddings by vmap, without its projection (a dense gradient [v d] for every text)."""

from pathlib import Path

import numpy as np
import torch
from contract import WORD_TABLE, Peer, Rows, Work, added_mask, for_vmap, main
from dattri.algorithm.tracin import TracInAttributor
from dattri.task import AttributionTask
from torch.utils.data import DataLoader

TRAIN_BATCH = 32


def build(work: Work, variant: str, scratch: Path) -> Peer:  # noqa: ARG001 # one variant, nothing kept
    """TracIn on the embedding."""
    model = for_vmap(work.model())

    def loss(parameters: dict[str, torch.Tensor], row: tuple[torch.Tensor, ...]) -> torch.Tensor:
        ids, mask, label = (part.unsqueeze(0) for part in row)
        inputs = {"input_ids": ids, "attention_mask": added_mask(mask)}
        logits = torch.func.functional_call(model, parameters, args=(), kwargs=inputs).logits
        return torch.nn.functional.cross_entropy(logits, label)

    attributor = TracInAttributor(
        AttributionTask(loss_func=loss, model=model, checkpoints=model.state_dict()),
        weight_list=torch.ones(1),
        normalized_grad=False,
        layer_name=[f"{WORD_TABLE}.weight"],
    )
    attributor.projector_kwargs = None  # None as an argument would still project to 512

    def ask(number: int = 0) -> np.ndarray:
        queries = work.queries[number]
        return attributor.attribute(
            DataLoader(Rows(work.train, "tuple"), batch_size=TRAIN_BATCH),
            DataLoader(Rows([queries], "tuple"), batch_size=len(queries.labels)),
        ).T.numpy()

    notes = [
        "nothing is kept: a further batch of queries reads the training set again",
        "its projection, which an argument cannot switch off, is switched off by setting the attribute",
    ]
    return Peer("embedding", ask, ask, notes=notes)


if __name__ == "__main__":
    main(build, ("dattri",))
