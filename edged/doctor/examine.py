"""All checks of doctor, in the order in which they are told."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from edged import __version__
from edged.doctor import gpu_checks, machine_checks, runtime_checks
from edged.doctor.evidence import Evidence, gather
from edged.doctor.report import DoctorReport, Finding
from edged.doctor.surroundings import Surroundings

CHECKS: tuple[Callable[[Evidence], Finding], ...] = (
    machine_checks.board,
    machine_checks.python,
    machine_checks.service,
    gpu_checks.devices,
    gpu_checks.driver,
    gpu_checks.cuda,
    gpu_checks.tensorrt,
    runtime_checks.onnxruntime,
    runtime_checks.config,
    runtime_checks.cache,
    runtime_checks.backend,
    machine_checks.memory,
    machine_checks.swap,
    machine_checks.power_mode,
    machine_checks.clocks,
)


def examine(surroundings: Surroundings, config_path: Path) -> DoctorReport:
    """Look at everything. Changes nothing."""
    evidence = gather(surroundings, config_path)
    findings = tuple(check(evidence) for check in CHECKS)
    backend = next(finding for finding in findings if finding.check == "backend")
    return DoctorReport(__version__, backend.facts["label"], findings)
