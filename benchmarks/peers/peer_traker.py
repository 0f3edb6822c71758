"""TRAK without a GPU: its BasicProjector samples a matrix [parameters 512] again, in blocks, for every batch."""

import logging
import shutil
from pathlib import Path

import numpy as np
import torch
from contract import Batch, Peer, Work, added_mask, folder_bytes, for_vmap, main
from torch import nn
from trak import TRAKer

WIDTH = 512


class Logits(nn.Module):
    """TRAK's text classification wants logits."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, input_ids: torch.Tensor, token_type_ids: torch.Tensor, attention_mask: torch.Tensor
    ) -> torch.Tensor:
        """Logits [b l]."""
        mask = added_mask(attention_mask)
        return self.model(input_ids=input_ids, token_type_ids=token_type_ids, attention_mask=mask).logits


def build(work: Work, variant: str, scratch: Path) -> Peer:  # noqa: ARG001 # one variant only
    """TRAK over all parameters."""
    model, made = Logits(for_vmap(work.model())).eval(), {"number": 0}
    state = model.state_dict()
    trakers: dict[str, TRAKer] = {}

    def as_tuple(batch: Batch) -> list[torch.Tensor]:
        return [batch.ids, torch.zeros_like(batch.ids), batch.mask, batch.labels]

    def ask(number: int) -> np.ndarray:
        traker, batch = trakers["one"], work.queries[number]
        made["number"] += 1
        name = f"queries-{made['number']}"
        traker.start_scoring_checkpoint(exp_name=name, checkpoint=state, model_id=0, num_targets=len(batch.labels))
        traker.score(batch=as_tuple(batch), num_samples=len(batch.labels))
        return np.asarray(traker.finalize_scores(exp_name=name)).T.astype(np.float32)

    def end_to_end() -> np.ndarray:
        shutil.rmtree(scratch / "trak", ignore_errors=True)
        traker = TRAKer(
            model=model,
            task="text_classification",
            train_set_size=work.texts,
            save_dir=str(scratch / "trak"),
            device="cpu",
            proj_dim=WIDTH,
            logging_level=logging.ERROR,
        )
        traker.load_checkpoint(state, model_id=0)
        for batch in work.train:
            traker.featurize(batch=as_tuple(batch), num_samples=len(batch.labels))
        traker.finalize_features()
        trakers["one"] = traker
        return ask(0)

    return Peer("TRAK", end_to_end, ask, lambda: folder_bytes(scratch / "trak"), [f"projected to {WIDTH}"])


if __name__ == "__main__":
    main(build, ("traker",))
