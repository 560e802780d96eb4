"""One keeper's program after the other in the same process: what it hands over, and how.

The pid stays, so children stay children; descriptors are inherited, and what is known of them
goes as JSON in a memfd whose number stands in a variable. Used by the keeper alone; standard
library only.

`VERSION` names the shape of that JSON and rises with a change that a program which reads the
older one would get wrong. Before anything is risked, `preflight` asks the program that would be
executed whether it reads ours, and so whether it can be run at all.
"""

from __future__ import annotations

import json
import os
import signal
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from formation_agent.link import Message
VERSION = 1
READS = (1,)
STATE_VARIABLE = "FORMATION_KEEPER_STATE"
CHECK_VARIABLE = "FORMATION_CAN_TAKE_OVER"
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)

_STDERR = 2


def program() -> list[str]:
    """What was started once, with the same words and flags: what is on disk there now."""
    return [sys.executable, *sys.orig_argv[1:]]


# --- the old program --------------------------------------------------------------------------


def execute(state: Message, fds: Iterable[int], variables: Mapping[str, str]) -> None:
    """Becomes the program on disk. The caller has blocked `SIGNALS`.

    Returns never, or raises OSError: then everything is as before.
    """
    inherited = list(fds)
    memory = _memory_file({"version": VERSION, **state})
    environment = {**os.environ, **variables, STATE_VARIABLE: str(memory)}
    words = program()
    try:
        _set_inheritable([*inherited, memory], inheritable=True)
        os.execve(words[0], words, environment)  # noqa: S606  no shell is wanted
    finally:
        _set_inheritable(inherited, inheritable=False)
        os.close(memory)


def _set_inheritable(fds: Iterable[int], *, inheritable: bool) -> None:
    for fd in fds:
        os.set_inheritable(fd, inheritable)


def _memory_file(state: Message) -> int:
    memory = os.memfd_create("formation-keeper", os.MFD_CLOEXEC)
    rest = memoryview(json.dumps(state).encode())
    while rest:
        rest = rest[os.write(memory, rest) :]
    return memory


def block_signals() -> None:
    """None is lost: they wait for the program that takes over. What came before was handled."""
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)


def unblock_signals() -> None:
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


# --- the new program --------------------------------------------------------------------------


def inherited() -> Message | None:
    """What the program before us in this process handed over; None when there was none."""
    number = os.environ.pop(STATE_VARIABLE, "")
    if not number.isdigit():
        return None
    memory = int(number)
    try:
        size = os.fstat(memory).st_size
        state: Message = json.loads(b"".join(_pieces(memory, size)))
    finally:
        os.close(memory)
    return state


def _pieces(memory: int, size: int) -> Iterable[bytes]:
    at = 0
    while at < size and (piece := os.pread(memory, size - at, at)):
        at += len(piece)
        yield piece


def answer(brain_command: Sequence[str]) -> int:
    """Somebody asks whether we can take over; the brain's program is asked in turn."""
    asked = os.environ[CHECK_VARIABLE]
    if asked in map(str, READS):
        os.execv(brain_command[0], list(brain_command))  # noqa: S606  no shell is wanted
    os.write(_STDERR, f"it does not read the running keeper's state (version {asked})\n".encode())
    return 1
