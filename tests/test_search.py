"""Indexes built from real runs on disk, against dense gradients and plain loops, for every method."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import proponent
from oracle import Place, Settings, tracin
from proponent.errors import InputError
from proponent.gradients.computer import GradientComputer
from proponent.index.query_input import queries_of
from proponent.search import Search, Where, assign, vocabulary_heads
from proponent.store import Store
from proponent.types import CheckpointId
from truth import NAMES, RATES, Row, Truth, classifier_run, decoder_run, lm_run, pair_run

METHODS = ("tracin-we", "tracin-we-topk", "tracin-we-noc", "tracin-we-syn", "tracin-we-adam", "tracin-last")
PLAIN = Settings()
Folder = Callable[[str], Path]


@pytest.fixture(scope="session")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    return lambda name: tmp_path_factory.mktemp(name) / name


@pytest.fixture(scope="session")
def whole(fresh: Folder) -> Truth:
    """The classifier with 200 texts and 20 queries."""
    return classifier_run(fresh("bert"))


@pytest.fixture(scope="session")
def bert(whole: Truth) -> Truth:
    """A part of it, for all but the main test."""
    return Truth(whole.folder, whole.steps, whole.training[:60], whole.queries[:8])


@pytest.fixture(scope="session")
def gpt2(fresh: Folder) -> Truth:
    return lm_run(fresh("gpt2"), "gpt2", tied=True)


@pytest.fixture(scope="session")
def llama(fresh: Folder) -> Truth:
    return lm_run(fresh("llama"), "llama", tied=False)


@pytest.fixture(scope="session")
def dense(bert: Truth) -> dict[int, tuple[list[np.ndarray], list[np.ndarray]]]:
    """Dense embedding gradients of the classifier's texts and queries, once for all methods."""
    return {step: (bert.gradients(step, bert.training), bert.gradients(step, bert.queries)) for step in bert.steps}


@pytest.fixture(scope="session")
def built(bert: Truth, fresh: Folder) -> Callable[..., proponent.Index]:
    """Indexes of the classifier, each built once."""
    made: dict[str, proponent.Index] = {}

    def get(method: str = "tracin-we", **changes: Any) -> proponent.Index:
        key = f"{method}{sorted(changes.items())}"
        if key not in made:
            made[key] = build(bert, fresh("index"), method, **changes)
        return made[key]

    return get


def build(truth: Truth, folder: Path, method: str, **changes: Any) -> proponent.Index:
    return proponent.build(truth.folder, truth.training, folder, method, quiet=True, batch_size=16, **changes)


def extra(row: Row) -> str:
    """Which second text the row has."""
    return next((name for name in ("target", "text_pair") if row.get(name)), "")


def ask(index: proponent.Index, rows: list[Row]) -> np.ndarray:
    """Scores of some rows; those with a target or a second text are asked together."""
    scores = np.full((len(rows), index.store.n), np.nan)
    for more in ("", "target", "text_pair"):
        places = [at for at, row in enumerate(rows) if extra(row) == more]
        if not places:
            continue
        chosen = [rows[at] for at in places]
        columns = {f"{more}s": [row[more] for row in chosen]} if more else {}
        if "label" in chosen[0]:
            columns["labels"] = [row["label"] for row in chosen]
        scores[places] = index.scores([row["text"] for row in chosen], **columns)
    return scores


def assert_equal(found: np.ndarray, truth: np.ndarray, tolerance: float = 1e-5) -> None:
    """Every query's scores, relative to the norm of that query's true scores."""
    assert found.shape == truth.shape
    error = np.linalg.norm(found - truth, axis=1) / np.linalg.norm(truth, axis=1)
    assert error.max() <= tolerance, error


def expect(
    truth: Truth,
    dense: Any,
    settings: Settings = PLAIN,
    moments: Any = None,
    weights: Any = RATES,
) -> np.ndarray:
    checkpoints = [
        (weights[step], *dense[step], None if moments is None else moments[step], truth.embedding(step))
        for step in truth.steps
    ]
    return tracin(checkpoints, settings)


def answers(index: proponent.Index, rows: list[Row], k: int = 4) -> list[proponent.Explanation]:
    keys = ("label", "text_pair", "target")
    return [index.explain(row["text"], **{key: row.get(key) for key in keys}, k=k, baselines=False) for row in rows]


def assert_shares_sum(index: proponent.Index, rows: list[Row]) -> None:
    """Shares sum to the score, and so do the checkpoints' parts; the hits are the extremes of the scores."""
    scores = ask(index, rows)
    hits = 0
    for answer, row in zip(answers(index, rows), scores, strict=True):
        # alone and in a batch a query's gradient differs by rounding, and a small score is a sum of larger terms
        rounding = 1e-6 * np.abs(row).max()
        assert [hit.score for hit in answer.proponents] == sorted(
            (hit.score for hit in answer.proponents), reverse=True
        )
        assert [hit.score for hit in answer.opponents] == sorted(hit.score for hit in answer.opponents)
        for hit in (*answer.proponents, *answer.opponents):
            hits += 1
            assert hit.score == pytest.approx(row[hit.row], rel=1e-5, abs=rounding)
            assert sum(word.share for word in hit.words) == pytest.approx(hit.score, rel=1e-5)
            assert sum(hit.by_checkpoint) == pytest.approx(hit.score, rel=1e-5)
        best, worst = [row.max()][: int(row.max() > 0)], [row.min()][: int(row.min() < 0)]
        assert [hit.score for hit in answer.proponents[:1]] == pytest.approx(best, rel=1e-5, abs=rounding)
        assert [hit.score for hit in answer.opponents[:1]] == pytest.approx(worst, rel=1e-5, abs=rounding)
    assert hits > 0


def test_tracin_we_is_brute_force_on_200_by_20(whole: Truth, fresh: Folder) -> None:
    both = (whole.training, whole.queries)
    truth = expect(whole, {step: tuple(whole.gradients(step, rows) for rows in both) for step in whole.steps})
    assert truth.shape == (20, 200)
    assert_equal(ask(build(whole, fresh("index"), "tracin-we"), whole.queries), truth)
    assert (truth > 0).any()
    assert (truth < 0).any()


def test_equal_weights_leave_the_learning_rate_out(bert: Truth, dense: Any, built: Any) -> None:
    found = ask(built(weights="equal"), bert.queries)
    assert_equal(found, expect(bert, dense, weights=dict.fromkeys(RATES, 1.0)))
    assert np.linalg.norm(found - expect(bert, dense)) > 0.5 * np.linalg.norm(found)


@pytest.mark.parametrize("top", [1, 10])
def test_topk(bert: Truth, dense: Any, built: Any, top: int) -> None:
    found = ask(built("tracin-we-topk", top=top), bert.queries)
    assert_equal(found, expect(bert, dense, Settings(top=top)))


def test_topk_of_every_token_is_the_full_score(bert: Truth, built: Any) -> None:
    found = ask(built("tracin-we-topk", top=1000), bert.queries)
    np.testing.assert_array_equal(found, ask(built(), bert.queries))


def test_topk_by_position_is_another_choice(bert: Truth, built: Any) -> None:
    by_token = ask(built("tracin-we-topk", top=3), bert.queries)
    by_position = ask(built("tracin-we-topk", top=3, top_by="position"), bert.queries)
    assert not np.allclose(by_token, by_position)


def test_noc(bert: Truth, dense: Any, built: Any) -> None:
    special = tuple(bert.tokenizer.all_special_ids)
    found = ask(built("tracin-we-noc"), bert.queries)
    assert_equal(found, expect(bert, dense, Settings(dropped=special)))
    texts = [set(bert.text(row).ids) - set(special) for row in bert.training]
    apart = [[not texts[column] & set(bert.text(row).ids) for column in range(len(texts))] for row in bert.queries]
    assert np.asarray(apart).any()
    assert (found[np.asarray(apart)] == 0.0).all()
    assert (ask(built(), bert.queries) != 0.0).all()  # special tokens join every two texts


@pytest.mark.parametrize("threshold", [0.35, 0.7])
def test_synonyms(bert: Truth, dense: Any, built: Any, threshold: float) -> None:
    """Against an assignment made for every pair by trying all of them."""
    few = {step: (training[:25], queries[:5]) for step, (training, queries) in dense.items()}
    found = ask(built("tracin-we-syn", synonym_threshold=threshold), bert.queries[:5])[:, :25]
    assert_equal(found, expect(bert, few, Settings(threshold=threshold)))
    changed = np.abs(found - expect(bert, few)).max() > 1e-6 * np.abs(found).max()
    assert changed or threshold == 0.7  # the wider net must catch something, or nothing was tested


def test_adam_with_recorded_moments(bert: Truth, dense: Any, built: Any) -> None:
    moments = {step: bert.moment(step) + 1e-8 for step in bert.steps}
    found = ask(built("tracin-we-adam"), bert.queries)
    assert_equal(found, expect(bert, dense, moments=moments))
    assert np.linalg.norm(found / np.abs(found).max() - expect(bert, dense) / np.abs(expect(bert, dense)).max()) > 1


def test_adam_with_estimated_moments(bert: Truth, dense: Any, built: Any) -> None:
    moments = {step: np.mean([one**2 for one in dense[step][0]], axis=0) + 1e-8 for step in bert.steps}
    assert_equal(
        ask(built("tracin-we-adam", second_moment="estimate"), bert.queries), expect(bert, dense, moments=moments)
    )


@pytest.mark.parametrize("method", ["tracin-we", "tracin-we-adam"])
def test_unit_norm(bert: Truth, dense: Any, built: Any, method: str) -> None:
    moments = {step: bert.moment(step) + 1e-8 for step in bert.steps} if method == "tracin-we-adam" else None
    found = ask(built(method, unit_norm=True), bert.queries)
    assert_equal(found, expect(bert, dense, Settings(unit=True), moments))


def test_tracin_last_of_a_classifier(bert: Truth, built: Any) -> None:
    last = {step: tuple(bert.last(step, rows) for rows in (bert.training, bert.queries)) for step in bert.steps}
    assert_equal(ask(built("tracin-last"), bert.queries), expect(bert, last))


@pytest.mark.parametrize("method", METHODS)
def test_shares_and_checkpoints_sum_to_the_score(bert: Truth, built: Any, method: str) -> None:
    changes = {"synonym_threshold": 0.35} if method == "tracin-we-syn" else {}
    assert_shares_sum(built(method, **changes), bert.queries[:5])


@pytest.mark.parametrize("method", METHODS)
def test_a_training_text_helps_itself(bert: Truth, built: Any, method: str) -> None:
    changes = {"synonym_threshold": 0.35} if method == "tracin-we-syn" else {}
    own = ask(built(method, **changes), bert.training[:30])
    assert (np.diagonal(own) > 0).all()


@pytest.mark.parametrize("method", ["tracin-we", "tracin-we-adam"])
def test_swapping_the_two_sides_leaves_the_score(bert: Truth, built: Any, method: str) -> None:
    own = ask(built(method), bert.training[:30])[:, :30]
    np.testing.assert_allclose(own, own.T, rtol=1e-4, atol=1e-6 * np.abs(own).max())


def test_against_is_the_difference_of_two_labels(bert: Truth, built: Any) -> None:
    for method in ("tracin-we", "tracin-we-noc", "tracin-we-adam", "tracin-last"):
        index, texts = built(method), [row["text"] for row in bert.queries[:6]]
        one, other = (index.scores(texts, [name] * 6) for name in NAMES[:2])
        np.testing.assert_allclose(
            index.scores(texts, [NAMES[0]] * 6, against=NAMES[1]), one - other, atol=1e-5 * np.abs(one).max()
        )


def test_a_text_without_a_token_in_common_says_so(bert: Truth, built: Any) -> None:
    without, plain = (
        built(method).explain("ζ", label="sport", baselines=False) for method in ("tracin-we-noc", "tracin-we")
    )
    assert without.proponents == without.opponents == ()
    assert any("no token of this text" in note for note in without.notes)
    assert not built("tracin-we-noc").scores(["ζ"], ["sport"]).any()
    assert plain.proponents or plain.opponents
    assert any("only from special tokens" in note for note in plain.notes)


def test_queries_together_equal_queries_alone(bert: Truth, built: Any) -> None:
    """The search itself, over all queries at once."""
    for method in ("tracin-we", "tracin-we-syn", "tracin-last"):
        index = built(method)
        store = Store(index.store.folder)
        examples = [proponent.Example(row["id"], 0, row["text"], row["label"]) for row in bert.queries]
        encoder = index.run.encoder(store.plan.max_length)
        gradients = {}
        for checkpoint in index.run.checkpoints:
            work = GradientComputer(index.run, index.run.load(checkpoint), store.plan.method, encoder)
            labels = [NAMES.index(row["label"]) for row in bert.queries]
            gradients[checkpoint.id] = work.train(encoder.encode(examples), labels).gradient
        found = Search(store).scores(gradients, len(examples))
        assert_equal(found, ask(index, bert.queries))


def test_equal_scores_stand_in_the_order_of_the_data(bert: Truth, built: Any) -> None:
    answer = built("label").explain("the market fell", label="money", k=15)
    money = [row for row, one in enumerate(bert.training) if one["label"] == "money"]
    others = [row for row, one in enumerate(bert.training) if one["label"] != "money"]
    assert [hit.row for hit in answer.proponents] == money[:15]
    assert [hit.row for hit in answer.opponents] == others[:15]
    index = built()
    np.testing.assert_array_equal(ask(index, bert.queries), ask(index, bert.queries))


PATHS: dict[str, tuple[Place, ...]] = {"exact": ("input", "output"), "input": ("input",), "output": ("output",)}


@pytest.mark.parametrize("path", PATHS)
def test_tied_language_model(gpt2: Truth, fresh: Folder, path: str) -> None:
    index = build(gpt2, fresh("tied"), "tracin-we", path=path)
    both = (gpt2.training, gpt2.queries)
    tables = {step: tuple(gpt2.gradients(step, rows, PATHS[path]) for rows in both) for step in gpt2.steps}
    assert_equal(ask(index, gpt2.queries), expect(gpt2, tables))
    assert_shares_sum(index, gpt2.queries[:3])
    assert (np.diagonal(ask(index, gpt2.training[:12])) > 0).all()
    assert answers(index, gpt2.queries[:1])[0].embedding_path == path


def test_tied_language_model_is_exact_by_default_and_sums_when_asked(gpt2: Truth, fresh: Folder) -> None:
    index = build(gpt2, fresh("tied"), "tracin-we", loss="sum", steps=[20])
    both = (gpt2.training[:12], gpt2.queries[:3])
    tables = {20: tuple(gpt2.gradients(20, rows, PATHS["exact"], loss="sum") for rows in both)}
    truth = tracin([(RATES[20], *tables[20], None, gpt2.embedding(20))])
    assert_equal(ask(index, gpt2.queries[:3])[:, :12], truth)


@pytest.mark.parametrize("path", ["exact", "output", "input"])
def test_adam_on_a_tied_table(gpt2: Truth, fresh: Folder, path: str) -> None:
    index = build(gpt2, fresh("tied"), "tracin-we-adam", path=path)
    both = (gpt2.training, gpt2.queries)
    tables = {step: tuple(gpt2.gradients(step, rows, PATHS[path]) for rows in both) for step in gpt2.steps}
    moments = {step: gpt2.moment(step) + 1e-8 for step in gpt2.steps}
    assert_equal(ask(index, gpt2.queries), expect(gpt2, tables, moments=moments))
    assert_shares_sum(index, gpt2.queries[:3])


@pytest.mark.parametrize("method", ["tracin-we", "tracin-we-topk", "tracin-last"])
def test_untied_language_model(llama: Truth, fresh: Folder, method: str) -> None:
    index = build(llama, fresh("untied"), method, **({"top": 4} if method == "tracin-we-topk" else {}))
    both = (llama.training, llama.queries)
    place: tuple[Place, ...] = ("output",) if method == "tracin-last" else ("input",)
    tables = {step: tuple(llama.gradients(step, rows, place) for rows in both) for step in llama.steps}
    settings = Settings(top=4) if method == "tracin-we-topk" else Settings()
    assert_equal(ask(index, llama.queries), expect(llama, tables, settings))
    assert_shares_sum(index, llama.queries[:3])


@pytest.mark.parametrize(
    "make",
    [
        lambda at: decoder_run(at, pad=True),
        lambda at: decoder_run(at, pad=False),
        lambda at: decoder_run(at, "llama", pad=True),
        pair_run,
    ],
)
def test_other_classifiers(fresh: Folder, make: Callable[[Path], Truth]) -> None:
    """A decoder that pads, one that cannot, and pairs of texts."""
    truth = make(fresh("other"))
    index = build(truth, fresh("index"), "tracin-we")
    tables = {10: tuple(truth.gradients(10, rows) for rows in (truth.training, truth.queries))}
    assert_equal(ask(index, truth.queries), expect(truth, tables))
    assert_shares_sum(index, truth.queries[:2])
    last = build(truth, fresh("index"), "tracin-last")
    tables = {10: tuple(truth.last(10, rows) for rows in (truth.training, truth.queries))}
    assert_equal(ask(last, truth.queries), expect(truth, tables))


@pytest.mark.parametrize("path", ["exact", "input"])
def test_a_text_with_nothing_to_predict_is_left_out(gpt2: Truth, fresh: Folder, path: str) -> None:
    lonely = {"id": "lonely", "text": "g", "target": None}
    more = Truth(gpt2.folder, (20,), [*gpt2.training[:6], lonely, *gpt2.training[6:12]], gpt2.queries[:2], lm=True)
    index = build(more, fresh("lonely"), "tracin-we", path=path, steps=[20])
    found = ask(index, more.queries)
    assert np.isnan(found).any(0).tolist() == [row is lonely for row in more.training]
    assert [(one.id, one.row) for one in index.store.manifest.skipped] == [("lonely", 6)]
    assert "loss is not finite at step 20" in index.store.manifest.skipped[0].cause
    kept = [
        array
        for _, arrays in index.store.shards(CheckpointId(0, 20))
        for name, array in arrays.items()
        if name != "meta.losses"
    ]
    assert all(np.isfinite(array).all() for array in kept)
    rest = [row for row in more.training if row is not lonely]
    tables = {20: tuple(more.gradients(20, rows, PATHS[path]) for rows in (rest, more.queries))}
    assert_equal(np.delete(found, 6, axis=1), expect(more, tables))


@pytest.mark.parametrize(
    ("method", "changes", "message"),
    [
        ("tracin-we-topk", {"path": "exact"}, "choose --path input"),
        ("tracin-we", {"unit_norm": True}, "choose --path input"),
        ("tracin-last", {"preconditioner": "adam"}, "gradients of the last layer"),
        ("tracin-last", {"top": 3}, "uses the last layer"),
    ],
)
def test_methods_that_cannot_be_are_refused(
    gpt2: Truth, fresh: Folder, method: str, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        build(gpt2, fresh("never"), method, **changes)


def test_the_output_path_needs_a_shared_table(llama: Truth, fresh: Folder) -> None:
    with pytest.raises(InputError, match="needs a head that shares"):
        build(llama, fresh("never"), "tracin-we", path="output")


def test_assignment_takes_the_largest_total() -> None:
    similar = np.asarray([[0.9, 0.8], [0.85, 0.1]], dtype=np.float32)
    assert sorted(assign(similar, 0.5)) == [(0, 1), (1, 0)]  # 1.65, more than the largest pair alone
    assert assign(similar, 0.87) == [(0, 0)]
    assert assign(similar, 0.95) == []
    assert assign(similar[:0], 0.5) == []


def test_factors_of_the_queries_give_what_their_tables_give(gpt2: Truth, fresh: Folder, monkeypatch: Any) -> None:
    index = build(gpt2, fresh("tied"), "tracin-we")
    by_factors = ask(index, gpt2.queries)
    monkeypatch.setattr(vocabulary_heads, "_few_positions", lambda *_: False)
    np.testing.assert_allclose(by_factors, ask(index, gpt2.queries), rtol=1e-5, atol=1e-6 * np.abs(by_factors).max())


@pytest.mark.parametrize("method", [*METHODS, "grad-cos-mid", "grad-cos-bm25", "bm25"])
@pytest.mark.parametrize("label", [None, NAMES[0]])
def test_a_ranking_with_all_scores_is_the_same_ranking(bert: Truth, built: Any, method: str, label: str | None) -> None:
    """One pass gives both: equal to those of the pruned search and of a pass for the scores alone."""
    index = built(method)
    where = Where() if label is None else Where(labels=[label])
    batch = index._ask(queries_of([one["text"] for one in bert.queries[:2]]), None)
    rankings, scores = index._scorer.top_with_scores(batch, [0, 1], 4, where)
    np.testing.assert_allclose(scores, index._scorer.scores(batch, [0, 1]), rtol=1e-12, atol=0)
    for one, alone in zip(rankings, index._scorer.top(batch, [0, 1], 4, where), strict=True):
        for name in ("proponents", "proponent_scores", "opponents", "opponent_scores"):
            assert getattr(one, name).tolist() == getattr(alone, name).tolist(), name
