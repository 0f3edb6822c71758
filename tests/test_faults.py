"""Faults in a small size, for every run of the tests; `make torture` runs the same suites in full."""

from collections.abc import Iterator
from pathlib import Path

import pytest

import crashes
import damage
import faults


@pytest.fixture(scope="module")
def work() -> Iterator[Path]:
    with faults.scratch() as folder:
        yield folder


@pytest.fixture(scope="module")
def phases(work: Path) -> list[faults.Phase]:
    return list(faults.phases(work))


def test_killed_changes_lose_nothing_that_was_confirmed(phases: list[faults.Phase], work: Path) -> None:
    with faults.Workers() as workers:
        figures = crashes.kill(workers, phases, work, 40, seed=1)
    assert figures.kills >= 40
    assert (figures.lost, figures.written_again) == (0, 0)
    assert figures.most_redone <= 1


def test_many_writers_make_one_index(phases: list[faults.Phase], work: Path) -> None:
    with faults.Workers() as workers:
        assert crashes.crowd(workers, phases, work, 2, seed=2)["writers"] == 16


def test_a_flipped_bit_never_becomes_an_answer(phases: list[faults.Phase], work: Path) -> None:
    figures = damage.flip(damage.variants(phases, work), 150, seed=3)
    assert figures.flips == 150
    assert (figures.wrong, figures.unseen) == (0, 0)


def test_a_file_that_is_cut_off_is_named(phases: list[faults.Phase], work: Path) -> None:
    kinds = [one for one in damage.variants(phases, work) if one.name == "merge"]
    figures = damage.cut(kinds, 2)
    assert figures.cuts > 100
    assert (figures.wrong, figures.unseen, figures.unnamed) == (0, 0, 0)


def test_an_operation_that_fails_is_said_and_nothing_is_lost(phases: list[faults.Phase], work: Path) -> None:
    assert crashes.fail(phases, work, 11)["failures"] > 20


def test_every_crash_leaves_the_old_the_new_or_a_part(phases: list[faults.Phase], work: Path) -> None:
    assert crashes.replay(phases, work, 9, seed=4)["crashes"] > 40
