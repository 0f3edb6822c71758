"""Loops over joined runs: each run is replayed or rolled back by itself, and its scores are added up."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from proponent.dynamics.loops import LoopScores
from proponent.models import Run
from proponent.models.counting import homes
from proponent.types import CheckpointId


def single_runs(run: Run) -> list[Run]:
    """The runs that were joined, one by one; a single run as it is."""
    numbers = list(dict.fromkeys(one.id.run for one in run.checkpoints))
    if len(numbers) == 1:
        return [run]
    found: list[Run] = []
    for number, home in zip(numbers, homes(run), strict=True):
        own, later = (
            tuple(replace(one, id=CheckpointId(0, one.id.step)) for one in some if one.id.run == number)
            for some in (run.checkpoints, run.later)
        )
        found.append(replace(run, path=home, checkpoints=own, later=later, joined=()))
    return found


def summed(run: Run, score: Callable[[Run], LoopScores]) -> LoopScores:
    """Score by every joined run, and add up."""
    runs = single_runs(run)
    found = [score(one) for one in runs]
    if len(found) == 1:
        return found[0]
    lines = [f"{one.path}: {each.summary}" for one, each in zip(runs, found, strict=True) if each.summary]
    return LoopScores(
        np.sum([one.scores for one in found], axis=0),
        f"{found[0].used}, in each of {len(found)} runs",
        "; ".join(lines),
        (*dict.fromkeys(note for one in found for note in one.notes), f"scores are summed over {len(found)} runs"),
        found[0].caveat,
        _summed_words([one.words for one in found]),
    )


def _summed_words(
    each: Sequence[Callable[[int, int], Mapping[int, float]]],
) -> Callable[[int, int], Mapping[int, float]]:
    """Shares of words, added up over the runs."""

    def words(query: int, row: int) -> Mapping[int, float]:
        total: dict[int, float] = {}
        for one in each:
            for number, share in one(query, row).items():
                total[number] = total.get(number, 0.0) + share
        return total

    return words
