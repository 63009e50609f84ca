"""In which order the preparing threads do their work."""

from __future__ import annotations

from edged.device.turns import Job, TurnQueue


def done(queue: TurnQueue, count: int, said: list[str]) -> list[str]:
    said.clear()
    for _ in range(count):
        job = queue.get()
        assert job is not None
        job()
    return said


def test_images_of_one_client_do_not_hold_up_those_of_another():
    queue, said = TurnQueue(), []
    for number in range(20):
        queue.put_in_turn(lambda n=number: said.append(f"many {n}"), level=1, client=1, rows=1)
    assert done(queue, 3, said) == ["many 0", "many 1", "many 2"]
    queue.put_in_turn(lambda: said.append("few"), level=1, client=2, rows=1)
    assert done(queue, 3, said) == ["few", "many 3", "many 4"]
    assert done(queue, 15, said)[-1] == "many 19"


def test_requests_of_many_rows_take_as_many_turns():
    queue, said = TurnQueue(), []
    for number in range(3):
        queue.put_in_turn(lambda n=number: said.append(f"four {n}"), level=0, client=1, rows=4)
    for number in range(8):
        queue.put_in_turn(lambda n=number: said.append(f"one {n}"), level=0, client=2, rows=1)
    order = done(queue, 11, said)
    assert order[:6] == ["four 0", "one 0", "one 1", "one 2", "one 3", "four 1"]


def test_what_a_batch_waits_for_and_what_is_more_urgent_goes_first():
    queue, said = TurnQueue(), []
    for level in (2, 0, 1):
        queue.put_in_turn(lambda n=level: said.append(f"level {n}"), level=level, client=1, rows=1)
    queue.put(lambda: said.append("batch"))
    queue.put(None)
    assert done(queue, 4, said) == ["batch", "level 0", "level 1", "level 2"]
    assert queue.get() is None


def test_what_is_left_of_a_request_waits_for_those_whose_turn_comes_before():
    queue, said = TurnQueue(), []

    def picture(number: int) -> Job | None:
        said.append(f"picture {number}")
        return None if number == 2 else lambda: picture(number + 1)

    queue.put_in_turn(lambda: picture(0), level=1, client=1, rows=3)
    queue.put_in_turn(lambda: said.append("its next"), level=1, client=1, rows=1)
    assert done(queue, 1, said) == ["picture 0"]
    queue.put_in_turn(lambda: said.append("another's"), level=1, client=2, rows=1)
    assert done(queue, 4, said) == ["another's", "picture 1", "picture 2", "its next"]
