"""When what one is attached to has ended, and how."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from formation.model import InstanceState, InstanceStatus, Slot
from formctl.attaching import End, Watched, chosen, end_in
from formctl.views import Instance, Update

SLOT = Slot("shop", "web", 1)
WATCHED = Watched(uid="u", attempt=2, pid=70)


def instance(state: InstanceState = InstanceState.HEALTHY, **fields: Any) -> Instance:
    running: dict[str, Any] = {"uid": "u", "attempt": 2, "pid": 70}
    status = InstanceStatus(slot=SLOT, release=1, state=state, **(running | fields))
    return Instance(status=status, host="a")


def test_it_is_the_process_that_runs_now() -> None:
    leaving = replace(instance(uid="old"), surplus=True)
    assert chosen([leaving, instance()], SLOT) == WATCHED
    assert chosen([leaving], SLOT) == replace(WATCHED, uid="old")
    assert chosen([], SLOT) == ""
    down = instance(InstanceState.BACKOFF, pid=0, last_exit="exit 3")
    assert chosen([down], SLOT) == "web.1 does not run now, it is backoff: exit 3"


@pytest.mark.parametrize(
    ("seen", "ended"),
    [
        (instance(), False),
        (instance(InstanceState.UNREADY), False),
        (instance(InstanceState.STOPPING), False),
        (instance(InstanceState.RESTARTING), False),
        (instance(InstanceState.BACKOFF, pid=0, last_exit="exit 3"), True),
        (instance(InstanceState.FINISHED, pid=0, last_exit="exit 3"), True),
        (instance(InstanceState.STOPPED, pid=0, last_exit="exit 3"), True),
        (instance(InstanceState.STARTING, attempt=3, pid=0, last_exit="exit 3"), True),
        (instance(InstanceState.HEALTHY, pid=71, last_exit="exit 3"), True),
        (instance(InstanceState.STOPPED, uid="another", pid=0), False),
    ],
)
def test_it_ends_with_its_process_and_with_no_other(seen: Instance, ended: bool) -> None:
    found = end_in(Update(changed=(seen,)), WATCHED)
    assert found == (End(last_exit="exit 3") if ended else None)


def test_one_that_is_gone_has_ended_in_a_way_that_nobody_tells() -> None:
    gone = end_in(Update(gone_uids=("u",)), WATCHED)
    assert gone is not None
    assert gone.last_exit == ""
    assert end_in(Update(complete=True), WATCHED) == gone
    assert end_in(Update(gone_uids=("x",)), WATCHED) is None
