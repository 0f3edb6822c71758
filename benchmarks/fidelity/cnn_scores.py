"""Every method on the plain CNN: gradients from the library's capture and from autograd, products by formula.

The CNN is not a transformers model and has no index. The library's internals compute gradients of the embedding and the
head, their merging and top tokens, Adam's division and unit norm, synonyms and the head's Hessian; products over the
other layers use autograd, and TRAK and the representer's product use formulas. Products are in single precision, for
one batch of training rows at a time; no matrix of gradients is stored.
"""

from dataclasses import dataclass

import numpy as np
import torch
from convolution import CnnProblem, TextCnn
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional

from proponent import Gradients
from proponent.gradients.capture import Capture
from proponent.gradients.forms import Rows
from proponent.gradients.gradient import Gradient
from proponent.gradients.projection import top_tokens
from proponent.method_parts import Adam
from proponent.preconditioners.adam import Fitter
from proponent.preconditioners.base import Pass
from proponent.preconditioners.gauss_newton import ggn
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


class AdamRoot:
    """The library's division by the root of a second moment."""

    def __init__(self, moment: np.ndarray) -> None:
        self._fitter = Fitter(Adam(), Gradients(preconditioners=(Adam(),), normalize="train"))
        sums = {"rows": moment, "seen": np.ones(1)}
        self._table = self._fitter.reduce(Pass("rows", "gradients", "after"), sums, {}, ())

    def __call__(self, rows: Rows) -> Rows:
        """Divide rows."""
        made = self._fitter.apply(Gradient(rows=rows), self._table, (), None).rows
        assert made is not None
        return made


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
    model: TextCnn, moment: np.ndarray, problem: CnnProblem, special: tuple[int, ...]
) -> dict[str, np.ndarray]:
    """Scores [q n] of every method at one checkpoint, and what cancels in which layer."""
    model = model.eval().requires_grad_(requires_grad=False)
    size, count = len(problem.labels), len(problem.query_labels)
    query = capture(model, problem.query_ids, problem.query_labels)
    plain = dense(query.rows, problem.vocabulary)
    estimate = mean_squares(model, problem)
    root, rooted = AdamRoot(moment), AdamRoot(estimate)
    softer = 1.0 / (estimate + 1e-6)
    turned = {
        "tracin-we": plain,
        "noc": plain * _without(special, problem.vocabulary),
        "topk": dense(top_tokens(query.rows, 10), problem.vocabulary),
        "adam": dense(root(query.rows), problem.vocabulary),
        "adam-estimate": dense(rooted(query.rows), problem.vocabulary),
        "both-sides": plain * softer,
    }
    above = others(model, problem.query_ids, problem.query_labels)
    more = ("representer", "loss", "grad-cos")
    scores = {name: np.zeros((count, size), dtype=np.float32) for name in (*EMBEDDING, *GROUPS, *more)}
    heads: list[Side] = []
    projected = Projected(model, problem)
    asked = projected(query, above)
    for start in range(0, size, BATCH):
        part = slice(start, start + BATCH)
        side = capture(model, problem.ids[part], problem.labels[part])
        for name, table in turned.items():
            rows = top_tokens(side.rows, 10) if name == "topk" else side.rows
            scores[name][:, part] = meet(rows, table)
        scores["adam-unit"][:, part] = scores["adam"][:, part] / root(side.rows).norms()
        scores["adam-estimate-unit"][:, part] = scores["adam-estimate"][:, part] / rooted(side.rows).norms()
        mine = others(model, problem.ids[part], problem.labels[part])
        for name, layers in GROUPS.items():
            scores[name][:, part] = sum(above[layer] @ mine[layer].T for layer in layers)
        # the representer's coefficient is -(p - y) of the query's class, times the product of the head's inputs
        scores["representer"][:, part] = -side.g[:, problem.query_labels].T * (query.a @ side.a.T)
        scores["loss"][:, part] = -side.losses
        whole = scores["tracin-we"][:, part] + sum(above[layer] @ mine[layer].T for layer in mine)
        squares = side.rows.norms() ** 2 + sum((one**2).sum(1) for one in mine.values())
        scores["grad-cos"][:, part] = whole / np.sqrt(squares)
        projected.add(side, mine)
        heads.append(side)
    scores["tracin-all"] = scores["tracin-we"] + scores["every-layer-above"]
    scores["trak"] = projected.scores(asked)
    scores["syn"] = _synonyms(model, problem, query.rows)
    scores["influence-last"] = _influence(query, heads, problem.labels)
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


def mean_squares(model: TextCnn, problem: CnnProblem) -> np.ndarray:
    """Mean over the training set of the squared row gradients."""
    total = np.zeros((problem.vocabulary, problem.width), dtype=np.float32)
    for start in range(0, len(problem.labels), BATCH):
        rows = capture(model, problem.ids[start : start + BATCH], problem.labels[start : start + BATCH]).rows
        np.add.at(total, rows.ids, rows.rows**2)
    return total / len(problem.labels)


def _influence(query: Side, heads: list[Side], labels: np.ndarray) -> np.ndarray:
    """+g^T (H + damping)^-1 g' of the head's weights; the damping is a hundredth of the mean curvature."""
    a, g = np.concatenate([one.a for one in heads]), np.concatenate([one.g for one in heads])
    hessian = ggn(a.astype(np.float64), g.astype(np.float64) + np.eye(g.shape[1])[labels])
    damping = 0.01 * np.trace(hessian) / len(hessian) + 1e-12
    mine, theirs = (np.einsum("nl,ni->nli", x, y).reshape(len(x), -1) for x, y in ((query.g, query.a), (g, a)))
    return (np.linalg.solve(hessian + damping * np.eye(len(hessian)), mine.T).T @ theirs.T).astype(np.float32)


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
