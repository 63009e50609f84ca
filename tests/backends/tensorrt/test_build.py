"""The process that builds: what it says, how it is stopped, and what its end does to us."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import msgspec
import psutil
import pytest

from edged.backends.tensorrt import child
from edged.backends.tensorrt.builder import Phases
from edged.backends.tensorrt.child import Builds
from edged.backends.tensorrt.orders import PLAN, BuildOrder, Pools
from edged.errors import Cancelled, EdgedError, ResourceExhausted, Unavailable
from tests.backends.blocks import dense
from tests.backends.fake_tensorrt import MODULES, VERSIONS

WORKSPACE = 1 << 20


@pytest.fixture
def order(tmp_path: Path) -> BuildOrder:
    target = tmp_path / "target"
    target.mkdir()
    return BuildOrder(
        module=f"tests.backends.fake_tensorrt.{MODULES[VERSIONS[-1]]}",
        what=str(dense(6, 4).write(tmp_path)),
        target=str(target),
        precision="fp16",
        max_rows=16,
        pools=Pools(WORKSPACE, WORKSPACE, 3),
        timing_cache=str(tmp_path / "cache.timings"),
    )


@pytest.fixture
def builds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Builds:
    monkeypatch.setattr(child, "GRACE_S", 0.2)
    return Builds(tmp_path, timeout_s=60.0)


def fault(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("FAKE_TENSORRT", text)


class Told:
    """A Progress that keeps what it is told."""

    def __init__(self, *, stop: bool = False) -> None:
        self.phases: list[tuple[str, float]] = []
        self.scores: set[str] = set()
        self.stop = stop

    def __call__(self, phase: str, done: float) -> bool:
        self.phases.append((phase, done))
        for process in psutil.Process().children():
            self.scores.add(Path(f"/proc/{process.pid}/oom_score_adj").read_text().strip())
        return not self.stop


def test_an_entry_is_made_by_a_process_that_goes_first_when_memory_is_short(
    builds: Builds, order: BuildOrder
) -> None:
    told = Told()
    about = builds.make(order, told)
    assert about.precision == "fp16"
    assert about.parity is not None
    assert about.peak_bytes > 0
    assert (Path(order.target) / PLAN).is_file()
    assert "900" in told.scores
    assert psutil.Process().children() == []


def test_it_can_be_stopped(builds: Builds, order: BuildOrder) -> None:
    with pytest.raises(Cancelled):
        builds.make(order, Told(stop=True))
    assert psutil.Process().children() == []


def test_one_that_hangs_is_ended(
    builds: Builds, order: BuildOrder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fault(monkeypatch, '{"fault": "hang"}')
    late = Builds(tmp_path, timeout_s=0.5)
    with pytest.raises(Unavailable, match=r"longer than device\.options\.build_timeout_s"):
        late.make(order, Told())
    assert psutil.Process().children() == []


def test_one_that_memory_did_not_suffice_for_is_tried_with_half(
    builds: Builds, order: BuildOrder, monkeypatch: pytest.MonkeyPatch
) -> None:
    fault(monkeypatch, f'{{"fault": "die", "below": {WORKSPACE - 1}}}')
    assert builds.make(order, Told()).precision == "fp16"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"fault": "die"}', "unbuilt: out of memory"),
        ('{"fault": "none"}', "unbuilt: TensorRT .* could not be allocated"),
    ],
)
def test_what_the_second_try_fails_with_is_named(
    builds: Builds, order: BuildOrder, monkeypatch: pytest.MonkeyPatch, text: str, says: str
) -> None:
    fault(monkeypatch, text)
    with pytest.raises(ResourceExhausted, match=says):
        builds.make(order, Told())


def test_a_file_that_is_no_block_is_named(builds: Builds, order: BuildOrder) -> None:
    Path(str(order.what)).write_bytes(b"no model")
    with pytest.raises(EdgedError, match="export its models again"):
        builds.make(order, Told())


def test_only_one_process_builds_in_a_directory(tmp_path: Path) -> None:
    one, other = (Builds(tmp_path, timeout_s=60.0) for _ in range(2))
    told = Told(stop=True)
    with one.turn(told), pytest.raises(Cancelled), other.turn(told):
        pytest.fail("both have the turn")
    assert told.phases == [("another process builds", 0.0)]
    with other.turn(told):
        pass


def test_the_process_ends_when_whoever_ordered_it_dies(order: BuildOrder, tmp_path: Path) -> None:
    """Its input ends, whatever was the reason."""
    script = (
        "import os, sys, psutil\n"
        "from pathlib import Path\n"
        "from edged.backends.tensorrt.child import Builds\n"
        "import msgspec\n"
        "from edged.backends.tensorrt.orders import BuildOrder\n"
        "order = msgspec.json.decode(sys.argv[1], type=BuildOrder)\n"
        "def progress(phase, done):\n"
        "    print(psutil.Process().children()[0].pid, flush=True)\n"
        "    os._exit(0)\n"
        f"Builds(Path({str(tmp_path)!r}), timeout_s=60).make(order, progress)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, msgspec.json.encode(order).decode()],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    pid = int(done.stdout)
    end_s = time.monotonic() + 30
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < end_s, "it still builds"
        time.sleep(0.02)


def test_serving_needs_no_onnx() -> None:
    script = "import sys, edged.backends.tensorrt.backend; print('onnx' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.strip() == "False", done.stderr


def test_phases_inside_phases_add_up_and_never_shrink() -> None:
    phases, shares = Phases(), []
    phases.start("all", None, 2)
    phases.start("tactics", "all", 4)
    for step in range(4):
        phases.step("tactics", step)
        shares.append(phases.done)
    phases.finish("tactics")
    phases.step("all", 0)
    shares.append(phases.done)
    phases.step("all", 1)
    shares.append(phases.done)
    assert shares == [0.125, 0.25, 0.375, 0.5, 0.5, 1.0]
