"""Do planted near-copies come first? Regression, preferences, tags of words, places of answers.

Every task trains a small model on rows of its own kind, among which stand a few near-copies of each question: the same
example with some words left out or changed. An index is built by the default and by each of `--methods`; what is
measured is how many of the copies are among as many first proponents, and how often the first is one, beside the
baselines of the same answer.

    python benchmarks/planted_copies.py --data DATA     nli_sick (relatedness), alpaca_en_1k (pairs), and generated rows
"""

import gzip
import json
import random
import re
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import harness
import numpy as np

import proponent

Row = dict[str, Any]
Fact = tuple[str, str, str]
"""A person, a place, and more about both."""

PLACES = ("Ulm", "Bath", "Lima", "Oslo", "Kyoto", "Quito", "Perth", "Dakar", "Turin", "Hilo", "Basel", "Accra")
NAMES = (
    *("Ada", "Bruno", "Carla", "Dario", "Edda", "Felix", "Greta", "Hugo", "Ines", "Jonas", "Klara", "Luis", "Mira"),
    *("Nils", "Olga", "Pablo", "Rosa", "Sven", "Tilda", "Uwe", "Vera", "Willa", "Xenia", "Yusuf", "Zora", "Anton"),
)
FILLERS = ("yesterday", "again", "by train", "with a friend", "in spring", "for work", "at last", "in the rain")


@dataclass(frozen=True)
class Task:
    """Rows of a task: those that are trained on, the near-copies of each question, the questions."""

    rows: list[Row]
    copies: list[list[Row]]
    questions: list[Row]
    train: Callable[[Path, list[Row]], None]  # trains a run in a folder
    columns: proponent.Columns


def main() -> None:
    """Measure every task and write one record."""
    parser = harness.arguments(__doc__, data=True, rows=300, queries=20, copies=3, epochs=6, checkpoints=2)
    parser.add_argument("--only", nargs="*", choices=list(TASKS), default=list(TASKS))
    parser.add_argument("--methods", nargs="*", default=["tracin-we-idf"], help="methods beside the default")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    found = {name: measured(TASKS[name](given), given) for name in given.only}
    settings = {name: getattr(given, name) for name in ("rows", "queries", "copies", "epochs", "checkpoints")}
    harness.write_record(given.out, "planted-copies", settings | {"tasks": found})


def measured(task: Task, given: Any) -> Row:
    """Train, index by the default and by other methods, ask."""
    rows = [*task.rows, *(copy for own in task.copies for copy in own)]
    random.Random(1).shuffle(rows)
    shares: dict[str, list[float]] = {}
    firsts: dict[str, list[bool]] = {}
    with tempfile.TemporaryDirectory() as folder:
        began = time.process_time()
        task.train(Path(folder) / "run", rows)
        seconds = {"training": round(time.process_time() - began, 1)}
        for method in (None, *given.methods):
            began = time.process_time()
            index = proponent.build(
                Path(folder) / "run", rows, Path(folder) / f"{method}.index", method, columns=task.columns, quiet=True
            )
            name = f"{index.store.plan.method.name}{' (default)' if method is None else ''}"
            seconds[f"index, {name}"] = round(time.process_time() - began, 1)
            ask(task, index, name, given.copies, shares, firsts)
        losses = np.asarray(index.store.features["losses"][-1])
    return {
        "rows": len(rows),
        "copies_among_first": {name: round(float(np.mean(one)), 3) for name, one in shares.items()},
        "first_is_a_copy": {name: round(float(np.mean(one)), 3) for name, one in firsts.items()},
        "median_loss_of_a_row": float(np.median(losses[np.isfinite(losses)])),
        "cpu_seconds": seconds,
    }


def ask(
    task: Task,
    index: proponent.Index,
    method: str,
    k: int,
    shares: dict[str, list[float]],
    firsts: dict[str, list[bool]],
) -> None:
    """Ask every question; the baselines of the first index stand for all."""
    baselines = not shares
    for question, own in zip(task.questions, task.copies, strict=True):
        why = index.explain(question, k=k, baselines=baselines)
        wanted = {copy["id"] for copy in own}
        for name, hits in ({method: why.proponents} | dict(why.baselines)).items():
            ids = [hit.id for hit in hits[:k]]
            shares.setdefault(name, []).append(len(wanted & set(ids)) / len(wanted))
            firsts.setdefault(name, []).append(bool(ids) and ids[0] in wanted)


def thinned(text: str, draw: random.Random, share: float = 0.25) -> str:
    """A text without some of its words."""
    words = text.split()
    left_out = set(draw.sample(range(len(words)), max(1, round(share * len(words))))) if len(words) > 2 else set()
    return " ".join(word for at, word in enumerate(words) if at not in left_out)


# ---- tasks ----


def regression(given: Any) -> Task:
    """SICK: how related two sentences are, from 1 to 5."""
    made = [
        {"id": row["id"], "text": row["premise"], "text_pair": row["hypothesis"], "label": float(row["relatedness"])}
        for row in harness.read_csv(given.data / "nli_sick" / "train.csv.gz")
    ]
    rows, asked = drawn(made, given)
    draw = random.Random(2)
    copies = [
        [
            {"id": f"copy-{row['id']}-{at}", "label": row["label"]}
            | {name: thinned(row[name], draw) for name in ("text", "text_pair")}
            for at in range(given.copies)
        ]
        for row in asked
    ]
    questions = [{name: row[name] for name in ("text", "text_pair", "label")} for row in asked]

    def train(folder: Path, every: list[Row]) -> None:
        def features(tokenizer: Any, row: Row) -> Row:
            return dict(tokenizer(row["text"], row["text_pair"], truncation=True)) | {"labels": row["label"]}

        texts = [row[name] for row in every for name in ("text", "text_pair")]
        fit(folder, "BertForSequenceClassification", texts, every, features, given, num_labels=1)

    return Task(rows, copies, questions, train, proponent.Columns())


def entities(given: Any) -> Task:
    """Generated sentences with people and places, one tag for each word; a copy changes how the sentence begins."""

    def row(name: str, draw: random.Random, fact: Fact) -> Row:
        person, place, filler = fact
        some = draw.choice(FILLERS), filler
        words = f"{some[0]} {person} went to {place} {some[1]}".split()
        tags = ["PERSON" if one == person else "PLACE" if one == place else "O" for one in words]
        return {"id": name, "tokens": words, "tags": tags}

    rows, copies, asked = generated(given, row)
    questions = [{"text": " ".join(one["tokens"]), "label": one["tags"]} for one in asked]
    names = ["O", "PERSON", "PLACE"]

    def train(folder: Path, every: list[Row]) -> None:
        def features(tokenizer: Any, one: Row) -> Row:
            made = tokenizer(" ".join(one["tokens"]), truncation=True)
            return dict(made) | {"labels": [-100, *map(names.index, one["tags"]), -100]}

        texts, labels = [" ".join(one["tokens"]) for one in every], dict(enumerate(names))
        fit(folder, "BertForTokenClassification", texts, every, features, given, id2label=labels)

    return Task(rows, copies, questions, train, proponent.Columns())


def answers(given: Any) -> Task:
    """Generated questions about where somebody lives, with the place in a context; a copy changes the other one."""

    def row(name: str, draw: random.Random, fact: Fact) -> Row:
        person, place, filler = fact
        other, elsewhere = draw.choice(NAMES), draw.choice(PLACES)
        told = [f"{person} lives in {place} {filler} .", f"{other} likes {elsewhere} ."]
        context = " ".join(draw.sample(told, 2))
        place_in = {"text": [place], "answer_start": [context.find(f"lives in {place}") + len("lives in ")]}
        return {"id": name, "question": f"where does {person} live", "context": context, "answers": place_in}

    rows, copies, asked = generated(given, row)
    questions = [{"text": x["question"], "text_pair": x["context"], "label": x["answers"]} for x in asked]

    def train(folder: Path, every: list[Row]) -> None:
        def features(tokenizer: Any, one: Row) -> Row:
            made = tokenizer(one["question"], one["context"], truncation=True)
            (start,), (text,) = one["answers"]["answer_start"], one["answers"]["text"]
            at = [made.char_to_token(place, sequence_index=1) for place in (start, start + len(text) - 1)]
            return dict(made) | {"start_positions": at[0], "end_positions": at[1]}

        texts = [one[name] for one in every for name in ("question", "context")]
        fit(folder, "BertForQuestionAnswering", texts, every, features, given)

    columns = proponent.Columns(text="question", text_pair="context", label="answers")
    return Task(rows, copies, questions, train, columns)


def preferences(given: Any) -> Task:
    """Alpaca: the answer is chosen, and that of another row is rejected. Asked is the answer alone."""
    with gzip.open(given.data / "alpaca_en_1k" / "alpaca_en_demo.jsonl.gz", "rt", encoding="utf-8") as file:
        read = [json.loads(line) for line in file]
    made = [
        {
            "id": row["id"],
            "prompt": f"{row['instruction']} {row['input']}".strip()[:150] + "\n",
            "chosen": " ".join(row["output"].split()[:24]),
        }
        for row in read
    ]
    draw = random.Random(3)
    made = [row | {"rejected": draw.choice(made)["chosen"]} for row in made if row["chosen"]]
    rows, asked = drawn(made, given)
    copies = [
        [
            {"id": f"copy-{row['id']}-{at}", "prompt": thinned(row["prompt"], draw) + "\n"}
            | {"chosen": thinned(row["chosen"], draw), "rejected": draw.choice(made)["chosen"]}
            for at in range(given.copies)
        ]
        for row in asked
    ]
    questions = [{"text": row["prompt"], "target": row["chosen"]} for row in asked]
    return Task(rows, copies, questions, lambda folder, every: fit_pairs(folder, every, given), proponent.Columns())


TASKS: dict[str, Callable[[Any], Task]] = {
    "regression": regression,
    "preferences": preferences,
    "entities": entities,
    "answers": answers,
}


def drawn(made: Sequence[Row], given: Any) -> tuple[list[Row], list[Row]]:
    """Rows to train on, and others to ask about."""
    some = random.Random(0).sample(list(made), min(given.rows + given.queries, len(made)))
    return some[given.queries :], some[: given.queries]


def generated(
    given: Any, row: Callable[[str, random.Random, Fact], Row]
) -> tuple[list[Row], list[list[Row]], list[Row]]:
    """Rows about facts; a copy is about the same fact as its question."""
    draw = random.Random(4)
    facts = [(person, place, filler) for person in NAMES for place in PLACES for filler in FILLERS]
    draw.shuffle(facts)
    asked = facts[: given.queries]
    rows = [row(f"row-{at}", draw, fact) for at, fact in enumerate(facts[given.queries : given.queries + given.rows])]
    copies = [[row(f"copy-{at}-{no}", draw, fact) for no in range(given.copies)] for at, fact in enumerate(asked)]
    return rows, copies, [row(f"asked-{at}", draw, fact) for at, fact in enumerate(asked)]


# ---- models ----


def fit(
    folder: Path,
    kind: str,
    texts: Sequence[str],
    rows: Sequence[Row],
    features: Callable[[Any, Row], Row],
    given: Any,
    **head: Any,
) -> None:
    """Train a small BERT from scratch with the Trainer of transformers."""
    import torch
    import transformers

    torch.manual_seed(0)
    words = sorted({word for text in texts for word in re.findall(r"\w+|[^\w\s]", text)})
    tokenizer = harness.word_tokenizer(words)
    sizes = {"hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 128}
    config = transformers.BertConfig(
        vocab_size=len(tokenizer), max_position_embeddings=32, pad_token_id=tokenizer.pad_token_id, **sizes, **head
    )
    model = getattr(transformers, kind)(config)
    made = [features(tokenizer, row) for row in rows]
    tags = kind == "BertForTokenClassification"
    collator = transformers.DataCollatorForTokenClassification if tags else transformers.DataCollatorWithPadding
    transformers.Trainer(
        model,
        transformers.TrainingArguments(**arguments(folder, given.epochs, 2e-3, given.checkpoints)),
        train_dataset=made,
        data_collator=collator(tokenizer),
        processing_class=tokenizer,
        callbacks=[proponent.Recorder()],
    ).train()


def fit_pairs(folder: Path, rows: Sequence[Row], given: Any) -> None:
    """Train a small Llama on the chosen answers, and then on the pairs by TRL's DPOTrainer."""
    import datasets
    import torch
    import transformers
    import trl

    torch.manual_seed(0)
    tokenizer = harness.subword_tokenizer([row[name] for row in rows for name in ("prompt", "chosen")], 2000)
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer), max_position_embeddings=128, pad_token_id=tokenizer.pad_token_id, **sizes
    )
    base = folder.parent / "base"
    texts = [{"prompt": row["prompt"], "completion": row["chosen"]} for row in rows]
    plain = {"gradient_checkpointing": False, "bf16": False, "max_length": 96}
    first = trl.SFTTrainer(
        transformers.LlamaForCausalLM(config),
        trl.SFTConfig(**arguments(folder.parent / "first", given.epochs, 2e-3), **plain),
        train_dataset=datasets.Dataset.from_list(texts),
        processing_class=tokenizer,
    )
    first.train()
    first.save_model(str(base))
    pairs = [{name: row[name] for name in ("prompt", "chosen", "rejected")} for row in rows]
    trl.DPOTrainer(
        str(base),
        args=trl.DPOConfig(**arguments(folder, 2, 2e-4), **plain),
        train_dataset=datasets.Dataset.from_list(pairs),
        processing_class=tokenizer,
        callbacks=[proponent.Recorder()],
    ).train()


def arguments(folder: Path, epochs: int, rate: float, checkpoints: int = 2) -> dict[str, Any]:
    """What all trainers are told."""
    return {
        "output_dir": str(folder),
        "num_train_epochs": epochs,
        "learning_rate": rate,
        "per_device_train_batch_size": 16,
        "save_strategy": "epoch",
        "save_total_limit": checkpoints,
        "report_to": [],
        "use_cpu": True,
        "disable_tqdm": True,
        "logging_strategy": "no",
        "dataloader_pin_memory": False,
        "seed": 0,
    }


if __name__ == "__main__":
    main()
