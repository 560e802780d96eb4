"""Crash-looping instances are tried on other hosts: how many at once. Pure.

The fault may be the host's (a full disk, a missing library) or the release's, and only trying
elsewhere tells. If it is the host's, the hop heals it. If it is the release's, hops help nobody, so
they must stay few, and end:

* A slot leaves a host at most once per release: the hosts that it left go along with it
  (`Assignment.avoided_hosts`), and it never hops to one of them. With no other host left, or after
  it has left 8, it stays and backs off: then it is the release, and documents must not grow.
* At most a quarter of a type, and at most 50, are on trial: moved, and neither healthy nor
  crash-looping in the new place yet. With a release that is broken everywhere each trial takes
  minutes, since the back-off goes on where it was.
"""

from __future__ import annotations

from collections.abc import Iterable

from formation.model import InstanceState
from formation_coordinator.draft import Past
from formation_coordinator.stays import Stay

ON_TRIAL_MAX = 50
HOSTS_LEFT_MAX = 8
_SHARE = 4
_TRIED = frozenset(
    {
        InstanceState.HEALTHY,
        InstanceState.UNREADY,
        InstanceState.FINISHED,
        InstanceState.FAILED,
    }
)


def may_leave(stay: Stay) -> bool:
    """Only in BACKOFF, when no process of it runs that a move would stop."""
    status = stay.status
    if status is None or len(stay.assignment.avoided_hosts) >= HOSTS_LEFT_MAX:
        return False
    return status.crash_looping and status.state is InstanceState.BACKOFF


def allowance(unwell: Iterable[Stay], quantity: int) -> int:
    """How many more of a type may hop now. `unwell`: its stays of the current release that are not
    healthy."""
    on_trial = sum(_on_trial(stay) for stay in unwell)
    return max(0, min(max(1, quantity // _SHARE), ON_TRIAL_MAX) - on_trial)


def _on_trial(stay: Stay) -> bool:
    if not stay.assignment.avoided_hosts:
        return False
    status = stay.status
    return status is None or not (status.crash_looping or status.state in _TRIED)


def past_after(stay: Stay) -> Past:
    """What the slot's next stay takes along when it leaves for another host."""
    before = stay.assignment.avoided_hosts
    return Past(
        failures=stay.status.failures if stay.status else 0,
        avoided_hosts=before if stay.host in before else (*before, stay.host),
    )
