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
IN_FLIGHT = 2  # unanswered requests of each device
TOP_K = 5
ALL_TASKS_EVERY = 8  # every eighth request asks for all tasks, the others for the image's own task


@dataclass(frozen=True, slots=True)
class Answer:
    """The daemon's answer for an image."""

    image: HeldOut
    classes: tuple[str, ...]  # the TOP_K best classes of its own task, best first
    tasks: int  # number of tasks that the request asked for
    round_trip_s: float
    batch_rows: int  # rows of the largest batch that the request was part of


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
