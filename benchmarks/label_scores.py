"""Label errors: `proponent labels` alone, with cross-validation, and cleanlab beside them.

    python benchmarks/label_scores.py --data ../shared/data --cache CACHE --name choose --sets trec sst2
    python benchmarks/label_scores.py --data ../shared/data --cache CACHE [--cleanlab PYTHON] [--seeds 3]

The first line chooses: 3,000 rows of TREC and SST-2, 5 % of the labels replaced by another class, drawn evenly. The
second reports, on other data: AG News with the same planting, and sets that people checked (IMDB, disaster tweets,
weak labels of Yoruba and Hausa headlines, VariErr NLI; a seed changes the training and the folds only). The run is that
of `proponent train` as it ships, the index that of `proponent index`.

Combinations of probabilities: `run` (mean over the checkpoints), `words` and `features` (out of sample, from TF-IDF and
from the mean hidden states of a small pretrained encoder), `own` (from the run's own last checkpoint, which has seen
the labels). cleanlab has its own usual pipeline: out-of-sample probabilities of a logistic regression on the same
features (scikit-learn's defaults), self-confidence and `find_label_issues`. PYTHON is the interpreter of an environment
with cleanlab 2.9 and scikit-learn; without it the record says so.

Figures over the rows whose truth is known: precision among as many rows as there are errors, share of the errors in the
first tenth, ROC AUC; of the flags their number, precision and recall; errors whose predicted class is the true one.
Finished parts are kept in CACHE.
"""

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import harness
import numpy as np

import proponent
from proponent import Example
from proponent.actions.cross_validation import cross_validate
from proponent.actions.label_errors import judge, label_errors
from proponent.actions.out_of_sample import OutOfSample, combine, much_likelier
from proponent.actions.text_features import text_features
from proponent.evaluate import average_precision, bootstrap_rows, precision_at, roc_auc
from proponent.store import Store

sys.path.append(str(Path(__file__).resolve().parent / "fidelity"))

CHOOSING = ("trec", "sst2")
REPORTED = ("agnews", "imdb", "disaster", "yoruba", "hausa", "varierr")
TIMES = (2.0, 2.5, 3.0, 4.0, 5.0)
"""Bounds of a flag that are tried: how many times as probable another class must be."""


@dataclass(frozen=True)
class Case:
    """Rows with given labels, and what is known of them."""

    rows: list[Example]
    true: list[str | None]  # the right class where it is known
    wrong: np.ndarray  # whether the given label is an error
    known: np.ndarray  # whether that is known


def planted(rows: Sequence[harness.Row], size: int, share: float, seed: int) -> Case:
    """Replace labels of drawn rows by another class, evenly."""
    draw = np.random.default_rng(seed)
    chosen = [rows[at] for at in draw.permutation(len(rows))[:size].tolist()]
    classes = sorted({one["label"] for one in chosen})
    wrong = np.zeros(len(chosen), dtype=bool)
    wrong[draw.choice(len(chosen), max(1, round(share * len(chosen))), replace=False)] = True
    given = [
        str(draw.choice([one for one in classes if one != row["label"]])) if bad else row["label"]
        for row, bad in zip(chosen, wrong, strict=True)
    ]
    made = [
        Example(one["id"], at, one["text"], label) for at, (one, label) in enumerate(zip(chosen, given, strict=True))
    ]
    return Case(made, [one["label"] for one in chosen], wrong, np.ones(len(made), dtype=bool))


def checked(name: str, folder: Path, size: int) -> Case:
    """A set that people checked, as record D reads it."""
    import record_d

    makers: dict[str, Callable[[], Any]] = {
        "imdb": lambda: record_d.imdb(folder, min(size, 2500)), "disaster": lambda: record_d.disaster(folder),
        "yoruba": lambda: record_d.african(folder, "yoruba"), "hausa": lambda: record_d.african(folder, "hausa"),
        "varierr": lambda: record_d.varierr(folder),
    }  # fmt: skip
    found = makers[name]()
    labels = sorted({str(one.label) for one in found.rows})
    true = [None if bad and len(labels) > 2 else _right(str(one.label), bool(bad), labels) for one, bad in zip(
        found.rows, found.wrong, strict=True)]  # fmt: skip
    if name in {"yoruba", "hausa"}:
        path = folder / "african_news_noisy" / f"{name}_train.csv.gz"
        true = [one["clean_label"] for one in harness.read_csv(path)]
    return Case(found.rows, true, found.wrong, found.known)


def _right(label: str, bad: bool, labels: list[str]) -> str:
    return next(one for one in labels if one != label) if bad else label


def case(name: str, args: argparse.Namespace, seed: int) -> Case:
    """A set with its errors."""
    if name == "agnews":
        return planted(harness.agnews(args.data), args.rows, args.share, seed)
    if name == "trec":
        rows = harness.read_csv(args.data / "trec" / "train.csv.gz")
        named = [{"id": one["id"], "text": one["text"], "label": one["label_name"]} for one in rows]
        return planted(named, args.rows, args.share, seed)
    if name == "sst2":
        rows = harness.read_csv(args.data / "sst2" / "train.csv.gz")
        labels = ("negative", "positive")
        named = [{"id": one["id"], "text": one["text"], "label": labels[int(one["label"])]} for one in rows]
        return planted(named, args.rows, args.share, seed)
    return checked(name, args.data, args.rows)


def records(rows: Sequence[Example]) -> list[dict[str, Any]]:
    """Rows as a data set."""
    pairs = any(one.text_pair is not None for one in rows)
    return [
        {"id": one.id, "text": one.text, "label": str(one.label)} | ({"text_pair": one.text_pair} if pairs else {})
        for one in rows
    ]


def features_of(encoder: Path, rows: Sequence[Example], at: Path) -> np.ndarray:
    """Features of the texts, encoded once."""
    if not at.is_file():
        at.parent.mkdir(parents=True, exist_ok=True)
        np.save(at, text_features(encoder, rows))
    return np.load(at)


def indexed(one: Case, cache: Path, seed: int, epochs: int) -> Store:
    """The index of a run as `proponent train` and `proponent index` make them."""
    folder = cache / "index"
    if not (folder / "manifest.json").is_file():
        run = proponent.Run.from_pretrained(cache / "run") if (cache / "run").is_dir() else harness.trained(
            records(one.rows), cache / "run", seed=seed, epochs=epochs)  # fmt: skip
        proponent.build(run, records(one.rows), folder, quiet=True)
    return Store(folder)


def figures(one: Case, suspicion: np.ndarray) -> dict[str, Any]:
    """How early a ranking lists the errors."""
    wrong, values = one.wrong[one.known], suspicion[one.known]
    first = np.lexsort((np.arange(len(values)), -values))[: max(1, len(values) // 10)]
    return {
        "precision_at_errors": precision_at(values, wrong, int(wrong.sum())),
        "share_in_first_tenth": float(wrong[first].sum() / wrong.sum()),
        "roc_auc": roc_auc(values, wrong),
        "roc_auc_interval": bootstrap_rows(roc_auc, values, wrong),
        "average_precision": average_precision(values, wrong),
    }


def verdicts(one: Case, flagged: np.ndarray, predicted: Sequence[str]) -> dict[str, Any]:
    """How good the flags are, and how many errors get their right class."""
    both = flagged & one.wrong & one.known
    right = np.asarray([a == b for a, b in zip(predicted, one.true, strict=True)])
    told = np.asarray([true is not None for true in one.true])
    return {
        "flagged": int((flagged & one.known).sum()),
        "flags_precision": float(both.sum() / max(1, (flagged & one.known).sum())),
        "flags_recall": float(both.sum() / one.wrong[one.known].sum()),
        "errors_with_known_class": int((one.wrong & told & one.known).sum()),
        "predicted_right": int((right & one.wrong & told & one.known).sum()),
        "suggested_right": int((right & both & told).sum()),
    }


def by_probabilities(one: Case, store: Store, probabilities: np.ndarray, *, tries: bool) -> dict[str, Any]:
    """Figures of one combination of probabilities, flagged as the library flags."""
    given, names = store.features["labels"], store.plan.labels.names
    own = probabilities[np.arange(len(given)), given]
    predicted = [names[at] for at in probabilities.argmax(1).tolist()]
    if not tries:
        return figures(one, -own) | verdicts(one, much_likelier(probabilities, given), predicted)
    flags = {
        f"{times:g} times": verdicts(one, much_likelier(probabilities, given, times), predicted) for times in TIMES
    }
    return figures(one, -own) | {"flags": flags}


def measured(name: str, seed: int, args: argparse.Namespace) -> dict[str, Any]:
    """All rankings of one set with one seed."""
    one, cache = case(name, args, seed), args.cache / f"{name}-{seed}"
    store = indexed(one, cache, seed, args.epochs)
    where = args.cache / (f"{name}-{seed}" if name in {*CHOOSING, "agnews"} else name) / "features.npy"
    features = features_of(harness.encoder_folder(), one.rows, where)
    own = text_features(proponent.Run.from_pretrained(cache / "run").checkpoints[-1].path, one.rows)
    sampled = cross_validate(store, lambda _: features, encoder="features", seed=seed)
    sources = {"run": store.features["mean_probabilities"].astype(np.float64), **sampled.sources}
    sources["own"] = cross_validate(store, lambda _: own, encoder="own", seed=seed).sources["own"]
    combinations = ["run", "words", "features", "own", "run+words", "run+features", "run+own", "words+features",
                    "run+own+words", "run+words+features", "run+own+words+features"]  # fmt: skip
    made: dict[str, Any] = {
        several: by_probabilities(
            one, store, combine([sources[name] for name in several.split("+")]), tries=args.name == "choose"
        )
        for several in combinations
    }
    if args.name != "choose":
        made["shipped"] = shipped(one, store, None)
        made["shipped, --cross-validate"] = shipped(one, store, OutOfSample({"words": sources["words"]}))
        made["shipped, --cross-validate --encoder"] = shipped(one, store, sampled)
    if args.cleanlab is not None:
        made["cleanlab"] = cleanlab(one, store, features, args.cleanlab)
    return {
        "rows": len(one.rows), "known": int(one.known.sum()), "errors": int((one.wrong & one.known).sum()),
        "rankings": made,
    }  # fmt: skip


def shipped(one: Case, store: Store, sampled: OutOfSample | None) -> dict[str, Any]:
    """What `proponent labels` lists, flags and suggests."""
    report, judged = label_errors(store, None, sampled), judge(store, sampled)
    suspicion = np.zeros(len(one.rows))
    for row in report.rows:
        suspicion[row.row] = -row.rank
    names = store.plan.labels.names
    predicted = [names[at] for at in judged.likeliest.tolist()]
    return figures(one, suspicion) | verdicts(one, judged.flagged, predicted)


CLEANLAB = """
import json, sys, warnings
import cleanlab, numpy as np
from cleanlab.filter import find_label_issues
from cleanlab.rank import get_label_quality_scores
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_predict
warnings.simplefilter("ignore")
with np.load(sys.argv[1]) as f:
    x, y = f["x"], f["y"]
kinds, y = np.unique(y, return_inverse=True)
p = cross_val_predict(LogisticRegression(max_iter=1000), x, y, cv=5, method="predict_proba")
out = {"version": cleanlab.__version__, "quality": get_label_quality_scores(y, p).tolist()}
out["issues"] = find_label_issues(y, p).tolist()
out["predicted"] = kinds[p.argmax(1)].tolist()
json.dump(out, open(sys.argv[2], "w"))
"""


def cleanlab(one: Case, store: Store, features: np.ndarray, python: Path) -> dict[str, Any]:
    """The usual pipeline of cleanlab, in its own environment."""
    import json

    with tempfile.TemporaryDirectory() as folder:
        at = Path(folder)
        np.savez(at / "in.npz", x=features, y=store.features["labels"])
        subprocess.run([python, "-c", CLEANLAB, at / "in.npz", at / "out.json"], check=True, env=harness.one_thread())
        found = json.loads((at / "out.json").read_text(encoding="utf-8"))
    names = store.plan.labels.names
    predicted = [names[at] for at in found["predicted"]]
    made = figures(one, -np.asarray(found["quality"])) | verdicts(one, np.asarray(found["issues"]), predicted)
    return made | {"version": found["version"]}


def main() -> None:
    """Run the benchmark."""
    parser = harness.arguments(__doc__, data=True, rows=3000, share=0.05, seeds=3, epochs=3)
    parser.add_argument("--cache", type=Path, required=True, help="folder of finished parts")
    parser.add_argument("--sets", nargs="+", default=list(REPORTED), choices=(*CHOOSING, *REPORTED))
    parser.add_argument("--name", default="report", help="choose (tries bounds of the flags) or report")
    parser.add_argument("--cleanlab", type=Path, help="python of an environment with cleanlab 2.9")
    args = parser.parse_args()
    made: dict[str, Any] = {}
    for name in args.sets:
        for seed in range(args.seeds):
            part = args.cache / f"{args.name}-{name}-{seed}.json"
            made.setdefault(name, []).append(
                harness.kept(part, lambda name=name, seed=seed: measured(name, seed, args))
            )
            print("done", name, seed, file=sys.stderr, flush=True)
    record = {
        "benchmark": f"label scores, {args.name}",
        "settings": {"rows": args.rows, "share": args.share, "seeds": args.seeds, "epochs": args.epochs},
        "encoder": harness.ENCODER,
        "cleanlab": "not installed here" if args.cleanlab is None else "beside ours",
        "sets": made,
    }
    harness.write_record(args.out, f"label-scores-{args.name}", record)


if __name__ == "__main__":
    main()
