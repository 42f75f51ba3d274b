"""Hypothesis must not fail a test for a machine that stands still for a moment: without this, one
example that takes 0.2 s does, and so do examples that are slow to be made up."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

settings.register_profile(
    "patient", settings.default, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("patient")
