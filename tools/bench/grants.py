"""Uploads of a batch over one slow link: granted by equation (12), in equal shares, or ungranted.

Three devices in a network namespace upload images of unequal size to a daemon in another, over a
link of a set rate. Real sockets, real TCP; the model costs nothing, so an answer comes when its
upload is complete. Needs root, ip and tc.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from edged.client import Client
from edged.errors import EdgedError, Unsupported
from edged.manifest import Preprocess
from tools.bench import netns
from tools.bench.report import emit
from tools.bench.serving import one_task_store

SIDES = (220, 400, 640)  # sides of square images in pixels: 145 kB, 480 kB, 1.2 MB
PORT = 5570
START_S = 60.0  # time limit for the daemon's start
PAYLOAD = 0.93  # share of the link's rate that is granted; TCP, IP and the frames take the rest


@dataclass(frozen=True, slots=True)
class Batch:
    """The uploads of one batch."""

    ended_s: tuple[float, ...]  # end of each upload, counted from the common start

    @property
    def ready_s(self) -> float:
        return max(self.ended_s)

    @property
    def spread(self) -> float:
        """The time between the first and the last end, as a share of the whole time."""
        return (max(self.ended_s) - min(self.ended_s)) / self.ready_s


def register(commands: Any) -> None:
    parser = commands.add_parser("grants", help="announced uploads over a slow, shared link")
    parser.add_argument("--mbit", type=float, default=10.0, help="rate of the link")
    parser.add_argument("--repeats", type=int, default=3)
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    if (reason := netns.why_not()) is not None:
        raise Unsupported(f"this benchmark cannot run here: {reason}")
    rate_bits_s = int(args.mbit * 1e6)
    batches: dict[str, list[Batch]] = {"granted": [], "equal": [], "unasked": []}
    with (
        tempfile.TemporaryDirectory(prefix="edged-bench-") as name,
        netns.uplink(rate_bits_s) as link,
    ):
        for _ in range(args.repeats):
            for shares in ("finish-together", "equal"):
                with serving(Path(name), link, rate_bits_s, shares) as endpoint:
                    kind = "granted" if shares == "finish-together" else "equal"
                    batches[kind].append(upload(link, endpoint, SIDES, announce=True))
                    if shares == "equal":
                        batches["unasked"].append(upload(link, endpoint, SIDES, announce=False))
    ready_s = {kind: median(batch.ready_s for batch in some) for kind, some in batches.items()}
    emit(
        "grants",
        "measured",
        seed=0,
        link_mbit_s=args.mbit,
        upload_bytes=[3 * side * side for side in SIDES],
        batch_ready_s={kind: round(value, 3) for kind, value in ready_s.items()},
        first_to_last={
            kind: round(median(batch.spread for batch in some), 3) for kind, some in batches.items()
        },
        ratio=round(ready_s["granted"] / ready_s["equal"], 3),
        ratio_to_unasked=round(ready_s["granted"] / ready_s["unasked"], 3),
    )
    return 0


@contextlib.contextmanager
def serving(folder: Path, link: netns.Link, rate_bits_s: int, shares: str) -> Iterator[str]:
    """A daemon at the edge; yields the endpoint that the field connects to."""
    tcp, ipc = f"tcp://{netns.EDGE_ADDRESS}:{PORT}", f"ipc://{folder}/edged.sock"
    config = folder / "edged.toml"
    config.write_text(
        f'store = "{one_task_store(folder / "store", (3, 8, 8), Preprocess(8, 8))}"\n'
        f'[server]\nendpoints = ["{tcp}", "{ipc}"]\nallow_plain_tcp = true\n'
        f'[uplink]\nrate_bytes_s = {int(rate_bits_s / 8 * PAYLOAD)}\nshares = "{shares}"\n'
        f'gather_s = 0.1\n[device]\nbackend = "fake"\ncache_dir = "{folder}/cache"\n'
    )
    command = [sys.executable, "-m", "edged", "serve", "--config", str(config)]
    with (folder / "daemon.log").open("wb") as log:
        daemon = subprocess.Popen(netns.inside(link.edge, command), stderr=log)
    try:
        _wait(ipc, daemon)
        yield tcp
    finally:
        daemon.send_signal(signal.SIGTERM)
        daemon.wait(START_S)


def upload(link: netns.Link, endpoint: str, sides: Sequence[int], *, announce: bool) -> Batch:
    """One image of each size, all at the same moment, each from a process in the field."""
    start_s = time.monotonic() + 1.5 + len(sides)
    options = ["announce"] if announce else []
    command = [sys.executable, "-m", "tools.bench.uploader", endpoint]
    devices = [
        subprocess.Popen(
            netns.inside(link.field, [*command, str(side), str(start_s), *options]),
            stdout=subprocess.PIPE,
            text=True,
        )
        for side in sides
    ]
    reports = [
        json.loads(device.communicate(timeout=START_S)[0].splitlines()[-1]) for device in devices
    ]
    late_s = max(report["began_s"] for report in reports) - start_s
    if late_s > 0.05:
        raise EdgedError(
            f"a device began {late_s:.2f} s late: the machine is too busy, run it again"
        )
    return Batch(tuple(report["ended_s"] - start_s for report in reports))


def _wait(endpoint: str, daemon: subprocess.Popen[bytes]) -> None:
    patience_s = time.monotonic() + START_S
    while time.monotonic() < patience_s and daemon.poll() is None:
        with contextlib.suppress(EdgedError), Client(endpoint, connect_timeout_s=1.0) as client:
            if client.ready().ready:
                return
        time.sleep(0.05)
    raise EdgedError("the daemon did not get ready in its namespace")
