"""Why a process could not be started, as one line for people. Used by the keeper's two ways to
start one; standard library only.
"""

from __future__ import annotations

import errno
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


class SpawnError(Exception):
    """Its text is one line for people."""


class NoEntry(Exception):
    """The cgroup that was made for it cannot be entered; its text says why."""


_REASONS = {
    errno.E2BIG: "arguments and environment are too long: {}",
    errno.EAGAIN: "no more processes are allowed here (see ulimit -u and pids.max): {}",
    errno.ENOMEM: "not enough memory to start: {}",
    errno.EMFILE: "the agent has too many open files (raise LimitNOFILE= or ulimit -Hn): {}",
    errno.ENFILE: "this machine has too many open files: {}",
}


def reason(error: OSError, file: str, name: str) -> str:
    """`file` is what was to be executed, `name` what people called it."""
    if error.errno == errno.ENOENT:
        if "/" in file and os.path.lexists(file):
            return f"its interpreter does not exist: {file}"
        return f"command not found: {name}"
    if error.errno == errno.EACCES:
        return f"{'is a directory' if os.path.isdir(file) else 'permission denied'}: {name}"
    if error.errno in _REASONS:
        return _REASONS[error.errno].format(name)
    return f"cannot run {name}: {error.strerror}"


def enter_directory(cwd: str, within: Sequence[str] = ()) -> None:
    """Judged by where it has led to, not by its name: links may change at any moment.

    Raises SpawnError.
    """
    _change_directory(cwd)
    if not within:
        return
    here = os.getcwd()
    for allowed in map(os.path.realpath, within):
        if here == allowed or here.startswith(f"{allowed.rstrip('/')}/"):
            return
    raise SpawnError(f"may not run in {cwd} here, only in {', '.join(within)}")


def _change_directory(cwd: str) -> None:
    try:
        os.chdir(encode(cwd))
    except FileNotFoundError:
        raise SpawnError(f"working directory does not exist: {cwd}") from None
    except NotADirectoryError:
        raise SpawnError(f"working directory is not a directory: {cwd}") from None
    except PermissionError:
        raise SpawnError(f"permission denied: working directory {cwd}") from None
    except OSError as error:
        raise SpawnError(f"cannot enter working directory {cwd}: {error.strerror}") from None


def encode(text: str) -> bytes:
    """Never the locale's encoding: the bytes that the brain was given."""
    return text.encode("utf-8", "surrogateescape")


def encode_all(texts: Sequence[str]) -> list[bytes]:
    return [encode(text) for text in texts]


def encode_env(env: Mapping[str, str]) -> dict[bytes, bytes]:
    return {
        name.encode("utf-8", "surrogateescape"): value.encode("utf-8", "surrogateescape")
        for name, value in env.items()
    }
