"""The checks of what leads to a GPU: device nodes, driver, CUDA runtime, TensorRT."""

from __future__ import annotations

import msgspec

from edged.doctor.evidence import Evidence
from edged.doctor.report import Finding, State

# The nodes of each chip: those without which there is no GPU, and others to look at.
_NODES = {
    "tegra234": (("dev/nvmap", "dev/dri/renderD128"), ("dev/nvgpu/igpu0/*", "dev/nvhost-gpu")),
    "tegra264": (("dev/nvidia0", "dev/nvidiactl", "dev/nvidia-uvm"), ("dev/dri/renderD*",)),
}
_PC_NODES = ((), ("dev/nvidia0", "dev/nvidiactl", "dev/nvidia-uvm"))

# Codes of cuda.h and driver_types.h that are met on boards, and what is behind them there.
_CODES = {
    35: (
        "the driver is older than this CUDA runtime, or is not there",
        "take the CUDA packages of this JetPack; wheels for servers bring a newer runtime",
    ),
    100: (
        "there is no GPU that this process may see",
        "look at the device nodes above, and at CUDA_VISIBLE_DEVICES",
    ),
    304: (
        "the system refused a call of the driver",
        "take the unit of systemd/: a sandbox may lack memfd_create",
    ),
    801: ("the render node cannot be opened", "add the account to the group render"),
    803: (
        "driver and libcuda.so.1 are of different versions",
        "restart after an update, and keep to one JetPack",
    ),
    999: ("nvmap cannot be opened", "add the account to the group video"),
}

RECORDED = ("10.3", "10.13", "10.16", "11.4")  # versions of TensorRT whose interface is recorded
APT_LINE = "apt-get install tensorrt python3-libnvinfer"


def explained(code: int) -> tuple[str, str]:
    """What an answer of CUDA means on a board, and what to do about it."""
    return _CODES.get(code, ("cuda.h has its name", "look for it in NVIDIA's documentation"))


def devices(evidence: Evidence) -> Finding:
    """Whether this account may open the GPU's device nodes."""
    chip = evidence.board.chip
    required, others = _NODES.get(chip or "", _PC_NODES)
    asked = evidence.surroundings
    nodes, account = asked.nodes((*required, *others)), asked.account()
    facts = {"account": account, "nodes": nodes}
    plain = msgspec.to_builtins(facts)
    missing = [f"/{path}" for path in required if f"/{path}" not in nodes]
    closed = [f"{path} ({n.owner}:{n.group} {n.mode})" for path, n in nodes.items() if not n.usable]
    if missing:
        text = f"there is no {' and no '.join(missing)}"
        mend = "a container has to be given them; on the board itself the driver is not loaded"
        return Finding("devices", "warning", text, mend, plain)
    if closed:
        text = f"account {account.name} may not open {', '.join(closed)}"
        mend = (
            f"usermod --append --groups video,render {account.name}, then log in anew; the service "
            "gets both groups from systemd/edged.service.d/jetson.conf"
        )
        return Finding("devices", "warning", text, mend, plain)
    if not nodes:
        return Finding("devices", "note", "no device nodes of an NVIDIA GPU", facts=plain)
    text = f"account {account.name} may open {', '.join(nodes)}"
    return Finding("devices", "good", text, facts=plain)


def driver(evidence: Evidence) -> Finding:
    """Whether the driver can be used, by cuInit."""
    probe, failure = evidence.probe, evidence.probe_failure
    facts = {
        "cu_init": probe.cu_init,
        "cuda": probe.driver_cuda,
        "gpus": probe.gpus,
        "gpu": probe.gpu,
        "compute_capability": probe.compute_capability,
    }
    absent: State = "warning" if evidence.board.is_jetson else "note"
    if failure is not None:
        text = f"the process that tried driver, CUDA and TensorRT {failure}"
        mend = "python -m edged.doctor.probe in this environment shows what it prints"
        return Finding("driver", "warning", text, mend, facts)
    if not probe.driver:
        mend = "install JetPack's packages" if evidence.board.is_jetson else ""
        text = "no driver: there is no libcuda.so.1"
        return Finding("driver", absent, text, mend, facts)
    if probe.cu_init != 0:
        means, mend = explained(probe.cu_init or 0)
        return Finding("driver", "warning", f"cuInit says {probe.cu_init}: {means}", mend, facts)
    if not probe.gpus:
        return Finding("driver", "warning", "cuInit is good, but there is no GPU", "", facts)
    text = f"CUDA {probe.driver_cuda}, {probe.gpu} (compute capability {probe.compute_capability})"
    return Finding("driver", "good", text, facts=facts)


def cuda(evidence: Evidence) -> Finding:
    """Whether there is a CUDA runtime that fits the driver."""
    probe, jetpack = evidence.probe, evidence.board.jetpack
    facts = {
        "library": probe.runtime,
        "version": probe.runtime_cuda,
        "error": probe.runtime_error,
        "of_jetpack": None if jetpack is None else jetpack.cuda,
    }
    if probe.runtime is None:
        text = "no CUDA runtime: there is no libcudart.so.12 or .13"
        if not evidence.board.is_jetson:
            return Finding("cuda", "note", text, facts=facts)
        mend = "apt-get install nvidia-jetpack, or the packages of CUDA alone"
        return Finding("cuda", "warning", text, mend, facts)
    text = f"CUDA runtime {probe.runtime_cuda} ({probe.runtime})"
    if not probe.driver and not evidence.board.is_jetson:
        return Finding("cuda", "note", f"{text}, and no driver", facts=facts)
    if probe.runtime_error:
        means, mend = explained(probe.runtime_error)
        says = f"{text}, which says {probe.runtime_error}: {means}"
        return Finding("cuda", "warning", says, mend, facts)
    if jetpack is not None and _major(probe.runtime_cuda or "") != _major(jetpack.cuda):
        mend = f"take the CUDA packages of JetPack {jetpack.name}: CUDA {jetpack.cuda}"
        return Finding("cuda", "warning", f"{text} is not JetPack's", mend, facts)
    return Finding("cuda", "good", text, facts=facts)


def tensorrt(evidence: Evidence) -> Finding:
    """Whether TensorRT can be imported, and whether its interface is one that is known."""
    probe, jetson = evidence.probe, evidence.board.is_jetson
    version = probe.tensorrt
    known = version is not None and is_recorded(version)
    facts = {"version": version, "recorded": known, "error": probe.tensorrt_error}
    if probe.tensorrt_error is not None:
        text = f"TensorRT cannot be imported: {probe.tensorrt_error}"
        return Finding("tensorrt", "warning", text, APT_LINE, facts)
    if version is None:
        text = "TensorRT is not installed for this Python"
        if not jetson:
            return Finding("tensorrt", "note", text, facts=facts)
        mend = f"{APT_LINE}; the environment of edged has to see the system's packages"
        return Finding("tensorrt", "warning", text, mend, facts)
    if known:
        return Finding("tensorrt", "good", f"TensorRT {version}", facts=facts)
    text = f"TensorRT {version} is none whose interface was recorded: {', '.join(RECORDED)}"
    mend = 'take one of these, with another JetPack, or device.backend = "onnxruntime"'
    return Finding("tensorrt", "warning", text, mend, facts)


def is_recorded(version: str) -> bool:
    """Whether the interface of this version of TensorRT is recorded."""
    return ".".join(version.split(".")[:2]) in RECORDED


def _major(version: str) -> str:
    return version.partition(".")[0]
