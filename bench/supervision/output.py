"""What becomes of the lines that children write: how fast, how whole, at what cost of memory."""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from bench.supervision import lines, processes
from bench.supervision.contestants import BareCopy, Contestant, Load
from bench.supervision.course import DEADLINE_S, Course, total
from bench.supervision.figures import Measure
from bench.supervision.formation import Formation
from bench.supervision.processes import TooSlowError

_LOOK_S, _LIST_S = 0.005, 0.2
_STUCK_S = 5.0


def one_writer(course: Course) -> None:
    each = course.settings.lines
    rate = Measure(
        key="log", title=f"{each:,} lines of 100 bytes from one child, into a file",
        unit="million lines/s", aim="at least 2, with timestamps, intact", more=True,
    )  # fmt: skip
    for kind in course.turns(BareCopy, *course.contestants):
        load = Load(argv=_writer(course, each), count=1, logs=True)
        with contextlib.suppress(TooSlowError):
            _write(course, kind, load, each, rate)


def many_writers(course: Course) -> None:
    writers = course.settings.writers
    each = course.settings.lines // writers
    rate = Measure(
        key="merged", title=f"{writers} children with {each:,} lines each at once, into files",
        unit="million lines/s", more=True,
    )  # fmt: skip
    for kind in course.turns(*course.contestants):
        load = Load(argv=_writer(course, each), count=writers, logs=True, merged=kind.merges)
        with contextlib.suppress(TooSlowError):
            _write(course, kind, load, each, rate)
    with contextlib.suppress(TooSlowError):
        _follow(course, writers, each)


def _write(course: Course, kind: type[Contestant], load: Load, each: int, rate: Measure) -> None:
    peak = Measure(
        key=f"{rate.key}_peak", title=f"its memory meanwhile, at most ({rate.title})",
        unit="MiB RSS", digits=1,
    )  # fmt: skip
    with _waiting(course, kind, load) as (contestant, go):
        began_s = go()
        ended_s = _quiet_since(contestant, load.count * each * lines.LINE_BYTES, course)
        peak_memory = total(processes.rss_peak_bytes, contestant)
        written = lines.of_files(contestant.output_files())
        verdict = lines.check(
            written, writers=load.count, lines=each, prefix=contestant.line_prefix
        )
        note = f"{verdict}, in one file" if load.merged else str(verdict)
        course.figures.add(rate, kind.name, [verdict.whole / (ended_s - began_s) / 1e6], note)
        course.figures.add(peak, kind.name, [peak_memory])


def _follow(course: Course, writers: int, each: int) -> None:
    """The merged stream that a coordinator gets, as it happens."""
    measure = Measure(
        key="followed", title="the same lines as a coordinator gets them, merged",
        unit="million lines/s", more=True,
    )  # fmt: skip
    load = Load(argv=_writer(course, each), count=writers, logs=True)
    with _waiting(course, Formation, load) as (contestant, go):
        assert isinstance(contestant, Formation)
        contestant.follow()
        began_s = go()
        ended_s = _until_steady(contestant.followed_count, writers * each)
        memory = total(processes.rss_peak_bytes, contestant)
        texts = (text + b"\n" for text in contestant.followed())
        verdict = lines.check(texts, writers=writers, lines=each)
        note = f"{verdict}; memory at most {memory:.1f} MiB RSS"
        rate = verdict.whole / (ended_s - began_s) / 1e6
        course.figures.add(measure, contestant.name, [rate], note)


def after_many_lines(course: Course) -> None:
    each = course.settings.flat_lines
    measure = Measure(
        key="flat", title=f"memory more after {each:,} lines, files rotated as by default",
        unit="MiB RSS", aim="flat", digits=1,
    )  # fmt: skip
    load = Load(argv=_writer(course, each), count=1, logs=True, rotated=True)
    with contextlib.suppress(TooSlowError), _waiting(course, Formation, load) as (contestant, go):
        before = total(processes.rss_bytes, contestant)
        go()
        _quiet_since(contestant, 1, course)
        more = total(processes.rss_bytes, contestant) - before
        course.figures.add(measure, contestant.name, [more])


# --- writers that wait for the word ---------------------------------------------------------------


def _writer(course: Course, each: int) -> tuple[str, ...]:
    name = course.fresh_name()
    fifo = os.path.join(tempfile.gettempdir(), name)
    return (*course.tools.line_writer, str(each), fifo, name)


@contextlib.contextmanager
def _waiting(
    course: Course, kind: type[Contestant], load: Load
) -> Iterator[tuple[Contestant, Callable[[], float]]]:
    """All writers wait for `go`, which says when it was."""
    fifo = load.argv[-2]
    os.mkfifo(fifo)
    opened: list[int] = []

    def go() -> float:
        now_s = time.perf_counter()
        opened.append(os.open(fifo, os.O_WRONLY))  # stays open, for one that comes late
        return now_s

    try:
        with course.life(kind, load) as contestant:
            course.settled(contestant)
            yield contestant, go
    finally:
        for fd in opened:
            os.close(fd)
        os.unlink(fifo)


def _quiet_since(contestant: Contestant, bytes_min: int, course: Course) -> float:
    """When the last byte came into its files, once nothing has come for a while."""
    size, changed_s = -1, time.perf_counter()
    ends_s, listed_s = changed_s + DEADLINE_S, 0.0
    files_min = 1 if contestant.load.merged else contestant.load.count
    paths: Sequence[Path] = ()
    while (now_s := time.perf_counter()) < ends_s:
        if len(paths) < files_min or now_s - listed_s > _LIST_S:  # it costs what they could use
            paths, listed_s = contestant.output_files(), now_s
        if (present := lines.bytes_in(paths)) != size:
            size, changed_s = present, now_s
        elif now_s - changed_s > (course.settings.settle_s if size >= bytes_min else _STUCK_S):
            break
        time.sleep(_LOOK_S)
    return changed_s


def _until_steady(count: Callable[[], int], wanted: int) -> float:
    """When `count()` was `wanted`, or grew for the last time."""
    seen, changed_s = -1, time.perf_counter()
    while seen < wanted and time.perf_counter() - changed_s < _STUCK_S:
        if (now := count()) != seen:
            seen, changed_s = now, time.perf_counter()
        time.sleep(_LOOK_S)
    return changed_s
