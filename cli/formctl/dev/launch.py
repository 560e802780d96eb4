"""Runs a program that ends when its parent does: `launch.py PARENT_PID PROGRAM ARGUMENT…`.

A file of its own, stdlib only and started with `-I -S`: asking the kernel between fork and exec
(a preexec function) is not safe in a process whose grpc has threads.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main() -> None:
    parent, program = int(sys.argv[1]), sys.argv[2:]
    # SIGINT as from a terminal: an agent stops what it has at once, without draining it.
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGINT, 0, 0, 0) != 0:
        sys.exit(f"prctl: {os.strerror(ctypes.get_errno())}")
    # Who started formctl may have it ignored, as a shell does behind `&`.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    # The parent may have died before the kernel knew what to do about it.
    if os.getppid() == parent:
        os.execv(program[0], program)  # noqa: S606  that is what it is for


if __name__ == "__main__":
    main()
