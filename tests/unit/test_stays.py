"""Which stays will not come to work, and why."""

from __future__ import annotations

from typing import Any

from formation.model import Assignment, HostState, InstanceState, InstanceStatus, Slot
from formation_coordinator.stays import Stay
from formation_coordinator.world import HostEntry

WEB = Slot("shop", "web", 1)


def broken(
    state: InstanceState, *, alone: bool = False, avoided: tuple[str, ...] = (), **said: Any
) -> str:
    status = InstanceStatus(uid="u", slot=WEB, release=2, state=state, **said)
    item = Assignment(uid="u", slot=WEB, release=2, avoided_hosts=avoided)
    entry = HostEntry(name="a", status=None)
    stay = Stay(
        assignment=item, row=0, entry=entry, state=HostState.READY, status=status, healthy=False,
        current=True,
    )  # fmt: skip
    return stay.broken(alone=alone)


def test_what_ended_for_good_failed() -> None:
    assert broken(InstanceState.FAILED, last_exit="exit 3") == "web.1 failed on a: exit 3"


def test_what_crashes_is_tried_on_another_host_first_where_there_is_one() -> None:
    said: dict[str, Any] = {"crash_looping": True, "last_exit": "exit 3"}
    assert broken(InstanceState.BACKOFF, **said) == ""
    crashes = "web.1 keeps crashing on a: exit 3"
    assert broken(InstanceState.BACKOFF, avoided=("b",), **said) == crashes
    assert broken(InstanceState.BACKOFF, alone=True, **said) == crashes
    assert broken(InstanceState.STARTING, avoided=("b",), last_exit="exit 3") == ""


def test_code_that_cannot_be_built_will_not_come() -> None:
    assert broken(InstanceState.WAITING, unbuildable="oh") == "web.1 on a: oh"
    # One that hopped here after it had failed elsewhere waits for whatever it waits for.
    assert broken(InstanceState.WAITING, failures=9, last_exit="exit 3") == ""
