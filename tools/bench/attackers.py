"""Programs that attack a daemon: one attack each, a process each.

`python -m tools.bench.attackers NAME ENDPOINT --seconds S` runs for S seconds; an attacker that is
cut off begins anew. Attackers speak ZeroMQ's protocol by hand where no library would send such
frames.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import select
import socket
import struct
import time
import zlib
from collections.abc import Callable, Iterator

import cv2
import msgspec
import numpy as np
import zmq

from edged import wire
from edged.errors import EdgedError
from edged.sharedmem.writer import Region

PART_BYTES = 1 << 20
GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x00" + b"NULL".ljust(20, b"\0") + bytes(32)
_SHARED_BYTES = 32 << 20


class Target(msgspec.Struct, frozen=True):
    """The daemon that is attacked."""

    path: str  # path of its ipc socket
    task: str  # a task that takes images
    end_s: float  # end of the attack on the monotonic clock
    burn: float = 0.0  # share of a processor that `burn` takes

    @property
    def endpoint(self) -> str:
        return f"ipc://{self.path}"

    def times(self) -> Iterator[int]:
        """Count until the end of the attack."""
        return itertools.takewhile(lambda _: time.monotonic() < self.end_s, itertools.count())


# --- ZeroMQ by hand -------------------------------------------------------------------------------


def part(data: bytes, *, more: bool) -> bytes:
    """A frame as ZeroMQ sends it over a connection."""
    if len(data) < 256:
        return bytes([more, len(data)]) + data
    return bytes([more | 2]) + len(data).to_bytes(8, "big") + data


def peer(path: str, routing_id: bytes | None = None) -> socket.socket:
    """A connection that has introduced itself as a DEALER."""
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(5.0)
    try:
        connection.connect(path)
        connection.sendall(GREETING)
        _read(connection, len(GREETING))
        ready = b"\x05READY"
        for name, value in (
            (b"Socket-Type", b"DEALER"),
            (b"Identity", routing_id or b"\x01" + os.urandom(15)),
        ):
            ready += bytes([len(name)]) + name + len(value).to_bytes(4, "big") + value
        connection.sendall(b"\x04" + bytes([len(ready)]) + ready)
        _read(connection, _read(connection, 2)[1])
    except OSError:
        connection.close()
        raise
    return connection


def _read(connection: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        piece = connection.recv(count - len(data))
        if not piece:
            raise ConnectionResetError("the daemon has hung up")
        data += piece
    return data


def _dealer(context: zmq.Context[zmq.Socket[bytes]], target: Target) -> zmq.Socket[bytes]:
    dealer = context.socket(zmq.DEALER)
    dealer.setsockopt(zmq.ROUTING_ID, b"\x01" + os.urandom(15))
    dealer.setsockopt(zmq.SNDHWM, 16)
    dealer.setsockopt(zmq.RECONNECT_IVL, 10)
    dealer.linger = 0
    dealer.connect(target.endpoint)
    return dealer


# --- memory ---------------------------------------------------------------------------------------


def unfinished(target: Target) -> None:
    """A message of parts of 1 MB that never ends."""
    piece = part(bytes(PART_BYTES), more=True)
    for _ in target.times():
        with contextlib.suppress(OSError), peer(target.path) as connection:
            for _ in target.times():
                connection.sendall(piece)


def held(target: Target) -> None:
    """Messages that stop after 300 parts of 1 MB, from 8 connections at a time."""
    piece = part(bytes(PART_BYTES), more=True)
    for _ in target.times():
        with contextlib.ExitStack() as stack:
            silent = []
            for _ in range(8):
                with contextlib.suppress(OSError):
                    connection = stack.enter_context(peer(target.path))
                    for _ in range(300):
                        connection.sendall(piece)
                    silent.append(connection)
            for _ in target.times():
                if not silent or select.select(silent, [], [], 0.1)[0]:
                    break  # the daemon has hung up


def frames(target: Target) -> None:
    """Messages of a million empty frames."""
    message = part(b"", more=True) * 1_000_000 + part(b"", more=False)
    for _ in target.times():
        with contextlib.suppress(OSError), peer(target.path) as connection:
            for _ in target.times():
                connection.sendall(message)


def unread(target: Target) -> None:
    """40 clients that ask for the description of all models, and never read it."""
    question = wire.encode_request(wire.ModelMetadata("1", target.task))
    with zmq.Context() as context:
        dealers = [_dealer(context, target) for _ in range(40)]
        for _ in target.times():
            sent = 0
            for dealer in dealers:
                with contextlib.suppress(zmq.Again):
                    for _ in range(16):
                        dealer.send_multipart(question, zmq.NOBLOCK)
                        sent += 1
            time.sleep(0.0 if sent else 0.002)
        for dealer in dealers:
            dealer.close()


def large(target: Target) -> None:
    """4 clients that send whole messages of 58 MB as fast as they can."""
    shape = (16, 1100, 1100, 3)
    payload = bytes(int(np.prod(shape)))
    with zmq.Context() as context:
        dealers = [_dealer(context, target) for _ in range(4)]
        for number in target.times():
            message = wire.encode_request(_infer(target, str(number), "UINT8", shape), [payload])
            for dealer in dealers:
                with contextlib.suppress(zmq.Again):
                    dealer.send_multipart(message, zmq.NOBLOCK, copy=False)
                _drop_answers(dealer)
            time.sleep(0.01)
        for dealer in dealers:
            dealer.close()


def region(target: Target) -> None:
    """Memory that is shared with the daemon, and that grows to 8 GB."""
    for number in target.times():
        with zmq.Context() as context, _dealer(context, target) as dealer:
            dealer.send_multipart(wire.encode_request(wire.Share(str(number), _SHARED_BYTES)))
            if not dealer.poll(1000):
                continue
            reply = wire.decode_reply(dealer.recv_multipart()).header
            if not isinstance(reply, wire.ShareReply):
                continue
            with contextlib.suppress(EdgedError, OSError):
                shared = Region(reply)
                for descriptor in map(int, os.listdir("/proc/self/fd")):
                    with contextlib.suppress(OSError):
                        if os.fstat(descriptor).st_size == reply.bytes:
                            os.ftruncate(descriptor, 8 << 30)
                            os.posix_fallocate(descriptor, 0, 8 << 30)
                shared.close()


# --- descriptors ----------------------------------------------------------------------------------


def connections(target: Target) -> None:
    """As many connections as this process may have: some send nothing, some a hello."""
    open_ones: list[socket.socket] = []
    for number in target.times():
        try:
            if number % 2:
                open_ones.append(peer(target.path))
            else:
                silent = socket.socket(socket.AF_UNIX)
                open_ones.append(silent)
                silent.connect(target.path)
        except OSError:  # this process has no descriptor left, or the daemon accepts nobody
            time.sleep(0.01)
        if len(open_ones) > 10_000:
            for one in open_ones[:1_000]:
                one.close()
            del open_ones[:1_000]


# --- pictures -------------------------------------------------------------------------------------


def progressive(target: Target) -> None:
    """Progressive JPEGs of 1 MB that take a pass over all pixels for each of their scans."""
    _pictures(target, many_scans(1 << 20))


def png(target: Target) -> None:
    """PNGs that are small as files and large as pictures."""
    _pictures(target, flat_png(5_700, 5_700))


def flood(target: Target) -> None:
    """Keep as many ordinary requests unanswered as one client may."""
    ok, file = cv2.imencode(
        ".jpg", np.random.default_rng(1).integers(0, 256, (240, 320, 3), np.uint8)
    )
    assert ok
    _pictures(target, file.tobytes())


def burn(target: Target) -> None:
    """No attack, but as much of a processor as an attacker takes, for comparison."""
    began_s, began_cpu_s = time.monotonic(), time.process_time()
    for _ in target.times():
        due_s = target.burn * (time.monotonic() - began_s)
        if time.process_time() - began_cpu_s < due_s:
            sum(range(10_000))
        else:
            time.sleep(0.005)


def many_scans(size: int) -> bytes:
    """A JPEG of about `size` bytes that repeats one of its scans."""
    ok, encoded = cv2.imencode(
        ".jpg", np.zeros((5_000, 5_000), np.uint8), [cv2.IMWRITE_JPEG_PROGRESSIVE, 1]
    )
    assert ok
    file = encoded.tobytes()
    last = file.rindex(b"\xff\xda")
    begin = file.rfind(b"\xff\xc4", 0, last)  # the table of the scan
    scan = file[begin:-2]
    return file[:-2] + scan * max(0, (size - len(file)) // len(scan)) + file[-2:]


def flat_png(width: int, height: int) -> bytes:
    """A black PNG."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")
        )

    rows = (b"\0" + bytes(3 * width)) * height
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
        + chunk(b"IDAT", zlib.compress(rows, 9))
        + chunk(b"IEND", b"")
    )


def _pictures(target: Target, file: bytes) -> None:
    """Keep 64 requests unanswered."""
    out = 0
    with zmq.Context() as context, _dealer(context, target) as dealer:
        dealer.setsockopt(zmq.SNDHWM, 100)
        for number in target.times():
            while out < 64:
                header = _infer(target, f"{number}.{out}", "BYTES", (1,))
                dealer.send_multipart(wire.encode_request(header, [file]))
                out += 1
            if dealer.poll(100):
                out -= _drop_answers(dealer)


def _drop_answers(dealer: zmq.Socket[bytes]) -> int:
    count = 0
    while dealer.poll(0):
        dealer.recv_multipart()
        count += 1
    return count


def _infer(target: Target, id: str, datatype: str, shape: tuple[int, ...]) -> wire.Infer:
    tensor = wire.InputTensor("image", datatype, shape)  # type: ignore[arg-type]
    parameters = wire.InferParameters(timeout=1_000_000)
    return wire.Infer(id, (tensor,), (wire.RequestedOutput(target.task),), parameters)


ATTACKS: dict[str, Callable[[Target], None]] = {
    attack.__name__: attack
    for attack in (
        *(progressive, png, unfinished, held, unread, large, region),
        *(frames, connections, flood, burn),
    )
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="tools.bench.attackers")
    parser.add_argument("name", choices=ATTACKS)
    parser.add_argument("endpoint", help="ipc:// of the daemon")
    parser.add_argument("--task", required=True, help="a task that takes images")
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--burn", type=float, default=0.0, help="of a processor, with burn")
    args = parser.parse_args()
    end_s = time.monotonic() + args.seconds
    path = args.endpoint.removeprefix("ipc://")
    ATTACKS[args.name](Target(path, args.task, end_s, args.burn))


if __name__ == "__main__":
    main()
