"""Sends a task each second: a clock of its own, for what cron is too coarse for."""

import itertools
import os
import signal
import time

from tasks import add

stopping = False


def stop(*_):
    global stopping
    stopping = True


signal.signal(signal.SIGTERM, stop)
for number in itertools.count(1):
    if stopping:
        break
    add.delay(number, number)
    print(f"sent {number}", flush=True)
    time.sleep(float(os.environ.get("TICK_SECONDS", "1")))
print("stopping", flush=True)
