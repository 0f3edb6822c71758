"""Record C: layers, aggregations and noise detection (the claims of "First is Not Really Better Than Last").

    python benchmarks/fidelity/record_c.py --data ../shared/data

TREC with 20 % of the training labels replaced; the convolutional classifier, with trained embeddings and (for
comparison) frozen ones as in that paper's evidence; every layer and TracIn-WE computed correctly, compared with the
published shortcut that uses only tokens shared by all validation examples; mean, rank and vote over all queries and
over correctly predicted ones, for all rules. The models are trained by the library's own loop (`proponent.training`).
"""

import argparse
from pathlib import Path

import cnn_scores
import data
import numpy as np
from convolution import CnnProblem
from record import arguments, keep

from proponent import Example
from proponent.evaluate import auc_ndr, ndr, plant, trials
from proponent.models.scratch import wordpiece
from proponent.training.loop import TrainingLoop, one_thread
from proponent.training.schedule import Settings, id_hashes

LAYERS = ("first.weight", "second.weight", "third.weight", "classifier.weight")


class Frozen(CnnProblem):
    """The same classifier whose embedding never moves."""

    def fresh(self, seed):
        """A model with its initial weights and a frozen embedding."""
        model = super().fresh(seed)
        model.embedding.weight.requires_grad_(requires_grad=False)
        return model


def trec(folder: Path, rows: int, queries: int) -> data.Task:
    """Questions in six classes."""

    def read(name: str) -> list[Example]:
        found = data.rows(folder / "trec" / name)
        label = "label_name" if "label_name" in found[0] else "coarse" if "coarse" in found[0] else "label"
        return [Example(str(row), row, one["text"], one[label]) for row, one in enumerate(found)]

    train, test = read("train.csv.gz"), read("test.csv.gz")
    labels = tuple(sorted({str(one.label) for one in train}))
    return data.task("trec", train, test, labels, (rows, queries))


def tensor(model, problem: CnnProblem) -> dict[str, np.ndarray]:
    """Products of every training row with every query, per layer: [q n] each."""
    model = model.eval().requires_grad_(requires_grad=False)
    query = cnn_scores.capture(model, problem.query_ids, problem.query_labels)
    plain = cnn_scores.dense(query.rows, problem.vocabulary)
    shared = np.zeros((problem.vocabulary, 1), dtype=np.float32)
    everywhere = [token for token in range(problem.vocabulary) if (problem.query_ids == token).any(1).all()]
    shared[everywhere] = 1.0
    root = cnn_scores.AdamRoot(cnn_scores.mean_squares(model, problem))
    divided = cnn_scores.dense(root(query.rows), problem.vocabulary)
    top = cnn_scores.dense(cnn_scores.top_tokens(query.rows, 10), problem.vocabulary)
    above = cnn_scores.others(model, problem.query_ids, problem.query_labels)
    found: dict[str, list[np.ndarray]] = {}
    for start in range(0, len(problem.labels), cnn_scores.BATCH):
        part = slice(start, start + cnn_scores.BATCH)
        side = cnn_scores.capture(model, problem.ids[part], problem.labels[part])
        mine = cnn_scores.others(model, problem.ids[part], problem.labels[part])
        parts = {
            "embedding": cnn_scores.meet(side.rows, plain),
            "embedding top 10": cnn_scores.meet(cnn_scores.top_tokens(side.rows, 10), top),
            "embedding, shared by all queries (as published)": cnn_scores.meet(side.rows, plain * shared),
            "embedding, optimizer-aware, unit norm": cnn_scores.meet(side.rows, divided)
            / np.maximum(root(side.rows).norms(), 1e-12),
        }
        parts |= {layer: above[layer] @ mine[layer].T for layer in LAYERS}
        parts["loss"] = np.tile(-side.losses, (len(problem.query_labels), 1))
        for name, one in parts.items():
            found.setdefault(name, []).append(one)
    return {name: np.concatenate(one, axis=1).astype(np.float64) for name, one in found.items()}


def one_seed(args: argparse.Namespace, seed: int, *, frozen: bool) -> dict:
    """Train on noisy labels, rank by every layer and rule, measure; then filter and train again."""
    task = trec(args.data, args.rows, args.queries)
    noisy, wrong = plant(task.train, 0.2, seed)
    tokenizer = wordpiece(task.texts, 4000, 32)

    def ids(texts):
        return np.asarray(tokenizer(texts, truncation=True, max_length=32, padding="max_length")["input_ids"])

    kind = Frozen if frozen else CnnProblem
    problem = kind(
        ids(task.texts), task.numbers(noisy), ids(task.query_texts), task.numbers(task.queries),
        id_hashes([one.id for one in task.train]), len(tokenizer), len(task.labels), f"trec noisy {seed}", 64,
    )  # fmt: skip
    half = len(task.queries) // 2
    loop = TrainingLoop(problem, Settings(args.epochs, 64, 2e-3))
    model = loop.fit(np.arange(args.rows), seed)
    outputs = problem.outputs(model)
    right = (outputs.predicted == problem.query_labels)[:half]
    scores = {name: one[:half] for name, one in tensor(model, problem).items()}
    groups = {name: one[None] for name, one in scores.items()}
    groups["all layers"] = np.stack([scores[name] for name in ("embedding", *LAYERS)])
    groups["random"] = np.random.default_rng(seed).standard_normal((1, half, args.rows))
    made: dict = {"accuracy": float((outputs.predicted == problem.query_labels)[half:].mean()), "rankings": {}}
    for which, chosen in (("all", None), ("correct", right)):
        for one in trials(groups, chosen):
            said = {"ndr30": ndr(one.values, wrong, 0.3), "auc_ndr": auc_ndr(one.values, wrong)}
            if which == "correct" and one.how in args.filter and not frozen:
                kept = np.sort(np.argsort(one.values, kind="stable")[round(0.3 * args.rows) :])
                after = loop(kept, seed)
                said["accuracy_after"] = float((after.predicted == problem.query_labels)[half:].mean())
            made["rankings"][f"{one.name} | {one.how} | {which}"] = said
    total = cnn_scores.cancellation(model, problem)
    made["cancellation"] = {name: float(one[0] / max(one[1], 1e-12)) for name, one in total.items()}
    return made


def main() -> None:
    """Run the record."""
    parser = arguments(__doc__, cache=False, rows=2000, queries=200, epochs=6, seeds=3)
    parser.add_argument("--filter", nargs="*", default=["mean", "vote"], help="rules whose lowest 30 %% are filtered")
    args = parser.parse_args()
    made: dict = {}
    with one_thread():
        for frozen in (False, True):
            runs = [one_seed(args, seed, frozen=frozen) for seed in range(args.seeds)]
            table: dict = {}
            for name in runs[0]["rankings"]:
                several = [one["rankings"][name] for one in runs]
                table[name] = {key: [float(one[key]) for one in several] for key in several[0]}
            made["embedding frozen" if frozen else "embedding trained"] = {
                "accuracy": [one["accuracy"] for one in runs],
                "cancellation": {name: [one["cancellation"][name] for one in runs] for name in runs[0]["cancellation"]},
                "rankings": table,
            }
            print("done, frozen" if frozen else "done, trained", flush=True)
    keep(args, "C", made)


if __name__ == "__main__":
    main()
