"""TRAK: its own projections of its own gradients over seeds, and its scores from its own features."""

import logging
import shutil
from pathlib import Path

import numpy as np
import torch
from same import Given, Logits, main
from torch import nn
from trak import TRAKer
from trak.projectors import BasicProjector, ProjectionType

WIDTH, SEEDS, SCORED = 16, 200, 24
"""Width whose products are compared; over how many seeds; width for the scores (less than the training texts)."""


class ThreeInputs(nn.Module):
    """TRAK's text classification hands over ids, types and mask."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = Logits(model)

    def forward(
        self, input_ids: torch.Tensor, token_type_ids: torch.Tensor, attention_mask: torch.Tensor
    ) -> torch.Tensor:
        """Logits [b l]; the mask as it is added to attention scores, which needs no checks under vmap."""
        del token_type_ids
        added = (1.0 - attention_mask[:, None, None, :].float()) * torch.finfo(torch.float32).min
        return self.model(input_ids, added)


def scores(given: Given, scratch: Path) -> dict[str, np.ndarray]:
    """Exact products, projected ones by seed, and scores beside TRAK's formula in numpy."""
    model = ThreeInputs(given.model(list(given.rates)[-1]))
    exact = [_margins(model, parts) for parts in (given.train, given.queries)]
    train, queries = (g.astype(np.float64) for g, _ in exact)
    traker = _featurized(model, given, scratch)
    taken = [
        traker.gradient_computer.compute_per_sample_grad(batch=_batch(one)) for one in (given.train, given.queries)
    ]
    drawn = []
    for seed in range(SEEDS):
        projector = BasicProjector(train.shape[1], WIDTH, seed, ProjectionType.rademacher, "cpu", dtype=torch.float32)
        one, other = (projector.project(some, model_id=0).double().numpy() for some in taken)
        drawn.append(other @ one.T / WIDTH)
    features, asked, found = _scored(traker, model, given)
    formula = asked @ np.linalg.inv(features.T @ features) @ features.T * exact[0][1]
    return {
        "exact": queries @ train.T,
        "products": np.stack(drawn),
        "norms": np.outer(np.linalg.norm(queries, axis=1), np.linalg.norm(train, axis=1)),
        "squares": queries**2 @ (train**2).T,
        "width": np.asarray(WIDTH),
        "scores": found / np.abs(found).max() * np.abs(formula).max(),
        "numpy": formula,
    }


def _batch(parts: tuple[torch.Tensor, ...]) -> list[torch.Tensor]:
    ids, mask, labels = parts
    return [ids, torch.zeros_like(ids), mask, labels]


def _featurized(model: nn.Module, given: Given, scratch: Path) -> TRAKer:
    shutil.rmtree(scratch, ignore_errors=True)
    traker = TRAKer(
        model=model,
        task="text_classification",
        train_set_size=len(given.train[0]),
        save_dir=str(scratch),
        device="cpu",
        proj_dim=SCORED,
        logging_level=logging.ERROR,
        use_half_precision=False,
    )
    traker.load_checkpoint(model.state_dict(), model_id=0)
    traker.featurize(batch=_batch(given.train), num_samples=len(given.train[0]))
    return traker


def _scored(traker: TRAKer, model: nn.Module, given: Given) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Its features of training texts and queries, and its scores [q n]."""
    train = np.array(traker.saver.current_store["grads"], dtype=np.float64)
    traker.finalize_features()
    # with one block of columns it lets its matrix go here and does not draw it again
    traker.projector.generate_sketch_matrix(traker.projector.generator_states[0])
    count = len(given.queries[0])
    traker.start_scoring_checkpoint(exp_name="q", checkpoint=model.state_dict(), model_id=0, num_targets=count)
    traker.score(batch=_batch(given.queries), num_samples=count)
    queries = np.array(traker.saver.current_store["q_grads"], dtype=np.float64)
    return train, queries, np.asarray(traker.finalize_scores(exp_name="q")).T.astype(np.float64)


def _margins(model: nn.Module, parts: tuple[torch.Tensor, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Gradients of log(p / (1 - p)) in all parameters by autograd, one text at a time, and 1 - p."""
    ids, types, mask, labels = _batch(parts)
    found, left = [], []
    for at in range(len(ids)):
        logits = model(ids[at : at + 1], types[at : at + 1], mask[at : at + 1])[0]
        others = logits[torch.arange(len(logits)) != labels[at]]
        margin = logits[labels[at]] - others.logsumexp(0)
        grads = torch.autograd.grad(margin, list(model.parameters()))
        found.append(torch.cat([one.flatten() for one in grads]).numpy())
        left.append(1.0 - float(logits.softmax(-1)[labels[at]]))
    return np.stack(found), np.asarray(left)


if __name__ == "__main__":
    main(scores)
