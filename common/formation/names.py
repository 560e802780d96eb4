"""What apps, hosts and process types may be called, and what coordinators are. Light: nothing else
is imported here."""

from __future__ import annotations

import re

# They end up in keys, file names and host names.
APP_NAME = re.compile(r"[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?")
HOST_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,251}[A-Za-z0-9])?")
TYPE_NAME = re.compile(r"[A-Za-z0-9_-]{1,63}")
# What the runs of commands that people ask for are called: `run.3`.
ONE_OFF = "run"
# What every coordinator's certificate says it is, wherever it listens: addresses change.
COORDINATOR_NAME = "coordinator.formation.internal"

# How often either end of a connection asks whether the other one lives, and within which bounds.
# A cut cable is the kernel's to find out; a program may be busy for a while.
PING_EVERY_S, PING_TIMEOUT_S = 2.0, 5.0
# Who dialled asks, and who hears that needs not ask as well: only after so many times as long, also
# where an answer takes a second. When both ask, each costs the other twice the wake-ups.
SERVER_PINGS_TIMES = 2.0
PINGS_S = (2.0, 60.0)
