"""Field devices: threads that each send their share of the held out images to the daemon.

Knows the client and nothing behind it.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from edged.client import Client, Pending
from tools.demo.data import HeldOut

DEVICES = 4
IN_FLIGHT = 2  # requests of each device
TOP_K = 5
ALL_TASKS_EVERY = 8  # so many requests; the others ask for the one task that the image is of


@dataclass(frozen=True, slots=True)
class Answer:
    """What the daemon said of an image: the best TOP_K classes of its own task, best first."""

    image: HeldOut
    classes: tuple[str, ...]
    tasks: int  # that the request asked for
    round_trip_s: float
    batch_rows: int  # of the largest batch that the request was part of


def ask_all(endpoint: str, images: Sequence[HeldOut], seed: int) -> list[Answer]:
    """Send every image, in an order that mixes the tasks. Raises the first coded error."""
    shuffled = random.Random(seed).sample(images, len(images))
    every_task = sorted({image.task for image in images})
    requests = [
        (image, [image.task] if number % ALL_TASKS_EVERY else every_task)
        for number, image in enumerate(shuffled)
    ]
    with ThreadPoolExecutor(DEVICES) as devices:
        shares = [requests[device::DEVICES] for device in range(DEVICES)]
        answers = devices.map(lambda share: _device(endpoint, share), shares)
        return [answer for share in answers for answer in share]


def _device(endpoint: str, requests: Iterable[tuple[HeldOut, list[str]]]) -> list[Answer]:
    answers = []
    waiting: deque[tuple[HeldOut, int, Pending]] = deque()
    with Client(endpoint) as client:
        for image, tasks in requests:
            if len(waiting) == IN_FLIGHT:
                answers.append(_answer(*waiting.popleft()))
            waiting.append((image, len(tasks), client.submit(image.path, tasks, top_k=TOP_K)))
        answers += [_answer(*request) for request in waiting]
    return answers


def _answer(image: HeldOut, tasks: int, pending: Pending) -> Answer:
    result = pending.result()
    (classes,) = result[image.task].classes
    labels = tuple(best.label for best in classes)
    return Answer(image, labels, tasks, result.round_trip_s, result.batch_size)
