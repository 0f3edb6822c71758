"""Batches tile the length-sorted order."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from proponent.index.planning import batches


@settings(deadline=None, max_examples=100)
@given(st.lists(st.integers(1, 4), min_size=1, max_size=30), st.integers(1, 8), st.booleans(), st.data())
def test_batches_tile_a_stretch(found: list[int], size: int, equal: bool, data: st.DataObject) -> None:
    lengths = np.asarray(sorted(found), dtype=np.int64)
    start = data.draw(st.integers(0, len(lengths)))
    stop = data.draw(st.integers(start, len(lengths)))
    cuts = batches(lengths, start, stop, size, equal=equal)
    assert [place for begin, end in cuts for place in range(begin, end)] == list(range(start, stop))
    assert all(1 <= end - begin <= size for begin, end in cuts)
    if equal:
        assert all(len(set(lengths[begin:end])) == 1 for begin, end in cuts)
    else:
        assert len(cuts) == -(-(stop - start) // size)
