"""runit: a directory for each instance, with `run`, `log/run` and its environment.

runsv(8), chpst(8), svlogd(8)
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator

from formation.model import ProcessType, RestartPolicy
from formctl.exporting.work import (
    PRIVATE,
    PROGRAM,
    SHELL,
    Exported,
    File,
    Formation,
    Work,
    lost,
    own,
    whole,
)

_KEPT = ("restart", "stop.signal", "limits.*", "nice", "umask", "user", "group")
# Which file runsv runs instead of sending that signal when it is told to stop.
_STOPS = "control/t"
_LIMITS = {"nofile": "-o", "nproc": "-p", "fsize": "-f", "core": "-c", "data": "-d", "cpu": "-t"}


def write(formation: Formation) -> Exported:
    works = tuple(work for work in formation.works if work.spec.schedule is None)
    graces = max((whole(work.spec.stop_grace_s) for work in works), default=7)
    return Exported(
        files=tuple(file for work in works for file in _service(formation, work)),
        notes=(*lost(formation, _KEPT), *_strange(formation)),
        then=(
            "cp -R etc/. /etc/",
            f"ln -s /etc/sv/{formation.app}-* /etc/service/",
            f"sv -w {graces} force-stop '/etc/service/{formation.app}-*'   # to end them",
        ),
    )


def _strange(formation: Formation) -> tuple[str, ...]:
    return tuple(
        f"{spec.name}: limits.{name} is not known there, and left out"
        for spec in formation.types
        for name in spec.limits.rlimits
        if name not in _LIMITS
    )


def _service(formation: Formation, work: Work) -> Iterator[File]:
    name, spec = f"{formation.app}-{work.name}", work.spec
    path = f"etc/sv/{name}"
    yield File(path=f"{path}/run", text=_run(formation, work), mode=PROGRAM)
    yield File(path=f"{path}/log/run", text=_log(name), mode=PROGRAM)
    if spec.stop_signal != "TERM":
        text = f'#!{SHELL}\nkill -{spec.stop_signal} "$(cat supervise/pid)"\n'
        yield File(path=f"{path}/{_STOPS}", text=text, mode=PROGRAM)
    if spec.restart is not RestartPolicy.ALWAYS:
        yield File(path=f"{path}/finish", text=_finish(spec), mode=PROGRAM)
    for variable, value in {**formation.variables(spec), **own(work)}.items():
        # chpst reads up to the first line break, and takes zero bytes for them.
        text = value.replace("\n", "\0")
        yield File(path=f"{path}/env/{variable}", text=f"{text}\n", mode=PRIVATE)


def _run(formation: Formation, work: Work) -> str:
    spec = work.spec
    here = f"cd {shlex.quote(formation.directory(spec))} || exit 1\n"
    mask = f"umask {spec.umask:03o}\n" if spec.umask >= 0 else ""
    flags = " ".join(["-e", '"$service/env"', *_flags(formation, spec)])
    return (
        f"#!{SHELL}\nexec 2>&1\nservice=$(pwd)\n{here}{mask}"
        f"exec chpst {flags} {SHELL} -c {shlex.quote(spec.command)}\n"
    )


def _flags(formation: Formation, spec: ProcessType) -> Iterator[str]:
    if user := formation.who(spec):
        yield "-u"
        yield shlex.quote(f"{user}:{spec.group}" if spec.group else user)
    if spec.nice:
        yield f"-n {spec.nice}"
    for name, value in sorted(spec.limits.rlimits.items()):
        if name in _LIMITS and value >= 0:
            yield f"{_LIMITS[name]} {value}"


def _log(name: str) -> str:
    return f"#!{SHELL}\nmkdir -p /var/log/{name}\nexec svlogd -tt /var/log/{name}\n"


def _finish(spec: ProcessType) -> str:
    """It is told the exit code, or -1 for a signal.

    Told to go down, runsv forgets that it was told to exit: then it is not told. It is not
    told `once`: should it read that when this has ended already, it would start once more.
    """
    leaves = '! grep -q "want exit" supervise/stat || exit 0\n'
    failed = "" if spec.restart is RestartPolicy.NEVER else '[ "$1" = 0 ] || exit 0\n'
    return f"#!{SHELL}\n{failed}{leaves}exec sv down .\n"
