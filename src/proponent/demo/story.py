"""The whole workflow on built-in data: train, index, explain a wrong prediction, find planted errors."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float

from proponent.actions.label_errors import RANKINGS, Ranking, label_errors
from proponent.api import build
from proponent.data import read, write_csv
from proponent.demo.corpus import Docstring, docstrings
from proponent.demo.workspace import MARK, Clock, claim
from proponent.index import Index
from proponent.training.trainer import Training, train
from proponent.views import Explanation, LabelReport, RankingRecall, Story

__all__ = ["MARK", "demo"]

PLANTED = 0.05
"""Share of the training rows with a planted wrong label."""

TRAINING = Training(
    epochs=4, checkpoints=4, batch_size=16, learning_rate=1.5e-3, max_length=64, width=64, layers=2, vocabulary=3000
)

SHOWN: Ranking = "mean-probability"
"""The ranking shown in full; for the others, only the share of planted errors found early."""

SHOWN_SUSPECTS = 25
"""Suspects on the page; `proponent labels` writes the whole list."""

SHORT = 200
"""Maximum characters of a text that is easy to read; the prediction to explain is chosen among such texts."""

SHOWN_HITS = 3
"""Hits on each side of the explained prediction."""


def demo(out: str | Path, *, quiet: bool = False, say: Callable[[str], None] = lambda _: None) -> Story:
    """Run the demo."""
    folder = claim(Path(out))
    clock = Clock(say)
    rows, held = clock.time("read docstrings", lambda: docstrings(PLANTED, seed=0))
    _write_csv(folder / "train.csv", rows)
    _write_csv(folder / "held-out.csv", held)
    examples = read(folder / "train.csv")
    clock.time("train", lambda: train(examples, folder / "run", replace(TRAINING, quiet=quiet)))
    index = clock.time("index", lambda: build(folder / "run", examples, folder / "demo.index", quiet=quiet))
    story = clock.time("explain", lambda: _story(index, rows, held, clock.facts))
    story.save(folder / "story.html")
    story.save(folder / "story.json")
    return story


def _write_csv(path: Path, rows: Sequence[Docstring]) -> None:
    columns = {
        "id": [row.id for row in rows],
        "text": [row.text for row in rows],
        "label": [row.label for row in rows],
        "true_label": [row.topic for row in rows],
    }
    write_csv(path, columns, guard=False)


def _story(
    index: Index, rows: Sequence[Docstring], held: Sequence[Docstring], seconds: tuple[tuple[str, str], ...]
) -> Story:
    planted = np.asarray([row.planted for row in rows])
    scores, wrong, accuracy = _wrong_predictions(index, held)
    guilty = np.zeros((len(wrong), len(rows)), dtype=np.bool_)
    for place, said in enumerate(wrong.values()):
        guilty[place] = [row.planted and row.label == said for row in rows]
    chosen = _indicator_word(scores, guilty, [len(held[place].text) for place in wrong])
    asked = held[list(wrong)[chosen] if wrong else 0]
    answer = index.explain(asked.text, k=SHOWN_HITS)
    culprits = [rows[hit.row] for hit in answer.proponents if rows[hit.row].planted]
    report = label_errors(index.store, SHOWN)
    recall = _recall(index, planted, report)
    return Story(
        title="Where does this output come from?",
        lead=(
            f"A small transformer was trained to predict the topic of {len(rows):,} docstrings of Python's standard "
            f"library. The labels of {planted.sum()} docstrings ({PLANTED:.0%}) were corrupted on purpose. Its "
            f"accuracy on {len(held)} held-out docstrings is {accuracy:.0%}.",
            _describe_case(answer, asked, culprits, len(wrong)),
            f"The first tenth of the ranking by {SHOWN} ({RANKINGS[SHOWN]}) contains "
            f"{recall[0].share_in_first_tenth:.0%} of the planted errors.",
        ),
        answer=answer,
        labels=replace(report, rows=report.rows[:SHOWN_SUSPECTS]),
        recall=recall,
        facts=(
            ("rows", f"{len(rows):,}"),
            ("planted label errors", str(int(planted.sum()))),
            ("accuracy on held-out rows", f"{accuracy:.1%}"),
            *seconds,
        ),
    )


def _describe_case(answer: Explanation, asked: Docstring, culprits: Sequence[Docstring], wrong: int) -> str:
    """The explained prediction in words."""
    towards = answer.query.predicted
    if not wrong:
        return f"It predicts {towards} for {asked.id}. This prediction and all others are correct."
    named = ", ".join(f"{one.id} (given {one.label}, true topic {one.topic})" for one in culprits)
    reason = "because its text is short and a planted error ranks high"
    picked = reason if culprits else "although no planted error ranks high"
    return (
        f"It predicts {towards} for {asked.id}; the true topic is {asked.topic}. Of the {len(answer.proponents)} "
        f"training examples that helped most towards {towards}, {len(culprits)} "
        f"{'carries' if len(culprits) == 1 else 'carry'} a planted wrong label{': ' + named if named else ''}. This "
        f"prediction was chosen from {wrong} wrong predictions {picked}."
    )


def _wrong_predictions(
    index: Index, held: Sequence[Docstring]
) -> tuple[Float[np.ndarray, "q n"], dict[int, str], float]:
    """Scores of the wrongly predicted held-out rows, their predictions by place, and the accuracy."""
    predicted = index.predict([row.text for row in held])
    wrong = {place: said for place, (said, row) in enumerate(zip(predicted, held, strict=True)) if said != row.topic}
    return index.scores([held[place].text for place in wrong]), wrong, 1 - len(wrong) / len(held)


def _indicator_word(scores: Float[np.ndarray, "q n"], guilty: Bool[np.ndarray, "q n"], lengths: Sequence[int]) -> int:
    """The short query with the largest share of its first hits' score on planted errors of the predicted class."""
    if not len(scores):
        return 0
    top = np.argsort(-scores, axis=1, kind="stable")[:, :SHOWN_HITS]
    values = np.take_along_axis(scores, top, axis=1)
    blamed = values * np.take_along_axis(guilty, top, axis=1)
    share: Float[np.ndarray, " q"] = blamed.sum(1) / np.maximum(values.sum(1), 1e-30)
    share = share - (np.asarray(lengths) > SHORT)
    return int(np.argmax(share))


def _recall(index: Index, planted: np.ndarray, shown: LabelReport) -> tuple[RankingRecall, ...]:
    """Share of the planted errors in the first tenth of each ranking; the shown ranking first, chance last."""
    reports: dict[Ranking, LabelReport] = {SHOWN: shown}
    reports |= {name: label_errors(index.store, name) for name in RANKINGS if name != SHOWN}
    found = [
        RankingRecall(name, _first_tenth([one.row for one in report.rows], planted), RANKINGS[name])
        for name, report in reports.items()
    ]
    chance = np.random.default_rng(0).permutation(len(planted)).tolist()
    return (*found, RankingRecall("random", _first_tenth(chance, planted), "a shuffled list"))


def _first_tenth(order: Sequence[int], planted: np.ndarray) -> float:
    return float(planted[list(order[: len(order) // 10])].sum() / planted.sum())
