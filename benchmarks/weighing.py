"""Weights of rows with guessed labels, on real text: beside one tuned weight for all rows, and other controls.

    python benchmarks/weighing.py --data FOLDER [--cache FOLDER] [--sets sst2,imdb] [--train-encoder 20]

Reviews are encoded once by a pretrained encoder (mean of the last hidden states, frozen). For each seed the rows are
drawn anew: few labelled ones, some for validation, the rest unlabelled. Their labels are guessed by a weak model: naive
Bayes on the words of --foreign reviews of the other set. Further parts take naive Bayes on the labelled rows, and true
labels, with which weights should do no harm. The test rows are the same for all seeds. With --train-encoder N, the
encoder is trained as well, on N labelled rows of IMDB and a consistency loss under word replacement; once. Finished
parts are kept in --cache.
"""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from harness import Row, arguments, encoder_folder, kept, read_csv, sample, write_record

from proponent.actions.consistency_weights import EncoderSettings, compare_trained
from proponent.actions.text_features import LabelledTexts, text_features
from proponent.actions.unlabelled_weights import OURS, TUNED, Comparison, Rows, WeighSettings, compare
from proponent.data import read
from proponent.evaluate import bootstrap, paired, roc_auc

SETS = {"sst2": ("train", "test", 32), "imdb": ("train", "test", 96)}
"""Files of training and test rows, and tokens that are read."""

TRAINING = ("steps", "batch_size", "ratio", "validation", "learning_rate", "alpha", "replaced")

PARTS = ("guesses of other reviews", "guesses of the labelled rows", "true labels")


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
    other = "imdb" if name == "sst2" else "sst2"
    foreign = sample(read_csv(args.data / other / "train.csv.gz"), args.foreign)
    asked = [pool[at] for at in rest]
    known, validation = (Rows(scaled[some], truth[some]) for some in (few, held))
    tests = Rows((measured - mean) / spread, np.asarray([int(row["label"]) for row in test]))
    return {
        f"{which}, ridge {ridge}": judged(
            compare(
                known,
                Rows(scaled[rest], labels),
                validation,
                tests,
                WeighSettings(steps=args.steps, ridge=float(ridge)),
                seeds=1,
                quiet=True,
            ),
            labels == truth[rest],
        )
        for ridge in args.ridges.split(",")
        for which, labels in zip(
            PARTS, (naive_bayes(foreign, asked), naive_bayes([pool[at] for at in few], asked), truth[rest]), strict=True
        )
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


def on_encoder(args: Any) -> dict[str, Any]:
    """The encoder trained with a consistency loss, on reviews of IMDB."""
    name, length = "imdb", args.train_length
    pool, test = reviews(args.data, name, args)
    ends = (args.train_encoder, args.train_encoder + args.validation)
    order = np.random.default_rng(0).permutation(len(pool)).tolist()
    few, held, rest = (
        [pool[at] for at in some]
        for some in (order[: ends[0]], order[ends[0] : ends[1]], order[ends[1] : ends[1] + args.train_unlabelled])
    )

    def texts(rows: list[Row]) -> LabelledTexts:
        bare = [{"text": " ".join(row["text"].split()[:length])} for row in rows]
        return LabelledTexts(list(read(bare)), np.asarray([int(row["label"]) for row in rows]))

    settings = EncoderSettings(
        steps=args.train_steps, batch_size=4, validation=32, learning_rate=1e-4, head_rate=5e-3, warm_up=8,
        max_length=length,
    )  # fmt: skip
    found = compare_trained(
        encoder_folder(), texts(few), texts(rest).examples, texts(held), texts(test[: args.train_test]), settings,
        scalars=(0.3, 1.0, 3.0), quiet=True,
    )  # fmt: skip
    right = found.right
    return {
        "settings": {name: getattr(settings, name) for name in TRAINING},
        "rows": [len(few), len(rest), len(held), args.train_test],
        "accuracy": {name: bootstrap(one).to_dict() for name, one in right.items()},
        "gain over": {name: paired(right[OURS], one).to_dict() for name, one in right.items() if name != OURS},
        "tuned": list(found.tuned),
        "weights": {"mean": float(found.weights.mean()), "least": float(found.weights.min()),
                    "most": float(found.weights.max())},
    }  # fmt: skip


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
        __doc__,
        data=True,
        seeds=3,
        labelled=50,
        validation=150,
        unlabelled=1500,
        test=700,
        steps=600,
        words=6,
        foreign=1000,
        ridges="0.0005,0.3",
        sets="sst2,imdb",
        train_encoder=0,
        train_steps=40,
        train_unlabelled=200,
        train_test=250,
        train_length=48,
    )
    parser.add_argument("--cache", type=Path, default=Path("weighing-cache"))
    args = parser.parse_args()
    numbers = ("seeds", "labelled", "validation", "unlabelled", "test", "steps", "words", "foreign", "ridges", "sets")
    record: dict[str, Any] = {"settings": {name: getattr(args, name) for name in numbers}}
    spent = 0.0
    for name in args.sets.split(","):
        found = [
            kept(args.cache / f"{name}-{seed}.json", lambda name=name, seed=seed: drawn(name, seed, args))
            for seed in range(args.seeds)
        ]
        record[name] = {which: together(found, which) for which in found[0] if which != "cpu_seconds"}
        spent += sum(one["cpu_seconds"] for one in found)
    if args.train_encoder:
        record["encoder trained"] = kept(args.cache / "trained.json", lambda: on_encoder(args))
        spent += record["encoder trained"]["cpu_seconds"]
    write_record(args.out, "weighing", record | {"cpu_seconds": round(spent)})


if __name__ == "__main__":
    main()
