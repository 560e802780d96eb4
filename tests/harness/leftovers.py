"""Does anything of ours still run? Processes are remembered by pid and start time."""

from __future__ import annotations

import time

import psutil

# What the kernel may need to tear down a killed tree on a busy machine.
SETTLE_S = 5.0


class Leftovers:
    """`note` while programs live; `running` after they ended."""

    def __init__(self) -> None:
        self._seen: dict[int, float] = {}

    def note(self, pid: int) -> None:
        """Remember every process below this one."""
        try:
            for child in psutil.Process(pid).children(recursive=True):
                self._seen[child.pid] = child.create_time()
        except psutil.NoSuchProcess:
            pass

    def running(self) -> list[str]:
        """What still runs a moment after the end, each with its command."""
        ends_s = time.monotonic() + SETTLE_S
        while (left := self._living()) and time.monotonic() < ends_s:
            time.sleep(0.02)
        return [_described(process) for process in left]

    def kill(self) -> None:
        for process in self._living():
            process.kill()

    def _living(self) -> list[psutil.Process]:
        found = []
        for pid, created_s in self._seen.items():
            try:
                process = psutil.Process(pid)
                if process.create_time() == created_s and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except psutil.NoSuchProcess:
                continue
        return found


def alive(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _described(process: psutil.Process) -> str:
    try:
        return f"{process.pid} {' '.join(process.cmdline())[:100]}"
    except psutil.Error:
        return f"{process.pid}"
