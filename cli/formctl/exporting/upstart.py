"""Upstart: a job for the app, one for each type, one for each instance.

http://upstart.ubuntu.com/cookbook/
"""

from __future__ import annotations

from collections.abc import Iterator

from formation.model import ProcessType, RestartPolicy
from formctl.exporting.work import PRIVATE, SHELL, Exported, File, Formation, Work, lost, own, whole

_KEPT = (
    "restart", "stop.signal", "stop.grace", "limits.*", "nice", "umask", "user", "group",
)  # fmt: skip


def write(formation: Formation) -> Exported:
    app = formation.app
    works = tuple(work for work in formation.works if work.spec.schedule is None)
    types = [spec for spec in formation.types if spec.schedule is None]
    files = [_file(app, "start on runlevel [2345]\nstop on runlevel [!2345]\n")]
    for spec in types:
        text = f"start on starting {app}\nstop on stopping {app}\n"
        files.append(_file(f"{app}-{spec.name}", text))
    files += [
        File(path=_path(f"{app}-{w.spec.name}-{w.ordinal}"), text=_job(formation, w), mode=PRIVATE)
        for w in works
    ]
    return Exported(
        files=tuple(files),
        notes=lost(formation, _KEPT),
        then=("cp -R etc/. /etc/", f"start {app}"),
    )


def _path(name: str) -> str:
    return f"etc/init/{name}.conf"


def _file(name: str, text: str) -> File:
    return File(path=_path(name), text=text)


def _job(formation: Formation, work: Work) -> str:
    spec, group = work.spec, f"{formation.app}-{work.spec.name}"
    lines = [
        f"start on starting {group}",
        f"stop on stopping {group}",
        *_restart(spec),
        *(f"env {n}={_quoted(v)}" for n, v in {**formation.variables(spec), **own(work)}.items()),
        *_who(formation, spec),
        f"chdir {formation.directory(spec)}",
        f"exec {SHELL} -c {_quoted(spec.command)}",
    ]
    return "\n".join(lines) + "\n"


def _restart(spec: ProcessType) -> Iterator[str]:
    if spec.restart is not RestartPolicy.NEVER:
        yield "respawn"
        yield "respawn limit unlimited"
    if spec.restart is RestartPolicy.ON_FAILURE:
        yield "normal exit 0"
    yield f"kill signal SIG{spec.stop_signal}"
    yield f"kill timeout {whole(spec.stop_grace_s)}"


def _who(formation: Formation, spec: ProcessType) -> Iterator[str]:
    if user := formation.who(spec):
        yield f"setuid {user}"
    if spec.group:
        yield f"setgid {spec.group}"
    if spec.nice:
        yield f"nice {spec.nice}"
    if spec.umask >= 0:
        yield f"umask {spec.umask:04o}"
    for name, value in sorted(spec.limits.rlimits.items()):
        number = "unlimited" if value < 0 else value
        yield f"limit {name} {number} {number}"


def _quoted(text: str) -> str:
    """As sh reads it, which upstart has for whatever holds a quote or a dollar."""
    return "'" + text.replace("'", "'\\''") + "'"
