"""Indexes whose plan holds the method as one flat record (format 2): opened, asked, resumed, appended to, merged."""

import json
from pathlib import Path
from typing import Any

import pytest

import proponent
import runs
from proponent.errors import DamagedError
from proponent.method_words import FLAT_DEFAULTS
from proponent.store import merge, verify
from proponent.store.checksums import sums_of_file
from proponent.store.manifest import Manifest, canonical

TEXT = str(runs.OTHERS[0]["text"])
LINE = "this index stores its method in the flat format of version 0.1"
FLAT: dict[str, dict[str, Any]] = {
    "tracin-we": {"unit_norm": True},
    "grad-cos": {"layer": "layers", "layers": ["all"], "project": 4, "similarity": "cosine"},
}
CHANGES: dict[str, dict[str, Any]] = {"tracin-we": {"unit_norm": True}, "grad-cos": {"project": 4}}


def as_format_2(folder: Path, method: str, **fields: object) -> bytes:
    """Write plan and manifest as version 0.1 did."""
    plan = json.loads((folder / "plan.json").read_text())
    (term,) = plan.pop("terms")
    del plan["method"]
    plan |= term | {"format": 2, "recipe": FLAT_DEFAULTS | {"name": method} | FLAT[method] | fields}
    written = (canonical(plan) + "\n").encode()
    (folder / "plan.json").write_bytes(written)
    manifest = Manifest.model_validate_json((folder / "manifest.json").read_text())
    files = manifest.files | {"plan.json": sums_of_file(folder / "plan.json")}
    sealed = manifest.model_copy(update={"files": files, "format": 2}).sealed()
    (folder / "manifest.json").write_text(canonical(sealed.model_dump()) + "\n")
    return written


@pytest.mark.parametrize("method", FLAT)
def test_an_index_of_format_2_is_read_and_changed(bert_run: Path, tmp_path: Path, method: str) -> None:
    folder = tmp_path / "i"
    built = runs.index(bert_run, folder, method, **CHANGES[method])
    expected = built.explain(TEXT, label="Business", k=3)
    written = as_format_2(folder, method)
    index = proponent.open(folder)
    assert index.store.plan.method == built.store.plan.method
    found = index.explain(TEXT, label="Business", k=3)
    assert [one.score for one in found.proponents] == [one.score for one in expected.proponents]
    assert sum(LINE in note for note in found.notes) == 1
    root = index.store.manifest.merkle_root
    again = runs.index(bert_run, folder, method, **CHANGES[method])  # the same command finds it done
    assert again.store.manifest.merkle_root == root
    added = [row | {"id": f"more {row['id']}"} for row in runs.ROWS[:9]]
    runs.index(bert_run, folder, method, data=added, append=True, **CHANGES[method])
    assert not verify(folder).damage
    merge(folder)
    assert not verify(folder).damage
    assert len(proponent.open(folder)) == len(runs.OTHERS) + 9
    assert (folder / "plan.json").read_bytes() == written, "a plan is never rewritten"


def test_a_build_that_was_begun_in_format_2_is_finished(bert_run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "i"
    expected = runs.index(bert_run, folder, "tracin-we", unit_norm=True).scores([TEXT], ["Business"])
    written = as_format_2(folder, "tracin-we")
    (folder / "manifest.json").unlink()
    next((folder / "forms").rglob("*.safetensors")).unlink()
    index = runs.index(bert_run, folder, "tracin-we", unit_norm=True)
    assert (index.scores([TEXT], ["Business"]) == expected).all()
    assert index.store.manifest.format == 3
    assert (folder / "plan.json").read_bytes() == written
    assert not verify(folder).damage


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"layer": "odd"}, "is not a valid plan .*option gradient 'odd'"),
        ({"layer_s": 1}, "is not a valid plan .*'layer_s'"),
        ({"curvature": "ekfac"}, "is not a valid plan .*gradients of the word embedding, and ekfac is for"),
    ],
)
def test_a_flat_record_that_says_nothing_is_damage(
    bert_run: Path, tmp_path: Path, fields: dict[str, object], message: str
) -> None:
    runs.index(bert_run, tmp_path / "i", "tracin-we", unit_norm=True)
    as_format_2(tmp_path / "i", "tracin-we", **fields)
    with pytest.raises(DamagedError, match=message):
        proponent.open(tmp_path / "i")
