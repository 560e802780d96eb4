"""Sends this host's log lines to a coordinator that asked for them: one stream per request.

Reads from the log room at the pace of the receiver, so a slow reader costs neither memory nor
children anything. A stream that breaks is the asker's to open again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Protocol

import grpc.aio

from formation import wire_logs
from formation.gaps import Gap
from formation.model import Slot
from formation.v1 import agent_pb2 as pb
from formation_agent.logchoice import LogChoice
from formation_agent.logs import Line, LogBatch, Place, Resume

if TYPE_CHECKING:  # the stubs know this class, the generated code does not
    from formation.v1.agent_pb2_grpc import AgentAsyncStub

log = logging.getLogger(__name__)


class LogReader(Protocol):
    """What is needed of `logs.Logs`."""

    def read(
        self,
        choice: LogChoice,
        *,
        tail_lines: int,
        follow: bool,
        resume: Resume | None = None,
    ) -> AsyncIterator[LogBatch]: ...

    def finish(self) -> None: ...


class LogPusher:
    """The requests of one session; they end with the task group that they live in."""

    def __init__(self, logs: LogReader, stub: AgentAsyncStub, group: asyncio.TaskGroup) -> None:
        self._logs = logs
        self._stub = stub
        self._group = group
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def take(self, message: pb.CoordinatorMessage) -> None:
        if message.HasField("open_logs"):
            self.open(message.open_logs)
        else:
            self.close(message.close_logs.request_id)

    def open(self, request: pb.OpenLogs) -> None:
        self.close(request.request_id)
        task = self._group.create_task(self._push(request))
        self._tasks[request.request_id] = task
        task.add_done_callback(lambda done: self._forget(request.request_id, done))

    def close(self, request_id: str) -> None:
        task = self._tasks.pop(request_id, None)
        if task is not None:
            task.cancel()

    async def finished(self, within_s: float) -> None:
        """All that followers asked for has come there, or the time is over."""
        if self._tasks:
            await asyncio.wait(self._tasks.values(), timeout=within_s)

    def _forget(self, request_id: str, done: asyncio.Task[None]) -> None:
        if self._tasks.get(request_id) is done:
            del self._tasks[request_id]

    async def _push(self, request: pb.OpenLogs) -> None:
        call, ends = self._stub.PushLogs(), _Ends(request)
        task = asyncio.current_task()
        assert task is not None
        # Following a silent instance, nothing would tell us that the asker has left.
        call.add_done_callback(lambda _: _cancel(task))
        try:
            async for batch in self._read(request):
                await call.write(_push_of(request, batch, ends))
            await call.write(pb.LogPush(request_id=request.request_id, whole=True))
            await call.done_writing()
            await call
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError, OSError) as error:
            log.debug("logs for %s end: %s", request.request_id, error)
        finally:
            call.cancel()

    def _read(self, request: pb.OpenLogs) -> AsyncIterator[LogBatch]:
        return self._logs.read(
            _choice_of(request),
            tail_lines=request.tail_lines,
            follow=request.follow,
            resume=_resume_of(request),
        )


def _choice_of(request: pb.OpenLogs) -> LogChoice:
    """What an older coordinator says is one target."""
    said = [(item.type, item.ordinal) for item in request.choice.targets]
    return LogChoice(
        app=request.app,
        targets=tuple(said or [(request.type, request.ordinal)]),
        not_before_us=request.choice.not_before_us,
        not_after_us=request.choice.not_after_us,
        text=request.choice.text.encode("utf-8", "surrogateescape"),
    )


def _resume_of(request: pb.OpenLogs) -> Resume:
    return Resume(
        seen={
            Slot(item.app, item.type, item.ordinal): Place(at_us=item.at_us, lines=item.lines)
            for item in request.seen
        },
        since_us=request.since_us,
    )


class _Ends:
    """Where the lines of each slot end that have been sent: a reader that comes back says it."""

    def __init__(self, request: pb.OpenLogs) -> None:
        self._places = {
            Slot(item.app, item.type, item.ordinal): (item.at_us, item.lines)
            for item in request.seen
        }

    def after(self, lines: tuple[Line, ...]) -> list[pb.LogPlace]:
        changed: dict[Slot, tuple[int, int]] = {}
        for line in lines:
            if line.gap is Gap.NONE:
                at_us, count = changed.get(line.slot) or self._places.get(line.slot, (0, 0))
                changed[line.slot] = line.at_us, count + 1 if at_us == line.at_us else 1
        self._places |= changed
        return [
            pb.LogPlace(app=s.app, type=s.type, ordinal=s.ordinal, at_us=at_us, lines=count)
            for s, (at_us, count) in changed.items()
        ]


def _push_of(request: pb.OpenLogs, batch: LogBatch, ends: _Ends) -> pb.LogPush:
    return pb.LogPush(
        request_id=request.request_id,
        lines=[_line_of(line) for line in batch.lines],
        history_done=batch.history_done,
        at_us=batch.at_us,
        ends=ends.after(batch.lines),
    )


def _line_of(line: Line) -> pb.LogLine:
    return pb.LogLine(
        app=line.slot.app,
        type=line.slot.type,
        ordinal=line.slot.ordinal,
        host=line.host,
        at_us=line.at_us,
        stderr=line.stderr,
        text=line.text,
        partial=line.partial,
        gap=wire_logs.gap_to_pb(line.gap),
        missing=line.missing,
    )


def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
