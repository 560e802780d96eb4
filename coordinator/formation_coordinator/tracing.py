"""From changes of the world to spans: what was changed, and how each instance came to be. Pure.

A change begins with a call, or, while we lead, with a decision that nobody asked for. Its instances
are decided (in their host's document), taken (the agent follows that document), started and
healthy, as this coordinator sees it, by its own clock. It is over when nothing of it is on its way.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from formation.model import Assignment, InstanceState, InstanceStatus
from formation_coordinator.world import Change, HostEntry, World

# What is beyond this is counted, not traced.
CHANGES_MAX, INSTANCES_MAX = 64, 500
# After so long without news it is over, or is given up.
SETTLED_MS, GIVEN_UP_MS = 2_000, 600_000
_PARENT = re.compile(r"00-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})")
_DONE = (InstanceState.HEALTHY, InstanceState.FINISHED)
_FAILED = (InstanceState.BACKOFF, InstanceState.FAILED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Parent:
    """What a caller is in the middle of."""

    trace_id: str
    span_id: str
    sampled: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """`error`: why it did not go well, or ""."""

    trace_id: str
    span_id: str
    parent_id: str
    name: str
    begin_ms: int
    end_ms: int
    attributes: Mapping[str, str] = field(default_factory=dict)
    error: str = ""


def parent_of(traceparent: str) -> Parent | None:
    """W3C Trace Context; None for what is none."""
    found = _PARENT.fullmatch(traceparent)
    if found is None:
        return None
    return Parent(trace_id=found[1], span_id=found[2], sampled=bool(int(found[3], 16) & 1))


def is_sampled(trace_id: str, share: float) -> bool:
    return int(trace_id[:8], 16) < share * (1 << 32)


@dataclass(slots=True, kw_only=True)
class _Instance:
    uid: str
    host: str
    name: str
    stops: bool
    generation: int
    decided_ms: int
    taken_ms: int = 0
    started_ms: int = 0
    ended_ms: int = 0
    error: str = ""


@dataclass(slots=True, kw_only=True, eq=False)
class _Open:
    """A change that is on its way. `calling`: its call has not ended."""

    app: str
    name: str
    trace_id: str
    span_id: str
    parent_id: str
    sampled: bool
    begin_ms: int
    last_ms: int
    calling: bool
    instances: dict[str, _Instance] = field(default_factory=dict)
    untraced: int = 0
    error: str = ""
    before: _Open | None = None  # the one that this is in the way of

    @property
    def waits(self) -> bool:
        return any(not item.ended_ms for item in self.instances.values())


class Tracing:
    """`new_id` gives so many hexadecimal digits. `share`: of the changes without a caller's word,
    so many are traced."""

    def __init__(self, new_id: Callable[[int], str], share: float) -> None:
        self._new_id, self._share = new_id, share
        self._open: dict[str, _Open] = {}
        self._over: list[_Open] = []
        self.untraced = 0

    # -- calls ------------------------------------------------------------------------------------

    def begin(self, name: str, app: str, parent: Parent | None, at_ms: int) -> object | None:
        """A change of that app is asked for; to be given to `called`."""
        return self._begin(name, app, parent, at_ms, calling=True)

    def _begin(
        self, name: str, app: str, parent: Parent | None, at_ms: int, *, calling: bool
    ) -> _Open | None:
        before = self._open.get(app)
        if len(self._open) + len(self._over) >= CHANGES_MAX:
            self.untraced += 1
            return None
        trace_id = parent.trace_id if parent else self._new_id(32)
        made = self._open[app] = _Open(
            app=app,
            name=f"{name} {app}",
            trace_id=trace_id,
            span_id=self._new_id(16),
            parent_id=parent.span_id if parent else "",
            sampled=parent.sampled if parent else is_sampled(trace_id, self._share),
            begin_ms=at_ms,
            last_ms=at_ms,
            calling=calling,
            before=before,
        )
        return made

    def called(self, token: object | None, at_ms: int, error: str = "") -> None:
        """The call has ended; with an error nothing was changed, and what was on its way is."""
        if not isinstance(token, _Open):
            return
        before, token.before = token.before, None
        token.calling = False
        token.last_ms = max(token.last_ms, at_ms)
        if error and self._open.get(token.app) is token:
            self._close(token, error)
            if before is not None:
                self._open[token.app] = before
        elif before is not None:
            before.error = "another change came"
            self._over.append(before)

    def _close(self, change: _Open, error: str = "") -> None:
        del self._open[change.app]
        change.error = error
        self._over.append(change)

    # -- the world --------------------------------------------------------------------------------

    def hear(
        self, before: World, after: World, changes: Iterable[Change], at_ms: int, *, leads: bool
    ) -> None:
        for change in changes:
            if not change.names or change.kind not in ("assignments", "status"):
                continue
            old, new = (world.hosts.get(change.names[0]) for world in (before, after))
            if new is None:
                continue
            if change.kind == "assignments":
                self._decided(old, new, at_ms, leads=leads)
            self._seen(new, at_ms)

    def _decided(self, old: HostEntry | None, new: HostEntry, at_ms: int, *, leads: bool) -> None:
        was = {item.uid: item for item in old.assigned if not item.ending} if old else {}
        now = {item.uid: item for item in new.assigned if not item.ending}
        generation = new.document.generation if new.document else 0
        for uid, item in now.items():
            if uid not in was:
                self._add(item, new.name, generation, at_ms, stops=False, leads=leads)
        for uid, item in was.items():
            if uid not in now:
                self._add(item, new.name, generation, at_ms, stops=True, leads=leads)

    def _add(
        self, item: Assignment, host: str, generation: int, at_ms: int, *, stops: bool, leads: bool
    ) -> None:
        app = item.slot.app
        change = self._open.get(app)
        if change is None and leads:
            change = self._begin("reconcile", app, None, at_ms, calling=False)
        if change is None:
            return
        change.last_ms = at_ms
        if stops and (started := change.instances.get(item.uid)) and not started.ended_ms:
            started.ended_ms, started.error = at_ms, "taken away again"
        key = f"-{item.uid}" if stops else item.uid
        if len(change.instances) >= INSTANCES_MAX:
            change.untraced += 1
            return
        change.instances[key] = _Instance(
            uid=item.uid, host=host, name=item.slot.short, stops=stops, generation=generation,
            decided_ms=at_ms,
        )  # fmt: skip

    def _seen(self, entry: HostEntry, at_ms: int) -> None:
        waiting = [
            (change, item)
            for change in self._open.values()
            for item in change.instances.values()
            if item.host == entry.name and not item.ended_ms
        ]
        if not waiting or entry.status is None:
            return
        observed = entry.observed()
        for change, item in waiting:
            if _advance(item, observed.get(item.uid), entry.status.generation, at_ms):
                change.last_ms = at_ms

    # -- what is over -----------------------------------------------------------------------------

    def take(self, world: World, now_ms: int) -> list[Span]:
        """The spans of what is over since it was asked before."""
        for change in list(self._open.values()):
            app = world.apps.get(change.app)
            rolls = app is not None and app.release != app.stable_release
            quiet_ms = now_ms - change.last_ms
            if now_ms - change.begin_ms >= GIVEN_UP_MS:
                self._close(change, "not there after 10 minutes")
            elif not (change.calling or change.waits or rolls) and quiet_ms >= SETTLED_MS:
                self._close(change)
        over, self._over = self._over, []
        return [span for change in over if change.sampled for span in _spans(change, self._new_id)]


def _advance(item: _Instance, status: InstanceStatus | None, generation: int, at_ms: int) -> bool:
    """Has anything of it changed?"""
    before = (item.taken_ms, item.started_ms, item.ended_ms, item.error)
    if not item.taken_ms and generation >= item.generation:
        item.taken_ms = at_ms
    if item.stops:
        gone = status is None or status.state is InstanceState.STOPPED
        if gone and item.taken_ms:
            item.ended_ms = at_ms
    elif status is not None:
        if status.pid and not item.started_ms:
            item.taken_ms, item.started_ms = item.taken_ms or at_ms, at_ms
        if status.state in _DONE:
            item.ended_ms, item.error = at_ms, ""
        elif status.state in _FAILED:
            item.error = status.last_exit or status.reason or "failed"
    return before != (item.taken_ms, item.started_ms, item.ended_ms, item.error)


def _spans(change: _Open, new_id: Callable[[int], str]) -> Iterator[Span]:
    ends = [item.ended_ms for item in change.instances.values() if item.ended_ms]
    waits = change.waits
    end_ms = change.last_ms if waits or not ends else max(*ends, change.begin_ms)
    attributes = {"formation.app": change.app, "formation.instances": str(len(change.instances))}
    if change.untraced:
        attributes["formation.instances_untraced"] = str(change.untraced)
    yield Span(
        trace_id=change.trace_id, span_id=change.span_id, parent_id=change.parent_id,
        name=change.name, begin_ms=change.begin_ms, end_ms=end_ms, attributes=attributes,
        error=change.error,
    )  # fmt: skip
    for item in change.instances.values():
        yield from _of_instance(change, item, end_ms, new_id)


def _of_instance(
    change: _Open, item: _Instance, end_ms: int, new_id: Callable[[int], str]
) -> Iterator[Span]:
    span_id, last_ms = new_id(16), item.ended_ms or max(end_ms, item.decided_ms)
    error = item.error or ("" if item.ended_ms else "not there when the change was over")
    about = {
        "formation.app": change.app, "formation.instance": item.name,
        "formation.host": item.host, "formation.uid": item.uid,
    }  # fmt: skip
    yield Span(
        trace_id=change.trace_id, span_id=span_id, parent_id=change.span_id,
        name=f"{'stop' if item.stops else 'start'} {item.name}", begin_ms=item.decided_ms,
        end_ms=last_ms, attributes=about, error=error,
    )  # fmt: skip
    steps = (
        ("decided until taken", item.decided_ms, item.taken_ms),
        ("taken until started", item.taken_ms, item.started_ms),
        ("started until healthy", item.started_ms, 0 if item.stops else item.ended_ms),
        ("taken until stopped", item.taken_ms, item.ended_ms if item.stops else 0),
    )
    for name, begin_ms, step_end_ms in steps:
        if begin_ms and step_end_ms:
            yield Span(
                trace_id=change.trace_id, span_id=new_id(16), parent_id=span_id, name=name,
                begin_ms=begin_ms, end_ms=step_end_ms,
            )  # fmt: skip


def request(spans: Iterable[Span], coordinator: str, version: str) -> dict[str, object]:
    """As an OTLP request in its JSON encoding."""
    about = {
        "service.name": "formation-coordinator",
        "service.instance.id": coordinator,
        "service.version": version,
    }
    scope = {"scope": {"name": "formation"}, "spans": [_json(span) for span in spans]}
    return {"resourceSpans": [{"resource": {"attributes": _pairs(about)}, "scopeSpans": [scope]}]}


def _json(span: Span) -> dict[str, object]:
    found: dict[str, object] = {
        "traceId": span.trace_id,
        "spanId": span.span_id,
        "name": span.name,
        "kind": 1,
        "startTimeUnixNano": str(span.begin_ms * 1_000_000),
        "endTimeUnixNano": str(max(span.end_ms, span.begin_ms) * 1_000_000),
        "attributes": _pairs(span.attributes),
        "status": {"code": 2, "message": span.error} if span.error else {"code": 1},
    }
    if span.parent_id:
        found["parentSpanId"] = span.parent_id
    return found


def _pairs(attributes: Mapping[str, str]) -> list[dict[str, object]]:
    return [{"key": key, "value": {"stringValue": value}} for key, value in attributes.items()]
