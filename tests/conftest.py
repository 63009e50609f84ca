"""What holds for all tests."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

# Machines are noisy, and how long an example takes is nothing that a test asserts. Under CI the
# examples are the same each time; at home new ones are tried.
settings.register_profile(
    "edged",
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    derandomize="CI" in os.environ,
)
settings.load_profile("edged")
