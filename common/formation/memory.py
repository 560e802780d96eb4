"""What an agent keeps on its own disk. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from msgspec import Struct

from formation.model import Assignment, Release, Slot


class Tries(Struct, frozen=True, kw_only=True, gc=False):
    """How often a stay was started, how often it failed in a row, and its process (pid 0: none).

    `over`: FINISHED or FAILED, it is not started again; 0: neither. `ready`: its process was.
    """

    attempt: int = 0
    failures: int = 0
    pid: int = 0
    start_ticks: int = 0
    over: int = 0
    last_exit: str = ""
    ready: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentMemory:
    """What an agent keeps on its own disk. `ending`: no longer wanted, but not all gone yet."""

    agent_id: str
    cluster_id: str = ""
    epoch: int = 0
    generation: int = 0
    assigned: tuple[Assignment, ...] = ()
    ending: tuple[Assignment, ...] = ()
    releases: tuple[Release, ...] = ()
    ports: Mapping[Slot, int] = field(default_factory=dict)
    tries: Mapping[str, Tries] = field(default_factory=dict)
    # Of the machine when the processes in `tries` ran.
    boot_id: str = ""
    # Of the document that is followed.
    cluster_epoch: int = 0
