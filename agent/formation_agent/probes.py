"""One run of one probe: asks a process on this machine how it is. Decides nothing about it.

Knows the network kinds; what needs a library or a process is in `probe_http`, `probe_grpc` and
`probe_exec`, the libraries imported when a first probe needs them.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from dataclasses import dataclass
from typing import Protocol

from formation.model import Probe, ProbeKind
from formation_agent.launch import Launch

# An IPv6 address only where nobody listens on the other.
_LOOPBACKS = ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1"))
_NOT_THERE = {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT, errno.ENETUNREACH, errno.EHOSTUNREACH}
_OUR_OWN_NEED = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS}
# A timer that rings this late tells that it was us who were held up.
_HELD_UP_S = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """`passed` None: we could not ask, which says nothing about the process. `reason` is for
    people, "" for a pass."""

    passed: bool | None
    reason: str = ""


PASSED = Outcome(passed=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A process, by its key at the keeper. `port`: where it listens. `launch`: how it was started,
    None when that is not known."""

    key: str
    port: int
    launch: Launch | None = None


class Asker(Protocol):
    """What asks by running a command, as `probe_exec.ExecProbes` does. Keeps to the time itself."""

    async def ask(self, probe: Probe, target: Target) -> Outcome: ...


class ProbeRuns:
    """Every kind of probe, each run within its `timeout_s`."""

    def __init__(self, commands: Asker) -> None:
        self._commands = commands

    async def ask(self, probe: Probe, target: Target) -> Outcome:
        if probe.kind is ProbeKind.EXEC:
            return await self._commands.ask(probe, target)
        port = probe.port or target.port
        deadline_s = asyncio.get_running_loop().time() + probe.timeout_s
        try:
            return await _ask(probe, port, deadline_s)
        except TimeoutError:
            return no_answer(probe, deadline_s)
        except OSError as error:
            return _of_error(error, port)


async def _ask(probe: Probe, port: int, deadline_s: float) -> Outcome:
    """Raises TimeoutError at `deadline_s`, and OSError."""
    match probe.kind:
        case ProbeKind.HTTP:
            from formation_agent import probe_http

            return await probe_http.ask(port, probe.target or "/", deadline_s)
        case ProbeKind.GRPC:
            from formation_agent import probe_grpc

            return await probe_grpc.ask(port, probe.target, deadline_s)
        case _:
            async with asyncio.timeout_at(deadline_s):
                (await connect(port)).close()
            return PASSED


def no_answer(probe: Probe, deadline_s: float) -> Outcome:
    """When its time was over at `deadline_s`, on the clock of the running loop."""
    late_s = asyncio.get_running_loop().time() - deadline_s
    if late_s > _HELD_UP_S:
        return Outcome(passed=None, reason=f"the agent was held up for {late_s:.1f} s")
    return Outcome(passed=False, reason=f"no answer within {probe.timeout_s:g} s")


def _of_error(error: OSError, port: int) -> Outcome:
    if error.errno in _OUR_OWN_NEED:
        return Outcome(passed=None, reason=f"the agent cannot ask: {error.strerror}")
    if isinstance(error, ConnectionRefusedError):
        return Outcome(passed=False, reason=refused(port))
    if isinstance(error, ConnectionError):
        return Outcome(passed=False, reason=f"connection closed on port {port}")
    return Outcome(passed=False, reason=f"port {port}: {error.strerror or error}")


def refused(port: int) -> str:
    return f"connection refused on port {port}"


async def connect(port: int) -> socket.socket:
    """A connection to this machine that does not block. Raises OSError."""
    for family, host in _LOOPBACKS:
        try:
            return await _connect(family, (host, port))
        except ConnectionRefusedError:
            continue
        except OSError as error:
            if error.errno not in _NOT_THERE:
                raise
    raise ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused")


async def _connect(family: int, address: tuple[str, int]) -> socket.socket:
    end = socket.socket(family, socket.SOCK_STREAM)
    try:
        end.setblocking(False)
        # On this machine the answer is there at once, mostly; the second call tells it.
        if end.connect_ex(address) and (code := end.connect_ex(address)):
            if code != errno.EALREADY:
                raise OSError(code, "")
            await asyncio.get_running_loop().sock_connect(end, address)
        # Without a listener a socket may happen to connect to itself.
        if end.getsockname() == end.getpeername():
            raise ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused")
    except BaseException:
        end.close()
        raise
    return end
