"""The daemon's figures: how much memory it may take and takes, and the statistics for clients.

The worker measures its own memory when it is asked. So statistics wait for its answer, but not for
long. Knows no sockets.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from edged import __version__, wire
from edged.budget import footprint
from edged.core.events import Event, PaceChanged, PayloadRoom
from edged.daemon.board import BoardFigures
from edged.daemon.gauge import Gauge
from edged.daemon.peers.clients import ConnectedClient
from edged.daemon.peers.room import BufferLimits
from edged.daemon.pending import Replies
from edged.daemon.service import Service
from edged.link import messages as link
from edged.observe.blocks import BlockCounters
from edged.observe.metrics import MetricsSnapshot
from edged.observe.statistics import TaskCounters
from edged.telemetry.pace import BoardState

log = logging.getLogger("edged")

MEASURE_S = 5.0  # the time between two measurements of memory
PATIENCE_S = 1.0  # statistics wait this long for the worker's figures


@dataclass(eq=False)
class Figures:
    """Owns what was measured last, and the requests for statistics."""

    service: Service
    counters: TaskCounters
    replies: Replies
    tell: Callable[[Event, float], None]  # tells the scheduler, and carries out what it orders

    def __post_init__(self) -> None:
        service = self.service
        self.gauge = Gauge(service.config)
        self.limits = BufferLimits.of(service.config, None)
        self.board = BoardFigures(self.counters)
        self._asked: list[tuple[ConnectedClient, str]] = []  # they wait for the worker's figures
        self.answer_by = math.inf  # the time at which these are answered without
        self._measured: link.WorkerMemory | None = None  # by the present worker, last
        self._measures = 0
        self._measure_at = self.service.started_at

    def ask(self, client: ConnectedClient, id: str, now: float) -> None:
        """Send statistics when the worker has measured its memory, is gone, or does not answer."""
        self._asked.append((client, id))
        if self.service.worker.ready is None:
            self.report(now)
        elif len(self._asked) == 1:
            self.answer_by = now + PATIENCE_S
            self._measure(now)

    def on_sweep(self, now: float) -> None:
        """Have memory measured now and then."""
        if self.service.worker.ready is not None and now >= self._measure_at:
            self._measure(now)

    def on_memory(self, memory: link.WorkerMemory, now: float) -> None:
        """The worker has measured its memory."""
        self._measured = memory
        self.tell(self.gauge.measured(memory), now)
        self.share_out(now)
        self.report(now, memory)

    def on_board(self, state: BoardState | None, now: float) -> None:
        """The board has been looked at; None: it tells nothing."""
        pace, throttled = self.pace, self.board.throttled
        self.board.take(state)
        if self.board.throttled and not throttled:
            log.warning("the board is throttled: %s", ", ".join(self.board.throttled))
        elif throttled and not self.board.throttled:
            log.info("the board is not throttled any more")
        if self.pace != pace:
            text = (
                "by the board's clocks batches are expected to take %.2g times as long as at first"
            )
            log.info(text, self.pace)
            self.tell(PaceChanged(self.pace), now)

    @property
    def pace(self) -> float:
        """Batches take so many times as long as at the clocks of the start."""
        ready = self.service.worker.ready
        return 1.0 if ready is None else self.board.pace(ready.device)

    def on_worker_lost(self, now: float) -> None:
        """Its memory is nobody's any more, and nobody will measure it."""
        self._measured = None
        self.report(now)

    def share_out(self, now: float) -> None:
        """What blocks and activations leave free is for what clients send."""
        account = self.gauge.host(self.service.scheduler.account())
        limits = BufferLimits.of(self.service.config, account, self.replies.payload_bytes)
        if limits.payload_bytes != self.limits.payload_bytes:
            self.tell(PayloadRoom(limits.payload_bytes), now)
        self.limits = limits
        self.replies.payload_room_bytes = limits.payload_bytes

    def report(self, now: float, worker: link.WorkerMemory | None = None) -> None:
        """Send statistics to all who have asked."""
        asked, self._asked = self._asked, []
        self.answer_by = math.inf
        if not asked:
            return
        front = self.gauge.front
        body = wire.StatisticsReply(
            id="",
            server=self.service.statistics(now),
            tasks=self.counters.tasks(now),
            batches=self.counters.batches(),
            board=self.board.report(self.pace),
            batch_windows=self.counters.batch_windows(now),
            blocks=self.service.blocks(),
            memory=self._memory(worker, (footprint() if worker is None else front).pss_bytes),
        )
        for client, id in asked:
            self.replies.send(client, msgspec.structs.replace(body, id=id), now)

    def snapshot(self, blocks: BlockCounters, now: float) -> MetricsSnapshot:
        """What a scrape is told. Nothing is measured for it: memory is as of the last seconds."""
        service = self.service
        worker = None if service.worker.ready is None else self._measured
        return MetricsSnapshot(
            version=__version__,
            server=service.statistics(now),
            served_models=service.served_models,
            unserved_models=service.unserved_models,
            rejected=self.replies.rejected,
            memory=self._memory(worker, self.gauge.front.pss_bytes),
            tasks=self.counters.metrics(blocks.tasks),
            batch_rows=self.counters.batch_rows(),
            batch_tasks=self.counters.batch_tasks(),
            loading=blocks.metrics,
        )

    def _measure(self, now: float) -> None:
        self._measure_at = now + MEASURE_S
        self._measures += 1
        self.service.worker.send(link.Measure(self._measures))

    def _memory(self, worker: link.WorkerMemory | None, front_pss_bytes: int) -> dict[str, int]:
        """Bytes by name: the account, which adds up to its total, and what was measured.

        Without a worker its figures are absent, rather than wrong.
        """
        report: dict[str, int] = {}
        if worker is not None:
            account = msgspec.structs.asdict(self.service.scheduler.account())
            report |= {f"{name}_bytes": round(count) for name, count in account.items()}
            report |= {"worker_pss_bytes": worker.pss_bytes, "buffer_bytes": worker.buffer_bytes}
            if worker.device_bytes is not None:
                report["device_bytes"] = worker.device_bytes.held_bytes
        if front_pss_bytes:  # it has been measured
            report["front_pss_bytes"] = front_pss_bytes
        report["clients_shared_bytes"] = self.service.regions.nbytes
        return report
