"""UnTrac against models that were trained again without a corpus, on planted sources.

    python benchmarks/unlearning.py [--seeds 4] [--cache FOLDER]

Eight corpora are mixtures of four Markov sources over 40 words, a ninth has words at random; each of four test sets is
from one source. A small causal language model is trained for about 500 steps; `proponent unlearn` measures the corpora
and trains again without each of them. Learning rates are chosen by the first test set alone and reported on the others,
with the mean over seeds. All of it resumes in --cache.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
from harness import arguments, command, trained, write_lines, write_record
from scipy.stats import pearsonr, spearmanr

WORDS = [first + second for first in "bdfgklmnpt" for second in "aeio"]
SOURCES, MIXTURES = 4, 8


def texts(chain: np.ndarray, count: int, length: int, generator: np.random.Generator) -> list[str]:
    """Texts of one Markov chain."""
    made: list[str] = []
    for _ in range(count):
        state = int(generator.integers(len(chain)))
        words = [WORDS[state]]
        for _ in range(length - 1):
            state = int(generator.choice(len(chain), p=chain[state]))
            words.append(WORDS[state])
        made.append(" ".join(words))
    return made


def write_sets(home: Path, args: Any, seed: int) -> tuple[list[Path], list[Path]]:
    """Files of corpora and test sets."""
    generator = np.random.default_rng(seed)
    chains = [generator.dirichlet(np.full(len(WORDS), 0.05), len(WORDS)) for _ in range(SOURCES)]
    shares = generator.dirichlet(np.full(SOURCES, 0.4), MIXTURES)
    corpora: list[Path] = []
    for number, share in enumerate(shares):
        counts = generator.multinomial(args.rows, share)
        rows = [
            text
            for chain, count in zip(chains, counts, strict=True)
            for text in texts(chain, count, args.length, generator)
        ]
        corpora.append(lines(home / f"corpus-{number}.jsonl", rows))
    flat = np.full((len(WORDS), len(WORDS)), 1 / len(WORDS))
    corpora.append(lines(home / "random-words.jsonl", texts(flat, args.rows, args.length, generator)))
    tests = [
        lines(home / f"test-{number}.jsonl", texts(chain, args.asked, args.length, generator))
        for number, chain in enumerate(chains)
    ]
    return corpora, tests


def lines(path: Path, rows: list[str]) -> Path:
    """Write texts with ids that no other file has."""
    return write_lines(path, ({"id": f"{path.stem}-{at}", "text": text} for at, text in enumerate(rows)))


def measured(home: Path, args: Any, seed: int) -> dict[str, Any]:
    """Scores and truth of one seed, by learning rate."""
    home.mkdir(parents=True, exist_ok=True)
    corpora, tests = write_sets(home, args, seed)
    run = home / "run"
    if not run.is_dir():
        rows = [json.loads(line) for path in corpora for line in path.read_text().splitlines()]
        trained(
            rows, run, epochs=args.epochs, learning_rate=3e-3, width=args.width, layers=2, max_length=64, seed=seed,
            checkpoints=1,
        )  # fmt: skip
    found: dict[str, Any] = {}
    for rate in args.rates.split(","):
        page = home / f"rate-{rate}.json"
        if not page.is_file():
            try:
                command(
                    "unlearn", run, "--corpora", *corpora, "--tests", *tests, "--learning-rate", rate, "--inverse-rate",
                    float(rate) * args.inverse_factor, "--truth", home / "truth", "--truth-seeds", args.truth_seeds,
                    "--max-length", 64, "--out", page, "--quiet",
                )  # fmt: skip
            except SystemExit:  # every ascent left the linear region: no rate to choose
                continue
        found[rate] = json.loads(page.read_text(encoding="utf-8"))
    return found


def values(rows: list[dict[str, Any]]) -> np.ndarray:
    """Figures of a table [c t]."""
    return np.asarray([[one["value"] for one in row["figures"]] for row in rows])


def agreements(found: dict[str, Any]) -> dict[str, Any]:
    """Pearson and Spearman over corpora: of each method and rate, on the first test set and on the others."""
    result: dict[str, Any] = {}
    for rate, page in found.items():
        tables = {"UnTrac": values(page["rows"])}
        tables |= {
            one["title"].partition(":")[0]: values(one["rows"]) for one in page["others"] if one["row_name"] == "corpus"
        }
        truth = tables.pop("Without the corpus, trained again")
        for name, scores in tables.items():
            each = [
                (pearsonr(ours, theirs).statistic, spearmanr(ours, theirs).statistic)
                for ours, theirs in zip(scores.T, truth.T, strict=True)
            ]
            top = np.mean(
                [(theirs > theirs[ours.argmax()]).sum() < 2 for ours, theirs in zip(scores.T, truth.T, strict=True)]
            )
            standard = (scores - scores.mean(0)) / scores.std(0)
            result[f"{name} {rate}"] = {
                "chosen_on": float(each[0][0]),
                "pearson": float(np.mean([one[0] for one in each[1:]])),
                "spearman": float(np.mean([one[1] for one in each[1:]])),
                "first_among_two": float(top),
                "random_is_lowest": bool(standard.mean(1).argmin() == len(standard) - 1),
            }
    return result


def main() -> None:
    """Measure all seeds, choose the rates, and write the record."""
    parser = arguments(
        __doc__, seeds=4, rows=200, asked=60, length=30, epochs=9, width=64, truth_seeds=1,
        rates="5e-5,2e-4,1e-3", inverse_factor=4.0,
    )  # fmt: skip
    parser.add_argument("--cache", type=Path, default=Path("unlearning-cache"))
    args = parser.parse_args()
    each = [agreements(measured(args.cache / f"seed-{seed}", args, seed)) for seed in range(args.seeds)]
    chosen: dict[str, Any] = {}
    for method in ("UnTrac", "UnTrac-Inv", "GradDot", "GradCos"):
        names = [name for name in each[0] if name.rpartition(" ")[0] == method and all(name in one for one in each)]
        if not names:
            raise SystemExit(
                f"{method}: no learning rate stays near the trained weights with every seed: give lower --rates"
            )
        best = max(names, key=lambda name: float(np.mean([one[name]["chosen_on"] for one in each])))
        chosen[method] = {"rate": best.rpartition(" ")[2]} | {
            what: {"mean": float(np.mean([one[best][what] for one in each])), "each": [one[best][what] for one in each]}
            for what in ("pearson", "spearman", "first_among_two", "random_is_lowest")
        }
    settings = {key: value for key, value in vars(args).items() if isinstance(value, int | float | str)}
    write_record(args.out, "unlearning-planted", {"settings": settings, "chosen": chosen, "all": each})


if __name__ == "__main__":
    main()
