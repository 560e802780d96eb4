"""Records → plain values for `-o json`. Pure. Keys are stable; docs/cli.md lists them.

Values of environment variables never appear, only their names. Times are RFC 3339 in UTC, or
null for never.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping

from formation.model import AuditRecord, Release
from formctl import render, wording
from formctl.loglines import Line
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
        "labels": dict(sorted(status.labels.items())),
        "agent_version": status.agent_version,
        "coordinator": line.coordinator_id or None,
        "session_since": _time(line.since_ms),
        "complaint": status.complaint,
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


def release(item: Release, *, current: int) -> Json:
    return {
        "app": item.app,
        "release": item.number,
        "current": item.number == current,
        "types": [
            {
                "type": spec.name,
                "command": spec.command,
                "stop_signal": spec.stop_signal,
                "stop_grace_s": spec.stop_grace_s,
                "ready_after_s": spec.ready_after_s,
            }
            for spec in item.types
        ],
        "env_names": sorted(item.env),
        "workdir": item.workdir,
        "created_at": _time(item.created_at_ms),
        "created_by": item.created_by,
        "reason": item.reason,
    }


def audit(record: AuditRecord) -> Json:
    return {
        "at": _time(record.at_ms),
        "who": record.who,
        "action": record.action,
        "subject": record.subject,
        "detail": record.detail,
    }


def formation(quantities: Mapping[str, int], *, app: str) -> Json:
    return {"app": app, "formation": dict(quantities)}


def log_line(item: Line) -> Json:
    """`text_base64` is there only when the bytes are not UTF-8; then `text` is an approximation."""
    line: Json = {
        "at": _time(item.at_us // 1000),
        "app": item.app,
        "instance": item.name,
        "host": item.host,
        "stream": "stderr" if item.stderr else "stdout",
        "partial": item.partial,
        "text": item.text.decode(errors="replace"),
    }
    try:
        item.text.decode()
    except UnicodeDecodeError:
        line["text_base64"] = base64.b64encode(item.text).decode()
    return line


def _time(at_ms: int) -> str | None:
    return wording.rfc3339(at_ms) or None
