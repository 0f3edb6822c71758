"""Write docs/benchmarks.md from the newest record of each benchmark, so that the page shows measured figures.

python benchmarks/tables.py [--out benchmarks/results] [--page docs/benchmarks.md]
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import harness
from harness import table

Record = dict[str, Any]
Aim = tuple[str, str, bool]
"""What is aimed at, what was measured, and whether that reaches it."""

NEAR = (0.7, 1.3)
"""Real figures over their forecast: within 30 %."""


WALL = ("ratio to the plain pass (median over repeats)", "smallest and largest ratio")
CPU = ("ratio in CPU seconds (median over repeats)", "smallest and largest ratio in CPU seconds")


def cost(record: Record) -> str:
    """What an index costs."""
    measures = ["capture", "build", "with baselines", "index command"]
    rows: list[list[object]] = []
    for name, model in record["models"].items():
        for clock, (middle, ends) in {"CPU": CPU, "wall": WALL}.items():
            plain = model[f"{'CPU seconds' if clock == 'CPU' else 'seconds'} (median)"]["plain pass"]
            cells = [f"{model[middle][one]} ({model[ends][one][0]} to {model[ends][one][1]})" for one in measures]
            rows.append([name, model["texts"], clock, f"{plain} s", *cells])
    stages: list[list[object]] = []
    for name, model in record["models"].items():
        shares = model["share of the time of build by stage"]
        stages.append([name, ", ".join(f"{stage} {share:.1%}" for stage, share in shares.items())])
    told = (
        f"{record['texts']}; one checkpoint; interleaved, median of {record['repeats']} ratios to one plain "
        "forward+backward over the same length-sorted batches (smallest and largest in brackets). The plain pass "
        "starts from tokenized batches in memory; `proponent.build` starts from a file of raw texts and ends with a "
        "sealed index; `with baselines` adds a first explanation with every baseline; `proponent index` is a whole "
        "process, including some seconds of imports.\n\n"
    )
    heads = ["model", "texts", "clock", "plain pass", "capture"]
    heads += ["`proponent.build`", "with baselines", "`proponent index`"]
    return told + table(heads, rows) + "\n" + table(["model", "time of build by stage"], stages)


def aims_of_cost(record: Record) -> Iterator[Aim]:
    """At most .75 for the index, 1.0 with all baselines."""
    for name, model in record["models"].items():
        for what, most in (("build", 0.75), ("with baselines", 1.0)):
            found, wall = model[CPU[0]][what], model[WALL[0]][what]
            yield f"{what} at most {most} plain passes: {name}", f"{found} in CPU ({wall} in wall)", found <= most


def search(record: Record) -> str:
    """Search against n."""
    rows: list[list[object]] = []
    speed: list[list[object]] = []
    for one in record["sizes"]:
        single, batch = one["one query, ms (median)"], one["16 queries together, ms (median)"]
        read, skipped = one["one query, rows read"], one["one query, rows skipped"]
        rows.append(
            [
                f"{one['n']:,}",
                f"{one['gradient rows']:,}",
                *(single[name] for name in ("numpy, pruned", "numpy, streamed", "numba, pruned", "numba, streamed")),
                *(batch[name] for name in ("numpy, pruned", "numpy, streamed", "numba, streamed")),
                f"{read:,}",
                f"{skipped:,}",
                one["one query, MB of rows read"],
                one["peak memory, MB"],
            ]
        )
        speed.append(
            [
                f"{one['n']:,}",
                one["inner product, rows mapped already, GB/s (median)"],
                one["inner product, pages mapped on the way, GB/s (median)"],
                one["memory bandwidth of one core, GB/s (median)"],
                f"{one['inner product (mapped already) over bandwidth (median)']:.0%}",
            ]
        )
    heads = ["n", "rows", "one query, ms: pruned", "streamed", "numba, pruned", "numba, streamed"]
    heads += ["16 queries, ms: default", "streamed", "numba, streamed", "rows read for one query", "rows skipped"]
    heads += ["MB read", "peak MB"]
    same = all(one["all rankings equal"] for one in record["sizes"])
    told = f"{record['index']}. {record['machine']}. Both ends of the ranking, ten hits each, wall milliseconds. "
    told += "All kernels, pruned or not, gave equal rankings.\n\n" if same else "**Rankings differed.**\n\n"
    heads_of_speed = ["n", "inner product, GB/s", "the same, pages not mapped yet", "bandwidth of one core", "share"]
    return told + table(heads, rows) + "\n" + table(heads_of_speed, speed)


def aims_of_search(record: Record) -> Iterator[Aim]:
    """Most of the bandwidth in the inner product, at every size that is more than the caches hold."""
    shares = {one["n"]: one["inner product (mapped already) over bandwidth (median)"] for one in record["sizes"]}
    told = ", ".join(f"{share:.0%} at {n:,}" for n, share in shares.items())
    least = min(share for n, share in shares.items() if n >= 10_000)
    yield "inner product at 60 % of the memory bandwidth, from n = 10,000", told, least >= 0.6


def kinds(record: Record) -> str:
    """Shorter rows."""
    names = list(next(iter(record["kinds"].values())))
    rows: list[list[object]] = [[kind, *(found[name] for name in names)] for kind, found in record["kinds"].items()]
    return f"{record['index']}. {record['machine']}.\n\n" + table(["rows", *names], rows)


def memory(record: Record) -> str:
    """Memory against n."""
    names = list(record["sizes"][0])
    rows: list[list[object]] = [[one[name] for name in names] for one in record["sizes"]]
    return f"{record['machine']}. Peak of a separate process each.\n\n" + table(names, rows)


def aims_of_memory(record: Record) -> Iterator[Aim]:
    """Flat within 10 %."""
    first, last = record["sizes"][0]["n"], record["sizes"][-1]["n"]
    for name, ratio in record["peak memory, largest over smallest"].items():
        yield f"peak memory of `{name}` flat within 10 %, n = {first:,} to {last:,}", f"x {ratio}", ratio <= 1.1


def notebook(record: Record) -> str:
    """The job of the authors' notebook."""
    rows: list[list[object]] = []
    for name, value in record.items():
        if name not in {"date", "machine", "environment"}:
            told = ", ".join(f"{key} {part}" for key, part in value.items()) if isinstance(value, dict) else value
            rows.append([name, told])
    return f"{record['machine']}.\n\n" + table(["what", "value"], rows)


def aims_of_notebook(record: Record) -> Iterator[Aim]:
    """Scoring a thousand times as fast as published."""
    found = record["scoring: all scores, s"]
    told = f"{1e3 * found['CPU']:.0f} ms of CPU, smallest {1e3 * found['CPU, smallest']:.0f} ms"
    yield f"scoring {record['job']}: 60 ms (published: 60 s)", told, found["CPU"] <= 0.06


def forecast(record: Record) -> str:
    """Forecast and real figures."""
    rows: list[list[object]] = []
    for case in record["cases"]:
        rows += [[case["case"], name, *figures] for name, figures in case["forecast, real, ratio"].items()]
    told = f"{record['machine']}. `proponent plan` and `proponent index` in turn, medians of {record['repeats']} turns."
    return told + "\n\n" + table(["case", "what", "forecast", "real", "real over forecast"], rows)


def aims_of_forecast(record: Record) -> Iterator[Aim]:
    """Totals within 30 %."""
    for case in record["cases"]:
        for what in ("seconds", "peak memory, MB", "disk, MB"):
            ratio = case["forecast, real, ratio"][what][2]
            yield f"forecast within 30 %: {what}, {case['case']}", f"x {ratio}", NEAR[0] <= ratio <= NEAR[1]


def orders(record: Record) -> str:
    """Rankings under a random projection."""
    rows = [
        [model, method, *(f"{one['mean']:.3f} ({one['lowest']:.3f})" for one in widths.values())]
        for model, methods in record["models"].items()
        for method, widths in methods.items()
    ]
    first = next(iter(next(iter(record["models"].values())).values()))
    told = (
        f"Rank correlation with the scores of gradients that are kept in full, mean over {record['queries']} queries "
        f"(lowest), {record['rows']} AG News rows, two layers of width {record['width']}. The vocabulary's tables are "
        f"exact in both, or left out of both (`ekfac`). {record['machine']}.\n\n"
    )
    return told + table(["model", "method", *(f"p = {p}" for p in first)], rows)


PAGES: dict[str, tuple[str, Callable[[Record], str], Callable[[Record], Iterator[Aim]] | None]] = {
    "index-cost": ("What an index costs", cost, aims_of_cost),
    "search-scale-fp32": ("Search against the number of examples", search, aims_of_search),
    "search-scale-int8": ("The same with int8 rows", search, None),
    "row-kinds": ("What shorter rows cost", kinds, None),
    "memory": ("Peak memory against the number of examples", memory, aims_of_memory),
    "notebook-job": ("The job of the authors' notebook", notebook, aims_of_notebook),
    "projection-orders": ("What a random projection does to rankings", orders, None),
    "forecast": ("Forecast by `proponent plan` and actual figures", forecast, aims_of_forecast),
}

INTRODUCTION = """# Benchmarks

Written by `benchmarks/tables.py` from the newest record of each benchmark in
`benchmarks/results`; `make bench` runs them, `make smoke-benchmarks` runs every script at small
size. Two cores, one thread, on a dedicated core:
compare ratios within a run, not seconds between runs; CPU seconds exclude other work of the machine, but not its
effect on caches and memory. Other libraries are on [a separate page](peers.md), faults in
[torture.md](torture.md).
"""


def main() -> None:
    """Write the page."""
    parser = harness.arguments(__doc__)
    parser.add_argument("--page", type=Path, default=harness.ROOT / "docs" / "benchmarks.md")
    options = parser.parse_args()
    parts: list[str] = []
    aims: list[list[object]] = []
    for name, (title, page, aimed) in PAGES.items():
        found = harness.newest(options.out, name)
        if found is not None:
            record = json.loads(found.read_text(encoding="utf-8"))
            parts.append(f"\n## {title}\n\n{record['date']} · [record](../benchmarks/results/{found.name})\n\n")
            parts.append(page(record))
            reached = [] if aimed is None else list(aimed(record))
            aims += [[aim, told, "**met**" if met else "**not met**"] for aim, told, met in reached]
    whole = [INTRODUCTION, "\n## Aims\n\n", table(["aim", "measured", ""], aims), *parts]
    options.page.write_text("".join(whole), encoding="utf-8")


if __name__ == "__main__":
    main()
