"""`formation-agent reexec`: tells the keeper that runs here to become the program on disk.

Who that is, is not written down anywhere: it is who holds the state directory's lock. It is
signalled through a pidfd that was checked after it was opened, so never a process that has come to
have its number. How it went stands in the lock's file (`locks`).
"""

from __future__ import annotations

import os
import re
import select
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from formation.settings import ConfigError
from formation_agent import config, locks
from formation_agent.statedir import LOCK_NAME, RefusedError, default_state_dir

HELP = """Usage: formation-agent reexec [--state-dir DIR] [--config FILE]

Tells the agent that runs on DIR to become the program that is on disk now, in place: its instances
run on. Waits until it is up again. It does the same when it gets SIGHUP.

  --state-dir DIR           as given to the agent (root: /var/lib/formation, else
                            ~/.local/state/formation), also FORMATION_AGENT_STATE_DIR
  --config FILE             the agent's settings, also FORMATION_AGENT_CONFIG
  --help                    print this"""
WITHIN_S = 30.0
_FLAGS = ("--state-dir", "--config")
_LOOK_AGAIN_S = 0.02
# A line of /proc/locks: number, kind, "ADVISORY", "WRITE", pid, device and inode, range.
_FLOCK = re.compile(r"^\d+: FLOCK +\S+ +\S+ +(\d+) [0-9a-f]+:[0-9a-f]+:(\d+) ", re.MULTILINE)


def main(argv: Sequence[str], environ: Mapping[str, str] = os.environ) -> int:
    if "--help" in argv or "-h" in argv:
        sys.stdout.write(f"{HELP}\n")
        return 0
    try:
        for line in reexecute(_state_dir(argv, environ)):
            sys.stdout.write(f"{line}\n")
            sys.stdout.flush()
    except (ConfigError, RefusedError) as error:
        sys.stderr.write(f"formation-agent: {error}\n")
        return 1
    return 0


def _state_dir(argv: Sequence[str], environ: Mapping[str, str]) -> Path:
    for flag in (word.partition("=")[0] for word in argv if word.startswith("-")):
        if flag not in _FLAGS:
            raise RefusedError(f"reexec knows no {flag}; see formation-agent reexec --help")
    settings = config.load(argv, environ, lambda path: Path(path).read_text("utf-8"))
    return Path(settings.state_dir or default_state_dir()).absolute()


def reexecute(state_dir: Path, *, within_s: float = WITHIN_S) -> Iterator[str]:
    """What happens, in lines for people. Raises `RefusedError` when it did not happen."""
    lock = _open(state_dir / LOCK_NAME, state_dir)
    try:
        pid, pidfd = _holder(lock, state_dir)
        try:
            before = locks.read(lock)[1]
            _hang_up(pid, pidfd)
            yield f"re-executing process {pid}"
            began_s = time.monotonic()
            _wait(lock, pid, pidfd, before, within_s)
            yield f"process {pid} is the new program, after {time.monotonic() - began_s:.1f} s"
        finally:
            os.close(pidfd)
    finally:
        os.close(lock)


def _open(path: Path, state_dir: Path) -> int:
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise RefusedError(f"no agent runs on {state_dir}") from None
    except OSError as error:
        raise RefusedError(f"{path}: {error.strerror} (run this as the agent's user)") from error


def _holder(lock: int, state_dir: Path) -> tuple[int, int]:
    """Its pid, and a pidfd that is surely the keeper's that holds the lock."""
    inode = os.fstat(lock).st_ino
    for found, of_inode in _FLOCK.findall(Path("/proc/locks").read_text("ascii")):
        pid = int(found)
        if pid == 0 or int(of_inode) != inode:
            continue
        try:
            pidfd = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        if _holds(pid, lock):
            _check(pid)
            return pid, pidfd
        os.close(pidfd)
    raise RefusedError(f"no agent runs on {state_dir}")


def _holds(pid: int, lock: int) -> bool:
    """By the file that it has open, since file systems name their devices differently.

    A keeper lets only root look at that. For its own user it is who says so in the file, which
    nobody else can write.
    """
    try:
        fds = list(Path(f"/proc/{pid}/fd").iterdir())
        return any(_is_locked(pid, fd, os.fstat(lock)) for fd in fds)
    except PermissionError:
        if _user(pid) == os.geteuid():
            return locks.read(lock)[0] == f"process {pid}"
        raise RefusedError(
            f"process {pid} runs there and belongs to another user: run this as that user, or root"
        ) from None
    except OSError:
        return False


def _user(pid: int) -> int:
    """Not by who owns /proc/PID: that is root for whoever may not be traced."""
    return int(_field(Path(f"/proc/{pid}/status").read_text("utf-8", "replace"), "Uid"))


def _is_locked(pid: int, fd: Path, lock: os.stat_result) -> bool:
    try:
        status = fd.stat()
        if (status.st_dev, status.st_ino) != (lock.st_dev, lock.st_ino):
            return False
        return ": FLOCK " in Path(f"/proc/{pid}/fdinfo/{fd.name}").read_text("ascii")
    except FileNotFoundError:  # closed meanwhile, or no file at all
        return False


def _check(pid: int) -> None:
    """Whether it is a keeper that knows what SIGHUP means: it would end another one."""
    words = Path(f"/proc/{pid}/cmdline").read_bytes()
    if b"formation" not in words or b"formation_agent.brain" in words:
        raise RefusedError(f"process {pid} holds the lock and is no formation-agent")
    status = Path(f"/proc/{pid}/status").read_text("utf-8", "replace")
    masks = (int(_field(status, name), 16) for name in ("SigCgt", "SigBlk"))
    if not any(mask >> (signal.SIGHUP - 1) & 1 for mask in masks):
        raise RefusedError(f"process {pid} is of a version that cannot re-execute itself")


def _field(status: str, name: str) -> str:
    return status.partition(f"\n{name}:")[2].split(maxsplit=1)[0]


def _hang_up(pid: int, pidfd: int) -> None:
    try:
        signal.pidfd_send_signal(pidfd, signal.SIGHUP)
    except ProcessLookupError:
        raise RefusedError(f"process {pid} has ended") from None
    except PermissionError:
        raise RefusedError(
            f"process {pid} belongs to another user: run this as that user, or root"
        ) from None


def _wait(lock: int, pid: int, pidfd: int, before: int, within_s: float) -> None:
    """Until a re-execution that began after `before` was read is over."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    deadline_s = time.monotonic() + within_s
    while time.monotonic() < deadline_s:
        _, number, outcome = locks.read(lock)
        if number > before and outcome == "ready":
            return
        if number > before and outcome.startswith("refused: "):
            raise RefusedError(f"process {pid} goes on as before: {outcome[9:]}")
        if poll.poll(_LOOK_AGAIN_S * 1000):
            raise RefusedError(f"process {pid} has ended; its output says why")
    raise RefusedError(_overdue(pid, outcome if number > before else "", within_s))


def _overdue(pid: int, outcome: str, within_s: float) -> str:
    if outcome == "taken over":
        return f"process {pid} is the new program, but it has no brain yet; its output says why"
    what = "was not ready" if outcome else "did not react"
    return f"process {pid} {what} within {within_s:g} s; its output says why"
