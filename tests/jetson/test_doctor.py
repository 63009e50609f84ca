"""What doctor says of boards and of a machine that is none: snapshots, and all that can be wrong.

`python -m tests.jetson.test_doctor` writes the snapshots anew.
"""

from __future__ import annotations

import dataclasses
import json
import tempfile
from pathlib import Path
from typing import Literal

import msgspec
import pytest

from edged import __version__
from edged.cli.doctor import as_json, shown
from edged.config import Config, DeviceConfig
from edged.doctor.evidence import gather
from edged.doctor.examine import examine
from edged.doctor.probe import Probe
from edged.doctor.report import DoctorReport, Finding
from edged.doctor.runtime_checks import backend
from edged.doctor.surroundings import CallingAccount, Installed, KeptFiles
from tests.jetson import asked, trees
from tests.jetson.asked import RUNTIME, VENV, Asked

SNAPSHOTS = Path(__file__).parent / "snapshots"
CONFIG = Path("/etc/edged/edged.toml")

# One of each board and of each state of JetPack.
CASES = (
    ("orin-nano", "5.1"),
    ("orin-nano", "6.2"),
    ("orin-nx", "6.1"),
    ("agx-orin", "7.2"),
    ("thor", "7.1"),
    ("pc", ""),
)


def machine(root: Path, board: str, jetpack: str) -> Asked:
    return asked.pc(root) if board == "pc" else asked.board(root, board, jetpack)


def look(surroundings: Asked) -> DoctorReport:
    return examine(surroundings, CONFIG)


def found(report: DoctorReport, check: str) -> Finding:
    return next(finding for finding in report.findings if finding.check == check)


def snapshot(root: Path, board: str, jetpack: str) -> str:
    """The JSON of a machine's report. The version of edged is left out: it changes by itself."""
    report = as_json(look(machine(root, board, jetpack)))
    report["edged"] = "VERSION"
    return json.dumps(report, indent=1) + "\n"


@pytest.fixture
def nano(tmp_path: Path) -> Asked:
    return asked.board(tmp_path, "orin-nano", "6.2")


@pytest.mark.parametrize(("board", "jetpack"), CASES)
def test_the_report_is_as_it_was_written_down(tmp_path, board, jetpack):
    path = SNAPSHOTS / f"{board}{jetpack and '-' + jetpack}.json"
    again = "python -m tests.jetson.test_doctor writes it anew"
    assert json.loads(snapshot(tmp_path, board, jetpack)) == json.loads(path.read_text()), again


@pytest.mark.parametrize(("board", "jetpack"), trees.ALL)
def test_every_board_is_recognised_with_its_jetpack(tmp_path, board, jetpack):
    report = look(machine(tmp_path, board, jetpack))
    finding = found(report, "board")
    assert f"JetPack {jetpack}" in finding.says
    assert finding.facts["module"].startswith(board)
    if jetpack < "6.1":
        assert (finding.state, report.status) == ("bad", 2)
        assert trees.RELEASES[jetpack][2] in finding.says
    else:
        assert (finding.state, report.status) == ("good", 0)


def test_a_machine_that_is_no_jetson_serves_on_its_processor(tmp_path):
    report = look(asked.pc(tmp_path))
    assert report.status == 0
    assert "no Jetson: AMD EPYC 9B14" in found(report, "board").says
    assert found(report, "backend").facts["used"] == "onnxruntime-cpu"
    assert report.label == "measured on x86_64"


def test_a_cuda_runtime_without_a_driver_is_nothing_to_mend_on_a_pc(tmp_path):
    asked_of = asked.pc(tmp_path)
    asked_of.tried = Probe(runtime="libcudart.so.13", runtime_cuda="13.0", runtime_error=35)
    report = look(asked_of)
    assert (found(report, "cuda").state, report.status) == ("note", 0)


def test_a_board_says_that_nothing_was_verified_on_one(nano):
    assert look(nano).label == "not verified on hardware"


def test_the_report_for_people_names_what_to_do(nano):
    nano.closed = ("/dev/nvmap",)
    text = shown(look(nano))
    assert text.startswith(f"edged {__version__}\n")
    assert "warning devices     account edged may not open /dev/nvmap (root:video 0660)" in text
    assert "-> usermod --append --groups video,render edged" in text


@pytest.mark.parametrize(
    ("code", "says", "mend"),
    [(999, "nvmap", "group video"), (801, "render", "group render"), (35, "older", "CUDA packages"),
     (100, "no GPU", "device nodes"), (304, "refused a call", "unit"), (2, "cuda.h", "look")],
)  # fmt: skip
def test_what_cuinit_answers_is_explained(nano, code, says, mend):
    nano.tried = msgspec.structs.replace(nano.tried, cu_init=code, gpus=None)
    report = look(nano)
    finding = found(report, "driver")
    assert finding.state == "warning"
    assert f"cuInit says {code}" in finding.says
    assert says in finding.says
    assert mend in finding.mend
    assert report.status == 1


@pytest.mark.parametrize(
    ("probe", "check", "says"),
    [
        ("has ended by signal 11", "driver", "signal 11"),
        (Probe(), "driver", "no libcuda.so.1"),
        (Probe(driver=True, cu_init=0, gpus=0), "driver", "there is no GPU"),
        (Probe(runtime="libcudart.so.13", runtime_cuda="13.0", runtime_error=35), "cuda", "35"),
        (Probe(runtime="libcudart.so.13", runtime_cuda="13.0", runtime_error=0), "cuda", "JetPack"),
        (Probe(), "cuda", "no CUDA runtime"),
        (Probe(), "tensorrt", "not installed"),
        (Probe(tensorrt_error="libnvinfer.so.10: no such file"), "tensorrt", "libnvinfer.so.10"),
        (Probe(tensorrt="8.6.2"), "tensorrt", "8.6.2 is none whose interface was recorded"),
        (Probe(tensorrt="10.7.0"), "tensorrt", "10.7.0 is none"),
    ],
)  # fmt: skip
def test_what_the_gpu_lacks_is_told(nano, probe, check, says):
    nano.tried = probe
    finding = found(look(nano), check)
    assert finding.state == "warning"
    assert says in finding.says


@pytest.mark.parametrize("version", ["10.3.0", "10.13.3.9", "10.16.1.11", "11.4.0.106"])
def test_recorded_versions_of_tensorrt_are_known(nano, version):
    nano.tried = msgspec.structs.replace(nano.tried, tensorrt=version)
    assert found(look(nano), "tensorrt").state == "good"


def test_onnxruntime_and_its_gpu_build_in_one_folder_are_recognised(nano):
    nano.installed = (RUNTIME, Installed("onnxruntime-gpu", "1.23.2", VENV))
    report = look(nano)
    finding = found(report, "onnxruntime")
    assert (finding.state, report.status) == ("bad", 2)
    assert f"mixed in {VENV}" in finding.says
    assert "pip uninstall --yes onnxruntime onnxruntime-gpu" in finding.mend


def test_a_build_in_another_folder_is_only_hidden(nano):
    nano.installed = (RUNTIME, Installed("onnxruntime-gpu", "1.20.0", "/usr/lib/python3"))
    finding = found(look(nano), "onnxruntime")
    assert finding.state == "note"
    assert "hides onnxruntime-gpu 1.20.0 in /usr/lib/python3" in finding.says


def test_without_onnxruntime_the_default_backend_cannot_be_used(nano):
    nano.installed = ()
    report = look(nano)
    assert report.status == 2
    assert "onnxruntime is not installed" in found(report, "backend").says


def configure(surroundings: Asked, text: str) -> None:
    trees.plant(surroundings.tree.root, {"etc/edged/edged.toml": text})


def test_the_configured_backend_is_the_one_that_is_judged(nano):
    configure(nano, '[device]\noptions = {provider = "cuda"}\n')
    report = look(nano)
    assert "onnxruntime-cuda cannot be used: onnxruntime-gpu is not installed" in (
        found(report, "backend").says
    )
    assert report.status == 2
    nano.installed = (Installed("onnxruntime-gpu", "1.23.2", VENV),)
    assert found(look(nano), "backend").facts["used"] == "onnxruntime-cuda"
    nano.tried = msgspec.structs.replace(nano.tried, cu_init=999)
    assert "cuInit says 999" in found(look(nano), "backend").says


def test_a_gpu_that_the_configuration_does_not_use_is_told(nano):
    nano.installed = (Installed("onnxruntime-gpu", "1.23.2", VENV),)
    nano.tried = msgspec.structs.replace(nano.tried, tensorrt=None)
    finding = found(look(nano), "backend")
    assert finding.facts["used"] == "onnxruntime-cpu"
    assert "onnxruntime-cuda would work too" in finding.says


def test_a_torch_without_cuda_is_no_backend_for_a_gpu(nano):
    configure(nano, '[device]\nbackend = "torch"\noptions = {device = "cuda"}\n')
    nano.installed = (RUNTIME, Installed("torch", "2.9.0+cpu", VENV))
    assert "torch 2.9.0+cpu is built without CUDA" in found(look(nano), "backend").says


@pytest.mark.parametrize(
    ("tensorrt", "board", "used"),
    [
        ("10.3.0", True, "tensorrt"),
        ("8.6.2", True, "torch-cuda"),
        (None, True, "torch-cuda"),
        ("10.3.0", False, "torch-cuda"),
    ],
)
def test_auto_takes_the_best_that_works_here(nano, monkeypatch, tensorrt, board, used):
    """As long as no configuration may say `auto`, by hand."""
    monkeypatch.setattr("edged.options.Name", Literal["auto", "onnxruntime", "tensorrt", "torch"])
    nano.installed = (RUNTIME, Installed("torch", "2.9.0", VENV))
    nano.tried = msgspec.structs.replace(nano.tried, tensorrt=tensorrt)
    if not board:
        trees.plant(nano.tree.root, {"proc/device-tree/compatible": "a server\0"})
    evidence = gather(nano, CONFIG)
    config = Config(device=DeviceConfig(backend="auto"))  # type: ignore[arg-type]
    finding = backend(dataclasses.replace(evidence, config=config))
    assert finding.facts["used"] == used
    assert finding.says.startswith(f"{used}, the best that works here (not verified on hardware)")


def test_a_wrong_configuration_is_named_and_the_rest_is_looked_at(nano):
    configure(nano, "[device]\nbackends = 1\n")
    report = look(nano)
    assert "backends" in found(report, "config").says
    assert report.status == 2
    assert found(report, "board").state == "good"


def test_a_cache_that_cannot_be_written_is_bad(nano):
    nano.kept = KeptFiles(True, refusal="cannot be kept in /var/cache/edged (Permission denied)")
    report = look(nano)
    assert "account edged" in found(report, "cache").says
    assert report.status == 2


def test_a_python_that_cannot_import_tensorrt_is_told(nano):
    nano.interpreter = msgspec.structs.replace(nano.interpreter, version="3.11")
    assert "built for Python 3.10" in found(look(nano), "python").says
    nano.interpreter = msgspec.structs.replace(nano.interpreter, version="3.10", sees_system=False)
    assert "does not see the system's packages" in found(look(nano), "python").says


def test_memory_that_is_short_or_set_aside_is_told(nano):
    root = nano.tree.root
    trees.plant(root, {"proc/meminfo": "MemTotal: 7802880 kB\nMemAvailable: 700000 kB\n"})
    assert "716.8 MB of 7.99 GB" in found(look(nano), "memory").says
    trees.plant(root, {"proc/meminfo": "MemTotal: 6500000 kB\nMemAvailable: 5000000 kB\n"})
    finding = found(look(nano), "memory")
    assert (finding.state, "7.99 GB are usual on this module (measured)" in finding.says) == (
        "warning",
        True,
    )


def test_heat_and_a_weak_supply_are_told(nano):
    root = nano.tree.root
    trees.plant(root, {"sys/class/hwmon/hwmon5/oc3_event_cnt": "37\n"})
    finding = found(look(nano), "clocks")
    assert (finding.state, "37 x over-current peak" in finding.says) == ("note", True)
    trees.plant(root, {"sys/class/thermal/cooling_device2/cur_state": "1\n"})
    finding = found(look(nano), "clocks")
    assert finding.state == "warning"
    assert "throttled because of heat: gpu-throttle-alert" in finding.says


def test_a_service_without_the_drop_in_is_told(nano):
    root = nano.tree.root
    trees.plant(root, {"etc/systemd/system/edged.service": "[Service]\n"})
    assert "no account edged" in found(look(nano), "service").says
    trees.plant(root, {"etc/passwd": "edged:x:999:999::/var/lib/edged:/usr/sbin/nologin\n"})
    assert "device nodes" in found(look(nano), "service").says
    trees.plant(root, {"etc/systemd/system/edged.service.d/jetson.conf": "[Service]\n"})
    assert "not in video and render" in found(look(nano), "service").says
    trees.plant(root, {"etc/group": "video:x:44:alice,edged\nrender:x:104:edged\n"})
    assert found(look(nano), "service").state == "good"


def test_missing_device_nodes_are_named(nano):
    (nano.tree.root / "dev/nvmap").unlink()
    assert "there is no /dev/nvmap" in found(look(nano), "devices").says


def test_a_module_and_a_jetpack_that_nobody_has_written_down_are_no_failure(tmp_path):
    files = trees.files("orin-nano", "6.2")
    files["proc/device-tree/compatible"] = "vendor,board\0nvidia,tegra234\0"
    files["etc/nv_tegra_release"] = "# R41 (release), REVISION: 1.0, GCID: 1,\n"
    nano = asked.board(tmp_path, "orin-nano", "6.2")
    trees.plant(tmp_path, files)
    finding = found(look(nano), "board")
    assert finding.state == "warning"
    assert "module not known" in finding.says
    assert "L4T R41.1.0: its JetPack is not known" in finding.says
    nano.tree.root.joinpath("etc/nv_tegra_release").unlink()
    assert "without Jetson Linux" in found(look(nano), "board").says


def test_root_may_open_everything(nano):
    nano.has = CallingAccount("root", True, ("root",))
    assert found(look(nano), "devices").state == "good"


if __name__ == "__main__":
    for a_board, a_jetpack in CASES:
        with tempfile.TemporaryDirectory() as folder:
            text = snapshot(Path(folder), a_board, a_jetpack)
        (SNAPSHOTS / f"{a_board}{a_jetpack and '-' + a_jetpack}.json").write_text(text)
