"""What is known of the cluster now, and the rows that a view has. Pure but for being updated."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from formation.model import HostState, Usage
from formctl import renderchange, wording
from formctl.views import AppLine, HostLine, Instance, Table

# As many as a coordinator tells of the past; older ones go.
EVENTS_MAX = 1000


class View(StrEnum):
    INSTANCES = "instances"
    HOSTS = "hosts"
    APPS = "apps"
    EVENTS = "events"


@dataclass(frozen=True, slots=True, kw_only=True)
class EventLine:
    number: int
    at_ms: int
    what: str
    subject: str
    app: str
    host: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AppRow:
    """An app with how far its release is."""

    line: AppLine
    phase: str
    current: int = 0
    stale: int = 0

    @property
    def name(self) -> str:
        return self.line.app.name


Item = Instance | HostLine | AppRow | EventLine


@dataclass(slots=True)
class Seen:
    """`version` grows with every change. `trouble`: why nothing new comes, or "". `usage` None:
    not asked yet."""

    table: Table = field(default_factory=Table)
    hosts: tuple[HostLine, ...] = ()
    apps: tuple[AppLine, ...] = ()
    warning: str = ""
    usage: Mapping[str, Usage] | None = None
    events: deque[EventLine] = field(default_factory=lambda: deque(maxlen=EVENTS_MAX))
    address: str = ""
    trouble: str = ""
    version: int = 0

    def items(self, view: View) -> list[Item]:
        if view is View.INSTANCES:
            return list(self.table.instances.values())
        if view is View.HOSTS:
            return list(self.hosts)
        if view is View.APPS:
            return list(self._app_rows())
        return list(self.events)

    def usage_of(self, item: Instance) -> Usage | None:
        return self.usage.get(item.uid) if self.usage else None

    def _app_rows(self) -> list[AppRow]:
        current: Counter[str] = Counter()
        stale: Counter[str] = Counter()
        for item in self.table.instances.values():
            if item.is_placed and not item.run and not item.surplus:
                (current if item.current else stale)[item.slot.app] += 1
        return [
            AppRow(
                line=line,
                phase=renderchange.phase(line.app),
                current=current[line.app.name],
                stale=stale[line.app.name],
            )
            for line in self.apps
        ]

    def headline(self) -> str:
        """`3 hosts (1 silent), 12 instances: 10 healthy, 2 backoff`."""
        states = Counter(wording.state(item) for item in self.table.instances.values())
        counts = ", ".join(f"{number} {state}" for state, number in states.most_common())
        silent = sum(line.state is not HostState.READY for line in self.hosts)
        hosts = _counted(len(self.hosts), "host") + (f" ({silent} not ready)" if silent else "")
        total = _counted(len(self.table.instances), "instance")
        return f"{hosts}, {total}: {counts}" if counts else f"{hosts}, {total}"


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def key_of(item: Item) -> str:
    """The same for the same thing, whatever becomes of it."""
    if isinstance(item, Instance):
        return item.uid
    if isinstance(item, HostLine):
        return item.status.host
    return item.name if isinstance(item, AppRow) else str(item.number)
