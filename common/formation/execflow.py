"""How much of an exec's bytes may be under way, and when silence means that nobody is there. Pure.

One `Sending` and one `Taking` for each direction, at its two ends. Counts are of bytes since the
beginning. The rules are those of docs/design/exec.md.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

CHUNK_BYTES = 32 * 1024
WINDOW_BYTES = 256 * 1024
# Told of when so much was taken since the last time: seldom, and long before the window is used up.
TELL_BYTES = WINDOW_BYTES // 4
PING_S = 5.0
SILENCE_S = 20.0
# From HUP to KILL.
GRACE_S = 3.0
COMMAND_CHARS_MAX = 64 * 1024
SIZE_MAX = 10_000
_SIGNAL_BASE = 128
CANNOT_START = 127


class FlowError(Exception):
    """The other end does not keep to the rules; one line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sending:
    """`sent`: by us; `taken`: by the other end, as it has told."""

    sent: int = 0
    taken: int = 0

    @property
    def room(self) -> int:
        """How long the next piece may be; 0: wait until more was taken."""
        return min(CHUNK_BYTES, WINDOW_BYTES - (self.sent - self.taken))

    def after(self, count: int) -> Sending:
        assert count <= self.room, (count, self)
        return replace(self, sent=self.sent + count)

    def told(self, taken: int) -> Sending:
        """Raises `FlowError` for more than there was, or less than before."""
        if not self.taken <= taken <= self.sent:
            raise FlowError(f"it took {taken} bytes of {self.sent}, after {self.taken}")
        return replace(self, taken=taken)


@dataclass(frozen=True, slots=True, kw_only=True)
class Taking:
    """`came`: from the other end; `taken`: written to where it goes; `told`: of that."""

    came: int = 0
    taken: int = 0
    told: int = 0

    @property
    def held(self) -> int:
        return self.came - self.taken

    @property
    def owes(self) -> bool:
        """Is it time to tell?"""
        return self.taken - self.told >= TELL_BYTES

    def arrived(self, count: int) -> Taking:
        """Raises `FlowError` for more than may be under way."""
        if self.held + count > WINDOW_BYTES:
            raise FlowError(f"it sent more than {WINDOW_BYTES} bytes that were not taken yet")
        return replace(self, came=self.came + count)

    def took(self, count: int) -> Taking:
        assert count <= self.held, (count, self)
        return replace(self, taken=self.taken + count)

    def telling(self) -> Taking:
        return replace(self, told=self.taken)


def size_in_bounds(rows: int, columns: int) -> tuple[int, int]:
    """What a terminal may be told; 0 is: not known."""
    return min(rows, SIZE_MAX), min(columns, SIZE_MAX)


def shell_code(code: int | None, signal: int | None) -> int:
    """As a shell says it."""
    if signal is not None:
        return _SIGNAL_BASE + signal
    return CANNOT_START if code is None else code
