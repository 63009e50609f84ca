"""What `check` finds good starts; what it refuses names the key."""

from __future__ import annotations

import os
import re
import socket
import tempfile
from pathlib import Path

import psutil
import pytest
from msgspec.structs import replace

from edged import profiles
from edged.config import decode
from edged.daemon.models.held_store import HeldStore
from edged.daemon.preflight import Checked, check, chosen
from edged.errors import ConfigError, EdgedError, StoreError, Unavailable
from edged.profiles.form import SCHEMA, BlockProfile, DeviceProfile, encode
from edged.store import Store
from tests.colors import write_store
from tests.test_config import NUMBERS

NOBODY = 65534  # an account that may write nowhere


def configuration(folder: Path, store: Path, **sections: str) -> str:
    """A good one, and further lines for its sections."""
    lines = {
        "server": f'endpoints = ["ipc://{folder}/s.sock"]',
        "device": f'cache_dir = "{folder}/cache"\nbackend = "fake"',
    }
    top = sections.pop("top", f'store = "{store}"')
    for name, more in sections.items():
        kept = [
            line
            for line in lines.get(name, "").splitlines()
            if line.split(" = ")[0] not in {m.split(" = ")[0] for m in more.splitlines()}
        ]
        lines[name] = "\n".join([*kept, more])
    return "\n".join([top, *(f"[{name}]\n{text}" for name, text in lines.items())])


def checked(text: str) -> Checked:
    config = decode(text.encode())
    held = HeldStore(Store(config.store), config.models)
    try:
        return check(config, held)
    finally:
        held.close()


def refused(text: str, kind: type[EdgedError] = ConfigError) -> str:
    with pytest.raises(kind) as caught:
        checked(text)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_good_one_leaves_nothing_behind(tmp_path, store):
    before = sorted(tmp_path.iterdir())
    found = checked(configuration(tmp_path, store))
    assert found.versions.served.keys() == {"color", "weakest"}
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("sections", "says"),
    [
        ({"memory": 'pinned = ["nope"]'}, "memory.pinned: 'nope'"),
        ({"memory": f"reserve_bytes = {2**40}"}, "memory.reserve_bytes is 1099511627776"),
        ({"device": 'profile = "/etc/passwd"'}, "device.profile: profile /etc/passwd"),
        ({"device": 'profile = "{folder}/zero.json"'}, "device.profile: .* No such file"),
        ({"device": 'profile = "{folder}/fifo.json"'}, "device.profile: .* No such file"),
        ({"device": 'profile = "smooth-table2"'}, "device.profile: .* measured with backend"),
        (
            {"device": 'backend = "emulated"\noptions = {profile = "nope"}'},
            "device.options .* nope",
        ),
        ({"device": 'backend = "onnxruntime"\ncache_dir = "/dev/null"'}, "device.cache_dir"),
        ({"device": 'backend = "onnxruntime"\ncache_dir = "/proc/x"'}, "device.cache_dir"),
        ({"device": 'backend = "emulated"'}, "device.options .* no times for block"),
        ({"server": 'state_dir = "/dev/null"'}, "server.state_dir: what administrators say"),
        ({"server": 'endpoints = ["ipc://{folder}"]'}, "server.endpoints: .* is no socket"),
        ({"server": 'admin = "ipc://{folder}/file"'}, "server.admin: .* is no socket"),
    ],
)
def test_a_configuration_that_is_wrong_here_is_named(tmp_path, store, sections, says):
    (tmp_path / "file").touch()
    (tmp_path / "zero.json").symlink_to("/dev/zero")
    os.mkfifo(tmp_path / "fifo.json")
    here = {name: text.replace("{folder}", str(tmp_path)) for name, text in sections.items()}
    message = refused(configuration(tmp_path, store, **here))
    assert re.search(says, message), message


def test_the_level_of_the_log_reaches_the_worker(tmp_path, store):
    found = checked(configuration(tmp_path, store, log='level = "warning"'))
    assert found.worker.log_level == "warning"


def test_models_that_the_store_lacks_are_a_mistake_of_the_configuration(tmp_path, store):
    text = configuration(tmp_path, store, top=f'store = "{store}"\nmodels = ["color", "nope"]')
    assert refused(text).startswith("models: 'nope' is not in the store")


def test_a_store_that_is_not_there_may_come_later(tmp_path):
    text = configuration(tmp_path, tmp_path / "none")
    assert refused(text, StoreError).startswith("store: there is no store")


@pytest.mark.parametrize(
    ("server", "says"),
    [
        ('endpoints = ["ipc:///nonexistent/dir/s.sock"]', "there is no directory /nonexistent"),
        ('endpoints = ["ipc:///dev/null/s.sock"]', "no socket can be made in /dev/null"),
        ('admin = "ipc:///proc/x"', "server.admin: no socket can be made in /proc"),
        ('endpoints = ["tcp://192.0.2.1:5555"]\nallow_plain_tcp = true', "Cannot assign"),
        ('endpoints = ["tcp://nowhere0:5555"]\nallow_plain_tcp = true', "nowhere0"),
        ('endpoints = ["ipc://{folder}/taken.sock"]', "taken.sock.lock is not the daemon's"),
        ('state_dir = "/sys/state"', "server.state_dir: what administrators say"),
    ],
)
def test_a_place_that_is_not_there_is_named(tmp_path, store, server, says):
    (tmp_path / "taken.sock.lock").mkdir()
    server = server.replace("{folder}", str(tmp_path))
    assert says in refused(configuration(tmp_path, store, server=server), Unavailable)


def test_a_directory_that_this_account_may_not_write_is_named():
    if os.geteuid() != 0:
        pytest.skip("only root can look with the eyes of another account")
    with tempfile.TemporaryDirectory() as name:  # pytest's own are closed to other accounts
        folder = Path(name)
        folder.chmod(0o755)
        text = configuration(folder, write_store(folder / "store"))
        assert checked(text)
        os.seteuid(NOBODY)
        try:
            message = refused(text, Unavailable)
            real = refused(text.replace('"fake"', '"onnxruntime"'), Unavailable)
        finally:
            os.seteuid(0)
    assert message.startswith(
        f"server.endpoints: no socket can be made in {folder} (Permission denied)"
    )
    # A disk may be mounted there later, so this is nothing that the configuration alone mends.
    assert real.startswith(f"device.cache_dir: prepared blocks cannot be kept in {folder}/cache")


def test_staging_that_no_memory_holds_is_refused_with_what_fits(tmp_path, store, monkeypatch):
    class Small:
        total = 2**29

    monkeypatch.setattr(psutil, "virtual_memory", lambda: Small)
    row_bytes = 3 * 8 * 8 * 4
    text = configuration(tmp_path, store, scheduler="staging_rows = 65536")
    assert checked(text)
    Small.total = 65535 * row_bytes
    text = configuration(
        tmp_path, store, scheduler="staging_rows = 65536", memory="reserve_bytes = 0"
    )
    message = refused(text)
    assert "scheduler.staging_rows is 65536" in message
    assert message.endswith("at most 65535 fit it")


def test_a_profile_of_another_machine_is_refused(tmp_path, store):
    manifests = Store(store).models().values()
    blocks = {
        step.block: BlockProfile((1,), (0.001,))
        for manifest in manifests
        for step in manifest.steps
    }
    here = DeviceProfile(SCHEMA, "a test", "none", blocks, "fake", profiles.machine())
    path = tmp_path / "profile.json"
    text = configuration(tmp_path, store, device=f'profile = "{path}"')
    path.write_bytes(encode(here))
    assert checked(text).profile == here
    path.write_bytes(encode(replace(here, machine="a toaster")))
    assert refused(text).startswith("device.profile: the profile was measured with machine")


def test_a_daemon_that_runs_does_not_make_its_configuration_bad(tmp_path, store):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        server = f'endpoints = ["ipc://{tmp_path}/s.sock", "tcp://127.0.0.1:{port}"]'
        with socket.socket(socket.AF_UNIX) as other:
            other.bind(f"{tmp_path}/s.sock")
            assert checked(configuration(tmp_path, store, server=server))


# --- what is good starts ------------------------------------------------------------------------

# What a busy machine may not keep, what another key forbids, and what no machine has.
LEFT_OUT = {
    "minimum": {"device.start_timeout_s", "scheduler.queue_bytes"},
    "maximum": {"memory.reserve_bytes"},
}


@pytest.mark.parametrize("bound", ["minimum", "maximum"])
def test_all_keys_at_their_bounds_start_and_stop(start, bound):
    sections: dict[str, str] = {"device": 'backend = "fake"\n', "server": ""}
    for name in NUMBERS.keys() - LEFT_OUT[bound] - {"device.idle_latency_us"}:
        section, _, key = name.rpartition(".")
        value = NUMBERS[name][bound]
        sections[section] = sections.get(section, "") + f"{key} = {value!r}\n"
    daemon = start(
        server=sections.pop("server"),
        settings=sections.pop("device")
        + "\n".join(f"[{name}]\n{text}" for name, text in sections.items()),
    )
    daemon.wait_for("ready: 2 models")
    assert daemon.stop() == 0


def test_auto_takes_the_processor_where_there_is_no_gpu(tmp_path: Path) -> None:
    if Path("/dev/nvidiactl").exists() or Path("/etc/nv_tegra_release").exists():
        pytest.skip("this machine has a GPU")
    text = configuration(tmp_path, write_store(tmp_path / "store"), device='backend = "auto"')
    config, why = chosen(decode(text.encode()))
    assert (config.device.backend, config.device.options) == ("onnxruntime", {})
    assert why == "backend onnxruntime on the CPU"
    assert chosen(config) == (config, "")


def test_auto_takes_no_options(tmp_path: Path) -> None:
    lines = 'backend = "auto"\noptions = {threads = 1}'
    with pytest.raises(ConfigError, match=r"options of backend auto: .*`threads`"):
        decode(configuration(tmp_path, tmp_path, device=lines).encode())
