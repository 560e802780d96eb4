"""Everything about one instance → text for people. Pure: what is now is an argument."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from formation.model import ProcessType, Usage
from formctl import render, typelines, wording
from formctl.loglines import Line, clock, escaped
from formctl.tables import hanging, printable
from formctl.views import Instance

_LABEL_WIDTH = len("last exit")


@dataclass(frozen=True, slots=True, kw_only=True)
class Details:
    """`spec` None: its release is not known any more. `usage` None: nobody could be asked.
    `lines`: the end of its log, oldest first."""

    instance: Instance
    spec: ProcessType | None = None
    usage: Usage | None = None
    lines: tuple[Line, ...] = ()


def instance(found: Details, *, now_ms: int, colour: bool = False, width: int | None = None) -> str:
    item = found.instance
    status = item.status
    state = wording.state(item)
    facts = [
        ("next try", _next_try(item, now_ms)),
        *((label, printable(text)) for label, text in _facts(item, now_ms)),
        ("says", printable(status.told)),
        *((label, printable(text)) for label, text in _settings(found.spec)),
        ("usage", used(found.usage)),
    ]
    lines = [_line(label, text, width) for label, text in facts if text]
    # By itself, since wrapping would count the colour's characters.
    state = _line("state", render.painted_state(item, state) if colour else state, None)
    return "\n".join([f"{status.slot}", state, *lines])


def _line(label: str, text: str, width: int | None) -> str:
    return hanging(f"  {label.ljust(_LABEL_WIDTH)}  ", text, width)


def _next_try(item: Instance, now_ms: int) -> str:
    status = item.status
    if not status.failures:
        return wording.next_try(item, now_ms)
    row = "1 failure" if status.failures == 1 else f"{status.failures} failures in a row"
    loop = "crash loop, " if status.crash_looping else ""
    return f"{wording.next_try(item, now_ms) or 'this is one'}, {loop}after {row}"


def _facts(item: Instance, now_ms: int) -> list[tuple[str, str]]:
    status = item.status
    since = status.started_at_ms
    up = f"{wording.since(since, now_ms)}, since {render.local_time(since)}" if since else ""
    return [
        ("reason", status.reason),
        ("last exit", wording.ended(status.last_exit)),
        ("host", f"{item.host} (silent)" if item.host_silent else item.host or "none yet"),
        ("pid", str(status.pid) if status.pid else ""),
        ("port", str(status.port) if status.port else ""),
        ("up", up),
        ("starts", str(status.attempt) if item.is_placed else ""),
        ("release", _release(item)),
    ]


def _release(item: Instance) -> str:
    behind = item.is_placed and not item.current and not item.surplus
    return f"v{item.status.release}{', to be replaced' if behind else ''}"


def _settings(spec: ProcessType | None) -> list[tuple[str, str]]:
    return typelines.described(spec) if spec else []


def settings_lines(spec: ProcessType) -> list[str]:
    """How its type is run, a line each."""
    return [_line(label, printable(text), None) for label, text in _settings(spec)]


def used(usage: Usage | None) -> str:
    """One line; "" when it is not known."""
    if usage is None:
        return ""
    found = [
        f"cpu {wording.share(usage.cpu_share)} ({usage.cpu_s:.1f} s)",
        f"memory {wording.amount(usage.memory_bytes)}",
        f"{usage.processes} process{'' if usage.processes == 1 else 'es'}",
        f"{usage.files} files" if usage.files >= 0 else "",
        f"log {wording.amount(usage.log_bytes_per_s)}/s",
    ]
    return ", ".join(part for part in found if part)


def log_lines(lines: Sequence[Line], *, colour: bool = False) -> list[str]:
    """`03:31:59 text`, safe for a terminal."""
    return [f"{clock(line.at_us)} {escaped(line.text, colour=colour).decode()}" for line in lines]
