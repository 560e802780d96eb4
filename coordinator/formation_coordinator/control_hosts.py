"""What operators say of hosts: cordon, drain, labels, that one is gone for good; better balance."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from msgspec import structs

from formation.model import AssignmentDocument, Host, Session, Terms
from formation.requests import Move, Rebalance
from formation_coordinator.changing import (
    ATTEMPTS_MAX,
    Changing,
    Invalid,
    RaceLost,
    Refused,
    Unknown,
)
from formation_coordinator.store import codec, keys
from formation_coordinator.store.base import Delete, ModRevision, Operation, Put
from formation_coordinator.world import Change, World

_LABEL = re.compile(r"[A-Za-z0-9_./-]{1,63}")
_VALUE_MAX = 255
_FORGOTTEN = "its host was forgotten"


@dataclass(frozen=True, slots=True, kw_only=True)
class HostWord:
    """None: as it is. `unset`: labels that are the agent's again."""

    cordoned: bool | None = None
    draining: bool | None = None
    drain_deadline_s: float = 0.0
    labels: Mapping[str, str] = field(default_factory=dict)
    unset: Collection[str] = ()


class HostControl(Changing):
    async def set_host(
        self, name: str, word: HostWord, who: str, why: str = ""
    ) -> tuple[Host, int]:
        """Raises `Unknown`, `Invalid`, `RaceLost`."""
        _check_labels(word.labels)
        key = keys.host(name)
        for _ in range(ATTEMPTS_MAX):
            item = await self.store.get(key)
            if item is None:
                raise Unknown(f"no host {name!r}; see formctl hosts")
            host = codec.decode(key, item.value)
            assert isinstance(host, Host)
            changed = _changed(host, word)
            if changed == host:
                return host, item.mod_revision
            audit = self.audit(
                who, _action(word), name, before=_shown(host), after=_shown(changed), why=why
            )
            compares = [ModRevision(key, item.mod_revision)]
            revision = await self.commit(
                compares, [Put(key, codec.encode(changed, item.value))], audit
            )
            if revision:
                return changed, revision
        raise RaceLost(f"host {name}: others are changing it at the same time; try again")

    async def drained_in_thought(self, name: str) -> list[Change]:
        """What a drain would write, for a plan."""
        item = await self.store.get(keys.host(name))
        if item is None:
            raise Unknown(f"no host {name!r}; see formctl hosts")
        host = codec.decode(item.key, item.value)
        assert isinstance(host, Host)
        record = _changed(host, HostWord(draining=True))
        return [Change(kind="hosts", names=(name,), record=record)]

    async def rebalance(self, moves: Sequence[Move], who: str) -> int:
        """Asks the leader for these moves. Raises `Refused` while it makes others."""
        key = keys.rebalance()
        if await self.store.get(key) is not None:
            raise Refused(
                "the moves of an earlier rebalance are not all made yet; look, then try again"
            )
        record = Rebalance(moves=tuple(moves), who=who, at_ms=self.now_ms())
        audit = self.audit(who, "rebalance", "cluster", f"{len(moves)} moves")
        revision = await self.commit([ModRevision(key, 0)], [Put(key, codec.encode(record))], audit)
        if not revision:
            raise RaceLost("somebody else has asked for a rebalance just now; look, then try again")
        return revision

    async def forget_host(self, host: str, who: str, world: World) -> None:
        """An operator's word that a silent host is gone for good; its slots go elsewhere.

        Exclusive ones go when its agent's lease is surely over: it may be only cut off.
        """
        session = await self.store.get(keys.session(host))
        if session is not None:
            record = codec.decode(session.key, session.value)
            assert isinstance(record, Session)
            raise Refused(
                f"host {host} is alive (connected to {record.coordinator_id}); stop its agent first"
            )
        if await self.store.get(keys.host(host)) is None:
            raise Unknown(f"no host {host!r}; see formctl hosts")
        key = keys.assignments(host)
        document = await self.store.get(key)
        changes: list[Operation] = [Delete(keys.host(host)), Delete(keys.status(host))]
        if document is not None:
            left = _emptied(codec.decode(key, document.value), world)
            changes.append(Put(key, codec.encode(left, document.value)))
        revision = await self.commit(
            [
                ModRevision(keys.session(host), 0),
                ModRevision(key, document.mod_revision if document else 0),
            ],
            changes,
            self.audit(who, "forget-host", host),
        )
        if not revision:
            raise Refused(f"host {host} has changed just now; look at formctl hosts, try again")


def _changed(host: Host, word: HostWord) -> Host:
    draining = host.draining if word.draining is None else word.draining
    cordoned = host.cordoned if word.cordoned is None else word.cordoned
    if word.draining:
        cordoned = True
    if word.cordoned is False:
        draining = False
    labels = {n: v for n, v in host.labels.items() if n not in word.unset} | dict(word.labels)
    deadline_s = word.drain_deadline_s if word.draining else host.drain_deadline_s
    return replace(
        host,
        cordoned=cordoned,
        draining=draining,
        drain_deadline_s=deadline_s if draining else 0.0,
        labels=labels,
    )


def _action(word: HostWord) -> str:
    if word.draining:
        return "drain"
    if word.cordoned is not None:
        return "cordon" if word.cordoned else "uncordon"
    return "label"


def _shown(host: Host) -> str:
    state = "draining" if host.draining else "cordoned" if host.cordoned else "takes instances"
    labels = [f"{name}={value}" for name, value in sorted(host.labels.items())]
    return " ".join((state, *labels))


def _check_labels(labels: Mapping[str, str]) -> None:
    for name, value in labels.items():
        if not _LABEL.fullmatch(name):
            raise Invalid(f"bad label {name!r}: letters, digits and _ . / - , at most 63")
        if len(value) > _VALUE_MAX or not value.isprintable():
            raise Invalid(f"label {name}: its value is no printable text of at most {_VALUE_MAX}")


def _emptied(document: object, world: World) -> AssignmentDocument:
    """Of the next generation: the host, should it come back, stops what it still runs."""
    assert isinstance(document, AssignmentDocument)
    ending = [
        structs.replace(bundle, terms=structs.replace(bundle.terms, ending=True, reason=_FORGOTTEN))
        for bundle in document.bundles
        if _is_exclusive(world, bundle.terms)
    ]
    return replace(document, generation=document.generation + 1, bundles=tuple(ending))


def _is_exclusive(world: World, terms: Terms) -> bool:
    release = world.releases.get((terms.app, terms.release))
    spec = release.type_named(terms.type) if release else None
    return spec is not None and spec.exclusive
