"""What formctl shows, as data: instances as one app's table, updated by a stream of updates.

Pure. `formctl.client` fills these from the wire; `watching`, `render` and `dev` read them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from formation.seen import (
    App,
    Host,
    HostState,
    HostStatus,
    InstanceState,
    InstanceStatus,
    Slot,
    Usage,
)

# As their types want it: running, or done with their work.
_ARRIVED = (InstanceState.HEALTHY, InstanceState.FINISHED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Instance:
    """One stay, or a slot without a host. `surplus`: on its way out. `current`: newest wanted.
    `surge`: one more, for a change under way. `run`: the run that it is. `because`: why there.
    `address`: of its host, as that says."""

    status: InstanceStatus
    host: str = ""
    surplus: bool = False
    host_silent: bool = False
    current: bool = True
    surge: bool = False
    run: str = ""
    because: str = ""
    address: str = ""

    @property
    def uid(self) -> str:
        return self.status.uid

    @property
    def slot(self) -> Slot:
        return self.status.slot

    @property
    def state(self) -> InstanceState:
        return self.status.state

    @property
    def is_placed(self) -> bool:
        return self.state is not InstanceState.PENDING

    @property
    def is_good(self) -> bool:
        """Exactly what was asked for, as far as anyone can see."""
        return self.state in _ARRIVED and self._counts

    @property
    def has_failed(self) -> bool:
        """For good: it is not started again by itself."""
        return self.state is InstanceState.FAILED and self._counts

    @property
    def _counts(self) -> bool:
        return self.current and not self.surplus and not self.host_silent


@dataclass(frozen=True, slots=True, kw_only=True)
class Update:
    """`complete`: forget what was known before. `apps` None: they did not change."""

    complete: bool = False
    changed: tuple[Instance, ...] = ()
    gone_uids: tuple[str, ...] = ()
    apps: tuple[App, ...] | None = None
    note: str = ""
    standstill: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageReport:
    """By uid; who is not in it could not be asked. `notices`: whom that was, for people."""

    of_uid: Mapping[str, Usage] = field(default_factory=dict)
    notices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class HostLine:
    """`word`: the operator's on it, if there is one."""

    status: HostStatus
    state: HostState
    instances: int = 0
    healthy: int = 0
    coordinator_id: str = ""
    since_ms: int = 0
    word: Host | None = None

    @property
    def labels(self) -> dict[str, str]:
        """The operator's go before the agent's; an empty one takes the agent's away."""
        ours = self.word.labels if self.word else {}
        kept = {name: value for name, value in self.status.labels.items() if name not in ours}
        return kept | {name: value for name, value in ours.items() if value}


@dataclass(frozen=True, slots=True, kw_only=True)
class AppLine:
    """`irregular`: types of which so many run as there are hosts, or times."""

    app: App
    types: tuple[str, ...]
    healthy: int = 0
    wanted: int = 0
    irregular: frozenset[str] = frozenset()

    def formation(self) -> dict[str, int]:
        """As far as the current release defines the types, in its order."""
        return formation_of(self.app, self.types)


@dataclass(slots=True)
class Table:
    """The latest of every instance. The only mutable thing here."""

    instances: dict[str, Instance] = field(default_factory=dict)
    apps: dict[str, App] = field(default_factory=dict)
    note: str = ""
    standstill: bool = False

    def apply(self, update: Update) -> tuple[Instance, ...]:
        """Returns those that went, as they were last seen."""
        if update.apps is not None:
            self.apps = {app.name: app for app in update.apps}
        self.note, self.standstill = update.note, update.standstill
        if update.complete:
            before, self.instances = self.instances, {i.uid: i for i in update.changed}
            return tuple(i for uid, i in before.items() if uid not in self.instances)
        # In place: a large scale-up sends thousands of updates.
        self.instances.update((instance.uid, instance) for instance in update.changed)
        gone = [self.instances.pop(uid, None) for uid in update.gone_uids]
        return tuple(instance for instance in gone if instance is not None)

    def of_app(self, app: str) -> list[Instance]:
        """By slot; an older stay of a slot before its successor. An empty name means all."""
        chosen = (i for i in self.instances.values() if app in ("", i.slot.app))
        return sorted(chosen, key=lambda i: (i.slot, not i.surplus, i.uid))


def formation_of(app: App, types: Iterable[str]) -> dict[str, int]:
    return {name: app.formation.get(name, 0) for name in types}


def formation_to_be(app: App, types: Iterable[str]) -> dict[str, int]:
    """As it is when a candidate has passed."""
    brought = app.candidate.formation if app.candidate else {}
    return {name: app.formation.get(name, brought.get(name, 0)) for name in types}


def in_order(formation: Mapping[str, int], types: Iterable[str]) -> dict[str, int]:
    """Maps lose their order on the wire; the release's order is the one people know."""
    first = [name for name in types if name in formation]
    rest = sorted(set(formation) - set(first))
    return {name: formation[name] for name in (*first, *rest)}
