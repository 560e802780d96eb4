"""Which lines of which slots somebody wants to read. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from formation.gaps import Gap
from formation.model import Slot
from formation_agent.logfile_reader import Line


@dataclass(frozen=True, slots=True, kw_only=True)
class LogChoice:
    """`targets`: (type, ordinal), any of them, or all when there are none; "", 0: any. `text`:
    lines that have just these bytes in them; one that was cut is in several pieces. Times of 0 do
    not matter. Where lines are missing is told whatever is chosen."""

    app: str = ""
    targets: tuple[tuple[str, int], ...] = ()
    not_before_us: int = 0
    not_after_us: int = 0
    text: bytes = b""

    def wants(self, slot: Slot) -> bool:
        if self.app not in ("", slot.app):
            return False
        return not self.targets or any(
            name in ("", slot.type) and ordinal in (0, slot.ordinal)
            for name, ordinal in self.targets
        )

    def takes(self, line: Line) -> bool:
        if line.gap is not Gap.NONE:
            return True
        if line.at_us < self.not_before_us or self.text not in line.text:
            return False
        return not self.not_after_us or line.at_us <= self.not_after_us

    @property
    def takes_all(self) -> bool:
        return not (self.not_before_us or self.not_after_us or self.text)
