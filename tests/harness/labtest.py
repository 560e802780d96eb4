"""One cluster on test hosts for a whole file of tests: each leaves it as it found it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from lab import Lab

Pids = dict[str, list[int]]
PROCFILE = "web: sleep 7001\n"
WORD = "7001"


@contextmanager
def cluster(procfile: str = PROCFILE, formation: str = "web=2", **size: Any) -> Iterator[Lab]:
    """With an app that runs; skips where there can be no test hosts."""
    with Lab(**size) as lab:
        lab.up()
        lab.formctl("apply", str(lab.app({"Procfile": procfile})), "-m", formation)
        yield lab


@contextmanager
def undone(lab: Lab, formation: str = "web=2") -> Iterator[Lab]:
    """Whatever a test cut, froze, killed or scaled is as before when it ends."""
    yield lab
    lab.network.heal()
    for host in lab.network.hosts.values():
        host.thaw()
    for name in (*lab.etcds, *lab.coordinator_names, *lab.agent_names):
        if name not in lab.programs or lab.programs[name].poll() is not None:
            lab.again(name)
    lab.wait_hosts(len(lab.agent_names))
    lab.formctl("scale", "--app", "shop", *formation.split(","))
    quantity = sum(int(word.partition("=")[2]) for word in formation.split(","))
    lab.wait(lambda: len(lab.ps()) == quantity == len(lab.healthy()), what="calm")


def scale(lab: Lab, *words: str, **more: Any) -> Any:
    return lab.formctl("scale", "--app", "shop", *words, **more)


def pids(lab: Lab, word: str = WORD) -> Pids:
    return {host: sorted(found) for host, found in lab.running(word).items()}


def count(lab: Lab, word: str = WORD) -> int:
    return sum(map(len, lab.running(word).values()))


def keeps(lab: Lab, before: Pids, *, for_s: float, word: str = WORD) -> None:
    """For so long all of these run on; there may be more."""
    ends_s = time.monotonic() + for_s
    while time.monotonic() < ends_s:
        now = pids(lab, word)
        gone = {h: set(p) - set(now.get(h, ())) for h, p in before.items()}
        assert not any(gone.values()), f"stopped: {gone}"
        time.sleep(0.1)
