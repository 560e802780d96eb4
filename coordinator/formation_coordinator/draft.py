"""The documents as one pass of the leader leaves them: what is kept, taken away and added. Pure.

Mutable, and private to one pass. It knows what a host takes and why not; what should be where is
`reconcile`'s decision. Only hosts that something was done to get a new document.

A fixed port is held by what is assigned and by what still runs. Nothing frees one within a pass:
what is dropped now has its process until the agent says that it is gone, and that starts the next
pass. Only the slot that holds a port may take it over, since its next stay waits for the last one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

from formation.model import (
    App,
    Assignment,
    AssignmentDocument,
    HostState,
    InstanceState,
    ProcessType,
    Slot,
)
from formation_coordinator import placement
from formation_coordinator.world import OVER, HostEntry, World, departed

NewUid = Callable[[Slot], str]
_GONE = OVER | {InstanceState.STOPPED}


@dataclass(frozen=True, slots=True, kw_only=True)
class Past:
    """What a new stay takes over from the one before in its slot."""

    failures: int = 0
    avoided_hosts: tuple[str, ...] = ()


FRESH = Past()


class Draft:
    """`states` has every host of the world; `new_uid(slot)` gives a uid that was never used."""

    def __init__(self, world: World, states: Mapping[str, HostState], new_uid: NewUid) -> None:
        self._world, self._states, self._new_uid = world, states, new_uid
        hosts = world.hosts.values()
        self._kept = {e.name: {item.uid: item for item in e.assigned} for e in hosts}
        self._of_type = {
            e.name: Counter((i.slot.app, i.slot.type) for i in e.assigned) for e in hosts
        }
        self._held = _held_ports(world)
        self._changed: set[str] = set()

    # ------------------------------------------------------------------ changes

    def drop(self, host: str, item: Assignment) -> None:
        del self._kept[host][item.uid]
        self._of_type[host][item.slot.app, item.slot.type] -= 1
        self._changed.add(host)

    def add(self, app: App, spec: ProcessType, slot: Slot, host: str, past: Past) -> None:
        """A new stay of the current release."""
        uid = self._new_uid(slot)
        self._kept[host][uid] = Assignment(
            uid=uid,
            slot=slot,
            release=app.release,
            restart_mark=app.restart_mark(slot.type, slot.ordinal),
            retry_mark=app.retry_mark(slot.type, slot.ordinal),
            failures=past.failures,
            avoided_hosts=past.avoided_hosts,
        )
        self._of_type[host][slot.app, slot.type] += 1
        if spec.port:
            self._held.setdefault((host, spec.port), set()).add(slot)
        self._changed.add(host)

    def tell_to_retry(self, host: str, item: Assignment, mark: int) -> Assignment:
        """The same stay with a grown mark."""
        told = self._kept[host][item.uid] = replace(item, retry_mark=mark)
        self._changed.add(host)
        return told

    def documents(self, epoch: int) -> Iterator[AssignmentDocument]:
        """A document of the next generation for every host that changed."""
        for entry in self._world.hosts.values():
            if entry.name not in self._changed:
                continue
            wanted = self._kept[entry.name].values()
            yield AssignmentDocument(
                host=entry.name,
                generation=(entry.document.generation if entry.document else 0) + 1,
                epoch=epoch,
                instances=tuple(sorted(wanted, key=lambda item: item.slot)),
            )

    # ------------------------------------------------------------------ what hosts take

    def count(self, host: str, app: str, type_name: str) -> int:
        return self._of_type[host][app, type_name]

    def room(self) -> int:
        """How many instances of whatever all hosts together would still take."""
        anything = ProcessType(name="", command="")
        return sum(offer.free for offer in self.offers("", anything))

    def offers(
        self, app: str, spec: ProcessType, barred: Mapping[str, str] | None = None
    ) -> list[placement.Offer]:
        """Every known host. `barred` ones take nothing, for the reason given there."""
        barred = barred or {}
        return [
            placement.Offer(
                host=entry.name,
                zone=zone_of(entry),
                of_type=self._of_type[entry.name][app, spec.name],
                total=len(self._kept[entry.name]),
                instances_max=entry.status.capacity.instances_max if entry.status else 0,
                port=spec.port,
                refusal=barred.get(entry.name, "") or self._refusal(entry, spec),
            )
            for entry in self._world.hosts.values()
            if entry.known
        ]

    def _refusal(self, entry: HostEntry, spec: ProcessType) -> str:
        if departed(entry):
            return "its agent was stopped"
        state = self._states[entry.name]
        if state is not HostState.READY:
            return state.name.lower()
        return self.misfit(entry, spec, None)

    def misfit(self, entry: HostEntry, spec: ProcessType, slot: Slot | None) -> str:
        """Why this host cannot run the type, however much room it has; empty when it can.

        A port that only `slot` itself holds is no hindrance.
        """
        abilities = entry.status.abilities if entry.status else ()
        missing = [ability.value for ability in spec.requires if ability not in abilities]
        if missing:
            why = entry.status.inability if entry.status else ""
            return f"cannot enforce {', '.join(missing)}" + (f" ({why})" if why else "")
        if spec.port:
            holders = self._held.get((entry.name, spec.port), ())
            others = [holder for holder in holders if holder != slot]
            if others:
                return f"port {spec.port} is taken by {min(others)}"
        return ""


def zone_of(entry: HostEntry) -> str:
    return entry.status.labels.get(placement.ZONE_LABEL, "") if entry.status else ""


def _held_ports(world: World) -> dict[tuple[str, int], set[Slot]]:
    """(host, fixed port) → the slots that have it, also those that are only being stopped."""
    ports = {
        (app, number, spec.name): spec.port
        for (app, number), release in world.releases.items()
        for spec in release.types
        if spec.port
    }
    held: dict[tuple[str, int], set[Slot]] = {}
    if not ports:
        return held
    for entry in world.hosts.values():
        seen = entry.status.instances if entry.status else ()
        theirs = [(item.slot, item.release) for item in entry.assigned]
        theirs += [(item.slot, item.release) for item in seen if item.state not in _GONE]
        for slot, number in theirs:
            port = ports.get((slot.app, number, slot.type))
            if port:
                held.setdefault((entry.name, port), set()).add(slot)
    return held
