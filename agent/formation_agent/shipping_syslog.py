"""Log lines as syslog messages. Pure. RFC 5424 for the message, RFC 6587 for its frame on a stream.

    <14>1 2026-11-22T02:33:45.123456Z a shop web.1 stdout [formation@32473 app="shop" …] text

The text is not marked as UTF-8 by a byte order mark, which few receivers take away again (MSG-ANY);
it is valid UTF-8 nevertheless: what was not is `\\xff`, and so is every control character but the
tab, so that no line can become two, or a terminal's commands, where it is read.
"""

from __future__ import annotations

import re

from formation.gaps import Gap
from formation_agent.logfile import stamp
from formation_agent.logfile_reader import Line

# A number that RFC 5612 keeps for such use: we have none of our own.
_SD_ID = "formation@32473"
_USER = 1 << 3
_ERROR, _WARNING, _INFO = 3, 4, 6
_LENGTHS = {"host": 255, "app": 48, "instance": 128}
# More than that many receivers do not take in a datagram.
DATAGRAM_MAX = 8192
_CONTROL = re.compile("[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029]")
_CUT = "…".encode()


def message(line: Line, bytes_max: int = 0) -> bytes:
    """`bytes_max`: the text is cut, and ends in …, where it would be longer; 0: never."""
    slot = line.slot
    head = (
        f"<{_USER + _severity(line)}>1 {stamp(line.at_us).decode().strip()} "
        f"{_name(line.host, _LENGTHS['host'])} {_name(slot.app, _LENGTHS['app'])} "
        f"{_name(slot.short, _LENGTHS['instance'])} {'stderr' if line.stderr else 'stdout'} "
        f"{_data(line)} "
    ).encode()
    text = plain(line.text).encode()
    if bytes_max and len(head) + len(text) > bytes_max:
        room = max(bytes_max - len(head) - len(_CUT), 0)
        text = text[:room].decode(errors="ignore").encode() + _CUT
    return head + text


def framed(text: bytes) -> bytes:
    """With its length before it (octet counting)."""
    return b"%d %b" % (len(text), text)


def plain(text: bytes) -> str:
    decoded = text.removesuffix(b"\r").decode(errors="backslashreplace")
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), decoded)


def _severity(line: Line) -> int:
    if line.gap is not Gap.NONE:
        return _WARNING
    return _ERROR if line.stderr else _INFO


def _name(text: str, length: int) -> str:
    """Printable ASCII without blanks; `-` for nothing."""
    found = "".join(c if "!" <= c <= "~" else "?" for c in text[:length])
    return found or "-"


def _data(line: Line) -> str:
    slot = line.slot
    pairs = {"app": slot.app, "type": slot.type, "instance": slot.short, "host": line.host}
    if line.partial:
        pairs["partial"] = "1"
    if line.gap is not Gap.NONE:
        pairs |= {"gap": line.gap.value, "missing": str(line.missing)}
    said = " ".join(f'{name}="{_escaped(value)}"' for name, value in pairs.items())
    return f"[{_SD_ID} {said}]"


def _escaped(value: str) -> str:
    """RFC 5424, 6.3.3."""
    found = _CONTROL.sub("?", value).replace("\t", "?")
    for special in ("\\", '"', "]"):
        found = found.replace(special, "\\" + special)
    return found
