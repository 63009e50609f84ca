"""The unit on the real systemd: what an operator sees of starting, failing and stopping."""

from __future__ import annotations

import functools
import os
import sys

import numpy as np
import pytest

from edged.client import Retry
from edged.errors import Unavailable
from edged.observe.awake import DEVICE
from edged.store import Store
from tests.colors import picture, png, put_tasks
from tests.processes import suspend
from tests.systemd.box import wait_for
from tests.systemd.installation import (
    ADMIN_SOCKET,
    CONFIG,
    PREFIX,
    SOCKET,
    START_LIMIT,
    STATE,
    STORE,
    TREE,
    UNIT,
)

pytestmark = pytest.mark.root

# systemd-analyze's exposure level times ten. What remains is the use of IP (0.8), /proc beyond
# processes (0.1), which onnxruntime reads the processor's features from, and the clock (0.1).
EXPOSURE = 15

ONCE = Retry(attempts=1)


def answer(client) -> str:
    """The label of a red picture."""
    return client.infer(picture(200, 10, 10), "color", top_k=1)["color"].classes[0][0].label


def test_systemd_understands_every_line(installation):
    done = installation.box.run("systemd-analyze", "verify", UNIT)
    # A misspelt key is a warning only, with status 0.
    assert done.stderr == ""


def test_the_sandbox_is_tight(installation):
    installation.box.run(
        "systemd-analyze", "security", f"--threshold={EXPOSURE}", "--no-pager", "edged.service"
    )


def test_active_means_warm(stopped):
    stopped.systemctl("start", "--no-block", "edged")
    worker = wait_for("a worker starts", stopped.workers, 20.0)[0]
    suspend(worker)
    with stopped.client() as client:
        ready = client.ready()
        assert (ready.ready, ready.state) == (False, "STARTING")
    assert stopped.show("ActiveState")["ActiveState"] == "activating"
    worker.resume()
    stopped.wait_for_state("active")
    assert "serving 2 models on cpu" in stopped.show("StatusText")["StatusText"]
    with stopped.client() as client:
        assert answer(client) == "red"


def test_a_start_leaves_nothing_in_the_journal_but_what_was_meant(serving):
    # Libraries that the sandbox keeps from something say so here and compute more slowly.
    assert started(serving.journal()) == [
        f"listening at ipc://{SOCKET}",
        f"administration at ipc://{ADMIN_SOCKET}",
        "loading model 1 of 2",
        "loading model 2 of 2",
        f"ready: 2 models on cpu, {len(os.sched_getaffinity(0))} threads",
    ]


def started(lines: list[str]) -> list[str]:
    """The lines but for those of models that are measured when nobody asks for anything."""
    return [line for line in lines if "is measured, up to" not in line]


def test_members_of_its_group_are_served_and_nobody_else(serving):
    image = "/tmp/red.png"
    serving.box.path(image).write_bytes(png(picture(200, 10, 10)))
    assert "red" in serving.edged("infer", "--task", "color", image, group="edged")
    with pytest.raises(AssertionError, match=SOCKET):
        serving.edged("status", "--timeout=0.5", group="nogroup")
    assert "READY" in serving.edged("status", "--timeout=0.5", group="edged")


SHARES = f"""
import numpy as np
from edged.client import Client
with Client("ipc://{SOCKET}") as client:
    red = np.full((200, 300, 3), (200, 10, 10), np.uint8)
    for _ in range(3):
        result = client.infer(red, "color", top_k=1)
    shared = client.statistics().memory["clients_shared_bytes"]
    print(result["color"].classes[0][0].label, shared >= red.nbytes)
"""


def test_members_of_its_group_share_memory_with_it(serving):
    assert serving.python(SHARES, group="edged").split() == ["red", "True"]
    # From where this test runs the file is not to be seen, as from another container.
    with serving.client() as client:
        red = np.full((200, 300, 3), (200, 10, 10), np.uint8)
        for _ in range(3):
            assert client.infer(red, "color", top_k=1)["color"].classes[0][0].label == "red"


def test_nothing_is_kept_but_what_it_was_given_to_keep(serving):
    kept = sorted(os.listdir(serving.box.path("/var/lib/edged")))
    assert kept == ["store"]  # the home directory of its account, too


def test_tcp_works_within_the_sandbox(stopped):
    stopped.configure('[server]\nendpoints = ["tcp://127.0.0.1:5555"]')
    stopped.systemctl("start", "edged")
    status = stopped.edged("status", "--endpoint", "tcp://127.0.0.1:5555")
    assert "READY" in status


def test_a_killed_front_is_back_and_leaves_no_worker_behind(serving):
    front, worker = serving.front(), serving.worker()
    with serving.client() as client:
        assert answer(client) == "red"
        front.kill()
        wait_for("another front", lambda: serving.fronts() not in ([], [front]), 20.0)
        serving.wait_for_state("active")
        assert answer(client) == "red"  # the client has found its way back by itself
    assert not worker.is_running()
    assert len(serving.workers()) == 1
    assert serving.show("NRestarts", "Result") == {"NRestarts": "1", "Result": "success"}


def test_the_watchdog_ends_a_front_that_stands_still(serving):
    assert "\nWatchdogSec=" in (TREE / "systemd/edged.service").read_text()  # here it is shorter
    front, worker, invocation = serving.front(), serving.worker(), serving.invocation()
    suspend(front)
    wait_for("another front", lambda: serving.fronts() not in ([], [front]), 20.0)
    serving.wait_for_state("active")
    assert any("Watchdog timeout" in line for line in serving.verdicts())
    # Where it stood, for whoever has to find out why.
    assert any("edged/daemon/loop.py" in line for line in serving.journal(invocation=invocation))
    assert not worker.is_running()
    with serving.client() as client:
        assert answer(client) == "red"


def test_a_killed_worker_is_not_systemds_business(serving):
    front, worker = serving.front(), serving.worker()
    with serving.client() as client:
        assert answer(client) == "red"
        worker.kill()
        wait_for("another worker", lambda: serving.workers() not in ([], [worker]), 20.0)
        assert answer(client) == "red"
        assert client.statistics().server.worker_restarts == 1
    (line,) = serving.journal("--priority=err")
    assert line == "the device worker was ended by SIGKILL (out of memory?)"
    assert serving.fronts() == [front]
    assert serving.show("ActiveState", "NRestarts") == {"ActiveState": "active", "NRestarts": "0"}


def test_stopping_answers_what_was_accepted(serving):
    with serving.client(retry=ONCE) as client:
        worker = serving.worker()
        suspend(worker)  # so that all of it is still open
        accepted = [client.submit(picture(200, 10, 10), "color", top_k=1) for _ in range(60)]
        client.ping()  # messages come in order: the front has read them all
        serving.systemctl("stop", "--no-block", "edged")
        wait_for("it drains", lambda: client.ready().state == "DRAINING", 10.0)
        with pytest.raises(Unavailable, match="shutting down"):
            client.infer(picture(200, 10, 10), "color")
        assert serving.show("StatusText") == {"StatusText": "draining: 60 requests to answer"}
        worker.resume()
        labels = {pending.result()["color"].classes[0][0].label for pending in accepted}
        assert labels == {"red"}
    wait_for("it has stopped", lambda: not serving.fronts(), 10.0)
    serving.wait_for_state("inactive")
    assert serving.show("Result", "ExecMainStatus", "NRestarts") == {
        "Result": "success",
        "ExecMainStatus": "0",
        "NRestarts": "0",
    }
    assert not serving.workers()
    assert not serving.box.path(SOCKET).exists()


def test_a_changed_store_is_taken_over_by_systemctl_reload(serving):
    front, store = serving.fronts(), serving.box.path(STORE)
    put_tasks(store, late=7.0)
    serving.systemctl("reload", "edged")
    with serving.client() as client:
        assert client.infer(picture(200, 10, 10), "late")["late"].model == "late"
    wait_for(
        "the status line says so",
        lambda: "serving 3 models" in serving.show("StatusText")["StatusText"],
        5.0,
    )
    head = put_tasks(store, color=2.0)["color"]
    Store(store).block_path(head).unlink()
    try:
        done = serving.box.run("systemctl", "reload", "edged", check=False)
    finally:
        put_tasks(store, color=1.0)  # as the other tests have it
    assert done.returncode != 0
    assert f"block {head[:12]} is missing" in started(serving.journal())[-1]
    with serving.client() as client:
        assert answer(client) == "red"
    assert serving.fronts() == front


def test_a_misspelt_key_fails_once_and_says_where(stopped):
    stopped.configure("[scheduler]\nmax_batch_rowz = 4\n")
    done = stopped.box.run("systemctl", "start", "edged", check=False)
    assert done.returncode != 0
    assert stopped.show("ActiveState", "Result", "ExecMainStatus", "NRestarts") == {
        "ActiveState": "failed",
        "Result": "exit-code",
        "ExecMainStatus": "2",
        "NRestarts": "0",
    }
    (line,) = stopped.journal()
    assert CONFIG in line
    assert "max_batch_rowz" in line
    assert "$.scheduler" in line


def test_a_warning_of_the_worker_is_one_in_the_journal_and_names_its_block(stopped):
    head = Store(stopped.box.path(STORE)).models()["weakest"].steps[-1].block
    copies = functools.partial(stopped.box.path("/var/cache/edged").glob, f"{head}-*/*.onnx")
    stopped.systemctl("start", "edged")
    # The service is ready before all its models are loaded.
    wait_for("a prepared copy", lambda: list(copies()), 60)
    stopped.systemctl("stop", "edged")
    (prepared,) = copies()
    data = prepared.read_bytes()
    prepared.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    stopped.systemctl("start", "edged")
    options = ("--priority=warning", "--unit=edged")
    (line,) = wait_for("a warning", lambda: stopped.journal(*options), 60)
    assert f"the prepared copy of block {head[:12]} was damaged" in line
    assert stopped.journal("--priority=warning", f"_PID={stopped.worker_pid()}") == [line]
    assert stopped.journal("--priority=warning", f"EDGED_BLOCK={head}") == [line]


def test_the_level_of_the_log_reaches_the_worker(stopped):
    stopped.configure('[log]\nlevel = "debug"\n')
    stopped.systemctl("start", "edged")
    workers = stopped.journal("--priority=debug", f"_PID={stopped.worker_pid()}")
    assert any("loaded in" in line for line in workers), workers
    assert not any("loaded in" in line for line in stopped.journal("--priority=info"))


def test_a_start_that_fails_says_so_with_a_priority_whatever_it_fails_with(stopped):
    """The configuration, the store, the worker, the command line."""
    for text, says in (
        ("[scheduler]\nmax_batch_rowz = 4\n", "max_batch_rowz"),
        ('[device]\nprofile = "/nonexistent.json"', "device.profile"),
        ('[device]\noptions = {provider = "tensorrt"}', "this build of onnxruntime has no"),
    ):
        stopped.configure(text)
        stopped.systemctl("start", "edged", check=False)
        stopped.wait_for_state("failed")
        assert stopped.show("ExecMainStatus", "NRestarts") == {
            "ExecMainStatus": "2",
            "NRestarts": "0",
        }
        (line,) = stopped.journal("--priority=warning")
        assert says in line
        assert stopped.show("StatusText") == {"StatusText": f"not started: {line}"}
        stopped.systemctl("reset-failed", "edged")
    drop_in = f"{UNIT}.d/mistake.conf"
    stopped.box.write(
        drop_in, f"[Service]\nExecStart=\nExecStart={PREFIX}/bin/edged serve --confg x"
    )
    stopped.systemctl("daemon-reload")
    try:
        stopped.systemctl("start", "edged", check=False)
        stopped.wait_for_state("failed")
        lines = stopped.journal("--priority=err")
        assert lines[-1] == "edged: error: unrecognized arguments: --confg x"
    finally:
        stopped.box.path(drop_in).unlink()
        stopped.systemctl("daemon-reload")


def test_what_an_administrator_said_outlives_a_restart_of_the_service(stopped):
    stopped.systemctl("start", "edged")
    state = stopped.box.path(STATE)
    try:
        stopped.edged("unload", "weakest")
        stopped.edged("pin", "color")
        front = stopped.fronts()
        stopped.systemctl("restart", "edged")
        assert stopped.fronts() != front
        models = stopped.edged("models")
        assert "unloaded by an administrator" in models
        assert "READY, pinned" in models
        stopped.edged("load", "weakest")
        stopped.edged("unpin", "color")
        stopped.systemctl("restart", "edged")
        assert "administrator" not in stopped.edged("models")
    finally:
        state.unlink(missing_ok=True)


def test_a_store_that_stays_away_is_not_waited_for_for_ever(stopped):
    stopped.configure('store = "/var/lib/edged/elsewhere"')
    stopped.systemctl("start", "edged", check=False)
    stopped.wait_for_state("failed")
    assert stopped.show("NRestarts") == {"NRestarts": str(START_LIMIT)}
    assert "there is no store at /var/lib/edged/elsewhere" in stopped.journal()[-1]


def test_the_drop_in_for_a_jetson_is_understood_and_starts(stopped):
    """On this machine, without a GPU; on a Jetson it is not verified."""
    drop_in = "/etc/systemd/system/edged.service.d/jetson.conf"
    stopped.box.write(drop_in, (TREE / "systemd/edged.service.d/jetson.conf").read_text())
    stopped.box.run("groupadd", "--force", "--system", "render")
    stopped.systemctl("daemon-reload")
    try:
        assert stopped.box.run("systemd-analyze", "verify", UNIT).stderr == ""
        stopped.systemctl("start", "edged")
        groups = stopped.show("SupplementaryGroups")["SupplementaryGroups"]
        assert groups.split() == ["video", "render"]
        with stopped.client() as client:
            assert answer(client) == "red"
    finally:
        stopped.box.path(drop_in).unlink()
        stopped.systemctl("daemon-reload")


@pytest.mark.parametrize("names", [("idle-latency",), ("idle-latency", "jetson")])
def test_with_its_drop_in_the_service_may_keep_processors_awake(stopped, names):
    """Beside the one for a Jetson, too, which needs all devices: not a list of one."""
    if not DEVICE.exists():
        pytest.skip(f"this kernel has no {DEVICE}")
    drop_ins = [f"/etc/systemd/system/edged.service.d/{name}.conf" for name in names]
    for name, drop_in in zip(names, drop_ins, strict=True):
        stopped.box.write(drop_in, (TREE / f"systemd/edged.service.d/{name}.conf").read_text())
    config = (TREE / "configs/edged.full.toml").read_text()
    stopped.configure(config.replace("# idle_latency_us = 0", "idle_latency_us = 7"))
    stopped.box.run("groupadd", "--force", "--system", "render")
    node = DEVICE.stat().st_rdev
    numbers = (str(os.major(node)), str(os.minor(node)))
    stopped.box.run("mknod", "--mode=600", str(DEVICE), "c", *numbers)
    stopped.systemctl("daemon-reload")
    try:
        assert stopped.box.run("systemd-analyze", "verify", UNIT).stderr == ""
        stopped.systemctl("start", "edged")
        with stopped.client() as client:
            assert answer(client) == "red"
            with DEVICE.open("rb") as kernel:
                assert int.from_bytes(kernel.read(4), sys.byteorder) <= 7
        allowed = {} if "jetson" in names else {"DeviceAllow": f"{DEVICE} rw"}
        assert stopped.show("DeviceAllow") == allowed
    finally:
        stopped.box.run("rm", str(DEVICE))
        for drop_in in drop_ins:
            stopped.box.path(drop_in).unlink()
        stopped.systemctl("daemon-reload")
