"""Bad instances: one line that names the field, what it must be and what it is."""

from __future__ import annotations

import json
from typing import Any

import pytest

from edged.errors import PlanError
from edged.planner.loading.problem import read
from tests.planner.loading.helpers import DATA

WRAPPED = json.loads((DATA / "pl_bls_000.json").read_text())


def changed(path: str, value: Any) -> str:
    """The instance with the value at a path such as `users/3/R` replaced; ... takes it away."""
    instance = json.loads(json.dumps(WRAPPED["instance"]))
    *parents, last = [int(key) if key.isdigit() else key for key in path.split("/")]
    place = instance
    for key in parents:
        place = place[key]
    if value is ...:
        del place[last]
    else:
        place[last] = value
    return json.dumps(instance)


BAD: list[tuple[str, Any, str]] = [
    ("users/3/R", float("nan"), "users[3].R: must be > 0, got NaN"),
    ("users/3/R", float("inf"), "users[3].R: must be finite, got Infinity"),
    ("users/3/R", 0, "users[3].R: must be > 0, got 0"),
    ("users/3/R", "8", 'users[3].R: must be a number, got "8"'),
    ("users/3/R", ..., "users[3].R: missing"),
    ("users/0/D_bits", -1, "users[0].D_bits: must be >= 0, got -1"),
    ("users/0/model", 5, "users[0].model: must be < 5, the number of models, got 5"),
    ("users/0/model", -1, "users[0].model: must be >= 0, got -1"),
    ("users/0/model", 1.5, "users[0].model: must be an integer, got 1.5"),
    ("users/0/model", True, "users[0].model: must be an integer, got true"),
    ("users", ..., "users: missing"),
    ("users", None, "users: must be a list, got null"),
    ("users/2", [1], "users[2]: must be an object, got [1]"),
    ("models", [], "models: empty, but users[0] asks for model 1"),
    ("models", ..., "models: missing"),
    ("models/1/b_max", 0, "models[1].b_max: must be >= 1, got 0"),
    ("models/1/mu_ms", -0.5, "models[1].mu_ms: must be >= 0, got -0.5"),
    (
        "models/1/blocks/0",
        25,
        "models[1].blocks[0]: must be < 25, the number of block_bytes, got 25",
    ),
    ("models/1/blocks/1", 0, "models[1].blocks[1]: block 0 is listed twice in this model"),
    ("models/1/l", 5, "models[1].l: must be <= 4, the number of its blocks, got 5"),
    (
        "models/1/blocks",
        [1, 0, 15],
        "models[1].l: its first 2 blocks are not those of models[0], "
        "which is in the same cluster 0",
    ),
    ("block_bytes/2", -7, "block_bytes[2]: must be >= 0, got -7"),
    ("block_bytes", ..., "block_bytes: missing"),
    ("T_ms", -1, "T_ms: must be >= 0, got -1"),
    ("slot_ms", 0, "slot_ms: must be > 0, got 0"),
    ("B_hz", float("nan"), "B_hz: must be > 0, got NaN"),
    ("load/bytes_per_ms", 0, "load.bytes_per_ms: must be > 0, got 0"),
    ("load", 3, "load: must be an object, got 3"),
    ("type", "j3o", 'type: must be "partial_loading", got "j3o"'),
    ("type", ..., 'type: missing; it must be "partial_loading"'),
]  # fmt: skip


@pytest.mark.parametrize(("path", "value", "message"), BAD)
def test_the_field_is_named(path: str, value: Any, message: str) -> None:
    with pytest.raises(PlanError) as error:
        read(changed(path, value))
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the instance is not JSON: .*"),
        (b"\xff\xfe\x00", "the instance is not JSON: .*"),
        ("[1, 2]", r"the instance must be an object, got \[1, 2\]"),
        ("[" * 200_000, "the instance is nested too deeply to be one"),
        ('{"instance": 3}', "the instance must be an object, got 3"),
        ('{"T_ms": 1' + "0" * 5000 + "}", "the instance is not JSON: .*|type: missing.*"),
    ],
)
def test_what_is_not_an_instance_is_told_in_one_line(text: str, message: str) -> None:
    with pytest.raises(PlanError, match=rf"^{message}$") as error:
        read(text)
    assert "\n" not in str(error.value)


def test_bare_and_wrapped_are_the_same() -> None:
    assert read(json.dumps(WRAPPED)) == read(json.dumps(WRAPPED["instance"]))


def test_other_keys_are_let_be() -> None:
    assert read(changed("note", "who made it")) == read(json.dumps(WRAPPED))
