"""The configuration: what is refused, and that it says where."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from edged.config import MAX_CONFIG_BYTES, Config, decode, read
from edged.core.settings import SchedulerSettings
from edged.errors import ConfigError


def test_an_empty_file_is_all_defaults():
    assert decode(b"") == Config()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[scheduler]\nmax_batch_rowz = 4", "max_batch_rowz"),
        ("[scheduler]\nmax_batch_rows = 'four'", "$.scheduler.max_batch_rows"),
        ("[scheduler]\nmax_batch_rows = 0", "`int` >= 1 - at `$.scheduler.max_batch_rows"),
        ("[scheduler]\npolicy = 'clever'", "work-conserving"),
        ("[scheduler]\nstaging_rows = 2", "staging_rows is 2"),
        ("[scheduler]\nqueue_bytes = 1000", "at least one message"),
        ("[memory]\nbudget_bytes = -1", "`int` >= 0 - at `$.memory.budget_bytes"),
        ("[memory]\nmax_wait_s = 0.0", "$.memory.max_wait_s"),
        ("[server]\ndefault_timeout_s = nan", "$.server.default_timeout_s"),
        ("[server]\ndefault_level = 3", "default_level is 3"),
        ("[server]\nendpoints = []", "$.server.endpoints`: name at least one"),
        ("[server]\nendpoints = ['udp://x']", "udp://x"),
        ("[server]\nendpoints = ['tcp://0.0.0.0:5555']", "allow_plain_tcp"),
        ("[metrics]\nbind = '9464'", "an address and a port, as 127.0.0.1:9464"),
        ("[metrics]\nbind = 'metrics.sock'", "the path of a socket"),
        ("[metrics]\nbind = '127.0.0.1:0'", "metrics.bind: "),
        ("[metrics]\nbind = '0.0.0.0:9464'", "whoever connects may read all metrics"),
        ("[metrics]\nbind = 'eth0:9464'\n[server]\nallow_plain_tcp = true", "write its address"),
        ("[metrics]\nbind = '/run/edged/edged.sock'", "is taken by server.endpoints"),
        ("[metrics]\nbind = '/run/edged/edged.admin'", "is taken by server.endpoints"),
        ("[server]\nsocket_mode = 'rw'", "octal"),
        ("[device]\nthreads = -1", "`int` >= 0 - at `$.device.threads"),
        ("[device]\nidle_latency_us = -1", "$.device.idle_latency_us"),
        ("[device]\nidle_latency_us = 3_000_000_000", "$.device.idle_latency_us"),
        ("[limits]\nmax_rows = -3", "$.limits.max_rows"),
        ("[limits]\nmax_rowz = 3", "unknown field `max_rowz`"),
        ("[memory]\npolicy = 'independent'", "take partial, greedy or lru"),
        ("[scheduler.smooth]\nwindow_s = 2", "scheduler.smooth is called scheduler.policy, as"),
        ("[scheduler]\nlanes = 2", "scheduler.lanes is called scheduler.max_lanes now"),
        ("[server]\nadmin = 'tcp://127.0.0.1:1'", "must begin with ipc://"),
        ("[server]\nendpoints = ['ipc:///a.x']\nadmin = 'ipc:///a.x'", "name two"),
        ("[uplink]\nrate_bytes_s = -1", "$.uplink.rate_bytes_s"),
        ("[uplink]\nshares = 'all'", "$.uplink.shares"),
        ("[uplink]\ngather_s = 6.0", "below uplink.max_lease_s"),
        ("[uplink]\nrate_bytes_s = 1\nmax_client_bytes = 9", "max_client_bytes is 9"),
        ("store = ", "Invalid value"),
        ("[scheduler]\npolicy = 'static:99999'", "B from 1 to 9999"),
        ("[scheduler]\npolicy = 'static:٣'", "B from 1 to 9999"),
        ("[device]\nbackend = 'nope'", "one of auto, onnxruntime, torch, tensorrt, emulated, "),
        ("[device]\noptions = {nope = 1}", "unknown field `nope`"),
        ("[device]\noptions = {provider = 'gpu'}", "one of cpu, cuda, tensorrt"),
        ("[device]\noptions = {provider = 'cuda', lanes = 2}", "1 on a GPU"),
        ("[device]\nbackend = 'emulated'\noptions = {speed = 0}", "$.speed"),
        ("[memory]\nbudget_bytes = 1", "67108864 at least"),
        ("[server]\nendpoints = ['ipc:///a', 'ipc:///./a']", "two of them would take /a"),
        ("[server]\nendpoints = ['ipc:///a.admin']", "name two"),
        ("[server]\nadmin = 'ipc://@a'", "every account of the machine"),
        ("[server]\nendpoints = ['tcp://127.0.0.1.example.org:5']", "is no address"),
        (f"queue = {'9' * 5000}", "integer string conversion"),
        (f"queue = {'[' * 5000}", "nested too deep"),
    ],
)
def test_a_mistake_is_named(text, says):
    with pytest.raises(ConfigError, match=re.escape(says)):
        decode(text.encode())


def test_a_file_is_named_too(tmp_path):
    with pytest.raises(ConfigError, match=r"missing\.toml"):
        read(tmp_path / "missing.toml")
    path = tmp_path / "edged.toml"
    path.write_text("colour = 'red'")
    with pytest.raises(ConfigError, match=r"edged\.toml.*colour"):
        read(path)


def test_what_is_no_configuration_is_not_read_to_its_end(tmp_path):
    with pytest.raises(ConfigError, match=f"more than {MAX_CONFIG_BYTES} bytes"):
        read(Path("/dev/zero"))


@pytest.mark.parametrize("mode", ["0660", "660", "0600", "0777", "0666"])
def test_socket_modes_are_octal(mode):
    server = decode(f"[server]\nsocket_mode = '{mode}'".encode()).server
    assert server.socket_permissions == int(mode, 8)


@pytest.mark.parametrize(
    "mode",
    ["-1", "", "rw", "0o660", "4755", "02660", "0060", "0460", "888", "0660\n", "٦٦٠", "660 "],
)
def test_other_socket_modes_are_refused(mode):
    with pytest.raises(ConfigError, match=r"server\.socket_mode`: three octal digits"):
        decode(f"[server]\nsocket_mode = {msgspec.json.encode(mode).decode()}".encode())


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


def test_the_scheduler_gets_its_settings_under_their_own_names():
    """A recording holds them, which `edged replay` and `edged simulate` read without a config."""
    settings = decode(b"[scheduler]\nmax_lanes = 2\nqueue_rows = 7").scheduler.settings
    recorded = msgspec.json.decode(msgspec.json.encode(settings), type=SchedulerSettings)
    assert recorded == SchedulerSettings(queue_rows=7, lanes=2)


# --- every key has bounds ---------------------------------------------------------------------

SCHEMA = msgspec.json.schema(Config)
FREE = ("device.options",)  # each backend has its own; checked by edged.options


def keys(schema: dict[str, Any], above: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Dotted names of all keys, and what the schema says of each; tables are looked into."""
    for name, said in SCHEMA["$defs"][schema["$ref"].rpartition("/")[2]]["properties"].items():
        if "$ref" in said:
            yield from keys(said, f"{above}{name}.")
        else:
            (found,) = (s for s in said.get("anyOf", [said]) if s.get("type") != "null")
            yield above + name, found


KEYS = dict(keys(SCHEMA))
NUMBERS = {name: said for name, said in KEYS.items() if said.get("type") in ("integer", "number")}


def text(name: str, value: str) -> bytes:
    section, _, key = name.rpartition(".")
    return f"{f'[{section}]' if section else ''}\n{key} = {value}\n".encode()


@pytest.mark.parametrize("name", sorted(KEYS.keys() - set(FREE)))
def test_every_key_has_bounds(name):
    said = KEYS[name]
    texts = said["items"] if said.get("type") == "array" else said
    if said.get("type") == "array":
        assert "maxItems" in said
    assert (
        said.get("type") == "boolean"
        or "enum" in said
        or {"minimum", "maximum"} <= said.keys()
        or {"maxLength", "pattern"} & texts.keys()
    )


@pytest.mark.parametrize("name", sorted(NUMBERS))
def test_a_number_beyond_its_bounds_is_refused_with_the_bound(name):
    said = NUMBERS[name]
    least, most = said["minimum"], said["maximum"]
    beyond = [(least - 1, ">="), (most + 1, "<="), (-(10**30), ">="), (10**30, "<=")]
    if said["type"] == "number":
        beyond += [("nan", ">="), ("inf", "<="), ("-inf", ">=")]
    for value, which in beyond:
        bound = re.escape(f"{which} {least if which == '>=' else most}")
        with pytest.raises(ConfigError, match=rf"Expected `\w+` {bound} - at `\$\.{name}`"):
            decode(text(name, str(value)))


@pytest.mark.parametrize("name", sorted(NUMBERS))
def test_a_number_at_its_bounds_is_good_or_named_with_the_key_that_it_depends_on(name):
    *sections, key = name.split(".")
    for value in (NUMBERS[name]["minimum"], NUMBERS[name]["maximum"]):
        refusal = ""
        found: Any = None
        try:
            found = msgspec.to_builtins(decode(text(name, repr(value))))
        except ConfigError as error:
            refusal = str(error)
        for section in sections if found else ():
            found = found[section]
        assert key in refusal or found[key] == value


@pytest.mark.parametrize("name", sorted(KEYS.keys() - set(FREE)))
@pytest.mark.parametrize("value", ["'x\\u0000'", "{}", "[{}]", "1979-05-27", "[[1]]", "3.5e0"])
def test_a_value_of_another_type_is_refused(name, value):
    if NUMBERS.get(name, {}).get("type") == "number" and value == "3.5e0":
        value = "true"
    if value.startswith("'"):
        value = value.replace("'", '"').replace("\\\\", "\\")
        if name in ("server.admin", "scheduler.policy"):
            return  # texts, which say themselves what they may be
    with pytest.raises(ConfigError, match=rf"\$\.{name}\b"):
        decode(text(name, value))
