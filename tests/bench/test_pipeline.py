"""The pipeline on the modelled time line: what two batches in flight and three streams are for."""

from __future__ import annotations

import pytest

from tools.bench.pipeline import LEAST_BUSY, LOADS, busy

BATCHES = 200
# Exact: what a batch takes on the device, of all that it takes when nothing overlaps.
ALONE = {"like an H200": 0.92, "like an Orin": 0.833, "light": 0.513}


@pytest.mark.parametrize("load", LOADS)
def test_two_in_flight_keep_the_device_busy_and_one_does_not(load: str) -> None:
    assert busy(LOADS[load], 1, True, BATCHES) == pytest.approx(ALONE[load], abs=0.002)
    assert busy(LOADS[load], 2, True, BATCHES) >= LEAST_BUSY


@pytest.mark.parametrize("load", LOADS)
def test_copies_on_the_stream_of_blocks_are_not_hidden(load: str) -> None:
    times = LOADS[load]
    device_s = times.copy_in_s + times.blocks_s + times.copy_out_s
    expected = times.blocks_s / max(device_s, times.host_s)
    assert busy(times, 2, False, BATCHES) == pytest.approx(expected, abs=0.005)
