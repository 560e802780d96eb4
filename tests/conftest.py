"""For all tests: one profile for hypothesis.

How long an example takes says how busy the machine is, and nothing about what is tested.
"""

from __future__ import annotations

from hypothesis import HealthCheck, settings

settings.register_profile("formation", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("formation")
