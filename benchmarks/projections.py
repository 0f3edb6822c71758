"""Random projections of gradients: are products unbiased, does their variance match theory, and TRAK's formula.

A gradient G [o i] becomes P G Q^T with entries of variance 1/p. For products x = <P A Q^T, P B Q^T> of two gradients,
with c = <A, B>, N = B^T A, m = ||A B^T||^2 and s = ||A||^2 ||B||^2 (Frobenius norms),

    E x = c,   Var x = (||N||^2 + 2 tr N^2 + m) / p + (||N||^2 + m + s + c^2) / p^2

(derived here by Isserlis' theorem, once for each side); over layers, whose projections are independent, variances add.
The projection is called directly, over many seeds: an index built for each would contain the same numbers, as
`same_as_index` shows. TRAK's formula is an independent reference.
"""

import harness
import numpy as np
import torch

from proponent.gradients.layer_hooks import Call
from proponent.gradients.layer_rules import Block
from proponent.gradients.projection import Projection

WIDTHS = (4, 8, 16)
SOME_TRAIN, SOME_QUERIES = 24, 6


def record(work, seeds: int, traker) -> dict:
    """Everything about projections."""
    changes = {"layers": "blocks", "project": None, "weights": "equal"}
    index = work.index("last", "tracin-layers", **changes)
    blocks = [Block(one.name, (one.name,), "weight", one.o, one.i) for one in index.store.plan.blocks]
    train = vectors(index)
    queries = vectors(work.index("last", "tracin-layers", work.queries, **changes))
    made = {
        "layers": len(blocks),
        "parameters": int(train.shape[1]),
        "seeds": seeds,
        "pairs": SOME_TRAIN * SOME_QUERIES,
        "widths": {str(p): spread(blocks, train, queries, p, seeds) for p in WIDTHS},
        "index_is_projection": same_as_index(work, blocks, train),
        "trak": trak(work),
    }
    made["traker"] = {"failed": traker} if isinstance(traker, str) else own(traker)
    return made


def vectors(index) -> np.ndarray:
    """What an index keeps of every example at the last checkpoint: [n p]."""
    store = index.store
    parts = dict[int, np.ndarray]()
    for places, arrays in store.shards(store.plan.checkpoints[-1].id):
        parts |= zip(places.tolist(), arrays["dense.v"], strict=True)
    return np.stack([parts[place] for place in range(store.n)])


def projected(blocks: list[Block], v: np.ndarray, p: int, seed: int) -> np.ndarray:
    """Project full gradients as an index would."""
    projection, calls, at = Projection(blocks, p, seed), {}, 0
    for block in blocks:
        whole = torch.from_numpy(v[:, at : at + block.size].reshape(len(v), block.o, block.i))
        calls[block.name] = [Call(torch.eye(block.o).expand(len(v), -1, -1), whole, 0)]
        at += block.size
    return projection.vectors(calls, len(v))


def spread(blocks: list[Block], train: np.ndarray, queries: np.ndarray, p: int, seeds: int) -> dict:
    """Mean and variance of projected products over seeds, against the exact product and the exact variance."""
    train, queries = train[:SOME_TRAIN], queries[:SOME_QUERIES]
    both = np.concatenate([train, queries])
    found = []
    for seed in range(seeds):
        kept = projected(blocks, both, p, seed).astype(np.float64)
        found.append(kept[len(train) :] @ kept[: len(train)].T)
    exact = queries.astype(np.float64) @ train.astype(np.float64).T
    theory = np.asarray([[variance(blocks, one, other, p) for other in train] for one in queries])
    drawn = np.stack(found)
    z = (drawn.mean(0) - exact) / (drawn.std(0, ddof=1) / np.sqrt(seeds))
    ratio = drawn.var(0, ddof=1) / theory
    norms = np.linalg.norm(queries, axis=1)[:, None] * np.linalg.norm(train, axis=1)
    return {
        "within_3_se": float((np.abs(z) <= 3).mean()),
        "largest_z": float(np.abs(z).max()),
        "mean_z": float(z.mean()),
        "variance_over_theory": float(ratio.mean()),
        "variance_over_theory_median": float(np.median(ratio)),
        "variance_times_p": float((drawn.var(0, ddof=1) / norms**2).mean() * p),
        "theory_times_p": float((theory / norms**2).mean() * p),
        "error_over_norms": float((drawn.std(0, ddof=1) / norms).mean()),
    }


def variance(blocks: list[Block], one: np.ndarray, other: np.ndarray, p: int) -> float:
    """Variance of a projected product where both sides of every layer are projected to p (Isserlis' theorem twice)."""
    total, at = 0.0, 0
    for block in blocks:
        a, b = (v[at : at + block.size].astype(np.float64).reshape(block.o, block.i) for v in (one, other))
        at += block.size
        n = b.T @ a
        c, square, turned = (a * b).sum(), (n**2).sum(), np.trace(n @ n)
        mixed, sizes = ((a @ b.T) ** 2).sum(), (a**2).sum() * (b**2).sum()
        total += (square + 2 * turned + mixed) / p + (square + mixed + sizes + c**2) / p**2
    return float(total)


def same_as_index(work, blocks: list[Block], train: np.ndarray) -> float:
    """Largest difference, relative, of an index built with a projection from the projected full gradients."""
    index = work.index("last", "tracin-layers", layers="blocks", project=8, seed=3, weights="equal")
    theirs = projected(blocks, train, 8, 3)
    return float(np.abs(vectors(index) - theirs).max() / np.abs(theirs).max())


def trak(work) -> dict:
    """Our kernel of projected gradients against TRAK's formula in plain numpy, on the same features."""
    layer, p = "*.layer.0.output.dense", 5
    plain = {"layers": layer, "project": p, "weights": "equal", "loss": "mean"}
    train = vectors(work.index("last", "tracin-layers", **plain)).astype(np.float64)
    queries = vectors(work.index("last", "tracin-layers", work.queries, **plain)).astype(np.float64)
    ours = work.index(
        "last", "trackstar", layers=layer, project=p, preconditioner="none", similarity="dot", damping=1e-9
    )
    texts, labels = ([row[name] for row in work.queries] for name in ("text", "label"))
    scores = ours.scores(texts, labels).astype(np.float64)
    kernel = np.linalg.inv(train.T @ train)
    plain_trak = len(train) * queries @ kernel @ train.T
    # TRAK takes the gradient of f = log(p / (1 - p)), and dL = -(1 - p) df
    q_train, q_queries = (1 - _probabilities(work, rows) for rows in (work.train, work.queries))
    f_train, f_queries = -train / q_train[:, None], -queries / q_queries[:, None]
    whole = f_queries @ np.linalg.inv(f_train.T @ f_train) @ f_train.T * q_train
    weighed = f_queries @ np.linalg.inv((f_train * q_train[:, None] ** 2).T @ f_train) @ f_train.T * q_train
    return {
        "features": int(train.shape[1]),
        "kernel": harness.alike(scores, plain_trak),
        "weighed kernel and Q": harness.alike(scores, len(train) * weighed * q_queries[:, None]),
        "as published": harness.alike(scores, whole),
    }


def own(traker: dict[str, np.ndarray]) -> dict:
    """TRAK's own projected features: their products over seeds against the exact ones."""
    exact, drawn, width = traker["exact"], traker["products"], int(traker["width"])
    seeds = len(drawn)
    z = (drawn.mean(0) - exact) / (drawn.std(0, ddof=1) / np.sqrt(seeds))
    # entries of +1 and -1 vary less than normal ones, by twice the sum of squares entry by entry
    ratio = drawn.var(0, ddof=1) * width / (traker["norms"] ** 2 + exact**2 - 2 * traker["squares"])
    return {
        "width": width,
        "seeds": seeds,
        "within_3_se": float((np.abs(z) <= 3).mean()),
        "largest_z": float(np.abs(z).max()),
        "variance_over_theory": float(ratio.mean()),
        "formula": harness.alike(traker["scores"], traker["numpy"]),
    }


def _probabilities(work, rows: list[dict]) -> np.ndarray:
    """Probability of each row's own label at the last checkpoint."""
    model = work.run.load(work.run.checkpoints[-1]).double().eval()
    found = []
    with torch.inference_mode():
        for row in rows:
            ids = work.run.tokenizer(row["text"], truncation=True, max_length=32, return_tensors="pt")
            found.append(float(model(**ids).logits[0].softmax(-1)[work.run.label_number(row["label"])]))
    return np.asarray(found)
