"""What this process holds of the memory that blocks are in: its own, and a GPU's, or that alone."""

from __future__ import annotations

from edged.backends.base import Backend
from edged.budget import footprint


def is_apart(backend: Backend) -> bool:
    """Whether blocks are in memory that the device has for itself."""
    device = backend.device_bytes()
    return device is not None and not device.is_unified


def held_bytes(backend: Backend) -> int:
    """All that this process holds of it. Raises DeviceLost."""
    device = backend.device_bytes()
    if device is None:
        return footprint().pss_bytes
    return device.held_bytes + (footprint().pss_bytes if device.is_unified else 0)


def unshared_bytes(backend: Backend) -> int:
    """What grows with the activations of a run, and with nothing else."""
    device = backend.device_bytes()
    return footprint().private_bytes if device is None else device.held_bytes
