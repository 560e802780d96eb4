"""Log lines from a coordinator: first what was kept, merged over all hosts, then live ones.

Takes responses, gives lines to a writer. What is kept in memory is the asked-for history alone;
live lines are written at once, so that a slow reader slows the stream and nothing grows.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Callable
from dataclasses import dataclass

from formation import wire_logs
from formation.gaps import Gap
from formation.model import Slot
from formation.v1 import agent_pb2, control_pb2
from formctl.client import Client, Stream
from formctl.loglines import History, Line

# A host that does not send what it kept must not hold up the others' lines.
HISTORY_PATIENCE_S = 5.0
# After a reconnect: as much of each instance is looked through for what was missed.
RESUME_LINES = 1000
ALL_LINES = -1

Writer = Callable[[list[Line]], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """`targets`: (type, ordinal; 0 is all), any of them; none: everything. `text`: lines with just
    that in them. `hosts`: only of these, if there are any. Where lines are missing is shown
    whatever is chosen."""

    targets: tuple[tuple[str, int], ...] = ()
    not_before_us: int = 0
    not_after_us: int = 0
    text: str = ""
    hosts: tuple[str, ...] = ()

    def takes(self, line: Line) -> bool:
        """Agents and coordinators of before this could be said send everything."""
        if self.hosts and line.host not in ("", *self.hosts):
            return False
        return self._is_wanted(line) and (line.gap is not Gap.NONE or self._is_chosen(line))

    def _is_wanted(self, line: Line) -> bool:
        if not line.name or not self.targets:
            return True
        kind, _, ordinal = line.name.rpartition(".")
        return any(t in ("", kind) and o in (0, int(ordinal)) for t, o in self.targets)

    def _is_chosen(self, line: Line) -> bool:
        return (
            line.at_us >= self.not_before_us
            and (not self.not_after_us or line.at_us <= self.not_after_us)
            and self.text.encode("utf-8", "surrogateescape") in line.text
        )


@dataclass(slots=True)
class _Mark:
    """The last line written of one instance on one host: its time, and how many had that time."""

    at_us: int
    lines: int = 0


class LogFeed:
    """Puts responses in order. `write` gets lines, `notice` sentences for people."""

    def __init__(
        self,
        write: Writer,
        notice: Callable[[str], None],
        *,
        tail_lines: int,
        started_us: int,
    ) -> None:
        self._write = write
        self._notice = notice
        self._tail_lines = tail_lines
        self._newest_us = started_us
        self._numbers = itertools.count()
        self._marks: dict[tuple[str, str], _Mark] = {}
        self._seen: dict[tuple[str, str], _Mark] | None = None
        self._history = History(None)
        self.is_live = False
        self.choice = Choice()

    def open(self) -> int:
        """A stream starts; returns how many lines of history of each instance it should ask for.

        When lines have been written before, what comes now is looked through for what was missed.
        """
        if self.is_live or self._seen is not None:
            self._seen = {key: _Mark(mark.at_us, mark.lines) for key, mark in self._marks.items()}
        resumes = self._seen is not None
        all_lines = resumes or self._tail_lines == ALL_LINES
        self._history = History(None if all_lines else self._tail_lines)
        self.is_live = False
        return RESUME_LINES if resumes else self._tail_lines

    def take(self, response: control_pb2.LogsResponse) -> None:
        if response.HasField("gap"):
            response.lines.append(response.gap)
        elif response.notice:
            self._notice(response.notice)
        arrived = (_line(message, next(self._numbers)) for message in response.lines)
        lines = [line for line in arrived if self.choice.takes(line)]
        if self.is_live:
            self._put(lines)
        else:
            for line in lines:
                if not self._was_written(line):
                    self._history.add(line)
        if response.history_done:
            self.end_history()

    def end_history(self) -> None:
        """From here on lines are written as they come."""
        if not self.is_live:
            self.is_live = True
            self._put(self._history.take())

    def _put(self, lines: list[Line]) -> None:
        for line in lines:
            if line.gap is not Gap.NONE:
                continue
            mark = self._marks.setdefault((line.host, line.name), _Mark(line.at_us))
            # Lines that were read at once have one time, so they are counted.
            mark.lines = mark.lines + 1 if line.at_us == mark.at_us else 1
            mark.at_us = line.at_us
            self._newest_us = max(self._newest_us, line.at_us)
        if lines:
            self._write(lines)

    def _was_written(self, line: Line) -> bool:
        if self._seen is None or line.gap is not Gap.NONE:
            return False
        mark = self._seen.get((line.host, line.name))
        if mark is None:
            # It said nothing while we listened, so what is older was not asked for.
            return line.at_us <= self._newest_us
        if line.at_us != mark.at_us:
            return line.at_us < mark.at_us
        mark.lines -= 1
        return mark.lines >= 0


async def follow(
    client: Client,
    feed: LogFeed,
    *,
    app: str,
    choice: Choice | None = None,
    live: bool,
) -> None:
    """Returns when everything kept was written, with `live` never."""
    choice = feed.choice = choice or Choice()
    # An older coordinator, which knows no choice, sees to the one target that it knows of.
    only = choice.targets[0] if len(choice.targets) == 1 else ("", 0)
    loop = asyncio.get_running_loop()
    timer = loop.call_later(HISTORY_PATIENCE_S, feed.end_history)

    def opened() -> Stream[control_pb2.LogsResponse]:
        nonlocal timer
        timer.cancel()
        timer = loop.call_later(HISTORY_PATIENCE_S, feed.end_history)
        request = control_pb2.LogsRequest(
            app=app,
            type=only[0],
            ordinal=only[1],
            tail_lines=feed.open(),
            follow=live,
            choice=agent_pb2.LogChoice(
                targets=[agent_pb2.LogTarget(type=t, ordinal=o) for t, o in choice.targets],
                not_before_us=choice.not_before_us,
                not_after_us=choice.not_after_us,
                text=choice.text,
            ),
            hosts=choice.hosts,
        )
        return client.stub.Logs(request)

    try:
        async with contextlib.aclosing(client.stream(opened, endless=live)) as responses:
            async for response in responses:
                feed.take(response)
    finally:
        timer.cancel()
        feed.end_history()


async def last_lines(client: Client, slot: Slot, count: int) -> list[Line]:
    """The newest that are kept of one slot, oldest first, on whichever hosts it was."""
    found: list[Line] = []
    feed = LogFeed(found.extend, lambda _: None, tail_lines=count, started_us=0)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(HISTORY_PATIENCE_S):
            one = Choice(targets=((slot.type, slot.ordinal),))
            await follow(client, feed, app=slot.app, choice=one, live=False)
    return found


def _line(message: agent_pb2.LogLine, number: int) -> Line:
    return Line(
        at_us=message.at_us,
        sequence=number,
        name=f"{message.type}.{message.ordinal}" if message.type else "",
        text=message.text,
        app=message.app,
        host=message.host,
        stderr=message.stderr,
        partial=message.partial,
        gap=wire_logs.gap_from_pb(message.gap),
        missing=message.missing,
    )
