"""One client of the overload benchmark, a process: prints what became of its requests.

It speaks frames, without the client library: it sends when it is time to, or keeps a number of
requests out, whatever the daemon says; it sends nothing twice and keeps to no credits.
"""

from __future__ import annotations

import argparse
import json
import math
import secrets
import time
from collections import Counter
from collections.abc import Callable

import numpy as np
import zmq

from edged import wire
from edged.errors import Code

LINGER_S = 5.0  # wait for answers after the last request
_CODES = {code.value for code in Code}


class OpenLoop:
    """A DEALER, and the requests that it waits for."""

    def __init__(
        self, endpoint: str, shape: list[int], tasks: list[str], timeout_s: float, seed: int
    ) -> None:
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.DEALER)
        self._socket.setsockopt(zmq.ROUTING_ID, b"\x01" + secrets.token_bytes(15))
        self._socket.linger = 0
        self._socket.connect(endpoint)
        self._random = np.random.default_rng(seed)
        self._tasks = tasks
        self._timeout_s = timeout_s
        self._inputs = (wire.InputTensor("x", "FP32", (1, *shape)),)
        self._row = self._random.random(math.prod(shape), np.float32)
        self._row[0] = seed
        self._sent_s: dict[str, float] = {}  # times at which unanswered requests were sent
        self.sent = 0
        self.held_back = 0  # requests that the socket did not take
        self.accepted: list[tuple[float, float]] = []  # time and round trip of answers, in s
        self.refused: Counter[str] = Counter()
        self.refused_s: list[float] = []
        self.uncoded = 0  # errors without a known code or a text, answers to no request

    @property
    def out(self) -> int:
        return len(self._sent_s)

    def hello(self) -> None:
        """Wait until the daemon answers: earlier requests would only pile up."""
        self._socket.send_multipart(wire.encode_request(wire.ServerMetadata("hello")))
        if not self._socket.poll(10_000):
            raise SystemExit("no daemon answers")
        self._socket.recv_multipart()

    def send(self) -> None:
        self.sent += 1
        self._row[1] = self.sent  # makes each frame differ: equal frames would run once
        task = self._tasks[self._random.integers(len(self._tasks))]
        header = wire.Infer(
            str(self.sent),
            self._inputs,
            (wire.RequestedOutput(task),),
            wire.InferParameters(timeout=round(self._timeout_s * 1e6)),
        )
        try:
            self._socket.send_multipart(
                wire.encode_request(header, [self._row.tobytes()]), zmq.NOBLOCK
            )
        except zmq.Again:
            self.held_back += 1
        else:
            self._sent_s[header.id] = time.monotonic()

    def take_in(self, until_s: float) -> None:
        """Wait for answers, at most until `until_s`, and read all that are there."""
        self._socket.poll(math.ceil(max(0.0, until_s - time.monotonic()) * 1e3))
        while True:
            try:
                frames = self._socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            self._settle(wire.decode_reply(frames).header)

    def _settle(self, reply: wire.ReplyHeader) -> None:
        now = time.monotonic()
        sent_s = self._sent_s.pop(reply.id or "", None)
        if sent_s is not None and isinstance(reply, wire.InferReply):
            self.accepted.append((now, now - sent_s))
        elif sent_s is not None and isinstance(reply, wire.ErrorReply) and reply.error:
            self.uncoded += reply.code not in _CODES
            self.refused[reply.code] += 1
            self.refused_s.append(now - sent_s)
        else:
            self.uncoded += 1

    def poisson(self, rate: float, until_s: float) -> None:
        """Send requests at random times, `rate` a second, whether or not they are answered."""
        next_s = time.monotonic() + self._random.exponential(1 / rate)
        while next_s < until_s:
            while next_s <= time.monotonic():
                self.send()
                next_s += self._random.exponential(1 / rate)
            self.take_in(min(next_s, until_s))

    def closed(self, in_flight: int, until_s: float) -> None:
        """Send a new request for each answer."""
        while time.monotonic() < until_s:
            while self.out < in_flight:
                self.send()
            self.take_in(until_s)

    def finish(self) -> None:
        end_s = time.monotonic() + self._timeout_s + LINGER_S
        while self.out and time.monotonic() < end_s:
            self.take_in(end_s)
        self._socket.close()
        self._context.term()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("endpoint")
    parser.add_argument("--shape", type=int, nargs="+", required=True, help="of a row")
    parser.add_argument("--tasks", nargs="+", required=True)
    parser.add_argument("--timeout-s", type=float, required=True)
    parser.add_argument("--begin-s", type=float, required=True, help="on the monotonic clock")
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--skip-s", type=float, default=0.0, help="of which these do not count")
    parser.add_argument("--seed", type=int, required=True)
    how = parser.add_mutually_exclusive_group(required=True)
    how.add_argument("--rate", type=float, help="requests a second, at random times")
    how.add_argument("--in-flight", type=int, help="requests out at a time")
    args = parser.parse_args()
    client = OpenLoop(args.endpoint, args.shape, args.tasks, args.timeout_s, args.seed)
    client.hello()
    time.sleep(max(0.0, args.begin_s - time.monotonic()))
    end_s = args.begin_s + args.seconds
    load: Callable[[float], None] = (
        (lambda until_s: client.closed(args.in_flight, until_s))
        if args.rate is None
        else (lambda until_s: client.poisson(args.rate, until_s))
    )
    load(end_s)
    client.finish()
    counted = (args.begin_s + args.skip_s, end_s)
    good = sum(
        counted[0] <= at < counted[1] and took_s <= args.timeout_s for at, took_s in client.accepted
    )
    print(
        json.dumps(
            {
                "sent": client.sent,
                "held_back": client.held_back,
                "unanswered": client.out,
                "uncoded": client.uncoded,
                "refused": client.refused,
                "good_per_s": good / (counted[1] - counted[0]),
                "accepted_s": [round(took_s, 5) for _, took_s in client.accepted],
                "refused_s": [round(took_s, 5) for took_s in client.refused_s],
            }
        )
    )


if __name__ == "__main__":
    main()
