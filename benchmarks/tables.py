"""Write docs/benchmarks.md from the newest record of each benchmark, so that the page says what was measured.

python benchmarks/tables.py [--results benchmarks/results] [--out docs/benchmarks.md]
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

Record = dict[str, Any]


def table(heads: list[str], rows: list[list[object]]) -> str:
    """A Markdown table."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines) + "\n"


def cost(record: Record) -> str:
    """What an index costs."""
    measures = ["capture", "build", "index command"]
    rows: list[list[object]] = []
    for name, model in record["models"].items():
        ratio, spread = model["ratio to the plain pass (median over repeats)"], model["smallest and largest ratio"]
        cells = [f"{ratio[one]} ({spread[one][0]} to {spread[one][1]})" for one in measures]
        rows.append([name, model["texts"], f"{model['seconds (median)']['plain pass']} s", *cells])
    stages: list[list[object]] = []
    for name, model in record["models"].items():
        shares = model["share of the time of build by stage"]
        stages.append([name, ", ".join(f"{stage} {share:.0%}" for stage, share in shares.items())])
    told = (
        f"{record['texts']}; one checkpoint; interleaved, median of {record['repeats']} ratios to one plain "
        "forward+backward over the same length-sorted batches. Aim: build at most .75, the command at most 1.0.\n\n"
    )
    heads = ["model", "texts", "plain pass", "capture", "`whence.build`", "`whence index`, whole process"]
    return told + table(heads, rows) + "\n" + table(["model", "time of build by stage"], stages)


def search(record: Record) -> str:
    """Search against n."""
    rows: list[list[object]] = []
    for one in record["sizes"]:
        single, batch = one["one query, ms (median)"], one["16 queries together, ms (median)"]
        rows.append(
            [
                f"{one['n']:,}",
                f"{one['gradient rows']:,}",
                single["numpy, pruned"],
                single["numpy, streamed"],
                single["numba, streamed"],
                batch["numpy, pruned"],
                batch["numpy, streamed"],
                batch["numba, streamed"],
                f"{one['one query, rows read']:,} of {one['one query, rows read'] + one['one query, rows skipped']:,}",
                one["one query, MB of rows read"],
                one["inner product, rows mapped already, GB/s (median)"],
                one["inner product, pages mapped on the way, GB/s (median)"],
                one["memory bandwidth of one core, GB/s (median)"],
                one["peak memory, MB"],
            ]
        )
    heads = ["n", "rows", "one query, pruned, ms", "streamed", "streamed, numba", "16 queries, default, ms", "streamed"]
    heads += [
        "streamed, numba",
        "rows read for one query",
        "MB",
        "inner product GB/s",
        "the same, pages not mapped yet",
    ]
    heads += ["bandwidth GB/s", "peak MB"]
    same = all(one["all rankings equal"] for one in record["sizes"])
    told = f"{record['index']}. {record['machine']}. "
    told += "All kernels, pruned or not, gave equal rankings.\n\n" if same else "**Rankings differed.**\n\n"
    return told + table(heads, rows)


def kinds(record: Record) -> str:
    """Shorter rows."""
    names = list(next(iter(record["kinds"].values())))
    rows: list[list[object]] = [[kind, *(found[name] for name in names)] for kind, found in record["kinds"].items()]
    return f"{record['index']}. {record['machine']}.\n\n" + table(["rows", *names], rows)


def memory(record: Record) -> str:
    """Memory against n."""
    names = list(record["sizes"][0])
    rows: list[list[object]] = [[one[name] for name in names] for one in record["sizes"]]
    grown = ", ".join(f"{name} {ratio}" for name, ratio in record["peak memory, largest over smallest"].items())
    return f"{record['machine']}. Largest over smallest: {grown}.\n\n" + table(names, rows)


def notebook(record: Record) -> str:
    """The job of the authors' notebook."""
    rows: list[list[object]] = [[name, value] for name, value in record.items() if name not in {"date", "machine"}]
    return f"{record['machine']}.\n\n" + table(["what", "value"], rows)


def forecast(record: Record) -> str:
    """Forecast and real figures."""
    rows: list[list[object]] = []
    for case in record["cases"]:
        rows += [[case["case"], name, *figures] for name, figures in case["forecast, real, ratio"].items()]
    return f"{record['machine']}.\n\n" + table(["case", "what", "forecast", "real", "real over forecast"], rows)


PAGES: dict[str, tuple[str, Callable[[Record], str]]] = {
    "index-cost": ("What an index costs", cost),
    "search-scale-fp32": ("Search against the number of examples", search),
    "search-scale-int8": ("The same with int8 rows", search),
    "row-kinds": ("What shorter rows cost", kinds),
    "memory": ("Peak memory against the number of examples", memory),
    "notebook-job": ("The job of the authors' notebook", notebook),
    "forecast": ("Forecast by `whence plan` beside real figures", forecast),
}


def main() -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--out", type=Path, default=Path("docs/benchmarks.md"))
    options = parser.parse_args()
    parts = [
        "# Benchmarks\n\nWritten by `benchmarks/tables.py` from the newest record of each benchmark in "
        "[benchmarks/results](../benchmarks/results/). Two shared cores, one thread: compare ratios within a run, not "
        "seconds between runs. Peers stand on [a page of their own](peers.md), faults in "
        "[torture.md](torture.md).\n"
    ]
    for name, (title, page) in PAGES.items():
        found = sorted(options.results.glob(f"*-{name}.json"))
        if found:
            record = json.loads(found[-1].read_text(encoding="utf-8"))
            parts.append(f"\n## {title}\n\n{record['date']} · [record](../benchmarks/results/{found[-1].name})\n\n")
            parts.append(page(record))
    options.out.write_text("".join(parts), encoding="utf-8")


if __name__ == "__main__":
    main()
