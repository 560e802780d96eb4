"""For all tests: one profile for hypothesis, gRPC as in our programs, Ctrl-C as in a terminal.

How long an example takes says how busy the machine is, and nothing about what is tested.
"""

from __future__ import annotations

import signal

from hypothesis import HealthCheck, settings

from formation import grpcenv

settings.register_profile("formation", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("formation")
# As every program does, before anything imports gRPC.
grpcenv.prepare()
# A test run in the background of a script is told to ignore it, and programs would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
