"""Suites of damaged files: single flipped bits, and files that are cut off. No answer may be silently wrong."""

import json
import random
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import faults
from crashes import silently_wrong
from faults import Phase
from proponent.errors import ProponentError
from proponent.store import verify

Tell = Callable[[str], None]


def silent(_: str) -> None:
    pass


@dataclass
class Variant:
    """A whole index, and what it answers."""

    name: str
    folder: Path
    right: dict[str, Any]
    files: list[str] = field(default_factory=list[str])

    def __post_init__(self) -> None:
        assert faults.faultless(verify(self.folder))
        assert not any(isinstance(one, Exception) for one in self.right.values())
        self.files = sorted(name for name in faults.contents(self.folder) if name != "lease")


def variants(phases: Sequence[Phase], work: Path) -> list[Variant]:
    """Built; appended to and deleted from; merged; rows of 8 bits, appended to."""
    found = [Variant(one.name, faults.copy(one.end, work / f"spoilt-{one.name}"), one.new) for one in phases]
    short = work / "spoilt-int8"
    faults.change(short, {"do": "build", "rows": "int8"})
    faults.change(short, {"do": "append", "rows": "int8"})
    return [*(one for one in found if one.name != "append"), Variant("int8", short, faults.answers(short))]


# ---- 2: flipped bits ----


@dataclass
class Flips:
    """Figures of the flips."""

    flips: int = 0
    wrong: int = 0
    unseen: int = 0
    refused: int = 0
    harmless: int = 0
    files: int = 0
    by_kind: dict[str, int] = field(default_factory=dict[str, int])


def flip(kinds: Sequence[Variant], count: int, seed: int, tell: Tell = silent) -> Flips:
    """Flip one bit at a time, at a random place of each file in turn; ask everything; put it right again."""
    chance, figures = random.Random(seed), Flips()
    places = [(variant, name) for variant in kinds for name in variant.files]
    figures.files = len(places)
    for number in range(count):
        variant, name = places[number % len(places)]
        path = variant.folder / name
        whole = path.read_bytes()
        data = bytearray(whole)
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        path.write_bytes(data)
        try:
            _look(variant, name, figures)
        finally:
            path.write_bytes(whole)
        if (number + 1) % 500 == 0:
            tell(f"{number + 1} flips: {figures.refused} refused, {figures.harmless} harmless, {figures.wrong} wrong")
    return figures


def _look(variant: Variant, name: str, figures: Flips) -> None:
    found = faults.answers(variant.folder)
    wrong = silently_wrong(found, variant.right)
    figures.flips += 1
    figures.wrong += bool(wrong)
    refused = any(isinstance(one, Exception) for one in found.values())
    figures.refused += refused
    figures.harmless += not refused
    figures.unseen += not _seen(variant.folder)
    kind = name.split("/")[0]
    figures.by_kind[kind] = figures.by_kind.get(kind, 0) + 1


def _seen(folder: Path) -> bool:
    """Whether `verify` finds damage."""
    try:
        return bool(verify(folder).damage)
    except ProponentError:
        return True


# ---- 3: truncation ----


@dataclass
class Cuts:
    """Figures of the cuts."""

    cuts: int = 0
    refused: int = 0
    gone_on: int = 0
    unnamed: int = 0
    wrong: int = 0
    unseen: int = 0
    longer: int = 0


def cut(kinds: Sequence[Variant], parts: int, tell: Tell = silent) -> Cuts:
    """Cut every file off at every part of its length and at every edge of its structure; and one byte too long."""
    figures = Cuts()
    for variant in kinds:
        for at, name in enumerate(variant.files):
            path = variant.folder / name
            whole = path.read_bytes()
            sizes = sorted({len(whole) * part // parts for part in range(parts)} | _edges(path))
            try:
                for size in sizes:
                    path.write_bytes(whole[:size])
                    figures.cuts += 1
                    _look_cut(variant, name, figures)
                path.write_bytes(whole + b"\0")
                figures.longer += 1
                _look_cut(variant, name, figures)
            finally:
                path.write_bytes(whole)
            if at % 10 == 0:
                tell(f"{variant.name}, {name}: {figures.cuts} cuts, {figures.refused} refused, {figures.wrong} wrong")
    return figures


def _look_cut(variant: Variant, name: str, figures: Cuts) -> None:
    found = faults.answers(variant.folder)
    errors = [one for one in found.values() if isinstance(one, Exception)]
    figures.wrong += bool(silently_wrong(found, variant.right))
    figures.refused += bool(errors)
    figures.unnamed += any(name not in str(error) for error in errors)
    figures.unseen += not _seen(variant.folder)
    if name.startswith(("forms/", "postings/")):
        figures.gone_on += _goes_on(variant, figures)


def _goes_on(variant: Variant, figures: Cuts) -> bool:
    """With --allow-missing the other shards answer, and what is lost is left out, not wrong."""
    try:
        mine = faults.scores(variant.folder, allow_missing=True)
    except faults.REFUSALS:
        return False
    right = np.frombuffer(variant.right["scores"]).reshape(mine.shape)
    known = ~np.isnan(mine)
    figures.wrong += not np.allclose(mine[known], right[known], rtol=1e-5, atol=1e-6)
    return True


def _edges(path: Path) -> set[int]:
    """Sizes at which a part of a file ends."""
    data = path.read_bytes()
    size = len(data)
    ends = {0, 1, size // 2, size - 1}
    if path.suffix == ".safetensors":
        begin = 8 + int.from_bytes(data[:8], "little")
        header = json.loads(data[8:begin])
        arrays = [begin + offset for name in header for offset in header[name]["data_offsets"]]
        ends |= {end + off for end in (8, begin, *arrays) for off in (-1, 0, 1)}
    elif path.suffix == ".parquet":
        footer = size - 8 - int.from_bytes(data[-8:-4], "little")
        ends |= {end + off for end in (4, footer, size - 8, size - 4) for off in (-1, 0, 1)}
    else:
        ends |= {at for at in range(size) if data[at : at + 1] in b"{}[],:"} if size < 4096 else set[int]()
    return {end for end in ends if 0 <= end < size}


def cut_unfinished(phase: Phase, work: Path, parts: int) -> Cuts:
    """The same for an index that is not sealed: what is cut off counts as not there, and is computed again."""
    figures = Cuts()
    start = faults.copy(phase.end, work / "unsealed")
    shutil.rmtree(start)
    from crashes import stopped  # the last operations are those of the seal

    last = len(phase.operations) - phase.operations[::-1].index("rename")
    start = stopped(phase, work / "unsealed", last - 1)
    assert not (start / "manifest.json").is_file()
    right = np.frombuffer(phase.new["scores"]).reshape(faults.QUERIES, -1)
    names = [
        name for name in sorted(faults.contents(start)) if not name.startswith("lease") and not name.endswith(".tmp")
    ]
    for name in names:
        whole = (start / name).read_bytes()
        for size in sorted({len(whole) * part // parts for part in range(parts)}):
            folder = faults.copy(start, work / "unsealed-cut")
            (folder / name).write_bytes(whole[:size])
            figures.cuts += 1
            try:
                mine = faults.scores(folder, partial=True)
                known = ~np.isnan(mine)
                same = mine.shape != right.shape or np.allclose(mine[known], right[known], rtol=1e-5, atol=1e-6)
                figures.wrong += not same
                figures.gone_on += 1
            except faults.REFUSALS:
                figures.refused += 1
            try:
                faults.change(folder, phase.job)
                faults.check_whole(folder, phase.root)
            except faults.REFUSALS as error:
                figures.unnamed += Path(name).name not in str(error)
    return figures
