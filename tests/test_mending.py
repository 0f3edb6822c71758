"""Mending: the rows that are chosen, the fine-tuned copies, the controls at the same budget, and what is refused."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import proponent
import tiny
from proponent.actions import mending
from proponent.actions.mending import NEAREST, RANDOM, THEMSELVES, MendSettings, mend
from proponent.data import read
from proponent.errors import InputError, MismatchError, RunError
from proponent.evaluate.label_noise import plant
from proponent.models import Run
from proponent.store.deletion import delete
from proponent.types import Example

SETTINGS = MendSettings(rows=4, steps=3, anchors=3, learning_rate=1e-2, seeds=2)


@pytest.fixture(scope="module")
def asked(news: tiny.Tiny) -> tuple[proponent.Index, list[Example], list[Example]]:
    """An index, its rows, and texts of which every third has a wrong label."""
    train = list(read(news.data))
    wrong, _ = plant(train, 0.4, 0)
    errors = [Example(f"e{one.row}", one.row, one.text, one.label) for one in wrong]
    return proponent.open(news.index), train, errors


def mender(asked, settings: MendSettings = SETTINGS) -> mending._Mender:
    index, train, errors = asked
    return mending._Mender.of(index, train, errors, None, settings)


def test_the_rows_of_a_step_have_the_largest_sums_over_its_anchors(asked):
    found = mender(asked)
    index = asked[0]
    chosen = found.ways()[index.method]
    for split, steps in zip(found.splits, chosen, strict=True):
        for anchors, rows in zip(split.anchors, steps, strict=True):
            assert not split.held[anchors].any()
            examples = [found.problem.queries[at] for at in found.wrong[anchors].tolist()]
            total = np.sum([index.scores(one, one.label)[0] for one in examples], axis=0)
            np.testing.assert_allclose(np.sort(total[rows]), np.sort(total)[-len(rows) :], rtol=1e-5)


def test_every_way_has_the_same_budget_and_random_rows_have_the_same_classes(asked):
    found = mender(asked)
    ways = found.ways()
    assert list(ways) == [asked[0].method, RANDOM, NEAREST, THEMSELVES]
    labels = np.asarray([str(one.label) for one in found.problem.train])
    for ours, theirs in zip(ways[asked[0].method], ways[RANDOM], strict=True):
        for rows, drawn in zip(ours, theirs, strict=True):
            assert len(rows) == len(drawn) == SETTINGS.rows
            assert sorted(labels[rows]) == sorted(labels[drawn])
            assert not set(rows.tolist()) & set(drawn.tolist())
    first = len(asked[1])
    assert all(at >= first for steps in ways[THEMSELVES] for rows in steps for at in rows.tolist())


def test_no_way_draws_a_deleted_row(asked, tmp_path: Path):
    index, train, errors = asked
    shutil.copytree(index.store.folder, tmp_path / "copy.index")
    delete(tmp_path / "copy.index", np.arange(0, len(train), 2))
    found = mender((proponent.open(tmp_path / "copy.index"), train, errors))
    drawn = [rows for steps in found._random(found.ways()[found.index.method]) for rows in steps]
    assert found.index.store.alive[np.concatenate(drawn)].all()


def test_nearest_rows_have_the_largest_cosines_within_the_right_class(asked):
    found, index = mender(asked), asked[0]
    pooled = np.asarray(index.store.features["pooled"], dtype=np.float64)
    unit = pooled / np.linalg.norm(pooled, axis=1, keepdims=True)
    labels = index.store.features["labels"]
    split, steps = found.splits[0], found.ways()[NEAREST][0]
    examples = [found.problem.queries[at] for at in found.wrong[split.anchors[0]].tolist()]
    rows = {one.text: place for place, one in enumerate(asked[1])}
    total = np.zeros(len(pooled))
    for one in examples:  # every query is the text of a training row
        same = np.where(labels == found.problem.run.label_number(one.label), 1.0, -1.0)
        total += unit @ unit[rows[one.text]] * same
    np.testing.assert_allclose(np.sort(total[steps[0]]), np.sort(total)[-SETTINGS.rows :], atol=1e-5)


def test_a_copy_is_fine_tuned_as_torch_would_and_the_run_stays_as_it_was(asked, news):
    before = {path: path.read_bytes() for path in news.run.rglob("*") if path.is_file()}
    found = mender(asked)
    steps = found.ways()[asked[0].method][0]
    ours = found.fine_tuned(steps)
    run, encoder = found.problem.run, found.problem.run.encoder(found.problem.max_length)
    model = run.load(run.checkpoints[-1]).eval().requires_grad_(requires_grad=True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=SETTINGS.learning_rate, weight_decay=0.0)
    for rows in steps:
        examples = [found.problem.train[at] for at in rows.tolist()]
        labels = [run.label_number(one.label) for one in examples]
        batch = encoder.collate(encoder.encode(examples), labels)
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(**batch.inputs).logits, torch.tensor(labels)).backward()
        optimizer.step()
    theirs = found.problem.outputs(model).log_odds  # the key's bias, which changes nothing, follows rounding errors
    np.testing.assert_allclose(found.problem.outputs(ours).log_odds, theirs, rtol=1e-4, atol=1e-4)
    assert np.abs(theirs - found.problem.outputs(found.problem.fresh(0).eval()).log_odds).max() > 0.1
    assert before == {path: path.read_bytes() for path in news.run.rglob("*") if path.is_file()}


def test_the_report_counts_held_out_errors_only(asked, tmp_path: Path):
    index, train, errors = asked
    page = mend(index, train, errors, settings=SETTINGS, save=tmp_path / "mended", quiet=True)
    found = mender(asked)
    steps = found.ways()[index.method]
    shares: dict[int, list[bool]] = {}
    for split, rows in zip(found.splits, steps, strict=True):
        right = found.predicted(found.fine_tuned(rows)) == found.truth
        for at in np.flatnonzero(split.held).tolist():
            shares.setdefault(at, []).append(bool(right[found.wrong[at]]))
    ours = page.rows[0]
    assert not ours.control
    assert ours.verdict
    assert ours.figures[0].value == pytest.approx(np.mean([np.mean(one) for one in shares.values()]))
    assert {one.method for one in page.rows if one.control} == {RANDOM, NEAREST, THEMSELVES}
    (chosen,) = page.evidence
    assert sum(one.value for one in chosen.rows) <= SETTINGS.rows * SETTINGS.steps * SETTINGS.seeds
    assert f"<bdi>{chosen.rows[0].id}</bdi>" in page._repr_html_()
    saved = Run.from_pretrained(tmp_path / "mended")
    assert saved.task.labels.names == index.run.task.labels.names
    model = saved.load(saved.checkpoints[-1])
    before, after = (found.problem.outputs(one).log_odds for one in (found.problem.fresh(0).eval(), model))
    assert np.abs(after - before).max() > 0.1


def test_a_pair_with_a_known_first_text_is_no_training_row():
    pairs = [Example(str(at), at, "the cup", text_pair=text) for at, text in enumerate(("won", "lost"))]
    split = mending._Split((np.arange(1),), np.asarray([False, True]))
    known = pairs[:1]
    assert not any(
        "also training rows" in one for one in mending._notes(2, np.arange(2), False, split, known, pairs[1:])
    )
    assert mending._notes(2, np.arange(2), False, split, known, pairs)[-1] == "1 measured texts are also training rows"


def test_what_cannot_be_mended_is_refused(asked, lines: tiny.Tiny):
    index, train, errors = asked
    right = [replace(one, label=name) for one, name in zip(train, index.predict(train), strict=True)]
    with pytest.raises(InputError, match=r"predicts 0 of 60 rows wrongly: at least 2"):
        mend(index, train, right, settings=SETTINGS, quiet=True)
    with pytest.raises(MismatchError, match="not those of the index"):
        mend(index, train[1:], errors, settings=SETTINGS, quiet=True)
    with pytest.raises(InputError, match="diverged: weights are not finite; lower the learning rate"):
        mend(index, train, errors, settings=replace(SETTINGS, learning_rate=1e38), quiet=True)
    with pytest.raises(InputError, match="not a classifier"):
        mend(proponent.open(lines.index), list(read(lines.data)), errors, settings=SETTINGS, quiet=True)
    with pytest.raises(RunError, match="the row with id e3 has no label"):
        mend(index, train, [Example("e3", 3, "a text")], settings=SETTINGS, quiet=True)
    with pytest.raises(InputError, match="a step takes 61 rows, and the index has 60: take fewer"):
        mend(index, train, errors, settings=replace(SETTINGS, rows=61), quiet=True)
    adapter = replace(index.run, info=replace(index.run.info, adapter=True))
    with pytest.raises(InputError, match="is an adapter, which is not mended: merge it into its base"):
        mending.refuse_unmendable(adapter, None)
    with pytest.raises(InputError, match="exists already and is not replaced"):
        mend(index, train, errors, settings=SETTINGS, save=index.run.path, quiet=True)
    with pytest.raises(InputError, match="steps is 0: must be at least 1"):
        MendSettings(steps=0).check()
    with pytest.raises(InputError, match="learning rate is nan"):
        MendSettings(learning_rate=float("nan")).check()


def test_the_command(asked, news: tiny.Tiny, tmp_path: Path, said):
    rows = [{"id": one.id, "text": one.text, "label": one.label} for one in asked[2]]
    errors, page = tiny.write_csv(tmp_path / "errors.csv", rows), tmp_path / "page.html"
    words = ("mend", news.run, news.data, errors, "--index", tmp_path / "mend.index", "--method", "tracin-we")
    code, out, err = said(*words, "--learning-rate", "0.01", "--seeds", 1, "--out", page, "--json", "--quiet")
    assert code == 0, err
    content = json.loads(out)
    assert content["metric"] == "mend"
    assert content["rows"][0]["method"] == "tracin-we"
    assert "Training rows that were chosen most often" in page.read_text(encoding="utf-8")
    code, _, err = said("mend", news.run, news.data, tmp_path / "none.csv", "--index", tmp_path / "mend.index")
    assert code == 2
    assert "none.csv" in err
