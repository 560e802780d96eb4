"""Pretends to take jobs from a queue, and finishes the one at hand when it is to stop."""

import os
import signal
import threading

NAME = os.environ.get("PS", "worker")
stop = threading.Event()
signal.signal(signal.SIGTERM, lambda signum, frame: stop.set())

job = 0
while not stop.wait(3):
    job += 1
    print(f"{NAME} did job {job}", flush=True)
print(f"{NAME} stops after {job} jobs", flush=True)
