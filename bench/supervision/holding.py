"""What it takes to have children that do nothing: memory and processor time."""

from __future__ import annotations

import contextlib
import time

from bench.supervision import processes
from bench.supervision.contestants import Contestant
from bench.supervision.course import DEADLINE_S, Course, total
from bench.supervision.figures import Measure
from bench.supervision.formation import Formation
from bench.supervision.processes import Newcomers, TooSlowError


def hold(course: Course, *, memory: bool, idle: bool) -> None:
    for kind in course.contestants:
        with (
            contextlib.suppress(TooSlowError),
            course.life(kind, course.sleepers(course.settings.count)) as contestant,
        ):
            if memory and isinstance(contestant, Formation):
                _keeper_alone(course, contestant)
            course.settled(contestant)
            time.sleep(course.settings.settle_s)
            if idle:
                _idle(course, contestant)
            if memory:
                _memory(course, contestant)
            if memory and isinstance(contestant, Formation):
                _growth(course, contestant)


def _keeper_alone(course: Course, formation: Formation) -> None:
    alone = Measure(
        key="keeper", title="memory of the keeper alone, without children", unit="MiB RSS",
        aim="at most 15", digits=1,
    )  # fmt: skip
    memory = processes.rss_bytes(formation.pid) / processes.MIB
    course.figures.add(alone, formation.name, [memory])


def _memory(course: Course, contestant: Contestant) -> None:
    count = course.settings.count
    rss = Measure(
        key="rss", title=f"memory with {count} children", unit="MiB RSS",
        aim="at most 80 for keeper and brain", digits=1,
    )  # fmt: skip
    pss = Measure(
        key="pss", title=f"memory with {count} children, what is shared counted once",
        unit="MiB PSS", digits=1,
    )  # fmt: skip
    note = f"{len(contestant.managers())} process(es)"
    course.figures.add(rss, contestant.name, [total(processes.rss_bytes, contestant)], note)
    course.figures.add(pss, contestant.name, [total(processes.pss_bytes, contestant)])


def _growth(course: Course, formation: Formation) -> None:
    count = course.settings.count
    measure = Measure(
        key="growth", title=f"memory for each child more, from {count} to {2 * count}",
        unit="KiB PSS", aim="at most 30", digits=1,
    )  # fmt: skip
    before = total(processes.pss_bytes, formation)
    newcomers = Newcomers(formation.load.argv)
    formation.grow(2 * count)
    newcomers.wait(count, DEADLINE_S)
    time.sleep(2 * course.settings.settle_s)
    more = total(processes.pss_bytes, formation) - before
    course.figures.add(measure, formation.name, [1024 * more / count])


def _idle(course: Course, contestant: Contestant) -> None:
    measure = Measure(
        key="idle", title=f"processor time with {course.settings.count} idle children",
        unit="% of one core", aim="at most 0.1",
    )  # fmt: skip
    managers = contestant.managers()
    before_s, began_s = processes.cpu_s(managers), time.perf_counter()
    time.sleep(course.settings.idle_s)
    used_s, took_s = processes.cpu_s(managers) - before_s, time.perf_counter() - began_s
    course.figures.add(measure, contestant.name, [100 * used_s / took_s])
