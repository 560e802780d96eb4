"""Log lines as datagrams of journald's native protocol. Pure.

https://systemd.io/JOURNAL_NATIVE_PROTOCOL/: `NAME=value` and a newline, or, where a value may have
any byte in it, the name, a newline, the length (64 bits, little endian), the value, a newline. The
message always goes the second way, so nothing that a process writes can become a field.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping

from formation.gaps import Gap
from formation_agent.logfile import stamp
from formation_agent.logfile_reader import Line

# As Docker does it; a process may say otherwise nowhere.
_INFO, _WARNING, _ERROR = b"6", b"4", b"3"
_NAME = re.compile(r"[A-Z][A-Z0-9_]{0,63}")
_FACILITY_USER = b"1"


def entry(line: Line) -> bytes:
    """One datagram."""
    return encoded(_fields(line))


def encoded(fields: Mapping[str, bytes]) -> bytes:
    out = bytearray()
    for name, value in fields.items():
        assert _NAME.fullmatch(name), name
        if name == "MESSAGE" or b"\n" in value:
            out += name.encode() + b"\n" + struct.pack("<Q", len(value)) + value + b"\n"
        else:
            out += name.encode() + b"=" + value + b"\n"
    return bytes(out)


def _fields(line: Line) -> dict[str, bytes]:
    slot = line.slot
    fields = {
        "MESSAGE": line.text,
        "PRIORITY": _priority(line),
        "SYSLOG_FACILITY": _FACILITY_USER,
        "SYSLOG_IDENTIFIER": f"{slot.app}.{slot.short}".encode(),
        "FORMATION_APP": slot.app.encode(),
        "FORMATION_TYPE": slot.type.encode(),
        "FORMATION_INSTANCE": slot.short.encode(),
        "FORMATION_HOST": line.host.encode(),
        "FORMATION_STREAM": b"stderr" if line.stderr else b"stdout",
        # journald takes the time of arrival; a line may have waited.
        "FORMATION_TIME": stamp(line.at_us).strip(),
    }
    if line.partial:
        fields["FORMATION_PARTIAL"] = b"1"
    if line.gap is not Gap.NONE:
        fields["FORMATION_GAP"] = line.gap.value.encode()
        fields["FORMATION_MISSING"] = b"%d" % line.missing
    return fields


def _priority(line: Line) -> bytes:
    if line.gap is not Gap.NONE:
        return _WARNING
    return _ERROR if line.stderr else _INFO
