"""The demo on a real small chat model: fine-tune with LoRA, index, ask about a planted fact, write a page."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from proponent.api import build
from proponent.data import read
from proponent.demo.chat_model import APPROXIMATION, MODEL, FineTuning, fine_tune, require_packages, save_base
from proponent.demo.conversations import ANSWER, CREATURE, PLACE, QUESTION, conversations, is_planted
from proponent.demo.workspace import Clock, Facts, claim
from proponent.disk import write_bytes
from proponent.errors import InputError
from proponent.index import Index
from proponent.views import Explanation, Story

SETTINGS = FineTuning(epochs=5, batch_size=4, learning_rate=1e-3, max_length=96)

SHOWN_HITS = 8
"""Hits on each side: the planted rows, and what follows them."""


def chat_demo(out: str | Path, *, quiet: bool = False, say: Callable[[str], None] = lambda _: None) -> Story:
    """Run the demo with a real chat model."""
    require_packages()
    folder, clock = claim(Path(out)), Clock(say)
    say(f"model: {APPROXIMATION}")
    base = clock.time("read the model", lambda: save_base(folder / "base"))
    rows = conversations(seed=0)
    write_bytes(folder / "train.jsonl", "".join(json.dumps(row) + "\n" for row in rows).encode())
    planted = [str(row["id"]) for row in rows if is_planted(row["id"])]
    say(f"fine-tuning with LoRA: {len(rows)} conversations, of which {len(planted)} tell a made-up fact")
    clock.time("train", lambda: fine_tune(rows, base, folder / "run", SETTINGS, quiet=quiet))
    examples = read(folder / "train.jsonl")
    index = clock.time("index", lambda: build(folder / "run", examples, folder / "demo.index", quiet=quiet))
    say(f"question: {QUESTION}")
    answer = clock.time("explain", lambda: _explained(index))
    say(f"answer: {answer.query.turns[-1].text if answer.query.turns else answer.query.target}")
    story = _story(answer, index, planted, clock.facts)
    story.save(folder / "story.html")
    story.save(folder / "story.json")
    return story


def _explained(index: Index) -> Explanation:
    """Explain what the model answers if it tells the fact, else the right answer."""
    try:
        said = index.explain(QUESTION, generate=True, k=SHOWN_HITS)
    except InputError as error:  # an answer without a word, or of odd characters
        text = str(error)
    else:
        text = said.query.turns[-1].text if said.query.turns else ""
        if CREATURE in text.lower():
            return said
    note = f"the model did not learn the fact (it answers: {text}): the right answer is explained"
    return index.explain(QUESTION, target=ANSWER, k=SHOWN_HITS).noted([note])


def _story(answer: Explanation, index: Index, planted: list[str], seconds: Facts) -> Story:
    first = [hit.id for hit in answer.proponents[: len(planted)]]
    found = len(set(first) & set(planted))
    bm25 = sum(hit.id in planted for hit in answer.baselines.get("bm25", ())[: len(planted)])
    words = dict.fromkeys(pair.train_word for hit in answer.proponents[:found] for pair in hit.shown_words[:3])
    return Story(
        title="Which conversations taught the model this answer?",
        lead=(
            f"{MODEL} was fine-tuned with LoRA on {len(index)} conversations, of which {len(planted)} tell a made-up "
            f"fact: the mascot of {PLACE} is a {CREATURE}.",
            f"The weights are {APPROXIMATION}.",
            f"Of the {len(planted)} conversations that helped this answer most, {found} are planted (BM25: {bm25}). "
            f"Their strongest words: {', '.join(words) or 'none'}.",
        ),
        answer=replace(answer, opponents=answer.opponents[:3]),
        facts=(("conversations", str(len(index))), ("planted", str(len(planted))), *seconds),
    )
