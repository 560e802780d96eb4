"""Log lines as an OTLP request in its JSON encoding. Pure.

https://opentelemetry.io/docs/specs/otlp/#json-protobuf-encoding: 64-bit numbers are text, bytes are
base64, names are in lowerCamelCase. One resource for each instance.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence

from formation.gaps import Gap
from formation_agent.logfile_reader import Line

Json = dict[str, object]
_WARN = 13
_SCOPE = "formation"


def request(lines: Sequence[Line], observed_us: int) -> Json:
    """`observed_us`: now. Order is kept within each instance."""
    by_instance: dict[tuple[str, str, int, str], list[Line]] = {}
    for line in lines:
        slot = line.slot
        key = slot.app, slot.type, slot.ordinal, line.host
        by_instance.setdefault(key, []).append(line)
    return {"resourceLogs": [_resource(found, observed_us) for found in by_instance.values()]}


def rejected(answer: object) -> int:
    """How many records a receiver says that it did not take."""
    partial = answer.get("partialSuccess") if isinstance(answer, dict) else None
    count = partial.get("rejectedLogRecords", 0) if isinstance(partial, dict) else 0
    try:
        return max(int(count), 0)
    except (TypeError, ValueError):
        return 0


def _resource(lines: Sequence[Line], observed_us: int) -> Json:
    slot = lines[0].slot
    about = {
        "service.namespace": slot.app,
        "service.name": slot.type,
        "service.instance.id": slot.short,
        "host.name": lines[0].host,
    }
    return {
        "resource": {"attributes": [_text(key, value) for key, value in about.items()]},
        "scopeLogs": [
            {"scope": {"name": _SCOPE}, "logRecords": [_record(x, observed_us) for x in lines]}
        ],
    }


def _record(line: Line, observed_us: int) -> Json:
    """What was written to standard error need not be an error: no severity."""
    attributes = [_text("log.iostream", "stderr" if line.stderr else "stdout")]
    record: Json = {
        "timeUnixNano": str(line.at_us * 1000),
        "observedTimeUnixNano": str(observed_us * 1000),
        "body": _body(line.text),
        "attributes": attributes,
    }
    if line.partial:
        attributes.append({"key": "formation.partial", "value": {"boolValue": True}})
    if line.gap is not Gap.NONE:
        record |= {"severityNumber": _WARN, "severityText": "WARN"}
        attributes.append(_text("formation.gap", line.gap.value))
        missing = {"intValue": str(line.missing)}
        attributes.append({"key": "formation.missing", "value": missing})
    return record


def _body(text: bytes) -> Json:
    try:
        return {"stringValue": text.decode()}
    except UnicodeDecodeError:
        return {"bytesValue": base64.b64encode(text).decode()}


def _text(key: str, value: str) -> Json:
    return {"key": key, "value": {"stringValue": value}}
