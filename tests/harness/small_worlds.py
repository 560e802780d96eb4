"""Random small worlds with every rule of placement in them, for property tests; and a naive judge.

The judge knows the rules as users read them and none of the leader's code: it looks at one world,
one type and one host at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from hypothesis import strategies as st
from msgspec import structs
from worlds import app, bundle, host, process_type, release, stay, world

from formation.model import (
    AssignmentDocument,
    Host,
    HostStatus,
    InstanceStatus,
    ProcessType,
    Release,
)
from formation.model import InstanceState as State
from formation.rules import Constraint, Operator, Resources, Where
from formation_coordinator.plan import Plan
from formation_coordinator.world import Change, HostEntry, World, apply

MIB = 2**20
LABELS = {"zone": ("z1", "z2"), "rack": ("r1", "r2", "r3"), "ssd": ("yes",)}
CONSTRAINTS = (
    Constraint(label="ssd"),
    Constraint(label="ssd", operator=Operator.NOT_IN),
    Constraint(label="zone", patterns=("z1",)),
    Constraint(label="zone", operator=Operator.NOT_IN, patterns=("z2",)),
    Constraint(label="rack", patterns=("r1", "r2")),
)


@st.composite
def hosts(draw: st.DrawFn, name: str) -> HostEntry:
    labels = {key: draw(st.sampled_from(("", *values))) for key, values in LABELS.items()}
    cordoned = draw(st.integers(0, 5)) == 0
    return host(
        name,
        labels={key: value for key, value in labels.items() if value},
        instances_max=draw(st.sampled_from((0, 0, 2, 5))),
        cpus=draw(st.sampled_from((0.0, 1.0, 4.0))),
        memory_bytes=draw(st.sampled_from((0, 512, 2048))) * MIB,
        word=Host(name=name, cordoned=cordoned),
        silent_since_s=0.0 if draw(st.integers(0, 7)) == 0 else None,
    )


@st.composite
def types(draw: st.DrawFn, name: str) -> ProcessType:
    where = Where(
        require=tuple(draw(st.lists(st.sampled_from(CONSTRAINTS), max_size=1))),
        prefer=tuple(draw(st.lists(st.sampled_from(CONSTRAINTS), max_size=2))),
        spread=draw(st.sampled_from((("zone",), (), ("zone", "rack")))),
        max_per_host=draw(st.sampled_from((0, 0, 1, 2))),
        apart_from=draw(st.sampled_from(((), (), ("web",), ("worker",)))),
    )
    where = replace(where, apart_from=tuple(n for n in where.apart_from if n != name))
    return process_type(
        name,
        port=draw(st.sampled_from((0, 0, 0, 8080))),
        resources=Resources(
            cpus=draw(st.sampled_from((0.0, 0.5))),
            memory_bytes=draw(st.sampled_from((0, 256))) * MIB,
        ),
        where=where,
    )


@st.composite
def worlds(draw: st.DrawFn, plain: bool = False) -> World:
    """`plain`: one type without conditions."""
    names = ("web",) if plain else ("web", "worker", "mail")[: draw(st.integers(1, 3))]
    specs = [process_type(name) if plain else draw(types(name)) for name in names]
    formation = {name: draw(st.integers(0, 9)) for name in names}
    return world(
        *(draw(hosts(name)) for name in "abcdef"[: draw(st.integers(1, 6))]),
        apps=app(formation),
        releases=(release(*specs),),
    )


# -- what happens in a world -----------------------------------------------------------------------


def obeyed(given: World, plan: Plan, *, now_s: float = 100.0) -> World:
    """After the plan was written, and every agent that is there runs what it says."""
    changes = [Change(kind="assignments", names=(d.host,), record=d) for d in plan.documents]
    found = apply(given, [*plan.records, *changes], revision=given.revision + 1, now_s=now_s)
    statuses = [
        Change(kind="status", names=(entry.name,), record=_status(entry))
        for entry in found.hosts.values()
        if entry.connected and entry.document is not None
    ]
    return apply(found, statuses, revision=found.revision, now_s=now_s - 60.0)


def _status(entry: HostEntry) -> HostStatus:
    assert entry.status is not None
    assert entry.document is not None
    well = tuple(
        InstanceStatus(uid=i.uid, slot=i.slot, release=i.release, state=State.HEALTHY)
        for i in entry.assigned
    )
    return structs.replace(entry.status, instances=well, generation=entry.document.generation)


# -- the naive judge -------------------------------------------------------------------------------


def spec_of(given: World, type_name: str) -> ProcessType:
    (shop,) = given.releases.values()
    assert isinstance(shop, Release)
    spec = shop.type_named(type_name)
    assert spec is not None
    return spec


def misfits(given: World, entry: HostEntry) -> Iterator[str]:
    """What is on this host against a rule that does not depend on when it came."""
    specs = [spec_of(given, item.slot.type) for item in entry.assigned]
    names = [spec.name for spec in specs]
    status = entry.status
    assert status is not None
    size = status.capacity
    if size.instances_max and len(specs) > size.instances_max:
        yield "too many instances"
    if size.cpus and sum(spec.resources.cpus for spec in specs) > size.cpus:
        yield "too many cpus"
    if size.memory_bytes and sum(s.resources.memory_bytes for s in specs) > size.memory_bytes:
        yield "too much memory"
    ports = [spec.port for spec in specs if spec.port]
    if len(set(ports)) < len(ports):
        yield "a port twice"
    for spec in specs:
        if not all(one.allows(entry.labels) for one in spec.where.require):
            yield f"{spec.name} does not want its labels"
        if spec.where.max_per_host and names.count(spec.name) > spec.where.max_per_host:
            yield f"too many of {spec.name}"
        if set(spec.where.apart_from) & set(names):
            yield f"{spec.name} is not alone"


def would_take(given: World, entry: HostEntry, type_name: str) -> bool:
    """One more of the type, by the rules alone."""
    if not entry.connected or entry.cordoned:
        return False
    (first,) = given.apps.values()
    taken = {item.slot.ordinal for item in entry.assigned if item.slot.type == type_name}
    ordinal = max(taken, default=0) + 1_000
    more = bundle(stay(f"{type_name}.{ordinal}", app_name=first.name))
    document = entry.document
    bundles = (*(document.bundles if document else ()), more)
    base = document or empty(entry)
    fuller = structs.replace(entry, document=replace(base, bundles=bundles))
    return not list(misfits(given, fuller))


def empty(entry: HostEntry) -> AssignmentDocument:
    return AssignmentDocument(host=entry.name, generation=0, epoch=0, bundles=())
