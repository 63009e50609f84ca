"""When a silent worker is given up, in virtual time."""

from __future__ import annotations

from edged.daemon.vigil import Vigil


def started() -> Vigil:
    vigil = Vigil(start_timeout_s=300.0, hang_timeout_s=30.0)
    vigil.heard(1000.0)
    return vigil


def test_it_has_its_time_to_start():
    vigil = started()
    assert vigil.verdict(1300.0, up=False, busy=False) is None
    assert vigil.verdict(1301.0, up=False, busy=False) == (
        "the device worker was not ready within 300 s"
    )


def test_it_is_given_up_when_it_holds_requests_and_says_nothing():
    vigil = started()
    assert vigil.verdict(1030.0, up=True, busy=True) is None
    assert vigil.verdict(1031.0, up=True, busy=True) == "the device worker hung for 30 s"


def test_a_word_of_it_restarts_the_count():
    vigil = started()
    vigil.heard(1025.0)
    assert vigil.verdict(1055.0, up=True, busy=True) is None


def test_the_first_request_after_an_idle_night_has_all_its_time():
    vigil = started()
    for second in range(40_000):
        assert vigil.verdict(1001.0 + second, up=True, busy=False) is None
    assert vigil.verdict(41_001.0, up=True, busy=True) is None
    assert vigil.verdict(41_031.0, up=True, busy=True) is not None
