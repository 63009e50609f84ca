from __future__ import annotations

import threading

import pytest

from edged.backends.memory import HostMemory
from edged.core.events import Member
from edged.device.inputs import preparations
from edged.device.staging import Deferred, Pool, Staging
from edged.errors import EdgedError, NotFound
from edged.link import messages as link
from edged.manifest import Preprocess
from edged.paths.layout import Tensor
from tests.backends.blocks import dense, mean_of_image
from tests.device.rig import Model

IMAGE = mean_of_image(size=4)
MODELS = {
    "a": Model("a", dense(6, 4)).manifest,
    "b": Model("b", dense(6, 3)).manifest,
    "c": Model("c", dense(5, 3)).manifest,
    "stretch": Model("stretch", IMAGE, preprocess=Preprocess(4, 4)).manifest,
    "crop": Model("crop", IMAGE, preprocess=Preprocess(4, 4, crop="center")).manifest,
}


def prepare(rid: int, *models: str, rows: int = 1, kind: str = "tensor") -> link.PayloadHeader:
    given = link.Input("x", kind, "FP32", (rows, 6))
    return link.PayloadHeader(rid, rows, (given,), tuple(link.Ask(model) for model in models))


def member(rid: int, *models: str) -> list[Member]:
    return [Member(rid, models)]


def full(staging: Staging) -> bool:
    """Whether not one more row for model `a` is free."""
    try:
        staged = staging.admit(prepare(999, "a"))
    except EdgedError:
        return True
    staging.settle(staged, prepared=False)
    return False


def test_models_that_are_fed_alike_share_rows() -> None:
    staging = Staging(MODELS, 4, HostMemory())
    staged = staging.admit(prepare(1, "a", "b", "c", rows=2))
    assert [(feed.models, len(feed.rows)) for feed in staged.feeds] == [
        (("a", "b"), 2),
        (("c",), 2),
    ]


@pytest.mark.parametrize(("kind", "count"), [("encoded", 2), ("tensor", 1)])
def test_rows_are_taken_as_the_front_counts_them(kind: str, count: int) -> None:
    staging = Staging(MODELS, 4, HostMemory())
    staged = staging.admit(prepare(1, "stretch", "crop", kind=kind))
    manifests = [MODELS["stretch"], MODELS["crop"]]
    assert len(preparations(manifests, images=kind != "tensor")) == count
    assert sum(len(feed.rows) for feed in staged.feeds) == count


def test_too_many_rows_are_a_bug_and_take_nothing() -> None:
    staging = Staging(MODELS, 4, HostMemory())
    with pytest.raises(EdgedError, match="this is a bug of the scheduler"):
        staging.admit(prepare(1, "a", "c", rows=5))
    staging.admit(prepare(2, "a", rows=4))
    assert full(staging)


def test_an_unknown_model() -> None:
    with pytest.raises(NotFound, match="'zebra' is not loaded"):
        Staging(MODELS, 4, HostMemory()).admit(prepare(1, "zebra"))


def test_rows_are_free_when_the_last_model_has_run() -> None:
    staging = Staging(MODELS, 1, HostMemory())
    staging.settle(staging.admit(prepare(1, "a", "b")), prepared=True)
    for model, is_free in (("a", False), ("b", True)):
        begun = staging.begin(member(1, model))
        staging.end(member(1, model), begun, done=True)
        assert full(staging) != is_free


def test_a_failed_batch_leaves_its_requests_staged() -> None:
    staging = Staging(MODELS, 1, HostMemory())
    staging.settle(staging.admit(prepare(1, "a")), prepared=True)
    for done in (False, True):
        begun = staging.begin(member(1, "a"))
        staging.end(member(1, "a"), begun, done=done)
    assert not full(staging)


def test_a_discarded_request_is_free_at_once_when_nothing_works_on_it() -> None:
    staging = Staging(MODELS, 1, HostMemory())
    staging.settle(staging.admit(prepare(1, "a")), prepared=True)
    staging.discard(1)
    assert not full(staging)
    staging.discard(1)  # it crossed with an answer


def test_a_request_discarded_while_it_is_prepared_is_free_after_that() -> None:
    staging = Staging(MODELS, 1, HostMemory())
    staged = staging.admit(prepare(1, "a"))
    staging.discard(1)
    assert full(staging)
    assert not staging.settle(staged, prepared=True)
    assert not full(staging)


@pytest.mark.parametrize("done", [True, False])
def test_a_request_discarded_while_it_runs_is_free_after_that(done: bool) -> None:
    staging = Staging(MODELS, 1, HostMemory())
    staging.settle(staging.admit(prepare(1, "a", "b")), prepared=True)
    begun = staging.begin(member(1, "a"))
    staging.discard(1)
    assert full(staging)
    staging.end(member(1, "a"), begun, done=done)
    assert not full(staging)


@pytest.mark.parametrize("rid", [7, 2])
def test_what_is_not_staged_does_not_run(rid: int) -> None:
    staging = Staging(MODELS, 4, HostMemory())
    staging.settle(staging.admit(prepare(1, "a")), prepared=True)
    staging.admit(prepare(2, "a"))  # still being prepared
    with pytest.raises(EdgedError, match=f"request {rid} is not staged .* bug of the scheduler"):
        staging.begin([*member(1, "a"), *member(rid, "a")])
    begun = staging.begin(member(1, "a"))  # the failed attempt holds nothing
    staging.end(member(1, "a"), begun, done=True)
    with pytest.raises(EdgedError, match="request 1 is not staged"):
        staging.begin(member(1, "a"))


def test_rows_of_requests_in_turn_lie_side_by_side() -> None:
    pool = Pool(0, (Tensor("FP32", (2,)),), rows=8, memory=HostMemory())
    taken = [pool.take(1) for _ in range(5)]
    assert taken == [[0], [1], [2], [3], [4]]
    pool.give_back([0, 1, 2])
    assert pool.take(4) == [5, 6, 7, 0]
    assert pool.take(3) is None
    assert pool.take(2) == [1, 2]


def test_deferred_work_is_done_once_and_all_wait_for_it() -> None:
    begun, go_on, done = threading.Event(), threading.Event(), []

    def work() -> None:
        begun.set()
        assert go_on.wait(30)
        done.append(1)

    deferred = Deferred(work)
    seen: list[int] = []

    def wait_for_it() -> None:
        deferred()
        seen.append(len(done))

    threads = [threading.Thread(target=wait_for_it) for _ in range(4)]
    for thread in threads:
        thread.start()
    assert begun.wait(30)
    assert not seen
    go_on.set()
    for thread in threads:
        thread.join(30)
    assert seen == [1, 1, 1, 1]


def test_a_model_is_unused_when_the_last_request_for_it_has_ended() -> None:
    staging = Staging(MODELS, 4, HostMemory())
    said: list[str] = []
    staging.when_unused(["a"], lambda: said.append("at once"))
    assert said == ["at once"]
    staging.settle(staging.admit(prepare(1, "a")), prepared=True)
    staging.settle(staging.admit(prepare(2, "a", "b")), prepared=True)
    staging.when_unused(["a"], lambda: said.append("a"))
    staging.when_unused(["c"], lambda: said.append("c"))
    begun = staging.begin(member(1, "a"))
    staging.discard(2)
    assert said == ["at once", "c"]
    staging.end(member(1, "a"), begun, done=True)
    assert said == ["at once", "c", "a"]
