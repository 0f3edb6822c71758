"""Record W of docs/fidelity.md: words taken out of the rows that helped most."""

from collections.abc import Callable
from pathlib import Path

from harness import table
from pictures_g import Panel, dot, panels, said

LESS = "less random words"
SHORT = {
    "exact terms of the scored layers": "exact terms", "word-embedding terms": "embedding terms",
    "change when masked": "masked", "words of the last layer": "last layer's words",
}  # fmt: skip
"""Names that fit beside a plot."""


def words(docs: Path, names: list[str], record: Callable[[str], dict | None]) -> list[str]:
    """One table for each task, and a plot of all."""
    found = [one for one in map(record, names) if one is not None]
    if not found:
        return []
    panels(
        docs / "fidelity" / "w-words.svg", "Words taken out of rows", [_panel(one) for one in found],
        ("change of the log-odds", LESS),
    )  # fmt: skip
    made = ["## W. Words taken out of the rows that helped most: a fine-tuned MiniLM", ""]
    for at, one in enumerate(found):
        page, settings = one["page"], one["settings"]
        facts = ", ".join(f"{name} {value}" for name, value in page["facts"])
        made += [
            f"### {settings['task']}", "",
            f"{settings['epochs']} epochs, rate {settings['rate']:g}, batches of {settings['batch']}, "
            f"{settings['length']} tokens (`record_w.py`). {facts}. {one['machine']}. "
            f"[JSON](../benchmarks/results/{one['file']})", "",
        ]  # fmt: skip
        made += ["![words taken out](fidelity/w-words.svg)", ""] if at == 0 else []
        cells = [
            [row["method"] + (" (control)" if row["control"] else ""), said(dot(row, page["columns"][0])),
             said(dot(row, LESS)), *(f"{figure['value']:.2f}" for figure in row["figures"][2:]), row["verdict"] or "-"]
            for row in page["rows"]
        ]  # fmt: skip
        made += [table(["words", *page["columns"], "against the best control"], cells)]
    return made


def _panel(one: dict) -> Panel:
    page = one["page"]
    change = page["columns"][0]
    return one["settings"]["task"], {
        SHORT.get(row["method"], row["method"]): (dot(row, change), dot(row, LESS)) for row in page["rows"]
    }
