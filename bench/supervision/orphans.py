"""The supervisor is killed: what runs on with nobody to look after it?"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Sequence

from bench.supervision import processes
from bench.supervision.course import DEADLINE_S, Course
from bench.supervision.figures import Measure
from bench.supervision.formation import Formation
from bench.supervision.processes import Newcomers, TooSlowError

_WITHIN_S = 5.0
_LOOK_S = 0.02


def orphans(course: Course) -> None:
    _kill_supervisor(course)
    with contextlib.suppress(TooSlowError):
        _kill_brain(course)
    with contextlib.suppress(TooSlowError):
        _kill_both(course)


def _kill_supervisor(course: Course) -> None:
    measure = Measure(
        key="orphans", title=f"orphans {_WITHIN_S:g} s after kill -9 of the supervisor",
        unit="processes", aim="0", digits=0,
    )  # fmt: skip
    for kind in course.contestants:
        with (
            contextlib.suppress(TooSlowError),
            course.life(kind, course.sleepers(course.settings.count)) as contestant,
        ):
            newcomers = course.settled(contestant)
            began_s = time.monotonic()
            os.kill(contestant.pid, signal.SIGKILL)
            left = _left_of(newcomers.pids)
            note = "" if left else f"gone after {time.monotonic() - began_s:.2f} s"
            course.figures.add(measure, kind.name, [float(left)], note)


def _kill_brain(course: Course) -> None:
    measure = Measure(
        key="brain", title="children that a kill -9 of the brain ended or doubled",
        unit="processes", aim="0", digits=0,
    )  # fmt: skip
    with course.life(Formation, course.sleepers(course.settings.count)) as formation:
        assert isinstance(formation, Formation)
        newcomers = course.settled(formation)
        before = set(newcomers.pids)
        formation.kill_brain()
        time.sleep(course.settings.settle_s)
        newcomers.look()
        after = set(processes.alive(newcomers.pids))
        course.figures.add(measure, formation.name, [float(len(before ^ after))])


def _kill_both(course: Course) -> None:
    measure = Measure(
        key="both", title="left by kill -9 of keeper and brain, once the next agent runs all anew",
        unit="processes", aim="0", digits=0,
    )  # fmt: skip
    with course.life(Formation, course.sleepers(course.settings.count)) as formation:
        assert isinstance(formation, Formation)
        newcomers = course.settled(formation)
        left_before = formation.kill_both()
        fresh = Newcomers(formation.load.argv)
        formation.start_agent()
        fresh.wait(course.settings.count, DEADLINE_S)
        left = len(processes.alive(newcomers.pids))
        note = f"{left_before} were there before that"
        course.figures.add(measure, formation.name, [float(left)], note)


def _left_of(pids: Sequence[int]) -> int:
    """How many of them run on."""
    ends_s = time.monotonic() + _WITHIN_S
    while (left := len(processes.alive(pids))) and time.monotonic() < ends_s:
        time.sleep(_LOOK_S)
    return left
