"""A process that is a client which keeps to the rules: it sends ten requests a second.

It prints one JSON line: how many requests it sent, how many were answered in time, and the longest
time without an answer.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import time

import cv2
import numpy as np

from edged.client.aio import AsyncClient
from edged.errors import EdgedError


async def ask(endpoint: str, task: str, seconds: float, rate: float, timeout_s: float) -> None:
    ok, encoded = cv2.imencode(".jpg", np.full((240, 320, 3), 90, np.uint8))
    assert ok
    image = encoded.tobytes()
    answered_s: list[float] = []
    failed: dict[str, int] = {}

    async def one(client: AsyncClient) -> None:
        try:
            await client.infer(image, [task], timeout_s=timeout_s)
            answered_s.append(time.monotonic())
        except EdgedError as error:
            failed[type(error).__name__] = failed.get(type(error).__name__, 0) + 1

    async with AsyncClient(endpoint) as client:
        began_s = time.monotonic()
        requests = []
        for number in range(round(seconds * rate)):
            await asyncio.sleep(max(0.0, began_s + number / rate - time.monotonic()))
            requests.append(asyncio.create_task(one(client)))
        await asyncio.gather(*requests)
    times_s = [began_s, *sorted(answered_s), began_s + seconds]
    gaps_s = [later - sooner for sooner, later in itertools.pairwise(times_s)]
    print(
        json.dumps(
            {
                "sent": len(requests),
                "in_time": len(answered_s),
                "failed": failed,
                "longest_gap_s": max(gaps_s),
            }
        )
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="tools.bench.innocent")
    parser.add_argument("endpoint")
    parser.add_argument("--task", required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--rate", type=float, default=10.0)
    parser.add_argument("--timeout-s", type=float, default=1.0)
    args = parser.parse_args()
    asyncio.run(ask(args.endpoint, args.task, args.seconds, args.rate, args.timeout_s))


if __name__ == "__main__":
    main()
