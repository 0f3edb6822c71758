"""Record A: AG News and the convolutional classifier of the TracIn-WE experiments.

    python benchmarks/fidelity/record_a.py lds --data ../shared/data --cache CACHE
    python benchmarks/fidelity/record_a.py deletion --data ../shared/data --cache CACHE

Both resume. The full protocol of the paper (50,000 rows, width 128, 128 tokens, ten epochs of SGD) is --full, for
data and machines that allow it. The models are trained by the library's own loop (`proponent.training`), since the
settings are specific to this record.
"""

import argparse
from functools import cached_property

import cnn_scores
import data
import numpy as np
from convolution import CnnProblem
from deletion import table
from record import arguments, controls, halves, keep, lds_table

from proponent.engine import engine_of
from proponent.evaluate import SIDES, Retrains
from proponent.models.scratch import wordpiece
from proponent.training.loop import TrainingLoop, one_thread
from proponent.training.schedule import Settings, id_hashes

SCORED_SEEDS = (1001, 1002, 1003, 1004)
AT_LAST = ("tracin-we", "adam-unit", "tracin-last", "tracin-all", "grad-cos", "trak", "influence-last")
"""Also scored at the last checkpoint alone, as peers of a single checkpoint do."""


class Setting:
    """Data, model and scores of record A."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.task = data.agnews(args.data, (args.rows, args.queries))
        tokenizer = wordpiece(self.task.texts, args.vocabulary, args.length)
        self.tokenizer = tokenizer

        def ids(texts: list[str]) -> np.ndarray:
            return np.asarray(
                tokenizer(texts, truncation=True, max_length=args.length, padding="max_length")["input_ids"]
            )

        self.problem = CnnProblem(
            ids(self.task.texts), self.task.numbers(self.task.train), ids(self.task.query_texts),
            self.task.numbers(self.task.queries), id_hashes([one.id for one in self.task.train]), len(tokenizer), 4,
            f"agnews descriptions, {args.rows} rows, {args.queries} queries, vocabulary {len(tokenizer)}", args.width,
        )  # fmt: skip

    def loop(self, *, keep_places: bool) -> TrainingLoop:
        """The training."""
        args = self.args
        if args.full:
            return TrainingLoop(self.problem, Settings(10, 128, 0.02, "sgd", momentum=0.9, keep_places=keep_places))
        return TrainingLoop(self.problem, Settings(args.epochs, 64, 3e-3, keep_places=keep_places))

    def retrains(self, *, keep_places: bool) -> Retrains:
        """The engine."""
        return Retrains(self.loop(keep_places=keep_places), self.args.cache, engine_of(self.args.workers))

    def run_scores(self, seed: int) -> dict[str, np.ndarray]:
        """Scores of one trained run, checkpoints of the later epochs summed; kept in the cache."""
        args = self.args
        path = args.cache / f"a-scores-2-{args.rows}-{args.queries}-{args.epochs}-{args.length}-{seed}.npz"
        if path.is_file():
            with np.load(path) as found:
                return dict(found)
        total: dict[str, np.ndarray] = {}
        special = tuple(self.tokenizer.all_special_ids)

        def watch(model, optimizer, epoch):
            if epoch == 0:
                return
            state = optimizer.state[model.embedding.weight]
            moment = (state["exp_avg_sq"] / (1 - 0.999 ** float(state["step"]))).numpy()
            copied = self.problem.fresh(0)
            copied.load_state_dict(model.state_dict())
            found = cnn_scores.checkpoint_scores(copied, moment, self.problem, special)
            for name, one in found.items():
                total[name] = total.get(name, 0) + one
            total.update({f"{name}, last checkpoint": found[name] for name in AT_LAST})
            for name, one in cnn_scores.cancellation(copied, self.problem).items():
                total[f"cancel:{name}"] = total.get(f"cancel:{name}", 0) + one
            print("scored epoch", epoch + 1, "of seed", seed, flush=True)

        with one_thread():
            model = self.loop(keep_places=False).fit(np.arange(len(self.problem.labels)), seed, watch)
            outputs = self.problem.outputs(model)
        total["accuracy"] = np.asarray([(outputs.predicted == self.problem.query_labels).mean()])
        np.savez(path, **total)
        return total

    @cached_property
    def scores(self) -> dict[str, list[np.ndarray]]:
        """Per method: the scores of one run, and the sum over four runs."""
        runs = [self.run_scores(seed) for seed in SCORED_SEEDS[: self.args.runs]]
        names = [name for name in runs[0] if not name.startswith("cancel:") and name != "accuracy"]
        each = {name: [one[name] for one in runs] for name in names}
        found = {name: [ones[0], np.sum(ones, axis=0), *ones] for name, ones in each.items()}
        with one_thread():
            models = [
                self.loop(keep_places=False).fit(np.arange(len(self.problem.labels)), seed)
                for seed in SCORED_SEEDS[: self.args.runs]
            ]
        known = [controls(self.task, self.signals(model), self.features(model)) for model in models]
        return found | {name: [known[0][name], np.sum([one[name] for one in known], axis=0)] for name in known[0]}

    def signals(self, model) -> tuple[np.ndarray, np.ndarray]:
        """Class probabilities of the training set and of the queries."""
        return self._through(model, features=False)

    def features(self, model) -> tuple[np.ndarray, np.ndarray]:
        """Input of the last layer."""
        return self._through(model, features=True)

    def _through(self, model, *, features: bool):
        made = []
        for ids, labels in (
            (self.problem.ids, self.problem.labels),
            (self.problem.query_ids, self.problem.query_labels),
        ):
            side = cnn_scores.capture(model.requires_grad_(requires_grad=False), ids, labels)
            p = side.g.copy()
            p[np.arange(len(p)), labels] += 1
            made.append(side.a if features else p)
        return made[0], made[1]


def lds(setting: Setting) -> dict:
    """Retrain on halves, and measure every method against them."""
    labels = setting.problem.query_labels
    masks, outputs, said = halves(setting.args, setting.retrains(keep_places=False), labels)
    return {**said, **lds_table(setting.scores, masks, outputs, "adam-unit")}


def deletion(setting: Setting) -> dict:
    """Scores of all runs summed; both signs; gold and predicted class."""
    args = setting.args
    with one_thread():
        scores = {name: setting.scores[name][1] for name in args.methods}
    return table(
        scores, setting.problem.labels, setting.problem.query_labels, setting.retrains(keep_places=True),
        args.points, args.k, range(args.seeds), args.methods[0], "tracin-last", "tfidf-label", args.sides,
    )  # fmt: skip


def main() -> None:
    """Run one part of the record."""
    parser = arguments(
        __doc__, rows=6000, queries=60, subsets=60, seeds=2, runs=4, epochs=4, length=64, width=64,
        vocabulary=16_000, points=20, workers=1,
    )  # fmt: skip
    parser.add_argument("what", choices=("lds", "deletion"))
    parser.add_argument("--k", type=int, nargs="+", default=[10, 30, 100])
    parser.add_argument("--methods", nargs="+", default=["adam-unit", "tracin-last", "tfidf-label", "tracin-we"])
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=list(SIDES))
    parser.add_argument("--full", action="store_true")
    args = parser.parse_args()
    args.cache.mkdir(parents=True, exist_ok=True)
    setting = Setting(args)
    result = lds(setting) if args.what == "lds" else deletion(setting)
    keep(args, "A", result)


if __name__ == "__main__":
    main()
