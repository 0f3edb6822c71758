"""Record E: fact tracing on T-REx facts with the sentences that state them.

    python benchmarks/fidelity/record_e.py --data ../shared/data --cache CACHE

A small GPT-2 is trained on linked sentences; queries are relation facts as prompts with the object as target. Measures:
MRR and Recall@10 of the linked sentences, and tail-patch, for the library's methods, BM25, embedding and chance. The
model is trained by the library's own loop (`proponent.training`), and the tail-patch is applied to given rows.
"""

import gzip
import json
from pathlib import Path

import numpy as np
import torch
from record import arguments, keep

import proponent
from proponent import Example, Run
from proponent.baselines import Baselines, Texts
from proponent.evaluate import bootstrap, paired, recalls, reciprocal_ranks
from proponent.evaluate.tail_patch import tail_patch
from proponent.models.checkpoints import MOMENTS_FILE
from proponent.models.scratch import byte_bpe, causal_lm
from proponent.tensors import read_tensors
from proponent.training.loop import TrainingLoop, one_thread
from proponent.training.rerun import FRESH, RunProblem, write_run
from proponent.training.schedule import Settings

METHODS = {
    "tracin-we": ("tracin-we", {}),
    "tracin-we, input path": ("tracin-we", {"path": "input"}),
    "tracin-we-adam unit-norm": ("tracin-we-adam", {"path": "input", "unit_norm": True}),
}


def lines(path: Path) -> list[dict]:
    """Read a packed JSON Lines file."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def linked(folder: Path, sentences: int, facts: int) -> tuple[list[Example], list[Example], list[list[int]]]:
    """Sentences, facts that at least one of them states, and which ones."""
    pool = lines(folder / "facts_trex_lama" / "sentences.jsonl.gz")
    chosen = np.random.default_rng(0).permutation(len(pool))[:sentences].tolist()
    train = [Example(pool[place]["sentence_id"], row, pool[place]["text"]) for row, place in enumerate(chosen)]
    stated: dict[str, list[int]] = {}
    for row, place in enumerate(chosen):
        for fact in pool[place]["facts"]:
            stated.setdefault(fact["fact_id"], []).append(row)
    queries, gold = [], []
    for fact in lines(folder / "facts_trex_lama" / "facts.jsonl.gz"):
        prompt = fact["query"].split("[MASK]")[0].rstrip()
        if fact["fact_id"] in stated and prompt and len(queries) < facts:
            queries.append(Example(fact["fact_id"], len(queries), prompt, None, None, f" {fact['object']}"))
            gold.append(stated[fact["fact_id"]])
    return train, queries, gold


def main() -> None:
    """Run the record."""
    parser = arguments(__doc__, sentences=2000, facts=100, epochs=4)
    parser.add_argument("--checkpoints", type=int, default=3, help="the last ones are scored")
    parser.add_argument("--further", nargs="*", default=[], help="more methods of the table, such as trackstar")
    parser.add_argument("--patched", type=int, default=30, help="queries of the tail-patch")
    args = parser.parse_args()
    train, queries, gold = linked(args.data, args.sentences, args.facts)
    home = args.cache / f"e-{args.sentences}-{args.facts}-{args.epochs}"
    if not (home / "start" / "model.safetensors").is_file():
        torch.manual_seed(0)
        tokenizer = byte_bpe([one.text for one in train], 4000, 64)
        causal_lm(tokenizer, 96, 2, 64).save_pretrained(home / "start")
        tokenizer.save_pretrained(home / "start")
    problem = RunProblem(Run.from_pretrained(home / "start"), train, queries, FRESH, 64)
    loop = TrainingLoop(problem, Settings(args.epochs, 16, 2e-3, clip=1.0))
    made: dict = {"gold_per_fact": float(np.mean([len(one) for one in gold]))}
    with one_thread():
        run = write_run(loop, home / "run", 0)
        rows = [{"id": one.id, "text": one.text} for one in train]
        steps = [one.step for one in run.checkpoints[-args.checkpoints :]]
        scores: dict[str, np.ndarray] = {}
        for name, (method, changes) in (METHODS | {one: (one, {}) for one in args.further}).items():
            at = home / f"{name.replace(' ', '-').replace(',', '')}.index"
            if method == "trackstar":  # the retrainer records the moments of the word embedding alone
                changes = {**changes, "second_moment": "estimate"}
            index = proponent.build(run, rows, at, method, max_length=64, steps=steps, quiet=True, **changes)
            scores[name] = index.scores([one.text for one in queries], None, targets=[one.target for one in queries])
            print("scored", name, flush=True)
        known = Baselines(Texts([one.text for one in train]))
        texts = Texts([f"{one.text}{one.target}" for one in queries])
        for name in ("bm25", "tfidf-label", "random"):
            scores[name] = known.scores(name, texts)
        model = run.load(run.checkpoints[-1])
        made["mean_target_loss"] = float(problem.outputs(model).loss.mean())
        moments = read_tensors(run.checkpoints[-1].path / MOMENTS_FILE)
        first = {name: reciprocal_ranks(one, gold) for name, one in scores.items()}
        few = RunProblem(problem.run, train, queries[: args.patched], FRESH, 64)
        table = {}
        for name, one in scores.items():
            top = [np.argsort(-row, kind="stable")[:5] for row in one[: args.patched]]
            patched = tail_patch(few, model, top, few.query_labels, 2e-3, moments).mean(1)
            table[name] = {
                "mrr": bootstrap(first[name]).to_dict(), "recall@10": bootstrap(recalls(one, gold, 10)).to_dict(),
                "mrr_minus_bm25": paired(first[name], first["bm25"]).to_dict(),
                "tail_patch_points": bootstrap(patched).to_dict(),
            }  # fmt: skip
    keep(
        args, "E", made | {"facts": len(queries), "tail_patch_rate": 2e-3, "tail_patch_step": "Adam", "methods": table}
    )


if __name__ == "__main__":
    main()
