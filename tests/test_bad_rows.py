"""Rows without a finite loss or gradient: left out, named, counted, and past a limit refused."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from proponent.errors import InputError
from proponent.models import Run
from runs import OTHERS as ROWS
from runs import index as build

Copy = Callable[[Path], Path]
TEXT = "Retail sales of the bank."


@pytest.fixture
def poisoned(bert_run: Path, copied: Copy) -> Path:
    """The same run, where the word "treaty" has no finite embedding at step 16."""
    folder = copied(bert_run)
    tokenizer = Run.from_pretrained(folder).tokenizer
    token = tokenizer.convert_tokens_to_ids("treaty")
    assert token != tokenizer.unk_token_id
    weights = folder / "checkpoint-16" / "model.safetensors"
    arrays = load_file(weights)
    arrays["bert.embeddings.word_embeddings.weight"][token] = np.nan
    save_file(arrays, weights, metadata={"format": "pt"})
    return folder


BAD = [row for row, example in enumerate(ROWS) if "treaty" in example["text"].lower()]


@pytest.mark.parametrize("method", ["tracin-we", "tracin-last", "random"])
def test_rows_without_a_finite_loss_are_left_out(poisoned: Path, tmp_path: Path, method: str) -> None:
    assert 1 < len(BAD) < 10
    index = build(poisoned, tmp_path / "index", method, max_bad_rows=0.5)
    listed = [(one.id, one.row, one.cause) for one in index.store.manifest.skipped]
    assert listed == [(f"n{row}", row, "loss is not finite at step 16") for row in BAD]
    scores = index.scores([TEXT], ["World"])[0]
    assert np.flatnonzero(np.isnan(scores)).tolist() == BAD
    answer = index.explain("The minister and the border.", k=len(ROWS))
    shown = {hit.row for hit in (*answer.proponents, *answer.opponents)}
    ranked = {hit.row for hits in answer.baselines.values() for hit in hits}
    assert not (shown | ranked) & set(BAD)
    assert ranked == set(range(len(ROWS))) - set(BAD)
    assert any(f"{len(BAD)} training rows have no finite loss" in note for note in answer.notes)
    assert "NaN" not in answer.to_json()


def test_the_scores_of_the_others_do_not_change(poisoned: Path, bert_run: Path, tmp_path: Path) -> None:
    options = {"steps": [8, 16], "max_bad_rows": 0.5}
    bad = build(poisoned, tmp_path / "bad", **options).scores([TEXT], ["World"])[0]
    good = build(bert_run, tmp_path / "good", **options).scores([TEXT], ["World"])[0]
    kept = np.setdiff1d(np.arange(len(ROWS)), BAD)
    np.testing.assert_allclose(bad[kept], good[kept], rtol=1e-6)


def test_too_many_bad_rows_stop_the_build_with_their_list(poisoned: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"more than the 1 that --max-bad-rows 0.01 allows: ") as caught:
        build(poisoned, tmp_path / "index")
    assert all(f"id n{row} (row {row}): loss is not finite at step 16" in str(caught.value) for row in BAD)
    assert caught.value.exit_code == 2
    assert build(poisoned, tmp_path / "index", max_bad_rows=0.5).store.manifest.skipped, "with leave it goes on"


def test_one_bad_row_is_allowed_unless_none_is(poisoned: Path, tmp_path: Path) -> None:
    data = [ROWS[BAD[0]], *(row for number, row in enumerate(ROWS) if number not in BAD)]
    with pytest.raises(InputError, match="1 rows have no finite loss or gradient, more than the 0"):
        build(poisoned, tmp_path / "none", data=data, max_bad_rows=0.0)
    assert [one.row for one in build(poisoned, tmp_path / "one", data=data).store.manifest.skipped] == [0]
    with pytest.raises(InputError, match=r"no row of .* has a finite loss and gradient"):
        build(poisoned, tmp_path / "all", data=data[:1])


def test_a_text_of_one_token_is_a_bad_row_of_a_language_model(lm_run: Path, tmp_path: Path) -> None:
    data = [{"text": "Sales"}, *({"text": row["text"]} for row in ROWS[:9])]
    index = build(lm_run, tmp_path / "index", data=data)
    assert [(one.row, one.cause) for one in index.store.manifest.skipped] == [(0, "loss is not finite at step 3")]
    assert np.isnan(index.scores([ROWS[0]["text"]])[0]).tolist() == [True, *[False] * 9]
    with pytest.raises(InputError, match=r"the text is not finite at step 3: .*two tokens"):
        index.explain("Sales")


def test_a_query_that_is_not_finite_is_named(poisoned: Path, tmp_path: Path) -> None:
    index = build(poisoned, tmp_path / "index", max_bad_rows=0.5)
    with pytest.raises(InputError, match=r"the text is not finite at step 16"):
        index.explain("A treaty of the army.", label="World")
