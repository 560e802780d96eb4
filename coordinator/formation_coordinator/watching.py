"""Streams of instance views for `ps --watch` and everyone who waits: everything once, then changes.

Views of a host are computed again only when its document or status is another object than before,
so a stream costs what changes, not what exists.
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

DEBOUNCE_S = 0.05
LOOK_AGAIN_S = 2.0


class InstanceWatch:
    """`plan(epoch)` says what a leader would do now: the source of reasons for what has no host.
    `outdated()`: why this may not be how things are, or ""."""

    def __init__(
        self,
        live: LiveWorld,
        plan: Callable[[int], Awaitable[Plan]],
        outdated: Callable[[], str],
    ) -> None:
        self._live = live
        self._plan = plan
        self._outdated = outdated
        self._planned: tuple[World, Plan] = (live.world, Plan())

    async def updates(self, app: str, *, once: bool) -> AsyncIterator[pb.WatchUpdate]:
        """Until the caller goes. `app` empty: all apps."""
        hint = self._live.subscribe()
        view = _View(app)
        try:
            while True:
                hint.clear()
                world, outdated = self._live.world, self._outdated()
                update = view.step(world, await self._pending(world), outdated)
                if update is not None:
                    yield update
                if once:
                    return
                while not hint.is_set() and self._outdated() == outdated:
                    with suppress(TimeoutError):  # nobody says when a view has become old
                        async with asyncio.timeout(LOOK_AGAIN_S):
                            await hint.wait()
                await asyncio.sleep(DEBOUNCE_S)
        finally:
            self._live.unsubscribe(hint)

    async def _pending(self, world: World) -> Plan:
        """Why slots have no host; planned once for a world however many look at it."""
        if not views.needs_reasons(world):
            return Plan()
        if self._planned[0] is not world:
            self._planned = (world, await self._plan(0))
        return self._planned[1]


class _View:
    """What one caller has been told so far."""

    def __init__(self, app: str) -> None:
        self._app = app
        self._entries: dict[str, HostEntry] = {}
        self._by_host: dict[str, dict[str, InstanceView]] = {}
        self._apps: Mapping[str, App] = {}
        self._told: dict[str, InstanceView] = {}
        self._cluster: Cluster | None = None
        self._note = ""
        self._first = True

    def step(self, world: World, plan: Plan, outdated: str) -> pb.WatchUpdate | None:
        """The difference to what was told, or None."""
        apps_changed = self._first or world.apps is not self._apps
        cluster_changed = world.cluster is not self._cluster
        touched = self._refresh_hosts(world, everything=apps_changed or cluster_changed)
        shown = {uid: view for views_ in self._by_host.values() for uid, view in views_.items()}
        pending = self._add_pending(world, plan, shown)
        note = outdated or pending
        fresh = {uid: shown[uid] for name in touched for uid in self._by_host[name]}
        fresh |= {uid: view for uid, view in shown.items() if not view.host}
        changed = [view for uid, view in fresh.items() if self._told.get(uid) != view]
        gone = list(self._told.keys() - shown.keys())
        quiet = not (changed or gone or apps_changed or note != self._note)
        first, self._first = self._first, False
        self._told, self._note = shown, note
        self._apps, self._cluster = world.apps, world.cluster
        if quiet and not first:
            return None
        apps = [a for name, a in sorted(world.apps.items()) if self._app in ("", name)]
        return pb.WatchUpdate(
            complete=first,
            changed=[view_to_pb(view) for view in changed],
            gone_uids=gone,
            apps=[wire.app_to_pb(app) for app in apps] if apps_changed else [],
            note=note,
            standstill=bool(outdated or plan.standstill),
        )

    def _refresh_hosts(self, world: World, *, everything: bool) -> list[str]:
        """The hosts whose views were computed again."""
        touched = []
        for name, entry in world.hosts.items():
            if everything or self._entries.get(name) is not entry:
                touched.append(name)
                self._by_host[name] = {
                    view.status.uid: view
                    for view in views.host_instances(entry, world)
                    if self._app in ("", view.status.slot.app)
                    and view.status.state is not InstanceState.STOPPED
                }
        for name in self._by_host.keys() - world.hosts.keys():
            del self._by_host[name]
        self._entries = dict(world.hosts)
        return touched

    def _add_pending(self, world: World, plan: Plan, shown: dict[str, InstanceView]) -> str:
        """Slots without a host, each with its reason; gives the note for the caller."""
        note = plan.standstill
        for app, reason in sorted(plan.left_alone.items()):
            if self._app in ("", app):
                note = note or reason
        for slot, reason in plan.pending.items():
            if self._app in ("", slot.app) and slot.app in world.apps:
                release = world.apps[slot.app].release
                view = views.pending_instance(slot, release, reason)
                shown[view.status.uid] = view
                note = note or reason
        return note
