"""systemd: a target, a service for each instance, a timer for what has a schedule.

systemd.exec(5), systemd.service(5), systemd.kill(5), systemd.timer(5), systemd.syntax(7).
"""

from __future__ import annotations

from collections.abc import Iterator

from formation.model import ProcessType, RestartPolicy, StopTo
from formctl.exporting.calendar import events
from formctl.exporting.work import (
    PRIVATE,
    SHELL,
    Exported,
    File,
    Formation,
    Work,
    lost,
    number,
    own,
)

_UNITS = "etc/systemd/system"
_RESTART = {
    RestartPolicy.ALWAYS: "always",
    RestartPolicy.ON_FAILURE: "on-failure",
    RestartPolicy.NEVER: "no",
}
_KEPT = (
    "restart", "stop.signal", "stop.grace", "stop.to", "notify", "live.watchdog", "schedule",
    "limits.memory", "limits.cpus", "limits.pids", "limits.*", "nice", "umask", "user", "group",
)  # fmt: skip
# By the name that setrlimit has for it, where systemd's is not that in capitals.
_LIMITS = {"nofile": "NOFILE", "nproc": "NPROC", "as": "AS", "core": "CORE", "cpu": "CPU"}


def write(formation: Formation) -> Exported:
    app = formation.app
    files = [File(path=f"{_UNITS}/{app}.target", text=_target(formation))]
    for spec in formation.types:
        variables = formation.variables(spec)
        if variables:
            text = "".join(f"{name}={_quoted(value)}\n" for name, value in variables.items())
            files.append(File(path=_env_path(app, spec), text=text, mode=PRIVATE))
    for work in formation.works:
        unit = f"{_UNITS}/{_unit(app, work)}"
        files.append(File(path=f"{unit}.service", text=_service(formation, work)))
        if work.spec.schedule is not None:
            files.append(File(path=f"{unit}.timer", text=_timer(app, work)))
    return Exported(
        files=tuple(files),
        notes=lost(formation, _KEPT),
        then=(
            "cp -R etc/. /etc/ && systemctl daemon-reload",
            f"systemctl enable --now {app}.target",
        ),
    )


def _unit(app: str, work: Work) -> str:
    return f"{app}-{work.name}"


def _env_path(app: str, spec: ProcessType) -> str:
    return f"etc/{app}/{spec.name}.env"


def _started(app: str, work: Work) -> str:
    return f"{_unit(app, work)}.{'service' if work.spec.schedule is None else 'timer'}"


def _target(formation: Formation) -> str:
    wants = "".join(f"Wants={_started(formation.app, work)}\n" for work in formation.works)
    return f"[Unit]\nDescription={formation.app}\n{wants}\n[Install]\nWantedBy=multi-user.target\n"


def _service(formation: Formation, work: Work) -> str:
    app, spec = formation.app, work.spec
    part = "" if spec.schedule else f"PartOf={app}.target\n"
    lines = [
        f"[Unit]\nDescription={app} {work.name}\n{part}StartLimitIntervalSec=0\n",
        "[Service]",
        *_kind(spec),
        *_who(formation, spec),
        f"WorkingDirectory={_specified(formation.directory(spec))}",
    ]
    if formation.variables(spec):
        lines.append(f"EnvironmentFile=/{_env_path(app, spec)}")
    lines += [f'Environment="{name}={value}"' for name, value in own(work).items()]
    lines.append(f"ExecStart={SHELL} -c {_argument(spec.command)}")
    lines += [*_ends(spec), *_limits(spec)]
    return "\n".join(lines) + "\n"


def _kind(spec: ProcessType) -> Iterator[str]:
    if spec.notify or spec.watchdog_s:
        yield "Type=notify" if spec.notify else "Type=exec"
        yield "NotifyAccess=all"
    else:
        yield "Type=oneshot" if spec.schedule else "Type=exec"
    if spec.notify:
        yield f"TimeoutStartSec={number(spec.start_grace_s)}"
    if spec.watchdog_s:
        yield f"WatchdogSec={number(spec.watchdog_s)}"


def _who(formation: Formation, spec: ProcessType) -> Iterator[str]:
    if user := formation.who(spec):
        yield f"User={user}"
    if spec.group:
        yield f"Group={spec.group}"


def _ends(spec: ProcessType) -> Iterator[str]:
    if spec.schedule is None:
        yield f"Restart={_RESTART[spec.restart]}"
        yield "RestartSec=1"
    yield f"KillSignal=SIG{spec.stop_signal}"
    if spec.stop_to is StopTo.MAIN:
        yield "KillMode=mixed"
    yield f"TimeoutStopSec={number(spec.stop_grace_s)}"


def _limits(spec: ProcessType) -> Iterator[str]:
    limits = spec.limits
    if limits.memory_bytes:
        yield f"MemoryMax={limits.memory_bytes}"
    if limits.cpus:
        yield f"CPUQuota={number(limits.cpus * 100)}%"
    if limits.pids:
        yield f"TasksMax={limits.pids}"
    for name, value in sorted(limits.rlimits.items()):
        yield f"Limit{name.upper()}={'infinity' if value < 0 else value}"
    if spec.nice:
        yield f"Nice={spec.nice}"
    if spec.umask >= 0:
        yield f"UMask={spec.umask:04o}"


def _timer(app: str, work: Work) -> str:
    schedule = work.spec.schedule
    assert schedule is not None
    times = "".join(f"OnCalendar={event}\n" for event in events(schedule.cron, schedule.zone))
    return (
        f"[Unit]\nDescription={app} {work.name}\nPartOf={app}.target\n\n"
        f"[Timer]\n{times}AccuracySec=1\n"
    )


def _specified(text: str) -> str:
    """Percent signs are specifiers there."""
    return text.replace("%", "%%")


def _argument(command: str) -> str:
    """One argument of ExecStart: quotes, specifiers and variables are systemd's there."""
    text = command.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{_specified(text).replace("$", "$$")}"'


def _quoted(value: str) -> str:
    """A value of an EnvironmentFile: in double quotes a backslash goes before these four."""
    for character in '\\"`$':
        value = value.replace(character, f"\\{character}")
    return f'"{value}"'
