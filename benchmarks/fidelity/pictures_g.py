"""Record G of docs/fidelity.md: within-class beside plain LDS, and case deletion, on models trained from scratch."""

import html
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from harness import table

METHODS = ("tracin-we-idf", "tracin-we-adam-unit", "tracin-we", "grad-cos", "tracin-last", "tracin-all")
CONTROLS = ("tfidf-sign", "bm25-sign", "label", "random")
SHOWN = {"tfidf-sign": "TF-IDF x label sign", "bm25-sign": "BM25 x label sign", "label": "label alone"}
GREY = {*CONTROLS, "bm25", "tfidf-label", "embedding", "loss"}
"""Rows that no gradient has."""
CHOICE = ("trec", "sst2")
"""Sets on which the form was chosen; the others are reported."""
LEFT, PANEL, GAP, STEP = 150.0, 150.0, 16.0, 22.0


@dataclass(frozen=True, slots=True)
class Dot:
    """A figure with its interval."""

    value: float
    low: float
    high: float


Panel = tuple[str, dict[str, tuple[Dot | None, Dot | None]]]
"""Title, and for each row a filled and a hollow dot."""


def dot(row: dict, column: str) -> Dot | None:
    """A figure of a row of an evaluation's page."""
    found = next((one for one in row["figures"] if one["name"] == column), None)
    if found is None or found["value"] is None:
        return None
    value = found["value"]
    return Dot(
        value, value if found["low"] is None else found["low"], value if found["high"] is None else found["high"]
    )


def said(one: Dot | None) -> str:
    """A figure as text."""
    return "-" if one is None else f"{one.value:.3f} [{one.low:.3f}, {one.high:.3f}]"


def panels(path: Path, title: str, found: list[Panel], key: tuple[str, str]) -> None:
    """One panel for each data set, one line for each method: a filled and a hollow dot with their intervals."""
    rows = list(dict.fromkeys(name for _, lines in found for name in lines))
    ends = [one for _, lines in found for both in lines.values() for one in both if one is not None]
    low, high = min([0.0, *(one.low for one in ends)]), max([0.0, *(one.high for one in ends)])
    width, height = max(640.0, LEFT + len(found) * (PANEL + GAP)), 66 + STEP * len(rows)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" font-family="sans-serif" '
        f'font-size="12"><rect width="{width:.0f}" height="{height:.0f}" fill="#fff"/>',
        f'<text x="10" y="18" font-weight="bold">{html.escape(title)}</text>',
        f'<text x="{width - 10:.0f}" y="18" text-anchor="end" fill="#5d5852">filled: {html.escape(key[0])}; '
        f"hollow: {html.escape(key[1])}</text>",
        *(
            f'<text x="{LEFT - 8:.0f}" y="{62 + STEP * at:.0f}" text-anchor="end">'
            f"{html.escape(SHOWN.get(name, name))}</text>"
            for at, name in enumerate(rows)
        ),
    ]
    for at, (name, lines) in enumerate(found):
        begin = LEFT + at * (PANEL + GAP)

        def x(value: float, begin: float = begin) -> float:
            return begin + PANEL * (value - low) / (high - low)

        parts += [
            f'<text x="{begin + PANEL / 2:.1f}" y="38" text-anchor="middle">{html.escape(name)}</text>',
            f'<path d="M{x(0):.1f} 44V{height - 16:.0f}" stroke="#999"/>',
            *(
                f'<text x="{x(end):.1f}" y="{height - 4:.0f}" text-anchor="middle" fill="#5d5852">{end:.2f}</text>'
                for end in (0.0, high if high > -low else low)
            ),
        ]
        for place, row in enumerate(rows):
            parts += _marks(x, 58 + STEP * place, lines.get(row, (None, None)), row)
    path.parent.mkdir(exist_ok=True)
    path.write_text("\n".join([*parts, "</svg>"]) + "\n")


def _marks(x: Callable[[float], float], y: float, both: tuple[Dot | None, Dot | None], row: str) -> list[str]:
    color = "#6d675f" if row in GREY else "#2f74d0"
    made: list[str] = []
    for one, fill, shift in zip(both, (color, "#fff"), (-3, 4), strict=True):
        if one is not None:
            made.append(
                f'<path d="M{x(one.low):.1f} {y + shift}H{x(one.high):.1f}" stroke="{color}"/>'
                f'<circle cx="{x(one.value):.1f}" cy="{y + shift}" r="3.2" fill="{fill}" stroke="{color}"/>'
            )
    return made


def page(docs: Path, sets: list[str], record: Callable[[str], dict | None]) -> list[str]:
    """The section of docs/fidelity.md, and its two pictures."""
    order = sorted(sets, key=lambda one: (one in CHOICE, one))
    measured = {name: {row["method"]: row for row in record(f"g-{name}-methods")["rows"]} for name in order}
    plain, within = "LDS", "LDS within class"
    found: list[Panel] = [
        (
            name + (" (choice)" if name in CHOICE else ""),
            {key: (dot(rows[key], within), dot(rows[key], plain)) for key in (*METHODS, *CONTROLS)},
        )
        for name, rows in measured.items()
    ]
    panels(docs / "fidelity" / "g-lds.svg", "LDS, models trained from scratch", found, ("within class", "plain"))
    heads = ["within class", *(name for name, _ in found)]
    cells = [[SHOWN.get(key, key), *(said(lines[key][0]) for _, lines in found)] for key in (*METHODS, *CONTROLS)]
    plain_cells = [[SHOWN.get(key, key), *(said(lines[key][1]) for _, lines in found)] for key in (*METHODS, *CONTROLS)]
    files = ", ".join(f"[{name}](../benchmarks/results/{record(f'g-{name}-methods')['file']})" for name in order)
    chosen = " and ".join(CHOICE)
    return [
        "## G. First against last: small transformers trained from scratch", "",
        "2,000 rows, 200 queries, 60 random halves x 2 seeds, one run with ten checkpoints, shipped settings, by "
        f"`proponent evaluate` (`record_g.py`). The form of `tracin-we-idf` was chosen on {chosen}. {files}",
        "", "![LDS within class and plain](fidelity/g-lds.svg)", "",
        table(heads, cells), table(["plain", *heads[1:]], plain_cells), *_together(record),
        *_deletions(docs, order, record),
    ]  # fmt: skip


def _together(record: Callable[[str], dict | None]) -> list[str]:
    """The reported sets together."""
    found = record("g-together")
    if found is None:
        return []

    def text(one: dict | None) -> str:
        return "-" if one is None else said(Dot(one["value"], one["low"], one["high"]))

    keys = ("within_class", "ratio_over_queries", "ratio_over_queries_and_halves", "tracin_we_idf_minus")
    shown = {name: one for name, one in found["methods"].items() if name in (*METHODS, *CONTROLS[:3])}
    rows = [[SHOWN.get(name, name), *(text(one.get(key)) for key in keys)] for name, one in shown.items()]
    heads = [
        *("method", "within class", "tracin-we-idf / this, interval over queries"),
        *("over queries and halves", "tracin-we-idf - this"),
    ]
    return [f"All queries of {', '.join(found['sets'])} together:", "", table(heads, rows)]


def _deletions(docs: Path, order: list[str], record: Callable[[str], dict | None]) -> list[str]:
    """Case deletion of the rows that helped."""
    made = {(name, more): record(f"g-{name}-deletion{more}") for name in order for more in ("", "-30")}
    found: list[Panel] = []
    lines: list[str] = []
    for (name, _), one in made.items():
        if one is None:
            continue
        rows = {row["method"]: row for row in one["rows"]}
        both = ("helped deleted", "helped less random rows")
        count = next(column.rpartition(" ")[2] for column in one["columns"] if column.startswith("flipped at k = "))
        panel = {key: (dot(row, both[0]), dot(row, both[1])) for key, row in rows.items()}
        found.append((f"{name}, {count} rows", panel))
        cells = [
            [SHOWN.get(key, key), *(said(dot(row, column)) for column in one["columns"])] for key, row in rows.items()
        ]
        retrains, file = dict(one["facts"])["retrains"], one["file"]
        title = f"{name}, {count} of 2,000 rows: {one['title']}, {retrains} retrains."
        lines += [f"{title} [JSON](../benchmarks/results/{file})", ""]
        lines += [table(["method", *one["columns"]], cells)]
    if not found:
        return []
    panels(
        docs / "fidelity" / "g-deletion.svg", "Deletion of the rows that helped", found,
        ("change of the log-odds", "the same less matched random rows"),
    )  # fmt: skip
    return ["![deletion](fidelity/g-deletion.svg)", "", *lines]
