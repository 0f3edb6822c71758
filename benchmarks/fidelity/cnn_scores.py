"""Every method on the plain CNN: gradients from the library's capture and from autograd, products by formula.

The CNN is no model of transformers and has no index; what is compared here are the formulas. Products are taken in
single precision, one batch of training rows at a time; no matrix of gradients is kept.
"""

from dataclasses import dataclass

import numpy as np
import torch
from convolution import CnnProblem, TextCnn
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional

from proponent.gradients.capture import Capture
from proponent.gradients.forms import Rows
from proponent.search.synonyms import Synonyms

BATCH = 250
EMBEDDING = ("tracin-we", "noc", "topk", "adam", "adam-unit", "adam-estimate", "adam-estimate-unit", "both-sides")


@dataclass(frozen=True)
class Side:
    """Gradients of some examples at one checkpoint."""

    rows: Rows
    a: np.ndarray  # input of the head [n i]
    g: np.ndarray  # error signal p - y [n l]
    losses: np.ndarray


def capture(model: nn.Module, ids: np.ndarray, labels: np.ndarray) -> Side:
    """Rows (one per distinct token), and both factors of the head's gradient."""
    batch = {"input_ids": torch.as_tensor(ids), "attention_mask": torch.ones(ids.shape, dtype=torch.int64)}
    wanted = torch.as_tensor(labels)
    got = Capture(model, embedding=True, head=True)(
        batch,
        lambda logits: functional.cross_entropy(logits, wanted, reduction="none"),
        np.zeros(ids.shape, dtype=np.int64),
    )
    assert got.rows is not None
    assert got.outer is not None
    return Side(got.rows.merged(by_word=False), got.outer.a, got.outer.g, got.losses)


def dense(rows: Rows, vocabulary: int) -> np.ndarray:
    """Rows as one table per example: [n v d]."""
    table = np.zeros((len(rows), vocabulary, rows.rows.shape[1]), dtype=np.float32)
    table[rows.owners, rows.ids] = rows.rows
    return table


def meet(rows: Rows, queries: np.ndarray) -> np.ndarray:
    """Products of training rows with dense queries [q v d] -> [q n]."""
    products = np.einsum("kd,qkd->qk", rows.rows, queries[:, rows.ids], optimize=True)
    return np.add.reduceat(products, rows.indptr[:-1], axis=1)


def largest(rows: Rows, k: int) -> Rows:
    """Keep the k tokens of largest norm of each example."""
    norms = np.sqrt((rows.rows.astype(np.float64) ** 2).sum(1))
    order = np.lexsort((-norms, rows.owners))
    place = np.empty(len(order), dtype=np.int64)
    place[order] = np.arange(len(order)) - rows.indptr[rows.owners[order]]
    return rows.keep(place < k)


def others(model: TextCnn, ids: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
    """Per-example gradients of every weight but the embedding's, by layer: [n p]."""
    names = [name for name, _ in model.named_parameters() if not name.startswith("embedding")]
    fixed = {name: one.detach() for name, one in model.named_parameters() if name not in names}
    free = {name: one.detach() for name, one in model.named_parameters() if name in names}

    def loss(weights: dict[str, Tensor], text: Tensor, label: Tensor) -> Tensor:
        logits = functional_call(model, {**weights, **fixed}, (text[None],)).logits
        return functional.cross_entropy(logits, label[None])

    found = vmap(grad(loss), in_dims=(None, 0, 0))(free, torch.as_tensor(ids), torch.as_tensor(labels))
    return {name: one.flatten(1).numpy() for name, one in found.items()}


GROUPS = {
    "conv-first": ("first.weight",),
    "conv-second": ("second.weight",),
    "conv-third": ("third.weight",),
    "tracin-last": ("classifier.weight", "classifier.bias"),
    "tracin-last-weight": ("classifier.weight",),
    "tracin-sec": ("third.weight", "classifier.weight"),
    "biases": ("first.bias", "second.bias", "third.bias", "classifier.bias"),
    "every-layer-above": ("first.weight", "second.weight", "third.weight", "classifier.weight"),
}


def checkpoint_scores(
    model: TextCnn, moment: np.ndarray, problem: CnnProblem, special: tuple[int, ...], epsilon: float = 1e-8
) -> dict[str, np.ndarray]:
    """Scores [q n] of every method at one checkpoint, and what cancels in which layer."""
    model = model.eval().requires_grad_(requires_grad=False)
    size, count = len(problem.labels), len(problem.query_labels)
    query = capture(model, problem.query_ids, problem.query_labels)
    plain = dense(query.rows, problem.vocabulary)
    estimate = _mean_squares(model, problem)
    root = 1.0 / np.sqrt(moment + epsilon)
    rooted = 1.0 / np.sqrt(estimate + epsilon)
    softer = 1.0 / (estimate + 1e-6)
    turned = {
        "tracin-we": plain,
        "noc": plain * _without(special, problem.vocabulary),
        "topk": dense(largest(query.rows, 10), problem.vocabulary),
        "adam": plain * root,
        "adam-estimate": plain * rooted,
        "both-sides": plain * softer,
    }
    above = others(model, problem.query_ids, problem.query_labels)
    hessian = np.zeros((query.a.shape[1] * query.g.shape[1],) * 2)
    more = ("representer", "loss", "grad-cos")
    scores = {name: np.zeros((count, size), dtype=np.float32) for name in (*EMBEDDING, *GROUPS, *more)}
    heads: list[np.ndarray] = []
    projected = Projected(model, problem)
    asked = projected(query, above)
    for start in range(0, size, BATCH):
        part = slice(start, start + BATCH)
        side = capture(model, problem.ids[part], problem.labels[part])
        for name, table in turned.items():
            rows = largest(side.rows, 10) if name == "topk" else side.rows
            scores[name][:, part] = meet(rows, table)
        scores["adam-unit"][:, part] = scores["adam"][:, part] / _norms(side.rows, root)
        scores["adam-estimate-unit"][:, part] = scores["adam-estimate"][:, part] / _norms(side.rows, rooted)
        mine = others(model, problem.ids[part], problem.labels[part])
        for name, layers in GROUPS.items():
            scores[name][:, part] = sum(above[layer] @ mine[layer].T for layer in layers)
        # the representer's coefficient is -(p - y) of the query's class, times the product of the head's inputs
        scores["representer"][:, part] = -side.g[:, problem.query_labels].T * (query.a @ side.a.T)
        scores["loss"][:, part] = -side.losses
        whole = scores["tracin-we"][:, part] + sum(above[layer] @ mine[layer].T for layer in mine)
        squares = _norms(side.rows, np.ones_like(root)) ** 2 + sum((one**2).sum(1) for one in mine.values())
        scores["grad-cos"][:, part] = whole / np.sqrt(squares)
        projected.add(side, mine)
        heads.append(np.einsum("nl,ni->nli", side.g, side.a).reshape(len(side.a), -1))
        hessian += _curvature(side)
    scores["tracin-all"] = scores["tracin-we"] + scores["every-layer-above"]
    scores["trak"] = projected.scores(asked)
    scores["syn"] = _synonyms(model, problem, query.rows)
    scores["influence-last"] = _influence(query, np.concatenate(heads), hessian / size)
    return scores


class Projected:
    """TRAK (Park et al. 2023) at one checkpoint: projected gradients of the margin, whitened over the training set.

    Gradients of the cross-entropy are (1 - p) times those of the margin, with the sign turned; the projection of the
    embedding's part is a product of random signs over tokens and coordinates, that of the others plain random signs.
    """

    def __init__(self, model: TextCnn, problem: CnnProblem, width: int = 512, seed: int = 0) -> None:
        generator = np.random.default_rng(seed)
        signs = np.asarray([-1, 1], dtype=np.float32)
        self._tokens = generator.choice(signs, (problem.vocabulary, width))
        self._places = generator.choice(signs, (problem.width, width))
        self._layers = {
            name: generator.choice(signs, (one.numel(), width))
            for name, one in model.named_parameters()
            if not name.startswith("embedding")
        }
        self._features: list[np.ndarray] = []
        self._weights: list[np.ndarray] = []

    def __call__(self, side: Side, layers: dict[str, np.ndarray]) -> np.ndarray:
        """Projected gradients of the margin [n p]."""
        rows = (side.rows.rows @ self._places) * self._tokens[side.rows.ids]
        total = np.add.reduceat(rows, side.rows.indptr[:-1], axis=0)
        total += sum(one @ self._layers[name] for name, one in layers.items())
        return total / np.maximum(-side.g.min(1, keepdims=True), 1e-6)

    def add(self, side: Side, layers: dict[str, np.ndarray]) -> None:
        """Take a batch of training examples."""
        self._features.append(self(side, layers))
        self._weights.append(-side.g.min(1))

    def scores(self, queries: np.ndarray) -> np.ndarray:
        """Scores q (F^T F)^-1 f (1 - p) [q n], with a small ridge for single precision."""
        features = np.concatenate(self._features).astype(np.float64)
        kernel = features.T @ features
        kernel += 1e-6 * np.trace(kernel) / len(kernel) * np.eye(len(kernel))
        turned = np.linalg.solve(kernel, queries.astype(np.float64).T)
        return ((features @ turned).T * np.concatenate(self._weights)).astype(np.float32)


def _without(special: tuple[int, ...], vocabulary: int) -> np.ndarray:
    kept = np.ones((vocabulary, 1), dtype=np.float32)
    kept[list(special)] = 0.0
    return kept


def _norms(rows: Rows, root: np.ndarray) -> np.ndarray:
    squares = ((rows.rows * np.sqrt(root[rows.ids])) ** 2).sum(1)
    return np.sqrt(np.add.reduceat(squares, rows.indptr[:-1]))


def _synonyms(model: TextCnn, problem: CnnProblem, queries: Rows) -> np.ndarray:
    """Products of different tokens, matched one to one above a cosine of .7 (TracIn-WE-Syn)."""
    synonyms = Synonyms(model.embedding.weight.numpy(), 0.7)
    parts: list[np.ndarray] = []
    for start in range(0, len(problem.labels), BATCH):
        rows = capture(model, problem.ids[start : start + BATCH], problem.labels[start : start + BATCH]).rows
        by_token = np.argsort(rows.ids, kind="stable")
        tokens, begins = np.unique(rows.ids[by_token], return_index=True)
        places = dict(zip(tokens.tolist(), np.split(by_token, begins[1:]), strict=True))

        def lookup(token: int, rows: Rows = rows, places: dict[int, np.ndarray] = places):
            return rows.owners[places[token]], rows.rows[places[token]]

        found = [synonyms.scores(tokens, lookup, queries.example(row), len(rows)) for row in range(len(queries))]
        parts.append(np.stack(found))
    return np.concatenate(parts, axis=1).astype(np.float32)


def _mean_squares(model: TextCnn, problem: CnnProblem) -> np.ndarray:
    """Mean over the training set of the squared row gradients."""
    total = np.zeros((problem.vocabulary, problem.width), dtype=np.float32)
    for start in range(0, len(problem.labels), BATCH):
        rows = capture(model, problem.ids[start : start + BATCH], problem.labels[start : start + BATCH]).rows
        np.add.at(total, rows.ids, rows.rows**2)
    return total / len(problem.labels)


def _curvature(side: Side) -> np.ndarray:
    """Sum of the Hessians of the loss in the head's weights: (diag p - p p^T) kron a a^T."""
    error = side.g
    labels = error.argmin(1)
    p = error.copy()
    p[np.arange(len(p)), labels] += 1.0
    blocks = np.einsum("nl,lm->nlm", p, np.eye(p.shape[1])) - np.einsum("nl,nm->nlm", p, p)
    whole = np.einsum("nlm,ni,nj->limj", blocks, side.a, side.a, optimize=True)
    return whole.reshape(p.shape[1] * side.a.shape[1], -1)


def _influence(query: Side, heads: np.ndarray, hessian: np.ndarray) -> np.ndarray:
    """+g^T (H + damping)^-1 g' of the head's weights; the damping is a hundredth of the mean curvature."""
    damping = 0.01 * np.trace(hessian) / len(hessian) + 1e-12
    mine = np.einsum("nl,ni->nli", query.g, query.a).reshape(len(query.a), -1)
    return (np.linalg.solve(hessian + damping * np.eye(len(hessian)), mine.T).T @ heads.T).astype(np.float32)


def cancellation(model: TextCnn, problem: CnnProblem) -> dict[str, np.ndarray]:
    """Per layer: sum of the gradients' absolute values, and the absolute value of their sum, over the training set."""
    model = model.eval().requires_grad_(requires_grad=False)
    parts: dict[str, list[np.ndarray]] = {}
    table = np.zeros((problem.vocabulary, problem.width))
    mass = np.zeros((problem.vocabulary, problem.width))
    for start in range(0, len(problem.labels), BATCH):
        part = slice(start, start + BATCH)
        side = capture(model, problem.ids[part], problem.labels[part])
        np.add.at(table, side.rows.ids, side.rows.rows)
        np.add.at(mass, side.rows.ids, np.abs(side.rows.rows))
        for name, one in others(model, problem.ids[part], problem.labels[part]).items():
            parts.setdefault(name, []).append(np.stack([np.abs(one).sum(0), one.sum(0)]))
    found = {name: np.sum(one, axis=0) for name, one in parts.items()}
    found["embedding.weight"] = np.stack([mass.ravel(), table.ravel()])
    return {name: np.asarray([one[0].sum(), np.abs(one[1]).sum()]) for name, one in found.items()}
