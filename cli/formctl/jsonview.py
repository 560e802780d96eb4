"""Records → plain values for `-o json`. Pure. Keys are stable; docs/cli.md lists them.

Values of environment variables never appear, only their names. Times are RFC 3339 in UTC, or
null for never.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence

from formation.artifacts import Artifact
from formation.builds import Build
from formation.gaps import Gap
from formation.identity import IssuedIdentity, JoinToken
from formation.model import App, AuditRecord, Probe, ProcessType, Release, Usage
from formation.releasecommand import CommandEnd, ReleaseCommand
from formation.requests import Run
from formation.rules import Schedule
from formation.secrets import changed_secrets
from formctl import render, renderaccess, renderchange, wording
from formctl.details import Details
from formctl.loglines import Line
from formctl.renderevents import Event
from formctl.rendersecret import SecretLine
from formctl.views import AppLine, HostLine, Instance

Json = dict[str, object]


def instance(item: Instance) -> Json:
    status = item.status
    return {
        "uid": status.uid if item.is_placed else None,
        "app": item.slot.app,
        "type": item.slot.type,
        "ordinal": item.slot.ordinal,
        "state": item.state.name.lower(),
        "host": item.host or None,
        "port": status.port or None,
        "pid": status.pid or None,
        "started_at": _time(status.started_at_ms),
        "restarts": max(0, status.attempt - 1),
        "release": status.release,
        "reason": status.reason,
        "last_exit": status.last_exit,
        "retry_at": _time(status.retry_at_ms),
        "surplus": item.surplus,
        "host_silent": item.host_silent,
        "current": item.current,
        "failures": status.failures,
        "crash_looping": status.crash_looping,
        "told": status.told,
        "surge": item.surge,
        "run": item.run or None,
        "placed_because": item.because,
    }


def token(item: JoinToken) -> Json:
    """Nothing of it would let anybody join."""
    return {
        "id": item.id,
        "role": str(item.role),
        "name": item.name or None,
        "apps": list(item.apps),
        "uses_left": item.uses_left,
        "created_at": _time(item.created_at_ms),
        "expires_at": _time(item.expires_at_ms),
        "who": item.who,
    }


def identity(item: IssuedIdentity) -> Json:
    return {
        "role": str(item.role),
        "name": item.name,
        "apps": list(item.apps),
        "issued_at": _time(item.issued_at_ms),
        "expires_at": _time(item.expires_at_ms),
        "revoked": renderaccess.is_revoked(item),
    }


def usage(found: Usage | None) -> Json | None:
    """null: nobody could be asked."""
    if found is None:
        return None
    return {
        "cpu_s": found.cpu_s,
        "cpu_share": found.cpu_share,
        "memory_bytes": found.memory_bytes,
        "processes": found.processes,
        "files": found.files if found.files >= 0 else None,
        "log_bytes": found.log_bytes,
        "log_bytes_per_s": found.log_bytes_per_s,
    }


def details(found: Details) -> Json:
    return {
        **instance(found.instance),
        "settings": process_type(found.spec) if found.spec else None,
        "usage": usage(found.usage),
        "lines": [log_line(line) for line in found.lines],
    }


def process_type(spec: ProcessType) -> Json:
    return {
        "type": spec.name,
        "command": spec.command,
        "restart": spec.restart.value,
        "stop_signal": spec.stop_signal,
        "stop_grace_s": spec.stop_grace_s,
        "stop_to": spec.stop_to.value,
        "stop_drain_s": spec.stop_drain_s,
        "ready_after_s": spec.ready_after_s,
        "readiness": _probe(spec.readiness),
        "liveness": _probe(spec.liveness),
        "notify": spec.notify,
        "watchdog_s": spec.watchdog_s or None,
        "start_grace_s": spec.start_grace_s,
        "port": spec.port or None,
        "user": spec.user or None,
        "group": spec.group or None,
        "workdir": spec.workdir or None,
        "umask": f"{spec.umask:03o}" if spec.umask >= 0 else None,
        "nice": spec.nice,
        "requires": [ability.value for ability in spec.requires],
        "limits": {
            "cpus": spec.limits.cpus or None,
            "memory_bytes": spec.limits.memory_bytes or None,
            "pids": spec.limits.pids or None,
            "rlimits": dict(sorted(spec.limits.rlimits.items())),
        },
        "env_names": sorted(spec.env),
        "exclusive": spec.exclusive,
        "per_host": spec.per_host,
        "secrets": None if spec.secrets is None else list(spec.secrets),
        "secret_files": list(spec.secret_files),
        **_rules(spec),
    }


def _rules(spec: ProcessType) -> Json:
    where, rollout, loss = spec.where, spec.rollout, spec.on_host_loss
    return {
        "resources": {
            "cpus": spec.resources.cpus or None,
            "memory_bytes": spec.resources.memory_bytes or None,
        },
        "placement": {
            "require": [str(item) for item in where.require],
            "prefer": [str(item) for item in where.prefer],
            "spread": list(where.spread),
            "max_per_host": where.max_per_host or None,
            "apart_from": list(where.apart_from),
        },
        "rollout": {
            "surge": str(rollout.surge),
            "unavailable": str(rollout.unavailable),
            "healthy_s": rollout.healthy_s,
            "deadline_s": rollout.deadline_s,
            "rollback": rollout.rollback,
        },
        "schedule": _schedule(spec.schedule),
        "on_host_loss": {
            "action": loss.action.value,
            "after_s": loss.after_s or None,
            "keep": loss.keep.value,
        },
    }


def _schedule(schedule: Schedule | None) -> Json | None:
    if schedule is None:
        return None
    return {
        "cron": schedule.cron,
        "zone": schedule.zone,
        "overlap": schedule.overlap.value,
        "missed": schedule.missed.value,
        "keep": schedule.keep,
    }


def _probe(probe: Probe | None) -> Json | None:
    if probe is None:
        return None
    return {
        "kind": probe.kind.value,
        "target": probe.target or None,
        "port": probe.port or None,
        "every_s": probe.period_s,
        "timeout_s": probe.timeout_s,
        "failures": probe.failures,
        "successes": probe.successes,
    }


def host(line: HostLine) -> Json:
    status, capacity = line.status, line.status.capacity
    return {
        "host": status.host,
        "state": render.host_state(line),
        "instances": line.instances,
        "healthy": line.healthy,
        "instances_max": capacity.instances_max or None,
        "cpus": capacity.cpus,
        "memory_bytes": capacity.memory_bytes,
        "address": status.address,
        "labels": dict(sorted(line.labels.items())),
        "cordoned": line.word is not None and line.word.cordoned,
        "draining": line.word is not None and line.word.draining,
        "agent_version": status.agent_version,
        "coordinator": line.coordinator_id or None,
        "session_since": _time(line.since_ms),
        "complaint": status.complaint,
        "abilities": [ability.value for ability in status.abilities],
        "inability": status.inability,
    }


def app(line: AppLine) -> Json:
    return {
        "app": line.app.name,
        "release": line.app.release,
        "formation": line.formation(),
        "healthy": line.healthy,
        "wanted": line.wanted,
        "created_at": _time(line.app.created_at_ms),
    }


def _artifact(artifact: Artifact | None) -> Json | None:
    """None: its code lies on the hosts."""
    if artifact is None:
        return None
    return {"digest": artifact.digest, "size_bytes": artifact.size_bytes}


def build(found: Build | None) -> Json | None:
    if found is None:
        return None
    return {
        "command": found.command,
        "timeout_s": found.timeout_s,
        "user": found.user or None,
        "group": found.group or None,
    }


def release_command(command: ReleaseCommand | None) -> Json | None:
    if command is None:
        return None
    return {
        "command": command.command,
        "type": command.like or None,
        "timeout_s": command.timeout_s,
    }


def _command_end(end: CommandEnd | None) -> Json | None:
    """null: it is not over, or there is none."""
    return {"passed": end.passed, "how": end.how, "at": _time(end.at_ms)} if end else None


def release(item: Release, *, app: App) -> Json:
    return {
        "app": item.app,
        "release": item.number,
        "current": item.number == app.release,
        "stable": item.number == app.stable_release,
        "undone": item.number == app.rollout.undone_release,
        "candidate": app.candidate is not None and item.number == app.candidate.release,
        "release_command": release_command(item.command),
        "release_command_end": _command_end(item.command_end),
        "types": [process_type(spec) for spec in item.types],
        "env_names": sorted(item.env),
        "config_names": sorted(item.config),
        "secrets": {name: secret.version for name, secret in sorted(item.secrets.items())},
        "workdir": item.workdir,
        "artifact": _artifact(item.artifact),
        "build": build(item.build),
        "created_at": _time(item.created_at_ms),
        "created_by": item.created_by,
        "reason": item.reason,
    }


def event(item: Event) -> Json:
    return {
        "at": _time(item.at_ms),
        "what": item.what,
        "subject": item.subject,
        "app": item.app,
        "host": item.host,
        "text": item.text,
    }


def audit(record: AuditRecord) -> Json:
    return {
        "at": _time(record.at_ms),
        "who": record.who,
        "action": record.action,
        "subject": record.subject,
        "from": record.before,
        "to": record.after,
        "detail": record.detail,
        "why": record.why,
    }


def config(found: Sequence[tuple[str, str, str]], *, app: str, release: int) -> Json:
    """(name, value, origin) of each variable; values never appear."""
    variables = [{"name": name, "from": origin} for name, _, origin in found]
    return {"app": app, "release": release, "variables": variables}


def secrets(found: Sequence[SecretLine], *, app: str, release: int) -> Json:
    listed = [
        {
            "name": item.name,
            "version": item.version or None,
            "set_at": _time(item.set_at_ms),
            "set_by": item.set_by,
            "key": item.key,
            "types": list(item.types),
        }
        for item in found
    ]
    return {"app": app, "release": release, "secrets": listed}


def diff(before: Release, after: Release, changed_env: Sequence[str]) -> Json:
    old, new = ({spec.name: spec for spec in r.types} for r in (before, after))
    env = [{*r.env, *r.config} for r in (before, after)]
    return {
        "app": after.app,
        "before": before.number,
        "after": after.number,
        "types_added": [name for name in new if name not in old],
        "types_removed": [name for name in old if name not in new],
        "types_changed": {
            name: {"before": process_type(old[name]), "after": process_type(new[name])}
            for name in new
            if name in old and process_type(old[name]) != process_type(new[name])
        },
        "env_added": sorted(env[1] - env[0]),
        "env_removed": sorted(env[0] - env[1]),
        "env_changed": list(changed_env),
        "secrets_added": sorted(after.secrets.keys() - before.secrets.keys()),
        "secrets_removed": sorted(before.secrets.keys() - after.secrets.keys()),
        "secrets_changed": changed_secrets(before.secrets, after.secrets),
        "workdir_changed": before.workdir != after.workdir,
        "artifact_changed": before.artifact != after.artifact,
        "build_changed": before.build != after.build,
    }


def rollout(line: AppLine, instances: Iterable[Instance]) -> Json:
    found = [i for i in instances if i.slot.app == line.app.name and not i.run and i.is_placed]
    word = line.app.rollout
    return {
        "app": line.app.name,
        "release": line.app.release,
        "stable": line.app.stable_release or None,
        "phase": renderchange.phase(line.app),
        "canary": word.canary or None,
        "candidate": line.app.candidate.release if line.app.candidate else None,
        "undone": word.undone_release or None,
        "reason": word.reason,
        "types": [
            {
                "type": name,
                "wanted": line.app.formation.get(name, 0),
                "healthy": sum(i.is_good for i in found if i.slot.type == name),
                "current": sum(i.current for i in found if i.slot.type == name),
                "to_replace": sum(not i.current for i in found if i.slot.type == name),
            }
            for name in line.types
        ],
    }


def run(item: Run) -> Json:
    return {
        "id": item.id,
        "app": item.slot.app,
        "instance": item.slot.short,
        "state": item.state.name.lower(),
        "command": item.command or None,
        "like": item.like or None,
        "release": item.release,
        "who": item.who,
        "created_at": _time(item.created_at_ms),
        "tick_at": _time(item.tick_ms),
        "host": item.host or None,
        "last_exit": item.last_exit,
        "reason": item.reason,
        "ended_at": _time(item.ended_at_ms),
    }


def formation(quantities: Mapping[str, int], *, app: str) -> Json:
    return {"app": app, "formation": dict(quantities)}


def log_line(item: Line) -> Json:
    """`text_base64` is there only when the bytes are not UTF-8; then `text` is an approximation.
    With a `gap` it is no line: `missing` ones were here, null when nobody knows how many."""
    is_gap = item.gap is not Gap.NONE
    line: Json = {
        "at": _time(item.at_us // 1000),
        "app": item.app or None,
        "instance": item.name or None,
        "host": item.host or None,
        "stream": None if is_gap else "stderr" if item.stderr else "stdout",
        "partial": item.partial,
        "gap": item.gap.value or None,
        "missing": item.missing or None,
        "text": item.text.decode(errors="replace"),
    }
    try:
        item.text.decode()
    except UnicodeDecodeError:
        line["text_base64"] = base64.b64encode(item.text).decode()
    return line


def _time(at_ms: int) -> str | None:
    return wording.rfc3339(at_ms) or None
