"""What the page shows of one instance when it is opened, and what is wrong as a whole."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from google.protobuf import json_format

from formation.model import Slot
from formation_coordinator import views
from formation_coordinator.planning import view_to_pb
from formation_coordinator.web import lives

if TYPE_CHECKING:
    from formation_coordinator.service import Service


def detail_of(service: Service, host: str, slot: Slot) -> dict[str, Any]:
    """`views`: the stays of that slot on that host; none when there are none."""
    world = service.live.world
    entry = world.hosts.get(host)
    shown = views.host_instances(entry, world) if entry else ()
    found = [view_to_pb(view) for view in shown if view.status.slot == slot]
    ends = lives.ends(service.api.chronicle.of(str(slot)))
    return {
        "views": [json_format.MessageToDict(v, preserving_proto_field_name=True) for v in found],
        "ends": [
            {"at_ms": end.at_ms, "how": end.how, "host": end.host, "ran_ms": end.ran_ms}
            for end in ends
        ],
    }


def warnings(service: Service) -> dict[str, str]:
    """Each for people, or ""."""
    world = service.live.world
    return {
        "insecure": views.insecurity(world, service.me),
        "outdated": service.api.watch.outdated(),
        "leader": world.leader.id if world.leader else "",
    }
