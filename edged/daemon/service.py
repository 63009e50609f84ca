"""What the daemon serves, and the state that it is in, for everybody who asks."""

from __future__ import annotations

import os
from dataclasses import dataclass

from edged import wire
from edged.config import Config
from edged.core.scheduler import Scheduler
from edged.daemon.inquiries import Situation
from edged.daemon.models.administration import Administration
from edged.daemon.models.catalog import NOT_LOADED, Catalog
from edged.daemon.models.versions import Versions
from edged.daemon.peers.clients import Clients
from edged.daemon.readiness import (
    STARTING,
    building_text,
    first_models,
    readiness,
    wanted_models,
)
from edged.daemon.worker_port import WorkerPort
from edged.sharedmem.owner import SharedRegions


@dataclass(eq=False)
class Service:
    """Owns what is known of the daemon as a whole; the rest is read from its parts."""

    config: Config
    catalog: Catalog  # what new requests may ask for
    versions: Versions
    administration: Administration
    scheduler: Scheduler
    worker: WorkerPort
    regions: SharedRegions
    started_at: float
    reason: str = "the device worker is starting"  # why there is no worker, while there is none
    restarts: int = 0
    draining: bool = False

    def __post_init__(self) -> None:
        self.clients = Clients(self.config.server.client_timeout_s)
        self.readiness = STARTING

    @property
    def state(self) -> str:
        if self.draining:
            return "DRAINING"
        if self.worker.ready is not None and self.readiness.is_ready:
            return "READY"
        return "RECOVERING" if self.restarts else "STARTING"

    def look_at_memory(self) -> None:
        """See how far the loading has come, and what there is no room for."""
        pinned, failing = self.administration.pinned, self.failing()
        wanted = wanted_models(self.catalog, self._loadable(), pinned, failing)
        told = self.worker.building
        building = "" if told is None else building_text(len(told.waiting), told.of, told.share)
        self.readiness = readiness(self.scheduler.memory(), wanted, building)

    def first_models(self) -> tuple[str, ...]:
        """Keys of the models that a worker which starts now is to load, best first."""
        pinned = self.administration.pinned
        return first_models(self.catalog, self._loadable(), pinned, self.config.models or ())

    def _loadable(self) -> dict[str, str]:
        """Keys of the models that no administrator has unloaded, by name."""
        unloaded = self.administration.unloaded
        return {name: key for name, key in self.versions.served.items() if name not in unloaded}

    @property
    def served_models(self) -> int:
        """The number of models that can be asked for, unloaded ones included."""
        return len(self.catalog.models) - len(self.failing())

    @property
    def unserved_models(self) -> int:
        """The number of models that cannot, since something is wrong with them."""
        return len(self.versions.unusable) + len(self.failing())

    def failing(self) -> dict[str, str]:
        """Models that could not be loaded when it was tried last, by name, and why."""
        whys = self.scheduler.failing_models()
        return {name: whys[key] for name, key in self.versions.served.items() if key in whys}

    def situation(self) -> Situation:
        return Situation(
            self.catalog,
            self.config.published_limits(),
            self.state,
            self._why_not_ready(),
            self._idle,
            self.regions.are_open,
            self.administration.pinned,
        )

    def statistics(self, now: float) -> wire.ServerStatistics:
        return wire.ServerStatistics(
            state=self.state,
            reason=self._why_not_ready() or self.readiness.remark,
            pid=os.getpid(),
            uptime_s=now - self.started_at,
            worker_restarts=self.restarts,
            clients=self.clients.active(now),
            in_flight=self.scheduler.open_requests,
            queued=self.scheduler.waiting_requests,
        )

    def blocks(self) -> tuple[wire.BlockStatistics, ...]:
        """The blocks that are on the device, or on their way there or back."""
        models = self.versions.models
        return tuple(
            wire.BlockStatistics(
                block.block,
                block.bytes,
                block.state,
                tuple(dict.fromkeys(models[key].name for key in block.models if key in models)),
            )
            for block in self.scheduler.memory().blocks
        )

    def _why_not_ready(self) -> str:
        if self.draining:
            return "the daemon is shutting down"
        if self.worker.ready is None:
            return self.reason
        return "" if self.readiness.is_ready else self.readiness.remark

    def _idle(self) -> dict[str, str]:
        """Models that are known and not served at present, by name, and why."""
        return {**self.failing(), **dict.fromkeys(self.administration.unloaded, NOT_LOADED)}
