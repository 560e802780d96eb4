"""The careful way to start a process: as another user, with limits, with another priority,
with a view of its own of the file system, with standard descriptors that the brain has made (of a
terminal, which it then controls).

`posix_spawn` can do none of these, so the single-threaded keeper forks and the fork makes itself
into what was asked for. That the keeper took on the user's ids for a `posix_spawn`, as it does with
the working directory, would be faster and wrong: for that moment every process of the user might
send signals to the keeper. The fork may be killed or stopped by them, which is why the keeper does
not wait for it for ever; from the change of user to its exec it cannot be traced.

Used by the keeper alone; standard library only.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import resource
import select
import signal
import termios

from formation_agent import cgroups, sandbox
from formation_agent.spawnerror import (
    NoEntry,
    SpawnError,
    encode,
    encode_all,
    encode_env,
    enter_directory,
    reason,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import NoReturn

    from formation_agent.link import Message

_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS = 1, 38
_WITHIN_S = 5.0
_REPORT_BYTES_MAX = 4096
_CANNOT_ENTER, _CANNOT_START = b"c", b"s"
_EVERY_SIGNAL = tuple(signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP})
_SHELL = b"/bin/sh"

_libc = ctypes.CDLL(None, use_errno=True)


def is_needed(order: Message) -> bool:
    return any(order.get(name) for name in ("user", "rlimits", "nice", "sandbox", "takes"))


def start(order: Message, stdio: Sequence[int], files_max: tuple[int, int], cgroup: str) -> int:
    """The pid, after its exec. Raises SpawnError, NoEntry, or OSError when there can be no fork.

    `stdio`: what becomes its standard descriptors; `cgroup`: what it enters, "" for none.
    """
    file = encode(order["file"])
    words, env = encode_all(order["argv"]), encode_env(order["env"])
    if any(b"\0" in text for text in (file, *words, *env, *env.values())):
        raise ValueError("embedded null byte")
    keeper = os.getpid()
    reader, writer = os.pipe2(os.O_CLOEXEC)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, _EVERY_SIGNAL)
    try:
        pid = os.fork()
        if pid == 0:
            _become(order, (file, words, env), stdio, files_max, cgroup, keeper, writer)
    except OSError:
        os.close(reader)
        raise
    finally:
        os.close(writer)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    try:
        _raise_for(_report(reader), pid, order["argv"][0])
    finally:
        os.close(reader)
    return pid


# --- in the keeper ----------------------------------------------------------------------------


def _report(reader: int) -> bytes | None:
    """What the fork has to say; b"" after its exec, None when it stays silent."""
    poll = select.poll()
    poll.register(reader, select.POLLIN)
    return os.read(reader, _REPORT_BYTES_MAX) if poll.poll(_WITHIN_S * 1000) else None


def _raise_for(report: bytes | None, pid: int, name: str) -> None:
    if report == b"":
        return
    os.kill(pid, signal.SIGKILL)  # ours and not yet reaped, which the keeper's loop does
    if report is None:
        raise SpawnError(f"{name} did not start within {_WITHIN_S:g} s")
    text = report[1:].decode("utf-8", "surrogateescape")
    if report.startswith(_CANNOT_ENTER):
        raise NoEntry(text)
    raise SpawnError(text)


# --- in the fork ------------------------------------------------------------------------------


def _become(
    order: Message,
    program: tuple[bytes, list[bytes], dict[bytes, bytes]],
    stdio: Sequence[int],
    files_max: tuple[int, int],
    cgroup: str,
    keeper: int,
    writer: int,
) -> NoReturn:
    """Ends as the program, or with a report. All but standard descriptors closes at the exec."""
    report = b""
    try:
        _enter_cgroup(cgroup)
        _detach(stdio)
        if order.get("terminal"):
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)
        resource.setrlimit(resource.RLIMIT_NOFILE, files_max)
        _set_priority(order.get("nice", 0))
        _set_limits(order.get("rlimits", {}))
        sandbox.enter(order.get("sandbox"), order.get("beside", 0))
        _switch_user(order.get("user"), keeper)
        os.umask(order.get("umask", os.umask(0)))
        enter_directory(order["cwd"], order.get("within", ()))
        _execute(*program)
    except NoEntry as error:
        report = _CANNOT_ENTER + encode(str(error))
    except SpawnError as error:
        report = _CANNOT_START + encode(str(error))
    except OSError as error:
        report = _CANNOT_START + encode(reason(error, order["file"], order["argv"][0]))
    except ValueError as error:
        report = _CANNOT_START + encode(f"cannot run {order['argv'][0]}: {error}")
    except BaseException as error:  # noqa: BLE001  two keepers would be worse than any exception
        report = _CANNOT_START + encode(f"cannot run {order['argv'][0]}: {error!r}")
    finally:
        try:
            os.write(writer, report[:_REPORT_BYTES_MAX])
        finally:
            os._exit(127)


def _enter_cgroup(path: str) -> None:
    try:
        if path:
            cgroups.enter(path)
    except OSError as error:
        raise NoEntry(error.strerror) from error


def _detach(stdio: Sequence[int]) -> None:
    """From the keeper's session, handlers and standard descriptors."""
    os.setsid()
    signal.set_wakeup_fd(-1)
    for number in _EVERY_SIGNAL:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    for fd, source in enumerate(stdio):
        os.dup2(source, fd)


def _set_priority(nice: int) -> None:
    if not nice:
        return
    try:
        os.setpriority(os.PRIO_PROCESS, 0, nice)
    except PermissionError:
        raise SpawnError(f"cannot set nice to {nice}: not permitted") from None


def _set_limits(limits: dict[str, list[int]]) -> None:
    for name, (soft, hard) in limits.items():
        number = getattr(resource, f"RLIMIT_{name.upper()}", None)
        if number is None:
            raise SpawnError(f"cannot set limit {name}: there is none of this name here")
        try:
            resource.setrlimit(number, (soft, hard))
        except (OSError, ValueError) as error:
            _, most = resource.getrlimit(number)
            not_more = most != resource.RLIM_INFINITY and (hard > most or hard < 0)
            verb = "raise" if not_more else "set"
            why = "not permitted" if not_more else error
            shown = "unlimited" if hard < 0 else hard
            raise SpawnError(f"cannot {verb} limit {name} to {shown}: {why}") from None


def _switch_user(user: Message | None, keeper: int) -> None:
    if user is None or (user["uid"], user["gid"]) == (os.geteuid(), os.getegid()):
        return
    uid, gid, name = user["uid"], user["gid"], user.get("name") or user["uid"]
    try:
        for stream in (1, 2):  # or the program could not open its own /dev/stderr
            os.fchown(stream, uid, gid)
        os.setgroups(user.get("groups", []))
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
    except PermissionError:
        raise SpawnError(f"this agent cannot run as user {name}: it is not root") from None
    except OSError as error:
        raise SpawnError(f"this agent cannot run as user {name}: {error.strerror}") from None
    # After the change of user, which takes the first one back.
    _control(_PR_SET_PDEATHSIG, signal.SIGKILL)
    _control(_PR_SET_NO_NEW_PRIVS, 1)
    if os.getppid() != keeper:  # it died before that
        os._exit(127)


def _control(option: int, value: int) -> None:
    if _libc.prctl(option, value, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _execute(file: bytes, words: list[bytes], env: dict[bytes, bytes]) -> None:
    try:
        os.execve(file, words, env)  # noqa: S606  as everywhere here
    except OSError as error:
        if error.errno != errno.ENOEXEC:
            raise
    # A script without `#!`: every shell runs it as its own.
    os.execve(_SHELL, [_SHELL, file, *words[1:]], env)  # noqa: S606
