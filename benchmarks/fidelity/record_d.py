"""Record D: label errors verified by people, compared with cleanlab.

    python benchmarks/fidelity/record_d.py --data ../shared/data --cleanlab PYTHON

Four data sets whose labels were checked by people. A small transformer is trained on the given labels. Rankings: those
of `proponent labels` (mean probability over the checkpoints, losses, influence, self-influence, the last two plain
and optimizer-aware), cleanlab 2.9 on the same model's out-of-sample probabilities (five folds), and simple
controls. Rows with an unclear verdict take part in training and are excluded from the figures. PYTHON is the
interpreter of an environment with cleanlab 2.9. The models are trained by the library's own loop
(`proponent.training`); influence is the raw sum by which `proponent labels` ranks.
"""

import gzip
import json
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import data
import numpy as np
import torch
from record import arguments, keep

import proponent
from proponent import Example, Run
from proponent.actions.label_errors import support
from proponent.evaluate import average_precision, bootstrap_rows, precision_at, roc_auc
from proponent.models.scratch import classifier, wordpiece
from proponent.training.loop import TrainingLoop, one_thread
from proponent.training.rerun import FRESH, RunProblem, write_run
from proponent.training.schedule import Settings


@dataclass(frozen=True)
class Checked:
    """Rows with given labels, which of them are wrong, and which were checked at all."""

    name: str
    rows: list[Example]
    wrong: np.ndarray
    known: np.ndarray


def african(folder: Path, language: str) -> Checked:
    """Weak labels beside gold ones: every row is known."""
    found = data.rows(folder / "african_news_noisy" / f"{language}_train.csv.gz")
    rows = [Example(one["id"], row, one["text"], one["noisy_label"]) for row, one in enumerate(found)]
    wrong = np.asarray([one["is_label_error"] == "1" for one in found])
    return Checked(f"african_news_noisy {language}", rows, wrong, np.ones(len(rows), dtype=bool))


def disaster(folder: Path) -> Checked:
    """800 checked tweets among the whole file."""
    checked = {one["id"]: one for one in data.rows(folder / "disaster_tweets_checked" / "checked_800.csv.gz")}
    rest = [one for one in data.rows(folder / "disaster_tweets_checked" / "train.csv.gz") if one["id"] not in checked]
    found = [*checked.values(), *rest[:2200]]
    rows = [
        Example(one["id"], row, one["text"], ("other", "disaster")[int(one["label"])]) for row, one in enumerate(found)
    ]
    verdict = [checked[one["id"]]["questionable_label"] if one["id"] in checked else "2" for one in found]
    return Checked(
        "disaster_tweets_checked",
        rows,
        np.asarray([v == "1" for v in verdict]),
        np.asarray([v in "01" for v in verdict]),
    )


def imdb(folder: Path, size: int = 2500) -> Checked:
    """Reviews that a crowd looked at, among others of the test file; unchecked ones take no part in the figures."""
    verdicts = {one["id"]: one["verdict"] for one in data.rows(folder / "imdb" / "test_label_check.csv.gz")}
    found = data.rows(folder / "imdb" / "test.csv.gz")
    chosen = [one for one in found if one["id"] in verdicts]
    others = [one for one in found if one["id"] not in verdicts]
    order = np.random.default_rng(0).permutation(len(others))
    chosen += [others[place] for place in order[: size - len(chosen)].tolist()]
    rows = [
        Example(one["id"], row, one["text"], ("negative", "positive")[int(one["label"])])
        for row, one in enumerate(chosen)
    ]
    verdict = [verdicts.get(one["id"], "") for one in chosen]
    known = np.asarray([v in {"given_label_right", "label_error_flip"} for v in verdict])
    return Checked("imdb", rows, np.asarray([v == "label_error_flip" for v in verdict]), known)


def varierr(folder: Path) -> Checked:
    """Every label that somebody gave an item in the first round, by its items' error labels."""
    rows, wrong = [], []
    with gzip.open(folder / "varierr_nli" / "varierr.jsonl.gz", "rt", encoding="utf-8") as file:
        for line in file:
            one = json.loads(line)
            for label in one["label_set_round_1"]:
                rows.append(Example(f"{one['id']}-{label}", len(rows), one["context"], label, one["statement"]))
                wrong.append(label in one["error_labels"])
    return Checked("varierr_nli", rows, np.asarray(wrong), np.ones(len(rows), dtype=bool))


def loop_of(checked: Checked, cache: Path, epochs: int, length: int) -> TrainingLoop:
    """A small transformer on the given labels; its queries are the rows themselves."""
    folder = cache / "start"
    labels = sorted({str(one.label) for one in checked.rows})
    if not (folder / "model.safetensors").is_file():
        torch.manual_seed(0)
        texts = [part for one in checked.rows for part in one.parts]
        tokenizer = wordpiece(texts, 6000, length)
        classifier(tokenizer, labels, 64, 2, length).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    problem = RunProblem(Run.from_pretrained(folder), checked.rows, checked.rows, FRESH, length)
    return TrainingLoop(problem, Settings(epochs, 32, 1e-3, weight_decay=0.01, clip=1.0))


def suspicions(checked: Checked, loop: TrainingLoop, cache: Path) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """High = suspicious, per ranking; and out-of-sample probabilities."""
    run = write_run(loop, cache / "run", 0)
    rows = data.as_rows(checked.rows)
    found: dict[str, np.ndarray] = {}
    given = loop.problem.query_labels
    for name, method, changes in (
        ("tracin-we", "tracin-we", {}), ("tracin-we-adam unit-norm", "tracin-we-adam", {"unit_norm": True}),
    ):  # fmt: skip
        at = cache / f"{name.replace(' ', '-')}.index"
        store = proponent.build(run, rows, at, method, max_length=loop.problem.max_length, quiet=True, **changes).store
        found[f"influence ({name})"] = -support(store)
        found[f"self-influence ({name})"] = support(store, itself=True)
    p = store.features["mean_probabilities"].astype(np.float64)
    losses = store.features["losses"]
    found["mean probability (proponent labels)"] = -p[np.arange(len(p)), given]
    found["mean loss"], found["last loss"] = losses.mean(0), losses[-1]
    folds = np.random.default_rng(0).permutation(len(p)) % 5
    sample = np.zeros_like(p)
    for fold in range(5):
        model = loop.fit(np.flatnonzero(folds != fold), fold)
        sample[folds == fold] = loop.problem.outputs(model).probabilities[folds == fold]
    own = sample[np.arange(len(p)), given]
    rest = sample.copy()
    rest[np.arange(len(p)), given] = -1
    found["out-of-sample loss"] = -np.log(np.maximum(own, 1e-12))
    found["out-of-sample margin"] = rest.max(1) - own
    found["random"] = np.random.default_rng(1).standard_normal(len(p))
    return found, sample


CLEANLAB = """
import sys, json, numpy as np, cleanlab
from cleanlab.rank import get_label_quality_scores
from cleanlab.filter import find_label_issues
with np.load(sys.argv[1]) as f:
    p, y = f["p"], f["y"]
p = p / p.sum(1, keepdims=True)
out = {"version": cleanlab.__version__}
for method in ("self_confidence", "normalized_margin"):
    out[method] = get_label_quality_scores(y, p, method=method).tolist()
    out["adjusted " + method] = get_label_quality_scores(y, p, method=method, adjust_pred_probs=True).tolist()
json.dump(out, open(sys.argv[2], "w"))
"""


def cleanlab(python: Path, p: np.ndarray, y: np.ndarray) -> tuple[str, dict[str, np.ndarray]]:
    """Label quality by cleanlab, in its own environment."""
    with tempfile.TemporaryDirectory() as folder:
        at = Path(folder)
        np.savez(at / "in.npz", p=p, y=y)
        subprocess.run([python, "-c", CLEANLAB, at / "in.npz", at / "out.json"], check=True)
        found = json.loads((at / "out.json").read_text())
    version = found.pop("version")
    return version, {f"cleanlab {name}": -np.asarray(one) for name, one in found.items()}


def main() -> None:
    """Run the record."""
    parser = arguments(__doc__, epochs=4)
    parser.add_argument("--cleanlab", type=Path, help="python of an environment with cleanlab 2.9")
    parser.add_argument("--sets", nargs="+", default=["yoruba", "hausa", "disaster", "varierr", "imdb"])
    args = parser.parse_args()
    makers = {
        "yoruba": lambda: african(args.data, "yoruba"), "hausa": lambda: african(args.data, "hausa"),
        "disaster": lambda: disaster(args.data), "varierr": lambda: varierr(args.data), "imdb": lambda: imdb(args.data),
    }  # fmt: skip
    made: dict = {"sets": {}}
    for name in args.sets:
        checked = makers[name]()
        cache = args.cache / f"d-{name}-{args.epochs}"
        with one_thread():
            loop = loop_of(checked, cache, args.epochs, 128 if name == "imdb" else 64)
            found, sample = suspicions(checked, loop, cache)
        if args.cleanlab is not None:
            made["cleanlab"], theirs = cleanlab(args.cleanlab, sample, loop.problem.query_labels)
            found |= theirs
        wrong, known = checked.wrong[checked.known], checked.known
        k = int(wrong.sum())
        made["sets"][checked.name] = {
            "rows": len(known), "checked": int(known.sum()), "errors": k,
            "out_of_sample_accuracy_on_given": float((sample.argmax(1) == loop.problem.query_labels).mean()),
            "rankings": {
                ranking: {
                    "roc_auc": roc_auc(one[known], wrong),
                    "roc_auc_interval": bootstrap_rows(roc_auc, one[known], wrong),
                    "average_precision": average_precision(one[known], wrong),
                    "precision_at_errors": precision_at(one[known], wrong, k),
                }
                for ranking, one in found.items()
            },
        }  # fmt: skip
        print("done", checked.name, flush=True)
    keep(args, "D", made)


if __name__ == "__main__":
    main()
