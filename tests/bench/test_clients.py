"""The loads of the benchmarks, their help texts, and the line that a benchmark prints."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.colors import SIDE, write_store
from tests.daemon.live import Daemon
from tools.bench.__main__ import BENCHES, main
from tools.bench.clients import Clients, good_per_s, quantile_s


def test_every_benchmark_says_what_it_does(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    assert all(name in text for name in BENCHES)


@pytest.mark.parametrize("command", [["overhead", "--seconds", "0.1"], ["scheduler"]], ids=str)
def test_a_benchmark_prints_one_line_that_says_how_it_was_made(
    command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command) == 0
    (line,) = capsys.readouterr().out.splitlines()
    found = json.loads(line)
    assert found["bench"] == command[0]
    assert found["label"] == "measured"
    assert found["ratio"] > 0
    assert {"command", "machine", "seed", "date"} <= found.keys()


def test_clients_account_for_every_request(tmp_path: Path) -> None:
    daemon = Daemon(
        tmp_path,
        write_store(tmp_path / "store"),
        settings="backend = 'fake'\noptions = {run_us = 20000}\n[limits]\nmax_in_flight = 3\n",
    )
    try:
        daemon.wait_for("ready: ")
        load = Clients(daemon.endpoint, (3, SIDE, SIDE), ["color", "weakest"], seed=1)
        fates = load([["--in-flight", "3"], ["--in-flight", "9"], ["--rate", "20"]], 1.0, 5.0)
        too_late = load([["--rate", "50"]], 0.5, 0.001)
    finally:
        daemon.close()
    for fate in (*fates, *too_late):
        assert fate.sent == len(fate.accepted_s) + len(fate.refused_s)
        assert len(fate.refused_s) == sum(fate.refused.values())
        assert fate.unanswered == fate.uncoded == fate.held_back == 0
    steady, greedy, random = fates
    assert not steady.refused
    assert set(greedy.refused) == {"RESOURCE_EXHAUSTED"}
    assert 5 <= random.sent <= 45  # 20 are expected; Poisson
    assert good_per_s(fates) > 0.0
    assert 0.02 < quantile_s((fate.accepted_s for fate in fates), 50) < 5.0
    assert {code for fate in too_late for code in fate.refused} == {"DEADLINE_EXCEEDED"}
