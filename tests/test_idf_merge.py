"""Document frequencies of an index: counted exactly, and again when indexes are merged; bad input."""

import shutil
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import proponent
from proponent.errors import DamagedError, DataError, InputError, MismatchError
from proponent.gradients.gradient import Gradient
from proponent.method import IDF
from proponent.preconditioners.base import preconditioners_of
from proponent.preconditioners.refitting import refit
from proponent.search import Search
from proponent.store import Manifest, Store, delete, merge, verify
from test_search import answers, ask, assert_equal, build
from truth import RATES, Row, Truth, classifier_run, lm_run

Said = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Truth:
    made = classifier_run(tmp_path_factory.mktemp("bert") / "run")
    return Truth(made.folder, made.steps, made.training[:36], made.queries[:5])


@pytest.fixture(scope="module")
def whole(bert: Truth, tmp_path_factory: pytest.TempPathFactory) -> proponent.Index:
    return build(bert, tmp_path_factory.mktemp("whole") / "index", "tracin-we-idf")


def part(truth: Truth, folder: Path, training: list[Row], **options: Any) -> Path:
    proponent.build(truth.folder, training, folder, options.pop("method", "tracin-we-idf"), quiet=True, **options)
    return folder


def merged(folder: Path, *others: Path) -> Manifest:
    return merge(folder, others, refit=refit)[0]


def assert_as_whole(folder: Path, whole: proponent.Index, queries: list[Row]) -> None:
    """Scores, rankings and words are those of one index over all rows, and every file is right."""
    index = proponent.Index(folder)
    assert index.store.examples["id"] == whole.store.examples["id"]
    assert_equal(ask(index, queries), ask(whole, queries), 1e-6)
    for mine, theirs in zip(answers(index, queries), answers(whole, queries), strict=True):
        for side in ("proponents", "opponents"):
            found, wanted = getattr(mine, side), getattr(theirs, side)
            assert [hit.id for hit in found] == [hit.id for hit in wanted]
            np.testing.assert_allclose([hit.score for hit in found], [hit.score for hit in wanted], rtol=1e-6)
            for hit in found:
                assert sum(word.share for word in hit.words) == pytest.approx(hit.score, rel=1e-6)
    assert not verify(folder).damage


def assert_exact_bounds(folder: Path, queries: list[Row]) -> None:
    """No score is above its bound, and pruned rankings are those of all scores."""
    index = proponent.Index(folder)
    asked = [proponent.Example(row["id"], at, row["text"], label=row["label"]) for at, row in enumerate(queries)]
    gradients, count = index._ask(asked, None).gradients, len(queries)
    scores = np.abs(Search(index.store).scores(gradients, count))
    ranked = [Search(index.store, prune=prune).top(gradients, count, 5) for prune in (True, False)]
    for pruned, full in zip(*ranked, strict=True):
        for name in ("proponents", "opponents", "proponent_scores", "opponent_scores"):
            np.testing.assert_array_equal(getattr(pruned, name), getattr(full, name))
    ready = {at: one.rows.wide().merged(by_word=False) for at, one in gradients.items() if one.rows is not None}
    for segment in index.store.segments:
        meeting = Search(index.store)._meeting(segment, ready, segment.alive, count)
        assert meeting is not None
        own, slack = scores[:, segment.offset : segment.offset + segment.n], 1 + meeting.error
        meeting.__dict__["stream_cost"] = np.inf  # bounds are computed whatever they cost
        quick, close = meeting.quick_bounds(), meeting.bounds(np.zeros(count))
        assert quick is not None
        assert close is not None
        assert (own <= quick * slack).all()
        assert (own <= close * slack).all()
        assert (own.max(axis=1) <= meeting.ceilings() * slack).all()


def plain_count(truth: Truth, rows: list[Row], limit: int | None = None) -> Counter[int]:
    special = set(truth.tokenizer.all_special_ids)
    return Counter(token for row in rows for token in {*truth.text(row).ids[:limit]} - special)


def assert_counts(index: proponent.Index, wanted: Counter[int], n: int) -> None:
    for one in index.store.plan.checkpoints:
        table = index.store.table(one.id)
        assert table["documents"].tolist() == [n]
        assert {token: int(table["frequencies"][token]) for token in np.flatnonzero(table["frequencies"])} == wanted


def test_frequencies_are_a_plain_count_over_the_tokenized_texts(whole: proponent.Index, bert: Truth) -> None:
    assert_counts(whole, plain_count(bert, bert.training), 36)


@pytest.mark.parametrize("path", ["input", "output", "exact"])
def test_frequencies_of_a_tied_language_model_are_a_plain_count(tmp_path: Path, path: str) -> None:
    truth = lm_run(tmp_path / "run", "gpt2", tied=True)
    assert_counts(build(truth, tmp_path / "i", "tracin-we-idf", path=path), plain_count(truth, truth.training), 24)


def test_what_is_cut_off_does_not_count(tmp_path: Path) -> None:
    truth = lm_run(tmp_path / "run", "gpt2", tied=True)
    rows = [{"id": row["id"], "text": row["text"] + (row["target"] or "")} for row in truth.training]
    found = proponent.build(truth.folder, rows, tmp_path / "i", "tracin-we-idf", max_length=6, quiet=True)
    assert_counts(found, plain_count(truth, rows, 6), 24)


def test_shares_of_the_shards_count_as_one_build(bert: Truth, whole: proponent.Index, tmp_path: Path) -> None:
    for share in ("0/2", "1/2"):
        part(bert, tmp_path / "index", bert.training, shard=share, segment_rows=12)
    assert_as_whole(tmp_path / "index", whole, bert.queries)
    assert_counts(proponent.Index(tmp_path / "index"), plain_count(bert, bert.training), 36)


def test_after_an_append_a_merge_counts_again(bert: Truth, whole: proponent.Index, tmp_path: Path) -> None:
    folder = part(bert, tmp_path / "index", bert.training[:20])
    part(bert, folder, bert.training[20:], append=True)
    before = proponent.Index(folder)
    assert any("document frequencies are those of the first build" in one for one in before.store.manifest.notes)
    with pytest.raises(AssertionError):
        assert_equal(ask(before, bert.queries), ask(whole, bert.queries), 1e-3)
    manifest = merged(folder)
    assert not any("document frequencies" in one for one in manifest.notes)
    assert_as_whole(folder, whole, bert.queries)
    assert_exact_bounds(folder, bert.queries)
    assert_counts(proponent.Index(folder), plain_count(bert, bert.training), 36)
    assert merge(folder, refit=refit) == (manifest, False)


def test_two_indexes_become_one(bert: Truth, whole: proponent.Index, tmp_path: Path) -> None:
    """One of them has rows of its own, and another has deleted rows."""
    first = part(bert, tmp_path / "a", bert.training[:9])
    second = part(bert, tmp_path / "b", bert.training[9:30])
    third = part(bert, tmp_path / "c", [*bert.training[30:], bert.training[0] | {"id": "gone"}], segment_rows=4)
    delete(third, np.asarray([6]))
    held = {folder: sorted(path.read_bytes() for path in folder.rglob("*.*")) for folder in (second, third)}
    manifest = merged(first, second, third)
    assert [one.n for one in manifest.sources] == [9, 21, 7]
    assert_as_whole(first, whole, bert.queries)
    assert_exact_bounds(first, bert.queries)
    assert {folder: sorted(path.read_bytes() for path in folder.rglob("*.*")) for folder in held} == held
    assert merge(first, [second, third], refit=refit) == (manifest, False), "they are in it already"


def test_an_index_is_appended_to_after_a_merge(bert: Truth, whole: proponent.Index, tmp_path: Path) -> None:
    folder = part(bert, tmp_path / "a", bert.training[:10])
    merged(folder, part(bert, tmp_path / "b", bert.training[10:20]))
    halfway = proponent.Index(folder).store
    part(bert, folder, bert.training[20:], append=True)
    after = proponent.Index(folder).store
    first = after.plan.checkpoints[0].id
    np.testing.assert_array_equal(after.table(first)["frequencies"], halfway.table(first)["frequencies"])
    np.testing.assert_array_equal(after.scale(first)[:20], halfway.scale(first))
    assert any("document frequencies" in one for one in after.manifest.notes)
    merged(folder)
    assert_as_whole(folder, whole, bert.queries)
    assert sum(path.name.startswith("gen-") for path in (folder / "tables").iterdir()) == 1


def test_deleted_rows_no_longer_count_after_a_merge(bert: Truth, whole: proponent.Index, tmp_path: Path) -> None:
    rows = [*bert.queries, *bert.training]
    folder = part(bert, tmp_path / "index", [row | {"id": f"{at}"} for at, row in enumerate(rows)])
    delete(folder, np.arange(len(bert.queries)))
    merged(folder)
    index = proponent.Index(folder)
    assert_equal(ask(index, bert.queries), ask(whole, bert.queries), 1e-6)


def test_a_killed_merge_resumes(bert: Truth, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = (
        part(bert, tmp_path / name, rows) for name, rows in (("a", bert.training[:18]), ("b", bert.training[18:]))
    )
    other = Path(shutil.copytree(first, tmp_path / "other"))
    before = ask(proponent.Index(first), bert.queries)

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(sys.modules[merge.__module__], "publish_manifest", stop)
        with pytest.raises(KeyboardInterrupt):
            merged(first, second)
    np.testing.assert_array_equal(ask(proponent.Index(first), bert.queries), before)
    assert merged(first, second).merkle_root == merged(other, second).merkle_root


def test_other_methods_are_merged_too(bert: Truth, tmp_path: Path) -> None:
    """Tables that do not depend on the rows are the same in both."""
    for method in ("tracin-we", "tracin-we-adam-unit", "grad-cos"):
        folders = [
            part(bert, tmp_path / f"{method}-{name}", rows, method=method)
            for name, rows in (("a", bert.training[:18]), ("b", bert.training[18:]), ("c", bert.training))
        ]
        merged(folders[0], folders[1])
        index, other = proponent.Index(folders[0]), proponent.Index(folders[2])
        assert_equal(ask(index, bert.queries), ask(other, bert.queries), 1e-6)


def test_indexes_that_do_not_fit_are_refused(bert: Truth, tmp_path: Path) -> None:
    first = part(bert, tmp_path / "a", bert.training[:18])
    root = Store(first).manifest.merkle_root
    with pytest.raises(InputError, match="cannot be merged into itself"):
        merged(first, tmp_path / "." / "a")
    with pytest.raises(InputError, match="no index at"):
        merged(first, tmp_path / "none")
    with pytest.raises(DataError, match=r"3 ids of .* are in the other indexes already"):
        merged(first, part(bert, tmp_path / "b", bert.training[15:]))
    other = part(bert, tmp_path / "c", bert.training[18:], rows="int8")
    with pytest.raises(MismatchError, match="its rows is int8, not fp32: only indexes of the same run and method"):
        merged(first, other)
    fitted = [
        part(bert, tmp_path / name, rows, method="tracin-we-adam", second_moment="estimate")
        for name, rows in (("d", bert.training[:18]), ("e", bert.training[18:]))
    ]
    with pytest.raises(MismatchError, match="its inverse_root at step 5 was fitted to other rows"):
        merged(*fitted)
    assert Store(first).manifest.merkle_root == root


def test_frequencies_of_another_index_are_refused(bert: Truth, tmp_path: Path) -> None:
    """Their checksums are not those of the file that was written."""
    first, second = (
        part(bert, tmp_path / name, rows) for name, rows in (("a", bert.training[:18]), ("b", bert.training[18:]))
    )
    for path in (second / "tables").iterdir():
        shutil.copy(path, first / "tables")
    with pytest.raises(DamagedError, match=r"tables/step-.*safetensors differs from what was written"):
        ask(proponent.Index(first), bert.queries)


def test_the_command_says_what_it_did(bert: Truth, tmp_path: Path, said: Said) -> None:
    first, second = (
        part(bert, tmp_path / name, rows) for name, rows in (("a", bert.training[:18]), ("b", bert.training[18:]))
    )
    code, out, _ = said("merge", first, second)
    assert code == 0
    assert "1 segments before, 1 after" in out
    assert "document frequencies were counted again" in out
    assert said("merge", first, second)[1] == f"{first}: there was nothing to merge\n"
    assert "are in the other indexes already" in said("merge", second, first)[2]


def test_a_text_of_special_tokens_only(bert: Truth, tmp_path: Path) -> None:
    """It has no row: it scores 0, counts as a text, and a query of that kind is told so."""
    row = {"id": "special", "text": "[SEP] [CLS]", "label": bert.training[0]["label"]}
    index = proponent.build(bert.folder, [row, *bert.training], tmp_path / "index", "tracin-we-idf", quiet=True)
    assert_counts(index, plain_count(bert, bert.training), 37)
    scores = ask(index, [row, *bert.queries])
    assert not scores[0].any()
    assert not scores[:, 0].any()
    assert np.isfinite(scores).all()
    (answer,) = answers(index, [row])
    assert not answer.proponents
    assert any("no token of this text occurs in the training set" in note for note in answer.notes)


def test_words_that_no_training_text_holds_are_named(bert: Truth, tmp_path: Path) -> None:
    counts = plain_count(bert, bert.training)
    token = min(counts, key=counts.__getitem__)
    word = bert.tokenizer.convert_ids_to_tokens(token)
    apart = [row for row in bert.training if token not in bert.text(row).ids]
    index = proponent.build(bert.folder, apart, tmp_path / "index", "tracin-we-idf", quiet=True)
    other = next(row for row in apart if row["text"].isalpha())
    (answer,) = answers(index, [other | {"text": f"{word} {other['text']} {word}"}])
    assert f"tokens of these words are in no training text and match nothing: {word}" in answer.notes
    assert answer.proponents
    assert not any("match nothing" in note for note in answers(index, [other])[0].notes)


def test_counts_that_do_not_fit_are_refused(bert: Truth, whole: proponent.Index, tmp_path: Path) -> None:
    """A faulty writer may have written them, with the right checksums."""
    (fitter,) = preconditioners_of(whole.store.plan.term)
    at = whole.store.plan.checkpoints[0].id
    gradient, table = Gradient.unpack(next(whole.store.shards(at))[1]), whole.store.table(at)
    fitter.apply(gradient, table, (), None)
    for other in ({"documents": np.asarray([2])}, {"frequencies": table["frequencies"][:9]}):
        with pytest.raises(DamagedError, match="are those of another: build the index again"):
            fitter.apply(gradient, {**table, **other}, (), None)


def test_a_shared_head_that_is_kept_apart_is_refused(tmp_path: Path) -> None:
    """Without directions the head's gradient is no rows, and idf cannot weigh it."""
    truth = lm_run(tmp_path / "run", "gpt2", tied=True)
    method = proponent.Gradients(preconditioners=(IDF(),))
    with pytest.raises(InputError, match="weighs the rows of the embedding, and this model's head shares its table"):
        build(truth, tmp_path / "i", method)
    index = build(truth, tmp_path / "i", method, path="input")
    assert np.isfinite(ask(index, truth.queries)).all()


def test_a_single_checkpoint_is_a_cosine(bert: Truth, tmp_path: Path) -> None:
    index = build(bert, tmp_path / "index", "tracin-we-idf", steps=[20])
    scores = ask(index, bert.training[:4])
    np.testing.assert_allclose(scores[np.arange(4), np.arange(4)], RATES[20], rtol=1e-5)
    assert any(one.startswith("checkpoints used: 1;") for one in index.store.manifest.notes)


WORDS = ("goal", "bank", "planet", "team", "rates", "the", "late")


@settings(max_examples=12, deadline=None)
@given(texts=st.lists(st.lists(st.sampled_from(WORDS), min_size=1, max_size=6), min_size=2, max_size=6))
def test_words_sum_to_the_score_and_both_sides_have_norm_1(
    bert: Truth, tmp_path_factory: pytest.TempPathFactory, texts: list[list[str]]
) -> None:
    """An example that is asked about itself scores the sum of the weights, unless no token of it has an idf."""
    rows = [
        {"id": f"{at}", "text": " ".join(words), "label": bert.training[at]["label"]} for at, words in enumerate(texts)
    ]
    folder = tmp_path_factory.mktemp("some") / "index"
    index = proponent.build(bert.folder, rows, folder, "tracin-we-idf", quiet=True)
    scores, most = ask(index, rows), sum(RATES[step] for step in bert.steps)
    assert np.abs(scores).max() <= most * (1 + 1e-5)
    frequency = Counter(word for words in texts for word in {*words})
    flat = min(frequency.values()) == len(texts)
    for at, words in enumerate(texts):
        own = flat or any(frequency[word] < len(texts) for word in words)
        assert scores[at, at] == pytest.approx(most if own else 0.0, rel=1e-5)
    for answer, row in zip(answers(index, rows), scores, strict=True):
        for hit in (*answer.proponents, *answer.opponents):
            assert hit.score == pytest.approx(row[hit.row], rel=1e-4, abs=1e-6 * most)
            assert sum(word.share for word in hit.words) == pytest.approx(hit.score, rel=1e-5, abs=1e-9)
