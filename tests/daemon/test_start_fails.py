"""A start that fails: `edged check` ends with the same status and the same words.

Status 2: only an edit of the configuration or the store helps. Status 1: time may help, so systemd
tries again. Each start is a real process.
"""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import onnxruntime
import pytest

from edged import profiles
from edged.cli import main
from edged.profiles.form import SCHEMA, BlockProfile, DeviceProfile, encode
from edged.store import Store
from tests.colors import write_store
from tests.daemon.test_preflight import configuration

TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z "


class Case:
    """A configuration with something wrong, and a store of its own."""

    def __init__(self, folder: Path, **sections: str) -> None:
        self.folder = folder
        self.path = folder / "edged.toml"
        self.store = folder / "store"
        write_store(self.store)
        here = {name: text.replace("FOLDER", str(folder)) for name, text in sections.items()}
        self.path.write_text(configuration(folder, self.store, **here))

    def damage(self, pattern: str, change: Callable[[Path], object]) -> None:
        """Change files of the store."""
        paths = sorted(self.store.glob(pattern))
        assert paths
        for path in paths:
            change(path)


def wrong(**sections: str) -> Callable[[Path], Case]:
    return lambda folder: Case(folder, **sections)


def damaged(pattern: str, change: Callable[[Path], object]) -> Callable[[Path], Case]:
    def make(folder: Path) -> Case:
        case = Case(folder, device='backend = "onnxruntime"\nprepare_threads = 1\nthreads = 1')
        case.damage(pattern, change)
        return case

    return make


def flip(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))


def no_file(folder: Path) -> Case:
    case = Case(folder)
    case.path.unlink()
    return case


def a_directory(folder: Path) -> Case:
    case = no_file(folder)
    case.path.mkdir()
    return case


def no_model(folder: Path) -> Case:
    case = Case(folder, top='store = "FOLDER/empty"')
    Store(folder / "empty").create()
    return case


def a_profile(**changes: object) -> Callable[[Path], Case]:
    """One of this machine, but for the changes."""

    def make(folder: Path) -> Case:
        case = Case(folder, device='profile = "FOLDER/profile.json"')
        blocks = {
            step.block: BlockProfile((1,), (0.001,))
            for manifest in Store(case.store).models().values()
            for step in manifest.steps
        }
        profile = DeviceProfile(
            SCHEMA, "a test", "none", blocks, "fake", profiles.machine(), lanes=1
        )
        changed = msgspec.structs.replace(profile, **changes)
        (folder / "profile.json").write_bytes(encode(changed))
        return case

    return make


def beside(name: str, make: Callable[[Path], object], **sections: str) -> Callable[[Path], Case]:
    """Something that is in the way, at a path of that name."""

    def case(folder: Path) -> Case:
        make(folder / name)
        return Case(folder, **sections)

    return case


ORT = 'backend = "onnxruntime"\n'
TCP = 'allow_plain_tcp = true\nendpoints = ["tcp://{}"]'
BROKEN = {
    # The configuration itself.
    "no file": (no_file, 2, "No such file or directory"),
    "a directory": (a_directory, 2, "Is a directory"),
    "no TOML": (wrong(top="store ="), 2, "line 1"),
    "an unknown key": (wrong(scheduler="max_batch_rowz = 4"), 2, "max_batch_rowz"),
    "a number out of bounds": (wrong(scheduler="max_batch_rows = 0"), 2, "max_batch_rows"),
    "a text for a number": (wrong(device='threads = "two"'), 2, "threads"),
    "keys that contradict": (wrong(scheduler="staging_rows = 1"), 2, "staging_rows is 1"),
    "an unknown policy": (wrong(scheduler='policy = "psychic"'), 2, "scheduler.policy"),
    "a level in between": (wrong(log='level = "loud"'), 2, "log.level"),
    "an abstract socket": (wrong(server='endpoints = ["ipc://@a"]'), 2, "every account"),
    "an open port": (wrong(server='endpoints = ["tcp://*:5555"]'), 2, "allow_plain_tcp"),
    "an unknown backend": (wrong(device='backend = "abacus"'), 2, "device.backend"),
    "an unknown option": (wrong(device='options = {speed = 2}'), 2, "speed"),
    # The store, and what is asked of it.
    "no store": (wrong(top='store = "FOLDER/none"'), 1, "there is no store at"),
    "a file for a store": (wrong(top='store = "FOLDER/edged.toml"'), 1, "there is no store at"),
    "a store without models": (no_model, 2, "the store holds no model"),
    "a damaged root": (damaged("store.json", flip), 2, "root .* is damaged"),
    "a newer store": (
        damaged("store.json", lambda path: path.write_text('{"schema": 99}')), 2, "upgrade edged",
    ),
    "no manifests": (damaged("manifests/*", Path.unlink), 2, "no model .* can be served.* missing"),
    "damaged manifests": (damaged("manifests/*", flip), 2, "no model .* can be served.* damaged"),
    "no blocks": (damaged("blocks/*.onnx", Path.unlink), 2, "no model .* can be served.* missing"),
    "damaged blocks": (damaged("blocks/*.onnx", flip), 2, "no model .* can be served.* damaged"),
    "a model that is not there": (
        wrong(top='store = "FOLDER/store"\nmodels = ["birds"]'), 2, "models: 'birds'",
    ),
    "a pin that is not there": (wrong(memory='pinned = ["birds"]'), 2, "memory.pinned: 'birds'"),
    # The device.
    "no times of an emulated device": (wrong(device='backend = "emulated"'), 2, "no times for"),
    "a profile that is not there": (wrong(device='profile = "FOLDER/p.json"'), 2, "No such file"),
    "a profile of another machine": (a_profile(machine="a toaster"), 2, "with machine a toaster"),
    "a profile of other lanes": (a_profile(lanes=7), 2, "with lanes 7"),
    "a library that is not there": (
        wrong(device=f'{ORT}options = {{provider = "tensorrt"}}'), 2, "Tensorrt",
    ),
    # Directories and addresses.
    "a file for a cache": (
        beside("file", Path.touch, device=f'{ORT}cache_dir = "FOLDER/file"'), 2, "device.cache_dir",
    ),
    "a cache that cannot be written yet": (
        wrong(device=f'{ORT}cache_dir = "/sys/cache"'), 1, "device.cache_dir",
    ),
    "a file for a state directory": (
        beside("file", Path.touch, server='state_dir = "FOLDER/file"'), 2, "server.state_dir",
    ),
    "a directory that is not mounted": (
        wrong(server='endpoints = ["ipc:///nonexistent/dir/s.sock"]'), 1, "no directory /nonexist",
    ),
    "a file for a socket": (
        beside("file", Path.touch, server='endpoints = ["ipc://FOLDER/file"]'), 2, "is no socket",
    ),
    "a lock that is none": (
        beside("s.sock.lock", Path.mkdir), 1, "is not the daemon's",
    ),
    "an address that is not up": (wrong(server=TCP.format("192.0.2.1:5555")), 1, "Cannot assign"),
    "memory that no machine has": (wrong(memory=f"reserve_bytes = {2**40}"), 2, "reserve_bytes"),
}  # fmt: skip


def started(path: Path, *options: str) -> tuple[int, str]:
    """The status and the last words of a start."""
    command = [sys.executable, "-m", "edged", "serve", "--config", str(path), *options]
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True, timeout=120)
    last = done.stderr.splitlines()[-1]
    time_and_name = re.match(TIME + "edged: ERROR: ", last)
    assert time_and_name, done.stderr
    return done.returncode, last[time_and_name.end() :]


@pytest.mark.parametrize("name", BROKEN)
def test_check_agrees_with_a_start_that_fails(name, tmp_path, capfd):
    make, status, says = BROKEN[name]
    if name == "a library that is not there" and (
        "TensorrtExecutionProvider" in onnxruntime.get_available_providers()
    ):
        pytest.skip("this build of onnxruntime has TensorRT")
    case = make(tmp_path)
    assert main(["check", str(case.path)]) == status
    said = capfd.readouterr().err
    assert re.search(says, said), said
    ended, words = started(case.path)
    assert (ended, [f"edged: {words}"]) == (status, said.splitlines())


def test_there_are_thirty_of_them():
    assert len(BROKEN) >= 30


def test_what_cannot_be_recorded_to_is_a_mistake_on_the_command_line(tmp_path):
    case = Case(tmp_path)
    status, words = started(case.path, "--record", f"{tmp_path}/none/run.jsonl")
    assert (status, "cannot record to" in words) == (2, True)


def test_an_address_in_use_is_tried_again_and_check_names_it(tmp_path, capfd):
    """It cannot tell whose it is, and before a restart it is the daemon's own."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        case = Case(tmp_path, server=f'endpoints = ["tcp://127.0.0.1:{port}"]')
        assert main(["check", str(case.path)]) == 0
        found = capfd.readouterr()
        assert f"port {port} is in use: good if that is the daemon to be restarted" in found.err
        status, words = started(case.path)
    assert (status, "Address already in use" in words) == (1, True)


def test_a_start_that_is_refused_has_touched_no_socket(tmp_path):
    case = Case(tmp_path, memory='pinned = ["birds"]')
    before = sorted(tmp_path.rglob("*"))
    assert started(case.path)[0] == 2
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.root
def test_a_disk_without_room_is_tried_again(tmp_path):
    if os.geteuid() != 0:
        pytest.skip("only root can mount a disk that is full")
    case = Case(tmp_path, device=ORT)
    (tmp_path / "cache").mkdir()
    full = f'mount -t tmpfs -o nr_inodes=1 tmpfs "{tmp_path}/cache" && exec "$@"'
    inside = ["unshare", "--mount", "sh", "-c", full, "sh", sys.executable, "-m", "edged"]
    for command in (["check"], ["serve", "--config"]):
        done = subprocess.run(
            [*inside, *command, str(case.path)], stderr=subprocess.PIPE, text=True, timeout=120
        )
        assert "device.cache_dir: prepared blocks cannot be kept" in done.stderr
        assert "No space left on device" in done.stderr
        assert done.returncode == 1


def test_a_check_changes_nothing(tmp_path, capfd):
    case = Case(tmp_path, device=ORT)
    before = sorted(tmp_path.rglob("*"))
    assert main(["check", str(case.path)]) == 0
    assert capfd.readouterr().err == ""
    assert sorted(tmp_path.rglob("*")) == before


def test_check_names_a_daemon_that_listens_at_the_socket(start, capfd):
    daemon = start()
    daemon.wait_for("ready: ")
    path = daemon.folder / "edged.toml"
    assert main(["check", str(path)]) == 0
    assert f"a daemon listens at {daemon.endpoint}" in capfd.readouterr().err
    status, words = started(path)
    assert (status, "another daemon does" in words) == (1, True)
    assert daemon.stop() == 0


def test_a_store_with_one_damaged_model_starts_and_check_names_the_model(tmp_path, capfd, start):
    """Not what a start ends with, but nothing to call good."""
    store = write_store(tmp_path / "half")
    head = Store(store).models()["color"].steps[-1].block
    flip(Store(store).block_path(head))
    daemon = start(store=store)
    daemon.wait_for("ready: 1 models")
    assert main(["check", str(daemon.folder / "edged.toml")]) == 1
    said = capfd.readouterr().err
    assert f"edged: model color cannot be served: block {head[:12]} is damaged" in said
    assert daemon.stop() == 0
