"""The arena against a plain model of memory."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edged.cuda.arena import ALIGNMENT, Arena, taken_bytes
from edged.cuda.emulated import EmulatedCuda
from edged.cuda.personality import DISCRETE
from edged.errors import ResourceExhausted

SIZE = 64 * ALIGNMENT


def arena() -> tuple[Arena, EmulatedCuda]:
    cuda = EmulatedCuda(memory_bytes=DISCRETE.context_bytes + 2 * SIZE)
    return Arena(cuda, SIZE), cuda


@given(st.lists(st.tuples(st.booleans(), st.integers(0, SIZE // 3))))
def test_parts_never_meet_and_are_counted_exactly(steps: list[tuple[bool, int]]) -> None:
    """True takes a part of so many bytes; False gives back one of those that are held."""
    made, _ = arena()
    held: dict[int, int] = {}
    for takes, size in steps:
        if not takes:
            if held:
                address = sorted(held)[size % len(held)]
                made.free(address)
                del held[address]
        else:
            try:
                address = made.allocate(size)
            except ResourceExhausted:
                assert largest_gap(held, made) < max(taken_bytes(size), ALIGNMENT)
                continue
            assert address % ALIGNMENT == 0
            held[address] = max(taken_bytes(size), ALIGNMENT)
        assert made.used_bytes == sum(held.values())
        ends = sorted((at, at + of) for at, of in held.items())
        assert all(end <= begin for (_, end), (begin, _) in pairwise(ends))
        assert not ends or made.begin <= ends[0][0] <= ends[-1][1] <= made.begin + SIZE
    for address in held:
        made.free(address)
    assert made.allocate(SIZE) == made.begin  # nothing is left behind


def largest_gap(held: dict[int, int], made: Arena) -> int:
    at, largest = made.begin, 0
    for begin, size in [*sorted(held.items()), (made.begin + SIZE, 0)]:
        largest, at = max(largest, begin - at), begin + size
    return largest


def test_the_smallest_gap_that_fits_is_taken() -> None:
    made, _ = arena()
    first, _, second, _ = (made.allocate(n * ALIGNMENT) for n in (4, 1, 2, 1))
    made.free(first)
    made.free(second)
    assert made.allocate(2 * ALIGNMENT) == second
    assert made.allocate(3 * ALIGNMENT) == first


def test_what_does_not_fit_is_refused_with_what_there_is() -> None:
    made, _ = arena()
    made.allocate(SIZE - ALIGNMENT)
    with pytest.raises(ResourceExhausted, match=r"32256 of 32768 are taken.* gap has 512: serve"):
        made.allocate(ALIGNMENT + 1)


def test_it_takes_its_memory_once_and_gives_it_back() -> None:
    made, cuda = arena()
    assert cuda.free_bytes() == SIZE
    before = cuda.calls
    made.free(made.allocate(5))
    assert cuda.calls == before
    made.close()
    assert cuda.free_bytes() == 2 * SIZE


def test_a_part_is_given_back_once() -> None:
    made, _ = arena()
    part = made.allocate(5)
    made.free(part)
    with pytest.raises(KeyError):
        made.free(part)
