"""Wrong predictions for readers: do the examples and the words that are named tell why?

    python benchmarks/readers.py sheets --data ../shared/data --cache CACHE --name now
    python benchmarks/readers.py sheets --data ../shared/data --cache CACHE --name before --command "OTHER"
    python benchmarks/readers.py controls --cache CACHE
    python benchmarks/readers.py shuffle --cache CACHE
    python benchmarks/readers.py report --cache CACHE

`sheets` makes three models by the command line alone, with what it ships: AG News and toxic tweets from scratch, and a
small pretrained encoder fine-tuned on the tweets. It explains the first 15 wrong predictions of each. `--command` runs
another checkout's command line on the same rows. `controls` takes the same wrong predictions with other examples of the
predicted class: drawn at random, and the nearest by TF-IDF, whose words are those that both share. `shuffle` mixes
the sheets of all versions and writes them without their version, in one form: question, prediction and truth, five
examples towards the prediction with their labels, and of each the three word pairs with the largest shares. Readers
write one line per sheet into CACHE/reader-*.csv:
`sheet,examples,words`, each 1 if it tells why the model predicted what it did, else 0. `report` counts.
"""

import argparse
import csv
import json
import os
import shlex
import statistics
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import harness
import numpy as np

sys.path.append(str(Path(__file__).resolve().parent / "fidelity"))
import data as sets

WRONG, NAMED, WORDS = 15, 5, 3
SPECIAL = "[special]"
"""Tokens that are no words: every view shows them apart, as the whole sentence."""

MODELS = ("agnews", "tweets", "encoder")


def write_rows(path: Path, rows: Iterable[dict[str, str]]) -> Path:
    """Write rows of text as CSV."""
    rows = list(rows)
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, fieldnames=list(rows[0]))
        table.writeheader()
        table.writerows(rows)
    return path


def read_rows(path: Path) -> list[dict[str, str]]:
    """Read rows of text from CSV."""
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def run(command: str, *words: object) -> str:
    """Run a command line; give its output."""
    done = subprocess.run(
        [*shlex.split(command), *map(str, words), "--quiet"], stdout=subprocess.PIPE, text=True, check=True
    )
    return done.stdout


def explained(name: str, command: str, folder: Path, data: Path, sizes: tuple[int, int]) -> list[dict[str, Any]]:
    """Train, build and explain until enough predictions are wrong."""
    task = sets.agnews(data, sizes) if name == "agnews" else sets.toxic(data, "toxic_tweets_davidson", sizes)
    folder.mkdir(parents=True, exist_ok=True)
    train = write_rows(folder / "train.csv", sets.as_rows(task.train))
    asked = [{"id": one.id, "text": one.text} for one in task.queries]
    truth = {one.id: str(one.label) for one in task.queries}
    model = ("--model", harness.encoder_folder()) if name == "encoder" else ()
    if not (folder / "trained").exists():
        run(command, "train", train, "--out", folder / "run", *model)
        run(command, "index", folder / "run", train, "--out", folder / "index")
        (folder / "trained").touch()
    wrong: list[dict[str, str]] = []
    for at in range(0, len(asked), 40):  # the words of a hit take a pass of the model: few hits until it is known wrong
        answers = answers_to(asked[at : at + 40], 1, command, folder)
        said = [one["query"]["predicted"] for one in answers]
        wrong += [row for row, label in zip(asked[at : at + 40], said, strict=True) if label != truth[row["id"]]]
        if len(wrong) >= WRONG:
            break
    found = answers_to(wrong[:WRONG], NAMED, command, folder)
    return [one | {"true": truth[one["query"]["id"]]} for one in found]


def answers_to(rows: list[dict[str, str]], k: int, command: str, folder: Path) -> list[dict[str, Any]]:
    """Explain rows, in their order."""
    queries = write_rows(folder / "queries.csv", rows)
    lines = run(command, "explain", folder / "index", "--queries", queries, "-k", k, "--json", "--no-baselines")
    return [json.loads(line) for line in lines.splitlines() if line.strip()]


def controls(cache: Path, name: str) -> None:
    """Write the sheets of both controls for the wrong predictions of a version."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    made: dict[str, dict[str, list[dict[str, Any]]]] = {"random": {}, "search": {}}
    generator = np.random.default_rng(0)
    for model, answers in json.loads((cache / f"sheets-{name}.json").read_text(encoding="utf-8")).items():
        rows = read_rows(cache / name / model / "train.csv")
        vectorizer = TfidfVectorizer(sublinear_tf=True)
        train = vectorizer.fit_transform([one["text"] for one in rows])
        asked = vectorizer.transform([one["query"]["text"] for one in answers])
        words = vectorizer.get_feature_names_out()
        for at, answer in enumerate(answers):
            same = np.flatnonzero([one["label"] == answer["query"]["predicted"] for one in rows])
            near = np.asarray((train[same] @ asked[at].T).todense()).ravel()
            chosen = {
                "random": generator.choice(same, NAMED, replace=False),
                "search": same[np.argsort(-near, kind="stable")[:NAMED]],
            }
            for kind, places in chosen.items():
                hits = [
                    {
                        "text": rows[one]["text"],
                        "label": rows[one]["label"],
                        "words": shared(train[one], asked[at], words),
                    }
                    for one in places.tolist()
                ]
                made[kind].setdefault(model, []).append(answer | {"proponents": hits})
    for kind, sheets in made.items():
        (cache / f"sheets-{kind}.json").write_text(json.dumps(sheets), encoding="utf-8")


def shared(one: Any, other: Any, words: np.ndarray) -> list[dict[str, Any]]:
    """The words of both texts with their terms of the product."""
    terms = one.multiply(other).tocoo()
    return [
        {"query_word": str(words[at]), "train_word": str(words[at]), "share": float(value)}
        for at, value in zip(terms.col, terms.data, strict=True)
    ]


def sheet(answer: dict[str, Any]) -> str:
    """One wrong prediction as plain text, whatever version explained it."""
    query = answer["query"]
    lines = [f"Text: {query['text']}", f"The model says: {query['predicted']}. The truth: {answer['true']}.", ""]
    lines += [f"Training examples that pushed it towards {query['predicted']}:"]
    for place, hit in enumerate(answer["proponents"], 1):
        lines += [f"{place}. (label {hit['label']}) {hit['text']}", f"   words: {_words(hit['words'])}"]
    return "\n".join(lines) + "\n"


def _words(pairs: Sequence[dict[str, Any]]) -> str:
    pairs = [one for one in pairs if SPECIAL not in (one["query_word"], one["train_word"])]
    whole = sum(abs(one["share"]) for one in pairs)
    best = sorted(pairs, key=lambda one: -abs(one["share"]))[:WORDS]
    told = [
        (one["query_word"] if one["query_word"] == one["train_word"] else f"{one['query_word']} > {one['train_word']}")
        + f" {one['share'] / whole:+.0%}"
        for one in best
    ]
    return ", ".join(told) or "none"


def shuffle(cache: Path) -> None:
    """Write the sheets of all versions in one order without their version, and apart from them the key."""
    found = [
        (version.name.removeprefix("sheets-").removesuffix(".json"), model, answer)
        for version in sorted(cache.glob("sheets-*.json"))
        for model, answers in json.loads(version.read_text(encoding="utf-8")).items()
        for answer in answers
    ]
    order = np.random.default_rng(0).permutation(len(found)).tolist()
    with (cache / "sheets.txt").open("w", encoding="utf-8") as file:
        for number, at in enumerate(order, 1):
            file.write(f"=== sheet {number} ===\n{sheet(found[at][2])}\n")
    key = [{"sheet": str(number), "version": found[at][0], "model": found[at][1]} for number, at in enumerate(order, 1)]
    write_rows(cache / "key.csv", key)


def judgements(cache: Path) -> dict[str, dict[str, dict[str, str]]]:
    """What the readers say, by reader and sheet."""
    found = {
        path.stem.removeprefix("reader-"): {one["sheet"]: one for one in read_rows(path)}
        for path in sorted(cache.glob("reader-*.csv"))
    }
    if not found:
        raise SystemExit(f"no reader-*.csv in {cache}: sheet,examples,words")
    return found


def agreed(cache: Path) -> dict[str, float]:
    """Share of the sheets of which all readers say the same."""
    read = list(judgements(cache).values())
    return {
        kind: round(statistics.mean(len({one[sheet][kind] for one in read}) == 1 for sheet in read[0]), 3)
        for kind in ("examples", "words")
    }


def counted(cache: Path) -> dict[str, Any]:
    """How many sheets tell why, by version and model, as each reader says and as all agree."""
    key = {one["sheet"]: one for one in read_rows(cache / "key.csv")}
    read = judgements(cache)
    made: dict[str, Any] = {}
    for number, one in key.items():
        place = made.setdefault(one["version"], {}).setdefault(one["model"], {})
        for kind in ("examples", "words"):
            counts = place.setdefault(kind, dict.fromkeys([*read, "all"], 0))
            said = [int(judged[number][kind]) for judged in read.values()]
            for reader, value in zip([*read, "all"], [*said, min(said)], strict=True):
                counts[reader] += value
    return made


def main() -> None:
    """Run one step."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=("sheets", "controls", "shuffle", "report"))
    parser.add_argument("--cache", type=Path, required=True, help="folder of models, sheets and judgements")
    parser.add_argument("--data", type=Path, help="folder of the data sets")
    parser.add_argument("--name", default="now", help="name of the version")
    parser.add_argument("--command", default=f"{sys.executable} -m proponent.cli", help="its command line")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--rows", type=int, default=3000, help="training rows")
    parser.add_argument("--queries", type=int, default=400, help="most rows that are predicted")
    parser.add_argument("--out", type=Path, default=harness.RESULTS)
    args = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    if args.step == "sheets":
        sizes = args.rows, args.queries
        found = {
            name: explained(name, args.command, args.cache / args.name / name, args.data, sizes) for name in args.models
        }
        (args.cache / f"sheets-{args.name}.json").write_text(json.dumps(found), encoding="utf-8")
    elif args.step == "controls":
        controls(args.cache, args.name)
    elif args.step == "shuffle":
        shuffle(args.cache)
    else:
        record = {
            "benchmark": "readers",
            "settings": {"wrong": WRONG, "named": NAMED},
            "told": counted(args.cache),
            "agreed": agreed(args.cache),
        }
        harness.write_record(args.out, "readers", record)


if __name__ == "__main__":
    main()
