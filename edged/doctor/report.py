"""What doctor has found: one finding for each check, and what follows for the exit status."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import msgspec

State: TypeAlias = Literal["good", "note", "warning", "bad"]

_STATUS: dict[State, int] = {"good": 0, "note": 0, "warning": 1, "bad": 2}


class Finding(msgspec.Struct, frozen=True):
    """The outcome of one check.

    note     worth knowing; nothing to do
    warning  edged serves, but not as well as this machine could, or not for long
    bad      edged cannot serve as it is configured
    """

    check: str
    state: State
    says: str
    mend: str = ""  # what to do about it
    facts: dict[str, Any] = {}


class DoctorReport(msgspec.Struct, frozen=True):
    """All findings, in the order in which they are told."""

    edged: str  # the version
    label: str  # what is known of edged on such a machine
    findings: tuple[Finding, ...]

    @property
    def status(self) -> int:
        """The exit status: 0 all is well, 1 it serves but something is to be mended, 2 it does not
        serve.
        """
        return max((_STATUS[finding.state] for finding in self.findings), default=0)
