"""What the audit trail says of commands that people run beside instances."""

from __future__ import annotations

from formation.v1 import exec_pb2
from formation_coordinator.changing import Changing

COMMAND_SHOWN_MAX = 500


class ExecControl(Changing):
    async def began(self, start: exec_pb2.ExecStart, who: str) -> str:
        """What the two records have in common. Raises StoreError: then nothing may begin."""
        number = self.new_id()[:6]
        audit = self.audit(who, "exec", start.app, _detail(start, number, "began"))
        await self.commit([], [], audit)
        return number

    async def ended(self, start: exec_pb2.ExecStart, who: str, number: str, how: str) -> None:
        """Raises StoreError."""
        audit = self.audit(who, "exec", start.app, _detail(start, number, "ended"), after=how)
        await self.commit([], [], audit)


def _detail(start: exec_pb2.ExecStart, number: str, what: str) -> str:
    line = start.command
    shown = line if len(line) <= COMMAND_SHOWN_MAX else f"{line[:COMMAND_SHOWN_MAX]}…"
    return f"{what} {number} on {start.type}.{start.ordinal} ({start.host}): {shown}"
