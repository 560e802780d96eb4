"""What operators ask for once: other quantities, runs to an end, moves. Data only."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum, StrEnum

from formation.model import Slot


class ChangeKind(StrEnum):
    SET = "="
    ADD = "+"
    SUBTRACT = "-"


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantityChange:
    """One word of `formctl scale`: `web=5`, `worker+1`, `worker-2`."""

    type: str
    kind: ChangeKind
    quantity: int


class RunState(IntEnum):
    """PLACED: a document lists it, or did. LOST: its host was given up, nobody knows its end."""

    PENDING = 1
    PLACED = 2
    FINISHED = 3
    FAILED = 4
    LOST = 5
    CANCELLED = 6


OVER = frozenset({RunState.FINISHED, RunState.FAILED, RunState.LOST, RunState.CANCELLED})


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One run of a command to its end: asked for by a person, or by a schedule (`tick_ms`: for
    when, else 0). `command` "": the type's own. `like`: the type whose settings it has, "": none's.
    """

    id: str
    slot: Slot
    release: int
    command: str = ""
    like: str = ""
    who: str = ""
    created_at_ms: int = 0
    tick_ms: int = 0
    state: RunState = RunState.PENDING
    host: str = ""
    last_exit: str = ""
    reason: str = ""
    ended_at_ms: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    slot: Slot
    from_host: str
    to_host: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Rebalance:
    """Moves that an operator has asked for and that are not all made yet."""

    moves: tuple[Move, ...]
    who: str = ""
    at_ms: int = 0
