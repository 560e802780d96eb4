"""What one scrape of an agent's metrics sees, put together from its rooms."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from formation_agent.logs import Logs
from formation_agent.metrics import Destination, Sight
from formation_agent.session import Session
from formation_agent.supervisor import Supervisor

if TYPE_CHECKING:
    from formation_agent.shipping import Shipper


def look(
    host: str, session: Session, supervisor: Supervisor, logs: Logs, shippers: Sequence[Shipper]
) -> Sight:
    found = supervisor.seen()
    return Sight(
        host=host,
        connected=bool(session.reached),
        alone_s=session.alone_s,
        states=[((s.slot.app, s.slot.type), s.state.name.lower()) for s in found],
        looping=[(s.slot.app, s.slot.type) for s in found if s.crash_looping],
        happened=supervisor.happened,
        written=logs.written,
        destinations=[_destination(shipper) for shipper in shippers],
    )


def _destination(shipper: Shipper) -> Destination:
    shipped = shipper.shipped
    return Destination(
        name=str(shipper.target),
        up=shipped.up,
        lines=shipped.lines,
        missing=shipped.missing,
        refused=shipped.refused,
        failures=shipped.failures,
        last_s=shipped.last_us / 1e6,
    )
