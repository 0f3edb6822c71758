"""What a question reads of an index: names without arrays, and the texts that it needs."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import faults
import proponent
import tiny
from proponent.baselines import NAMES, Baselines, Texts
from proponent.data import StoredExamples
from proponent.store import Segment, Store, delete

TEXT = "The bank said shares fell"


def test_a_name_is_looked_up_without_its_array(news: tiny.Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(news.index)
    names = set(store.features)

    def refuse(*_: Any) -> np.ndarray:
        raise AssertionError("an array was read to look up a name")

    monkeypatch.setattr(Segment, "features", refuse)
    monkeypatch.setattr(StoredExamples, "column", refuse)
    assert "probabilities" in store.features
    assert "nothing" not in store.features
    assert 3 not in store.features
    assert set(store.features.keys()) == names
    assert len(store.features) == len(names)
    assert all(name in store.features for name in names)
    assert "text" in store.examples
    assert "nothing" not in store.examples


@pytest.fixture
def whole(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Columns that were read as a whole."""
    names = list[str]()
    real = StoredExamples.column

    def column(self: StoredExamples, name: str) -> list[Any]:
        names.append(name)
        return real(self, name)

    monkeypatch.setattr(StoredExamples, "column", column)
    return names


def test_fastif_reads_the_texts_of_its_candidates(
    news: tiny.Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: list[str]
) -> None:
    changes = {"candidates": 5.0, "depth": 2, "runs": 1, "sample": 2, "scale": 1e4, "layers": "head"}
    index = proponent.build(news.run, news.data, tmp_path / "index", method="fastif", quiet=True, **changes)
    whole.clear()
    counted = list[int]()
    real = StoredExamples.lengths

    def lengths(self: StoredExamples, name: str, numbers: np.ndarray) -> np.ndarray:
        counted.append(len(numbers))
        return real(self, name, numbers)

    monkeypatch.setattr(StoredExamples, "lengths", lengths)
    first = index.explain(TEXT, k=2, baselines=False)
    assert (set(counted), "text" in whole) == ({5}, False)
    assert first.proponents or first.opponents


def test_baselines_stream_the_texts(news: tiny.Tiny, whole: list[str]) -> None:
    index = proponent.open(news.index)
    answer = index.explain(TEXT, k=60)
    assert not {"id", "row", "text", "text_pair", "target"} & set(whole)
    columns, features = index.store.examples, index.store.features
    plain = Baselines(Texts(columns["text"], features["labels"], features["probabilities"], features["pooled"]))
    query = answer.query
    assert query.probabilities is not None
    for name in set(NAMES) - {"embedding"}:
        label = np.asarray([list(query.probabilities).index(str(query.label))])
        asked = Texts([TEXT], label, np.asarray([list(query.probabilities.values())]))
        scores = plain.scores(name, asked)[0]
        for hit in answer.baselines[name]:
            assert hit.score == pytest.approx(scores[hit.row], rel=1e-6, abs=1e-6)
            assert hit.id == columns["id"][hit.row]


def test_rows_are_taken_in_the_order_asked(news: tiny.Tiny) -> None:
    store = Store(news.index)
    places = np.asarray([7, 0, 7, 31])
    texts = store.examples["text"]
    assert store.take("text", places) == [texts[place] for place in places]
    assert store.lengths(places).tolist() == [len(texts[place]) for place in places]
    assert store.take("text", places[:0]) == []


def test_counts_of_what_cannot_be_found_do_not_overlap(tmp_path: Path) -> None:
    faults.build(tmp_path / "index")
    store = Store(tmp_path / "index")
    bad = np.flatnonzero(store.features["skipped"])
    assert store.counts == (store.n - len(bad), 0, len(bad))
    delete(store.folder, np.asarray([bad[0], bad[0] + 1]))
    assert Store(store.folder).counts == (store.n - len(bad) - 1, 2, len(bad) - 1)
