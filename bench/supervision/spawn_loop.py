"""The floor where there is no C compiler: the same as spawn_loop.c."""

from __future__ import annotations

import os
import signal
import sys


def main() -> None:
    count, argv = int(sys.argv[1]), sys.argv[2:]
    os.read(0, 1)
    pids = [os.posix_spawn(argv[0], argv, os.environ) for _ in range(count)]
    while os.read(0, 1):
        continue
    for pid in pids:
        os.kill(pid, signal.SIGTERM)
    for pid in pids:
        os.waitpid(pid, 0)


if __name__ == "__main__":
    main()
