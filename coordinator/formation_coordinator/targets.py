"""What Prometheus is told to scrape: every instance that runs and has a port. Pure.

Not only healthy ones: a look at the others is what metrics are for. The state is told as a
`__meta_` label, which Prometheus uses for relabelling and does not keep.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from typing import Any

from formation_coordinator import views
from formation_coordinator.views import InstanceView
from formation_coordinator.world import World

Group = dict[str, Any]


def target_groups(world: World, app: str, type_name: str) -> list[Group]:
    """As Prometheus' http_sd reads them, in order. `app`, `type_name` "": all."""
    found = [
        view
        for entry in world.hosts.values()
        if entry.known
        for view in views.host_instances(entry, world)
        if _runs(view) and _asked_for(view, app, type_name)
    ]
    found.sort(key=lambda view: (view.status.slot, view.status.uid))
    return [_group(view) for view in _newest(found)]


def _runs(view: InstanceView) -> bool:
    return view.status.pid > 0 and view.status.port > 0 and bool(view.address) and not view.run


def _asked_for(view: InstanceView, app: str, type_name: str) -> bool:
    slot = view.status.slot
    return app in ("", slot.app) and type_name in ("", slot.type)


def _newest(found: list[InstanceView]) -> Iterator[InstanceView]:
    """Two stays of a slot differ in nothing that is kept, once they have the same port and host:
    the one that stays goes before the one that leaves."""
    for _, same in groupby(found, key=lambda v: (v.status.slot, v.address, v.status.port)):
        yield min(same, key=lambda view: view.surplus)


def _group(view: InstanceView) -> Group:
    status, slot = view.status, view.status.slot
    address = f"[{view.address}]" if ":" in view.address else view.address
    return {
        "targets": [f"{address}:{status.port}"],
        "labels": {
            "formation_app": slot.app,
            "formation_type": slot.type,
            "formation_instance": slot.short,
            "formation_host": view.host,
            "formation_release": f"v{status.release}",
            "__meta_formation_state": status.state.name.lower(),
        },
    }
