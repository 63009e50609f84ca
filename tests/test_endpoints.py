"""Endpoints: what is one, what is none, and which cannot be listened at side by side."""

from __future__ import annotations

import pytest

from edged.endpoints import PATH_BYTES, Ipc, Tcp, clash, parse
from edged.errors import InvalidArgument


@pytest.mark.parametrize(
    ("text", "endpoint", "is_local"),
    [
        ("ipc:///run/edged.sock", Ipc("/run/edged.sock"), True),
        ("ipc://edged.sock", Ipc("edged.sock"), True),
        ("ipc:///" + "x" * (PATH_BYTES - 1), Ipc("/" + "x" * (PATH_BYTES - 1)), True),
        ("tcp://127.0.0.1:1", Tcp("127.0.0.1", 1), True),
        ("tcp://127.9.8.7:65535", Tcp("127.9.8.7", 65535), True),
        ("tcp://localhost:5555", Tcp("127.0.0.1", 5555), True),
        ("tcp://[::1]:5555", Tcp("[::1]", 5555), True),
        ("tcp://*:5555", Tcp("*", 5555), False),
        ("tcp://192.168.0.3:5555", Tcp("192.168.0.3", 5555), False),
        ("tcp://[fe80::1]:5555", Tcp("[fe80::1]", 5555), False),
        ("tcp://eth0:5555", Tcp("eth0", 5555), False),
    ],
)
def test_an_endpoint_is_understood(text, endpoint, is_local):
    assert parse(text) == endpoint
    assert isinstance(endpoint, Ipc) or endpoint.is_loopback == is_local


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "ipc:// or tcp://"),
        ("/run/edged.sock", "ipc:// or tcp://"),
        ("ipc:/run/edged.sock", "ipc:// or tcp://"),
        ("TCP://127.0.0.1:5", "ipc:// or tcp://"),
        ("inproc://x", "ipc:// or tcp://"),
        ("ipc://", "names no socket"),
        ("ipc://*", "names no socket"),
        ("ipc:///run/", "names no socket"),
        ("ipc:///run/..", "names no socket"),
        ("ipc:///a\0b", "names no socket"),
        ("ipc://@edged", "every account"),
        ("ipc:///" + "x" * PATH_BYTES, "108 bytes"),
        ("ipc:///" + "é" * 54, "109 bytes"),
        ("tcp://127.0.0.1", "port from 1 to 65535"),
        ("tcp://127.0.0.1:", "port from 1 to 65535"),
        ("tcp://127.0.0.1:0", "port from 1 to 65535"),
        ("tcp://127.0.0.1:*", "port from 1 to 65535"),
        ("tcp://127.0.0.1:65536", "port from 1 to 65535"),
        ("tcp://127.0.0.1: 5", "port from 1 to 65535"),
        ("tcp://127.0.0.1:٣", "port from 1 to 65535"),
        ("tcp://:5", "is no address"),
        ("tcp://::1:5", "is no address"),
        ("tcp://[127.0.0.1]:5", "is no address"),
        ("tcp://127.1.2.3.example.invalid:5", "is no address"),
        ("tcp://127.1:5", "is no address"),
        ("tcp://127.0.0.1;127.0.0.2:5", "is no address"),
    ],
)
def test_what_is_none_is_refused_with_the_reason(text, says):
    with pytest.raises(InvalidArgument, match=says):
        parse(text)


@pytest.mark.parametrize(
    ("texts", "both"),
    [
        (("ipc:///a", "ipc:///b", "tcp://127.0.0.1:5", "tcp://127.0.0.2:5"), None),
        (("ipc:///a", "ipc:///x/../a"), "/a"),
        (("ipc:///a", "ipc:///a.lock"), "/a.lock"),
        (("ipc:///a", "ipc:///a.shared"), "/a.shared"),
        (("tcp://127.0.0.1:5", "tcp://localhost:5"), "port 5"),
        (("tcp://127.0.0.1:5", "tcp://*:5"), "port 5"),
    ],
)
def test_two_that_take_the_same_clash(texts, both):
    assert clash(map(parse, texts)) == both
