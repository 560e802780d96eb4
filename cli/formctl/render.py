"""Records → text for people. Pure: what is now is an argument, nothing is printed here.

Columns are for eyes and may change; programs read `-o json` (formctl.jsonview).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime

from formation.model import AuditRecord, HostState, Release
from formation.quantities import show
from formctl import wording
from formctl.views import AppLine, HostLine, Instance

_GIB = 1024**3


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Left-aligned columns, two blanks between; a last column that is empty leaves no blanks."""
    lines = [tuple(header), *(tuple(printable(cell) for cell in row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def printable(text: str) -> str:
    """What a machine far away wrote must not move this terminal's cursor."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def instances(found: Sequence[Instance], *, now_ms: int, with_app: bool = False) -> str:
    if not found:
        return "no instances"
    header = ("INSTANCE", "STATE", "HOST", "PORT", "PID", "UP", "RESTARTS", "RELEASE", "NOTE")
    return table(header, (_instance(item, now_ms, with_app) for item in found))


def _instance(item: Instance, now_ms: int, with_app: bool) -> tuple[str, ...]:
    status = item.status
    return (
        str(item.slot) if with_app else item.slot.short,
        wording.state(item),
        item.host or "-",
        _or_dash(status.port),
        _or_dash(status.pid),
        wording.since(status.started_at_ms, now_ms) or "-",
        str(max(0, status.attempt - 1)),
        f"v{status.release}",
        wording.trouble(item, now_ms),
    )


def hosts(found: Sequence[HostLine]) -> str:
    if not found:
        return "no hosts; start one with: formation-agent --coordinator ADDR"
    header = (
        "HOST", "STATE", "HEALTHY", "LIMIT", "CPUS", "MEMORY", "ADDRESS", "AGENT", "VIA", "LABELS",
        "NOTE",
    )  # fmt: skip
    return table(header, map(_host, found))


def _host(line: HostLine) -> tuple[str, ...]:
    status, capacity = line.status, line.status.capacity
    return (
        status.host,
        host_state(line),
        f"{line.healthy}/{line.instances}",
        _or_dash(capacity.instances_max),
        f"{capacity.cpus:g}" if capacity.cpus else "-",
        f"{capacity.memory_bytes / _GIB:.1f} GiB" if capacity.memory_bytes else "-",
        status.address or "-",
        status.agent_version or "-",
        line.coordinator_id or "-",
        " ".join(f"{key}={value}" for key, value in sorted(status.labels.items())) or "-",
        status.complaint,
    )


def host_state(line: HostLine) -> str:
    """A host that said goodbye is no failure, so it is not shown as lost."""
    gone = line.status.departed and line.state is not HostState.READY
    return "left" if gone else line.state.name.lower()


def apps(found: Sequence[AppLine]) -> str:
    if not found:
        return "no apps; add one with: formctl apply"
    header = ("APP", "RELEASE", "HEALTHY", "FORMATION")
    return table(header, map(_app, found))


def _app(line: AppLine) -> tuple[str, ...]:
    healthy = f"{line.healthy}/{line.wanted}"
    return (line.app.name, f"v{line.app.release}", healthy, show(line.formation()))


def releases(found: Sequence[Release], *, current: int) -> str:
    if not found:
        return "no releases"
    header = ("RELEASE", "MADE", "BY", "TYPES", "ENV", "REASON")
    return table(header, (_release(item, current) for item in found))


def _release(item: Release, current: int) -> tuple[str, ...]:
    return (
        f"v{item.number}{' (current)' if item.number == current else ''}",
        local_time(item.created_at_ms),
        item.created_by or "-",
        " ".join(spec.name for spec in item.types),
        f"{len(item.env)} set",
        item.reason,
    )


def audit(found: Sequence[AuditRecord]) -> str:
    if not found:
        return "nothing has been done yet"
    header = ("WHEN", "WHO", "DID", "TO", "DETAIL")
    rows = ((local_time(r.at_ms), r.who or "-", r.action, r.subject, r.detail) for r in found)
    return table(header, rows)


def local_time(at_ms: int) -> str:
    if not at_ms:
        return "-"
    moment = datetime.fromtimestamp(at_ms / 1000).astimezone()
    return moment.strftime("%Y-%m-%d %H:%M:%S")


def release_changes(before: Release | None, after: Release) -> list[str]:
    """One line for each kind of difference; names only of the environment, never its values."""
    if before is None:
        return [f"types: {' '.join(spec.name for spec in after.types)}", *_env_names(after.env)]
    old, new = ({spec.name: spec for spec in release.types} for release in (before, after))
    lines = [
        _listed("types added", [name for name in new if name not in old]),
        _listed("types removed", [name for name in old if name not in new]),
        *(
            f"{name}: command changed: {new[name].command}"
            for name in new
            if name in old and new[name].command != old[name].command
        ),
        *(
            f"{name}: stop or ready settings changed"
            for name in new
            if name in old and _settings(new[name]) != _settings(old[name])
        ),
        _listed("env added", sorted(set(after.env) - set(before.env))),
        _listed("env removed", sorted(set(before.env) - set(after.env))),
        f"workdir: {after.workdir}" if after.workdir != before.workdir else "",
    ]
    return [printable(line) for line in lines if line]


def _settings(spec: object) -> tuple[object, ...]:
    return tuple(getattr(spec, name) for name in ("stop_signal", "stop_grace_s", "ready_after_s"))


def _env_names(env: Mapping[str, str]) -> list[str]:
    return [f"env: {' '.join(sorted(env))}"] if env else []


def _listed(what: str, names: Sequence[str]) -> str:
    return f"{what}: {' '.join(names)}" if names else ""


def _or_dash(number: int) -> str:
    return str(number) if number else "-"
