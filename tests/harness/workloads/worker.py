"""A worker type: writes into its host's ledger when it begins and when it is told to end.

worker.py DIRECTORY      lines of `time what uid pid` in DIRECTORY/ledger-HOST
"""

from __future__ import annotations

import os
import signal
import sys
import time

LEDGER = f"{sys.argv[1]}/ledger-{os.environ['FORMATION_HOST']}"


def tell(what: str) -> None:
    line = f"{time.time():.3f} {what} {os.environ['FORMATION_INSTANCE']} {os.getpid()}\n"
    ledger = os.open(LEDGER, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    os.write(ledger, line.encode())  # in one piece
    os.close(ledger)


def end(*_: object) -> None:
    tell("told")
    sys.exit(0)


signal.signal(signal.SIGTERM, end)
tell("began")
while True:
    time.sleep(3600)
