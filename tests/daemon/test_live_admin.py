"""The real daemon changed while it serves: load, unload, pin, reload, over sockets and commands."""

from __future__ import annotations

import os
import signal
import stat
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edged import wire
from edged.cli import main
from edged.client import Client, Pending
from edged.client.admin import Admin
from edged.errors import EdgedError, NotFound, Unavailable, Unsupported
from edged.store import Store
from tests.colors import picture, put_tasks, write_store
from tests.daemon.live import Daemon, until

PIXELS = (250, 20, 10)
IMAGE = picture(*PIXELS)
MEANS = np.array(PIXELS, np.float32) / 255


@pytest.fixture
def own_store(tmp_path: Path) -> Path:
    """A store that a test may change."""
    return write_store(tmp_path / "own-store")


def serve(start: Callable[..., Daemon], store: Path, **options: object) -> Daemon:
    daemon = start(store=store, **options)
    daemon.wait_for("ready: ")
    return daemon


def factor(client: Client, task: str) -> float:
    """By what a task multiplies the means of a picture, to two decimals."""
    return of(client.submit(IMAGE, [task]), task)


def of(pending: Pending, task: str) -> float:
    scores = pending.result()[task].tensor[0]
    ratio = float(np.mean(scores / MEANS))
    np.testing.assert_allclose(scores, ratio * MEANS, atol=1e-5)
    return round(ratio, 2)


def test_a_new_version_takes_over_under_load_and_no_request_fails(start, own_store):
    daemon = serve(start, own_store)
    before = put_tasks(own_store, color=1.0)["color"]
    put_tasks(own_store, color=2.0)
    with Client(daemon.endpoint) as client, Admin(daemon.admin) as admin:
        assert factor(client, "color") == 1.0
        pending = [client.submit(IMAGE, ["color"]) for _ in range(60)]
        reply = admin.reload()
        assert (reply.added, reply.changed, reply.removed) == ((), ("color",), ())
        assert {of(one, "color") for one in pending} <= {1.0, 2.0}
        assert factor(client, "color") == 2.0
        assert factor(client, "weakest") == -1.0
        # The old version leaves the daemon when its last request is answered; then the disk.
        until(lambda: Store(own_store).gc().removed == (before,))
        assert {model.state for model in admin.residency().models} == {"SERVING"}
        assert factor(client, "color") == 2.0
    assert daemon.stop() == 0


def test_a_client_notices_nothing_of_one_reload_after_the_other(start, own_store):
    daemon = serve(start, own_store)
    factors: list[float] = []
    done = threading.Event()

    def ask() -> None:
        with Client(daemon.endpoint) as client:
            while not done.is_set():
                factors.append(factor(client, "color"))

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        with Admin(daemon.admin) as admin:
            for number in range(2, 7):
                put_tasks(own_store, color=float(number))
                admin.reload()
                seen = len(factors)
                until(lambda seen=seen: len(factors) > seen + 1)  # one may have been on its way
    finally:
        done.set()
        asking.join()
    assert factors == sorted(factors)
    assert set(factors) == {1.0, 2.0, 3.0, 4.0, 5.0, 6.0}
    assert daemon.stop() == 0


@pytest.mark.parametrize("damage", ["flipped bit", "missing file"])
def test_a_reload_that_fails_says_why_and_changes_nothing(start, own_store, damage):
    daemon = serve(start, own_store)
    head = put_tasks(own_store, color=3.0, extra=5.0)["extra"]
    path = Store(own_store).block_path(head)
    whole = path.read_bytes()
    if damage == "missing file":
        path.unlink()
    else:
        path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with Client(daemon.endpoint) as client, Admin(daemon.admin) as admin:
        what = "missing" if damage == "missing file" else "damaged"
        with pytest.raises(EdgedError, match=f"{head[:12]} is {what}"):
            admin.reload()
        assert factor(client, "color") == 1.0
        with pytest.raises(NotFound):
            client.infer(IMAGE, ["extra"])
        path.write_bytes(whole)
        assert admin.reload().added == ("extra",)
        assert (factor(client, "color"), factor(client, "extra")) == (3.0, 5.0)
    assert "reload failed, all is served as before" in daemon.log()
    assert daemon.stop() == 0


def test_models_come_and_go_with_the_store_and_what_is_in_use_is_kept(start, own_store):
    daemon = serve(start, own_store)
    store = Store(own_store)
    put_tasks(own_store, late=7.0)
    with store.update() as change:
        change.remove_model("weakest")
    assert store.gc().removed == ()  # the daemon serves it yet
    with Client(daemon.endpoint) as client, Admin(daemon.admin) as admin:
        assert factor(client, "weakest") == -1.0
        reply = admin.reload()
        assert (reply.added, reply.removed) == (("late",), ("weakest",))
        assert factor(client, "late") == 7.0
        with pytest.raises(NotFound, match="color, late"):
            client.infer(IMAGE, ["weakest"])
        until(lambda: len(store.gc().removed) == 1)
        assert {model.name for model in admin.residency().models} == {"color", "late"}
        assert {model.name for model in client.models()} == {"color", "late"}
        assert {task.name for task in client.statistics().tasks} >= {"color", "late"}
    assert daemon.stop() == 0


def test_a_signal_reloads_too(start, own_store):
    daemon = serve(start, own_store)
    put_tasks(own_store, color=4.0)
    daemon.process.send_signal(signal.SIGHUP)
    daemon.wait_for("reloaded: 0 models added, 1 changed, 0 removed")
    with Client(daemon.endpoint) as client:
        assert factor(client, "color") == 4.0
    assert daemon.stop() == 0


def test_a_worker_that_dies_after_a_reload_comes_back_with_what_was_served(start, own_store):
    daemon = serve(start, own_store)
    put_tasks(own_store, color=2.0)
    with Client(daemon.endpoint) as client, Admin(daemon.admin) as admin:
        admin.reload()
        put_tasks(own_store, color=9.0)  # not asked for
        daemon.worker().kill()
        until(lambda: daemon.log().count("ready: ") == 2)
        assert factor(client, "color") == 2.0
        admin.reload()
        assert factor(client, "color") == 9.0
    assert daemon.stop() == 0


def test_an_unloaded_model_is_refused_until_it_is_loaded_again(start):
    daemon = start()
    daemon.wait_for("ready: ")
    with Client(daemon.endpoint) as client, Admin(daemon.admin) as admin:
        admin.set_model("color", "unloaded")
        with pytest.raises(Unavailable, match="edged load color"):
            client.infer(IMAGE, ["color"], timeout_s=2.0)
        assert factor(client, "weakest") == -1.0
        states = {model.name: model.state for model in client.models()}
        assert states == {"color": "UNAVAILABLE", "weakest": "READY"}
        assert not client.model_ready("color").ready
        assert [model.name for model in client.models(ready=True)] == ["weakest"]
        until(lambda: residency(admin, "color").blocks_resident == 1)  # the shared backbone
        assert residency(admin, "color").state == "UNLOADED"
        admin.set_model("color", "loaded")
        assert factor(client, "color") == 1.0
        assert residency(admin, "color").blocks_resident == 2
        admin.set_model("weakest", "pinned")
        assert residency(admin, "weakest").pinned
        admin.set_model("weakest", "unpinned")
        assert not residency(admin, "weakest").pinned
        with pytest.raises(NotFound, match="color, weakest"):
            admin.set_model("birds", "loaded")
    assert daemon.stop() == 0


def residency(admin: Admin, name: str) -> wire.ModelResidency:
    (model,) = [model for model in admin.residency().models if model.name == name]
    return model


def test_who_may_use_the_daemon_cannot_change_it(start):
    daemon = start()
    daemon.wait_for("ready: ")
    path = Path(daemon.admin.removeprefix("ipc://"))
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    with Admin(daemon.endpoint) as admin, pytest.raises(Unsupported, match="admin endpoint"):
        admin.set_model("color", "unloaded")
    with Client(daemon.admin) as client:
        assert client.ready().ready
        with pytest.raises(Unsupported, match=r"server\.endpoints"):
            client.infer(IMAGE, ["color"])
    assert daemon.stop() == 0


def test_the_commands(start, own_store, capsys):
    daemon = serve(start, own_store)
    put_tasks(own_store, late=7.0)

    def run(*arguments: str) -> tuple[int, str]:
        status = main([*arguments, "--endpoint", daemon.admin])
        output = capsys.readouterr()
        return status, output.out + output.err

    assert run("reload") == (0, "added: late\n")
    assert run("reload") == (0, "nothing has changed\n")
    assert run("unload", "color") == (0, "color is unloaded\n")
    status, text = run("residency")
    assert status == 0
    assert "UNLOADED" in text
    assert run("load", "color") == (0, "color is loaded\n")
    assert run("pin", "color", "--json") == (0, '{"pin": "color"}\n')
    assert run("unpin", "color") == (0, "color is unpinned\n")
    status, text = run("load", "birds")
    assert status == 1
    assert text == "edged: there is no model 'birds'; there are color, late, weakest\n"
    assert daemon.stop() == 0


def test_what_an_administrator_said_outlives_a_restart_until_it_is_taken_back(
    start, own_store, tmp_path, capsys
):
    state = f'state_dir = "{tmp_path}/state"'
    daemon = serve(start, own_store, server=state)
    with Admin(daemon.admin) as admin:
        admin.set_model("color", "unloaded")
        admin.set_model("weakest", "pinned")
    assert daemon.stop() == 0
    daemon = serve(start, own_store, server=state)
    assert main(["models", "--endpoint", daemon.endpoint]) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert "UNAVAILABLE: unloaded by an administrator" in lines["color"]
    assert "READY, pinned" in lines["weakest"]
    with Client(daemon.endpoint) as client, Admin(daemon.admin) as admin:
        with pytest.raises(Unavailable, match="edged load color"):
            client.infer(IMAGE, ["color"])
        assert factor(client, "weakest") == -1.0
        resident = {model.name: model for model in admin.residency().models}
        assert resident["weakest"].pinned
        assert (resident["color"].blocks, resident["color"].blocks_resident) == (2, 1)
        admin.set_model("color", "loaded")
        admin.set_model("weakest", "unpinned")
    assert daemon.stop() == 0
    daemon = serve(start, own_store, server=state)
    with Client(daemon.endpoint) as client, Admin(daemon.admin) as admin:
        assert factor(client, "color") == 1.0
        assert not any(model.pinned for model in admin.residency().models)
    assert daemon.stop() == 0


def test_a_damaged_state_file_is_set_aside_and_the_daemon_starts(start, own_store, tmp_path):
    path = tmp_path / "administration.json"
    path.write_text('{"schema": 1, "said": {"unloaded": ["col')
    daemon = serve(start, own_store, server=f'state_dir = "{tmp_path}"')
    with Client(daemon.endpoint) as client:
        assert factor(client, "color") == 1.0
    assert f"{path} cannot be read" in daemon.log()
    assert daemon.stop() == 0
