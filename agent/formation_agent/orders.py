"""What an agent makes of an order: obey it, ask for the whole, or refuse and say why (pure).

An agent obeys one cluster, never an older leader, and never a document older than the one it
follows: a store that was put back in time must not stop what runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from formation.memory import AgentMemory
from formation.model import Assignment, Assignments, Release
from formation.running import spec_of
from formation.secrets import for_agent

Releases = Mapping[tuple[str, int], Release]


@dataclass(frozen=True, slots=True, kw_only=True)
class Obey:
    """All that is wanted on this host from now on."""

    epoch: int
    generation: int
    cluster_epoch: int
    assigned: tuple[Assignment, ...]
    releases: tuple[Release, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Resend:
    """A gap: this change does not build on what is known here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refuse:
    """`older`: than what is followed."""

    complaint: str
    older: bool = False


Verdict = Obey | Resend | Refuse


def judge_cluster(memory: AgentMemory, cluster_id: str) -> str:
    """Why this coordinator's cluster is not obeyed, or ""."""
    if memory.cluster_id in ("", cluster_id):
        return ""
    return (
        f"this coordinator belongs to cluster {cluster_id}, this agent to {memory.cluster_id}:"
        " nothing it says is obeyed; start the agent with another --state-dir to move the host"
    )


def judge(memory: AgentMemory, order: Assignments) -> Verdict:
    if order.cluster_epoch > memory.cluster_epoch:
        # An operator has said that the store counts, however old it looks from here.
        return _obey(memory, order, order.instances) if order.complete else Resend()
    if order.cluster_epoch < memory.cluster_epoch:
        return _too_old("cluster epoch", order.cluster_epoch, memory.cluster_epoch)
    return _judge_in_epoch(memory, order)


def _judge_in_epoch(memory: AgentMemory, order: Assignments) -> Verdict:
    if order.epoch < memory.epoch:
        return _too_old("leader epoch", order.epoch, memory.epoch)
    if order.complete:
        if order.results_in < memory.generation:
            return _too_old("generation", order.results_in, memory.generation)
        assigned = order.instances
    elif order.applies_to != memory.generation or order.results_in < order.applies_to:
        return Resend()
    else:
        assigned = _changed(memory.assigned, order)
    if _is_of_another_timeline(memory, order.results_in, assigned):
        return _too_old("another generation", order.results_in, "one")
    return _obey(memory, order, assigned)


def _is_of_another_timeline(
    memory: AgentMemory, generation: int, assigned: tuple[Assignment, ...]
) -> bool:
    """A document changes only with its generation: the same number with other content is of a
    store that was put back and has gone on from there. After a goodbye nothing is remembered."""
    if generation != memory.generation:
        return False
    wanted, known = ({item.uid for item in items} for items in (assigned, memory.assigned))
    return bool(known) and wanted != known


def by_key(releases: tuple[Release, ...]) -> Releases:
    return {(release.app, release.number): release for release in releases}


def _changed(known: tuple[Assignment, ...], order: Assignments) -> tuple[Assignment, ...]:
    table = {item.uid: item for item in known}
    for uid in order.removed_uids:
        table.pop(uid, None)
    table.update((item.uid, item) for item in order.instances)
    return tuple(table.values())


def _obey(memory: AgentMemory, order: Assignments, assigned: tuple[Assignment, ...]) -> Verdict:
    known = by_key(memory.releases)
    releases = {**known, **by_key(order.releases)}
    needed: dict[tuple[str, int], Release] = {}
    types: dict[tuple[str, int], set[str]] = {}
    for item in assigned:
        release = releases.get((item.slot.app, item.release))
        if release is None or spec_of(release, item) is None:
            return Refuse(
                complaint=f"{item.slot} shall run v{item.release}, which has not reached this"
                " agent with a command for it: nothing was changed here; restart the coordinator"
            )
        key = item.slot.app, item.release
        needed[key] = release
        if release.secrets:
            types.setdefault(key, set()).add(item.like or item.slot.type)
    for key, names in types.items():
        needed[key] = for_agent(needed[key], names, known.get(key))
    return Obey(
        epoch=order.epoch,
        generation=order.results_in,
        cluster_epoch=order.cluster_epoch,
        assigned=assigned,
        releases=tuple(needed.values()),
    )


def _too_old(what: str, got: int, known: int | str) -> Refuse:
    return Refuse(
        complaint=f"refused orders of {what} {got}, {known} was seen before: the cluster's store"
        " went back in time; everything here runs on as it is, until"
        " `formctl reconcile --confirm`",
        older=True,
    )
