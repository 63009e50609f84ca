"""The configuration: what is refused, and that it says where."""

from __future__ import annotations

import pytest

from edged.config import Config, decode, read
from edged.errors import ConfigError


def test_an_empty_file_is_all_defaults():
    assert decode(b"") == Config()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[scheduler]\nmax_batch_rowz = 4", "max_batch_rowz"),
        ("[scheduler]\nmax_batch_rows = 'four'", "$.scheduler.max_batch_rows"),
        ("[scheduler]\nmax_batch_rows = 0", "scheduler.max_batch_rows is 0"),
        ("[scheduler]\npolicy = 'clever'", "work-conserving"),
        ("[scheduler]\nstaging_rows = 2", "staging_rows is 2"),
        ("[scheduler]\nqueue_bytes = 1000", "at least one message"),
        ("[memory]\nbudget_bytes = -1", "memory.budget_bytes is -1"),
        ("[memory]\nmax_wait_s = 0.0", "memory.max_wait_s is 0.0"),
        ("[server]\ndefault_timeout_s = nan", "default_timeout_s is nan"),
        ("[server]\ndefault_level = 3", "default_level is 3"),
        ("[server]\nendpoints = []", "endpoints is empty"),
        ("[server]\nendpoints = ['udp://x']", "udp://x"),
        ("[server]\nendpoints = ['tcp://0.0.0.0:5555']", "allow_plain_tcp"),
        ("[server]\nsocket_mode = 'rw'", "octal"),
        ("[device]\nthreads = -1", "device.threads is -1"),
        ("[device]\nidle_latency_us = -1", "$.device.idle_latency_us"),
        ("[device]\nidle_latency_us = 3_000_000_000", "$.device.idle_latency_us"),
        ("[limits]\nmax_rows = -3", "limits.max_rows is -3"),
        ("[limits]\nmax_rowz = 3", "unknown field `max_rowz`"),
        ("[memory]\npolicy = 'independent'", "take partial, greedy or lru"),
        ("[server]\nadmin = 'tcp://127.0.0.1:1'", "must begin with ipc://"),
        ("[server]\nendpoints = ['ipc:///a.x']\nadmin = 'ipc:///a.x'", "name two"),
        ("[uplink]\nrate_bytes_s = -1", "uplink.rate_bytes_s is -1"),
        ("[uplink]\nshares = 'all'", "$.uplink.shares"),
        ("[uplink]\ngather_s = 6.0", "below uplink.max_lease_s"),
        ("[uplink]\nrate_bytes_s = 1\nmax_client_bytes = 9", "max_client_bytes is 9"),
        ("store = ", "Invalid value"),
    ],
)
def test_a_mistake_is_named(text, says):
    with pytest.raises(ConfigError, match=says.replace("$", r"\$")):
        decode(text.encode())


def test_a_file_is_named_too(tmp_path):
    with pytest.raises(ConfigError, match=r"missing\.toml"):
        read(tmp_path / "missing.toml")
    path = tmp_path / "edged.toml"
    path.write_text("colour = 'red'")
    with pytest.raises(ConfigError, match=r"edged\.toml.*colour"):
        read(path)


def test_published_limits_follow_the_scheduler():
    limits = decode(
        b"[scheduler]\nmax_batch_rows = 2\nstaging_rows = 4\nlevels = 2"
    ).published_limits()
    assert (limits.max_rows, limits.max_priority) == (2, 2)


@pytest.mark.parametrize(
    ("text", "endpoint"),
    [
        ("", "ipc:///run/edged/edged.admin"),
        ("endpoints = ['tcp://127.0.0.1:1', 'ipc:///a/b.sock', 'ipc:///c']", "ipc:///a/b.admin"),
        ("endpoints = ['tcp://127.0.0.1:1']", None),
        ("admin = 'ipc:///d'", "ipc:///d"),
        ("admin = ''", None),
    ],
)
def test_administrators_connect_beside_the_first_socket_or_where_it_says(text, endpoint):
    assert decode(f"[server]\n{text}".encode()).server.admin_endpoint == endpoint
