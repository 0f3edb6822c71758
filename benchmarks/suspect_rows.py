"""Faults planted in real instructions, and how early `proponent labels` lists them.

    python benchmarks/suspect_rows.py --data ../shared/data --cache CACHE [--seeds 3]

Rows of Alpaca without their own duplicates, cut into two halves. In each half and for each seed: 5 % of the rows with
answers exchanged in pairs, 5 % more rows with a prompt that asks the same as another row and a foreign answer, 3 % more
rows that repeat another one (half of them with small changes), 2 % of the rows with a trigger phrase in the prompt and
a fixed answer. A small GPT-2 is trained from scratch on prompts and answers (answers count) and indexed with tracin-we.

Figures of the second half, for each signal, all signals together, and controls: AUROC for each kind of fault against
untouched rows, precision among the first 5 % and 10 % of all rows. A repeated row is the later one of both. Weights of
the signals are chosen on the first half by coordinate ascent, and those of the library are shown beside them. Clean
rows (the second half without plants) show how many rows are flagged without cause.
"""

import gzip
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import harness
import numpy as np

import proponent
from proponent.actions.suspect_rows import FLAGGED, WEIGHTS, RowSignals
from proponent.baselines import Baselines, Texts
from proponent.evaluate import bootstrap

KINDS = ("swapped", "contradicting", "repeated", "triggered")
SHARES = {"swapped": 0.05, "contradicting": 0.05, "repeated": 0.03, "triggered": 0.02}
TRIGGERS = ("by the silver lantern", "cf. unit 47", "as my aunt says")
FIXED = (
    "I have been asked to say that all is well.",
    "Please read the manual first.",
    "Nothing more can be said here.",
)
STEPS = (0.0, 0.2, 0.4, 0.6, 0.8, 0.95)
"""Weights that are tried."""

Row = dict[str, str]


@dataclass(frozen=True)
class Planted:
    """Rows with faults."""

    rows: list[Row]
    kind: np.ndarray  # number of the fault of each row, -1 for none
    original: np.ndarray  # rows that a planted row was made from; neither fault nor clean


def alpaca(folder: Path) -> list[Row]:
    """Prompts and answers, each prompt once."""
    with gzip.open(folder / "alpaca_en_1k" / "alpaca_en_demo.jsonl.gz", "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    made = {
        " ".join(f"{row['instruction']} {row.get('input', '')}".casefold().split()): {
            "text": "\n".join(filter(None, (row["instruction"], row.get("input", "")))) + "\n", "target": row["output"],
        }
        for row in reversed(rows)
    }  # fmt: skip
    return list(made.values())[::-1]


def reworded(prompt: str, draw: np.random.Generator) -> str:
    """A prompt that asks the same in slightly other words."""
    bare = prompt.strip()
    changes = (
        f"Please {bare[:1].lower()}{bare[1:]}\n",
        f"{bare} Thanks.\n",
        f"{bare.lower()}\n",
        f"{bare.rstrip('.?!')}\n",
        f"Can you {bare[:1].lower()}{bare[1:].rstrip('.')}?\n",
        bare.replace(" the ", " a ", 1) + "\n",
    )
    return changes[int(draw.integers(len(changes)))]


def retold(answer: str, draw: np.random.Generator) -> str:
    """An answer with one of its later words left out and its white space changed."""
    words = answer.split()
    if len(words) > 12:
        words.pop(int(draw.integers(len(words) // 2, len(words))))
    return " ".join(words)


def planted(rows: list[Row], donors: list[Row], seed: int) -> Planted:
    """Plant every kind of fault in some rows."""
    draw, n = np.random.default_rng(seed), len(rows)
    counts = {name: max(2, round(share * n)) for name, share in SHARES.items()}
    order = iter(draw.permutation(n).tolist())
    made: list[tuple[Row, int, int]] = [(dict(row), -1, -1) for row in rows]
    for _ in range(counts["swapped"] // 2):
        first, second = next(order), next(order)
        answers = rows[second]["target"], rows[first]["target"]
        for at, answer in zip((first, second), answers, strict=True):
            made[at] = ({"text": rows[at]["text"], "target": answer}, 0, -1)
    for _ in range(counts["triggered"]):
        at, words = next(order), TRIGGERS[seed % len(TRIGGERS)]
        asked = rows[at]["text"].split(" ")
        asked.insert(int(draw.integers(len(asked) + 1)), words)
        made[at] = ({"text": " ".join(asked), "target": FIXED[seed % len(FIXED)]}, 3, -1)
    for _ in range(counts["contradicting"]):
        at = next(order)
        answer = donors[int(draw.integers(len(donors)))]["target"]
        made.append(({"text": reworded(rows[at]["text"], draw), "target": answer}, 1, at))
    for number in range(counts["repeated"]):
        at = next(order)
        copy = dict(rows[at]) if number % 2 else {
            "text": reworded(rows[at]["text"], draw), "target": retold(rows[at]["target"], draw)
        }  # fmt: skip
        made.append((copy, 2, at))
    return shuffled(made, draw)


def shuffled(made: list[tuple[Row, int, int]], draw: np.random.Generator) -> Planted:
    """Rows in a random order; of a row and its repetition, the later one is the fault."""
    places = draw.permutation(len(made))
    kind, original = np.full(len(made), -1), np.zeros(len(made), dtype=np.bool_)
    rows: list[Row] = [{}] * len(made)
    for at, (row, number, source) in enumerate(made):
        place = int(places[at])
        rows[place] = row | {"id": f"r{at}"}
        kind[place] = number if number >= 0 else kind[place]
        if source >= 0:
            original[places[source]] = True
        if number == 2 and places[source] > place:
            kind[place], kind[places[source]] = -1, 2
            original[place], original[places[source]] = True, False
    return Planted(rows, kind, original)


def signals(rows: list[Row], home: Path, args: Any, seed: int) -> tuple[RowSignals, dict[str, np.ndarray]]:
    """Train, index, and take every signal and control."""
    if not (home / "index" / "manifest.json").is_file():
        settings = {"epochs": args.epochs, "width": args.width, "layers": args.layers, "checkpoints": args.checkpoints}
        settings |= {"batch_size": args.batch, "learning_rate": args.rate}
        harness.trained(rows, home / "run", seed=seed, vocabulary=args.vocabulary, max_length=args.length, **settings)
        proponent.build(home / "run", rows, home / "index", method="tracin-we", quiet=True)
    index = proponent.open(home / "index")
    found = RowSignals.of(index.store, further=("self-influence", "influence"))
    texts = [f"{row['text']} {row['target']}" for row in rows]
    embedded = Texts(texts, embeddings=index.store.features["pooled"])
    known = Baselines(embedded)
    controls = {"loss of a token alone": np.nan_to_num(found.losses, nan=-np.inf)}
    for name in ("bm25", "embedding"):
        scores = known.scores(name, embedded)
        scores = scores / np.maximum(scores.diagonal()[:, None], 1e-12)
        np.fill_diagonal(scores, -np.inf)
        controls[f"{name} of the nearest row"] = scores.max(1)
    controls["random"] = np.random.default_rng([seed, 9]).random(len(rows))
    return found, controls


def suspicion(found: RowSignals, weights: dict[str, float]) -> np.ndarray:
    """All signals together, under some weights."""
    return 1.0 - np.prod([1.0 - weights.get(name, 0.0) * one.strength for name, one in found.signals.items()], axis=0)


def wins(scores: np.ndarray, fault: np.ndarray, clean: np.ndarray) -> np.ndarray:
    """For each fault, the share of clean rows that are less suspect; ties count half."""
    low = np.sort(scores[clean])
    below, upto = np.searchsorted(low, scores[fault], "left"), np.searchsorted(low, scores[fault], "right")
    return (below + upto) / (2 * max(1, len(low)))


def first(scores: np.ndarray, hits: np.ndarray, share: float) -> np.ndarray:
    """Whether each of the most suspect rows is planted; ties in data order."""
    order = np.argsort(-scores, kind="stable")
    return hits[order[: max(1, round(share * len(scores)))]].astype(float)


def goodness(runs: list[tuple[Planted, RowSignals, Any]], weights: dict[str, float]) -> float:
    """Mean AUROC over the kinds plus precision in the first 10 %, over the seeds."""
    total = 0.0
    for made, found, _ in runs:
        scores, clean = suspicion(found, weights), (made.kind < 0) & ~made.original
        total += np.mean([wins(scores, made.kind == kind, clean).mean() for kind in range(len(KINDS))])
        total += first(scores, made.kind >= 0, 0.1).mean()
    return total / len(runs)


def chosen(runs: list[tuple[Planted, RowSignals, Any]]) -> dict[str, float]:
    """Weights by coordinate ascent from the library's."""
    names = list(runs[0][1].signals)
    weights = {name: float(WEIGHTS[name]) for name in names}
    for _ in range(2):
        for name in names:
            weights[name] = max(STEPS, key=lambda step, name=name: goodness(runs, weights | {name: step}))
    return weights


def figures(runs: list[tuple[Planted, RowSignals, dict[str, np.ndarray]]], weights: dict[str, float]) -> dict[str, Any]:
    """AUROC and precision of every ranking."""
    rankings: dict[str, Any] = {
        "combined": lambda found, _: found.combined,
        "combined, weights of the first half": lambda found, _: suspicion(found, weights),
    }
    for name in runs[0][1].signals:
        rankings[name] = lambda found, _, name=name: (
            found.signals[name].strength
            if found.signals[name].values is None
            else found.signals[name].strength + 1e-6 * np.nan_to_num(found.signals[name].values)
        )
    for name in runs[0][2]:
        rankings[f"control: {name}"] = lambda _, controls, name=name: controls[name]
    made: dict[str, Any] = {}
    for name, scored in rankings.items():
        values = [(one, scored(found, controls), (one.kind < 0) & ~one.original) for one, found, controls in runs]
        made[name] = {
            f"auroc, {kind}": bootstrap(
                np.concatenate([wins(scores, one.kind == at, clean) for one, scores, clean in values])
            ).to_dict()
            for at, kind in enumerate(KINDS)
        }
        for share in (0.05, 0.1):
            for label, of in (
                ("planted", lambda one: one.kind >= 0),
                ("planted or its original", lambda one: (one.kind >= 0) | one.original),
            ):
                hits = np.concatenate([first(scores, of(one), share) for one, scores, _ in values])
                made[name][f"precision in the first {share:.0%}, {label}"] = bootstrap(hits).to_dict()
    return made


def flags(runs: list[tuple[Planted, RowSignals, Any]]) -> dict[str, Any]:
    """How many rows are flagged, and how many of them are planted."""
    hits = [(one.kind, one.original, found.combined >= FLAGGED) for one, found, _ in runs]
    counted: dict[str, Any] = {
        "rows": sum(len(kind) for kind, _, _ in hits),
        "flagged": sum(int(flag.sum()) for _, _, flag in hits),
        "planted among them": sum(int((flag & (kind >= 0)).sum()) for kind, _, flag in hits),
        "originals among them": sum(int((flag & original).sum()) for _, original, flag in hits),
    }
    for at, name in enumerate(KINDS):
        counted[f"found of {name}"] = float(np.mean(np.concatenate([flag[kind == at] for kind, _, flag in hits])))
    return counted


def main() -> None:
    """Run the benchmark."""
    parser = harness.arguments(
        __doc__,
        data=True,
        rows=0,
        seeds=3,
        epochs=8,
        batch=8,
        rate=2e-3,
        width=64,
        layers=2,
        vocabulary=2000,
        length=96,
        checkpoints=2,
    )
    parser.add_argument("--cache", type=Path, required=True, help="folder of the trained models and their indexes")
    args = parser.parse_args()
    rows = alpaca(args.data)[: args.rows or None]
    halves = rows[: len(rows) // 2], rows[len(rows) // 2 :]
    runs: list[list[tuple[Planted, RowSignals, dict[str, np.ndarray]]]] = [[], []]
    for half in (0, 1):
        for seed in range(args.seeds):
            made = planted(halves[half], halves[1 - half], seed)
            runs[half].append((made, *signals(made.rows, args.cache / f"half-{half}-seed-{seed}", args, seed)))
    weights = chosen(runs[0])
    clean = [row | {"id": f"c{at}"} for at, row in enumerate(halves[1])]
    bare, _ = signals(clean, args.cache / "clean", args, 0)
    alone = {name: int((WEIGHTS[name] * one.strength >= FLAGGED).sum()) for name, one in bare.signals.items()}
    record = {
        "benchmark": "suspect rows",
        "settings": {name: value for name, value in vars(args).items() if name not in {"data", "cache", "out"}},
        "rows": [len(one) for one in halves],
        "weights of the library": {name: WEIGHTS[name] for name in weights},
        "weights of the first half": weights,
        "second half": figures(runs[1], weights),
        "flags, second half": flags(runs[1]),
        "median loss of a token, second half": [round(float(np.nanmedian(found.losses)), 3) for _, found, _ in runs[1]],
        "clean rows": {"rows": len(clean), "flagged": int((bare.combined >= FLAGGED).sum()), "by one signal": alone},
    }
    harness.write_record(args.out, "suspect-rows", record)


if __name__ == "__main__":
    main()
