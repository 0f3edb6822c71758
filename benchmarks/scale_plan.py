"""What an index costs at any number of examples, on paper, from measured seconds and bytes: docs/scale.md.

    python benchmarks/scale_plan.py [--results benchmarks/results] [--page docs/scale.md]

Reads the newest records of index_cost.py, language_model_cost.py and ten_million.py, and measures nothing itself.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import harness

SIZES = (10**5, 10**6, 10**7, 10**8, 10**9)
LENGTH = 64
"""Tokens of an example on paper."""

HEAD = """# Cost and scale

Written by `benchmarks/scale_plan.py` from the records named below; CPU only, one thread, no figure of a GPU.

## Seconds and bytes per million tokens

For each checkpoint. The plain pass is forward and backward over the same batches, without an index. Above 1 in the
third column the whole build costs less than such a pass, because it goes back no further than the method needs.

"""

TEN = """
## Ten million examples on one machine

[record](../benchmarks/results/{record}), generated gradients: {index}. Search on one thread, top 10 of both
ends, files in the page cache. Peaks are of whole processes and include mapped pages.

"""

PLAN = """
## On paper, to 1e9 examples

Examples of {length} tokens, one checkpoint, extrapolated per token and per example from the tables above. Nothing above
1e7 examples was run. The last two columns are for the small rows of the table before, in proportion to 1e7: below it
that table has what was measured. SmolLM2's plain pass is that to its adapter, its build the whole command. Hours of a
core divide by the number of cores: shards are independent ([devices](devices.md)).

"""

AFTER = """
What bounds each size:

- **to 1e7**: one machine, where one index holds them (next point); `merge` needs the same space again; a question takes
  {question} s with 8 small rows per example.
- **Two terabytes** bound one index: a reader loads a manifest of at most 128 MiB, which has 16 characters for each
  block of 256 KiB. That is {most:,.0f} million examples of {length} tokens with the smallest model in 32 bits.
- **1e8 and more**: the build wants tens to hundreds of processes (`--slurm`, `--engine ray`, `--shard`) and a shared
  disk or a bucket; 1e9 examples take about {hours:,.0f} core hours with the smallest model. They are several indexes,
  each asked alone; a command that merges their answers by score is not built. A question reads the norms of all
  gradients (4 bytes for each example and checkpoint) and the owners of its tokens' rows, so its time grows with n.
"""


def newest(folder: Path, name: str) -> tuple[str, dict[str, Any]]:
    """The newest record of a name, and its file's name."""
    path = harness.newest(folder, name)
    if path is None:
        raise SystemExit(f"no record {name} in {folder}: run its script first")
    return path.name, json.loads(path.read_text(encoding="utf-8"))


def costs(folder: Path) -> dict[str, dict[str, float]]:
    """CPU seconds and bytes per million tokens of each model."""
    found: dict[str, dict[str, float]] = {}
    _, record = newest(folder, "index-cost")
    for model, one in record["models"].items():
        seconds, held = one["CPU seconds per million tokens (median)"], one["bytes per token and checkpoint"]
        found[model] = {
            "plain": seconds["plain pass"],
            "build": seconds["build"],
            "forms": held["forms"],
            "postings": held["postings"],
        }
    _, record = newest(folder, "language-model-cost")
    seconds, passes = record["CPU seconds per million tokens and checkpoint"], record["checkpoints"]
    found[record["model"]] = {
        "plain": seconds["plain pass to the adapter"],
        "build": seconds["index command"],
        **{kind: record["bytes"].get(kind, 0) / record["tokens"] / passes for kind in ("forms", "postings")},
    }
    return found


def cost_table(found: dict[str, dict[str, float]]) -> str:
    """The first table."""
    rows = [
        [
            model,
            f"{one['plain']:,.0f}",
            f"{one['build']:,.0f}",
            f"{one['plain'] / one['build']:.2f}",
            f"{one['forms']:,.0f} + {one['postings']:,.0f}",
        ]
        for model, one in found.items()
    ]
    heads = ["model", "plain pass, CPU s", "build, CPU s", "plain / build", "MB of gradients + postings (fp32)"]
    return harness.table(heads, rows)


def ten_table(record: dict[str, Any]) -> str:
    """Figures by size."""
    rows: list[list[object]] = []
    sizes = record["sizes"]
    figures = {
        "GB on disk": lambda one: one["GB"],
        "query, pruned, ms": lambda one: one["pruned"]["query, ms (median)"],
        "query, every posting, ms": lambda one: one["streamed"]["query, ms (median)"],
        "gradient rows read by a query": lambda one: f"{one['pruned']['rows read by a query (mean)']:,}",
        "the same, every posting": lambda one: f"{one['streamed']['rows read by a query (mean)']:,}",
        "equal rankings": lambda one: one["rankings, pruned = streamed"],
        "search, peak MB": lambda one: one["pruned"]["peak, MB"],
        "`serve` to its first page, s": lambda one: one["served"]["first page, s"],
        "`delete` of 1,000, s / peak MB": lambda one: f"{one['delete']['s']} / {one['delete']['peak, MB']}",
        "`merge`, s / peak MB": lambda one: f"{one['merge']['s']} / {one['merge']['peak, MB']}",
        "`verify`, s / peak MB": lambda one: f"{one['verify']['s']} / {one['verify']['peak, MB']}",
    }
    for name, figure in figures.items():
        rows.append([name, *(figure(one) for one in sizes)])
    return harness.table(["examples", *(f"{one['n']:,}" for one in sizes)], rows)


def plan_table(found: dict[str, dict[str, float]], ten: dict[str, Any]) -> str:
    """Hours and terabytes by size."""
    last = ten["sizes"][-1]
    merge, search = last["merge"]["s"] / last["n"], last["pruned"]["query, ms (median)"] / last["n"]
    heads = ["examples", *(f"build, core hours: {model}" for model in found)]
    heads += ["TB (fp32)", "`merge`, h (8 rows of width 32, fp16)", "a question, s (the same)"]
    widest = {model: (one["forms"] + one["postings"]) * LENGTH for model, one in found.items()}
    rows: list[list[object]] = []
    for n in SIZES:
        hours = [one["build"] * n * LENGTH / 1e6 / 3600 for one in found.values()]
        sizes = ", ".join(f"{each * n / 1e12:.2g}" for each in widest.values())
        rows.append(
            [f"{n:,}", *(f"{one:,.1f}" for one in hours), sizes, f"{merge * n / 3600:.2g}", f"{search * n / 1e3:.2g}"]
        )
    return harness.table(heads, rows)


def page_of(folder: Path) -> str:
    """The whole page."""
    name, ten = newest(folder, "ten-million")
    found, last = costs(folder), ten["sizes"][-1]
    sources = [newest(folder, one)[0] for one in ("index-cost", "language-model-cost")]
    links = ", ".join(f"[{one}](../benchmarks/results/{one})" for one in sources)
    first = next(iter(found.values()))
    each = LENGTH * (first["forms"] + first["postings"])
    after = AFTER.format(
        question=f"{last['pruned']['query, ms (median)'] / 1e3:.1f}",
        most=2**27 / 16 * 2**18 / each / 1e6,
        length=LENGTH,
        hours=first["build"] * 1e9 * LENGTH / 1e6 / 3600,
    )
    text = HEAD + cost_table(found) + f"\nRecords: {links}.\n"
    text += TEN.format(record=name, index=ten["index"]) + ten_table(ten)
    return text + PLAN.format(length=LENGTH) + plan_table(found, ten) + after


def main() -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=harness.RESULTS)
    parser.add_argument("--page", type=Path, default=harness.ROOT / "docs" / "scale.md")
    options = parser.parse_args()
    options.page.write_text(page_of(options.results), encoding="utf-8")


if __name__ == "__main__":
    main()
