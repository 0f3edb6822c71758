"""The newest records of the acceptance tests as a page: `python benchmarks/acceptance_page.py`."""

import json
from pathlib import Path

import harness
import numpy as np
from harness import table

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


def demands(record: dict) -> str:
    """What was demanded, a column for each seed."""
    seeds = record["seeds"]
    rows = [[name, *(_met(name, one["demands"][name]) for one in seeds)] for name in seeds[0]["demands"]]
    return table(["required", *_columns(seeds)], rows)


def _met(name: str, value: bool | float) -> str:
    if isinstance(value, bool):
        return "**met**" if value else "**not met**"
    least = float(name.split(">=")[1].split("x")[0])
    return f"{value:.3g}, **{'met' if value >= least else 'not met'}**"


def trackstar(name: str, record: dict) -> str:
    """Demands and the ladder."""
    first, seeds = record["seeds"][0], record["seeds"]
    parts = [TRACKSTAR.format(name=name, **record, rows=first["rows"], queries=first["queries"]), "\n", demands(record)]
    keys = ("mrr", "recall@10", "tail_patch_points")
    rows = [
        [method, *("; ".join(_interval(one["methods"][method].get(key)) for one in seeds) for key in keys)]
        for method in first["methods"]
    ]
    return "".join([*parts, "\n", table(["", "MRR", "Recall@10", "tail-patch of the top 5, points"], rows)])


def fastif(name: str, record: dict) -> str:
    """Demands, recall by share of candidates, clock and mending."""
    seeds = record["seeds"]
    head = FASTIF.format(name=name, **record, coverage=seeds[0]["coverage"], texts=seeds[0]["texts"])
    parts = [head, "\n", demands(record)]
    parts.append("\nShare of the slow run's top 100 that is among the nearest:\n\n")
    recall = [one["candidates"]["recall"] for one in seeds]
    signs = ("any", "helped", "hurt")
    rows = [
        [rule, f"{float(share):.0%}"]
        + ["; ".join(f"{one[rule][share][sign]['value']:.2f}" for one in recall) for sign in signs]
        for rule, shares in recall[0].items()
        for share in shares
    ]
    parts.append(table(["candidates by", "share", "any sign", "helped", "hurt"], rows))
    clock = [one["clock"]["seconds"] for one in seeds]
    rows = [[step, *(f"{one[step]['wall']:.1f}; {one[step]['cpu']:.1f}" for one in clock)] for step in clock[0]]
    parts += ["\n", table(["seconds of one query (wall; CPU)", *_columns(seeds)], rows)]
    falls = [one["mending"]["fall_of_loss"] for one in seeds]
    rows = [[group, "; ".join(_interval(one[group]) for one in falls)] for group in falls[0]]
    parts += ["\n", table(["one step on", "fall of the anchor's loss"], rows)]
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
    parts += ["\n", table(["beside", *_columns(seeds)], [[said, *map(_mean, map(get, seeds))] for said, get in others])]
    parts.append(f'\nA scale of .001: "{seeds[0]["divergence"]}"\n')
    return "".join(parts)


def _columns(seeds: list) -> list[str]:
    return [f"seed {one.get('seed', at)}" for at, one in enumerate(seeds)]


def _mean(values: list | str) -> str:
    return values if isinstance(values, str) else f"{np.mean(values):.3f}"


def _of(key: str):
    return lambda one: one["solver"][key]


def _interval(one: dict | None) -> str:
    return "-" if one is None else f"{one['value']:.3f} ({one['low']:.3f} to {one['high']:.3f})"


def main() -> None:
    """Write the page."""
    parser = harness.arguments(__doc__)
    parser.add_argument("--page", type=Path, default=harness.ROOT / "docs" / "acceptance.md")
    options = parser.parse_args()
    parts = [HEAD]
    for test, write in (("trackstar", trackstar), ("fastif", fastif)):
        found = harness.newest(options.out, f"acceptance-{test}")
        if found is not None:
            parts.append(write(found.name, json.loads(found.read_text(encoding="utf-8"))))
    options.page.write_text("".join(parts), encoding="utf-8")


if __name__ == "__main__":
    main()
