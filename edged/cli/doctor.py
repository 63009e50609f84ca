"""`edged doctor`: what this machine has, what would compute on it, and what is to be mended."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from edged.cli.console import print_json, say
from edged.cli.serve import DEFAULT_CONFIG

if TYPE_CHECKING:
    from edged.doctor.report import DoctorReport


def register(commands: Any) -> None:
    parser = commands.add_parser(
        "doctor",
        help="look at this machine: board, driver, runtimes, rights, memory",
        description="Look at what edged finds on this machine, and say what is to be mended. It "
        "changes nothing, and works on a machine that is no Jetson. Run it as the account that "
        "serves. The exit status is 0 if all is well, 1 if edged serves but something should be "
        "mended, 2 if it cannot serve as it is configured.",
    )
    parser.add_argument("--config", type=Path, default=DEFAULT_CONFIG, metavar="FILE")
    parser.add_argument("--json", action="store_true", help="for programs, with all facts")
    parser.set_defaults(run=_doctor)


def _doctor(args: argparse.Namespace) -> int:
    from edged.doctor.examine import examine
    from edged.doctor.surroundings import Surroundings

    report = examine(Surroundings(), args.config.absolute())
    if args.json:
        print_json(as_json(report))
    else:
        say(shown(report))
    return report.status


def as_json(report: DoctorReport) -> dict[str, Any]:
    """The report with its findings by name."""
    findings: list[dict[str, Any]] = msgspec.to_builtins(report.findings)
    return {
        "edged": report.edged,
        "status": report.status,
        "label": report.label,
        "checks": {finding.pop("check"): finding for finding in findings},
    }


def shown(report: DoctorReport) -> str:
    """The report for people: a line for each check, and one for what to do about it."""
    lines = [f"edged {report.edged}"]
    for finding in report.findings:
        lines.append(f"{finding.state:8}{finding.check:12}{finding.says}")
        if finding.mend:
            lines.append(f"{'':20}-> {finding.mend}")
    return "\n".join(lines)
