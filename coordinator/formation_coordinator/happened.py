"""What a change of the world means to people: instance, host, app and cluster events. Pure.

Told from one coordinator's view: what comes and goes between two looks of it nobody tells.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from formation.automation import Autoscale
from formation.model import App, InstanceState, InstanceStatus
from formation.requests import Run, RunState
from formation_coordinator.world import Change, HostEntry, World


@dataclass(frozen=True, slots=True, kw_only=True)
class Happening:
    """`what`: `instance.healthy`, `host.silent`, `app.scaled`…; `subject`: whom it is about."""

    what: str
    subject: str
    app: str = ""
    host: str = ""
    text: str = ""


_STATES = {state: f"instance.{state.name.lower()}" for state in InstanceState}


def happened(before: World, after: World, changes: Iterable[Change]) -> Iterator[Happening]:
    hosts = dict.fromkeys(
        change.names[0]
        for change in changes
        if change.kind in ("hosts", "sessions", "status") and change.names
    )
    for name in hosts:
        yield from _host(name, before.hosts.get(name), after.hosts.get(name))
    if before.apps is not after.apps:
        yield from _apps(before, after)
    if before.autoscale is not after.autoscale:
        yield from _autoscale(before, after)
    if before.runs is not after.runs:
        yield from _runs(before, after)
    yield from _cluster(before, after)


def _cluster(before: World, after: World) -> Iterator[Happening]:
    old, new = (world.leader.id if world.leader else "" for world in (before, after))
    if new and new != old:
        yield Happening(what="cluster.leader", subject=new, text="leads")
    for name in after.coordinators.keys() - before.coordinators.keys():
        yield Happening(what="cluster.coordinator_came", subject=name, text="is there")
    for name in before.coordinators.keys() - after.coordinators.keys():
        yield Happening(what="cluster.coordinator_went", subject=name, text="is gone")
    was, held = (world.cluster.held if world.cluster else "" for world in (before, after))
    if held and not was:
        yield Happening(what="cluster.held", subject="all", text=held)
    elif was and not held:
        yield Happening(what="cluster.resumed", subject="all", text="what was held goes on")


# -- hosts and what runs there ---------------------------------------------------------------------


def _host(name: str, before: HostEntry | None, after: HostEntry | None) -> Iterator[Happening]:
    if after is None or not after.known:
        if before is not None and before.known:
            yield Happening(what="host.forgotten", subject=name, host=name, text="forgotten")
        return
    for what, text in _words_of_host(before, after):
        yield Happening(what=f"host.{what}", subject=name, host=name, text=text)
    if before is None or before.status is not after.status:
        yield from _instances(name, before, after)


def _words_of_host(before: HostEntry | None, after: HostEntry) -> Iterator[tuple[str, str]]:
    if before is None or not before.known:
        yield "joined", "joined"
    connected = before is not None and before.connected
    if after.connected and not connected:
        yield "connected", "connected"
    elif connected and not after.connected:
        departed = after.status is not None and after.status.departed
        yield ("departed", "said goodbye") if departed else ("silent", "does not answer")
    if after.draining != (before is not None and before.draining):
        yield ("draining", "draining") if after.draining else ("undrained", "takes instances again")
    elif after.cordoned != (before is not None and before.cordoned):
        yield ("cordoned", "takes nothing new") if after.cordoned else ("uncordoned", "takes new")
    was, says = (
        entry.status.complaint if entry is not None and entry.status else ""
        for entry in (before, after)
    )
    if says and says != was:
        yield "complains", says


def _instances(name: str, before: HostEntry | None, after: HostEntry) -> Iterator[Happening]:
    known = before.observed() if before is not None else {}
    now = after.status.instances if after.status else ()
    for status in now:
        old = known.pop(status.uid, None)
        if old is not status and (text := _news(old, status)) is not None:
            yield _of_instance(name, status, _STATES[status.state], text)
    for status in known.values():
        if status.state is not InstanceState.STOPPED:
            yield _of_instance(name, status, _STATES[InstanceState.STOPPED], "stopped")


def _news(old: InstanceStatus | None, new: InstanceStatus) -> str | None:
    """None for what nobody has to hear: it says the same, a little later."""
    same = old is not None and (old.state, old.attempt) == (new.state, new.attempt)
    if same and old is not None and old.crash_looping == new.crash_looping:
        return None
    word = new.state.name.lower()
    parts = (
        "crash loop" if new.crash_looping and new.state is InstanceState.BACKOFF else word,
        new.reason or new.last_exit if new.state not in _WELL else "",
        f"port {new.port}" if new.port and new.state is InstanceState.HEALTHY else "",
        _again(new) if new.attempt > 1 and new.state is InstanceState.STARTING else "",
    )
    return ", ".join(part for part in parts if part)


def _again(status: InstanceStatus) -> str:
    after = f" after {status.last_exit}" if status.last_exit else ""
    return f"try {status.attempt}{after}"


_WELL = frozenset({InstanceState.HEALTHY, InstanceState.STARTING, InstanceState.STOPPED})


def _of_instance(host: str, status: InstanceStatus, what: str, text: str) -> Happening:
    slot = status.slot
    return Happening(what=what, subject=str(slot), app=slot.app, host=host, text=text)


# -- apps and runs ---------------------------------------------------------------------------------


def _apps(before: World, after: World) -> Iterator[Happening]:
    for name in sorted(before.apps.keys() | after.apps.keys()):
        old, new = before.apps.get(name), after.apps.get(name)
        if old is not new:
            for what, text in _words_of_app(old, new, _autoscaled(name, before, after)):
                yield Happening(what=f"app.{what}", subject=name, app=name, text=text)


def _autoscale(before: World, after: World) -> Iterator[Happening]:
    for key in sorted(before.autoscale.keys() | after.autoscale.keys()):
        old, new = before.autoscale.get(key), after.autoscale.get(key)
        for what, text in _words_of_rule(old, new):
            yield Happening(what=f"app.{what}", subject=key[0], app=key[0], text=text)


def _words_of_rule(old: Autoscale | None, new: Autoscale | None) -> Iterator[tuple[str, str]]:
    if new is None:
        if old is not None:
            yield "autoscale_off", f"{old.type} is no longer autoscaled"
        return
    if old is None or replace(old, last=None, who="", at_ms=0) != replace(
        new, last=None, who="", at_ms=0
    ):
        measures = ", ".join(map(str, new.measures))
        yield "autoscale_on", f"{new.type} is autoscaled: {new.bounds}, {measures}"
    if new.last is not None and (old is None or old.last != new.last):
        yield "autoscaled", f"{new.type}: {new.last.why}"


def _autoscaled(app: str, before: World, after: World) -> frozenset[str]:
    """Types whose new quantity is told of with its reason, as autoscaling's."""
    if before.autoscale is after.autoscale:
        return frozenset()
    changed = (rule for key, rule in after.autoscale.items() if before.autoscale.get(key) != rule)
    return frozenset(rule.type for rule in changed if rule.app == app and rule.last)


def _words_of_app(
    old: App | None, new: App | None, autoscaled: frozenset[str]
) -> Iterator[tuple[str, str]]:
    if new is None:
        yield "deleted", "deleted"
        return
    if old is None:
        yield "created", f"v{new.newest}"
    yield from _words_of_candidate(old, new)
    if old is not None:
        yield from _words_of_change(old, new, autoscaled)


def _words_of_candidate(old: App | None, new: App) -> Iterator[tuple[str, str]]:
    before, now = old.candidate if old else None, new.candidate
    if before is not None and now is None and new.rollout.undone_release == before.release:
        yield "undone", f"v{before.release} was taken back: {new.rollout.reason}"
    if now is not None and (before is None or before.release != now.release):
        yield "candidate", f"v{now.release} waits for its release command, {now.run}"


def _words_of_change(old: App, new: App, autoscaled: frozenset[str]) -> Iterator[tuple[str, str]]:
    if new.release != old.release:
        undone = new.rollout.undone_release == old.release
        before = f"v{old.release} -> " if old.release else ""
        if undone and old.release:
            yield "undone", f"v{old.release} was taken back: {new.rollout.reason}"
        else:
            yield "released", f"{before}v{new.release}"
    if new.stable_release != old.stable_release and new.stable_release == new.release:
        yield "arrived", f"v{new.release} runs everywhere"
    if new.rollout.paused != old.rollout.paused and new.release == old.release:
        yield ("paused", "its change waits") if new.rollout.paused else ("resumed", "it goes on")
    changed = [
        f"{name}: {old.formation.get(name, 0)} -> {quantity}"
        for name, quantity in sorted(new.formation.items())
        if quantity != old.formation.get(name, 0) and name not in autoscaled
    ]
    if changed:
        yield "scaled", ", ".join(changed)


def _runs(before: World, after: World) -> Iterator[Happening]:
    for key, run in after.runs.items():
        old = before.runs.get(key)
        if old is not run and (old is None or old.state is not run.state):
            yield Happening(
                what=f"run.{run.state.name.lower()}", subject=str(run.slot), app=run.slot.app,
                host=run.host, text=_words_of_run(run),
            )  # fmt: skip


def _words_of_run(run: Run) -> str:
    if run.state in (RunState.PENDING, RunState.PLACED):
        return f"{run.id}: {run.state.name.lower()}"
    return f"{run.id}: {run.last_exit or run.reason or run.state.name.lower()}"
