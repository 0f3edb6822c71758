"""Write docs/leaderboard.md: every method and control beside each other, setting by setting, from the dated JSON.

    python benchmarks/fidelity/leaderboard.py

Nothing is measured here. A setting is a training run, its queries and a bank of retrains; its record is the page of
`proponent evaluate`. A measure that a setting has no record of is left empty, and a setting without any is named.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))

import harness
from harness import RESULTS, table
from pictures_g import SHOWN, dot, said


@dataclass(frozen=True, slots=True)
class Setting:
    """A run that methods are compared on, its records by measure, and the command that makes them."""

    name: str
    what: str  # model, rows, queries
    records: dict[str, str]  # measure -> name of the record
    again: str  # the script with its words and its steps, which runs `proponent evaluate`


def _scratch(data: str, shown: str) -> Setting:
    return Setting(
        f"{shown}, from scratch",
        "transformer of 2 layers of 128, 2,000 rows, 200 queries, ten checkpoints",
        {"lds": f"g-{data}-methods", "deletion": f"g-{data}-deletion-30"},
        f"record_g.py STEP {data}: bank, report, delete",
    )


def _fine_tuned(data: str, shown: str) -> Setting:
    return Setting(
        f"{shown}, MiniLM",
        "MiniLM-L6 fine-tuned whole, 300 rows, two epochs, 100 queries, ten checkpoints",
        {"lds": f"j-{data}-report", "deletion": f"j-{data}-deletion"},
        f"record_j.py STEP {data}: bank, report, delete",
    )


SETTINGS = (
    _scratch("agnews", "AG News"),
    _scratch("toxic_tweets_davidson", "toxic tweets"),
    _scratch("newsgroups20", "newsgroups"),
    _fine_tuned("agnews", "AG News"),
    _fine_tuned("toxic_tweets_davidson", "toxic tweets"),
    Setting(
        "chat, LoRA",
        "SmolLM2-135M-Instruct, LoRA of rank 8, 200 instructions, 40 queries",
        {"lds": "h-lds", "deletion": "h-deletion"},
        "record_h.py STEP: bank, report, delete",
    ),
)
MISSING = (
    "a convolutional network and a small transformer at the initial scale .1",
    "a small GPT-2 on plain text",
    "other libraries within class (their speed and their agreement are on the pages of peers)",
    "word removal, and planted errors and near-copies, on all settings",
)
"""What belongs on the page and has no record."""


@dataclass(frozen=True, slots=True)
class Measure:
    """One table: the column of `evaluate` that it shows, within groups where there is one, and which end is better."""

    key: str
    title: str
    columns: tuple[str, ...]  # the first that a record has
    more: bool  # whether more is better
    ceiling: str  # the column of the share of the ceiling; empty for none


MEASURES = (
    Measure(
        "lds", "LDS within class (chat: within quartile of length)",
        ("LDS within class", "LDS within length quartile", "LDS"), True, "of ceiling within",
    ),
    Measure(
        "lds", "Plain LDS, which rewards a score that knows the label", ("LDS",), True, "of ceiling",
    ),
    Measure(
        "deletion", "Change of the log-odds after the rows that helped most are deleted", ("helped deleted",), False,
        "",
    ),
)  # fmt: skip


def read(results: Path, setting: Setting, measure: Measure) -> dict | None:
    """The newest record of a measure; records of a chat model hold the page inside."""
    name = setting.records.get(measure.key)
    path = None if name is None else harness.newest(results, f"fidelity-{name}")
    if path is None:
        return None
    found = json.loads(path.read_text(encoding="utf-8"))
    return found.get("page", found) | {"file": path.name}


def _share(row: dict, measure: Measure) -> str:
    """The share of the ceiling, where its interval holds no zero."""
    exact = measure.ceiling == "of ceiling"
    names = (one for one in row["figures"] if measure.ceiling and one["name"].startswith(measure.ceiling))
    found = next((one["value"] for one in names if not exact or one["name"] == measure.ceiling), None)
    return "" if found is None else f"; {found:.2f} of the ceiling"


def tables(results: Path, measure: Measure) -> Iterator[str]:
    """One table for each measure: methods, then controls, best mean place first; the best of a setting in bold."""
    pages = {setting.name: read(results, setting, measure) for setting in SETTINGS}
    held = {name: page for name, page in pages.items() if page is not None}
    values: dict[str, dict[str, float]] = {}
    cells: dict[tuple[str, str], str] = {}
    controls: set[str] = set()
    for name, page in held.items():
        column = next(one for one in measure.columns if one in page["columns"])
        for row in page["rows"]:
            found = dot(row, column)
            if found is not None:
                values.setdefault(row["method"], {})[name] = found.value
                cells[row["method"], name] = said(found) + _share(row, measure)
                controls |= {row["method"]} if row["control"] else set()
    best = {name: _ends(values, name, measure.more) for name in held}
    order = sorted(values, key=lambda method: (method in controls, _place(values, method, measure.more), method))
    lines = [
        [
            SHOWN.get(method, method) + (" (control)" if method in controls else ""),
            *(
                f"**{cells[method, name]}**" if method == best[name] else cells.get((method, name), "-")
                for name in held
            ),
        ]
        for method in order
    ]
    yield from (f"## {measure.title}", "", table(["method", *held], lines))
    yield "Records: " + ", ".join(f"[{name}](../benchmarks/results/{page['file']})" for name, page in held.items())
    yield from ("", *([_verdicts(held), ""] if measure.ceiling != "of ceiling" else []))


def _ends(values: dict[str, dict[str, float]], name: str, more: bool) -> str:
    """The best row of a setting."""
    sign = 1.0 if more else -1.0
    return max((method for method in values if name in values[method]), key=lambda method: sign * values[method][name])


def _place(values: dict[str, dict[str, float]], method: str, more: bool) -> float:
    """Mean share of the rows of its settings that are better than a method."""
    sign = 1.0 if more else -1.0
    shares = []
    for name, value in values[method].items():
        others = [one[name] for one in values.values() if name in one]
        shares.append(sum(sign * one > sign * value for one in others) / len(others))
    return sum(shares) / len(shares)


def _verdicts(pages: dict[str, dict]) -> str:
    """Which methods beat the best control of their setting, with the interval of the difference above zero."""
    parts = []
    for name, page in pages.items():
        better = [row["method"] for row in page["rows"] if not row["control"] and row["verdict"].startswith("yes")]
        parts.append(f"{name}: {', '.join(better) if better else 'none'}")
    return "Better than the best control, the interval of the difference above zero: " + "; ".join(parts) + "."


def page(results: Path) -> str:
    """The page."""
    lines = [
        "# Leaderboard", "",
        "Methods and controls of the library on the same runs, the same queries and the same retrains, "
        "with shipped settings, by `proponent evaluate`. Written by `benchmarks/fidelity/leaderboard.py` from the "
        "dated records; definitions are in [evaluation.md](evaluation.md). 95 % intervals in brackets; the best row "
        "of a setting is bold. A ceiling is what a perfect score would reach against the noise of retraining; where "
        "its interval holds zero, no share is shown. Methods are ordered by their mean place.", "",
    ]  # fmt: skip
    for measure in MEASURES:
        lines += tables(results, measure)
    measured = {setting.name for setting in SETTINGS for one in MEASURES if read(results, setting, one) is not None}
    absent = [setting.name for setting in SETTINGS if setting.name not in measured]
    lines += ["## Not measured", "", *(f"- {one}" for one in (*absent, *MISSING)), ""]
    rows = [[one.name, one.what, *_commands(one.again)] for one in SETTINGS]
    lines += [
        "## Run it again", "",
        "Each script in `benchmarks/fidelity` trains the run, keeps its retrains as a bank (`--cache`) and calls "
        "`proponent evaluate`; it resumes. Give `--data`, the folder with the data sets. A method of your own is a "
        "JSON file ([extending](extending.md)): `proponent evaluate RUN DATA --metric lds --methods mine.json --bank "
        "BANK` sets it against the same retrains.", "",
        table(["setting", "model and data", "script", "steps"], rows),
    ]  # fmt: skip
    return "\n".join(lines).rstrip("\n") + "\n"


def _commands(again: str) -> list[str]:
    script, steps = again.split(": ")
    return [f"`{script}`", steps]


def main() -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--page", type=Path, default=harness.ROOT / "docs" / "leaderboard.md")
    options = parser.parse_args()
    options.page.write_text(page(options.results), encoding="utf-8")


if __name__ == "__main__":
    main()
