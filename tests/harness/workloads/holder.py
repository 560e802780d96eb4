"""Of an exclusive type: holds the lock on a file that all hosts share, and tells who was there too.

holder.py DIRECTORY      one line in `overlaps` for each start that found another one alive
"""

from __future__ import annotations

import fcntl
import os
import signal
import sys
import time


def main() -> None:
    directory = sys.argv[1]
    me = f"{os.environ['FORMATION_INSTANCE']} on {os.environ['FORMATION_HOST']} {os.getpid()}"
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with open(f"{directory}/lock", "a+") as lock:
        try:
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.seek(0)
            with open(f"{directory}/overlaps", "a") as overlaps:
                overlaps.write(f"{time.time():.3f} {me} found {lock.read().strip()}\n")
            fcntl.lockf(lock, fcntl.LOCK_EX)
        lock.truncate(0)
        lock.write(me + "\n")
        lock.flush()
        print("holds the lock", flush=True)
        while True:
            time.sleep(3600)


main()
