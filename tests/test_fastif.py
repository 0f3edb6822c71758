"""Inverse-Hessian products by LiSSA and conjugate gradient, and the method fastif, against dense solves."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import proponent
from proponent.errors import DivergedError, InputError
from proponent.gradients.inverse_products import conjugate_gradient, lissa, top_eigenvalue
from proponent.gradients.layer_vectors import chosen_layers
from proponent.index.fastif import FastIF
from proponent.index.fastif_solver import TrainingTexts, way_out
from proponent.method import Retaken
from proponent.method_table import method_of
from proponent.models import Run
from test_layer_vectors import gradients
from test_search import assert_equal, build
from truth import NAMES, Truth, classifier_run, lm_run

Folder = Callable[[str], Path]


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    return lambda name: tmp_path_factory.mktemp(name) / name


@pytest.fixture(scope="module")
def bert(fresh: Folder) -> Truth:
    whole = classifier_run(fresh("bert"), 24, 3)
    return Truth(whole.folder, whole.steps[-1:], whole.training, whole.queries)


def head_only(name: str, _: Any) -> bool:
    return name == "classifier.weight"


def head_hessian(truth: Truth) -> np.ndarray:
    """Of the mean loss in the last weight, by autograd over the whole training set, in 64 bits."""
    model = truth.models[truth.steps[-1]].double()
    weight = model.classifier.weight.detach().clone()
    labels = torch.tensor([NAMES.index(row["label"]) for row in truth.training])
    inputs: list[torch.Tensor] = []
    hook = model.classifier.register_forward_pre_hook(lambda _, given: inputs.append(given[0].detach()))
    for row in truth.training:
        model(**truth.tokenizer(row["text"], return_tensors="pt"))
    hook.remove()
    a, bias = torch.cat(inputs), model.classifier.bias.detach()
    model.float()

    def loss(flat: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(a @ flat.view_as(weight).T + bias, labels)

    return torch.autograd.functional.hessian(loss, weight.flatten()).numpy()


def told(index: proponent.Index, row: dict[str, Any]) -> tuple[float, str]:
    """The ridge of an answer, and all its notes."""
    notes = " ".join(index.explain(row["text"], label=row["label"], baselines=False).notes)
    return float(notes.split("a ridge of ")[1].split()[0]), notes


def scores(index: proponent.Index, truth: Truth) -> np.ndarray:
    return index.scores([row["text"] for row in truth.queries], [row.get("label") for row in truth.queries])


def test_conjugate_gradient_on_the_head_is_the_dense_solve(bert: Truth, fresh: Folder) -> None:
    index = build(bert, fresh("index"), "fastif", layers="head", solver="cg", damping=0.05, scale=2.0)
    hessian, step = head_hessian(bert), bert.steps[-1]
    mine, theirs = (gradients(bert, step, head_only, training=one) for one in (True, False))
    solved = np.linalg.solve(hessian + 0.1 * np.eye(len(hessian)), theirs.T)
    assert_equal(scores(index, bert), (mine @ solved).T, 1e-3)
    ridge, notes = told(index, bert.queries[0])
    assert ridge == pytest.approx(0.1)
    assert "conjugate gradient on the Hessian of 24 training texts" in notes


def test_lissa_on_the_head_comes_to_the_dense_solve(bert: Truth, fresh: Folder) -> None:
    index = build(bert, fresh("index"), "fastif", layers="head", damping=0.02, depth=200, runs=3, sample=8)
    ridge, notes = told(index, bert.queries[0])
    hessian, step = head_hessian(bert), bert.steps[-1]
    mine, theirs = (gradients(bert, step, head_only, training=one) for one in (True, False))
    truth = (mine @ np.linalg.solve(hessian + ridge * np.eye(len(hessian)), theirs.T)).T
    found = scores(index, bert)
    for one, other in zip(found, truth, strict=True):
        assert np.corrcoef(one, other)[0, 1] > 0.99
        assert np.linalg.norm(one) == pytest.approx(np.linalg.norm(other), rel=0.1)
    assert float(notes.split("a pairwise cosine of at least ")[1].split(";")[0]) > 0.95
    assert "3 times the top eigenvalue seen" in notes
    np.testing.assert_array_equal(scores(proponent.open(index.store.folder), bert), found)  # seeded


def test_the_whole_block_of_a_transformer(bert: Truth, fresh: Folder) -> None:
    """Double backward through attention: products of the Hessian against finite differences of the gradient."""
    index = build(bert, fresh("index"), "fastif", layers="last-block,head", solver="cg", damping=1.0, scale=3.0)
    scorer = index._scorer
    assert isinstance(scorer, FastIF)
    (fast,) = scorer.solvers.values()
    hessian = fast._hessian
    v = torch.randn(1, hessian.size, generator=torch.Generator().manual_seed(0)) * 0.1
    places, parameters = np.arange(8), hessian._parameters
    with hessian.open():
        product = hessian.products(lambda: fast._loss(places), v)[0]
        step, sides = 1e-2, []
        for sign in (1.0, -1.0):
            parts = v[0].split([block.size for block in hessian.blocks])
            with torch.no_grad():
                for one, part in zip(parameters, parts, strict=True):
                    one += sign * step * part.view_as(one)
            sides.append(hessian.gradient(lambda: fast._loss(places)).double())
            with torch.no_grad():
                for one, part in zip(parameters, parts, strict=True):
                    one -= sign * step * part.view_as(one)
    rough = (sides[0] - sides[1]) / (2 * step)
    assert torch.nn.functional.cosine_similarity(product.double(), rough, dim=0) > 0.999
    assert not any(one.requires_grad for one in fast._computer.model.parameters())
    whole = scores(index, bert)
    assert np.isfinite(whole).all()
    assert "of trainable parameters" in told(index, bert.queries[0])[1]


def test_the_default_layers_reach_from_the_last_block_to_the_head(bert: Truth) -> None:
    """The pooler included: the path from the block to the head goes through it."""
    run = Run.from_pretrained(bert.folder)
    model = run.load(run.checkpoints[-1])
    method = method_of("fastif")
    assert isinstance(method, Retaken)
    names = [block.name for block in chosen_layers(method, run, model).blocks]
    assert names[-2:] == ["bert.pooler.dense", "classifier"]
    assert all(name.startswith("bert.encoder.layer.1.") for name in names[:-2])


def test_words_are_those_of_the_training_text_and_sum_to_the_score(bert: Truth, fresh: Folder) -> None:
    index = build(bert, fresh("index"), "fastif", layers="last-block", solver="cg", damping=1.0, scale=3.0)
    row = bert.queries[0]
    answer = index.explain(row["text"], label=row["label"], k=4)
    exact = index.scores([row["text"]], [row["label"]])[0]
    for hit in (*answer.proponents, *answer.opponents):
        assert hit.score == pytest.approx(exact[hit.row], rel=1e-3)
        assert sum(pair.share for pair in hit.words) == pytest.approx(hit.score, rel=1e-5)
        assert {pair.query_word for pair in hit.words if pair.train_word != "[special]"} == {""}
    assert max(len(hit.words) for hit in answer.proponents) > 3
    assert any("shares are split by the words of the training example only" in note for note in answer.notes)
    against = index.explain(row["text"], label="sport", against="money", baselines=False)
    parts = index.scores([row["text"]] * 2, ["sport", "money"])
    assert against.proponents[0].score == pytest.approx((parts[0] - parts[1])[against.proponents[0].row], rel=1e-2)


def test_only_the_nearest_are_ranked(bert: Truth, fresh: Folder) -> None:
    changes = {"layers": "head", "solver": "cg", "damping": 0.1, "candidates": 5.0, "nearest": "features"}
    index = build(bert, fresh("index"), "fastif", **changes)
    row = bert.queries[0]
    features = index.store.features["pooled"].astype(np.float64)
    model, texts = bert.models[bert.steps[-1]], bert.tokenizer(row["text"], return_tensors="pt")
    with torch.no_grad():
        mean = model.bert(**texts).last_hidden_state[0].mean(0).double().numpy()
    nearest = set(np.argsort(((features - mean) ** 2).sum(1))[:5].tolist())
    answer = index.explain(row["text"], label=row["label"], k=24)
    assert {hit.row for hit in (*answer.proponents, *answer.opponents)} <= nearest
    assert any("the 5 of 24 training examples with the nearest" in note for note in answer.notes)
    only = next(iter(nearest))
    chosen = index.explain(row["text"], label=row["label"], where=proponent.Where(ids=[bert.training[only]["id"]]))
    assert [hit.row for hit in (*chosen.proponents, *chosen.opponents)] == [only]


@pytest.mark.parametrize("against", [None, "money"])
def test_candidates_of_a_classifier_are_chosen_by_signal(bert: Truth, fresh: Folder, against: str | None) -> None:
    """Both sides by the model itself: hidden states, probabilities, labels."""
    index = build(bert, fresh("index"), "fastif", layers="head", solver="cg", damping=0.1, candidates=6.0)
    model, row = bert.models[bert.steps[-1]], bert.queries[0]

    def of(text: str) -> tuple[np.ndarray, np.ndarray]:
        with torch.no_grad():
            out = model(**bert.tokenizer(text, return_tensors="pt"), output_hidden_states=True)
        return out.logits[0].double().softmax(-1).numpy(), out.hidden_states[-1][0].mean(0).double().numpy()

    p, h = of(row["text"])
    unit = np.eye(len(NAMES))
    signal = (p if against is None else unit[NAMES.index(against)]) - unit[NAMES.index("sport")]
    likeness: list[float] = []
    for one in bert.training:
        q, g = of(one["text"])
        cosine = g @ h / np.linalg.norm(g) / np.linalg.norm(h)
        likeness.append(abs((q - unit[NAMES.index(one["label"])]) @ signal * cosine))
    answer = index.explain(row["text"], label="sport", against=against, k=24, baselines=False)
    hits = {hit.row for hit in (*answer.proponents, *answer.opponents)}
    assert hits <= set(np.argsort(-np.asarray(likeness))[:6].tolist())
    assert hits
    assert any("error signal and mean last hidden state" in note for note in answer.notes)


def test_a_language_model_has_no_signal(fresh: Folder) -> None:
    gpt2 = lm_run(fresh("signal"), "gpt2", tied=True, steps=(20,), n=8, q=1)
    with pytest.raises(InputError, match="this run is not a classifier: choose --set nearest=features"):
        build(gpt2, fresh("index"), "fastif", layers="mlp", nearest="signal")


def test_a_language_model(fresh: Folder) -> None:
    gpt2 = lm_run(fresh("gpt2"), "gpt2", tied=True, steps=(20,), n=8, q=1)
    index = build(gpt2, fresh("index"), "fastif", layers="mlp", solver="cg", damping=1.0, scale=10.0, sample=8)
    row = gpt2.queries[0]
    found = index.scores([row["text"]], targets=[row.get("target")])[0]
    answer = index.explain(row["text"], target=row.get("target"), k=8, baselines=False)
    hit = answer.proponents[0]
    assert hit.score == pytest.approx(found[hit.row], rel=1e-3)
    assert sum(pair.share for pair in hit.words) == pytest.approx(hit.score, rel=1e-5)


def test_a_text_helps_itself(bert: Truth, fresh: Folder) -> None:
    index = build(bert, fresh("index"), "fastif", layers="head", solver="cg", damping=0.1)
    rows = bert.training[:3]
    own = index.scores([row["text"] for row in rows], [row["label"] for row in rows])
    assert (np.diag(own) > 0).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scale": 1e-4}, r"LiSSA diverges at step \d+ of .*use --set scale="),
        ({"solver": "cg", "layers": "last-block", "damping": 1e-7, "sample": 4}, r"negative curvature.*--set damping="),
    ],
)
def test_divergence_is_told_with_the_way_out(bert: Truth, fresh: Folder, changes: dict[str, Any], message: str) -> None:
    index = build(bert, fresh("index"), "fastif", **({"layers": "head"} | changes))
    row = bert.queries[0]
    with pytest.raises(DivergedError, match=message):
        index.explain(row["text"], label=row["label"], baselines=False)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"project": 4}, "solves with the gradients themselves"),
        ({"curvature": "ekfac"}, "solves with the gradients themselves"),
        ({"layers": "atention"}, "'atention' matches no layer"),
    ],
)
def test_what_cannot_be_is_refused(bert: Truth, fresh: Folder, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        build(bert, fresh("index"), "fastif", **changes)


def test_groups_are_refused(bert: Truth, fresh: Folder) -> None:
    index = build(bert, fresh("index"), "fastif", layers="head")
    queries = [proponent.Example("q", 0, row["text"], row["label"]) for row in bert.queries]
    with pytest.raises(InputError, match="does not support groups, ranks or votes"):
        index.explain_group(queries)
    with pytest.raises(InputError, match="does not support groups, ranks or votes"):
        next(iter(index.explain_many(queries, aggregate="rank")))


def test_an_answer_has_no_scores_of_examples_that_are_not_compared(bert: Truth, fresh: Folder) -> None:
    index = build(bert, fresh("index"), "fastif", layers="head")
    assert index.explain(bert.queries[0]["text"], k=2).score_counts is None


def test_threads_read_training_texts_one_after_another(bert: Truth, fresh: Folder) -> None:
    index = build(bert, fresh("index"), "fastif", layers="head")
    texts, row, inside = TrainingTexts(index.store, index._loaded), index.store.row, list[int]()

    def slow(place: int) -> dict[str, Any]:
        inside.append(place)
        time.sleep(0.01)
        alone = inside == [place]
        inside.remove(place)
        assert alone, "two threads read at once"
        return row(place)

    index.store.row = slow  # type: ignore[method-assign]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda place: texts.encoded(np.asarray([place])), range(8)))
    assert [labels for _, labels in found] == [[NAMES.index(bert.training[place]["label"])] for place in range(8)]


def test_solvers_on_a_plain_matrix() -> None:
    made = np.random.default_rng(0).standard_normal((6, 6))
    matrix = torch.tensor(made @ made.T, dtype=torch.float32)
    v = torch.eye(6)[:2] * 3.0
    top = float(np.linalg.eigvalsh(matrix.numpy())[-1])
    assert top_eigenvalue(lambda x: x @ matrix, 6, 0, 50) == pytest.approx(top, rel=1e-2)
    truth = torch.linalg.solve(matrix + 0.5 * torch.eye(6), v.T).T
    found = conjugate_gradient(lambda x: x @ matrix, v, 0.5, 50)
    torch.testing.assert_close(found.s, truth, rtol=1e-3, atol=1e-4)
    slow = lissa(lambda _, x: x @ matrix, v, 1000, 0.5 / (2 * top), 2 * top)
    torch.testing.assert_close(slow.s, truth, rtol=1e-2, atol=1e-3)
    assert slow.change < 1e-2
    with pytest.raises(DivergedError, match="scale"):
        lissa(lambda _, x: x @ matrix, v, 1000, 0.01, top / 3)
    with pytest.raises(DivergedError, match="negative curvature"):
        conjugate_gradient(lambda x: -x, v, 0.5, 10)


def test_the_way_out_of_a_divergence_follows_its_cause() -> None:
    assert way_out(1.0, 7.8, 0.01).startswith("the top eigenvalue of its batches reaches 7.8: use --set scale=46.8")
    assert "negative ones: use more damping than 0.01, such as --set damping=0.1" in way_out(20.0, 7.78, 0.01)
