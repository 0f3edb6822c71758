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
import proponent
from proponent.errors import RunError
from proponent.gradients.capture import Capture
from proponent.gradients.layer_selection import Choice, choose
from proponent.gradients.layer_vectors import slices_by_length, token_words
from proponent.gradients.model_parts import input_embedding
from proponent.gradients.projection import Projection
from proponent.models import Encoded, Run, SampledLabels, Seq2Seq
from proponent.types import Example
from test_tasks import model_of, texts, their_loss
from truth import RATES, save

TOLERANCE = 1e-5
Fresh = Callable[[], Path]
Pick = Callable[[str, Any], bool]


def chosen(model: Any, *wanted: str, biases: bool = True, rows: bool = False) -> Choice:
    head, word = model.get_output_embeddings(), input_embedding(model)
    return choose(model, wanted or ("all",), head=head, word=word, biases=biases, rows=rows, decoding=True)


def captured(model: Any, made: Any, encoded: Sequence[Encoded], choice: Choice) -> Any:
    batch = made.collate(encoded, [-1] * len(encoded))
    capture = Capture(model, embedding=False, blocks=choice.blocks, order=choice.order)
    return capture(
        batch.inputs, Seq2Seq().objective(batch).losses, batch.words, (batch.decoder.mask, batch.decoder.words)
    ).calls


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

    assert slices_by_length([one(3, 3), one(3, 3)]) == [slice(0, 2)]
    assert slices_by_length([one(3, 5)] * 5) == [slice(0, 1), slice(1, 5)]
    assert slices_by_length([one(5, 3)] * 5) == [slice(0, 1), slice(1, 5)]
    assert slices_by_length([one(5, 4)] * 5) == [slice(0, 1), slice(1, 2), slice(2, 5)]
    assert slices_by_length([one(1, 1)]) == [slice(0, 1)]


NAMES = ("t5", "bart", "marian", "bart-three-tables", "mbart")
WORDS = [word for text in cases.TOPICS.values() for word in text.split() if len(word) > 3]


def rows(count: int, seed: int) -> list[dict[str, str]]:
    """Texts of one to eight words, and targets; every third target has the words of its text, and its length."""
    random = np.random.default_rng(seed)
    found: list[dict[str, str]] = []
    for row in range(count):
        long = [int(one) for one in random.integers(1, 9, 2)]
        one = random.permutation(WORDS)[: long[0]]
        other = random.permutation(WORDS)[: long[1]] if row % 3 else random.permutation(one)
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
def gradients(folder: Path, step: int, asked: bool, apart: bool = False) -> list[dict[str, np.ndarray]]:
    """Of every weight; `apart` gives a head that shares its table a copy of its own."""
    model = transformers.AutoModelForSeq2SeqLM.from_pretrained(folder / f"checkpoint-{step}").eval()
    if apart:
        head = model.get_output_embeddings()
        head.weight = torch.nn.Parameter(head.weight.detach().clone())
    return [every_gradient(model.requires_grad_(False), one) for one in encoded_of(folder, asked)]


def encoded_of(folder: Path, asked: bool) -> list[Encoded]:
    run = Run.from_pretrained(folder)
    some = QUERIES if asked else TRAINING
    return run.encoder(60).encode(
        [Example(one["id"], row, one["text"], target=one["target"]) for row, one in enumerate(some)]
    )


def matrix(folder: Path, step: int, pick: Pick, *, asked: bool, apart: bool = False) -> np.ndarray:
    made = gradients(folder, step, asked, apart)
    return np.stack([np.concatenate([one.ravel() for name, one in row.items() if pick(name, one)]) for row in made])


def products(folder: Path, pick: Pick, *, cosine: bool = False, apart: bool = False) -> np.ndarray:
    total = 0.0
    for step in STEPS:
        mine, theirs = (matrix(folder, step, pick, asked=one, apart=apart) for one in (False, True))
        if cosine:
            mine, theirs = (one / np.linalg.norm(one, axis=1, keepdims=True) for one in (mine, theirs))
        total = total + RATES[step] * theirs @ mine.T
    return np.asarray(total)


def ruled(name: str, one: Any) -> bool:
    """Every weight but gains, and tables of positions, whose rule nobody has."""
    return one.ndim == 2 and "relative_attention_bias" not in name and "embed_positions" not in name


def last_two(name: str, one: Any) -> bool:
    """The use of a table as the vocabulary head, and the last layer before it."""
    return name == "lm_head.weight" or name.endswith(
        ("decoder.layers.1.fc2.weight", "decoder.block.1.layer.2.DenseReluDense.wo.weight")
    )


def scores(index: proponent.Index) -> np.ndarray:
    return index.scores([one["text"] for one in QUERIES], targets=[one["target"] for one in QUERIES])


def build(folder: Path, home: Path, method: str, **changes: Any) -> proponent.Index:
    return proponent.build(folder, TRAINING, home, method, **({"batch_size": 9, "quiet": True} | changes))


def assert_equal(found: np.ndarray, wanted: np.ndarray, tolerance: float = TOLERANCE) -> None:
    assert found.shape == wanted.shape
    assert (np.linalg.norm(found - wanted, axis=1) / np.linalg.norm(wanted, axis=1)).max() <= tolerance


def shares(index: proponent.Index, one: dict[str, str]) -> list[dict[tuple[str, str], float]]:
    """What each pair of words has of the first hits."""
    answer = index.explain(one["text"], target=one["target"], k=2, baselines=False)
    for hit in answer.proponents + answer.opponents:
        assert sum(word.share for word in hit.words) == pytest.approx(hit.score, rel=1e-3, abs=1e-9)
    return [{(word.query_word, word.train_word): word.share for word in hit.words} for hit in answer.proponents]


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


@pytest.mark.parametrize(
    ("name", "at"),
    [*((name, 0) for name in NAMES), *(("t5", at) for at in (1, 2, 6)), *(("bart", at) for at in (2, 3, 4, 5))],
)
def test_scores_are_brute_force(base: Path, fresh: Fresh, name: str, at: int) -> None:
    folder, (method, changes, pick) = run_of(name, base), METHODS[at]
    index = build(folder, fresh(), method, project=None, **changes)
    assert_equal(scores(index), products(folder, pick, cosine=method == "grad-cos", apart=pick is last_two))
    if method != "tracin-layers":
        assert all(shares(index, QUERIES[0]))


@pytest.mark.parametrize("size", [1, 5, 10])
def test_batches_of_any_size_give_the_same(base: Path, fresh: Fresh, size: int) -> None:
    """Texts have 3 to 16 tokens: some are as many as the examples of their batch."""
    folder = run_of("marian", base)
    assert size == 1 or any(size in {len(one.ids), len(one.targets)} for one in encoded_of(folder, asked=False))
    index = build(folder, fresh(), "tracin-layers", layers="last-block", project=None, batch_size=size)
    assert_equal(scores(index), products(folder, lambda name, one: ruled(name, one) and in_block(name, "decoder", 1)))


SIDES = [("home red team", "probe sent bank"), ("bank", "cheered"), ("home team", "red goal market")]


@pytest.mark.parametrize("name", ["t5", "bart"])
@pytest.mark.parametrize("pair", SIDES)
def test_a_layer_belongs_to_the_words_of_the_text_that_it_reads(name: str, pair: tuple[str, str]) -> None:
    """Two pairs have as many tokens in the text as in the target, so that lengths say nothing."""
    model, _ = model_of(name)
    made, _ = texts("seq2seq", model)
    (one,) = made.encode([Example("a", 0, pair[0], target=pair[1])])
    assert (len(one.ids) == len(one.targets)) == (pair != SIDES[2])
    text, target = (sorted(set(some[some >= 0].tolist())) for some in (one.words, one.target_words))
    choice = chosen(model, biases=True)
    calls, projection = captured(model, made, [one], choice), Projection(choice.blocks, None, 0)
    split = projection.by_word(calls, token_words(one), max(target) + 1)
    whole = projection.vectors(calls, 1)[0]
    np.testing.assert_allclose(split.sum(0), whole, rtol=1e-4, atol=1e-5 * np.abs(whole).max())
    seen: set[str] = set()
    for block in choice.blocks:
        own = np.linalg.norm(split[:, projection.cuts[block.name]], axis=1) > 0
        seen.add(side := side_of(block.name))
        if side:
            assert own[text].all() == (side == "encoder"), block.name
            assert own[text].any() == (side == "encoder"), block.name
            assert own[target].all() == (side == "decoder"), block.name
            assert own[target].any() == (side == "decoder"), block.name
    assert seen == {"encoder", "decoder", ""}


def side_of(name: str) -> str:
    """Whose words a layer belongs to: keys and values of the cross-attention read the encoder's states."""
    crossed = "EncDecAttention." in name or "encoder_attn." in name
    reads_text = crossed and name.split(".encoder_attn.")[-1].split("EncDecAttention.")[-1][0] in "kv"
    if "shared" in name or "embed_tokens" in name or "lm_head" in name:
        return ""
    return "encoder" if reads_text or ".encoder." in f".{name}" else "decoder"


@pytest.mark.parametrize(
    ("name", "layers", "method", "changes"),
    [
        ("bart-three-tables", "head", "tracin-last", {}),
        ("bart", "embeddings", "tracin-we", {"path": "exact"}),
        ("t5", "embeddings", "tracin-we", {"path": "exact"}),
    ],
)
def test_words_are_those_of_the_methods_that_know_the_sides(
    base: Path, fresh: Fresh, name: str, layers: str, method: str, changes: dict[str, Any]
) -> None:
    """A head belongs to what is predicted, a lookup to what is read; rows and heads say so without hooks on layers."""
    folder = run_of(name, base)
    mine = shares(build(folder, fresh(), "tracin-layers", layers=layers, project=None), QUERIES[1])
    theirs = shares(build(folder, fresh(), method, **changes), QUERIES[1])
    for one, other in zip(mine, theirs, strict=True):
        total = sum(abs(share) for share in other.values())
        assert len(other) > 2
        for pair in one.keys() | other.keys():
            assert one.get(pair, 0.0) == pytest.approx(other.get(pair, 0.0), abs=1e-4 * total), pair


def test_groups_are_of_both_stacks_in_the_order_of_the_computation() -> None:
    model, _ = model_of("t5")

    def named(group: str) -> set[str]:
        return {".".join(block.name.split(".")[:3]) for block in chosen(model, group, biases=False).blocks}

    stacks = [f"{side}.block.{number}" for side in ("encoder", "decoder") for number in (0, 1)]
    assert named("blocks") == set(stacks)
    for at, name in enumerate(stacks):
        assert named(f"quarter-{at + 1}") == {name}
    assert named("last-block") == {"decoder.block.1"}
    shared = {module for group in ("head", "embeddings") for module in chosen(model, group).blocks[0].modules}
    assert shared == {"shared", "encoder.embed_tokens", "decoder.embed_tokens", "lm_head"}  # one table
    assert named("attention") == named("mlp") == set(stacks)
    assert {block.name.split(".")[-2] for block in chosen(model, "attention", biases=False).blocks} == {
        "SelfAttention",
        "EncDecAttention",
    }
    assert all("DenseReluDense" in block.name for block in chosen(model, "mlp", biases=False).blocks)
    assert "relative_attention_bias" in chosen(model, biases=False).description()
    untied = chosen(model_of("bart-three-tables")[0], biases=False, rows=True)
    assert untied.rows
    assert not any("encoder.embed_tokens" in one or "decoder.embed_tokens" in one for one in names_of(untied))
    assert "lm_head" in names_of(untied)
    assert not chosen(model, biases=False, rows=True).rows


def names_of(choice: Choice) -> list[str]:
    return [block.name for block in choice.blocks]


def test_what_does_not_run_on_two_texts_is_refused() -> None:
    model = cases.make_of(*cases.SEQ2SEQ["bart"])
    model.get_encoder().layers[0].forward = lambda *_, **__: 1 / 0
    with pytest.raises(RunError, match=r"cannot be run on a text and a target .*choose tracin-we"):
        chosen(model)


@pytest.mark.parametrize(
    ("method", "changes"),
    [
        ("ekfac", {}),
        ("ekfac", {"fisher": "sampled", "project": None}),
        ("datainf", {}),
        ("trackstar", {"second_moment": "estimate"}),
    ],
)
def test_curvature_answers(base: Path, fresh: Fresh, method: str, changes: dict[str, Any]) -> None:
    index = build(run_of("bart", base), fresh(), method, **({"project": 8, "checkpoints": "last"} | changes))
    assert np.isfinite(scores(index)).all()
    assert all(shares(index, QUERIES[0]))


def test_inverse_hessian_products_are_the_dense_solve(base: Path, fresh: Fresh) -> None:
    folder, names = run_of("bart", base), ("model.encoder.layernorm_embedding", "model.decoder.layernorm_embedding")
    changes = {"layers": ",".join(names), "biases": True, "solver": "cg", "damping": 0.5, "scale": 1.0, "depth": 200}
    index = proponent.build(folder, TRAINING[:6], fresh(), "fastif", candidates=1.0, quiet=True, **changes)
    step = STEPS[-1]
    model = transformers.AutoModelForSeq2SeqLM.from_pretrained(folder / f"checkpoint-{step}").eval()
    weights = {name: one.detach() for name, one in model.named_parameters() if name.startswith(names)}
    sizes, encoded = [len(one) for one in weights.values()], encoded_of(folder, asked=False)[:6]

    def mean(flat: torch.Tensor) -> torch.Tensor:
        held = dict(zip(weights, torch.split(flat, sizes), strict=True))
        losses = [
            torch.func.functional_call(model, held, (), inputs_of(one), tie_weights=False).loss for one in encoded
        ]
        return torch.stack(losses).mean()

    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        hessian = torch.autograd.functional.hessian(mean, torch.cat(list(weights.values()))).double().numpy()
    mine, theirs = (matrix(folder, step, lambda name, _: name in weights, asked=one) for one in (False, True))
    solved = np.linalg.solve(hessian + 0.5 * np.eye(len(hessian)), theirs.T)
    assert np.linalg.norm(solved - 2 * theirs.T) > 0.02 * np.linalg.norm(solved)  # the Hessian counts
    assert_equal(scores(index), (mine[:6] @ solved).T, 1e-3)
    answer = index.explain(QUERIES[0]["text"], target=QUERIES[0]["target"], k=2, baselines=False)
    for hit in answer.proponents:
        assert sum(word.share for word in hit.words) == pytest.approx(hit.score, rel=1e-3)
        said = TRAINING[hit.row]
        assert {word.train_word for word in hit.words} & set(said["text"].split())
        assert {word.train_word for word in hit.words} & set(said["target"].split())


def inputs_of(one: Encoded) -> dict[str, torch.Tensor]:
    ids, labels = torch.as_tensor(one.ids)[None], torch.as_tensor(one.targets)[None]
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}


def test_drawn_labels_hang_on_both_texts_and_reach_to_the_end_of_the_longer() -> None:
    model, _ = model_of("bart")
    made, _ = texts("seq2seq", model)
    pairs = [
        ("bank", "red planet again cheered"),
        ("bank", "home team again cheered"),
        ("the red planet again", "goal"),
    ]
    encoded = made.encode([Example(str(row), row, one, target=two) for row, (one, two) in enumerate(pairs)])

    def drawn(some: list[Encoded]) -> np.ndarray:
        batch = made.collate(some, [-1] * len(some))
        logits = torch.randn(1, 1, 90, generator=torch.Generator().manual_seed(0)).expand(*batch.targets.shape, -1)
        return SampledLabels(3).losses(batch, Seq2Seq().objective(batch))(logits).numpy()

    together = drawn(encoded)
    np.testing.assert_allclose(together, [drawn([one])[0] for one in encoded], rtol=1e-5)
    assert abs(together[0] - together[1]) > 1e-3
