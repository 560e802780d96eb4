"""Small worlds for tests of the pure rooms, written as people would say them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from formation.model import (
    Ability,
    App,
    Assignment,
    AssignmentDocument,
    Bundle,
    Capacity,
    Host,
    HostStatus,
    InstanceState,
    InstanceStatus,
    ProcessType,
    Release,
    Session,
    Slot,
    Terms,
)
from formation.rules import RolloutRules, Share
from formation.seen import Rollout
from formation_coordinator.book import Book
from formation_coordinator.plan import Plan
from formation_coordinator.reconcile import reconcile, standstill
from formation_coordinator.world import HostEntry, World

# In place, a quarter at a time, and healthy is enough: what most stories are not about.
AT_ONCE = RolloutRules(surge=Share(), unavailable=Share(percent=25), healthy_s=0.0)


def step(
    given: World, *, now_s: float = 100.0, wall_ms: int = 0, stem: str = "new", **more: Any
) -> Plan:
    """One pass of a leader; its new stays have this stem."""
    plan = reconcile(
        given,
        now_s=now_s,
        wall_ms=wall_ms,
        epoch=7,
        replace_after_s=5.0,
        new_stem=lambda: stem,
        **more,
    )
    assert standstill(given, Book(), now_s) == plan.standstill
    return plan


def written(plan: Plan) -> dict[str, list[str]]:
    """host → slots in its new document."""
    return {d.host: [i.slot.short for i in d.instances] for d in plan.documents}


def app(
    formation: Mapping[str, int],
    *,
    name: str = "shop",
    release: int = 1,
    stable: int | None = None,
    word: Rollout | None = None,
    **marks: int,
) -> App:
    """`stable`: the release that arrived everywhere, if not the current one."""
    return App(
        name=name,
        formation=formation,
        release=release,
        latest_release=release,
        stable_release=release if stable is None else stable,
        rollout=word or Rollout(),
        restart_marks={key.replace("_", "."): value for key, value in marks.items()},
    )


def release(
    *types: str | ProcessType,
    name: str = "shop",
    number: int = 1,
    env: Mapping[str, str] | None = None,
) -> Release:
    """Each number's says something else to all of its types, unless `env` is given."""
    specs = (item if isinstance(item, ProcessType) else process_type(item) for item in types)
    env = {"NUMBER": str(number)} if env is None else env
    return Release(app=name, number=number, types=tuple(specs), env=env)


def process_type(
    name: str, *, port: int = 0, requires: Sequence[Ability] = (), **fields: Any
) -> ProcessType:
    """A change of it needs no time to be seen working, unless `fields` say so."""
    fields = {"rollout": AT_ONCE} | fields
    return ProcessType(name=name, command="true", port=port, requires=tuple(requires), **fields)


def stay(
    text: str,
    *,
    stem: str = "old",
    app_name: str = "shop",
    release_number: int = 1,
    mark: int = 0,
    avoided: Sequence[str] = (),
    retry_mark: int = 0,
    **fields: Any,
) -> Assignment:
    """`stay("web.2")`; its uid is `web.2-old` unless another stem is given."""
    type_name, ordinal = text.split(".")
    return Assignment(
        uid=f"{text}-{stem}",
        slot=Slot(app_name, type_name, int(ordinal)),
        release=release_number,
        restart_mark=mark,
        retry_mark=retry_mark,
        avoided_hosts=tuple(avoided),
        **fields,
    )


def bundle(item: Assignment) -> Bundle:
    """Of this stay alone."""
    fields = {name: getattr(item, name) for name in Assignment.__struct_fields__}
    slot, uid = fields.pop("slot"), fields.pop("uid")
    stem = uid.removeprefix(f"{slot.short}-")
    return Bundle(Terms(app=slot.app, type=slot.type, stem=stem, **fields), (slot.ordinal,))


def seen(item: Assignment, state: InstanceState, **fields: Any) -> InstanceStatus:
    """What an agent says of a stay; `fields` are those of `InstanceStatus`."""
    return InstanceStatus(uid=item.uid, slot=item.slot, release=item.release, state=state, **fields)


def looping(item: Assignment, **fields: Any) -> InstanceStatus:
    """It has failed so often on its host that another one should be tried."""
    fields = {"failures": 5, "last_exit": "exit 1"} | fields
    return seen(item, InstanceState.BACKOFF, crash_looping=True, **fields)


def host(
    name: str,
    *stays: Assignment,
    healthy: bool = True,
    says: Sequence[InstanceStatus] = (),
    abilities: Sequence[Ability] = (),
    inability: str = "",
    silent_since_s: float | None = None,
    zone: str = "",
    instances_max: int = 0,
    generation: int = 1,
    departed: bool = False,
    labels: Mapping[str, str] | None = None,
    cpus: float = 0.0,
    memory_bytes: int = 0,
    follows: int | None = None,
    word: Host | None = None,
    draining_since_s: float | None = None,
    healthy_since_s: Mapping[str, float] | None = None,
) -> HostEntry:
    """A host that runs what it is told; `silent_since_s` given: its session is gone.

    `says`: its word on some stays, also on those that it is not told to run any more. `follows`:
    the generation of its agent's document, if not the present one. `word`: the operator's.
    """
    state = InstanceState.HEALTHY if healthy else InstanceState.BACKOFF
    table = {item.uid: seen(item, state) for item in stays} | {item.uid: item for item in says}
    document = AssignmentDocument(
        host=name, generation=generation, epoch=1, bundles=tuple(map(bundle, stays))
    )
    session = Session(session_id=f"s-{name}", coordinator_id="c1", agent_id=f"agent-{name}")
    return HostEntry(
        name=name,
        host=word or Host(name=name),
        status=HostStatus(
            host=name,
            agent_id=f"agent-{name}",
            labels={**({"zone": zone} if zone else {}), **(labels or {})},
            capacity=Capacity(instances_max=instances_max, cpus=cpus, memory_bytes=memory_bytes),
            instances=tuple(table.values()),
            departed=departed,
            abilities=tuple(abilities),
            inability=inability,
            generation=(generation if follows is None else follows) if stays else 0,
        ),
        session=session if silent_since_s is None else None,
        document=document if stays else None,
        silent_since_s=silent_since_s,
        draining_since_s=draining_since_s,
        healthy_since_s=healthy_since_s or {},
    )


def world(*hosts: HostEntry, apps: App | tuple[App, ...], releases: tuple[Release, ...]) -> World:
    listed = apps if isinstance(apps, tuple) else (apps,)
    return World(
        revision=1,
        apps={item.name: item for item in listed},
        releases={(item.app, item.number): item for item in releases},
        hosts={item.name: item for item in hosts},
    )
