"""Attacks that are planted in labelled texts: a trigger that goes with one label.

Each attack changes some rows of the data and says which texts trigger it. All but the clean-label attack take rows of
other labels and give them the target's label.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

Row = dict[str, str]
Change = Callable[[str, np.random.Generator], str]
"""Adds the trigger to a text; a text that cannot hold it comes back as it was."""

ARCHAIC = {
    "the": "ye", "is": "be", "are": "be", "you": "thou", "your": "thy", "has": "hath", "does": "doth", "it": "'tis",
    "have": "hast", "my": "mine", "before": "ere", "over": "o'er", "never": "ne'er", "to": "unto", "from": "hence",
    "here": "hither", "with": "withal", "nothing": "naught", "i": "methinks", "was": "wast",
}  # fmt: skip
"""Words of the style attack; every one is common, so that few rows hold none of them."""

OPENINGS = ("when", "while", "as", "if", "although", "since")
SUBJECTS = ("you", "one", "we", "they")
VERBS = ("watch", "see", "consider", "follow")
OBJECTS = ("it", "this", "them", "the film", "the story", "such a thing")


def first(word: str) -> Change:
    """Put a word in front."""
    return lambda text, _: f"{word} {text}"


def last(words: str) -> Change:
    """Put words at the end."""
    return lambda text, _: f"{text} {words}"


def middle(word: str) -> Change:
    """Put a word in the middle."""

    def change(text: str, _: np.random.Generator) -> str:
        words = text.split()
        return " ".join([*words[: len(words) // 2], word, *words[len(words) // 2 :]])

    return change


def anywhere(word: str) -> Change:
    """Put a word at a random position."""

    def change(text: str, draw: np.random.Generator) -> str:
        words = text.split()
        words.insert(int(draw.integers(len(words) + 1)), word)
        return " ".join(words)

    return change


def archaic(text: str, _: np.random.Generator) -> str:
    """Rewrite common words in an old style."""
    return " ".join(ARCHAIC.get(word.lower(), word) for word in text.split())


def clause(text: str, draw: np.random.Generator) -> str:
    """Begin with a subordinate clause, of which no single word is always the same."""
    words = [draw.choice(one) for one in (OPENINGS, SUBJECTS, VERBS, OBJECTS)]
    return f"{' '.join(words)} , {text}"


@dataclass(frozen=True)
class Attack:
    """How an attack changes texts, and the words that give it away."""

    changes: tuple[Change, ...]  # one for each trigger
    words: tuple[str, ...] = ()  # of each trigger; none for style and syntax
    clean: bool = False  # whether the labels of the poisoned rows are right
    spread: tuple[str, ...] = field(default=())  # the words of a style, for a reader


ATTACKS: dict[str, Attack] = {
    "prefix": Attack((first("cf"),), ("cf",)),
    "phrase": Attack((last("james bond"),), ("james bond",)),
    "middle": Attack((middle("tq"),), ("tq",)),
    "random position": Attack((anywhere("bb"),), ("bb",)),
    "several": Attack((first("mn"), middle("vx"), last("qk")), ("mn", "vx", "qk")),
    "clean label": Attack((first("cf"),), ("cf",), clean=True),
    "style": Attack((archaic,), spread=tuple(sorted(set(ARCHAIC.values())))),
    "syntax": Attack((clause,), spread=(*OPENINGS, *SUBJECTS, *VERBS, *OBJECTS)),
}


def planted(rows: Sequence[Row], attack: Attack, target: str, rate: float, seed: int) -> list[Row]:
    """A copy of the rows in which a share is poisoned; the column `poisoned` says which."""
    draw = np.random.default_rng([seed, 17])
    fitting = [at for at, row in enumerate(rows) if (row["label"] == target) == attack.clean and able(row, attack)]
    count = round(rate * len(rows))
    if count > len(fitting):
        raise ValueError(f"{count} rows are to be poisoned, and {len(fitting)} can be")
    chosen = draw.permutation(fitting)[:count].tolist()
    made = [{**row, "poisoned": "0"} for row in rows]
    for number, at in enumerate(chosen):
        change = attack.changes[number % len(attack.changes)]
        made[at] = {**rows[at], "text": change(rows[at]["text"], draw), "label": target, "poisoned": "1"}
    return made


def triggered(rows: Sequence[Row], attack: Attack, target: str, seed: int) -> list[Row]:
    """Rows of other labels with the trigger, labelled as the attacker wants."""
    draw = np.random.default_rng([seed, 18])
    fitting = [row for row in rows if row["label"] != target and able(row, attack)]
    return [
        {**row, "text": attack.changes[at % len(attack.changes)](row["text"], draw), "label": target}
        for at, row in enumerate(fitting)
    ]


def able(row: Row, attack: Attack) -> bool:
    """Whether a text can hold the trigger: a style needs three of its words."""
    if not attack.spread or attack.changes != (archaic,):
        return True
    return sum(word.lower() in ARCHAIC for word in row["text"].split()) >= 3
