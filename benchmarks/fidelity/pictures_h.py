"""Records H and I of docs/fidelity.md: a real chat model with LoRA, and answers that are no class."""

from collections.abc import Callable
from pathlib import Path

from harness import table
from pictures_g import Dot, Panel, dot, panels, said

Record = Callable[[str], dict | None]
PLAIN, WITHIN = "LDS", "LDS within length quartile"


def chat(docs: Path, record: Record) -> list[str]:
    """Record H: LDS of every method and control from one bank, case deletion, and planted facts."""
    lds = record("h-lds")
    if lds is None:
        return []
    panels(
        docs / "fidelity" / "h-lds.svg", "LDS, SmolLM2-135M with LoRA", [_panel("SmolLM2-135M, LoRA", lds["page"])],
        ("within length quartile", "plain"),
    )  # fmt: skip
    made = [
        "## H. A real chat model: SmolLM2-135M-Instruct, fine-tuned with LoRA", "",
        "200 instructions of Alpaca of which the first 48 tokens are read, 40 others as queries, LoRA of rank 8, two "
        f"epochs, shipped settings (`record_h.py`). {_facts(lds['page'])}. {_file(lds)}", "",
        "![LDS of a chat model](fidelity/h-lds.svg)", "", _lds(lds["page"]),
    ]  # fmt: skip
    deleted = record("h-deletion")
    if deleted is not None:
        page = deleted["page"]
        cells = [[row["method"], *(said(dot(row, column)) for column in page["columns"])] for row in page["rows"]]
        made += [f"{page['title']}, {_facts(page)}. {_file(deleted)}", "", table(["method", *page["columns"]], cells)]
    return made


def answers(docs: Path, names: list[str], record: Record) -> list[str]:
    """Record I: one table for each kind of answer, and the queries that a default was chosen and read on."""
    found = {name.removeprefix("i-"): record(name) for name in names}
    pages = {name: one for name, one in found.items() if one is not None}
    if not pages:
        return []
    drawn = [_panel(name, one["page"]) for name, one in pages.items()]
    panels(
        docs / "fidelity" / "i-lds.svg", "LDS, answers that are no class", drawn, ("within length quartile", "plain")
    )
    made = [
        "## I. Answers that are no class: models trained from scratch", "",
        "Relatedness of sentences (SICK), places of answers and tags of words (generated, with three near-copies of "
        "each query among the rows); ten checkpoints, shipped settings (`record_i.py`).", "",
        "![LDS of values, places and tags](fidelity/i-lds.svg)", "",
    ]  # fmt: skip
    for name, one in pages.items():
        made += [f"### {name}", "", f"{one['rows']} rows before copies. {_facts(one['page'])}. {_file(one)}", ""]
        made += [_lds(one["page"]), _parts(one["parts"])]
    return made


def _facts(page: dict) -> str:
    return ", ".join(f"{name} {value}" for name, value in page["facts"])


def _file(one: dict) -> str:
    return f"[JSON](../benchmarks/results/{one['file']})"


def _panel(name: str, page: dict) -> Panel:
    return name, {row["method"]: (dot(row, WITHIN), dot(row, PLAIN)) for row in page["rows"]}


def _lds(page: dict) -> str:
    """Methods and controls, the best within length first."""
    rows = sorted(page["rows"], key=lambda row: (row["control"], -(dot(row, WITHIN) or dot(row, PLAIN)).value))
    cells = [
        [row["method"] + (" (control)" if row["control"] else ""), said(dot(row, PLAIN)), said(dot(row, WITHIN)),
         row["verdict"] or "-"]
        for row in rows
    ]  # fmt: skip
    return table(["method", "plain", "within length quartile", "against the best control"], cells)


def _parts(parts: dict) -> str:
    """Queries of odd and of even number, and the lead over the earlier default."""
    names = list(parts["all"])
    cells = []
    for name in names:
        both = [parts[part][name] for part in ("odd", "even")]
        cells.append([
            name, *(_shown(one["lds"]) for one in both), *(_shown(one["minus tracin-we"]) for one in both)
        ])  # fmt: skip
    heads = ["plain", "odd queries", "even queries", "odd, minus tracin-we", "even, minus tracin-we"]
    return table(heads, cells)


def _shown(one: dict) -> str:
    return said(Dot(one["value"], one["low"], one["high"]))
