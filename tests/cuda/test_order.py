"""The checker of happens-before: what it lets pass, and what it refuses."""

from __future__ import annotations

import pytest

from edged.cuda.order import HOST, Hazard, Order, Span

ROWS, ANSWERS = Span(0x1000, 64), Span(0x2000, 64)
COPIES, BLOCKS, OUT = 1, 2, 3


@pytest.fixture
def order() -> Order:
    made = Order()
    made.add(ROWS, "rows")
    made.add(ANSWERS, "answers")
    return made


def give(order: Order, stream: int, what: str, **spans: list[Span]) -> None:
    order.give(stream)
    order.use(stream, what, **spans)


def test_work_of_one_stream_is_ordered(order: Order) -> None:
    give(order, BLOCKS, "one", writes=[ROWS])
    give(order, BLOCKS, "two", reads=[ROWS], writes=[ANSWERS])
    give(order, BLOCKS, "three", writes=[ROWS])


def test_a_missing_event_is_found_at_the_call(order: Order) -> None:
    give(order, COPIES, "copy in", writes=[ROWS])
    with pytest.raises(Hazard, match=r"blocks reads rows\[0:64\], which copy in may still write"):
        give(order, BLOCKS, "blocks", reads=[ROWS])


def test_an_event_orders_all_that_its_stream_did_before(order: Order) -> None:
    give(order, COPIES, "copy in", writes=[ROWS])
    order.wait(BLOCKS, order.snapshot(COPIES))
    give(order, BLOCKS, "blocks", reads=[ROWS], writes=[ANSWERS])
    order.wait(OUT, order.snapshot(BLOCKS))
    give(order, OUT, "copy out", reads=[ANSWERS])
    give(order, OUT, "over the rows", writes=[ROWS])  # after the copy in, by way of the blocks


def test_an_event_orders_nothing_that_came_after_it(order: Order) -> None:
    early = order.snapshot(COPIES)
    give(order, COPIES, "copy in", writes=[ROWS])
    order.wait(BLOCKS, early)
    with pytest.raises(Hazard):
        give(order, BLOCKS, "blocks", reads=[ROWS])


def test_what_the_host_waited_for_comes_before_all_that_it_gives_out_then(order: Order) -> None:
    give(order, COPIES, "copy in", writes=[ROWS])
    order.wait(HOST, order.snapshot(COPIES))
    give(order, BLOCKS, "blocks", reads=[ROWS])


def test_the_host_must_wait_before_it_uses_memory_itself(order: Order) -> None:
    give(order, OUT, "copy out", writes=[ANSWERS])
    with pytest.raises(Hazard, match=r"an answer reads .* copy out may still write"):
        order.use(HOST, "an answer", reads=[ANSWERS])
    order.wait(HOST, order.snapshot(OUT))
    order.use(HOST, "an answer", reads=[ANSWERS])


def test_a_row_is_not_filled_anew_while_it_is_copied(order: Order) -> None:
    give(order, COPIES, "copy in", reads=[ROWS])
    with pytest.raises(Hazard, match=r"a decoder writes .* copy in may still read"):
        order.use(HOST, "a decoder", writes=[ROWS])


def test_two_may_read_and_two_may_use_different_bytes(order: Order) -> None:
    order.use(HOST, "a decoder", writes=[ROWS])
    give(order, COPIES, "one", reads=[ROWS], writes=[Span(0x2000, 32)])
    give(order, BLOCKS, "other", reads=[ROWS], writes=[Span(0x2020, 32)])
    with pytest.raises(Hazard, match=r"reads answers\[16:48\], which one may still write"):
        give(order, OUT, "both", reads=[Span(0x2010, 32)])


def test_a_reader_stays_in_the_way_though_another_one_came_later(order: Order) -> None:
    give(order, COPIES, "one", reads=[ROWS])
    give(order, BLOCKS, "other", reads=[ROWS])
    order.wait(OUT, order.snapshot(BLOCKS))
    with pytest.raises(Hazard, match="which one may still read"):
        give(order, OUT, "a writer", writes=[ROWS])


@pytest.mark.parametrize("span", [Span(0x1000, 65), Span(0xFFF, 2), Span(0x1800, 1)])
def test_bytes_that_nobody_holds_are_refused(order: Order, span: Span) -> None:
    with pytest.raises(Hazard, match="are not allocated"):
        give(order, BLOCKS, "blocks", reads=[span])


def test_bytes_that_were_given_back_are_refused(order: Order) -> None:
    order.remove(ROWS.start)
    with pytest.raises(Hazard, match="are not allocated"):
        give(order, BLOCKS, "blocks", reads=[ROWS])
    with pytest.raises(Hazard, match="was given back before"):
        order.remove(ROWS.start)


def test_it_does_not_grow_with_the_batches(order: Order) -> None:
    """A daemon under test runs for long: what was ordered is forgotten."""
    for _ in range(100):
        order.use(HOST, "a decoder", writes=[ROWS])
        give(order, BLOCKS, "blocks", reads=[ROWS], writes=[ANSWERS])
        order.wait(HOST, order.snapshot(BLOCKS))
    assert max(len(region.uses) for region in order._regions.values()) <= 2
