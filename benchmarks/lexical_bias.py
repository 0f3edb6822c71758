"""Lexical bias: weights on planted words and on SNLI, and what models trained with and without them lean on.

    python benchmarks/lexical_bias.py --data FOLDER [--rows 4000] [--seeds 3] [--controls 10] [--cache FOLDER]

Planted texts hold independent words in random order; a fifth of the words go with one of two labels. SNLI is split by
premise. Each set is fitted and judged by `proponent.actions.lexical_bias`; a bag of words (logistic regression) and a
small transformer (from scratch) are trained on it plain and weighted, and tested on held-out data that is neither. The
control is trained on planted texts whose words are renamed, so that other words go with the labels. Finished models
are kept in --cache.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from harness import Row, arguments, kept, read_csv, trained, write_record

import proponent
from proponent.actions.lexical_bias import LexicalBias, lexical_bias, permutation_test, strongest
from proponent.actions.run_predictions import class_probabilities
from proponent.actions.word_labels import word_label_z
from proponent.data import read
from proponent.evaluate import bootstrap

WORDS, BIASED, LENGTH = 400, 80, 25
DRAWS, MOST = 1000, 50
SETTINGS = {"checkpoints": 1, "max_length": 48}


def planted(count: int, seed: int, biased: int = BIASED) -> list[Row]:
    """Texts whose biased words are up to twice as frequent with one label as with the other."""
    draw = np.random.default_rng(seed)
    given = draw.integers(0, 2, count)
    chance = draw.permutation(1 / (np.arange(WORDS) + 20.0))
    chance = np.clip(LENGTH * chance / chance.sum(), 0, 0.6)
    lean = np.zeros(WORDS)
    lean[draw.choice(WORDS, biased, replace=False)] = draw.uniform(0.2, 0.8, biased) * draw.choice([-1, 1], biased)
    held = draw.random((count, WORDS)) < np.clip(chance * np.exp(np.where(given[:, None] == 1, lean, -lean) / 2), 0, 1)
    texts = [" ".join(f"w{word}" for word in draw.permutation(np.flatnonzero(one))) or "w0" for one in held]
    labels = [("no", "yes")[label] for label in given]
    return [
        {"id": str(at), "text": text, "label": label}
        for at, (text, label) in enumerate(zip(texts, labels, strict=True))
    ]


def renamed(rows: Sequence[Row], seed: int) -> list[Row]:
    """The same texts with the words renamed: other words go with the labels."""
    names = np.random.default_rng([seed, 1]).permutation(WORDS)
    return [row | {"text": " ".join(f"w{names[int(word[1:])]}" for word in row["text"].split())} for row in rows]


def snli(folder: Path, seed: int, count: int) -> tuple[list[Row], list[Row]]:
    """Pairs for training, and a fifth of the premises with all their pairs."""
    rows = read_csv(folder / "nli_snli_devtest" / "pairs.csv.gz")
    premises = sorted({row["premise"] for row in rows})
    draw = np.random.default_rng(seed)
    out = set(draw.choice(premises, len(premises) // 5, replace=False).tolist())
    named = [
        {"id": row["id"], "text": row["premise"], "text_pair": row["hypothesis"], "label": row["label_name"]}
        for row in rows
    ]
    held = [row for row in named if row["text"] in out]
    kept = [row for row in named if row["text"] not in out]
    chosen = np.sort(draw.permutation(len(kept))[:count]).tolist()
    return [kept[at] for at in chosen], held


def bag_of_words(train: Sequence[Row], held: Sequence[Row], weights: np.ndarray | None) -> np.ndarray:
    """Class probabilities of a logistic regression on the words of each text, classes in order of their names."""
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.linear_model import LogisticRegression

    def document(row: Row) -> str:
        second = " ".join(f"2:{word}" for word in row.get("text_pair", "").lower().split())
        return f"{row['text'].lower()} {second}"

    counter = CountVectorizer(binary=True, lowercase=False, token_pattern=r"\S+")
    matrix = counter.fit_transform(map(document, train))
    model = LogisticRegression(max_iter=2000).fit(matrix, [row["label"] for row in train], sample_weight=weights)
    return model.predict_proba(counter.transform(map(document, held)))


def transformer(
    train: Sequence[Row], held: Sequence[Row], weights: np.ndarray | None, home: Path, **settings: Any
) -> np.ndarray:
    """The same of a small transformer; a finished run is used again."""
    if not (home / "done").is_file():
        parts = zip(train, np.ones(len(train)) if weights is None else weights, strict=True)
        examples = [
            proponent.Example(row["id"], at, row["text"], row["label"], row.get("text_pair"), weight=float(weight))
            for at, (row, weight) in enumerate(parts)
        ]
        trained(examples, home, **SETTINGS, **settings)
        (home / "done").write_text("")
    classes = sorted({row["label"] for row in train})
    return class_probabilities(proponent.Run.from_pretrained(home), read(list(held)), classes, quiet=True)


def tested(found: LexicalBias, held: Sequence[Row], predictions: np.ndarray) -> dict[str, Any]:
    """Accuracy, and the permutation test."""
    words = word_label_z(list(held), known=found.words)
    result = permutation_test(predictions, words, strongest(found.words, MOST), DRAWS, 0)
    accuracy = float((predictions.argmax(1) == words.given).mean())
    return {"accuracy": accuracy, "excess": result.observed, "null": result.null_mean, "p": result.p,
            "words": result.words}  # fmt: skip


def judged(found: LexicalBias) -> dict[str, Any]:
    """The figures of a report."""
    weights = found.report.weights
    assert weights is not None
    lines = [
        {"units": one.units, "where": one.where, "pairs": one.pairs, "flagged": one.flagged, "mean": one.mean}
        | ({} if one.shuffled is None else {"shuffled": [one.shuffled.mean, one.shuffled.least, one.shuffled.most]})
        for one in found.report.summaries
    ]
    return {
        "rows": found.report.examples, "summaries": lines, "source": weights.source,
        "effective": weights.share, "largest": weights.most, "least": weights.least, "labels": weights.labels,
    }  # fmt: skip


def models(
    found: LexicalBias,
    sets: dict[str, tuple[Sequence[Row], np.ndarray | None]],
    held: Sequence[Row],
    home: Path,
    **settings: Any,
) -> dict[str, Any]:
    """Both models on each training set."""
    made: dict[str, Any] = {}
    for name, (rows, weights) in sets.items():
        made[f"bag of words, {name}"] = tested(found, held, bag_of_words(rows, held, weights))
        predicted = transformer(rows, held, weights, home / name, **settings)
        made[f"transformer, {name}"] = tested(found, held, predicted)
    return made


def on_planted(seed: int, args: Any) -> dict[str, Any]:
    """Planted words: z, weights, and models; the first seeds with weights, all with the control."""
    rows = planted(args.rows + args.rows // 4, seed)
    train, held = rows[: args.rows], rows[args.rows :]
    found = lexical_bias(train, heldout=held, min_count=args.least, quiet=True)
    sets: dict[str, tuple[Sequence[Row], np.ndarray | None]] = {"control": (renamed(train, seed), None)}
    if seed < args.seeds:
        sets |= {"plain": (train, None), "weighted": (train, found.weights)}
    settings = {"epochs": args.epochs, "width": args.width, "layers": 1, "seed": seed}
    return judged(found) | {"models": models(found, sets, held, args.cache / f"planted-{seed}", **settings)}


def on_snli(seed: int, args: Any) -> dict[str, Any]:
    """SNLI: z, weights, and models; the premises alone are the clean data."""
    train, held = snli(args.data, seed, args.pairs)
    found = lexical_bias(train, heldout=held, min_count=args.least, quiet=True)
    clean = lexical_bias(train, columns=["text"], min_count=args.least, quiet=True)
    sets = {"plain": (train, None), "weighted": (train, found.weights)}
    settings = {"epochs": args.epochs, "width": args.width, "layers": 1, "seed": seed}
    strong = [[one.word, one.column, one.label, one.n, one.z, one.z_heldout] for one in found.report.listed[:15]]
    made = judged(found) | {"strongest": strong, "premises alone": judged(clean)}
    return made | {"models": models(found, sets, held, args.cache / f"snli-{seed}", **settings)}


def on_clean(seed: int, args: Any) -> dict[str, Any]:
    """Planted texts without biased words."""
    return judged(lexical_bias(planted(args.rows, 100 + seed, biased=0), min_count=args.least, quiet=True))


def interval(values: Sequence[float]) -> list[float]:
    """Mean over seeds with its 95 % interval, of several seeds."""
    if len(values) < 2:
        return list(values)
    found = bootstrap(np.asarray(values))
    return [found.value, found.low, found.high]


def main() -> None:
    """Measure, and write the record."""
    parser = arguments(__doc__, data=True, rows=4000, pairs=12600, seeds=3, controls=10, epochs=2, width=32, least=20)
    parser.add_argument("--cache", type=Path, default=Path("lexical-bias-cache"))
    args = parser.parse_args()
    parts = args.cache / "parts"
    record: dict[str, Any] = {"settings": {name: getattr(args, name) for name in ("rows", "pairs", "epochs", "width")}}
    numbers = range(max(args.seeds, args.controls))
    record["planted"] = [kept(parts / f"planted-{at}.json", lambda at=at: on_planted(at, args)) for at in numbers]
    record["clean"] = [kept(parts / f"clean-{at}.json", lambda at=at: on_clean(at, args)) for at in range(args.seeds)]
    record["snli"] = [kept(parts / f"snli-{at}.json", lambda at=at: on_snli(at, args)) for at in range(args.seeds)]
    parted = ("planted", "clean", "snli")
    controls = [one["models"] for one in record["planted"]]
    record["controls with p > .05"] = {
        name: sum(one[f"{name}, control"]["p"] > 0.05 for one in controls) for name in ("bag of words", "transformer")
    }
    record["excess, mean over seeds"] = {
        f"{where}: {name}": interval([one["models"][name]["excess"] for one in record[where] if name in one["models"]])
        for where in ("planted", "snli")
        for name in record[where][0]["models"]
    }
    record["cpu_seconds"] = round(sum(one["cpu_seconds"] for name in parted for one in record[name]))
    write_record(args.out, "lexical-bias", record)


if __name__ == "__main__":
    main()
