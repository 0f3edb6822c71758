"""The newest records of the acceptance tests as a page: `python benchmarks/acceptance_page.py`."""

import json
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent

HEAD = """# Acceptance tests of TrackStar and FastIF

Written by `benchmarks/acceptance_page.py` from the newest records. Requirements and results are listed per
seed, met or not. A test without a section below has no record yet; three seeds are required.
"""

TRACKSTAR = """
## TrackStar: planted facts

`benchmarks/acceptance_trackstar.py` · {date} · [record](../benchmarks/results/{name})

120 entities x 4 relations x 25 values, 1 to 3 paraphrases of each fact, 300 other sentences, the question format
trained for half of the entities: {rows} training texts, {queries} queries (questions about the other half, the answer's
token as target). GPT-2 of width 64, 2 layers, {settings[epochs]} epochs of 64, Adam 2e-3, {settings[schedule]} rate,
dropout {settings[dropout]}. Layers of the blocks, 16 numbers a side, damping 1e-6 of the top eigenvalue; 95 % intervals
by bootstrap over the queries of a seed.
"""

FASTIF = """
## FastIF: solver, candidates, clock, mending

`benchmarks/acceptance_fastif.py` · {date} · [record](../benchmarks/results/{name})

AG News, {texts:,} training texts of at most {settings[length]} tokens, BERT of width 64, 2 layers, from
scratch; last block and head are scored ({coverage}). {settings[queries]} queries, {settings[anchors]} anchors
(misclassified test texts), candidates 5 %, damping {settings[damping]} of the automatic scale. The slow run: LiSSA of
{settings[slow_depth]} steps over {settings[slow_sample]} texts with the same ridge, and a scan of all texts. A mending
step is plain SGD of {settings[rate]} on ten texts.
"""


def newest(test: str) -> tuple[str, dict] | None:
    """Name and content of the newest record."""
    found = sorted((HERE / "results").glob(f"*-acceptance-{test}.json"))
    return (found[-1].name, json.loads(found[-1].read_text(encoding="utf-8"))) if found else None


def demands(record: dict) -> str:
    """What was demanded, a column for each seed."""
    seeds = record["seeds"]
    lines = ["| required | " + " | ".join(f"seed {one.get('seed', at)}" for at, one in enumerate(seeds)) + " |"]
    lines.append("|---" * (len(seeds) + 1) + "|")
    for name in seeds[0]["demands"]:
        lines.append(f"| {name} | " + " | ".join(_met(name, one["demands"][name]) for one in seeds) + " |")
    return "\n".join(lines) + "\n"


def _met(name: str, value: bool | float) -> str:
    if isinstance(value, bool):
        return "**met**" if value else "**not met**"
    least = float(name.split(">=")[1].split("x")[0])
    return f"{value:.3g}, **{'met' if value >= least else 'not met'}**"


def trackstar(name: str, record: dict) -> str:
    """Demands and the ladder."""
    first, seeds = record["seeds"][0], record["seeds"]
    parts = [TRACKSTAR.format(name=name, **record, rows=first["rows"], queries=first["queries"]), "\n", demands(record)]
    parts.append("\n| | MRR | Recall@10 | tail-patch of the top 5, points |\n|---|---|---|---|\n")
    for method in first["methods"]:
        cells = [
            "; ".join(_interval(one["methods"][method].get(key)) for one in seeds)
            for key in ("mrr", "recall@10", "tail_patch_points")
        ]
        parts.append(f"| {method} | {' | '.join(cells)} |\n")
    return "".join(parts)


def fastif(name: str, record: dict) -> str:
    """Demands, recall by share of candidates, clock and mending."""
    seeds = record["seeds"]
    head = FASTIF.format(name=name, **record, coverage=seeds[0]["coverage"], texts=seeds[0]["texts"])
    parts = [head, "\n", demands(record)]
    parts.append(
        "\nShare of the slow run's top 100 that is among the nearest:\n\n"
        "| candidates by | share | any sign | helped | hurt |\n"
    )
    parts.append("|---|---|---|---|---|\n")
    for rule, shares in seeds[0]["candidates"]["recall"].items():
        for share in shares:
            cells = [
                "; ".join(f"{one['candidates']['recall'][rule][share][sign]['value']:.2f}" for one in seeds)
                for sign in ("any", "helped", "hurt")
            ]
            parts.append(f"| {rule} | {float(share):.0%} | {' | '.join(cells)} |\n")
    parts.append(_head("seconds of one query (wall; CPU)", seeds))
    for step in seeds[0]["clock"]["seconds"]:
        times = [one["clock"]["seconds"][step] for one in seeds]
        parts.append(f"| {step} | " + " | ".join(f"{one['wall']:.1f}; {one['cpu']:.1f}" for one in times) + " |\n")
    parts.append("\n| one step on | fall of the anchor's loss |\n|---|---|\n")
    for group in seeds[0]["mending"]["fall_of_loss"]:
        values = "; ".join(_interval(one["mending"]["fall_of_loss"][group]) for one in seeds)
        parts.append(f"| {group} | {values} |\n")
    others = [
        ("cosine of the plain gradient with the exact s of the head", lambda one: one["head"]["gradient_cosine"]),
        ("correlation of the plain gradient with the slow s", _of("correlation_of_gradient_with_slow_s")),
        ("correlation of FastIF's s with the slow s", _of("correlation_with_slow_s")),
        ("correlation of five steps of conjugate gradient with the slow s", _of("correlation_of_cg_with_slow_s")),
        ("accuracy on 1,000 test texts", lambda one: [one["accuracy"]]),
        (
            "better than random rows of the anchor's label",
            lambda one: [one["mending"]["better_than_random_same_label"]],
        ),
    ]
    parts.append(_head("beside", seeds))
    parts += [f"| {said} | " + " | ".join(map(_mean, map(get, seeds))) + " |\n" for said, get in others]
    parts.append(f'\nA scale of .001: "{seeds[0]["divergence"]}"\n')
    return "".join(parts)


def _head(first: str, seeds: list) -> str:
    names = " | ".join(f"seed {one.get('seed', at)}" for at, one in enumerate(seeds))
    return f"\n| {first} | {names} |\n{'|---' * (len(seeds) + 1)}|\n"


def _mean(values: list | str) -> str:
    return values if isinstance(values, str) else f"{np.mean(values):.3f}"


def _of(key: str):
    return lambda one: one["solver"][key]


def _interval(one: dict | None) -> str:
    return "-" if one is None else f"{one['value']:.3f} ({one['low']:.3f} to {one['high']:.3f})"


def main() -> None:
    """Write the page."""
    parts = [HEAD]
    for test, write in (("trackstar", trackstar), ("fastif", fastif)):
        found = newest(test)
        if found is not None:
            parts.append(write(*found))
    (HERE.parent / "docs" / "acceptance.md").write_text("".join(parts), encoding="utf-8")


if __name__ == "__main__":
    main()
