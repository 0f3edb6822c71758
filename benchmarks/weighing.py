"""Weights of rows with guessed labels, on real text: beside one tuned weight for all rows, and other controls.

    python benchmarks/weighing.py --data FOLDER [--cache FOLDER] [--seeds 3] [--unlabelled 1500]

Reviews are encoded once by a pretrained encoder (mean of the last hidden states, frozen). For each seed the rows are
drawn anew: few labelled ones, some for validation, the rest unlabelled. Their labels are guessed by a weak model: naive
Bayes on the words of the labelled rows. The last part gives the same rows their true labels: weights should do no harm.
The test rows are the same for all seeds. Finished parts are kept in --cache.
"""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from harness import Row, arguments, encoder_folder, kept, read_csv, sample, write_record

from proponent.actions.text_features import text_features
from proponent.actions.unlabelled_weights import OURS, TUNED, Comparison, Rows, WeighSettings, compare
from proponent.data import read
from proponent.evaluate import bootstrap, paired, roc_auc

SETS = {"sst2": ("train", "test", 32), "imdb": ("train", "test", 96)}
"""Files of training and test rows, and tokens that are read."""


def reviews(folder: Path, name: str, args: Any) -> tuple[list[Row], list[Row]]:
    """Rows to draw from, and test rows."""
    pool, test, _ = SETS[name]
    count = args.labelled + args.validation + args.unlabelled
    both = [read_csv(folder / name / f"{part}.csv.gz") for part in (pool, test)]
    known = {row["text"] for row in both[1]}
    fresh = list({row["text"]: row for row in both[0] if row["text"] not in known}.values())
    long = [row for row in fresh if len(row["text"].split()) >= args.words]
    return sample(long, count), sample(both[1], args.test)


def encoded(rows: list[Row], path: Path, length: int) -> np.ndarray:
    """Features of the texts, from the cache if they are there."""
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        made = text_features(encoder_folder(), list(read([{"text": row["text"]} for row in rows])), max_length=length)
        np.save(path, made)
    return np.load(path)


def naive_bayes(known: list[Row], asked: list[Row]) -> np.ndarray:
    """Classes by the words of the known rows, each counted once per row, with one added to every count."""
    counts = [Counter(word for row in known if row["label"] == label for word in words(row)) for label in "01"]
    sizes = [sum(row["label"] == label for row in known) for label in "01"]
    seen = set(counts[0]) | set(counts[1])
    lean = {word: np.log((counts[1][word] + 1) / (sizes[1] + 2) * (sizes[0] + 2) / (counts[0][word] + 1))
            for word in seen}  # fmt: skip
    prior = np.log(max(sizes[1], 1) / max(sizes[0], 1))
    return np.asarray([int(prior + sum(lean.get(word, 0.0) for word in words(row)) > 0) for row in asked])


def words(row: Row) -> set[str]:
    """Distinct words of a text."""
    return set(row["text"].lower().split())


def drawn(name: str, seed: int, args: Any) -> dict[str, Any]:
    """Weights and heads of one draw of the rows, with guessed and with true labels."""
    pool, test = reviews(args.data, name, args)
    length = SETS[name][2]
    features = encoded(pool, args.cache / f"{name}-pool.npy", length)
    measured = encoded(test, args.cache / f"{name}-test.npy", length)
    order = np.random.default_rng(seed).permutation(len(pool))
    ends = (args.labelled, args.labelled + args.validation)
    few, held, rest = order[: ends[0]], order[ends[0] : ends[1]], order[ends[1] :]
    mean, spread = features.mean(0), features.std(0) + 1e-8
    scaled = (features - mean) / spread
    truth = np.asarray([int(row["label"]) for row in pool])
    guessed = naive_bayes([pool[at] for at in few], [pool[at] for at in rest])
    known, validation = (Rows(scaled[some], truth[some]) for some in (few, held))
    tests = Rows((measured - mean) / spread, np.asarray([int(row["label"]) for row in test]))
    settings = WeighSettings(steps=args.steps)
    return {
        which: judged(
            compare(known, Rows(scaled[rest], labels), validation, tests, settings, seeds=1, quiet=True),
            labels == truth[rest],
        )
        for which, labels in (("guessed labels", guessed), ("true labels", truth[rest]))
    }


def judged(found: Comparison, right: np.ndarray) -> dict[str, Any]:
    """Correct test rows of every head, and how well the weights tell wrong guesses from right ones."""
    made = {
        "tuned": list(found.tuned),
        "right guesses": float(right.mean()),
        "mean weight": float(found.weights.mean()),
        "right": {name: [round(float(one), 3) for one in each] for name, each in found.right.items()},
    }
    if right.all():
        return made
    means = [float(found.weights[some].mean()) for some in (right, ~right)]
    auc = float(roc_auc(found.weights, right))
    return made | {"mean weight of right guesses": means[0], "of wrong ones": means[1], "auc": auc}


def together(seeds: list[dict[str, Any]], which: str) -> dict[str, Any]:
    """Accuracies and gains over the test rows, mean of the seeds."""
    parts = [one[which] for one in seeds]
    right = {name: np.mean([part["right"][name] for part in parts], axis=0) for name in parts[0]["right"]}
    gains = {name: paired(right[OURS], each).to_dict() for name, each in right.items() if name != OURS}
    each = [float(np.mean(part["right"][OURS]) - np.mean(part["right"][TUNED])) for part in parts]
    numbers = [name for name, value in parts[0].items() if isinstance(value, float)]
    return {
        "accuracy": {name: bootstrap(one).to_dict() for name, one in right.items()},
        "gain over": gains,
        "gain over one tuned weight, by seed": each,
        "tuned": [part["tuned"][0] for part in parts],
        **{name: float(np.mean([part[name] for part in parts])) for name in numbers},
    }


def main() -> None:
    """Measure, and write the record."""
    parser = arguments(
        __doc__, data=True, seeds=3, labelled=50, validation=150, unlabelled=1500, test=800, steps=600, words=6
    )
    parser.add_argument("--cache", type=Path, default=Path("weighing-cache"))
    args = parser.parse_args()
    numbers = ("seeds", "labelled", "validation", "unlabelled", "test", "steps", "words")
    record: dict[str, Any] = {"settings": {name: getattr(args, name) for name in numbers}}
    spent = 0.0
    for name in SETS:
        found = [
            kept(args.cache / f"{name}-{seed}.json", lambda name=name, seed=seed: drawn(name, seed, args))
            for seed in range(args.seeds)
        ]
        record[name] = {which: together(found, which) for which in ("guessed labels", "true labels")}
        spent += sum(one["cpu_seconds"] for one in found)
    write_record(args.out, "weighing", record | {"cpu_seconds": round(spent)})


if __name__ == "__main__":
    main()
