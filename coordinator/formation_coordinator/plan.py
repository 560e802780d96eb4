"""What one pass of the leader comes to, as a value: to be written, shown, logged and asserted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from formation.model import AssignmentDocument, Slot
from formation_coordinator.rollout import Progress
from formation_coordinator.world import Change

# Slots without room beyond these are counted, not listed one by one.
PENDING_NAMED_MAX = 1_000
BRAKE = (
    "the brake is on: most hosts are silent, so nothing is replaced until they return "
    "or are given up with formctl hosts forget"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """Of the leader itself, about an app: for the audit trail."""

    action: str
    app: str
    detail: str = ""
    before: str = ""
    after: str = ""
    why: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to write, when to look again without an event, and one sentence about it.

    `records`: of apps, runs and the rebalance. Those, and the documents of the hosts in `together`,
    belong into one transaction. `absent`: hosts that must have no session while it is written.
    `pending`: slots that are not where they should be, with the reason; `unnamed`: how many more of
    each type. `left_alone`: apps of which nothing is changed, with the reason; `held`: why nothing
    at all is. `progress`: for the next pass.
    """

    documents: tuple[AssignmentDocument, ...] = ()
    records: tuple[Change, ...] = ()
    together: tuple[str, ...] = ()
    absent: tuple[str, ...] = ()
    wake_at_s: float | None = None
    sentence: str = "nothing to do"
    pending: Mapping[Slot, str] = field(default_factory=dict)
    unnamed: Mapping[tuple[str, str], int] = field(default_factory=dict)
    left_alone: Mapping[str, str] = field(default_factory=dict)
    brake: bool = False
    held: str = ""
    decisions: tuple[Decision, ...] = ()
    progress: Mapping[tuple[str, str], Progress] = field(default_factory=dict)

    @property
    def standstill(self) -> str:
        """What holds up more than single slots, for people; or ""."""
        return self.held or (BRAKE if self.brake else "")

    @property
    def writes(self) -> bool:
        return bool(self.documents or self.records)
