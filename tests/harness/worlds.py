"""Small worlds for tests of the pure rooms, written as people would say them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from formation.model import (
    Ability,
    App,
    Assignment,
    AssignmentDocument,
    Capacity,
    Host,
    HostStatus,
    InstanceState,
    InstanceStatus,
    ProcessType,
    Release,
    Session,
    Slot,
)
from formation_coordinator.world import HostEntry, World


def app(formation: Mapping[str, int], *, name: str = "shop", release: int = 1, **marks: int) -> App:
    return App(
        name=name,
        formation=formation,
        release=release,
        latest_release=release,
        restart_marks={key.replace("_", "."): value for key, value in marks.items()},
    )


def release(*types: str | ProcessType, name: str = "shop", number: int = 1) -> Release:
    specs = (item if isinstance(item, ProcessType) else process_type(item) for item in types)
    return Release(app=name, number=number, types=tuple(specs))


def process_type(name: str, *, port: int = 0, requires: Sequence[Ability] = ()) -> ProcessType:
    return ProcessType(name=name, command="true", port=port, requires=tuple(requires))


def stay(
    text: str,
    *,
    uid: str = "",
    app_name: str = "shop",
    release_number: int = 1,
    mark: int = 0,
    avoided: Sequence[str] = (),
    retry_mark: int = 0,
) -> Assignment:
    """`stay("web.2")`; its uid is the same text unless given."""
    type_name, ordinal = text.split(".")
    return Assignment(
        uid=uid or text,
        slot=Slot(app_name, type_name, int(ordinal)),
        release=release_number,
        restart_mark=mark,
        retry_mark=retry_mark,
        avoided_hosts=tuple(avoided),
    )


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
) -> HostEntry:
    """A host that runs what it is told; `silent_since_s` given: its session is gone.

    `says`: its word on some stays, also on those that it is not told to run any more.
    """
    state = InstanceState.HEALTHY if healthy else InstanceState.BACKOFF
    table = {item.uid: seen(item, state) for item in stays} | {item.uid: item for item in says}
    document = AssignmentDocument(host=name, generation=generation, epoch=1, instances=stays)
    session = Session(session_id=f"s-{name}", coordinator_id="c1", agent_id=f"agent-{name}")
    return HostEntry(
        name=name,
        host=Host(name=name),
        status=HostStatus(
            host=name,
            agent_id=f"agent-{name}",
            labels={"zone": zone} if zone else {},
            capacity=Capacity(instances_max=instances_max),
            instances=tuple(table.values()),
            departed=departed,
            abilities=tuple(abilities),
            inability=inability,
        ),
        session=session if silent_since_s is None else None,
        document=document if stays else None,
        silent_since_s=silent_since_s,
    )


def world(*hosts: HostEntry, apps: App | tuple[App, ...], releases: tuple[Release, ...]) -> World:
    listed = apps if isinstance(apps, tuple) else (apps,)
    return World(
        revision=1,
        apps={item.name: item for item in listed},
        releases={(item.app, item.number): item for item in releases},
        hosts={item.name: item for item in hosts},
    )
