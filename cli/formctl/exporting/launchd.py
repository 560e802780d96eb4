"""launchd: a property list for each instance. launchd.plist(5)"""

from __future__ import annotations

import plistlib
from typing import Any

from formation.model import RestartPolicy
from formctl.exporting.calendar import intervals
from formctl.exporting.work import PRIVATE, SHELL, Exported, File, Formation, Work, lost, own, whole

_KEPT = ("restart", "stop.grace", "schedule", "limits.*", "nice", "umask", "user", "group")
_LIMITS = {
    "nofile": "NumberOfFiles",
    "nproc": "NumberOfProcesses",
    "core": "Core",
    "cpu": "CPU",
    "data": "Data",
    "fsize": "FileSize",
    "memlock": "MemoryLock",
    "rss": "ResidentSetSize",
    "stack": "Stack",
}


def write(formation: Formation) -> Exported:
    notes = list(lost(formation, _KEPT))
    files = []
    for work in formation.works:
        found = _job(formation, work)
        schedule = work.spec.schedule
        if schedule is not None and "StartCalendarInterval" not in found:
            notes.append(f"{work.name}: schedule.cron means too many times for launchd; left out")
            continue
        label = found["Label"]
        text = plistlib.dumps(found, sort_keys=False).decode()
        path = f"Library/LaunchDaemons/{label}.plist"
        files.append(File(path=path, text=text, mode=PRIVATE))
    return Exported(
        files=tuple(files),
        notes=tuple(notes),
        then=(
            (
                "sudo cp -R Library/. /Library/ && sudo chown root:wheel "
                f"/Library/LaunchDaemons/{formation.app}.*"
            ),
            (
                f"for f in /Library/LaunchDaemons/{formation.app}.*; do "
                'sudo launchctl bootstrap system "$f"; done'
            ),
        ),
    )


def _job(formation: Formation, work: Work) -> dict[str, Any]:
    spec, label = work.spec, f"{formation.app}.{work.name}"
    found: dict[str, Any] = {
        "Label": label,
        "ProgramArguments": [SHELL, "-c", spec.command],
        "WorkingDirectory": formation.directory(spec),
        "EnvironmentVariables": {**formation.variables(spec), **own(work)},
        "StandardOutPath": f"/var/log/{label}.log",
        "StandardErrorPath": f"/var/log/{label}.log",
        "ExitTimeOut": whole(spec.stop_grace_s),
    }
    if spec.schedule is not None:
        times = intervals(spec.schedule.cron)
        found |= {"StartCalendarInterval": [dict(time) for time in times]} if times else {}
    else:
        found["RunAtLoad"] = True
        found["ThrottleInterval"] = 1
        found["KeepAlive"] = _keep(spec.restart)
    if user := formation.who(spec):
        found["UserName"] = user
    if spec.group:
        found["GroupName"] = spec.group
    if spec.nice:
        found["Nice"] = spec.nice
    if spec.umask >= 0:
        found["Umask"] = spec.umask
    limits = {
        _LIMITS[name]: value
        for name, value in sorted(spec.limits.rlimits.items())
        if name in _LIMITS and value >= 0
    }
    if limits:
        found |= {"SoftResourceLimits": limits, "HardResourceLimits": limits}
    return found


def _keep(restart: RestartPolicy) -> bool | dict[str, bool]:
    if restart is RestartPolicy.ON_FAILURE:
        return {"SuccessfulExit": False}
    return restart is RestartPolicy.ALWAYS
