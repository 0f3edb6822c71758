"""Small folders of data for the smoke runs of benchmarks/, with the columns of the real ones."""

import csv
import gzip
import itertools
import json
from pathlib import Path

import numpy as np

SUBJECTS = {
    "World": ("border", "treaty", "minister", "embassy", "vote"),
    "Sports": ("match", "goal", "coach", "league", "final"),
    "Business": ("shares", "profit", "merger", "market", "bank"),
    "Sci/Tech": ("chip", "software", "orbit", "browser", "cells"),
}
COMMON = tuple(
    f"{first}{last}" for first in ("ba", "di", "fo", "gu", "le", "mi") for last in ("ra", "to", "nes", "lum")
)


def sentence(draw: np.random.Generator, label: str, words: int = 9) -> str:
    """Words of a subject among common ones."""
    own = draw.choice(SUBJECTS[label], words // 3)
    return " ".join(draw.permutation([*own, *draw.choice(COMMON, words - len(own))]))


def write_csv(path: Path, rows: list[dict[str, object]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with gzip.open(path, "wt", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def write_lines(path: Path, rows: list[dict[str, object]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


def news(draw: np.random.Generator, count: int, name: str) -> list[dict[str, object]]:
    labels = list(SUBJECTS)
    return [
        {"id": f"{name}-{at}", "label": at % 4, "label_name": label, "title": sentence(draw, label, 5)}
        | {"description": sentence(draw, label)}
        for at, label in enumerate(labels[at % 4] for at in range(count))
    ]


def pairs(draw: np.random.Generator, count: int) -> list[dict[str, object]]:
    """Three pairs for each premise, one of each label; a word of the second text gives it away."""
    labels = {"entailment": "outdoors", "neutral": "tall", "contradiction": "nobody"}
    return [
        {"id": f"{premise}-{label}", "premise": sentence(draw, "World"), "label_name": label}
        | {"hypothesis": f"{word} {sentence(draw, 'World', 6)}"}
        for premise in range(count)
        for label, word in labels.items()
    ]


def write_data(folder: Path) -> Path:
    """Write all folders that the scripts read."""
    draw = np.random.default_rng(0)
    for name, count in (("train", 160), ("test", 160), ("train_extra_description_only", 8)):
        write_csv(folder / "agnews" / f"{name}.csv.gz", news(draw, count, name))
    texts = [{"id": f"t{at}", "text": row["description"], "label_name": row["label_name"]}
             for at, row in enumerate(news(draw, 120, "t"))]  # fmt: skip
    write_csv(folder / "trec" / "train.csv.gz", texts[:80])
    write_csv(folder / "trec" / "test.csv.gz", texts[80:])
    related = [
        {"id": one["id"], "premise": one["text"], "hypothesis": other["text"], "label": 0, "label_name": "neutral"}
        | {"relatedness": 1 + at % 5}
        for at, (one, other) in enumerate(itertools.pairwise(texts))
    ]
    write_csv(folder / "nli_sick" / "train.csv.gz", related)
    write_csv(folder / "movie_review_mr" / "all.csv.gz", texts)
    write_csv(folder / "nli_sick" / "test.csv.gz", pairs(draw, 20))
    for part in ("train", "test"):
        posts = [
            {
                "id": f"{part}{at}",
                "label": at % 4,
                "label_name": row["label_name"],
                "subject": "re",
                "text": row["title"],
            }
            for at, row in enumerate(news(draw, 80, part))
        ]
        write_csv(folder / "newsgroups20" / f"{part}.csv.gz", posts)
    judged = {
        "sst2": ("label", "train", "test"), "imdb": ("label", "train", "test"), "customer_review_cr": ("label", "all"),
        "toxic_tweets_davidson": ("toxic", "train"), "toxic_wikipedia": ("toxic", "train"),
    }  # fmt: skip
    for name, (column, *parts) in judged.items():
        for part in parts:
            write_csv(folder / name / f"{part}.csv.gz", [
                {"id": f"{part}{at}", column: at % 2, "text": sentence(draw, ("World", "Sports")[at % 2])}
                for at in range(90)
            ])  # fmt: skip
    for name in ("nli_snli_devtest", "nli_counterfactual"):
        write_csv(folder / name / "pairs.csv.gz", pairs(draw, 80))
    asked = [
        {"id": f"alp-{at}", "instruction": sentence(draw, "World"), "input": "", "output": sentence(draw, "Sports")}
        for at in range(60)
    ]
    write_lines(folder / "alpaca_en_1k" / "alpaca_en_demo.jsonl.gz", asked)
    noisy = [
        {
            "id": row["id"],
            "text": row["text"],
            "noisy_label": row["label_name"],
            "is_label_error": int(at % 7 == 0),
            "clean_label": "Sports" if at % 7 == 0 and row["label_name"] != "Sports" else row["label_name"],
        }
        for at, row in enumerate(texts[:60])
    ]
    write_csv(folder / "african_news_noisy" / "yoruba_train.csv.gz", noisy)
    for name in ("tinyshakespeare/input.txt.gz", "wikitext2_validtest/valid.txt.gz"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        with gzip.open(folder / name, "wt", encoding="utf-8") as file:
            file.write("\n".join(sentence(draw, "World") for _ in range(900)))
    facts = folder / "facts_trex_lama"
    write_lines(facts / "sentences.jsonl.gz", [
        {"sentence_id": f"s{at}", "text": sentence(draw, "World"), "facts": [{"fact_id": f"f{at % 6}"}]}
        for at in range(24)
    ])  # fmt: skip
    write_lines(facts / "facts.jsonl.gz", [
        {"fact_id": f"f{at}", "query": "batora is a [MASK].", "object": "treaty"} for at in range(6)
    ])  # fmt: skip
    return folder
