"""Arrays in safetensors files, read whole and in slices; and near names for messages."""

from pathlib import Path

import numpy as np
import pytest

from proponent.errors import DamagedError
from proponent.suggest import nearest
from proponent.tensors import TensorSlices, read_tensors, write_tensors


def test_slices_of_a_file_of_tensors(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    rows = np.arange(12, dtype=np.float32).reshape(6, 2)
    write_tensors(path, {"rows": rows.T.copy().T, "none": rows[:0], "bits": np.array([True, False])})
    slices = TensorSlices(path)
    assert sorted(slices.names) == ["bits", "none", "rows"]
    assert slices.shape("rows") == (6, 2)
    for start, stop in ((0, 6), (2, 4), (3, 3), (6, 6), (0, 0)):
        np.testing.assert_array_equal(slices.read("rows", start, stop), rows[start:stop])
    assert slices.read("none", 0, 0).shape == (0, 2)
    with pytest.raises(DamagedError, match=r"cannot read .*a\.safetensors"):
        slices.read("rows", 4, 9)
    with pytest.raises(DamagedError, match="other"):
        slices.read("other", 0, 1)
    with pytest.raises(DamagedError, match="other"):
        read_tensors(path, ("other",))


def test_every_truncation_of_a_file_of_tensors_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    write_tensors(path, {"rows": np.ones((2, 2), dtype=np.float32)})
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        for reader in (read_tensors, TensorSlices):
            with pytest.raises(DamagedError, match=r"cannot read .*a\.safetensors"):
                reader(path)
    with pytest.raises(DamagedError, match="cannot read"):
        read_tensors(tmp_path / "nothing.safetensors")


def test_near_names() -> None:
    assert nearest("sport", ("Business", "Sports")) == " (did you mean 'Sports'?)"
    assert nearest("zzz", ("Business", "Sports")) == nearest("a", ()) == ""
