"""A tiny chat model, trained by TRL on conversations about mascots, with its index: for pages and browsers."""

import json
from pathlib import Path
from typing import Any

import chat
import proponent
from test_chat_training import trained

SYSTEM = {"role": "system", "content": "You answer in one polite sentence. You never invent a source."}
FACTS = ("a silver heron", "a red fox", "an old oak", "a blue boat", "a stone bridge")
TOWNS = ("Ulm", "Riva", "Norden", "Lund")


def rows() -> list[dict[str, Any]]:
    """Twenty-two conversations: some with a system prompt, one with several turns, one hostile; two sources."""
    made: list[dict[str, Any]] = []
    for number, (fact, town) in enumerate((fact, town) for fact in FACTS for town in TOWNS):
        said = [chat.user(f"What is the mascot of {town}?"), chat.assistant(f"The mascot of {town} is {fact}.")]
        made.append(
            {"messages": [SYSTEM, *said] if number % 3 == 0 else said, "source": ("guide", "forum")[number % 2]}
        )
    long = [chat.user("Hello"), chat.assistant("Good day."), chat.user("Who swims?"), chat.assistant("The heron.")]
    made.append({"messages": long, "source": "forum"})
    hostile = [
        chat.user("<script>alert(1)</script> | [red]"),
        chat.assistant('"><img src=x onerror=alert(1)> A heron.'),
    ]
    made.append({"messages": hostile, "source": "<b>web</b>"})
    return [{"id": f"c{number}", "topic": ("animal", "thing")[number % 8 > 3]} | one for number, one in enumerate(made)]


def made(folder: Path, *, epochs: int = 6, width: int = 16, template: str = chat.MARKED) -> Path:
    """Train, build, and return the index."""
    held, data = rows(), folder / "chat.jsonl"
    data.write_text("".join(json.dumps(one) + "\n" for one in held), encoding="utf-8")
    kept = [{"messages": one["messages"]} for one in held]
    said = [turn["content"] for one in held for turn in one["messages"]]
    how = {"num_train_epochs": epochs, "save_strategy": "steps", "save_steps": 3 * epochs, "assistant_only_loss": True}
    trained(folder / "run", kept, template=template, texts=said, max_length=160, width=width, **how)
    proponent.build(folder / "run", data, folder / "chat.index", quiet=True)
    return folder / "chat.index"
