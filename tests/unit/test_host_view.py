"""What a list of hosts says of one, and what it costs: nothing that grows with its instances."""

from __future__ import annotations

import pytest
from worlds import app, host, release, stay, world

from formation import wire_seen
from formation.model import HostState, InstanceStatus
from formation.v1 import types_pb2
from formation_coordinator.api import _host_view
from formation_coordinator.counting import HealthyCounts
from formation_coordinator.views import HostView, hosts
from formation_coordinator.world import HostEntry


def test_its_instances_are_counted_and_not_encoded(monkeypatch: pytest.MonkeyPatch) -> None:
    def encoded(item: InstanceStatus) -> types_pb2.InstanceStatus:
        raise AssertionError(f"{item.uid} was encoded")

    monkeypatch.setattr(wire_seen, "instance_status_to_pb", encoded)
    entry = host("a", stay("web.1"), stay("web.2"))
    given = world(entry, apps=app({"web": 2}), releases=(release("web"),))
    (view,) = hosts(given, HealthyCounts(), now_s=100.0, replace_after_s=5.0)
    found = _host_view(view)
    assert (found.status.host, found.instances, found.healthy) == ("a", 2, 2)
    assert not found.status.instances


def test_one_that_was_never_heard_has_its_name() -> None:
    entry = HostEntry(name="a", silent_since_s=0.0)
    found = _host_view(HostView(entry=entry, state=HostState.LOST, instances=0, healthy=0))
    assert found.status.host == "a"
