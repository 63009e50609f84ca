from __future__ import annotations

import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from edged.backends.memory import ALIGNMENT, HostMemory
from edged.device.memory import Lifetime, offsets
from edged.paths.layout import Tensor

lifetimes = st.lists(
    st.builds(
        lambda size, first, length: Lifetime(size, first, first + length),
        st.integers(0, 1000),
        st.integers(0, 8),
        st.integers(0, 4),
    ),
    max_size=12,
)


@given(lifetimes)
def test_what_lives_at_once_does_not_overlap(given: list[Lifetime]) -> None:
    places, size = offsets(given)
    assert all(place % ALIGNMENT == 0 for place in places)
    assert all(at + one.size <= size for at, one in zip(places, given, strict=True))
    for (a, one), (b, other) in itertools.combinations(zip(places, given, strict=True), 2):
        alive_at_once = one.first <= other.last and other.first <= one.last
        if alive_at_once and one.size and other.size:
            assert a + one.size <= b or b + other.size <= a


def test_a_chain_needs_the_largest_neighbours_only() -> None:
    sizes = [1024, 512, 2048, 256, 1024]
    chain = [Lifetime(size, at, at + 1) for at, size in enumerate(sizes)]
    assert offsets(chain)[1] == 512 + 2048


def test_arrays_begin_on_a_cache_line() -> None:
    for rows in (1, 2, 7):
        memory = HostMemory()
        tensor = Tensor("FP16", (3, 5))
        array = memory.view(memory.allocate(rows * tensor.row_bytes), 0, rows, tensor)
        assert array.ctypes.data % ALIGNMENT == 0
        assert (array.shape, array.dtype) == ((rows, 3, 5), np.float16)
