"""What blocks share counts once, with a block that has it, however they come and go."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from edged.backends.base import LoadedBlock
from edged.core.events import HeldBlock
from edged.device.shares import Shares

PARTS = {"a": 1000, "b": 300, "c": 70}


def block(*parts: str, own: int = 5) -> LoadedBlock:
    shared = {part: PARTS[part] for part in parts}
    return LoadedBlock(own + sum(shared.values()), shared=shared)


def test_the_second_block_adds_what_only_it_has_and_inherits_the_rest() -> None:
    shares = Shares()
    assert shares.add("224", block("a", "b", own=7)) == 0
    assert shares.add("320", block("a", "c", own=9)) == 1000
    assert shares.total_bytes == 7 + 1000 + 300 + 9 + 70
    assert shares.remove("224") == (HeldBlock("320", 9 + 70 + 1000),)
    assert shares.total_bytes == 9 + 70 + 1000
    assert shares.remove("320") == ()
    assert (shares.total_bytes, shares.blocks) == (0, ())


def test_whoever_leaves_second_leaves_nothing_behind() -> None:
    shares = Shares()
    shares.add("first", block("a"))
    shares.add("second", block("a"))
    assert shares.remove("second") == ()
    assert shares.total_bytes == 1005


KINDS = [block(*parts) for parts in ("", "a", "ab", "abc", "c", "bc")]


@given(st.lists(st.tuples(st.sampled_from("uvwxyz"), st.sampled_from(KINDS)), max_size=40))
def test_the_account_is_what_the_blocks_hold_together(
    changes: list[tuple[str, LoadedBlock]],
) -> None:
    """Each block comes when it is away and goes when it is there, as a ledger hears of it."""
    shares, there, ledger = Shares(), dict[str, LoadedBlock](), dict[str, int]()
    for name, loaded in changes:
        if name in there:
            del there[name], ledger[name]
            ledger |= {heir.block: heir.bytes for heir in shares.remove(name)}
        else:
            there[name] = loaded
            ledger[name] = loaded.bytes_used - shares.add(name, loaded)
        parts = {part: size for one in there.values() for part, size in one.shared.items()}
        held = sum(parts.values()) + 5 * len(there)
        assert held == shares.total_bytes == sum(ledger.values())
        assert ledger.keys() == set(shares.blocks)
