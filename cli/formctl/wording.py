"""How states, ends, ages and countdowns read. Pure; all commands say it the same way."""

from __future__ import annotations

from datetime import UTC, datetime

from formation.seen import InstanceState
from formctl.views import Instance

_MINUTE_S, _HOUR_S, _DAY_S = 60, 3600, 86_400
_EXIT, _SIGNAL, _OUT_OF_MEMORY = "exit ", "signal ", "out of memory ("
# Larger figures have no use for tenths.
_TENTHS_BELOW = 10
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")
_STEP = 1024
_SIGNAL_BASE = 128
_CANNOT_START = 127
_SIGNAL_NUMBERS = {
    "HUP": 1, "INT": 2, "QUIT": 3, "ILL": 4, "TRAP": 5, "ABRT": 6, "BUS": 7, "FPE": 8, "KILL": 9,
    "USR1": 10, "SEGV": 11, "USR2": 12, "PIPE": 13, "ALRM": 14, "TERM": 15,
}  # fmt: skip


def age(seconds: float) -> str:
    """`7s`, `3m12s`, `2h5m`, `4d3h`: two units at most."""
    whole = max(0, int(seconds))
    if whole < _MINUTE_S:
        return f"{whole}s"
    if whole < _HOUR_S:
        return f"{whole // _MINUTE_S}m{whole % _MINUTE_S}s"
    if whole < _DAY_S:
        return f"{whole // _HOUR_S}h{whole % _HOUR_S // _MINUTE_S}m"
    return f"{whole // _DAY_S}d{whole % _DAY_S // _HOUR_S}h"


def since(at_ms: int, now_ms: int) -> str:
    """Clocks of machines differ a little: nothing is ever in the future."""
    return age((now_ms - at_ms) / 1000) if at_ms else ""


def retry(retry_at_ms: int, now_ms: int) -> str:
    """`retry in 7s`; rounded up, so that it does not say 0 while one still waits."""
    left_ms = retry_at_ms - now_ms
    return f"retry in {age((left_ms + 999) // 1000)}" if left_ms > 0 else "retry now"


def amount(size: float) -> str:
    """Of bytes, in three digits: `0 B`, `512 MiB`, `1.5 GiB`."""
    units = iter(_UNITS)
    unit = next(units)
    while size >= _STEP and unit != _UNITS[-1]:
        size, unit = size / _STEP, next(units)
    return f"{size:.1f} {unit}" if size < _TENTHS_BELOW and unit != "B" else f"{size:.0f} {unit}"


def share(cores: float) -> str:
    """Of one core: `0.3%`, `12%`, `250%`."""
    percent = cores * 100
    return f"{percent:.1f}%" if percent < _TENTHS_BELOW else f"{percent:.0f}%"


def rfc3339(at_ms: int) -> str:
    """UTC with milliseconds; "" for never."""
    if not at_ms:
        return ""
    moment = datetime.fromtimestamp(at_ms / 1000, UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{at_ms % 1000:03d}Z"


def state(instance: Instance) -> str:
    """One word or two: what a person should think of it now."""
    if instance.host_silent:
        return "host silent"
    if instance.surplus and instance.state is not InstanceState.DRAINING:
        return "leaving"
    return instance.state.name.lower()


def trouble(instance: Instance, now_ms: int) -> str:
    """Why it is not simply healthy; "" when it is."""
    status, parts = instance.status, []
    if instance.state is not InstanceState.HEALTHY:
        if status.crash_looping:
            parts += ["crash loop", next_try(instance, now_ms)]
        parts.append(status.reason or ended(status.last_exit))
        if instance.state is InstanceState.BACKOFF and not status.crash_looping:
            parts.append(retry(status.retry_at_ms, now_ms) if status.retry_at_ms else "")
    if instance.host_silent:
        parts.append("last seen " + instance.state.name.lower())
    elif not instance.current and not instance.surplus and instance.is_placed:
        parts.append("to be replaced")
    return ", ".join(part for part in parts if part)


def next_try(instance: Instance, now_ms: int) -> str:
    """`try 7 in 12s`; "" when none is waited for."""
    status = instance.status
    if instance.state is not InstanceState.BACKOFF or not status.retry_at_ms:
        return ""
    left_ms = status.retry_at_ms - now_ms
    when = f"in {age((left_ms + 999) // 1000)}" if left_ms > 0 else "now"
    return f"try {status.attempt + 1} {when}"


def note(instance: Instance, now_ms: int) -> str:
    """Its trouble; or else what it says of itself."""
    return trouble(instance, now_ms) or instance.status.told


def ended(last_exit: str) -> str:
    """`exit 1` → `exited with code 1`, `signal KILL` → `killed by signal KILL`."""
    if last_exit.startswith(_OUT_OF_MEMORY):
        how = last_exit.removeprefix(_OUT_OF_MEMORY).removesuffix(")")
        return f"ran out of memory and {ended(how).replace('killed', 'was killed')}"
    if last_exit.startswith(_EXIT):
        return f"exited with code {last_exit.removeprefix(_EXIT)}"
    if last_exit.startswith(_SIGNAL):
        return f"killed by signal {last_exit.removeprefix(_SIGNAL)}"
    return last_exit


def exit_code(last_exit: str) -> int:
    """As a shell would see it: 128 + number for a signal, 127 for what never started."""
    last_exit = last_exit.removeprefix(_OUT_OF_MEMORY).removesuffix(")")
    code = last_exit.removeprefix(_EXIT)
    if last_exit.startswith(_EXIT) and code.isdigit():
        return int(code)
    if last_exit.startswith(_SIGNAL):
        # Without `(core dumped)`.
        name = last_exit.removeprefix(_SIGNAL).removeprefix("SIG").split(" ")[0]
        number = int(name) if name.isdigit() else _SIGNAL_NUMBERS.get(name, 0)
        return _SIGNAL_BASE + number
    return _CANNOT_START
