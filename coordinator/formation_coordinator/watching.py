"""Streams of instance views for `ps --watch` and everyone who waits: everything once, then changes.

Views of a host are computed again only when its document or status is another object than before,
and those of an app when the app is: a stream costs what changes, not what exists.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import suppress

from formation import wire
from formation.model import App, Cluster, InstanceState
from formation.v1 import control_pb2 as pb
from formation_coordinator import views
from formation_coordinator.live import LiveWorld
from formation_coordinator.plan import Plan
from formation_coordinator.planning import view_to_pb
from formation_coordinator.views import InstanceView
from formation_coordinator.world import HostEntry, World

# Between two looks, so many times what the one before took.
LOOKS_APART, LOOKS_APART_MIN_S, LOOKS_APART_MAX_S = 5, 0.02, 0.2
LOOK_AGAIN_S = 2.0


class InstanceWatch:
    """`plan` says what a leader would do now: the source of reasons for what has no host.
    `outdated()`: why this may not be how things are, or ""."""

    def __init__(
        self,
        live: LiveWorld,
        plan: Callable[[], Awaitable[Plan]],
        outdated: Callable[[], str],
    ) -> None:
        self._live = live
        self._plan = plan
        self.outdated = outdated
        self._planned: tuple[World, Plan] = (live.world, Plan())

    async def updates(self, app: str, *, once: bool) -> AsyncIterator[pb.WatchUpdate]:
        """Until the caller goes. `app` empty: all apps."""
        hint, now_s = self._live.subscribe(), asyncio.get_running_loop().time
        view = _View(app)
        try:
            while True:
                looked_s = now_s()
                hint.clear()
                world, outdated = self._live.world, self.outdated()
                update = view.step(world, await self.pending(world), outdated)
                next_s = next_look_s(looked_s, now_s())
                if update is not None:
                    yield update
                if once:
                    return
                while not hint.is_set() and self.outdated() == outdated:
                    with suppress(TimeoutError):  # nobody says when a view has become old
                        async with asyncio.timeout(LOOK_AGAIN_S):
                            await hint.wait()
                # At once after a rest: the first of a burst is not told later than it need be.
                await asyncio.sleep(max(0.0, next_s - now_s()))
        finally:
            self._live.unsubscribe(hint)

    async def pending(self, world: World) -> Plan:
        """Why slots have no host; planned once for a world however many look at it."""
        if not views.needs_reasons(world):
            return Plan()
        if self._planned[0] is not world:
            self._planned = (world, await self._plan())
        return self._planned[1]


def next_look_s(began_s: float, ended_s: float) -> float:
    """The more there is to look at, the more changes are gathered for the next look."""
    apart_s = LOOKS_APART * (ended_s - began_s)
    return began_s + min(LOOKS_APART_MAX_S, max(LOOKS_APART_MIN_S, apart_s))


Views = dict[str, InstanceView]


class _View:
    """What one caller has been told so far: by host, by app, by uid, and slots without a host."""

    def __init__(self, app: str) -> None:
        self._app = app
        self._entries: dict[str, HostEntry] = {}
        self._told: dict[str, dict[str, Views]] = {}
        self._pending: Views = {}
        self._apps: Mapping[str, App] = {}
        self._cluster: Cluster | None = None
        self._note = ""
        self._first = True

    def step(self, world: World, plan: Plan, outdated: str) -> pb.WatchUpdate | None:
        """The difference to what was told, or None."""
        apps_changed = self._first or world.apps is not self._apps
        difference = _Difference()
        self._look_at_hosts(world, difference)
        pending, note = self._pending_now(world, plan)
        difference.add(self._pending, pending)
        note = outdated or note
        quiet = not (difference or apps_changed or note != self._note)
        first, self._first = self._first, False
        self._pending, self._note = pending, note
        self._apps, self._cluster = world.apps, world.cluster
        if quiet and not first:
            return None
        apps = [a for name, a in sorted(world.apps.items()) if self._app in ("", name)]
        return pb.WatchUpdate(
            complete=first,
            changed=[view_to_pb(view) for view in difference.changed],
            gone_uids=difference.gone,
            apps=[wire.app_to_pb(app) for app in apps] if apps_changed else [],
            note=note,
            standstill=bool(outdated or plan.standstill),
        )

    def _look_at_hosts(self, world: World, difference: _Difference) -> None:
        """At all of those whose entry is another one, and at what the others have of an app that
        is."""
        other_apps = self._other_apps(world)
        everything = world.cluster is not self._cluster
        for name, entry in world.hosts.items():
            if everything or self._entries.get(name) is not entry:
                self._look_at(entry, world, self._app, difference)
                continue
            for app in other_apps & self._told[name].keys():
                self._look_at(entry, world, app, difference)
        for name in self._told.keys() - world.hosts.keys():
            for before in self._told.pop(name).values():
                difference.add(before, {})
        self._entries = dict(world.hosts)

    def _other_apps(self, world: World) -> frozenset[str]:
        before, now = self._apps, world.apps
        if now is before:
            return frozenset()
        return frozenset(n for n in before.keys() | now.keys() if before.get(n) is not now.get(n))

    def _look_at(self, entry: HostEntry, world: World, app: str, difference: _Difference) -> None:
        """`app` "": all of them."""
        fresh: dict[str, Views] = {}
        for view in views.host_instances(entry, world, app):
            if view.status.state is not InstanceState.STOPPED:
                fresh.setdefault(view.status.slot.app, {})[view.status.uid] = view
        told = self._told.setdefault(entry.name, {})
        for name in [app] if app else [*(told.keys() | fresh.keys())]:
            difference.add(told.pop(name, {}), fresh.get(name, {}))
        told.update(fresh)

    def _pending_now(self, world: World, plan: Plan) -> tuple[Views, str]:
        """Slots without a host, each with its reason, and the note for the caller."""
        found, note = {}, plan.standstill
        for app, reason in sorted(plan.left_alone.items()):
            if self._app in ("", app):
                note = note or reason
        for slot, reason in plan.pending.items():
            if self._app in ("", slot.app) and slot.app in world.apps:
                view = views.pending_instance(world, slot, reason)
                found[view.status.uid] = view
                note = note or reason
        return found, note


class _Difference:
    """A uid is told of in one place only: what has gone from there has gone."""

    def __init__(self) -> None:
        self.changed: list[InstanceView] = []
        self.gone: list[str] = []

    def __bool__(self) -> bool:
        return bool(self.changed or self.gone)

    def add(self, before: Views, now: Views) -> None:
        self.changed += [view for uid, view in now.items() if before.get(uid) != view]
        self.gone += [uid for uid in before if uid not in now]
