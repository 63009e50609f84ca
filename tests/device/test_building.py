"""Blocks whose preparation takes minutes: what waits for them, and what does not."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from edged.backends.base import Progress
from edged.device.building import BuildQueue
from edged.errors import Cancelled, EdgedError, ResourceExhausted, Unavailable, Unsupported
from edged.link import messages as link

TIMEOUT_S = 30


class Site:
    """Prepares a block when it is let, and keeps what is reported."""

    def __init__(self) -> None:
        self.prepared: set[str] = set()
        self.begun: list[str] = []
        self.fails: dict[str, Exception] = {}
        self.reports: list[link.Building] = []
        self.go = threading.Semaphore(0)  # released once for each block that may end
        self._changed = threading.Condition()
        self.building = BuildQueue(self.prepared.__contains__, self.prepare, self.report)

    def prepare(self, block: str, progress: Progress) -> None:
        with self._changed:
            self.begun.append(block)
            self._changed.notify_all()
        while not self.go.acquire(timeout=0.01):
            if not progress("kernels", 0.5):
                raise Cancelled("stopped")
        if block in self.fails:
            raise self.fails[block]
        self.prepared.add(block)

    def report(self, message: link.FromWorker) -> None:
        assert isinstance(message, link.Building)
        with self._changed:
            self.reports.append(message)
            self._changed.notify_all()

    def until(self, condition) -> None:
        with self._changed:
            assert self._changed.wait_for(condition, TIMEOUT_S)

    def until_idle(self) -> None:
        self.until(lambda: self.reports and not self.reports[-1].waiting)


@pytest.fixture
def site() -> Iterator[Site]:
    made = Site()
    made.building.start()
    yield made
    made.building.stop()


def test_a_block_that_is_being_prepared_is_refused_and_then_there(site: Site) -> None:
    with pytest.raises(Unavailable, match="is being built"):
        site.building.check("one")
    site.go.release()
    site.until_idle()
    site.building.check("one")
    assert site.begun == ["one"]


def test_it_tells_how_many_are_left(site: Site) -> None:
    site.prepared.add("there")
    site.building.want(["one", "there", "two"])
    site.until(lambda: "one" in site.begun)
    site.until(lambda: site.reports[-1].phase == "kernels")
    last = site.reports[-1]
    assert (last.waiting, last.of, last.share) == (("one", "two"), 2, 0.5)
    site.go.release(2)
    site.until_idle()
    assert site.begun == ["one", "two"]


def test_who_waits_is_called_when_all_blocks_are_there(site: Site) -> None:
    called: list[EdgedError | None] = []
    site.building.when_prepared(["one", "two"], called.append)
    site.go.release()
    site.until(lambda: "two" in site.begun)
    assert called == []
    site.go.release()
    site.until(lambda: site.reports[-1].waiting == ())
    site.building.stop()
    assert called == [None]


def test_who_waits_for_nothing_is_called_at_once(site: Site) -> None:
    called: list[EdgedError | None] = []
    site.prepared.add("one")
    site.building.when_prepared(["one"], called.append)
    assert called == [None]


def test_a_failure_is_told_to_who_waits_and_others_go_on(site: Site) -> None:
    called: list[EdgedError | None] = []
    site.fails["bad"] = Unsupported("TensorRT cannot read it")
    site.go.release(2)
    site.building.when_prepared(["bad", "good"], called.append)
    site.until_idle()
    site.building.stop()
    assert [str(error) for error in called] == ["TensorRT cannot read it"]
    with pytest.raises(Unsupported, match="cannot read it"):
        site.building.check("bad")
    site.building.check("good")


@pytest.mark.parametrize(
    ("error", "again"), [(Unsupported("never"), False), (ResourceExhausted("not now"), True)]
)
def test_what_memory_was_missing_for_is_tried_again_later(
    site: Site, monkeypatch: pytest.MonkeyPatch, error: EdgedError, again: bool
) -> None:
    monkeypatch.setattr("edged.device.building._AGAIN_S", 0.0)
    site.fails["bad"] = error
    site.go.release()
    site.building.want(["bad"])
    site.until_idle()
    del site.fails["bad"]
    site.go.release()
    with pytest.raises(EdgedError):
        site.building.check("bad")
    if again:
        site.until(lambda: site.begun.count("bad") == 2 and not site.reports[-1].waiting)
        site.building.check("bad")
    else:
        site.building.stop()
        assert site.begun == ["bad"]


def test_it_stops_in_the_middle_of_a_block() -> None:
    site = Site()
    site.building.start()
    site.building.want(["one", "two"])
    site.until(lambda: "one" in site.begun)
    site.building.stop()
    assert site.begun == ["one"]
    assert site.prepared == set()
