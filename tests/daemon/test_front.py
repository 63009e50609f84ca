"""What the front makes of messages, without sockets and without a worker."""

from __future__ import annotations

import gzip
import io

import msgspec
import pytest

from edged import wire
from edged.config import Config, MemoryConfig, SchedulerConfig, ServerConfig
from edged.core.events import BatchDone, BlockLoaded, Load, Prepared, PrepareFailed, Run
from edged.errors import Code, InvalidArgument
from edged.link import messages as link
from edged.manifest import Preprocess
from edged.observe.recording import Mismatch, Recorder, replay
from tests.daemon.samples import (
    BACKBONE,
    CLIENT,
    OTHER_BACKBONE,
    Bench,
    batch_done,
    catalog,
    infer,
    manifest,
)
from tests.pictures.making import encoded, picture, png_of_zeros, progressive_of_zeros


@pytest.fixture
def bench() -> Bench:
    ready = Bench()
    ready.worker_is_ready()
    return ready


def test_a_request_for_two_tasks_is_one_answer_in_the_order_asked(bench):
    bench.ask(infer("r1", "food", "flowers"))
    (prepare,) = bench.worker
    assert prepare.inputs[0].kind == "encoded"
    assert [ask.model for ask in prepare.asks] == ["food", "flowers"]
    assert bench.payloads == [[b"jpeg"]]
    bench.finish()
    reply = bench.reply()
    assert reply.header.id == "r1"
    assert [output.name for output in reply.header.outputs] == ["food", "flowers"]
    assert [bytes(raw).strip() for raw in reply.payload] == [b"food", b"flowers"]
    assert reply.header.parameters.compute_infer_us == 2000
    assert reply.header.parameters.batch_size == 1
    assert reply.header.parameters.tier == "edge"


def test_tasks_of_two_backbones_come_back_together():
    bench = Bench(models=catalog(manifest("a"), manifest("b", backbone=OTHER_BACKBONE)))
    bench.worker_is_ready()
    bench.ask(infer("r1", "a", "b"))
    bench.finish()
    assert [bytes(raw).strip() for raw in bench.reply().payload] == [b"a", b"b"]


def test_classes_come_without_a_tensor(bench):
    bench.ask(infer("r1", "flowers", top_k=1))
    bench.worker.clear()
    bench.front.on_worker(Prepared(1, 0.0), (), 0.0)
    (run,) = bench.worker
    best = ((wire.ClassScore(1, 0.9, "yes"),),)
    output = link.ModelOutput("logits", "FP32", (1, 2), best)
    done = link.BatchOutputs(
        BatchDone(run.batch, 0.0, 0.0), (link.ModelAnswer(1, "flowers", (output,)),)
    )
    bench.front.on_worker(done, (), 0.0)
    reply = bench.reply()
    assert reply.payload == ()
    assert reply.header.outputs[0].classification == ((wire.ClassScore(1, 0.9, "yes"),),)


@pytest.mark.parametrize(
    ("header", "rows", "code", "says"),
    [
        (infer("r1", "birds"), 1, "NOT_FOUND", "flowers, food"),
        (
            infer("r1", parameters=wire.InferParameters(priority=9)),
            1,
            "RESOURCE_EXHAUSTED",
            "priority",
        ),
        (infer("r1", shape=(17,)), 17, "RESOURCE_EXHAUSTED", "17 rows"),
        (wire.ModelMetadata("r1", "birds"), 0, "NOT_FOUND", "birds"),
    ],
)
def test_what_cannot_be_served_is_refused_with_the_reason(bench, header, rows, code, says):
    bench.ask(header, (b"jpeg",) * rows)
    reply = bench.reply().header
    assert (reply.id, reply.code) == ("r1", code)
    assert says in reply.error


def test_hostile_frames_are_answered_and_the_next_request_is_unharmed(bench):
    for frames in (
        [],
        [b""],
        [b"EDG1\x01"],
        [b"EDG1\x01", b"\xdd\xff\xff\xff\xff"],
        [b"EDG9\x01", b""],
    ):
        bench.front.on_request(b"someone", frames, 0.0)
    codes = [reply.header.code for _, reply in bench.sent]
    assert codes == ["INVALID_ARG", "INVALID_ARG", "INVALID_ARG", "INVALID_ARG", "UNSUPPORTED"]
    bench.sent.clear()
    bench.ask(infer())
    bench.finish()
    assert bench.reply().header.id == "r1"


def test_a_retry_of_an_open_request_is_answered_once(bench):
    bench.ask(infer("r1"))
    bench.ask(infer("r1"))
    bench.finish()
    assert bench.reply().header.id == "r1"


def test_two_clients_may_use_the_same_id(bench):
    bench.ask(infer("r1"), client=b"one")
    bench.ask(infer("r1"), client=b"two")
    bench.finish()
    assert sorted(routing_id for routing_id, _ in bench.sent) == [b"one", b"two"]


def test_a_client_may_have_only_so_many_requests_open():
    bench = Bench(Config(limits=wire.Limits(max_in_flight=2)))
    for id in ("r1", "r2", "r3"):
        bench.ask(infer(id))
    header = bench.reply().header
    assert (header.id, header.code) == ("r3", "RESOURCE_EXHAUSTED")
    assert header.retry_after_us  # r1 may only be here again because its answer was late


def test_an_answer_says_how_much_of_the_queue_is_its_clients():
    bench = Bench(
        Config(scheduler=SchedulerConfig(queue_rows=12, max_batch_rows=4, staging_rows=8))
    )
    bench.worker_is_ready()

    def credits() -> list[int]:
        bench.finish()
        sent, bench.sent = bench.sent, []
        return [reply.header.parameters.credits for _, reply in sent]

    bench.ask(infer("r1"))
    assert credits() == [12]
    for client in (b"one", b"two", b"three"):
        bench.ask(infer("r1"), client=client)
        bench.ask(infer("r2"), client=client)
    assert credits() == [4, 4, 4, 4, 6, 12]  # they take turns, then the others are served
    bench.ask(infer("r1", shape=(3,)), [b"jpeg"] * 3)
    assert credits() == [4]  # requests of three rows
    bench.ask(infer("r1"), [b"j" * 2**25])
    assert credits() == [8]  # and of an eighth of the bytes


def test_a_bad_image_is_refused_alone(bench):
    bench.ask(infer("r1"))
    bench.ask(infer("r2"))
    failed = PrepareFailed(1, Code.INVALID_ARG, "row 0 is not a JPEG or PNG")
    bench.front.on_worker(failed, (), 0.0)
    header = bench.reply().header
    assert (header.id, header.code) == ("r1", "INVALID_ARG")
    bench.worker = [order for order in bench.worker if order.rid != 1]
    bench.finish()
    assert bench.reply().header.id == "r2"


def test_when_the_worker_dies_its_requests_run_again_with_their_payload(bench):
    bench.ask(infer("r1"))
    bench.worker.clear()
    bench.front.on_worker_lost("killed", 0.0)
    bench.ask(wire.ServerReady("q"))
    assert bench.reply().header == wire.ReadyReply("q", False, "RECOVERING", "killed")
    bench.payloads.clear()
    bench.worker_is_ready()
    assert bench.payloads == [[b"jpeg"]]
    bench.finish()
    assert bench.reply().header.id == "r1"


def test_an_answer_that_is_held_for_its_turn_outlives_the_worker_that_made_it():
    bench = Bench(models=catalog(manifest("a"), manifest("b", backbone=OTHER_BACKBONE)))
    bench.worker_is_ready()
    for id, task in (("r1", "a"), ("r2", "b")):
        bench.ask(infer(id, task, parameters=wire.InferParameters(ordered=True)))
    bench.front.on_worker(Prepared(2, 0.0), (), 0.0)
    bench.front.on_worker(*batch_done(bench.worker.pop()), 0.0)  # r2 waits for r1
    bench.front.on_worker_lost("killed", 0.0)
    bench.worker.clear()
    bench.worker_is_ready()
    bench.finish()
    assert [reply.header.id for _, reply in bench.sent] == ["r1", "r2"]


def test_results_of_a_dead_worker_are_not_mixed_with_those_of_the_next():
    bench = Bench(models=catalog(manifest("a"), manifest("b", backbone=OTHER_BACKBONE)))
    bench.worker_is_ready()
    bench.ask(infer("r1", "a", "b"))
    bench.worker.clear()
    bench.front.on_worker(Prepared(1, 0.0), (), 0.0)
    bench.front.on_worker(*batch_done(bench.worker.pop()), 0.0)  # of a; b runs
    bench.front.on_worker_lost("killed", 0.0)
    bench.worker.clear()
    bench.worker_is_ready()
    bench.finish()
    assert len(bench.reply().payload) == 2


def test_cancel_answers_both(bench):
    bench.ask(infer("r1"))
    bench.ask(wire.Cancel("c", "r1"))
    bench.ask(wire.Cancel("d", "never"))
    headers = [reply.header for _, reply in bench.sent]
    assert headers[0].code == "CANCELLED"
    assert headers[1:] == [wire.CancelReply("c", True), wire.CancelReply("d", False)]


def test_a_relative_timeout_counts_from_receipt(bench):
    bench.now = 100.0
    bench.ask(infer("r1", parameters=wire.InferParameters(timeout=250_000)))
    assert bench.front.wakeup_at() == pytest.approx(100.25)
    bench.front.on_woke(100.25)
    assert bench.reply().header.code == "DEADLINE_EXCEEDED"


def test_priority_one_goes_before_the_default():
    bench = Bench()
    for id, priority in (("low", 3), ("default", 0), ("high", 1)):
        bench.ask(infer(id, parameters=wire.InferParameters(priority=priority)))
    bench.worker_is_ready()
    assert [order.rid for order in bench.worker] == [3, 2, 1]


def test_a_client_that_cannot_be_reached_loses_its_other_requests(bench):
    bench.ask(infer("r1"))
    bench.ask(infer("r2"))
    bench.gone.add(b"client-1")
    bench.finish()
    assert bench.sent == []
    assert bench.front.open_requests == 0


class Turns:
    """An observer that notes the events, and how much had been sent when each turn was over."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, int]] = []
        self.bench = Bench(recorder=self)

    def turn(self, now, event, commands) -> None:
        sent = len(self.bench.sent) if hasattr(self, "bench") else 0
        self.seen.append((type(event).__name__, sent))


def test_a_turn_ends_before_what_it_leads_to_begins():
    """A client that is found gone is told to the scheduler when all others have their answers."""
    turns = Turns()
    bench = turns.bench
    bench.worker_is_ready()
    for id, client in (("r1", CLIENT), ("r2", b"other")):
        bench.ask(infer(id), client=client)
    bench.front.on_worker(Prepared(1, 0.0), (), 0.0)
    (first,) = [order for order in bench.worker if isinstance(order, Run)]
    bench.ask(infer("r3"))
    bench.ask(infer("r4"))
    bench.front.on_worker(Prepared(2, 0.0), (), 0.0)
    bench.front.on_worker(Prepared(3, 0.0), (), 0.0)
    bench.front.on_worker(*batch_done(first), 0.0)
    second = bench.worker[-1]
    assert [member.rid for member in second.members] == [2, 3]
    bench.gone.add(CLIENT)
    bench.sent.clear()
    bench.front.on_worker(*batch_done(second), 0.0)
    assert turns.seen[-2:] == [("BatchDone", 1), ("ClientGone", 1)]


def test_a_client_that_promised_to_be_heard_and_fell_silent_is_dropped():
    bench = Bench(Config())
    bench.ask(wire.Ping("p", interval=1_000_000))
    bench.ask(infer("r1"))
    bench.ask(wire.Ping("p"), client=b"promises nothing")
    bench.ask(infer("r2"), client=b"promises nothing")
    bench.ask(wire.Ping("p", interval=5_000_000), client=b"speaks seldom")
    bench.ask(infer("r3"), client=b"speaks seldom")
    for now, left in ((9.0, 3), (11.0, 2), (14.0, 2), (16.0, 1), (1000.0, 1)):
        bench.front.on_sweep(now)
        assert bench.front.open_requests == left


def test_draining_refuses_new_requests_and_ends_when_the_old_are_answered(bench):
    bench.ask(infer("r1"))
    bench.front.on_drain(0.0)
    assert not bench.front.drained
    bench.ask(infer("r2"))
    assert bench.reply().header.code == "UNAVAILABLE"
    bench.finish()
    assert bench.reply().header.id == "r1"
    assert bench.front.drained


def test_the_most_accurate_model_of_a_task_is_its_default():
    models = catalog(
        manifest("small", task="flowers", accuracy=0.8),
        manifest("large", task="flowers", accuracy=0.9),
    )
    bench = Bench(models=models)
    bench.worker_is_ready()
    bench.ask(infer("r1", "flowers"))
    bench.finish()
    assert bench.reply().header.outputs[0].model == "large"
    wanted = wire.RequestedOutput("flowers", wire.OutputParameters(model="small"))
    bench.ask(msgspec.structs.replace(infer("r2"), outputs=(wanted,)))
    bench.finish()
    assert bench.reply().header.outputs[0].model == "small"


def test_a_model_of_one_row_never_shares_a_batch_and_takes_several_rows():
    bench = Bench(models=catalog(manifest("a", max_rows=1), manifest("b", max_rows=1)))
    for id, task in (("r1", "a"), ("r2", "b"), ("r3", "a")):
        bench.ask(infer(id, task))
    bench.worker_is_ready()
    bench.finish()
    assert {reply.header.parameters.batch_size for _, reply in bench.sent} == {1}
    bench.sent.clear()
    bench.ask(infer("r4", "a", shape=(2,)), (b"x", b"y"))
    bench.finish()
    assert bench.reply().header.parameters.batch_size == 2


def test_an_image_for_a_task_that_takes_tensors_is_refused_with_the_signature():
    bench = Bench(models=catalog(manifest("signal", images=False)))
    bench.ask(infer("r1", "signal"))
    assert "image FP32 [rows, 3, 8, 8]" in bench.reply().header.error


def test_pixels_and_tensors_are_told_apart(bench):
    bench.ask(infer("r1", datatype="UINT8", shape=(1, 4, 4, 3)), (bytes(48),))
    bench.ask(infer("r2", datatype="FP32", shape=(1, 3, 8, 8)), (bytes(768),))
    pixels, tensor, run = bench.worker
    assert (pixels.inputs[0].kind, pixels.inline) == ("pixels", False)
    assert (tensor.inputs[0].kind, tensor.inline) == ("tensor", True)
    assert [member.rid for member in run.members] == [tensor.rid]  # which needs no preparation


def test_a_large_tensor_is_prepared_like_an_image():
    bench = Bench(Config(), models=catalog(manifest("a")))
    bench.worker_is_ready()
    bench.ask(infer("r1", "a", datatype="FP32", shape=(1, 3, 512, 512)), (bytes(3 * 2**20),))
    (prepare,) = bench.worker
    assert not prepare.inline


@pytest.mark.parametrize(
    ("files", "inline"),
    [
        ([png_of_zeros(64, 48)], True),
        ([encoded(picture())], True),
        ([encoded(picture())] * 16, True),
        ([encoded(picture()) + bytes(2 * 2**20)], False),  # in bytes
        ([png_of_zeros(2049, 2048)], False),  # in pixels, in a file of 13 kB
        ([png_of_zeros(1024, 1024)] * 5, False),  # together
        ([progressive_of_zeros(1024, 900)], False),  # in scans
        ([b"no picture"], False),
    ],
)
def test_lanes_that_prepare_get_images_at_once_that_are_small_in_every_way(files, inline):
    bench = Bench(Config(), models=catalog(manifest("a")))
    bench.worker_is_ready(lanes_prepare=True)
    bench.ask(infer("r1", "a", shape=(len(files),)), files)
    prepare, *rest = bench.worker
    assert (prepare.inputs[0].kind, prepare.inline) == ("encoded", inline)
    assert [[m.rid for m in run.members] for run in rest] == ([[prepare.rid]] if inline else [])


@pytest.mark.parametrize("lanes_prepare", [True, False])
def test_what_a_busy_lane_prepares_itself_comes_with_its_batch(lanes_prepare):
    """Else the worker would wake for each request; other threads could begin at once."""
    bench = Bench(Config(), models=catalog(manifest("a")))
    bench.worker_is_ready(lanes_prepare=lanes_prepare)
    tensor = infer("r1", "a", datatype="FP32", shape=(1, 3, 8, 8))
    payload = (bytes(4 * 3 * 8 * 8),)
    bench.ask(tensor, payload)
    assert [type(order) for order in bench.worker] == [link.PayloadHeader, Run]
    assert bench.soon[-1]
    run = bench.worker[-1]
    bench.ask(msgspec.structs.replace(tensor, id="r2"), payload)
    assert bench.worker[-1].inline
    assert bench.soon[2:] == [not lanes_prepare]
    bench.front.on_worker(*batch_done(run), bench.now)
    assert isinstance(bench.worker[-1], Run)
    assert bench.soon[3:] == [True]


def test_metadata_tells_all_that_a_client_needs(bench):
    bench.ask(wire.ModelMetadata("m", "flowers"))
    header = bench.reply().header
    assert header.inputs == (wire.TensorMetadata("image", "FP32", (-1, 3, 8, 8)),)
    assert header.labels == ("no", "yes")
    assert msgspec.convert(header.preprocess, Preprocess) == Preprocess(8, 8)
    bench.ask(wire.ServerMetadata("s"))
    assert bench.reply().header.limits.max_rows == SchedulerConfig().max_batch_rows
    bench.ask(wire.RepositoryIndex("i"))
    assert [
        (m.name, m.state, m.total_bytes, m.shared_bytes) for m in bench.reply().header.models
    ] == [("flowers", "READY", 20, 10), ("food", "READY", 20, 10)]


def test_statistics_wait_for_the_workers_figures(bench):
    for id, task in (("r1", "flowers"), ("r2", "food"), ("r3", "flowers")):
        bench.ask(infer(id, task))
    bench.finish()
    bench.sent.clear()
    bench.ask(wire.StatisticsQuery("s"))
    assert bench.sent == []
    bench.front.on_worker(link.WorkerMemory(1, 7, 8, 9), (), 1.0)
    header = bench.reply().header
    assert {task.name: task.inference_count for task in header.tasks} == {"flowers": 2, "food": 1}
    assert [(b.rows, b.count, b.mixed) for b in header.batches] == [(1, 1, 0), (2, 1, 1)]
    assert header.memory["worker_pss_bytes"] == 7
    parts = ("fixed", "staging", "workspace", "blocks", "unexplained")
    assert sum(header.memory[f"{part}_bytes"] for part in parts) == header.memory["total_bytes"]


def test_a_request_can_be_followed_through_the_log_by_its_id(bench, caplog):
    caplog.set_level("DEBUG", "edged")
    bench.ask(infer("slow", "flowers"))
    bench.ask(infer("other", "food"))
    bench.ask(infer("back", "food"))
    bench.ask(wire.Cancel("c", "back"))
    bench.finish()

    def told(id: str) -> list[str]:
        """By the field that the journal has of all its lines."""
        (rid,) = {r.request for r in caplog.records if f"request {id} of client" in r.message}
        return [r.message for r in caplog.records if getattr(r, "request", None) == rid]

    come, run, answered = told("slow")
    assert come == "request slow of client 1 has come, for flowers"
    assert run == "request slow of client 1: flowers in batch 1 of 1 rows"
    assert answered.startswith("request slow of client 1: answered after 3.1 ms: waiting 0.0, ")
    assert told("back")[-1] == (
        "request back of client 1 is refused: CANCELLED, cancelled by the client"
    )


def test_a_client_that_came_once_is_no_client_for_long(bench):
    def clients() -> int:
        bench.ask(wire.StatisticsQuery("s"), client=b"watch")
        bench.front.on_worker(link.WorkerMemory(1, 7, 8, 9), (), bench.now)
        return bench.reply().header.server.clients

    bench.ask(wire.ServerMetadata("m"), client=b"once")
    bench.sent.clear()
    assert clients() == 2
    bench.now = ServerConfig().client_timeout_s + 1
    assert clients() == 1
    bench.ask(infer("r1"), client=b"waits")
    bench.now += ServerConfig().client_timeout_s + 1
    bench.sent.clear()
    assert clients() == 2, "a patient client is one as long as it waits"


def test_statistics_tell_blocks_and_who_shares_them(bench):
    bench.ask(wire.StatisticsQuery("s"))
    bench.front.on_worker(link.WorkerMemory(1, 7, 8, 9), (), bench.now)
    blocks = bench.reply().header.blocks
    assert {block.state for block in blocks} == {"resident"}
    shared = {block.block: block.models for block in blocks if len(block.models) > 1}
    assert shared == {BACKBONE: ("flowers", "food")}


def test_statistics_do_not_wait_for_a_worker_that_says_nothing(bench):
    """As one that is stopped and has nothing to do: nobody gives it up."""
    bench.ask(wire.StatisticsQuery("s1"))
    bench.ask(wire.StatisticsQuery("s2"))
    assert not bench.sent
    assert bench.front.wakeup_at() == 1.0
    bench.front.on_woke(1.0)
    first, second = (reply.header for _, reply in bench.sent)
    assert (first.id, second.id) == ("s1", "s2")
    assert first.server.state == "READY"
    assert "worker_pss_bytes" not in first.memory
    bench.front.on_worker(link.WorkerMemory(bench.worker[-1].n, 1, 1, 1), (), 2.0)
    assert len(bench.sent) == 2


def test_statistics_are_there_without_a_worker():
    bench = Bench()
    bench.ask(infer("r1"))
    bench.ask(wire.StatisticsQuery("s"))
    header = bench.reply().header
    assert (header.server.state, header.server.queued) == ("STARTING", 1)
    assert "worker_pss_bytes" not in header.memory


def test_a_recording_that_cannot_be_written_on_disturbs_nobody(caplog):
    class FullDisk(io.StringIO):
        def write(self, text: str) -> int:
            if self.tell():
                raise OSError(28, "No space left on device")
            return super().write(text)

    bench = Bench(recorder=Recorder(FullDisk(), SchedulerConfig().settings))
    bench.worker_is_ready()
    bench.ask(infer("r1"))
    bench.finish()
    assert bench.reply().header.id == "r1"
    assert caplog.text.count("the recording ends here") == 1


def test_a_recorded_run_replays_to_the_same_decisions(tmp_path):
    file = io.StringIO()
    bench = Bench(recorder=Recorder(file, SchedulerConfig().settings))
    bench.ask(infer("r1", "flowers"))
    bench.worker_is_ready()
    bench.ask(infer("r2", "food"))
    bench.ask(infer("r3", "flowers", "food"), client=b"two")
    bench.finish()
    bench.front.on_drain(1.0)
    path = tmp_path / "run.jsonl"
    path.write_text(file.getvalue())
    assert replay(path) == len(file.getvalue().splitlines()) - 1

    path.write_text(file.getvalue().replace('["run",2', '["run",3'))
    with pytest.raises(Mismatch, match=r"line .*Run\(batch=3.* and is Run\(batch=2"):
        replay(path)
    path.write_text(file.getvalue().replace('"recording":4', '"recording":1', 1))
    with pytest.raises(InvalidArgument, match=r"version 1 .* reads versions 2 to 4"):
        replay(path)
    path.write_bytes(gzip.compress(file.getvalue().encode())[:-9])
    with pytest.raises(InvalidArgument, match="cannot be decompressed"):
        replay(path)
    path.write_text("{}\n")
    with pytest.raises(InvalidArgument, match="not a recording"):
        replay(path)


def test_a_request_gets_the_version_that_it_was_accepted_for(bench):
    bench.ask(infer("old"))
    bench.store = catalog(manifest("flowers", backbone=OTHER_BACKBONE), manifest("food"))
    bench.ask_admin(wire.Reload("a1"))
    *_, define = bench.worker
    ((key, new),) = define.models
    assert new == bench.store.models["flowers"]
    bench.front.on_worker(link.Defined((key,)), (), 0.0)
    loads = [order.block for order in bench.worker if isinstance(order, Load)]
    assert OTHER_BACKBONE in loads
    bench.ask(infer("early"))  # accepted while the new version comes
    for block in loads:
        assert bench.admin == []
        bench.front.on_worker(BlockLoaded(block, 10, 1e-3), (), 0.0)
    (reply,) = bench.admin
    assert reply.header == wire.ReloadReply("a1", changed=("flowers",))
    bench.ask(infer("new"))
    asked = {
        order.rid: [ask.model for ask in order.asks]
        for order in bench.worker
        if isinstance(order, link.PayloadHeader)
    }
    assert asked == {1: ["flowers"], 2: ["flowers"], 3: [key]}
    assert not any(isinstance(order, link.Forget) for order in bench.worker)
    bench.finish()
    models = {reply.header.id: reply.header.outputs[0].model for _, reply in bench.sent}
    assert models == {"old": "flowers", "early": "flowers", "new": "flowers"}
    answers = {reply.header.id: bytes(reply.payload[0]).strip() for _, reply in bench.sent}
    assert answers == {"old": b"flowers", "early": b"flowers", "new": key.encode()[:8]}


def test_a_version_with_the_same_blocks_takes_over_while_requests_run(bench):
    bench.ask(infer("old"))
    renamed = msgspec.structs.replace(manifest("flowers"), labels=("non", "oui"))
    bench.store = catalog(renamed, manifest("food"))
    bench.ask_admin(wire.Reload("a1"))
    ((key, _),) = bench.worker[-1].models
    bench.front.on_worker(link.Defined((key,)), (), 0.0)
    assert bench.admin[0].header.changed == ("flowers",)
    bench.front.on_sweep(1.0)
    assert not any(isinstance(order, link.Forget) for order in bench.worker)
    bench.finish()
    assert bench.reply().header.outputs[0].model == "flowers"
    bench.front.on_sweep(2.0)
    assert link.Forget(("flowers",)) in bench.worker


def test_a_worker_that_comes_up_is_told_what_was_forgotten_while_it_started(bench):
    bench.ask(infer("old"))
    renamed = msgspec.structs.replace(manifest("flowers"), labels=("non", "oui"))
    bench.store = catalog(renamed, manifest("food"))
    bench.ask_admin(wire.Reload("a1"))
    ((key, _),) = bench.worker[-1].models
    bench.front.on_worker(link.Defined((key,)), (), 0.0)
    bench.front.on_worker_lost("killed", 0.0)
    bench.ask(wire.Cancel("c", "old"))
    bench.front.on_sweep(1.0)
    assert not any(isinstance(order, link.Forget) for order in bench.worker)
    bench.worker_is_ready()
    assert link.Forget(("flowers",)) in bench.worker


def test_a_model_that_can_never_fit_is_refused_with_the_bytes():
    bench = Bench(Config(memory=MemoryConfig(budget_bytes=1)))
    bench.worker_is_ready()
    bench.ask_admin(wire.ModelSet("a1", "flowers", "loaded"))
    (reply,) = bench.admin
    assert (reply.header.id, reply.header.code) == ("a1", "RESOURCE_EXHAUSTED")
    assert "20 bytes of blocks do not fit the 0 bytes" in reply.header.error


@pytest.mark.parametrize(
    "header",
    [wire.ModelSet("a1", "flowers", "loaded"), wire.ResidencyQuery("a1"), wire.Reload("a1")],
)
def test_what_is_for_administrators_is_refused_to_others_by_name(bench, header):
    bench.ask(header)
    error = bench.reply().header
    assert (error.id, error.code) == ("a1", "UNSUPPORTED")
    assert "admin endpoint" in error.error
