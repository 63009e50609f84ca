"""Clients in a forked child: refused with a coded error at once. The parent's go on unharmed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from typing import Any

import pytest

from tests.daemon.live import Daemon

# A program whose connected clients are in use when it forks. The child uses what it inherits and
# a client of its own; then the parent goes on. What both saw is printed as JSON.
COMMON = """
import asyncio, json, multiprocessing, os, sys, time
import numpy as np
from edged.client import Client
from edged.client.aio import AsyncClient
from edged.errors import EdgedError

endpoint, ending = sys.argv[1:]
PIXELS = np.full((300, 300, 3), 9, np.uint8)  # so large that it is shared with the daemon

def said(use):
    try:
        return f"returned {use()}"
    except EdgedError as error:
        return f"{error.code.value}: {error}"

def regions():
    targets = []
    for number in os.listdir("/proc/self/fd"):
        try:
            targets.append(os.readlink(f"/proc/self/fd/{number}"))
        except OSError:
            pass
    return [t for t in targets if "memfd:edged" in t]

def fork(child):
    reader, writer = os.pipe()
    if ending == "multiprocessing":
        def run():
            os.write(writer, json.dumps(child()).encode())
        process = multiprocessing.get_context("fork").Process(target=run)
        process.start()
        process.join()
        status = process.exitcode
    else:
        pid = os.fork()
        if pid == 0:
            os.write(writer, json.dumps(child()).encode())
            sys.exit(0)  # as a program ends that is not told of the fork
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return {"child": json.loads(os.read(reader, 100_000)), "status": status}
"""

BLOCKING = """
client = Client(endpoint, timeout_s=20).connect()
unconnected = Client(endpoint, timeout_s=20)
for _ in range(2):  # the first asks for shared memory
    client.infer(PIXELS, "color")
assert regions()
gone_on = client.infer_many([PIXELS] * 60, "color")
next(gone_on)
pending = client.submit(PIXELS, "color")

def child():
    began_s = time.monotonic()
    seen = {
        "infer": said(lambda: client.infer(PIXELS, "color")),
        "submit": said(lambda: client.submit(b"jpeg", "color")),
        "infer_many": said(lambda: list(client.infer_many([PIXELS], "color"))),
        "the rest of infer_many": said(lambda: list(gone_on)),
        "pending.result": said(pending.result),
        "pending.done": said(pending.done),
        "pending.cancel": said(pending.cancel),
        "live": said(client.live),
        "statistics": said(client.statistics),
        "connect": said(client.connect),
    }
    client.close()
    seconds = time.monotonic() - began_s
    held = regions()
    with unconnected, Client(endpoint, timeout_s=20) as own:
        answers = [c.infer(PIXELS, "color", top_k=1)["color"].model for c in (own, unconnected)]
    return {"seen": seen, "seconds": seconds, "held": held, "answers": answers}

found = fork(child)
pending.result()
found["parent"] = len(list(gone_on))
client.close()
print(json.dumps(found))
"""

ASYNCIO = """
async def main():
    client = await AsyncClient(endpoint, timeout_s=20).connect()
    for _ in range(2):
        await client.infer(PIXELS, "color")
    assert regions()
    pending = client.submit(PIXELS, "color")
    await asyncio.sleep(0)

    def child():
        def awaited(use):
            try:
                use().send(None)  # it raises before it waits for anything
            except StopIteration as done:
                return done.value

        began_s = time.monotonic()
        seen = {
            "infer": said(lambda: awaited(lambda: client.infer(PIXELS, "color"))),
            "submit": said(lambda: client.submit(b"jpeg", "color")),
            "pending.result": said(lambda: awaited(pending.result)),
            "pending.cancel": said(lambda: awaited(pending.cancel)),
            "live": said(lambda: awaited(client.live)),
            "connect": said(lambda: awaited(client.connect)),
        }
        awaited(client.close)
        seconds = time.monotonic() - began_s
        held = regions()
        with Client(endpoint, timeout_s=20) as own:
            answers = [own.infer(PIXELS, "color", top_k=1)["color"].model]
        return {"seen": seen, "seconds": seconds, "held": held, "answers": answers}

    found = fork(child)
    await pending.result()
    results = await asyncio.gather(*(client.infer(PIXELS, "color") for _ in range(59)))
    found["parent"] = len(results)
    await client.close()
    print(json.dumps(found))

asyncio.run(main())
"""


@pytest.mark.parametrize("ending", ["multiprocessing", "exit"])
@pytest.mark.parametrize("program", [BLOCKING, ASYNCIO], ids=["blocking", "asyncio"])
def test_a_client_in_a_forked_child_is_refused_at_once_and_the_parents_goes_on(
    program: str, ending: str, real_daemon: Daemon
) -> None:
    command = [sys.executable, "-c", COMMON + program, real_daemon.endpoint, ending]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as running:
        try:
            out, errors = running.communicate(timeout=60)
        except subprocess.TimeoutExpired:
            os.killpg(running.pid, signal.SIGKILL)  # its child, too
            raise
    assert running.returncode == 0, errors
    found: dict[str, Any] = json.loads(out)
    child = found["child"]
    assert child["seen"] == {
        use: "INVALID_ARG: this client belongs to the process that this one was forked from: open "
        "one in each process"
        for use in child["seen"]
    }
    assert child["seconds"] < 1
    assert not child["held"]  # the parent's memory would stay for as long as the child lives
    assert set(child["answers"]) == {"color"}
    assert found["status"] == 0
    assert found["parent"] == 59
    assert "Error" not in errors
