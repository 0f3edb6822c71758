"""The record of one day as a Markdown page."""

import statistics
from typing import Any

AIM_END_TO_END = {"captum": 12.0, "dattri-llm": 1.7}
AIM_FURTHER = 25.0
AIMED = {"captum-32", "dattri-llm-live", "dattri-llm-stored"}
"""Variants that the aims speak of."""

AIMS = """
An aim counts as met where the ratio of the medians reaches it in wall and in CPU seconds. The aim against captum was
set with captum at nine floors, which is its way with everyone's batches of 32: it takes one backward pass per text
through the graph of the whole batch. In batches of one it is three times as fast; a twelfth of that would be half of
what forward and backward to the embedding alone take (.67 of a plain pass).
"""

Records = dict[str, dict[str, Any]]

INTRODUCTION = """# Comparison with other libraries

{date} · {machine} · Python {python}, torch {torch}, transformers {transformers}

The work: {texts} training texts and {queries} queries of AG News (title and description), the encoder of
all-MiniLM-L6-v2 with a fresh head of four labels, one checkpoint, fp32, dropout off. Training texts are sorted by
length and cut into batches of 32, padded to their longest, the same for every peer; queries are drawn among texts of at
most 80 tokens and go in one batch. The floor is one plain forward + backward to every parameter over these {texts} +
{queries} texts, measured in the same process, alternating with the peer. **x floor** is a ratio within one repetition;
the table gives medians and, after several repetitions, the smallest and the largest in brackets.

- **end to end**: scores [{queries} x {texts}] from the loaded model and tokenized texts. Only proponent starts from
  raw texts and a model folder and writes an index to disk: its figure includes tokenization, loading,
  checksums and writing.
- **further**: scores of {queries} other queries, their own gradients included, using what was stored.
- **agreement**: with proponent's scores, learning rate divided out. Where the quantity is the same (products of the
  word embeddings' gradients) the largest difference over the query's largest score; Spearman's correlation is the mean
  over the queries.
- **CPU**: the same two ratios in CPU seconds (end to end / further). They leave out waiting.
- **busy**: the smallest CPU seconds over wall seconds; under 0.95 the machine was shared, and wall ratios are rough.
"""


def page(record: dict[str, Any]) -> str:
    """Write the page."""
    variants: Records = record["variants"]
    known = next((one for one in variants.values() if "python" in one), None)
    versions = known["versions"] if known else {}
    parts = [
        INTRODUCTION.format(
            **{name: record[name] for name in ("date", "machine", "texts", "queries")},
            python=known["python"] if known else "?",
            torch=versions.get("torch", "?"),
            transformers=versions.get("transformers", "?"),
        ),
        _table(variants),
        _aims(variants),
        _growth(record),
        _notes(variants),
    ]
    return "\n".join(part for part in parts if part)


def _table(variants: Records) -> str:
    lines = [
        "| | end to end, x floor | further, x floor | CPU | peak RSS MB | kept per text | agreement | busy |",
        "|---|---|---|---|---|---|---|---|",
    ]
    lines += [_row(one) for one in variants.values()]
    floors = [step["floor"]["wall"] for one in variants.values() for step in one.get("rounds", [])]
    if floors:
        lines.append(
            f"\nThe floor took {statistics.median(floors):.1f} s ({min(floors):.1f} to {max(floors):.1f} s over all "
            "repetitions of all peers); the floor alone peaks at "
            f"{_floor_rss(variants)} MB."
        )
    join = variants.get("proponent", {}).get("parts", {}).get("join", [])
    if join:
        lines.append(f"proponent's join alone (further, less the queries' gradients) took {_ms(join)} ms.")
    return "\n".join(lines) + "\n"


def _row(one: dict[str, Any]) -> str:
    agreement = one.get("agreement", {})
    exact = agreement.get("largest difference over the query's largest score")
    rank = agreement.get("Spearman, mean over the queries")
    same = f"same quantity, {exact:.1e}; " if exact is not None else ""
    told = f"{same}Spearman {rank:.3f}" if rank is not None else "–"
    kept = one.get("kept bytes per text", 0)
    busy = [step[name]["cpu"] / step[name]["wall"] for step in one.get("rounds", []) for name in step]
    cells = [
        one["label"] + (f" ({_version(one)})" if _version(one) else ""),
        _spread(one, "end to end") or _unfinished(one),
        _spread(one, "further") or "–",
        " / ".join(_clocked(one, step) for step in ("end to end", "further")),
        str(one["peak RSS MB"]) if _ratios(one, "end to end") else "–",
        f"{kept / 1e3:.1f} kB" if kept > 100 else "nothing" if _ratios(one, "end to end") else "–",
        told,
        f"{min(busy):.2f}" if busy else "–",
    ]
    return "| " + " | ".join(cells) + " |"


def _clocked(one: dict[str, Any], step: str) -> str:
    found = _ratios(one, step, "cpu")
    return f"{statistics.median(found):.3g}" if found else "–"


def _unfinished(one: dict[str, Any]) -> str:
    floors = [step["floor"]["cpu"] for step in one.get("rounds", []) if "floor" in step]
    if floors and one["outcome"].startswith("not finished"):
        spent = one["CPU seconds of the step that was stopped"]
        return f"{one['outcome']} (> {spent / floors[0]:.0f})"
    return "nothing to time" if one["outcome"] == "finished" else one["outcome"]


def _aims(variants: Records) -> str:
    lines = ["## Aims\n", "| aim | against | wall | CPU | |", "|---|---|---|---|---|"]
    for peer, aim in AIM_END_TO_END.items():
        for name in _rivals(variants, peer):
            lines.append(_aim(f"end to end >= {aim:g}x {peer}'s", variants, name, "end to end", aim))
    for peer in AIM_END_TO_END:
        for name in _rivals(variants, peer):
            lines.append(_aim(f"a further batch >= {AIM_FURTHER:g}x {peer}'s", variants, name, "further", AIM_FURTHER))
    lines.append(AIMS)
    return "\n".join(line for line in lines if line) + "\n"


def _rivals(variants: Records, peer: str) -> list[str]:
    """The peer's ways to the same quantity."""
    return [name for name, one in variants.items() if name.startswith(peer) and one.get("quantity") == "embedding"]


def _aim(aim: str, variants: Records, name: str, step: str, wanted: float) -> str:
    found: list[float] = []
    again = step == "further" and not _ratios(variants[name], step)  # nothing is kept: the first batch once more
    for clock in ("wall", "cpu"):
        theirs = _median(variants, name, "end to end" if again else step, clock)
        mine = _median(variants, "proponent", step, clock)
        if theirs is None or mine is None:
            return ""
        found.append(theirs / mine)
    verdict = "met" if min(found) >= wanted else "not met"
    told = f"**{verdict}**" if name in AIMED else f"{verdict} (not the aim's own)"
    label = variants[name]["label"] + (", its end to end once more" if again else "")
    return f"| {aim} | {label} | {found[0]:.1f}x | {found[1]:.1f}x | {told} |"


def _growth(record: dict[str, Any]) -> str:
    """A further batch over more texts: seconds, and how often proponent's."""
    columns: dict[int, Records] = {record["texts"]: record["variants"]}
    columns |= {int(texts): found for texts, found in record["growth"].items()}
    if len(columns) < 2:
        return ""
    sizes = sorted(columns)
    lines = ["## A further batch of queries over more texts\n"]
    lines += ["| | " + " | ".join(f"{size} texts" for size in sizes) + " |", "|---" * (len(sizes) + 1) + "|"]
    for name, one in columns[sizes[-1]].items():
        cells = [_grown(columns[size], name) for size in sizes]
        lines.append(f"| {one['label']} | " + " | ".join(cells) + " |")
    lines.append("\nx floor of that many texts; in brackets, how often proponent's.")
    return "\n".join(lines) + "\n"


def _grown(variants: Records, name: str) -> str:
    mine, theirs = _median(variants, "proponent", "further"), _median(variants, name, "further")
    if theirs is None:
        return variants.get(name, {}).get("outcome", "–")
    times = f" ({theirs / mine:.1f}x)" if mine and name != "proponent" else ""
    return f"{theirs:.3f}{times}"


def _notes(variants: Records) -> str:
    lines = ["## Notes\n"]
    for one in variants.values():
        notes = list(one.get("notes", []))
        if one["outcome"] != "finished":
            notes.append(one["outcome"])
        if notes:
            lines.append(f"- {one['label']}: {'; '.join(notes)}.")
    return "\n".join(lines) + "\n"


def _median(variants: Records, name: str, step: str, clock: str = "wall") -> float | None:
    found = _ratios(variants.get(name, {}), step, clock)
    return statistics.median(found) if found else None


def _ratios(one: dict[str, Any], step: str, clock: str = "wall") -> list[float]:
    return [found[step][clock] / found["floor"][clock] for found in one.get("rounds", []) if step in found]


def _spread(one: dict[str, Any], step: str) -> str:
    found = _ratios(one, step)
    if not found:
        return ""
    digits = 3 if max(found) < 0.2 else 2
    several = f" ({min(found):.{digits}f}–{max(found):.{digits}f})" if len(found) > 1 else ""
    return f"{statistics.median(found):.{digits}f}{several}"


def _floor_rss(variants: Records) -> int:
    return min(one.get("peak RSS MB of the floor alone", 10**9) for one in variants.values())


def _ms(values: list[float]) -> str:
    return f"{1e3 * statistics.median(values):.1f}"


def _version(one: dict[str, Any]) -> str:
    common = {"torch", "transformers", "numpy"}
    return next((found for name, found in one.get("versions", {}).items() if name not in common), "")
