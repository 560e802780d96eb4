"""Starts one process, safely and fast. Used by the keeper alone; standard library only.

`posix_spawn` only: no Python runs between fork and exec. What it cannot set (working directory,
limits) the single-threaded caller takes on for a moment and puts back.
"""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_EVERY_SIGNAL = tuple(signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP})
_ABOVE_STANDARD_FDS = 10
_SHELL = b"/bin/sh"


class SpawnError(Exception):
    """Its text is one line for people."""


class Spawned:
    """A running process and the read ends of its pipes."""

    __slots__ = ("pid", "stderr", "stdout")

    def __init__(self, pid: int, stdout: int, stderr: int) -> None:
        self.pid = pid
        self.stdout = stdout
        self.stderr = stderr


class Spawner:
    """Raises this process's limit of open files; children get the one it came with."""

    def __init__(self) -> None:
        self._limit = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._raised = (self._limit[1], self._limit[1])
        resource.setrlimit(resource.RLIMIT_NOFILE, self._raised)
        _close_on_exec()
        self._null = _open_null()
        # glibc refuses to duplicate descriptors at or above the limit that children get, so a
        # child's pipes pass through two low ones that were taken before there were many.
        self._low = (os.dup(self._null), os.dup(self._null))
        self._home = _open_directory()

    def program(self, argv: Sequence[str], env: dict[bytes, bytes], fd: int, as_fd: int) -> int:
        """Starts a program of ours: our output, our working directory, one descriptor more."""
        # glibc leaves close-on-exec set when a descriptor is duplicated onto itself.
        high = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _ABOVE_STANDARD_FDS)
        try:
            actions = [(os.POSIX_SPAWN_DUP2, high, as_fd)]
            words = [os.fsencode(word) for word in argv]
            return _posix_spawn(words[0], words, env, actions)
        finally:
            os.close(high)

    def child(self, file: str, argv: Sequence[str], env: Mapping[str, str], cwd: str) -> Spawned:
        """Starts `file` with two pipes, in `cwd`. Raises SpawnError and leaves nothing behind."""
        ends: list[int] = []
        try:
            ends += os.pipe()
            ends += os.pipe()
            out, out_end, err, err_end = ends
            os.set_blocking(out, False)
            os.set_blocking(err, False)
            pid = self._in_its_place(file, argv, env, cwd, (out_end, err_end))
        except OSError as error:
            _close(ends)
            raise SpawnError(_reason(error, file, argv)) from error
        except ValueError as error:
            _close(ends)
            raise SpawnError(f"cannot run {argv[0]}: {error}") from error
        except SpawnError:
            _close(ends)
            raise
        _close((out_end, err_end))
        return Spawned(pid, out, err)

    def _in_its_place(
        self,
        file: str,
        argv: Sequence[str],
        env: Mapping[str, str],
        cwd: str,
        outputs: tuple[int, int],
    ) -> int:
        actions = [
            (os.POSIX_SPAWN_DUP2, self._null, 0),
            (os.POSIX_SPAWN_DUP2, self._low[0], 1),
            (os.POSIX_SPAWN_DUP2, self._low[1], 2),
        ]
        _enter(cwd)
        try:
            for end, low in zip(outputs, self._low, strict=True):
                os.dup2(end, low, inheritable=False)
            resource.setrlimit(resource.RLIMIT_NOFILE, self._limit)
            return _spawn_or_interpret(_encode(file), _bytes(argv), _bytes_of(env), actions)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, self._raised)
            os.fchdir(self._home)
            for low in self._low:
                os.dup2(self._null, low, inheritable=False)


def _spawn_or_interpret(
    file: bytes, argv: list[bytes], env: dict[bytes, bytes], actions: list[tuple[int, int, int]]
) -> int:
    try:
        return _posix_spawn(file, argv, env, actions)
    except OSError as error:
        if error.errno != errno.ENOEXEC:
            raise
    # A script without `#!`: every shell runs it as its own.
    return _posix_spawn(_SHELL, [_SHELL, file, *argv[1:]], env, actions)


def _posix_spawn(
    file: bytes, argv: list[bytes], env: dict[bytes, bytes], actions: list[tuple[int, int, int]]
) -> int:
    return os.posix_spawn(
        file,
        argv,
        env,
        file_actions=actions,
        setsid=True,
        setsigmask=(),
        setsigdef=_EVERY_SIGNAL,
    )


def _enter(cwd: str) -> None:
    try:
        os.chdir(_encode(cwd))
    except FileNotFoundError:
        raise SpawnError(f"working directory does not exist: {cwd}") from None
    except NotADirectoryError:
        raise SpawnError(f"working directory is not a directory: {cwd}") from None
    except PermissionError:
        raise SpawnError(f"permission denied: working directory {cwd}") from None
    except OSError as error:
        raise SpawnError(f"cannot enter working directory {cwd}: {error.strerror}") from None


_REASONS = {
    errno.E2BIG: "arguments and environment are too long: {}",
    errno.EAGAIN: "no more processes are allowed here (see ulimit -u and pids.max): {}",
    errno.ENOMEM: "not enough memory to start: {}",
    errno.EMFILE: "the agent has too many open files (raise LimitNOFILE= or ulimit -Hn): {}",
    errno.ENFILE: "this machine has too many open files: {}",
}


def _reason(error: OSError, file: str, argv: Sequence[str]) -> str:
    name = argv[0]
    if error.errno == errno.ENOENT:
        if "/" in file and os.path.lexists(file):
            return f"its interpreter does not exist: {file}"
        return f"command not found: {name}"
    if error.errno == errno.EACCES:
        return f"{'is a directory' if os.path.isdir(file) else 'permission denied'}: {name}"
    if error.errno in _REASONS:
        return _REASONS[error.errno].format(name)
    return f"cannot run {name}: {error.strerror}"


def _close_on_exec() -> None:
    """Whatever our own parent left open must not leak into children."""
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2:  # noqa: PLR2004  standard input and outputs stay
            try:
                os.set_inheritable(int(name), False)
            except OSError:
                continue  # the one that the listing itself used


def _open_null() -> int:
    """Also fills standard descriptors that were closed, before a pipe of a child lands there."""
    while (fd := os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)) <= 2:  # noqa: PLR2004
        os.set_inheritable(fd, True)
    return fd


def _open_directory() -> int:
    try:
        return os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:  # ours was removed: any other will do
        return os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)


def _close(fds: Sequence[int]) -> None:
    for fd in fds:
        os.close(fd)


def _encode(text: str) -> bytes:
    """Never the locale's encoding: the bytes that the brain was given."""
    return text.encode("utf-8", "surrogateescape")


def _bytes(texts: Sequence[str]) -> list[bytes]:
    return [_encode(text) for text in texts]


def _bytes_of(env: Mapping[str, str]) -> dict[bytes, bytes]:
    return {_encode(name): _encode(value) for name, value in env.items()}
