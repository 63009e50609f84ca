"""The checks of what computes: configuration, ONNX Runtime's packages, cache, backend."""

from __future__ import annotations

from typing import Any, get_args

import msgspec

from edged import options
from edged.cli.console import show_bytes
from edged.doctor.evidence import Evidence
from edged.doctor.gpu_checks import explained, is_recorded
from edged.doctor.report import Finding, State
from edged.doctor.surroundings import Installed

_PACKAGES = ("onnxruntime", "onnxruntime-gpu")
_AUTO_ON_A_BOARD = ("tensorrt", "torch-cuda", "onnxruntime-cuda", "onnxruntime-cpu")
_AUTO_ELSEWHERE = ("torch-cuda", "tensorrt", "onnxruntime-cuda", "onnxruntime-cpu")


def config(evidence: Evidence) -> Finding:
    """Whether the configuration can be read."""
    path = str(evidence.config_path)
    facts = {"path": path, "exists": evidence.has_config}
    if evidence.config_error is not None:
        mend = f"edged check {path} says the same, and more"
        return Finding("config", "bad", evidence.config_error, mend, facts)
    if not evidence.has_config:
        return Finding("config", "note", f"there is no {path}: looked at defaults", facts=facts)
    return Finding("config", "good", f"{path} can be read", facts=facts)


def onnxruntime(evidence: Evidence) -> Finding:
    """Whether ONNX Runtime is there once: its two packages own the same files."""
    found = evidence.surroundings.packages(*_PACKAGES)
    facts = {"packages": msgspec.to_builtins(found)}
    if not found:
        text = "ONNX Runtime is not installed"
        is_needed = evidence.config.device.backend == "onnxruntime"
        state: State = "bad" if is_needed else "note"
        return Finding("onnxruntime", state, text, "pip install onnxruntime", facts)
    mixed = _mixed(found)
    if mixed is not None:
        text = f"onnxruntime and onnxruntime-gpu are mixed in {mixed}: the files of one lie over "
        text += "those of the other"
        mend = (
            "pip uninstall --yes onnxruntime onnxruntime-gpu, then pip install the one that you "
            "want"
        )
        return Finding("onnxruntime", "bad", text, mend, facts)
    first, *hidden = found
    text = f"{first.name} {first.version}"
    if hidden:
        text += f"; it hides {', '.join(f'{o.name} {o.version} in {o.place}' for o in hidden)}"
    return Finding("onnxruntime", "note" if hidden else "good", text, facts=facts)


def _mixed(found: tuple[Installed, ...]) -> str | None:
    """The folder that has both packages, if one has."""
    for place in {each.place for each in found}:
        if {each.name for each in found if each.place == place} == set(_PACKAGES):
            return place
    return None


def cache(evidence: Evidence) -> Finding:
    """Whether what is prepared for this machine can be kept."""
    path = evidence.config.device.cache_dir
    kept = evidence.surroundings.directory(path, "blocks that are prepared for this machine")
    facts = {"path": path, **msgspec.to_builtins(kept)}
    if kept.refusal:
        account = evidence.surroundings.account().name
        mend = "run doctor as the account that serves, or give it the directory"
        return Finding("cache", "bad", f"account {account}: {kept.refusal}", mend, facts)
    if not kept.exists:
        return Finding("cache", "note", f"{path} is not there yet: a start makes it", facts=facts)
    text = f"{path} can be written, {show_bytes(kept.bytes)} in {kept.files} files"
    return Finding("cache", "good", text, facts=facts)


def backend(evidence: Evidence) -> Finding:
    """What would compute, and why nothing faster does."""
    device = evidence.config.device
    configured = _configured(device.backend, device.options)
    order = _AUTO_ON_A_BOARD if evidence.board.chip is not None else _AUTO_ELSEWHERE
    refusals = {name: _refusal(name, evidence) for name in order}
    why = {name: refusal for name, refusal in refusals.items() if refusal is not None}
    usable = [name for name in order if name not in why]
    used = next(iter(usable), None) if configured == "auto" else configured
    facts: dict[str, Any] = {
        "configured": configured, "used": used, "usable": usable, "unusable": why,
        "label": label(used, evidence),
    }  # fmt: skip
    if used is None or used in why:
        text = f"{configured} cannot be used: {why.get(configured, 'no backend can')}"
        others = f"device.backend may be one of {', '.join(usable)}" if usable else ""
        return Finding("backend", "bad", text, others, facts)
    if used not in refusals:
        return Finding("backend", "note", f"{used}, as the configuration says", facts=facts)
    chosen = "the best that works here" if configured == "auto" else "as the configuration says"
    text = f"{used}, {chosen} ({facts['label']})"
    faster = order[: order.index(used)]
    better = [name for name in faster if name in usable]
    if better:
        text += f"; {better[0]} would work too"
        return Finding("backend", "note", text, "docs/jetson.md says how to set it", facts)
    text = "; ".join([text, *(f"{name}: {why[name]}" for name in faster)])
    return Finding("backend", "good", text, facts=facts)


def label(used: str | None, evidence: Evidence) -> str:
    """What is known of a backend on such a machine."""
    if used == "onnxruntime-cpu" and evidence.surroundings.python().architecture == "x86_64":
        return "measured on x86_64"
    return "not verified on hardware"


def _configured(name: str, given: dict[str, Any]) -> str:
    """The configured backend as `auto` names it; others by their own name."""
    if name == "onnxruntime":
        provider = given.get("provider", "cpu")
        return "onnxruntime-cpu" if provider == "cpu" else "onnxruntime-cuda"
    if name == "torch":
        return "torch-cuda" if given.get("device") == "cuda" else "torch-cpu"
    return name


def _refusal(name: str, evidence: Evidence) -> str | None:
    """Why a backend cannot be used here; None: it can, as far as can be seen without running it."""
    asked, probe = evidence.surroundings, evidence.probe
    if name == "onnxruntime-cpu":
        return None if asked.packages(*_PACKAGES) else "onnxruntime is not installed"
    if name == "tensorrt":
        if "tensorrt" not in get_args(options.Name):
            return "this edged has no such backend"
        if probe.tensorrt is None:
            return "TensorRT cannot be imported"
        if not is_recorded(probe.tensorrt):
            return f"TensorRT {probe.tensorrt} is not supported"
    if name == "torch-cuda":
        torch = asked.packages("torch")
        if not torch:
            return "torch is not installed"
        if torch[0].version.endswith("+cpu"):
            return f"torch {torch[0].version} is built without CUDA"
    if name == "onnxruntime-cuda":
        found = asked.packages(*_PACKAGES)
        if not found or found[0].name != "onnxruntime-gpu":
            return "onnxruntime-gpu is not installed"
    return _no_gpu(evidence)


def _no_gpu(evidence: Evidence) -> str | None:
    probe = evidence.probe
    if evidence.gpu_works:
        return None
    if evidence.probe_failure is not None:
        return f"the process that tried the driver {evidence.probe_failure}"
    if not probe.driver:
        return "no driver"
    if probe.cu_init:
        return f"cuInit says {probe.cu_init}: {explained(probe.cu_init)[0]}"
    return "no GPU"
