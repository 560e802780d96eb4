"""Start, stop, and a killed child's replacement."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator, Sequence

from bench.supervision import processes
from bench.supervision.contestants import BareLoop, Contestant
from bench.supervision.course import DEADLINE_S, Course
from bench.supervision.figures import Measure
from bench.supervision.processes import Newcomers, Replacement, TooSlowError

_BETWEEN_KILLS_S = 0.02
_KILLS_S = 15.0  # a slow one is killed as often as fits into this


def start_and_stop(course: Course) -> None:
    count = course.settings.count
    start = Measure(
        key="start", title=f"start {count}: from the order to all running", unit="s",
        aim="at least 0.6 of the bare loop's rate; faster than every peer",
    )  # fmt: skip
    cold = Measure(key="cold", title=f"start {count} with the supervisor's own start", unit="s")
    stop = Measure(
        key="stop", title=f"stop {count}: from SIGTERM until supervisor and all are gone",
        unit="s", aim="at most 0.4",
    )  # fmt: skip
    for kind in course.turns(BareLoop, *course.contestants):
        with contextlib.suppress(TooSlowError):
            own_start_s = _own_start_s(course, kind)
            with course.life(kind, course.sleepers(count)) as contestant:
                newcomers, took_s = course.ordered(contestant)
                if own_start_s is None:
                    own_start_s = contestant.boot_s
                    took_s += own_start_s
                course.figures.add(cold, kind.name, [took_s])
                course.figures.add(start, kind.name, [took_s - own_start_s])
                time.sleep(course.settings.settle_s)
                course.figures.add(stop, kind.name, [_stop(contestant, newcomers)])


def _own_start_s(course: Course, kind: type[Contestant]) -> float | None:
    """How long one process takes: what is not the load's, for who is not up before the order."""
    if kind.is_up_before:
        return None
    with course.life(kind, course.sleepers(1)) as contestant:
        return course.ordered(contestant)[1]


def _stop(contestant: Contestant, newcomers: Newcomers) -> float:
    pids = [*contestant.managers(), *newcomers.pids]
    began_s = time.perf_counter()
    contestant.stop()
    return processes.wait_for_end(pids, DEADLINE_S) - began_s


def respawn(course: Course) -> None:
    measure = Measure(
        key="respawn", title="from kill -9 of a child until its replacement runs", unit="ms",
        aim="median at most 5", digits=2,
    )  # fmt: skip
    for kind in course.contestants:
        if not kind.restarts:
            course.figures.add(measure, kind.name, [], "does not restart: it ends all others")
            continue
        with (
            contextlib.suppress(TooSlowError),
            course.life(kind, course.sleepers(course.settings.kills)) as contestant,
        ):
            newcomers = course.settled(contestant)
            values = [1000 * taken_s for taken_s in _kills(newcomers.pids)]
            course.figures.add(measure, kind.name, values, f"{len(values)} kills")


def _kills(pids: Sequence[int]) -> Iterator[float]:
    """Each child once: the second time it would be right to wait."""
    ends_s = time.monotonic() + _KILLS_S
    for pid in pids:
        replacement = Replacement(pid)
        began_s = time.perf_counter()
        os.kill(pid, signal.SIGKILL)
        yield replacement.wait(DEADLINE_S) - began_s
        if time.monotonic() > ends_s:
            return
        time.sleep(_BETWEEN_KILLS_S)
