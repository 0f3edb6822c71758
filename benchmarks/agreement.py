"""Do other systems compute the same numbers, where they use the same definition?

    python benchmarks/agreement.py --data ../shared/data

A tiny BERT (2 layers of width 32) is trained on 64 AG News titles with three checkpoints; the queries are 16 other
titles. captum's TracInCP (embedding, last layer, all layers), kronfluence's EK-FAC and TRAK's projections run in their
own environments (`peers/environments.py`), over the same checkpoints. If the definition is the same, every pair of
training text and query is compared; if not, the difference is reported. The record is `results/DATE-agreement.json`,
and docs/agreement.md is generated from it.
"""

import json
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import harness
import numpy as np
import torch

sys.path.append(str(Path(__file__).parent / "peers"))

import agreement_page
import projections
from environments import EnvironmentFailedError, environment

import proponent

HERE = Path(__file__).resolve().parent
TRAIN, QUERIES, LONGEST = 64, 16, 32
FULL = "*.layer.0.*,*.pooler.*,classifier"
"""Layers in which every position has a gradient: in the last block of a classifier that reads its first token, most
have none."""

SAME = {
    "tracin-we": ("captum", "we", "run", "tracin-we", {}),
    "tracin-we, every rate 1": ("captum", "we, rates 1", "run", "tracin-we", {"weights": "equal"}),
    "tracin-last": ("captum", "last", "run", "tracin-last", {}),
    "tracin-layers, head with its bias": (
        *("captum", "last, bias", "run", "tracin-layers"),
        {"layers": "head", "biases": True, "project": None},
    ),
    "tracin-all, with biases and gains": (
        *("captum", "all", "run", "tracin-all"),
        {"biases": True, "project": None},
    ),
    "tracin-layers, linear, last checkpoint": (
        *("kronfluence", "identity", "plain", "tracin-layers"),
        {"layers": "linear", "project": None, "weights": "equal"},
    ),
    "ekfac without the last block, damping .1 of the mean": (
        *("kronfluence", "mean .1", "plain", "ekfac"),
        {"project": None, "layers": FULL},
    ),
    "ekfac without the last block, damping .001 absolute": (
        *("kronfluence", "absolute", "plain", "ekfac"),
        {"project": None, "layers": FULL, "damping": 1e-3, "damping_of": "absolute"},
    ),
}
"""Same definition on both sides: peer, its scores, run, method, options."""

OTHER = {
    "tracin-last": ("captum", "last, bias", "run", "tracin-last", {}, "captum's layer includes its bias"),
    "tracin-all": (
        *("captum", "all", "run", "tracin-all", {"project": None}),
        "captum includes biases and gains",
    ),
    "tracin-all, projected to 16": (
        *("captum", "all", "run", "tracin-all", {"project": 16, "biases": True}),
        "ours projected at random to 16 numbers a side (the default of larger models is 32)",
    ),
    "tracin-we": (
        *("captum", "we, rates 1", "run", "tracin-we", {}),
        "captum weighs a checkpoint by what the loading function returns: 1 if nobody says",
    ),
    "ekfac with the last block": (
        *("kronfluence", "last block too", "plain", "ekfac", {"project": None}),
        "kronfluence's input factor takes in positions that have no gradient (all but the first token in most of the "
        "last block's layers); ours does not",
    ),
    "ekfac, sampled labels": (
        *("kronfluence", "sampled", "plain", "ekfac", {"project": None}),
        "kronfluence draws labels from the model (true Fisher) unless told use_empirical_fisher",
    ),
    "ekfac, biases": (
        *("kronfluence", "biases", "last", "ekfac", {"project": None}),
        "kronfluence takes a bias as one more input, in the same Kronecker factor",
    ),
    "ekfac, as it comes": (
        *("kronfluence", "as it comes", "last", "ekfac", {"project": None}),
        "kronfluence's defaults: true Fisher, biases, and 1e-8 added where ours adds .1 of the mean eigenvalue",
    ),
}
"""Another definition: peer, its scores, run, method, options, why."""


def main() -> None:
    """Run everything."""
    parser = harness.arguments(__doc__, data=True)
    parser.add_argument("--work", type=Path, default=harness.ROOT / ".peers" / "agreement")
    parser.add_argument("--envs", type=Path, default=harness.ROOT / ".peers" / "envs")
    parser.add_argument("--seeds", type=int, default=200, help="random projections")
    parser.add_argument("--no-peers", action="store_true", help="take the peers' scores of an earlier run")
    parser.add_argument("--page", type=Path, default=harness.ROOT / "docs" / "agreement.md")
    args = parser.parse_args()
    torch.set_num_threads(1)
    work = Work(args.work.resolve(), args.data)
    peers = {}
    for name in ("captum", "kronfluence", "traker"):
        peers[name] = asked(name, work.folder, args.envs.resolve(), again=not args.no_peers)
    record = {
        "date": harness.today(),
        "machine": f"{platform.machine()}, one thread",
        "environment": harness.environment(),
        "versions": {"proponent": proponent.__version__, "torch": torch.__version__, "numpy": np.__version__},
        "train": TRAIN,
        "queries": QUERIES,
        "same": {name: work.compared(peers, *one) for name, one in SAME.items()},
        "other": {name: work.compared(peers, *one[:-1]) | {"why": one[-1]} for name, one in OTHER.items()},
        "projections": projections.record(work, args.seeds, peers["traker"]),
    }
    harness.write_json(args.out / f"{record['date']}-agreement.json", record)
    args.page.write_text(agreement_page.page(record), encoding="utf-8")


class Work:
    """Runs, texts and our scores.

    Args:
        folder: where all of it goes; runs that are there are used.
        data: folder that holds agnews/.
    """

    def __init__(self, folder: Path, data: Path) -> None:
        self.folder = folder
        found = [harness.read_csv(data / "agnews" / f"{name}.csv.gz") for name in ("train", "test")]
        labels = sorted({row["label_name"] for row in found[0]})
        self.train, self.queries = (
            [
                {"id": f"{place}", "text": some[row]["title"], "label": labels[place % 4]}
                for place, row in enumerate(_balanced(some, labels, count))
            ]
            for some, count in zip(found, (TRAIN, QUERIES), strict=True)
        )
        if not (folder / "run").is_dir():
            folder.mkdir(parents=True, exist_ok=True)
            harness.trained(
                self.train, folder / "run", epochs=3, batch_size=8, learning_rate=3e-3, max_length=LONGEST, width=32,
                vocabulary=400,
            )  # fmt: skip
        self.run = proponent.Run.from_pretrained(folder / "run")
        self.last = self.run.checkpoints[-1].path
        self._write_plain()
        self._write_texts()
        self._scores: dict[str, np.ndarray] = {}

    def index(self, run: str, method: str, rows: list[dict] | None = None, **changes: object) -> proponent.Index:
        """Build an index anew."""
        home = {"run": self.folder / "run", "plain": self.folder / "plain", "last": self.last}[run]
        out = self.folder / "made.index"
        shutil.rmtree(out, ignore_errors=True)
        rows = self.train if rows is None else rows
        return proponent.build(home, rows, out, method, max_length=LONGEST, quiet=True, **changes)

    def compared(self, peers: dict, peer: str, theirs: str, run: str, method: str, changes: dict) -> dict:
        """Compare our scores of a method with a peer's."""
        if isinstance(peers[peer], str):
            return {"peer": peer, "failed": peers[peer]}
        key = json.dumps([run, method, changes])
        if key not in self._scores:
            index = self.index(run, method, **changes)
            texts, labels = ([row[name] for row in self.queries] for name in ("text", "label"))
            self._scores[key] = index.scores(texts, labels).astype(np.float64)
        said = {"peer": peer, "method": method, "options": changes}
        ours, other = self._scores[key], peers[peer][theirs]
        if ours.shape != other.shape:
            return said | {"failed": f"scores of shape {other.shape}"}
        return said | harness.alike(ours, other)

    def _write_plain(self) -> None:
        """The last checkpoint with linear layers whose biases are 0: the same function for a peer without biases."""
        home = self.folder / "plain"
        if not home.is_dir():
            model = self.run.load(self.run.checkpoints[-1])
            with torch.no_grad():
                for module in model.modules():
                    if isinstance(module, torch.nn.Linear):
                        module.bias.zero_()
            model.save_pretrained(home)
            self.run.tokenizer.save_pretrained(home)

    def _write_texts(self) -> None:
        arrays = {}
        for name, rows in (("train", self.train), ("queries", self.queries)):
            read_ = self.run.tokenizer(
                [row["text"] for row in rows], truncation=True, max_length=LONGEST, padding="max_length"
            )
            labels = [self.run.label_number(row["label"]) for row in rows]
            for part, one in (("ids", read_["input_ids"]), ("mask", read_["attention_mask"]), ("labels", labels)):
                arrays[f"{name}.{part}"] = np.asarray(one)
        np.savez(self.folder / "texts.npz", **arrays)
        rates = {f"run/{one.path.name}": one.learning_rate for one in self.run.checkpoints}
        (self.folder / "work.json").write_text(json.dumps({"rates": rates, "plain": "plain"}), encoding="utf-8")


def asked(name: str, folder: Path, envs: Path, *, again: bool) -> dict[str, np.ndarray] | str:
    """Run a peer's script in its environment; its scores by name, or why there are none."""
    out = folder / f"{name}.npz"
    if again or not out.is_file():
        try:
            python = environment(name, envs)
        except EnvironmentFailedError as error:
            return str(error)
        words = [str(python), str(HERE / "peers" / f"same_{name}.py"), "--work", str(folder), "--out", str(out)]
        done = subprocess.run(words, env=harness.one_thread(), capture_output=True, text=True, check=False)
        if done.returncode:
            print(done.stderr, file=sys.stderr)
            return done.stderr.strip().splitlines()[-1]
    with np.load(out) as file:
        return dict(file)


def _balanced(rows: list[dict], labels: list[str], count: int) -> list[int]:
    """Places of as many rows of each class, classes taking turns."""
    places = {label: [at for at, row in enumerate(rows) if row["label_name"] == label] for label in labels}
    drawn = {
        label: np.random.default_rng(0).choice(some, count // 4, replace=False).tolist()
        for label, some in places.items()
    }
    return [drawn[labels[place % 4]][place // 4] for place in range(count)]


if __name__ == "__main__":
    main()
