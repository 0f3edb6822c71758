"""The tests' own checks are at work: axes where there are arrays, types everywhere."""

import sys
from collections.abc import Callable
from dataclasses import dataclass

import jaxtyping
import numpy as np
import pytest
from jaxtyping import Float, Int

import checked
from proponent import words
from proponent.evaluate.lds import subset_masks
from proponent.gradients.forms import Rows

Vectors = Float[np.ndarray, "n d"]


def test_axes_are_compared_between_the_arguments_of_proponent():
    found = words.read(["two words"])
    offsets = np.asarray([[0, 3], [4, 9]])
    assert found.assign(offsets, np.asarray([0, 0])).tolist() == [0, 2]
    with pytest.raises(jaxtyping.TypeCheckError, match="t=2"):
        found.assign(offsets, np.asarray([0, 0, 0]))
    with pytest.raises(jaxtyping.TypeCheckError, match="part_of"):
        found.assign(offsets, np.asarray([0.0, 0.0]))


def test_axes_of_a_dataclass_of_proponent_are_compared():
    fields = {"indptr": np.asarray([0, 2]), "ids": np.asarray([1, 2]), "words": np.asarray([0, 1])}
    Rows(**fields, rows=np.zeros((2, 3), dtype=np.float32))
    with pytest.raises(jaxtyping.TypeCheckError):
        Rows(**fields, rows=np.zeros((3, 3), dtype=np.float32))


@pytest.mark.parametrize("call", [lambda: words.split(3), lambda: subset_masks("many", 2, seed=1)])
def test_types_are_checked_without_arrays_and_with(call: Callable[[], object]):
    with pytest.raises(TypeError, match=r"words\.split|subset_masks"):
        call()


def test_a_function_has_arrays_wherever_they_stand():
    def plain(one: int, many: list[tuple[str, ...]]) -> Callable[[int], str] | None: ...
    def direct(one: Float[np.ndarray, " n"]): ...
    def result() -> Vectors: ...
    def nested(one: dict[str, tuple[int, Int[np.ndarray, " n"]] | None]): ...
    def called(one: Callable[[Vectors], int]): ...
    def unknown(one: "Later"): ...

    assert not checked.has_arrays(plain)
    assert all(checked.has_arrays(one) for one in (direct, result, nested, called, unknown))


def test_a_dataclass_without_arrays_is_checked_by_type():
    @checked.checked
    @dataclass
    class Plain:
        name: str

    Plain("x")
    with pytest.raises(TypeError, match="name"):
        Plain(1)


def test_every_module_of_proponent_is_loaded_with_the_checks():
    loaded = [one for name, one in sys.modules.items() if name.partition(".")[0] == "proponent"]
    assert len(loaded) > 50
    assert all(isinstance(one.__spec__.loader, checked.Loader) for one in loaded)
