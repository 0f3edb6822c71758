"""Record F: does a small model predict a larger one (Small-to-Large Generalization, Khaddaj et al. 2025)?

    python benchmarks/fidelity/record_f.py --data ../shared/data

Twelve near-equal mixtures of four text sources with the same number of tokens; GPT-2 from scratch at three sizes, two
seeds each, learning rate tuned per size on one mixture; mean loss on five held-out sources. Rank correlation of small
and large over the mixtures, per target, compared with the seed ceiling and a shuffled control; also after the main
mixture axis is regressed out. Then attribution: scores of TracIn-WE at every size, compared with the loss of the
largest size on halves of the documents.
"""

import gzip
import json
import time
from pathlib import Path

import data
import numpy as np
import torch
from record import arguments, keep
from torch.nn import functional

from proponent.evaluate import spearman
from proponent.models.scratch import byte_bpe, causal_lm
from proponent.training.loop import one_thread

SIZES = {"small": (32, 1), "middle": (64, 2), "large": (128, 4)}
LENGTH = 64


def sources(folder: Path) -> dict[str, str]:
    """Text of each source."""

    def lines(path: Path, *names: str) -> str:
        with gzip.open(folder / path, "rt", encoding="utf-8", errors="replace") as file:
            if not names:
                return file.read()
            return "\n".join(" ".join(str(json.loads(one).get(name, "")) for name in names) for one in file)

    def table(path: str, *names: str) -> str:
        return "\n".join(" ".join(one[name] for name in names) for one in data.rows(folder / path)[:6000])

    return {
        "wikitext": lines(Path("wikitext2_validtest") / "valid.txt.gz"),
        "shakespeare": lines(Path("tinyshakespeare") / "input.txt.gz"),
        "news": table("agnews/train.csv.gz", "title", "description"),
        "reviews": table("movie_review_mr/all.csv.gz", "text"),
        "questions": table("trec/train.csv.gz", "text"),
    }


def train(blocks: np.ndarray, tokenizer, size: str, seed: int, rate: float, batch: int = 16):
    """One pass over the blocks."""
    torch.manual_seed(seed)
    width, layers = SIZES[size]
    model = causal_lm(tokenizer, width, layers, LENGTH)
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, fused=True)
    order = np.random.default_rng(seed).permutation(len(blocks))
    steps = range(0, len(order), batch)
    for step, start in enumerate(steps):
        for group in optimizer.param_groups:
            group["lr"] = rate * (1 - step / len(steps))
        loss = losses(model, blocks[order[start : start + batch]]).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


def losses(model, blocks: np.ndarray) -> torch.Tensor:
    """Mean loss of each block."""
    ids = torch.as_tensor(blocks)
    logits = model(input_ids=ids).logits[:, :-1]
    return functional.cross_entropy(logits.transpose(1, 2), ids[:, 1:], reduction="none").mean(1)


def measured(model, held: dict[str, np.ndarray]) -> list[float]:
    """Mean loss on each held-out source."""
    with torch.inference_mode():
        return [float(losses(model, one).mean()) for one in held.values()]


def main() -> None:
    """Run the record."""
    parser = arguments(__doc__, cache=False, mixtures=12, seeds=2, held=60)
    parser.add_argument("--blocks", type=int, default=1200, help="blocks of 64 tokens in a mixture")
    args = parser.parse_args()
    texts = sources(args.data)
    tokenizer = byte_bpe([one[:200_000] for one in texts.values()], 2000, LENGTH)
    tokens = {name: tokenizer(one[:600_000])["input_ids"] for name, one in texts.items()}
    blocks = {
        name: np.asarray(one[: len(one) // LENGTH * LENGTH], dtype=np.int64).reshape(-1, LENGTH)
        for name, one in tokens.items()
    }
    held = {name: one[-args.held :] for name, one in blocks.items()}
    pool = {
        name: one[: -args.held] for name, one in blocks.items() if name != "questions"
    }  # one target is never trained on
    generator = np.random.default_rng(3)
    shares = generator.dirichlet([4.0] * len(pool), args.mixtures)
    mixtures = []
    for share in shares:
        counts = np.floor(share * args.blocks).astype(int)
        counts[0] += args.blocks - counts.sum()
        parts = [
            one[generator.choice(len(one), count, replace=count > len(one))]
            for one, count in zip(pool.values(), counts, strict=True)
        ]
        mixtures.append(np.concatenate(parts))
    made: dict = {"targets": list(held), "mixtures": shares.tolist(), "sizes": {}}
    table: dict[str, np.ndarray] = {}
    with one_thread():
        for size in SIZES:
            rates = {
                rate: float(np.mean(measured(train(mixtures[0], tokenizer, size, 9, rate), held)))
                for rate in (1e-3, 3e-3, 1e-2)
            }
            best = min(rates, key=rates.__getitem__)
            began = time.perf_counter()
            runs = [
                [measured(train(one, tokenizer, size, seed, best), held) for one in mixtures]
                for seed in range(args.seeds)
            ]
            table[size] = np.asarray(runs)
            made["sizes"][size] = {
                "rate": best, "rates": rates,
                "seconds_per_model": (time.perf_counter() - began) / (args.seeds * args.mixtures),
                "losses": table[size].tolist(), "parameters": _parameters(tokenizer, size),
            }  # fmt: skip
            print("done", size, flush=True)
    made["transfer"] = {size: transfer(table[size], table["large"], shares) for size in SIZES}
    keep(args, "F", made)


def _parameters(tokenizer, size: str) -> int:
    return sum(one.numel() for one in causal_lm(tokenizer, *SIZES[size], LENGTH).parameters())


def transfer(small: np.ndarray, large: np.ndarray, shares: np.ndarray) -> dict:
    """Rank correlation over mixtures per target, with ceiling and controls."""
    mean = small[0] if small is large else small.mean(0)
    other = large[1] if small is large else large.mean(0)
    order = np.random.default_rng(0).permutation(len(shares))
    axis = np.linalg.svd(shares - shares.mean(0), full_matrices=False)[0][:, :1]

    def without(matrix: np.ndarray) -> np.ndarray:
        centred = matrix - matrix.mean(0)
        return centred - axis @ (axis.T @ centred)

    r = np.asarray([np.corrcoef(mean[:, one], other[:, one])[0, 1] for one in range(mean.shape[1])])
    return {
        "spearman": spearman(mean, other).tolist(), "r2": (r**2).tolist(),
        "without_main_axis": spearman(without(mean), without(other)).tolist(),
        "seed_ceiling_of_large": spearman(large[0], large[1]).tolist() if len(large) > 1 else None,
        "labels_shuffled": spearman(mean[order], other).tolist(),
        "best_by_small_in_top3_of_large": [
            bool(int(mean[:, one].argmin()) in np.argsort(other[:, one])[:3]) for one in range(mean.shape[1])
        ],
    }  # fmt: skip


if __name__ == "__main__":
    main()
