"""Reading an instance: an error is one line that names the field."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import numpy as np
import pytest

from edged.errors import PlanError
from edged.planner.fleet.methods import METHODS, MethodOptions, solve
from edged.planner.fleet.plan import PlanStatus
from edged.planner.fleet.problem import Mode, read, to_instance
from tests.planner.fleet.helpers import DATA, example, family


def _instance() -> dict[str, Any]:
    return json.loads((DATA / "baj3o_hard_0.json").read_text())["instance"]


KEYS = [key for key in _instance() if key not in ("type", "bench", "seed")]


@pytest.mark.parametrize("key", KEYS)
def test_a_missing_key_is_named(key: str) -> None:
    instance = _instance()
    del instance[key]
    with pytest.raises(PlanError, match=rf"^{key}: missing$"):
        read(json.dumps(instance))


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("w", 1), -1.0, r"^w\[1\]: must be > 0, got -1.0$"),
        (("w", 1), float("nan"), r"^w\[1\]: must be > 0, got NaN$"),
        (("mem_e", 0), -5.0, r"^mem_e\[0\]: must be >= 0, got -5.0$"),
        (("kappa_s",), float("inf"), r"^kappa_s: must be finite, got Infinity$"),
        (("acc_e", 0, 0, 0), 1.5, r"^acc_e\[0\]\[0\]\[0\]: must be <= 1, got 1.5$"),
        (("acc_c", 1), [], r"^acc_c\[1\]: must have 6 entries, got 0$"),
        (("d",), [0.3], r"^d: must have 3 entries, got 1$"),
        (
            ("clients", 3, "edge"),
            3,
            r"^clients\[3\].edge: must be < 3, the number of edges, got 3$",
        ),
        (("clients", 3, "edge"), -1, r"^clients\[3\].edge: must be >= 0, got -1$"),
        (("clients", 2, "lam"), [1.0], r"^clients\[2\].lam: must have 3 entries, got 1$"),
        (("clients", 2, "lam", 0), "many", r"^clients\[2\].lam\[0\]: must be a number"),
        (("clients", 0, "mem"), None, r"^clients\[0\].mem: must be a number, got null$"),
        (("tasks",), [], r"^tasks: empty, but there are clients"),
        (("models",), [], r"^models: empty, but there are clients"),
        (("edges",), [], r"^edges: empty, but there are clients"),
        (("mode",), "lossy", r"^mode: .*lossy"),
        (("nu",), None, r"^nu: null; the batching row \(28\) needs both nu and Tb$"),
        (("Tb",), 1e-300, r"^Tb: must be >= 1e-09, got 1e-300$"),
        (
            ("clients", 2, "lam", 0),
            1e300,
            r"^clients\[2\].lam\[0\]: must be <= 1e\+12, got 1e\+300$",
        ),
        (("Tb",), None, r"^Tb: null; the batching row \(28\) needs both nu and Tb$"),
        (("nu",), [0.1], r"^nu: must have 6 entries, got 1$"),
        (("edges", 1, "flops"), 0.0, r"^edges\[1\].flops: must be > 0 with batching"),
        (("type",), "loading", r"^type: must be \"j3o\", got \"loading\"$"),
    ],
)
def test_a_bad_value_is_named(path: tuple[Any, ...], value: Any, message: str) -> None:
    instance = _instance()
    at: Any = instance
    for step in path[:-1]:
        at = at[step]
    at[path[-1]] = value
    with pytest.raises(PlanError, match=message) as error:
        read(json.dumps(instance))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("batching", [False, True])
def test_an_instance_survives_the_round_trip(batching: bool) -> None:
    problem = family("hardhet", 3, mode=Mode.NULL, batching=batching)
    again = read(msgspec.json.encode(to_instance(problem)))
    for name in problem.__dataclass_fields__:
        before, after = getattr(problem, name), getattr(again, name)
        assert np.array_equal(before, after) if isinstance(before, np.ndarray) else before == after


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("mode", Mode)
def test_no_load_at_all_gives_an_empty_plan(method: str, mode: Mode) -> None:
    problem = family("hard", 0, load=0.0, mode=mode, batching=True)
    plan = solve(problem, method, MethodOptions(rng=np.random.default_rng(0)))
    assert plan.status is PlanStatus.OPTIMAL
    assert (plan.obj, plan.bound, plan.gap) == (0.0, 0.0, 0.0)
    assert set(plan.x_c) | set(plan.x_e) == {()}
    assert np.array(plan.o).sum() == 0
    plan.verify(problem)


NOTHING_BUT_LIMITS = [key for key in KEYS if key not in ("kappa_s", "mode", "Tb")]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("missing", [["clients"], NOTHING_BUT_LIMITS])
def test_without_clients_the_plan_is_empty(method: str, missing: list[str]) -> None:
    problem = read(json.dumps(_instance() | {key: [] for key in missing}))
    plan = solve(problem, method, MethodOptions(rng=np.random.default_rng(0)))
    assert plan.status is PlanStatus.OPTIMAL
    assert (plan.obj, plan.bound, plan.x_c, plan.o) == (0.0, 0.0, (), ())
    plan.verify(problem)


@pytest.mark.parametrize("method", [m for m in METHODS if m != "baj3o"])
def test_an_idle_client_and_an_idle_edge_do_no_harm(method: str) -> None:
    problem = family("hard", 4, clients=6, edges=2, tasks=3)
    load = problem.load.copy()
    load[0] = 0.0
    load[problem.edge_of == 1] = 0.0
    idle = problem.with_load(load)
    plan = solve(idle, method, MethodOptions(rng=np.random.default_rng(0)))
    assert plan.x_c[0] == ()
    assert plan.x_e[1] == ()
    plan.verify(idle)


def test_unknown_methods_and_efforts_are_named() -> None:
    problem, _ = example("j3o_hard_0")
    with pytest.raises(PlanError, match=r"^method: must be one of milp, price, .* got 'best'$"):
        solve(problem, "best")
    with pytest.raises(PlanError, match=r"^effort: must be one of quick, full, got 'some'$"):
        solve(problem, "price", MethodOptions(effort="some"))
    with pytest.raises(PlanError, match=r"^nu: null; method baj3o"):
        solve(problem, "baj3o")
    with pytest.raises(PlanError, match=r"^rng: method rand-ao"):
        solve(problem, "rand-ao")
