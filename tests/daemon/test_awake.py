"""Processors that stay awake while there is work."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import pytest

from edged.client import Client
from edged.core.events import BatchDone, DeviceDown, Run, Woke
from edged.errors import ConfigError
from edged.observe.awake import DEVICE, HOLD_S, Awake
from tests.colors import picture
from tests.daemon.live import until

LIMIT_US = 7


def written(device: Path) -> list[int]:
    return [limit_us for (limit_us,) in struct.iter_unpack("=i", device.read_bytes())]


def test_the_limit_holds_while_there_is_work_and_a_little_longer(tmp_path: Path) -> None:
    device = tmp_path / "cpu_dma_latency"
    device.touch()
    awake = Awake(LIMIT_US, device)
    awake.sweep(9.0)
    assert written(device) == []  # there was no work yet
    for now in (10.0, 10.1, 10.9):
        awake.needed(now)
    awake.sweep(10.9 + HOLD_S)
    assert written(device) == [LIMIT_US]
    awake.sweep(11.0 + HOLD_S)
    assert written(device)[1:] == [2_000_000_000]  # what the kernel takes for no limit
    awake.needed(20.0)
    assert written(device)[2:] == [LIMIT_US]
    awake.close()


def test_a_batch_is_work_until_it_ends(tmp_path: Path) -> None:
    device = tmp_path / "cpu_dma_latency"
    device.touch()
    awake = Awake(LIMIT_US, device)
    awake.turn(10.0, Woke(), [Run(1, "group", (), 1)])
    for now in (20.0, 30.0):
        awake.sweep(now)
    awake.turn(30.0, BatchDone(1, 20.0, 0.0), [])
    awake.sweep(30.0 + HOLD_S)
    assert written(device) == [LIMIT_US]
    awake.sweep(31.0 + HOLD_S)
    assert len(written(device)) == 2
    awake.turn(40.0, Woke(), [Run(2, "group", (), 1)])
    awake.turn(40.0, DeviceDown("killed"), [])
    awake.sweep(42.0 + HOLD_S)
    assert len(written(device)) == 4
    awake.close()


def test_where_the_kernel_cannot_be_told_the_setting_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"idle_latency_us: .*: No such file.*leave the setting"):
        Awake(LIMIT_US, tmp_path / "nothing")


def kernel_us() -> int:
    """The least limit that anybody has told the kernel."""
    with open(DEVICE, "rb") as device:
        (limit_us,) = struct.unpack("=i", device.read(4))
    return int(limit_us)


def test_a_daemon_with_work_keeps_the_processors_awake(start) -> None:
    if not os.access(DEVICE, os.R_OK | os.W_OK):
        pytest.skip(f"{DEVICE} is not there, or not for this account")
    if kernel_us() <= LIMIT_US:
        pytest.skip("somebody else keeps this machine's processors awake")
    daemon = start(settings=f"idle_latency_us = {LIMIT_US}\n")
    with Client(daemon.endpoint) as client:
        client.metadata()
        assert kernel_us() > LIMIT_US
        client.infer(picture(1, 2, 3), ["color"])
        assert kernel_us() == LIMIT_US
    until(lambda: kernel_us() > LIMIT_US)
    assert daemon.stop() == 0
