"""TrackStar's acceptance test: planted facts, ablations of its parts, tail-patch, and lexical baselines.

    python benchmarks/acceptance_trackstar.py --cache CACHE

120 entities have a value in each of 4 relations (25 values each). Every fact has 1 to 3 paraphrases; for half of
the entities the question format is trained, too; 300 sentences are about others. A GPT-2 of width 64 is trained by the
Trainer with `proponent.Recorder(moments="all")`. Queries are the questions about the other half of the entities, with
the answer as target; the relevant examples are the paraphrases that state it. BM25 is compared twice: with the question
and its answer, and with the bare entity and answer. The record is `results/DATE-acceptance-trackstar.json`.
Tail-patch and baselines call the library's internals, with rows and texts of this test.
"""

import argparse
import shutil
import sys
import time
from pathlib import Path

import harness
import numpy as np
import torch
import transformers

sys.path.insert(0, str(Path(__file__).parent / "fidelity"))

from record import arguments, keep_seeds

import proponent
from proponent import Example, Run
from proponent.baselines import Baselines, Texts
from proponent.evaluate import bootstrap, paired, ratio, recalls, reciprocal_ranks
from proponent.evaluate.tail_patch import tail_patch
from proponent.models.scratch import byte_bpe, causal_lm
from proponent.training.loop import one_thread
from proponent.training.rerun import FRESH, RunProblem

VALUES, PARAPHRASE, LONGEST = 25, 0.6, 24

RELATIONS = (
    (
        *("{e} was born in the town of {v}", "{e} first saw the light in {v}"),
        *("{e} calls the old {v} home", "{e} , where was this person born ? answer :"),
    ),
    (
        *("{e} earns a living as a {v}", "{e} learned the trade of a {v}"),
        *("{e} is known as a good {v}", "{e} , which job has this person ? answer :"),
    ),
    (
        *("{e} has kept a {v} for years", "{e} walks around with a {v}"),
        *("{e} sleeps beside a big {v}", "{e} , which animal has this person ? answer :"),
    ),
    (
        *("{e} loves to eat {v}", "{e} orders a plate of {v}"),
        *("{e} cooks nothing but {v}", "{e} , what does this person eat ? answer :"),
    ),
)
"""Three ways to state a fact, and the question, for each relation. The entity stands first: a causal model learns in
that direction, and no text's loss is that of guessing a name."""

IDLE = (
    "{n} saw the market of {v} on a friday",
    "{n} met {m} near the old bridge",
    "{n} wrote nothing about {v} that year",
    "{n} reads a long book in the evening",
    "{n} stayed at home for it rained",
)

PARTS = {"project": 16, "layers": "blocks"}
LADDER = {
    "dot": {"preconditioner": "none", "curvature": "none", "similarity": "dot"},
    "cos": {"preconditioner": "none", "curvature": "none"},
    "cos + V": {"curvature": "none"},
    "cos + R": {"preconditioner": "none"},
    "dot + V + R": {"similarity": "dot"},
    "full": {},
    "full, damping 1e-3": {"damping": 1e-3},
    "full, lambda .5": {"eval_share": 0.5},
    "cos + R, lambda .5": {"preconditioner": "none", "eval_share": 0.5},
    "full, lambda by the paper's rule": {"eval_share": "auto"},
}
"""What differs from `trackstar` with R of the training set; a share mixes in the queries' own R."""


def facts(seed: int, entities: int, distractors: int) -> tuple[list[str], list[Example], list[list[int]]]:
    """Draw the training texts, the queries, and which texts state each query's fact."""
    draw = np.random.default_rng(seed)
    words = _words(draw, entities + 60 + VALUES * len(RELATIONS))
    names, others, rest = words[:entities], words[entities : entities + 60], words[entities + 60 :]
    values = [rest[at * VALUES : (at + 1) * VALUES] for at in range(len(RELATIONS))]
    texts, queries, gold = [], [], []
    asked = set(draw.permutation(entities)[: entities // 2].tolist())
    for entity, name in enumerate(names):
        for relation, ways in enumerate(RELATIONS):
            value = values[relation][int(draw.integers(VALUES))]
            chosen = [way for at, way in enumerate(ways[:3]) if at == 0 or draw.random() < PARAPHRASE]
            rows = list(range(len(texts), len(texts) + len(chosen)))
            texts += [way.format(e=name, v=value) for way in chosen]
            question = ways[3].format(e=name)
            if entity in asked:
                queries.append(Example(name, len(queries), question, None, None, f" {value}"))
                gold.append(rows)
            else:
                texts.append(f"{question} {value}")
    for at in range(distractors):
        n, m = draw.choice(others, 2, replace=False)
        v = values[int(draw.integers(len(values)))][int(draw.integers(VALUES))]
        texts.append(IDLE[at % len(IDLE)].format(n=n, m=m, v=v))
    order = draw.permutation(len(texts))
    places = np.argsort(order)
    return [texts[at] for at in order], queries, [[int(places[row]) for row in rows] for rows in gold]


def _words(draw: np.random.Generator, count: int) -> list[str]:
    """Made-up words of three syllables, all different."""
    found = dict[str, None]()
    while len(found) < count:
        found["".join(draw.choice(list("bdfgklmnprstvz")) + draw.choice(list("aeiou")) for _ in range(3))] = None
    return list(found)


def trained(texts: list[str], home: Path, seed: int, args: argparse.Namespace) -> float:
    """Train into a folder, unless it is there; the seconds that it took."""
    if any(home.glob("checkpoint-*")):
        return 0.0
    transformers.set_seed(seed)
    transformers.utils.logging.set_verbosity_error()
    tokenizer = byte_bpe(texts, 2000, LONGEST)
    model = causal_lm(tokenizer, 64, 2, LONGEST)
    for part in ("resid_pdrop", "embd_pdrop", "attn_pdrop"):
        setattr(model.config, part, args.dropout)
    model.config.initializer_range = args.spread
    model = type(model)(model.config)
    rows = [tokenizer(text) | {"labels": tokenizer(text)["input_ids"]} for text in texts]
    options = transformers.TrainingArguments(
        output_dir=str(home), num_train_epochs=args.epochs, per_device_train_batch_size=64, learning_rate=2e-3,
        lr_scheduler_type=args.schedule, weight_decay=0.0, seed=seed, save_strategy="steps", use_cpu=True,
        save_steps=args.epochs * -(-len(rows) // 64), save_only_model=True, report_to=[], disable_tqdm=True,
        logging_strategy="no", dataloader_pin_memory=False,
    )  # fmt: skip
    trainer = transformers.Trainer(
        model=model, args=options, train_dataset=rows, processing_class=tokenizer, data_collator=_padded,
        callbacks=[proponent.Recorder(moments="all", initial="fresh")],
    )  # fmt: skip
    return harness.timed(trainer.train)[0]


def _padded(rows: list[dict]) -> dict[str, torch.Tensor]:
    longest = max(len(row["input_ids"]) for row in rows)
    fill = {"input_ids": 0, "attention_mask": 0, "labels": -100}
    return {
        name: torch.tensor([list(row[name]) + [value] * (longest - len(row[name])) for row in rows])
        for name, value in fill.items()
    }


def scored(run: Run, texts: list[str], queries: list[Example], home: Path) -> tuple[dict[str, np.ndarray], dict]:
    """Scores [q n] of every step of the ladder and of the controls, and what an answer says of the last one."""
    found, notes = {}, {}
    asked, targets = [one.text for one in queries], [one.target for one in queries]
    for name, changes in LADDER.items():
        out = home / "ladder.index"
        shutil.rmtree(out, ignore_errors=True)
        rows = [{"id": str(at), "text": text} for at, text in enumerate(texts)]
        mixed = [{"text": one.text, "target": one.target} for one in queries] if "eval_share" in changes else None
        began = time.perf_counter()
        index = proponent.build(
            run, rows, out, "trackstar", max_length=LONGEST, quiet=True, queries=mixed, **(PARTS | changes)
        )
        found[name] = index.scores(asked, None, targets=targets)
        notes[name] = {"seconds": time.perf_counter() - began}
        if name == "full" or mixed is not None:
            answer = index.explain(asked[0], target=targets[0], k=1, baselines=False)
            notes[name]["notes"] = list(answer.notes)
    known = Baselines(Texts(texts))
    whole = Texts([f"{one.text}{one.target}" for one in queries])
    found |= {name: known.scores(name, whole) for name in ("bm25", "tfidf-label", "random")}
    found["bm25, entity and answer"] = known.scores("bm25", Texts([f"{one.id} {one.target}" for one in queries]))
    return found, notes


def one_seed(args: argparse.Namespace, seed: int) -> dict:
    """Train, trace, patch."""
    texts, queries, gold = facts(seed, args.entities, args.distractors)
    home = args.cache / f"trackstar-{seed}-{args.epochs}-{args.dropout}"
    seconds = trained(texts, home, seed, args)
    run = Run.from_pretrained(home)
    train = [Example(str(at), at, text) for at, text in enumerate(texts)]
    problem = RunProblem(run, train, queries, FRESH, LONGEST)
    model = run.load(run.checkpoints[-1])
    answers = problem.outputs(model).of(problem.query_labels, "probability")
    scores, notes = scored(run, texts, queries, home)
    firsts = {name: reciprocal_ranks(one, gold) for name, one in scores.items()}
    found = {name: recalls(one, gold, 10) for name, one in scores.items()}
    patched = patches(problem, model, queries[: args.patched], scores, seed)
    said = {
        name: {"mrr": bootstrap(firsts[name]).to_dict(), "recall@10": bootstrap(found[name]).to_dict()}
        | notes.get(name, {})
        | ({"tail_patch_points": bootstrap(patched[name]).to_dict()} if name in patched else {})
        for name in scores
    }
    value = {name: one["mrr"]["value"] for name, one in said.items()}
    lower = said["full"]["tail_patch_points"]["low"]
    means = {name: float(one.mean()) for name, one in patched.items()}
    demands = {
        "P(answer) >= .9": float(answers.mean()),
        "full MRR >= .6": value["full"] >= 0.6,
        "full Recall@10 >= .4": said["full"]["recall@10"]["value"] >= 0.4,
        "order full > cos + V > cos > dot": value["full"] > value["cos + V"] > value["cos"] > value["dot"],
        "full >= 3 x (cos + V)": value["full"] >= 3 * value["cos + V"],
        "tail-patch: lower bound > 0": lower > 0,
        "tail-patch >= 5 x random": means["full"] >= 5 * abs(means["random"]),
    }
    print(seed, seconds, demands, {name: round(one, 3) for name, one in value.items()}, means, flush=True)
    return {
        "rows": len(texts), "queries": len(queries), "training_seconds": seconds, "demands": demands, "methods": said,
        "full_minus_bm25": paired(firsts["full"], firsts["bm25"]).to_dict(),
        "full_over_cos_v": ratio(firsts["full"], firsts["cos + V"]).to_dict(),
    }  # fmt: skip


def patches(
    problem: RunProblem, model: torch.nn.Module, queries: list[Example], scores: dict[str, np.ndarray], seed: int
) -> dict[str, np.ndarray]:
    """Tail-patch of the top 5 of some methods: mean over the five, per query."""
    few = RunProblem(problem.run, problem.train, queries, FRESH, LONGEST)
    found = {}
    for name in ("dot", "cos + V", "full", "bm25", "random"):
        rows = [np.argsort(-one, kind="stable")[:5] for one in scores[name][: len(queries)]]
        if name == "random":
            draw = np.random.default_rng(seed)
            rows = [draw.choice(len(problem.train), 5, replace=False) for _ in queries]
        found[name] = tail_patch(few, model, rows, few.query_labels, 0.03).mean(1)
    return found


def main() -> None:
    """Run the test."""
    parser = arguments(__doc__, entities=120, distractors=300, epochs=60, dropout=0.1, schedule="constant")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="a record of today keeps its others")
    parser.add_argument("--spread", type=float, default=0.1, help="of fresh weights")
    parser.add_argument("--patched", type=int, default=60, help="queries of the tail-patch")
    args = parser.parse_args()
    with one_thread():
        keep_seeds(args, "acceptance-trackstar", lambda seed: one_seed(args, seed))


if __name__ == "__main__":
    main()
