"""Noise in pre-training, planted: what it does to features and heads, and what NMTune repairs.

    python benchmarks/noisy_pretraining.py --data FOLDER [--cache FOLDER] [--objectives uniform,asymmetric,contrastive]

Small encoders are pre-trained from scratch with the same seed and steps and more and more noise: on the 20 topics of
newsgroups with uniform flips, or with flips to the next topic (asymmetric), or by matching titles of news with their
descriptions, some of which are swapped (contrastive). Each is frozen, and heads are trained on its features of three
tasks: reviews (SST-2; out of domain IMDB and reviews of products), offensive text (tweets; out of domain comments on
Wikipedia), inference (SNLI; out of domain SICK). Classes are balanced. One encoder for each level, three trainings of
each head. For the reviews, the encoder is also tuned by LoRA with and without the losses of NMTune. Finished parts are
kept in --cache.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from harness import Row, arguments, kept, read_csv, trained, write_record
from torch import nn

import proponent
from proponent.actions.nmtune import HeadSettings, Kind, Labelled, head_accuracies
from proponent.actions.nmtune_lora import TUNINGS, LoraSettings, tuned_accuracies
from proponent.actions.noise_report import COMPARED, level_name, noise_claims, pooled_sides
from proponent.actions.run_predictions import class_probabilities
from proponent.actions.spectrum import spectrum
from proponent.actions.text_features import LabelledTexts, class_numbers, text_features
from proponent.data import Examples, read
from proponent.evaluate import Estimate, bootstrap, paired
from proponent.models.model_outputs import pooled
from proponent.models.scratch import classifier, wordpiece

NLI = ("premise", "hypothesis", "label_name")
TASKS: dict[str, dict[str, tuple[str, str, tuple[str, str, str]]]] = {
    "reviews": {
        "train": ("sst2", "train", ("text", "", "label")),
        "sst2": ("sst2", "test", ("text", "", "label")),
        "imdb": ("imdb", "test", ("text", "", "label")),
        "customer_review_cr": ("customer_review_cr", "all", ("text", "", "label")),
    },
    "offensive text": {
        "train": ("toxic_tweets_davidson", "train", ("text", "", "toxic")),
        "toxic_tweets_davidson": ("toxic_tweets_davidson", "train", ("text", "", "toxic")),
        "toxic_wikipedia": ("toxic_wikipedia", "train", ("text", "", "toxic")),
    },
    "inference": {
        "train": ("nli_snli_devtest", "pairs", NLI),
        "nli_snli_devtest": ("nli_snli_devtest", "pairs", NLI),
        "nli_sick": ("nli_sick", "test", NLI),
    },
}
"""For each task, its training set and its test sets, the first of which is in domain: folder, file, columns."""

INSIDE = [list(sets)[1] for sets in TASKS.values()]
SHUFFLED: Kind = "MLP, shuffled labels"
CODE = "NMTune, form of the code"


def balanced(rows: Iterable[Row], columns: tuple[str, str, str], count: int, part: int) -> list[Row]:
    """As many rows of each class; two parts of one file share no row, and no premise."""
    text, pair, label = columns
    classes: dict[str, list[Row]] = {}
    seen: set[tuple[str, str]] = set()
    for row in rows:
        key = (row[text], row[pair] if pair else "")
        first = sum(map(ord, row[text])) % 4 == 0  # a fixed quarter of the texts is for tests
        if key in seen or not row[text].strip() or (part >= 0 and first != bool(part)):
            continue
        seen.add(key)
        classes.setdefault(row[label], []).append(
            {"text": row[text], "label": row[label]} | ({"text_pair": row[pair]} if pair else {})
        )
    draw = np.random.default_rng(0)
    each = min(count // len(classes), *map(len, classes.values()))
    return [some[at] for some in classes.values() for at in draw.permutation(len(some))[:each].tolist()]


def task_rows(folder: Path, name: str, args: Any) -> dict[str, Examples]:
    """Training rows and test rows of a task."""
    sets = TASKS[name]
    home = sets["train"][:2]
    made: dict[str, Examples] = {}
    for which, (data, file, columns) in sets.items():
        rows = read_csv(folder / data / f"{file}.csv.gz")
        part = -1 if which != "train" and (data, file) != home else int(which != "train")
        count = args.rows if which == "train" else args.test
        made[which] = read(balanced(rows, columns, count, part))
    return made


def noisy_topics(folder: Path, level: float, asymmetric: bool, count: int) -> tuple[list[Row], list[str]]:
    """Posts with some labels flipped; a higher level keeps the flips of a lower one."""
    posts = read_csv(folder / "newsgroups20" / "train.csv.gz")
    rows = [{"text": f"{row['subject']}. {row['text']}"[:2000], "label": row["label_name"]} for row in posts]
    draw = np.random.default_rng(0)
    chosen = [rows[at] for at in draw.permutation(len(rows))[:count].tolist()]
    classes = sorted({row["label"] for row in rows})
    shifts = np.ones(len(chosen), dtype=int) if asymmetric else draw.integers(1, len(classes), len(chosen))
    for at in draw.permutation(len(chosen))[: round(level * len(chosen))].tolist():
        number = classes.index(chosen[at]["label"]) + int(shifts[at])
        chosen[at] = chosen[at] | {"label": classes[number % len(classes)]}
    return chosen, classes


def topic_encoder(level: float, asymmetric: bool, home: Path, args: Any) -> tuple[Path, dict[str, float]]:
    """Pre-train on topics; the folder of the weights, and how well it predicts held-out topics."""
    rows, classes = noisy_topics(args.data, level, asymmetric, args.posts)
    if not (home / "done").is_file():
        trained(
            rows, home, epochs=args.epochs, batch_size=32, learning_rate=2e-3, width=args.width, layers=args.layers,
            vocabulary=args.vocabulary, max_length=args.length, checkpoints=1,
        )  # fmt: skip
        (home / "done").write_text("")
    held = read_csv(args.data / "newsgroups20" / "test.csv.gz")[:: args.every]
    asked = [{"text": f"{row['subject']}. {row['text']}"[:2000], "label": row["label_name"]} for row in held]
    known = sorted({row["label"] for row in rows})
    asked = [row for row in asked if row["label"] in known]
    run = proponent.Run.from_pretrained(home)
    right = class_probabilities(run, read(asked), known, quiet=True).argmax(1) == [
        known.index(row["label"]) for row in asked
    ]
    return run.checkpoints[-1].path, {"topics right": float(np.mean(right)), "classes": len(classes)}


def title_encoder(level: float, home: Path, args: Any) -> tuple[Path, dict[str, float]]:
    """Pre-train by matching titles with descriptions (both directions, temperature .1), some of them swapped."""
    rows = agnews_pairs(args.data, args.posts)
    held, rows = rows[: args.posts // 10], rows[args.posts // 10 :]
    draw = np.random.default_rng(0)
    moved = draw.permutation(len(rows))[: round(level * len(rows))]
    descriptions = [one for _, one in rows]
    for at, other in zip(moved.tolist(), np.roll(moved, 1).tolist(), strict=True):
        descriptions[at] = rows[other][1]
    torch.manual_seed(0)
    tokenizer = wordpiece([part for row in rows for part in row], args.vocabulary, args.length)
    model = classifier(tokenizer, ("0", "1"), args.width, args.layers, args.length)

    def states(texts: Sequence[str]) -> torch.Tensor:
        inputs = tokenizer(list(texts), truncation=True, max_length=args.length, padding=True, return_tensors="pt")
        return nn.functional.normalize(pooled(model, dict(inputs)), dim=1)

    if not (home / "config.json").is_file():
        optimizer = torch.optim.AdamW(model.train().parameters(), lr=1e-3)
        for _ in range(args.epochs):
            order = draw.permutation(len(rows))
            for start in range(0, len(order) - 63, 64):
                some = order[start : start + 64].tolist()
                alike = states([rows[at][0] for at in some]) @ states([descriptions[at] for at in some]).T / 0.1
                wanted = torch.arange(len(some))
                loss = (nn.functional.cross_entropy(alike, wanted) + nn.functional.cross_entropy(alike.T, wanted)) / 2
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        tokenizer.save_pretrained(home)
        model.save_pretrained(home)
    model = model.from_pretrained(home).eval()
    with torch.inference_mode():
        alike = states([one for one, _ in held]) @ states([one for _, one in held]).T
    return home, {"titles matched": float((alike.argmax(1) == torch.arange(len(held))).float().mean())}


def agnews_pairs(folder: Path, count: int) -> list[tuple[str, str]]:
    """Titles and descriptions."""
    rows = [(row["title"], row["description"]) for row in read_csv(folder / "agnews" / "train.csv.gz")]
    return [rows[at] for at in np.random.default_rng(0).permutation(len(rows))[:count].tolist()]


def measured(objective: str, level: float, args: Any) -> dict[str, Any]:
    """Spectrum and heads of one encoder on every task."""
    home = args.cache / f"{objective if level else objective.replace('asymmetric', 'uniform')}-{level:g}"
    folder, learned = (
        title_encoder(level, home, args) if objective == "contrastive"
        else topic_encoder(level, objective == "asymmetric", home, args)
    )  # fmt: skip
    settings, name = HeadSettings(epochs=args.head_epochs), level_name(level)
    made: dict[str, Any] = {"learned": learned, "tasks": {}}
    for task in TASKS:
        rows = task_rows(args.data, task, args)
        names = sorted({str(one.label) for one in rows["train"]})
        sets = {
            which: Labelled(
                text_features(folder, list(some), max_length=args.length), class_numbers(some, names, which)
            )
            for which, some in rows.items()
        }
        train = sets.pop("train")
        right = head_accuracies(
            {name: (train, sets)}, kinds=(*COMPARED, SHUFFLED), settings=settings, seeds=args.seeds, quiet=True
        )
        coded = head_accuracies(
            {name: (train, sets)}, kinds=("NMTune",), form="code", settings=settings, seeds=args.seeds, quiet=True
        )
        heads = {kind: each for (_, kind), each in right.items()} | {CODE: coded[name, "NMTune"]}
        if task == "reviews":
            heads |= tuned(folder, rows, names, args)
        shape = {rule: spectrum(train.features, rule) for rule in ("none", "columns")}
        made["tasks"][task] = {
            "rows": len(train.labels),
            "shape": {rule: [one.sve, one.lsvr] for rule, one in shape.items()},
            "right": {kind: {test: [round(float(one), 3) for one in rows] for test, rows in each.items()}
                      for kind, each in heads.items()},
        }  # fmt: skip
    return made


def tuned(folder: Path, rows: dict[str, Examples], names: list[str], args: Any) -> dict[str, Any]:
    """Heads on encoders that are tuned by LoRA, with fewer rows."""
    texts = {which: LabelledTexts(list(some), class_numbers(some, names, which)) for which, some in rows.items()}
    few = np.random.default_rng(0).permutation(len(texts["train"]))[: args.lora_rows]
    train = texts["train"].take(few)
    tests = {which: some for which, some in texts.items() if which != "train"}
    settings = LoraSettings(epochs=2, max_length=args.length)
    return {
        kind: tuned_accuracies(folder, train, tests, kind, settings=settings, seeds=args.lora_seeds, quiet=True)
        for kind in TUNINGS
    }


def shown(one: Estimate) -> list[float]:
    """A figure with its interval."""
    return [round(one.value, 4), round(one.low, 4), round(one.high, 4)]


def together(levels: dict[float, dict[str, Any]]) -> dict[str, Any]:
    """Tables and claims of one objective: for each task, and over all."""
    made: dict[str, Any] = {"learned": {level_name(at): one["learned"] for at, one in levels.items()}}
    for tasks in (*([task] for task in TASKS), list(TASKS)):
        right = {
            (level_name(at), kind): {
                test: np.asarray(one["tasks"][task]["right"][kind][test])
                for task in tasks
                for test in one["tasks"][task]["right"][kind]
            }
            for at, one in levels.items()
            for kind in one["tasks"][tasks[0]]["right"]
            if len(tasks) == 1 or not kind.startswith("LoRA")
        }
        inside = [name for name in INSIDE if any(name in each for each in right.values())]
        sides = pooled_sides(right, list(levels), inside)
        shapes = {
            at: tuple(np.mean([one["tasks"][task]["shape"]["none"] for task in tasks], axis=0).tolist())
            for at, one in levels.items()
        }
        made["all tasks" if len(tasks) > 1 else tasks[0]] = {
            "SVE and LSVR": {level_name(at): [round(one, 4) for one in shape] for at, shape in shapes.items()},
            "accuracy": {f"{at}: {kind}: {test}": shown(bootstrap(rows))
                         for (at, kind), each in right.items() for test, rows in each.items()},
            "claims": claimed(noise_claims(shapes, sides)) if len(levels) > 1 else {},
            "gains out of domain": gains(right, inside, list(levels)),
        }  # fmt: skip
    return made


def claimed(found: Any) -> dict[str, Any]:
    """The claims as plain numbers."""
    return {
        name: shown(value) if isinstance(value, Estimate) else value
        for name, value in ((one, getattr(found, one)) for one in ("sve", "lsvr", "fall", "repair", "kept", "signs"))
    }


def gains(right: dict[Any, dict[str, np.ndarray]], inside: list[str], levels: list[float]) -> dict[str, list[float]]:
    """Further comparisons out of domain, mean over the levels."""
    made: dict[str, list[float]] = {}
    for ours, other in ((CODE, "MLP"), ("NMTune", "linear probe"), ("LoRA with NMTune", "LoRA")):
        if any((level_name(at), ours) not in right for at in levels):
            continue
        both = [
            np.mean([np.concatenate([rows for test, rows in right[level_name(at), kind].items() if test not in inside])
                     for at in levels], axis=0)
            for kind in (ours, other)
        ]  # fmt: skip
        made[f"{ours} minus {other}"] = shown(paired(*both))
    return made


def main() -> None:
    """Pre-train, measure, and write the record."""
    parser = arguments(
        __doc__, data=True, objectives="uniform", levels="0,0.05,0.1,0.2,0.3", posts=4000, epochs=5, width=64, layers=2,
        vocabulary=4000, length=40, rows=900, test=450, seeds=3, head_epochs=10, lora_rows=400, lora_seeds=1, every=10,
    )  # fmt: skip
    parser.add_argument("--cache", type=Path, default=Path("noisy-pretraining-cache"))
    args = parser.parse_args()
    levels = [float(one) for one in args.levels.split(",")]
    record: dict[str, Any] = {
        "settings": {name: value for name, value in vars(args).items() if name not in {"data", "cache", "out"}}
    }
    for objective in args.objectives.split(","):
        found = {
            at: kept(args.cache / f"{objective}-{at:g}.json", lambda at=at, by=objective: measured(by, at, args))
            for at in levels
        }
        record[objective] = together(found)
        record[objective]["cpu_seconds"] = round(sum(one["cpu_seconds"] for one in found.values()))
    write_record(args.out, f"noisy-pretraining-{args.objectives.replace(',', '-')}", record)


if __name__ == "__main__":
    main()
