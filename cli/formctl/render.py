"""Records → text for people. Pure: what is now is an argument, nothing is printed here.

Columns are for eyes and may change; programs read `-o json` (formctl.jsonview).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from formation.seen import Ability, App, HostState, InstanceState, Usage
from formctl import wording
from formctl.tables import Paint, printable, table
from formctl.views import AppLine, HostLine, Instance

if TYPE_CHECKING:  # loaded by those who have them
    from formation.model import AuditRecord, Release
    from formation.requests import Run
    from formation.secrets import Secret

_GIB = 1024**3
_RESET = "\x1b[0m"
_GREEN, _YELLOW, _RED, _CYAN, _GREY = "32", "33", "31", "36", "90"
_COLOURS = {
    InstanceState.PENDING: _YELLOW,
    InstanceState.WAITING: _YELLOW,
    InstanceState.STARTING: _YELLOW,
    InstanceState.HEALTHY: _GREEN,
    InstanceState.UNREADY: _YELLOW,
    InstanceState.BACKOFF: _RED,
    InstanceState.RESTARTING: _RED,
    InstanceState.FAILED: _RED,
    InstanceState.FINISHED: _CYAN,
    InstanceState.DRAINING: _GREY,
    InstanceState.STOPPING: _GREY,
    InstanceState.STOPPED: _GREY,
}
# A cgroup alone limits nothing.
_ENFORCED = (Ability.CPU, Ability.MEMORY, Ability.PIDS, Ability.USER)


def instances(
    found: Sequence[Instance],
    *,
    now_ms: int,
    with_app: bool = False,
    usage: Mapping[str, Usage] | None = None,
    width: int | None = None,
    colour: bool = False,
) -> str:
    """With `usage`, what they use instead of where to find them. `width`: of the terminal."""
    if not found:
        return "no instances"
    facts = ("PORT", "PID", "UP", "RESTARTS", "RELEASE")
    if usage is not None:
        facts = ("CPU", "MEMORY", "PROCS", "FILES", "LOG")
    rows = [
        (
            str(item.slot) if with_app else item.slot.short,
            wording.state(item),
            item.host or "-",
            *(_facts(item, now_ms) if usage is None else _used(usage.get(item.uid))),
            wording.note(item, now_ms),
        )
        for item in found
    ]
    header = ("INSTANCE", "STATE", "HOST", *facts, "NOTE")
    return table(header, rows, width=width, paint=_states(found) if colour else None)


def _facts(item: Instance, now_ms: int) -> tuple[str, ...]:
    status = item.status
    return (
        _or_dash(status.port),
        _or_dash(status.pid),
        wording.since(status.started_at_ms, now_ms) or "-",
        str(max(0, status.attempt - 1)),
        f"v{status.release}",
    )


def _used(usage: Usage | None) -> tuple[str, ...]:
    """`-` for what nobody knows."""
    if usage is None:
        return ("-",) * 5
    return (
        wording.share(usage.cpu_share),
        wording.amount(usage.memory_bytes),
        str(usage.processes),
        str(usage.files) if usage.files >= 0 else "-",
        f"{wording.amount(usage.log_bytes_per_s)}/s",
    )


def _states(found: Sequence[Instance]) -> Paint:
    """A colour for the second column."""

    def paint(row: int, column: int, padded: str) -> str:
        return painted_state(found[row], padded) if column == 1 else padded

    return paint


def painted_state(item: Instance, text: str) -> str:
    code = _GREY if item.surplus or item.host_silent else _COLOURS[item.state]
    return f"\x1b[{code}m{text}{_RESET}"


def hosts(found: Sequence[HostLine], *, wide: bool = False, width: int | None = None) -> str:
    if not found:
        return (
            "no hosts; let one join with the line that this prints: formctl token create --role "
            "agent (without certificates: formation-agent --coordinator ADDR)"
        )
    header = ("HOST", "STATE", "HEALTHY", "CPUS", "MEMORY", "ADDRESS", "ENFORCES")
    more = ("LIMIT", "AGENT", "VIA") if wide else ()
    rows = (
        (*_host(line), *(_more(line) if wide else ()), labels(line), host_note(line))
        for line in found
    )
    return table((*header, *more, "LABELS", "NOTE"), rows, width=width)


def _host(line: HostLine) -> tuple[str, ...]:
    status, capacity = line.status, line.status.capacity
    return (
        status.host,
        host_state(line),
        f"{line.healthy}/{line.instances}",
        f"{capacity.cpus:g}" if capacity.cpus else "-",
        f"{capacity.memory_bytes / _GIB:.1f} GiB" if capacity.memory_bytes else "-",
        status.address or "-",
        _enforces(line),
    )


def _more(line: HostLine) -> tuple[str, ...]:
    status = line.status
    limit = _or_dash(status.capacity.instances_max)
    return (limit, status.agent_version or "-", line.coordinator_id or "-")


def labels(line: HostLine) -> str:
    return " ".join(f"{key}={value}" for key, value in sorted(line.labels.items())) or "-"


def _enforces(line: HostLine) -> str:
    """Of what a type may ask for: cpu, memory and pids limits, and another user."""
    abilities = line.status.abilities
    if not line.status.agent_version:
        return "-"  # nobody has said it
    if all(ability in abilities for ability in _ENFORCED):
        return "all"
    return " ".join(ability.value for ability in _ENFORCED if ability in abilities) or "none"


def inabilities(found: Sequence[HostLine]) -> list[str]:
    """`a, b: cannot …`, one line for each reason."""
    hosts_of: dict[str, list[str]] = {}
    for line in found:
        if line.status.inability and not line.status.departed:
            hosts_of.setdefault(line.status.inability, []).append(line.status.host)
    return [printable(f"{', '.join(names)}: {why}") for why, names in hosts_of.items()]


def host_note(line: HostLine) -> str:
    said = [_word(line), line.status.complaint]
    return "; ".join(part for part in said if part)


def _word(line: HostLine) -> str:
    """The operator's."""
    if line.word is None or not (line.word.cordoned or line.word.draining):
        return ""
    if not line.word.draining:
        return "cordoned"
    return f"draining, {line.instances} left" if line.instances else "drained"


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
    from formation.quantities import show

    healthy = f"{line.healthy}/{line.wanted}"
    return (line.app.name, app_release(line.app), healthy, show(line.formation()))


def app_release(app: App) -> str:
    """`v5`, `v5 (v6 waits)` while the command of v6 is not over; `-` before the first."""
    now = f"v{app.release}" if app.release else "-"
    return f"{now} (v{app.candidate.release} waits)" if app.candidate else now


def releases(found: Sequence[Release], *, app: App) -> str:
    if not found:
        return "no releases"
    header = ("RELEASE", "MADE", "BY", "TYPES", "ENV", "COMMAND", "REASON")
    return table(*_without_empty(header, [_release(item, app) for item in found]))


def _release(item: Release, app: App) -> tuple[str, ...]:
    return (
        f"v{item.number}{release_role(item.number, app)}",
        local_time(item.created_at_ms),
        item.created_by or "-",
        " ".join(spec.name for spec in item.types),
        f"{len(_variables(item))} set",
        _command_of(item, app),
        item.reason,
    )


def _command_of(item: Release, app: App) -> str:
    """What became of its release command."""
    if item.command is None:
        return ""
    if item.command_end is None:
        return "running" if item.number == app.newest else "-"
    return "passed" if item.command_end.passed else item.command_end.how


def release_role(number: int, app: App) -> str:
    """` (current)`, ` (stable)` while another one is on its way, ` (waits)` for its release
    command, or ` (taken back)`."""
    if number == app.release:
        return " (current)"
    if app.candidate and number == app.candidate.release:
        return " (waits)"
    if number == app.rollout.undone_release:
        return " (taken back)"
    return " (stable)" if number == app.stable_release else ""


def history(found: Sequence[AuditRecord]) -> str:
    if not found:
        return "nothing has been done yet"
    header = ("WHEN", "WHO", "DID", "TO", "FROM", "INTO", "DETAIL", "WHY")
    rows = [
        (
            local_time(r.at_ms),
            r.who or "-",
            r.action,
            r.subject,
            r.before,
            r.after,
            r.detail,
            r.why,
        )
        for r in found
    ]
    return table(*_without_empty(header, rows))


def _without_empty(
    header: Sequence[str], rows: Sequence[Sequence[str]]
) -> tuple[list[str], list[list[str]]]:
    """Columns in which nothing stands are left out."""
    used = [i for i in range(len(header)) if any(row[i] for row in rows)]
    return [header[i] for i in used], [[row[i] for i in used] for row in rows]


def config(found: Sequence[tuple[str, str, str]], *, values: bool) -> str:
    """(name, value, origin) of each variable."""
    if not found:
        return "no variables; set one with: formctl config set NAME=VALUE"
    if values:
        return table(("NAME", "FROM", "VALUE"), [(n, origin, v) for n, v, origin in found])
    return table(("NAME", "FROM"), [(name, origin) for name, _, origin in found])


def runs(found: Sequence[Run]) -> str:
    if not found:
        return "no runs; start one with: formctl run -- COMMAND"
    header = ("RUN", "STATE", "ASKED", "BY", "FOR", "HOST", "ENDED", "HOW", "COMMAND")
    rows = [
        (
            item.slot.short if item.command or not item.tick_ms else item.id,
            item.state.name.lower(),
            local_time(item.created_at_ms),
            item.who,
            local_time(item.tick_ms) if item.tick_ms else "",
            item.host,
            local_time(item.ended_at_ms) if item.ended_at_ms else "",
            item.last_exit or item.reason,
            item.command,
        )
        for item in found
    ]
    return table(*_without_empty(header, rows))


def local_time(at_ms: int) -> str:
    if not at_ms:
        return "-"
    moment = datetime.fromtimestamp(at_ms / 1000).astimezone()
    return moment.strftime("%Y-%m-%d %H:%M:%S")


def release_changes(
    before: Release | None, after: Release, *, changed_env: Sequence[str] = ()
) -> list[str]:
    """One line for each kind of difference; names only of the environment, never its values."""
    from formctl import typelines  # not for tables

    if before is None:
        code = [f"code: {after.artifact}"] if after.artifact else []
        types = f"types: {' '.join(spec.name for spec in after.types)}"
        shown = [*_command_change(None, after), *map(printable, _build_line(after))]
        return [types, *_env_names(after.env), *code, *shown]
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
            f"{name}: {', '.join(keys)} changed"
            for name in new
            if name in old and (keys := typelines.changed(old[name], new[name]))
        ),
        _listed("env added", sorted(_variables(after) - _variables(before))),
        _listed("env removed", sorted(_variables(before) - _variables(after))),
        _listed("env changed", changed_env),
        *_secret_changes(before.secrets, after.secrets),
        *_command_change(before, after),
        f"code: {after.artifact}" if after.artifact and after.artifact != before.artifact else "",
        f"workdir: {after.workdir}" if after.workdir and after.workdir != before.workdir else "",
        *(_build_line(after) if after.build != before.build else []),
    ]
    return [printable(line) for line in lines if line]


def _build_line(release: Release) -> list[str]:
    if not release.artifact:
        return []
    return [f"build: {release.build.command}" if release.build else "nothing is built any more"]


def _command_change(before: Release | None, after: Release) -> list[str]:
    if (before.command if before else None) == after.command:
        return []
    return [f"release command: {after.command.command if after.command else 'none any more'}"]


def _secret_changes(before: Mapping[str, Secret], after: Mapping[str, Secret]) -> list[str]:
    """Versions only: nobody is told a value."""
    from formation.secrets import changed_secrets

    changed = [
        f"{name} (v{before[name].version} -> v{after[name].version})"
        for name in changed_secrets(before, after)
    ]
    return [
        _listed("secrets added", sorted(after.keys() - before.keys())),
        _listed("secrets removed", sorted(before.keys() - after.keys())),
        _listed("secrets changed", changed),
    ]


def _variables(release: Release) -> set[str]:
    return {*release.env, *release.config}


def _env_names(env: Mapping[str, str]) -> list[str]:
    return [f"env: {' '.join(sorted(env))}"] if env else []


def _listed(what: str, names: Sequence[str]) -> str:
    return f"{what}: {' '.join(names)}" if names else ""


def _or_dash(number: int) -> str:
    return str(number) if number else "-"
