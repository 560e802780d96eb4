"""One exec as it goes on: keys and input there, output here, and how it ended."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Callable
from typing import TYPE_CHECKING

import grpc
from grpc import aio

from formation.calling import is_lost
from formation.execflow import PING_S, SILENCE_S, FlowError, Sending, Taking
from formation.v1 import control_pb2 as pb
from formation.v1 import exec_pb2
from formctl import escapes, localend
from formctl.client import Client
from formctl.errors import INTERRUPTED, CommandError, UnreachableError
from formctl.escapes import Escapes, Wish
from formctl.loglines import escaped
from formctl.settings import note

if TYPE_CHECKING:
    Call = aio.StreamStreamCall[exec_pb2.ExecInput, exec_pb2.ExecOutput]

_SIGNAL_BASE = 128
_LAST_WORDS_S = 2.0
_OF_GRPC = (
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.UNKNOWN,
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.CANCELLED,
)


class _Left(Exception):
    """We go, with this exit code."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


async def follow_exec(client: Client, request: pb.StartExecRequest, escape: str) -> int:
    """The exit code. `escape`: the character, "" for none; it counts in a terminal alone."""
    answer = await client.change(lambda stub: stub.StartExec, request)
    start = answer.start
    if not request.ordinal:
        note(f"formctl: beside {start.type}.{start.ordinal} on host {start.host}")
    terminal = request.HasField("terminal")
    with contextlib.ExitStack() as stack:
        again: Callable[[], None] = lambda: None  # noqa: E731
        if terminal and localend.is_terminal(0):
            again = stack.enter_context(localend.raw())
        character = escape.encode() if terminal else b""
        following = _Following(client, Escapes(character=character), again, terminal=terminal)
        ended, said = await following.run(answer.ticket)
    if said:  # in the words of a host, which may be anybody's
        note(f"formctl: {escaped(said.encode(), colour=False).decode()}")
    return ended


class _Following:
    def __init__(
        self, client: Client, keys: Escapes, raw_again: Callable[[], None], *, terminal: bool
    ) -> None:
        self._client, self._keys, self._raw_again = client, keys, raw_again
        self._terminal = terminal
        self._wake = asyncio.Event()
        self._sending, self._taking = Sending(), Taking()
        self._size = localend.size()
        self._reader = localend.Reader(self._wake.set)
        self._writer = localend.Writer(self._on_written)
        self._has_told_end = False
        self._reader_gone = self._is_over = False
        self._leaves = 0

    async def run(self, ticket: str) -> tuple[int, str]:
        """The exit code, and what there is to say at the end."""
        call: Call = self._client.stub.Exec()
        with localend.handling(self._handlers()):
            try:
                await call.write(exec_pb2.ExecInput(ticket=ticket))
                ended = await self._both(call)
                await self._flushed()
            except _Left as left:
                return left.code, "left; what ran there ends" if self._terminal else ""
            except TimeoutError:
                raise UnreachableError(f"{self._gone()} (silent for {SILENCE_S:g} s)") from None
            except (asyncio.InvalidStateError, FlowError):
                raise UnreachableError(self._gone()) from None
            except aio.AioRpcError as error:
                raise self._explained(error) from None
            finally:
                call.cancel()
                self._reader.close()
        return ended.code, ended.why

    def _handlers(self) -> dict[signal.Signals, Callable[[], None]]:
        ends = (signal.SIGTERM, signal.SIGHUP)
        found = {number: _bound(self._leave, _SIGNAL_BASE + number) for number in ends}
        if self._terminal:
            found |= {signal.SIGWINCH: self._wake.set, signal.SIGCONT: self._raw_again}
        return found

    def _leave(self, code: int) -> None:
        self._leaves = code
        self._wake.set()

    def _gone(self) -> str:
        return f"connection to coordinator {self._client.address} lost; what ran there ends"

    def _explained(self, error: aio.AioRpcError) -> CommandError:
        return self._ended(error.code(), error.details() or "")

    def _ended(self, code: grpc.StatusCode, said: str) -> CommandError:
        """In the coordinator's words, if it has said any."""
        if code in _OF_GRPC and is_lost(said):
            return UnreachableError(self._gone())
        return CommandError(said or code.name)

    async def _both(self, call: Call) -> exec_pb2.ExecEnded:
        listening = asyncio.create_task(self._listen(call))
        speaking = asyncio.create_task(self._speak(call))
        try:
            await asyncio.wait({listening, speaking}, return_when=asyncio.FIRST_COMPLETED)
            # When the stream breaks both end, and only who listens is told why.
            told = speaking.done() and isinstance(speaking.exception(), _Left | BrokenPipeError)
            if told:
                await speaking
            ended = await listening
            # Our side is closed before the other one is, or what it said last might be lost.
            self._is_over = True
            self._wake.set()
            await asyncio.wait({speaking}, timeout=_LAST_WORDS_S)
            return ended
        finally:
            listening.cancel()
            speaking.cancel()
            await asyncio.gather(listening, speaking, return_exceptions=True)

    # -- from there --------------------------------------------------------------------------------

    async def _listen(self, call: Call) -> exec_pb2.ExecEnded:
        while True:
            async with asyncio.timeout(SILENCE_S):
                message = await call.read()
            if not isinstance(message, exec_pb2.ExecOutput):
                await self._raise_for(call)
                raise UnreachableError(self._gone())
            match message.WhichOneof("message"):
                case "stdout":
                    self._write(message.stdout, stderr=False)
                case "stderr":
                    self._write(message.stderr, stderr=True)
                case "taken":
                    self._sending = self._sending.told(message.taken)
                    self._wake.set()
                case "ended":
                    return message.ended
                case _:
                    pass  # that it was heard is all it says

    async def _raise_for(self, call: Call) -> None:
        code = await call.code()
        if code is not grpc.StatusCode.OK:
            raise self._ended(code, await call.details() or "")

    def _write(self, data: bytes, *, stderr: bool) -> None:
        self._taking = self._taking.arrived(len(data))
        self._writer.write(data, stderr=stderr)

    def _on_written(self, count: int | None) -> None:
        if count is None:
            self._reader_gone = True
        else:
            self._taking = self._taking.took(count)
        self._wake.set()

    async def _flushed(self) -> None:
        while self._taking.held and not self._reader_gone and not self._leaves:
            self._wake.clear()
            await self._wake.wait()

    # -- from here ---------------------------------------------------------------------------------

    async def _speak(self, call: Call) -> None:
        """Until it is cancelled, or we leave."""
        while True:
            self._wake.clear()
            if self._is_over:
                await call.done_writing()
                return
            if self._leaves:
                raise _Left(self._leaves)
            if self._reader_gone:
                raise BrokenPipeError
            message = self._due()
            if message is None and not self._wake.is_set():
                message = await self._waited()
            if message is not None:
                await call.write(message)

    async def _waited(self) -> exec_pb2.ExecInput | None:
        try:
            async with asyncio.timeout(PING_S):
                await self._wake.wait()
        except TimeoutError:
            return exec_pb2.ExecInput(ping=exec_pb2.ExecPing())
        return None

    def _due(self) -> exec_pb2.ExecInput | None:
        size = localend.size()
        if self._terminal and size != self._size:
            self._size = size
            return exec_pb2.ExecInput(size=exec_pb2.ExecSize(rows=size[0], columns=size[1]))
        if self._taking.owes:
            self._taking = self._taking.telling()
            return exec_pb2.ExecInput(taken=self._taking.taken)
        # One byte less: an escape that was held back comes before what follows it.
        room = self._sending.room - 1
        typed = self._reader.read(room) if room > 0 else None
        if typed:
            return self._typed(typed)
        if self._reader.ended and not self._has_told_end:
            self._has_told_end = True
            return exec_pb2.ExecInput(stdin_end=True)
        return None

    def _typed(self, typed: bytes) -> exec_pb2.ExecInput | None:
        sent, wish, self._keys = self._keys.read(typed)
        if wish is Wish.END:
            raise _Left(INTERRUPTED)
        if wish is Wish.HELP:
            localend.say(escapes.help_text(self._keys.character.decode()))
        self._wake.set()  # there may be more
        if not sent:
            return None
        self._sending = self._sending.after(len(sent))
        return exec_pb2.ExecInput(stdin=sent)


def _bound(function: Callable[[int], None], argument: int) -> Callable[[], None]:
    return lambda: function(argument)
