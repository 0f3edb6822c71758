"""Planted attacks on sentiment texts: what `proponent poison` finds, beside the published rules and all controls.

    python benchmarks/poison.py --data FOLDER [--sets sst2,imdb] [--rates 0,0.01,0.03,0.05] [--seeds 0,1,2]
        [--attacks all] [--rows 2000] [--epochs 6] [--cache FOLDER] [--finished]

Each cell trains a small encoder from scratch on texts of which a share is poisoned, and runs the command with its
shipped settings: the table of detectors and controls, the trigger words, and two retrainings (without twice as many of
the most suspect rows as are poisoned, and without as many random rows of their classes). Rate 0 is clean data. A cell
whose attack did not take (success under 90 %, or more than 2 points of clean accuracy lost) is void. Finished cells
are kept in --cache; --finished writes the record of those, and names the others.
"""

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from harness import Row, arguments, command, cpu, read_csv, trained, write_record
from poison_attacks import ATTACKS, planted, triggered

TARGET, OTHER = "positive", "negative"
TESTED, WIDTH, LAYERS = 400, 64, 2
TOOK, LOST, GONE, LEFT = 0.9, 0.02, 0.2, 0.8
"""Least success and most lost accuracy of an attack that took; most and least success after the two drops."""


def texts(folder: Path, name: str, part: str, count: int, seed: int, words: int) -> list[Row]:
    """Rows of a set with a text of some length, cut to a number of words."""
    rows = read_csv(folder / name / f"{part}.csv.gz")
    made: list[Row] = []
    for at in np.random.default_rng(seed).permutation(len(rows)).tolist():
        kept = rows[at]["text"].replace("<br />", " ").split()[:words]
        if len(kept) >= 6:
            label = TARGET if rows[at]["label"] in {"1", TARGET} else OTHER
            made.append({"id": rows[at]["id"], "text": " ".join(kept), "label": label})
        if len(made) == count:
            break
    return made


def write_csv(path: Path, rows: list[Row]) -> Path:
    """Write rows."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def cell(name: str, attack: str, rate: float, seed: int, args: Any) -> dict[str, Any]:
    """Train on one poisoned set, and run the command; a finished cell is read."""
    home = args.cache / f"{name}-{attack.replace(' ', '_')}-{rate:g}-{seed}"
    done = home / "cell.json"
    if done.is_file():
        return json.loads(done.read_text(encoding="utf-8"))
    from proponent.actions.run_predictions import class_probabilities
    from proponent.data import read

    began = cpu()
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir(parents=True)
    rows = texts(args.data, name, "train", args.rows, seed, args.words)
    clean = texts(args.data, name, "test", TESTED, 100 + seed, args.words)
    rows = planted(rows, ATTACKS[attack], TARGET, rate, seed) if rate else [row | {"poisoned": "0"} for row in rows]
    train, queries = write_csv(home / "train.csv", rows), write_csv(home / "clean.csv", clean)
    run = home / "run"
    settings = {"width": WIDTH, "layers": LAYERS, "epochs": args.epochs, "checkpoints": 4, "max_length": 128,
                "learning_rate": args.rate}  # fmt: skip
    model = trained([{key: row[key] for key in ("id", "text", "label")} for row in rows], run, seed=seed, **settings)
    predicted = class_probabilities(model, read(clean), (OTHER, TARGET), quiet=True).argmax(1)
    accuracy = float(np.mean([(OTHER, TARGET)[at] == row["label"] for at, row in zip(predicted, clean, strict=True)]))
    asked: list[object] = []
    if rate:
        attacked = write_csv(home / "attacked.csv", triggered(clean, ATTACKS[attack], TARGET, seed))
        count = sum(row["poisoned"] == "1" for row in rows)
        asked = ["--truth", "poisoned", "--retrain", "--drop", 2 * count, "--attacked", attacked, "--seed", seed]
    page = home / "page.json"
    command("poison", run, train, "--queries", queries, "--index", home / "index", "--out", page, "--quiet", *asked,
            "--limit", 0)  # fmt: skip
    made = summary(json.loads(page.read_text(encoding="utf-8")), ATTACKS[attack].words if rate else ())
    made |= {
        "accuracy": accuracy,
        "set": name,
        "attack": attack,
        "rate": rate,
        "seed": seed,
        "cpu_seconds": round(cpu() - began, 1),
    }
    for one in (home / "index", home / "index-last", run):
        shutil.rmtree(one, ignore_errors=True)
    done.write_text(json.dumps(made), encoding="utf-8")
    return made


def summary(page: dict[str, Any], triggers: tuple[str, ...]) -> dict[str, Any]:
    """The figures of one report."""
    models = {
        one["name"]: {"success": one["success"]["value"], "accuracy": one["accuracy"]["value"]}
        for one in page["retrained"]
    }
    words = [(one["word"], one["strength"]) for one in page["words"]]
    return {
        "poisoned": next((note for note in page["notes"] if "are poisoned" in note), ""),
        "table": {
            one["method"]: {figure["name"]: figure["value"] for figure in one["figures"]} for one in page["rows"]
        },
        "controls": [one["method"] for one in page["rows"] if one["control"]],
        "verdict": next((one["verdict"] for one in page["rows"] if one["verdict"]), ""),
        "words": words[:5],
        "flagged_words": [one["word"] for one in page["words"] if one["flagged"]],
        "flagged_rows": sum(one["flagged"] for one in page["suspects"]),
        "named": [holds(words[:3], one) for one in triggers],
        "models": models,
    }


def holds(words: list[tuple[str, float]], trigger: str) -> bool:
    """Whether a trigger is named: the word, or of several words a part of them."""
    return any(set(word.split()) & set(trigger.split()) for word, _ in words)


def judged(made: dict[str, Any], clean: dict[str, Any] | None) -> dict[str, Any]:
    """What the cell says: void, or the comparison with the best control, and the retrainings."""
    before, dropped, random = [*made["models"].values(), None, None, None][:3]
    lost = None if clean is None else clean["accuracy"] - made["accuracy"]
    best = max(made["controls"], key=lambda name: made["table"][name]["AUPRC"])
    ours = made["table"]["proponent poison"]["AUPRC"]
    return {
        "success": before["success"], "accuracy lost": lost,
        "void": before["success"] < TOOK or (lost is not None and lost > LOST),
        "ours": ours, "word-label z": made["table"]["word-label z"]["AUPRC"],
        "best control": best, "gap": ours - made["table"][best]["AUPRC"], "verdict": made["verdict"].split(" ")[0],
        "after the drop": dropped, "after a random drop": random,
        "clean": dropped is not None and dropped["success"] <= GONE,
        "random leaves it": random is not None and random["success"] >= LEFT,
    }  # fmt: skip


def main() -> None:
    """Run the cells, and write the record."""
    parser = arguments(__doc__, data=True, rows=2000, epochs=6, rate=1e-3, words=60, sets="sst2,imdb", attacks="all",
                       rates="0,0.01,0.03,0.05", seeds="0,1,2")  # fmt: skip
    parser.add_argument("--cache", type=Path, default=Path("poison-cache"))
    parser.add_argument("--finished", action="store_true", help="write the record of finished cells; run none")
    args = parser.parse_args()
    names = list(ATTACKS) if args.attacks == "all" else args.attacks.split(",")
    wanted = [
        (name, attack, float(rate), int(seed))
        for seed in args.seeds.split(",")
        for rate in args.rates.split(",")
        for attack in (names if float(rate) else ["none"])
        for name in args.sets.split(",")
    ]
    found: list[dict[str, Any]] = []
    missing: list[str] = []
    for name, attack, rate, seed in wanted:
        attack = attack if rate else next(iter(ATTACKS))
        done = args.cache / f"{name}-{attack.replace(' ', '_')}-{rate:g}-{seed}" / "cell.json"
        if args.finished and not done.is_file():
            missing.append(f"{name}, {attack if rate else 'clean'}, {rate:g}, seed {seed}")
            continue
        found.append(cell(name, attack, rate, seed, args))
    clean = {(one["set"], one["seed"]): one for one in found if not one["rate"]}
    cells = [one | {"judged": judged(one, clean.get((one["set"], one["seed"])))} for one in found if one["rate"]]
    settings = {name: getattr(args, name) for name in ("rows", "epochs", "rate", "words")}
    record = {
        "settings": settings | {"width": WIDTH, "layers": LAYERS},
        "clean": [{key: one[key] for key in ("set", "seed", "words", "flagged_words", "flagged_rows", "accuracy")}
                  for one in clean.values()],
        "cells": cells,
        "missing": missing,
        "cpu_seconds": round(sum(one["cpu_seconds"] for one in found)),
    }  # fmt: skip
    write_record(args.out, "poison", record)


if __name__ == "__main__":
    main()
