"""The worker process: does a job a second until it is told to stop, and finishes the one at hand."""

import signal
import threading

from gettingstarted import VERSION, config

stop = threading.Event()
signal.signal(signal.SIGTERM, lambda signum, frame: stop.set())

job = 0
while not stop.wait(1):
    job += 1
    print(f"{config.NAME} of version {VERSION} did job {job}", flush=True)
print(f"{config.NAME} stops after {job} jobs", flush=True)
