"""captum: TracInCP on the word embeddings, and TracInCPFast on the last layer. Neither stores anything per text."""

from pathlib import Path

import numpy as np
from captum.influence import TracInCP, TracInCPFast
from contract import HEAD, WORD_TABLE, Batch, Logits, Peer, Rows, Work, freeze_all_but, main
from torch import nn
from torch.utils.data import DataLoader


def build(work: Work, variant: str, scratch: Path) -> Peer:  # noqa: ARG001 # captum keeps nothing on disk
    """The variants "embedding-32" (everyone's batches), "embedding-1" (one text a batch) and "fast" (last layer)."""
    # captum advises large batches. For the embedding it takes one backward pass per text through the graph of the whole
    # batch, so that batches of one are its fastest by far.
    if variant.startswith("embedding"):
        size = int(variant.removeprefix("embedding-"))
        model = Logits(freeze_all_but(work.model(), (WORD_TABLE,)))
        tracer = TracInCP(
            model,
            DataLoader(Rows(_split(work.train, size), "tuple"), batch_size=size),
            checkpoints=["as loaded"],
            checkpoints_load_func=lambda _model, _checkpoint: 1.0,
            layers=[f"model.{WORD_TABLE}"],
            loss_fn=nn.CrossEntropyLoss(reduction="none"),
            sample_wise_grads_per_batch=False,
        )
    else:
        model = Logits(freeze_all_but(work.model(), (HEAD,)))
        tracer = TracInCPFast(
            model,
            model.model.get_submodule(HEAD),
            DataLoader(Rows(work.train, "tuple"), batch_size=len(work.train[0].labels)),
            checkpoints=["as loaded"],
            checkpoints_load_func=lambda _model, _checkpoint: 1.0,
            loss_fn=nn.CrossEntropyLoss(reduction="sum"),
        )

    def scores(number: int) -> np.ndarray:
        batch = work.queries[number]
        if variant == "embedding-1":
            return tracer.influence(DataLoader(Rows(_split([batch], 1), "tuple"), batch_size=1)).detach().numpy()
        return tracer.influence((batch.ids, batch.mask, batch.labels)).detach().numpy()

    # with large batches a second call is left out: it would be the first once more, and takes minutes
    further = None if variant == "embedding-32" else scores
    peer = Peer("embedding" if variant.startswith("embedding") else "last layer", lambda: scores(0), further)
    peer.notes.append("nothing is kept: a further batch of queries reads the training set again")
    return peer


def _split(batches: list[Batch], size: int) -> list[Batch]:
    """Smaller batches, cut to their own longest text."""
    found: list[Batch] = []
    for batch in batches:
        for start in range(0, len(batch.labels), size):
            mask = batch.mask[start : start + size]
            longest = int(mask.sum(1).max())
            part = slice(start, start + size)
            found.append(Batch(batch.ids[part, :longest], mask[:, :longest], batch.labels[part]))
    return found


if __name__ == "__main__":
    main(build, ("captum",))
