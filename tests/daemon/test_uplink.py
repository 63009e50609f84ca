"""Grants on a real link of a set rate: three network namespaces, three devices, one daemon."""

from __future__ import annotations

import pytest

from tools.bench import grants, netns

RATE_BITS_S = 10_000_000
SIDES = (150, 250, 400)  # 68 kB, 188 kB, 480 kB


def test_uploads_of_one_batch_end_together_and_before_those_of_equal_shares(tmp_path):
    if (reason := netns.why_not()) is not None:
        pytest.skip(reason)
    batches = {}
    with netns.uplink(RATE_BITS_S) as link:
        for shares in ("finish-together", "equal"):
            with grants.serving(tmp_path, link, RATE_BITS_S, shares) as endpoint:
                batches[shares] = grants.upload(link, endpoint, SIDES, announce=True)
    together, equal = batches["finish-together"], batches["equal"]
    assert together.spread < 0.1 < equal.spread
    # By the sizes it is 0.51: all bytes at once against the largest upload in a third of the link.
    assert together.ready_s < 0.75 * equal.ready_s
