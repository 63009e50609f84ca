"""What holds for all tests, and `--units`: the tests that run in seconds on any Python."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

ROOT = Path(__file__).parent

# What `--units` leaves out. A file that starts processes and is not named here fails under
# `--units`; one that needs torch or matplotlib fails where these are not installed.
STARTS_PROCESSES = (
    "backends/tensorrt/test_build.py",
    "backends/tensorrt/test_rtx.py",
    "backends/test_ort.py",
    "bench/*",
    "cli/test_top.py",
    "client/test_cli.py",
    "client/test_client.py",
    "client/test_forks.py",
    "client/test_node.py",
    "client/test_real_daemon.py",
    "core/test_hash_seeds.py",
    "daemon/test_awake.py",
    "daemon/test_live*.py",
    "daemon/test_preflight.py",
    "daemon/test_start_fails.py",
    "daemon/test_uplink.py",
    "daemon/test_worker_port.py",
    "demo/test_demo.py",
    "device/test_emulated_cuda.py",
    "device/test_loading.py",
    "device/test_process.py",
    "device/test_threads.py",
    "device/test_worker.py",
    "export/test_cli.py",
    "jetson/test_command.py",
    "jetson/test_install.py",
    "planner/fleet/test_cli.py",
    "planner/fleet/test_decompose.py",
    "planner/fleet/test_names.py",
    "profiles/test_command.py",
    "store/test_crash.py",
    "store/test_store.py",
    "systemd/*",
    "test_cgroups.py",
    "test_heap.py",
    "test_install.py",
    "test_layers.py",
    "test_logs.py",
    "test_package.py",
    "test_results_alone.py",
    "test_systemd_notify.py",
    "test_typeinfo.py",
)
NEEDS_MORE = (
    "backends/tensorrt/test_backend.py",
    "backends/test_conformance.py",
    "backends/test_torch*.py",
    "demo/*",
    "device/test_executor.py",
    "export/test_add.py",
    "export/test_architectures.py",
    "export/test_samples.py",
    "export/test_toolchains.py",
    "export/test_torch.py",
    "gpucheck/*",
    "planner/test_papers.py",
    "sim/test_command.py",
)

# Machines are noisy, and how long an example takes is nothing that a test asserts. Under CI the
# examples are the same each time; at home new ones are tried.
settings.register_profile(
    "edged",
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    derandomize="CI" in os.environ,
)
settings.load_profile("edged")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--units",
        action="store_true",
        help="leave out the files that start processes or need torch, as tests/conftest.py lists",
    )


def pytest_report_header(config: pytest.Config) -> str | None:
    if not config.getoption("units"):
        return None
    left_out = ", ".join((*STARTS_PROCESSES, *NEEDS_MORE))
    return f"units only; left out, as they start processes or need torch or matplotlib: {left_out}"


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """True leaves a file out; None leaves the decision to others."""
    if not config.getoption("units") or ROOT not in collection_path.parents:
        return None
    place = collection_path.relative_to(ROOT)
    return any(place.match(glob) for glob in (*STARTS_PROCESSES, *NEEDS_MORE)) or None


@pytest.fixture(scope="session", autouse=True)
def _no_processes_among_units(request: pytest.FixtureRequest) -> None:
    """Under `--units`, a test that starts a process fails and says where to name its file."""
    if not request.config.getoption("units"):
        return

    def refuse(process: subprocess.Popen[bytes], *command: object, **_: object) -> None:
        process._child_created = False  # type: ignore[attr-defined]  # so that it can be thrown away
        pytest.fail(f"starts a process ({command}): name the file in tests/conftest.py")

    subprocess.Popen.__init__ = refuse  # type: ignore[method-assign]
