"""When a scheduled type is to run. Pure: wall clock times are arguments, in ms since 1970 (UTC).

Ticks are minutes of the type's time zone, by Vixie cron's rules as cronsim has them: a time that a
clock change leaves out runs right after it, one that comes twice runs once.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

from cronsim import CronSim

from formation.rules import Missed, Schedule

# A tick that nobody led at is still run so late, whatever the schedule says of missed ones: it is
# what a change of leaders takes, and more.
LATE_MAX_MS = 60_000
# Longer ago than this nothing is looked for: a type may say "every minute" and be away for years.
LOOK_BACK_MS = 7 * 24 * 3_600_000
_DUE_MAX = 1_000
_MS = 1_000


def next_tick_ms(schedule: Schedule, after_ms: int) -> int | None:
    """The first tick after this moment; None: there is none in the next fifty years."""
    return next(_ticks(schedule, after_ms), None)


def due_tick_ms(schedule: Schedule, last_ms: int, now_ms: int) -> int | None:
    """The tick to run now: the newest since `last_ms` (the last one that was run or skipped)."""
    newest, passed = None, 0
    for tick_ms in _ticks(schedule, max(last_ms, now_ms - LOOK_BACK_MS)):
        if tick_ms > now_ms or passed == _DUE_MAX:
            break
        newest, passed = tick_ms, passed + 1
    if newest is None:
        return None
    late = now_ms - newest > LATE_MAX_MS
    return None if late and schedule.missed is Missed.SKIP else newest


def _ticks(schedule: Schedule, after_ms: int) -> Iterator[int]:
    zone = ZoneInfo(schedule.zone)
    start = datetime.fromtimestamp(after_ms / _MS, UTC).astimezone(zone)
    for moment in CronSim(schedule.cron, start):
        tick_ms = int(moment.timestamp()) * _MS
        if tick_ms > after_ms:
            yield tick_ms
