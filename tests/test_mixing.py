"""TrackStar's mixed autocorrelation against plain numpy over autograd's gradients, and what is refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import proponent
from proponent.errors import DataError, InputError, LabelError, MismatchError
from proponent.gradients.computer import GradientComputer
from proponent.method import Autocorrelation, Gradients, Layers
from proponent.preconditioners.autocorrelation import Fitter
from test_fitted import STEP, blocks_of
from test_layer_vectors import gradients, weight
from test_search import ask, assert_equal, assert_shares_sum, build
from tiny import Tiny, write_csv
from truth import Truth, classified, classifier_run

Said = Callable[..., tuple[int, str, str]]

PLAIN = {"layers": "attention", "project": None, "preconditioner": "none", "damping": 1e-3}


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Truth:
    whole = classifier_run(tmp_path_factory.mktemp("bert") / "bert", 30, 4)
    return Truth(whole.folder, (STEP,), whole.training, whole.queries)


EVALUATION = classified(12, 2)


def pick(name: str, value: Any) -> bool:
    return weight(name, value) and ".attention." in name


def matrices(truth: Truth) -> dict[str, tuple[np.ndarray, ...]]:
    """Per layer: gradients of training set and queries, R_train and R_eval."""
    other = Truth(truth.folder, truth.steps, EVALUATION, truth.queries)
    found: dict[str, tuple[np.ndarray, ...]] = {}
    for name in blocks_of(truth, pick):
        mine, theirs = (gradients(truth, STEP, lambda one, _, n=name: one == n, training=on) for on in (True, False))
        asked = gradients(other, STEP, lambda one, _, n=name: one == n, training=True)
        found[name] = (mine, theirs, mine.T @ mine / len(mine), asked.T @ asked / len(asked))
    return found


def expected(truth: Truth, share: float) -> np.ndarray:
    total, norms, asked = 0.0, 0.0, 0.0
    for mine, theirs, train, evaluation in matrices(truth).values():
        mixed = share * evaluation + (1 - share) * train
        inverse = np.linalg.inv(mixed + 1e-3 * np.linalg.eigvalsh(mixed)[-1] * np.eye(len(mixed)))
        total = total + theirs @ inverse @ mine.T
        norms = norms + np.einsum("np,pq,nq->n", mine, inverse, mine)
        asked = asked + np.einsum("np,pq,nq->n", theirs, inverse, theirs)
    return np.asarray(total / np.sqrt(np.outer(asked, norms)))


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_a_given_mixture_is_brute_force(bert: Truth, tmp_path: Path, share: float) -> None:
    index = build(bert, tmp_path / "index", "trackstar", queries=EVALUATION, eval_share=share, **PLAIN)
    assert_equal(ask(index, bert.queries), expected(bert, share), 2e-3)
    answer = index.explain(bert.queries[0]["text"], baselines=False)
    (told,) = (note for note in answer.notes if "R = " in note)
    assert f"R = {share:g} of the autocorrelation of the 12 queries" in told
    assert "as given" in told
    assert "rank of at most 12" in told
    assert any("damping 0.001 of the top eigenvalue" in note for note in answer.notes)


def test_the_mixture_is_chosen_where_both_weigh_the_same(bert: Truth, tmp_path: Path) -> None:
    index = build(bert, tmp_path / "index", "trackstar", queries=EVALUATION, eval_component=9, **PLAIN)
    held = matrices(bert).values()
    train, evaluation = (np.sort(np.concatenate([np.linalg.eigvalsh(one[at]) for one in held]))[-9] for at in (2, 3))
    share = train / (train + evaluation)
    assert 0.0 < share < 1.0
    assert share * evaluation == pytest.approx((1 - share) * train)
    assert_equal(ask(index, bert.queries), expected(bert, share), 2e-3)
    assert any(f"R = {share:.3g} of" in note and "eigenvalue 9 of" in note for note in index.store.manifest.notes)
    assert_shares_sum(index, bert.queries)
    np.testing.assert_array_equal(
        ask(proponent.open(tmp_path / "index"), bert.queries), ask(index, bert.queries)
    )  # fitted once, not again when opened


def test_the_earlier_place_that_is_named_can_be_taken() -> None:
    def fitter(place: float) -> Fitter:
        spec = Autocorrelation(eval_component=place)
        return Fitter(spec, Gradients(gradient=Layers(), preconditioners=(spec,)))

    train, queries = np.linspace(1.0, 2.0, 64), np.zeros(64)
    queries[:3] = 1.0  # a component of 1 would be a share, of all eigenvalues
    with pytest.raises(InputError, match=r"its rank is 3.*--set eval_component=2\)") as refused:
        fitter(9).chosen_share(train, queries, 1)
    assert "eval_component=1)" not in str(refused.value)
    assert fitter(2).chosen_share(train, queries, 1)[1] == 2
    queries[1:] = 0.0
    with pytest.raises(InputError, match=r"give more queries, or lambda itself"):
        fitter(9).chosen_share(train, queries, 1)


def test_unlabelled_queries_have_the_predicted_class(bert: Truth, tmp_path: Path) -> None:
    plain = build(bert, tmp_path / "plain", "trackstar", **PLAIN)
    assert any("of the training set only" in note for note in plain.store.manifest.notes)
    predicted = plain.predict([row["text"] for row in EVALUATION])
    labelled = [row | {"label": label} for row, label in zip(EVALUATION, predicted, strict=True)]
    changes = PLAIN | {"eval_share": 0.5}
    given = build(bert, tmp_path / "given", "trackstar", queries=labelled, **changes)
    bare = [{"text": row["text"]} for row in EVALUATION]
    guessed = build(bert, tmp_path / "guessed", "trackstar", queries=bare, **changes)
    np.testing.assert_allclose(ask(guessed, bert.queries), ask(given, bert.queries), rtol=1e-4, atol=1e-6)


def test_an_index_of_other_queries_is_another_index(bert: Truth, tmp_path: Path) -> None:
    build(bert, tmp_path / "index", "trackstar", queries=EVALUATION, **PLAIN)
    with pytest.raises(MismatchError, match="fingerprints queries"):
        build(bert, tmp_path / "index", "trackstar", queries=EVALUATION[:-1], **PLAIN)
    with pytest.raises(MismatchError, match="fingerprints queries"):
        build(bert, tmp_path / "index", "trackstar", **PLAIN)


def test_the_command_line_takes_a_file_of_queries(said: Said, news: Tiny, tmp_path: Path) -> None:
    queries = write_csv(tmp_path / "wrong.csv", news.rows[:20])
    changes = ("--set", "preconditioner=none", "--set", "damping=0.01", "--project", "4")
    words = ("index", news.run, news.data, "--out", tmp_path / "i", "--method", "trackstar", *changes)
    code, out, err = said(*words, "--eval", queries, "--set", "eval_share=0.25", "--json")
    assert code == 0, err
    assert any("R = 0.25 of the autocorrelation of the 20 queries of" in note for note in json.loads(out)["notes"])
    (tmp_path / "empty.csv").write_text("text,label\n")
    code, _, err = said(*words, "--eval", tmp_path / "empty.csv")
    assert code == 2
    assert "empty.csv" in err
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize(
    ("method", "changes", "error", "message"),
    [
        ("trackstar", {"eval_share": 1.5, "queries": EVALUATION}, InputError, r"eval-share.* 1.5 .*less than or equal"),
        ("trackstar", {"eval_share": -0.1, "queries": EVALUATION}, InputError, r"eval-share.*greater than or equal"),
        ("trackstar", {"eval_share": 0.5}, InputError, r"no queries: pass a file with --eval"),
        ("trackstar", {"queries": []}, DataError, "an empty list"),
        ("trackstar", {"queries": EVALUATION[:1]}, InputError, r"1 query has no eigenvalue at place .*eval_share=0.5"),
        ("trackstar", {"queries": EVALUATION, "eval_component": 1e6}, InputError, "eigenvalues"),
        ("trackstar", {"queries": [{"text": "  "}]}, DataError, "empty"),
        ("trackstar", {"queries": [*EVALUATION[:-1], EVALUATION[-1] | {"label": "nonsense"}]}, LabelError, "nonsense"),
        ("datainf", {"queries": EVALUATION}, InputError, "--eval is for methods with an autocorrelation, and datainf"),
        ("tracin-we", {"queries": EVALUATION}, InputError, "tracin-we has curvature none"),
    ],
)
def test_what_cannot_be_mixed_is_refused(
    bert: Truth, tmp_path: Path, method: str, changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    start = PLAIN if method == "trackstar" else {}
    with pytest.raises(error, match=message):
        build(bert, tmp_path / "index", method, **(start | changes))


def test_queries_that_are_too_few_are_refused_before_any_gradient(
    bert: Truth, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object) -> None:
        raise AssertionError("gradients were taken")

    for taken in ("train", "query", "calls"):
        monkeypatch.setattr(GradientComputer, taken, never)
    with pytest.raises(InputError, match=r"1 query has no eigenvalue at place .*its rank is at most"):
        build(bert, tmp_path / "index", "trackstar", queries=EVALUATION[:1], **PLAIN)
