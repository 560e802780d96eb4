"""What this machine says about itself. Reads, changes nothing, never raises for a missing fact."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time
from pathlib import Path

from formation.model import Capacity, Slot
from formation_agent import procfs

_LOOPBACK = "127.0.0.1"


def boot_id() -> str:
    """Differs after every boot; "" where the kernel does not tell."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


def capacity(instances_max: int) -> Capacity:
    pages, page_bytes = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    return Capacity(
        instances_max=instances_max,
        cpus=float(len(os.sched_getaffinity(0))),
        memory_bytes=max(pages * page_bytes, 0),
    )


def host_name() -> str:
    """Short: what an administrator calls the machine."""
    return socket.gethostname().split(".", 1)[0]


def monotonic_of_ticks(start_ticks: int, now_s: float) -> float:
    """A process's start time (field 22 of /proc/PID/stat) on the clock that `now_s` is from."""
    since_boot_s = time.clock_gettime(time.CLOCK_BOOTTIME)
    return now_s - max(since_boot_s - start_ticks / os.sysconf("SC_CLK_TCK"), 0.0)


async def local_address(coordinator: str) -> str:
    """Our address on the route to `coordinator`; "" while that cannot be found out."""
    if coordinator.startswith("unix:"):
        return _LOOPBACK
    host, _, port = coordinator.rpartition(":")
    loop = asyncio.get_running_loop()
    with contextlib.suppress(OSError, ValueError):
        found = await loop.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_DGRAM)
        family, kind, protocol, _, address = found[0]
        with socket.socket(family, kind, protocol) as probe:
            # Connecting a datagram socket only asks the routing table; nothing is sent.
            probe.connect(address)
            return str(probe.getsockname()[0])
    return ""


def slot_of_process(pid: int) -> Slot | None:
    """Which slot a process of ours was started for; None when it does not tell."""
    app = (procfs.variable(pid, b"FORMATION_APP") or b"").decode("utf-8", "replace")
    short = (procfs.variable(pid, b"PS") or b"").decode("utf-8", "replace")
    type_name, _, ordinal = short.rpartition(".")
    if not (app and type_name and ordinal.isdigit()):
        return None
    return Slot(app, type_name, int(ordinal))
