"""Gradient Rollback, checked by deletion and retraining, on planted facts, on shared knowledge bases and on ratings.

    python benchmarks/rollback.py planted nations --data ../shared/data --cache FOLDER

planted: 40 entities in 5 clusters, 6 relations that link clusters, 503 training facts. nations, umls, fb15k237:
facts of `kb_*`. ratings: planted groups of users and items; how often the named ratings are of the query's own groups.
Everything is `proponent train`, `explain` and `rollback`; retrained models are kept in --cache.
"""

import argparse
import contextlib
import gzip
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from harness import arguments, command, write_record

FACTS = (
    "--header",
    "head,relation,tail",
    "--text-column",
    "head",
    "--pair-column",
    "relation",
    "--label-column",
    "tail",
)
RATINGS = ("--header", "user,item,stars", "--text-column", "user", "--pair-column", "item", "--label-column", "stars")
NATIONS = {"epochs": 10, "learning-rate": 3e-3, "schedule": "exponential", "negatives": 13, "factors": 10}
SETTINGS: dict[str, dict[str, Any]] = {
    "planted": NATIONS | {"learning-rate": 0.01},
    "planted-dense": NATIONS | {"learning-rate": 0.01, "optimizer": "adamw"},
    "nations": NATIONS,
    "umls": NATIONS,
    "fb15k237": {"epochs": 1, "learning-rate": 1e-3, "negatives": 500, "factors": 100},
    "ratings": {"epochs": 20, "learning-rate": 0.01, "factors": 8},
}
"""Epochs, widths, negatives and the rate of Nations are the authors' (project page); optimizer and other rates ours."""
ENTITIES, CLUSTERS, RELATIONS, FOUND = 40, 5, 6, 523
USERS, ITEMS, GROUPS, KNOWN = 60, 40, 4, 0.4


def planted(home: Path, held: int) -> tuple[Path, Path]:
    """Facts whose relations link a cluster to another, and some that are held out."""
    generator, size = np.random.default_rng(0), ENTITIES // CLUSTERS
    targets, rows = generator.integers(CLUSTERS, size=(RELATIONS, CLUSTERS)), dict[tuple[str, ...], None]()
    while len(rows) < FOUND:
        relation, head = int(generator.integers(RELATIONS)), int(generator.integers(ENTITIES))
        tail = int(targets[relation, head // size]) * size + int(generator.integers(size))
        rows[f"e{head}", f"r{relation}", f"e{tail}"] = None
    made = list(rows)
    return tsv(home / "train.tsv", made[: FOUND - held]), tsv(home / "test.tsv", made[FOUND - held :])


def rated(home: Path, held: int) -> tuple[Path, Path]:
    """Ratings of 5 within a group and 1 outside, with noise, of some pairs of users and items."""
    generator = np.random.default_rng(0)
    pairs = [(user, item) for user in range(USERS) for item in range(ITEMS) if generator.random() < KNOWN]
    order = [pairs[at] for at in generator.permutation(len(pairs))]
    rows = [
        (f"u{user}", f"i{item}", f"{(5 if user % GROUPS == item % GROUPS else 1) + generator.normal(scale=0.5):.2f}")
        for user, item in order
    ]
    asked = [one for one in rows if int(one[0][1:]) % GROUPS == int(one[1][1:]) % GROUPS][:held]
    return tsv(home / "train.tsv", [one for one in rows if one not in asked]), tsv(home / "test.tsv", asked)


def shared(data: Path, name: str, home: Path) -> tuple[Path, Path]:
    """The files of a knowledge base: training and test facts."""
    paths: list[Path] = []
    for part in ("train", "test"):
        found = next((data / f"kb_{name}").glob(f"{part}.tsv*"))
        packed = found.read_bytes()
        text = (gzip.decompress(packed) if found.suffix == ".gz" else packed).decode()
        paths.append(tsv(home / f"{part}.tsv", [tuple(line.split("\t")) for line in text.splitlines()]))
    return paths[0], paths[1]


def tsv(path: Path, rows: list[tuple[str, ...]]) -> Path:
    """Write rows without a header."""
    path.write_text("".join("\t".join(one) + "\n" for one in rows), encoding="utf-8")
    return path


def trained(args: argparse.Namespace, name: str, columns: tuple[str, ...]) -> tuple[Path, Path, Path]:
    """Files and run of a task."""
    home = args.cache / name
    home.mkdir(parents=True, exist_ok=True)
    if name.startswith("planted"):
        train, test = planted(home, args.points)
    else:
        train, test = rated(home, args.points) if name == "ratings" else shared(args.data, name, home)
    if not (home / "run").is_dir():
        kind = "product" if name == "ratings" else args.model
        options = [word for key, value in SETTINGS[name].items() for word in (f"--{key}", value)]
        command("train", train, "--out", home / "run", "--model", kind, *options, *columns, "--quiet")
    return home / "run", train, test


def checked(args: argparse.Namespace, name: str) -> dict[str, Any]:
    """Delete what is named, and random neighbours, and train again."""
    run, train, test = trained(args, name, FACTS)
    out = args.cache / name / "check.json"
    command(
        "rollback", run, train, "--queries", test, "--points", args.points, "-k", args.counts, "--cache",
        args.cache / name / "cache", "--workers", args.workers, "--out", out, *FACTS, "--quiet",
    )  # fmt: skip
    return json.loads(out.read_text())


def grouped(args: argparse.Namespace) -> dict[str, Any]:
    """Share of the ten most helpful ratings that are of the query's own groups, beside all neighbours."""
    run, train, test = trained(args, "ratings", RATINGS)
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        command(
            "explain", run, "--queries", test, "--method", "rollback", "--data", train, "--json", "-k", 10, *RATINGS,
            "--quiet",
        )  # fmt: skip
    ours: list[float] = []
    chance: list[float] = []
    rows = [line.split("\t") for line in train.read_text().splitlines()]
    for line in said.getvalue().splitlines():
        answer = json.loads(line)
        user, item = (answer["query"][key] for key in ("text", "text_pair"))
        group = int(user[1:]) % GROUPS
        named = [(one["text"], one["text_pair"]) for one in answer["proponents"]]
        near = [(one[0], one[1]) for one in rows if one[0] == user or one[1] == item]
        for found, each in ((ours, named), (chance, near)) if named else ():
            found.append(float(np.mean([int(a[1:]) % GROUPS == group == int(b[1:]) % GROUPS for a, b in each])))
    return {"of_own_groups": float(np.mean(ours)), "among_neighbours": float(np.mean(chance)), "queries": len(ours)}


def main() -> None:
    """Run the tasks."""
    parser = arguments(__doc__, points=20, counts="1,10", model="distmult", workers=1)
    parser.add_argument("tasks", nargs="+", choices=SETTINGS)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--cache", type=Path, default=Path("rollback-cache"))
    args = parser.parse_args()
    found = {name: grouped(args) if name == "ratings" else checked(args, name) for name in args.tasks}
    settings = {"model": args.model, "points": args.points, "settings": {name: SETTINGS[name] for name in args.tasks}}
    name = "-".join(["rollback", *args.tasks, *([] if args.model == "distmult" else [args.model])])
    write_record(args.out, name, settings | {"results": found})


if __name__ == "__main__":
    main()
