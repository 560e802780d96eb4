"""Carries one exec between its process and the coordinator that asked for it: a stream each.

Whatever ends the stream ends the process: that nobody listens any more must never leave one.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

import grpc.aio

from formation.execflow import PING_S, SILENCE_S, FlowError, Sending, shell_code
from formation.v1 import agent_pb2 as pb
from formation.v1 import exec_pb2
from formation_agent.execrun import ExecRun
from formation_agent.execs import ExecRefused, Execs, Wanted
from formation_agent.happenings import Exited, describe_exit

if TYPE_CHECKING:  # the stubs know this class, the generated code does not
    from formation.v1.agent_pb2_grpc import AgentAsyncStub

    Call = grpc.aio.StreamStreamCall[pb.ExecPush, exec_pb2.ExecInput]

_LAST_WORDS_S = 5.0

log = logging.getLogger(__name__)


class ExecPusher:
    """The execs of one session; they end with the task group that they live in."""

    def __init__(self, execs: Execs | None, stub: AgentAsyncStub, group: asyncio.TaskGroup) -> None:
        self._execs, self._stub, self._group = execs, stub, group

    def open(self, request: pb.OpenExec) -> None:
        if self._execs is not None:
            self._group.create_task(self._carry(request, self._execs))

    async def _carry(self, request: pb.OpenExec, execs: Execs) -> None:
        """Never raises but when it is cancelled: the session goes on."""
        call = self._stub.Exec()
        try:
            await call.write(pb.ExecPush(request_id=request.request_id))
            await _carry_one(call, execs, _wanted(request.start))
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError, TimeoutError, FlowError) as error:
            log.debug("an exec's stream ends: %s", error)
        except Exception:
            log.exception("an exec: a bug")
        finally:
            call.cancel()


async def _carry_one(call: Call, execs: Execs, wanted: Wanted) -> None:
    try:
        run = execs.begin(wanted)
    except ExecRefused as refused:
        await _end(call, exec_pb2.ExecEnded(code=1, why=str(refused)))
        return
    carriage = _Carriage(call, run)
    listening = asyncio.create_task(carriage.listen())
    speaking = asyncio.create_task(carriage.speak())
    try:
        await asyncio.wait([listening, speaking], return_when=asyncio.FIRST_COMPLETED)
    finally:
        # Before anything else may wait or fail.
        run.end("nobody listens any more")
        run.close()
        listening.cancel()
        if not speaking.done():
            speaking.cancel()
        failures = await asyncio.gather(listening, speaking, return_exceptions=True)
    for failure in failures:
        if isinstance(failure, Exception):
            raise failure


async def _end(call: Call, ended: exec_pb2.ExecEnded) -> None:
    """Says so, and waits until it was heard."""
    await call.write(pb.ExecPush(output=exec_pb2.ExecOutput(ended=ended)))
    await call.done_writing()
    async with asyncio.timeout(_LAST_WORDS_S):
        while await call.read() is not grpc.aio.EOF:
            pass


class _Carriage:
    def __init__(self, call: Call, run: ExecRun) -> None:
        self._call, self._run = call, run
        self._sending = Sending()
        self._has_begun = False

    async def listen(self) -> None:
        """Until the other side has gone; raises TimeoutError when it is silent."""
        while True:
            async with asyncio.timeout(SILENCE_S):
                message = await self._call.read()
            if not isinstance(message, exec_pb2.ExecInput):
                return
            self._take(message)

    def _take(self, message: exec_pb2.ExecInput) -> None:
        match message.WhichOneof("message"):
            case "stdin":
                self._run.feed(message.stdin)
            case "stdin_end":
                self._run.feed_end()
            case "size":
                self._run.resize(message.size.rows, message.size.columns)
            case "taken":
                self._sending = self._sending.told(message.taken)
                self._run.wake.set()
            case _:
                pass  # that it was heard is all it says

    async def speak(self) -> None:
        """Until it has ended and was heard to the end."""
        while True:
            self._run.wake.clear()
            if await self._say_what_is_due():
                continue
            if self._run.finished:
                await self._write(taken=self._run.taking.taken)
                await self._call.write(pb.ExecPush(output=exec_pb2.ExecOutput(ended=self._end())))
                await self._call.done_writing()
                # The other end closes the stream then, which `listen` hears.
                return await asyncio.sleep(_LAST_WORDS_S)
            try:
                async with asyncio.timeout(PING_S):
                    await self._run.wake.wait()
            except TimeoutError:
                await self._write(ping=exec_pb2.ExecPing())

    async def _say_what_is_due(self) -> bool:
        run = self._run
        if run.pid and not self._has_begun:
            self._has_begun = True
            await self._write(begun=exec_pb2.ExecBegun(pid=run.pid))
            return True
        if run.taking.owes:
            run.taking = run.taking.telling()
            await self._write(taken=run.taking.taken)
            return True
        found = run.read(self._sending.room) if self._sending.room else None
        if found is None:
            return False
        is_stderr, data = found
        self._sending = self._sending.after(len(data))
        await (self._write(stderr=data) if is_stderr else self._write(stdout=data))
        return True

    async def _write(self, **fields: object) -> None:
        output = exec_pb2.ExecOutput(**fields)  # type: ignore[arg-type]
        await self._call.write(pb.ExecPush(output=output))

    def _end(self) -> exec_pb2.ExecEnded:
        end = self._run.exit
        if not isinstance(end, Exited):
            reason = end.reason if end is not None else ""
            return exec_pb2.ExecEnded(code=shell_code(None, None), why=reason)
        return exec_pb2.ExecEnded(
            code=shell_code(end.code, end.signal), how=describe_exit(end), why=self._run.why
        )


def _wanted(start: exec_pb2.ExecStart) -> Wanted:
    terminal = None
    if start.HasField("terminal"):
        size = start.terminal.size
        terminal = (start.terminal.name, size.rows, size.columns)
    return Wanted(uid=start.uid, command=start.command, terminal=terminal)
