"""The columns of each view: what stands in them, by what they sort, how wide they are. Pure.

Every text that came from elsewhere passes `printable` here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from formation.model import HostState, InstanceState
from formation.quantities import show
from formctl import render, wording
from formctl.renderevents import kind_of
from formctl.tables import printable
from formctl.top.seen import AppRow, EventLine, Item, Seen, View, key_of
from formctl.views import HostLine, Instance

_GIB = 1024**3
_BAD = (InstanceState.BACKOFF, InstanceState.RESTARTING, InstanceState.FAILED)
_GONE = (InstanceState.STOPPING, InstanceState.STOPPED)

Cell = Callable[[Any, Seen, int], str]
Order = Callable[[Any, Seen], Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """`cells`: its width; 0 is as wide as its longest name, -1 what is left. `rank`: the higher,
    the sooner it goes when there is no room. `high_first`: what is large is looked for."""

    title: str
    cell: Cell
    order: Order
    cells: int = 0
    right: bool = False
    rank: int = 0
    high_first: bool = False


def _slot(item: Instance) -> tuple[str, str, int, bool, str]:
    slot = item.slot
    return slot.app, slot.type, slot.ordinal, not item.surplus, item.uid


def _cpu(item: Instance, seen: Seen) -> float:
    usage = seen.usage_of(item)
    return usage.cpu_share if usage else -1.0


def _memory(item: Instance, seen: Seen) -> int:
    usage = seen.usage_of(item)
    return usage.memory_bytes if usage else -1


def _cpu_cell(item: Instance, seen: Seen, _: int) -> str:
    usage = seen.usage_of(item)
    return wording.share(usage.cpu_share) if usage else "-"


def _memory_cell(item: Instance, seen: Seen, _: int) -> str:
    usage = seen.usage_of(item)
    return wording.amount(usage.memory_bytes) if usage else "-"


def _restarts(item: Instance) -> int:
    return max(0, item.status.attempt - 1)


_INSTANCES = (
    Column(title="INSTANCE", cell=lambda i, s, n: str(i.slot), order=lambda i, s: _slot(i)),
    Column(
        title="STATE", cells=11, cell=lambda i, s, n: wording.state(i),
        order=lambda i, s: wording.state(i),
    ),
    Column(title="HOST", cell=lambda i, s, n: i.host or "-", order=lambda i, s: i.host),
    Column(
        title="PORT", cells=5, right=True, rank=5, order=lambda i, s: i.status.port,
        cell=lambda i, s, n: str(i.status.port or "-"),
    ),
    Column(title="CPU", cells=5, right=True, rank=2, high_first=True, cell=_cpu_cell, order=_cpu),
    Column(
        title="MEMORY", cells=8, right=True, rank=3, high_first=True, cell=_memory_cell,
        order=_memory,
    ),
    Column(
        title="RST", cells=4, right=True, rank=4, high_first=True,
        cell=lambda i, s, n: str(_restarts(i)), order=lambda i, s: _restarts(i),
    ),
    Column(
        title="UP", cells=6, right=True, rank=1, high_first=True,
        cell=lambda i, s, n: wording.since(i.status.started_at_ms, n) or "-",
        order=lambda i, s: -i.status.started_at_ms or float("-inf"),
    ),
    Column(
        title="NOTE", cells=-1, cell=lambda i, s, n: wording.note(i, n),
        order=lambda i, s: (not i.status.reason, i.status.reason, i.status.told),
    ),
)  # fmt: skip


def _memory_total(line: HostLine) -> str:
    size = line.status.capacity.memory_bytes
    return f"{size / _GIB:.1f} GiB" if size else "-"


_HOSTS = (
    Column(title="HOST", cell=lambda h, s, n: h.status.host, order=lambda h, s: h.status.host),
    Column(
        title="STATE", cells=7, cell=lambda h, s, n: render.host_state(h),
        order=lambda h, s: render.host_state(h),
    ),
    Column(
        title="HEALTHY", cells=9, right=True, high_first=True, order=lambda h, s: h.instances,
        cell=lambda h, s, n: f"{h.healthy}/{h.instances}",
    ),
    Column(
        title="CPUS", cells=5, right=True, rank=2, high_first=True,
        cell=lambda h, s, n: f"{h.status.capacity.cpus:g}",
        order=lambda h, s: h.status.capacity.cpus,
    ),
    Column(
        title="MEMORY", cells=9, right=True, rank=3, high_first=True,
        cell=lambda h, s, n: _memory_total(h), order=lambda h, s: h.status.capacity.memory_bytes,
    ),
    Column(
        title="ADDRESS", cells=15, rank=4, cell=lambda h, s, n: h.status.address or "-",
        order=lambda h, s: h.status.address,
    ),
    Column(
        title="LABELS", cells=16, rank=5, cell=lambda h, s, n: render.labels(h),
        order=lambda h, s: render.labels(h),
    ),
    Column(
        title="NOTE", cells=-1, cell=lambda h, s, n: render.host_note(h),
        order=lambda h, s: (not render.host_note(h), render.host_note(h)),
    ),
)  # fmt: skip


def _rollout(row: AppRow) -> str:
    """How far the release is: `v3 everywhere`, `v2 -> v3, rolling [######----] 6/10`."""
    app = row.line.app
    total = row.current + row.stale
    if app.candidate and row.phase == "waiting":
        return f"v{app.candidate.release} waits for {app.candidate.run}"
    if row.phase in ("done", "none"):
        undone = app.rollout.undone_release
        return f"v{undone} was taken back: {app.rollout.reason}" if undone else "everywhere"
    before = f"v{app.stable_release} -> " if app.stable_release else ""
    done = 10 * row.current // total if total else 0
    bar = "#" * done + "-" * (10 - done)
    return f"{before}v{app.release} {row.phase} [{bar}] {row.current}/{total} replaced"


_APPS = (
    Column(title="APP", cell=lambda a, s, n: a.name, order=lambda a, s: a.name),
    Column(
        title="RELEASE", cells=7, right=True, order=lambda a, s: a.line.app.release,
        cell=lambda a, s, n: f"v{a.line.app.release}" if a.line.app.release else "-",
    ),
    Column(
        title="HEALTHY", cells=9, right=True, high_first=True, order=lambda a, s: a.line.wanted,
        cell=lambda a, s, n: f"{a.line.healthy}/{a.line.wanted}",
    ),
    Column(
        title="FORMATION", cells=26, rank=1, cell=lambda a, s, n: show(a.line.formation()),
        order=lambda a, s: show(a.line.formation()),
    ),
    Column(
        title="ROLLOUT", cells=-1, cell=lambda a, s, n: _rollout(a),
        order=lambda a, s: (a.phase == "done", a.phase),
    ),
)  # fmt: skip

_EVENTS = (
    Column(
        title="TIME", cells=8, high_first=True, order=lambda e, s: e.number,
        cell=lambda e, s, n: render.local_time(e.at_ms)[-8:],
    ),
    Column(title="OF", cell=lambda e, s, n: e.subject, order=lambda e, s: (e.subject, e.number)),
    Column(
        title="HOST", rank=1, cell=lambda e, s, n: e.host or "-",
        order=lambda e, s: (e.host, e.number),
    ),
    Column(
        title="WHAT", cells=18, rank=2, cell=lambda e, s, n: e.what,
        order=lambda e, s: (e.what, e.number),
    ),
    Column(
        title="TEXT", cells=-1, cell=lambda e, s, n: e.text, order=lambda e, s: (e.text, e.number)
    ),
)  # fmt: skip

COLUMNS: dict[View, Sequence[Column]] = {
    View.INSTANCES: _INSTANCES,
    View.HOSTS: _HOSTS,
    View.APPS: _APPS,
    View.EVENTS: _EVENTS,
}


def cells(view: View, item: Item, seen: Seen, now_ms: int) -> list[str]:
    return [printable(column.cell(item, seen, now_ms)) for column in COLUMNS[view]]


def numbered(view: View, title: str) -> int | None:
    """The column of this name, in any case."""
    titles = [column.title.lower() for column in COLUMNS[view]]
    return titles.index(title.lower()) if title.lower() in titles else None


def style(item: Item) -> str:
    """What to think of it: good, warn, bad, info, dim or nothing."""
    if isinstance(item, Instance):
        return _instance_style(item)
    if isinstance(item, HostLine):
        gone = item.state is not HostState.READY
        return "bad" if gone and not item.status.departed else "dim" if gone else "good"
    if isinstance(item, EventLine):
        return kind_of(item.what)
    if item.phase not in ("done", "first", "none"):
        return "info"
    return "good" if item.line.healthy >= item.line.wanted else "warn"


def _instance_style(item: Instance) -> str:
    if item.surplus or item.host_silent or item.state in _GONE:
        return "dim"
    if item.state in _BAD:
        return "bad"
    if item.state is InstanceState.HEALTHY:
        return "good"
    return "info" if item.state is InstanceState.FINISHED else "warn"


def matches(item: Item, words: Sequence[str]) -> bool:
    """Every word is in it somewhere; `state:backoff`, `host:a`, `app:shop` look there alone."""
    return all(_has(item, word) for word in words)


def _has(item: Item, word: str) -> bool:
    name, colon, text = word.partition(":")
    if colon and name in ("state", "host", "app"):
        found = _named(item)[name]
        return found == text if name == "app" else found.startswith(text)
    return word in _haystack(item)


def _named(item: Item) -> dict[str, str]:
    if isinstance(item, Instance):
        names = {"state": wording.state(item), "host": item.host, "app": item.slot.app}
    elif isinstance(item, HostLine):
        names = {"state": render.host_state(item), "host": item.status.host, "app": ""}
    elif isinstance(item, AppRow):
        names = {"state": item.phase, "host": "", "app": item.name}
    else:
        state = item.what.rpartition(".")[2]
        names = {"state": state, "host": item.host, "app": item.app}
    return {name: text.lower() for name, text in names.items()}


def _haystack(item: Item) -> str:
    if isinstance(item, Instance):
        status = item.status
        parts = [str(item.slot), wording.state(item), item.host, status.reason, status.told]
    elif isinstance(item, HostLine):
        parts = [item.status.host, render.host_state(item), item.status.address]
        parts += [render.labels(item), render.host_note(item)]
    elif isinstance(item, AppRow):
        parts = [item.name, show(item.line.formation()), _rollout(item)]
    else:
        parts = [item.subject, item.host, item.what, item.text]
    return " ".join(parts).lower()


def tie(item: Item) -> str:
    """What decides between equals, so that lines do not change places for nothing."""
    return str(item.slot) if isinstance(item, Instance) else key_of(item)
