"""Layers of encoder-decoders, which see a text and a target: gradients, scores and words against one text at a time.

The truth takes its loss from transformers itself, from labels alone, and autograd's gradient of whole parameters.
"""

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

import cases
import whence
from test_tasks import PAIRS, model_of, texts, their_loss
from truth import RATES, save
from whence.capture import Capture
from whence.compress import Projection
from whence.doctor import check
from whence.errors import InputError
from whence.examples import read
from whence.index.layered import apart, spoken
from whence.layers import Choice, UnbatchedError, choose, input_embedding
from whence.model import Encoded, Run
from whence.types import Example

TOLERANCE = 1e-5
Fresh = Callable[[], Path]
Pick = Callable[[str, Any], bool]


def chosen(model: Any, *wanted: str, biases: bool = True, rows: bool = False) -> Choice:
    head, word = model.get_output_embeddings(), input_embedding(model)
    return choose(model, wanted or ("all",), head=head, word=word, biases=biases, rows=rows, decoding=True)


def captured(model: Any, made: Any, encoded: Sequence[Encoded], choice: Choice) -> Any:
    batch = made.collate(encoded, [-1] * len(encoded))
    capture = Capture(model, embedding=False, blocks=choice.blocks, order=choice.order)
    return capture(batch.inputs, batch.tokens().losses, batch.words, (batch.decoder.mask, batch.decoder.words)).calls


def every_gradient(model: Any, one: Encoded) -> dict[str, np.ndarray]:
    """Autograd's gradient of every parameter of one example, by the first of its names."""
    named = dict(model.named_parameters())
    model.requires_grad_(True)
    try:
        with torch.enable_grad():
            found = torch.autograd.grad(their_loss(model, one, "seq2seq"), list(named.values()), allow_unused=True)
    finally:
        model.requires_grad_(False)
    taken = zip(named.items(), found, strict=True)
    return {name: (torch.zeros_like(at) if grad is None else grad).double().numpy() for (name, at), grad in taken}


def truth_of(model: Any, gradients: dict[str, np.ndarray], block: Any) -> np.ndarray:
    names = {id(one): name for name, one in model.named_parameters()}
    own = getattr(model.get_submodule(block.modules[0]), block.part)
    return gradients[names[id(own)]].reshape(block.o, block.i)


@pytest.mark.parametrize("name", cases.SEQ2SEQ)
def test_every_layer_equals_autograd_of_the_loss_of_transformers(name: str) -> None:
    model, _ = model_of(name)
    made, encoded = texts("seq2seq", model)
    choice = chosen(model)
    projection = Projection(choice.blocks, None, 0)
    found = projection.vectors(captured(model, made, encoded, choice), len(encoded))
    for row, one in enumerate(encoded):
        gradients = every_gradient(model, one)
        off = total = 0.0
        for block in choice.blocks:
            wanted = truth_of(model, gradients, block)
            error, size = float(np.linalg.norm(found[row, projection.cuts[block.name]] - wanted.ravel())), norm(wanted)
            assert error <= 1e-4 * max(size, 1e-2), block.name  # T5 in 32 bits is off by 1e-5 itself
            off, total = off + error**2, total + size**2
        assert total > 0
        assert off**0.5 <= TOLERANCE * total**0.5


def norm(array: np.ndarray) -> float:
    return float(np.linalg.norm(array))


def test_parts_of_a_batch_differ_from_both_lengths() -> None:
    def one(t: int, u: int) -> Encoded:
        blank = np.zeros(t, dtype=np.int64)
        return Encoded(blank, None, blank, np.ones(u, dtype=np.bool_), targets=np.zeros(u, dtype=np.int64), start=0)

    assert apart([one(3, 3), one(3, 3)]) == [slice(0, 2)]
    assert apart([one(3, 5)] * 5) == [slice(0, 1), slice(1, 5)]
    assert apart([one(5, 3)] * 5) == [slice(0, 1), slice(1, 5)]
    assert apart([one(5, 4)] * 5) == [slice(0, 1), slice(1, 2), slice(2, 5)]
    assert apart([one(1, 1)]) == [slice(0, 1)]


NAMES = ("t5", "bart", "marian", "bart-three-tables", "mbart")
WORDS = "goal cheered home team again bank market fell shares lost ground probe sent pictures red planet crew".split()


def rows(count: int, seed: int) -> list[dict[str, str]]:
    """Texts of one to eight words and targets of one to eight others; every third target is as long as its text."""
    random = np.random.default_rng(seed)
    found: list[dict[str, str]] = []
    for row in range(count):
        long = [int(one) for one in random.integers(1, 9, 2)]
        one, other = random.permutation(WORDS)[: long[0]], random.permutation(WORDS)[: long[row % 3 != 0]]
        found.append({"id": f"r{row}", "text": " ".join(one), "target": " ".join(other)})
    return found


TRAINING, QUERIES = rows(24, 0), rows(3, 1)
STEPS = (5, 20)


@cache
def run_of(name: str, folder: Path) -> Path:
    home = folder / f"two-texts-{name}"
    cls, settings = cases.SEQ2SEQ[name]
    tokenizer = cases.word_tokenizer()
    own = settings if name == "mbart" else settings | {"decoder_start_token_id": 0}
    save(home, cases.make_of(cls, own, vocabulary=len(tokenizer), pad=tokenizer.pad_token_id), tokenizer, STEPS)
    return home


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("two-texts")


@pytest.fixture
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Fresh:
    return lambda: tmp_path_factory.mktemp("index") / "i"


@cache
def gradients(folder: Path, step: int, asked: bool) -> list[dict[str, np.ndarray]]:
    model = transformers.AutoModelForSeq2SeqLM.from_pretrained(folder / f"checkpoint-{step}").eval()
    return [every_gradient(model.requires_grad_(False), one) for one in encoded_of(folder, asked)]


def encoded_of(folder: Path, asked: bool) -> list[Encoded]:
    run = Run.from_pretrained(folder)
    some = QUERIES if asked else TRAINING
    return run.encoder(60).encode(
        [Example(one["id"], row, one["text"], target=one["target"]) for row, one in enumerate(some)]
    )


def matrix(folder: Path, step: int, pick: Pick, *, asked: bool) -> np.ndarray:
    made = gradients(folder, step, asked)
    return np.stack([np.concatenate([one.ravel() for name, one in row.items() if pick(name, one)]) for row in made])


def products(folder: Path, pick: Pick, *, cosine: bool = False) -> np.ndarray:
    total = 0.0
    for step in STEPS:
        mine, theirs = (matrix(folder, step, pick, asked=one) for one in (False, True))
        if cosine:
            mine, theirs = (one / np.linalg.norm(one, axis=1, keepdims=True) for one in (mine, theirs))
        total = total + RATES[step] * theirs @ mine.T
    return np.asarray(total)


def ruled(name: str, one: Any) -> bool:
    """Every weight but gains, and tables of positions, whose rule nobody has."""
    return one.ndim == 2 and "relative_attention_bias" not in name and "embed_positions" not in name


def last_two(name: str, one: Any) -> bool:
    """The vocabulary head, shared or not, and the last layer before it."""
    head = name in {"shared.weight", "model.shared.weight", "lm_head.weight"}
    return head or name.endswith(("decoder.layers.1.fc2.weight", "decoder.block.1.layer.2.DenseReluDense.wo.weight"))


def scores(index: whence.Index) -> np.ndarray:
    return index.scores([one["text"] for one in QUERIES], targets=[one["target"] for one in QUERIES])


def build(folder: Path, home: Path, method: str, **changes: Any) -> whence.Index:
    return whence.build(folder, TRAINING, home, method, **({"batch_size": 9, "quiet": True} | changes))


def assert_equal(found: np.ndarray, wanted: np.ndarray, tolerance: float = TOLERANCE) -> None:
    assert found.shape == wanted.shape
    assert (np.linalg.norm(found - wanted, axis=1) / np.linalg.norm(wanted, axis=1)).max() <= tolerance


def assert_words(index: whence.Index) -> None:
    """Shares sum to the scores, and nothing but words of the two texts is named."""
    for one in QUERIES:
        answer = index.explain(one["text"], target=one["target"], k=3, baselines=False)
        for hit in answer.helped[:2] + answer.hurt[:1]:
            assert sum(word.share for word in hit.words) == pytest.approx(hit.score, rel=1e-3, abs=1e-9)
            assert {word.query_word for word in hit.words} <= {*f"{one['text']} {one['target']}".split(), "[special]"}


METHODS: list[tuple[str, dict[str, Any], Pick]] = [
    ("tracin-all", {}, ruled),
    ("grad-cos", {}, ruled),
    ("tracin-sec", {}, last_two),
    ("tracin-layers", {"layers": "quarter-1"}, lambda name, one: ruled(name, one) and in_block(name, "encoder", 0)),
    ("tracin-layers", {"layers": "quarter-3"}, lambda name, one: ruled(name, one) and in_block(name, "decoder", 0)),
    ("tracin-layers", {"layers": "last-block"}, lambda name, one: ruled(name, one) and in_block(name, "decoder", 1)),
    ("tracin-layers", {"layers": "attention"}, lambda name, one: ruled(name, one) and "att" in name.lower()),
]


def in_block(name: str, side: str, number: int) -> bool:
    return f"{side}.block.{number}." in name or f"{side}.layers.{number}." in name


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("method", "changes", "pick"), METHODS, ids=[f"{one[0]}-{at}" for at, one in enumerate(METHODS)])
def test_scores_are_brute_force(
    base: Path, fresh: Fresh, name: str, method: str, changes: dict[str, Any], pick: Pick
) -> None:
    folder = run_of(name, base)
    index = build(folder, fresh(), method, project=None, **changes)
    assert_equal(scores(index), products(folder, pick, cosine=method == "grad-cos"), 5e-5 if name == "t5" else TOLERANCE)
    assert_words(index)


@pytest.mark.parametrize("size", [1, 5, 10, 24])
def test_batches_of_any_size_give_the_same(base: Path, fresh: Fresh, size: int) -> None:
    """Texts have 3 to 16 tokens: some are as many as the examples of their batch."""
    folder = run_of("marian", base)
    index = build(folder, fresh(), "tracin-all", project=None, batch_size=size)
    assert_equal(scores(index), products(folder, ruled))
